"""Newton systems that are block-tridiagonal matrices."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.geometry.linalg import block_tridiagonal_product, block_tridiagonal_solution
from probgeo.geometry.metrics import Energy, Linearization
from probgeo.geometry.newton.covariant import covariant_excess, definite_scale


@final
@dataclass(frozen=True)
class BlockTridiagonal:
    """(H + λ diag H) δ = −g with the Gauss–Newton blocks of `Energy.linearize`.

    Args:
        energy: a metric or another energy.

    Example:
        >>> import torch, probgeo as pg
        >>> plane = pg.PullbackMetric(lambda z: 2 * z)
        >>> solver = pg.GaussNewton(num_segments=16, system=pg.BlockTridiagonal)
        >>> pg.geodesic(plane, torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), solver=solver).length
        tensor([10.])
    """

    energy: Energy
    # Up to which damping a small promise means convergence: diag H is far larger than H in the slow modes.
    trusted_damping: ClassVar[float] = 1e-2
    most_damping: ClassVar[float] = 1e3  # beyond which no step is looked for
    exact: ClassVar[None] = None

    def linearized(self, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """E, g and the blocks of H."""
        return self.energy.linearize(path)

    def updated(self, model: Linearization, path: Float[Tensor, "batch node latent"]) -> Linearization:
        """The first, of paths near those of a model, of which nothing is kept."""
        return self.linearized(path)

    def step(self, model: Linearization, damping: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """δ, and −g·δ − ½ δᵀHδ."""
        return damped_step(model.diagonal, model.off_diagonal, model.gradient, damping)

    def excess(self, model: Linearization, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, " batch"]:
        """What E is above its least, by the covariant blocks; 0 where an energy has none."""
        return covariant_excess(model.grams, model.gradient)

    def num_floats(self, num_segments: int, latent: int) -> int:
        """The matrix's blocks, their update and the copies of both, some 25 for each node; paths, steps, secants."""
        return (num_segments + 1) * (25 * latent**2 + 20 * latent)


def damped_step(
    diagonal: Float[Tensor, "batch interior latent latent"],
    off_diagonal: Float[Tensor, "batch link latent latent"],
    gradient: Float[Tensor, "batch interior latent"],
    damping: Float[Tensor, " batch"],
) -> tuple[Tensor, Tensor]:
    """δ of (H + λ diag H) δ = −g, and −g·δ − ½ δᵀHδ.

    Args:
        diagonal: H's blocks of single nodes.
        off_diagonal: H's blocks of a node and the next one.
        gradient: g.
        damping: λ of each path.
    """
    scale = definite_scale(diagonal)
    ridge = damping[:, None, None] + torch.finfo(scale.dtype).eps
    step = block_tridiagonal_solution(diagonal + (ridge * scale).diag_embed(), off_diagonal, -gradient)
    product = block_tridiagonal_product(diagonal, off_diagonal, step)
    return step, -(step * (gradient + product / 2)).sum((1, 2))
