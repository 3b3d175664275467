"""What an energy of paths is, what a metric is, and the sum of two."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


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
    def residuals(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, "segment residual"]:
        """r_i of the path through some points, differentiable."""

    @abstractmethod
    def num_points(self, points: Float[Tensor, "point latent"]) -> int:
        """Of how many such points residuals and their derivative in one direction fit the memory budget."""

    @abstractmethod
    def tensor(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent latent"]:
        """G(z)."""

    @abstractmethod
    def pulled_back(self, embedding: nn.Linear) -> "Metric":
        """The metric Wᵀ G(W u + b) W of the affine subspace z = W u + b, in its coordinates u.

        Args:
            embedding: linear layer with W and b.
        """

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

    def residuals(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, "segment residual"]:
        """Those of the first and those of the second."""
        return torch.cat([self.first.residuals(points), self.second.residuals(points)], dim=1)

    def num_points(self, points: Float[Tensor, "point latent"]) -> int:
        """The smaller chunk's size."""
        return min(self.first.num_points(points), self.second.num_points(points))

    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """The two linearisations added."""
        first, second = self.first.linearize(path), self.second.linearize(path)
        total = Linearization(*(x + y for x, y in zip(first, second, strict=True)))
        return total._replace(durations=torch.hypot(first.durations, second.durations))

    def tensor(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent latent"]:
        """G_1(z) + G_2(z)."""
        return self.first.tensor(z) + self.second.tensor(z)

    def pulled_back(self, embedding: nn.Linear) -> "SumMetric":
        """The sum of the two, pulled back."""
        return SumMetric(self.first.pulled_back(embedding), self.second.pulled_back(embedding))

    def edge_weights(self, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"]) -> Float[Tensor, "edge"]:
        """√(w_1² + w_2²)."""
        return torch.hypot(self.first.edge_weights(nodes, edges), self.second.edge_weights(nodes, edges))
