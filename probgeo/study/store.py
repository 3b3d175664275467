"""Where a study keeps what: trainings, measurements and the inputs of its workers, under keys that are hashes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probgeo.disk import whole_file
from probgeo.geometry import descents
from probgeo.netcdf import read_netcdf, write_netcdf
from probgeo.rows import FileRows, StoredRows
from probgeo.specs import digest
from probgeo.study.asked import Asked
from probgeo.study.devices import own_device
from probgeo.study.quantities import DISTANCES, Quantity
from probgeo.study.sparse import NOTE, NUMBERS, is_whole, read_matrix, write_matrix

# Part of the key of every measurement, beside the search's: raised when the same measure of the same model gives other
# numbers.
REVISION = 4
SPARSE = ".rows"  # ends the name of a sparse matrix's folder


@dataclass(frozen=True)
class Held:
    """A study's inputs in memory: for work that is done here."""

    x: Tensor | StoredRows
    points: Tensor | StoredRows
    asked: Asked

    def load(self, own: bool = True) -> tuple[Tensor | StoredRows, Tensor | StoredRows, Asked]:
        """Data, points, and what is asked for."""
        return self.x, self.points, self.asked


@dataclass(frozen=True)
class Kept:
    """Rows in files: all of an array or of a sparse matrix, or rows that are in a file already, by their numbers.

    Args:
        file: of the array, or folder of the sparse matrix.
        numbers: file of the rows' numbers in another array.
    """

    file: Path | FileRows
    numbers: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All that is read."""
        if isinstance(self.file, Path) and self.file.suffix == SPARSE:
            return [self.file / name for name in (*NUMBERS, NOTE)]
        own = self.file.file.path if isinstance(self.file, FileRows) else self.file
        return [path for path in (own, self.numbers) if isinstance(path, Path)]

    def load(self) -> Tensor | StoredRows:
        """The rows."""
        if isinstance(self.file, FileRows):
            return self.file if self.numbers is None else self.file.rows(_mapped(self.numbers))
        return read_matrix(self.file) if self.file.suffix == SPARSE else _mapped(self.file)


@dataclass(frozen=True)
class Mapped:
    """A study's inputs in files, by their names, and the device that they go to: for workers, which map them.

    Rows that are in a file already stay there.

    Built by `Mapped.written`.
    """

    x: Kept
    points: Kept
    pairs: Path
    triples: Path | None
    regions: tuple[tuple[str, Path], ...]
    device: str

    @classmethod
    def written(cls, held: Held, folder: Path, x_digest: str, points_digest: str) -> "Mapped":
        """The inputs in a folder, each written once."""

        def kept(tensor: Tensor, key: str) -> Path:
            path = folder / f"{key}.npy"
            if not _holds(path, tensor):
                with whole_file(path) as unfinished, unfinished.open("wb") as file:
                    np.save(file, tensor.cpu().numpy())
            return path

        def rows(x: Tensor | StoredRows, key: str) -> Kept:
            if isinstance(x, Tensor):
                return Kept(kept(x, key))
            if not isinstance(x, FileRows):
                path = folder / f"{key}{SPARSE}"
                if not is_whole(path, x):
                    write_matrix(path, x)
                return Kept(path)
            if x.chosen is None:
                return Kept(x)
            return Kept(replace(x, chosen=None), kept(x.chosen, digest(x.chosen)))

        asked = held.asked
        return cls(
            rows(held.x, x_digest),
            rows(held.points, points_digest),
            kept(asked.pairs, digest(asked.pairs)),
            None if asked.triples is None else kept(asked.triples, digest(asked.triples)),
            tuple((name, kept(rows, digest(rows))) for name, rows in asked.regions.items()),
            str(held.x.device),
        )

    @property
    def paths(self) -> list[Path]:
        """All that is read."""
        rows = [self.pairs, *([self.triples] if self.triples else []), *(path for _, path in self.regions)]
        return [*self.x.paths, *self.points.paths, *rows]

    def load(self, own: bool = True) -> tuple[Tensor | StoredRows, Tensor | StoredRows, Asked]:
        """Data, points, and what is asked for.

        Args:
            own: on a device of the worker's own, where there are several of the kind; else on that of the data.
        """
        device = own_device(self.device) if own else self.device
        triples = None if self.triples is None else _mapped(self.triples)
        asked = Asked(_mapped(self.pairs), triples, {name: _mapped(path) for name, path in self.regions})
        return self.x.load().to(device), self.points.load().to(device), asked


def _holds(path: Path, tensor: Tensor) -> bool:
    """Whether a file holds a tensor: what workers would read is looked at before they do."""
    with suppress(OSError, ValueError, EOFError):
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        return found.dtype == tensor.cpu().numpy().dtype and np.array_equal(found, tensor.cpu().numpy(), equal_nan=True)
    return False


def _mapped(path: Path) -> Tensor:
    # Mapped copy-on-write: torch wants memory that it may write to, and the file stays as it is.
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c"))
    except FileNotFoundError as error:  # a worker that came after the others had been asked
        raise OSError(
            f"folder: a worker does not see {path}. Choose a folder on a disk that all workers share."
        ) from error


Inputs = Held | Mapped


def measurement_key(training: str, asked: Asked, quantity: Quantity, points_digest: str, how: Any) -> str:
    """The name of the file of one measure of one model."""
    rows = list(asked.rows()[quantity])
    return digest(REVISION, descents.REVISION, training, points_digest, quantity.folder, *rows, how)


def write_rows(files: Mapping[Quantity, Path], dataset: xr.Dataset | str) -> None:
    """Each quantity's variables in its file, whole or not at all; or why there are none."""
    for quantity, file in files.items():
        if isinstance(dataset, str):
            part = xr.Dataset(attrs={"lost": dataset})
        else:
            own = [name for name, values in dataset.items() if quantity.dim in values.dims]
            scalars = ["seconds"] if quantity.dim == "pair" else []
            part = dataset[own + scalars].drop_vars([c for c in dataset.coords if c != "draw"], errors="ignore")
        write_netcdf(file, part, _place(file))


def _place(file: Path) -> str:
    """A file's name and that of its folder, which tell of what it is."""
    return f"{file.parent.name}/{file.name}"


def read_rows(files: Mapping[Quantity, Path]) -> xr.Dataset | str:
    """What `write_rows` wrote.

    Raises:
        ValueError: a file is damaged; it says which.
    """
    parts = []
    for file in files.values():
        parts.append(read_netcdf(file, "Delete it to measure it again; all else stays.", _place(file)))
        if parts[-1].attrs.get("lost"):
            return parts[-1].attrs["lost"]
    return xr.merge(parts)


def joined(tiles: Sequence[Path]) -> xr.Dataset | str:
    """One of several files of distances, that of all their pairs."""
    parts = [read_rows({DISTANCES: tile}) for tile in tiles]
    whole = [part for part in parts if isinstance(part, xr.Dataset)]
    if len(whole) < len(parts):
        return next(part for part in parts if isinstance(part, str))
    seconds = sum(part.seconds for part in whole)
    return xr.concat([part.drop_vars("seconds") for part in whole], "pair", join="exact").assign(seconds=seconds)
