"""Two views of the same observations: images and what is done to them, tables with a key."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.published.images import mnist

Table: TypeAlias = Tensor | np.ndarray | pd.DataFrame


def two_views(
    left: Table,
    right: Table,
    *,
    keys: tuple[Sequence[Any], Sequence[Any]] | None = None,
    names: tuple[str, str] = ("left", "right"),
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    labels: Sequence[Any] | pd.Series | None = None,
    name: str = "two views",
) -> Dataset:
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

    Example:
        >>> import torch, probgeo as pg
        >>> left, right = torch.tensor([[1.0], [2.0]]), torch.tensor([[10.0], [30.0]])
        >>> both = pg.datasets.two_views(left, right, keys=(["a", "b"], ["a", "c"]))
        >>> both.x  # a in both, b on the left alone, c on the right alone
        tensor([[ 1., 10.],
                [ 2., nan],
                [nan, 30.]])
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
    views, obs = dict(zip(names, found, strict=True)), pd.DataFrame(index=order)
    return Dataset(name, x, codes, label_names, (x.shape[1],), views=views, obs=obs)


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


def image_and_inverse(data: Dataset) -> Dataset:
    """x and 1 − x: two views between which an affine map is exact.

    Args:
        data: images with values in [0, 1].

    Returns:
        the data set of both views.

    Example:
        >>> import torch, probgeo as pg
        >>> digits = pg.datasets.digits()
        >>> both = pg.datasets.image_and_inverse(digits)
        >>> image, inverse = both.x.chunk(2, dim=1)
        >>> torch.equal(image + inverse, torch.ones_like(image))
        True
    """
    x = torch.cat([data.x, 1 - data.x], dim=1)
    views = {"image": data.shape, "inverse": data.shape}
    return dataclasses.replace(data.with_x(x, (x.shape[1],)), name=f"{data.name}_inverse", views=views)


def image_halves(data: Dataset) -> Dataset:
    """The upper and the lower half of images.

    Args:
        data: images of an even height.

    Returns:
        the data set of both views.

    Raises:
        ValueError: data that are no images, or of an odd height.

    Example:
        >>> import torch, probgeo as pg
        >>> digits = pg.datasets.digits()
        >>> upper, lower = pg.datasets.image_halves(digits).x.chunk(2, dim=1)
        >>> torch.equal(torch.cat([upper, lower], dim=1), digits.x)
        True
    """
    height, *rest = data.shape
    if not rest or height % 2:
        raise ValueError(f"data: expected images of even height; got {data.name!r} of shape {data.shape}.")
    shape = (height // 2, *rest)
    return dataclasses.replace(
        data.with_x(data.x, data.shape), name=f"{data.name}_halves", views={"upper": shape, "lower": shape}
    )


def mnist_inverse(train: bool = True) -> Dataset:
    """MNIST digits and the same with black and white exchanged: the published pair of a shared latent space.

    Args:
        train: the training images, else the test images.

    Returns:
        the data set of both views.

    Raises:
        OSError, ValueError: as `mnist`.

    Example:
        >>> import probgeo as pg
        >>> views = pg.datasets.mnist_inverse(train=False)  # doctest: +SKIP
    """
    return image_and_inverse(mnist(train))
