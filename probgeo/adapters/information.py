"""The metric of distributions with two parameters per observation, through chords of their parameters."""

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points, points_of
from probgeo.models.decoders.decoder import information_metric_of

_LEAST = 1e-20  # under a root, whose derivative at 0 is none


@final
class ParameterChords(Metric):
    """G = mean_s J_sᵀ I J_s, with residuals r_i = Lᵀ(θ(z_{i+1}) − θ(z_i)), LLᵀ = I at the mean of both θ.

    Lengths are those of Jᵀ I J as paths are refined; no derivative of J is needed, as it is for Jᵀ I J as a field.

    Args:
        functions: z (*batch, latent) -> θ (member, *batch, output), all first parameters, then all second ones.
        information: θ -> I (member, *batch, observation, 2, 2).
    """

    def __init__(self, functions: Callable[[Tensor], Tensor], information: Callable[[Tensor], Tensor]) -> None:
        self._functions, self._information = functions, information
        self._field = information_metric_of(functions, information)

    def residuals(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, "segment residual"]:
        """Lᵀ(θ_{i+1} − θ_i) of every observation and function, over √S."""
        theta = self._functions(points)
        first, second = (theta[:, 1:] - theta[:, :-1]).chunk(2, dim=-1)
        blocks = self._information((theta[:, 1:] + theta[:, :-1]) / 2)
        root = blocks[..., 0, 0].clamp_min(_LEAST).sqrt()
        slope = blocks[..., 0, 1] / root
        rest = (blocks[..., 1, 1] - slope.square()).clamp_min(_LEAST).sqrt()
        parts = torch.cat([root * first + slope * second, rest * second], dim=-1)
        return (parts / len(theta) ** 0.5).movedim(0, 1).flatten(1).to(points.dtype)

    def tensor(self, z: Points) -> Float[Tensor, "*batch latent latent"]:
        """mean_s J_sᵀ I J_s at points (*batch, latent)."""
        return self._field.tensor(points_of("z", z, "*batch latent"))
