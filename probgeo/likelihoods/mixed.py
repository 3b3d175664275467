"""A likelihood of columns of different kinds."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import pad

from probgeo.datasets import Column
from probgeo.likelihoods.continuous import Gaussian
from probgeo.likelihoods.counts import NegativeBinomial
from probgeo.likelihoods.discrete import Bernoulli, Categorical
from probgeo.likelihoods.likelihood import Fault, Likelihood, Parameters, TwoParameterLikelihood


class _SideBySide(dist.TorchDistribution):
    """Independent columns of several distributions."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - what torch.distributions expects
    support = constraints.real

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.widths = [part.batch_shape[-1] for part in parts]
        super().__init__(torch.Size([*parts[0].batch_shape[:-1], sum(self.widths)]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.cat([part.mean for part in self.parts], dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        blocks = value.split(self.widths, dim=-1)
        return torch.cat([part.log_prob(block) for part, block in zip(self.parts, blocks, strict=True)], dim=-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return torch.cat([part.sample(sample_shape) for part in self.parts], dim=-1)


class _Heads(nn.Module):
    """Each block of columns through a map of its own."""

    def __init__(self, heads: Sequence[nn.Module], widths: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.widths = list(widths)

    def forward(self, output: Tensor) -> Tensor:
        blocks = output.split(self.widths, dim=-1)
        return torch.cat([head(block) for head, block in zip(self.heads, blocks, strict=True)], dim=-1)


@dataclass(frozen=True)
class Mixed(Likelihood):
    """Columns of different kinds side by side, independent given the decoder's output.

    Mixed(((Bernoulli(), 2), (Gaussian(), 3), (OneHotCategorical(), 4), (NegativeBinomial(), 10))): two binary columns,
    then three real ones, a class of four in one-hot columns, and ten counts.

    Args:
        parts: likelihoods, each with its number of columns, in the order of the columns. The library size of counts is
            that of their own columns.

    Raises:
        ValueError: no parts, or a number of columns below one.

    Example:
        >>> import torch, probgeo as pg
        >>> likelihood = pg.likelihoods.Mixed(((pg.likelihoods.Bernoulli(), 2), (pg.likelihoods.Categorical(3), 1)))
        >>> likelihood.num_outputs(num_features=3)  # two logits, and three of the class
        5
        >>> likelihood.mean()(torch.zeros(1, 5)).round(decimals=3)
        tensor([[0.5000, 0.5000, 0.3330, 0.3330, 0.3330]])
    """

    parts: tuple[tuple[Likelihood, int], ...]

    def __post_init__(self) -> None:
        parts = tuple((likelihood, int(num_columns)) for likelihood, num_columns in self.parts)
        object.__setattr__(self, "parts", parts)
        if not parts or min(num_columns for _, num_columns in parts) < 1:
            raise ValueError(f"parts: expected likelihoods, each with at least one column; got {self.parts}.")

    def num_outputs(self, num_features: int) -> int:
        self._check_width(num_features)
        return sum(self._widths())

    def num_means(self, num_features: int) -> tuple[int, ...]:
        self._check_width(num_features)
        return sum((part.num_means(num_columns) for part, num_columns in self.parts), ())

    def encoder_input(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row input"]:
        return torch.cat([part.encoder_input(block) for part, block in self._blocks(x)], dim=-1)

    def observed(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row observation"]:
        return torch.cat([part.observed(block) for part, block in self._blocks(x)], dim=-1)

    def known(self, x: Float[Tensor, "row feature"]) -> dict[str, Tensor]:
        return _numbered(part.known(block) for part, block in self._blocks(x))

    def initial_parameters(self, num_features: int, x: Float[Tensor, "row feature"] | None = None) -> dict[str, Tensor]:
        self._check_width(num_features)
        blocks = [None] * len(self.parts) if x is None else [block for _, block in self._blocks(x)]
        return _numbered(
            part.initial_parameters(num_columns, block)
            for (part, num_columns), block in zip(self.parts, blocks, strict=True)
        )

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        blocks = output.split(self._widths(), dim=-1)
        return _SideBySide(
            [
                part.distribution(block, own)
                for (part, _), block, own in zip(self.parts, blocks, self._own(parameters), strict=True)
            ]
        )

    def mean(self) -> nn.Module:
        return _Heads([part.mean() for part, _ in self.parts], self._widths())

    def isometry(self, parameters: Parameters) -> nn.Module:
        """The isometries of the parts side by side.

        Raises:
            TypeError: a part with two parameters per observation, which has none.
        """
        for part, _ in self.parts:
            if isinstance(part, TwoParameterLikelihood):
                raise TypeError(
                    f"isometry: expected parts with one parameter per observation; got {part}, whose Fisher-Rao metric "
                    "no elementary map makes Euclidean. Use model.metric(), or a likelihood with one parameter."
                )
        heads = [part.isometry(own) for (part, _), own in zip(self.parts, self._own(parameters), strict=True)]
        return _Heads(heads, self._widths())

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        self._check_width(x.shape[-1])
        begin = 0
        for part, block in self._blocks(x):
            for fault in part.faults(block):
                end = begin + block.shape[-1]
                yield fault._replace(bad=pad(fault.bad, (begin, x.shape[-1] - end)))
            begin += block.shape[-1]

    def _widths(self) -> list[int]:
        return [part.num_outputs(num_columns) for part, num_columns in self.parts]

    def _blocks(self, x: Tensor) -> list[tuple[Likelihood, Tensor]]:
        blocks = x.split([num_columns for _, num_columns in self.parts], dim=-1)
        return [(part, block) for (part, _), block in zip(self.parts, blocks, strict=True)]

    def _own(self, parameters: Parameters) -> list[dict[str, Tensor]]:
        """The parameters of each part, by the names it knows."""
        return [
            {
                name.removeprefix(f"{index}_"): value
                for name, value in parameters.items()
                if name.startswith(f"{index}_")
            }
            for index in range(len(self.parts))
        ]

    def _check_width(self, num_features: int) -> None:
        expected = sum(num_columns for _, num_columns in self.parts)
        if num_features != expected:
            raise ValueError(f"x: expected the {expected} columns of the parts of Mixed; got {num_features}.")


def _numbered(parameters: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Parameters of the parts under names with the part's number in front."""
    return {f"{index}_{name}": value for index, own in enumerate(parameters) for name, value in own.items()}


def table_likelihood(columns: Iterable[Column]) -> Mixed:
    """The likelihood of a table's columns: `Categorical`, `Gaussian()`, `Bernoulli` and `NegativeBinomial()` parts.

    Real columns, which are standardised, share one learned standard deviation.

    Args:
        columns: those of `datasets.table(path)`, in its order.

    Example:
        >>> import probgeo as pg
        >>> kinds = {"weight": "real", "height": "real", "cats": "count"}
        >>> columns = [pg.datasets.Column(name, kind) for name, kind in kinds.items()]
        >>> [(type(likelihood).__name__, num) for likelihood, num in pg.likelihoods.table_likelihood(columns).parts]
        [('Gaussian', 2), ('NegativeBinomial', 1)]
    """
    kinds: dict[str, Callable[[int], Likelihood]] = {
        "categorical": Categorical,
        "real": lambda _: Gaussian(),
        "binary": lambda _: Bernoulli(),
        "count": lambda _: NegativeBinomial(),
    }

    def key(column: Column) -> tuple[str, int]:
        return column.kind, len(column.categories)

    return Mixed(tuple((kinds[kind](num), len(list(group))) for (kind, num), group in itertools.groupby(columns, key)))
