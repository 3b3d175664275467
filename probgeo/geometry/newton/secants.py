"""Newton steps corrected by a secant: what the last step, taken or refused, has shown of the true curvature."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEAST_CURVATURE = 0.1  # of that of the model, along a step, below which its secant tells nothing to go by


class Secants(NamedTuple):
    """The last step of each path that told of positive curvature, and how the gradient turned along it."""

    step: Float[Tensor, "batch interior latent"]  #: s; 0 where none is known
    turn: Float[Tensor, "batch interior latent"]  #: y, the gradient's difference along s
    curvature: Float[Tensor, " batch"]  #: yᵀs; 1 where none is known

    def those(self, which: Bool[Tensor, " batch"]) -> "Secants":
        """Those of some paths."""
        return Secants(*(values[which] for values in self))

    def where(self, kept: Bool[Tensor, " batch"]) -> "Secants":
        """The same where kept, none elsewhere."""
        step, turn = (torch.where(kept[:, None, None], values, 0) for values in self[:2])
        return Secants(step, turn, torch.where(kept, self.curvature, 1))


def no_secants(gradient: Float[Tensor, "batch interior latent"]) -> Secants:
    """Nothing known yet."""
    return Secants(torch.zeros_like(gradient), torch.zeros_like(gradient), gradient.new_ones(len(gradient)))


def corrected_step(
    newton: Any, model: Any, damping: Float[Tensor, " batch"], secants: Secants
) -> tuple[Float[Tensor, "batch interior latent"], Float[Tensor, " batch"]]:
    """δ = −B⁻¹g and the decrement ½ gᵀB⁻¹g, where B⁻¹ = (1 − s yᵀ/yᵀs) H⁻¹ (1 − y sᵀ/yᵀs) + s sᵀ/yᵀs.

    B is the BFGS update of the damped H by the secant. H lacks what the metric's own curvature adds or takes along the
    directions that are left, so that steps by it alone are again and again too long, or too short, in the same way.

    Args:
        newton: system with `step`, which solves with the damped H.
        model: its models around the paths.
        damping: λ of each.
        secants: s and y of each.

    References:
        Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4, with one pair.
    """
    s, y, curvature = secants
    share = (s * model.gradient).sum((1, 2)) / curvature
    step = newton.step(model._replace(gradient=model.gradient - share[:, None, None] * y), damping)[0]
    step = step - (share + (y * step).sum((1, 2)) / curvature)[:, None, None] * s
    return step, -(step * model.gradient).sum((1, 2)) / 2


def learnt(
    secants: Secants,
    step: Float[Tensor, "batch interior latent"],
    turn: Float[Tensor, "batch interior latent"],
    promised: Float[Tensor, " batch"],
) -> Secants:
    """The secants once a step was tried; those that are not finite, or hardly curved, leave the last.

    Args:
        secants: of the steps before.
        step: s, as tried.
        turn: y.
        promised: the step's decrement: along it the model's curvature is twice that.
    """
    curvature = (step * turn).sum((1, 2))
    known = (curvature > LEAST_CURVATURE * 2 * promised) & turn.isfinite().flatten(1).all(1)
    pick = known[:, None, None]
    return Secants(
        torch.where(pick, step, secants.step),
        torch.where(pick, turn, secants.turn),
        torch.where(known, curvature, secants.curvature),
    )
