"""Newton systems where a Jacobian's columns are too many for matrices: products with it, in conjugate gradients."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probgeo.geometry.immersions import Derivative, called, pulled_back
from probgeo.geometry.metrics import Metric
from probgeo.geometry.metrics.metric import FROZEN_SHARE

NUM_TENSORS = 9
MAX_ITERATIONS = 10
ACCURACY = 0.1


class Products(NamedTuple):
    """What a matrix-free model needs around each path."""

    energy: Float[Tensor, " batch"]
    durations: Float[Tensor, "batch segment"]
    gradient: Float[Tensor, "batch interior latent"]
    path: Float[Tensor, "batch node latent"]
    tensors: Float[Tensor, "batch sample latent latent"]  #: G at a few nodes


@final
@dataclass(frozen=True)
class MatrixFree:
    """(H + λP) δ = −g by conjugate gradients with the preconditioner P = N T ⊗ Ḡ, T = tridiag(−1, 2, −1).

    Ḡ is the mean of the metric's tensor at a few nodes of the path. H is, as in `metrics`, of two parts: products with
    the residuals' Jacobians, and the latent path's own second differences in the metric, interpolated from these nodes.

    Args:
        metric: a metric.

    Raises:
        TypeError: an energy that is no metric.

    Example:
        >>> import torch, probgeo as pg
        >>> plane = pg.PullbackMetric(lambda z: 2 * z)
        >>> solver = pg.GaussNewton(num_segments=16, system=pg.MatrixFree)
        >>> start, stop = torch.zeros(1, 100), torch.ones(1, 100)
        >>> pg.geodesic(plane, start, stop, solver=solver).length  # 2 · √100
        tensor([20.])
    """

    metric: Any  # a Metric, which is checked here: systems are chosen by their class
    derivative: Derivative = field(init=False, repr=False, compare=False)  # of its residuals
    tried: list[bool] = field(init=False, repr=False, compare=False, default_factory=list)  # once reverse mode was
    # P is as H is in all modes, so that a step is about 1/(1 + λ) of the whole one, and promises no less than that.
    trusted_damping: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        if not isinstance(self.metric, Metric):
            raise TypeError(
                f"system: MatrixFree needs a metric's residuals; {type(self.metric).__name__} has none. "
                "Use BlockTridiagonal, or None."
            )
        object.__setattr__(self, "derivative", Derivative(self.metric.residuals))

    def linearized(self, path: Float[Tensor, "batch node latent"]) -> Products:
        """E and g, by one forward and one backward pass at every node, and G at a few nodes."""
        batch, nodes, _ = path.shape
        points, real = path.flatten(0, 1), _within_paths(path)
        squares, pulled = path.new_zeros(len(points)), torch.zeros_like(points)
        for part in self._parts(points):
            with called(self.metric.argument):
                residuals, pull = pulled_back(self.metric.residuals, points[part])
                residuals = torch.where(real[part][:-1, None], residuals, 0)
                if not self.tried and bool(residuals.isfinite().all()):
                    self._try_reverse(points[part], residuals, pull)
            squares[part][:-1] = residuals.square().sum(1)
            pulled[part] += pull(residuals)
        lengths = squares.view(batch, nodes)[:, :-1]
        samples = torch.linspace(0, nodes - 1, min(NUM_TENSORS, nodes), device=path.device).round().long()
        return Products(
            (nodes - 1) / 2 * lengths.sum(1),
            lengths.sqrt(),
            (nodes - 1) * pulled.view_as(path)[:, 1:-1],
            path,
            self.metric.tensor(path[:, samples]),
        )

    def linearized_cut(
        self, path: Float[Tensor, "batch node latent"], cuts: Float[Tensor, "batch segment latent"]
    ) -> tuple[Products, Float[Tensor, " batch"]]:
        """The same, and NaN: values at the cuts are cheap enough to be taken at the end, once."""
        return self.linearized(path), path.new_full((len(path),), torch.nan)

    def step(self, model: Products, damping: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """δ, and −g·δ − ½ δᵀHδ; few iterations, as the preconditioner is close."""
        segments = model.path.shape[1] - 1
        still = (model.gradient == 0).flatten(1).all(1)
        if still.any():  # as where nothing has gradients: then products with any other vector tell
            self._gauss_newton_product(model.path[still], model.path[still].flip(1))
        mean = model.tensors.double().mean(1)
        ridge = 1e-3 * mean.diagonal(dim1=1, dim2=2).amax(1).clamp_min(torch.finfo(mean.dtype).tiny)
        mean = mean + ridge[:, None, None] * torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        root = torch.linalg.cholesky_ex(mean)[0]
        inverse = _inverse_second_difference(segments, mean) / segments
        between = _between(model.tensors, segments)

        def preconditioned(vector: Tensor) -> Tensor:
            """P⁻¹ v."""
            smoothed = torch.einsum("ij,bjk->bki", inverse, vector.double())
            return torch.cholesky_solve(smoothed, root).mT.to(vector.dtype)

        def product(vector: Tensor) -> tuple[Tensor, Tensor]:
            """H v, and (H + λP) v."""
            padded = torch.nn.functional.pad(vector, (0, 0, 1, 1))
            slope = padded.diff(dim=1)
            frozen = -segments * torch.einsum("bikl,bil->bik", between, slope).diff(dim=1)
            curved = torch.lerp(self._gauss_newton_product(model.path, padded), frozen, FROZEN_SHARE)
            level = -segments * torch.einsum("bkl,bil->bik", mean.to(vector.dtype), slope).diff(dim=1)
            return curved, curved + damping[:, None, None] * level

        step, curved = torch.zeros_like(model.gradient), torch.zeros_like(model.gradient)
        residual = -model.gradient
        whitened = preconditioned(residual)
        direction, power = whitened, (residual * whitened).sum((1, 2))
        first = power
        for _ in range(MAX_ITERATIONS):
            along, damped = product(direction)
            share = power / (direction * damped).sum((1, 2))
            # A pair that is finished, or whose gradient vanishes, stays where it is.
            share = torch.where(power > ACCURACY**2 * first, share, 0)[:, None, None]
            step, curved, residual = step + share * direction, curved + share * along, residual - share * damped
            whitened = preconditioned(residual)
            before, power = power, (residual * whitened).sum((1, 2))
            if not (power > ACCURACY**2 * first).any():
                break
            direction = whitened + (power / before)[:, None, None] * direction
        return step, -(step * (model.gradient + curved / 2)).sum((1, 2))

    def num_floats(self, num_segments: int, latent: int) -> int:
        """The vectors of conjugate gradients, two of them in double precision, and the tensors: of the segments, and
        seven times those of the samples, of two models, what is kept of either, and in double precision."""
        return 20 * (num_segments + 1) * latent + (num_segments + 7 * NUM_TENSORS) * latent**2

    def _gauss_newton_product(self, path: Tensor, vector: Tensor) -> Float[Tensor, "batch interior latent"]:
        """N Jᵀ(J v), J the Jacobian of all residuals of a path.

        Raises:
            ValueError: Jᵀ, by reverse mode, is not the transpose of J, by forward mode: ⟨v, Jᵀ(J v)⟩ is not ‖J v‖².
        """
        points, directions, real = path.flatten(0, 1), vector.flatten(0, 1), _within_paths(path)
        pulled, squares = torch.zeros_like(points), path.new_zeros(len(points))
        for part in self._parts(points):
            with called(self.metric.argument):
                pull = pulled_back(self.metric.residuals, points[part])[1]
                pushed = self.derivative(points[part], directions[part])[1]
            pushed = torch.where(real[part][:-1, None], pushed, 0)
            squares[part][:-1] = pushed.square().sum(1)
            pulled[part] += pull(pushed)
        with called(self.metric.argument):
            _check_transposed(squares.view(path.shape[:2]).sum(1), vector, pulled.view_as(path))
        return (path.shape[1] - 1) * pulled.view_as(path)[:, 1:-1]

    def _try_reverse(
        self,
        points: Float[Tensor, "point latent"],
        residuals: Float[Tensor, "segment residual"],
        pull: Callable[[Tensor], Tensor],
    ) -> None:
        """Refuses metrics whose change from place to place is lost in reverse mode: ⟨u, J v⟩ is to be ⟨Jᵀu, v⟩.

        When all nodes move alike, v, chords change by nothing else; u are the residuals, with weights that fall.
        """
        v = torch.randn(points.shape[1], generator=torch.Generator().manual_seed(0)).to(points).expand_as(points)
        u = residuals * torch.linspace(1, 0, len(residuals)).to(residuals)[:, None]
        pushed = (u * self.derivative(points, v.contiguous())[1]).sum()
        _check_transposed(pushed[None], v[None], pull(u)[None])
        self.tried.append(True)

    def _parts(self, points: Float[Tensor, "point latent"]) -> list[slice]:
        """Slices of all paths' nodes, as one sequence, that overlap by one node."""
        size = self.metric.num_points(points)
        return [slice(start, start + size) for start in range(0, len(points) - 1, size - 1)]


