"""Figures of one training's error bars: whether they cover other retrainings, and how far retrainings lie apart."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from probgeo.identifiability import inference_data, rhat
from probgeo.plots.style import distinct_colors, finish, new_figure

_LABELS = {
    "student": "Student-t interval of its draws",
    "recalibrated": "recalibrated: one factor, learned elsewhere",
    "conformal": "conformal: a factor per level, learned elsewhere",
}


def coverage(calibration: xr.Dataset) -> Figure:
    """Share of other retrainings' distances that one training's interval covers, against its nominal level.

    Args:
        calibration: from `identifiability.calibration`; one panel per label of `model`, if there is such a dim.

    Returns:
        The figure. Bars are the intervals of the coverage. The dashed line is the coverage if other distances were
        draws of the same decoder; circles on it, that of the training's own draws, each left out.

    Raises:
        ValueError: a variable is missing.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> rng = np.random.default_rng(0)
        >>> draws = xr.DataArray(10 + rng.normal(size=(6, 5, 12)), dims=["retraining", "draw", "pair"])
        >>> calibration = pg.identifiability.calibration(draws, draws.mean("draw"), num_splits=5, num_resamples=50)
        >>> figure = pg.plots.coverage(calibration)
        >>> len(figure.axes)
        1
    """
    d = _checked(calibration, "coverage", "coverage_lower", "coverage_upper", "left_out")
    color = dict(zip(_LABELS, distinct_colors(len(_LABELS)), strict=True))
    figure = new_figure(2.5 * d.sizes["model"] + 0.5, 3.5)
    axes = figure.subplots(1, d.sizes["model"], sharex=True, sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, d["model"].values, strict=True):
        panel = d.sel(model=name)
        levels = panel["level"].values
        ax.plot(
            [0, 1], [0, 1], color="0.5", linewidth=0.9, linestyle="--", label="if other distances were draws", zorder=1
        )
        style = {"marker": "o", "linestyle": "none", "markersize": 6, "markerfacecolor": "none", "color": "0.35"}
        ax.plot(levels, panel["left_out"], label="its own draws, left out", **style)
        for shift, (interval, label) in zip((0, -0.008, 0.008), _LABELS.items(), strict=True):
            row = panel.sel(interval=interval)
            bars = np.abs([row["coverage_lower"] - row["coverage"], row["coverage_upper"] - row["coverage"]])
            style = {"marker": "o", "markersize": 3, "linewidth": 1.2, "elinewidth": 0.8, "capsize": 1.5}
            ax.errorbar(levels + shift, row["coverage"], bars, color=color[interval], label=label, **style)
        ax.set_title(str(name), loc="left", fontsize=9, weight="bold")
        ax.set(xlim=(0.45, 1), ylim=(0, 1), xticks=levels, yticks=np.linspace(0, 1, 6))
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        finish(ax)
    axes[0].set_ylabel("other retrainings covered")
    figure.supxlabel("nominal level, %", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(d.sizes["model"], 2), fontsize=8, frameon=False)
    return figure


def ratios(calibration: xr.Dataset) -> Figure:
    """How far retrainings lie apart, in units of what their draws say: between/within ratio and R̂ of all pairs.

    Args:
        calibration: from `identifiability.calibration`, one row per label of `model`, if there is such a dim.

    Returns:
        The figure: a dot per pair, the median and the middle half. Dashed: the ratio at which Student-t intervals cover
        at their level, and R̂ = 1, where all draws of all retrainings are exchangeable.

    Raises:
        ValueError: a variable is missing.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> rng = np.random.default_rng(0)
        >>> draws = xr.DataArray(10 + rng.normal(size=(6, 5, 12)), dims=["retraining", "draw", "pair"])
        >>> calibration = pg.identifiability.calibration(draws, draws.mean("draw"), num_splits=5, num_resamples=50)
        >>> figure = pg.plots.ratios(calibration)
        >>> len(figure.axes)  # the ratio, and R̂
        2
    """
    d = _checked(calibration, "ratio", "rhat", "num_draws")
    names = [str(name) for name in d["model"].values]
    color = dict(zip(names, distinct_colors(len(names)), strict=True))
    figure = new_figure(6.4, 0.55 * len(names) + 1.1)
    axes = figure.subplots(1, 2, sharey=True)
    titles = {"ratio": "std between retrainings / std of the draws", "rhat": r"$\hat R$ of the draws' lengths"}
    for ax, (variable, title) in zip(axes, titles.items(), strict=True):
        for row, name in enumerate(names):
            values = d[variable].isel(model=row).values
            values = values[np.isfinite(values)]
            num_draws = int(d["num_draws"].isel(model=row))
            reference = np.sqrt((1 + 1 / num_draws) / 2) if variable == "ratio" else 1.0
            ax.plot([reference] * 2, [row - 0.5, row + 0.5], color="0.5", linewidth=0.9, linestyle="--", zorder=1)
            # Spread by rank within the row, so that equal values do not hide each other; the same at every drawing.
            height = row + 0.28 * np.sin(2.4 * np.arange(len(values)))
            ax.scatter(values, height, s=7, color=[color[name]], alpha=0.45, linewidth=0, zorder=2)
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
            ax.plot([low, high], [row, row], color="black", linewidth=2.2, solid_capstyle="butt", zorder=3)
            ax.plot(middle, row, marker="o", markersize=5.5, color="white", markeredgecolor="black", zorder=4)
        ax.set_xscale("log")
        ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50) if tick <= 1.2 * np.nanmax(d[variable])]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_xticks([], minor=True)
        ax.set(xlabel=title, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        finish(ax)
    return figure


def forest(draw_length: xr.DataArray, pairs: Sequence[int]) -> Figure:
    """ArviZ forest plot of some pairs' lengths under the decoder draws, a line per retraining, with R̂ beside.

    Args:
        draw_length: lengths under each draw, dims (retraining, draw, pair), at least four draws.
        pairs: positions of the pairs shown, from the top.

    Returns:
        The figure: median, middle half and 90 % interval of each retraining's draws.

    Raises:
        ValueError: a dim is missing or has fewer than two entries.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> lengths = 10 + np.random.default_rng(0).normal(size=(3, 20, 4))
        >>> figure = pg.plots.forest(xr.DataArray(lengths, dims=["retraining", "draw", "pair"]), pairs=[0, 2])
        >>> len(figure.axes)  # the lengths, and R̂
        2
    """
    import arviz as az

    chosen = draw_length.rename("length").reset_coords(drop=True).isel(pair=list(pairs))
    figure = new_figure(6.4, 0.6 + len(pairs) * (0.25 + 0.055 * chosen.sizes["retraining"]))
    axes = figure.subplots(1, 2, sharey=True, width_ratios=[4, 1])
    options = {"linewidth": 1.2, "markersize": 2.5, "textsize": 8, "legend": False, "show": False}
    data, color = inference_data(chosen), distinct_colors(1)
    az.plot_forest(data, hdi_prob=0.9, r_hat=False, ax=axes[:1], colors=list(color), **options)
    axes[0].set_yticklabels([f"pair {label.get_text().strip('length[]')}" for label in axes[0].get_yticklabels()])
    # ArviZ would cut its own panel of R̂ off at 2.1; its rows are numbered from below.
    axes[1].plot(rhat(chosen), axes[0].get_yticks()[::-1], "o", color=color[0], markersize=4)
    axes[1].axvline(1, color="0.5", linewidth=0.9, linestyle="--", zorder=0)
    axes[1].tick_params(axis="y", length=0)
    axes[1].set(xlim=(0, None), xlabel=r"$\hat R$")
    axes[0].set(title="", xlabel="length under each decoder draw, a line per retraining")
    for ax in axes:
        finish(ax)
    return figure


def _checked(calibration: xr.Dataset, *variables: str) -> xr.Dataset:
    if missing := [name for name in variables if name not in calibration]:
        raise ValueError(f"calibration: expected the result of identifiability.calibration; got none of {missing}.")
    return calibration if "model" in calibration.dims else calibration.expand_dims(model=[""])
