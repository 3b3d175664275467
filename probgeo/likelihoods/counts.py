"""Likelihoods of counts, each a rate times the library size of its row: how much of the row was counted at all."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.likelihoods.likelihood import Fault, Likelihood, Parameters, TwoParameterLikelihood, not_finite
from probgeo.specs import check_numbers

# Logarithms of rates are cut off here: every square of a rate is still finite in single precision.
_LARGEST_LOG_RATE = 30.0


@dataclass(frozen=True)
class RowTotal:
    """The library size of a row is the sum of its counts.

    Args:
        reference: the library size at which rates, means and isometries are stated, e.g. the median of the data's.

    Raises:
        ValueError: a reference that is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.tensor([[1.0, 3.0], [10.0, 10.0]])
        >>> library = pg.likelihoods.RowTotal(reference=10.0)
        >>> library.size(x)
        tensor([[ 4.],
                [20.]])
    """

    reference: float

    def __post_init__(self) -> None:
        _check_reference(self.reference)

    def counts(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row observation"]:
        return x

    def size(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row 1"]:
        return x.sum(-1, keepdim=True)

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        first = torch.arange(x.shape[-1], device=x.device) == 0
        yield Fault(
            (self.size(x) == 0) & first, "rows with at least one count, as their library size is their total",
            "Remove empty rows, or give the library size in a column: library=LibraryColumn(...).",
        )  # fmt: skip


@dataclass(frozen=True)
class LibraryColumn:
    """The library size of a row stands in a column of x, which is given, not modelled.

    Args:
        column: its number; negative from the end.
        reference: the library size at which rates, means and isometries are stated, e.g. the median of the data's.

    Raises:
        ValueError: a reference that is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.tensor([[1.0, 3.0, 100.0], [10.0, 10.0, 200.0]])
        >>> library = pg.likelihoods.LibraryColumn(-1, reference=100.0)
        >>> library.size(x), library.counts(x)
        (tensor([[100.],
                [200.]]), tensor([[ 1.,  3.],
                [10., 10.]]))
    """

    column: int
    reference: float

    def __post_init__(self) -> None:
        check_numbers(self)
        _check_reference(self.reference)

    def counts(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row observation"]:
        return x[..., ~self._here(x)]

    def size(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row 1"]:
        return x[..., [self.column]]

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        num_features = x.shape[-1]
        if not -num_features <= self.column < num_features or num_features < 2:
            raise ValueError(
                f"x: expected the library size in column {self.column} and counts in the others; got {num_features} "
                "columns. Append the library sizes to x, or use library=RowTotal(...)."
            )
        yield Fault((x <= 0) & self._here(x), "positive library sizes", "Fill in the missing ones, or remove the rows.")

    def _here(self, x: Tensor) -> Tensor:
        return torch.arange(x.shape[-1], device=x.device) == self.column % x.shape[-1]


Library = RowTotal | LibraryColumn


def _check_reference(reference: float) -> None:
    if not 0 < reference < math.inf:
        raise ValueError(f"reference: expected a positive library size; got {reference}.")


class Rate(nn.Module):
    """exp(output), the mean count at the reference library size."""

    elementwise = True

    def forward(self, log_rate: Tensor) -> Tensor:
        return log_rate.clamp(max=_LARGEST_LOG_RATE).exp()


class TwiceRootOfRate(nn.Module):
    """2 √λ = 2 exp(output / 2)."""

    elementwise = True

    def forward(self, log_rate: Tensor) -> Tensor:
        return 2 * torch.exp(log_rate.clamp(max=_LARGEST_LOG_RATE) / 2)


class ArsinhOfRate(nn.Module):
    """2 √r arsinh √(μ / r), from log μ, with an r of each column or one for all."""

    elementwise = True

    def __init__(self, total_count: tuple[float, ...]) -> None:
        super().__init__()
        self.total_count = total_count  # numbers, no buffer, so that copies for an ensemble share them

    def forward(self, log_rate: Tensor) -> Tensor:
        root = log_rate.new_tensor(self.total_count).sqrt()
        return 2 * root * torch.asinh(torch.exp(log_rate.clamp(max=_LARGEST_LOG_RATE) / 2) / root)


@dataclass(frozen=True)
class CountLikelihood(Likelihood):
    """Counts whose mean is the library size over its reference, times exp(output).

    Args:
        library: where the library size of a row is: `RowTotal(reference)`, `LibraryColumn(column, reference)`, or None
            where every row was counted alike. The geometry, which knows a code z but no row, is that at the reference.
    """

    library: Library | None = None

    def num_outputs(self, num_features: int) -> int:
        return num_features - isinstance(self.library, LibraryColumn)

    def num_means(self, num_features: int) -> tuple[int, ...]:
        """One of each column but that of the library sizes."""
        if not isinstance(self.library, LibraryColumn):
            return (1,) * num_features
        return tuple(int(column != self.library.column % num_features) for column in range(num_features))

    def encoder_input(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row input"]:
        """log(1 + counts at the reference library size): the code should not know how deeply a row was counted."""
        return torch.log1p(self._rates(x))

    def observed(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row observation"]:
        return x if self.library is None else self.library.counts(x)

    def known(self, x: Float[Tensor, "row feature"]) -> dict[str, Tensor]:
        if self.library is None:
            return {}
        return {"log_library": (self.library.size(x) / self.library.reference).log()}

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        yield not_finite(x)
        counts = torch.ones_like(x, dtype=torch.bool)
        if isinstance(self.library, LibraryColumn):
            yield from self.library.faults(x)
            counts[:, self.library.column] = False
        yield Fault(counts & (x < 0), "counts, which are not negative", "Give raw counts, neither logged nor centred.")
        yield Fault(counts & (x != x.round()), "counts, which are integers", "Give raw counts, not normalised ones.")
        if isinstance(self.library, RowTotal):
            yield from self.library.faults(x)

    def _rates(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row observation"]:
        return self.observed(x) if self.library is None else self.observed(x) / self.known(x)["log_library"].exp()

    def _log_mean(self, log_rate: Tensor, parameters: Parameters) -> Tensor:
        log_rate = log_rate.clamp(-_LARGEST_LOG_RATE, _LARGEST_LOG_RATE)
        return log_rate if self.library is None else log_rate + parameters["log_library"]


@dataclass(frozen=True)
class Poisson(CountLikelihood):
    """x ~ Poisson(library / reference · exp(output)).

    Args:
        library: where the library size of a row is: `RowTotal(reference)`, `LibraryColumn(column, reference)`, or None
            where every row was counted alike.

    Example:
        >>> import math, torch, probgeo as pg
        >>> likelihood = pg.likelihoods.Poisson()
        >>> output = torch.tensor([[math.log(4.0)]])
        >>> round(likelihood.mean()(output).item(), 3), round(likelihood.isometry({})(output).item(), 3)  # λ, 2 √λ
        (4.0, 4.0)
    """

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        return dist.Poisson(self._log_mean(output, parameters).exp())

    def mean(self) -> nn.Module:
        return Rate()

    def isometry(self, parameters: Parameters) -> nn.Module:
        """2 √λ at the reference library size."""
        return TwiceRootOfRate()


@dataclass(frozen=True)
class _Overdispersed(CountLikelihood):
    """Counts of mean μ and variance μ + μ² / r (before any inflation)."""

    total_count: float | None = None

    def __post_init__(self) -> None:
        if self.total_count is not None and not 0 < self.total_count < math.inf:
            raise ValueError(f"total_count: expected a positive number, or None to learn it; got {self.total_count}.")

    def initial_parameters(self, num_features: int, x: Float[Tensor, "row feature"] | None = None) -> dict[str, Tensor]:
        if self.total_count is not None:
            return {}
        if x is None:
            return {"log_total_count": torch.zeros(num_features - isinstance(self.library, LibraryColumn))}
        rates = self._rates(x)
        mean, variance = rates.mean(0), rates.var(0)
        # Moments of all rows count the differences between them as noise: r is larger than they say, not smaller.
        excess = (variance - mean).clamp(min=1e-6)
        return {"log_total_count": (mean.square() / excess).clamp(0.1, 10).log()}

    def _total_count(self, parameters: Parameters) -> Tensor | float:
        return parameters["log_total_count"].exp() if self.total_count is None else self.total_count

    def _logits(self, log_rate: Tensor, parameters: Parameters) -> Tensor:
        total = self._total_count(parameters)
        return self._log_mean(log_rate, parameters) - (total.log() if isinstance(total, Tensor) else math.log(total))


@dataclass(frozen=True)
class NegativeBinomial(_Overdispersed):
    """Counts of mean μ = library / reference · exp(output) and variance μ + μ² / r.

    Args:
        library: where the library size of a row is: `RowTotal(reference)`, `LibraryColumn(column, reference)`, or None
            where every row was counted alike.
        total_count: a fixed r; None learns one for each column (parameter `log_total_count`).

    Raises:
        ValueError: a total_count that is not positive.

    Example:
        >>> import math, torch, probgeo as pg
        >>> likelihood = pg.likelihoods.NegativeBinomial(total_count=4.0)
        >>> output = torch.tensor([[math.log(4.0)]])
        >>> round(likelihood.distribution(output, {}).variance.item(), 3)  # 4 + 4² / 4
        8.0
        >>> round(likelihood.isometry({})(output).item(), 3)  # 2 √4 arsinh √(4 / 4)
        3.525
    """

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        return dist.NegativeBinomial(self._total_count(parameters), logits=self._logits(output, parameters))

    def mean(self) -> nn.Module:
        return Rate()

    def isometry(self, parameters: Parameters) -> nn.Module:
        """2 √r arsinh √(μ / r) at the reference library size."""
        total = self._total_count(parameters)
        return ArsinhOfRate(tuple(total.detach().tolist()) if isinstance(total, Tensor) else (total,))


class _RateOutsideTheGate(nn.Module):
    """(1 - π) μ, the mean count of a zero-inflated likelihood at the reference library size."""

    def forward(self, output: Tensor) -> Tensor:
        log_rate, gate = output.chunk(2, dim=-1)
        return log_rate.clamp(max=_LARGEST_LOG_RATE).exp() * torch.sigmoid(-gate)


@dataclass(frozen=True)
class ZeroInflatedNegativeBinomial(_Overdispersed, TwoParameterLikelihood):
    """0 with probability π, else negative binomial: the decoder's output is [log rates; logits of π].

    Args:
        library: where the library size of a row is: `RowTotal(reference)`, `LibraryColumn(column, reference)`, or None
            where every row was counted alike.
        total_count: a fixed r; None learns one for each column (parameter `log_total_count`).

    Raises:
        ValueError: a total_count that is not positive.

    Example:
        >>> import math, torch, probgeo as pg
        >>> likelihood = pg.likelihoods.ZeroInflatedNegativeBinomial(total_count=4.0)
        >>> output = torch.tensor([[math.log(4.0), 0.0]])  # of one gene: log rate, logit of π
        >>> round(likelihood.mean()(output).item(), 3)  # (1 − ½) · 4
        2.0

    References:
        Lopez, Regier, Cole, Jordan & Yosef (2018), Deep generative modeling for single-cell transcriptomics.
    """

    def num_outputs(self, num_features: int) -> int:
        return 2 * (num_features - isinstance(self.library, LibraryColumn))

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        log_rate, gate = output.chunk(2, dim=-1)
        total = torch.as_tensor(self._total_count(parameters), dtype=output.dtype, device=output.device)
        # Unchecked, since Pyro refuses a probability that rounding made 1; the logits it computes with are fine.
        return dist.ZeroInflatedNegativeBinomial(
            total.expand_as(log_rate),
            logits=self._logits(log_rate, parameters),
            gate_logits=gate,
            validate_args=False,
        )

    def mean(self) -> nn.Module:
        return _RateOutsideTheGate()

    def isometry(self, parameters: Parameters) -> nn.Module:
        return TwoParameterLikelihood.isometry(self, parameters)

    def information(
        self, output: Float[Tensor, "*batch output"], parameters: Parameters
    ) -> Float[Tensor, "*batch observation 2 2"]:
        """Fisher information with respect to log μ and the logit of π, at the reference library size.

        With p₀ = (1 + μ/r)^-r, q = P(x = 0) = π + (1 - π) p₀ and the score s₀ = -μ r / (r + μ) of x = 0 without
        inflation: I_μμ = (1 - π) (μ r / (r + μ) - p₀ s₀²) + ((1 - π) p₀ s₀)² / q, I_μπ = π (1 - π) p₀ s₀ / q,
        I_ππ = π² (1 - π) (1 - p₀) / q.
        """
        log_rate, gate = output.chunk(2, dim=-1)
        mean = log_rate.clamp(-_LARGEST_LOG_RATE, _LARGEST_LOG_RATE).exp()
        total = torch.as_tensor(self._total_count(parameters), dtype=output.dtype, device=output.device)
        inflated, not_inflated = gate.sigmoid(), torch.sigmoid(-gate)
        log_zero = -total * torch.log1p(mean / total)
        zero, nonzero = log_zero.exp(), -torch.expm1(log_zero)
        score = -mean * (total / (total + mean))
        chance = inflated + not_inflated * zero
        weight = not_inflated * zero * score
        of_mean = not_inflated * (-score - zero * score.square()) + weight.square() / chance
        both = inflated * weight / chance
        of_gate = inflated.square() * not_inflated * nonzero / chance
        return torch.stack([torch.stack([of_mean, both], -1), torch.stack([both, of_gate], -1)], -1)
