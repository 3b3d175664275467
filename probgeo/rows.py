"""Rows of an array in a file, or of a sparse matrix, read as tensors when they are asked for: the rest stays there."""

import abc
import dataclasses
import json
import math
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probgeo.disk import whole_file

BLOCK_ROWS, BLOCK_BYTES = 2**16, 2**28  # at once, at most
HELD_BYTES = 2**26  # of a file whose pages may stay with the process; of a larger one, rows are read one by one
PINNED = ("cuda",)  # kinds of devices that copy from pinned memory while the CPU goes on
SETTLED = 1.0  # seconds after which a change of a file is sure to have another time than the one before it


class _File:
    """A file that stays as it is; a small one is mapped once, and stays with the process.

    Args:
        path: of the file.
        version: its size in bytes, and the time of its last change in nanoseconds.
    """

    def __init__(self, path: Path, version: tuple[int, int]) -> None:
        self.path, self.version = path, version
        self._pages: np.ndarray | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _File, (self.path, self.version)

    def check(self) -> None:
        """Raise ValueError if the file is not what it was."""
        if _version(self.path) != self.version:
            raise ValueError(f"x: {self.path} has changed since it was opened. Open it again.")

    def pages(self) -> np.ndarray:
        """All bytes, mapped."""
        pages = np.memmap(self.path, np.uint8, "r") if self._pages is None else self._pages
        if self.version[0] <= HELD_BYTES:
            self._pages = pages
        return pages

    def read(self, places: Iterable[int], into: np.ndarray) -> None:
        """The bytes at each place, as many as a row of an array has, without a page that is mapped."""
        if not into.size:
            return
        rows, width = memoryview(into.data).cast("B"), into[0].nbytes
        with self.path.open("rb", buffering=0) as file:
            for begin, place in zip(range(0, len(rows), width), places, strict=True):
                if os.preadv(file.fileno(), [rows[begin : begin + width]], place) != width:
                    raise OSError(f"x: {self.path} ends too early.")


class StoredRows(abc.ABC):
    """Rows x_1 … x_n, of which no more is unpacked in memory than is asked for: `rows[index]` is a tensor of its own.

    It is indexed like the tensor of all rows: by a slice, or by a tensor of row numbers of any shape.

    Attributes:
        numbers: NumPy's name of the kind of numbers.
        device: where the tensors go.
    """

    numbers: str
    device: torch.device

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(row, feature)."""

    @abc.abstractmethod
    def to(self, device: str | torch.device) -> "StoredRows":
        """The same rows, whose tensors go to a device."""

    @abc.abstractmethod
    def rows(self, index: Tensor) -> "StoredRows":
        """Some of these rows, in the order of their numbers; nothing is read."""

    @abc.abstractmethod
    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The rows as a tensor."""

    @abc.abstractmethod
    def remembered(self, digest: Callable[[], str]) -> str:
        """The digest of the rows, by what computes it, or as it is known."""

    @property
    def ndim(self) -> int:
        """2."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors."""
        return torch.from_numpy(np.empty(0, self.numbers)).dtype

    def is_floating_point(self) -> bool:
        """Whether the tensors are."""
        return self.dtype.is_floating_point


