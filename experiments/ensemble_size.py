"""How many decoders does an ensemble need for distances that survive retraining?

Ensembles of the largest size are trained several times; distances of the same pairs are measured with their first 1, 2,
3, ... members, as published, under the expected metric and under the published energy. Prints a table, CV never alone,
with the published numbers beside; draws a figure. Run again, it resumes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import probgeo as pg
from experiments.common.data import cells
from experiments.common.members import OfFirst, StraightEnergy, energy_of_1999_segments
from experiments.common.options import Observed, OnWorkers, Retrained
from experiments.common.results import Groups, Shown, config_of, run
from probgeo.plots.style import distinct_colours, finish, new_figure


@dataclass(frozen=True)
class Config(Retrained, Observed, OnWorkers):
    """Distances over retrainings against the number of decoders: CV, spread over pairs, ICC, rank agreement."""

    preset: Literal["tasic"] | None = None
    """tasic: cell types of the mouse cortex, pairs of representatives, as published; other options override it."""
    table: Path | None = None
    """With `--dataset tasic`: a local npz file to read instead of the download (see `datasets.tasic`)."""
    members: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    """Numbers of decoders, ascending."""
    each_trained: bool = False
    """Train ensembles of every size; otherwise only those of the largest, whose first members are measured."""
    representatives: int = 0
    """Instead of random pairs, all pairs of the observations nearest to their class's mean, of this many classes."""
    noise: float | None = None
    """Standard deviation of the observations given the code, in units of the data; none to learn it."""
    segments: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.members or self.members[0] < 1 or any(np.diff(self.members) <= 0):
            raise ValueError(f"members: expected ascending numbers from 1; got {self.members}.")


QUICK = {"members": (1, 2, 4), "retrainings": 3, "pairs": 10, "epochs": 20, "width": 64, "segments": 32}
PRESETS = {
    "tasic": Config(
        preset="tasic", dataset="tasic", representatives=15, noise=0.5, retrainings=6, epochs=40, batch_size=256
    )
}
# vae-latent-geometry, 6 seeds, 105 pairs of Tasic cells; by n, not n − 1, so √(6/5) times as much here.
PUBLISHED_CV = (0.262, 0.111, 0.101, 0.098, 0.097, 0.095, 0.094, 0.093, 0.091, 0.089)
PUBLISHED_EUCLIDEAN_CV = 0.267
SAMPLE = (6 / 5) ** 0.5


def observations_of(config: Config) -> tuple[pg.datasets.Dataset, pg.datasets.Dataset]:
    """The data to train on, and those that pairs are taken from."""
    if config.dataset != "tasic":
        return config.observations()
    data = cells(config.table)
    return (data.subset(classes=config.classes) if config.classes else data,) * 2


def pairs_of(config: Config, points: pg.datasets.Dataset) -> Int64[Tensor, "pair 2"]:
    """Random pairs, or all pairs of representatives, of classes evenly spread over the codes."""
    if not config.representatives:
        return pg.sample_pairs(points.labels, num_pairs=config.pairs, seed=0)
    rows = pg.class_representatives(points.x, points.labels)
    if not 3 <= config.representatives <= len(rows):
        raise ValueError(
            f"representatives: expected 3 to {len(rows)}, the number of classes; got {config.representatives}."
        )
    chosen = torch.linspace(0, len(rows) - 1, config.representatives).round().long()
    return rows[chosen][pg.all_pairs(config.representatives)]


def measures_of(config: Config) -> dict[str, pg.study.Measure]:
    """What is measured with any number of decoders."""
    solver = config.solver()
    return {
        "geodesic": pg.Geodesic(solver=solver),
        "straight": pg.StraightLine(num_segments=config.segments),
        "decorrelated": pg.Geodesic(energy_of_1999_segments, solver=solver),
        "decorrelated straight": StraightEnergy(config.segments),
    }


def specs_of(config: Config) -> dict[str, pg.VAE]:
    """An ensemble of the largest size, or of every size, by name."""
    sizes = config.members if config.each_trained else config.members[-1:]
    return {str(size): config.vae(pg.EnsembleDecoder(size, config.perceptron()), config.noise) for size in sizes}


