"""Training: stochastic variational inference of one or many retrainings, stacked into one batched module."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from probgeo import storage
from probgeo.nn import Stacked
from probgeo.objectives import ELBO, noise_shapes
from probgeo.specs import digest, stream, to_config

_TERMS = ("loss", "log_likelihood", "kl")
_HISTORY = (*_TERMS, *(f"validation_{name}" for name in _TERMS), "gradient_norm", "parameter_norm")


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

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs, batch_size: expected at least 1; got {self.epochs}, {self.batch_size}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a positive number; got {self.learning_rate}.")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation: expected a fraction in [0, 1); got {self.validation}.")
        if self.patience is not None and (self.patience < 1 or self.validation == 0):
            raise ValueError(
                f"patience: expected at least 1 and validation > 0; got {self.patience}, validation={self.validation}."
            )
        if issubclass(self.optimizer, torch.optim.LBFGS):
            raise ValueError("optimizer: expected an elementwise optimiser such as Adam; got LBFGS.")


class TrainingDiverged(ArithmeticError):
    """The objective of some retrainings became NaN or infinite; each keeps its weights of the last good epoch.

    Attributes:
        models: all retrainings, in the order of the seeds.
    """

    def __init__(self, message: str, models: list[nn.Module]) -> None:
        super().__init__(message)
        self.models = models


def fit(
    spec: Any,
    x: Tensor,
    seeds: Sequence[int] = (0,),
    *,
    training: Training = Training(),
    folder: str | os.PathLike | None = None,
    stack: int = 10,
    progress: bool = True,
    checkpoint_seconds: float = 30.0,
) -> list[nn.Module]:
    """Models fitted to x by maximising the ELBO, one per seed; each equals the one trained alone, up to rounding.

    Initial weights, order of the data and noise are drawn from streams of the seed's own.

    Args:
        spec: what to train, e.g. `VAE(...)`.
        x: data (row, observation), floating point; training runs on its device.
        seeds: one retraining per seed.
        training: epochs, batch size, optimiser, validation, early stopping.
        folder: where retraining `seed` is saved, as `folder/seed-<seed>`; finished ones are loaded instead of trained,
            and an interrupted run goes on from its last checkpoint.
        stack: how many retrainings are trained at once, as one batched module.
        progress: show a bar with the remaining time.
        checkpoint_seconds: how often an unfinished run is saved, at most once an epoch.

    Returns:
        Fitted models in the order of `seeds`, at the best validation epoch of each phase (the last epoch without
        validation), each with its `history`.

    Raises:
        TypeError, ValueError: x is not data of this model; fewer rows than a minibatch; seeds empty or repeated.
        FileExistsError: `folder` holds a retraining of another configuration.
        TrainingDiverged: an objective became NaN or infinite; the message names seeds and epochs.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected at least one seed, none repeated; got {seeds}.")
    if stack < 1:
        raise ValueError(f"stack: expected at least 1; got {stack}.")
    spec.check(x)
    train, held_out = _split(x, training)
    identity = {"training": to_config(training), "data": digest(x)}
    finished = {seed: _finished(Path(folder), seed, spec, identity) for seed in seeds} if folder else {}
    pending = [seed for seed in seeds if finished.get(seed) is None]
    groups = [pending[i : i + stack] for i in range(0, len(pending), stack)]
    num_epochs = sum(_num_epochs(phase, training) for phase in spec.build(x.shape[1], seed=0).phases)
    with tqdm(total=num_epochs * len(groups), unit="epoch", disable=not (progress and pending)) as bar:
        for group in groups:
            bar.set_description(f"training {type(spec.decoder).__name__}, seeds {group[0]} to {group[-1]}")
            path = Path(folder) / f"unfinished-{digest(identity, spec, group)}.safetensors" if folder else None
            run = _Group(spec, train, held_out, group, training)
            with _pyro_settings():
                run.run(bar, path, checkpoint_seconds)
            for seed, model, extra, last in run.results():
                finished[seed] = model
                if folder:
                    storage.save(model, Path(folder) / f"seed-{seed}", {**identity, **extra}, last=last)
            if path:
                path.unlink(missing_ok=True)
    models = [finished[seed] for seed in seeds]
    diverged = [model.history.attrs["diverged"] for model in models if model.history.attrs["diverged"]]
    if diverged:
        raise TrainingDiverged(
            f"training: the objective became NaN or infinite for {'; '.join(diverged)}. Each keeps the weights of its "
            "last good epoch. Lower learning_rate or set max_gradient_norm, and train into another folder.",
            models,
        )
    return models


@contextmanager
def _pyro_settings() -> Iterator[None]:
    # Inside vmap Pyro must neither look at values (validation) nor share parameters between models (its global store).
    with pyro.validation_enabled(False), pyro.settings.context(module_local_params=True):
        yield


