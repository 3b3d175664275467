"""Phases of training: which parameters move, for how long, and what is set in closed form before."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probgeo.likelihoods import Likelihood, Parameters
from probgeo.rows import StoredRows, row_blocks, spread


@dataclass(frozen=True)
class Epochs:
    """Passes over the data, in which some parameters of a module move.

    Args:
        trains: whether the parameter of this (dotted) name, relative to the phase's own module, moves.
        share: how many, as a fraction of `Training.epochs`; above 0.
        rate: learning rate, as a multiple of `Training.learning_rate`.
    """

    trains: Callable[[str], bool] = lambda name: True
    share: float = 1.0
    rate: float = 1.0


@dataclass(frozen=True)
class Phase:
    """A part of the training of a module: of a model, or of a part of it such as its decoder.

    Args:
        name: what the progress bar and the history call it.
        epochs: None for a phase that is its `start` alone, such as a posterior in closed form given the trained codes.
        start: called once before the first epoch with the module, what it is fitted to (rows x for a model, `Target`
            for a decoder; either may stand in a file) and the seed; it may set buffers and initial values in place.
        check: called once with the first two of these, before any phase: raises what `start` would of their sizes.
    """

    name: str
    epochs: Epochs | None = Epochs()
    start: Callable[[Any, Any, int], None] | None = None
    check: Callable[[Any, Any], None] | None = None

    def trains(self, name: str) -> bool:
        """Whether the parameter of this name, relative to the phase's own module, moves."""
        return self.epochs is not None and self.epochs.trains(name)


class Given(NamedTuple):
    """Some of the rows that a decoder is fitted to: x_n ~ likelihood(decoder(z_n))."""

    z: Float[Tensor, "row latent"]  #: what the decoder is given
    x: Float[Tensor, "row observation"]  #: what of the data the likelihood is a distribution of
    parameters: Parameters  #: of the likelihood, those given with each row included


@dataclass(frozen=True, eq=False)
class Target:
    """What a decoder is fitted to once codes are trained, block after block, read anew at every pass over it.

    What the decoder is given, `z` (row, latent), is in memory for all rows; of the rows themselves one block is.

    Args:
        model: with `spec.likelihood`, and `shared`, the likelihood's parameters.
        rows: of the data, (row, feature).
        inputs: rows of a block -> what the decoder is given, (row, latent).
        modelled: rows of a block -> the features that the likelihood reads.
    """

    model: Any
    rows: Tensor | StoredRows
    inputs: Callable[[Tensor], Tensor]
    modelled: Callable[[Tensor], Tensor] = lambda rows: rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Given]:
        for begin, rows in row_blocks(self.rows):
            yield self._given(self.z[begin : begin + len(rows)], rows)

    @functools.cached_property
    @torch.no_grad()
    def z(self) -> Float[Tensor, "row latent"]:
        """What the decoder is given for each row."""
        return torch.cat([self.inputs(rows) for _, rows in row_blocks(self.rows)])

    @property
    def shared(self) -> Parameters:
        """The likelihood's parameters that all observations share."""
        return dict(self.model.shared.items())

    def at(self, index: Int[Tensor, " row"]) -> Given:
        """The rows of these numbers."""
        return self._given(self.z[index], self.rows[index])

    @torch.no_grad()
    def _given(self, z: Tensor, rows: Tensor) -> Given:
        likelihood: Likelihood = self.model.spec.likelihood
        x = self.modelled(rows)
        return Given(z, likelihood.observed(x), {**self.shared, **likelihood.known(x)})


def inside(phase: Phase, path: str, data: Callable[[Any, Any], Any]) -> Phase:
    """The phase of a module's part as a phase of the module.

    Args:
        phase: of the part.
        path: where it stands in the module, dotted.
        data: (module, what the module is fitted to) -> what the part is fitted to.
    """
    prefix, epochs, start, check = f"{path}.", phase.epochs, phase.start, phase.check

    def trains(name: str) -> bool:
        return name.startswith(prefix) and phase.trains(name.removeprefix(prefix))

    def start_part(module: nn.Module, fitted_to: Any, seed: int) -> None:
        assert start is not None
        with torch.no_grad():
            given = data(module, fitted_to)
        start(module.get_submodule(path), given, seed)

    @torch.no_grad()
    def check_part(module: nn.Module, fitted_to: Any) -> None:
        given = data(module, fitted_to)
        if check is not None:
            check(module.get_submodule(path), given)

    epochs = epochs and dataclasses.replace(epochs, trains=trains)
    return Phase(phase.name, epochs, start and start_part, check_part if start else None)


def with_decoder(phase: Phase) -> Phase:
    """The first phase of a decoder as that of a model that has it as `decoder`: all else in the model moves too."""
    assert phase.epochs is not None, "a decoder's first phase has epochs"

    def trains(name: str) -> bool:
        return not name.startswith("decoder.") or phase.trains(name.removeprefix("decoder."))

    return Phase(phase.name, dataclasses.replace(phase.epochs, trains=trains), start_from_data)


@torch.no_grad()
def start_from_data(model: Any, x: Float[Tensor, "row feature"] | StoredRows, seed: int) -> None:
    """The likelihood's own parameters at values that suit x: a noise level that starts far off is slow to learn."""
    values: Mapping[str, Tensor] = model.spec.likelihood.initial_parameters(x.shape[1], spread(x))
    for name, value in values.items():
        model.shared[name].copy_(value)
