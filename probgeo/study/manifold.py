"""Has a model found the manifold of its data? What there is to be known of that without a truth, in numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probgeo.datasets.neighbours import path_lengths
from probgeo.models.base import LatentModel
from probgeo.study.measure import checked_data

# As they come: of numbers of any kind, from torch, NumPy or pandas.
Rows = Any
OF_TRAININGS = ("residual", "trustworthiness", "continuity")
ROWS_AT_ONCE = 256  # whose neighbourhoods are decomposed together


@torch.no_grad()
def manifold_check(
    models: Mapping[str, Sequence[LatentModel]],
    x: Rows,
    distance: xr.DataArray,
    *,
    points: Rows | None = None,
    num_neighbours: int = 10,
    num_rows: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """What tells without a truth whether each training has found its data's manifold; `identifiability.trust` judges.

    All is computed on a random sample of the rows and the k nearest neighbours of each in it:

    * `residual` √mean ‖x − x̂‖², with x̂ the reconstruction of x, and what to hold it against: `noise`, how far the data
      lie from any smooth sheet, √mean Σ_{j > d} s_j² / (k − d), with s the singular values of a row and its neighbours,
      centred, and d the dimension of the codes; and `radius`, the root mean square distance of a row from its k-th
      neighbour. (A likelihood's fitted noise is no such standard: it is the residual again.)
    * `trustworthiness`, 1 where all near codes have near rows: where a map is folded they have not. `continuity`, 1
      where all near rows have near codes: where a map is torn they have not.
    * `graph`, every pair's distance along a graph of the neighbours, as Isomap has it, missing where no path joins the
      two: with k neighbours and with half as many, since a graph may be wrong as well, and then depends on k; and
      `ambient`, the pair's distance ‖x_i − x_j‖ itself, which a graph does not differ from where noise fills all gaps.

    Args:
        models: by name, models that were trained on x, as for `measure`; those without any distance, as of a training
            that diverged, may be left out.
        x: observations (row, feature), or (row, ...) of images.
        distance: of these models, dims (model, measure, retraining, pair), coordinates `start` and `stop`, as `measure`
            and studies give it; `with_ambient_distances` adds two measures that are then judged too.
        points: what `start` and `stop` are rows of; None for `x`.
        num_neighbours: k, at least 4.
        num_rows: of the sample; all rows where there are fewer.
        seed: of the sample.

    Returns:
        `residual`, `trustworthiness`, `continuity` (model, retraining), missing where a training was lost, and the
        first where means have other columns than x; `noise` (model), missing where d is not below k; `radius`; `graph`
        (neighbours, pair) and `ambient` (pair); and `distance` as given. Lengths are in units of x.

    Raises:
        ValueError: distances of other models, or of more trainings than there are, or without ends of the pairs; values
            that are not finite; fewer than 4 neighbours, or than twice as many rows.

    Example:
        >>> import torch, probgeo as pg
        >>> roll = pg.datasets.swiss_roll(num_points=1000)
        >>> class Projection(pg.LatentModel):  # along the roll's axis, whose length is lost
        ...     latent, num_features = 2, 3
        ...     def encode(self, x):
        ...         return pg.Encoding(x[:, [0, 2]], torch.zeros_like(x[:, :2]))
        ...     def decode(self, z):
        ...         return torch.stack([z[..., 0], 10 + 0 * z[..., 0], z[..., 1]], dim=-1)
        >>> models, pairs = {"projection": [Projection()]}, torch.tensor([[0, 1], [2, 3], [4, 5]])
        >>> found = pg.measure(models, roll.x, pairs, {"straight": pg.StraightLine()})
        >>> check = pg.study.manifold_check(models, roll.x, found.distance)
        >>> bool((check.residual > check.radius).all()), bool((check.trustworthiness < 0.95).all())
        (True, True)

    References:
        Venna & Kaski (2001), Neighborhood preservation in nonlinear projection methods, ICANN; Tenenbaum, de Silva &
        Langford (2000), A global geometric framework for nonlinear dimensionality reduction, Science 290.
    """
    x, points = checked_data("x", x, points)
    ends = _ends(distance, models, len(points))
    if num_neighbours < 4 or min(num_rows, len(x)) < 2 * num_neighbours:
        raise ValueError(
            f"num_neighbours, num_rows: expected at least 4 neighbours, and twice as many rows; got {num_neighbours} "
            f"and {min(num_rows, len(x))}."
        )
    chosen = np.random.default_rng(seed).choice(len(x), min(num_rows, len(x)), replace=False)
    sample = x[torch.from_numpy(np.sort(chosen)).to(x.device)]
    rows, at_ends = _flat("x", sample), _flat("points", points[ends.flatten().to(points.device)])
    neighbours, radius = _neighbours(rows, num_neighbours)
    dims = ("model", "retraining")
    found = xr.Dataset(
        {name: (dims, np.full([distance.sizes[dim] for dim in dims], np.nan)) for name in OF_TRAININGS},
        coords={"model": distance.model},
    )
    for name, trainings in models.items():
        for index, model in zip(_places(name, len(trainings), distance), trainings, strict=True):
            codes = model.encode(sample).mean
            if codes.isfinite().all():
                values = _of_training(rows, _flat("codes", codes), _flat("means", model.decode(codes)), num_neighbours)
                for variable, value in values.items():
                    found[variable].loc[{"model": name}][index] = value
    noise = [noise_of(rows, neighbours, each[0].latent) if each else np.nan for each in models.values()]
    found["noise"] = xr.DataArray(noise, {"model": list(models)}, "model")
    at_ends = at_ends.reshape(-1, 2, rows.shape[1])
    graphs = {k: graph_distances(rows, at_ends, k) for k in (num_neighbours // 2, num_neighbours)}
    found["graph"] = ("neighbours", "pair"), list(graphs.values())
    ambient = np.linalg.norm(np.diff(at_ends, axis=1), axis=(1, 2))
    found = found.assign_coords(neighbours=list(graphs)).assign(radius=radius, ambient=("pair", ambient))
    return found.assign(distance=distance)


def _of_training(
    rows: Float[np.ndarray, "row feature"],
    codes: Float[np.ndarray, "row latent"],
    means: Float[np.ndarray, "row observation"],
    num_neighbours: int,
) -> dict[str, float]:
    from sklearn.manifold import trustworthiness

    same = rows.shape == means.shape
    return {
        "residual": float(np.sqrt(((rows - means) ** 2).sum(1).mean())) if same else np.nan,
        "trustworthiness": float(trustworthiness(rows, codes, n_neighbors=num_neighbours)),
        "continuity": float(trustworthiness(codes, rows, n_neighbors=num_neighbours)),
    }


def _neighbours(rows: Float[np.ndarray, "row feature"], num: int) -> tuple[np.ndarray, float]:
    """The nearest others of each row (row, neighbour), and the root mean square distance of the farthest of them."""
    from sklearn.neighbors import NearestNeighbors

    far, found = NearestNeighbors(n_neighbors=num).fit(rows).kneighbors()
    return found, float(np.sqrt((far[:, -1] ** 2).mean()))


def noise_of(rows: Float[np.ndarray, "row feature"], neighbours: np.ndarray, latent: int) -> float:
    """√mean Σ_{j > d} s_j² / (k − d): how far rows lie from the plane of d dimensions through their neighbourhoods.

    k − d, since the plane through k + 1 points is fitted to them, so that on average it comes out as √(D − d) σ where
    rows of D features lie in a plane but for a noise of standard deviation σ.

    Args:
        rows: data.
        neighbours: rows of the k nearest others, (row, neighbour).
        latent: d.

    Returns:
        in units of the data; NaN unless d < k.
    """
    num = neighbours.shape[1]
    if latent >= num:
        return np.nan
    total = 0.0
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(begin, begin + ROWS_AT_ONCE)
        around = np.concatenate([rows[part, None], rows[neighbours[part]]], axis=1)
        s = np.linalg.svd(around - around.mean(1, keepdims=True), compute_uv=False)
        total += float((s[:, latent:] ** 2).sum()) / (num - latent)
    return float(np.sqrt(total / len(rows)))


def graph_distances(
    rows: Float[np.ndarray, "row feature"], ends: Float[np.ndarray, "pair 2 feature"], num_neighbours: int
) -> Float[np.ndarray, " pair"]:
    """Lengths of the shortest ways from row to neighbouring row, NaN where there is none.

    Args:
        rows: data.
        ends: of the pairs, which take part in the graph, whether they are rows or not.
        num_neighbours: nearest others that each is joined to.

    Returns:
        in units of the data.
    """
    # Each point once: copies would be each other's neighbours, and nobody else's.
    nodes, number = np.unique(np.concatenate([rows, ends.reshape(-1, rows.shape[1])]), axis=0, return_inverse=True)
    lengths = path_lengths(nodes, number.ravel()[len(rows) :].reshape(-1, 2), num_neighbours)
    return np.where(np.isfinite(lengths), lengths, np.nan)


def _ends(distance: xr.DataArray, models: Mapping[str, Sequence[LatentModel]], num_points: int) -> Tensor:
    """Rows of the points (pair, 2) that the pairs are of."""
    expected = ("model", "measure", "retraining", "pair")
    if set(distance.dims) != set(expected) or not {"start", "stop"} <= set(distance.coords):
        raise ValueError(
            f"distance: expected dims {expected} with coordinates start and stop, as `measure` gives it; got "
            f"{distance.dims}, {list(distance.coords)}."
        )
    most = max((len(trainings) for trainings in models.values()), default=0)
    if list(distance.model.values) != list(models) or most > distance.sizes["retraining"]:
        raise ValueError(
            f"distance: expected distances of the models {list(models)}, of {most} trainings; got "
            f"{list(distance.model.values)}, of {distance.sizes['retraining']}."
        )
    ends = np.stack([distance.start.values, distance.stop.values], axis=1)
    if ends.min() < 0 or ends.max() >= num_points:
        raise ValueError(f"distance: expected ends from 0 to {num_points - 1}, rows of the points; got {ends.max()}.")
    return torch.from_numpy(ends)


def _places(name: str, num: int, distance: xr.DataArray) -> list[int]:
    """Which of the retrainings along `distance` the models of one name are: the first, or those that have distances."""
    measured = distance.sel(model=name).notnull().any(["measure", "pair"]).values.nonzero()[0].tolist()
    if len(measured) == num:
        return measured
    if measured and measured[-1] >= num:
        raise ValueError(
            f"models: expected all trainings of {name!r}, or the {len(measured)} that have distances; got {num}."
        )
    return list(range(num))


def _flat(name: str, values: Tensor) -> Float[np.ndarray, "row feature"]:
    found = values.flatten(1).cpu().double().numpy()
    if not np.isfinite(found).all():
        raise ValueError(f"{name}: expected finite values, between which neighbours can be told; got others.")
    return found
