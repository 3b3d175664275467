"""Statistics over the dims `retraining` and `pair` of a labelled array."""

import numpy as np
import xarray as xr
from scipy import special, stats

CORE = ("retraining", "pair")


def coefficient_of_variation(distance: xr.DataArray, dim: str = "retraining") -> xr.DataArray:
    """Relative variation std(d) / mean(d) over one dim (ddof = 1).

    Args:
        distance: distances, dims (dim, ...), in any unit.
        dim: the dim to reduce; retrainings by default, so one value per pair.

    Returns:
        Dims of `distance` without `dim`, no unit; missing where the mean is 0 (a pair with equal ends has no CV) or
        where a distance is missing.

    Raises:
        ValueError: `dim` is missing or has fewer than two entries.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> distance = xr.DataArray([[9.0, 2.0], [10.0, 2.0], [11.0, 2.0]], dims=["retraining", "pair"])
        >>> pg.identifiability.coefficient_of_variation(distance).values  # std 1, mean 10; and a constant has none
        array([0.1, 0. ])
    """
    d = checked(distance, dim)
    mean = d.mean(dim, skipna=False)
    # Differences to the first entry have the same std, and exactly none for a constant.
    std = (d - d.isel({dim: 0}, drop=True)).std(dim, ddof=1, skipna=False)
    return std / mean.where(mean != 0)


def corrected_coefficient_of_variation(distance: xr.DataArray, dim: str = "retraining") -> xr.DataArray:
    """CV / c₄(n), c₄(n) = √(2 / (n − 1)) Γ(n / 2) / Γ((n − 1) / 2): comparable between numbers n of retrainings.

    The standard deviation of few is too small on average, by c₄(n) for independent normal distances: by 11 % of three,
    6 % of five, 1 % of thirty. The assumption is that of normal distances whose mean is known well, which is so for
    small CVs; with heavy tails the CV of few retrainings is still smaller than this allows for.

    Args:
        distance: distances, dims (dim, ...), in any unit.
        dim: the dim to reduce.

    Returns:
        As `coefficient_of_variation`.

    Raises:
        ValueError: `dim` is missing or has fewer than two entries.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> distance = xr.DataArray([[9.0], [10.0], [11.0]], dims=["retraining", "pair"])
        >>> pg.identifiability.corrected_coefficient_of_variation(distance).values.round(4)  # 0.1 / c₄(3) = 0.2 / √π
        array([0.1128])

    References:
        Holtzman (1950), The unbiased estimate of the population variance and standard deviation, American Journal of
        Psychology 63.
    """
    cv, n = coefficient_of_variation(distance, dim), distance.sizes[dim]
    return cv / (np.sqrt(2 / (n - 1)) * np.exp(special.gammaln(n / 2) - special.gammaln((n - 1) / 2)))


def variation_by_length(distance: xr.DataArray, by: xr.DataArray | None = None) -> xr.DataArray:
    """Mean CV over retrainings of the shortest third of pairs, of the middle one and of the longest.

    A mean over all pairs is driven by the short ones, whose relative variation is largest.

    Args:
        distance: distances, dims (retraining, pair, ...), in any unit.
        by: what orders the pairs, dims (pair, ...), as the distance of the data, for the same thirds in every row;
            None for each row's own mean distance. Ties stay in the order given.

    Returns:
        Dims of `distance` without retraining and pair, with a further dim `length`, ("short", "middle", "long");
        missing where a CV is.

    Raises:
        ValueError: a dim is missing, or there are fewer than two retrainings or three pairs.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> shift = xr.DataArray([-0.1, 0.0, 0.1], dims="retraining")  # std 0.1 for each pair
        >>> distance = shift + xr.DataArray([1.0, 10.0, 100.0], dims="pair")
        >>> found = pg.identifiability.variation_by_length(distance)
        >>> dict(zip(found.length.values.tolist(), found.values.round(6).tolist()))
        {'short': 0.1, 'middle': 0.01, 'long': 0.001}
    """
    d = checked(checked(distance, *CORE), "pair", least=3)
    cv, order = coefficient_of_variation(d), d.mean("retraining", skipna=False) if by is None else by

    def thirds(cv: np.ndarray, order: np.ndarray) -> np.ndarray:
        return np.array([cv[rows].mean() for rows in np.array_split(np.argsort(order, kind="stable"), 3)])

    found = xr.apply_ufunc(
        thirds, cv, order, input_core_dims=[["pair"], ["pair"]], output_core_dims=[["length"]], vectorize=True
    )
    return found.assign_coords(length=["short", "middle", "long"])