def measured(config: Config, folder: Path) -> xr.Dataset:
    """Distances and status, dims (members, measure, retraining, pair)."""
    data, points = observations_of(config)
    measures, sizes = measures_of(config), list(config.members)
    of_first = {f"{name} {size}": OfFirst(size, how) for size in sizes for name, how in measures.items()}
    used = measures if config.each_trained else of_first
    study = config.study(folder, data, points, specs_of(config), used, pairs=pairs_of(config, points))
    found = config.run(study)[["distance", "status"]].drop_vars("num_members")
    if config.each_trained:
        return found.rename(model="members").assign_coords(members=sizes)
    names = [*measures, "euclidean"]
    parts = [found.sel(measure=[*(f"{name} {size}" for name in measures), "euclidean"]) for size in sizes]
    joined = xr.concat([part.assign_coords(measure=names) for part in parts], "members")
    return joined.squeeze("model", drop=True).assign_coords(members=sizes)


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time."""
    return {"distances": measured(config, folder)}


def printed(summary: pg.identifiability.Table, dataset: xr.Dataset) -> str:
    """The table, and its CV beside the published one."""
    rows = pd.DataFrame(
        {
            "E[JᵀJ], geodesic": summary.xs("geodesic", level="measure")["cv"],
            "√E, geodesic": summary.xs("decorrelated", level="measure")["cv"],
            "√E, straight line": summary.xs("decorrelated straight", level="measure")["cv"],
            "published": pd.Series(dict(enumerate(np.round(np.array(PUBLISHED_CV) * SAMPLE, 3), start=1))),
        }
    ).dropna(how="all")
    euclidean = summary.xs("euclidean", level="measure")["cv"].iloc[-1]
    failed, solved = int((dataset.status > pg.Status.CONVERGED).sum()), int((dataset.status >= 0).sum())
    return (
        f"{summary}\n\n"
        f"CV against the number of decoders, Euclidean {euclidean:.3f} here, {PUBLISHED_EUCLIDEAN_CV * SAMPLE:.3f} "
        f"published:\n{rows.T.round(3).to_string()}\n"
        "published: vae-latent-geometry, cells, √E, 6 seeds × 105 pairs, CV times √(6/5) for equal divisors.\n"
        f"paths that did not converge: {failed} of {solved}"
    )


LABELS = {
    "geodesic": "geodesic, expected metric",
    "straight": "straight line, expected metric",
    "decorrelated": "√(2E), least published energy",
    "decorrelated straight": "√(2E), straight line",
    "euclidean": "Euclidean, latent",
}


def _panel(axes: Axes, summary: pd.DataFrame, name: str, title: str) -> None:
    """One statistic against the number of decoders, a line per measure, with its interval."""
    for color, (measure, label) in zip(distinct_colours(len(LABELS)), LABELS.items(), strict=True):
        rows = summary.xs(measure, level="measure")
        if measure in ("geodesic", "decorrelated"):
            axes.fill_between(rows.index, rows[f"{name}_lower"], rows[f"{name}_upper"], color=color, alpha=0.15, lw=0)
        dashed = "--" if measure == "euclidean" else "s:" if "straight" in measure else "o-"
        axes.plot(rows.index, rows[name], dashed, color=color, markersize=3.5, linewidth=1.3, label=label)
    axes.set_xlabel("decoders")
    axes.set_title(title, loc="left", fontsize=9)
    sizes = summary.index.unique("members")
    axes.set_xticks(sizes)
    finish(axes)


def figure_of(summary: pd.DataFrame, with_published: bool) -> Figure:
    """CV, and beside it what the distance can still tell apart: ICC, rank agreement, spread."""
    titles = {
        "cv": "CV over retrainings",
        "icc": "ICC, share of variance between pairs",
        "rank_agreement": "rank agreement of retrainings",
        "spread": "spread over pairs",
    }
    figure = new_figure(12.0, 3.2)
    panels = figure.subplots(1, 4)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        _panel(axes, summary, name, title)
    if with_published:
        sizes = range(1, 1 + len(PUBLISHED_CV))
        style = {"color": "0.3", "linewidth": 0.9, "markersize": 4}
        panels[0].plot(sizes, np.array(PUBLISHED_CV) * SAMPLE, "x-", label="published, √E of real cells", **style)
    for axes in (panels[0], panels[3]):
        axes.set_ylim(bottom=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, fontsize=8, frameon=False)
    return figure


def report(groups: Groups) -> Shown:
    """A row per number of decoders and measure, and the same as curves, with the published ones beside."""
    dataset = groups["distances"]
    config, distance = config_of(dataset), dataset.distance.transpose("measure", "members", "retraining", "pair")
    if not config["each_trained"]:  # the first members of one ensemble per retraining
        distance = distance.assign_coords(training=("retraining", np.arange(distance.sizes["retraining"])))
    references = {"euclidean": distance.sel(measure="euclidean", drop=True)}
    summary = pg.identifiability.summary(distance, references)
    print(printed(summary, dataset))
    return {"table": summary}, {"": figure_of(summary, config["dataset"] == "tasic")}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
