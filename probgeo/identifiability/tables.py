"""How the table of `summary` is shown: rounded, the valid test first, and what every number is worth."""

import html
import textwrap

import pandas as pd

from probgeo.identifiability.rounding import short
from probgeo.identifiability.verdicts import sentences

# Least and most of both tests over 18 cells of experiments/results/null_tests.nc, two-sided; a test holds it.
WORTH_OF_T = "where nothing differs they reject in 18 to 79 % of cases at a nominal 5 % (experiments.null_tests)"


class Table(pd.DataFrame):
    """A `pandas.DataFrame` of unrounded numbers, from `summary`, shown rounded and explained, in a notebook too.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> noise = np.random.default_rng(0).normal(size=(6, 12))
        >>> distance = xr.DataArray(10 + noise, dims=["retraining", "pair"]).expand_dims(measure=["geodesic"])
        >>> table = pg.identifiability.summary(distance, num_resamples=100)
        >>> print(table)
                                 CV  med.          spread                  ICC                 rank
        measure
        geodesic  .090 [.060, .114]  .088  .03 [.02, .06]  -.039 [-.259, .316]  -.032 [-.289, .321]
        CV = std/mean over retrainings: mean and median over pairs. ...
    """

    def __repr__(self) -> str:
        estimates, notes, *comparisons = _parts(self)
        parts = [_shown(estimates), _shown(notes)]
        for part in comparisons:
            parts += ["", _shown(part)] if isinstance(part, pd.DataFrame) else [_shown(part)]
        return "\n".join([*parts, "", *map(_shown, sentences(self))])

    def _repr_html_(self) -> str:
        return "\n".join(
            part.to_html(border=0) if isinstance(part, pd.DataFrame) else f"<p>{html.escape(part)}</p>"
            for part in [*_parts(self), *sentences(self)]
        )


def _shown(part: pd.DataFrame | str) -> str:
    """A table, or a note in lines of readable length, as it is printed."""
    return textwrap.fill(part, 98) if isinstance(part, str) else part.to_string()


def _parts(table: pd.DataFrame) -> list[pd.DataFrame | str]:
    """Narrow tables of rounded numbers, estimates and comparisons, and what they mean."""
    columns = {
        "CV": _with_interval(table, "cv", 3),
        "med.": [short(value, 3) for value in table["cv_median"]],
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
        + (". " if used == given else ": the others have distances missing or 0 in some row. ")
        + f"Spread and ICC hold for {unit}s drawn as these: compare them within one table."
    )
    if table.attrs.get("lost"):
        notes += f" Lost, and left out: {'; '.join(table.attrs['lost'])}."
    parts: list[pd.DataFrame | str] = [pd.DataFrame(columns, index=table.index), notes, *_solver_shares(table)]
    num_leading = len(parts)
    for name in references:
        compared = table[table[f"difference_{name}"].notna()]
        if len(compared):
            parts.append(_comparison(compared, name))
    return [*parts, _comparison_notes(table)] if len(parts) > num_leading else parts


def _solver_shares(table: pd.DataFrame) -> list[str]:
    """A line per row whose distances were held against a tighter search."""
    if "excess_median" not in table:
        return []
    lines = []
    for label, row in table[table["excess_median"].notna()].iterrows():
        name = ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)
        median, upper, most = (_percent(row[f"excess_{each}"]) for each in ("median", "quantile_95", "maximum"))
        beaten = f"; {_percent(row['excess_beaten'])} of them longer than these" if row["excess_beaten"] else ""
        lines.append(
            f"Solver's share, {name}: median excess {median}, 95th percentile {upper}, most {most} over tight "
            f"searches of {row['excess_pairs']:.0f} pairs per training{beaten}."
        )
    return lines


def _percent(value: float) -> str:
    return f"{short(100 * value, 2)} %"


def _comparison_notes(table: pd.DataFrame) -> str:
    level, unit, references = table.attrs["level"], table.attrs["unit"], table.attrs["references"]
    smallest = table[[f"smallest_p_{name}" for name in references]].max(axis=None)
    missing = any((table[f"difference_{name}"].notna() & table[f"p_{name}"].isna()).any() for name in references)
    notes = (
        f"ratio: CV of the row over that of the reference, below 1 it varies less, [{level:.0%} interval of the test]. "
        "p: two-sided, by permuting whole retrainings (perm), or by exchanging within the same trainings (swap); "
        "it finds less or more variation than the reference has, or none: no difference"
    )
    if smallest > 1 - level:
        notes += f"; ?: so few retrainings allow no p below {short(smallest, 2)}, nothing can be told"
    if missing:
        notes += "; –: no test, which takes three retrainings of each side, shared whole or not at all"
    if table.attrs["family"]:
        notes += "; in brackets: Holm's p within the family of tests that was named"
    return notes + (
        f". Δ CV: the difference, [bootstrap interval]. t, W: the paired t-test over {unit}s, as published, and "
        f"Wilcoxon's, one-sided; they take {unit}s for independent and retrainings for given: {WORTH_OF_T}."
    )


def _comparison(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The tests against one reference, rounded."""
    columns = {
        f"ratio to {name}": [text.replace("nan [nan, nan]", "–") for text in _with_interval(table, f"ratio_{name}", 2)],
        "p": _with_holm(table, name),
        "by": ["–" if swapped != swapped else "swap" if swapped else "perm" for swapped in table[f"swapped_{name}"]],
        "finds": _findings(table, name),
        "Δ CV": _with_interval(table, f"difference_{name}", 3),
        "t": [f"{t:.1f}" for t in table[f"t_{name}"]],
        "p(t)": [_tiny(p) for p in table[f"p_t_{name}"]],
        "p(W)": [_tiny(p) for p in table[f"p_wilcoxon_{name}"]],
    }
    return pd.DataFrame(columns, index=table.index)


def _findings(table: pd.DataFrame, name: str) -> list[str]:
    alpha = 1 - table.attrs["level"]
    found = zip(table[f"p_{name}"], table[f"smallest_p_{name}"], table[f"ratio_{name}"], strict=True)
    return [
        "–" if p != p else "?" if smallest > alpha else "none" if p > alpha else "less" if ratio < 1 else "more"
        for p, smallest, ratio in found
    ]


def _with_holm(table: pd.DataFrame, name: str) -> list[str]:
    corrected = table.get(f"p_holm_{name}", pd.Series(float("nan"), index=table.index))
    shown = zip(table[f"p_{name}"], corrected, strict=True)
    return ["–" if p != p else _p(p) + (f" ({_p(holm)})" if holm == holm else "") for p, holm in shown]


def _tiny(value: float) -> str:
    """One digit."""
    return short(value, 1) if value >= 0.05 else f"{value:.0e}".replace("e-0", "e-")


def _p(value: float) -> str:
    """Two digits, four places at most."""
    return short(value, 2 if value >= 0.0995 else 3 if value >= 0.00995 else 4)


def _with_interval(table: pd.DataFrame, name: str, digits: int) -> list[str]:
    values = zip(table[name], table[f"{name}_lower"], table[f"{name}_upper"], strict=True)
    return ["{} [{}, {}]".format(*(short(value, digits) for value in triple)) for triple in values]
