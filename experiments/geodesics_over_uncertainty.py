"""Do geodesics avoid where the decoder knows nothing?

Latent maps of models that differ only in their uncertainty: codes by class, over the decoder's uncertainty, over the
volume density √det G and over indicatrices, with geodesics and straight lines; and how much of both lies in the data.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.figure import Figure

import probgeo as pg
from experiments.common.decoders import Source, decoders
from experiments.common.lost import in_place, undiverged
from experiments.common.maps import (
    class_legend,
    field,
    grid_over,
    inside_data,
    label_names,
    labelled,
    latent_map,
    some_rows,
)
from experiments.common.options import Ensemble, Observed, Retrained
from experiments.common.results import Groups, Shown, run


@dataclass(frozen=True)
class Config(Retrained, Ensemble, Observed):
    """Latent maps with geodesics over the decoder's uncertainty, and how far geodesics keep to the data."""

    preset: Literal["mnist-3"] | None = None
    """Settings for the published figure's data; other options still override it."""
    classes: tuple[int, ...] = (0, 5, 7)
    models: tuple[Source, ...] = ("ensemble", "rbf")
    """Sources of uncertainty, one row of maps each."""
    retrainings: int = 3
    pairs: int = 50
    """Random pairs of observations of different classes; the first 8 are drawn."""
    epochs: int = 200

    least: ClassVar = {"retrainings": (1, "as means need"), "pairs": (1, "as means need")}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models:
            raise ValueError("models: expected at least one; got none.")


QUICK = {"members": 3, "retrainings": 2, "pairs": 10, "epochs": 40, "segments": 64}
PRESETS = {"mnist-3": Config(preset="mnist-3", dataset="mnist", epochs=30, batch_size=256, segments=128)}


@torch.no_grad()
def curves_of(model: Any, ends: torch.Tensor, codes: torch.Tensor, config: Config) -> xr.Dataset:
    """Geodesics and straight lines between the same ends: nodes at equal latent steps, and what they pass through."""
    start, stop = ends.chunk(2)
    solver, segments = config.solver(), config.segments
    found = pg.Geodesic(solver=solver).paths(model, start, stop, codes)
    line = pg.StraightLine(num_segments=segments).paths(model, start, stop, codes)
    # A geodesic's own nodes are at equal steps of the metric, denser where the decoder is uncertain: no fair share.
    steps = found.path.diff(dim=1).norm(dim=2)
    nodes = torch.stack([pg.paths.resampled(found.path, steps, segments), line.path])
    inside = inside_data(nodes, codes).double().mean(2)
    uncertainty = model.uncertainty(nodes).mean(2)
    return xr.Dataset(
        {
            "path": (("pair", "node", "latent"), nodes[0].cpu().numpy()),
            "inside": (("curve", "pair"), inside.numpy()),
            "uncertainty_passed": (("curve", "pair"), uncertainty.cpu().numpy()),
            "length": (("curve", "pair"), torch.stack([found.length, line.length]).cpu().numpy()),
            "status": ("pair", found.status.cpu().numpy()),
        },
        {"curve": ["geodesic", "straight"]},
    )


