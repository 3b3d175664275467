"""Tables of columns of different kinds, with missing values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.labels import named_codes

KINDS = ("categorical", "real", "binary", "count")


@dataclass(frozen=True)
class Column:
    """What a column of a table is.

    Args:
        name: in the file.
        kind: categorical (codes 0 … K − 1 of `categories`), real (standardised), binary (0, 1), or count.
        categories: names of the codes of a categorical column, and of 0 and 1 of a binary one.
        mean: of a real column before it was standardised, in its own unit.
        std: its standard deviation.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of columns of different kinds, those of one kind side by side; NaN where a value is missing.

    Args:
        data: the values, one column of x for each of `columns`; a label of each row.
        columns: what they are.

    Raises:
        ValueError: another number of columns.
    """

    data: Dataset
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        if len(self.columns) != self.data.x.shape[1]:
            raise ValueError(f"columns: expected {self.data.x.shape[1]}, one per feature; got {len(self.columns)}.")

    def frame(self, x: Float[Tensor, "row column"]) -> pd.DataFrame:
        """Rows like those of this table, e.g. imputed ones, in the units and with the names of the file."""
        values = x.detach().cpu().double().numpy()
        shown = {}
        for column, found in zip(self.columns, values.T, strict=True):
            if column.categories:
                codes = pd.array(np.round(found), dtype="Float64").astype("Int64")
                shown[column.name] = [None if code is pd.NA else column.categories[code] for code in codes]
            else:
                shown[column.name] = found * column.std + column.mean
        return pd.DataFrame(shown)


def table(path: str | Path, labels: str | None = None, kinds: Mapping[str, str] | None = None) -> Table:
    """The table in a text file (.csv, .tsv, also compressed): one row of names, then one row per observation.

    Columns with two different values are binary, columns of text categorical, columns of non-negative integers counts,
    other columns of numbers real, and standardised. Columns of one kind are moved side by side, in the order
    categorical, real, binary, count.

    Args:
        path: the file; empty cells are missing values.
        labels: a column that is the label of each row, and none of x; its empty cells are unlabelled rows. None: all
            of one class.
        kinds: kind by name, for columns that are not what they look like, such as codes of categories.

    Returns:
        The table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a name that the file lacks, an unknown kind, a column of no values, of one value, or that is not of
            the kind it is said to be.
    """
    path, kinds = Path(path), dict(kinds or {})
    if not path.exists():
        raise FileNotFoundError(f"path: there is no file {path}.")
    frame = pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",")
    absent = [name for name in (*kinds, *([labels] if labels else [])) if name not in frame]
    if absent:
        raise ValueError(f"kinds, labels: {path} has no column {absent[0]!r}; it has {', '.join(map(str, frame))}.")
    unknown = [kind for kind in kinds.values() if kind not in KINDS]
    if unknown:
        raise ValueError(f"kinds: expected {', '.join(KINDS)}; got {unknown[0]!r}.")
    codes, names = named_codes(frame[labels]) if labels else (torch.zeros(len(frame), dtype=torch.int64), ("row",))
    read = [_column(frame[name], str(name), kinds.get(name)) for name in frame if name != labels]
    if not read:
        raise ValueError(f"path: {path} has no columns beside the labels.")
    read.sort(key=lambda pair: KINDS.index(pair[0].kind))
    data = Dataset(
        name=path.name.removesuffix("".join(path.suffixes)),
        x=torch.from_numpy(np.stack([values for _, values in read], axis=1).astype(np.float32)),
        labels=codes,
        label_names=names,
        shape=(len(read),),
    )
    return Table(data, tuple(column for column, _ in read))


def _column(values: pd.Series, name: str, kind: str | None) -> tuple[Column, np.ndarray]:
    """What a column is, and its values, NaN where missing."""
    present = values.dropna()
    if present.nunique() < 2:
        raise ValueError(
            f"column {name!r}: expected at least two different values; got {present.nunique()}. Remove it."
        )
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    counts = numeric and bool(((present >= 0) & (present % 1 == 0)).all())
    if kind is None:
        if present.nunique() == 2:
            kind = "binary"
        elif not numeric:
            kind = "categorical"
        else:
            kind = "count" if counts else "real"
    if kind in ("categorical", "binary"):
        # Numbers in their own order, not in that of their digits.
        names = sorted(present.unique().tolist())
        if kind == "binary" and len(names) != 2:
            raise ValueError(f"column {name!r}: expected two different values, as it is binary; got {len(names)}.")
        codes = values.map({each: code for code, each in enumerate(names)}).to_numpy(dtype=float)
        return Column(name, kind, tuple(str(each) for each in names)), codes
    if not numeric or (kind == "count" and not counts):
        expected = "non-negative integers" if kind == "count" else "numbers"
        raise ValueError(f"column {name!r}: expected {expected}, as it is {kind}; got {present.iloc[0]!r} and others.")
    numbers = values.to_numpy(dtype=float)
    if kind == "count":
        return Column(name, kind), numbers
    mean, std = float(np.nanmean(numbers)), float(np.nanstd(numbers))
    return Column(name, kind, mean=mean, std=std), (numbers - mean) / std
