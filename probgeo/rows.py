"""Rows of an array in a file, read as tensors when they are asked for: what does not fit into memory stays there."""

import dataclasses
import json
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probgeo.disk import whole_file

BLOCK_ROWS, BLOCK_BYTES = 2**16, 2**28  # at once, at most
HELD_BYTES = 2**26  # of a file's pages that stay with the process, at most
AROUND = 2**16  # bytes that the system maps around one that is touched
SETTLED = 1.0  # seconds after which a change of a file is sure to have another time than the one before it


class _File:
    """A file that stays as it is, mapped anew where too many of its pages would stay with the process.

    Args:
        path: of the file.
        version: its size in bytes, and the time of its last change in nanoseconds.
    """

    def __init__(self, path: Path, version: tuple[int, int]) -> None:
        self.path, self.version = path, version
        self._pages: np.ndarray | None = None
        self._touched = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _File, (self.path, self.version)

    def pages(self, touched: int) -> np.ndarray:
        """All bytes, of which about so many are going to be touched.

        Raises:
            ValueError: the file is not what it was.
        """
        if _version(self.path) != self.version:
            raise ValueError(f"x: {self.path} has changed since it was opened. Open it again.")
        if self._pages is None or self._touched + touched > HELD_BYTES < self.version[0]:
            self._pages, self._touched = np.memmap(self.path, np.uint8, "r"), 0
        self._touched += touched
        return self._pages


@dataclass(frozen=True, eq=False, repr=False)
class FileRows:
    """Rows x_1 … x_n of a file, of which no more is in memory than is asked for: `rows[index]` is a tensor of its own.

    It is indexed like the tensor of all rows: by a slice, or by a tensor of row numbers of any shape. Made by
    `of_array`.

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

    @property
    def ndim(self) -> int:
        """2."""
        return len(self.whole)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors."""
        return torch.from_numpy(np.empty(0, self.numbers)).dtype

    def is_floating_point(self) -> bool:
        """Whether the tensors are."""
        return self.dtype.is_floating_point

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
        which: Any = index.cpu() if isinstance(index, Tensor) else index
        which = which if self.chosen is None else self.chosen[which]
        if not isinstance(which, Tensor):
            return self._read(which, max(map(abs, self.strides)) * len(range(*which.indices(len(self)))))
        # Rows apart from each other touch a page each: no more at once than may stay.
        around = max(map(abs, self.strides)) + AROUND
        parts = [
            self._read(part.numpy(), around * len(part)) for part in which.flatten().split(HELD_BYTES // around + 1)
        ]
        return torch.cat(parts).unflatten(0, which.shape)

    def _read(self, which: slice | np.ndarray, touched: int) -> Tensor:
        """Rows of the file, of whose pages about so many bytes are touched."""
        pages = self.file.pages(touched)
        array: np.ndarray = np.ndarray(self.whole, self.numbers, pages.data, self.offset, self.strides)
        return torch.from_numpy(np.array(array[which])).to(self.device)

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


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def row_blocks(x: Tensor | FileRows) -> Iterator[tuple[int, Tensor]]:
    """The number of its first row, and the rows, of one block after another, of a size that suits memory."""
    step = max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(1, x.shape[1] * x.dtype.itemsize)))
    for begin in range(0, len(x), step):
        yield begin, x[begin : begin + step]


def spread(x: Tensor | FileRows) -> Tensor:
    """Rows evenly spread over all, as many as suit memory; all where these are no more."""
    return x[:: max(1, -(-len(x) // BLOCK_ROWS))]


def in_memory(x: Tensor | FileRows) -> Tensor:
    """All rows as one tensor."""
    return x[:] if isinstance(x, FileRows) else x
