"""A verdict in words on every distance of a summary, by stated rules: all three legs, and the solver's share."""

import pandas as pd

from probgeo.identifiability.rounding import short

# Chosen on the digits and MNIST-3, and tried on MNIST, Fashion-MNIST and others: experiments/verdicts.py.
SURVIVES = 0.1, 0.2  # CV over retrainings, at most
TELLS_APART = 0.75, 0.5  # ICC, at least
LEAST_SPREAD = 0.05
RIGHT = 0.95, 0.8  # Spearman's ρ with what is known, at least
SOLVER = 0.1, 0.5  # excess of a solver's distances, its 95th percentile, in CVs, at most
BEATEN = 0.05  # share of pairs in which a tight search may be beaten
LEAST_RETRAININGS = 5


def verdict(table: pd.DataFrame) -> pd.DataFrame:
    """Does each distance survive, tell pairs apart, is it right, and what is the solver's share: in words, by rules.

    Every word is said of the whole bootstrap interval of `summary`, not of the estimate, so that few retrainings or
    pairs are `undecided` rather than judged.

    * `survives`: yes, if the CV over retrainings is at most .1; roughly, if at most .2; no, if above.
    * `tells_apart`: yes, if the ICC is at least .75; roughly, if at least .5; no, if below. No as well if the spread
      over pairs is below .05, however stable: of a constant the CV is 0.
    * Both are undecided below five retrainings, whose intervals are too narrow to be taken at their word.
    * `right`: yes, if Spearman's ρ with the distances that were given as known is at least .95; roughly, if at least
      .8; no, if below. Unknown where nothing is known; what a check without a truth says is then told beside it.
    * `solver`: what the solver leaves too long, the 95th percentile of its excess, in CVs: negligible, if at most .1;
      part of the variation, if at most .5; much of it, if above. Unknown without a tight search, or if it was beaten
      in more than a twentieth of the pairs.

    .75 and .5 are the usual marks of an ICC (Koo & Li 2016); the others are choices. They were made on the digits and
    on MNIST digits 0, 5, 7, and `experiments.verdicts` tries them on other data: how often does the word of a few
    retrainings contradict that of thirty?

    Args:
        table: from `summary`.

    Returns:
        A row for each of the table, with the words `survives`, `tells_apart`, `right` and `solver`.

    Raises:
        ValueError: a table without the columns of a summary.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> rng = np.random.default_rng(0)
        >>> true, noise = rng.uniform(1, 3, size=30), rng.normal(size=(2, 10, 30))
        >>> distance = xr.DataArray(
        ...     [true * (1 + 0.02 * noise[0]), 2 + 0.02 * noise[1]],
        ...     dims=["measure", "retraining", "pair"],
        ...     coords={"measure": ["geodesic", "constant"]},
        ... )
        >>> table = pg.identifiability.summary(distance, num_resamples=100)
        >>> pg.identifiability.verdict(table)[["survives", "tells_apart"]]
                  survives tells_apart
        measure
        geodesic       yes         yes
        constant       yes          no

    References:
        Koo & Li (2016), A guideline of selecting and reporting intraclass correlation coefficients, Journal of
        Chiropractic Medicine 15.
    """
    wanted = {"cv_lower", "cv_upper", "icc_lower", "icc_upper", "spread_upper", "retrainings"}
    if lacking := sorted(wanted - set(table)):
        raise ValueError(f"table: expected that of `summary`; got one without {lacking}.")
    words = {
        "survives": [_survives(row) for _, row in table.iterrows()],
        "tells_apart": [_tells_apart(row) for _, row in table.iterrows()],
        "right": [_right(row) for _, row in table.iterrows()],
        "solver": [_solver(row) for _, row in table.iterrows()],
    }
    return pd.DataFrame(words, index=table.index)


def graded(lower: float, upper: float, yes: float, roughly: float) -> str:
    """Where an interval of what is better the higher lies; undecided on both sides of the lower mark."""
    if not (lower <= upper):
        return "unknown"
    return "yes" if lower >= yes else "roughly" if lower >= roughly else "no" if upper < roughly else "undecided"


def _survives(row: pd.Series) -> str:
    if row["retrainings"] < LEAST_RETRAININGS:
        return "undecided"
    yes, roughly = SURVIVES
    return graded(-row["cv_upper"], -row["cv_lower"], -yes, -roughly)


def _tells_apart(row: pd.Series) -> str:
    if row["spread_upper"] < LEAST_SPREAD:
        return "no"
    if row["retrainings"] < LEAST_RETRAININGS:
        return "undecided"
    return graded(row["icc_lower"], row["icc_upper"], *TELLS_APART)


def _right(row: pd.Series) -> str:
    return graded(row["right_lower"], row["right_upper"], *RIGHT) if "right" in row else "unknown"


def _solver(row: pd.Series) -> str:
    excess = row.get("excess_quantile_95", float("nan"))
    if not excess >= 0 or row["excess_beaten"] > BEATEN:
        return "unknown"
    marks = zip(("negligible", "part of the variation"), SOLVER, strict=True)
    return next((word for word, mark in marks if excess <= mark * row["cv"]), "much of the variation")


def sentences(table: pd.DataFrame) -> list[str]:
    """A sentence for each row of a summary, and the rules; the solver's share once where no row has one."""
    words_of_all = verdict(table)
    searched = (words_of_all["solver"] != "unknown").any()
    found = []
    for (label, words), (_, row) in zip(words_of_all.iterrows(), table.iterrows(), strict=True):
        right = words["right"]
        if right != "unknown":
            rho, *interval = (short(row[f"right{end}"], 2) for end in ("", "_lower", "_upper"))
            right += f" (ρ {rho} [{', '.join(interval)}] with {table.attrs['known']})"
        if said := table.attrs.get("trust", {}).get(label):
            right += f", by the check {said}"
        name = ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)
        right += f"; solver's share: {words['solver']}" if searched else ""
        found.append(f"{name}: survives: {words['survives']}; tells apart: {words['tells_apart']}; right: {right}.")
    return [*found, *table.attrs.get("warnings", []), RULES + ("" if searched else " Solver's share: unknown, of all.")]


RULES = (
    "Yes and roughly hold for the whole interval. Survives: CV at most .1, .2; tells apart: ICC at least .75, .5, and "
    "spread not below .05; right: ρ with what is known at least .95, .8. No: all of the interval lies beyond; "
    "undecided: a part of it, or fewer than five retrainings; unknown: nothing was given that tells."
)
