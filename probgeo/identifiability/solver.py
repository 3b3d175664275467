"""How much of a distance, and of its variation over retrainings, is the solver's."""

import numpy as np
import xarray as xr


def solver_excess(distance: xr.DataArray, reference: xr.DataArray) -> xr.Dataset:
    """How much longer the distances are than those of a tighter search: d / min(d, d_ref) − 1, over all that both have.

    A distance found by descent is an upper bound, so that the lower of two is the nearer one, and a search that is
    beaten by the other on some pair is no reference there: its excess is then that of the reference, not negative.

    Args:
        distance: distances, dims (retraining, pair, ...).
        reference: distances of the same retrainings and pairs, or of a sample of them, by more and tighter starts; the
            same dims, matched by label where there are labels.

    Returns:
        `median` and `quantile_95` of the relative excess over retrainings and pairs, its `maximum`, and `beaten`, the
        share of the reference's distances that are longer than these by more than 0.1 %; without unit, dims of
        `distance` but retraining and pair. Missing or zero distances are left out.

    Raises:
        ValueError: a dim is missing, the two have no retraining or no pair in common, or pairs of one label have other
            ends, where both say which (`start`, `stop`).

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> distance = xr.DataArray([[1.0, 2.0], [1.1, 2.0]], dims=["retraining", "pair"])
        >>> tight = xr.DataArray([[1.0, 2.0], [1.0, 2.0]], dims=["retraining", "pair"])
        >>> round(float(pg.identifiability.solver_excess(distance, tight).maximum), 3)
        0.1
    """
    dims = ["retraining", "pair"]
    for name, values in (("distance", distance), ("reference", reference)):
        missing = [dim for dim in dims if dim not in values.dims]
        if missing:
            raise ValueError(f"{name}: expected the dims retraining and pair; got {values.dims}.")
    found, best = xr.align(distance, reference, join="inner")
    if not (found.sizes["retraining"] and found.sizes["pair"]):
        raise ValueError("reference: expected some of the retrainings and pairs of `distance`; got none of them.")
    for end in ("start", "stop"):
        if end in found.coords and end in best.coords and not np.array_equal(found[end], best[end]):
            raise ValueError(f"reference: expected the pairs of `distance`; got other ones, by their {end}.")
    usable = np.isfinite(found) & np.isfinite(best) & (found > 0) & (best > 0)
    found, best = found.where(usable), best.where(usable)
    excess = found / np.minimum(found, best) - 1
    return xr.Dataset(
        {
            "median": excess.median(dims),
            "quantile_95": excess.quantile(0.95, dims).drop_vars("quantile"),
            "maximum": excess.max(dims),
            "beaten": (best > 1.001 * found).where(usable).mean(dims),
        }
    )


def excess_of_rows(distance: xr.DataArray, tight: xr.DataArray) -> dict[tuple, dict[str, float]]:
    """By row of `summary`, of those that `tight` has: `excess_NAME` of `solver_excess`, and the pairs they are of.

    Raises:
        ValueError: `tight` has other dims than `distance`, no row of it, or as `solver_excess`.
    """
    if set(tight.dims) != set(distance.dims) or "pair" not in distance.dims:
        raise ValueError(
            f"tight: expected distances of pairs with the dims of `distance`, {distance.dims}; got {tight.dims}."
        )
    rows = [dim for dim in distance.dims if dim not in ("retraining", "pair")]
    if not rows:  # as `summary` labels a distance without rows
        rows, name = ["row"], distance.name or "distance"
        distance, tight = distance.expand_dims(row=[name]), tight.expand_dims(row=[name])
    common = xr.align(distance, tight, join="inner")[1]
    if not all(common.sizes[row] for row in rows):
        raise ValueError("tight: expected some of the rows of `distance`; got none of them.")
    found = solver_excess(distance, tight).assign(pairs=common.notnull().any("retraining").sum("pair"))
    found = found.stack(label=rows).dropna("label", subset=["median"])
    return {
        label: {f"excess_{name}": float(found[name].sel(label=label)) for name in map(str, found.data_vars)}
        for label in found.indexes["label"]
    }
