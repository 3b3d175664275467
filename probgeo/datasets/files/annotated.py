"""AnnData as data sets: matrices stay sparse or in their file, and what is known of cells stays with them."""

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.labels import named_codes
from probgeo.datasets.mapped import is_anndata, matrix_rows
from probgeo.rows import StoredRows

_GENES = re.compile(r"gene|ens[a-z]*g\d{6}|mt-|rp[ls]\d", re.IGNORECASE)
_CELLS = re.compile(r"cell|[acgt]{10,}(-\d+)?$", re.IGNORECASE)
MISSING = ("nan", "NaN", "<NA>", "")  # as texts of missing values are written; what pandas reads from a table too
UNEVEN, FACTOR = 0.8, 1.5  # variation of totals from which they may be those of genes, and over that of the others
SAMPLE, PIECES = 2048, 8  # rows whose totals are looked at, in how many pieces
GENE_HEADS = {"gene", "genes", "gene_id", "gene_name", "gene_symbol", "symbol", "feature", "features"}


def from_anndata(
    adata: Any | str | Path,
    *,
    layer: str | None = None,
    raw: bool = False,
    labels: str | None = None,
    batch: str | None = None,
    library_size: str | None = None,
    name: str | None = None,
) -> Dataset:
    """The cells of an AnnData as a `Dataset`: rows x, types, and all columns of `obs`.

    A sparse matrix stays sparse: rows are unpacked as they are needed, a minibatch at a time. Where the AnnData is
    backed by its file, they stay in the file. `in_memory()` of the data set unpacks all.

    Args:
        adata: the AnnData, in memory or backed, cells as rows; or the path of an `.h5ad` or `.zarr`.
        layer: the layer that is meant; None for `X`. Counts often are in a layer.
        raw: whether the `X` of `adata.raw` is meant, of all its genes.
        labels: the column of `obs` that holds the cells' types, whose missing values are unlabelled cells. None: all of
            one type.
        batch: the column that holds each cell's batch; it stays in `obs`, as a category, for models that read it.
        library_size: the column that holds the library sizes, of which the counts here may be a part.
        name: of the data set; default: of the file.

    Returns:
        The data set. Values are taken as they are, counts or not; likelihoods of counts check that they are.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a file, and anndata is not installed.
        TypeError: something else than an AnnData.
        ValueError: a layer or column that is not there, with what is; a cell without a batch or library size; rows that
            are genes, as their names tell.

    Warns:
        UserWarning: rows that are likely genes, as their totals tell, where names say nothing; cells whose type is a
            text such as "nan", which are taken for unlabelled.

    Example:
        >>> import pytest
        >>> anndata = pytest.importorskip("anndata", reason="anndata is not installed")
        >>> import numpy, pandas, scipy.sparse, probgeo as pg
        >>> counts = scipy.sparse.csr_matrix(numpy.eye(3, 4, dtype="float32"))
        >>> obs = pandas.DataFrame({"type": ["B", None, "T"]}, index=["AAC", "AAG", "AAT"])
        >>> data = pg.adapters.from_anndata(anndata.AnnData(counts, obs=obs), labels="type")
        >>> data.labels, data.label_names, data.x
        (tensor([ 0, -1,  1]), ('B', 'T'), SparseRows(3 rows of 4))
    """
    table, called = opened(adata)
    matrix, genes = matrix_of(table, layer, raw)
    check_orientation(str(called), table.obs_names, genes)
    obs = table.obs.copy()
    for argument, key in (("labels", labels), ("batch", batch), ("library_size", library_size)):
        if key is not None and key not in obs:
            turned = " It is a column of var: are genes the rows? Give adata.T." if key in table.var else ""
            raise ValueError(
                f"{argument}: obs has no column {key!r}; it has {', '.join(map(str, obs)) or 'none'}.{turned}"
            )
        if key is not None and list(obs).count(key) > 1:
            raise ValueError(f"{argument}: obs has {list(obs).count(key)} columns {key!r}; rename them.")
    if batch is not None:
        if obs[batch].isna().any():
            raise ValueError(
                f"batch: expected a batch of every cell; {int(obs[batch].isna().sum())} of {len(obs)} have none in "
                f"{batch!r}. Fill in a name for them, or leave them out."
            )
        obs[batch] = pd.Categorical(obs[batch].astype(str))
    codes, names = type_codes(obs[labels], labels) if labels else (torch.zeros(len(obs), dtype=torch.int64), ("cell",))
    sizes = None if library_size is None else _sizes(obs[library_size])
    rows = matrix_rows(matrix)
    if not {labels, batch, library_size} - {None}:  # columns that only cells have
        check_totals(str(called), table.obs_names, genes, rows)
    return Dataset(
        name=name or (called if isinstance(called, str) else called.stem),
        x=rows,
        labels=codes,
        label_names=names,
        shape=(matrix.shape[1],),
        colours=_colours(table, labels, names),
        feature_names=tuple(map(str, genes)),
        obs=obs,
        library_size=sizes,
    )


