"""The map of variation and rightness that `validity` draws."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.common.checks import main_word

WITHOUT_MODEL = "data"
OF_DATA = ("ambient", "isomap")
MEASURES = ("geodesic", "straight", "euclidean", "reconstructed", *OF_DATA)
FILLS: dict[str, Any] = {"trusted": "full", "unknown": "left", "doubted": "none"}
MARKER: dict[str, Any] = {"markersize": 10, "markeredgewidth": 1.3, "markerfacecoloralt": "white"}


def figure_of(table: pd.DataFrame) -> Figure:
    """A panel per data set: how right a distance is against how much it varies; best is the upper left.

    A marker is full where the check trusts the distance, empty where it doubts it, half where it cannot tell.
    """
    names = list(dict.fromkeys(table.index.get_level_values("data")))
    num_columns = min(4, len(names))
    num_rows = -(-len(names) // num_columns)
    figure = Figure(figsize=(max(3.1 * num_columns, 7), 2.9 * num_rows + 0.9), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    colours = dict(zip(MEASURES, sns.color_palette("colorblind", len(MEASURES)), strict=True))
    models = list(dict.fromkeys(table.index.get_level_values("model")))
    markers = dict(
        zip([WITHOUT_MODEL, *(name for name in models if name != WITHOUT_MODEL)], "Do^sv<>Pp*", strict=False)
    )
    for axes, name in zip(panels, names, strict=False):
        for (model, measure), row in table.loc[name].iterrows():
            bar = [[max(0, row.right - row.right_lower)], [max(0, row.right_upper - row.right)]]
            axes.errorbar(row.cv, row.right, bar, color=colours[measure], linewidth=0.8, alpha=0.5)
            fill = "full" if model == WITHOUT_MODEL or "why" not in row else FILLS[main_word(row)]
            axes.plot(row.cv, row.right, color=colours[measure], marker=markers[model], fillstyle=fill, **MARKER)
        axes.set(title=name.replace("_", " "), xlim=(-0.07 * max(table.cv[name].max(), 0.01), None))
        axes.margins(y=0.1)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("CV over retrainings")
    figure.supylabel("right: ρ, or share of triples")
    handles = [Line2D([], [], color=colours[measure], linewidth=4, label=measure) for measure in MEASURES]
    handles += [
        Line2D([], [], color="black", marker=marker, linewidth=0, label=model)
        for model, marker in markers.items()
        if model in models
    ]
    handles += [
        Line2D([], [], color="0.4", marker="o", linewidth=0, fillstyle=fill, label=word, **MARKER)
        for word, fill in FILLS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
    sns.despine(figure)
    return figure
