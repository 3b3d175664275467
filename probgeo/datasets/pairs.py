"""Rows between which distances, angles and volumes are measured: indices of pairs, triples and regions."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from probgeo.datasets.labels import Labels, coded
from probgeo.geometry.points import Points, latent_points
from probgeo.specs import check_whole


def sample_pairs(
    labels: Labels, num_pairs: int, seed: int = 0, across_classes: bool = False
) -> Int64[Tensor, "pair 2"]:
    """Distinct unordered pairs {i, j}, i ≠ j, drawn uniformly without replacement.

    Args:
        labels: class of each row, a code or a name, from torch, NumPy, pandas or a list; it is unlabelled where it is
            negative, NaN or None; without `across_classes` only their number
            matters.
        num_pairs: how many.
        seed: of the draw.
        across_classes: only pairs of rows of different classes; unlabelled rows are in none.

    Returns:
        row indices, the smaller one first.

    Raises:
        ValueError: num_pairs below one, or more pairs than there are; one class only with `across_classes`.

    Example:
        >>> import torch, probgeo as pg
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> pairs = pg.sample_pairs(labels, num_pairs=4, across_classes=True)
        >>> sorted(pairs.tolist())  # all there are
        [[0, 2], [0, 3], [1, 2], [1, 3]]
    """
    _check_counts(num_pairs=num_pairs, seed=seed)
    if num_pairs < 1:
        raise ValueError(f"num_pairs: expected at least 1; got {num_pairs}.")
    codes = coded(labels).codes.numpy()
    rows = np.flatnonzero(codes >= 0) if across_classes else np.arange(len(codes))
    codes = codes[rows]
    if across_classes and len(np.unique(codes)) < 2:
        raise ValueError("across_classes: expected labels of at least two classes; got one class only.")
    # Any pair of rows is a pair across classes where each row is a class of its own: one rule serves both.
    groups = codes if across_classes else np.arange(len(codes))
    order = np.argsort(groups, kind="stable")
    # The rows behind the end of a row's own group are its partners; this numbers all pairs without listing them.
    group_end = np.searchsorted(groups[order], groups[order], side="right")
    last_number = np.cumsum(len(codes) - group_end)
    num_possible = int(last_number[-1]) if len(codes) else 0
    if num_pairs > num_possible:
        kind = "pairs across classes" if across_classes else "distinct pairs"
        raise ValueError(f"num_pairs: {len(codes)} rows have {num_possible} {kind}; got {num_pairs}.")
    number = np.random.default_rng(seed).choice(num_possible, num_pairs, replace=False)
    first = np.searchsorted(last_number, number, side="right")
    second = len(codes) - (last_number[first] - number)
    return torch.from_numpy(np.sort(rows[order[np.stack([first, second], axis=1)]], axis=1))


def sample_triples(labels: Labels, num_triples: int, seed: int = 0) -> Int64[Tensor, "triple 3"]:
    """Distinct triples (corner, {i, j}) of three different rows, drawn uniformly without replacement.

    Args:
        labels: class of each row, from torch, NumPy, pandas or a list; only their number matters.
        num_triples: how many.
        seed: of the draw.

    Returns:
        row indices, the corner first, then the smaller one of the other two.

    Raises:
        ValueError: num_triples below one, or more triples than there are.

    Example:
        >>> import probgeo as pg
        >>> triples = pg.sample_triples(range(10), num_triples=5, seed=0)
        >>> triples.shape, bool((triples[:, 1] < triples[:, 2]).all())
        (torch.Size([5, 3]), True)
    """
    _check_counts(num_triples=num_triples, seed=seed)
    if num_triples < 1:
        raise ValueError(f"num_triples: expected at least 1; got {num_triples}.")
    num_rows = len(coded(labels).codes)
    per_corner = (num_rows - 1) * (num_rows - 2) // 2
    if num_triples > num_rows * per_corner:
        raise ValueError(
            f"num_triples: {num_rows} rows have {num_rows * per_corner} distinct triples; got {num_triples}."
        )
    number = np.random.default_rng(seed).choice(num_rows * per_corner, num_triples, replace=False)
    corner, pair = np.divmod(number, per_corner)
    # Pairs of the rows without the corner, numbered in lexicographic order.
    last_number = np.cumsum(np.arange(num_rows - 2, 0, -1))
    first = np.searchsorted(last_number, pair, side="right")
    others = np.stack([first, num_rows - 1 - (last_number[first] - pair)], axis=1)
    others += others >= corner[:, None]
    return torch.from_numpy(np.concatenate([corner[:, None], others], axis=1))


def sample_class_triples(labels: Labels, num_triples: int, seed: int = 0) -> Int64[Tensor, "triple 3"]:
    """Triples (anchor, a row of its class, a row of another class): which of the two is nearer?

    Anchors are drawn uniformly without replacement, the two others uniformly.

    Args:
        labels: class of each row, a code or a name, from torch, NumPy, pandas or a list; it is unlabelled where it is
            negative, NaN or None: such rows are in no triple.
        num_triples: how many.
        seed: of the draw.

    Returns:
        row indices.

    Raises:
        ValueError: num_triples below one, or more than there are rows in classes of at least two; one class only.

    Example:
        >>> import torch, probgeo as pg
        >>> labels = torch.tensor([0, 0, 1, 1, 1])
        >>> anchor, same, other = pg.datasets.sample_class_triples(labels, num_triples=4).T
        >>> bool((labels[anchor] == labels[same]).all()), bool((labels[anchor] == labels[other]).any())
        (True, False)
    """
    if num_triples < 1:
        raise ValueError(f"num_triples: expected at least 1; got {num_triples}.")
    codes = coded(labels).codes.numpy()
    names, sizes = np.unique(codes[codes >= 0], return_counts=True)
    if len(names) < 2:
        raise ValueError(f"labels: expected at least two classes; got {len(names)}.")
    anchors = np.flatnonzero(np.isin(codes, names[sizes > 1]))
    if num_triples > len(anchors):
        raise ValueError(f"num_triples: {len(anchors)} rows are in classes of at least two; got {num_triples}.")
    rng = np.random.default_rng(seed)
    triples = []
    for anchor in rng.choice(anchors, num_triples, replace=False):
        alike = codes == codes[anchor]
        other = rng.choice(np.flatnonzero((codes >= 0) & ~alike))
        alike[anchor] = False
        triples.append([anchor, rng.choice(np.flatnonzero(alike)), other])
    return torch.tensor(triples, dtype=torch.int64)


def class_regions(x: Points, labels: Labels, share: float = 0.9) -> dict[str, Int64[Tensor, " chosen"]]:
    """The rows of each class nearest to its mean, by class: regions without the class's outliers.

    They are chosen among the observations, so that all retrainings have the same.

    Args:
        x: observations, (row, feature).
        labels: class of each row, a code or a name, from torch, NumPy, pandas or a list; it is unlabelled where it is
            negative, NaN or None: such rows are in no region.
        share: of each class's rows that is kept, in (0, 1].

    Returns:
        row indices, ascending, by class name; by class code where labels are codes.

    Raises:
        ValueError: `share` is out of its range, or x and labels differ in number.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [99.0], [5.0], [6.0]])
        >>> regions = pg.class_regions(x, ["a", "a", "a", "a", "b", "b"], share=0.75)
        >>> {name: rows.tolist() for name, rows in regions.items()}  # without the outlier of a
        {'a': [0, 1, 2], 'b': [4, 5]}
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a number in (0, 1]; got {share}.")
    x, (codes, names) = latent_points("x", x, "row feature"), coded(labels)
    if len(x) != len(codes):
        raise ValueError(f"labels: expected {len(x)}, one for each row of x; got {len(codes)}.")
    regions = {}
    for code, name in names.items():
        rows = torch.nonzero(codes == code).squeeze(1).to(x.device)
        to_mean = torch.linalg.vector_norm(x[rows] - x[rows].mean(0), dim=1)
        nearest = to_mean.argsort()[: max(1, round(share * len(rows)))]
        regions[name] = rows[nearest].sort().values.cpu()
    return regions


