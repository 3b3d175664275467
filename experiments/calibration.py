"""Can the error bar of one training be trusted?

Each decoder draw gives a geodesic a length, so one training predicts an interval for a distance. Trains models several
times, counts how often the interval of one training covers the distance in another, and how much wider it should be.
Prints a table and draws figures. Run again, it resumes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

import probgeo as pg
from experiments.common.data import observations
from experiments.common.decoders import Source, decoders
from experiments.common.options import parsed
from experiments.common.results import carried_out, load_result, run, save_result


@dataclass(frozen=True)
class Config:
    """Coverage of other retrainings' distances by one training's intervals."""

    preset: Literal["mnist-3"] | None = None
    """mnist-3: digits 0, 5, 7 of MNIST, pairs of the test set; other options still override it."""
    dataset: str = "digits"
    """digits (bundled), mnist, fashion_mnist, tasic, or a synthetic set such as two_moons."""
    classes: tuple[int, ...] = ()
    """Class codes to keep; none for all."""
    latent: int = 2
    """Dimension of the latent space."""
    models: tuple[Source, ...] = ("ensemble", "dropout", "mean-field", "gp")
    """Sources of uncertainty, of those with decoder draws; `exact` is the last layer's posterior in closed form."""
    draws: int = 10
    """Decoder draws per training: members of the ensemble, samples of the others."""
    retrainings: int = 10
    """Retrainings of each model, with seeds 0, 1, 2, ...; at least four."""
    pairs: int = 50
    """Random pairs of observations whose distances are measured."""
    epochs: int = 60
    """Passes over the data per retraining."""
    batch_size: int = 64
    """Observations per minibatch."""
    learning_rate: float = 2e-3
    """Step size of Adam."""
    width: int = 128
    """Units in each of the two hidden layers of encoder and decoders."""
    segments: int = 128
    """Segments of a geodesic."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    out: Path | None = None
    """Output folder; default runs/calibration (runs/calibration-PRESET for a preset)."""
    result: Path | None = None
    """Train and measure nothing: print the table and draw the figures of this result file (calibration.nc)."""
    quick: bool = False
    """A tiny version, in under two minutes on two cores: four retrainings, ten pairs."""

    def __post_init__(self) -> None:
        if self.retrainings < 4:
            raise ValueError(
                f"retrainings: expected at least 4, two to learn from and two to test on; got {self.retrainings}."
            )
        if self.draws < 4:
            raise ValueError(f"draws: expected at least 4, as R-hat needs; got {self.draws}.")


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
    "mnist-3": Config(
        preset="mnist-3",
        dataset="mnist",
        classes=(0, 5, 7),
        pairs=100,
        epochs=30,
        batch_size=256,
    ),
}


def study_of(config: Config, folder: Path) -> pg.Study:
    """The study that a configuration describes."""
    data, points = observations(config.dataset, config.classes)
    network = pg.nn.MLP(hidden=(config.width, config.width))
    decoder = decoders(network, config.draws)
    specs = {str(name): pg.VAE(config.latent, decoder[name], pg.Gaussian(), encoder=network) for name in config.models}
    for name, spec in specs.items():
        _check_draws(name, spec, data.x.shape[1])
    return pg.Study(
        folder,
        data=data.x.to(config.device),
        points=points.x,
        pairs=pg.sample_pairs(points.labels, num_pairs=config.pairs, seed=0),
        models=specs,
        seeds=range(config.retrainings),
        measures={"geodesic": pg.study.DrawnGeodesic(pg.GaussNewton(num_segments=config.segments), config.draws)},
        training=pg.Training(epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate),
    )


def _check_draws(name: str, spec: pg.VAE, num_features: int) -> None:
    """Raise before anything is trained if a source has no draws."""
    try:
        spec.build(num_features, seed=0).draws(1)
    except TypeError as error:
        raise ValueError(f"models: {name!r} has no decoder draws, so its training has no error bar.") from error


def compute(config: Config, folder: Path) -> None:
    """Everything that takes time, to `calibration.nc`: distances, and lengths under the draws."""
    dataset = study_of(config, folder).run().sel(measure="geodesic", drop=True)
    save_result({"lengths": dataset[["distance", "draw_length", "status"]]}, config, folder / "calibration.nc")


def report(result: Path, folder: Path) -> None:
    """Table and figures of a result file; trains and measures nothing."""
    lengths = load_result(result)["lengths"]
    names = [str(name) for name in lengths["model"].values]
    parts = [lengths.sel(model=name, drop=True) for name in names]
    found = [pg.identifiability.calibration(part.draw_length, part.distance) for part in parts]
    calibration = xr.concat(found, "model").assign_coords(model=names)
    print(coverage_table(calibration))
    print()
    print(source_table(calibration, lengths.distance))
    failed, measured = int((lengths.status > pg.Status.CONVERGED).sum()), lengths.status.size
    print(f"geodesics that did not converge: {failed} of {measured}")
    figures = {"coverage": pg.plots.coverage(calibration), "ratios": pg.plots.ratios(calibration)}
    for name, part in zip(names, parts, strict=True):
        figures[f"forest-{name}"] = pg.plots.forest(part.draw_length, spread_out(part.distance))
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / f"{result.stem}-table.csv"
    calibration[["coverage", "coverage_lower", "coverage_upper", "exchangeable"]].to_dataframe().to_csv(table)
    written = [folder / f"{result.stem}-{name}.png" for name in figures]
    for path, figure in zip(written, figures.values(), strict=True):
        figure.savefig(path, dpi=150)
    print("wrote", table, *written)


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


def source_table(calibration: xr.Dataset, distance: xr.DataArray) -> str:
    """How far retrainings lie apart, a row per source."""
    rows = {}
    for name in calibration["model"].values:
        source = calibration.sel(model=name)
        num_pairs, num_retrainings = int(source.num_pairs), distance.sizes["retraining"]
        cv = pg.identifiability.coefficient_of_variation(distance.sel(model=name))
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
    """Compute what is missing, print the table, draw the figures, say where they are."""
    config = parsed(Config, PRESETS, QUICK, arguments)
    if folder := carried_out("calibration", config, compute, report):
        print(f"lengths: {folder / 'calibration.nc'}; models: {folder / 'trainings'}")


if __name__ == "__main__":
    run(main)