@torch.no_grad()
def backgrounds_of(model: Any, codes: torch.Tensor, num: int, num_ellipses: int = 15) -> xr.Dataset:
    """Volume density on the map's grid, and metric tensors on a coarse one."""
    metric = model.metric()
    grid, _ = grid_over(codes, num)
    coarse, _ = grid_over(codes, num_ellipses)
    return xr.Dataset(
        {
            "volume": (("first", "second"), pg.calculus.volume_density(metric, grid).reshape(num, num).cpu().numpy()),
            "place": (("ellipse", "latent"), coarse.cpu().numpy()),
            "tensor": (("ellipse", "latent", "other"), metric.tensor(coarse).cpu().numpy()),
        }
    )


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: curves of all pairs, and maps of some."""
    data, points = config.observations()
    pairs = pg.sample_pairs(points.labels, num_pairs=config.pairs, seed=0, across_classes=True)
    x, ends = data.x.to(config.device), points.x[pairs.T.flatten()].to(config.device)
    rows, seeds = some_rows(len(data), 400), range(config.retrainings)
    decoder = decoders(config.perceptron(), config.members)
    specs = {name: config.vae(decoder[name]) for name in config.models}
    trained = {
        name: undiverged(spec, x, seeds, training=config.training(), folder=folder / "trainings" / name)
        for name, spec in specs.items()
    }
    shown = [place for place in seeds if all(place in models for models in trained.values())]  # on maps, side by side
    groups: dict[str, list[xr.Dataset]] = {"curves": [], "maps": [], "backgrounds": []}
    for models in trained.values():
        curves, maps = {}, []
        for place, model in models.items():
            codes, at_ends = model.encode(x).mean.detach(), model.encode(ends).mean.detach()
            curves[place] = curves_of(model, at_ends, codes, config)
            if config.latent == 2 and place in shown:
                maps.append(latent_map(model, codes, rows, curves[place].path.values[:8, ::4], 48))
                if place == shown[0]:
                    groups["backgrounds"].append(backgrounds_of(model, codes, 48))
        parts = [curve.drop_vars("path") for curve in curves.values()]
        groups["curves"].append(in_place(parts, list(curves), len(seeds)))
        if maps:
            groups["maps"].append(xr.concat(maps, "retraining").assign_coords(retraining=shown))
    found = {name: xr.concat(parts, "model") for name, parts in groups.items() if parts}
    found = {name: dataset.assign_coords(model=list(config.models)) for name, dataset in found.items()}
    return found | {
        name: labelled(maps, data.labels[rows], data.label_names) for name, maps in found.items() if name == "maps"
    }


def table(curves: xr.Dataset) -> pd.DataFrame:
    """One row per model: means over pairs and retrainings of shares inside the data, lengths, uncertainty passed."""
    mean = curves.mean(("pair", "retraining"))
    along, on_line = curves.uncertainty_passed.sel(curve="geodesic"), curves.uncertainty_passed.sel(curve="straight")
    less = (1 - along / on_line.where(on_line > 0)).mean(("pair", "retraining"))
    failed = (curves.status > pg.Status.CONVERGED).sum(("pair", "retraining"))
    columns = {
        "inside": mean.inside.sel(curve="geodesic"),
        "inside, line": mean.inside.sel(curve="straight"),
        "length": mean.length.sel(curve="geodesic"),
        "length, line": mean.length.sel(curve="straight"),
        "uncertainty below line's": less,
        "not converged": failed,
    }
    return pd.DataFrame({name: column.values for name, column in columns.items()}, index=list(curves.model.values))


def printed(frame: pd.DataFrame, curves: xr.Dataset) -> str:
    """The table, rounded, and what it means."""
    shares = dict.fromkeys(("inside", "inside, line", "uncertainty below line's"), "{:.1%}".format)
    lengths = dict.fromkeys(("length", "length, line"), "{:.3f}".format)
    solved = curves.sizes["pair"] * curves.sizes["retraining"]
    shown = frame.to_string(
        formatters={**shares, **lengths, "not converged": f"{{:.0f}} of {solved}".format}, na_rep="–"
    )
    return (
        f"{shown}\n"
        "inside = share of the curve's nodes, at equal latent steps, where the data are: at most as far from the 10th\n"
        "nearest code as 95 % of the codes are. length: under the model's metric, in units of x. uncertainty: the\n"
        f"decoder's standard deviation, averaged along the curve. Means over {curves.sizes['pair']} pairs of different "
        f"classes and {curves.sizes['retraining']} retrainings."
    )


def _panel(view: xr.Dataset, labels: xr.DataArray, ax: Any, variable: str, **options: Any) -> None:
    """Codes and curves of one model over one of its stored fields, if that varies at all."""
    varies = view[variable].max() > view[variable].min()
    background = field(view, variable) if varies else None
    paths = view.path.values
    pg.plots.latent(view.codes.values, labels.values, None, background, paths=paths, legend=False, ax=ax, **options)


def _titled(figure: Figure, panels: np.ndarray, maps: xr.Dataset) -> Figure:
    """One legend for all panels, and the models' names beside their rows."""
    class_legend(figure, panels[0, 0], label_names(maps), fontsize=9, markerscale=2)
    for row, name in zip(panels, maps.model.values, strict=True):
        row[0].set_ylabel(f"{name}\n\n$z_2$", fontsize=10)
        for axes in row[1:]:
            axes.set_ylabel("")
    for axes in panels[:-1].flat:
        axes.set_xlabel("")
    return figure