def neighbour_pairs(
    x: Points, num_centres: int = 20, num_neighbours: int = 10, seed: int = 0
) -> Int64[Tensor, "pair 2"]:
    """Close pairs (centre, neighbour): random rows, each with its nearest rows in ‖x_i − x_j‖.

    A centre that was drawn earlier is passed over as a neighbour, so that no pair comes twice.

    Args:
        x: points, observations or codes, (row, feature).
        num_centres: rows drawn at random without replacement.
        num_neighbours: nearest rows paired with each centre.
        seed: of the draw of the centres.

    Returns:
        row indices, num_centres · num_neighbours pairs, centre by centre, nearest first.

    Raises:
        ValueError: a count below one, or too few rows for that many centres with that many neighbours.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
        >>> pg.neighbour_pairs(x, num_centres=1, num_neighbours=3, seed=0)  # nearest first
        tensor([[3, 2],
                [3, 1],
                [3, 0]])
    """
    from sklearn.neighbors import NearestNeighbors

    x = latent_points("x", x, "row feature")
    _check_counts(num_centres=num_centres, num_neighbours=num_neighbours, seed=seed)
    for name, count in (("num_centres", num_centres), ("num_neighbours", num_neighbours)):
        if count < 1:
            raise ValueError(f"{name}: expected at least 1; got {count}.")
    if num_centres + num_neighbours > len(x):
        raise ValueError(
            f"num_centres + num_neighbours: expected at most {len(x)}, the rows of x; "
            f"got {num_centres} + {num_neighbours}."
        )
    points = x.cpu().numpy()
    centres = np.random.default_rng(seed).choice(len(points), num_centres, replace=False)
    candidates = NearestNeighbors(n_neighbors=num_centres + num_neighbours).fit(points)
    nearest = candidates.kneighbors(points[centres], return_distance=False)
    pairs = [
        (centre, row)
        for position, centre in enumerate(centres)
        for row in nearest[position][~np.isin(nearest[position], centres[: position + 1])][:num_neighbours]
    ]
    return torch.from_numpy(np.array(pairs, dtype=np.int64))


