"""The normal distribution, its log density summed in few passes over the observations."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss


class Normal(dist.Normal):
    """N(μ, σ²), whose σ stays one number where it is one.

    Args:
        mean: μ (*batch, observation).
        std: σ, one number or as many as the mean has.
    """

    def __init__(self, mean: Tensor, std: Tensor | float, validate_args: bool | None = None) -> None:
        self.std_given = torch.as_tensor(std, dtype=mean.dtype, device=mean.device)
        super().__init__(mean, std, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Normal":
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        new = self.__new__(type(self)) if _instance is None else _instance
        new.std_given = self.std_given
        return super().expand(batch_shape, _instance=new)

    def summed_log_prob(self, value: Tensor) -> Float[Tensor, ""]:
        """Σ log p(x) = −½ Σ ((x − μ)/σ)² − Σ log σ − n ½ log 2π."""
        constant = value.numel() * 0.5 * math.log(2 * math.pi)
        std = self.std_given
        if std.ndim == 0:
            squares = mse_loss(self.loc, value, reduction="sum")
            return -0.5 * squares / std.square() - value.numel() * std.log() - constant
        return -0.5 * ((value - self.loc) / self.scale).square().sum() - self.scale.log().sum() - constant
