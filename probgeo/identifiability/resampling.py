"""Bootstrap intervals over retrainings and end points, and how many retrainings a wanted interval or ratio takes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats
from scipy.optimize import nnls

from probgeo.identifiability.statistics import CORE, check_level, checked

_CHUNK = 2**22  # distances resampled at once: 32 MiB

Statistic = Callable[[xr.DataArray], Any]


def bootstrap(
    statistic: Statistic,
    distance: xr.DataArray,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    points: np.ndarray | None = None,
    num_retrainings: int | None = None,
) -> Any:
    """Bootstrap interval of a statistic, retrainings *and* points resampled with replacement, independently.

    Interval = estimate + quantiles of (resampled − mean of resampled). The centring matters: a resample repeats
    retrainings, so a std shrinks on average by √(1 − 1/k), and raw quantiles would sit too low.

    Pairs that share an end point are not independent. So points are resampled: a pair counts as often as the product
    of its ends' counts, and a pair that shares no end with another is resampled by itself.

    Args:
        statistic: reduces retraining and pair, keeps other dims (a dim `resample` is added); DataArray or Dataset.
        distance: distances, dims (retraining, pair, ...), none missing.
        num_resamples: number of resamples.
        level: nominal coverage, in (0, 1).
        seed: of the resampling; the global random state is not used.
        points: (pair, 2) names of the pairs' end points; None for the coordinates `start` and `stop` of a study, and
            where there are none for pairs that share no ends. Where points recur in two or three pairs each, the
            interval is somewhat wide: by less than √3.
        num_retrainings: of each resample, for the interval of a study with more or fewer; None for as many as given.

    Returns:
        As the statistic, with a further dim `bound`, ("lower", "upper"). Not confined to the range of the statistic.

    Raises:
        ValueError: a dim is missing or has fewer than two entries, or another argument is out of its range.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> noise = np.random.default_rng(0).normal(size=(10, 20))
        >>> distance = xr.DataArray(1 + 0.1 * noise, dims=["retraining", "pair"])
        >>> def mean_cv(distance):
        ...     return pg.identifiability.coefficient_of_variation(distance).mean("pair")
        >>> lower, upper = pg.identifiability.bootstrap(mean_cv, distance, num_resamples=200).values
        >>> bool(lower < 0.1 < upper)
        True

    References:
        Owen (2007), The pigeonhole bootstrap, Annals of Applied Statistics 1, section 3; Bickel, Götze & van Zwet
        (1997), Resampling fewer than n observations, Statistica Sinica 7.
    """
    d = _checked(distance, num_resamples, level)
    rng = np.random.default_rng(seed)
    k = d.sizes["retraining"]
    retrainings = _retrainings(rng, (num_resamples, k if num_retrainings is None else num_retrainings), k)
    pairs = _pairs(rng, num_resamples, d, points)
    d = _unlabelled(d)
    return statistic(d) + _quantiles(_resampled(statistic, d, retrainings, pairs), level)


def bootstrap_difference(
    statistic: Statistic,
    distance_a: xr.DataArray,
    distance_b: xr.DataArray,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    points: np.ndarray | None = None,
) -> Any:
    """Bootstrap interval of statistic(a) − statistic(b): would the difference hold in other retrainings, other points?

    The pairs of both are resampled together. So are the retrainings, if both have as many: then a and b may be two
    measures of the same retrainings.

    Args:
        statistic, num_resamples, level, seed, points: as for `bootstrap`.
        distance_a: distances, dims (retraining, pair, ...), none missing.
        distance_b: distances of the same pairs.

    Returns:
        As the statistic, with a further dim `bound`, ("lower", "upper").

    Raises:
        ValueError: as `bootstrap`, or the numbers of pairs differ.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> noise = np.random.default_rng(0).normal(size=(2, 10, 20))
        >>> a = xr.DataArray(1 + 0.05 * noise[0], dims=["retraining", "pair"])
        >>> b = xr.DataArray(1 + 0.20 * noise[1], dims=["retraining", "pair"])
        >>> def mean_cv(distance):
        ...     return pg.identifiability.coefficient_of_variation(distance).mean("pair")
        >>> interval = pg.identifiability.bootstrap_difference(mean_cv, a, b, num_resamples=200)
        >>> bool((interval < 0).all())  # a varies less, and would with other retrainings and other points
        True
    """
    a, b = (_checked(distance, num_resamples, level) for distance in (distance_a, distance_b))
    if a.sizes["pair"] != b.sizes["pair"]:
        raise ValueError(f"distance_b: expected the {a.sizes['pair']} pairs of distance_a; got {b.sizes['pair']}.")
    rng = np.random.default_rng(seed)
    pairs = _pairs(rng, num_resamples, a, points)
    a, b = _unlabelled(a), _unlabelled(b)
    of_a, of_b = (_retrainings(rng, (num_resamples, d.sizes["retraining"]), d.sizes["retraining"]) for d in (a, b))
    of_b = of_a if of_a.shape == of_b.shape else of_b
    resampled = _resampled(statistic, a, of_a, pairs) - _resampled(statistic, b, of_b, pairs)
    return statistic(a) - statistic(b) + _quantiles(resampled, level)


def interval_widths(
    statistic: Statistic,
    distance: xr.DataArray,
    num_retrainings: Sequence[int],
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    points: np.ndarray | None = None,
) -> Any:
    """Widths of the bootstrap intervals that studies with these numbers of retrainings would have.

    Args:
        statistic, distance, num_resamples, level, seed, points: as for `bootstrap`.
        num_retrainings: each at least 2; may be more than there are.

    Returns:
        As the statistic, with a further dim `num_retrainings`.

    Raises:
        ValueError: as `bootstrap`, or a number of retrainings below 2.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> noise = np.random.default_rng(0).normal(size=(10, 40))
        >>> distance = xr.DataArray(1 + 0.1 * noise, dims=["retraining", "pair"])
        >>> def mean_cv(distance):
        ...     return pg.identifiability.coefficient_of_variation(distance).mean("pair")
        >>> widths = pg.identifiability.interval_widths(mean_cv, distance, [5, 20], num_resamples=200)
        >>> bool(widths.sel(num_retrainings=20) < widths.sel(num_retrainings=5))
        True
    """
    if not len(num_retrainings) or min(num_retrainings) < 2:
        raise ValueError(f"num_retrainings: expected numbers from 2; got {list(num_retrainings)}.")
    widths = []
    for num in num_retrainings:
        interval = bootstrap(statistic, distance, num_resamples, level, seed, points, num)
        widths.append(interval.sel(bound="upper", drop=True) - interval.sel(bound="lower", drop=True))
    return xr.concat(widths, "num_retrainings").assign_coords(num_retrainings=list(num_retrainings))


def retrainings_needed(widths: xr.DataArray, width: float) -> xr.DataArray:
    """Number of retrainings R at which the fitted width² = floor² + scale²/R falls to a wanted width.

    The floor is what the finite set of pairs leaves, however many retrainings there are.

    Args:
        widths: of intervals, dims (num_retrainings, ...), from `interval_widths`, at two numbers at least.
        width: wanted, positive, in the unit of `widths`.

    Returns:
        Dims of `widths` without `num_retrainings`: at least 2, not rounded; infinite where the pairs alone make the
        interval wider.

    Raises:
        ValueError: `width` is not positive, or widths at fewer than two numbers of retrainings.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> widths = xr.DataArray([0.5, 0.25], dims="num_retrainings", coords={"num_retrainings": [10, 40]})
        >>> needed = pg.identifiability.retrainings_needed(widths, width=0.125)
        >>> round(needed.item(), 3)  # four times as many halve the width
        160.0
    """
    if not width > 0:
        raise ValueError(f"width: expected a positive number; got {width}.")
    widths = checked(widths, "num_retrainings")
    num = widths["num_retrainings"].values.astype(float)

    def needed(found: np.ndarray) -> float:
        # Relative errors of the widths are alike, so each equation is divided by its square.
        weight = 1 / np.maximum(found, np.finfo(float).tiny) ** 2
        (floor, scale), _ = nnls(np.stack([weight, weight / num], axis=1), np.ones_like(found))
        return max(2.0, scale / (width**2 - floor)) if width**2 > floor else np.inf

    return xr.apply_ufunc(needed, widths, input_core_dims=[["num_retrainings"]], vectorize=True)


def retrainings_to_detect(
    test: xr.Dataset, ratio: float | None = None, power: float = 0.8, level: float = 0.95
) -> xr.DataArray:
    """Retrainings n of each side that find a ratio of CVs: n = (t_{(1+level)/2} + t_power)² v / (log ratio)².

    v is the variance that one retraining of each side leaves in the log ratio, as the test estimated it; t has the
    degrees of freedom that n retrainings leave, so that n is solved for. With few retrainings v itself is uncertain,
    and so is n: read it as an order of magnitude.

    Args:
        test: from `permutation_test` or `swap_test`.
        ratio: of the CVs that is to be found, positive, not 1; None for the one that was estimated.
        power: the probability of finding it, in (0, 1).
        level: 1 less the level of the two-sided test.

    Returns:
        Whole numbers over the dims of the test, at least as many as the test needs to be able to reject; infinite for
        a ratio of 1, missing where the test is.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> noise = np.random.default_rng(0).normal(size=(2, 8, 20))
        >>> a = xr.DataArray(1 + 0.10 * noise[0], dims=["retraining", "pair"])
        >>> b = xr.DataArray(1 + 0.12 * noise[1], dims=["retraining", "pair"])
        >>> test = pg.identifiability.permutation_test(a, b, num_permutations=99)
        >>> few, many = (pg.identifiability.retrainings_to_detect(test, ratio).item() for ratio in (0.5, 0.9))
        >>> few < many  # a small difference takes more of them
        True
    """
    check_level(level)
    if not 0 < power < 1:
        raise ValueError(f"power: expected a probability in (0, 1); got {power}.")
    if ratio is not None and not 0 < ratio < math.inf:
        raise ValueError(f"ratio: expected a positive number; got {ratio}.")
    paired, alpha = bool(test.attrs["paired"]), 1 - level

    def possible(num: int) -> bool:
        return (2.0 ** (1 - num) if paired else 2 / math.comb(2 * num, num)) <= alpha

    def needed(variance: float, estimate: float) -> float:
        effect = (
            abs(math.log(estimate)) if 0 < estimate < math.inf else (estimate if math.isnan(estimate) else math.inf)
        )
        if math.isnan(variance) or math.isnan(effect):
            return math.nan
        if effect == 0:
            return math.inf
        num = 3
        while not possible(num):
            num += 1
        asked = max(num, math.floor(_normal(alpha, power, variance, effect)))
        while _normal(alpha, power, variance, effect, (asked - 1.0) * (1 if paired else 2)) > asked:
            asked += 1
        return float(asked)

    target = test.estimate if ratio is None else xr.full_like(test.estimate, ratio)
    return xr.apply_ufunc(needed, test.variance_per_retraining, target, vectorize=True, output_dtypes=[float])


def end_points(distance: xr.DataArray, points: np.ndarray | None = None) -> np.ndarray:
    """The pairs' end points (pair, 2): `points`, or coordinates `start` and `stop`, or else two of its own per pair."""
    num_pairs = distance.sizes["pair"]
    if points is None:
        coordinates = [distance.coords.get(name) for name in ("start", "stop")]
        if all(ends is not None and ends.dims == ("pair",) for ends in coordinates):
            return np.stack([distance["start"].values, distance["stop"].values], axis=1)
        return np.arange(2 * num_pairs).reshape(num_pairs, 2)
    points = np.asarray(points)
    if points.shape != (num_pairs, 2):
        raise ValueError(f"points: expected shape {(num_pairs, 2)}, the two ends of every pair; got {points.shape}.")
    return points


