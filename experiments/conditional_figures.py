"""Figures of the conditional experiment, from stored results alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

import probgeo as pg


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
    for axes, (title, names) in zip(rest, panels.items(), strict=True):
        for model, color in colors.items():
            styles = zip(names, ("-", "--", ":", "-."), strict=False)
            for name, style in styles:
                if name in ("error_mean", "error_oracle") and model != found.model.values[0]:
                    continue  # the same for all models
                plain = name in ("error_mean", "error_oracle")
                values, error = means[name].sel(model=model), spread[name].sel(model=model)
                sign = -1 if name == "log_likelihood" else 1
                label = {"distortion": "distortion", "log_likelihood": "−log likelihood"}.get(name, name[6:])
                shown = label if plain else f"{model} {label}" if len(names) > 1 else str(model)
                axes.errorbar(
                    found.conditions,
                    sign * values,
                    error,
                    color="0.4" if plain else color,
                    linestyle=style,
                    marker=marker,
                    markersize=3,
                    label=shown,
                )
        axes.legend(fontsize=7, frameon=False)
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
    """Codes in the two dimensions of most rate: a row per model, a column per number of conditions."""
    rows, columns = found.sizes["model"], found.sizes["conditions"]
    figure = Figure(figsize=(3.6 * columns, 3.7 * rows), layout="constrained")
    names = tuple(np.atleast_1d(found.attrs["label_names"]))
    for model, line in zip(found.model.values, figure.subplots(rows, columns, squeeze=False), strict=True):
        for number, axes in zip(found.conditions.values, line, strict=True):
            shown = found.codes.sel(conditions=number, model=model).values
            pg.plots.latent(shown, found.label.values, names, ax=axes, legend=model == found.model.values[0])
            axes.set(xlabel="most rate", ylabel="second")
            axes.text(0.03, 0.97, f"{model}, {number} given", transform=axes.transAxes, va="top", fontsize=8)
    return figure


def images_figure(found: xr.Dataset) -> Figure:
    """Test images, what is given of them, and samples of the rest."""
    images, shape = found.images.values / 255, tuple(int(size) for size in found.attrs["shape"])
    return pg.plots.panels(
        images.reshape(-1, images.shape[-1]), shape, images.shape[1], list(map(str, found.line.values))
    )
