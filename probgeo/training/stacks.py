"""Retrainings that are trained at once: models of one spec as one batched module, each with noise and rows of its own.

All state is per retraining, along the first dimension of every parameter; nothing of one reaches another.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.models.base import FittedModel
from probgeo.models.phase import Phase
from probgeo.models.vae import LatentSpec
from probgeo.nn import Stacked
from probgeo.nn.affine import batched_linear_layers
from probgeo.rows import StoredRows, sent
from probgeo.training.minibatches import rows_in_turn
from probgeo.training.objective import ELBO, noise_shapes, random_noise, random_rows
from probgeo.training.optimisers import gradients_of
from probgeo.training.recording import NotRecordable, Recording
from probgeo.training.state import TERMS

MAX_NOISE = 2**22  # numbers per retraining that are drawn at once
VALIDATED_ROWS = 1024  # at once


@contextmanager
def pyro_settings() -> Iterator[None]:
    """Inside vmap Pyro must neither look at values (validation) nor share parameters between models (its store)."""
    # Pyro's context gives torch's own default back as what Pyro's is, which at first is another.
    torch_validates = torch.distributions.Distribution._validate_args
    try:
        with pyro.validation_enabled(False), pyro.settings.context(module_local_params=True):
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(torch_validates)


class Minibatch(NamedTuple):
    """Rows, noise and β of one step."""

    x: Float[Tensor, "retraining row feature"]
    noise: dict[str, Tensor]  #: standard normal, (retraining, *shape), by latent variable
    beta: Float[Tensor, "retraining latent"]


def examples(train: Tensor | StoredRows, held_out: Tensor | StoredRows | None, batch_size: int) -> list[Tensor]:
    """Rows like those of a minibatch, then like those that are validated at once: one of each number, largest first."""
    blocks = [] if held_out is None else [held_out[:VALIDATED_ROWS], held_out[: len(held_out) % VALIDATED_ROWS]]
    return [train[:batch_size], *(rows for rows in blocks if len(rows))]


class Stack:
    """Retrainings of one spec, one per seed, as one batched module, with the rows that they are trained on.

    Args:
        spec: what to train.
        train: rows to train on.
        held_out: rows to validate on, or None.
        seeds: one retraining per seed.
        batch_size: rows of a minibatch.
    """

    @pyro_settings()
    def __init__(
        self,
        spec: LatentSpec,
        train: Tensor | StoredRows,
        held_out: Tensor | StoredRows | None,
        seeds: Sequence[int],
        batch_size: int,
    ) -> None:
        self.spec, self.train, self.held_out, self.seeds = spec, train, held_out, tuple(seeds)
        self.like = train[:1]  # tells device and kind of numbers
        models = [spec.build(train.shape[1], seed).to(self.like) for seed in seeds]
        self.phases = models[0].phases
        for phase in self.phases:
            if phase.check:
                phase.check(models[0], train)
        self.batch_size = min(batch_size, len(train))
        some = examples(train, held_out, self.batch_size)
        self.shapes = {len(rows): noise_shapes(models[0], rows) for rows in some}
        self.elbo = Stacked([ELBO(model, len(train)) for model in models])

    # --- weights ---

    def member(self, index: int) -> FittedModel:
        """Retraining `index` as a model of its own, its weights copied."""
        elbo = self.elbo.member(index)
        assert isinstance(elbo, ELBO)
        return elbo.model

    def state(self) -> dict[str, Tensor]:
        """All weights and buffers (retraining, *shape) by name."""
        return self.elbo.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        """Weights and buffers that `state` gave."""
        self.elbo.load_state_dict(state)

    def start(self, phase: Phase, going_on: Sequence[bool]) -> Float[Tensor, " retraining"]:
        """What the phase does before its first epoch, on those that go on; seconds that it took of each."""
        seconds = torch.zeros(len(self.seeds), dtype=torch.float64)
        assert phase.start is not None
        states = []
        for index, seed in enumerate(self.seeds):
            began, member = time.monotonic(), self.member(index)
            if going_on[index]:
                phase.start(member, self.train, seed)
                seconds[index] = time.monotonic() - began
            states.append(member.state_dict())
        prefix = "template.model."
        self.load({prefix + name: torch.stack([state[name] for state in states]) for name in states[0]})
        return seconds

    def trained(self, phase: Phase) -> dict[str, nn.Parameter]:
        """Parameters (retraining, *shape) that the phase moves, by name; no others ask for gradients any more."""
        found = {}
        for path, parameter in self.elbo.template.named_parameters():
            name = path.removeprefix("model.")
            parameter.requires_grad_(phase.trains(name))
            if parameter.requires_grad:
                found[name] = parameter
        return found

    @staticmethod
    def each(value: Tensor) -> Tensor:
        """A parameter or its gradient as (retraining, *shape): as it is."""
        return value

    # --- epochs ---

    def minibatches(self, phase: int, epoch: int) -> Iterator[Minibatch]:
        """Those of an epoch."""
        beta = self._here(self.spec.beta_at(epoch) if phase == 0 else self.spec.final_beta())
        steps = len(self.train) // self.batch_size
        order = random_rows(self.seeds, steps, self.batch_size, len(self.train), "order", phase, epoch)
        order = sent(order, self.train.device) if isinstance(self.train, Tensor) else order
        shapes = self.shapes[self.batch_size]
        chunk = max(1, MAX_NOISE // sum(shape.numel() for shape in shapes.values()))
        for step, x in enumerate(rows_in_turn(self.train, order.unbind(1))):
            if step % chunk == 0:  # the noise of a Bayesian decoder's weights is too much to hold for a whole epoch
                purpose = ("noise", phase, epoch, step)[: 4 if step else 3]
                noise = random_noise(self.seeds, min(chunk, steps - step), shapes, *purpose)
                noise = {name: self._here(value) for name, value in noise.items()}
            given = {name: value[:, step % chunk] for name, value in noise.items()}
            yield Minibatch(x, given, beta.expand(len(self.seeds), -1))

    def backward(self, parameters: Mapping[str, nn.Parameter]) -> Callable[[Minibatch], Tensor]:
        """A function that gives TERMS (term, retraining) of a minibatch, and sets the gradients of the parameters."""
        return RecordedStep(self._terms, list(parameters.values()), self.elbo)

    @torch.no_grad()
    def validation(self, phase: int) -> Float[Tensor, "term retraining"] | None:
        """TERMS on the rows held out, at the final β, with the same noise at every epoch; None without such rows."""
        if self.held_out is None:
            return None
        sums = self.like.new_zeros(len(TERMS), len(self.seeds))
        beta = self._here(self.spec.final_beta())
        begins = range(0, len(self.held_out), VALIDATED_ROWS)
        blocks = (slice(begin, begin + VALIDATED_ROWS) for begin in begins)
        for begin, rows in zip(begins, rows_in_turn(self.held_out, blocks), strict=True):
            noise = random_noise(self.seeds, 1, self.shapes[len(rows)], "validation", phase, begin)
            noise = {name: self._here(value[:, 0]) for name, value in noise.items()}
            minibatch = Minibatch(rows.expand(len(self.seeds), -1, -1), noise, beta.expand(len(self.seeds), -1))
            sums += self._terms(minibatch) * len(rows)
        return sums / len(self.held_out)

    def _here(self, value: Tensor) -> Tensor:
        """On the device of the rows, in their kind of numbers."""
        return sent(value, self.like.device, self.like.dtype)

    def _terms(self, minibatch: Minibatch) -> Float[Tensor, "term retraining"]:
        with batched_linear_layers():
            terms = self.elbo.each(*minibatch)
        return torch.stack([terms[name] for name in TERMS])


class RecordedStep:
    """TERMS and gradients of one minibatch after another: recorded at the first, replayed at the others.

    Args:
        terms: TERMS of a minibatch, the loss first.
        parameters: whose gradients are set; they stay where they are, as does all that the module holds.
        module: what `terms` reads.
    """

    def __init__(
        self, terms: Callable[[Minibatch], Tensor], parameters: Sequence[nn.Parameter], module: nn.Module
    ) -> None:
        self.terms, self.parameters, self.module = terms, parameters, module
        self._recorded: dict[tuple[str, ...], Recording] = {}

    def __call__(self, minibatch: Minibatch) -> Float[Tensor, "term retraining"]:
        names = tuple(minibatch.noise)
        inputs = (minibatch.x, minibatch.beta, *minibatch.noise.values())
        if names not in self._recorded:
            self._recorded[names] = self._recording(names, inputs)
        terms, *gradients = self._recorded[names](*inputs)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return terms

    def _recording(self, names: tuple[str, ...], inputs: Sequence[Tensor]) -> Recording:
        state = [*self.module.parameters(), *self.module.buffers()]
        try:
            return Recording(lambda *values: self._computed(names, values), inputs, state)
        except NotRecordable as error:
            raise ValueError(
                "network: expected one whose output follows from its input and weights alone, so that a seed decides "
                f"what is trained; {error}. For dropout use DropoutDecoder; leave out batch normalisation."
            ) from error

    def _computed(self, names: Sequence[str], values: Sequence[Tensor]) -> list[Tensor | None]:
        x, beta, *noise = values
        terms = self.terms(Minibatch(x, dict(zip(names, noise, strict=True)), beta))
        return [terms, *gradients_of(terms[0].sum(), self.parameters)]
