"""Stochastic variational inference of retrainings that are trained at once, with checkpoints.

All state is per retraining, along the first dimension of every parameter; nothing of one reaches another.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from probgeo import storage
from probgeo.models.base import FittedModel
from probgeo.models.decoders import Phase
from probgeo.models.vae import LatentSpec
from probgeo.nn import Stacked
from probgeo.objectives import ELBO, noise_shapes, random_noise, random_rows
from probgeo.schedules import Schedule
from probgeo.specs import ADDED_LATER

TERMS = ("loss", "log_likelihood", "kl")
MAX_NOISE = 2**22  # numbers per retraining that are drawn at once
HISTORY = (*TERMS, *(f"validation_{name}" for name in TERMS), "gradient_norm", "parameter_norm", "running")

# Called after every epoch with the seed, the epoch counted over all phases, and the terms of the history by name.
Report = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Training:
    """Options of `fit`.

    Args:
        epochs: passes over the data in a phase of share 1.
        batch_size: rows per minibatch; an incomplete last minibatch of an epoch is left out.
        learning_rate: step size of the optimiser.
        optimizer: an elementwise optimiser of torch.optim (Adam, AdamW, SGD, ...).
        optimizer_options: further keyword arguments of the optimiser.
        max_gradient_norm: the gradient of each retraining is scaled down to this norm; None never.
        validation: fraction of the rows held out (the same for every retraining) to choose the best epoch; 0 for none,
            and then the last epoch is kept.
        patience: a retraining stops after this many epochs without a better validation objective; None never.
        schedule: how the learning rate changes over the epochs of a phase, from `probgeo.schedules`; None: it does not.

    Raises:
        ValueError: an option outside its range.
    """

    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
    optimizer_options: dict[str, Any] | None = None
    max_gradient_norm: float | None = None
    validation: float = 0.1
    patience: int | None = None
    schedule: Schedule | None = field(default=None, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs, batch_size: expected at least 1; got {self.epochs}, {self.batch_size}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a positive number; got {self.learning_rate}.")
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0:
            raise ValueError(f"max_gradient_norm: expected a positive number, or None; got {self.max_gradient_norm}.")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation: expected a fraction in [0, 1); got {self.validation}.")
        if self.patience is not None and (self.patience < 1 or self.validation == 0):
            raise ValueError(
                f"patience: expected at least 1 and validation > 0; got {self.patience}, validation={self.validation}."
            )
        if issubclass(self.optimizer, torch.optim.LBFGS):
            raise ValueError("optimizer: expected an elementwise optimiser such as Adam; got LBFGS.")


@contextmanager
def _pyro_settings() -> Iterator[None]:
    # Inside vmap Pyro must neither look at values (validation) nor share parameters between models (its global store).
    with pyro.validation_enabled(False), pyro.settings.context(module_local_params=True):
        yield


def num_epochs(phase: Phase, training: Training) -> int:
    """Epochs of a phase: at least one, unless its share is zero."""
    return max(1, round(phase.share * training.epochs)) if phase.share else 0


def learning_rate(phase: Phase, training: Training, epoch: int) -> float:
    """The optimiser's step size at an epoch of a phase: learning rate · phase's rate · schedule's factor."""
    factor = training.schedule.factor(epoch, num_epochs(phase, training)) if training.schedule else 1.0
    return phase.rate * training.learning_rate * factor


