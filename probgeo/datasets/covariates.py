"""What is known of rows as columns of x, for models that it is given to."""

import dataclasses

import numpy as np
import pandas as pd
import torch

from probgeo.datasets.dataset import Dataset
from probgeo.rows import beside


def with_obs(data: Dataset, *keys: str) -> Dataset:
    """The same rows with columns of `obs` after the features of x: numbers as they are, categories one-hot.

    Batches of cells, say, for `ConditionalVAE(covariates=..., mask=NoMask())`, to which they are given.

    Args:
        data: with `obs`.
        keys: columns of `obs`, in the order of the columns of x.

    Returns:
        The data set, with the new columns' names in `feature_names`: of a category `key=name`.

    Raises:
        ValueError: no such column, or a value that is missing.

    Example:
        >>> import pandas, torch, probgeo as pg
        >>> obs = pandas.DataFrame({"batch": ["b", "a", "b"], "share": [0.1, 0.2, 0.3]})
        >>> labels = torch.zeros(3, dtype=torch.int64)
        >>> data = pg.datasets.Dataset("cells", torch.tensor([[4.0], [5.0], [6.0]]), labels, ("cell",), (1,), obs=obs)
        >>> found = pg.datasets.with_obs(data, "batch", "share")
        >>> found.feature_names
        ('0', 'batch=a', 'batch=b', 'share')
        >>> found.x
        tensor([[4.0000, 0.0000, 1.0000, 0.1000],
                [5.0000, 1.0000, 0.0000, 0.2000],
                [6.0000, 0.0000, 1.0000, 0.3000]])
    """
    known = pd.DataFrame(index=range(len(data))) if data.obs is None else data.obs
    columns, names = [], list(data.feature_names or map(str, range(data.x.shape[1])))
    for key in keys:
        if key not in known:
            raise ValueError(f"keys: obs has no column {key!r}; it has {', '.join(map(str, known)) or 'none'}.")
        values = known[key]
        if values.isna().any():
            raise ValueError(f"keys: expected a value of every row; {int(values.isna().sum())} have no {key!r}.")
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            columns.append(values.to_numpy(np.float32)[:, None])
            names.append(key)
            continue
        categories = pd.Categorical(values)
        columns.append(np.eye(len(categories.categories), dtype=np.float32)[categories.codes])
        names += [f"{key}={name}" for name in categories.categories]
    x = beside(data.x, torch.from_numpy(np.concatenate([np.empty((len(data), 0), np.float32), *columns], axis=1)))
    return dataclasses.replace(data.with_x(x, (x.shape[1],)), feature_names=tuple(names))
