"""The published energy of ensembles, in closed form."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probgeo.geometry.jacobians import Maps, Members
from probgeo.geometry.metrics.chunks import chunk_size, from_grams, grams, over_chunks, point_chunks, rounding_lengths
from probgeo.geometry.metrics.metric import Energy, Evaluation, Linearization


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

    Example:
        >>> import torch, probgeo as pg
        >>> energy = pg.DecorrelatedEnergy([lambda z: z - 1, lambda z: z + 1], segments=10)
        >>> start, stop = torch.zeros(1, 1), torch.tensor([[2.0]])
        >>> line = pg.paths.Straight(10)(start, stop)
        >>> pg.energy(energy, line)  # chords ½ · 10 · 10 · 0.2², and the members' variance of 1 costs 10 · 10
        tensor([102.])

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

    def measure(self, path: Float[Tensor, "batch node latent"]) -> Evaluation:
        """E of each path, and equal durations: a path's speed is part of what is minimised."""

        def pieces(points: Tensor) -> tuple[Tensor, Tensor]:
            values = self._maps.values(points)
            mean = values.mean(1)
            return mean.diff(dim=0).square().sum(-1), (values - mean[:, None]).square().mean(1).sum(-1)

        chords, variance = over_chunks(pieces, path, chunk_size(self._maps, path, self._memory, 1))
        return Evaluation(self._energy(chords, variance), torch.ones_like(path[:, 1:, 0]))

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, gradient, and the Gauss–Newton blocks of both terms."""

        def pieces(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            jets = self._maps.jets(points)
            mean = jets.mean(2)
            spread = (jets - mean[:, :, None]).flatten(2)
            return *grams(mean), spread @ spread.mT / jets.shape[2]

        size = chunk_size(self._maps, path, self._memory, 1 + path.shape[2])
        own, link, spread = over_chunks(pieces, path, size)
        mean = from_grams(own, link)
        weight = self.segments**2 / (path.shape[1] - 1)
        return Linearization(
            self._energy(own[:, :-1, 0, 0], spread[:, :, 0, 0]),
            torch.ones_like(path[:, 1:, 0]),
            mean.gradient + 2 * weight * spread[:, 1:-1, 0, 1:],
            mean.diagonal + 2 * weight * spread[:, 1:-1, 1:, 1:],
            mean.off_diagonal,
        )

    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """‖Δm‖² + (Δ√v)²: chords of the members' mean and standard deviation, by which rounding and leaps are told."""

        def pieces(points: Tensor) -> tuple[Tensor]:
            values = self._maps.values(points)
            mean = values.mean(1)
            std = (values - mean[:, None]).square().mean(1).sum(-1).sqrt()
            return (mean.diff(dim=0).square().sum(-1) + std.diff(dim=0).square(),)

        (squares,) = over_chunks(pieces, path, chunk_size(self._maps, path, self._memory, 1))
        return squares[:, :-1]

    def resolution(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, " point"]:
        """Lengths of such chords that are no more than rounding: 10·eps·‖f‖, of the members side by side over √S."""
        return rounding_lengths(self._maps, points, self._memory)

    def _energy(
        self, squared_chords: Float[Tensor, "batch _"], variance: Float[Tensor, "batch node"]
    ) -> Float[Tensor, " batch"]:
        segments = variance.shape[1] - 1
        ends = (variance[:, 0] + variance[:, -1]) / 2
        chords = squared_chords[:, :segments].sum(1)
        return segments / 2 * chords + self.segments**2 / segments * (variance[:, 1:-1].sum(1) + ends)

    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, " edge"]:
        """√v ‖m(y) − m(z)‖: the members' disagreement along the edge (the energy's Jacobi metric where v dominates)."""
        mean, variance = self._moments(nodes)
        first, second = edges.unbind(1)
        disagreement = variance.sqrt()
        return (disagreement[first] + disagreement[second]) / 2 * (mean[first] - mean[second]).norm(dim=-1)

    def node_weights(self, nodes: Float[Tensor, "node latent"]) -> Float[Tensor, " node"]:
        """segments · v / √2: what staying costs, E over √2 · segments, as hurrying along edges costs their weights.

        Along a path that waits at z, ½ ‖ṁ‖² − segments² v is the same everywhere, −segments² v(z): hurrying takes no
        time beside the waiting, and E = segments² v(z) + √2 segments ∫ √(v − v(z)) ‖dm‖.
        """
        return self.segments / 2**0.5 * self._moments(nodes)[1]

    def _moments(self, nodes: Float[Tensor, "node latent"]) -> tuple[Tensor, Tensor]:
        """Mean, (node, observation), and variance, (node)."""
        values = torch.cat([self._maps.values(chunk) for chunk in point_chunks(self._maps, nodes, self._memory, 1)])
        return values.mean(1), values.var(1, correction=0).sum(-1)
