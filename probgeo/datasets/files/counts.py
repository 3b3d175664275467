"""Tables of counts with pseudotimes: any AnnData, npz or csv file, and simulated ones of known pseudotime."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from torch import Tensor

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.files.annotated import GENE_HEADS, check_orientation, check_totals, matrix_of, opened, type_codes
from probgeo.datasets.files.arrays import opened_arrays
from probgeo.datasets.labels import coded
from probgeo.datasets.mapped import is_anndata


class _Columns(NamedTuple):
    """What a file holds: counts, names of their columns, what else it says of each row, and names of codes and rows."""

    counts: np.ndarray
    genes: tuple[str, ...]
    others: Mapping[str, np.ndarray]
    code_names: Mapping[str, np.ndarray]
    cells: pd.Index
    head: str = ""  # above the names of the cells


def count_table(
    path: str | Path | Any,
    labels: str | None = None,
    pseudotime: Sequence[str] = (),
    weights: Sequence[str] = (),
    counts: str | None = None,
    library_size: str | None = None,
    raw: bool = False,
) -> Dataset:
    """The counts in an AnnData, its file (.h5ad, .zarr), NumPy (.npz) or text table (.csv, .tsv, also compressed) file.

    All are in memory then; `adapters.from_anndata` leaves sparse counts sparse.

    Args:
        path: the file, or an AnnData; cells are rows.
        labels: what holds the cells' types: a column (of `obs`, of the text table) or an array of the npz, names or
            codes, missing where a cell is unlabelled; codes of an npz are named by its array `<labels>_names` if there
            is one, cells by `cells`. None: all of one type.
        pseudotime: what holds the pseudotimes, one lineage per column (arrays and `obsm` may hold several lineages).
        weights: what holds the lineages' weights, in the same order; a cell is on a lineage where it is above ½.
            None given: where the pseudotime is finite.
        counts: layer of the AnnData or array of the npz that holds the counts; default X, or the array `counts`. Not
            used of a text table, whose counts are all columns that are not named otherwise.
        library_size: what holds the library sizes, of which the counts here may be a part.
        raw: whether the counts are those of `raw` of an AnnData.

    Returns:
        The counts, checked to be non-negative integers, with names of genes and cells and, as `obs`, what else the file
        says of each cell in one number or word.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: an AnnData file, and anndata is not installed.
        ValueError: another kind of file, a name that the file lacks, values that are no counts, rows that are genes, as
            their names tell.

    Warns:
        UserWarning: rows that are likely genes, as their totals tell, where names say nothing.

    Example:
        >>> import pathlib, tempfile, pandas as pd, probgeo as pg
        >>> cells = pd.DataFrame({"type": ["neuron", "neuron", "glia"], "Sst": [3, 1, 0], "Pvalb": [0, 5, 0]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cells.to_csv(pathlib.Path(folder) / "cells.csv", index=False)
        ...     found = pg.datasets.count_table(pathlib.Path(folder) / "cells.csv", labels="type")
        >>> found.feature_names, found.label_names
        (('Sst', 'Pvalb'), ('glia', 'neuron'))
    """
    table = path if is_anndata(path) else None
    path = Path("cells" if table is not None else path)
    if table is None and not path.exists():
        raise FileNotFoundError(f"path: there is no file {path}.")
    kind = next((suffix for suffix in path.suffixes if suffix in (".h5ad", ".zarr", ".npz", ".csv", ".tsv")), None)
    if table is None and kind is None:
        read = " scanpy.read_10x_mtx(folder) makes an AnnData of it." if ".mtx" in path.suffixes else ""
        raise ValueError(
            f"path: expected an AnnData, or a .h5ad, .zarr, .npz, .csv or .tsv file; got {path.name}.{read}"
        )
    if raw and kind in (".npz", ".csv", ".tsv"):
        raise ValueError(f"raw: {path} is no AnnData, which alone has one; leave it out.")
    if table is not None or kind in (".h5ad", ".zarr"):
        found = _anndata(path, table, counts, raw)
    elif kind == ".npz":
        found = _arrays(path, counts or "counts")
    else:
        found = _text(path, {*pseudotime, *weights, *filter(None, [labels, library_size])})
    check_orientation(str(path), found.cells, found.genes, found.head)
    codes, names = _codes(path, found, labels)
    time = _stacked(path, found, pseudotime)
    if weights:
        weight = _stacked(path, found, weights)
        if weight.shape != time.shape:
            raise ValueError(f"weights: expected one per pseudotime, {time.shape}; got {weight.shape}.")
        time = np.where(weight > 0.5, time, np.nan)
    x = torch.from_numpy(_checked(path, found.counts).astype(np.float32))
    if not (labels or library_size or pseudotime):  # of which only cells have any
        check_totals(str(path), found.cells, found.genes, x)
    others = {name: values for name, values in found.others.items() if np.shape(values) == (len(found.counts),)}
    return Dataset(
        name=path.name.removesuffix("".join(path.suffixes)),
        x=x,
        labels=codes,
        label_names=names,
        shape=(found.counts.shape[1],),
        feature_names=found.genes,
        obs=pd.DataFrame(others, index=found.cells),
        library_size=_floats(_column(path, found, library_size)) if library_size else None,
        pseudotime=_floats(time),
    )


def _floats(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def earliest_row(pseudotime: Float32[Tensor, "row lineage"]) -> int:
    """Row of the earliest cell: of those on the most lineages, the one of least mean pseudotime.

    Args:
        pseudotime: as in `Dataset`.

    Returns:
        Its number, from 0.

    Raises:
        ValueError: no cell has a pseudotime.

    Example:
        >>> import torch, probgeo as pg
        >>> pg.datasets.earliest_row(torch.tensor([[3.0, torch.nan], [1.0, 2.0], [0.5, torch.nan]]))  # on both lineages
        1
    """
    known = pseudotime.isfinite().sum(1)
    if not pseudotime.numel() or known.max() == 0:
        raise ValueError("pseudotime: expected at least one cell with a pseudotime; got none. Choose the root.")
    return int(pseudotime.nanmean(1).masked_fill(known < known.max(), torch.inf).nan_to_num(torch.inf).argmin())


def _anndata(path: Path, table: Any, layer: str | None, raw: bool) -> _Columns:
    table = opened(path)[0] if table is None else table
    matrix, genes = matrix_of(table, layer, raw)
    matrix = matrix.to_memory() if hasattr(matrix, "to_memory") else matrix
    matrix = matrix.compute() if hasattr(matrix, "compute") else matrix  # of Dask
    dense = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    columns = {str(name): table.obs[name].to_numpy() for name in table.obs.columns}
    return _Columns(dense, tuple(map(str, genes)), {**dict(table.obsm), **columns}, {}, table.obs_names)


def _arrays(path: Path, name: str) -> _Columns:
    with opened_arrays(path) as file:
        arrays = dict(file)
    if name not in arrays:
        raise ValueError(f"counts: {path} has no array {name!r}; it has {sorted(arrays)}.")
    matrix = arrays.pop(name)
    _check_names(path, matrix, arrays)
    genes = arrays.get("genes", np.arange(matrix.shape[-1]))
    code_names = {key.removesuffix("_names"): value for key, value in arrays.items() if key.endswith("_names")}
    cells = pd.Index(arrays.get("cells", np.arange(len(matrix))))
    return _Columns(matrix, tuple(map(str, genes)), arrays, code_names, cells)


def _check_names(path: Path, matrix: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse a matrix that has other rows and columns than cells and genes are named."""
    named = [(arrays[key].size, axis) for axis, key in enumerate(("cells", "genes")) if key in arrays]
    if matrix.ndim != 2 or all(size == matrix.shape[axis] for size, axis in named):
        return
    expected = " and ".join(f"{size} {('cells as rows', 'genes as columns')[axis]}" for size, axis in named)
    turned = " Turn it: counts.T." if all(size == matrix.shape[1 - axis] for size, axis in named) else ""
    raise ValueError(f"counts: expected {expected}, as {path} names them; got shape {matrix.shape}.{turned}")


def _text(path: Path, names: set[str]) -> _Columns:
    table = pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",")
    head = str(table.columns[0])
    if head.startswith("Unnamed") or head.lower() in ("cell", "cells", "barcode", *GENE_HEADS):
        table = table.set_index(head)  # names of the rows
    counted = table.drop(columns=[name for name in names if name in table])
    numbers = [re.fullmatch(r"(\d+)(\.\d+)?", str(name)) for name in counted]  # of two of one name, 3 and 3.1
    if numbers and all(numbers) and len({found[1] for found in numbers if found}) < len(numbers):
        raise ValueError(
            f"path: expected names of the columns in the first line of {path}; got counts. Put names above them, as "
            "pandas.read_csv(path, header=None) gives numbers."
        )
    wrong = [name for name in counted if not pd.api.types.is_numeric_dtype(counted[name])]
    if wrong:
        raise ValueError(f"path: expected numbers in the columns of {path}; got text in {wrong}. Remove them.")
    columns = {str(name): table[name].to_numpy() for name in names if name in table}
    return _Columns(counted.to_numpy(), tuple(map(str, counted.columns)), columns, {}, table.index, head)


def _column(path: Path, found: _Columns, name: str) -> np.ndarray:
    if name not in found.others or len(found.others[name]) != len(found.counts):
        rows = sorted(key for key, value in found.others.items() if value.shape[:1] == (len(found.counts),))
        raise ValueError(f"{path} has no {name!r} with one entry per row; it has {', '.join(rows) or 'none'}.")
    return np.asarray(found.others[name])


def _codes(path: Path, found: _Columns, name: str | None) -> tuple[Tensor, tuple[str, ...]]:
    """Codes of the types, and their names."""
    if name is None:
        return torch.zeros(len(found.counts), dtype=torch.int64), ("cell",)
    values = _column(path, found, name)
    if name in found.code_names:
        return coded(values).codes, tuple(map(str, found.code_names[name]))
    return type_codes(values, name)


def _stacked(path: Path, found: _Columns, names: Sequence[str]) -> np.ndarray:
    """Columns and arrays side by side, (row, lineage)."""
    parts = [_column(path, found, name).reshape(len(found.counts), -1) for name in names]
    return np.concatenate([np.empty((len(found.counts), 0)), *parts], axis=1).astype(float)


def _checked(path: Path, counts: np.ndarray) -> np.ndarray:
    if counts.ndim != 2 or 0 in counts.shape:
        raise ValueError(f"{path}: expected counts of shape (row, column), neither empty; got {counts.shape}.")
    bad = np.argwhere(~(np.isfinite(counts) & (counts >= 0) & (counts == np.round(counts))))
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"{path}: expected counts, integers of at least 0; got {counts[row, column]:g} at row {row}, column "
            f"{column} ({len(bad)} such values). Give raw counts, neither logged nor normalised."
        )
    return counts


