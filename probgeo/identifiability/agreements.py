"""The third leg: is a distance right, or does it at least agree with a reference from outside?

Of simulated data the true distance is known. Of real data it is not: there is at best something that another source
says of the same rows, as a pseudotime, a taxonomy, classes, or an angle. That is agreement, and not truth.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from probgeo.identifiability.resampling import bootstrap
from probgeo.identifiability.statistics import CORE, checked, rank_correlation


def agreement(
    distance: xr.DataArray,
    reference: xr.DataArray,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    points: np.ndarray | None = None,
) -> xr.Dataset:
    """Spearman's ρ over pairs with a reference, in every retraining, and their mean with its bootstrap interval.

    Whatever the units: a distance that is right but for its scale has 1.

    Args:
        distance: distances, dims (retraining, pair, ...), none missing.
        reference: of the same pairs, dims (pair,): true distances, or what another source says, as a difference of
            pseudotimes or of levels of a taxonomy; larger is farther.
        num_resamples, level, seed, points: of the interval over retrainings and end points, see `bootstrap`.

    Returns:
        `rho`, dims of `distance` without pair; `mean`, `lower` and `upper`, dims of it without retraining and pair;
        missing where all distances of a retraining are equal.

    Raises:
        ValueError: a dim is missing or has fewer than two entries, the reference has other pairs, is missing for some,
            or is the same for all, or as `bootstrap`.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> distance = xr.DataArray([[1.0, 2.0, 4.0, 3.0], [5.0, 6.0, 7.0, 8.0]], dims=["retraining", "pair"])
        >>> truth = xr.DataArray([10.0, 20.0, 30.0, 40.0], dims="pair")
        >>> found = pg.identifiability.agreement(distance, truth, num_resamples=100)
        >>> found.rho.values.round(3), float(found["mean"].round(3))
        (array([0.8, 1. ]), 0.9)
    """
    d = checked(distance, *CORE)
    _check_reference(d, reference)
    options = {"num_resamples": num_resamples, "level": level, "seed": seed, "points": points}
    rho, bounds = rho_and_bounds(d, reference, options)
    return _with_interval("rho", rho, bounds, least=-1.0)


def rho_and_bounds(
    distance: xr.DataArray, known: xr.DataArray, options: Mapping[str, Any], of_constant: float = math.nan
) -> tuple[xr.DataArray, xr.DataArray]:
    """Spearman's ρ over pairs with what is known, of every retraining, and the bootstrap bounds of their mean.

    Args:
        distance: distances, dims (retraining, pair, ...).
        known: of the same pairs (pair,), by their order.
        options: of `bootstrap`.
        of_constant: what ρ is where all distances of a retraining, or of a resample, are equal.
    """
    plain = known.reset_coords(drop=True).drop_vars("pair", errors="ignore").astype(float)
    like = distance.drop_vars("pair", errors="ignore")
    both = xr.concat([like, plain.broadcast_like(like)], "of", coords="minimal", compat="override")
    both = both.assign_coords({name: distance[name] for name in ("start", "stop") if name in distance.coords})

    def rho(of: xr.DataArray) -> xr.DataArray:
        return rank_correlation(of.isel(of=0), of.isel(of=1)).fillna(of_constant)

    def mean_rho(of: xr.DataArray) -> xr.DataArray:
        return rho(of).mean("retraining", skipna=False)

    return rho(both), bootstrap(mean_rho, both, **options).clip(-1, 1)


def triplet_agreement(
    alike: xr.DataArray,
    unlike: xr.DataArray,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Share of triples whose two rows of one class are nearer than the third, of another; ties count half.

    Half of them are by chance.

    Args:
        alike: distances between an anchor and a row of its class, dims (retraining, pair, ...), none missing.
        unlike: distances between the same anchors and rows of other classes, the same dims, in the same order.
        num_resamples, level, seed: of the interval over retrainings and triples, see `bootstrap`.

    Returns:
        `share`, dims of `alike` without pair; `mean`, `lower` and `upper`, dims of it without retraining and pair.

    Raises:
        ValueError: a dim is missing or has fewer than two entries, the two differ in their sizes, or as `bootstrap`.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> alike = xr.DataArray([[1.0, 1.0], [1.0, 4.0]], dims=["retraining", "pair"])
        >>> unlike = xr.DataArray([[2.0, 3.0], [2.0, 3.0]], dims=["retraining", "pair"])
        >>> found = pg.identifiability.triplet_agreement(alike, unlike, num_resamples=100)
        >>> found.share.values, float(found["mean"])
        (array([1. , 0.5]), 0.75)
    """
    near, far = (checked(d, *CORE).reset_coords(drop=True).drop_vars("pair", errors="ignore") for d in (alike, unlike))
    if dict(near.sizes) != dict(far.sizes):
        raise ValueError(f"unlike: expected the sizes of alike, {dict(near.sizes)}; got {dict(far.sizes)}.")
    right = (xr.apply_ufunc(np.sign, far - near) + 1) / 2  # missing where a distance is
    bounds = bootstrap(lambda values: values.mean(CORE, skipna=False), right, num_resamples, level, seed)
    return _with_interval("share", right.mean("pair", skipna=False), bounds, least=0.0)


