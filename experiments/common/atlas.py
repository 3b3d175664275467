"""What is made of distances between many cells: neighbours, clusters, an order from a root, distances between types."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import eigsh
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from tqdm import tqdm

import probgeo as pg
from probgeo import identifiability
from probgeo.adapters.anndata import connectivities

MEASURES = ("geodesic", "euclidean")
PER_TYPE = 8  # cells of each type between which distances of types are measured


def neighbour_graphs(models: Sequence[pg.LatentModel], codes: Sequence[Tensor], k: int) -> dict[str, list[csr_array]]:
    """The k nearest cells of each, of every training: under its Fisher-Rao metric, and by its codes alone."""
    plane = pg.PullbackMetric(lambda z: z)
    pairs = list(zip(models, codes, strict=True))
    return {
        "geodesic": [
            pg.neighbours(model.fisher_rao_metric(), own, k) for model, own in tqdm(pairs, "neighbours", leave=False)
        ],
        "euclidean": [pg.neighbours(plane, own, k, num_segments=1) for _, own in pairs],
    }


def clusters(graph: csr_array, num_clusters: int, seed: int = 0) -> np.ndarray:
    """Spectral clusters of a neighbour graph, with the weights that UMAP and Leiden read: (cell,)."""
    return KMeans(num_clusters, n_init=4, random_state=seed).fit_predict(spectral(graph, num_clusters))


def spectral(graph: csr_array, num: int) -> np.ndarray:
    """Leading eigenvectors of the normalised weights, rows of unit length, (cell, num)."""
    weights = connectivities(graph)
    root = diags_array(1 / np.sqrt(np.asarray(weights.sum(1)).ravel()))
    start = np.random.default_rng(0).random(graph.shape[0])
    vectors = eigsh(root @ weights @ root, k=num, v0=start)[1][:, ::-1]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def along(graph: csr_array, sources: np.ndarray) -> np.ndarray:
    """Distances (source, cell) along edges of either of two neighbours; twice the farthest where none lead there."""
    found = dijkstra(graph.maximum(graph.T), indices=sources)
    return np.where(np.isfinite(found), found, 2 * found[np.isfinite(found)].max())


def structure(
    graphs: dict[str, list[csr_array]], labels: Tensor, root: int, num_clusters: int
) -> dict[str, xr.DataArray]:
    """What `identifiability.survival` compares, of every measure and training."""
    k = graphs["geodesic"][0].nnz // graphs["geodesic"][0].shape[0]
    types = [np.flatnonzero(labels.numpy() == code) for code in labels[labels >= 0].unique().tolist()]
    rng = np.random.default_rng(0)
    some = np.concatenate([rng.choice(cells, min(PER_TYPE, len(cells)), replace=False) for cells in types])
    upper = pg.all_pairs(len(some)).numpy()
    ends = labels.numpy()[some[upper]]
    found: dict[str, list] = {"neighbours": [], "clusters": [], "order": [], "groups": []}
    for measure in MEASURES:
        own = graphs[measure]
        found["neighbours"].append([graph.indices.reshape(-1, k) for graph in own])
        found["clusters"].append([clusters(graph, num_clusters) for graph in own])
        found["order"].append([along(graph, np.array([root]))[0] for graph in own])
        between = [along(graph, some)[:, some][tuple(upper.T)] for graph in own]
        distance = xr.DataArray(np.stack(between), dims=("retraining", "pair"))
        found["groups"].append(identifiability.between_groups(distance, ends[:, 0], ends[:, 1]))
    dims = ("measure", "retraining", "point", "neighbour")
    arrays: dict[str, Any] = {
        name: xr.DataArray(np.array(found[name]), dims=dims[: 4 if name == "neighbours" else 3])
        for name in ("neighbours", "clusters", "order")
    }
    arrays["groups"] = xr.concat(found["groups"], "measure")
    return {name: values.assign_coords(measure=list(MEASURES)) for name, values in arrays.items()}


@torch.no_grad()
def codes_of(models: Sequence[Any], cells: Any) -> list[Tensor]:
    """Codes of all cells, in every training."""
    return [model.encode(model.rows(cells)).mean.detach() for model in models]


def accuracy(neighbours: np.ndarray, labels: Tensor) -> float:
    """Share of labelled cells whose type most of their labelled neighbours (cell, k) have, the lower code of two."""
    codes = labels.numpy()
    votes = np.zeros((len(codes), int(codes.max()) + 1))
    cell, known = np.nonzero(codes[neighbours] >= 0)[0], codes[neighbours] >= 0
    np.add.at(votes, (cell, codes[neighbours][known]), 1)
    return float((votes.argmax(1) == codes)[codes >= 0].mean())


def principal_neighbours(counts: Tensor, num: int, k: int) -> np.ndarray:
    """The k nearest of each cell in leading principal components of log(1 + counts at the median total), (cell, k)."""
    total = counts.sum(1, keepdim=True)
    logs = torch.log1p(counts * total.median() / total).double()
    components = PCA(min(num, *logs.shape), random_state=0).fit_transform(logs.numpy())
    return NearestNeighbors(n_neighbors=k).fit(components).kneighbors(return_distance=False)
