"""What an energy of paths is, what a metric is, the sum of two, and a metric of a subspace."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probgeo.geometry.immersions import Derivative, called, plainly
from probgeo.geometry.metrics.memory import chunk_points
from probgeo.geometry.points import Points, points_of

# Gauss–Newton takes the turning of the image along the path, ‖(J_{i+1} − J_i)δ‖², for stiffness, which the exact second
# variation hardly has (by Gauss's equation the sectional curvature cancels it), so that its steps are too short in the
# slow modes. Blocks of the latent path in the frozen metric, ½N Σ ‖δ_{i+1} − δ_i‖² in the mean of G_i and G_{i+1}, are
# without it but overshoot on rough maps. This share of them halves the number of steps, on smooth and on rough maps.
FROZEN_SHARE = 0.75


class Linearization(NamedTuple):
    """An energy's quadratic model around paths, over the interior nodes: E + g·δ + ½ δᵀHδ, H ⪰ 0 block tridiagonal.

    Attributes:
        energy: E of each path, (batch).
        durations: as `Evaluation` has them, (batch, segment).
        gradient: g, (batch, interior, latent).
        diagonal: H's blocks of single nodes, (batch, interior, latent, latent).
        off_diagonal: H's blocks of a node and the next one, (batch, link, latent, latent).
        grams: Gram matrices of the derivatives [∂r_i/∂z_i, ∂r_i/∂z_{i+1}] of a metric's residuals, (batch, segment,
            2 latent, 2 latent), by which `covariant_excess` tells what is left of E; None where there are none.

    Example:
        >>> import torch, probgeo as pg
        >>> bent = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]])
        >>> model = pg.PullbackMetric(lambda z: z).linearize(bent)
        >>> model.energy, model.gradient  # ½ · 2 · (2 + 2); a step −g / 4 down straightens the path
        (tensor([4.]), tensor([[[0., 4.]]]))
        >>> model.diagonal[0, 0]  # ∂²E/∂z² = 2N
        tensor([[4., 0.],
                [0., 4.]])
    """

    energy: Float[Tensor, " batch"]
    durations: Float[Tensor, "batch segment"]
    gradient: Float[Tensor, "batch interior latent"]
    diagonal: Float[Tensor, "batch interior latent latent"]
    off_diagonal: Float[Tensor, "batch link latent latent"]
    grams: Float[Tensor, "batch segment both both"] | None = None


class Evaluation(NamedTuple):
    """An energy of paths, and how long each of their segments should take: what a path is resampled by when refined.

    Attributes:
        energy: E of each path, (batch).
        durations: time that each segment takes, up to a factor, (batch, segment).

    Example:
        >>> import torch, probgeo as pg
        >>> path = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]])
        >>> pg.PullbackMetric(lambda z: z).measure(path)  # ½ · 2 · (1² + 2²); the second one should take twice the time
        Evaluation(energy=tensor([5.]), durations=tensor([[1., 2.]]))
    """

    energy: Float[Tensor, " batch"]
    durations: Float[Tensor, "batch segment"]


class Energy(ABC):
    """A functional of discrete paths z_0, …, z_N at uniform times on [0, 1].

    Attributes:
        line_segments: with how many segments a solution is begun from a straight line.
        graph_segments: with how many from a graph's shortest path, which knows already on which sides of the ridges to
            pass, and so needs enough of them not to jump any.
        chordal: whether segments are as long as chords of one space are, so that a path through some nodes of another
            is never longer, nor of more energy.

    Example:
        >>> import torch, probgeo as pg
        >>> metric = pg.PullbackMetric(lambda z: 3 * z)  # a plane, lengths three times those of z
        >>> isinstance(metric, pg.Energy)
        True
        >>> path = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]])
        >>> energy, durations = metric.measure(path)  # ½ · 2 · (3² + 3²), and equal durations
        >>> energy, durations
        (tensor([18.]), tensor([[3., 3.]]))
    """

    line_segments: ClassVar[int] = 16
    graph_segments: ClassVar[int] = 32
    chordal: bool = False

    @abstractmethod
    def measure(self, path: Float[Tensor, "batch node latent"]) -> Evaluation:
        """E of each path, and the durations of its segments."""

    @abstractmethod
    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, its gradient and its positive semi-definite Gauss–Newton blocks over the interior nodes of each path."""

    @abstractmethod
    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, " edge"]:
        """Weights of a graph's edges whose shortest paths come close to this energy's minima."""

    def node_weights(self, nodes: Float[Tensor, "node latent"]) -> Float[Tensor, " node"] | None:
        """What it costs to spend the time at a node, in the unit of edges; None where minima have constant speed."""
        return None


