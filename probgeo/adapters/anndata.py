"""What several trainings agree on, written into an AnnData: codes, neighbours under the metric, their reliability."""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.sparse import csr_array, csr_matrix
from torch import Tensor

from probgeo.datasets.mapped import is_anndata, is_table
from probgeo.geometry.lines import line_lengths
from probgeo.geometry.metrics import Metric
from probgeo.geometry.neighbours import neighbours
from probgeo.identifiability import coefficient_of_variation, icc, rank_agreement
from probgeo.models.base import LatentModel, codes_of

SEGMENTS = 4  # of the line between two neighbours
SCALE = 1e-3  # least bandwidth, as a share of the mean distance


def to_anndata(
    adata: Any,
    dataset: Any,
    models: Sequence[LatentModel] | Mapping[str, Sequence[LatentModel]],
    *,
    metric: Callable[[LatentModel], Metric] | None = None,
    num_neighbours: int = 15,
    key: str | None = None,
    progress: bool = False,
) -> None:
    """Writes codes and neighbours under the metric, of the mean over trainings, where scanpy's tools look for them.

    After it `scanpy.tl.umap`, `leiden`, `diffmap`, `dpt` and `paga` run on `adata` as they are. What is written:

    * `obsm["X_probgeo"]`: codes of the first training, and `obsm["X_probgeo_1"]`, … those of the others, each in
      coordinates of its own, of which there is no mean.
    * `obsp["distances"]`: lengths of lines under the metric, the mean over trainings: of each cell to the k cells that
      are nearest in this mean, among all that are neighbours in some training. Not symmetric, as scanpy's are not.
    * `obsp["connectivities"]`: weights in (0, 1] made of these as scanpy and UMAP make them, symmetric.
    * `obsp["reliability"]`: of the same entries as `distances`, the share of trainings in which the other cell is among
      the k nearest of that training alone.
    * `obs["reliability"]`: the mean of a cell's entries: near 1 for cells whose neighbours every training agrees on.
    * `uns["neighbors"]`: names of these, for scanpy, and under `probgeo` the number of trainings, the metric and the
      version; and `uns["probgeo_summary"]`, if `dataset` holds measured distances: their statistics.

    Args:
        adata: an AnnData; all of its cells, in the order of `dataset`. Changed in place.
        dataset: what the models read of the same cells: the `Dataset` of `from_anndata`, `adata` itself, or rows of
            numbers. Or distances that `measure` returned: then the models read `adata`.
        models: trainings of one model, a list, or as for `measure` with one name.
        metric: model -> metric; None for its Fisher-Rao metric, in nats^½ in every training. Of a metric whose unit
            differs from training to training there is no mean.
        num_neighbours: k, beside the cell itself: scanpy's `n_neighbors` less one.
        key: None for the names above, which scanpy takes by default; otherwise `uns[key]`, `obsp[f"{key}_distances"]`
            and so on, for `neighbors_key=key`.
        progress: show progress bars.

    Raises:
        TypeError: no AnnData, no list of latent models, or models without the metric.
        ValueError: several names, no model, another number or order of cells, neighbours or a column of others under
            these names (give a `key`, or delete them), a key with '/', or what `neighbours` refuses.

    Example:
        >>> import pytest
        >>> anndata = pytest.importorskip("anndata", reason="anndata is not installed")
        >>> import probgeo as pg
        >>> cells = pg.datasets.branching_counts(num_cells=60, num_genes=20)
        >>> spec = pg.VAE(latent=2, likelihood=pg.likelihoods.NegativeBinomial())
        >>> models = pg.fit(spec, cells.x, seeds=range(2), training=pg.Training(epochs=2), progress=False)
        >>> adata = anndata.AnnData(cells.x.numpy())
        >>> pg.adapters.to_anndata(adata, cells, models, num_neighbours=5)
        >>> adata.obsp["distances"].nnz, float(adata.obsp["reliability"].max()) <= 1
        (300, True)

    References:
        McInnes, Healy & Melville (2018), UMAP: Uniform manifold approximation and projection, algorithms 2 and 3.
    """
    if not is_anndata(adata):
        raise TypeError(f"adata: expected an AnnData, to write into; got {type(adata).__name__}.")
    models = _listed(models)
    names = _names(key)
    made = adata.uns.get(names["uns"], {})
    if made and "probgeo" not in made:
        raise ValueError(
            f"adata: uns[{names['uns']!r}] holds neighbours that were not made here; give key='probgeo', to be passed "
            "to scanpy as neighbors_key, or delete them."
        )
    if not made and names["reliability"] in adata.obs:
        raise ValueError(f"adata: obs has a column {names['reliability']!r}, not made here; rename it, or give a key.")
    cells = adata if isinstance(dataset, xr.Dataset) else dataset
    _check_order(adata, cells)
    codes = [codes_of(model, model.rows(cells) if is_table(cells) else cells) for model in models]
    if len(codes[0]) != adata.n_obs:
        raise ValueError(f"dataset: expected the {adata.n_obs} cells of adata; got {len(codes[0])}.")
    metrics = [model.fisher_rao_metric() if metric is None else metric(model) for model in models]
    distances, reliability = _mean_neighbours(metrics, codes, num_neighbours, progress)
    for number, own in enumerate(codes):
        adata.obsm["X_probgeo" + (f"_{number}" if number else "")] = own.cpu().numpy()
    # Matrices, not arrays of SciPy, which scanpy's tools still multiply by *.
    for name, values in (
        ("distances", distances),
        ("connectivities", connectivities(distances)),
        ("reliability", reliability),
    ):
        adata.obsp[names[name]] = csr_matrix(values.astype(np.float32))
    adata.obs[names["reliability"]] = reliability.sum(1) / num_neighbours
    made_of = {
        "trainings": len(models),
        "model": models[0].name or type(models[0]).__name__,
        "metric": "fisher_rao_metric" if metric is None else getattr(metric, "__name__", type(metric).__name__),
        "version": version("probgeo"),
    }
    adata.uns[names["uns"]] = {
        "distances_key": names["distances"],
        "connectivities_key": names["connectivities"],
        "params": {"n_neighbors": num_neighbours + 1, "method": "umap", "use_rep": "X_probgeo"},
        "probgeo": {**made_of, "reliability_key": names["reliability"]},
    }
    if isinstance(dataset, xr.Dataset):
        adata.uns["probgeo_summary"] = _statistics(dataset)