def backgrounds_figure(maps: xr.Dataset, backgrounds: xr.Dataset) -> Figure:
    """One row per model, of its first retraining: over uncertainty, over volume density, over indicatrices."""
    num_models = maps.sizes["model"]
    figure = Figure(figsize=(11, 4.2 * num_models + 0.3), dpi=200, layout="constrained")
    panels = figure.subplots(num_models, 3, squeeze=False)
    views = (
        maps.isel(retraining=0)
        .merge(backgrounds)
        .assign(log_volume=np.log10(backgrounds.volume.where(backgrounds.volume > 0)))
    )
    for row, name in zip(panels, maps.model.values, strict=True):
        view = views.sel(model=name)
        _panel(view, maps.label, row[0], "uncertainty", background_label="decoder standard deviation")
        _panel(view, maps.label, row[1], "log_volume", background_label=r"volume density $\log_{10} \sqrt{\det G}$")
        pg.plots.latent(view.codes.values, colours=["0.6"], paths=view.path.values, legend=False, ax=row[2])
        limits = row[2].axis()
        low, high = np.reshape(limits, (2, 2)).T
        shown = ((view.place.values > low) & (view.place.values < high)).all(1)
        shown &= np.linalg.eigvalsh(view.tensor.values)[:, 0] > 0  # a metric may be singular, to rounding
        pg.plots.indicatrices(view.place.values[shown], view.tensor.values[shown], ax=row[2])
        row[2].axis(limits)
    return _titled(figure, panels, maps)


def retrainings_figure(maps: xr.Dataset) -> Figure:
    """One row per model, one column per retraining, over the decoder's uncertainty on one scale per row."""
    num_models, num_retrainings = maps.sizes["model"], maps.sizes["retraining"]
    figure = Figure(figsize=(3.5 * num_retrainings + 0.7, 3.4 * num_models + 0.4), dpi=200, layout="constrained")
    panels = figure.subplots(num_models, num_retrainings, squeeze=False)
    for row, name in zip(panels, maps.model.values, strict=True):
        views = maps.sel(model=name)
        scale = tuple(np.quantile(views.uncertainty.values, [0.02, 0.98]).tolist())
        for index, axes in enumerate(row):
            view = views.isel(retraining=index)
            _panel(view, maps.label, axes, "uncertainty", background_label="", background_range=scale)
        if row[0].images:
            bar = figure.colorbar(row[0].images[0], ax=list(row), fraction=0.05, pad=0.01)
            bar.set_label("decoder standard deviation", fontsize=9)
            bar.ax.tick_params(labelsize=8)
            bar.outline.set_visible(False)
    for seed, axes in zip(maps.retraining.values, panels[0], strict=True):
        axes.set_title(f"retraining {seed}", fontsize=10)
    return _titled(figure, panels, maps)


def report(groups: Groups) -> Shown:
    """A row per model; maps of the first retrainings over three backgrounds, and of all retrainings over one."""
    frame = table(groups["curves"])
    print(printed(frame, groups["curves"]))
    if "maps" not in groups:
        return {"table": frame}, {}
    maps = groups["maps"]
    figures = {"": backgrounds_figure(maps, groups["backgrounds"]), "retrainings": retrainings_figure(maps)}
    return {"table": frame}, figures


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
