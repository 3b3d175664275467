"""Gaussian curvature of a two-dimensional latent space, from the metric tensor's first and second derivatives."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

from probgeo.geometry.calculus.arguments import check_metric
from probgeo.geometry.immersions import Elementary
from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points, latent_points


def sectional_curvature(metric: Metric, z: Points) -> Tensor:
    """K(z) = (det A − det B) / (det G)² with Brioschi's matrices A and B: in two dimensions, the Gaussian curvature.

    Needs a smooth metric: of a piecewise linear decoder the derivatives are those of its pieces, which are flat, and K
    is 0 although the whole may be curved.

    Args:
        metric: a metric of a latent space of two dimensions, twice differentiable by torch.
        z: latent points, (batch, 2).

    Returns:
        K, (batch), per squared unit of length; NaN where the metric is singular or not finite.

    Raises:
        TypeError: `metric` is no metric, or `z` no floating-point tensor or array.
        ValueError: `z` is not (batch, 2).

    Example:
        >>> import torch, probgeo as pg
        >>> paraboloid = pg.PullbackMetric(lambda z: torch.cat([z, z.square().sum(-1, keepdim=True)], dim=-1))
        >>> pg.calculus.sectional_curvature(paraboloid, torch.tensor([[0.0, 0.0], [0.5, 0.0]]))  # 4 / (1 + 4‖z‖²)²
        tensor([4., 1.])

    References:
        Gray, Abbena and Salamon, Modern differential geometry of curves and surfaces, 3rd edition (2006).
    """
    check_metric(metric)
    z = latent_points("z", z, "batch latent")
    if z.shape[1] != 2:
        raise ValueError(
            f"z: expected points of a latent space of two dimensions, (batch, 2); got {tuple(z.shape)}. In other "
            "dimensions curvature depends on a plane as well, and is not offered."
        )
    tensors = metric.tensor(z).detach()
    first, second = _derivatives(metric, z)
    e, f, g = tensors[:, 0, 0], tensors[:, 0, 1], tensors[:, 1, 1]
    e_u, f_u, g_u = first[:, 0, 0, 0], first[:, 0, 1, 0], first[:, 1, 1, 0]
    e_v, f_v, g_v = first[:, 0, 0, 1], first[:, 0, 1, 1], first[:, 1, 1, 1]
    bend = second[:, 0, 1, 0, 1] - (second[:, 0, 0, 1, 1] + second[:, 1, 1, 0, 0]) / 2
    a = _matrix([[bend, e_u / 2, f_u - e_v / 2], [f_v - g_u / 2, e, f], [g_v / 2, f, g]])
    b = _matrix([[0 * e, e_v / 2, g_u / 2], [e_v / 2, e, f], [g_u / 2, f, g]])
    return (torch.linalg.det(a) - torch.linalg.det(b)) / (e * g - f**2).square()


def _derivatives(metric: Metric, z: Float[Tensor, "batch 2"]) -> tuple[Tensor, Tensor]:
    """∂_k G and ∂_k ∂_l G at each point, the derivatives' axes last."""

    def tensor(shift: Tensor) -> Tensor:  # of all points at once, which are differentiated along the same directions
        with Elementary():
            return metric.tensor(z + shift)

    origin = z.new_zeros(2)
    try:
        first, second = jacfwd(tensor)(origin), jacfwd(jacfwd(tensor))(origin)
    except NotImplementedError:  # torch gives some activations no forward derivative beyond the first
        first, second = vmap(jacrev(metric.tensor))(z), vmap(jacfwd(jacrev(metric.tensor)))(z)
    _check_derivative(tensor, origin, first.detach())
    return first.detach(), second.detach()


def _check_derivative(tensor: Callable[[Tensor], Tensor], origin: Float[Tensor, "2"], first: Tensor) -> None:
    """Refuse a metric whose derivative is not that of its values, by far: torch has some second derivatives wrong."""
    step = 2 * torch.finfo(origin.dtype).eps ** 0.25
    for axis in range(2):
        shift = step * torch.eye(2).to(origin)[axis]
        whole, half = ((tensor(part * shift) - tensor(-part * shift)).detach() / (2 * part) for part in (1.0, 0.5))
        found = first[..., axis] * step
        wrong = torch.linalg.matrix_norm(found - half)
        # Of kinks, and where the quotient itself has not settled, nothing is said.
        unsettled = 8 * torch.linalg.matrix_norm(whole - half)
        noise = torch.finfo(origin.dtype).eps ** 0.5 * torch.linalg.matrix_norm(tensor(origin).detach())
        if (wrong > torch.maximum(unsettled + noise, torch.linalg.matrix_norm(half) / 10)).sum() * 2 > len(wrong):
            raise ValueError(
                "metric: the derivative of its tensor, which curvature is made of, is not that of its values. Torch "
                "has the second derivative of some operations wrong in forward mode (linalg.solve, linalg.det, "
                "scripted normalisations): use elementary ones."
            )


def _matrix(rows: list[list[Tensor]]) -> Float[Tensor, "batch 3 3"]:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