def check_energy(metric: object) -> None:
    """Refuses what is no energy of paths.

    Args:
        metric: anything.

    Raises:
        TypeError: it is no `Energy`, such as a decoder that no metric was made of.
    """
    if not isinstance(metric, Energy):
        raise TypeError(
            f"metric: expected a metric or energy, such as PullbackMetric(decoder); got {type(metric).__name__}."
        )


class Metric(Energy):
    """A Riemannian metric, through the residuals r_i of a path's segments: E = ½ N Σ ‖r_i‖², L = Σ ‖r_i‖.

    A metric of one's own states `residuals` and `tensor`; the rest follows from them. The metrics of this package state
    the rest as well where they know a faster way to the same.

    Attributes:
        argument: what errors call that which the metric was made of.

    Example:
        >>> import torch, probgeo as pg
        >>> class Paraboloid(pg.Metric):
        ...     def residuals(self, points):
        ...         x, y = points.unbind(-1)
        ...         return torch.stack([x, y, x**2 + y**2], dim=-1).diff(dim=0)
        ...
        ...     def tensor(self, z):
        ...         return torch.eye(2, dtype=z.dtype) + 4 * z[..., :, None] * z[..., None, :]
        >>> Paraboloid().edge_weights(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0, 1]]))  # √(2² + 4²)
        tensor([4.4721])
    """

    argument: str = "metric"

    @abstractmethod
    def residuals(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, "segment residual"]:
        """r_i of the path through any number of points, at least two, differentiable; of z_i and z_{i+1} alone."""

    @abstractmethod
    def tensor(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent latent"]:
        """G(z): ‖r‖² = δᵀG(z)δ + O(|δ|³) for the segment from z to z + δ."""

    def num_points(self, points: Float[Tensor, "point latent"]) -> int:
        """Of how many such points residuals and their derivative in one direction fit the memory budget."""
        with torch.no_grad():
            width = self.residuals(points[:1].repeat(2, 1)).numel()
        return chunk_points(points, None, 4 * 8 * width, fused=False)

    def resolution(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, " point"]:
        """Lengths of segments beside these points that are no more than rounding: 10·eps·√(zᵀGz)."""
        squares = torch.einsum("bi,bij,bj->b", points, self.tensor(points), points)
        return 10 * torch.finfo(points.dtype).eps * squares.clamp_min(0).sqrt()

    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """‖r_i‖² of each segment."""
        if not len(path):
            return path.new_zeros(0, path.shape[1] - 1)
        points = path.flatten(0, 1)
        size = self.num_points(points)
        squares = [
            self.residuals(points[start : start + size]).square().sum(1)
            for start in range(0, len(points) - 1, size - 1)
        ]
        # The last segment of every path but one leads to the next path.
        return torch.nn.functional.pad(torch.cat(squares), (0, 1)).view(path.shape[:2])[:, :-1]

    def cut_residuals(
        self, path: Float[Tensor, "batch node latent"], cuts: Float[Tensor, "batch segment latent"]
    ) -> tuple[Float[Tensor, "batch segment"], Float[Tensor, "batch segment 2"]]:
        """‖r_i‖² of each segment, and of the two parts that a point cuts it into."""
        return self.squared_residuals(path), self.squared_residuals(finer(path, cuts)).unflatten(1, (-1, 2))

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, its gradient, and Gauss–Newton blocks of the residuals with a share of those of the frozen metric."""
        (batch, nodes, latent), points = path.shape, path.flatten(0, 1)
        size = max(2, self.num_points(points) // (2 * latent))
        parts = [self._slopes(points[start : start + size]) for start in range(0, len(points) - 1, size - 1)]
        residual, by_start, by_stop = (
            torch.cat([torch.cat(part), part[0][:1]]).unflatten(0, (batch, nodes))[:, :-1]
            for part in zip(*parts, strict=True)
        )
        return from_residuals(residual, by_start, by_stop, self.tensor(path))

    def pulled_back(self, embedding: nn.Linear) -> "Metric":
        """The metric Wᵀ G(W u + b) W of the affine subspace z = W u + b, in its coordinates u.

        Args:
            embedding: linear layer with W and b.
        """
        return SubspaceMetric(self, embedding)

    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, " edge"]:
        """Lengths ‖r‖ of single segments."""
        return self.squared_residuals(nodes[edges])[:, 0].sqrt()

    @final
    def _slopes(self, points: Float[Tensor, "point latent"]) -> tuple[Tensor, Tensor, Tensor]:
        """r_i and its derivatives by z_i and by z_{i+1}, (segment, residual, latent), of the path through points."""
        count, latent = points.shape
        # Even nodes move in one half of the copies, odd ones in the other: of each segment one end moves.
        moves = torch.arange(count, device=points.device) % 2 == torch.arange(2, device=points.device)[:, None]
        directions = moves[:, None, :, None] * torch.eye(latent, dtype=points.dtype, device=points.device)[:, None]
        copies = points.expand(2, latent, count, latent).reshape(-1, latent)
        with called(self.argument):
            residuals, slopes = Derivative(self.residuals)(copies, directions.reshape(-1, latent))
        # The segments between one copy and the next mean nothing.
        residuals, slopes = (
            torch.cat([x, x[:1]]).unflatten(0, (2, latent, count))[:, :, :-1] for x in (residuals, slopes)
        )
        first_moves = moves[:, :-1, None, None]
        slopes = slopes.permute(0, 2, 3, 1)
        by_start = torch.where(first_moves[0], slopes[0], slopes[1])
        by_stop = torch.where(first_moves[0], slopes[1], slopes[0])
        return residuals[0, 0], by_start, by_stop

    @final
    def measure(self, path: Float[Tensor, "batch node latent"]) -> Evaluation:
        """E = ½ N Σ ‖r_i‖², and ‖r_i‖: at the least energy a path has constant speed."""
        with plainly(path):
            squares = self.squared_residuals(path)
            return Evaluation((path.shape[1] - 1) / 2 * squares.sum(1), squares.sqrt())

    @final
    def __add__(self, other: "Metric") -> "Metric":
        """The metric whose tensor is the sum of the two, residuals concatenated."""
        return SumMetric(self, other)


@final
class SumMetric(Metric):
    """G = G_1 + G_2, residuals concatenated: what `metric + metric` gives.

    Args:
        first: G_1.
        second: G_2.

    Raises:
        TypeError: one of the two is not a metric.

    Example:
        >>> import torch, probgeo as pg
        >>> first, second = pg.PullbackMetric(lambda z: 3 * z), pg.PullbackMetric(lambda z: 4 * z)
        >>> total = first + second
        >>> total.tensor(torch.zeros(2))
        tensor([[25.,  0.],
                [ 0., 25.]])
        >>> pg.geodesic(total, torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).length  # √(3² + 4²)
        tensor([5.])
    """

    def __init__(self, first: Metric, second: Metric) -> None:
        for term in (first, second):
            if not isinstance(term, Metric):
                raise TypeError(f"metric + metric: expected two metrics; got {type(term).__name__}.")
        self.first = first
        self.second = second
        self.argument = first.argument if first.argument == second.argument else "metric"
        self.chordal = first.chordal and second.chordal

    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """‖r_i‖² of the first plus that of the second."""
        return self.first.squared_residuals(path) + self.second.squared_residuals(path)

    def cut_residuals(
        self, path: Float[Tensor, "batch node latent"], cuts: Float[Tensor, "batch segment latent"]
    ) -> tuple[Float[Tensor, "batch segment"], Float[Tensor, "batch segment 2"]]:
        """‖r_i‖² of the first plus that of the second, of segments and of their parts."""
        first, second = self.first.cut_residuals(path, cuts), self.second.cut_residuals(path, cuts)
        return first[0] + second[0], first[1] + second[1]

    def residuals(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, "segment residual"]:
        """Those of the first and those of the second."""
        return torch.cat([self.first.residuals(points), self.second.residuals(points)], dim=1)

    def num_points(self, points: Float[Tensor, "point latent"]) -> int:
        """The smaller chunk's size."""
        return min(self.first.num_points(points), self.second.num_points(points))

    def resolution(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, " point"]:
        """√(ρ_1² + ρ_2²)."""
        return torch.hypot(self.first.resolution(points), self.second.resolution(points))

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """The two linearisations added."""
        return _added(self.first.linearize(path), self.second.linearize(path))

    def tensor(self, z: Points) -> Float[Tensor, "*batch latent latent"]:
        """G_1(z) + G_2(z) at points (*batch, latent)."""
        z = points_of("z", z, "*batch latent")
        return self.first.tensor(z) + self.second.tensor(z)

    def pulled_back(self, embedding: nn.Linear) -> "SumMetric":
        """The sum of the two, pulled back."""
        return SumMetric(self.first.pulled_back(embedding), self.second.pulled_back(embedding))

    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, " edge"]:
        """√(w_1² + w_2²)."""
        return torch.hypot(self.first.edge_weights(nodes, edges), self.second.edge_weights(nodes, edges))


