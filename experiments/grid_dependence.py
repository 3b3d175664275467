"""Does a distance depend on the number of segments that it is computed with, and does it tell pairs apart?

An ensemble trained several times, the same pairs in all retrainings. The published energy of decoder ensembles and the
length under their expected metric are minimised on finer and finer grids; then the path of each is measured by the
other: how stable, how discriminating, how much of the path inside the data. Run again, it resumes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import probgeo as pg
from experiments.common.lost import undiverged
from experiments.common.maps import inside_data
from experiments.common.options import Ensemble, Observed, Perceptrons
from experiments.common.results import Groups, Shown, load_result, run, save_result
from probgeo.geometry.descents import REVISION
from probgeo.geometry.metrics import Energy
from probgeo.identifiability import coefficient_of_variation, icc, rank_agreement, spread
from probgeo.plots.style import distinct_colours, finish, new_figure
from probgeo.specs import digest


@dataclass(frozen=True)
class Config(Perceptrons, Ensemble, Observed):
    """The published energy and the expected-metric length, against the number of segments and against each other."""

    preset: Literal["mnist-3"] | None = None
    """MNIST digits 0, 5, 7 with the settings of the published table; other options still override it."""
    classes: tuple[int, ...] = (0, 5, 7)
    latent: int = 2
    """Dimension of the latent space."""
    retrainings: int = 8
    """Retrainings, with seeds 0, 1, 2, ..."""
    pairs: int = 50
    """Random pairs of observations whose distances are measured."""
    grid: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Numbers of segments, ascending; each path is refined from the one before."""
    epochs: int = 100

    least: ClassVar = dict.fromkeys(("retrainings", "members", "pairs"), (2, "as variations need"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.grid) < 2 or self.grid[0] < 2 or any(np.diff(self.grid) <= 0):
            raise ValueError(f"grid: expected two or more ascending numbers from 2; got {self.grid}.")


QUICK = {"members": 3, "retrainings": 3, "pairs": 10, "grid": (16, 32, 64, 128), "epochs": 40}
PRESETS = {"mnist-3": Config(preset="mnist-3", dataset="mnist", retrainings=10, pairs=100, epochs=30, batch_size=256)}


def refined(
    energy_of: Callable[[int], Energy], start: Tensor, stop: Tensor, codes: Tensor, grid: Sequence[int]
) -> Iterator[pg.Geodesics]:
    """Paths of least energy_of(N) for each N of the grid, the first from a graph's path, others from the one before."""
    init: Tensor | pg.paths.Graph = pg.paths.Graph(energy_of(grid[0]), codes)
    for num in grid:
        found = pg.geodesic(energy_of(num), start, stop, init=init, solver=pg.GaussNewton(num_segments=num))
        init = found.path
        yield found


@torch.no_grad()
def curves_of(model: pg.LatentModel, start: Tensor, stop: Tensor, codes: Tensor, grid: Sequence[int]) -> xr.Dataset:
    """Each path by each measure at each N: lengths, √(2E), share of nodes inside the data, status."""
    draws, metric = model.draws(), model.metric()

    def published(num: int) -> pg.DecorrelatedEnergy:
        return pg.DecorrelatedEnergy(draws, segments=num)  # as many as the path has: the published convention

    by_metric = list(refined(lambda num: metric, start, stop, codes, grid))
    by_energy = list(refined(published, start, stop, codes, grid))
    values, inside, status = [], [], []
    for num, shortest, decorrelated in zip(grid, by_metric, by_energy, strict=True):
        lines = pg.paths.Straight(num)(start, stop)
        for path in (lines, shortest.path, decorrelated.path):
            root = (2 * pg.energy(published(num), path)).sqrt()
            straight = (start - stop).norm(dim=1) if path is lines else torch.full_like(root, torch.nan)
            values.append(torch.stack([pg.length(metric, path), root, straight]))
            # The nodes of one path wait where the other's hurry: at equal latent steps, both are judged alike.
            even = pg.paths.resampled(path, path.diff(dim=1).norm(dim=2), num)
            inside.append(inside_data(even, codes).double().mean(1))
        status += [torch.zeros_like(shortest.status), shortest.status, decorrelated.status]
    shape = (len(grid), 3)
    names = ("segments", "path", "measured", "pair")
    return xr.Dataset(
        {
            "distance": (names, torch.stack(values).unflatten(0, shape).cpu().numpy()),
            "inside": (("segments", "path", "pair"), torch.stack(inside).unflatten(0, shape).numpy()),
            "status": (("segments", "path", "pair"), torch.stack(status).unflatten(0, shape).cpu().numpy()),
        },
        {
            "segments": list(grid),
            "path": ["straight", "expected", "decorrelated"],
            "measured": ["length", "root energy", "euclidean"],
        },
    )


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: trainings, and the curves of each, which are kept too."""
    data, points = config.observations()
    network, training = config.perceptron(), config.training()
    spec = pg.VAE(config.latent, pg.EnsembleDecoder(config.members, network), pg.Gaussian(), encoder=network)
    pairs = pg.sample_pairs(points.labels, num_pairs=config.pairs, seed=0)
    x, ends = data.x.to(config.device), points.x[pairs].to(config.device)
    models = undiverged(spec, x, range(config.retrainings), training=training, folder=folder / "trainings")
    curves = []
    for seed, model in models.items():
        file = folder / "curves" / f"{digest(REVISION, spec, training, x, seed, ends, config.grid)}.nc"
        if not file.exists():
            codes = model.encode(x).mean.detach()
            start, stop = model.encode(ends.flatten(0, 1)).mean.detach().unflatten(0, (-1, 2)).unbind(1)
            save_result({"curves": curves_of(model, start, stop, codes, config.grid)}, config, file)
        curves.append(load_result(file)["curves"])
    dataset = xr.concat(curves, "retraining").assign_coords(
        start=("pair", pairs[:, 0].numpy()), stop=("pair", pairs[:, 1].numpy())
    )
    return {"curves": dataset}


SERIES = {
    "√(2E), published energy": ("decorrelated", "root energy"),
    "expected-metric length of the same curve": ("decorrelated", "length"),
    "expected-metric length of its own geodesic": ("expected", "length"),
}


def finite_pairs(curves: xr.Dataset) -> xr.Dataset:
    """Without the pairs that some path could not be computed of."""
    missing = curves.distance.sel(measured=["length", "root energy"]).isnull()
    return curves.sel(pair=~missing.any(("segments", "path", "measured", "retraining")))


def grid_table(curves: xr.Dataset) -> pd.DataFrame:
    """One row per distance and N: its mean, and what it is worth over retrainings."""
    rows = {}
    for name, (path, measured) in SERIES.items():
        distance = curves.distance.sel(path=path, measured=measured)
        statistics = xr.Dataset(
            {
                "mean": distance.mean(("retraining", "pair")),
                "CV": coefficient_of_variation(distance).mean("pair"),
                "spread": spread(distance),
                "ICC": icc(distance),
                "rank": rank_agreement(distance),
            }
        )
        frame = statistics.drop_vars(["path", "measured"]).to_dataframe()
        frame.insert(1, "growth", frame["mean"] / frame["mean"].iloc[0])
        rows[name] = frame
    return pd.concat(rows, names=["distance"])


def combinations(curves: xr.Dataset) -> pg.identifiability.Table:
    """One row per path and what it is measured by, on the finest grid, against the expected metric's own geodesic."""
    distance = curves.distance.isel(segments=-1, drop=True)
    own = distance.sel(path="expected", measured="length", drop=True)
    return pg.identifiability.summary(distance, references={"expected geodesic": own})


def printed(curves: xr.Dataset, frame: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Both tables, and what they mean."""
    coarsest, finest = int(curves.segments[0]), int(curves.segments[-1])
    growth = frame.loc["√(2E), published energy", "growth"].iloc[-1]
    inside = curves.inside.isel(segments=-1).mean(("retraining", "pair"))
    shares = ", ".join(f"{name} {share:.1%}" for name, share in zip(inside.path.values, inside.values, strict=True))
    failed = (curves.status > pg.Status.CONVERGED).sum(("retraining", "pair")).drop_sel(path="straight")
    solved = curves.sizes["retraining"] * curves.sizes["pair"]
    unsolved = "; ".join(
        f"{name} {', '.join(map(str, row.values.tolist()))}"
        for name, row in zip(failed.path.values, failed.T, strict=True)
    )
    return (
        f"{frame.round(3).to_string()}\n"
        f"growth: of the mean since N = {coarsest}. The root of the published plain sum, √(2E/N), has the CV, spread,\n"
        f"ICC and rank of √(2E), and grew {growth * (coarsest / finest) ** 0.5:.2f} times.\n\n"
        f"Paths (rows) by what they are measured by, N = {finest}:\n{summary}\n"
        f"nodes inside the data, at equal latent steps: {shares}\n"
        f"not converged, of {solved} for each N: {unsolved}"
    )


def _growth_panel(axes: Axes, curves: xr.Dataset, frame: pd.DataFrame) -> None:
    """Means against N, relative to the coarsest grid, on logarithmic scales."""
    num = curves.segments.values
    colors = distinct_colours(4)
    for name, color in zip(SERIES, (colors[3], colors[1], colors[0]), strict=True):
        axes.plot(num, frame.loc[name, "growth"], "o-", color=color, markersize=4, linewidth=1.5, label=name)
        if name.startswith("√"):
            plain = frame.loc[name, "growth"].to_numpy() * (num[0] / num) ** 0.5
            label = "√(2E/N), root of the published sum"
            axes.plot(num, plain, "o--", color=color, markersize=3, linewidth=1.2, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(num, [str(n) for n in num])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("segments N")
    axes.set_ylabel(f"mean over pairs, relative to N = {num[0]}")
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _combinations_panel(axes: Axes, summary: pd.DataFrame) -> None:
    """CV against ICC: a marker per path, a colour per what it is measured by."""
    colors = dict(zip(("length", "root energy", "euclidean"), distinct_colours(4)[::3], strict=False))
    colors["euclidean"] = "0.5"
    labels = {"length": "expected-metric length", "root energy": "√(2E), published", "euclidean": "Euclidean, latent"}
    markers = {"straight": "s", "expected": "o", "decorrelated": "^"}
    for (path, measured), row in summary[["cv", "icc"]].iterrows():
        axes.plot(row["icc"], row["cv"], markers[path], color=colors[measured], markersize=8, alpha=0.8)
    for measured, color in colors.items():
        axes.plot([], [], "o", color=color, markersize=6, label=labels[measured])
    for path, marker in markers.items():
        axes.plot([], [], marker, color="white", markeredgecolor="0.2", markersize=6, label=f"{path} path")
    axes.set_xlabel("ICC: what survives retraining and tells pairs apart")
    axes.set_ylabel("CV over retrainings")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)


def figure_of(curves: xr.Dataset, frame: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Left: growth with N. Right: stability against discrimination, every path by every measure."""
    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    _growth_panel(left, curves, frame)
    _combinations_panel(right, summary)
    for axes in (left, right):
        finish(axes)
    return figure


def report(groups: Groups) -> Shown:
    """Tables of growth and of every path by every measure, and both as a figure."""
    curves = finite_pairs(groups["curves"])
    frame, summary = grid_table(curves), combinations(curves)
    print(printed(curves, frame, summary))
    return {"table": frame, "combinations": summary}, {"": figure_of(curves, frame, summary)}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
