"""How often does the verdict of a few retrainings contradict that of thirty?

A few of the thirty stored retrainings of a model are drawn at random, and what their intervals say of a distance,
by the rules of `identifiability.verdict`, is held against what the estimates of all thirty are.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from experiments.common.options import Output
from experiments.common.results import Groups, Shown, load_result, run
from probgeo import identifiability
from probgeo.identifiability.verdicts import LEAST_RETRAININGS, SURVIVES, TELLS_APART, graded

STORED = Path(__file__).parent / "results"
LEGS = ("survives", "tells apart")
RANKS = {"no": 0, "roughly": 1, "yes": 2}


@dataclass(frozen=True)
class Config(Output):
    """Contradictions between the verdicts of few retrainings and of all."""

    chosen: tuple[str, ...] = ("mnist-3",)
    """Stored results of the experiment `identifiability` that the thresholds were chosen on."""
    tried: tuple[str, ...] = ("mnist", "fashion-mnist")
    """Stored results that they are tried on."""
    groups: tuple[int, ...] = (3, 5, 10, 15)
    """Retrainings that a verdict is formed from."""
    draws: int = 10
    """Random draws of each group, of each distance."""
    resamples: int = 200
    """Resamples of each bootstrap interval."""
    seed: int = 0
    """Of draws and resamples."""


QUICK = {"tried": (), "groups": (5,), "draws": 2, "resamples": 50}


def statistics(distance: xr.DataArray) -> xr.Dataset:
    """What the two legs are judged by, the higher the better."""
    cv = identifiability.coefficient_of_variation(distance).mean("pair")
    return xr.Dataset({"survives": -cv, "tells apart": identifiability.icc(distance)})


def words(lower: xr.Dataset, upper: xr.Dataset) -> dict[str, str]:
    """The word of either leg, of intervals, or of estimates where both ends are the same."""
    marks = {"survives": (-SURVIVES[0], -SURVIVES[1]), "tells apart": TELLS_APART}
    return {leg: graded(float(lower[leg]), float(upper[leg]), *marks[leg]) for leg in LEGS}


def contradicts(word: str, true: str) -> bool:
    """Whether more is claimed than holds, or none where some does; `roughly` claims no less than yes."""
    return word in RANKS and (RANKS[word] > RANKS[true] or (word == "no" and true != "no"))


def compute(config: Config, folder: Path) -> Groups:
    """Shares of distances of which something is said, and of which it contradicts, dims (data, group, leg)."""
    rng = np.random.default_rng(config.seed)
    names = (*config.chosen, *config.tried)
    shape = (len(names), len(config.groups), len(LEGS))
    said, wrong = np.zeros(shape), np.zeros(shape)
    num = []
    for index, name in enumerate(names):
        distance = load_result(STORED / f"identifiability-{name}.nc")["distances"].distance
        rows = {label: row for label, row in identifiability.comparable(distance).items() if "ambient" not in label}
        num.append(len(rows) * config.draws)
        for row in rows.values():
            true = words(*[statistics(row)] * 2)
            for group, _ in np.ndindex(len(config.groups), config.draws):
                some = row[rng.permutation(row.sizes["retraining"])[: config.groups[group]]]
                bounds = identifiability.bootstrap(
                    statistics, some, num_resamples=config.resamples, seed=int(rng.integers(2**31))
                )
                found = words(*(bounds.sel(bound=bound) for bound in ("lower", "upper")))
                for leg, each in enumerate(LEGS):
                    said[index, group, leg] += found[each] in RANKS
                    wrong[index, group, leg] += contradicts(found[each], true[each])
    total = np.array(num)[:, None, None]
    dims = ("data", "group", "leg")
    kept = xr.Dataset(
        {"said": (dims, said / total), "wrong": (dims, wrong / total), "num": ("data", num)},
        {"data": list(names), "group": list(config.groups), "leg": list(LEGS)},
    )
    return {"verdicts": kept}


# --- what is shown ---


def table_of(found: xr.Dataset) -> pd.DataFrame:
    """A row per data set and group: shares of both legs."""
    frame = found[["said", "wrong"]].to_dataframe().unstack("leg", sort=False)
    return frame.swaplevel(axis=1).sort_index(axis=1, level=0, sort_remaining=False)[list(LEGS)]


def printed(found: xr.Dataset) -> str:
    """The table, and what it means."""
    return (
        f"{table_of(found).to_string(float_format='{:.3f}'.format)}\n"
        "said: share of draws whose interval says yes, roughly or no, and not undecided. wrong: share of all draws in\n"
        "which that claims more than the estimates of all thirty retrainings hold, or none where they hold some.\n"
        f"Below {LEAST_RETRAININGS} retrainings `verdict` says nothing, whatever the interval."
    )


def figure_of(found: xr.Dataset) -> Figure:
    """Shares against the number of retrainings."""
    figure = Figure(figsize=(6.5, 2.8), dpi=150, layout="constrained")
    for axes, leg in zip(figure.subplots(1, 2, sharey=True), LEGS, strict=True):
        for index, name in enumerate(found.data.values):
            part = found.sel(data=name, leg=leg)
            axes.plot(found.group, part.said, "o-", color=f"C{index}", markersize=4, label=str(name))
            axes.plot(found.group, part.wrong, "s--", color=f"C{index}", markersize=4)
        axes.set(title=leg, xlabel="retrainings", ylim=(-0.03, 1.03), xticks=found.group.values)
    figure.axes[0].set_ylabel("share said (—), wrong (- -)")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def report(groups: Groups) -> Shown:
    """Table and figure."""
    print(printed(groups["verdicts"]))
    return {"": table_of(groups["verdicts"])}, {"": figure_of(groups["verdicts"])}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, arguments=arguments)


if __name__ == "__main__":
    main()