def circular_difference(first: xr.DataArray, second: xr.DataArray, period: float = 2 * math.pi) -> xr.DataArray:
    """How far two angles are apart, the shorter way round: min(|a − b| mod P, P − |a − b| mod P).

    A reference for `agreement` and for `summary` where rows have an angle: a rotation, a direction, a time of day or a
    phase of the cell cycle.

    Args:
        first, second: angles at the two ends of each pair, of the same dims, as (pair,); in any turn.
        period: P, once round, in their unit: 2π for radians, 360.0 for degrees, 24.0 for hours.

    Returns:
        from 0 to P/2, missing where an angle is.

    Raises:
        ValueError: a period that is not positive, or other pairs.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> evening, morning = xr.DataArray([23.0, 18.0], dims="pair"), xr.DataArray([1.0, 6.0], dims="pair")
        >>> pg.identifiability.circular_difference(evening, morning, period=24.0).values
        array([ 2., 12.])
    """
    if not 0 < period < math.inf:
        raise ValueError(f"period: expected a positive number; got {period}.")

    def shorter(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        apart = abs(a - b) % period
        return np.minimum(apart, period - apart)

    return xr.apply_ufunc(shorter, first, second)


def relative_error(distance: xr.DataArray, truth: xr.DataArray) -> xr.Dataset:
    """How far distances are from the true ones, after the best scale: median |d / (s t) − 1|, s = median d / t.

    Args:
        distance: distances, dims (pair, ...), none missing.
        truth: true distances of the same pairs, dims (pair,), positive.

    Returns:
        `scale`, s, in the units of the distance over those of the truth: 1 where both are the same and right; and
        `error`, without unit. Dims of `distance` without pair.

    Raises:
        ValueError: the dim pair is missing or has fewer than two entries, or the truth has other pairs, is missing for
            some or is not positive.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> truth = xr.DataArray([1.0, 2.0, 3.0], dims="pair")
        >>> found = pg.identifiability.relative_error(xr.DataArray([2.0, 4.0, 9.0], dims="pair"), truth)
        >>> float(found.scale), float(found.error)  # two of three are right but for the unit
        (2.0, 0.0)
    """
    d = checked(distance, "pair")
    _check_reference(d, truth)
    if not (truth > 0).all():
        raise ValueError("truth: expected positive distances; take pairs of different rows.")
    ratio = d / truth.reset_coords(drop=True).drop_vars("pair", errors="ignore").astype(float)
    scale = ratio.median("pair", skipna=False)
    return xr.Dataset({"scale": scale, "error": abs(ratio / scale - 1).median("pair", skipna=False)})


def _check_reference(distance: xr.DataArray, reference: xr.DataArray) -> None:
    if reference.dims != ("pair",) or reference.sizes["pair"] != distance.sizes["pair"]:
        raise ValueError(
            f"reference: expected the {distance.sizes['pair']} pairs of distance, dims ('pair',); got sizes "
            f"{dict(reference.sizes)}."
        )
    labelled = "pair" in reference.coords and "pair" in distance.coords
    if labelled and not np.array_equal(reference["pair"], distance["pair"]):
        raise ValueError("reference: expected the pairs of distance in their order; got other labels.")
    if not np.isfinite(reference).all():
        raise ValueError("reference: expected a finite number for each pair; leave out pairs without one.")
    if (reference == reference[0]).all():
        raise ValueError("reference: expected different values; got the same one for every pair.")


def _with_interval(name: str, values: xr.DataArray, bounds: xr.DataArray, least: float) -> xr.Dataset:
    bounds = bounds.clip(least, 1.0)
    lower, upper = (bounds.sel(bound=bound, drop=True) for bound in ("lower", "upper"))
    return xr.Dataset({name: values, "mean": values.mean("retraining", skipna=False), "lower": lower, "upper": upper})