def opened(adata: Any) -> tuple[Any, str | Path]:
    """An AnnData, of an object or a file, and what to call it."""
    if is_anndata(adata):
        return adata, "cells"
    if not isinstance(adata, (str, Path)):
        raise TypeError(f"adata: expected an AnnData, or the path of an .h5ad or .zarr; got {type(adata).__name__}.")
    path = Path(adata)
    if not path.exists():
        raise FileNotFoundError(f"path: there is no file {path}.")
    if path.suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"adata: expected an AnnData, or the path of an .h5ad or .zarr; got {path.name}.")
    try:
        import anndata
    except ImportError as error:
        raise ImportError(f"{path}: anndata reads such files; pip install anndata.") from error
    return (anndata.read_zarr if path.suffix == ".zarr" else anndata.read_h5ad)(path), path


def matrix_of(table: Any, layer: str | None, raw: bool = False) -> tuple[Any, pd.Index]:
    """X, a layer, or the X of `raw`, and the names of its genes.

    Raises:
        ValueError: it is not there, or what scvi-tools minified, whose counts are gone.
    """
    if raw and layer is not None:
        raise ValueError(f"raw: expected either raw or a layer; got both, layer {layer!r}.")
    if raw:
        if table.raw is None:
            raise ValueError("raw: the AnnData has none; leave it out, or name the layer of the counts.")
        return table.raw.X, table.raw.var_names
    if layer is not None and layer not in table.layers:
        raise ValueError(f"layer: there is no layer {layer!r}; it has {sorted(table.layers)}.")
    if table.uns.get("_scvi_adata_minify_type") == "latent_posterior_parameters":
        raise ValueError("adata: it was minified by scvi-tools, its counts are gone. Give the AnnData before that.")
    found = table.X if layer is None else table.layers[layer]
    if found is None:
        raise ValueError(f"layer: the AnnData has no X; name one of its layers, {sorted(table.layers)}.")
    return found, table.var_names


def check_orientation(name: str, rows: Iterable[Any], columns: Iterable[Any], head: str = "") -> None:
    """Refuse a table whose rows are genes, as their names tell: those of genes and cells are often plain.

    Args:
        name: of the table.
        rows, columns: their names.
        head: what stands above the names of the rows.

    Raises:
        ValueError: the names of the rows are those of genes, or those of the columns are those of cells.
    """
    rows, columns = list(map(str, rows)), list(map(str, columns))
    by_rows = _share(_GENES, rows) - _share(_CELLS, rows)
    by_columns = _share(_CELLS, columns) - _share(_GENES, columns)
    if head.lower() in GENE_HEADS or by_rows > 0.5 or by_columns > 0.5:
        raise ValueError(
            f"{name}: expected cells as rows and genes as columns; the {len(rows)} rows are named {_few(rows)}, the "
            f"{len(columns)} columns {_few(columns)}. Turn it: adata.T, or pandas.read_csv(path, index_col=0).T; if "
            "these rows are cells, give them other names."
        )