def spread(distance: xr.DataArray) -> xr.DataArray:
    """Relative spread over pairs: std / mean over pairs (ddof = 1) of the pair's mean distance over retrainings.

    Args:
        distance: distances, dims (retraining, pair, ...), in any unit.

    Returns:
        Dims of `distance` without retraining and pair, no unit: 0 for a distance that is the same for every pair.

    Raises:
        ValueError: a dim is missing, or there are fewer than two pairs.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> distance = xr.DataArray([[8.0, 10.0, 12.0], [10.0, 10.0, 10.0]], dims=["retraining", "pair"])
        >>> pg.identifiability.spread(distance).item()  # means 9, 10 and 11 over retrainings: std 1, mean 10
        0.1
    """
    return coefficient_of_variation(
        checked(distance, "pair", "retraining", least=1).mean("retraining", skipna=False), "pair"
    )


def icc(distance: xr.DataArray) -> xr.DataArray:
    """Intraclass correlation ICC(2,1) = (P − E) / (P + (k − 1) E + k (R − E) / n).

    The share of the variance that is between pairs (the targets) rather than between retrainings (the raters): P, R, E
    are the mean squares of pairs, retrainings and residuals in the analysis of variance of n pairs × k retrainings.

    It speaks of the population that the pairs were drawn from: pairs of all classes, which lie near and far, have a
    larger variance between them, so a larger ICC, than pairs of one class. Compare ICCs on the same pairs only.

    Args:
        distance: distances, dims (retraining, pair, ...), in any unit.

    Returns:
        Dims of `distance` without retraining and pair, at most 1; missing where all distances are equal.

    Raises:
        ValueError: a dim is missing or has fewer than two entries.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> distance = xr.DataArray([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]], dims=["retraining", "pair"])
        >>> shift = xr.DataArray([0.0, 1.0], dims="retraining")
        >>> pg.identifiability.icc(distance).item()  # retrainings agree
        1.0
        >>> pg.identifiability.icc(0 * distance + shift).item()  # pairs are all alike
        0.0
        >>> round(pg.identifiability.icc(distance + shift).item(), 3)  # P = 14/3, R = 3/2, E = 0
        0.824

    References:
        Shrout & Fleiss (1979), Intraclass correlations, Psychological Bulletin 86, table 3 and p. 423.
    """
    k, n, P, R, E = _mean_squares(distance)
    total = P + (k - 1) * E + k * (R - E) / n
    return (P - E) / total.where(total > 0)