def connectivities(distances: csr_array) -> csr_array:
    """Weights w + wᵀ − w∘wᵀ, w_ij = exp(−max(0, d_ij − ρ_i) / σ_i), of each row's distances, as UMAP has them.

    ρ_i is the least distance above zero, and σ_i such that Σ_j w_ij = log₂(k + 1), the row itself counted as one of
    the k + 1.

    Args:
        distances: k per row, none of the diagonal.

    Returns:
        Symmetric weights in [0, 1].
    """
    k = len(distances.data) // distances.shape[0]
    d = distances.data.reshape(-1, k).astype(float)
    least = np.where(d > 0, d, np.inf).min(1, keepdims=True)
    above = np.maximum(d - np.where(np.isfinite(least), least, 0), 0)
    low, high, sigma = np.zeros_like(least), np.full_like(least, np.inf), np.ones_like(least)
    for _ in range(64):
        more = np.exp(-above / sigma).sum(1, keepdims=True) > math.log2(k + 1)
        low, high = np.where(more, low, sigma), np.where(more, sigma, high)
        sigma = np.where(np.isfinite(high), (low + high) / 2, 2 * sigma)
    own = np.where(np.isfinite(least), d.sum(1, keepdims=True) / (k + 1), d.mean() * k / (k + 1))
    sigma = np.maximum(sigma, SCALE * own)
    weights = np.where(above > 0, np.exp(-above / np.where(sigma > 0, sigma, 1)), 1.0)
    w = csr_array((weights.ravel(), distances.indices, distances.indptr), shape=distances.shape)
    return (w + w.T - w * w.T).tocsr()


