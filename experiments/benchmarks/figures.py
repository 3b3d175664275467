"""The two figures: energy against time per method, and time against size."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from experiments.benchmarks.comparison import DECORRELATED, EXPECTED, table
from experiments.benchmarks.growth import slope

COLORS = {"probgeo": "#0072B2", "graph": "#56B4E9", "SciPy": "#4D4D4D", "stochman": "#E69F00", "geomstats": "#009E73"}
OTHER = "#D55E00"
MARKERS = "osD^vP*X<>"
LEAST = 1e-3  # percent: what is closer to the best known than this is drawn here


def comparison_figure(compared: Mapping[str, xr.Dataset]) -> Figure:
    """Energy above the best known against time in floors, one marker per method, one panel per energy.

    Args:
        compared: as `comparison.comparison` returns it.
    """
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    titles = {EXPECTED: "expected energy", DECORRELATED: "decorrelated energy, as published"}
    for axes, (objective, title) in zip(figure.subplots(1, 2, sharex=True), titles.items(), strict=True):
        _panel(axes, compared[objective])
        axes.set_title(title, fontsize=9.5, loc="left")
        axes.set_xlabel("time in floors", fontsize=9)
        axes.set_ylabel("total energy above the best known", fontsize=9)
    return figure


def _panel(axes: Axes, dataset: xr.Dataset) -> None:
    markers = {color: iter(MARKERS) for color in (*COLORS.values(), OTHER)}
    highest = LEAST
    for name, row in table(dataset).loc[dataset.solver.values].iterrows():
        excess = max(100 * (row["energy/best"] - 1), LEAST)
        highest = max(highest, excess)
        family = str(name).replace(",", " ").replace(":", " ").split()[0]
        if np.isnan(row["floors"]):
            style = ":" if family == "straight" else "--"
            axes.axhline(excess, color="0.45", linestyle=style, linewidth=1, label=name, zorder=1)
            continue
        color = COLORS.get(family, OTHER)
        some = f" ({row['pairs']:.0f} of {dataset.sizes['pair']} pairs)" if row["pairs"] < dataset.sizes["pair"] else ""
        options: dict[str, Any] = {"marker": next(markers[color]), "color": color, "label": f"{name}{some}"}
        axes.scatter(row["floors"], excess, s=52, edgecolor="white", linewidth=0.6, zorder=3, **options)
    # Limits of our own: where all methods find the same energy, matplotlib has no scale to choose.
    axes.set(ylim=(LEAST / 2, 2 * max(highest, 10 * LEAST)), xscale="log", yscale="log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.12)
    axes.grid(which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.16), fontsize=7.5, frameon=False, handletextpad=0.4)


def growth_figure(dataset: xr.Dataset) -> Figure:
    """Seconds against size, one panel per quantity, with the exponent of the power law through them.

    Args:
        dataset: as `growth.growth` returns it.
    """
    figure = Figure(figsize=(2.5 * len(dataset.data_vars), 2.7), layout="constrained")
    panels = figure.subplots(1, len(dataset.data_vars), sharey=True, squeeze=False)[0]
    for axes, seconds in zip(panels, dataset.data_vars.values(), strict=True):
        name = str(seconds.dims[0])
        sizes = seconds[name].values
        axes.plot(sizes, seconds.values, "o-", color=COLORS["probgeo"], markersize=5, linewidth=1.2)
        guide = seconds.values[-1] * sizes / sizes[-1]
        axes.plot(sizes, guide, color="0.6", linestyle="--", linewidth=0.9, label="linear", zorder=1)
        axes.set(xscale="log", yscale="log")
        axes.set_xlabel(name.replace("_", " "), fontsize=9)
        axes.set_title(f"slope {slope(sizes, seconds.values):.2f}", fontsize=9, loc="left")
        axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    panels[0].set_ylabel("seconds", fontsize=9)
    panels[0].legend(frameon=False, fontsize=8)
    return figure