def icc_interval(distance: xr.DataArray, level: float = 0.95) -> xr.DataArray:
    """Interval of ICC(2,1) from F quantiles: for normal pair, retraining and residual effects, no resampling.

    Args:
        distance: distances, dims (retraining, pair, ...), in any unit.
        level: nominal coverage, in (0, 1).

    Returns:
        Dims of `distance` without retraining and pair, with a further dim `bound`, ("lower", "upper"); missing where
        the ICC is, or where retrainings agree exactly.

    Raises:
        ValueError: a dim is missing or has fewer than two entries, or `level` is out of its range.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> rng = np.random.default_rng(0)
        >>> pairs, noise = rng.normal(size=20), rng.normal(size=(5, 20))
        >>> distance = xr.DataArray(10 + pairs + 0.5 * noise, dims=["retraining", "pair"])
        >>> lower, upper = pg.identifiability.icc_interval(distance).values
        >>> bool(lower < 0.8 < upper)  # the truth is 1 / (1 + 0.5²)
        True

    References:
        McGraw & Wong (1996), Forming inferences about some intraclass correlation coefficients, Psychological Methods
        1, table 7, ICC(A,1).
    """
    check_level(level)
    k, n, P, R, E = _mean_squares(distance)
    r = icc(distance)
    a = k * r / (n * (1 - r)).where(r < 1)
    b = 1 + (n - 1) * a
    df = (a * R + b * E) ** 2 / ((a * R) ** 2 / (k - 1) + (b * E) ** 2 / ((n - 1) * (k - 1)))
    upper_quantile = xr.apply_ufunc(lambda df: stats.f.ppf((1 + level) / 2, n - 1, df), df)
    lower_quantile = xr.apply_ufunc(lambda df: stats.f.ppf((1 + level) / 2, df, n - 1), df)
    other = k * R + (k * n - k - n) * E
    lower = n * (P - upper_quantile * E) / (upper_quantile * other + n * P)
    upper = n * (lower_quantile * P - E) / (other + n * lower_quantile * P)
    return xr.concat([lower, upper], "bound").assign_coords(bound=["lower", "upper"]).transpose(..., "bound")


def _mean_squares(distance: xr.DataArray) -> tuple[int, int, xr.DataArray, xr.DataArray, xr.DataArray]:
    """k retrainings, n pairs, and the mean squares P of pairs, R of retrainings, E of residuals."""
    d = checked(distance, *CORE)
    k, n = d.sizes["retraining"], d.sizes["pair"]
    d = d - d.isel(retraining=0, pair=0, drop=True)  # the same mean squares, and exact zeros for a constant
    d = d - d.mean(["retraining", "pair"], skipna=False)
    pair, retraining = d.mean("retraining", skipna=False), d.mean("pair", skipna=False)
    P = k * (pair**2).sum("pair", skipna=False) / (n - 1)
    R = n * (retraining**2).sum("retraining", skipna=False) / (k - 1)
    E = ((d - pair - retraining) ** 2).sum(["retraining", "pair"], skipna=False) / ((n - 1) * (k - 1))
    return k, n, P, R, E


def rank_agreement(distance: xr.DataArray) -> xr.DataArray:
    """Mean of Spearman's ρ over all pairs of retrainings: do they order the pairs alike?

    Args:
        distance: distances, dims (retraining, pair, ...), in any unit.

    Returns:
        Dims of `distance` without retraining and pair, at most 1; missing where a retraining has all distances equal.

    Raises:
        ValueError: a dim is missing or has fewer than two entries.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> distance = xr.DataArray([[1.0, 2.0, 3.0], [10.0, 20.0, 90.0], [3.0, 2.0, 1.0]], dims=["retraining", "pair"])
        >>> round(pg.identifiability.rank_agreement(distance[:2]).item(), 3)  # in the same order, whatever the unit
        1.0
        >>> round(pg.identifiability.rank_agreement(distance).item(), 3)  # (1 − 1 − 1) / 3
        -0.333
    """
    d = checked(distance, *CORE)
    core = ["retraining", "pair"]
    ranks = xr.apply_ufunc(stats.rankdata, d, input_core_dims=[core], output_core_dims=[core], kwargs={"axis": -1})
    ranks = ranks - (d.sizes["pair"] + 1) / 2
    return _mean_correlation(ranks, "pair")


def rank_correlation(first: xr.DataArray, second: xr.DataArray) -> xr.DataArray:
    """Spearman's ρ over pairs between two distances, in each retraining: do they order the pairs alike?

    For instance between the distances that two views give one latent space.

    Args:
        first: distances, dims (pair, ...), in any unit.
        second: distances with the same pairs, in any unit.

    Returns:
        The other dims of both (aligned where they share them), in [-1, 1]; missing where all distances are equal.

    Raises:
        ValueError: the dim `pair` is missing or has fewer than two entries.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> first = xr.DataArray([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], dims=["retraining", "pair"])
        >>> second = xr.DataArray([[5.0, 6.0, 9.0], [9.0, 6.0, 5.0]], dims=["retraining", "pair"])
        >>> pg.identifiability.rank_correlation(first, second).values
        array([ 1., -1.])
    """
    ranks = [
        xr.apply_ufunc(
            stats.rankdata, checked(d, "pair"), input_core_dims=[["pair"]], output_core_dims=[["pair"]],
            kwargs={"axis": -1, "nan_policy": "propagate"},
        )
        for d in (first, second)
    ]  # fmt: skip
    x, y = (rank - rank.mean("pair", skipna=False) for rank in ranks)
    norm = ((x**2).sum("pair", skipna=False) * (y**2).sum("pair", skipna=False)) ** 0.5
    return (x * y).sum("pair", skipna=False) / norm.where(norm > 0)


