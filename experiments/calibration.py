"""Can the error bar of one training be trusted?

Each decoder draw gives a geodesic a length, so one training predicts an interval for a distance. Trains models several
times, counts how often the interval of one training covers the distance in another, and how much wider it should be.
Prints a table and draws figures. Run again, it resumes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probgeo as pg
from experiments.common.decoders import Source, decoders
from experiments.common.lost import tell_lost
from experiments.common.options import Observed, OnWorkers, Retrained
from experiments.common.results import Groups, Shown, convergence, run


@dataclass(frozen=True)
class Config(Retrained, Observed, OnWorkers):
    """Coverage of other retrainings' distances by one training's intervals."""

    preset: Literal["mnist-3"] | None = None
    """mnist-3: digits 0, 5, 7 of MNIST, pairs of the test set; other options still override it."""
    models: tuple[Source, ...] = ("ensemble", "dropout", "mean-field", "gp")
    """Sources of uncertainty, of those with decoder draws; `exact` is the last layer's posterior in closed form."""
    draws: int = 10
    """Decoder draws per training: members of the ensemble, samples of the others."""
    segments: int = 128

    least: ClassVar = {
        **Retrained.least,
        "retrainings": (4, "two to learn from and two to test on"),
        "draws": (4, "as R-hat needs"),
    }


QUICK = {
    "models": ("ensemble", "dropout", "gp"),
    "draws": 5,
    "retrainings": 4,
    "pairs": 10,
    "epochs": 10,
    "width": 64,
    "segments": 32,
}

PRESETS = {
    "mnist-3": Config(preset="mnist-3", dataset="mnist", classes=(0, 5, 7), pairs=100, epochs=30, batch_size=256)
}


def _check_draws(name: str, spec: pg.VAE, num_features: int) -> None:
    """Raise before anything is trained if a source has no draws."""
    try:
        spec.build(num_features, seed=0).draws(1)
    except TypeError as error:
        raise ValueError(f"models: {name!r} has no decoder draws, so its training has no error bar.") from error


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: distances, and lengths under the draws."""
    data, points = config.observations()
    decoder = decoders(config.perceptron(), config.draws)
    models = {str(name): config.vae(decoder[name]) for name in config.models}
    for name, spec in models.items():
        _check_draws(name, spec, data.x.shape[1])
    measures = {"geodesic": pg.study.DrawnGeodesic(config.solver(), config.draws)}
    dataset = config.run(config.study(folder, data, points, models, measures)).sel(measure="geodesic", drop=True)
    return {"lengths": dataset[["distance", "draw_length", "status"]]}  # and why any is lost, as a coordinate


def report(groups: Groups) -> Shown:
    """Tables of coverage and of sources; coverage by level, ratios, and some pairs' intervals of every source."""
    lengths = groups["lengths"]
    names = [str(name) for name in lengths["model"].values]
    parts = [lengths.sel(model=name, drop=True) for name in names]
    parts = [part.dropna("retraining", how="all", subset=["distance"]) for part in parts]  # a training may be lost
    found = [pg.identifiability.calibration(part.draw_length, part.distance) for part in parts]
    calibration = xr.concat(found, "model").assign_coords(model=names)
    print(coverage_table(calibration))
    print()
    print(source_table(calibration, dict(zip(names, (part.distance for part in parts), strict=True))))
    tell_lost(lengths)
    print(convergence(lengths.status))
    table = calibration[["coverage", "coverage_lower", "coverage_upper", "exchangeable"]].to_dataframe()
    figures = {"coverage": pg.plots.coverage(calibration), "ratios": pg.plots.ratios(calibration)}
    for name, part in zip(names, parts, strict=True):
        figures[f"forest-{name}"] = pg.plots.forest(part.draw_length, spread_out(part.distance))
    return {"table": table}, figures


def coverage_table(calibration: xr.Dataset) -> str:
    """Coverage and its interval, a column per nominal level, rows by source and interval."""
    rows = {}
    for name in calibration["model"].values:
        source = calibration.sel(model=name)
        for interval in source["interval"].values:
            found = source.sel(interval=interval)
            triples = zip(found.coverage.values, found.coverage_lower.values, found.coverage_upper.values, strict=True)
            rows[name, interval] = [f"{100 * c:.0f}% [{100 * low:.0f}, {100 * high:.0f}]" for c, low, high in triples]
            if interval == "normal":
                rows[name, "normal, exchangeable"] = [f"{c:.0%}" for c in found.exchangeable.values]
        rows[name, "own draws, left out"] = [f"{c:.0%}" for c in source.left_out.values]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[f"{c:.0%}" for c in calibration["level"].values])
    table.index = pd.MultiIndex.from_tuples(rows, names=["model", "interval"])
    level = f"{calibration.interval_level:.0%}"
    return f"""{table.to_string()}
Share of other retrainings' distances that the interval of one training covers, by nominal level.
normal: mean ± z std of its draws; exchangeable: what it would cover were others' distances draws.
student: Student-t interval of one more draw. recalibrated: the same, times one factor; conformal:
times one factor per level; factors are learned from half of the retrainings on half of the pairs,
tested on the others: mean and [{level} range] of {calibration.num_splits} splits. For normal and student:
[{level} bootstrap interval over retrainings and end points]."""


def source_table(calibration: xr.Dataset, distances: Mapping[str, xr.DataArray]) -> str:
    """How far retrainings lie apart, a row per source."""
    rows = {}
    for name in calibration["model"].values:
        source = calibration.sel(model=name)
        distance = distances[str(name)]
        num_pairs, num_retrainings = int(source.num_pairs), distance.sizes["retraining"]
        cv = pg.identifiability.coefficient_of_variation(distance)
        rows[str(name)] = {
            "draws": int(source.num_draws),
            "retrainings": num_retrainings,
            "pairs": f"{num_pairs} of {distance.sizes['pair']}",
            "CV": f"{float(cv.mean()):.3f}",
            "between/within": _quartiles(source.ratio.values),
            "R-hat": _quartiles(source.rhat.values),
            "factor": f"{float(source.factor):.1f}",
        }
    return f"""{pd.DataFrame.from_dict(rows, orient="index").to_string()}
between/within: std of the distance between retrainings over that of the draws' lengths within one;
Student-t intervals cover at their level where it is √((1 + 1/draws) / 2). R-hat: of the lengths,
retrainings as chains; 1 where all draws of all retrainings are exchangeable. Both: median and
(quartiles) over pairs. factor: by which the Student-t interval is to be widened."""


def spread_out(distance: xr.DataArray, num: int = 6) -> list[int]:
    """Positions of some pairs, from the shortest to the longest mean distance."""
    order = distance.mean("retraining").values.argsort()
    return [int(pair) for pair in order[np.linspace(0, len(order) - 1, min(num, len(order))).round().astype(int)]]


def _quartiles(values: np.ndarray) -> str:
    low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
