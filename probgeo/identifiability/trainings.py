"""Which models share trainings, read off their codes' distances."""

from itertools import product

import numpy as np
import xarray as xr

from probgeo.identifiability.statistics import CORE, checked

_ROUNDING = 1e-4  # relative, of stored distances; trainings of their own differ by far more


def with_trainings(distance: xr.DataArray) -> xr.DataArray:
    """`distance` with a coordinate `training`, equal where two models have the same trained encoder.

    Equal distances of codes prove an encoder shared: a model whose measure `euclidean` equals that of an earlier one,
    on every pair of a retraining, was made from the same training. So were all measures of one model. Without that
    measure every model is taken to have trainings of its own; give the coordinate yourself where it has not.

    Args:
        distance: distances, dims (retraining, pair, ...), `euclidean` among the labels of `measure` if there is one.

    Returns:
        As given where it has the coordinate already; else with `training`, dims (..., retraining) without `measure`:
        names that are equal for the same training, not matched between retrainings.

    Raises:
        ValueError: a dim is missing.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> codes = [[1.0, 2.0], [3.0, 4.0]]
        >>> distance = xr.DataArray(
        ...     [[codes], [codes], [[[5.0, 6.0], [7.0, 8.0]]]],  # the second model has the first one's codes
        ...     dims=["model", "measure", "retraining", "pair"],
        ...     coords={"model": ["mean", "laplace", "other"], "measure": ["euclidean"]},
        ... )
        >>> training = pg.identifiability.with_trainings(distance).training
        >>> (training.sel(model="mean") == training.sel(model="laplace")).all().item()
        True
        >>> (training.sel(model="mean") == training.sel(model="other")).any().item()
        False
    """
    checked(distance, *CORE, least=1)
    if "training" in distance.coords:
        return distance
    dims = [str(dim) for dim in distance.dims if dim not in (*CORE, "measure")]
    has_codes = "measure" in distance.dims and "euclidean" in distance.measure
    codes = distance.sel(measure="euclidean", drop=True).transpose(*dims, *CORE).values if has_codes else None
    shape = tuple(distance.sizes[dim] for dim in (*dims, "retraining"))
    names = np.empty(shape, dtype=object)
    for retraining in range(shape[-1]):
        known: dict[str, np.ndarray] = {}
        for index in product(*map(range, shape[:-1])):
            name = f"{','.join(map(str, index))}/{retraining}"
            if codes is not None and np.isfinite(codes[index][retraining]).any():
                own = codes[index][retraining]
                same = (k for k, d in known.items() if np.allclose(d, own, rtol=_ROUNDING, atol=0, equal_nan=True))
                name = next(same, name)
                known.setdefault(name, own)
            names[(*index, retraining)] = name
    return distance.assign_coords(training=((*dims, "retraining"), names.astype(str)))