def kendall_agreement(distance: xr.DataArray) -> xr.DataArray:
    """Mean of Kendall's τ-b over all pairs of retrainings: how much likelier two pairs are ordered alike than not.

    Takes memory for all pairs of pairs.

    Args:
        distance: distances, dims (retraining, pair, ...), in any unit.

    Returns:
        Dims of `distance` without retraining and pair, at most 1; missing where a retraining has all distances equal.

    Raises:
        ValueError: a dim is missing or has fewer than two entries.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> distance = xr.DataArray([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]], dims=["retraining", "pair"])
        >>> round(pg.identifiability.kendall_agreement(distance).item(), 3)  # two of three comparisons agree: 2/3 − 1/3
        0.333

    References:
        Kendall (1945), The treatment of ties in ranking problems, Biometrika 33, equation 3.
    """
    d = checked(distance, *CORE)
    first, second = np.triu_indices(d.sizes["pair"], 1)
    couples = [xr.DataArray(index, dims="couple") for index in (first, second)]
    d = d.reset_coords(drop=True).drop_vars("pair", errors="ignore")
    order = xr.apply_ufunc(np.sign, d.isel(pair=couples[0]) - d.isel(pair=couples[1]))
    return _mean_correlation(order, "couple")


def _mean_correlation(vectors: xr.DataArray, dim: str) -> xr.DataArray:
    """Mean cosine of the retrainings' vectors along `dim`, over all pairs of retrainings."""
    norm = (vectors**2).sum(dim, skipna=False) ** 0.5
    units = vectors / norm.where(norm > 0)
    # With unit vectors u_r, ‖Σ u_r‖² = k + the sum of cosines over ordered pairs of retrainings.
    k = vectors.sizes["retraining"]
    return ((units.sum("retraining", skipna=False) ** 2).sum(dim, skipna=False) - k) / (k * (k - 1))


def checked(distance: xr.DataArray, *dims: str, least: int = 2) -> xr.DataArray:
    """`distance` in double precision, if it has the dims, with at least `least` entries along each."""
    if missing := [dim for dim in dims if dim not in distance.dims]:
        raise ValueError(f"distance: expected dims {dims}; got {distance.dims}, without {missing}. Rename the dims.")
    for dim in dims:
        if distance.sizes[dim] < least:
            more = "Train more seeds." if dim == "retraining" else "Take more of them."
            raise ValueError(f"distance: expected at least {least} along {dim!r}; got {distance.sizes[dim]}. {more}")
    return distance.astype(float)


def check_level(level: float) -> None:
    """Raise if `level` is no coverage."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a coverage in (0, 1); got {level}.")


def same_pairs(a: xr.DataArray, b: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """`a` and `b`, if their pairs and the labels of every shared dim but `retraining` are equal."""
    ends = [name for name in ("start", "stop") if all(d.coords.get(name) is not None for d in (a, b))]
    try:
        a, b = xr.align(a, b, join="exact", exclude=["retraining"])
        if not all(np.array_equal(a[name], b[name]) for name in ends):
            raise ValueError("other end points")
    except ValueError as error:
        raise ValueError(
            f"distance_a, distance_b: expected the same pairs (and equal labels on every shared dim); got sizes "
            f"{dict(a.sizes)} and {dict(b.sizes)}. Select the shared pairs first."
        ) from error
    return a, b
