"""Where the training of some retrainings stands: how it is judged, written down, and taken up again."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

TERMS = ("loss", "log_likelihood", "kl")
HISTORY = (*TERMS, *(f"validation_{name}" for name in TERMS), "gradient_norm", "parameter_norm")
VALIDATION_LOSS, PARAMETER_NORM = HISTORY.index("validation_loss"), HISTORY.index("parameter_norm")


@dataclass(frozen=True)
class Epoch:
    """An epoch that is over.

    Args:
        phase: name of its phase.
        terms: in the order of HISTORY.
        ran: which retrainings were still trained in it.
    """

    phase: str
    terms: Float[Tensor, "term retraining"]
    ran: Bool[Tensor, " retraining"]


@dataclass(frozen=True)
class State:
    """Where the training of some retrainings stands, but for their weights and the optimiser's moments.

    Nothing is changed in place, except the tensors of `best` and `good`, which are as large as the models.

    Args:
        seeds: one per retraining.
        diverged: of each, at which epoch its objective was lost; empty if it was not.
        seconds: of each, training so far; those trained at once share equally.
        history: epochs so far, over all phases.
        phase: number of the phase that is being trained.
        epoch: the next epoch in it.
        running: which retrainings are still trained in this phase.
        best_loss: lowest validation objective in this phase.
        waited: epochs since then.
        best: trained parameters (retraining, *shape) at that epoch, by name.
        good: those of the last epoch that was not lost.
    """

    seeds: tuple[int, ...]
    diverged: tuple[str, ...]
    seconds: Float[Tensor, " retraining"]
    history: tuple[Epoch, ...]
    phase: int
    epoch: int
    running: Bool[Tensor, " retraining"]
    best_loss: Float[Tensor, " retraining"]
    waited: Tensor
    best: Mapping[str, Tensor]
    good: Mapping[str, Tensor]

    @property
    def lost(self) -> Bool[Tensor, " retraining"]:
        """Which retrainings have diverged."""
        return torch.tensor([bool(text) for text in self.diverged])


def beginning(seeds: Sequence[int]) -> State:
    """Before the first phase."""
    num = len(seeds)
    seconds, none = torch.zeros(num, dtype=torch.float64), torch.zeros(num, dtype=torch.bool)
    return State(tuple(seeds), ("",) * num, seconds, (), 0, 0, none, torch.zeros(num), torch.zeros(num), {}, {})


def entered(state: State, phase: int, parameters: Mapping[str, Tensor]) -> State:
    """The state at the beginning of a phase, whose parameters start at the values given."""
    return dataclasses.replace(
        state,
        phase=phase,
        epoch=0,
        running=~state.lost,
        best_loss=torch.full((len(state.seeds),), torch.inf),
        waited=torch.zeros(len(state.seeds), dtype=torch.long),
        best={name: value.clone() for name, value in parameters.items()},
        good={name: value.clone() for name, value in parameters.items()},
    )


def judged(
    state: State,
    epoch: Epoch,
    parameters: Mapping[str, Tensor],
    patience: int | None = None,
    held_out: bool = True,
    reason: str = "",
) -> State:
    """The state after an epoch: who is lost, who is better than ever, who has waited long enough.

    Args:
        state: before it.
        epoch: its terms.
        parameters: values (retraining, *shape) after it, by name.
        patience: epochs without a better validation objective after which a retraining stops; None: never.
        held_out: whether there are rows to validate on; without them every epoch is the best so far.
        reason: why an objective was lost, where more is known than that it is not finite.
    """
    finite = torch.isfinite(epoch.terms[[0, PARAMETER_NORM]]).all(0)
    diverged, running = list(state.diverged), state.running & finite
    for index in (state.running & ~finite).nonzero().flatten().tolist():
        text = f"seed {state.seeds[index]} at epoch {state.epoch} of phase {epoch.phase!r}"
        diverged[index] = f"{text} ({reason})" if reason else text
    loss = epoch.terms[VALIDATION_LOSS]
    improved = running & (loss < state.best_loss) if held_out else running
    for kept, which in ((state.best, improved), (state.good, running)):
        for name, value in parameters.items():
            kept[name][which] = value[which]
    waited = torch.where(improved, 0, state.waited + 1)
    return dataclasses.replace(
        state,
        diverged=tuple(diverged),
        history=(*state.history, epoch),
        epoch=state.epoch + 1,
        running=running if patience is None else running & (waited < patience),
        best_loss=torch.where(improved, loss, state.best_loss),
        waited=waited,
    )


def history_of(state: State, index: int) -> xr.Dataset:
    """The terms of the epochs in which a retraining ran, by name; others of the group may have gone on for longer."""
    ran = [epoch for epoch in state.history if epoch.ran[index]]
    values = np.array([epoch.terms[:, index].double().numpy() for epoch in ran]).reshape(len(ran), len(HISTORY))
    return xr.Dataset(
        {name: ("epoch", values[:, term]) for term, name in enumerate(HISTORY)},
        coords={"epoch": range(len(ran)), "phase": ("epoch", np.array([epoch.phase for epoch in ran], dtype=str))},
        attrs={"seed": state.seeds[index], "diverged": state.diverged[index]},
    )


# --- checkpoints ---


def written(state: State) -> dict[str, Tensor]:
    """The state as tensors by name; words as the bytes of their JSON."""
    words = json.dumps({"diverged": state.diverged, "phases": [epoch.phase for epoch in state.history]}).encode()
    return {
        "place": torch.tensor([state.phase, state.epoch]),
        "words": torch.tensor(list(words), dtype=torch.uint8),
        "history": torch.stack([epoch.terms for epoch in state.history]),
        "ran": torch.stack([epoch.ran for epoch in state.history]),
        **{name: getattr(state, name) for name in ("seconds", "running", "best_loss", "waited")},
        **{f"best/{name}": value for name, value in state.best.items()},
        **{f"good/{name}": value for name, value in state.good.items()},
    }


def taken_up(seeds: Sequence[int], tensors: Mapping[str, Tensor], device: torch.device) -> State:
    """The state that `written` wrote down, after at least one epoch; parameters on the device."""
    words = json.loads(bytes(tensors["words"].tolist()))
    phase, epoch = tensors["place"].tolist()
    running, best_loss, waited = (tensors[name] for name in ("running", "best_loss", "waited"))
    best, good = ({name: value.to(device) for name, value in part(tensors, kind).items()} for kind in ("best", "good"))
    history = tuple(map(Epoch, words["phases"], tensors["history"], tensors["ran"]))
    diverged, seconds = tuple(words["diverged"]), tensors["seconds"]
    return State(tuple(seeds), diverged, seconds, history, phase, epoch, running, best_loss, waited, best, good)


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `name/`, by the rest of their names."""
    return {path.removeprefix(f"{name}/"): value for path, value in tensors.items() if path.startswith(f"{name}/")}
