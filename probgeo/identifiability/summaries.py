"""One table: variation over retrainings beside what the distance tells apart, every row on the same pairs."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from probgeo.identifiability.comparisons import holm, paired_test, wilcoxon_test
from probgeo.identifiability.permutations import permutation_test, swap_test
from probgeo.identifiability.resampling import bootstrap, bootstrap_difference
from probgeo.identifiability.rightness import known_by_row, rightness, said_by
from probgeo.identifiability.solver import excess_of_rows
from probgeo.identifiability.statistics import (
    CORE,
    checked,
    coefficient_of_variation,
    corrected_coefficient_of_variation,
    icc,
    rank_agreement,
    spread,
    variation_by_length,
)
from probgeo.identifiability.tables import Table
from probgeo.identifiability.trainings import with_trainings
from probgeo.identifiability.trust import Trust

ABSENT = "there is none"  # of a list of trainings that is shorter than others

Label = tuple[Hashable, ...]


def summary(
    distance: xr.DataArray,
    references: Mapping[str, xr.DataArray] | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    points: np.ndarray | None = None,
    num_permutations: int = 9999,
    family: Mapping[str, Sequence[Label]] | None = None,
    tight: xr.DataArray | None = None,
    known: xr.DataArray | None = None,
    trust: Trust | None = None,
) -> Table:
    """Variation over retrainings beside what the distance tells apart: one row per (model, measure).

    All rows and references are compared on the same pairs: those whose distances are finite in all of them, with a
    mean above 0. A row without any distance is left out, and so is a retraining without any distance in its row.

    Each row is tested against its references by `swap_test` where both come from the same trainings, and by
    `permutation_test` where none is shared. The coordinate `training`, dims (retraining, ...), says which are the same;
    where there is none, `with_trainings` finds it: rows that differ in their measure alone come from the same
    trainings, and so do models whose Euclidean distances of codes are equal.

    Args:
        distance: distances, dims (retraining, pair, ...); rows are the combinations of the other dims' labels. Or
            angles, dims (retraining, triple, ...), or volumes, dims (retraining, region, ...): the statistics are the
            same, with triples or regions for pairs, each resampled by itself.
        references: name -> distances (retraining, pair, ...) whose variation each row's is tested against; further
            dims, as `model`, are matched to the row. Default: those present among "rbf" (the `geodesic` of model
            `rbf`) and "euclidean" (measure `euclidean` of the row's own model). One that is no row of `distance`, and
            has no coordinate `training`, is taken for other trainings.
        num_resamples, level, seed, points: of the intervals, see `bootstrap`.
        num_permutations: of the tests, see `permutation_test`.
        family: reference -> rows whose tests are to be corrected together by `holm`; None for no correction.
        tight: distances of a sample of the pairs by a tighter search, from `study.tight_distances`, dims as `distance`:
            the solver's share of these rows is then stated. None says nothing of it.
        known: distances that the rows are to be right by: true ones, or an outside reference, dims (pair), and what
            else of the rows' dims they differ by; missing where unknown. Its name is what the verdict calls it.
        trust: from the function `trust`, of the same models and measures: its sentences are told beside the verdict.

    Returns:
        DataFrame with, per row: `cv` (mean over pairs), `cv_median`, `spread`, `icc`, `rank_agreement`, each but the
        median with `_lower` and `_upper`; `cv_corrected` for the number of retrainings, `cv_short`, `cv_middle`,
        `cv_long` by `variation_by_length`. Per reference, and missing for the reference itself: `ratio_NAME` of the
        CVs with `_lower` and `_upper`, `p_NAME`, two-sided, `smallest_p_NAME` and whether it is by `swap_test`,
        `swapped_NAME` (all missing below three retrainings, or where only some trainings are shared); `p_holm_NAME`
        of a family; `difference_NAME`, the mean CV less the reference's, with `_lower` and `_upper` of
        `bootstrap_difference`; and, to compare with published numbers, `t_NAME`, `p_t_NAME` and `effect_NAME` of the
        one-sided `paired_test` and `p_wilcoxon_NAME` of `wilcoxon_test`. `retrainings` and `pairs` used, and
        `pairs_missing`, those that the row itself lacks. With `tight`, and missing for rows that it lacks:
        `excess_median`, `excess_quantile_95`, `excess_maximum` and `excess_beaten` by `solver_excess`, over the
        `excess_pairs` of the sample, whether or not the row's other pairs are used. With `known`, `right`, the mean
        over retrainings of Spearman's ρ with what is known, with `_lower` and `_upper`. `print` shows it rounded, and
        ends in a verdict on every row, by the rules of `verdict`.

    Raises:
        ValueError: a dim is missing, a row has fewer than two retrainings, fewer than two pairs are left, a reference
            has other pairs or other labels, `family` names no test of the table, `tight` has other dims, other pairs
            or no row of the table, `known` has other dims or fewer than three pairs, `trust` no row of the table, or an
            argument is out of range.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> rng = np.random.default_rng(0)
        >>> true, noise = rng.uniform(1, 3, size=12), rng.normal(size=(2, 6, 12))
        >>> distance = xr.DataArray(
        ...     true * (1 + np.array([0.05, 0.2])[:, None, None] * noise),
        ...     dims=["measure", "retraining", "pair"],
        ...     coords={"measure": ["geodesic", "euclidean"]},
        ... )
        >>> table = pg.identifiability.summary(distance, num_resamples=100)
        >>> table[["cv", "icc", "p_euclidean"]].round(2)  # 2 / 2⁶ is the least p of six trainings
                     cv   icc  p_euclidean
        measure
        geodesic   0.05  0.98         0.03
        euclidean  0.19  0.77          NaN
    """
    d = with_trainings(_labelled(distance))
    others = _default_references(d) if references is None else references
    unit = _unit(distance)
    others = {name: _by_row(_matched(name, reference, d)) for name, reference in others.items()}
    right = None if known is None else known_by_row(known, d, unit)
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
            reference = other.sel(row=label, drop=True)
            record |= _comparison(row[:, kept], name, _present(other, label)[:, kept], options)
            trainings = _trainings(d, label), _of_reference(reference, d)
            whole = d.sel(row=label, drop=True)[:, kept], reference[:, kept]
            is_other = not math.isnan(record[f"difference_{name}"])
            record |= _test(*whole, name, trainings if is_other else None, (num_permutations, level, seed))
        if right is not None:
            record |= rightness(row[:, kept], right.sel(row=label, drop=True)[kept], options)
        counts = {"retrainings": row.sizes["retraining"], "pairs": kept.sum(), "pairs_missing": (~_usable(row)).sum()}
        records.append(record | {name: int(count) for name, count in counts.items()})
    table = Table(records, index=d.indexes["row"])
    if tight is not None:
        shares = excess_of_rows(distance, tight)
        frame = pd.DataFrame([shares.get(label, {}) for label in table.index], index=table.index)
        table[list(frame)] = frame
    if family:
        _correct(table, family, list(others))
    table.attrs = {"level": level, "unit": unit, "num_pairs": kept.size, "references": list(others)}
    table.attrs["family"] = bool(family)
    table.attrs["lost"] = _lost(distance)
    table.attrs["known"] = "what is known" if known is None or known.name is None else str(known.name)
    if trust is not None:
        table.attrs |= said_by(trust, table.index)
    return table


def _lost(distance: xr.DataArray) -> list[str]:
    """The trainings that have no distances, and why, where the coordinate `lost`, (model, retraining), says so."""
    if "lost" not in distance.coords or "retraining" not in distance.lost.dims:
        return []
    frame = distance.lost.to_dataframe(name="why").reset_index()
    named = [name for name in ("model", "retraining", "seed") if name in frame]
    return [
        f"{', '.join(f'{name} {row[name]}' for name in named)} ({row.why})"
        for _, row in frame.iterrows()
        if row.why not in ("", ABSENT)
    ]


def comparable(distance: xr.DataArray) -> dict[Label, xr.DataArray]:
    """The rows of `summary`: label -> distances (retraining, pair), all on the same pairs, none missing.

    Args:
        distance: distances, dims (retraining, pair, ...), or angles or volumes, as for `summary`.

    Returns:
        By label (one entry per further dim). Pairs with a missing or no distance in some row are left out of all,
        retrainings without any distance are left out of their row.

    Raises:
        ValueError: a dim is missing or has fewer than two entries, or fewer than two pairs are left.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> distance = xr.DataArray(
        ...     [[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [[1.0, 2.0, np.nan], [1.0, 2.0, 3.0]]],
        ...     dims=["measure", "retraining", "pair"],
        ...     coords={"measure": ["geodesic", "euclidean"]},
        ... )
        >>> rows = pg.identifiability.comparable(distance)
        >>> {label: dict(row.sizes) for label, row in rows.items()}  # the pair that one row lacks is left out of both
        {('geodesic',): {'retraining': 2, 'pair': 2}, ('euclidean',): {'retraining': 2, 'pair': 2}}
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


def _present(distance: xr.DataArray, label: Label) -> xr.DataArray:
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
    record["cv_corrected"] = float(corrected_coefficient_of_variation(distance).mean("pair"))
    by_length = variation_by_length(distance) if distance.sizes["pair"] >= 3 else None
    for name in ("short", "middle", "long"):
        record[f"cv_{name}"] = math.nan if by_length is None else float(by_length.sel(length=name))
    for name in map(str, estimate):
        lower, upper = bounds[name].values.tolist()
        record |= {name: float(estimate[name]), f"{name}_lower": lower, f"{name}_upper": upper}
    return record


def _comparison(row: xr.DataArray, name: str, reference: xr.DataArray, options: dict[str, Any]) -> dict[str, float]:
    """How much less the row varies, and tests over pairs; missing for the reference itself or without distances."""
    kinds = ("difference", "difference_lower", "difference_upper", "t", "p_t", "effect", "p_wilcoxon")
    values = [math.nan] * len(kinds)
    if reference.size and not np.array_equal(row, reference):
        test, ranks = paired_test(row, reference), wilcoxon_test(row, reference)
        bounds = bootstrap_difference(_mean_cv, row, reference, **options)
        values = [test.mean_difference, *bounds, test.t, test.p, test.effect_size, ranks.p]
    keys = [kind.replace("difference", f"difference_{name}") for kind in kinds[:3]]
    return dict(zip([*keys, *(f"{kind}_{name}" for kind in kinds[3:])], map(float, values), strict=True))


def _test(
    row: xr.DataArray,
    reference: xr.DataArray,
    name: str,
    trainings: tuple[np.ndarray, np.ndarray] | None,
    options: tuple[int, float, int],
) -> dict[str, float]:
    """The valid test of a row against a reference; missing where there is none."""
    keys = ("ratio_{}", "ratio_{}_lower", "ratio_{}_upper", "p_{}", "smallest_p_{}", "swapped_{}")
    values = [math.nan] * len(keys)
    num_permutations, level, seed = options
    if trainings is not None:
        same = np.array_equal(*trainings)
        shared = bool(set(trainings[0].tolist()) & set(trainings[1].tolist()))
        present = [d.notnull().any("pair").values for d in (row, reference)]
        least = (present[0] & present[1]).sum() if same else min(each.sum() for each in present)
        if least >= 3 and (same or not shared):
            a, b = (d.reset_coords(drop=True).drop_vars("retraining", errors="ignore") for d in (row, reference))
            found = (swap_test if same else permutation_test)(
                a, b, num_permutations=num_permutations, level=level, seed=seed
            )
            values = [found.estimate, *found.interval.values, found.p_value, found.smallest_p, float(same)]
    return dict(zip([key.format(name) for key in keys], map(float, values), strict=True))


def _trainings(distance: xr.DataArray, label: Label) -> np.ndarray:
    """The identities of a row's trainings (retraining,)."""
    training = distance["training"]  # without the dim of rows where all come from the same trainings
    return (training.sel(row=label) if "row" in training.dims else training).values


def _of_reference(reference: xr.DataArray, distance: xr.DataArray) -> np.ndarray:
    """The identities of a reference's trainings: its own, or of the row that it is, or else of no row."""
    if "training" in reference.coords:
        return reference["training"].values
    for label in distance.indexes["row"]:
        if np.array_equal(distance.sel(row=label), reference, equal_nan=True):
            return _trainings(distance, label)
    return np.array([f"reference {index}" for index in range(reference.sizes["retraining"])])


def _correct(table: Table, family: Mapping[str, Sequence[Label]], references: Sequence[str]) -> None:
    """Holm's p-values of the tests that `family` names, as columns of the table."""
    unknown = [name for name in family if name not in references]
    unknown += [str(label) for labels in family.values() for label in labels if label not in table.index]
    if unknown:
        raise ValueError(
            f"family: expected references among {list(references)} and rows of the table; got {', '.join(unknown)}."
        )
    chosen = pd.DataFrame(math.nan, index=table.index, columns=list(family))
    for name, labels in family.items():
        chosen.loc[list(labels), name] = table.loc[list(labels), f"p_{name}"]
    corrected = holm(xr.DataArray(chosen.to_numpy(), dims=["row", "reference"]))
    table[[f"p_holm_{name}" for name in family]] = corrected.where(chosen.notna().to_numpy()).values
