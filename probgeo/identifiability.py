"""Which distances survive retraining: statistics over the dims `retraining` and `pair` of labelled arrays.

A low coefficient of variation is not yet identifiability: a constant has none. So the variation over retrainings
(`coefficient_of_variation`) is read beside what the distance tells apart (`spread`, `icc`, `rank_agreement`).

Every function takes an `xarray.DataArray` from any source, reduces the dims it names and keeps all others (model,
measure, ...). A missing distance makes a statistic missing; only `summary` leaves pairs out, and counts them.
"""

import functools
import math
import textwrap
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

_CORE = ("retraining", "pair")
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
    d = _checked(distance, dim)
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
        _checked(distance, "pair", "retraining", least=1).mean("retraining", skipna=False), "pair"
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
    d = _checked(distance, *_CORE)
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
    d = _checked(distance, *_CORE)
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
    a, b = (coefficient_of_variation(_checked(distance, *_CORE)) for distance in (distance_a, distance_b))
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
            rarely recur this is too wide; leave it out.

    Returns:
        As the statistic, with a further dim `bound`, ("lower", "upper"). Not confined to the range of the statistic.

    Raises:
        ValueError: a dim is missing or has fewer than two entries, or another argument is out of its range.

    References:
        Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1, section 3.
    """
    d = _checked(distance, *_CORE)
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


class Table(pd.DataFrame):
    """A `pandas.DataFrame` of unrounded numbers, from `summary`, that prints rounded and explained."""

    def __str__(self) -> str:
        return _text(self)


def summary(
    distance: xr.DataArray,
    references: Mapping[str, xr.DataArray] | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    points: np.ndarray | None = None,
) -> Table:
    """Variation over retrainings beside what the distance tells apart: one row per (model, measure).

    All rows and references are compared on the same pairs: those whose distances are finite in all of them, with a
    mean above 0. A row without any distance is left out, and so is a retraining without any distance in its row.

    Args:
        distance: distances, dims (retraining, pair, ...); rows are the combinations of the other dims' labels.
        references: name -> distances (retraining, pair, ...) whose pairs' CVs each row's are tested against; further
            dims, as `model`, are matched to the row. Default: those present among "rbf" (the `geodesic` of model
            `rbf`) and "euclidean" (measure `euclidean` of the row's own model).
        num_resamples, level, seed, points: of the intervals, see `bootstrap`.

    Returns:
        DataFrame with, per row: `cv` (mean over pairs), `cv_median`, `spread`, `icc`, `rank_agreement`, each but the
        median with `_lower` and `_upper`; per reference `t_NAME` and `p_NAME` of the one-sided `paired_test` that the
        row varies less (missing for the reference itself); `retrainings` and `pairs` used, and `pairs_missing`, those
        that the row itself lacks. `print` shows it rounded.

    Raises:
        ValueError: a dim is missing, a row has fewer than two retrainings, fewer than two pairs are left, a reference
            has other pairs or other labels, or an argument is out of range.
    """
    d = _checked(distance, *_CORE)
    if d.ndim == 2:
        d = d.expand_dims(distance=[d.name or "distance"])
    others = _default_references(d) if references is None else references
    others = {name: _by_row(_matched(name, reference, d)) for name, reference in others.items()}
    d = _by_row(d).dropna("row", how="all")
    kept = _kept_pairs(d, [other.sel(row=d["row"]) for other in others.values()])
    ends = None if points is None else np.asarray(points)[kept]
    interval = functools.partial(bootstrap, num_resamples=num_resamples, level=level, seed=seed, points=ends)
    records = []
    for label in d.indexes["row"]:
        row = _present(d, label)
        if row.sizes["retraining"] < 2:
            raise ValueError(f"distance: expected at least 2 retrainings in row {label}; got 1. Train more seeds.")
        record = _estimates(row[:, kept], interval)
        for name, other in others.items():
            record |= _test(row[:, kept], name, _present(other, label)[:, kept])
        counts = {"retrainings": row.sizes["retraining"], "pairs": kept.sum(), "pairs_missing": (~_usable(row)).sum()}
        records.append(record | {name: int(count) for name, count in counts.items()})
    table = Table(records, index=d.indexes["row"])
    table.attrs = {"level": level, "num_pairs": kept.size}
    return table


def _checked(distance: xr.DataArray, *dims: str, least: int = 2) -> xr.DataArray:
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


def _default_references(distance: xr.DataArray) -> dict[str, xr.DataArray]:
    """The baselines among the rows: RBF geodesic distances, and Euclidean ones in the row's own latent space."""
    models, measures = (list(distance[dim].values) if dim in distance.dims else [] for dim in ("model", "measure"))
    references = {}
    if "rbf" in models and "geodesic" in measures:
        references["rbf"] = distance.sel(model="rbf", measure="geodesic", drop=True)
    if "euclidean" in measures:
        references["euclidean"] = distance.sel(measure="euclidean", drop=True)
    return references


def _matched(name: str, reference: xr.DataArray, distance: xr.DataArray) -> xr.DataArray:
    """`reference` with the dims of `distance`: repeated along those that it lacks."""
    d = _checked(reference, *_CORE)
    try:
        xr.align(d, distance, join="exact", exclude=["retraining"])
        return xr.broadcast(d, distance, exclude=_CORE)[0].transpose(*distance.dims)
    except ValueError as error:
        raise ValueError(
            f"references[{name!r}]: expected the pairs of `distance`, and no dims or labels that it lacks, sizes "
            f"{dict(distance.sizes)}; got {dict(d.sizes)}."
        ) from error


def _by_row(distance: xr.DataArray) -> xr.DataArray:
    """Distances (row, retraining, pair), all dims but the last two stacked, infinite ones missing."""
    dims = [dim for dim in distance.dims if dim not in _CORE]
    return distance.where(np.isfinite(distance)).stack(row=dims).transpose("row", *_CORE)


def _present(distance: xr.DataArray, label: tuple[Hashable, ...]) -> xr.DataArray:
    """Distances (retraining, pair) of one row, without the retrainings that have none."""
    return distance.sel(row=label, drop=True).dropna("retraining", how="all")


def _usable(distance: xr.DataArray) -> xr.DataArray:
    """Whether a pair has a CV: no distance missing but where the whole retraining is, and not all of them 0."""
    absent = distance.isnull().all("pair")
    complete = (distance.notnull() | absent).all("retraining")
    zero = (distance.fillna(0) == 0).all("retraining") & ~absent.all("retraining")
    return complete & ~zero


def _kept_pairs(distance: xr.DataArray, references: list[xr.DataArray]) -> np.ndarray:
    """Whether each pair (pair,) is usable in all rows and references."""
    if not distance.size:
        raise ValueError("distance: expected at least one row with distances; got none, all are missing.")
    usable = _usable(distance)
    kept = np.all([usable.all("row"), *(_usable(reference).all("row") for reference in references)], axis=0)
    if kept.sum() < 2:
        missing = dict(zip(distance.indexes["row"], (~usable).sum("pair").values.tolist(), strict=True))
        raise ValueError(
            f"distance: expected at least 2 pairs with finite, nonzero distances in all rows and references; got "
            f"{kept.sum()} of {kept.size}. Missing by row: {missing}. Leave out the rows that lack most."
        )
    return kept


def _estimates(distance: xr.DataArray, interval: Callable[..., xr.Dataset]) -> dict[str, float]:
    """Statistics of one row (retraining, pair) with their intervals, confined to the statistics' ranges."""

    def statistics(d: xr.DataArray) -> xr.Dataset:
        cv = coefficient_of_variation(d).mean("pair", skipna=False)
        return xr.Dataset({"cv": cv, "spread": spread(d), "icc": icc(d), "rank_agreement": rank_agreement(d)})

    estimate, bounds = statistics(distance), interval(statistics, distance)
    bounds = bounds.assign({name: bounds[name].clip(min=0) for name in ("cv", "spread")})
    bounds = bounds.assign({name: bounds[name].clip(max=1) for name in ("icc", "rank_agreement")})
    record = {"cv_median": float(coefficient_of_variation(distance).median("pair"))}
    for name in map(str, estimate):
        lower, upper = bounds[name].values.tolist()
        record |= {name: float(estimate[name]), f"{name}_lower": lower, f"{name}_upper": upper}
    return record


def _test(row: xr.DataArray, name: str, reference: xr.DataArray) -> dict[str, float]:
    """One-sided paired test that the row varies less; missing where the reference has no distances for the row."""
    test = paired_test(row, reference) if reference.size else {"t": math.nan, "p": math.nan}
    return {f"t_{name}": float(test["t"]), f"p_{name}": float(test["p"])}


def _text(table: pd.DataFrame) -> str:
    """The table with rounded numbers, few columns, and what they mean."""

    def with_interval(name: str) -> list[str]:
        values = zip(table[name], table[f"{name}_lower"], table[f"{name}_upper"], strict=True)
        return [f"{value:.3f} [{lower:.3f}, {upper:.3f}]" for value, lower, upper in values]

    columns = {
        "CV": with_interval("cv"),
        "median": [f"{value:.3f}" for value in table["cv_median"]],
        "spread": [f"{value:.2f}" for value in table["spread"]],
        "ICC": with_interval("icc"),
        "rank": [f"{value:.3f}" for value in table["rank_agreement"]],
    }
    for name in [column[2:] for column in table.columns if column.startswith("t_")]:
        tests = zip(table[f"t_{name}"], table[f"p_{name}"], strict=True)
        columns[f"t {name} (p)"] = ["–" if math.isnan(t) else f"{t:.2f} ({p:.1g})" for t, p in tests]
    retrainings = " to ".join(map(str, sorted({table["retrainings"].min(), table["retrainings"].max()})))
    used, given = table["pairs"].iloc[0], table.attrs["num_pairs"]
    notes = (
        f"CV = std/mean over retrainings: mean, [{table.attrs['level']:.0%} bootstrap interval over retrainings and "
        f"pairs] and median over pairs. spread = std/mean over pairs. rank = mean Spearman ρ between retrainings. "
        f"t (p): one-sided paired t-test that the CVs are below the reference's. {retrainings} retrainings, {used} of "
        f"{given} pairs" + ("." if used == given else ": the others have distances missing or 0 in some row.")
    )
    return pd.DataFrame(columns, index=table.index).to_string() + "\n" + textwrap.fill(notes, 118)