def branching_counts(
    num_cells: int = 500,
    num_genes: int = 60,
    total_count: float = 4.0,
    library: float = 500.0,
    seed: int = 0,
    num_batches: int = 1,
    batch_effect: float = 0.5,
) -> Dataset:
    """Simulated differentiation: negative binomial counts along a trunk that parts into two lineages at time 0.35.

    Each gene is switched on or off once, by up to e^±2, at a time of its own, on the trunk or on one of the branches.

    Args:
        num_cells: rows, of uniform pseudotime in [0, 1], half of them of each lineage.
        num_genes: columns.
        total_count: r of the negative binomial, of variance μ + μ² / r.
        library: median library size; it varies between cells by a factor of e^±0.5.
        seed: of everything.
        num_batches: each cell is of one at random, whatever its time and lineage, in the column `batch` of `obs`.
        batch_effect: standard deviation of the logarithm of a factor of each gene in each batch but the first.

    Returns:
        Counts with the true pseudotimes, labels trunk, first and second; a cell of the trunk is on both lineages.

    Raises:
        ValueError: an argument that is not positive.

    Example:
        >>> import probgeo as pg
        >>> found = pg.datasets.branching_counts(num_cells=100, num_genes=20)
        >>> found.x.shape, found.label_names
        (torch.Size([100, 20]), ('trunk', 'first', 'second'))
    """
    if min(num_cells, num_genes, total_count, library, num_batches) <= 0 or batch_effect < 0:
        raise ValueError(
            "num_cells, num_genes, total_count, library, num_batches, batch_effect: expected positive numbers; got "
            f"{num_cells}, {num_genes}, {total_count}, {library}, {num_batches}, {batch_effect}."
        )
    rng = np.random.default_rng(seed)
    time, lineage = rng.uniform(0, 1, num_cells), rng.integers(0, 2, num_cells)
    where = rng.integers(0, 3, num_genes)  # 0 and 1: switched in that lineage, 2: in both
    switch = np.where(where == 2, rng.uniform(0, 1, num_genes), rng.uniform(0.35, 1, num_genes))
    height = rng.uniform(1, 2, num_genes) * rng.choice([-1, 1], num_genes)
    follows = (where == 2) | (where == lineage[:, None])
    log_rate = rng.normal(0, 0.7, num_genes) + follows * height / (1 + np.exp(-(time[:, None] - switch) / 0.06))
    of_batches = np.random.default_rng([seed, 1])  # so that other cells are not drawn where there is one
    batch = of_batches.integers(0, num_batches, num_cells)
    factors = batch_effect * of_batches.standard_normal((num_batches, num_genes))
    log_rate = log_rate + np.where(np.arange(num_batches) > 0, 1, 0)[batch, None] * factors[batch]
    size = library * np.exp(0.5 * rng.standard_normal((num_cells, 1)))
    mean = size * np.exp(log_rate) / np.exp(log_rate).sum(1, keepdims=True)
    counts = rng.poisson(mean * rng.gamma(total_count, 1 / total_count, mean.shape))
    counts[:, 0] += counts.sum(1) == 0  # every cell has a count
    trunk = time < 0.35
    on = trunk[:, None] | (lineage[:, None] == np.arange(2))
    return Dataset(
        name="branching_counts",
        x=_floats(counts),
        labels=torch.from_numpy(np.where(trunk, 0, 1 + lineage)),
        label_names=("trunk", "first", "second"),
        shape=(num_genes,),
        feature_names=tuple(f"gene {index}" for index in range(num_genes)),
        obs=pd.DataFrame({"batch": [f"batch {code + 1}" for code in batch]}) if num_batches > 1 else None,
        pseudotime=_floats(np.where(on, time[:, None], np.nan)),
    )
