"""What all figures share: sizes, colours, colour bars."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

Array = np.ndarray | Tensor

_DPI = 200


def as_array(values: Any) -> np.ndarray:
    """The values as a NumPy array, on the CPU."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def distinct_colours(num: int) -> Sequence:
    """As many colours that are told apart easily, also by the colour-blind up to ten."""
    return sns.color_palette("colorblind", num) if num <= 10 else sns.husl_palette(num)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, outside pyplot."""
    return Figure(figsize=(width, height), dpi=_DPI, layout="compressed")


def owner_of(ax: Axes) -> Figure:
    """The figure that the axes stand in."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def colour_bar(ax: Axes, image: ScalarMappable, label: str, location: Literal["right", "bottom"] = "right") -> None:
    """A thin, labelled colour bar of the image beside its axes."""
    bar = owner_of(ax).colorbar(image, ax=ax, location=location, fraction=0.045, pad=0.02)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def finish(ax: Axes) -> None:
    """The sizes of a printed figure, whatever the settings when it is drawn."""
    sns.despine(ax=ax)
    ax.tick_params(labelsize=8)
    ax.xaxis.label.set_fontsize(9)
    ax.yaxis.label.set_fontsize(9)
    ax.title.set_fontsize(9)
