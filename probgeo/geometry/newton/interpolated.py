"""Newton systems of the metric's tensor at a few nodes of a path: matrices without Jacobians at all nodes."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.geometry.newton.blocks import BlockTridiagonal, damped_step
from probgeo.geometry.newton.covariant import excess_by_few, stride
from probgeo.geometry.newton.reverse import Reverse

NUM_TENSORS = 5  # of each path, at least,
SPACING = 16  # and one for so many segments
STALE = 1 / 16  # of a path's extent, by which nodes may have moved since tensors were taken at them


class Interpolation(NamedTuple):
    """What an interpolated model needs around each path."""

    energy: Float[Tensor, " batch"]
    durations: Float[Tensor, "batch segment"]
    gradient: Float[Tensor, "batch interior latent"]
    places: Float[Tensor, "batch sample latent"]  #: where tensors were taken
    tensors: Float[Tensor, "batch sample latent latent"]  #: G there


@final
@dataclass(frozen=True)
class Interpolated:
    """(H + λ diag H) δ = −g with the blocks of ½ N Σ (δ_{i+1} − δ_i)ᵀG_i(δ_{i+1} − δ_i), G_i interpolated.

    G is taken at few nodes of a path, and taken again once these have moved; g by reverse mode at all nodes. An
    evaluation costs about as much whatever the latent dimension is, but more of them are needed than with all blocks of
    Gauss–Newton. Paths that it does not solve, where a metric changes more than is seen at these nodes, go on
    with `BlockTridiagonal`.

    Args:
        metric: a metric.

    Raises:
        TypeError: an energy that is no metric.

    Example:
        >>> import torch, probgeo as pg
        >>> plane = pg.PullbackMetric(lambda z: 2 * z)
        >>> solver = pg.GaussNewton(num_segments=16, system=pg.Interpolated)
        >>> pg.geodesic(plane, torch.zeros(1, 9), torch.ones(1, 9), solver=solver).length  # 2 · √9
        tensor([6.])
    """

    metric: Any
    variation: Reverse = field(init=False, repr=False, compare=False)
    exact: BlockTridiagonal = field(init=False, repr=False, compare=False)  # goes on with what this does not solve
    trusted_damping: ClassVar[float] = 1e-2  # as of other matrices
    most_damping: ClassVar[float] = 0.5  # three steps refused: then the metric changes more than is seen at few nodes

    def __post_init__(self) -> None:
        object.__setattr__(self, "variation", Reverse(self.metric, "Interpolated"))
        object.__setattr__(self, "exact", BlockTridiagonal(self.metric))

    def linearized(self, path: Float[Tensor, "batch node latent"]) -> Interpolation:
        """E and g, and G at some nodes."""
        places = _places(path)
        return Interpolation(*self.variation(path), places, self.metric.tensor(places))

    def updated(self, model: Interpolation, path: Float[Tensor, "batch node latent"]) -> Interpolation:
        """The same of paths near those of a model, G taken again only where a path has moved away."""
        places, tensors, now = model.places.clone(), model.tensors.clone(), _places(path)
        extent = (path - path[:, :1]).norm(dim=2).amax(1)
        moved = ~((now - places).norm(dim=2).amax(1) <= STALE * extent)
        if moved.any():
            places[moved], tensors[moved] = now[moved], self.metric.tensor(now[moved])
        return Interpolation(*self.variation(path), places, tensors)

    def step(self, model: Interpolation, damping: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """δ, and −g·δ − ½ δᵀHδ."""
        segments = model.durations.shape[1]
        between = segments * between_samples(model.tensors, segments)
        return damped_step(between[:, 1:] + between[:, :-1], -between[:, 1:-1], model.gradient, damping)

    def excess(self, model: Interpolation, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, " batch"]:
        """What E is above its least, by the covariant blocks of few nodes, whose Jacobians are taken for it."""
        return excess_by_few(self.metric, path, model.gradient)

    def num_floats(self, num_segments: int, latent: int) -> int:
        """As of all blocks, those between the nodes, what is made of them; tensors of two models; Jacobians of few."""
        samples, few = max(NUM_TENSORS, num_segments // SPACING + 1), num_segments // stride(num_segments) + 1
        return (num_segments + 1) * (15 * latent**2 + 20 * latent) + (3 * samples + 16 * few) * latent**2


def _places(path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch sample latent"]:
    return evenly_spaced(path, max(NUM_TENSORS, (path.shape[1] - 1) // SPACING + 1))


def evenly_spaced(path: Float[Tensor, "batch node latent"], count: int) -> Float[Tensor, "batch sample latent"]:
    """Some of the nodes, ends included.

    Args:
        path: nodes.
        count: how many, if the path has them.
    """
    nodes = torch.linspace(0, path.shape[1] - 1, min(count, path.shape[1]), device=path.device)
    return path[:, nodes.round().long()]


def between_samples(
    tensors: Float[Tensor, "batch sample latent latent"], segments: int
) -> Float[Tensor, "batch segment latent latent"]:
    """Tensors at the middles of the segments, linear between samples at evenly spaced nodes.

    Args:
        tensors: samples.
        segments: of a path.
    """
    gaps = tensors.shape[1] - 1
    place = (torch.arange(segments) + 0.5) / segments * gaps
    left = place.long().clamp_max(gaps - 1)
    share = (place - left).to(tensors)[:, None, None]
    # Gap by gap, in place: what is gathered for all segments at once would take as much again, twice.
    found = tensors.new_empty(tensors.shape[0], segments, *tensors.shape[2:])
    begin = 0
    for sample, count in enumerate(torch.bincount(left, minlength=gaps).tolist()):
        some = slice(begin, begin + count)
        found[:, some] = torch.lerp(tensors[:, sample, None], tensors[:, sample + 1, None], share[some])
        begin += count
    return found
