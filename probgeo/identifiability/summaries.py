"""One table: variation over retrainings beside what the distance tells apart, every row on the same pairs."""

import math
import textwrap
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from probgeo.identifiability.comparisons import holm, paired_test, wilcoxon_test
from probgeo.identifiability.resampling import bootstrap, bootstrap_difference
from probgeo.identifiability.statistics import (
    CORE,
    checked,
    coefficient_of_variation,
    icc,
    rank_agreement,
    spread,
)


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
        distance: distances, dims (retraining, pair, ...); rows are the combinations of the other dims' labels. Or
            angles, dims (retraining, triple, ...), or volumes, dims (retraining, region, ...): the statistics are the
            same, with triples or regions for pairs, each resampled by itself.
        references: name -> distances (retraining, pair, ...) whose pairs' CVs each row's are tested against; further
            dims, as `model`, are matched to the row. Default: those present among "rbf" (the `geodesic` of model
            `rbf`) and "euclidean" (measure `euclidean` of the row's own model).
        num_resamples, level, seed, points: of the intervals, see `bootstrap`.

    Returns:
        DataFrame with, per row: `cv` (mean over pairs), `cv_median`, `spread`, `icc`, `rank_agreement`, each but the
        median with `_lower` and `_upper`; per reference `difference_NAME`, the mean CV less the reference's, with
        `_lower` and `_upper` of `bootstrap_difference`, `t_NAME`, `p_NAME` and `effect_NAME` of the one-sided
        `paired_test` that the row varies less, `p_wilcoxon_NAME` of `wilcoxon_test`, and both p-values corrected for
        all tests of their kind in the table, `p_holm_NAME` and `p_wilcoxon_holm_NAME` (all missing for the reference
        itself); `retrainings` and `pairs` used, and `pairs_missing`, those that the row itself lacks. `print` shows
        it rounded.

    Raises:
        ValueError: a dim is missing, a row has fewer than two retrainings, fewer than two pairs are left, a reference
            has other pairs or other labels, or an argument is out of range.
    """
    d = _labelled(distance)
    others = _default_references(d) if references is None else references
    unit = _unit(distance)
    others = {name: _by_row(_matched(name, reference, d)) for name, reference in others.items()}
    d = _by_row(d).dropna("row", how="all")
    kept = _kept_pairs(d, [other.sel(row=d["row"]) for other in others.values()])
    ends = None if points is None else np.asarray(points)[kept]
    options = {"num_resamples": num_resamples, "level": level, "seed": seed, "points": ends}
    records = []
    for label in d.indexes["row"]:
        row = _present(d, label)
        if row.sizes["retraining"] < 2:
            raise ValueError(f"distance: expected at least 2 retrainings in row {label}; got 1. Train more seeds.")
        record = _estimates(row[:, kept], options)
        for name, other in others.items():
            record |= _comparison(row[:, kept], name, _present(other, label)[:, kept], options)
        counts = {"retrainings": row.sizes["retraining"], "pairs": kept.sum(), "pairs_missing": (~_usable(row)).sum()}
        records.append(record | {name: int(count) for name, count in counts.items()})
    table = Table(records, index=d.indexes["row"])
    for kind in ("p", "p_wilcoxon") if others else ():
        table[[f"{kind}_holm_{name}" for name in others]] = holm(
            xr.DataArray(table[[f"{kind}_{name}" for name in others]].to_numpy(), dims=["row", "reference"])
        ).values
    table.attrs = {"level": level, "unit": unit, "num_pairs": kept.size, "references": list(others)}
    return table


def comparable(distance: xr.DataArray) -> dict[tuple[Hashable, ...], xr.DataArray]:
    """The rows of `summary`: label -> distances (retraining, pair), all on the same pairs, none missing.

    Args:
        distance: distances, dims (retraining, pair, ...), or angles or volumes, as for `summary`.

    Returns:
        By label (one entry per further dim). Pairs with a missing or no distance in some row are left out of all,
        retrainings without any distance are left out of their row.

    Raises:
        ValueError: a dim is missing or has fewer than two entries, or fewer than two pairs are left.
    """
    d = _by_row(_labelled(distance)).dropna("row", how="all")
    kept = _kept_pairs(d, [])
    return {label: _present(d, label)[:, kept] for label in d.indexes["row"]}


def _unit(distance: xr.DataArray) -> str:
    """What is measured: pairs, else triples or regions."""
    return next((unit for unit in ("pair", "triple", "region") if unit in distance.dims), "pair")


def _checked(distance: xr.DataArray) -> xr.DataArray:
    """Checked distances (retraining, pair, ...), with triples or regions for pairs where it has those."""
    unit = _unit(distance)
    return checked(distance if unit == "pair" else distance.rename({unit: "pair"}), *CORE)


def _labelled(distance: xr.DataArray) -> xr.DataArray:
    """Checked distances with at least one dim of rows."""
    d = _checked(distance)
    return d.expand_dims(distance=[d.name or "distance"]) if d.ndim == 2 else d


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
    d = _checked(reference)
    try:
        xr.align(d, distance, join="exact", exclude=["retraining"])
        return xr.broadcast(d, distance, exclude=CORE)[0].transpose(*distance.dims)
    except ValueError as error:
        raise ValueError(
            f"references[{name!r}]: expected the pairs of `distance`, and no dims or labels that it lacks, sizes "
            f"{dict(distance.sizes)}; got {dict(d.sizes)}."
        ) from error


def _by_row(distance: xr.DataArray) -> xr.DataArray:
    """Distances (row, retraining, pair), all dims but the last two stacked, infinite ones missing."""
    dims = [dim for dim in distance.dims if dim not in CORE]
    return distance.where(np.isfinite(distance)).stack(row=dims).transpose("row", *CORE)


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


def _mean_cv(distance: xr.DataArray) -> xr.DataArray:
    return coefficient_of_variation(distance).mean("pair", skipna=False)


def _estimates(distance: xr.DataArray, options: dict[str, Any]) -> dict[str, float]:
    """Statistics of one row (retraining, pair) with their intervals, confined to the statistics' ranges."""

    def statistics(d: xr.DataArray) -> xr.Dataset:
        return xr.Dataset({"cv": _mean_cv(d), "spread": spread(d), "icc": icc(d), "rank_agreement": rank_agreement(d)})

    estimate, bounds = statistics(distance), bootstrap(statistics, distance, **options)
    bounds = bounds.assign({name: bounds[name].clip(min=0) for name in ("cv", "spread")})
    bounds = bounds.assign({name: bounds[name].clip(max=1) for name in ("icc", "rank_agreement")})
    record = {"cv_median": float(coefficient_of_variation(distance).median("pair"))}
    for name in map(str, estimate):
        lower, upper = bounds[name].values.tolist()
        record |= {name: float(estimate[name]), f"{name}_lower": lower, f"{name}_upper": upper}
    return record


def _comparison(row: xr.DataArray, name: str, reference: xr.DataArray, options: dict[str, Any]) -> dict[str, float]:
    """How much less the row varies, and tests that it does; missing for the reference itself or without distances."""
    kinds = ("difference", "difference_lower", "difference_upper", "t", "p", "effect", "p_wilcoxon")
    values = [math.nan] * len(kinds)
    if reference.size and not np.array_equal(row, reference):
        test, ranks = paired_test(row, reference), wilcoxon_test(row, reference)
        bounds = bootstrap_difference(_mean_cv, row, reference, **options)
        values = [test.mean_difference, *bounds, test.t, test.p, test.effect_size, ranks.p]
    keys = [kind.replace("difference", f"difference_{name}") for kind in kinds[:3]]
    return dict(zip([*keys, *(f"{kind}_{name}" for kind in kinds[3:])], map(float, values), strict=True))


def _text(table: pd.DataFrame) -> str:
    """Two narrow tables of rounded numbers, estimates and comparisons, and what they mean."""
    columns = {
        "CV": _with_interval(table, "cv", 3),
        "med.": [_short(value, 3) for value in table["cv_median"]],
        "spread": _with_interval(table, "spread", 2),
        "ICC": _with_interval(table, "icc", 3),
        "rank": _with_interval(table, "rank_agreement", 3),
    }
    level, references = table.attrs["level"], table.attrs["references"]
    retrainings = " to ".join(map(str, sorted({table["retrainings"].min(), table["retrainings"].max()})))
    used, given, unit = table["pairs"].iloc[0], table.attrs["num_pairs"], table.attrs["unit"]
    notes = (
        f"CV = std/mean over retrainings: mean and median over {unit}s. spread = std/mean over {unit}s. rank = mean "
        f"Spearman ρ between retrainings. [{level:.0%} bootstrap interval over retrainings and end points]. "
        f"{retrainings} retrainings, {used} of {given} {unit}s"
        + ("." if used == given else ": the others have distances missing or 0 in some row.")
    )
    parts = [pd.DataFrame(columns, index=table.index).to_string(), textwrap.fill(notes, 98)]
    for name in references:
        compared = table[table[f"difference_{name}"].notna()]
        if len(compared):
            parts += ["", _comparison_text(compared, name)]
    if len(parts) > 2:
        notes = (
            f"Δ CV: below 0 the row varies less; [{level:.0%} bootstrap interval over retrainings and end points]. "
            f"t, d = t/√{unit}s, p: one-sided paired t-test over the {unit}s, the retrainings taken as given; "
            "Wilcoxon's signed-rank test beside it; (Holm): corrected for all such tests of the table."
        )
        parts.append(textwrap.fill(notes, 98))
    return "\n".join(parts)


def _comparison_text(table: pd.DataFrame, name: str) -> str:
    columns = {
        f"Δ CV to {name}": _with_interval(table, f"difference_{name}", 3),
        "t": [f"{t:.2f}" for t in table[f"t_{name}"]],
        "d": [f"{d:.2f}" for d in table[f"effect_{name}"]],
        "p (Holm)": _with_holm(table, "p", name),
        "Wilcoxon p (Holm)": _with_holm(table, "p_wilcoxon", name),
    }
    return pd.DataFrame(columns, index=table.index).to_string()


def _with_holm(table: pd.DataFrame, kind: str, name: str) -> list[str]:
    values = zip(table[f"{kind}_{name}"], table[f"{kind}_holm_{name}"], strict=True)
    return [f"{p:.1g} ({corrected:.1g})" for p, corrected in values]


def _with_interval(table: pd.DataFrame, name: str, digits: int) -> list[str]:
    values = zip(table[name], table[f"{name}_lower"], table[f"{name}_upper"], strict=True)
    return ["{} [{}, {}]".format(*(_short(value, digits) for value in triple)) for triple in values]


def _short(value: float, digits: int) -> str:
    """Rounded, without the zero before the point: these numbers hardly ever reach 1."""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and text.lstrip("-").startswith("0.") else text
