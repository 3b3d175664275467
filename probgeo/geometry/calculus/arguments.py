"""Checks of arguments that all of the calculus shares."""

import torch
from torch import Tensor

from probgeo.geometry.metrics import Metric


def check_metric(metric: object) -> None:
    """Refuses what has no metric tensor.

    Args:
        metric: anything.

    Raises:
        TypeError: it is no `Metric`, such as an energy that depends on a path's speed.
    """
    if not isinstance(metric, Metric):
        raise TypeError(
            f"metric: expected a Metric, such as ExpectedMetric(members); got {type(metric).__name__}, "
            "which has no metric tensor, so no angles, volumes or exponential map."
        )


def check_tensor(name: str, values: object, axes: str) -> Tensor:
    """The argument with memory of its own for every element, once it is a floating-point tensor with the named axes.

    Args:
        name: of the argument.
        values: the argument.
        axes: names of its axes, such as "batch latent"; "*batch" stands for any number of them.

    Returns:
        `values`; a copy where it was expanded, as forward differentiation needs it.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another number of axes.
    """
    wanted = "(" + ", ".join(axes.split()) + ")"
    if not isinstance(values, Tensor) or not values.is_floating_point():
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name}: expected a floating-point tensor {wanted}; got {found}.")
    missing = len(axes.split()) - axes.count("*") - values.ndim
    if missing > 0 or (missing < 0 and "*" not in axes):
        raise ValueError(f"{name}: expected {wanted}; got shape {tuple(values.shape)}.")
    return values.contiguous()


def check_alike(names: str, first: Tensor, second: Tensor) -> None:
    """Refuses two tensors of different shape, dtype or device.

    Args:
        names: of the second and the first argument, "other point".
        first: the one.
        second: the other.

    Raises:
        ValueError: they differ.
    """
    name, like = names.split()
    for what in ("shape", "dtype", "device"):
        expected, found = getattr(first, what), getattr(second, what)
        if expected != found:
            expected, found = (tuple(x) if isinstance(x, torch.Size) else x for x in (expected, found))
            raise ValueError(f"{name}: expected the {what} of {like}, {expected}; got {found}.")
