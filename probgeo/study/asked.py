"""What is asked for: rows of observations whose distances, angles and volumes are measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probgeo.geometry.points import rows_of
from probgeo.models.base import LatentModel, ModelSpec
from probgeo.study.quantities import ANGLES, DISTANCES, VOLUMES, Quantity

MAX_HULL = 5


@dataclass(frozen=True, eq=False)
class Asked:
    """Rows of the points, on the CPU: pairs (pair, 2), triples (triple, 3), corner first, regions (row,) by name."""

    pairs: Tensor
    triples: Tensor | None
    regions: Mapping[str, Tensor]

    def rows(self) -> dict[Quantity, list[Tensor]]:
        """By quantity, the parts whose codes it takes."""
        parts = {DISTANCES: [self.pairs], ANGLES: [] if self.triples is None else [self.triples]}
        parts[VOLUMES] = list(self.regions.values())
        return {quantity: rows for quantity, rows in parts.items() if rows}

    def coordinates(self) -> dict[str, object]:
        """What labels the dims of the dataset."""
        # Copies: a tensor that is sent to another process moves, and its views would show what then lies there.
        start, stop = self.pairs.numpy().copy().T
        found: dict[str, object] = {"pair": range(len(self.pairs)), "start": ("pair", start), "stop": ("pair", stop)}
        if self.triples is not None:
            columns = zip(("corner", "first", "second"), self.triples.numpy().copy().T, strict=True)
            found |= {name: ("triple", column) for name, column in columns}
        return found | ({"region": list(self.regions)} if self.regions else {})


def checked(
    pairs: Any,
    triples: Any,
    regions: Mapping[str, Any] | None,
    num_points: int,
    models: Mapping[str, LatentModel | ModelSpec],
) -> Asked:
    """What is asked for of so many points.

    Raises:
        TypeError: rows that are no numbers.
        ValueError: pairs, triples or regions that are no rows of the points; regions of too few rows, or in too many
            dimensions of a model.
    """
    _check_tuples("pairs", pairs := _rows("pairs", pairs), 2, num_points)
    if triples is not None:
        _check_tuples("triples", triples := _rows("triples", triples), 3, num_points)
    check_named("regions", regions or {}, "rows")
    regions = {name: _rows("regions", rows) for name, rows in (regions or {}).items()}
    _check_regions(regions, models, num_points)
    return Asked(pairs, triples, regions)


def _rows(name: str, rows: Any) -> Tensor:
    """Row indices on the CPU, of 64 bits; lists too.

    Short ones would be taken for a mask where rows are picked by them.
    """
    if isinstance(rows, (list, tuple, range)):
        try:
            rows = np.asarray(rows)
        except ValueError as error:
            raise ValueError(f"{name}: expected as many numbers in each; got lists of several lengths.") from error
    found = rows_of(name, rows).cpu()
    if found.dtype == torch.uint64 and len(beyond := np.argwhere(found.numpy() > 2**63 - 1)):
        raise ValueError(f"{name}: expected row indices; got {found.numpy()[tuple(beyond[0])]}.")
    return found if _not_integer(found) else found.long()


def _check_tuples(name: str, tuples: Tensor, size: int, num_points: int) -> None:
    """Refuse what are no tuples (tuple, size) of row indices; name "pairs" or "triples"."""
    if tuples.ndim != 2 or tuples.shape[1] != size or len(tuples) == 0 or _not_integer(tuples):
        raise ValueError(
            f"{name}: expected integers of shape ({name[:-1]}, {size}); got {tuples.dtype}, {tuple(tuples.shape)}."
        )
    outside = ((tuples < 0) | (tuples >= num_points)).any(1).nonzero().flatten()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"{name}: expected row indices from 0 to {num_points - 1}; {name[:-1]} {first} is {tuples[first].tolist()} "
            f"({len(outside)} such {name})."
        )


def _not_integer(rows: Tensor) -> bool:
    return rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool


def _check_regions(
    regions: Mapping[str, Tensor], models: Mapping[str, LatentModel | ModelSpec], num_points: int
) -> None:
    for name, rows in regions.items():
        if rows.ndim != 1 or _not_integer(rows) or ((rows < 0) | (rows >= num_points)).any():
            raise ValueError(
                f"regions: expected row indices (row,) from 0 to {num_points - 1}; got {rows.dtype}, "
                f"{tuple(rows.shape)} for {name!r}, or indices outside."
            )
        for model, described in models.items():
            if described.latent > MAX_HULL:
                raise ValueError(
                    f"regions: convex hulls have too many simplices in more than {MAX_HULL} dimensions; model "
                    f"{model!r} has {described.latent}. Leave out the regions."
                )
            if len(rows.unique()) <= described.latent:
                raise ValueError(
                    f"regions: expected at least {described.latent + 1} different rows, for {described.latent} latent "
                    f"dimensions of model {model!r}; got {len(rows.unique())} for {name!r}."
                )


def check_named(name: str, given: Any, what: str) -> None:
    """Refuse what is no mapping of names.

    Raises:
        TypeError: by the name of the argument.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: expected {what} by name, {{'mine': ...}}; got {type(given).__name__}.")


def check_models(models: Mapping[str, ModelSpec | Sequence[LatentModel]], seeds: Sequence[int]) -> None:
    """Refuse a study of no models, of what is none, of specs without seeds, or of a seed twice.

    Raises:
        TypeError, ValueError: which.
    """
    if not models:
        raise ValueError("models: expected at least one; got none.")
    for name, model in models.items():
        is_one = isinstance(model, (ModelSpec, LatentModel, str)) or not isinstance(model, Iterable)
        elsewhere = [] if is_one else [*model]  # type: ignore[misc]
        if not isinstance(model, ModelSpec) and not (elsewhere and all(isinstance(m, LatentModel) for m in elsewhere)):
            raise TypeError(
                f"models: expected a spec, such as VAE(...), or a list of LatentModels, one per training; got "
                f"{type(model).__name__} for {name!r}."
            )
    if any(isinstance(model, ModelSpec) for model in models.values()) and not seeds:
        raise ValueError("seeds: expected at least one, for the specs to be trained with; got none.")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected none repeated; got {list(seeds)}.")
