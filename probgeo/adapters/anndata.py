"""AnnData as data sets."""

from pathlib import Path
from typing import Any

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.files.annotated import annotated


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
    return annotated(adata, layer=layer, raw=raw, labels=labels, batch=batch, library_size=library_size, name=name)
