"""Newton systems where a Jacobian's columns are too many for matrices: products with it, in conjugate gradients."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.geometry.immersions import called, pulled_back
from probgeo.geometry.metrics.metric import FROZEN_SHARE
from probgeo.geometry.newton.interpolated import between_samples, evenly_spaced
from probgeo.geometry.newton.reverse import Reverse, check_transposed, within_paths

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

    metric: Any
    variation: Reverse = field(init=False, repr=False, compare=False)
    # P is as H is in all modes, so that a step is about 1/(1 + λ) of the whole one, and promises no less than that.
    trusted_damping: ClassVar[float] = 10.0
    most_damping: ClassVar[float] = 1e3
    exact: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "variation", Reverse(self.metric, "MatrixFree"))

    def linearized(self, path: Float[Tensor, "batch node latent"]) -> Products:
        """E and g, by one forward and one backward pass at every node, and G at a few nodes."""
        return Products(*self.variation(path), path, self.metric.tensor(evenly_spaced(path, NUM_TENSORS)))

    def updated(self, model: Products, path: Float[Tensor, "batch node latent"]) -> Products:
        """The same, of paths near those of a model, of which nothing is kept."""
        return self.linearized(path)

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
        between = between_samples(model.tensors, segments)

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

    def excess(self, model: Products, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, " batch"]:
        """0: covariant blocks are not known, as they take all columns of Jacobians."""
        return torch.zeros_like(model.energy)

    def num_floats(self, num_segments: int, latent: int) -> int:
        """The vectors of conjugate gradients, two of them in double precision, and the tensors: of the segments, and
        seven times those of the samples, of two models, what is kept of either, and in double precision."""
        return 20 * (num_segments + 1) * latent + (num_segments + 7 * NUM_TENSORS) * latent**2

    def _gauss_newton_product(self, path: Tensor, vector: Tensor) -> Float[Tensor, "batch interior latent"]:
        """N Jᵀ(J v), J the Jacobian of all residuals of a path.

        Raises:
            ValueError: Jᵀ, by reverse mode, is not the transpose of J, by forward mode: ⟨v, Jᵀ(J v)⟩ is not ‖J v‖².
        """
        points, directions, real = path.flatten(0, 1), vector.flatten(0, 1), within_paths(path)
        pulled, squares = torch.zeros_like(points), path.new_zeros(len(points))
        for part in self.variation.parts(points):
            with called(self.metric.argument):
                pull = pulled_back(self.metric.residuals, points[part])[1]
                pushed = self.variation.derivative(points[part], directions[part])[1]
            pushed = torch.where(real[part][:-1, None], pushed, 0)
            squares[part][:-1] = pushed.square().sum(1)
            pulled[part] += pull(pushed)
        with called(self.metric.argument):
            check_transposed(squares.view(path.shape[:2]).sum(1), vector, pulled.view_as(path))
        return (path.shape[1] - 1) * pulled.view_as(path)[:, 1:-1]


def _inverse_second_difference(segments: int, like: Tensor) -> Float[Tensor, "interior interior"]:
    """T⁻¹ of the tridiagonal T = tridiag(−1, 2, −1): min(i, j) (N − max(i, j)) / N."""
    index = torch.arange(1, segments, dtype=like.dtype, device=like.device)
    low, high = torch.minimum(index[:, None], index), torch.maximum(index[:, None], index)
    return low * (segments - high) / segments
