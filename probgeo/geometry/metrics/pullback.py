"""Metrics and energies of decoders: pull-back, expected metric over draws, the published energy of ensembles."""

import copy
from abc import abstractmethod
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probgeo.geometry.jacobians import Immersion, Maps, Members
from probgeo.geometry.metrics.chunks import (
    chord_lengths,
    chord_residuals,
    chunk_size,
    from_grams,
    grams,
    over_chunks,
    point_chunks,
    pullback_linearization,
    pullback_tensor,
    squared_chords,
)
from probgeo.geometry.metrics.energy import Energy, Linearization, Measure, Metric
from probgeo.geometry.points import Points, points_of


class ChordMetric(Metric):
    """G = mean_s J_sᵀJ_s of maps f_s, with residuals r_i = (f_s(z_{i+1}) − f_s(z_i))_s / √S: the maps' chords.

    Args:
        maps: f_1, …, f_S; a final linear layer with more outputs than inputs is compressed exactly.
        memory: bytes that one chunk of values and Jacobians may take; None for what suits the device's caches.
    """

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
    def resolution(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, "point"]:
        """10·eps·‖f‖, eps as measured where the maps compute in less than the points' dtype; at least 10·eps·‖Jz‖."""
        rounding, jets = self._maps.rounding(points), self._maps.jets(points).flatten(2) / self._maps.num_maps**0.5
        own = torch.einsum("pk,pko->po", points, jets[:, 1:]).norm(dim=1) * torch.finfo(points.dtype).eps
        return 10 * torch.maximum(rounding * jets[:, 0].norm(dim=1), own)

    @final
    def num_points(self, points: Float[Tensor, "point latent"]) -> int:
        """A chunk's size."""
        return chunk_size(self._maps, points, self._memory, 4)

    @final
    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """The maps' mean of ‖f_s(z_{i+1}) − f_s(z_i)‖²."""
        return squared_chords(self._maps, path, self._memory)

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
    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, "edge"]:
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

    References:
        Tosi, Hauberg, Vellido and Lawrence, Metrics for probabilistic geometries (2014), equation 12.
    """

    def __init__(self, members: Members, *, memory: int | None = None) -> None:
        super().__init__(Maps(members), memory)


@final
class DecorrelatedEnergy(Energy):
    """E = ½ N Σ ‖m(z_{i+1}) − m(z_i)‖² + ½ (segments²/N) Σ (v(z_i) + v(z_{i+1})), m, v the members' mean and variance.

    The variance is summed over observation dimensions. This is the expectation, in closed form, of the published energy
    of paths that draw a new member at each of `segments` + 1 points. It belongs to no metric: its value depends on the
    parametrisation and it defines no length.

    Args:
        members: as for `ExpectedMetric`.
        segments: number of segments of the published energy that this one stands for, whatever the path's own number.
        memory: bytes that one chunk of values and Jacobians may take; by default what suits the device's caches.

    Raises:
        ValueError: no members, or `segments` below one.
        TypeError: members that are not callable.

    References:
        Decoder ensembling for learned latent geometries, arXiv 2408.07507 (2024), equation 20.
    """

    # Its minima are slow where the members agree and hurry across the rest, so that a path's timing decides more than
    # its shape: two segments, whose middle is the place to wait at, find better minima than paths of many.
    line_segments = 2
    graph_segments = 2

    def __init__(self, members: Members, segments: int = 256, *, memory: int | None = None) -> None:
        if segments < 1:
            raise ValueError(f"segments: expected at least 1; got {segments}.")
        self._maps = Maps(members).jointly_compressed()
        self._memory = memory
        self.segments = segments

    def measure(self, path: Float[Tensor, "batch node latent"]) -> Measure:
        """E of each path, and equal durations: a path's speed is part of what is minimised."""

        def pieces(values: Tensor) -> tuple[Tensor, Tensor]:
            mean = values.mean(1)
            return mean.diff(dim=0).square().sum(-1), (values - mean[:, None]).square().mean(1).sum(-1)

        chords, variance = over_chunks(self._maps, self._maps.values, pieces, path, self._memory, 1)
        return Measure(self._energy(chords, variance), torch.ones_like(path[:, 1:, 0]))

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, gradient, and the Gauss–Newton blocks of both terms."""

        def pieces(jets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean = jets.mean(2)
            spread = (jets - mean[:, :, None]).flatten(2)
            return *grams(mean), spread @ spread.mT / jets.shape[2]

        order = 1 + path.shape[2]
        own, link, spread = over_chunks(self._maps, self._maps.jets, pieces, path, self._memory, order)
        mean = from_grams(own, link)
        weight = self.segments**2 / (path.shape[1] - 1)
        return Linearization(
            self._energy(own[:, :-1, 0, 0], spread[:, :, 0, 0]),
            torch.ones_like(path[:, 1:, 0]),
            mean.gradient + 2 * weight * spread[:, 1:-1, 0, 1:],
            mean.diagonal + 2 * weight * spread[:, 1:-1, 1:, 1:],
            mean.off_diagonal,
        )

    def _energy(
        self, squared_chords: Float[Tensor, "batch _"], variance: Float[Tensor, "batch node"]
    ) -> Float[Tensor, "batch"]:
        segments = variance.shape[1] - 1
        ends = (variance[:, 0] + variance[:, -1]) / 2
        chords = squared_chords[:, :segments].sum(1)
        return segments / 2 * chords + self.segments**2 / segments * (variance[:, 1:-1].sum(1) + ends)

    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, "edge"]:
        """√v ‖m(y) − m(z)‖: the members' disagreement along the edge (the energy's Jacobi metric where v dominates)."""
        values = torch.cat([self._maps.values(chunk) for chunk in point_chunks(self._maps, nodes, self._memory, 1)])
        mean, disagreement = values.mean(1), values.var(1, correction=0).sum(-1).sqrt()
        first, second = edges.unbind(1)
        return (disagreement[first] + disagreement[second]) / 2 * (mean[first] - mean[second]).norm(dim=-1)