def all_pairs(num_points: int) -> Int64[Tensor, "pair 2"]:
    """Every pair (i, j) with i < j < num_points, in lexicographic order: n (n − 1) / 2 of them.

    Args:
        num_points: n, at least 2.

    Returns:
        Indices, the smaller one first.

    Raises:
        ValueError: fewer than two points.

    Example:
        >>> import probgeo as pg
        >>> pg.all_pairs(3)
        tensor([[0, 1],
                [0, 2],
                [1, 2]])
    """
    if num_points < 2:
        raise ValueError(f"num_points: expected at least 2; got {num_points}.")
    return torch.triu_indices(num_points, num_points, offset=1).T.contiguous()


def class_representatives(z: Points, labels: Labels) -> Int64[Tensor, " class"]:
    """Row nearest to the centroid of its class, argmin_i ‖z_i − mean z_class‖, for each class that has rows.

    Args:
        z: points, as a rule codes, (row, latent).
        labels: class of each row, a code or a name, from torch, NumPy, pandas or a list; it is unlabelled where it is
            negative, NaN or None: such rows stand for no class.

    Returns:
        row indices in the order of the class codes, or of the names; `labels[rows]` are these.

    Raises:
        ValueError: points and labels differ in number.

    Example:
        >>> import torch, probgeo as pg
        >>> z = torch.tensor([[0.0], [1.0], [2.0], [5.0], [6.0], [8.0]])
        >>> pg.class_representatives(z, torch.tensor([0, 0, 0, 1, 1, 1]))  # nearest to 1, and to 19/3
        tensor([1, 4])
    """
    z, (codes, names) = latent_points("z", z, "row latent"), coded(labels)
    if len(z) != len(codes):
        raise ValueError(f"labels: expected {len(z)}, one for each row of z; got {len(codes)}.")
    representatives = []
    for code in names:
        rows = torch.nonzero(codes == code).squeeze(1).to(z.device)
        to_centroid = torch.linalg.vector_norm(z[rows] - z[rows].mean(0), dim=1)
        representatives.append(int(rows[to_centroid.argmin()]))
    return torch.tensor(representatives, dtype=torch.int64)


def _check_counts(**arguments: Any) -> None:
    """TypeError or ValueError, by the name of the argument, for what is no whole number, or a negative seed."""
    for name, value in arguments.items():
        check_whole(name, value)
    if arguments["seed"] < 0:
        raise ValueError(f"seed: expected a whole number that is not negative; got {arguments['seed']}.")
