"""What a likelihood is: the distribution of an observation given a decoder's output, its mean, and its isometry."""

import abc
from collections.abc import Iterator, Mapping
from typing import NamedTuple, final

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Parameters = Mapping[str, Tensor]


# Rows that are checked at once: x may be mapped from a file, and then nothing of its size should be in memory.
_ROWS = 4096


class Fault(NamedTuple):
    """Values that no observation has: where they are, what would have been right, and what to do."""

    bad: Bool[Tensor, "row feature"]
    expected: str
    advice: str


class Likelihood(abc.ABC):
    """How a row of data (*batch, feature) is distributed given the decoder's output (*batch, output).

    Example:
        >>> import torch, probgeo as pg
        >>> likelihood = pg.likelihoods.Poisson()
        >>> log_rates = torch.zeros(1, 2)  # what a decoder puts out
        >>> likelihood.mean()(log_rates)  # E[x | z] = λ
        tensor([[1., 1.]])
        >>> likelihood.distribution(log_rates, {}).log_prob(torch.zeros(1, 2))  # log e^−λ
        tensor([[-1., -1.]])
        >>> likelihood.isometry({})(log_rates)  # 2 √λ
        tensor([[2., 2.]])
    """

    def num_outputs(self, num_features: int) -> int:
        """Width of the decoder's output for rows of so many features."""
        return num_features

    def num_means(self, num_features: int) -> tuple[int, ...]:
        """Columns of E[x | z] that each feature has."""
        return (1,) * num_features

    def encoder_input(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row input"]:
        """What the encoder reads of x, on a scale that suits a network."""
        return x

    def observed(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row observation"]:
        """What of x the likelihood is a distribution of."""
        return x

    def known(self, x: Float[Tensor, "row feature"]) -> dict[str, Tensor]:
        """Parameters that are given with each row of x, not modelled, (row, 1); empty if there are none."""
        return {}

    def initial_parameters(self, num_features: int, x: Float[Tensor, "row feature"] | None = None) -> dict[str, Tensor]:
        """Trainable parameters that all rows share, at values that suit x; empty if there are none."""
        return {}

    @abc.abstractmethod
    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        """Columnwise distribution of the observation, batch shape (*batch, observation)."""

    @abc.abstractmethod
    def mean(self) -> nn.Module:
        """Map from the decoder's output to E[x | z], the space of the default metric."""

    @abc.abstractmethod
    def isometry(self, parameters: Parameters) -> nn.Module:
        """Map from the decoder's output to the space whose Euclidean metric is Fisher-Rao.

        Raises:
            TypeError: a likelihood without such a map.
        """

    @abc.abstractmethod
    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        """What may be wrong with x, the gravest first."""

    @final
    def check(self, x: Float[Tensor, "row feature"]) -> None:
        """Raise ValueError, with the first offending place, if x is outside the support."""
        for begin in range(0, len(x), _ROWS):
            rows = x[begin : begin + _ROWS]
            for fault in (*self.faults(rows), _too_large(rows)):
                places = fault.bad.nonzero()
                if len(places):
                    row, column = places[0].tolist()
                    so_far = " so far" if begin + len(rows) < len(x) else ""
                    raise ValueError(
                        f"x: expected {fault.expected}; got {rows[row, column].item():g} at row {begin + row}, column "
                        f"{column} ({len(places)} such values{so_far}). {fault.advice}"
                    )


class TwoParameterLikelihood(Likelihood):
    """A likelihood with two parameters per observation: the decoder's output is all the first, then all the second.

    Example:
        >>> import torch, probgeo as pg
        >>> likelihood = pg.HeteroscedasticGaussian()
        >>> isinstance(likelihood, pg.likelihoods.TwoParameterLikelihood), likelihood.num_outputs(num_features=5)
        (True, 10)
        >>> likelihood.information(torch.zeros(1, 10), {}).shape  # of every observation, in its two outputs
        torch.Size([1, 5, 2, 2])
    """

    def num_outputs(self, num_features: int) -> int:
        return 2 * num_features

    @abc.abstractmethod
    def information(
        self, output: Float[Tensor, "*batch output"], parameters: Parameters
    ) -> Float[Tensor, "*batch observation 2 2"]:
        """Fisher information of each observation with respect to its two outputs."""

    def isometry(self, parameters: Parameters) -> nn.Module:
        """There is none.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"isometry: {type(self).__name__} has two parameters per observation, and no elementary map makes "
            "their Fisher-Rao metric Euclidean; use model.fisher_rao_metric(), which pulls back its Fisher information."
        )


def not_finite(x: Float[Tensor, "row feature"]) -> Fault:
    """Values that are NaN or infinite."""
    return Fault(~torch.isfinite(x), "finite values", "Remove or impute them.")


def _too_large(x: Float[Tensor, "row feature"]) -> Fault:
    """Values whose squares, summed over rows and features, may be no numbers any more."""
    limit = torch.finfo(x.dtype).max ** 0.25
    expected = f"values up to {limit:.0e}, whose squares can be summed in {x.dtype}"
    return Fault(x.abs() > limit, expected, "Rescale x.")


def outside_unit_interval(x: Float[Tensor, "row feature"], name: str) -> Fault:
    """Values below 0 or above 1."""
    return Fault(
        (x < 0) | (x > 1),
        f"values in [0, 1], as {name} needs",
        "Rescale x, or use a Gaussian likelihood.",
    )


class Scale(nn.Module):
    """x / std."""

    elementwise = True

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, mean: Tensor) -> Tensor:
        return mean / self.std


class FirstHalf(nn.Module):
    """The first of two parameters per observation: (*batch, 2 observation) -> (*batch, observation)."""

    def forward(self, output: Tensor) -> Tensor:
        return output.chunk(2, dim=-1)[0]
