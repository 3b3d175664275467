"""Figures of what varies over retrainings."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from probgeo.identifiability import coefficient_of_variation, comparable, icc
from probgeo.plots.style import distinct_colors, finish, new_figure


def cv_histogram(distance: xr.DataArray, num_bins: int = 30) -> Figure:
    """Histograms of the pairs' coefficients of variation over retrainings, with each mean CV beside its ICC.

    Args:
        distance: distances, dims (retraining, pair, ...). One panel per label of `measure`, if there is such a dim;
            the labels of the other dims are overlaid. Pairs are left out as in `identifiability.summary`.
        num_bins: number of bins, shared by all panels.

    Returns:
        The figure. A dashed line marks each mean.

    Raises:
        ValueError: as `identifiability.comparable`.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> noise = np.random.default_rng(0).normal(size=(2, 6, 40))
        >>> distance = xr.DataArray(
        ...     10 + noise, dims=["measure", "retraining", "pair"], coords={"measure": ["geodesic", "euclidean"]}
        ... )
        >>> figure = pg.plots.cv_histogram(distance)
        >>> [axes.get_legend().get_title().get_text() for axes in figure.axes]
        ['geodesic', 'euclidean']
    """
    d = distance if "measure" in distance.dims else distance.expand_dims(measure=[""])
    dims = [dim for dim in d.dims if dim not in ("retraining", "pair")]
    rows: dict[str, dict[str, xr.DataArray]] = {}  # by measure, then by the labels of the other dims
    for labels, row in comparable(d).items():
        label = dict(zip(dims, map(str, labels), strict=True))
        rows.setdefault(label.pop("measure"), {})["/".join(label.values())] = row
    models = list(dict.fromkeys(model for panel in rows.values() for model in panel))
    color = dict(zip(models, distinct_colors(len(models)), strict=True))
    cvs = [coefficient_of_variation(row).values for panel in rows.values() for row in panel.values()]
    edges = np.histogram_bin_edges(np.concatenate(cvs), bins=num_bins)

    figure = new_figure(2.6 * len(rows) + 0.4, 2.6 + 0.15 * len(models))
    axes = figure.subplots(1, len(rows), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (measure, panel) in zip(axes, rows.items(), strict=True):
        for model, row in panel.items():
            cv = coefficient_of_variation(row).values
            name = f"{model}: CV {cv.mean():.3f}, ICC {float(icc(row)):.3f}".removeprefix(": ")
            fill = {"facecolor": (*color[model], 0.3), "edgecolor": color[model], "linewidth": 1.1}
            ax.hist(cv, edges, histtype="stepfilled", label=name, **fill)
            ax.axvline(cv.mean(), color=color[model], linewidth=1.3, linestyle="--")
        ax.set_xlabel("CV over retrainings")
        title = {"title": measure, "title_fontsize": 9, "alignment": "left"}
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, frameon=False, handlelength=1, **title)
        finish(ax)
    axes[0].set_ylabel("pairs")
    axes[0].set_xlim(left=0)
    return figure
