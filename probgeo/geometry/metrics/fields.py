"""Metrics given as a field over the latent space: any tensor, or an inverse density."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.geometry.immersions import called, is_wrapped, snapshot
from probgeo.geometry.jacobians import Maps
from probgeo.geometry.metrics.chunks import chunk_size, point_chunks
from probgeo.geometry.metrics.metric import Linearization, Metric, from_residuals
from probgeo.geometry.points import Points, points_of


class _Flattened:
    """A tensor field as a map z (point, latent) -> (point, latent²), once it is known to be one and symmetric."""

    def __init__(self, tensor: Callable[[Tensor], Tensor]) -> None:
        self._tensor = tensor
        self._seen: list[torch.Size] = []

    def __call__(self, z: Float[Tensor, "point latent"]) -> Float[Tensor, "point entry"]:
        found = self._tensor(z)
        if not isinstance(found, Tensor) or found.shape != (*z.shape, z.shape[-1]):
            raise ValueError(f"tensor: expected a matrix of each point, {(*z.shape, z.shape[-1])}; got {_kind(found)}.")
        if not self._seen and len(z) > 1 and not is_wrapped(z):
            apart = (found - found.mT).abs().amax((1, 2)) > 1e-3 * found.abs().amax((1, 2))
            if bool(apart.any()):
                raise ValueError(
                    f"tensor: expected symmetric matrices; got {found[apart][0].tolist()} at {z[apart][0].tolist()}. "
                    "Use (G + G.mT) / 2 if that is meant."
                )
            self._seen.append(found.shape)
        return found.flatten(-2)


def _kind(found: Any) -> str:
    return str(tuple(found.shape)) if isinstance(found, Tensor) else type(found).__name__


class FieldMetric(Metric):
    """Any metric tensor field G, with residuals r_i = Lᵀ(z_{i+1} − z_i), LLᵀ = G((z_i + z_{i+1})/2).

    Args:
        tensor: differentiable callable (*batch, latent) -> (*batch, latent, latent), symmetric positive definite.
        memory: bytes that one chunk of tensors and derivatives may take; None for what suits the device's caches.
    """

    argument = "tensor"

    @abstractmethod
    def __init__(self, tensor: Callable[[Tensor], Tensor], memory: int | None) -> None:
        self._tensor = tensor
        self._maps = Maps([_Flattened(tensor)])
        self._memory = memory

    @final
    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """Δᵀ G(midpoint) Δ."""
        step, middle = path.diff(dim=1), (path[:, 1:] + path[:, :-1]) / 2
        return torch.einsum("bik,bikl,bil->bi", step, self.tensor(middle), step)

    @final
    def tensor(self, z: Points) -> Float[Tensor, "*batch latent latent"]:
        """G(z) at points (*batch, latent)."""
        z = points_of("z", z, "*batch latent")
        points = z.flatten(0, -2) if z.ndim > 1 else z[None]
        with called(self.argument):
            tensors = torch.cat([self._tensor(chunk) for chunk in point_chunks(self._maps, points, self._memory, 1)])
        return tensors.reshape(*z.shape, z.shape[-1])

    @final
    def residuals(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, "segment residual"]:
        """Lᵀ(z_{i+1} − z_i)."""
        with called(self.argument):
            tensors = self._maps.values((points[1:] + points[:-1]) / 2)[:, 0].unflatten(1, (points.shape[1],) * 2)
        root = self._root(tensors)
        return torch.einsum("ikr,ik->ir", root, points.diff(dim=0))

    @final
    def num_points(self, points: Float[Tensor, "point latent"]) -> int:
        """A chunk's size."""
        with called(self.argument):
            return chunk_size(self._maps, points, self._memory, 4)

    @final
    def linearize(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, gradient, and Gauss–Newton blocks with the derivative of L."""
        latent = path.shape[2]
        step, middle = path.diff(dim=1), ((path[:, 1:] + path[:, :-1]) / 2).flatten(0, 1)
        with called(self.argument):
            chunks = point_chunks(self._maps, middle, self._memory, 1 + latent)
            jets = torch.cat([self._maps.jets(chunk) for chunk in chunks])
        jets = jets.view(*step.shape[:2], 1 + latent, latent, latent)
        root = self._root(jets[:, :, 0])
        # ∂L = L Φ(L⁻¹ ∂G L⁻ᵀ), Φ the lower triangle with half its diagonal.
        half = torch.linalg.solve_triangular(root[:, :, None], jets[:, :, 1:], upper=False)
        whitened = torch.linalg.solve_triangular(root[:, :, None], half.mT, upper=False)
        lower = whitened.tril() - whitened.diagonal(dim1=-2, dim2=-1).diag_embed() / 2
        turned = torch.einsum("...kpq,...p->...qk", root[:, :, None] @ lower, step)
        residual = (root.mT @ step[..., None])[..., 0]
        return from_residuals(residual, turned / 2 - root.mT, turned / 2 + root.mT)

    @final
    def pulled_back(self, embedding: nn.Linear) -> "TensorMetric":
        """Wᵀ G(W u + b) W."""
        weight, bias, tensor = embedding.weight.detach().clone(), embedding.bias.detach().clone(), self._tensor

        def pulled(u: Tensor) -> Tensor:
            return weight.mT.to(u) @ tensor(u @ weight.mT.to(u) + bias.to(u)) @ weight.to(u)

        return TensorMetric(pulled, memory=self._memory)

    @staticmethod
    def _root(tensors: Float[Tensor, "*batch latent latent"]) -> Float[Tensor, "*batch latent latent"]:
        """L; NaN where G is not positive definite."""
        root, failed = torch.linalg.cholesky_ex(tensors)
        return torch.where((failed != 0)[..., None, None], torch.nan, root)


@final
class TensorMetric(FieldMetric):
    """Any metric tensor field G, with residuals r_i = Lᵀ(z_{i+1} − z_i), LLᵀ = G((z_i + z_{i+1})/2).

    Args:
        tensor: differentiable callable (*batch, latent) -> (*batch, latent, latent), symmetric positive definite. The
            weights of a module are read here, once; a function is called as it is.
        memory: bytes that one chunk of tensors and derivatives may take; by default what suits the device's caches.

    Raises:
        TypeError: `tensor` is not callable, or a module that cannot be copied.

    Example:
        >>> import torch, probgeo as pg
        >>> def half_plane(z):  # G = I / y²
        ...     return torch.eye(2, dtype=z.dtype) / z[..., 1:, None] ** 2
        >>> metric = pg.TensorMetric(half_plane)
        >>> start, stop = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, torch.e]])
        >>> round(pg.geodesic(metric, start, stop).length.item(), 3)  # straight up: log(e / 1)
        1.0
    """

    def __init__(self, tensor: Callable[[Tensor], Tensor], *, memory: int | None = None) -> None:
        if not callable(tensor):
            raise TypeError(
                f"tensor: expected a callable (*batch, latent) -> (*batch, latent, latent); got {tensor!r}."
            )
        super().__init__(snapshot(tensor), memory)


@final
class ConformalMetric(FieldMetric):
    """G = I / (density(z) + floor): short where the data are dense.

    Args:
        density: differentiable callable (*batch, latent) -> (*batch), not negative. Read as by `TensorMetric`.
        floor: added to the density, positive: 1/√floor is the speed factor far from the data.
        memory: bytes that one chunk of tensors and derivatives may take; by default what suits the device's caches.

    Raises:
        TypeError: `density` is not callable.
        ValueError: `floor` is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> density = lambda z: 4 * (z[..., 0].abs() < 10)  # 4 in a wide strip, 0 outside
        >>> metric = pg.ConformalMetric(density, floor=0.01)
        >>> inside, outside = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[20.0, 0.0], [20.0, 1.0]])
        >>> pg.geodesic(metric, inside[:1], inside[1:]).length  # 1 / √4.01
        tensor([0.4994])
        >>> pg.geodesic(metric, outside[:1], outside[1:]).length  # 1 / √0.01
        tensor([10.])

    References:
        Arvanitidis, Hansen and Hauberg, A locally adaptive normal distribution (2016), section 3.
    """

    argument = "density"

    def __init__(self, density: Callable[[Tensor], Tensor], floor: float, *, memory: int | None = None) -> None:
        if not callable(density):
            raise TypeError(f"density: expected a callable (*batch, latent) -> (*batch); got {density!r}.")
        if not floor > 0:
            raise ValueError(f"floor: expected a positive number; got {floor}.")

        density = snapshot(density)

        def tensor(z: Tensor) -> Tensor:
            found = density(z)
            if not isinstance(found, Tensor) or found.shape != z.shape[:-1]:
                raise ValueError(
                    f"density: expected one number of each point, {tuple(z.shape[:-1])}; got {_kind(found)}."
                )
            identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
            return identity / (found + floor)[..., None, None]

        super().__init__(tensor, memory)
