"""Rows as they come: tensors, arrays, tables, files that are mapped into memory, stores of chunks."""

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probgeo.datasets.published.images import cache_folder
from probgeo.disk import whole_file
from probgeo.rows import BLOCK_BYTES, Rows


def as_rows(x: Any) -> Tensor | Rows:
    """Rows as a tensor, or those of a file as they stand there.

    Args:
        x: a tensor; an array of NumPy; a table of pandas; an array that is mapped from a file, which stays there; a
            store of chunks (zarr, h5py), which is unpacked into a file of the folder `unpacked` of the cache folder,
            block by block, as rows are asked for one by one and a chunk holds many.

    Raises:
        TypeError: no numbers.
        OSError: the store cannot be unpacked.
    """
    if isinstance(x, Tensor | Rows):
        return x
    values = x.to_numpy() if hasattr(x, "to_numpy") else x
    if not isinstance(values, np.ndarray) and hasattr(values, "chunks") and len(getattr(values, "shape", ())) == 2:
        values = np.load(_unpacked(values), mmap_mode="r")
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        kind = f"{type(x).__name__} of {values.dtype}" if isinstance(values, np.ndarray) else type(x).__name__
        raise TypeError(f"x: expected a tensor, an array or a table of numbers; got {kind}.")
    with warnings.catch_warnings():  # of arrays that must not be written to: nothing here does
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Rows.of_array(values) or torch.from_numpy(values)


def _unpacked(store: Any) -> Path:
    """The file that holds what a store holds, named by its content, written if it is not there."""
    content = hashlib.sha256(f"{store.dtype}{store.shape}".encode())
    for _, block in _blocks(store):
        content.update(block.reshape(-1).view(np.uint8).data)
    path = cache_folder() / "unpacked" / f"{content.hexdigest()[:16]}.npy"
    if not path.exists():
        with whole_file(path) as unfinished:
            rows = np.lib.format.open_memmap(unfinished, "w+", store.dtype, store.shape)
            for begin, block in _blocks(store):
                rows[begin : begin + len(block)] = block
            rows.flush()
    return path


def _blocks(store: Any) -> Iterator[tuple[int, np.ndarray]]:
    """One block of rows after another, of whole chunks where these are small enough."""
    num_rows, num_columns = store.shape
    step = max(1, BLOCK_BYTES // max(1, num_columns * store.dtype.itemsize))
    step = max(step // store.chunks[0] * store.chunks[0], 1) if store.chunks else step
    for begin in range(0, num_rows, step):
        yield begin, np.ascontiguousarray(store[begin : begin + step])