def check_totals(name: str, rows: Iterable[Any], columns: Iterable[Any], x: Tensor | StoredRows) -> None:
    """Warn of a table whose rows are likely genes, by their totals, where no names tell.

    Totals of genes differ by orders of magnitude, those of cells less: the standard deviation of the rows' over their
    mean is at least 0.8 and 1.5 times that of the columns'. Of three real tables (and of at least 98.7 % of random
    parts of each) none is taken for turned, and each is when it is; of small parts, or of genes that were chosen for
    their variance, 10 to 55 % are not recognised.

    Args:
        name: of the table.
        rows, columns: their names.
        x: the numbers, of which a sample of rows is looked at.

    Warns:
        UserWarning: they are.
    """
    rows, columns = list(map(str, rows)), list(map(str, columns))
    if max(_share(_CELLS, rows), _share(_GENES, columns)) > 0.5:
        return
    variation = _variation_of_totals(x)
    if variation is None or variation[0] < max(UNEVEN, FACTOR * variation[1]):
        return
    warnings.warn(
        f"{name}: are its rows genes? Totals of the {len(x)} rows vary by {variation[0]:.1f} of their mean, those "
        f"of the {x.shape[1]} columns by {variation[1]:.1f}, as totals of genes and of cells do. Rows are taken for "
        "cells here. If they are genes, turn it: adata.T, or pandas.read_csv(path, index_col=0).T; if they are cells, "
        "look for those with hardly a count.",
        stacklevel=3,
    )


def _variation_of_totals(x: Tensor | StoredRows) -> tuple[float, float] | None:
    """Standard deviation over mean of the totals of rows and of columns; None where they are no totals of counts."""
    size = -(-min(len(x), SAMPLE) // PIECES)
    begins = np.unique(np.linspace(0, max(0, len(x) - size), PIECES).astype(int)).tolist()
    of_rows, of_columns = [], torch.zeros(x.shape[1], dtype=torch.float64)
    for begin, after in zip(begins, [*begins[1:], len(x)], strict=True):
        block = x[begin : min(begin + size, after)].double()
        if not (block >= 0).all():  # neither counts nor rates, or missing
            return None
        of_rows.append(block.sum(1))
        of_columns += block.sum(0)
    totals = (torch.cat(of_rows), of_columns)
    if min(map(len, totals)) < 2 or not 0 < float(of_columns.sum()) < np.inf:
        return None
    first, second = (float(total.std() / total.mean()) for total in totals)
    return first, second


def _share(pattern: re.Pattern, names: Sequence[str]) -> float:
    return sum(bool(pattern.match(name)) for name in names) / max(1, len(names))


def type_codes(values: Any, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Codes of the types of cells and their names; a missing value that was made a text is missing still, and said.

    Raises:
        ValueError: measured numbers, of which each cell has one of its own.

    Warns:
        UserWarning: texts such as "nan".
    """
    series = pd.Series(values)
    if pd.api.types.is_float_dtype(series) and not (series.dropna() % 1 == 0).all():
        first = series.dropna()[series.dropna() % 1 != 0].iloc[0]
        raise ValueError(f"labels: expected types of cells, names or whole numbers; got {first:g} in {name!r}.")
    written = series.astype(object).isin(MISSING).to_numpy()
    if written.any():
        texts = ", ".join(sorted({repr(value) for value in series[written]}))
        warnings.warn(f"labels: {written.sum()} cells named {texts} are taken for unlabelled.", stacklevel=3)
        series = series.astype(object).where(~written, None)
    return named_codes(series)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _sizes(values: pd.Series) -> Tensor:
    sizes = values.to_numpy(dtype=float, na_value=np.nan)
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(f"library_size: expected a positive number of every cell in {values.name!r}.")
    return torch.from_numpy(sizes.astype(np.float32))


def _colours(table: Any, labels: str | None, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The colours that scanpy keeps of the labels' categories."""
    kept = table.uns.get(f"{labels}_colors")
    if labels is None or kept is None or not isinstance(table.obs[labels].dtype, pd.CategoricalDtype):
        return None
    of_name = dict(zip(map(str, table.obs[labels].cat.categories), map(str, kept), strict=False))
    found = tuple(of_name.get(each, "") for each in names)
    return found if all(re.fullmatch("#[0-9a-fA-F]{6}", colour) for colour in found) else None
