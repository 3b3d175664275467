"""Learning rates that change while a model is trained: factors of the learning rate, as functions of the epoch."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from probgeo.specs import check_numbers


@runtime_checkable
class Schedule(Protocol):
    """A factor of the learning rate for every epoch; a frozen dataclass, so that it can be a key.

    Example:
        >>> import probgeo as pg
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Halved(pg.schedules.Schedule):  # of one's own: half as fast in the second half
        ...     def factor(self, epoch, num_epochs):
        ...         return 1.0 if 2 * epoch < num_epochs else 0.5
        >>> [Halved().factor(epoch, 4) for epoch in range(4)]
        [1.0, 1.0, 0.5, 0.5]
        >>> pg.Training(epochs=4, schedule=Halved()).schedule
        Halved()
    """

    def factor(self, epoch: int, num_epochs: int) -> float:
        """Factor at an epoch 0 … num_epochs − 1 of a phase of training."""


@dataclass(frozen=True)
class Cosine:
    """final + (1 − final) · ½ (1 + cos(π epoch / num_epochs)): from 1 at first towards `final`, half a wave.

    Args:
        final: factor that the last epochs approach, in [0, 1].

    Raises:
        ValueError: final outside [0, 1].

    Example:
        >>> import probgeo as pg
        >>> [round(pg.schedules.Cosine().factor(epoch, num_epochs=4), 3) for epoch in range(4)]
        [1.0, 0.854, 0.5, 0.146]

    References:
        Loshchilov & Hutter (2017), SGDR: stochastic gradient descent with warm restarts, eq. 5.
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 <= self.final <= 1:
            raise ValueError(f"final: expected a factor in [0, 1]; got {self.final}.")

    def factor(self, epoch: int, num_epochs: int) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * epoch / num_epochs)) / 2


@dataclass(frozen=True)
class Piecewise:
    """The first factor 1, then factors[i] from epoch epochs[i] on.

    Args:
        epochs: where the factor changes, increasing.
        factors: one per change, positive.

    Raises:
        ValueError: as many factors as there are not epochs, epochs that do not increase, a factor that is not positive.

    Example:
        >>> import probgeo as pg
        >>> schedule = pg.schedules.Piecewise(epochs=(2, 3), factors=(0.1, 0.01))
        >>> [schedule.factor(epoch, num_epochs=4) for epoch in range(4)]
        [1.0, 1.0, 0.1, 0.01]
    """

    epochs: tuple[int, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        check_numbers(self)
        if len(self.epochs) != len(self.factors):
            raise ValueError(f"epochs, factors: expected as many of each; got {self.epochs} and {self.factors}.")
        if any(epoch < 1 for epoch in self.epochs) or list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(f"epochs: expected increasing numbers of at least 1; got {self.epochs}.")
        if not all(factor > 0 for factor in self.factors):
            raise ValueError(f"factors: expected positive numbers; got {self.factors}.")

    def factor(self, epoch: int, num_epochs: int) -> float:
        return (1.0, *self.factors)[sum(change <= epoch for change in self.epochs)]


@dataclass(frozen=True)
class LinearWarmup:
    """(epoch + 1) / epochs during the first `epochs`, then what follows, as if it began there.

    Args:
        epochs: how many epochs the learning rate rises, in equal steps, to its full value.
        then: schedule of the remaining epochs; None: the rate stays.

    Raises:
        ValueError: epochs below one.

    Example:
        >>> import probgeo as pg
        >>> schedule = pg.schedules.LinearWarmup(2, then=pg.schedules.Cosine())
        >>> [schedule.factor(epoch, num_epochs=4) for epoch in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """

    epochs: int
    then: Schedule | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.epochs < 1:
            raise ValueError(f"epochs: expected at least 1; got {self.epochs}.")

    def factor(self, epoch: int, num_epochs: int) -> float:
        if epoch < self.epochs:
            return (epoch + 1) / self.epochs
        return 1.0 if self.then is None else self.then.factor(epoch - self.epochs, num_epochs - self.epochs)
