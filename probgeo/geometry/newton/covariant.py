"""What is left of a path's energy, by the second variation of the metric itself."""

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.geometry.linalg import COPIED_BYTES, block_tridiagonal_solution
from probgeo.geometry.metrics import Metric

FEWEST = 32  # segments of the paths through every so many nodes by which an excess is told where Jacobians are dear
COPIES = 6  # of the Gram matrices, in float64
RIDGE = 1e-11  # of the blocks' diagonals, in float64: so that where the metric vanishes the sum is definite


def covariant_excess(
    grams: Float[Tensor, "batch segment both both"] | None, gradient: Float[Tensor, "batch interior latent"]
) -> Float[Tensor, " batch"]:
    """½ gᵀH⁻¹g, by which E is above its least: exactly where the metric is flat; NaN where H is not definite.

    δᵀHδ = N Σ_i ‖P(A_i δ_i + B_i δ_{i+1})‖², A_i = ∂r_i/∂z_i and B_i = ∂r_i/∂z_{i+1}, is the second variation of E but
    for the sectional curvature: P projects to the tangent space, in the mean of either end's, so that the derivative of
    a tangent vector is covariant. Gauss–Newton's blocks, which are without P, take the turning of the image for
    stiffness, those of a frozen metric all that the metric changes along the path, and by either a path from which E
    falls on and on may look solved.

    Args:
        grams: of [A_i, B_i] of each segment; None of an energy that is no metric's, of which nothing is told: 0.
        gradient: g.

    References:
        do Carmo, Riemannian Geometry (1992), section 9.2.
    """
    if grams is None:
        return torch.zeros_like(gradient[:, 0, 0])
    each = 8 * COPIES * grams[0].numel() if len(grams) else 1
    together = max(1, COPIED_BYTES // each)
    parts = zip(grams.split(together), gradient.split(together), strict=True)
    return torch.cat([_excess(len(some[0]) * some.double(), g.double()) for some, g in parts]).to(gradient.dtype)


def _excess(
    grams: Float[Tensor, "batch segment both both"], gradient: Float[Tensor, "batch interior latent"]
) -> Float[Tensor, " batch"]:
    """The same of N times the Gram matrices."""
    latent = gradient.shape[2]
    # What is normal to the columns of one end is left of the other's once these are eliminated.
    at_stop = grams[..., latent:, latent:] - eliminated(grams) / 2
    at_start = grams[..., :latent, :latent] - eliminated(grams.roll((latent, latent), (2, 3))) / 2
    diagonal = at_stop[:, :-1] + at_start[:, 1:]
    diagonal = diagonal + RIDGE * definite_scale(diagonal).diag_embed()
    step = block_tridiagonal_solution(diagonal, grams[:, 1:-1, :latent, latent:], gradient)
    return (step * gradient).sum((1, 2)) / 2


def excess_by_few(
    metric: Metric, path: Float[Tensor, "batch node latent"], gradient: Float[Tensor, "batch interior latent"]
) -> Float[Tensor, " batch"]:
    """The same of moves that are linear between every so many nodes, by the residuals between those alone.

    Args:
        metric: of which residuals are.
        path: nodes.
        gradient: g.
    """
    step = stride(path.shape[1] - 1)
    hat = 1 - torch.arange(1 - step, step).abs().to(gradient) / step
    return covariant_excess(metric.linearize(path[:, ::step]).grams, gradient.unfold(1, 2 * step - 1, step) @ hat)


def stride(segments: int) -> int:
    """Every how many nodes: the paths through them have at least `FEWEST` segments, where the whole ones have."""
    return next(step for step in range(max(1, segments // FEWEST), 0, -1) if segments % step == 0)


def eliminated(grams: Float[Tensor, "*batch both both"]) -> Float[Tensor, "*batch latent latent"]:
    """D − CᵀA⁻¹C of positive semi-definite [[A, C], [Cᵀ, D]], column by column."""
    latent = grams.shape[-1] // 2
    least = RIDGE * grams.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(torch.finfo(grams.dtype).tiny)
    left = grams
    for _ in range(latent):
        column = left[..., 1:, :1]
        left = left[..., 1:, 1:] - column * column.mT / torch.maximum(left[..., 0, 0], least)[..., None, None]
    return left


def definite_scale(diagonal: Float[Tensor, "batch interior latent latent"]) -> Float[Tensor, "batch interior latent"]:
    """The diagonals of blocks; where the metric vanishes a share of the largest entry of the path."""
    scale = diagonal.diagonal(dim1=-2, dim2=-1)
    return torch.maximum(scale, 1e-3 * scale.amax((1, 2), keepdim=True)).clamp_min(torch.finfo(scale.dtype).tiny)
