"""A sparse matrix in a folder, by rows: no more of it is in memory than the rows that are asked for."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from probgeo.disk import whole_folder
from probgeo.rows import SparseRows, StoredRows, row_blocks

NUMBERS = "data", "columns", "ends"
NOTE = "note.json"
COLUMN, END = "<i4", "<i8"


@dataclass(frozen=True)
class MappedMatrix:
    """Rows of a matrix that `write_matrix` wrote; its files are mapped while some are read.

    Args:
        folder: where they are.
        shape: (row, column).
        numbers: NumPy's name of the kind of numbers.
    """

    folder: Path
    shape: tuple[int, int]
    numbers: str

    def __getitem__(self, index: Any) -> scipy.sparse.csr_array:
        """Rows by a slice, or by their numbers."""
        data, columns, ends = map(self._mapped, NUMBERS, (self.numbers, COLUMN, END))
        rows = np.arange(*index.indices(self.shape[0])) if isinstance(index, slice) else np.asarray(index)
        counts = ends[rows + 1] - ends[rows]
        last = np.cumsum(counts)
        places = np.repeat(ends[rows] + counts - last, counts) + np.arange(counts.sum())
        own = data[places], columns[places], np.concatenate([np.zeros(1, last.dtype), last])
        return scipy.sparse.csr_array(own, shape=(len(rows), self.shape[1]))

    def _mapped(self, name: str, numbers: str) -> np.ndarray:
        path = self.folder / name
        return np.memmap(path, numbers, "r") if path.stat().st_size else np.empty(0, numbers)


def read_matrix(folder: Path) -> SparseRows:
    """The rows that `write_matrix` wrote, where `is_whole`."""
    note = json.loads((folder / NOTE).read_text())
    num_rows, num_columns = note["shape"]
    return SparseRows(MappedMatrix(folder, (num_rows, num_columns), note["numbers"]), numbers=note["numbers"])


def write_matrix(folder: Path, x: StoredRows) -> None:
    """What is not zero in the rows, block by block, in place of what stands there."""
    with whole_folder(folder) as unfinished:
        counts = [np.zeros(1, np.int64)]
        with (unfinished / "data").open("wb") as data, (unfinished / "columns").open("wb") as columns:
            for _, block in row_blocks(x):
                part = scipy.sparse.csr_array(block.cpu().numpy())
                part.data.astype(x.numbers).tofile(data)
                part.indices.astype(COLUMN).tofile(columns)
                counts.append(np.diff(part.indptr))
        np.cumsum(np.concatenate(counts), dtype=END).tofile(unfinished / "ends")
        (unfinished / NOTE).write_text(json.dumps(_note(unfinished, x)))


def is_whole(folder: Path, x: StoredRows) -> bool:
    """Whether a folder that was named by the digest of the rows holds what was written, to the last bit."""
    with suppress(OSError, ValueError):
        return json.loads((folder / NOTE).read_text()) == _note(folder, x)
    return False


def _note(folder: Path, x: StoredRows) -> dict[str, Any]:
    """What the files are; places in them are not looked up before they are known to be right."""
    hashes = {}
    for name in NUMBERS:
        with (folder / name).open("rb") as file:
            hashes[name] = hashlib.sha256()
            while block := file.read(2**22):
                hashes[name].update(block)
    return {"shape": [*x.shape], "numbers": x.numbers, **{name: found.hexdigest() for name, found in hashes.items()}}
