"""Latent points and rows of data as they come, from torch, NumPy or pandas."""

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class Table(Protocol):
    """A table of pandas, which is imported by those who have one."""

    def to_numpy(self) -> np.ndarray:
        """Its values."""


Points: TypeAlias = Tensor | np.ndarray | Table


def points_of(name: str, values: Points, axes: str | None = None) -> Tensor:
    """The points as a tensor, each element in a place of its own, with the history of gradients that they have.

    Args:
        name: of the argument.
        values: a floating-point tensor, array or table, on any device, in float32 or float64.
        axes: names of its axes, such as "batch latent"; "*batch" stands for any number of them; None for any shape.

    Returns:
        The same values; a copy where they lay otherwise, none where not.

    Raises:
        TypeError: neither tensor nor array, or of another dtype.
        ValueError: another number of axes, no latent dimensions, or a tensor of the device "meta".
    """
    values = values.to_numpy() if isinstance(values, Table) else values
    if isinstance(values, np.ndarray) and values.dtype.newbyteorder("=") in (np.float32, np.float64):
        # Arrays of foreign byte order or that may not be written to are copied, as torch has no such tensors.
        values = torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))
    if not isinstance(values, Tensor) or values.dtype not in (torch.float32, torch.float64):
        found = getattr(values, "dtype", type(values).__name__)
        if isinstance(values, Tensor):
            remedy = f"{name}.float()"
        else:
            remedy = f"{name}.astype('float32')" if isinstance(values, np.ndarray) else f"numpy.asarray({name})"
        raise TypeError(
            f"{name}: expected a floating-point tensor or array of float32 or float64; got {found}. Use {remedy}."
        )
    if axes is not None:
        missing = len(axes.split()) - axes.count("*") - values.ndim
        if missing > 0 or (missing < 0 and "*" not in axes):
            raise ValueError(
                f"{name}: expected ({', '.join(axes.split())}); got shape {tuple(values.shape)}."
                + (f" Use {name}[None] for one." if missing == 1 else "")
            )
        if axes.endswith("latent") and values.shape[-1] == 0:
            raise ValueError(f"{name}: expected at least one latent dimension; got shape {tuple(values.shape)}.")
    _check_values(name, values)
    return values.contiguous()


def latent_points(name: str, values: Points, axes: str | None = None) -> Tensor:
    """The points as `points_of` has them, without a history of gradients.

    Args:
        name: of the argument.
        values: a floating-point tensor or array, on any device, in float32 or float64.
        axes: names of its axes, as for `points_of`.

    Returns:
        The same values; a copy where they lay otherwise, none where not.

    Raises:
        TypeError: neither tensor nor array, or of another dtype.
        ValueError: another number of axes.
    """
    return points_of(name, values, axes).detach()


def points_like(name: str, values: Points, weights: Iterable[Tensor]) -> Tensor:
    """Points for a module: arrays and tables in the dtype and on the device of its weights, tensors as they are.

    Args:
        name: of the argument.
        values: a tensor, array or table, (*batch, latent).
        weights: parameters and buffers of the module; none for what has no dtype of its own.

    Raises:
        TypeError: neither tensor nor array, or of another dtype than float32 and float64.
        ValueError: no axis, or no latent dimensions.
    """
    found = points_of(name, values, "*batch latent")
    if isinstance(values, Tensor):
        return found
    like = next((w for w in weights if w.is_floating_point()), None)
    return found if like is None else found.to(like)


@contextlib.contextmanager
def taken_by(weights: Iterable[Tensor], name: str, values: Tensor) -> Iterator[None]:
    """Inside, what torch says of points that do not fit the weights is said in words.

    Args:
        weights: parameters and buffers of what is called with the points.
        name: of the argument.
        values: the points, (*batch, latent).

    Raises:
        ValueError: points of another dtype, device or latent dimension than that of the weights.
    """
    try:
        yield
    except Exception as error:
        # Inside a transformation it is for others to say.
        if torch._C._functorch.is_functorch_wrapped_tensor(values) or is_said(error):
            raise
        like = next((w for w in weights if w.is_floating_point()), values)
        expected, found = (f"{x.dtype} on {x.device}" for x in (like, values))
        if expected != found:
            remedy = f"Convert the points, {name}.to({like.dtype}), or the model."
            raise ValueError(f"{name}: the model has weights in {expected}; got points in {found}. {remedy}") from error
        raise ValueError(
            f"{name}: the model cannot be called with points {tuple(values.shape)} of {values.dtype}, in "
            f"{values.shape[-1]} latent dimensions: {first_line(error)} Give codes of this model's own latent space, "
            "in its dtype."
        ) from error


def is_said(error: Exception) -> bool:
    """Whether an error is said in words here already, or is of memory, and not of what was called with the points."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if not isinstance(error, (ValueError, TypeError)) or trace is None or not re.match(r"\w+: ", str(error)):
        return False
    return str(trace.tb_frame.f_globals.get("__name__", "")).startswith("probgeo.")


def first_line(error: Exception) -> str:
    """What an error says, in one sentence of at most 300 characters."""
    words = " ".join(str(error).split("\n")[0].split())[:300] or type(error).__name__
    return words if words.endswith(".") else words + "."


def nodes_of(name: str, path: Points) -> Tensor:
    """A path's nodes, (batch, node, latent), as `points_of` has them.

    Args:
        name: of the argument.
        path: at least two nodes.

    Returns:
        The same values.

    Raises:
        TypeError, ValueError: no floating-point tensor or array of this shape.
    """
    path = points_of(name, path, "batch node latent")
    if path.shape[1] < 2:
        raise ValueError(f"{name}: expected at least two nodes; got shape {tuple(path.shape)}.")
    return path


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


def check_latent(name: str, values: Tensor, latent: int) -> None:
    """Refuses points of another latent space.

    Args:
        name: of the argument.
        values: points (..., latent).
        latent: the dimension that they are to have.

    Raises:
        ValueError: they have another.
    """
    if values.shape[-1] != latent:
        raise ValueError(
            f"{name}: expected points of {latent} latent dimensions; got {values.shape[-1]}, shape "
            f"{tuple(values.shape)}. Give codes of the same model."
        )


def rows_of(name: str, x: Any) -> Tensor:
    """Rows as a tensor: arrays of NumPy, mapped ones too, without a copy; tables of pandas by their values.

    Args:
        name: of the argument.
        x: numbers of any kind.

    Raises:
        TypeError: something else.
    """
    if isinstance(x, Tensor):
        _check_values(name, x)
        return x
    values = x.to_numpy() if hasattr(x, "to_numpy") else x
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        kind = f"{type(x).__name__} of {values.dtype}" if isinstance(values, np.ndarray) else type(x).__name__
        raise TypeError(f"{name}: expected a tensor, an array or a table of numbers; got {kind}.")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    with warnings.catch_warnings():  # of arrays that must not be written to: nothing here does
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


def _check_values(name: str, values: Tensor) -> None:
    if values.is_meta:
        raise ValueError(f'{name}: expected values; got a tensor on the device "meta", which has none.')
