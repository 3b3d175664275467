"""What the workers of an executor do: train some seeds, measure some pairs. Arguments are small, whatever the data."""

import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probgeo.disk import seal, unsealed, whole_file
from probgeo.jobs import TaskLost, carried_out
from probgeo.models.base import LatentModel, ModelSpec, codes_of
from probgeo.rows import StoredRows
from probgeo.specs import digest
from probgeo.study.measure import measured
from probgeo.study.measures import Measure
from probgeo.study.quantities import DISTANCES, Quantity
from probgeo.study.store import Inputs, joined, write_rows
from probgeo.training import storage
from probgeo.training.fit import Training, TrainingDiverged, fit

Files = Mapping[Quantity, Path]
Owner = tuple[str, int]  # a model's name, and which of its retrainings


def train_into(
    spec: ModelSpec,
    inputs: Inputs,
    seeds: list[int],
    training: Training,
    folder: Path,
    data_digest: str,
    progress: bool,
) -> None:
    """Train, as one stack, and save; one that diverges is saved too, and costs itself alone."""
    x, _, _ = inputs.load()
    with suppress(TrainingDiverged):  # saved with the reason, which the dataset tells
        fit(
            spec,
            x,
            seeds,
            training=training,
            folder=folder,
            stack=len(seeds),
            progress=progress,
            data_digest=data_digest,
        )


@dataclass(frozen=True)
class Tile:
    """Some of the pairs: begin, begin + 1, … end - 1."""

    begin: int
    end: int

    def file(self, whole: Path) -> Path:
        """Where the tile's part of a file is kept until the file is whole."""
        return whole.with_suffix(".tiles") / f"{self.begin}-{self.end}.nc"


def tiles_of(num_pairs: int, size: int) -> list[Tile]:
    """All pairs, at most so many at a time."""
    return [Tile(begin, min(begin + size, num_pairs)) for begin in range(0, num_pairs, size)]


@dataclass
class Codes:
    """Codes of all rows under a model, and under the subjects of measures, each computed once.

    Args:
        folder: where they are kept, for other tasks too; None for nowhere.
    """

    folder: Path | None
    known: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, subject: LatentModel, x: Tensor | StoredRows, how: Measure | None) -> Tensor:
        """Codes of x.

        Args:
            subject: the model, or what a measure makes of it.
            x: all rows.
            how: the measure; None for the model.
        """
        name = digest(how)
        if name not in self.known:
            path = self.folder and self.folder / f"{name}.npy"
            self.known[name] = self._kept(path, name, subject, x) if path else codes_of(subject, x)
        return self.known[name]

    def _kept(self, path: Path, name: str, subject: LatentModel, x: Tensor | StoredRows) -> Tensor:
        with suppress(OSError, ValueError):  # what is damaged, or gone, is computed again
            content, sealed = unsealed(path, "")
            if sealed == name:
                return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False)).to(x.device)
        codes = codes_of(subject, x)
        # Another run in the study's folder may have ended, and taken this one along.
        with suppress(FileNotFoundError), whole_file(path) as unfinished:
            with unfinished.open("wb") as file:
                np.save(file, codes.cpu().numpy(), allow_pickle=False)
            seal(unfinished, name)
        return codes


def _loaded(model: LatentModel | Path, inputs: Inputs) -> tuple[LatentModel, tuple]:
    """The model, and what it reads."""
    # Models that were trained elsewhere are where they are, and their data with them.
    read = inputs.load(own=isinstance(model, Path))
    return (storage.load(model).to(read[0].device).requires_grad_(False) if isinstance(model, Path) else model), read


def encode_into(model: LatentModel | Path, inputs: Inputs, measures: Mapping[str, Measure], folder: Path) -> None:
    """Keep what several tasks of one model read: its codes, and those of the measures' subjects."""
    model, (x, _, _) = _loaded(model, inputs)
    codes = Codes(folder)
    if codes(model, x, None).isfinite().all():
        for how in measures.values():
            if (subject := how.subject(model)) is not model:
                codes(subject, x, how)


def measure_into(
    model: LatentModel | Path,
    inputs: Inputs,
    measures: Mapping[str, tuple[Measure, Files]],
    tile: Tile | None = None,
    folder: Path | None = None,
) -> None:
    """Measure one model, loaded from its folder where it was trained here, into files; a tile into the tile's.

    Args:
        model: or its folder.
        inputs: what it reads.
        measures: by name, with the files of what is asked for.
        tile: None for all.
        folder: where `encode_into` kept codes; None for nowhere.
    """
    model, (x, points, asked) = _loaded(model, inputs)
    codes = Codes(folder)
    for name, (how, files) in measures.items():
        # Each measure is kept as soon as it is there.
        parts = {quantity: rows for quantity, rows in asked.rows().items() if quantity in files}
        if tile:
            parts, files = {DISTANCES: [asked.pairs[tile.begin : tile.end]]}, {DISTANCES: tile.file(files[DISTANCES])}
        row = measured(model, x, points, parts, {name: how}, codes)
        write_rows(files, row if isinstance(row, str) else row[name])


def jobs_of(
    model: LatentModel | Path,
    inputs: Inputs,
    measures: Mapping[str, tuple[Measure, Files]],
    tiles: list[Tile],
    folder: Path,
) -> Iterator[tuple]:
    """Arguments of `measure_into`: all at once, or the pairs by tiles and what else is asked for alone."""
    tiled = {name: (how, files) for name, (how, files) in measures.items() if DISTANCES in files and len(tiles) > 1}
    rest = {
        name: (how, {q: file for q, file in files.items() if name not in tiled or q != DISTANCES})
        for name, (how, files) in measures.items()
    }
    if rest := {name: (how, files) for name, (how, files) in rest.items() if files}:
        yield model, inputs, rest, None, folder if tiled else None
    for tile in tiles if tiled else ():
        missing = {name: own for name, own in tiled.items() if not tile.file(own[1][DISTANCES]).exists()}
        if missing:
            yield model, inputs, missing, tile, folder


def encoding_of(job: tuple) -> tuple:
    """Arguments of `encode_into`, for the tiles of which one has these."""
    model, inputs, measures, _, folder = job
    return model, inputs, {name: how for name, (how, _) in measures.items()}, folder


def join_tiles(files: Files, tiles: list[Tile]) -> None:
    """Make one file of the tiles', where all are there."""
    whole = files.get(DISTANCES)
    if whole is None or whole.exists() or not all(tile.file(whole).exists() for tile in tiles):
        return
    write_rows({DISTANCES: whole}, joined([tile.file(whole) for tile in tiles]))
    shutil.rmtree(whole.with_suffix(".tiles"), ignore_errors=True)


def lost_of(
    task: Callable,
    jobs: Sequence[tuple[Owner, tuple]],
    executor: Executor | None,
    label: str,
    progress: bool,
    folder: Path,
) -> dict[Owner, str]:
    """Carry out jobs of retrainings, whose workers see the folder; why some of these are lost."""
    names = [f"of {name!r}, retraining {index}" for (name, index), _ in jobs]
    done = carried_out(task, [args for _, args in jobs], executor, label, progress, names=names, folder=folder)
    found = zip(jobs, done, strict=True)
    return {owner: f"{label.split()[0]} failed, {each}" for (owner, _), each in found if isinstance(each, TaskLost)}