def _added(first: Linearization, second: Linearization) -> Linearization:
    def added(x: Any, y: Any) -> Any:
        return None if x is None or y is None else x + y

    total = Linearization(*map(added, first, second))
    return total._replace(durations=torch.hypot(first.durations, second.durations))


@final
class SubspaceMetric(Metric):
    """Wᵀ G(W u + b) W, in coordinates u of the affine subspace z = W u + b: what `metric.pulled_back` gives.

    Args:
        metric: G.
        embedding: linear layer with W and b, which are read here, once.
    """

    def __init__(self, metric: Metric, embedding: nn.Linear) -> None:
        self._metric, self.argument = metric, metric.argument
        self._weight, self._bias = embedding.weight.detach().clone(), embedding.bias.detach().clone()

    def residuals(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, "segment residual"]:
        """r_i of the path in the whole space."""
        return self._metric.residuals(self._embedded(points))

    def tensor(self, z: Points) -> Float[Tensor, "*batch latent latent"]:
        """Wᵀ G(W u + b) W at points (*batch, latent)."""
        z = points_of("z", z, "*batch latent")
        weight = self._weight.to(z)
        return weight.mT @ self._metric.tensor(self._embedded(z)) @ weight

    def _embedded(self, u: Tensor) -> Tensor:
        return u @ self._weight.mT.to(u) + self._bias.to(u)


