"""Figures of the conditional experiment, from stored results alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import probgeo as pg
from experiments.common.maps import label_names


def _finish(axes: Any, **labels: str) -> None:
    axes.set(**labels)
    sns.despine(ax=axes)
    axes.tick_params(labelsize=8)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_fontsize(9)


def curves_figure(found: xr.Dataset) -> Figure:
    """Rate of each latent dimension, terms of the bound, errors, and quality of samples, per number of conditions."""
    means, spread = found.mean("retraining"), found.std("retraining", ddof=1)
    panels: dict[str, list[str]] = {"nats per row": ["distortion", "log_likelihood"]}
    panels["squared error"] = [str(name) for name in found if str(name).startswith("error_")]
    panels |= {name: [name] for name in ("frechet", "blur") if name in found}
    colors = dict(zip(found.model.values, sns.color_palette("colorblind", found.sizes["model"]), strict=True))
    marker = "o" if found.sizes["conditions"] < 30 else ""
    has_trade_off = found.sizes["model"] > len(set(found.source.values))
    figure = Figure(figsize=(3.4 * (len(panels) + 1 + has_trade_off), 3.2), layout="constrained")
    first, *rest = figure.subplots(1, len(panels) + 1 + has_trade_off)
    rates = means.rate_by_row.isel(model=0)
    places = np.arange(found.sizes["latent"]) + 1
    for number, shade in zip(
        found.conditions.values, sns.color_palette("crest", found.sizes["conditions"]), strict=True
    ):
        first.plot(places, rates.sel(conditions=number), color=shade, marker="o", markersize=3, label=str(number))
    first.legend(title="conditions", fontsize=7, title_fontsize=7, frameon=False)
    _finish(first, xlabel="latent dimension, sorted", ylabel="rate, nats", title=str(found.model.values[0]))
    if has_trade_off:
        _draw_trade_off(rest.pop(), {"": found})
    titles = {"distortion": "distortion", "log_likelihood": "−log likelihood"}
    for axes, (title, names) in zip(rest, panels.items(), strict=True):
        styles: dict[str, Any] = dict(zip(names, ("-", "--", ":"), strict=False))
        for name, style in styles.items():
            plain = name in ("error_mean", "error_oracle")  # the same for all models
            for model in found.model.values[:1] if plain else found.model.values:
                values, error = means[name].sel(model=model), spread[name].sel(model=model)
                options = {"color": "0.4" if plain else colors[model], "linestyle": style, "marker": marker}
                sign = -1 if name == "log_likelihood" else 1
                axes.errorbar(found.conditions, sign * values, error, markersize=3, **options)
        if len(names) > 1:
            lines = [Line2D([], [], color="0.4", linestyle=style) for style in styles.values()]
            axes.legend(lines, [titles.get(name, name[6:]) for name in names], fontsize=7, frameon=False)
        else:
            lines = [Line2D([], [], color=color, marker=marker, markersize=3) for color in colors.values()]
            axes.legend(lines, list(colors), fontsize=7, frameon=False)
        label = {"frechet": "Fréchet distance", "blur": "variance of the Laplacian"}.get(title, title)
        _finish(axes, xlabel="conditions", ylabel=label)
    return figure


def _draw_trade_off(axes: Any, runs: Mapping[str, xr.Dataset]) -> None:
    """Distortion against rate, means over the numbers of conditions; a line per source of uncertainty through its β."""
    lines = [(run, source) for run, found in runs.items() for source in dict.fromkeys(found.source.values)]
    for (run, source), color in zip(lines, sns.color_palette("colorblind", len(lines)), strict=True):
        found = (
            runs[run].isel(model=runs[run].source.values == source).mean(["retraining", "conditions"]).sortby("beta")
        )
        rate, label = found.rate.sum("latent"), f"{run} {source}".strip()
        axes.plot(rate, found.distortion, color=color, marker="o", markersize=4, label=label)
        for beta, x, y in zip(found.beta.values, rate.values, found.distortion.values, strict=True):
            axes.annotate(f"β={beta:g}", (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.margins(0.2)
    axes.legend(fontsize=7, frameon=False)
    _finish(axes, xlabel="rate, nats", ylabel="distortion, nats", title="means over conditions")


def trade_off_figure(runs: Mapping[str, xr.Dataset]) -> Figure:
    """Distortion against rate of several runs."""
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    _draw_trade_off(figure.subplots(), runs)
    return figure


def codes_figure(found: xr.Dataset) -> Figure:
    """Codes in the two dimensions of most rate: a row per number of conditions, a column per model."""
    rows, columns = found.sizes["conditions"], found.sizes["model"]
    figure = Figure(figsize=(max(3.2 * columns, 5), 3.3 * rows + 0.3), layout="constrained")
    names = label_names(found)
    for number, line in zip(found.conditions.values, figure.subplots(rows, columns, squeeze=False), strict=True):
        for model, axes in zip(found.model.values, line, strict=True):
            shown = found.codes.sel(conditions=number, model=model).values
            pg.plots.latent(shown, found.label.values, names, ax=axes, legend=False)
            axes.set(xlabel="most rate", ylabel="second")
            axes.set_title(f"{model}, {number} given", fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    options: dict[str, Any] = {"fontsize": 8, "frameon": False, "handletextpad": 0.1, "columnspacing": 0.8}
    figure.legend(handles, labels, loc="outside upper center", ncols=10, **options)
    return figure