def _check_transposed(
    product: Float[Tensor, " batch"],
    vector: Float[Tensor, "batch node latent"],
    pulled: Float[Tensor, "batch node latent"],
) -> None:
    """Raise ValueError where ⟨v, Jᵀu⟩ is not ⟨J v, u⟩, by more than rounding; u may be J v."""
    rounding = 1e3 * torch.finfo(product.dtype).eps * (vector.square().sum((1, 2)) * pulled.square().sum((1, 2))).sqrt()
    wrong = (product - (vector * pulled).sum((1, 2))).abs() > 0.01 * product.abs() + rounding
    if wrong.any():
        raise ValueError(
            "decoder: its derivative in reverse mode does not belong to its values, as Jᵀ is not the transpose of J. "
            "It has something computed without gradients (no_grad, detach, a backward of its own); use differentiable "
            "operations throughout, or GaussNewton(system=BlockTridiagonal), which needs forward mode alone."
        )


def _within_paths(path: Float[Tensor, "batch node latent"]) -> Bool[Tensor, " point"]:
    """Whether the segment that begins at each node of the sequence of all paths belongs to one path."""
    nodes = path.shape[1]
    return torch.arange(path.shape[0] * nodes, device=path.device) % nodes != nodes - 1


def _inverse_second_difference(segments: int, like: Tensor) -> Float[Tensor, "interior interior"]:
    """T⁻¹ of the tridiagonal T = tridiag(−1, 2, −1): min(i, j) (N − max(i, j)) / N."""
    index = torch.arange(1, segments, dtype=like.dtype, device=like.device)
    low, high = torch.minimum(index[:, None], index), torch.maximum(index[:, None], index)
    return low * (segments - high) / segments


def _between(tensors: Float[Tensor, "batch sample latent latent"], segments: int) -> Tensor:
    """Tensors at the middles of the segments, linear between the samples."""
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
