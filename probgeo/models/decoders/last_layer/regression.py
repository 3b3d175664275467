"""Generalised linear regression with a Gaussian prior, given the features: mode and curvature of the posterior."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_ROWS_AT_ONCE = 2**24  # numbers of a batch of weighted designs


@dataclass(frozen=True)
class Regression:
    """x ~ distribution(Ψ Vᵀ) with rows of V ~ N(0, I): the last layer given the codes, in double precision.

    Args:
        design: Ψ = φ(z) · s, features times the prior's standard deviations, so that V = W / s.
        x: observations.
        distribution: columnwise distribution of x given the outputs Ψ Vᵀ.
    """

    design: Float[Tensor, "row feature"]
    x: Float[Tensor, "row output"]
    distribution: Callable[[Tensor], Any]

    def log_joint(self, v: Float[Tensor, "output feature"]) -> Float[Tensor, " output"]:
        """log p(x_d, v_d) of each output, up to a constant."""
        return self.distribution(self.design @ v.T).log_prob(self.x).sum(0) - v.square().sum(1) / 2

    def derivatives(self, v: Float[Tensor, "output feature"]) -> tuple[Tensor, Tensor]:
        """First derivative, and negative second, of every log p(x_nd | output_nd) with respect to its output."""
        with torch.enable_grad():
            output = (self.design @ v.T).requires_grad_()
            log_likelihood = self.distribution(output).log_prob(self.x).sum()
            (first,) = torch.autograd.grad(log_likelihood, output, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), output)
        return first.detach(), -second

    def precision_roots(self, curvature: Float[Tensor, "row block"]) -> Float[Tensor, "block feature feature"]:
        """Lower Cholesky factors of Ψᵀ diag(c_b) Ψ + I, one per column c_b of the curvatures."""
        roots = curvature.clamp(min=0).sqrt().T  # above zero where the likelihood is log-concave
        blocks = []
        for some in roots.split(max(1, _ROWS_AT_ONCE // self.design.numel())):
            weighted = some[..., None] * self.design
            blocks.append(weighted.mT @ weighted)
        identity = torch.eye(self.design.shape[1], dtype=self.design.dtype, device=self.design.device)
        return torch.linalg.cholesky(torch.cat(blocks) + identity)

    def mode(self, v: Float[Tensor, "output feature"], num_blocks: int) -> tuple[Tensor, Tensor]:
        """argmax of the log joint by Newton's method from v, and Cholesky factors of the negative Hessian there.

        Args:
            v: where to start.
            num_blocks: 1 if the curvature is the same for all outputs, otherwise the number of outputs.
        """
        for _ in range(100):
            slope, curvature = self.derivatives(v)
            gradient = slope.T @ self.design - v
            roots = self.precision_roots(curvature[:, :num_blocks])
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
