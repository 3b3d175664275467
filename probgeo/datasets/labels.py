"""Labels as they come, from torch, NumPy, pandas or a list, as codes; what is missing is unlabelled, −1."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

Labels: TypeAlias = Tensor | np.ndarray | pd.Series | pd.Categorical | pd.Index | Sequence[Any]
UNLABELLED = -1


class Codes(NamedTuple):
    """Class codes of rows."""

    codes: Int64[Tensor, " row"]  #: on the CPU; negative where a row is unlabelled
    names: dict[int, str]  #: of the codes that rows have


def coded(labels: Labels) -> Codes:
    """Codes of labels: whole numbers are codes themselves, names are numbered in their order.

    Args:
        labels: one of each row: codes, or names; negative, NaN or None where it is unlabelled. A pandas categorical is
            numbered in the order of its categories.

    Returns:
        Codes and the names of those that occur; a code that has no name is named by its number.

    Raises:
        TypeError: no one-dimensional labels.
        ValueError: numbers that are not whole.

    Example:
        >>> coded(["B cell", None, "T cell"])
        Codes(codes=tensor([ 0, -1,  1]), names={0: 'B cell', 1: 'T cell'})
    """
    values: Any = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
    if isinstance(values, str) or not hasattr(values, "__len__") or np.ndim(values) > 1:
        raise TypeError(f"labels: expected one label of each row, (row,); got {_described(labels)}.")
    values = pd.Series(values, dtype=object if len(values) == 0 else None)
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, names = values.cat.codes.to_numpy(np.int64), [str(name) for name in values.cat.categories]
        return Codes(
            torch.from_numpy(codes.copy()), {code: names[code] for code in np.unique(codes[codes >= 0]).tolist()}
        )
    if len(values) == 0 or pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        known = ~np.isnan(numbers)
        wrong = numbers[known & ~(np.isfinite(numbers) & (numbers == np.round(numbers)))]
        if len(wrong):
            raise ValueError(f"labels: expected class codes, whole numbers, or names; got {wrong[0]}.")
        codes = np.where(known, numbers, UNLABELLED).astype(np.int64)
        return Codes(torch.from_numpy(codes), {code: str(code) for code in np.unique(codes[codes >= 0]).tolist()})
    by_name, found = named_codes(values)
    return Codes(by_name, dict(enumerate(found)))


def named_codes(values: Labels) -> tuple[Int64[Tensor, " row"], tuple[str, ...]]:
    """Codes 0, 1, … of the values that occur, in the order of their texts, and these; −1 where a value is missing.

    Args:
        values: one of each row, of any kind.
    """
    series = pd.Series(values)
    missing = series.isna().to_numpy()
    # Whole numbers are read as floating-point ones where one of them is missing.
    whole = pd.api.types.is_float_dtype(series) and missing.any() and bool((series[~missing] % 1 == 0).all())
    texts = series[~missing].astype(np.int64) if whole else series[~missing]
    names, positions = np.unique(texts.astype(str).to_numpy(dtype=object), return_inverse=True)
    codes = np.full(len(series), UNLABELLED)
    codes[~missing] = positions
    return torch.from_numpy(codes), tuple(names.tolist())


def _described(labels: object) -> str:
    return f"shape {tuple(np.shape(labels))}" if hasattr(labels, "shape") else type(labels).__name__  # type: ignore[arg-type]
