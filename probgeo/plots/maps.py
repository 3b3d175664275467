"""Maps of a latent space: encodings, fields, paths, metric tensors."""

from collections.abc import Callable, Sequence

import matplotlib.patheffects as effects
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from torch import Tensor

from probgeo.plots.style import Array, as_array, color_bar, distinct_colors, finish, new_figure, owner_of

_SHADES = LinearSegmentedColormap.from_list("shades", ["white", "0.55"])  # light enough for every class colour


def latent(
    encodings: Array,
    labels: Array | None = None,
    label_names: Sequence[str] | None = None,
    background: Callable | None = None,
    background_label: str = "decoder uncertainty",
    paths: Array | None = None,
    straight: bool = True,
    colors: Sequence | None = None,
    background_range: tuple[float, float] | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Encodings by class, over a scalar field, under geodesics and the straight lines between the same ends.

    In more than two dimensions, encodings and paths are projected on the encodings' two leading principal components.

    Args:
        encodings: (row, latent), latent units.
        labels: (row,) class codes 0, 1, ... into `label_names`, or any values that name themselves; rows of
            negative, NaN or None are unlabelled, grey and without an entry in the legend.
        label_names: names by class code.
        background: scalar field z (point, 2) -> (point,), called with points of the encodings' kind (array or tensor)
            and dtype; two latent dimensions only. Shown as shades under contour lines.
        background_label: of the colour bar; empty for none.
        paths: (batch, node, latent), left out where they are not finite.
        straight: whether the straight lines are drawn too, dashed.
        colors: by class, in the order of the classes; default: distinguishable in all forms of colour blindness up to
            10 classes, evenly spaced hues beyond.
        background_range: values of the lightest and the darkest shade, to compare panels; default: the 2 and 98 %
            quantiles of the field's finite values.
        legend: whether to draw the legends; small multiples need one set of them.
        ax: axes to draw in; default: those of a new figure.

    Returns:
        The figure that holds the axes. Above 20 classes there is no legend.

    Raises:
        ValueError: a shape that does not fit, or a background in other than two latent dimensions.

    Example:
        >>> import torch, probgeo as pg
        >>> encodings = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
        >>> paths = pg.geodesic(pg.PullbackMetric(lambda z: z), encodings[:3], encodings[3:6]).path
        >>> figure = pg.plots.latent(encodings, labels=torch.arange(20) % 2, label_names=["even", "odd"], paths=paths)
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['even', 'odd']
    """
    z, curves = as_array(encodings).astype(float), None if paths is None else as_array(paths)
    _check_latent(z, labels, curves, background)
    curves = None if curves is None else curves[np.isfinite(curves).all(axis=(1, 2))]
    if z.shape[1] > 2:
        center = z.mean(axis=0)
        axes = np.linalg.svd(z - center, full_matrices=False)[2][:2].T
        z, curves = (z - center) @ axes, None if curves is None else (curves - center) @ axes
        names = ["principal component 1", "principal component 2"]
    else:
        names = ["$z_1$", "$z_2$"]
    ax = new_figure(4.4, 4.2 if background is None else 4.8).subplots() if ax is None else ax
    shown = z if curves is None else np.concatenate([z, curves.reshape(-1, 2)])
    center, half = (shown.min(axis=0) + shown.max(axis=0)) / 2, 0.56 * np.ptp(shown, axis=0).max()
    (left, bottom), (right, top) = (center - half).tolist(), (center + half).tolist()  # square, so that panels align
    if background is not None:
        _draw_field(ax, background, encodings, (left, right, bottom, top), background_label, background_range)
    _draw_classes(ax, z, None if labels is None else as_array(labels), label_names, colors, legend)
    if curves is not None:
        _draw_paths(ax, curves, straight, legend)
    ax.set(xlabel=names[0], ylabel=names[1], xlim=(left, right), ylim=(bottom, top), aspect="equal")
    finish(ax)
    return owner_of(ax)


def indicatrices(points: Array, tensors: Array, radius: float | None = None, ax: Axes | None = None) -> Figure:
    """Ellipses {v : vᵀ G v = radius²} at latent points, coloured by volume density √det G: how far one unit reaches.

    Args:
        points: (point, 2), latent units.
        tensors: (point, 2, 2), symmetric positive definite.
        radius: metric length of every ellipse's radius; default: the median ellipse just fits between its neighbours.
        ax: axes to draw in, such as those of `latent`; default: those of a new figure.

    Returns:
        The figure that holds the axes.

    Raises:
        ValueError: shapes do not fit, or a tensor is not positive definite.

    Example:
        >>> import torch, probgeo as pg
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> tensors = pg.PullbackMetric(lambda z: z**3 + z).tensor(points)
        >>> figure = pg.plots.indicatrices(points, tensors)
        >>> [len(collection.get_paths()) for collection in figure.axes[0].collections]  # an ellipse each
        [3]
    """
    z, G = as_array(points).astype(float), as_array(tensors).astype(float)
    if z.ndim != 2 or z.shape[1] != 2 or G.shape != (len(z), 2, 2):
        raise ValueError(f"points, tensors: expected shapes (point, 2) and (point, 2, 2); got {z.shape} and {G.shape}.")
    eigenvalues = np.linalg.eigvalsh(G)
    if not (eigenvalues > 0).all():
        raise ValueError(
            f"tensors: expected positive definite tensors; got a smallest eigenvalue of {eigenvalues.min():.3g}. "
            f"Leave out the {int((~(eigenvalues > 0)).any(axis=1).sum())} points where it is not positive."
        )
    if radius is None:
        separation = np.linalg.norm(z[:, None] - z, axis=-1) + np.diag(np.full(len(z), np.inf))
        spacing = np.median(separation.min(axis=1)) if len(z) > 1 else 1.0
        radius = 0.45 * float(spacing / np.median(eigenvalues[:, 0] ** -0.5))
    angle = np.linspace(0, 2 * np.pi, 65)
    circle = radius * np.stack([np.cos(angle), np.sin(angle)])
    # With G = L Lᵀ, v = L⁻ᵀ u has vᵀ G v = uᵀ u.
    outline = np.linalg.solve(np.linalg.cholesky(G).transpose(0, 2, 1), circle).transpose(0, 2, 1)
    ax = new_figure(4.8, 4.2).subplots() if ax is None else ax
    density = np.log10(eigenvalues).sum(axis=1) / 2
    ellipses = PolyCollection(list(z[:, None] + outline), array=density, cmap="viridis", alpha=0.75)
    ellipses.set(edgecolor="0.2", linewidth=0.5)
    ax.add_collection(ellipses)
    ax.autoscale_view()
    ax.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    color_bar(ax, ellipses, r"volume density $\log_{10} \sqrt{\det G}$", "bottom")
    finish(ax)
    return owner_of(ax)


def _check_latent(z: np.ndarray, labels: Array | None, curves: np.ndarray | None, background: Callable | None) -> None:
    if z.ndim != 2 or z.shape[1] < 2 or not len(z):
        raise ValueError(
            f"encodings: expected shape (row, latent), at least one row and two dimensions; got {z.shape}."
        )
    if labels is not None and as_array(labels).shape != z.shape[:1]:
        raise ValueError(f"labels: expected shape ({len(z)},), one per encoding; got {as_array(labels).shape}.")
    if curves is not None and (curves.ndim != 3 or curves.shape[2] != z.shape[1]):
        raise ValueError(f"paths: expected shape (batch, node, {z.shape[1]}); got {curves.shape}.")
    if background is not None and z.shape[1] != 2:
        raise ValueError(
            f"background: expected two latent dimensions, a field cannot be projected; got {z.shape[1]}. Leave it out."
        )


def _draw_field(
    ax: Axes,
    field: Callable,
    like: Array,
    extent: tuple[float, float, float, float],
    label: str,
    limits: tuple[float, float] | None,
) -> None:
    """Image of a scalar field over the extent (left, right, bottom, top), and its contours."""
    num, (left, right, bottom, top) = 150, extent
    grid = np.stack(np.meshgrid(np.linspace(left, right, num), np.linspace(bottom, top, num)), -1).reshape(-1, 2)
    points = like.new_tensor(grid) if isinstance(like, Tensor) else grid.astype(np.result_type(like, np.float16))
    with torch.no_grad():
        values = as_array(field(points))
    if values.shape != (num * num,):
        raise ValueError(f"background: expected values of shape ({num * num},), one per point; got {values.shape}.")
    if limits is None:
        limits = np.quantile(values[np.isfinite(values)], [0.02, 0.98]) if np.isfinite(values).any() else (0, 1)
    low, high = limits
    image = ax.imshow(
        values.reshape(num, num),
        extent=extent,
        origin="lower",
        cmap=_SHADES,
        vmin=low,
        vmax=high,
        interpolation="bilinear",
    )
    levels = np.linspace(low, high, 9)[1:-1]
    levels = levels[(levels > np.nanmin(values)) & (levels < np.nanmax(values))] if np.isfinite(values).any() else []
    if len(levels):
        ax.contour(values.reshape(num, num), levels, extent=extent, colors="0.3", linewidths=0.35)
    if label:
        color_bar(ax, image, label, "bottom")  # a wide legend above would push it off the right


def _draw_classes(
    ax: Axes,
    z: np.ndarray,
    labels: np.ndarray | None,
    names: Sequence[str] | None,
    colors: Sequence | None,
    legend: bool,
) -> None:
    """Points by class, with a legend above the axes for 2 to 20 classes."""
    codes = np.zeros(len(z), dtype=int) if labels is None else labels
    missing = pd.isna(codes) | (codes < 0 if codes.dtype.kind in "if" else False)
    classes = np.unique(codes[~missing])
    palette = distinct_colors(len(classes)) if colors is None else colors
    size = float(np.clip(6000 / len(z), 2, 18))
    for code, color in zip(classes, palette, strict=True):
        name = str(code) if names is None else names[int(code)]
        x, y = z[codes == code].T
        ax.scatter(x, y, s=size, color=[color], edgecolor="white", linewidth=size / 50, label=name, zorder=2)
    if missing.any():
        x, y = z[missing].T
        ax.scatter(x, y, s=size / 2, color="0.75", edgecolor="white", linewidth=size / 50, zorder=1.9)
    if legend and 1 < len(classes) <= 20:
        handles, texts = ax.get_legend_handles_labels()  # before any path is drawn: the classes
        num_columns = len(texts) if sum(map(len, texts)) + 4 * len(texts) < 60 else 4
        options = {"frameon": False, "handletextpad": 0.1, "columnspacing": 0.8, "markerscale": (30 / size) ** 0.5}
        ax.legend(handles, texts, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=num_columns, fontsize=8, **options)


def _draw_paths(ax: Axes, curves: np.ndarray, straight: bool, legend: bool) -> None:
    """Curves in black on white, their ends, and dashed straight lines."""
    casing = [effects.withStroke(linewidth=2.6, foreground="white")]
    ends = curves[:, [0, -1]]
    shapes = [
        LineCollection(list(curves), colors="black", linewidths=1.3, path_effects=casing, label="geodesic", zorder=4)
    ]
    if straight:
        dashes = {"linestyles": [(0, (4, 3))], "linewidths": 0.9}
        shapes.append(LineCollection(list(ends), colors="0.15", label="straight line", zorder=3, **dashes))
    for lines in shapes:
        ax.add_collection(lines)
    x, y = ends.reshape(-1, 2).T
    ax.scatter(x, y, s=14, color="black", edgecolor="white", linewidth=0.6, zorder=5)
    if legend:
        names = [str(lines.get_label()) for lines in shapes]
        box = Legend(ax, shapes, names, loc="lower right", fontsize=7, framealpha=0.85, edgecolor="none")
        ax.add_artist(box)  # beside the legend of the classes, which `ax.legend` would replace
