"""Metrics of decoders, whose residuals are chords of maps: the pull-back, and the expected metric over draws."""

import copy
from abc import abstractmethod
from typing import final

from jaxtyping import Float, Int
from torch import Tensor, nn

from probgeo.geometry.jacobians import Immersion, Maps, Members
from probgeo.geometry.metrics.chunks import (
    chord_lengths,
    chord_residuals,
    chunk_size,
    cut_chords,
    pullback_linearization,
    pullback_tensor,
    rounding_lengths,
    squared_chords,
)
from probgeo.geometry.metrics.metric import Linearization, Metric, finer
from probgeo.geometry.points import Points, points_of


class ChordMetric(Metric):
    """G = mean_s J_sᵀJ_s of maps f_s, with residuals r_i = (f_s(z_{i+1}) − f_s(z_i))_s / √S: the maps' chords.

    Args:
        maps: f_1, …, f_S; a final linear layer with more outputs than inputs is compressed exactly.
        memory: bytes that one chunk of values and Jacobians may take; None for what suits the device's caches.
    """

    argument = "decoder"
    chordal = True

    @abstractmethod
    def __init__(self, maps: Maps, memory: int | None) -> None:
        self._maps = maps.compressed()
        self._memory = memory

    @final
    def residuals(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, "segment residual"]:
        """The maps' f_s(z_{i+1}) − f_s(z_i), over √S."""
        return chord_residuals(self._maps, points)

    @final
    def tensor(self, z: Points) -> Float[Tensor, "*batch latent latent"]:
        """The maps' mean of JᵀJ at points (*batch, latent)."""
        return pullback_tensor(self._maps, points_of("z", z, "*batch latent"), self._memory)

    @final
    def resolution(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, " point"]:
        """10·eps·‖f‖, eps as measured where the maps compute in less than the points' dtype; at least 10·eps·‖Jz‖."""
        return rounding_lengths(self._maps, points, self._memory)

    @final
    def num_points(self, points: Float[Tensor, "point latent"]) -> int:
        """A chunk's size."""
        return chunk_size(self._maps, points, self._memory, 4)

    @final
    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """The maps' mean of ‖f_s(z_{i+1}) − f_s(z_i)‖²."""
        return squared_chords(self._maps, path, self._memory)

    @final
    def cut_residuals(
        self, path: Float[Tensor, "batch node latent"], cuts: Float[Tensor, "batch segment latent"]
    ) -> tuple[Float[Tensor, "batch segment"], Float[Tensor, "batch segment 2"]]:
        """The maps' mean of squared chords, of segments and of their parts, of values that are computed once."""
        return cut_chords(self._maps, finer(path, cuts), self._memory)

    @final
    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, gradient, and the maps' mean of blocks 2N J_iᵀJ_i and −N J_iᵀJ_{i+1}."""
        return pullback_linearization(self._maps, path, self._memory)

    @final
    def pulled_back(self, embedding: nn.Linear) -> "Metric":
        """The same metric of the maps f_s(W u + b)."""
        metric = copy.copy(self)
        metric._maps = self._maps.after(embedding)
        return metric

    @final
    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, " edge"]:
        """Chord lengths of the stacked map."""
        return chord_lengths(self._maps, nodes, edges, self._memory)


@final
class PullbackMetric(ChordMetric):
    """G = JᵀJ of an immersion f, with residuals r_i = f(z_{i+1}) − f(z_i).

    Args:
        immersion: any differentiable callable (*batch, latent) -> (*batch, observation). The weights of a module are
            read here, once: training it afterwards leaves the metric as it is. A function is called as it is.
        memory: bytes that one chunk of values and Jacobians may take; by default what suits the device's caches.

    Raises:
        TypeError: `immersion` is not callable, or a module that cannot be copied.

    Example:
        >>> import torch, probgeo as pg
        >>> def sphere(z):  # of radius 2; z: polar angle and azimuth
        ...     polar, azimuth = z.unbind(-1)
        ...     around = polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin()
        ...     return 2 * torch.stack([*around, polar.cos()], dim=-1)
        >>> metric = pg.PullbackMetric(sphere)
        >>> metric.tensor(torch.tensor([torch.pi / 6, 0.0])).round(decimals=4).abs()  # 2² diag(1, sin²(π/6))
        tensor([[4., 0.],
                [0., 1.]])
        >>> start, stop = torch.tensor([[0.5, 0.0]]).double(), torch.tensor([[2.0, 0.0]]).double()
        >>> round(pg.geodesic(metric, start, stop).length.item(), 3)  # along a meridian: 2 · (2 − ½)
        3.0
    """

    def __init__(self, immersion: Immersion, *, memory: int | None = None) -> None:
        if not callable(immersion):
            raise TypeError(
                f"immersion: expected a callable (*batch, latent) -> (*batch, observation); got {immersion!r}."
            )
        super().__init__(Maps([immersion]), memory)


@final
class ExpectedMetric(ChordMetric):
    """G = E[JᵀJ] over draws of a decoder, exactly: the pull-back of the stacked map (f_1, …, f_S)/√S.

    Args:
        members: a sequence of callables (*batch, latent) -> (*batch, observation), or one callable with an attribute
            `num_members`: (*batch, latent) -> (member, *batch, observation). Read as by `PullbackMetric`.
        memory: bytes that one chunk of values and Jacobians may take; by default what suits the device's caches.

    Raises:
        ValueError: no members.
        TypeError: members that are not callable, or modules that cannot be copied.

    Example:
        >>> import torch, probgeo as pg
        >>> members = [lambda z: z, lambda z: 7 * z]  # a decoder that is one of two planes, who knows which
        >>> metric = pg.ExpectedMetric(members)
        >>> metric.tensor(torch.zeros(2))  # E[JᵀJ] = (1² + 7²) / 2, and not that of the mean, 4²
        tensor([[25.,  0.],
                [ 0., 25.]])
        >>> pg.geodesic(metric, torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).length
        tensor([5.])

    References:
        Tosi, Hauberg, Vellido and Lawrence, Metrics for probabilistic geometries (2014), equation 12.
    """

    def __init__(self, members: Members, *, memory: int | None = None) -> None:
        super().__init__(Maps(members), memory)
