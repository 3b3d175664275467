"""Matrices and images."""

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probgeo.plots.style import Array, as_array, colour_bar, finish, new_figure, owner_of


def distance_matrix(
    matrix: Array, labels: Sequence[str] | None = None, label: str = "distance", ax: Axes | None = None
) -> Figure:
    """Heat map of a distance matrix; missing entries are left white.

    Args:
        matrix: (row, row), any unit.
        labels: names of the rows; rows side by side that share a name are a group, which is named once, between lines.
        label: of the colour bar.
        ax: axes to draw in; default: those of a new figure, large enough for the names.

    Returns:
        The figure that holds the axes.

    Raises:
        ValueError: the matrix is not square, or the number of labels differs.

    Example:
        >>> import numpy as np, probgeo as pg
        >>> figure = pg.plots.distance_matrix(np.array([[0.0, 5.0], [5.0, 0.0]]), labels=["here", "there"])
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['here', 'there']
    """
    values = as_array(matrix)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(f"matrix: expected shape (row, row); got {values.shape}.")
    num = len(values)
    if labels is not None and len(labels) != num:
        raise ValueError(f"labels: expected {num}, one per row of the matrix; got {len(labels)}.")
    side = float(np.clip(0.1 * num, 4, 13))
    ax = new_figure(side + 0.9, side).subplots() if ax is None else ax
    image = ax.imshow(values, cmap="mako_r", interpolation="nearest")
    colour_bar(ax, image, label)
    finish(ax)
    if labels is None:
        ax.set(xticks=[], yticks=[])
    else:
        names = np.asarray(labels, dtype=str)
        bounds = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1], [True]]))
        middles, first = (bounds[1:] + bounds[:-1] - 1) / 2, bounds[:-1]
        size = min(8, 60 * side / len(first))
        ax.set_xticks(middles, names[first], rotation=90, fontsize=size)
        ax.set_yticks(middles, names[first], fontsize=size)
        ax.tick_params(length=0)
        for bound in bounds[1:-1] if len(first) < num else []:
            ax.axhline(bound - 0.5, color="white", linewidth=0.6)
            ax.axvline(bound - 0.5, color="white", linewidth=0.6)
    return owner_of(ax)


def panels(images: Array, shape: tuple[int, ...], num_columns: int, row_names: Sequence[str] | None = None) -> Figure:
    """Images in a grid, filled row by row, on one scale: data, reconstructions, standard deviations, samples.

    Args:
        images: (image, feature), values in one unit; in [0, 1] if coloured.
        shape: of one image, (height, width) or (height, width, 3).
        num_columns: images per row.
        row_names: names of the rows.

    Returns:
        The figure.

    Raises:
        ValueError: features, columns or names do not fit.

    Example:
        >>> import probgeo as pg
        >>> digits = pg.datasets.digits()
        >>> figure = pg.plots.panels(digits.x[:6], digits.shape, num_columns=3)
        >>> figure.axes[0].get_images()[0].get_array().shape
        (17, 26)
    """
    x = as_array(images)
    if x.ndim != 2 or x.shape[1] != np.prod(shape) or len(shape) not in (2, 3):
        raise ValueError(f"images, shape: expected shape (image, {' · '.join(map(str, shape))}); got {x.shape}.")
    if num_columns < 1:
        raise ValueError(f"num_columns: expected at least 1; got {num_columns}.")
    num_rows = -(-len(x) // num_columns)
    if row_names is not None and len(row_names) != num_rows:
        raise ValueError(f"row_names: expected {num_rows}, one per row of images; got {len(row_names)}.")
    height, width = shape[:2]
    gap = max(1, height // 14)
    mosaic = np.full((num_rows * (height + gap) - gap, num_columns * (width + gap) - gap, *shape[2:]), np.nan)
    for index, image in enumerate(x):
        top, left = (index // num_columns) * (height + gap), (index % num_columns) * (width + gap)
        mosaic[top : top + height, left : left + width] = image.reshape(shape)
    if len(shape) == 3:
        mosaic = np.nan_to_num(mosaic, nan=1.0).clip(0, 1)
    figure = new_figure(0.55 * num_columns + (0.9 if row_names else 0.1), 0.55 * num_rows * height / width + 0.1)
    ax = figure.subplots()
    ax.imshow(mosaic, cmap="gray", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    if row_names is not None:
        ax.set_yticks(height / 2 - 0.5 + (height + gap) * np.arange(num_rows), row_names, fontsize=8)
        ax.tick_params(length=0)
    sns.despine(ax=ax, left=True, bottom=True)
    return figure
