"""Do two distance matrices agree? Statistics over the dims `start` and `stop`, as `distance_matrix` has them."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy.spatial import procrustes

from probgeo.identifiability.statistics import checked

_MATRIX = ["start", "stop"]


def matrix_of_pairs(distance: xr.DataArray) -> xr.DataArray:
    """Distance matrices (..., start, stop) from distances of all pairs, symmetric, zero on the diagonal.

    Args:
        distance: distances, dims (pair, ...), with coordinates `start` and `stop` along pair, as a study has them.

    Returns:
        The other dims, then (start, stop), labelled with the sorted points; missing where a pair is.

    Raises:
        ValueError: no dim pair, or no coordinates `start` and `stop`.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> distance = xr.DataArray(
        ...     [3.0, 5.0, 4.0], dims="pair", coords={"start": ("pair", [0, 0, 1]), "stop": ("pair", [1, 2, 2])}
        ... )
        >>> pg.identifiability.matrix_of_pairs(distance).values
        array([[0., 3., 5.],
               [3., 0., 4.],
               [5., 4., 0.]])
    """
    d = checked(distance, "pair", least=1).transpose(..., "pair")
    if missing := [name for name in _MATRIX if name not in d.coords]:
        raise ValueError(f"distance: expected coordinates start and stop along pair; got none for {missing}.")
    names, codes = np.unique(np.stack([d["start"].values, d["stop"].values]), return_inverse=True)
    first, second = codes.reshape(2, -1)
    values = np.full((*d.shape[:-1], names.size, names.size), np.nan)
    values[..., np.arange(names.size), np.arange(names.size)] = 0
    values[..., first, second] = values[..., second, first] = d.values
    coords = {dim: d[dim] for dim in d.dims[:-1] if dim in d.indexes} | {dim: names for dim in _MATRIX}
    return xr.DataArray(values, dims=(*d.dims[:-1], *_MATRIX), coords=coords, name=d.name)


def relative_frobenius(matrix_a: xr.DataArray, matrix_b: xr.DataArray) -> xr.DataArray:
    """Relative disagreement ‖A − B‖ / √(½(‖A‖² + ‖B‖²)) in the Frobenius norm: 0 for equal matrices, at most 2.

    Args:
        matrix_a: distances, dims (start, stop, ...).
        matrix_b: distances in the same unit; other dims broadcast.

    Returns:
        Dims without start and stop; missing where both matrices are 0 or an entry is missing.

    Raises:
        ValueError: a dim is missing, or the matrices are not square or not of the same points.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> matrix = xr.DataArray([[0.0, 1.0], [1.0, 0.0]], dims=["start", "stop"])
        >>> pg.identifiability.relative_frobenius(matrix, matrix).item()
        0.0
        >>> pg.identifiability.relative_frobenius(matrix, 7 * matrix).item()  # 6√2 / √(½ (2 + 98))
        1.2
    """
    a, b = _checked(matrix_a, matrix_b)
    norm = (((a**2).sum(_MATRIX, skipna=False) + (b**2).sum(_MATRIX, skipna=False)) / 2) ** 0.5
    return ((a - b) ** 2).sum(_MATRIX, skipna=False) ** 0.5 / norm.where(norm > 0)


def procrustes_disagreement(matrix_a: xr.DataArray, matrix_b: xr.DataArray, num_dimensions: int = 2) -> xr.DataArray:
    """Share of the variance that no similarity transform explains, between the two matrices' classical scalings.

    Each matrix becomes a configuration of points, by its leading eigenvectors; the two are laid over each other.

    Args:
        matrix_a: distances, dims (start, stop, ...).
        matrix_b: distances of the same points; other dims broadcast.
        num_dimensions: of the configurations.

    Returns:
        Dims without start and stop, in [0, 1]: 0 for similar configurations, whatever their scale. Missing where an
        entry is missing or a matrix is constant 0.

    Raises:
        ValueError: as `relative_frobenius`, or `num_dimensions` is not between 1 and the number of points less one.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> z = np.random.default_rng(0).normal(size=(6, 2))
        >>> matrix = xr.DataArray(np.linalg.norm(z[:, None] - z, axis=-1), dims=["start", "stop"])
        >>> round(pg.identifiability.procrustes_disagreement(matrix, 5 * matrix).item(), 6)  # of the same shape
        0.0

    References:
        Torgerson (1952), Multidimensional scaling; Gower (1975), Generalized Procrustes analysis.
    """
    a, b = _checked(matrix_a, matrix_b)
    if not 1 <= num_dimensions < a.sizes["start"]:
        raise ValueError(
            f"num_dimensions: expected 1 to {a.sizes['start'] - 1}, below the points; got {num_dimensions}."
        )

    def disparity(first: np.ndarray, second: np.ndarray) -> float:
        if not (np.isfinite(first).all() and np.isfinite(second).all() and first.any() and second.any()):
            return np.nan
        return procrustes(_configuration(first, num_dimensions), _configuration(second, num_dimensions))[2]

    return xr.apply_ufunc(disparity, a, b, input_core_dims=[_MATRIX, _MATRIX], vectorize=True)


def neighbour_overlap(matrix_a: xr.DataArray, matrix_b: xr.DataArray, num_neighbours: int) -> xr.DataArray:
    """Mean share of a point's k nearest neighbours in one matrix that are among its k nearest in the other.

    Args:
        matrix_a: distances, dims (start, stop, ...).
        matrix_b: distances of the same points; other dims broadcast.
        num_neighbours: k.

    Returns:
        Dims without start and stop, in [0, 1]; k / (points − 1) for unrelated matrices. Missing where an entry is.

    Raises:
        ValueError: as `relative_frobenius`, or k is not between 1 and the number of points less two.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> def matrix(x):  # of points on a line
        ...     return xr.DataArray(np.abs(np.subtract.outer(x, x)), dims=["start", "stop"])
        >>> a, b = matrix([0.0, 1.0, 3.0, 7.0]), matrix([0.0, 1.0, 3.0, 4.0])
        >>> pg.identifiability.neighbour_overlap(a, b, num_neighbours=1).item()  # the third point's has changed
        0.75
    """
    a, b = _checked(matrix_a, matrix_b)
    if not 1 <= num_neighbours <= a.sizes["start"] - 2:
        raise ValueError(
            f"num_neighbours: expected 1 to {a.sizes['start'] - 2}, below the other points; got {num_neighbours}."
        )
    both = _near(a, num_neighbours) * _near(b, num_neighbours)
    return both.sum(_MATRIX, skipna=False) / (num_neighbours * a.sizes["start"])


def mantel_test(
    matrix_a: xr.DataArray, matrix_b: xr.DataArray, num_permutations: int = 999, seed: int = 0
) -> xr.Dataset:
    """Mantel's test that two distance matrices agree: their correlation against that with the points permuted.

    The permutation keeps what entries with a common point have in common, which a test of a correlation would ignore.

    Args:
        matrix_a: symmetric distances, dims (start, stop, ...).
        matrix_b: the same, of the same points; other dims broadcast.
        num_permutations: of the points of `matrix_a`; the same for all matrices.
        seed: of the permutations; the global random state is not used.

    Returns:
        Dataset with `r`, Pearson's correlation of the entries above the diagonal, and the one-sided `p`, the share of
        permutations, the identity among them, with at least that correlation.

    Raises:
        ValueError: as `relative_frobenius`, or fewer than one permutation.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> z = np.random.default_rng(0).normal(size=(8, 2))
        >>> matrix = xr.DataArray(np.linalg.norm(z[:, None] - z, axis=-1), dims=["start", "stop"])
        >>> test = pg.identifiability.mantel_test(matrix, 5 * matrix, num_permutations=99)
        >>> test.r.round(6).item(), test.p.item()  # 1 of 100: no permutation correlates as well
        (1.0, 0.01)

    References:
        Mantel (1967), The detection of disease clustering and a generalized regression approach, Cancer Research 27.
    """
    a, b = _checked(matrix_a, matrix_b)
    if num_permutations < 1:
        raise ValueError(f"num_permutations: expected at least 1; got {num_permutations}.")
    num = a.sizes["start"]
    upper = np.triu_indices(num, 1)
    rng = np.random.default_rng(seed)
    permutations = [np.arange(num), *(rng.permutation(num) for _ in range(num_permutations))]

    def test(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
        target = _unit(second[upper])
        r = np.array([_unit(first[np.ix_(order, order)][upper]) @ target for order in permutations])
        # Correlations that differ by rounding only are equal.
        return r[0], np.mean(r >= r[0] - 1e-12) if np.isfinite(r[0]) else np.nan

    r, p = xr.apply_ufunc(test, a, b, input_core_dims=[_MATRIX, _MATRIX], output_core_dims=[[], []], vectorize=True)
    return xr.Dataset({"r": r, "p": p})


def mean_between_retrainings(
    statistic: Callable[[xr.DataArray, xr.DataArray], xr.DataArray], matrices: xr.DataArray
) -> xr.DataArray:
    """Mean of a statistic of two matrices over all pairs of retrainings, such as `relative_frobenius`.

    Args:
        statistic: symmetric function of two matrices.
        matrices: distances, dims (retraining, start, stop, ...).

    Returns:
        Dims of the statistic, without retraining.

    Raises:
        ValueError: fewer than two retrainings, or as the statistic.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> matrix = xr.DataArray([[0.0, 1.0], [1.0, 0.0]], dims=["start", "stop"])
        >>> matrices = matrix * xr.DataArray([1.0, 1.0, 7.0], dims="retraining")
        >>> statistic = pg.identifiability.relative_frobenius
        >>> pg.identifiability.mean_between_retrainings(statistic, matrices).round(3).item()  # (0 + 1.2 + 1.2) / 3
        0.8
    """
    d = checked(matrices, "retraining").drop_vars("retraining", errors="ignore")
    first, second = (xr.DataArray(index, dims="couple") for index in np.triu_indices(d.sizes["retraining"], 1))
    return statistic(d.isel(retraining=first), d.isel(retraining=second)).mean("couple", skipna=False)


def _checked(*matrices: xr.DataArray) -> list[xr.DataArray]:
    found = []
    for matrix in matrices:
        d = checked(matrix, *_MATRIX)
        if d.sizes["start"] != d.sizes["stop"]:
            raise ValueError(f"matrix: expected as many along start as along stop; got {dict(d.sizes)}.")
        found.append(d.reset_coords(drop=True))  # the status that `distance_matrix` notes may differ
    try:
        return list(xr.align(*found, join="exact"))
    except ValueError as error:
        sizes = [dict(d.sizes) for d in found]
        raise ValueError(f"matrix_a, matrix_b: expected the same points (and labels); got {sizes}.") from error


def _configuration(matrix: np.ndarray, num_dimensions: int) -> np.ndarray:
    """Points (point, dimension) of classical scaling: the leading eigenvectors of the centred −½ D²."""
    centred = -0.5 * matrix**2
    centred = centred - centred.mean(0) - centred.mean(1)[:, None] + centred.mean()
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    leading = slice(-num_dimensions, None)
    return vectors[:, leading] * np.sqrt(np.maximum(values[leading], 0))


def _near(matrix: xr.DataArray, num_neighbours: int) -> xr.DataArray:
    """1 where stop is among the nearest of start, else 0, never start itself; missing where the matrix is."""

    def near(values: np.ndarray) -> np.ndarray:
        num = values.shape[-1]
        others = np.where(np.eye(num, dtype=bool), np.inf, values)
        order = np.argsort(others, axis=-1, kind="stable")
        found = np.zeros(values.shape)
        np.put_along_axis(found, order[..., :num_neighbours], 1.0, axis=-1)
        return np.where(np.isnan(values), np.nan, found)

    return xr.apply_ufunc(near, matrix, input_core_dims=[_MATRIX], output_core_dims=[_MATRIX])


def _unit(entries: np.ndarray) -> np.ndarray:
    """Centred, of norm 1; missing for a constant."""
    centred = entries - entries.mean()
    norm = np.linalg.norm(centred)
    return centred / norm if norm > 1e-12 * np.linalg.norm(entries) else np.full_like(centred, np.nan)