@dataclass(frozen=True, eq=False, repr=False)
class FileRows(StoredRows):
    """Rows of a file that is mapped. Made by `of_array`.

    Args:
        file: where they are.
        numbers: NumPy's name of the kind of numbers.
        whole: rows and features in the file.
        offset: of the first number in the file, in bytes.
        strides: bytes between rows, and between features.
        chosen: numbers of the rows that these are, in this order; None for all.
        device: where the tensors go.
    """

    file: _File
    numbers: str
    whole: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]
    chosen: Tensor | None = None
    device: torch.device = torch.device("cpu")

    @classmethod
    def of_array(cls, array: np.ndarray) -> "FileRows | None":
        """The rows of an array (row, feature) that is mapped from a file, or of a part of one; None for another.

        What is mapped copy-on-write is another: what was written to it is in memory alone.
        """
        mapped: Any = array
        while isinstance(mapped, np.ndarray) and getattr(mapped, "_mmap", None) is None:
            mapped = mapped.base
        if not isinstance(mapped, np.memmap) or mapped.mode == "c" or mapped.filename is None or array.ndim != 2:
            return None
        if array.dtype.kind not in "fiub" or not array.dtype.isnative:
            return None
        mapped.flush()
        path = Path(mapped.filename).resolve()
        pages: Any = mapped._mmap  # type: ignore[attr-defined]
        first = np.frombuffer(pages, np.uint8).ctypes.data
        begin = mapped.offset - mapped.offset % mmap.ALLOCATIONGRANULARITY
        offset = begin + array.ctypes.data - first
        return cls(_File(path, _version(path)), array.dtype.str, array.shape, offset, array.strides)

    def __len__(self) -> int:
        return self.whole[0] if self.chosen is None else len(self.chosen)

    def __repr__(self) -> str:
        return f"FileRows({self.file.path.name!r}: {len(self)} rows of {self.whole[1]})"

    @property
    def shape(self) -> tuple[int, int]:
        """(row, feature)."""
        return len(self), self.whole[1]

    def to(self, device: str | torch.device) -> "FileRows":
        """The same rows, whose tensors go to a device."""
        return dataclasses.replace(self, device=torch.device(device))

    def rows(self, index: Tensor) -> "FileRows":
        """Some of these rows, in the order of their numbers; nothing is read."""
        return dataclasses.replace(self, chosen=index.cpu() if self.chosen is None else self.chosen[index.cpu()])

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The rows as a tensor.

        Raises:
            ValueError: the file is not what it was.
        """
        self.file.check()
        which: Any = index.cpu() if isinstance(index, Tensor) else index
        which = which if self.chosen is None else self.chosen[which]
        which = which.numpy() if isinstance(which, Tensor) else which
        if self.file.version[0] <= HELD_BYTES or self.strides[1] != np.dtype(self.numbers).itemsize:
            array: np.ndarray = np.ndarray(self.whole, self.numbers, self.file.pages().data, self.offset, self.strides)
            return sent(torch.from_numpy(np.array(array[which])), self.device)
        rows = np.arange(*which.indices(self.whole[0])) if isinstance(which, slice) else which
        if rows.size and not -self.whole[0] <= rows.min() <= rows.max() < self.whole[0]:
            raise IndexError(f"x: expected numbers of {self.whole[0]} rows; got {rows.min()} … {rows.max()}.")
        found = np.empty((*rows.shape, self.whole[1]), self.numbers)
        places = self.offset + rows.ravel() % self.whole[0] * self.strides[0]
        if isinstance(which, slice) and which.step in (None, 1) and self.strides[0] == found[:1].nbytes:
            self.file.read(places[:1].tolist(), found.reshape(min(1, len(found)), -1))  # in one piece
        else:
            self.file.read(places.tolist(), found.reshape(-1, self.whole[1]))
        return sent(torch.from_numpy(found), self.device)

    def remembered(self, digest: Callable[[], str]) -> str:
        """The digest of the rows, kept beside the file for as long as its path, size and time stay.

        Args:
            digest: computes it.
        """
        if self.chosen is not None:
            return digest()
        path, version = self.file.path, self.file.version
        place = path.with_name(f"{path.name}.digests.json")
        here, part = [str(path), *version], f"{self.numbers} {self.whole} {self.offset} {self.strides}"
        known: dict[str, str] = {}
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(place.read_text())
            known = dict(kept["digests"]) if kept["file"] == here else {}
        if part not in known:
            known[part] = digest()
            if time.time_ns() - version[1] > SETTLED * 1e9:
                with suppress(OSError), whole_file(place) as unfinished:  # kept where it can be
                    unfinished.write_text(json.dumps({"file": here, "digests": known}))
        return known[part]


@dataclass(frozen=True, eq=False, repr=False)
class SparseRows(StoredRows):
    """Rows of a sparse matrix, or of a table in an AnnData file, as float32 by default; columns may stand beside them.

    Args:
        matrix: anything of shape (row, column) that gives rows, sparse or dense, by a slice and by increasing numbers.
        beside: further columns, (row, further), after those of the matrix; None for none.
        chosen: numbers of the rows that these are, in this order; None for all.
        device: where the tensors go.
    """

    matrix: Any
    beside: Tensor | None = None
    chosen: Tensor | None = None
    device: torch.device = torch.device("cpu")
    numbers: str = "<f4"

    @classmethod
    def of_matrix(cls, matrix: Any, beside: Tensor | None = None) -> "SparseRows":
        """The rows of a sparse matrix of any format, in memory or in an AnnData file that is open."""
        if getattr(matrix, "format", "csr") != "csr":  # by columns: rows would be looked for in all of them
            matrix = (matrix.to_memory() if hasattr(matrix, "to_memory") else matrix).tocsr()
        return cls(matrix, beside)

    def __len__(self) -> int:
        return self.matrix.shape[0] if self.chosen is None else len(self.chosen)

    def __repr__(self) -> str:
        return f"SparseRows({len(self)} rows of {self.shape[1]})"

    @property
    def shape(self) -> tuple[int, int]:
        """(row, feature)."""
        return len(self), self.matrix.shape[1] + (0 if self.beside is None else self.beside.shape[1])

    def to(self, device: str | torch.device) -> "SparseRows":
        """The same rows, whose tensors go to a device."""
        return dataclasses.replace(self, device=torch.device(device))

    def rows(self, index: Tensor) -> "SparseRows":
        """Some of these rows, in the order of their numbers; nothing is read."""
        index = index.nonzero().flatten() if index.dtype == torch.bool else index
        return dataclasses.replace(self, chosen=index.cpu() if self.chosen is None else self.chosen[index.cpu()])

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The rows as a tensor."""
        if isinstance(index, slice) and self.chosen is None:
            found = _dense(self.matrix[index], self.numbers)
            here: Any = index
        else:
            here = index.cpu() if isinstance(index, Tensor) else index
            here = torch.arange(len(self))[here] if self.chosen is None else self.chosen[here]
            # Files give rows in their own order alone, each once.
            each, places = here.flatten().unique(return_inverse=True)
            found = _dense(self.matrix[each.numpy()], self.numbers)[places].reshape(*here.shape, -1)
        if self.beside is not None:
            found = torch.cat([found, self.beside[here].to(found)], dim=-1)
        return sent(found, self.device)

    def remembered(self, digest: Callable[[], str]) -> str:
        """The digest of the rows, computed."""
        return digest()


