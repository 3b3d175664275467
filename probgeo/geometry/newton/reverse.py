"""Energies of paths and their gradients by reverse mode, whose cost does not grow with the latent dimension."""

from collections.abc import Callable
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probgeo.geometry.immersions import Derivative, called, pulled_back
from probgeo.geometry.metrics import Metric

NUM_TRIED = 32


class Variation(NamedTuple):
    """E of paths and its first variation."""

    energy: Float[Tensor, " batch"]
    durations: Float[Tensor, "batch segment"]
    gradient: Float[Tensor, "batch interior latent"]


@final
class Reverse:
    """E = ½ N Σ ‖r_i‖² and g = N Jᵀr, J the Jacobian of all residuals of a path: forward and back once at every node.

    Args:
        metric: a metric.
        system: what needs it, as errors call it.

    Raises:
        TypeError: an energy that is no metric.
    """

    def __init__(self, metric: Any, system: str) -> None:
        if not isinstance(metric, Metric):  # systems are chosen by their class, for any energy
            raise TypeError(
                f"system: {system} needs a metric's residuals; {type(metric).__name__} has none. "
                "Use BlockTridiagonal, or None."
            )
        self.metric = metric
        self.derivative = Derivative(metric.residuals)
        self._tried = False

    def __call__(self, path: Float[Tensor, "batch node latent"]) -> Variation:
        """E, durations and g.

        Raises:
            ValueError: at the first evaluation, Jᵀ by reverse mode that is not the transpose of J by forward mode.
        """
        batch, nodes, _ = path.shape
        points, real = path.flatten(0, 1), within_paths(path)
        squares, pulled = path.new_zeros(len(points)), torch.zeros_like(points)
        for part in self.parts(points):
            with called(self.metric.argument):
                residuals, pull = pulled_back(self.metric.residuals, points[part])
                residuals = torch.where(real[part][:-1, None], residuals, 0)
                if not self._tried and bool(residuals.isfinite().all()):
                    some = points[part]
                    check_transposed(*_both_ways(self.derivative, some, residuals, pull, _alike(some)))
                    self._tried = True
            squares[part][:-1] = residuals.square().sum(1)
            pulled[part] += pull(residuals)
        lengths = squares.view(batch, nodes)[:, :-1]
        gradient = (nodes - 1) * pulled.view_as(path)[:, 1:-1]
        return Variation((nodes - 1) / 2 * lengths.sum(1), lengths.sqrt(), gradient)

    def parts(self, points: Float[Tensor, "point latent"]) -> list[slice]:
        """Slices of all paths' nodes, as one sequence, that overlap by one node."""
        size = self.metric.num_points(points)
        return [slice(start, start + size) for start in range(0, len(points) - 1, size - 1)]


def has_reverse_mode(metric: Metric, points: Float[Tensor, "point latent"]) -> bool:
    """Whether Jᵀ of the metric's residuals, by reverse mode, is there and the transpose of J by forward mode.

    Args:
        metric: a metric.
        points: two or more, at some of which it is tried.
    """
    few = points[: max(2, min(NUM_TRIED, metric.num_points(points)))]
    each = torch.randn(few.shape, generator=torch.Generator().manual_seed(1)).to(few)
    try:
        with called(metric.argument):
            residuals, pull = pulled_back(metric.residuals, few)
            seen = [_both_ways(Derivative(metric.residuals), few, residuals, pull, v) for v in (_alike(few), each)]
    except NotImplementedError:  # torch has no such derivative of an operation
        return False
    return not any(_apart(*ways).any() for ways in seen)


def check_transposed(
    product: Float[Tensor, " batch"],
    vector: Float[Tensor, "batch node latent"],
    pulled: Float[Tensor, "batch node latent"],
) -> None:
    """Refuses ⟨v, Jᵀu⟩ that is not ⟨J v, u⟩, by more than rounding; u may be J v.

    Args:
        product: ⟨J v, u⟩.
        vector: v.
        pulled: Jᵀu.

    Raises:
        ValueError: they differ.
    """
    if _apart(product, vector, pulled).any():
        raise ValueError(
            "decoder: its derivative in reverse mode does not belong to its values, as Jᵀ is not the transpose of J. "
            "It has something computed without gradients (no_grad, detach, a backward of its own); use differentiable "
            "operations throughout, or GaussNewton(system=BlockTridiagonal), which needs forward mode alone."
        )


def within_paths(path: Float[Tensor, "batch node latent"]) -> Bool[Tensor, " point"]:
    """Whether the segment that begins at each node of the sequence of all paths belongs to one path."""
    nodes = path.shape[1]
    return torch.arange(path.shape[0] * nodes, device=path.device) % nodes != nodes - 1


def _apart(product: Tensor, vector: Tensor, pulled: Tensor) -> Bool[Tensor, " batch"]:
    rounding = 1e3 * torch.finfo(product.dtype).eps * (vector.square().sum((1, 2)) * pulled.square().sum((1, 2))).sqrt()
    return (product - (vector * pulled).sum((1, 2))).abs() > 0.01 * product.abs() + rounding


def _alike(points: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent"]:
    """One direction for all nodes: chords change by nothing but what the metric does from place to place."""
    v = torch.randn(points.shape[1], generator=torch.Generator().manual_seed(0))
    return v.to(points).repeat(len(points), 1)


def _both_ways(
    derivative: Derivative,
    points: Float[Tensor, "point latent"],
    residuals: Float[Tensor, "segment residual"],
    pull: Callable[[Tensor], Tensor],
    v: Float[Tensor, "point latent"],
) -> tuple[Tensor, Tensor, Tensor]:
    """⟨u, J v⟩, v and Jᵀu, a batch of one; u are the residuals, with weights that fall."""
    u = residuals * torch.linspace(1, 0, len(residuals)).to(residuals)[:, None]
    return (u * derivative(points, v)[1]).sum()[None], v[None], pull(u)[None]
