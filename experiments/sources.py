"""All sources of decoder uncertainty on one data set: do their distances survive retraining, and what do they cost?

Also: does the uncertainty grow away from the data? Points at 1, 2 and 4 standard deviations of the codes from the
nearest code, outward in many directions, against the codes themselves. Run again, it resumes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

import probgeo as pg
from experiments.common.decoders import Source, decoders
from experiments.common.lost import fitted, in_place, kept, tell_lost
from experiments.common.maps import class_legend, field, label_names, labelled, latent_map, some_rows
from experiments.common.options import Ensemble, Observed, OnWorkers, Retrained
from experiments.common.results import Groups, Shown, run

SOURCES: tuple[Source, ...] = get_args(Source)
DISTANCES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Config(Retrained, Ensemble, Observed, OnWorkers):
    """Compare all sources of uncertainty: stability of distances, seconds, growth of uncertainty away from the data."""

    preset: Literal["mnist-3"] | None = None
    """MNIST digits 0, 5, 7; without NUTS, whose last layer would have 10^5 weights. Other options override it."""
    models: tuple[Source, ...] = SOURCES
    """Sources of uncertainty to compare; `exact` is the last layer's posterior in closed form."""
    members: int = 10
    """Decoders in the ensemble, and draws of every sampled decoder."""
    samples: int = 100
    """Posterior samples of NUTS, after as many for its warm-up."""


QUICK = {
    "members": 3,
    "samples": 5,
    "retrainings": 2,
    "pairs": 10,
    "epochs": 20,
    "batch_size": 64,
    "width": 32,
    "segments": 32,
}
PRESETS = {
    "mnist-3": Config(
        preset="mnist-3",
        dataset="mnist",
        classes=(0, 5, 7),
        models=tuple(name for name in SOURCES if name != "nuts"),
        epochs=30,
        batch_size=256,
        segments=128,
    )
}


def outward(codes: Float[Tensor, "row latent"], distance: float, num: int = 128) -> Float[Tensor, "point latent"]:
    """Points whose nearest code is `distance` away, the last ones of that kind on rays from the codes' mean.

    With centred codes c and a direction v, a ray leaves the ball of radius r around c at t = ⟨c, v⟩ + √(r² − ‖c‖² +
    ⟨c, v⟩²), and leaves the union of all balls at the largest t. Rays that miss all balls are left out.
    """
    center = codes.mean(0)
    direction = torch.randn(num, codes.shape[1], generator=torch.Generator().manual_seed(0)).to(codes)
    direction = direction / direction.norm(dim=1, keepdim=True)
    along = direction @ (codes - center).T
    chord = distance**2 - (codes - center).square().sum(1) + along.square()
    exit_time = torch.where(chord >= 0, along + chord.clamp(min=0).sqrt(), -torch.inf).max(1).values
    hit = exit_time > 0
    return center + exit_time[hit, None] * direction[hit]


@torch.no_grad()
def growth_of(model: Any, codes: Float[Tensor, "row latent"]) -> xr.DataArray:
    """Quantiles of the decoder's standard deviation at the codes (distance 0) and beyond them, over directions."""
    scale = float(codes.var(0).mean().sqrt())
    places = [codes if distance == 0 else outward(codes, distance * scale) for distance in DISTANCES]
    levels = torch.tensor(QUANTILES, dtype=codes.dtype, device=codes.device)
    quantiles = torch.stack([model.uncertainty(place).quantile(levels) for place in places])
    coords = {"away": list(DISTANCES), "quantile": list(QUANTILES)}
    return xr.DataArray(quantiles.cpu().numpy(), coords, ("away", "quantile"), "uncertainty")


