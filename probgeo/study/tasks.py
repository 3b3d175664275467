"""What the workers of an executor do: train some seeds, measure some pairs. Arguments are small, whatever the data."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from probgeo.models.base import LatentModel, ModelSpec
from probgeo.study.measure import measured
from probgeo.study.measures import Measure
from probgeo.study.quantities import DISTANCES, Quantity
from probgeo.study.store import Inputs, joined, write_rows
from probgeo.training import storage
from probgeo.training.fit import Training, TrainingDiverged, fit

Files = Mapping[Quantity, Path]


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


def measure_into(
    model: LatentModel | Path, inputs: Inputs, measures: Mapping[str, tuple[Measure, Files]], tile: Tile | None = None
) -> None:
    """Measure one model, loaded from its folder where it was trained here, into files; a tile into the tile's."""
    # Models that were trained elsewhere are where they are, and their data with them.
    x, points, asked = inputs.load() if isinstance(model, Path) else inputs.load(own=False)
    if isinstance(model, Path):
        model = storage.load(model).to(x.device).requires_grad_(False)
    for name, (how, files) in measures.items():
        # Each measure is kept as soon as it is there.
        parts = {quantity: rows for quantity, rows in asked.rows().items() if quantity in files}
        if tile:
            parts, files = {DISTANCES: [asked.pairs[tile.begin : tile.end]]}, {DISTANCES: tile.file(files[DISTANCES])}
        row = measured(model, x, points, parts, {name: how})
        write_rows(files, row if isinstance(row, str) else row[name])


def jobs_of(
    model: LatentModel | Path, inputs: Inputs, measures: Mapping[str, tuple[Measure, Files]], tiles: list[Tile]
) -> Iterator[tuple]:
    """Arguments of `measure_into`: all at once, or the pairs by tiles and what else is asked for alone."""
    tiled = {name: (how, files) for name, (how, files) in measures.items() if DISTANCES in files and len(tiles) > 1}
    rest = {
        name: (how, {q: file for q, file in files.items() if name not in tiled or q != DISTANCES})
        for name, (how, files) in measures.items()
    }
    if rest := {name: (how, files) for name, (how, files) in rest.items() if files}:
        yield model, inputs, rest
    for tile in tiles if tiled else ():
        missing = {name: own for name, own in tiled.items() if not tile.file(own[1][DISTANCES]).exists()}
        if missing:
            yield model, inputs, missing, tile


def join_tiles(files: Files, tiles: list[Tile]) -> None:
    """Make one file of the tiles', where all are there."""
    whole = files.get(DISTANCES)
    if whole is None or whole.exists() or not all(tile.file(whole).exists() for tile in tiles):
        return
    write_rows({DISTANCES: whole}, joined([tile.file(whole) for tile in tiles]))
    shutil.rmtree(whole.with_suffix(".tiles"), ignore_errors=True)
