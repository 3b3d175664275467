"""Rows as they come: tensors, arrays, tables, files that are mapped into memory, stores of chunks, sparse matrices."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.published.images import cache_folder
from probgeo.disk import whole_file
from probgeo.geometry.points import rows_of
from probgeo.rows import BLOCK_BYTES, FileRows, SparseRows, StoredRows


def is_anndata(x: Any) -> bool:
    """Whether x is an AnnData, whose package need not be installed to tell."""
    return all(hasattr(x, name) for name in ("X", "obs", "obsm", "var_names"))


@dataclass(frozen=True)
class Sized:
    """Rows and their library sizes.

    Args:
        x: rows.
        library_size: one of each row.
    """

    x: Any
    library_size: Any


def is_table(x: Any) -> bool:
    """Whether x says more of its rows than numbers: a `Dataset`, an AnnData, or rows with their library sizes."""
    return isinstance(x, (Dataset, Sized)) or is_anndata(x)


def sized(x: Any, library_size: Any | None) -> Any:
    """x, with library sizes where these are given.

    Raises:
        ValueError: x is a `Dataset` that has its own.
    """
    if library_size is None:
        return x
    if isinstance(x, Dataset) and x.library_size is not None:
        raise ValueError("library_size: the Dataset has its own; leave one of them out.")
    return Sized(x.x if isinstance(x, Dataset) else x, library_size)


def matrix_rows(matrix: Any) -> Tensor | SparseRows:
    """Rows of a matrix of an AnnData as float32: a tensor of an array; what is sparse, or in a file, stays there."""
    if isinstance(matrix, np.ndarray):
        return torch.from_numpy(np.array(matrix, dtype=np.float32))
    return SparseRows.of_matrix(matrix)


def as_rows(name: str, x: Any) -> Tensor | StoredRows:
    """Rows as a tensor, or those of a file or a sparse matrix as they stand there.

    Args:
        name: of the argument.
        x: a tensor; an array of NumPy; a table of pandas; an array that is mapped from a file, which stays there; a
            store of chunks (zarr, h5py), which is unpacked into a file of the folder `unpacked` of the cache folder,
            block by block, as rows are asked for one by one and a chunk holds many; a sparse matrix of SciPy or of an
            AnnData file, which stays sparse; a `Dataset` or an AnnData, whose `x` or `X` is meant.

    Raises:
        TypeError: no numbers.
        ValueError: an AnnData without X.
        OSError: the store cannot be unpacked.
    """
    if isinstance(x, (Dataset, Sized)):
        return as_rows(name, x.x)
    if is_anndata(x):
        # Its counts were given up for their codes by scvi-tools; the zeros in their place are none.
        lacking = x.uns.get("_scvi_adata_minify_type") == "latent_posterior_parameters"
        if x.X is None and not lacking:
            raise ValueError(f"{name}: the AnnData has no X; name a layer, from_anndata(adata, layer=...).")
        return torch.full((1, 1), torch.nan).expand(x.shape) if lacking else matrix_rows(x.X)
    if hasattr(x, "format") and hasattr(x, "shape"):
        return matrix_rows(x)
    if hasattr(x, "chunks") and not hasattr(x, "to_numpy") and len(getattr(x, "shape", ())) == 2:
        x = np.load(_unpacked(x), mmap_mode="r")
    rows: Any = FileRows.of_array(x) if isinstance(x, np.ndarray) else x
    return rows if isinstance(rows, StoredRows) else rows_of(name, x)


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
    chunk = store.chunks[0] if store.chunks and isinstance(store.chunks[0], int) else 1
    step = max(step // chunk * chunk, 1)
    for begin in range(0, num_rows, step):
        yield begin, np.ascontiguousarray(store[begin : begin + step])