def _num_epochs(phase: Any, training: Training) -> int:
    return max(1, round(phase.share * training.epochs))


def _split(x: Tensor, training: Training) -> tuple[Tensor, Tensor | None]:
    num_held_out = round(training.validation * len(x))
    if num_held_out == 0:
        return x, None
    order = torch.randperm(len(x), generator=stream("validation", len(x))).to(x.device)
    return x[order[num_held_out:]], x[order[:num_held_out]]


def _finished(folder: Path, seed: int, spec: Any, identity: dict[str, Any]) -> nn.Module | None:
    place = folder / f"seed-{seed}"
    if not place.exists():
        return None
    config = storage.read_config(place)
    found = {"model": config["model"], **{key: config["extra"][key] for key in identity}}
    expected = {"model": to_config(spec), **identity}
    different = [key for key in expected if found[key] != expected[key]]
    if different:
        raise FileExistsError(
            f"folder: {place} holds a retraining of another {' and '.join(different)}. Choose another folder."
        )
    return storage.load(place)


class _Group:
    """Retrainings that are trained at once. All state is per retraining; nothing of one reaches another."""

    def __init__(self, spec: Any, train: Tensor, held_out: Tensor | None, seeds: list[int], training: Training) -> None:
        self.spec, self.train, self.held_out, self.seeds, self.training = spec, train, held_out, seeds, training
        models = [spec.build(train.shape[1], seed).to(train) for seed in seeds]
        self.phases = models[0].phases
        self.batch_size = min(training.batch_size, len(train))
        self.shapes = noise_shapes(models[0], train[: self.batch_size])
        self.elbo = Stacked([ELBO(model, len(train)) for model in models])
        self.diverged = [""] * len(seeds)
        self.history: list[Tensor] = []
        self.names: list[str] = []

    def run(self, bar: tqdm, path: Path | None, checkpoint_seconds: float) -> None:
        """All phases, from the checkpoint at `path` if there is one."""
        checkpoint = storage.read_tensors(path) if path and path.exists() else None
        begin = tuple(checkpoint["place"].tolist()) if checkpoint else (0, 0)
        saved = time.monotonic()
        for index, phase in enumerate(self.phases[begin[0] :], start=begin[0]):
            first = begin[1] if index == begin[0] else 0
            num_epochs = _num_epochs(phase, self.training)
            if checkpoint and index == begin[0]:
                self._begin(phase)
                self._restore(checkpoint)
                bar.update(len(self.history))
            else:
                self._start(phase)
                self._begin(phase)
            for epoch in range(first, num_epochs):
                if self.running.any():
                    self._epoch(index, epoch)
                    if path and time.monotonic() - saved > checkpoint_seconds:
                        storage.write_tensors(path, self._checkpoint(index, epoch + 1))
                        saved = time.monotonic()
                bar.update()
            self.last = self._parameters(good=True)
            self._assign(self.best)

    def results(self) -> Iterator[tuple[int, nn.Module, dict[str, Any], dict[str, Tensor]]]:
        """(seed, model, what to say of it, last parameters of the last phase) per retraining."""
        values = torch.stack(self.history).double().numpy()  # (epoch, term, retraining)
        for index, seed in enumerate(self.seeds):
            extra = {"seed": seed, "diverged": self.diverged[index]}
            history = xr.Dataset(
                {name: ("epoch", values[:, term, index]) for term, name in enumerate(_HISTORY)},
                coords={"epoch": range(len(values)), "phase": ("epoch", self.names)},
                attrs=extra,
            )
            model = self.spec.build(self.train.shape[1], seed, history=history).to(self.train)
            model.load_state_dict(self.elbo.member(index).model.state_dict())
            last = {name.removeprefix("model."): value[index] for name, value in self.last.items()}
            yield seed, model.eval(), extra, last

    # --- phases ---

    def _start(self, phase: Any) -> None:
        """What the phase does before its first epoch, on each retraining that still runs."""
        if phase.start is None:
            return
        members = [self.elbo.member(index) for index in range(len(self.seeds))]
        for index, member in enumerate(members):
            if not self.diverged[index]:
                phase.start(member.model, self.train, self.seeds[index])
        self.elbo = Stacked(members)

    def _begin(self, phase: Any) -> None:
        self.phase = phase
        self.trained: dict[str, nn.Parameter] = {}
        for name, parameter in self.elbo.template.named_parameters():
            parameter.requires_grad_(phase.trains(name.removeprefix("model.")))
            if parameter.requires_grad:
                self.trained[name] = parameter
        self.optimizer = self.training.optimizer(
            self.trained.values(),
            lr=phase.rate * self.training.learning_rate,
            **(self.training.optimizer_options or {}),
        )
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
        beta = self.spec.beta_at(epoch if phase_index == 0 else 10**9).to(self.train)
        sums = torch.zeros(len(_TERMS), len(self.seeds), device=self.train.device)
        steps = len(self.train) // self.batch_size
        order = self._rows("order", phase_index, epoch, steps)
        noise = self._noise("noise", phase_index, epoch, steps, self.shapes)
        for step in range(steps):
            self.optimizer.zero_grad()
            terms = self._terms(
                self.train[order[:, step]], {name: value[:, step] for name, value in noise.items()}, beta
            )
            terms["loss"].sum().backward()
            if self.training.max_gradient_norm is not None:
                self._clip(self.training.max_gradient_norm)
            self.optimizer.step()
            sums += torch.stack([terms[name].detach() for name in _TERMS])
        norms = torch.stack([_norm(p.grad for p in self.trained.values()), _norm(self.trained.values())])
        record = torch.cat([sums / steps, self._validation(phase_index), norms]).cpu()
        self.history.append(record)
        self.names.append(self.phase.name)
        self._judge(record, epoch)

    def _judge(self, record: Float[Tensor, "term retraining"], epoch: int) -> None:
        finite = torch.isfinite(record[[0, _HISTORY.index("parameter_norm")]]).all(0)
        for index in (self.running & ~finite).nonzero().flatten().tolist():
            self.diverged[index] = f"seed {self.seeds[index]} at epoch {epoch} of phase {self.phase.name!r}"
        self.running &= finite
        if self.held_out is None:
            improved = self.running.clone()
        else:
            loss = record[_HISTORY.index("validation_loss")]
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
        sums = torch.zeros(len(_TERMS), len(self.seeds), device=self.train.device)
        if self.held_out is None:
            return sums + torch.nan
        beta = self.spec.final_beta().to(self.train)
        for begin in range(0, len(self.held_out), 1024):
            rows = self.held_out[begin : begin + 1024]
            shapes = noise_shapes(self.elbo.member(0).model, rows)
            noise = self._noise("validation", phase_index, begin, 1, shapes)
            terms = self._terms(
                rows.expand(len(self.seeds), -1, -1), {name: value[:, 0] for name, value in noise.items()}, beta
            )
            sums += torch.stack([terms[name] for name in _TERMS]) * len(rows)
        return sums / len(self.held_out)

    def _terms(self, x: Tensor, noise: dict[str, Tensor], beta: Tensor) -> dict[str, Tensor]:
        return self.elbo.each(x, noise, beta.expand(len(self.seeds), -1))

    def _rows(self, purpose: str, phase_index: int, epoch: int, steps: int) -> Tensor:
        """Rows of each minibatch: (retraining, step, row)."""
        orders = [
            torch.randperm(len(self.train), generator=stream(seed, purpose, phase_index, epoch)) for seed in self.seeds
        ]
        rows = torch.stack(orders)[:, : steps * self.batch_size]
        return rows.reshape(len(self.seeds), steps, self.batch_size).to(self.train.device)

    def _noise(
        self, purpose: str, phase_index: int, epoch: int, steps: int, shapes: dict[str, torch.Size]
    ) -> dict[str, Tensor]:
        """Standard normal noise of every latent variable: (retraining, step, *shape)."""
        return {
            name: torch.stack(
                [
                    torch.randn((steps, *shape), generator=stream(seed, purpose, name, phase_index, epoch))
                    for seed in self.seeds
                ]
            ).to(self.train)
            for name, shape in shapes.items()
        }

    @torch.no_grad()
    def _clip(self, max_norm: float) -> None:
        scale = (max_norm / _norm(p.grad for p in self.trained.values())).clamp(max=1)
        for parameter in self.trained.values():
            parameter.grad *= scale.reshape(-1, *[1] * (parameter.ndim - 1))

    # --- checkpoints ---

    def _checkpoint(self, phase_index: int, epoch: int) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {
            "place": torch.tensor([phase_index, epoch]),
            "history": torch.stack(self.history),
            "running": self.running,
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
        self.best_loss = checkpoint["best_loss"]
        self.history = list(checkpoint["history"])
        self.diverged = [bytes(row.tolist()).decode().rstrip() for row in checkpoint["diverged"]]
        phase_index, epoch = checkpoint["place"].tolist()
        done = [phase.name for phase in self.phases[:phase_index] for _ in range(_num_epochs(phase, self.training))]
        self.names = (done + [self.phase.name] * epoch)[-len(self.history) :]


def _norm(values: Any) -> Float[Tensor, " retraining"]:
    """Euclidean norm over everything but the first dimension of all tensors together."""
    return sum(
        value.detach().flatten(1).square().sum(1) if value.ndim > 1 else value.detach().square() for value in values
    ).sqrt()
