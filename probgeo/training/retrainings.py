"""The loop of training: phase by phase, epoch by epoch, with checkpoints."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from probgeo.models.base import FittedModel
from probgeo.models.phase import Epochs, Phase
from probgeo.training import storage
from probgeo.training.gplvm import SingleGPLVM
from probgeo.training.optimisers import optimizer_of
from probgeo.training.options import Report, Training, learning_rate, num_epochs
from probgeo.training.stacks import Stack, pyro_settings
from probgeo.training.state import (
    HISTORY,
    Epoch,
    State,
    beginning,
    entered,
    history_of,
    judged,
    part,
    taken_up,
    written,
)

Group = Stack | SingleGPLVM


@pyro_settings()
def train(
    group: Group,
    training: Training,
    bar: tqdm,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    report: Report | None = None,
) -> State:
    """All phases of retrainings that are trained at once, from their checkpoint if there is one.

    Args:
        group: the retrainings, which end at the best epoch of every phase.
        training: options.
        bar: is told of every epoch.
        checkpoint: file of an unfinished run; None: nothing is written.
        checkpoint_seconds: how often it is written, at most once an epoch.
        report: called after every epoch.

    Returns:
        Where they stand at the end.
    """
    remedy = f"Delete this file alone: seeds {', '.join(map(str, group.seeds))} begin anew, finished ones stay."
    found = storage.read_tensors(checkpoint, remedy) if checkpoint and checkpoint.exists() else None
    state = taken_up(group.seeds, found, group.train.device) if found else beginning(group.seeds)
    if found:
        group.load(part(found, "group"))
    saved = time.monotonic()
    last = max(index for index, phase in enumerate(group.phases) if phase.epochs)
    for index, phase in enumerate(group.phases):
        resumed = found is not None and index == state.phase
        total = num_epochs(phase, training)
        if index < state.phase:
            bar.update(total)
            continue
        if phase.start and not resumed:
            state = replace(state, seconds=state.seconds + group.start(phase, (~state.lost).tolist()))
        if phase.epochs is None:
            continue
        optimisation = Optimisation(group, phase, phase.epochs, training, total)
        if resumed:
            assert found is not None
            optimisation.load(part(found, "optimizer"))
            bar.update(state.epoch)
        else:
            state = entered(state, index, optimisation.values)
        for _ in range(state.epoch, total):
            if state.running.any():
                state = optimisation.epoch(state)
                if report:
                    _report(state, report)
                if checkpoint and time.monotonic() - saved > checkpoint_seconds:
                    _write(checkpoint, group, optimisation, state)
                    saved = time.monotonic()
            bar.update()
        if checkpoint and index == last and len(group.seeds) > 1:
            # Those that are not saved yet when the run ends are trained among as many again: their last digits show it.
            _write(checkpoint, group, optimisation, state)
        optimisation.assign(state.best)
    return state


class Optimisation:
    """The optimiser of a phase, and its epochs.

    Args:
        group: whose parameters move.
        phase: which of them.
        epochs: of the phase.
        training: options.
        num_epochs: how many.
    """

    def __init__(self, group: Group, phase: Phase, epochs: Epochs, training: Training, num_epochs: int) -> None:
        self.group, self.phase, self.epochs, self.training, self.num_epochs = group, phase, epochs, training, num_epochs
        self.parameters = group.trained(phase)
        self.backward: Callable[[Any], Tensor] = group.backward(self.parameters)
        rate = learning_rate(epochs, training, 0, num_epochs)
        parameters = list(self.parameters.values())
        self.optimizer = optimizer_of(training.optimizer, parameters, rate, training.optimizer_options or {})

    @property
    def values(self) -> dict[str, Tensor]:
        """The parameters (retraining, *shape) by name, in place."""
        return {name: self.group.each(parameter.detach()) for name, parameter in self.parameters.items()}

    def assign(self, values: Mapping[str, Tensor]) -> None:
        """Set the parameters."""
        for name, value in self.values.items():
            value.copy_(values[name])

    def epoch(self, state: State) -> State:
        """One pass over the data, and what it makes of the state."""
        began = time.monotonic()
        for options in self.optimizer.param_groups:
            options["lr"] = learning_rate(self.epochs, self.training, state.epoch, self.num_epochs)
        reason = ""
        try:
            terms = self._steps(state)
        except ArithmeticError as error:  # a matrix that is not positive definite: the group is lost
            terms, reason = torch.full((len(HISTORY), len(state.seeds)), torch.nan), str(error)
        epoch = Epoch(self.phase.name, terms, state.running)
        held_out = self.group.held_out is not None
        state = judged(state, epoch, self.values, self.training.patience, held_out, reason)
        return replace(state, seconds=state.seconds + (time.monotonic() - began) / len(state.seeds))

    def _steps(self, state: State) -> Float[Tensor, "term retraining"]:
        """One step for each minibatch; the terms of HISTORY."""
        sums: Any = 0
        num_steps = 0
        minibatches: Iterator[Any] = self.group.minibatches(state.phase, state.epoch)
        for minibatch in minibatches:
            terms = self.backward(minibatch)
            if self.training.max_gradient_norm is not None:
                _clip(self._gradients(), self.training.max_gradient_norm)
            self.optimizer.step()
            sums, num_steps = sums + terms, num_steps + 1
        validation = self.group.validation(state.phase)
        validation = torch.full_like(sums, torch.nan) if validation is None else validation
        norms = torch.stack([_norm(self._gradients()), _norm(list(self.values.values()))])
        return torch.cat([sums / num_steps, validation, norms]).cpu()

    def _gradients(self) -> list[Tensor]:
        found = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        return [self.group.each(gradient) for gradient in found]

    def state(self) -> dict[str, Tensor]:
        """The optimiser's moments by place and name."""
        moments = self.optimizer.state_dict()["state"]
        return {
            f"{index}/{name}": value
            for index, values in moments.items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Moments that `state` gave."""
        moments: dict[int, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            index, name = path.split("/")
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _write(checkpoint: Path, group: Group, optimisation: Optimisation, state: State) -> None:
    """All that a run needs to go on."""
    parts = {"group": group.state(), "optimizer": optimisation.state()}
    storage.write_tensors(checkpoint, written(state) | _joined(parts))


def results(group: Group, state: State) -> Iterator[tuple[int, FittedModel, dict[str, Any], dict[str, Tensor]]]:
    """(seed, model, what to say of it, last parameters of the last phase) per retraining."""
    for index, seed in enumerate(state.seeds):
        history = history_of(state, index)
        model = group.spec.build(group.train.shape[1], seed, history=history)
        model = model.to(device=group.train.device, dtype=group.train.dtype)
        model.load_state_dict(group.member(index).state_dict())
        # Seconds are not in the history: there, equal runs are equal.
        extra = {**history.attrs, "seconds": state.seconds[index].item()}
        yield seed, model.eval(), extra, {name: value[index] for name, value in state.good.items()}


def _report(state: State, report: Report) -> None:
    """The last epoch of those that ran."""
    last = state.history[-1]
    for index, seed in enumerate(state.seeds):
        if last.ran[index]:
            values = dict(zip(HISTORY, last.terms[:, index].tolist(), strict=True))
            report(seed, len(state.history) - 1, values)


def _joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}/{path}": value for name, values in parts.items() for path, value in values.items()}


@torch.no_grad()
def _clip(gradients: Sequence[Tensor], max_norm: float) -> None:
    """Scale the gradient of each retraining down to a norm."""
    scale = (max_norm / _norm(gradients)).clamp(max=1)
    for gradient in gradients:
        gradient *= scale.reshape(-1, *[1] * (gradient.ndim - 1))


def _norm(values: Sequence[Tensor]) -> Float[Tensor, " retraining"]:
    """Euclidean norm over everything but the first dimension of all tensors together."""
    squares = [value.detach().reshape(len(value), -1).square().sum(1) for value in values]
    return torch.stack(squares).sum(0).sqrt()