def _check_order(adata: Any, cells: Any) -> None:
    """Refuse cells that are named otherwise, or stand in another order, than those of adata."""
    if not is_table(cells) or cells is adata:
        return
    here, there = adata.obs_names.astype(str), _row_names(cells)
    if there is None or len(here) != len(there) or here.equals(there):
        return
    if is_anndata(cells) or sorted(here) == sorted(there):  # a data set may have numbers for names
        place = int(np.flatnonzero(here != there)[0])
        raise ValueError(
            f"dataset: expected the cells of adata in their order; cell {place} is {there[place]!r}, there "
            f"{here[place]!r}. Give dataset[adata.obs_names], or adata itself."
        )


def _row_names(cells: Any) -> pd.Index | None:
    if is_anndata(cells):
        return cells.obs_names.astype(str)
    obs = getattr(cells, "obs", None)
    return None if obs is None else obs.index.astype(str)


def _listed(models: Any) -> list[LatentModel]:
    if isinstance(models, Mapping):
        if len(models) != 1:
            raise ValueError(f"models: expected trainings of one model; got {', '.join(map(repr, models)) or 'none'}.")
        (models,) = models.values()
    if isinstance(models, LatentModel) or not all(isinstance(model, LatentModel) for model in models):
        raise TypeError("models: expected a list of LatentModels, one per training, such as those of fit.")
    if not len(models):
        raise ValueError("models: expected at least one training; got none.")
    return list(models)


def _names(key: str | None) -> dict[str, str]:
    """By what is written, where."""
    if key is not None and (not key or "/" in key):
        raise ValueError(f"key: expected a name without '/', under which files hold groups; got {key!r}.")
    parts = ("distances", "connectivities", "reliability")
    if key is None:
        return {"uns": "neighbors", **{part: part for part in parts}}
    return {"uns": key, **{part: f"{key}_{part}" for part in parts}}


def _mean_neighbours(
    metrics: Sequence[Metric], codes: Sequence[Tensor], k: int, progress: bool
) -> tuple[csr_array, csr_array]:
    """Mean lengths over trainings to the k nearest in the mean, and shares of trainings that have the edge."""
    single = [neighbours(metric, own, k, progress=progress) for metric, own in zip(metrics, codes, strict=True)]
    share = sum((graph.astype(bool).astype(float) for graph in _with_zeros(single)), start=csr_array(single[0].shape))
    start, stop = share.tocsr().nonzero()
    pairs, number = np.unique(np.sort(np.stack([start, stop], axis=1), axis=1), axis=0, return_inverse=True)
    lengths = [line_lengths(metric, own, pairs, SEGMENTS, progress) for metric, own in zip(metrics, codes, strict=True)]
    mean = np.mean(lengths, axis=0)[number.ravel()]
    order = np.lexsort([mean, start])
    place = np.arange(len(start)) - np.searchsorted(start[order], start[order])
    kept = order[place < k]
    kept = kept[np.lexsort([stop[kept], start[kept]])]
    indptr = k * np.arange(len(codes[0]) + 1)
    found = csr_array((mean[kept], stop[kept], indptr), shape=share.shape)
    shares = np.asarray(share.tocsr()[start[kept], stop[kept]]).ravel() / len(metrics)
    return found, csr_array((shares, stop[kept], indptr), shape=share.shape)


def _with_zeros(graphs: Sequence[csr_array]) -> list[csr_array]:
    """Ones where an edge is stored, at distance zero too."""
    return [csr_array((np.ones(graph.nnz), graph.indices, graph.indptr), shape=graph.shape) for graph in graphs]


def _statistics(dataset: xr.Dataset) -> dict[str, dict[str, float]]:
    """CV, ICC and rank agreement of the measured distances, by model and measure."""
    d = dataset.distance.reset_coords(drop=True)
    d = d.dropna("retraining", how="all")
    found = xr.Dataset(
        {"cv": coefficient_of_variation(d).mean("pair"), "icc": icc(d), "rank": rank_agreement(d)}
    ).stack(row=("model", "measure"))
    return {
        f"{model} {measure}": {str(name): float(found[name].sel(row=(model, measure))) for name in found}
        for model, measure in found.row.values
    }
