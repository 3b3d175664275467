"""What a check that knows no truth says of distances, held against the truth: hits and misses."""

import numpy as np
import pandas as pd
import xarray as xr

from probgeo.identifiability import rank_correlation, trust, trust_of_trainings
from probgeo.identifiability.trust import REASONS

RIGHT = 0.9  # Spearman's ρ with the true distance: what `trust` means by trusted
SAID = {1.0: "trusted", 0.0: "doubted", np.nan: "unknown"}
COLOURS = {"trusted": "#1b7837", "doubted": "#b2182b", "unknown": "0.55"}
WORDS = tuple(SAID.values())
SHORT = {text: name for name, text in REASONS.items()}
WHY = "; ".join(f"{name}: {text}" for name, text in REASONS.items())


def judged(check: xr.Dataset, truth: xr.DataArray | None) -> pd.DataFrame:
    """A row per model and measure: how many trainings are trusted, doubted, unknown, and how many of them are right.

    Args:
        check: from `study.manifold_check`, or what is stored of it.
        truth: true distances, (pair,); None where no truth is known.

    Returns:
        `trusted`, `doubted`, `unknown` and, with a truth, how many of each have ρ above RIGHT: `trusted_right`,
        `doubted_right`, `unknown_right`; `why`, in short words, they are not trusted.
    """
    said, told = trust(check), trust_of_trainings(check)
    found = pd.DataFrame(said[list(WORDS)])
    right = None if truth is None else rank_correlation(check.distance, truth) > RIGHT
    measured = check.distance.notnull().any("pair")
    for value, word in SAID.items():
        those = (told.isnull() if np.isnan(value) else told == value) & measured
        counts = None if right is None else (those & right).sum("retraining")
        found[f"{word}_right"] = [
            np.nan if counts is None else int(counts.sel(model=model, measure=measure)) for model, measure in said.index
        ]
    found["why"] = [", ".join(SHORT[text] for text in doubts.split("; ") if text) for doubts in said.attrs["doubts"]]
    return found


def cell(row: pd.Series) -> str:
    """What is said of how many trainings, and of how many it is so where the truth is known: `trusted 9/10`."""
    parts = []
    for word in WORDS:
        num, right = int(row[word]), row[f"{word}_right"]
        if num:
            hits = right if word == "trusted" else num - right
            parts.append(f"{word} {num}" if np.isnan(right) or word == "unknown" else f"{word} {hits:.0f}/{num}")
    return ", ".join(parts)


def main_word(row: pd.Series) -> str:
    """What is said of most trainings."""
    return max(WORDS, key=lambda word: row[word])


def hits(found: pd.DataFrame) -> str:
    """How many are right of what is trusted, and wrong of what is doubted, of the rows whose truth is known."""
    total = found[found["trusted_right"].notna()].drop(columns="why", errors="ignore").sum(numeric_only=True)
    count = {name: int(total[name]) for name in (*WORDS, *(f"{word}_right" for word in WORDS))}
    return (
        f"Right: Spearman's ρ with the true distance above {RIGHT:g}. Of {count['trusted']} trusted distances "
        f"{count['trusted_right']} are right, of {count['doubted']} doubted ones "
        f"{count['doubted'] - count['doubted_right']} are wrong; of {count['unknown']} nothing is told, "
        f"{count['unknown_right']} of them are right."
    )