class Retrainings:
    """Retrainings of one spec, one per seed, as one batched module that is trained phase by phase."""

    def __init__(
        self, spec: LatentSpec, train: Tensor, held_out: Tensor | None, seeds: list[int], training: Training
    ) -> None:
        self.spec, self.train, self.held_out, self.seeds, self.training = spec, train, held_out, seeds, training
        models = [spec.build(train.shape[1], seed).to(train) for seed in seeds]
        self.phases = models[0].phases
        self.batch_size = min(training.batch_size, len(train))
        self.shapes = noise_shapes(models[0], train[: self.batch_size])
        self.elbo = Stacked([ELBO(model, len(train)) for model in models])
        self.diverged = [""] * len(seeds)
        self.seconds = torch.zeros(len(seeds), dtype=torch.float64)  # of training; those trained at once share equally
        self.history: list[Tensor] = []
        self.names: list[str] = []

    @_pyro_settings()
    def run(self, bar: tqdm, path: Path | None, checkpoint_seconds: float, report: Report | None = None) -> None:
        """All phases, from the checkpoint at `path` if there is one."""
        checkpoint = storage.read_tensors(path) if path and path.exists() else None
        begin = tuple(checkpoint["place"].tolist()) if checkpoint else (0, 0)
        saved = time.monotonic()
        for index, phase in enumerate(self.phases[begin[0] :], start=begin[0]):
            first = begin[1] if index == begin[0] else 0
            epochs = num_epochs(phase, self.training)
            if checkpoint and index == begin[0]:
                self._begin(phase)
                self._restore(checkpoint)
                bar.update(first + sum(num_epochs(done, self.training) for done in self.phases[:index]))
            else:
                self._start(phase)
                if epochs == 0:
                    continue
                self._begin(phase)
            for epoch in range(first, epochs):
                if self.running.any():
                    began = time.monotonic()
                    self._epoch(index, epoch)
                    self.seconds += (time.monotonic() - began) / len(self.seeds)
                    if report:
                        self._report(report)
                    if path and time.monotonic() - saved > checkpoint_seconds:
                        storage.write_tensors(path, self._checkpoint(index, epoch + 1))
                        saved = time.monotonic()
                bar.update()
            self.last = self._parameters(good=True)
            self._assign(self.best)

    def _report(self, report: Report) -> None:
        """The last epoch of those that ran."""
        for seed, values in zip(self.seeds, self.history[-1].T.tolist(), strict=True):
            if values[-1]:
                report(seed, len(self.history) - 1, dict(zip(HISTORY[:-1], values[:-1], strict=True)))

    def results(self) -> Iterator[tuple[int, FittedModel, dict[str, Any], dict[str, Tensor]]]:
        """(seed, model, what to say of it, last parameters of the last phase) per retraining."""
        values = torch.stack(self.history).double().numpy()  # (epoch, term, retraining)
        for index, seed in enumerate(self.seeds):
            extra = {"seed": seed, "diverged": self.diverged[index]}
            ran = values[:, -1, index] > 0  # the others of the group may have gone on for longer
            history = xr.Dataset(
                {name: ("epoch", values[ran, term, index]) for term, name in enumerate(HISTORY[:-1])},
                coords={"epoch": range(ran.sum()), "phase": ("epoch", np.array(self.names)[ran])},
                attrs=extra,
            )
            model = self.spec.build(self.train.shape[1], seed, history=history).to(self.train)
            model.load_state_dict(self._member(index).state_dict())
            extra = {**extra, "seconds": self.seconds[index].item()}  # not in the history: there, equal runs are equal
            last = {name.removeprefix("model."): value[index] for name, value in self.last.items()}
            yield seed, model.eval(), extra, last

    def _member(self, index: int) -> FittedModel:
        """Retraining `index` as a model of its own, its weights copied."""
        elbo = self.elbo.member(index)
        assert isinstance(elbo, ELBO)
        return elbo.model

    # --- phases ---

    def _start(self, phase: Phase) -> None:
        """What the phase does before its first epoch, on each retraining that still runs."""
        if phase.start is None:
            return
        members = [self._member(index) for index in range(len(self.seeds))]
        for index, member in enumerate(members):
            if not self.diverged[index]:
                began = time.monotonic()
                phase.start(member, self.train, self.seeds[index])
                self.seconds[index] += time.monotonic() - began
        self.elbo = Stacked([ELBO(member, len(self.train)) for member in members])

    def _begin(self, phase: Phase) -> None:
        self.phase = phase
        self.trained: dict[str, nn.Parameter] = {}
        for name, parameter in self.elbo.template.named_parameters():
            parameter.requires_grad_(phase.trains(name.removeprefix("model.")))
            if parameter.requires_grad:
                self.trained[name] = parameter
        optimizer: Any = self.training.optimizer
        options = self.training.optimizer_options or {}
        self.optimizer = optimizer(self.trained.values(), lr=learning_rate(phase, self.training, 0), **options)
        num = len(self.seeds)
        self.running: Bool[Tensor, " retraining"] = torch.tensor([not text for text in self.diverged])
        self.best_loss, self.waited = torch.full((num,), torch.inf), torch.zeros(num, dtype=torch.long)
        self.best, self.good = self._parameters(), self._parameters()

    def _parameters(self, good: bool = False) -> dict[str, Tensor]:
        source = self.good if good else self.trained
        return {name: value.detach().clone() for name, value in source.items()}

    def _assign(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.trained[name].copy_(value)

    # --- epochs ---

    def _epoch(self, phase_index: int, epoch: int) -> None:
        """One pass over the data; then the best and last good parameters are brought up to date."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(self.phase, self.training, epoch)
        beta = self.spec.beta_at(epoch if phase_index == 0 else 10**9).to(self.train)
        sums = self.train.new_zeros(len(TERMS), len(self.seeds))
        steps = len(self.train) // self.batch_size
        order = random_rows(self.seeds, steps, self.batch_size, len(self.train), "order", phase_index, epoch)
        order = order.to(self.train.device)
        chunk = max(1, MAX_NOISE // sum(shape.numel() for shape in self.shapes.values()))
        for step in range(steps):
            self.optimizer.zero_grad()
            if step % chunk == 0:  # the noise of a Bayesian decoder's weights is too much to hold for a whole epoch
                purpose = ("noise", phase_index, epoch, step)[: 4 if step else 3]
                noise = random_noise(self.seeds, min(chunk, steps - step), self.shapes, *purpose)
                noise = {name: value.to(self.train) for name, value in noise.items()}
            given = {name: value[:, step % chunk] for name, value in noise.items()}
            terms = self._terms(self.train[order[:, step]], given, beta)
            terms["loss"].sum().backward()
            if self.training.max_gradient_norm is not None:
                self._clip(self.training.max_gradient_norm)
            self.optimizer.step()
            sums += torch.stack([terms[name].detach() for name in TERMS])
        gradients = [parameter.grad for parameter in self.trained.values() if parameter.grad is not None]
        norms = torch.stack([_norm(gradients), _norm(list(self.trained.values()))])
        running = self.running.to(sums)[None]
        record = torch.cat([sums / steps, self._validation(phase_index), norms, running]).cpu()
        self.history.append(record)
        self.names.append(self.phase.name)
        self._judge(record, epoch)

    def _judge(self, record: Float[Tensor, "term retraining"], epoch: int) -> None:
        finite = torch.isfinite(record[[0, HISTORY.index("parameter_norm")]]).all(0)
        for index in (self.running & ~finite).nonzero().flatten().tolist():
            self.diverged[index] = f"seed {self.seeds[index]} at epoch {epoch} of phase {self.phase.name!r}"
        self.running &= finite
        if self.held_out is None:
            improved = self.running.clone()
        else:
            loss = record[HISTORY.index("validation_loss")]
            improved = self.running & (loss < self.best_loss)
            self.best_loss = torch.where(improved, loss, self.best_loss)
        for kept, which in ((self.best, improved), (self.good, self.running)):
            for name, parameter in self.trained.items():
                kept[name][which] = parameter.detach()[which]
        self.waited = torch.where(improved, 0, self.waited + 1)
        if self.training.patience is not None:
            self.running &= self.waited < self.training.patience

    @torch.no_grad()
    def _validation(self, phase_index: int) -> Float[Tensor, "term retraining"]:
        """Terms on the rows held out, at the final β, with the same noise at every epoch; NaN without such rows."""
        sums = self.train.new_zeros(len(TERMS), len(self.seeds))
        if self.held_out is None:
            return sums + torch.nan
        beta = self.spec.final_beta().to(self.train)
        for begin in range(0, len(self.held_out), 1024):
            rows = self.held_out[begin : begin + 1024]
            shapes = noise_shapes(self._member(0), rows)
            noise = random_noise(self.seeds, 1, shapes, "validation", phase_index, begin)
            noise = {name: value[:, 0].to(self.train) for name, value in noise.items()}
            terms = self._terms(rows.expand(len(self.seeds), -1, -1), noise, beta)
            sums += torch.stack([terms[name] for name in TERMS]) * len(rows)
        return sums / len(self.held_out)

    def _terms(self, x: Tensor, noise: dict[str, Tensor], beta: Tensor) -> dict[str, Tensor]:
        return self.elbo.each(x, noise, beta.expand(len(self.seeds), -1))

    @torch.no_grad()
    def _clip(self, max_norm: float) -> None:
        gradients = [parameter.grad for parameter in self.trained.values() if parameter.grad is not None]
        scale = (max_norm / _norm(gradients)).clamp(max=1)
        for gradient in gradients:
            gradient *= scale.reshape(-1, *[1] * (gradient.ndim - 1))

    # --- checkpoints ---

    def _checkpoint(self, phase_index: int, epoch: int) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {
            "place": torch.tensor([phase_index, epoch]),
            "history": torch.stack(self.history),
            "running": self.running,
            "seconds": self.seconds,
            "best_loss": self.best_loss,
            "waited": self.waited,
            "diverged": torch.tensor([list(text.encode().ljust(200)) for text in self.diverged], dtype=torch.uint8),
            **{f"elbo/{name}": value for name, value in self.elbo.state_dict().items()},
            **{f"best/{name}": value for name, value in self.best.items()},
            **{f"good/{name}": value for name, value in self.good.items()},
            **{
                f"optimizer/{index}/{name}": value
                for index, values in state.items()
                for name, value in values.items()
                if isinstance(value, Tensor)
            },
        }

    def _restore(self, checkpoint: dict[str, Tensor]) -> None:
        """Continue where `_checkpoint` was taken; `_begin` has been called."""
        parts: dict[str, dict[str, Tensor]] = {"elbo": {}, "best": {}, "good": {}, "optimizer": {}}
        for name, value in checkpoint.items():
            part, slash, rest = name.partition("/")
            if slash:
                parts[part][rest] = value
        self.elbo.load_state_dict(parts["elbo"])
        self.best = {name: value.to(self.train.device) for name, value in parts["best"].items()}
        self.good = {name: value.to(self.train.device) for name, value in parts["good"].items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.running, self.waited = checkpoint["running"], checkpoint["waited"]
        self.seconds = checkpoint["seconds"]
        self.best_loss = checkpoint["best_loss"]
        self.history = list(checkpoint["history"])
        self.diverged = [bytes(row.tolist()).decode().rstrip() for row in checkpoint["diverged"]]
        phase_index, epoch = checkpoint["place"].tolist()
        done = [phase.name for phase in self.phases[:phase_index] for _ in range(num_epochs(phase, self.training))]
        self.names = (done + [self.phase.name] * epoch)[-len(self.history) :]


def _norm(values: list[Tensor]) -> Float[Tensor, " retraining"]:
    """Euclidean norm over everything but the first dimension of all tensors together."""
    squares = [value.detach().reshape(len(value), -1).square().sum(1) for value in values]
    return torch.stack(squares).sum(0).sqrt()