def resampled_weights(rng: np.random.Generator, ends: np.ndarray) -> np.ndarray:
    """How often each pair (pair,) counts when its end points are resampled once; not all zero."""
    names, codes = np.unique(ends, return_inverse=True)
    first, second = codes.reshape(-1, 2).T
    degree = np.bincount(first, minlength=names.size) + np.bincount(second[first != second], minlength=names.size)
    alone = (degree[first] == 1) & (degree[second] == 1)
    while True:  # few pairs of many points may all drop out: draw again
        count = np.bincount(rng.integers(names.size, size=names.size), minlength=names.size)
        weight = np.where(alone, count[first], count[first] * count[second])
        if weight.any():
            return weight.astype(float)


def _checked(distance: xr.DataArray, num_resamples: int, level: float) -> xr.DataArray:
    if num_resamples < 2:
        raise ValueError(f"num_resamples: expected at least 2; got {num_resamples}.")
    check_level(level)
    return checked(distance, *CORE)


def _unlabelled(distance: xr.DataArray) -> xr.DataArray:
    return distance.reset_coords(drop=True).drop_vars(["retraining", "pair"], errors="ignore")


def _retrainings(rng: np.random.Generator, shape: tuple[int, int], num_retrainings: int) -> xr.DataArray:
    """Indices (resample, retraining)."""
    return xr.DataArray(rng.integers(num_retrainings, size=shape), dims=["resample", "retraining"])


