"""Generalised linear regression with a Gaussian prior, given the features: mode and curvature of the posterior."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_ROWS_AT_ONCE = 2**24  # numbers of a batch of weighted designs


class Block(NamedTuple):
    """Some rows of a regression."""

    design: Float[Tensor, "row feature"]  #: Ψ = φ(z) · s, features times the prior's standard deviations
    x: Float[Tensor, "row output"]  #: observations
    distribution: Callable[[Tensor], Any]  #: columnwise distribution of x given the outputs Ψ Vᵀ

    def log_likelihood(self, v: Float[Tensor, "output feature"]) -> Float[Tensor, " output"]:
        """log p(x_d | v_d) of each output."""
        return self.distribution(self.design @ v.T).log_prob(self.x).sum(0)

    def derivatives(self, v: Float[Tensor, "output feature"]) -> tuple[Tensor, Tensor]:
        """First derivative, and negative second, of every log p(x_nd | output_nd) with respect to its output."""
        with torch.enable_grad():
            output = (self.design @ v.T).requires_grad_()
            log_likelihood = self.distribution(output).log_prob(self.x).sum()
            (first,) = torch.autograd.grad(log_likelihood, output, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), output)
        return first.detach(), -second

    def gram(self, curvature: Float[Tensor, "row block"]) -> Float[Tensor, "block feature feature"]:
        """Ψᵀ diag(c_b) Ψ, one for each column c_b of the curvatures."""
        roots = curvature.clamp(min=0).sqrt().T  # above zero where the likelihood is log-concave
        blocks = []
        for some in roots.split(max(1, _ROWS_AT_ONCE // self.design.numel())):
            weighted = some[..., None] * self.design
            blocks.append(weighted.mT @ weighted)
        return torch.cat(blocks)


@dataclass(frozen=True)
class Anew:
    """Blocks that are made anew at every pass over them, so that no more than one is in memory."""

    made: Callable[[], Iterator[Block]]

    def __iter__(self) -> Iterator[Block]:
        return self.made()


@dataclass(frozen=True)
class Regression:
    """x ~ distribution(Ψ Vᵀ) with rows of V ~ N(0, I): the last layer given the codes, in double precision.

    Args:
        blocks: rows of Ψ and x, V = W / s: a tuple of one block, or `Anew`.
    """

    blocks: tuple[Block] | Anew

    def log_likelihood(self, v: Float[Tensor, "output feature"]) -> Float[Tensor, " output"]:
        """log p(x_d | v_d) of each output; where rows are read block by block, it has no second derivative."""
        if isinstance(self.blocks, tuple):
            return self.blocks[0].log_likelihood(v)
        value, slope = v.new_zeros(len(v)), torch.zeros_like(v)
        for block in self.blocks:  # the graph of all blocks at once would hold them all
            own = v.detach().requires_grad_(v.requires_grad)
            with torch.set_grad_enabled(v.requires_grad):
                part = block.log_likelihood(own)
            if v.requires_grad:
                slope += torch.autograd.grad(part.sum(), own)[0]
            value += part.detach()
        return value + (slope * (v - v.detach())).sum(1)

    def log_joint(self, v: Float[Tensor, "output feature"]) -> Float[Tensor, " output"]:
        """log p(x_d, v_d) of each output, up to a constant."""
        return self.log_likelihood(v) - v.square().sum(1) / 2

    def mode(self, v: Float[Tensor, "output feature"], num_blocks: int) -> tuple[Tensor, Tensor]:
        """argmax of the log joint by Newton's method from v, and Cholesky factors of the negative Hessian there.

        Args:
            v: where to start.
            num_blocks: 1 if the curvature is the same for all outputs, otherwise the number of outputs.
        """
        for _ in range(100):
            gradient, roots = self._derivatives(v, num_blocks)
            step = solved(roots, gradient)
            gap = (gradient * step).sum() / 2  # in nats, over all outputs
            if gap < 1e-8:
                return v, roots
            value, length = self.log_joint(v), torch.ones_like(v[:, :1])
            for _ in range(20):
                worse = self.log_joint(v + length * step) < value
                length = torch.where(worse[:, None], length / 2, length)
            v = v + length * step
        warnings.warn(f"posterior: Newton's method is still {gap:.1g} nats from the mode.", stacklevel=2)
        return v, roots

    def _derivatives(self, v: Float[Tensor, "output feature"], num_blocks: int) -> tuple[Tensor, Tensor]:
        """Gradient of the log joint, and Cholesky factors of its negative Hessian."""
        gradient: Any = 0
        grams: Any = 0
        for block in self.blocks:
            slope, curvature = block.derivatives(v)
            gradient, grams = gradient + slope.T @ block.design, grams + block.gram(curvature[:, :num_blocks])
        return gradient - v, precision_roots(grams)


def precision_roots(grams: Float[Tensor, "block feature feature"]) -> Float[Tensor, "block feature feature"]:
    """Lower Cholesky factors of Ψᵀ diag(c_b) Ψ + I."""
    return torch.linalg.cholesky(grams + torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device))


def solved(roots: Tensor, gradient: Float[Tensor, "output feature"]) -> Float[Tensor, "output feature"]:
    """(L_d L_dᵀ)⁻¹ g_d, one L for all outputs or one for each."""
    if len(roots) == 1:
        return torch.cholesky_solve(gradient.T, roots[0]).T
    return torch.cholesky_solve(gradient[..., None], roots)[..., 0]


def correlated(factors: Tensor, noise: Float[Tensor, "output feature"]) -> Float[Tensor, "output feature"]:
    """F_d ε_d, one F for all outputs or one for each."""
    return noise @ factors[0].mT if len(factors) == 1 else (factors @ noise[..., None])[..., 0]


def inverse_transposed(roots: Tensor) -> Tensor:
    """F = L⁻ᵀ, so that F Fᵀ = (L Lᵀ)⁻¹."""
    identity = torch.eye(roots.shape[-1], dtype=roots.dtype, device=roots.device)
    return torch.linalg.solve_triangular(roots.mT, identity.expand_as(roots), upper=True)