@torch.no_grad()
def views_of(study: pg.Study, lost: xr.DataArray, data: pg.datasets.Dataset, segments: int) -> dict[str, xr.Dataset]:
    """Growth of every model's uncertainty, and for two latent dimensions a map of its first retraining."""
    rows = some_rows(len(data), 300)
    growth, maps = [], []
    for name in study.models:
        models = fitted(study, lost, name)
        codes = [model.encode(study.data).mean for model in models]
        parts = [growth_of(*one) for one in zip(models, codes, strict=True)]
        growth.append(in_place(parts, kept(lost, name), len(study.seeds)))
        if codes[0].shape[1] == 2:
            start, stop = models[0].encode(study.points[study.pairs[:6].T.flatten()]).mean.chunk(2)
            found = study.measures["geodesic"].paths(models[0], start, stop, codes[0])
            path = found.path[:, :: max(1, segments // 32)].cpu().numpy()
            maps.append(latent_map(models[0], codes[0], rows, path, 28))
    names = {"model": list(study.models)}
    views = {"growth": xr.concat(growth, "model").assign_coords(names).to_dataset()}
    if maps:
        views["maps"] = labelled(xr.concat(maps, "model").assign_coords(names), data.labels[rows], data.label_names)
    return views


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: distances with their times, growth of uncertainty, maps."""
    data, points = config.observations()
    decoder = decoders(config.perceptron(), config.members, config.samples)
    models = {name: config.vae(decoder[name]) for name in config.models}
    lines = pg.StraightLine(num_segments=config.segments)
    measures = {"geodesic": pg.Geodesic(solver=config.solver()), "straight": lines}
    study = config.study(folder, data, points, models, measures)
    spared = ["energy", "euclidean_latent", "euclidean_reconstructed"]  # in study.nc; a result file is small
    distances = config.run(study).drop_vars(spared)
    return {"distances": distances} | views_of(study, distances.lost, data, config.segments)


def relative_growth(uncertainty: xr.DataArray) -> xr.DataArray:
    """Uncertainty over its median at the codes, per model and retraining; missing where a model has none."""
    at_data = uncertainty.sel(away=0, quantile=0.5)
    return uncertainty / at_data.where(at_data > 0)


def table(summary: pd.DataFrame, distances: xr.Dataset, uncertainty: xr.DataArray) -> pd.DataFrame:
    """One row per model: its geodesic distances over retrainings, seconds, and uncertainty away from the data."""
    columns = [name + bound for name in ("cv", "icc") for bound in ("", "_lower", "_upper")]
    frame = summary.xs("geodesic", level="measure")[[*columns, "spread", "rank_agreement"]]
    growth = relative_growth(uncertainty).sel(quantile=0.5).median("retraining")
    failed = distances.status.sel(measure="geodesic") > pg.Status.CONVERGED
    compared = summary.xs("geodesic", level="measure")
    missing = pd.Series(np.nan, index=frame.index)
    reconstructed = missing
    if "euclidean_reconstructed" in distances:
        cv = pg.identifiability.coefficient_of_variation(distances.euclidean_reconstructed)  # none where one is lost
        reconstructed = cv.mean("pair").to_series()
    more = {
        "cv_straight": summary.cv.xs("straight", level="measure"),
        "cv_euclidean": summary.cv.xs("euclidean", level="measure"),
        "cv_reconstructed": reconstructed,
        **{name: compared.get(name, missing) for name in (f"{kind}_rbf" for kind in ("ratio", "p", "smallest_p"))},
        "swapped_rbf": compared.get("swapped_rbf", missing),
        "training_seconds": distances.training_seconds.mean("retraining").to_series(),
        "distance_seconds": distances.seconds.sel(measure="geodesic").mean("retraining").to_series(),
        "not_converged": failed.sum(("retraining", "pair")).to_series(),
        **{f"growth_{away}": growth.sel(away=away).to_series() for away in (1, 2, 4)},
    }
    return frame.assign(**more)


def printed(frame: pd.DataFrame, distances: xr.Dataset) -> str:
    """The table, rounded, and what it means."""

    def rounded(name: str, form: str) -> pd.Series:
        return frame[name].map(lambda value: "–" if np.isnan(value) else format(value, form))

    def with_interval(name: str) -> pd.Series:
        return (
            rounded(name, ".3f") + " [" + rounded(f"{name}_lower", ".2f") + ", " + rounded(f"{name}_upper", ".2f") + "]"
        )

    columns = {
        "CV": with_interval("cv"),
        "line": rounded("cv_straight", ".3f"),
        "euclid": rounded("cv_euclidean", ".3f"),
        "spread": rounded("spread", ".2f"),
        "ICC": with_interval("icc"),
        "rank": rounded("rank_agreement", ".3f"),
        "recon": rounded("cv_reconstructed", ".3f"),
        "ratio": rounded("ratio_rbf", ".2f"),
        "p": rounded("p_rbf", ".4f"),
        "by": frame["swapped_rbf"].map({1.0: "swap", 0.0: "perm"}).fillna("–"),
        "train s": rounded("training_seconds", ".1f"),
        "dist. s": rounded("distance_seconds", ".1f"),
        "failed": rounded("not_converged", "d"),
        **{f"×{away} std": rounded(f"growth_{away}", ".2f") for away in (1, 2, 4)},
    }
    smallest = frame["smallest_p_rbf"].max()
    least = f"; so few exchanges allow no p below {smallest:.2g}" if smallest > 0.05 else ""
    return (
        f"{pd.DataFrame(columns).to_string()}\n"
        "CV, spread, ICC, rank: of geodesic distances, [95 % bootstrap intervals]; line, euclid: CV of the straight "
        "line\nunder the same metric, and of the Euclidean distance of the codes; recon: of reconstructions, where "
        "stored.\nratio: of the CV to that of rbf; p: two-sided, by permuting whole retrainings (perm) or exchanging "
        f"within the same\ntrainings (swap){least}. train s: of one retraining, its share where\nten are trained at "
        f"once. dist. s: geodesics of all {distances.sizes['pair']} pairs of one retraining. failed: not converged.\n"
        "×1, ×2, ×4 std: the decoder's standard deviation at that many standard deviations of the codes from the "
        f"nearest code,\nover that at the codes; medians over directions and {distances.sizes['retraining']} "
        "retrainings."
    )


def growth_figure(uncertainty: xr.DataArray) -> Figure:
    """One panel per source: growth of its uncertainty away from the data, beside all others in grey."""
    growth = relative_growth(uncertainty).dropna("model", how="all")
    names = [str(name) for name in growth.model.values]
    num_columns = min(5, len(names))
    num_rows = -(-len(names) // num_columns)
    figure = Figure(figsize=(2.2 * num_columns + 0.5, 2.2 * num_rows + 0.4), dpi=200, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False).ravel()
    median = growth.sel(quantile=0.5).median("retraining")
    for index, (axes, name) in enumerate(zip(panels, names, strict=False)):
        axes.plot(growth.away, median.transpose("away", "model"), color="0.8", linewidth=0.8)
        one = growth.sel(model=name)
        low, high = (one.sel(quantile=level).median("retraining") for level in (QUANTILES[0], QUANTILES[-1]))
        axes.fill_between(growth.away, low, high, color="C0", alpha=0.2, linewidth=0)
        axes.plot(growth.away, one.sel(quantile=0.5).transpose("away", "retraining"), color="C0", linewidth=0.5)
        axes.plot(growth.away, median.sel(model=name), color="C0", linewidth=1.8)
        axes.set_title(f"{name}: ×{float(median.sel(model=name, away=4)):.1f}", fontsize=9, loc="left")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.tick_params(labelsize=8, labelbottom=index + num_columns >= len(names))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel("distance from the nearest code, standard deviations of the codes", fontsize=9)
    figure.supylabel("standard deviation over that at the codes", fontsize=9)
    return figure


def maps_figure(maps: xr.Dataset) -> Figure:
    """One panel per source, its first retraining: codes and geodesics over the decoder's standard deviation."""
    names = [str(name) for name in maps.model.values]
    num_columns = min(5, len(names))
    num_rows = -(-len(names) // num_columns)
    figure = Figure(figsize=(2.7 * num_columns, 3 * num_rows + 0.3), dpi=200, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        view = maps.sel(model=name)
        low, high = np.quantile(view.uncertainty.values, [0.02, 0.85]).tolist()
        pg.plots.latent(
            view.codes.values,
            maps.label.values,
            background=field(view, "uncertainty") if high > low else None,
            background_label="",
            background_range=(low, high),
            paths=view.path.values,
            straight=False,
            legend=False,
            ax=axes,
        )
        axes.set(xlabel="", ylabel="")
        axes.set_title(f"{name}: {low:.2g} to {high:.2g}" if high > low else name, fontsize=9)
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel("shades: decoder standard deviation, from white to grey as given above each panel", fontsize=9)
    class_legend(figure, panels[0], label_names(maps), ncols=11, fontsize=9, markerscale=2)
    return figure


def report(groups: Groups) -> Shown:
    """A row per source; growth of their uncertainty, and their maps."""
    distances, uncertainty = groups["distances"], groups["growth"].uncertainty
    summary = pg.identifiability.summary(distances.distance)
    frame = table(summary, distances, uncertainty)
    print(printed(frame, distances))
    tell_lost(distances)
    figures = {"growth": growth_figure(uncertainty)}
    if "maps" in groups:
        figures["latent"] = maps_figure(groups["maps"])
    return {"table": frame, "summary": summary}, figures


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
