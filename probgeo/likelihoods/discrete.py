"""Likelihoods of binary and categorical observations."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import one_hot

from probgeo.likelihoods.likelihood import Fault, Likelihood, Parameters, not_finite, outside_unit_interval
from probgeo.specs import check_numbers


class AngleOfLogits(nn.Module):
    """2 arcsin √p = 2 atan(exp(ℓ/2)) = π/2 + 2 atan(tanh(ℓ/4)): the last form has finite gradients for every ℓ."""

    elementwise = True

    def forward(self, logits: Tensor) -> Tensor:
        return math.pi / 2 + 2 * torch.atan(torch.tanh(logits / 4))


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """x ~ Bernoulli(sigmoid(output)); grey values in [0, 1] are accepted, as probabilities (binary cross-entropy).

    Example:
        >>> import torch, probgeo as pg
        >>> likelihood = pg.likelihoods.Bernoulli()
        >>> logits = torch.zeros(1, 1)
        >>> likelihood.mean()(logits).item()
        0.5
        >>> round(likelihood.isometry({})(logits).item(), 4)  # 2 arcsin √½ = π/2
        1.5708
    """

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        # Grey values are probabilities here: the cross-entropy is defined for them, Pyro's support check would refuse.
        return dist.Bernoulli(logits=output, validate_args=False)

    def mean(self) -> nn.Module:
        return nn.Sigmoid()

    def isometry(self, parameters: Parameters) -> nn.Module:
        """2 arcsin √p (Fisher-Rao metric of a Bernoulli), written for logits."""
        return AngleOfLogits()

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        yield not_finite(x)
        yield outside_unit_interval(x, "a Bernoulli likelihood")


class Probabilities(nn.Module):
    """Softmax of each block of logits: (*batch, block class) -> (*batch, block class)."""

    def __init__(self, blocks: tuple[int, int]) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, logits: Tensor) -> Tensor:
        return logits.unflatten(-1, self.blocks).softmax(-1).flatten(-2)


class TwiceRootsOfProbabilities(nn.Module):
    """2 √p of each block of logits, from log p, so that gradients are finite at p = 0."""

    def __init__(self, blocks: tuple[int, int]) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, logits: Tensor) -> Tensor:
        return 2 * torch.exp(logits.unflatten(-1, self.blocks).log_softmax(-1) / 2).flatten(-2)


@dataclass(frozen=True)
class Categorical(Likelihood):
    """Each column of x holds a label 0, …, K - 1; the decoder gives K logits per column, side by side.

    The encoder reads the labels one-hot, and E[x | z] is that of the one-hot columns: the K probabilities of each.

    Args:
        num_classes: number K of classes, the same for every column (columns that differ: `Mixed`).

    Raises:
        ValueError: fewer than two classes.

    Example:
        >>> import torch, probgeo as pg
        >>> likelihood = pg.likelihoods.Categorical(num_classes=4)
        >>> likelihood.num_outputs(num_features=3)
        12
        >>> likelihood.isometry({})(torch.zeros(1, 4))  # 2 √p
        tensor([[1., 1., 1., 1.]])
    """

    num_classes: int

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2; got {self.num_classes}.")

    def num_outputs(self, num_features: int) -> int:
        return num_features * self.num_classes

    def num_means(self, num_features: int) -> tuple[int, ...]:
        return (self.num_classes,) * num_features

    def encoder_input(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row input"]:
        return (x[..., None] == torch.arange(self.num_classes, device=x.device)).to(x.dtype).flatten(-2)

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        return dist.Categorical(logits=output.unflatten(-1, (-1, self.num_classes)))

    def mean(self) -> nn.Module:
        return Probabilities((-1, self.num_classes))

    def isometry(self, parameters: Parameters) -> nn.Module:
        """2 √p: the simplex is part of a sphere of radius 2."""
        return TwiceRootsOfProbabilities((-1, self.num_classes))

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        yield not_finite(x)
        yield Fault(
            (x < 0) | (x >= self.num_classes) | (x != x.round()),
            f"labels 0, …, {self.num_classes - 1}",
            "Number the classes from 0, or raise num_classes.",
        )


class _OneHotColumns(dist.TorchDistribution):
    """One-hot rows of K columns; a column's log-probability is its share x_k log p_k of the row's."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - what torch.distributions expects
    support = constraints.boolean

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = logits.log_softmax(-1)
        super().__init__(logits.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.log_probs.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.log_probs

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        labels = dist.Categorical(logits=self.log_probs).sample(sample_shape)
        return one_hot(labels, self.log_probs.shape[-1]).to(self.log_probs.dtype)


@dataclass(frozen=True)
class OneHotCategorical(Likelihood):
    """All columns of x together are one categorical observation: a single 1, else 0.

    Example:
        >>> import torch, probgeo as pg
        >>> likelihood = pg.likelihoods.OneHotCategorical()
        >>> logits = torch.zeros(1, 4)
        >>> likelihood.mean()(logits), likelihood.isometry({})(logits)  # p, and 2 √p
        (tensor([[0.2500, 0.2500, 0.2500, 0.2500]]), tensor([[1., 1., 1., 1.]]))
    """

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        return _OneHotColumns(output)

    def mean(self) -> nn.Module:
        return Probabilities((1, -1))

    def isometry(self, parameters: Parameters) -> nn.Module:
        """2 √p: the simplex is part of a sphere of radius 2."""
        return TwiceRootsOfProbabilities((1, -1))

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        yield not_finite(x)
        yield Fault((x != 0) & (x != 1), "one-hot columns of 0 and 1", "For labels use Categorical.")
        first = torch.arange(x.shape[-1], device=x.device) == 0
        yield Fault((x.sum(-1, keepdim=True) != 1) & first, "one-hot rows with a single 1", "Each row has one class.")
