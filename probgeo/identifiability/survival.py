"""One table: what of a map's structure survives retraining, by each distance, with intervals."""

import numpy as np
import pandas as pd
import xarray as xr

from probgeo.identifiability.resampling import bootstrap, bootstrap_difference
from probgeo.identifiability.statistics import check_level, checked, icc
from probgeo.identifiability.structure import (
    clusters_between,
    mean_of_couples,
    neighbours_between,
    orders_between,
)


def survival(
    neighbours: xr.DataArray | None = None,
    clusters: xr.DataArray | None = None,
    order: xr.DataArray | None = None,
    groups: xr.DataArray | None = None,
    reference: str = "euclidean",
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """What of a map survives retraining, under each distance: all rows are 1 where two retrainings agree in full.

    `neighbours`: share of a point's k neighbours in common. `clusters`: adjusted Rand index. `order`: Spearman's ρ of
    the points. `groups, rank`: Spearman's ρ of the distances between groups; `groups, icc`: their ICC(2,1), which asks
    for equal lengths, not only for the same order. All but the last are means over couples of retrainings.

    Intervals resample retrainings: a couple counts as often as the product of its retrainings' counts, and one of a
    retraining with itself is none. Points, and for the rank groups, are taken as given; the ICC's are `bootstrap`'s,
    which resamples groups too.

    Args:
        neighbours: numbers, from 0, of each point's k nearest others, dims (measure, retraining, point, neighbour).
        clusters: the cluster of each point, dims (measure, retraining, point).
        order: any number of each point, as its distance from a root, dims (measure, retraining, point).
        groups: distances between groups, dims (measure, retraining, pair), as from `between_groups`.
        reference: the measure that the others are compared with, the same retrainings resampled in both.
        num_resamples: number of resamples.
        level: nominal coverage, in (0, 1).
        seed: of the resampling; the global random state is not used.

    Returns:
        Rows (what, measure); `value` with `lower` and `upper`, `difference` from the reference with
        `difference_lower` and `difference_upper`, `by_chance`, what unrelated retrainings have on average, and the
        number of `retrainings`. Of two retrainings, whose resamples have but one couple, intervals are missing.

    Raises:
        ValueError: nothing to compare, dims that are missing, or no measure of the reference's name.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> values = [[list("aabb"), list("xxyy"), list("uuvv")], [list("aabb"), list("xyxy"), list("uuvv")]]
        >>> clusters = xr.DataArray(values, dims=["measure", "retraining", "point"])
        >>> clusters = clusters.assign_coords(measure=["geodesic", "euclidean"])
        >>> pg.identifiability.survival(clusters=clusters)[["value", "difference"]].round(2)
                            value  difference
        what     measure
        clusters geodesic     1.0         1.0
                 euclidean    0.0         NaN
    """
    check_level(level)
    if num_resamples < 2:
        raise ValueError(f"num_resamples: expected at least 2; got {num_resamples}.")
    named = {"neighbours": neighbours, "clusters": clusters, "order": order, "groups": groups}
    given = [(name, values) for name, values in named.items() if values is not None]
    if not given:
        raise ValueError("survival: expected neighbours, clusters, an order or distances between groups; got none.")
    for name, values in given:
        measures = values["measure"].values.tolist() if "measure" in values.coords else []
        if reference not in measures:
            raise ValueError(f"{name}: expected the measure {reference!r} along the dim measure; got {measures}.")
    couples = {}
    if neighbours is not None:
        couples["neighbours"] = neighbours_between(neighbours)
    if clusters is not None:
        couples["clusters"] = clusters_between(clusters)
    if order is not None:
        couples["order"] = orders_between(order, "point")
    if groups is not None:
        couples["groups, rank"] = orders_between(groups, "pair")
    rng = np.random.default_rng(seed)
    rows: dict = {}
    for what, between in couples.items():
        rows |= _rows(what, between, reference, _counts(rng, num_resamples, between.sizes["one"]), level)
        if what == "neighbours" and neighbours is not None:
            chance = neighbours.sizes["neighbour"] / (neighbours.sizes["point"] - 1)
            for measure in between["measure"].values.tolist():
                rows[what, measure]["by_chance"] = chance
    if groups is not None:
        rows |= _icc_rows(groups, reference, num_resamples, level, seed)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["what", "measure"])
    return table.assign(level=level)[COLUMNS]


COLUMNS = [
    *("value", "lower", "upper", "difference", "difference_lower", "difference_upper"),
    *("by_chance", "retrainings", "level"),
]  # fmt: skip


def _rows(what: str, between: xr.DataArray, reference: str, counts: np.ndarray, level: float) -> dict:
    """Of every measure: the mean over couples, its interval, and those of the difference from the reference."""
    rows, estimates = {}, mean_of_couples(between)
    resampled = {
        measure: _weighted(between.sel(measure=measure).values, counts)
        for measure in between["measure"].values.tolist()
    }
    for measure, values in resampled.items():
        value = estimates.sel(measure=measure).item()
        lower, upper = _interval(value, values, level)
        row = {"value": value, "lower": lower, "upper": upper, "by_chance": 0.0, "retrainings": between.sizes["one"]}
        row |= dict.fromkeys(("difference", "difference_lower", "difference_upper"), np.nan)
        if measure != reference:
            row["difference"] = value - estimates.sel(measure=reference).item()
            bounds = _interval(row["difference"], values - resampled[reference], level)
            row["difference_lower"], row["difference_upper"] = bounds
        rows[what, measure] = row
    return rows


def _icc_rows(groups: xr.DataArray, reference: str, num_resamples: int, level: float, seed: int) -> dict:
    d = checked(groups, "retraining", "pair").reset_coords(drop=True)
    rows, count = {}, d.sizes["retraining"]
    for measure in d["measure"].values.tolist():
        own, other = (d.sel(measure=name, drop=True) for name in (measure, reference))
        lower, upper = bootstrap(icc, own, num_resamples, level, seed).values if count > 2 else (np.nan, np.nan)
        row = {"value": icc(own).item(), "lower": lower, "upper": upper, "by_chance": 0.0, "retrainings": count}
        row |= dict.fromkeys(("difference", "difference_lower", "difference_upper"), np.nan)
        if measure != reference:
            row["difference"] = row["value"] - icc(other).item()
            if count > 2:
                bounds = bootstrap_difference(icc, own, other, num_resamples, level, seed).values
                row["difference_lower"], row["difference_upper"] = bounds
        rows["groups, icc", measure] = row
    return rows


def _counts(rng: np.random.Generator, num_resamples: int, count: int) -> np.ndarray:
    """How often each retraining counts, (resample, retraining); at least two different ones do."""
    counts = rng.multinomial(count, np.full(count, 1 / count), size=num_resamples)
    while (alone := (counts > 0).sum(1) < 2).any():
        counts[alone] = rng.multinomial(count, np.full(count, 1 / count), size=alone.sum())
    return counts


def _weighted(between: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Σ_{a≠b} w_a w_b t_ab / Σ_{a≠b} w_a w_b of each resample."""
    if len(between) < 3:
        return np.full(len(counts), np.nan)
    apart = 1 - np.eye(len(between))
    sums = [np.einsum("ra,ab,rb->r", counts, matrix, counts) for matrix in (between * apart, apart)]
    return sums[0] / sums[1]


def _interval(estimate: float, resampled: np.ndarray, level: float) -> tuple[float, float]:
    """estimate + quantiles of (resampled − mean of resampled), as `bootstrap` has them."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    lower, upper = estimate + np.quantile(resampled - resampled.mean(), tails)
    return float(lower), float(upper)