def _dense(rows: Any, numbers: str) -> Tensor:
    """Rows of a sparse or dense matrix as a tensor."""
    rows = rows.compute() if hasattr(rows, "compute") else rows  # of Dask
    array = rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=numbers))


def beside(rows: Tensor | StoredRows, columns: Tensor) -> Tensor | StoredRows:
    """Rows with columns after their own; what is stored stays there.

    Args:
        rows: (row, feature).
        columns: (row, further).
    """
    if isinstance(rows, Tensor):
        return torch.cat([rows, columns.to(rows)], dim=1)
    if isinstance(rows, SparseRows):
        if rows.beside is not None or rows.chosen is not None:
            return dataclasses.replace(SparseRows(_Whole(rows), columns), numbers=rows.numbers, device=rows.device)
        return dataclasses.replace(rows, beside=columns)
    return SparseRows(_Whole(rows), columns, device=rows.device, numbers=rows.numbers)


@dataclass(frozen=True, eq=False)
class _Whole:
    """Stored rows as a matrix whose rows are given by numbers."""

    rows: StoredRows

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.rows[index if isinstance(index, slice) else torch.as_tensor(index)].cpu().numpy()


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def pinned(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU, in memory from which the device copies by itself, where it can."""
    return value.contiguous().pin_memory() if device.type in PINNED and value.device.type == "cpu" else value


def sent(value: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on a device, by a copy that the CPU does not wait for, where there is such a one.

    Args:
        value: what is sent.
        device: where to.
        dtype: kind of its numbers there; None for its own.
    """
    here = pinned(value.to(dtype or value.dtype), device)
    return here.to(device, non_blocking=device.type in PINNED)


def num_in_block(x: Tensor | StoredRows) -> int:
    """How many rows of x suit memory at once: at most 2^16, and at most 256 MB."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(1, math.prod(x.shape[1:]) * x.dtype.itemsize)))


def row_blocks(x: Tensor | StoredRows) -> Iterator[tuple[int, Tensor]]:
    """The number of its first row, and the rows, of one block after another, of a size that suits memory."""
    step = num_in_block(x)
    for begin in range(0, len(x), step):
        yield begin, x[begin : begin + step]


def spread(x: Tensor | StoredRows) -> Tensor:
    """Rows evenly spread over all, at most a block of them; all where these are no more."""
    return x[:: max(1, -(-len(x) // num_in_block(x)))]


def rows_of_numbers(x: Tensor | StoredRows, index: Tensor) -> Tensor | StoredRows:
    """Some rows, by their numbers; what is stored stays there."""
    return x.rows(index) if isinstance(x, StoredRows) else x[index.to(x.device)]


def rows_where(x: Tensor | StoredRows, holds: Callable[[Tensor], Tensor]) -> Tensor | StoredRows:
    """The rows of which something holds; what is stored stays there.

    Args:
        x: (row, feature).
        holds: rows of a block -> whether it holds of each, (row,).
    """
    which = torch.cat([holds(block) for _, block in row_blocks(x)])
    if which.all():
        return x
    return rows_of_numbers(x, which.nonzero().flatten())


def nanmean(blocks: Iterable[Tensor]) -> Tensor:
    """The mean over the first dimension of all blocks together, without what is NaN."""
    total: Any = 0
    count: Any = 0
    for block in blocks:
        total, count = total + block.nansum(0), count + (~block.isnan()).sum(0)
    return total / count


def in_memory(x: Tensor | StoredRows) -> Tensor:
    """All rows as one tensor."""
    return x[:] if isinstance(x, StoredRows) else x
