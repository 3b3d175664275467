"""Figures of what the search for geodesics found: whether paths have rivals, and how near they come."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from probgeo.plots.style import distinct_colours, finish, new_figure


def rival_gaps(dataset: xr.Dataset) -> Figure:
    """Share of geodesics whose second shortest path is longer by at most so much: how many could be taken for another.

    Args:
        dataset: from `measure` or a study: `rivals` and `gap`, dims (retraining, pair, ...). One line per combination
            of the other dims' labels where rivals were looked for; geodesics where they were not are left out.

    Returns:
        The figure. Each line ends at the share of geodesics that have a rival at all.

    Raises:
        ValueError: a variable is missing, or rivals were looked for nowhere.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> dims = ["retraining", "pair"]  # two of four geodesics have a rival, one within 1 %
        >>> rivals, gap = [[1, 2], [2, 1]], [[float("nan"), 0.005], [0.1, float("nan")]]
        >>> figure = pg.plots.rival_gaps(xr.Dataset({"rivals": (dims, rivals), "gap": (dims, gap)}))
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [0.0, 0.25, 0.5, 0.5]
    """
    if missing := [name for name in ("rivals", "gap") if name not in dataset]:
        raise ValueError(f"dataset: expected rivals and gap, from measure or a study; got none of {missing}.")
    searched = dataset.gap.where(dataset.rivals >= 0, np.inf)
    rows = [dim for dim in searched.dims if dim not in ("retraining", "pair")]
    stacked = searched.expand_dims("row") if not rows else searched.stack(row=rows)
    gaps = {}
    for index in range(stacked.sizes["row"]):
        values = stacked.isel(row=index).values.ravel()
        if (values != np.inf).any():
            label = "/".join(map(str, stacked.indexes["row"][index])) if rows else ""
            gaps[label] = values[values != np.inf]
    if not gaps:
        raise ValueError("dataset: expected geodesics whose rivals were looked for; got none, all are -1 or missing.")

    longest = max((np.nanmax(values) for values in gaps.values() if np.isfinite(values).any()), default=0.01)
    figure = new_figure(4.6, 3.0)
    ax = figure.subplots()
    for (label, values), colour in zip(gaps.items(), distinct_colours(len(gaps)), strict=True):
        finite = np.sort(values[np.isfinite(values)])
        shares = np.arange(len(finite) + 1) / len(values)
        named = f"{label}: {shares[-1]:.0%} have a rival".removeprefix(": ")
        ax.step(
            [0, *finite, 1.05 * longest], [*shares, shares[-1]], where="post", color=colour, label=named, clip_on=False
        )
    ax.set(xlabel="second shortest path, longer by", ylabel="geodesics", xlim=(0, 1.05 * longest), ylim=(0, None))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, frameon=False)
    finish(ax)
    return figure