def _pairs(rng: np.random.Generator, num: int, distance: xr.DataArray, points: np.ndarray | None) -> xr.DataArray:
    """Indices (resample, pair)."""
    ends, num_pairs = end_points(distance, points), distance.sizes["pair"]
    quantile = (np.arange(num_pairs) + 0.5) / num_pairs
    resampled = np.empty((num, num_pairs), dtype=int)
    for row in resampled:
        weight = resampled_weights(rng, ends)
        # Systematic resampling: as many pairs as given, in proportion to their weights, with the least extra noise.
        row[:] = np.searchsorted(np.cumsum(weight), quantile * weight.sum(), side="right")
    return xr.DataArray(resampled, dims=["resample", "pair"])


def _resampled(statistic: Statistic, distance: xr.DataArray, retrainings: xr.DataArray, pairs: xr.DataArray) -> Any:
    """The statistic of every resample, a bounded number of them at once."""
    num_resamples, size = retrainings.sizes["resample"], distance.size // distance.sizes["retraining"]
    step = max(1, _CHUNK // (size * retrainings.sizes["retraining"]))
    chunks = [slice(start, start + step) for start in range(0, num_resamples, step)]
    return xr.concat(
        [statistic(distance.isel(retraining=retrainings[c], pair=pairs[c])) for c in chunks], dim="resample"
    )


def _quantiles(resampled: Any, level: float) -> Any:
    """Quantiles of (resampled − mean of resampled), dim `bound`."""
    centred = resampled - resampled.mean("resample", skipna=False)
    quantiles = centred.quantile([(1 - level) / 2, (1 + level) / 2], dim="resample", skipna=False)
    return quantiles.rename(quantile="bound").assign_coords(bound=["lower", "upper"])


def _normal(alpha: float, power: float, variance: float, effect: float, df: float = math.inf) -> float:
    """(t_{1−α/2} + t_power)² v / effect²."""
    quantiles = stats.t.ppf(1 - alpha / 2, df) + stats.t.ppf(power, df)
    return float(max(quantiles, 0) ** 2 * variance / effect**2)
