"""Tables of columns of different kinds, with missing values."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from probgeo.datasets.dataset import Column, Dataset
from probgeo.datasets.labels import named_codes

KINDS = ("categorical", "real", "binary", "count")


def table(path: str | Path, labels: str | None = None, kinds: Mapping[str, str] | None = None) -> Dataset:
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
        The values, one column of x for each of `columns`, NaN where missing; `frame` leads back.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a name that the file lacks, an unknown kind, a column of no values, of one value, or that is not of
            the kind it is said to be.

    Example:
        >>> import pathlib, tempfile, pandas as pd, probgeo as pg
        >>> people = pd.DataFrame({"weight": [1.5, 2.5, 3.5], "colour": ["red", "blue", "green"], "cats": [0, 3, 1]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     people.to_csv(pathlib.Path(folder) / "people.csv", index=False)
        ...     found = pg.datasets.table(pathlib.Path(folder) / "people.csv")
        >>> [(column.name, column.kind) for column in found.columns]
        [('colour', 'categorical'), ('weight', 'real'), ('cats', 'count')]
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
    return Dataset(
        name=path.name.removesuffix("".join(path.suffixes)),
        x=torch.from_numpy(np.stack([values for _, values in read], axis=1).astype(np.float32)),
        labels=codes,
        label_names=names,
        shape=(len(read),),
        columns=tuple(column for column, _ in read),
    )


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
