"""What is made of distances, over retrainings: neighbours of points, clusters, orders, distances between groups.

A map of many points is read by its neighbours, its clusters, the order of its points along a way, and how far its
groups lie apart. Each is compared between every two retrainings, and the comparison is averaged over these couples.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.sparse import coo_array, csr_array
from scipy.stats import rankdata

from probgeo.identifiability.statistics import checked

_LISTS = ("retraining", "point", "neighbour")


def edge_shares(neighbours: xr.DataArray) -> csr_array:
    """Of each point and each other, the share of the retrainings in which the other is among the point's neighbours.

    Args:
        neighbours: numbers, from 0, of each point's k nearest others, dims (retraining, point, neighbour).

    Returns:
        Shares (point, other), in (0, 1]; nothing is stored where no retraining has the edge. A row's sum is k.

    Raises:
        ValueError: other dims, or numbers that are no other points, or the same one twice.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> neighbours = xr.DataArray([[[1], [0], [1]], [[1], [2], [1]]], dims=["retraining", "point", "neighbour"])
        >>> pg.identifiability.edge_shares(neighbours).toarray()  # the second point's neighbour changes
        array([[0. , 1. , 0. ],
               [0.5, 0. , 0.5],
               [0. , 1. , 0. ]])
    """
    if len(neighbours.dims) != 3:
        raise ValueError(f"neighbours: expected dims {_LISTS}; got {neighbours.dims}. Select one of the others.")
    values = _lists(neighbours, least=1).values
    count, num_points, k = values.shape
    start = np.tile(np.repeat(np.arange(num_points), k), count)
    share = np.full(values.size, 1 / count)
    return coo_array((share, (start, values.ravel())), shape=(num_points,) * 2).tocsr()


def neighbour_reliability(neighbours: xr.DataArray) -> xr.DataArray:
    """Of each point, the share of its k neighbours that two retrainings have in common: the mean over all couples.

    Chance alone gives k / (points − 1), and so does a point whose neighbours cannot be trusted.

    Args:
        neighbours: numbers, from 0, of each point's k nearest others, dims (retraining, point, neighbour, ...).

    Returns:
        The other dims, and point, in [0, 1].

    Raises:
        ValueError: fewer than two retrainings, or as `edge_shares`.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> neighbours = xr.DataArray([[[1], [0], [1]], [[1], [2], [1]]], dims=["retraining", "point", "neighbour"])
        >>> pg.identifiability.neighbour_reliability(neighbours).values
        array([1., 0., 1.])
    """

    def reliability(values: np.ndarray) -> np.ndarray:
        count, num_points, k = values.shape
        key = np.arange(num_points)[:, None] * num_points + values
        found, times = np.unique(key, return_counts=True)
        couples = times * (times - 1) / 2  # of retrainings that have the edge
        return np.bincount(found // num_points, couples, num_points) / (k * count * (count - 1) / 2)

    return xr.apply_ufunc(
        reliability, _lists(neighbours), input_core_dims=[list(_LISTS)], output_core_dims=[["point"]], vectorize=True
    )


def cluster_agreement(clusters: xr.DataArray) -> xr.DataArray:
    """Adjusted Rand index of the clusters of two retrainings: the mean over all couples.

    (Σ_uv C(n_uv, 2) − E) / (½ (A + B) − E) with n_uv points in cluster u of the one and v of the other, A, B the pairs
    of points within the clusters of each, and E = AB / C(n, 2): 1 for equal clusters, whatever they are called, 0 on
    average for unrelated ones.

    Args:
        clusters: the cluster of each point, of any type, dims (retraining, point, ...).

    Returns:
        The other dims, at most 1.

    Raises:
        ValueError: fewer than two retrainings or points, or a point without a cluster.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> clusters = xr.DataArray([list("aabb"), list("yyxx"), list("abab")], dims=["retraining", "point"])
        >>> round(pg.identifiability.cluster_agreement(clusters).item(), 3)  # (1 − ½ − ½) / 3
        0.0

    References:
        Hubert & Arabie (1985), Comparing partitions, Journal of Classification 2.
    """
    return mean_of_couples(clusters_between(clusters))


def co_assignment(clusters: xr.DataArray, pairs: np.ndarray) -> xr.DataArray:
    """Of each pair of points, the share of the retrainings that have both in one cluster.

    Near 0 or 1 the clusters say the same of the two in every retraining; near ½ they say nothing.

    Args:
        clusters: the cluster of each point, of any type, dims (retraining, point, ...).
        pairs: numbers of the points, from 0, (pair, 2).

    Returns:
        The other dims, and pair, with coordinates `start` and `stop`.

    Raises:
        ValueError: no retraining, a point without a cluster, or pairs of another shape.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> clusters = xr.DataArray([list("aabb"), list("yyxx"), list("abab")], dims=["retraining", "point"])
        >>> pg.identifiability.co_assignment(clusters, np.array([[0, 1], [0, 3]])).values.round(3)
        array([0.667, 0.   ])
    """
    clusters = _partition(clusters, least=1)
    ends = np.asarray(pairs)
    if ends.ndim != 2 or ends.shape[1] != 2:
        raise ValueError(f"pairs: expected (pair, 2); got shape {ends.shape}.")
    first, second = (clusters.isel(point=xr.DataArray(end, dims="pair")).drop_vars("point", errors="ignore")
                     for end in ends.T)  # fmt: skip
    share = (first == second).mean("retraining")
    return share.assign_coords(start=("pair", ends[:, 0]), stop=("pair", ends[:, 1]))


def between_groups(distance: xr.DataArray, start: Any, stop: Any) -> xr.DataArray:
    """Mean distance of two groups' points, over the pairs that lead from one to the other, or stay in one.

    Args:
        distance: distances, dims (pair, ...).
        start: group of each pair's first end, (pair,).
        stop: of its last.

    Returns:
        The other dims, and pair: one per unordered couple of groups that some pair joins, the same group twice where
        pairs lie within it; named by the coordinates `start` and `stop`, and `num_pairs` says of how many pairs it is
        the mean. Missing where one of them is.

    Raises:
        ValueError: no dim pair, or other numbers of groups.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> distance = xr.DataArray([1.0, 5.0, 7.0, 2.0], dims="pair")
        >>> found = pg.identifiability.between_groups(distance, list("aabb"), list("abab"))
        >>> list(zip(found.start.values.tolist(), found.stop.values.tolist(), found.values.tolist()))
        [('a', 'a', 1.0), ('a', 'b', 6.0), ('b', 'b', 2.0)]
    """
    d = checked(distance, "pair", least=1)
    ends = np.stack([np.asarray(start), np.asarray(stop)])
    if ends.shape != (2, d.sizes["pair"]):
        raise ValueError(f"start, stop: expected {d.sizes['pair']} groups each, one per pair; got {ends.shape}.")
    names, codes = np.unique(ends, return_inverse=True)
    codes = np.sort(codes.reshape(2, -1), axis=0)
    found, number, counts = np.unique(codes[0] * len(names) + codes[1], return_inverse=True, return_counts=True)
    d = d.reset_coords(drop=True).drop_vars("pair", errors="ignore")
    means = [d.isel(pair=number == group).mean("pair", skipna=False) for group in range(len(found))]
    coords = {"start": names[found // len(names)], "stop": names[found % len(names)], "num_pairs": counts}
    return xr.concat(means, "pair").assign_coords({name: ("pair", values) for name, values in coords.items()})


def neighbours_between(neighbours: xr.DataArray) -> xr.DataArray:
    """Share of a point's k neighbours that two retrainings have in common, mean over points, for every two of them.

    Args:
        neighbours: numbers, from 0, of each point's k nearest others, dims (retraining, point, neighbour, ...).

    Returns:
        The other dims, and (one, other), symmetric, 1 on the diagonal.
    """

    def common(values: np.ndarray) -> np.ndarray:
        found = np.eye(len(values))
        for one, other in zip(*np.triu_indices(len(values), 1), strict=True):
            both = np.sort(np.concatenate([values[one], values[other]], axis=1), axis=1)
            share = (both[:, 1:] == both[:, :-1]).sum() / values[0].size
            found[one, other] = found[other, one] = share
        return found

    return _over_couples(common, _lists(neighbours), *_LISTS)


def clusters_between(clusters: xr.DataArray) -> xr.DataArray:
    """Adjusted Rand index of the clusters of every two retrainings.

    Args:
        clusters: the cluster of each point, of any type, dims (retraining, point, ...).

    Returns:
        The other dims, and (one, other), symmetric, 1 on the diagonal.
    """

    def index(values: np.ndarray) -> np.ndarray:
        codes = [np.unique(row, return_inverse=True)[1] for row in values]
        found = np.eye(len(codes))
        for one, other in zip(*np.triu_indices(len(codes), 1), strict=True):
            found[one, other] = found[other, one] = _adjusted_rand(codes[one], codes[other])
        return found

    return _over_couples(index, _partition(clusters), "retraining", "point")


def orders_between(values: xr.DataArray, dim: str) -> xr.DataArray:
    """Spearman's ρ between every two retrainings.

    Args:
        values: numbers, dims (retraining, dim, ...).
        dim: along which they are ordered.

    Returns:
        The other dims, and (one, other), symmetric; missing where all values of a retraining are equal, or one is
        missing.
    """

    def correlation(rows: np.ndarray) -> np.ndarray:
        ranks = rankdata(rows, axis=1) - (rows.shape[1] + 1) / 2
        norms = np.linalg.norm(ranks, axis=1)
        norms[(norms == 0) | ~np.isfinite(rows).all(1)] = np.nan
        return ranks @ ranks.T / np.outer(norms, norms)

    return _over_couples(correlation, checked(values, "retraining", dim), "retraining", dim)


def mean_of_couples(between: xr.DataArray) -> xr.DataArray:
    """Mean of (one, other) over all couples of two retrainings."""
    one, other = np.triu_indices(between.sizes["one"], 1)
    return between.isel(one=xr.DataArray(one, dims="couple"), other=xr.DataArray(other, dims="couple")).mean(
        "couple", skipna=False
    )


def _over_couples(how: Callable[[np.ndarray], np.ndarray], values: xr.DataArray, *core: str) -> xr.DataArray:
    return xr.apply_ufunc(
        how, values, input_core_dims=[list(core)], output_core_dims=[["one", "other"]], vectorize=True
    )


def _adjusted_rand(first: np.ndarray, second: np.ndarray) -> float:
    def within(codes: np.ndarray) -> float:
        counts = np.unique(codes, return_counts=True)[1].astype(float)
        return float((counts * (counts - 1)).sum() / 2)

    both = within(first * (second.max() + 1) + second)
    a, b, every = within(first), within(second), len(first) * (len(first) - 1) / 2
    expected = a * b / every
    # One cluster each, or as many as points: both are the same.
    return 1.0 if (a + b) / 2 == expected else (both - expected) / ((a + b) / 2 - expected)


def _lists(neighbours: xr.DataArray, least: int = 2) -> xr.DataArray:
    """The lists, checked, core dims last."""
    d = checked(neighbours, "retraining", least=least)
    checked(neighbours, "point", "neighbour", least=1)
    lists = d.transpose(..., *_LISTS)
    values, num_points = lists.values, lists.sizes["point"]
    if not ((values >= 0) & (values < num_points) & (values == np.round(values))).all():
        raise ValueError(f"neighbours: expected numbers of points, from 0 to {num_points - 1}, none missing.")
    ordered = np.sort(values, axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any() or (values == np.arange(num_points)[:, None]).any():
        raise ValueError("neighbours: expected other points, each once; got a point twice, or itself.")
    return lists.astype(np.int64).drop_vars(["point", "neighbour", "retraining"], errors="ignore")


def _partition(clusters: xr.DataArray, least: int = 2) -> xr.DataArray:
    """Clusters, checked: none missing."""
    for dim, fewest in (("retraining", least), ("point", 2)):
        if clusters.sizes.get(dim, 0) < fewest:
            raise ValueError(
                f"clusters: expected dims (retraining, point), at least {fewest} along {dim!r}; got "
                f"{dict(clusters.sizes)}."
            )
    if pd.isnull(clusters.values).any():
        raise ValueError("clusters: expected a cluster of every point; some are missing.")
    return clusters
