"""Maps of a latent plane: what a fitted model's map shows, computed once and stored, and where its data lie."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.interpolate import RegularGridInterpolator
from scipy.spatial import cKDTree
from torch import Tensor

from probgeo import LatentModel


def some_rows(num_rows: int, num_shown: int) -> Tensor:
    """Indices of at most num_shown rows, the same at every call, ascending."""
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))[:num_shown].sort().values


def grid_over(codes: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Points (num², 2) over a square around the codes, with a fifth of its side to spare; its two corners (2, 2)."""
    low, high = codes.min(0).values, codes.max(0).values
    low, high = (low + high) / 2 - 0.7 * (high - low).max(), (low + high) / 2 + 0.7 * (high - low).max()
    fraction = torch.linspace(0, 1, num, device=codes.device)
    return low + torch.cartesian_prod(fraction, fraction) * (high - low), torch.stack([low, high])


@torch.no_grad()
def latent_map(model: LatentModel, codes: Tensor, rows: Tensor, path: np.ndarray, num: int = 60) -> xr.Dataset:
    """Codes of some rows, paths (pair, node, latent), and the decoder's uncertainty on a grid over all codes."""
    grid, corner = grid_over(codes, num)
    return xr.Dataset(
        {
            "codes": (("row", "latent"), codes[rows.to(codes.device)].cpu().numpy()),
            "path": (("pair", "node", "latent"), path),
            "uncertainty": (("first", "second"), model.uncertainty(grid).reshape(num, num).cpu().numpy()),
            "corner": (("side", "latent"), corner.cpu().numpy()),
        }
    )


def labelled(view: xr.Dataset, labels: Tensor, names: Sequence[str]) -> xr.Dataset:
    """The view with the classes of its rows, and their names."""
    return view.assign(label=("row", labels.numpy())).assign_attrs(label_names=list(names))


def label_names(view: xr.Dataset) -> tuple[str, ...]:
    """The names of the classes, where they were stored."""
    return tuple(np.atleast_1d(view.attrs["label_names"]))


def class_legend(figure: Figure, axes: Axes, names: Sequence[str], **options: Any) -> None:
    """One legend above all panels, that of the axes, with the classes' names for their codes."""
    handles, texts = axes.get_legend_handles_labels()
    shown = [names[int(text)] if text.isdigit() else text for text in texts]
    figure.legend(handles, shown, loc="outside upper center", frameon=False, **{"ncols": len(shown)} | options)


def field(view: xr.Dataset, name: str) -> Callable:
    """The stored values of `name` (first, second) as a function of points (point, 2), constant beyond the grid."""
    low, high = view.corner.values
    sides = list(np.linspace(low, high, view.sizes["first"]).T)
    inner = RegularGridInterpolator(sides, view[name].values)
    return lambda points: inner(np.clip(points, low, high))


def inside_data(points: Tensor, codes: Tensor, num_neighbours: int = 10, share: float = 0.95) -> Tensor:
    """Whether points (*batch, latent) lie where the data do; a share of the codes does, by definition.

    A point is inside if its distance to its `num_neighbours`-th nearest code is at most the `share` quantile of the
    same distance at the codes: a level set of the nearest-neighbour density. A point that is not finite is outside.
    """
    tree = cKDTree(codes.cpu().numpy())
    at_codes = tree.query(tree.data, [num_neighbours + 1])[0]  # the nearest is the code itself
    flat = points.flatten(0, -2).cpu().numpy()
    finite = np.isfinite(flat).all(1)
    distance = np.full(len(flat), np.inf)
    distance[finite] = tree.query(flat[finite], [num_neighbours])[0][:, 0]
    return torch.from_numpy(distance <= np.quantile(at_codes, share)).reshape(points.shape[:-1])
