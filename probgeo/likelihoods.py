"""Likelihoods: the Pyro distribution of an observation given a decoder's output, its mean, and its isometry.

The isometry is the variance-stabilising map: its Euclidean pull-back is the Fisher-Rao metric of the likelihood.
"""

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

Parameters = Mapping[str, Tensor]


class Likelihood(abc.ABC):
    """How an observation x (*batch, observation) is distributed given the decoder's output of the same shape."""

    @abc.abstractmethod
    def initial_parameters(self, x: Float[Tensor, "row observation"] | None = None) -> dict[str, Tensor]:
        """Trainable parameters that all observations share, at values that suit x; empty if there are none."""

    @abc.abstractmethod
    def distribution(self, output: Float[Tensor, "*batch observation"], parameters: Parameters) -> dist.Distribution:
        """Elementwise distribution of x, batch shape (*batch, observation)."""

    @abc.abstractmethod
    def mean(self) -> nn.Module:
        """Elementwise map from the decoder's output to E[x | z], the space of the default metric."""

    @abc.abstractmethod
    def isometry(self, parameters: Parameters) -> nn.Module:
        """Elementwise map from the decoder's output to the space whose Euclidean metric is Fisher-Rao."""

    @abc.abstractmethod
    def check(self, x: Float[Tensor, "row observation"]) -> None:
        """Raise ValueError, with the first offending place, if x is outside the support."""


def _check_finite(x: Tensor) -> None:
    bad = (~torch.isfinite(x)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"x: expected finite values; got {x[row, column].item()} at row {row}, column {column} "
            f"({len(bad)} such values). Remove or impute them."
        )


class _Scale(nn.Module):
    """x / std."""

    elementwise = True

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, mean: Tensor) -> Tensor:
        return mean / self.std


class _AngleOfLogits(nn.Module):
    """2 arcsin √p = 2 atan(exp(ℓ/2)) = π/2 + 2 atan(tanh(ℓ/4)): the last form has finite gradients for every ℓ."""

    elementwise = True

    def forward(self, logits: Tensor) -> Tensor:
        return math.pi / 2 + 2 * torch.atan(torch.tanh(logits / 4))


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """x ~ N(output, std²), one standard deviation for all observations.

    Args:
        std: a fixed standard deviation, in units of x; None learns it (parameter `log_std`).

    Raises:
        ValueError: a standard deviation that is not positive.
    """

    std: float | None = None

    def __post_init__(self) -> None:
        if self.std is not None and not 0 < self.std < math.inf:
            raise ValueError(f"std: expected a positive number, or None to learn it; got {self.std}.")

    def initial_parameters(self, x: Float[Tensor, "row observation"] | None = None) -> dict[str, Tensor]:
        if self.std is not None:
            return {}
        return {"log_std": torch.zeros(()) if x is None else x.var(0).mean().sqrt().clamp(min=1e-6).log()}

    def _std(self, parameters: Parameters) -> Tensor | float:
        return parameters["log_std"].exp() if self.std is None else self.std

    def distribution(self, output: Float[Tensor, "*batch observation"], parameters: Parameters) -> dist.Distribution:
        return dist.Normal(output, self._std(parameters))

    def mean(self) -> nn.Module:
        return nn.Identity()

    def isometry(self, parameters: Parameters) -> nn.Module:
        """μ / std: the Fisher-Rao metric of a Gaussian of fixed standard deviation."""
        return _Scale(parameters["log_std"].exp().item() if self.std is None else self.std)

    def check(self, x: Float[Tensor, "row observation"]) -> None:
        _check_finite(x)


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """x ~ Bernoulli(sigmoid(output)); grey values in [0, 1] are accepted, as probabilities (binary cross-entropy)."""

    def initial_parameters(self, x: Float[Tensor, "row observation"] | None = None) -> dict[str, Tensor]:
        return {}

    def distribution(self, output: Float[Tensor, "*batch observation"], parameters: Parameters) -> dist.Distribution:
        # Grey values are probabilities here: the cross-entropy is defined for them, Pyro's support check would refuse.
        return dist.Bernoulli(logits=output, validate_args=False)

    def mean(self) -> nn.Module:
        return nn.Sigmoid()

    def isometry(self, parameters: Parameters) -> nn.Module:
        """2 arcsin √p (Fisher-Rao metric of a Bernoulli), written for logits."""
        return _AngleOfLogits()

    def check(self, x: Float[Tensor, "row observation"]) -> None:
        _check_finite(x)
        bad = ((x < 0) | (x > 1)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise ValueError(
                f"x: a Bernoulli likelihood expects values in [0, 1]; got {x[row, column].item():g} at row {row}, "
                f"column {column} ({len(bad)} such values). Rescale x, or use a Gaussian likelihood."
            )