def finer(
    path: Float[Tensor, "batch node latent"], cuts: Float[Tensor, "batch segment latent"]
) -> Float[Tensor, "batch finer latent"]:
    """The path through its nodes and through a point of each segment.

    Args:
        path: nodes.
        cuts: the points.
    """
    return torch.cat([torch.stack([path[:, :-1], cuts], dim=2).flatten(1, 2), path[:, -1:]], dim=1)


def from_residuals(
    residual: Float[Tensor, "batch segment residual"],
    by_start: Float[Tensor, "batch segment residual latent"],
    by_stop: Float[Tensor, "batch segment residual latent"],
    tensors: Float[Tensor, "batch node latent latent"] | None = None,
) -> Linearization:
    """Linearisation of E = ½ N Σ ‖r_i‖² from r_i and its derivatives by the segment's two nodes.

    Args:
        residual: r_i.
        by_start: ∂r_i / ∂z_i.
        by_stop: ∂r_i / ∂z_{i+1}.
        tensors: G(z_i), for a share of the frozen metric's blocks; None for Gauss–Newton's alone.
    """
    segments = residual.shape[1]
    pulled_stop = torch.einsum("birk,bir->bik", by_stop, residual)
    pulled_start = torch.einsum("birk,bir->bik", by_start, residual)
    own = by_stop[:, :-1].mT @ by_stop[:, :-1] + by_start[:, 1:].mT @ by_start[:, 1:]
    link = by_start[:, 1:-1].mT @ by_stop[:, 1:-1]
    both = torch.cat([by_start, by_stop], dim=3)
    if tensors is not None:
        between = (tensors[:, 1:] + tensors[:, :-1]) / 2
        own = torch.lerp(own, between[:, 1:] + between[:, :-1], FROZEN_SHARE)
        link = torch.lerp(link, -between[:, 1:-1], FROZEN_SHARE)
    return Linearization(
        segments / 2 * residual.square().sum((1, 2)),
        residual.norm(dim=2),
        segments * (pulled_stop[:, :-1] + pulled_start[:, 1:]),
        segments * own,
        segments * link,
        both.mT @ both,
    )
