"""Path energies that are sums of squares, and the metrics behind them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probgeo.jacobians import Immersion, Maps, Members


class Linearization(NamedTuple):
    """An energy's quadratic model around paths, over the interior nodes: E + g·δ + ½ δᵀHδ, H ⪰ 0 block tridiagonal."""

    energy: Float[Tensor, "batch"]
    durations: Float[Tensor, "batch segment"]  #: as `Measure` has them
    gradient: Float[Tensor, "batch interior latent"]
    diagonal: Float[Tensor, "batch interior latent latent"]
    off_diagonal: Float[Tensor, "batch link latent latent"]


class Measure(NamedTuple):
    """An energy of paths, and how long each of their segments should take: what a path is resampled by when refined."""

    energy: Float[Tensor, "batch"]
    durations: Float[Tensor, "batch segment"]  #: up to a factor


class Energy(ABC):
    """A functional of discrete paths z_0, …, z_N at uniform times on [0, 1].

    Attributes:
        line_segments: with how many segments a solution is begun from a straight line.
        graph_segments: with how many from a graph's shortest path, which knows already on which sides of the ridges to
            pass, and so needs enough of them not to jump any.
    """

    line_segments: ClassVar[int] = 16
    graph_segments: ClassVar[int] = 32

    @abstractmethod
    def measure(self, path: Float[Tensor, "batch node latent"]) -> Measure:
        """E of each path, and the durations of its segments."""

    @abstractmethod
    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, its gradient and its positive semi-definite Gauss–Newton blocks over the interior nodes of each path."""

    @abstractmethod
    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, "edge"]:
        """Weights of a graph's edges whose shortest paths come close to this energy's minima."""


class Metric(Energy):
    """A Riemannian metric, through the squared lengths ‖r_i‖² of a path's segments: E = ½ N Σ ‖r_i‖², L = Σ ‖r_i‖."""

    @abstractmethod
    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """‖r_i‖² of each segment."""

    @abstractmethod
    def tensor(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent latent"]:
        """G(z)."""

    @final
    def measure(self, path: Float[Tensor, "batch node latent"]) -> Measure:
        """E = ½ N Σ ‖r_i‖², and ‖r_i‖: at the least energy a path has constant speed."""
        squares = self.squared_residuals(path)
        return Measure((path.shape[1] - 1) / 2 * squares.sum(1), squares.sqrt())

    @final
    def __add__(self, other: "Metric") -> "Metric":
        """The metric whose tensor is the sum of the two, residuals concatenated."""
        return SumMetric(self, other)


@final
class PullbackMetric(Metric):
    """G = JᵀJ of an immersion f, with residuals r_i = f(z_{i+1}) − f(z_i).

    The weights of a perceptron are read here, once (see `jacobians.Maps`); a final linear layer with more outputs than
    inputs is compressed exactly.

    Args:
        immersion: any differentiable callable (*batch, latent) -> (*batch, observation).
        memory: bytes that one chunk of values and Jacobians may take; by default what suits the device's caches.

    Raises:
        TypeError: `immersion` is not callable.
    """

    def __init__(self, immersion: Immersion, *, memory: int | None = None) -> None:
        if not callable(immersion):
            raise TypeError(
                f"immersion: expected a callable (*batch, latent) -> (*batch, observation); got {immersion!r}."
            )
        self._maps = Maps([immersion]).compressed()
        self._memory = memory

    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """‖f(z_{i+1}) − f(z_i)‖²."""
        return _squared_chords(self._maps, path, self._memory)

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, gradient, and blocks 2N J_iᵀJ_i and −N J_iᵀJ_{i+1}."""
        return _pullback_linearization(self._maps, path, self._memory)

    def tensor(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent latent"]:
        """JᵀJ."""
        return _pullback_tensor(self._maps, z, self._memory)

    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, "edge"]:
        """Chord lengths ‖f(y) − f(z)‖."""
        return _chord_lengths(self._maps, nodes, edges, self._memory)


@final
class ExpectedMetric(Metric):
    """G = E[JᵀJ] over draws of a decoder, exactly: the pull-back of the stacked map (f_1, …, f_S)/√S.

    Args:
        members: a sequence of callables (*batch, latent) -> (*batch, observation), or one callable with an attribute
            `num_members`: (*batch, latent) -> (member, *batch, observation). Read as by `PullbackMetric`.
        memory: bytes that one chunk of values and Jacobians may take; by default what suits the device's caches.

    Raises:
        ValueError: no members.
        TypeError: members that are not callable.

    References:
        Tosi, Hauberg, Vellido and Lawrence, Metrics for probabilistic geometries (2014), equation 12.
    """

    def __init__(self, members: Members, *, memory: int | None = None) -> None:
        self._maps = Maps(members).compressed()
        self._memory = memory

    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """The members' mean of ‖f_s(z_{i+1}) − f_s(z_i)‖²."""
        return _squared_chords(self._maps, path, self._memory)

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, gradient, and blocks 2N E[J_iᵀJ_i] and −N E[J_iᵀJ_{i+1}]."""
        return _pullback_linearization(self._maps, path, self._memory)

    def tensor(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent latent"]:
        """E[JᵀJ]."""
        return _pullback_tensor(self._maps, z, self._memory)

    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, "edge"]:
        """Chord lengths of the stacked map."""
        return _chord_lengths(self._maps, nodes, edges, self._memory)


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

        chords, variance = _over_chunks(self._maps, self._maps.values, pieces, path, self._memory, 1)
        return Measure(self._energy(chords, variance), torch.ones_like(path[:, 1:, 0]))

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, gradient, and the Gauss–Newton blocks of both terms."""

        def pieces(jets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean = jets.mean(2)
            spread = (jets - mean[:, :, None]).flatten(2)
            return *_grams(mean), spread @ spread.mT / jets.shape[2]

        order = 1 + path.shape[2]
        own, link, spread = _over_chunks(self._maps, self._maps.jets, pieces, path, self._memory, order)
        mean = _from_grams(own, link)
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
        values = torch.cat([self._maps.values(chunk) for chunk in _chunks(self._maps, nodes, self._memory, 1)])
        mean, disagreement = values.mean(1), values.var(1, correction=0).sum(-1).sqrt()
        first, second = edges.unbind(1)
        return (disagreement[first] + disagreement[second]) / 2 * (mean[first] - mean[second]).norm(dim=-1)


@final
class TensorMetric(Metric):
    """Any metric tensor field G, with residuals r_i = Lᵀ(z_{i+1} − z_i), LLᵀ = G((z_i + z_{i+1})/2).

    Args:
        tensor: differentiable callable (*batch, latent) -> (*batch, latent, latent), symmetric positive definite.
        memory: bytes that one chunk of tensors and derivatives may take; by default what suits the device's caches.

    Raises:
        TypeError: `tensor` is not callable.
    """

    def __init__(self, tensor: Callable[[Tensor], Tensor], *, memory: int | None = None) -> None:
        if not callable(tensor):
            raise TypeError(
                f"tensor: expected a callable (*batch, latent) -> (*batch, latent, latent); got {tensor!r}."
            )
        self._tensor = tensor
        self._maps = Maps([lambda z: tensor(z).flatten(-2)])
        self._memory = memory

    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """Δᵀ G(midpoint) Δ."""
        step, middle = path.diff(dim=1), (path[:, 1:] + path[:, :-1]) / 2
        return torch.einsum("bik,bikl,bil->bi", step, self.tensor(middle), step)

    def tensor(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent latent"]:
        """G(z)."""
        points = z.flatten(0, -2) if z.ndim > 1 else z[None]
        tensors = torch.cat([self._tensor(chunk) for chunk in _chunks(self._maps, points, self._memory, 1)])
        return tensors.reshape(*z.shape, z.shape[-1])

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, gradient, and Gauss–Newton blocks with the derivative of L."""
        latent = path.shape[2]
        step, middle = path.diff(dim=1), ((path[:, 1:] + path[:, :-1]) / 2).flatten(0, 1)
        chunks = _chunks(self._maps, middle, self._memory, 1 + latent)
        jets = torch.cat([self._maps.jets(chunk) for chunk in chunks]).view(*step.shape[:2], 1 + latent, latent, latent)
        root, failed = torch.linalg.cholesky_ex(jets[:, :, 0])
        root = torch.where((failed != 0)[..., None, None], torch.nan, root)
        # ∂L = L Φ(L⁻¹ ∂G L⁻ᵀ), Φ the lower triangle with half its diagonal.
        half = torch.linalg.solve_triangular(root[:, :, None], jets[:, :, 1:], upper=False)
        whitened = torch.linalg.solve_triangular(root[:, :, None], half.mT, upper=False)
        lower = whitened.tril() - whitened.diagonal(dim1=-2, dim2=-1).diag_embed() / 2
        turned = torch.einsum("...kpq,...p->...qk", root[:, :, None] @ lower, step)
        residual = (root.mT @ step[..., None])[..., 0]
        return _from_residuals(residual, turned / 2 - root.mT, turned / 2 + root.mT)

    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, "edge"]:
        """Lengths √(ΔᵀG(midpoint)Δ)."""
        return self.squared_residuals(nodes[edges])[:, 0].sqrt()


@final
class ConformalMetric(Metric):
    """G = I / (density(z) + floor): short where the data are dense.

    Args:
        density: differentiable callable (*batch, latent) -> (*batch), not negative.
        floor: added to the density, positive: 1/√floor is the speed factor far from the data.
        memory: bytes that one chunk of tensors and derivatives may take; by default what suits the device's caches.

    Raises:
        TypeError: `density` is not callable.
        ValueError: `floor` is not positive.

    References:
        Arvanitidis, Hansen and Hauberg, A locally adaptive normal distribution (2016), section 3.
    """

    def __init__(self, density: Callable[[Tensor], Tensor], floor: float, *, memory: int | None = None) -> None:
        if not callable(density):
            raise TypeError(f"density: expected a callable (*batch, latent) -> (*batch); got {density!r}.")
        if not floor > 0:
            raise ValueError(f"floor: expected a positive number; got {floor}.")

        def tensor(z: Tensor) -> Tensor:
            identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
            return identity / (density(z) + floor)[..., None, None]

        self._field = TensorMetric(tensor, memory=memory)

    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """‖Δ‖² / (density(midpoint) + floor)."""
        return self._field.squared_residuals(path)

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, gradient, and Gauss–Newton blocks."""
        return self._field.linearize(path)

    def tensor(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent latent"]:
        """I / (density(z) + floor)."""
        return self._field.tensor(z)

    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, "edge"]:
        """Lengths ‖Δ‖ / √(density(midpoint) + floor)."""
        return self._field.edge_weights(nodes, edges)


@final
class SumMetric(Metric):
    """G = G_1 + G_2, residuals concatenated: what `metric + metric` gives.

    Args:
        first: G_1.
        second: G_2.

    Raises:
        TypeError: one of the two is not a metric.
    """

    def __init__(self, first: Metric, second: Metric) -> None:
        for term in (first, second):
            if not isinstance(term, Metric):
                raise TypeError(f"metric + metric: expected two metrics; got {type(term).__name__}.")
        self.first = first
        self.second = second

    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """‖r_i‖² of the first plus that of the second."""
        return self.first.squared_residuals(path) + self.second.squared_residuals(path)

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """The two linearisations added."""
        first, second = self.first.linearize(path), self.second.linearize(path)
        total = Linearization(*(x + y for x, y in zip(first, second, strict=True)))
        return total._replace(durations=torch.hypot(first.durations, second.durations))

    def tensor(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent latent"]:
        """G_1(z) + G_2(z)."""
        return self.first.tensor(z) + self.second.tensor(z)

    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, "edge"]:
        """√(w_1² + w_2²)."""
        return torch.hypot(self.first.edge_weights(nodes, edges), self.second.edge_weights(nodes, edges))


def _default_memory(points: Tensor) -> int:
    """Bytes of one chunk: within the caches of a CPU, which is faster by far; many on a GPU."""
    return 2**21 * torch.get_num_threads() if points.device.type == "cpu" else 2**30


def _chunk_size(maps: Maps, points: Float[Tensor, "point latent"], memory: int | None, order: int) -> int:
    """How many points' values (order 1) or jets (order 1 + latent) fit the memory budget."""
    memory = _default_memory(points) if memory is None else memory
    return max(2, memory // (points.element_size() * order * maps.num_floats(points)))


def _chunks(maps: Maps, points: Float[Tensor, "point latent"], memory: int | None, order: int) -> tuple[Tensor, ...]:
    return points.split(_chunk_size(maps, points, memory, order))


def _over_chunks(
    maps: Maps,
    evaluate: Callable[[Tensor], Tensor],
    pieces: Callable[[Tensor], tuple[Tensor, ...]],
    path: Float[Tensor, "batch node latent"],
    memory: int | None,
    order: int,
) -> tuple[Tensor, ...]:
    """`pieces` of the values or jets along all paths, each (batch, node, …), evaluated chunk by chunk.

    All nodes of all paths form one sequence, in chunks that overlap by one point; a piece has one entry per point, or
    one per pair of neighbours (then the last entry of each path, which links it to the next path, means nothing).
    """
    points = path.flatten(0, 1)
    size = _chunk_size(maps, points, memory, order)
    found: list[tuple[Tensor, ...]] = []
    for start in range(0, len(points) - 1, size - 1):
        chunk = pieces(evaluate(points[start : start + size]))
        last = start + size >= len(points)
        found.append(tuple(piece if last else piece[: size - 1] for piece in chunk))
    joined = (torch.cat(parts) for parts in zip(*found, strict=True))
    shape = path.shape[:2]
    return tuple(_padded(piece, len(points)).unflatten(0, shape) for piece in joined)


def _padded(piece: Tensor, length: int) -> Tensor:
    missing = length - len(piece)
    return torch.cat([piece, piece.new_zeros(missing, *piece.shape[1:])]) if missing else piece


def _grams(jets: Float[Tensor, "point order observation"]) -> tuple[Tensor, Tensor]:
    """Gram matrices of Y_i = [r_i; J_iᵀ] with itself and with Y_{i+1}; the last point's first row means nothing."""
    rows = jets.contiguous()
    rows[:-1, 0] = rows[1:, 0] - rows[:-1, 0]
    return rows @ rows.mT, rows[:-1] @ rows[1:].mT


# Gauss–Newton takes the turning of the image along the path, ‖(J_{i+1} − J_i)δ‖², for stiffness, which the exact second
# variation hardly has (by Gauss's equation the sectional curvature cancels it), so that its steps are too short in the
# slow modes. Blocks of the latent path in the frozen metric, ½N Σ ‖δ_{i+1} − δ_i‖² in the mean of G_i and G_{i+1}, are
# without it but overshoot on rough maps. This share of them halves the number of steps, on smooth and on rough maps.
FROZEN_SHARE = 0.75


def _from_grams(
    own: Float[Tensor, "batch node order order"], link: Float[Tensor, "batch node order order"]
) -> Linearization:
    segments = own.shape[1] - 1
    tensors = own[..., 1:, 1:]
    between = (tensors[:, 1:] + tensors[:, :-1]) / 2
    frozen = between[:, 1:] + between[:, :-1]
    return Linearization(
        segments / 2 * own[:, :-1, 0, 0].sum(1),
        own[:, :-1, 0, 0].sqrt(),
        segments * (link[:, : segments - 1, 0, 1:] - own[:, 1:-1, 0, 1:]),
        segments * torch.lerp(2 * tensors[:, 1:-1], frozen, FROZEN_SHARE),
        -segments * torch.lerp(link[:, 1 : segments - 1, 1:, 1:], between[:, 1:-1], FROZEN_SHARE),
    )


def _from_residuals(
    residual: Float[Tensor, "batch segment residual"],
    by_start: Float[Tensor, "batch segment residual latent"],
    by_stop: Float[Tensor, "batch segment residual latent"],
) -> Linearization:
    """Linearisation of E = ½ N Σ ‖r_i‖² from r_i and its derivatives by the segment's two nodes."""
    segments = residual.shape[1]
    pulled_stop = torch.einsum("birk,bir->bik", by_stop, residual)
    pulled_start = torch.einsum("birk,bir->bik", by_start, residual)
    own = by_stop[:, :-1].mT @ by_stop[:, :-1] + by_start[:, 1:].mT @ by_start[:, 1:]
    return Linearization(
        segments / 2 * residual.square().sum((1, 2)),
        residual.norm(dim=2),
        segments * (pulled_stop[:, :-1] + pulled_start[:, 1:]),
        segments * own,
        segments * by_start[:, 1:-1].mT @ by_stop[:, 1:-1],
    )


def _squared_chords(
    maps: Maps, path: Float[Tensor, "batch node latent"], memory: int | None
) -> Float[Tensor, "batch segment"]:
    def pieces(values: Tensor) -> tuple[Tensor]:
        return (values.diff(dim=0).square().sum((1, 2)),)

    (squares,) = _over_chunks(maps, maps.values, pieces, path, memory, 1)
    return squares[:, :-1] / maps.num_maps


def _pullback_linearization(maps: Maps, path: Float[Tensor, "batch node latent"], memory: int | None) -> Linearization:
    def pieces(jets: Tensor) -> tuple[Tensor, Tensor]:
        return _grams(jets.flatten(2))

    own, link = _over_chunks(maps, maps.jets, pieces, path, memory, 1 + path.shape[2])
    return _from_grams(own / maps.num_maps, link / maps.num_maps)


def _pullback_tensor(
    maps: Maps, z: Float[Tensor, "*batch latent"], memory: int | None
) -> Float[Tensor, "*batch latent latent"]:
    points = z.flatten(0, -2) if z.ndim > 1 else z[None]

    def tensors() -> Iterator[Tensor]:
        for chunk in _chunks(maps, points, memory, 1 + z.shape[-1]):
            jacobian = maps.jets(chunk)[:, 1:].flatten(2)
            yield jacobian @ jacobian.mT / maps.num_maps

    return torch.cat(list(tensors())).reshape(*z.shape, z.shape[-1])


def _chord_lengths(
    maps: Maps, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"], memory: int | None
) -> Float[Tensor, "edge"]:
    values = torch.cat([maps.values(chunk).flatten(1) for chunk in _chunks(maps, nodes, memory, 1)])
    size = max(1, (_default_memory(nodes) if memory is None else memory) // (values.element_size() * values.shape[1]))
    lengths = [
        (values[first] - values[second]).norm(dim=1) for first, second in (e.unbind(1) for e in edges.split(size))
    ]
    return torch.cat(lengths) / maps.num_maps**0.5
