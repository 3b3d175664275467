"""Options of training, and what they mean for the epochs of a phase."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from probgeo.models.phase import Epochs, Phase
from probgeo.specs import ADDED_LATER, check_numbers
from probgeo.training.schedules import Schedule

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

    Example:
        >>> import torch, probgeo as pg
        >>> training = pg.Training(epochs=2, batch_size=20, learning_rate=0.01, schedule=pg.schedules.Cosine())
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> [model] = pg.fit(pg.VAE(latent=2), x, training=training, progress=False)
        >>> model.history.sizes["epoch"]
        2
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
        check_numbers(self)
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs, batch_size: expected at least 1; got {self.epochs}, {self.batch_size}.")
        if not 0 < self.learning_rate < math.inf:
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


def num_epochs(phase: Phase, training: Training) -> int:
    """Epochs of a phase: at least one, unless it has none."""
    return max(1, round(phase.epochs.share * training.epochs)) if phase.epochs else 0


def learning_rate(epochs: Epochs, training: Training, epoch: int, num_epochs: int) -> float:
    """The optimiser's step size at an epoch of num_epochs: learning rate · phase's rate · schedule's factor."""
    factor = training.schedule.factor(epoch, num_epochs) if training.schedule else 1.0
    return epochs.rate * training.learning_rate * factor
