"""Statistics over the dims `retraining` and `pair` of a labelled array, their paired test and bootstrap intervals."""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

CORE = ("retraining", "pair")
_CHUNK = 2**22  # distances resampled at once: 32 MiB


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
    """
    d = checked(distance, dim)
    mean = d.mean(dim, skipna=False)
    # Differences to the first entry have the same std, and exactly none for a constant.
    std = (d - d.isel({dim: 0}, drop=True)).std(dim, ddof=1, skipna=False)
    return std / mean.where(mean != 0)


def spread(distance: xr.DataArray) -> xr.DataArray:
    """Relative spread over pairs: std / mean over pairs (ddof = 1) of the pair's mean distance over retrainings.

    Args:
        distance: distances, dims (retraining, pair, ...), in any unit.

    Returns:
        Dims of `distance` without retraining and pair, no unit: 0 for a distance that is the same for every pair.

    Raises:
        ValueError: a dim is missing, or there are fewer than two pairs.
    """
    return coefficient_of_variation(
        checked(distance, "pair", "retraining", least=1).mean("retraining", skipna=False), "pair"
    )


def icc(distance: xr.DataArray) -> xr.DataArray:
    """Intraclass correlation ICC(2,1) = (P − E) / (P + (k − 1) E + k (R − E) / n).

    The share of the variance that is between pairs (the targets) rather than between retrainings (the raters): P, R, E
    are the mean squares of pairs, retrainings and residuals in the analysis of variance of n pairs × k retrainings.

    Args:
        distance: distances, dims (retraining, pair, ...), in any unit.

    Returns:
        Dims of `distance` without retraining and pair, at most 1; missing where all distances are equal.

    Raises:
        ValueError: a dim is missing or has fewer than two entries.

    References:
        Shrout & Fleiss (1979), Intraclass correlations, Psychological Bulletin 86, table 3 and p. 423.
    """
    d = checked(distance, *CORE)
    k, n = d.sizes["retraining"], d.sizes["pair"]
    d = d - d.isel(retraining=0, pair=0, drop=True)  # the same ICC, and exact zeros for a constant
    d = d - d.mean(["retraining", "pair"], skipna=False)
    pair, retraining = d.mean("retraining", skipna=False), d.mean("pair", skipna=False)
    P = k * (pair**2).sum("pair", skipna=False) / (n - 1)
    R = n * (retraining**2).sum("retraining", skipna=False) / (k - 1)
    E = ((d - pair - retraining) ** 2).sum(["retraining", "pair"], skipna=False) / ((n - 1) * (k - 1))
    total = P + (k - 1) * E + k * (R - E) / n
    return (P - E) / total.where(total > 0)


def rank_agreement(distance: xr.DataArray) -> xr.DataArray:
    """Mean of Spearman's ρ over all pairs of retrainings: do they order the pairs alike?

    Args:
        distance: distances, dims (retraining, pair, ...), in any unit.

    Returns:
        Dims of `distance` without retraining and pair, at most 1; missing where a retraining has all distances equal.

    Raises:
        ValueError: a dim is missing or has fewer than two entries.
    """
    d = checked(distance, *CORE)
    core = ["retraining", "pair"]
    ranks = xr.apply_ufunc(stats.rankdata, d, input_core_dims=[core], output_core_dims=[core], kwargs={"axis": -1})
    ranks = ranks - (d.sizes["pair"] + 1) / 2
    norm = np.sqrt((ranks**2).sum("pair", skipna=False))
    units = ranks / norm.where(norm > 0)
    # With unit vectors u_r, ‖Σ u_r‖² = k + the sum of ρ over ordered pairs of retrainings.
    k = d.sizes["retraining"]
    return ((units.sum("retraining", skipna=False) ** 2).sum("pair", skipna=False) - k) / (k * (k - 1))


def paired_test(distance_a: xr.DataArray, distance_b: xr.DataArray, alternative: str = "less") -> xr.Dataset:
    """Paired t-test on the pairs' coefficients of variation, t = mean(Δ) / (std(Δ) / √n), Δ = CV_a − CV_b.

    The test takes the pairs for independent. Retrainings are not paired: the two may have different numbers of them.

    Args:
        distance_a: distances, dims (retraining, pair, ...).
        distance_b: distances of the same pairs; its other dims broadcast against those of `distance_a`.
        alternative: the hypothesis on mean(Δ) as in SciPy, "less" (a varies less than b), "greater" or "two-sided".

    Returns:
        Dataset with `t`, `p`, `df` and `mean_difference` over the other dims. Pairs without a CV on either side are
        left out: `df` + 1 pairs were used. `t` and `p` are missing where all Δ are equal.

    Raises:
        ValueError: a dim is missing or has fewer than two entries, the pairs differ, or `alternative` is unknown.
    """
    tails = {"less": stats.t.cdf, "greater": stats.t.sf, "two-sided": lambda t, df: 2 * stats.t.sf(np.abs(t), df)}
    if alternative not in tails:
        raise ValueError(f"alternative: expected one of {', '.join(map(repr, tails))}; got {alternative!r}.")
    a, b = (coefficient_of_variation(checked(distance, *CORE)) for distance in (distance_a, distance_b))
    try:
        a, b = xr.align(a, b, join="exact")
    except ValueError as error:
        raise ValueError(
            f"distance_a, distance_b: expected the same pairs (and equal labels on every shared dim); got sizes "
            f"{dict(a.sizes)} and {dict(b.sizes)}. Select the shared pairs first."
        ) from error
    difference = a - b
    mean, df = difference.mean("pair"), difference.count("pair") - 1
    standard_error = (((difference - mean) ** 2).sum("pair") / (df.where(df > 0) * (df + 1))) ** 0.5
    t = mean / standard_error.where(standard_error > 0)
    return xr.Dataset({"t": t, "p": xr.apply_ufunc(tails[alternative], t, df), "df": df, "mean_difference": mean})


def bootstrap(
    statistic: Callable[[xr.DataArray], Any],
    distance: xr.DataArray,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    points: np.ndarray | None = None,
) -> Any:
    """Bootstrap interval of a statistic, retrainings *and* pairs resampled with replacement, independently.

    Interval = estimate + quantiles of (resampled − mean of resampled). The centring matters: a resample repeats
    retrainings, so a std shrinks on average by √(1 − 1/k), and raw quantiles would sit too low.

    Args:
        statistic: reduces retraining and pair, keeps other dims (a dim `resample` is added); DataArray or Dataset.
        distance: distances, dims (retraining, pair, ...), none missing.
        num_resamples: number of resamples.
        level: nominal coverage, in (0, 1).
        seed: of the resampling; the global random state is not used.
        points: (pair, 2) names of the pairs' end points. Where points recur in many pairs, pairs are not independent:
            then points are resampled and a pair counts as often as the product of its ends' counts. For points that
            rarely recur this is too wide, by up to √3; leave it out.

    Returns:
        As the statistic, with a further dim `bound`, ("lower", "upper"). Not confined to the range of the statistic.

    Raises:
        ValueError: a dim is missing or has fewer than two entries, or another argument is out of its range.

    References:
        Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1, section 3.
    """
    d = checked(distance, *CORE)
    if num_resamples < 2:
        raise ValueError(f"num_resamples: expected at least 2; got {num_resamples}.")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a coverage in (0, 1); got {level}.")
    d = d.reset_coords(drop=True).drop_vars(["retraining", "pair"], errors="ignore")
    k = d.sizes["retraining"]
    rng = np.random.default_rng(seed)
    retrainings = xr.DataArray(rng.integers(k, size=(num_resamples, k)), dims=["resample", "retraining"])
    pairs = xr.DataArray(_resampled_pairs(rng, num_resamples, d.sizes["pair"], points), dims=["resample", "pair"])
    step = max(1, _CHUNK // d.size)
    chunks = [slice(start, start + step) for start in range(0, num_resamples, step)]
    values = xr.concat([statistic(d.isel(retraining=retrainings[c], pair=pairs[c])) for c in chunks], dim="resample")
    centred = values - values.mean("resample", skipna=False)
    quantiles = centred.quantile([(1 - level) / 2, (1 + level) / 2], dim="resample", skipna=False)
    return statistic(d) + quantiles.rename(quantile="bound").assign_coords(bound=["lower", "upper"])


def checked(distance: xr.DataArray, *dims: str, least: int = 2) -> xr.DataArray:
    """`distance` in double precision, if it has the dims, with at least `least` entries along each."""
    if missing := [dim for dim in dims if dim not in distance.dims]:
        raise ValueError(f"distance: expected dims {dims}; got {distance.dims}, without {missing}. Rename the dims.")
    for dim in dims:
        if distance.sizes[dim] < least:
            more = "Train more seeds." if dim == "retraining" else "Take more of them."
            raise ValueError(f"distance: expected at least {least} along {dim!r}; got {distance.sizes[dim]}. {more}")
    return distance.astype(float)


def _resampled_pairs(rng: np.random.Generator, num: int, num_pairs: int, points: np.ndarray | None) -> np.ndarray:
    """Indices (resample, pair) of the resampled pairs."""
    if points is None:
        return rng.integers(num_pairs, size=(num, num_pairs))
    points = np.asarray(points)
    if points.shape != (num_pairs, 2):
        raise ValueError(f"points: expected shape {(num_pairs, 2)}, the two ends of every pair; got {points.shape}.")
    names, ends = np.unique(points, return_inverse=True)
    first, second = ends.reshape(num_pairs, 2).T
    resampled = np.empty((num, num_pairs), dtype=int)
    for row in resampled:
        weight = np.zeros(num_pairs)
        while not weight.any():  # few pairs of many points may all drop out: draw again
            count = np.bincount(rng.integers(names.size, size=names.size), minlength=names.size)
            weight = (count[first] * count[second]).astype(float)
        # Systematic resampling: as many pairs as given, in proportion to their weights, with the least extra noise.
        quantile = (np.arange(num_pairs) + 0.5) / num_pairs
        row[:] = np.searchsorted(np.cumsum(weight), quantile * weight.sum(), side="right")
    return resampled
