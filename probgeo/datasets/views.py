"""Two views of the same observations: images and what is done to them, tables with a key."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from probgeo.datasets.dataset import Dataset, Normalisation, split_rows
from probgeo.datasets.published.images import cache_folder, mnist

Table: TypeAlias = Tensor | np.ndarray | pd.DataFrame

_INTERNEURONS = ("Lamp5", "Pvalb", "Sncg", "Sst", "Vip")
_NEURONS_ORIGIN = (
    "It is made from the tables of github.com/berenslab/mini-atlas (Scala et al. 2020); or join tables of your own by "
    "two_views."
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MultiView:
    """Observations of several views each, side by side in one row; a view that is missing is NaN in all its columns.

    Args:
        name: what to call the set in tables and figures.
        x: observations, float32 (row, feature), the views' columns in the order of `shapes`.
        shapes: how each view is displayed, by its name: (height, width) for an image, (feature,) for a vector.
        labels: class code of each row, an index into `label_names`; int64 (row,).
        label_names: name of each class.
        normalisation: what x was normalised by, per column; None: x is in its own units.

    Raises:
        ValueError: fields that do not belong together.
    """

    name: str
    x: Float32[Tensor, "row feature"]
    shapes: Mapping[str, tuple[int, ...]]
    labels: Int64[Tensor, " row"]
    label_names: tuple[str, ...]
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        widths = sum(math.prod(shape) for shape in self.shapes.values())
        if widths != self.x.shape[1]:
            raise ValueError(f"shapes: expected products that add up to the {self.x.shape[1]} columns; got {widths}.")
        if len(self.labels) != len(self.x):
            raise ValueError(f"labels: expected one for each of the {len(self.x)} rows of x; got {len(self.labels)}.")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        views = ", ".join(f"{name} {int(self.present(name).sum())}×{shape}" for name, shape in self.shapes.items())
        return f"MultiView({self.name!r}: {len(self)} rows of {views})"

    def columns(self, name: str) -> slice:
        """The columns of a view in x.

        Raises:
            ValueError: there is no view of this name.
        """
        if name not in self.shapes:
            raise ValueError(f"view: expected one of {', '.join(map(repr, self.shapes))}; got {name!r}.")
        start = 0
        for other, shape in self.shapes.items():
            if other == name:
                break
            start += math.prod(shape)
        return slice(start, start + math.prod(self.shapes[name]))

    def view(self, name: str) -> Float32[Tensor, "row view"]:
        """The columns of a view, NaN in rows without it.

        Raises:
            ValueError: there is no view of this name.
        """
        return self.x[:, self.columns(name)]

    def present(self, name: str) -> Bool[Tensor, " row"]:
        """Which rows have the view.

        Raises:
            ValueError: there is no view of this name.
        """
        return ~self.view(name).isnan().any(1)

    def complete(self) -> Bool[Tensor, " row"]:
        """Which rows have all views."""
        return ~self.x.isnan().any(1)

    def rows(self, index: Int64[Tensor, " selected"]) -> "MultiView":
        """The rows x_i, i in index, in that order."""
        return dataclasses.replace(self, x=self.x[index], labels=self.labels[index])

    def split(self, fraction: float = 0.9, seed: int = 0) -> tuple["MultiView", "MultiView"]:
        """Two disjoint parts (train, test) that together hold every row, drawn at random, rows in their order here.

        Raises:
            ValueError: a fraction that leaves either part empty.
        """
        first, second = split_rows(len(self), fraction, seed)
        return self.rows(first), self.rows(second)

    def normalised(self, normalisation: Normalisation | None = None) -> "MultiView":
        """(x − mean) / std, per column.

        Args:
            normalisation: that of the training data, for test data; default: mean and standard deviation of the rows
                that have the view (one where a column is constant).

        Raises:
            ValueError: it is normalised already.
        """
        if self.normalisation is not None:
            raise ValueError(f"normalised: {self.name!r} is normalised already.")
        if normalisation is None:
            mean = self.x.nanmean(0)
            std = (self.x - mean).square().nanmean(0).sqrt()
            normalisation = Normalisation(mean, torch.where(std > 0, std, 1.0))
        return dataclasses.replace(self, x=normalisation.normalised(self.x), normalisation=normalisation)

    def original(self, x: Float[Tensor, "*batch view"], name: str) -> Float[Tensor, "*batch view"]:
        """Rows of a view, such as translations into it, in the units before normalisation."""
        if self.normalisation is None:
            return x
        columns = self.columns(name)
        return Normalisation(self.normalisation.mean[columns], self.normalisation.std[columns]).original(x)


def two_views(
    left: Table,
    right: Table,
    *,
    keys: tuple[Sequence[Any], Sequence[Any]] | None = None,
    names: tuple[str, str] = ("left", "right"),
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    labels: Sequence[Any] | pd.Series | None = None,
    name: str = "two views",
) -> MultiView:
    """Two arrays or tables, their rows matched by a key; a row that one of them lacks has NaN there.

    Args:
        left: (row, feature) numbers; of a `DataFrame` the index is the key. A row of NaN alone is missing.
        right: as left.
        keys: of the rows of left and of right; default: a table's index, and for arrays the row's number.
        names: of the two views.
        shapes: of one row of each, e.g. (28, 28) for images; default: vectors.
        labels: class of each key, as a series with the key as index, or in the order of left's rows.
        name: of the set.

    Returns:
        The rows of left in their order, then those that only right has.

    Raises:
        TypeError: columns that are no numbers.
        ValueError: a key that is there twice, a row with a part of a view or without any, labels that lack a key.
    """
    frames = [_frame(*each) for each in zip((left, right), names, keys or (None, None), strict=True)]
    order = frames[0].index.append(frames[1].index.difference(frames[0].index, sort=False))
    values = [frame.reindex(order).to_numpy(dtype=np.float32) for frame in frames]
    for block, view in zip(values, names, strict=True):
        partly = np.isnan(block).any(1) & ~np.isnan(block).all(1)
        if partly.any():
            columns = np.isnan(block[partly]).any(0).sum()
            raise ValueError(
                f"{view}: expected rows without missing values, or of nothing else; row {order[partly][0]!r} has some "
                f"({partly.sum()} such rows, {columns} columns). Impute, or leave out these columns or rows."
            )
    empty = np.isnan(values[0]).all(1) & np.isnan(values[1]).all(1)
    if empty.any():
        raise ValueError(f"left, right: row {order[empty][0]!r} has neither view ({empty.sum()} such rows); remove it.")
    codes, label_names = _codes(labels, frames[0].index, order)
    x = torch.from_numpy(np.concatenate(values, axis=1))
    found = shapes or tuple((block.shape[1],) for block in values)
    return MultiView(name, x, dict(zip(names, found, strict=True)), codes, label_names)


def _frame(table: Table, name: str, keys: Sequence[Any] | None) -> pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        frame = table if keys is None else table.set_index(pd.Index(keys))
        words = [str(column) for column, kind in frame.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        if words:
            raise TypeError(f"{name}: expected columns of numbers; got {', '.join(words)}. Leave them out, or encode.")
    else:
        array: np.ndarray = np.asarray(table)
        if array.ndim != 2 or array.dtype.kind not in "fiub":
            raise TypeError(f"{name}: expected numbers (row, feature); got {array.dtype}, shape {array.shape}.")
        frame = pd.DataFrame(array, index=None if keys is None else pd.Index(keys))
    twice = frame.index[frame.index.duplicated()]
    if len(twice):
        raise ValueError(f"{name}: expected a key for each row; {twice[0]!r} is there more than once.")
    return frame


def _codes(
    labels: Sequence[Any] | pd.Series | None, first: pd.Index, order: pd.Index
) -> tuple[Int64[Tensor, " row"], tuple[str, ...]]:
    """Class codes in an order of the keys, and names of the classes."""
    if labels is None:
        return torch.zeros(len(order), dtype=torch.long), ("all",)
    named = labels if isinstance(labels, pd.Series) else pd.Series(list(labels), index=first)
    if not order.isin(named.index).all():
        missing = order[~order.isin(named.index)]
        raise ValueError(f"labels: expected one for every key; {missing[0]!r} has none ({len(missing)} such keys).")
    codes, names = pd.factorize(named.reindex(order), sort=True)
    return torch.from_numpy(codes.astype(np.int64)), tuple(str(name) for name in names)


# --- images ----------------------------------------------------------------------------------------------------------


def image_and_inverse(data: Dataset) -> MultiView:
    """x and 1 − x: two views between which an affine map is exact."""
    x = torch.cat([data.x, 1 - data.x], dim=1)
    shapes = {"image": data.shape, "inverse": data.shape}
    return MultiView(f"{data.name}_inverse", x, shapes, data.labels, data.label_names)


def image_halves(data: Dataset) -> MultiView:
    """The upper and the lower half of images.

    Raises:
        ValueError: data that are no images, or of an odd height.
    """
    height, *rest = data.shape
    if not rest or height % 2:
        raise ValueError(f"data: expected images of even height; got {data.name!r} of shape {data.shape}.")
    shape = (height // 2, *rest)
    return MultiView(f"{data.name}_halves", data.x, {"upper": shape, "lower": shape}, data.labels, data.label_names)


def mnist_inverse(train: bool = True) -> MultiView:
    """MNIST digits and the same with black and white exchanged: the published pair of a shared latent space.

    Raises:
        OSError, ValueError: as `mnist`.
    """
    return image_and_inverse(mnist(train))


# --- neurons ---------------------------------------------------------------------------------------------------------


def neurons_morphology(path: str | Path | None = None) -> MultiView:
    """Interneurons of the mouse motor cortex: electrophysiology, and morphology where it was reconstructed.

    Args:
        path: npz file with the arrays ephys (row, 29), morph (row, 61; NaN where absent), has_morph, cells, rna_family,
            rna_family_names; default multiview/patchseq_m1_ephys_morph.npz in the cache folder.

    Returns:
        The interneurons with complete electrophysiology, and the morphological features that all reconstructed ones
        have; the classes are transcriptomic families.

    Raises:
        FileNotFoundError: there is no such file.

    References:
        Scala et al. (2020), Phenotypic variation of transcriptomic cell types in mouse motor cortex.
    """
    arrays = _archive(path, "patchseq_m1_ephys_morph.npz")
    family = arrays["rna_family_names"][arrays["rna_family"]]
    kept = np.isin(family, _INTERNEURONS) & np.isfinite(arrays["ephys"]).all(1)
    has_morph = arrays["has_morph"][kept]
    morph = np.where(has_morph[:, None], arrays["morph"][kept], np.nan)
    return two_views(
        arrays["ephys"][kept],
        morph[:, np.isfinite(morph[has_morph]).all(0)],
        names=("physiology", "morphology"),
        labels=family[kept].tolist(),
        name="neurons_morphology",
    )


def neurons_expression(path: str | Path | None = None, num_genes: int = 100) -> MultiView:
    """Neurons of the mouse motor cortex at physiological temperature: electrophysiology and gene expression.

    Args:
        path: npz file with the arrays ephys (row, 29), counts (row, gene), library_size, cells, rna_family,
            rna_family_names; default multiview/patchseq_m1_phystemp_counts_ephys.npz in the cache folder.
        num_genes: genes kept, those of the largest variance.

    Returns:
        Electrophysiology, and log(1 + counts per 10 000 reads), of the neurons with complete electrophysiology that
        are not of low quality; the classes are transcriptomic families.

    Raises:
        FileNotFoundError: there is no such file.

    References:
        Scala et al. (2020), Phenotypic variation of transcriptomic cell types in mouse motor cortex.
    """
    arrays = _archive(path, "patchseq_m1_phystemp_counts_ephys.npz")
    family = arrays["rna_family_names"][arrays["rna_family"]]
    kept = np.isfinite(arrays["ephys"]).all(1) & (family != "low quality")
    expression = np.log1p(1e4 * arrays["counts"][kept] / arrays["library_size"][kept, None])
    genes = np.sort(np.argsort(-expression.var(0), kind="stable")[:num_genes])
    return two_views(
        arrays["ephys"][kept],
        expression[:, genes],
        names=("physiology", "expression"),
        labels=family[kept].tolist(),
        name="neurons_expression",
    )


def _archive(path: str | Path | None, default: str) -> dict[str, np.ndarray]:
    path = Path(path) if path else cache_folder() / "multiview" / default
    if not path.exists():
        raise FileNotFoundError(f"path: expected {path}; there is no such file. {_NEURONS_ORIGIN}")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
