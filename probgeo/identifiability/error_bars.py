"""Can one training's error bar be trusted? Intervals from its decoder draws, against other retrainings' distances.

Each of S decoder draws gives a path a length. If another retraining's distance were one more such draw, all of them
exchangeable and normal, then e = (distance − mean) / (std √(1 + 1/S)) would follow Student's t with S − 1 degrees of
freedom. How far the errors e of real retrainings depart from it is what this file measures.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from probgeo.identifiability.chains import rhat
from probgeo.identifiability.resampling import end_points, resampled_weights
from probgeo.identifiability.statistics import CORE, check_level, checked

LEVELS = (0.5, 0.8, 0.9, 0.95)


def predictive_interval(draw_length: xr.DataArray, level: float = 0.9, factor: float = 1.0) -> xr.DataArray:
    """Student-t interval of one more draw, mean ± factor · t std √(1 + 1/S), t the quantile with S − 1 degrees.

    With factor 1 it covers one more exchangeable normal draw at exactly its level.

    Args:
        draw_length: lengths under each draw, dims (draw, ...), at least two draws.
        level: nominal coverage, in (0, 1).
        factor: widens the interval, such as `error_scale` of other retrainings and pairs.

    Returns:
        Dims without draw, with a further dim `bound`, ("lower", "upper"), in the unit of the lengths.

    Raises:
        ValueError: no dim draw or fewer than two entries, `level` out of its range, or `factor` not positive.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> draws = xr.DataArray([9.0, 10.0, 11.0], dims="draw")
        >>> pg.identifiability.predictive_interval(draws, level=0.5).values.round(2)  # 10 ± 0.816 · 1 · √(4/3)
        array([ 9.06, 10.94])
    """
    check_level(level)
    if not factor > 0:
        raise ValueError(f"factor: expected a positive number; got {factor}.")
    mean, scale, num_draws = _predictive(draw_length)
    reach = factor * stats.t.ppf((1 + level) / 2, num_draws - 1) * scale
    return xr.concat([mean - reach, mean + reach], "bound").assign_coords(bound=["lower", "upper"])


def prediction_errors(draw_length: xr.DataArray, distance: xr.DataArray) -> xr.DataArray:
    """Errors e = (distance − mean) / (std √(1 + 1/S)) of one retraining's draws about every other's distance.

    Args:
        draw_length: lengths under each draw, dims (retraining, draw, pair, ...).
        distance: distances, dims (retraining, pair, ...), of the same retrainings.

    Returns:
        Dims (retraining, target, pair, ...), no unit: by the retraining that predicts and the one that is predicted;
        missing where they are the same, or where a length is missing or the draws do not differ.

    Raises:
        ValueError: a dim is missing, there are fewer than two retrainings or draws, or retrainings or pairs differ.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> draws = xr.DataArray([[9.0, 10.0, 11.0], [18.0, 20.0, 22.0]], dims=["retraining", "draw"])
        >>> distance = xr.DataArray([10.0, 20.0], dims="retraining")
        >>> draws, distance = (values.expand_dims(pair=2, axis=-1) for values in (draws, distance))
        >>> errors = pg.identifiability.prediction_errors(draws, distance).isel(pair=0)
        >>> errors.values.round(2)  # (20 − 10) / (1 √(1 + 1/3)) and (10 − 20) / (2 √(1 + 1/3))
        array([[  nan,  8.66],
               [-4.33,   nan]])
    """
    d = checked(distance, *CORE)
    lengths = checked(draw_length, *CORE, "draw")
    if any(d.sizes[dim] != lengths.sizes[dim] for dim in CORE):
        raise ValueError(f"distance: expected the sizes of draw_length, {dict(lengths.sizes)}; got {dict(d.sizes)}.")
    mean, scale, _ = _predictive(lengths)
    target = d.drop_vars("retraining", errors="ignore").rename(retraining="target")
    other = xr.DataArray(~np.eye(d.sizes["retraining"], dtype=bool), dims=["retraining", "target"])
    return ((target - mean) / scale).where(other).transpose("retraining", "target", "pair", ...)


def left_out_errors(draw_length: xr.DataArray) -> xr.DataArray:
    """Errors of each retraining's draws about one of their own, left out: exchangeable whatever the distances are.

    They follow Student's t with S − 2 degrees if lengths are normal over draws. So they tell how much of a failure
    to cover comes from other distributions than the normal one.

    Args:
        draw_length: lengths under each draw, dims (retraining, draw, pair, ...), at least three draws.

    Returns:
        Dims of `draw_length`: by the draw left out.

    Raises:
        ValueError: no dim draw, or fewer than three draws.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> draws = xr.DataArray([[[9.0], [11.0], [13.0]]], dims=["retraining", "draw", "pair"])
        >>> errors = pg.identifiability.left_out_errors(draws)
        >>> errors.values[0, :, 0].round(2)  # the last: (13 − 10) / (√2 √(1 + 1/2))
        array([-1.73,  0.  ,  1.73])
    """
    d = checked(draw_length, "draw", least=3)
    num = d.sizes["draw"] - 1
    mean = (d.sum("draw", skipna=False) - d) / num
    centred = d - d.mean("draw", skipna=False)
    # Σ (others − their mean)² = Σ (all − mean of all)² − (S / (S − 1)) (left out − mean of all)².
    squares = (centred**2).sum("draw", skipna=False) - (num + 1) / num * centred**2
    scale = (squares.clip(min=0) / (num - 1) * (1 + 1 / num)) ** 0.5
    return ((d - mean) / scale.where(scale > 0)).transpose(*d.dims)


def exchangeable_coverage(num_draws: int, level: float) -> float:
    """Coverage of mean ± z std, z the normal quantile, if the target is one more exchangeable normal draw.

    It lies below the level, by much with few draws: P(|t| <= z / √(1 + 1/S)), t with S − 1 degrees.

    Args:
        num_draws: S, at least 2.
        level: nominal coverage, in (0, 1).

    Returns:
        A probability.

    Example:
        >>> import probgeo as pg
        >>> round(pg.identifiability.exchangeable_coverage(num_draws=3, level=0.9), 2)
        0.71
        >>> round(pg.identifiability.exchangeable_coverage(num_draws=100_000, level=0.9), 2)
        0.9
    """
    check_level(level)
    if num_draws < 2:
        raise ValueError(f"num_draws: expected at least 2; got {num_draws}.")
    z = stats.norm.ppf((1 + level) / 2)
    return float(1 - 2 * stats.t.sf(z / np.sqrt(1 + 1 / num_draws), num_draws - 1))


def between_within_ratio(draw_length: xr.DataArray, distance: xr.DataArray) -> xr.DataArray:
    """Std of the distance between retrainings over the root mean square, over retrainings, of its std within one.

    Args:
        draw_length: lengths under each draw, dims (retraining, draw, pair, ...).
        distance: distances, dims (retraining, pair, ...).

    Returns:
        Dims of `distance` without retraining; missing where the draws do not differ. As a distance is about the mean
        of its S draws, it is 1/√S if all draws of all retrainings are exchangeable. Where it is √((1 + 1/S) / 2) the
        Student-t interval covers at its level, because the retraining that predicts is as far off as the predicted.

    Raises:
        ValueError: a dim is missing or has fewer than two entries.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> draws = xr.DataArray([[9.0, 10.0, 11.0], [19.0, 20.0, 21.0]], dims=["retraining", "draw"])
        >>> distance = xr.DataArray([10.0, 20.0], dims="retraining")
        >>> draws, distance = (values.expand_dims(pair=2, axis=-1) for values in (draws, distance))
        >>> pg.identifiability.between_within_ratio(draws, distance).values.round(2)  # √50 over 1
        array([7.07, 7.07])
    """
    within = checked(draw_length, *CORE, "draw").var("draw", ddof=1, skipna=False).mean("retraining", skipna=False)
    return checked(distance, *CORE).std("retraining", ddof=1, skipna=False) / within.where(within > 0) ** 0.5


def conformal_quantile(errors: np.ndarray, level: float) -> float:
    """The ⌈(n + 1) level⌉-th smallest of n absolute errors: at least `level` of exchangeable new ones lie below it.

    Args:
        errors: of any shape; missing ones do not count.
        level: nominal coverage, in (0, 1).

    Returns:
        The quantile; infinite with fewer than level / (1 − level) errors.

    Example:
        >>> import numpy as np, probgeo as pg
        >>> errors = np.array([3.0, 1.0, 2.0, 4.0])
        >>> [pg.identifiability.conformal_quantile(errors, level) for level in (0.6, 0.9)]  # four are too few for 0.9
        [3.0, inf]

    References:
        Papadopoulos et al. (2002), Inductive confidence machines; Lei et al. (2018), Distribution-free predictive
        inference for regression, theorem 2.
    """
    check_level(level)
    e = np.sort(np.abs(errors[~np.isnan(errors)]))
    rank = int(np.ceil((e.size + 1) * level - 1e-9))  # not one more because of rounding
    return float(e[rank - 1]) if rank <= e.size else np.inf


def error_scale(errors: np.ndarray, num_draws: int) -> float:
    """The factor c, one for all levels, that makes errors likeliest if e / c follows Student's t with S − 1 degrees.

    Args:
        errors: of any shape; missing ones do not count.
        num_draws: S.

    Returns:
        c, no unit: 1 where the Student-t interval is right, above it where it is too narrow.

    Example:
        >>> import numpy as np, probgeo as pg
        >>> errors = np.random.default_rng(0).standard_t(9, size=10_000)
        >>> scales = [pg.identifiability.error_scale(factor * errors, num_draws=10) for factor in (1, 3)]
        >>> [round(scale, 1) for scale in scales]
        [1.0, 3.0]
    """
    e = errors[~np.isnan(errors)]
    return float(stats.t.fit(e, f0=num_draws - 1, floc=0)[2])


def pair_halves(ends: np.ndarray, seed: int) -> np.ndarray:
    """A random split of pairs into halves without a common end point: 0 or 1 per pair, -1 for pairs left out.

    Whole groups of connected pairs go to the smaller half so far. A group with more than half of all pairs is split
    by its points, and the pairs between the halves are left out.

    Args:
        ends: names of the pairs' end points, (pair, 2).
        seed: of the split.

    Returns:
        Half of each pair, (pair).

    Example:
        >>> import numpy as np, probgeo as pg
        >>> ends = np.array([[0, 1], [1, 2], [3, 4], [4, 5]])  # two chains
        >>> first, second, third, fourth = pg.identifiability.pair_halves(ends, seed=0).tolist()
        >>> first == second, third == fourth, first != third
        (True, True, True)
    """
    rng = np.random.default_rng(seed)
    names, codes = np.unique(ends, return_inverse=True)
    first, second = codes.reshape(-1, 2).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(names.size, names.size))
    group = connected_components(graph, directed=False)[1][first]
    half = np.full(len(first), -1)
    sizes = np.bincount(group)
    for index in rng.permutation(np.unique(group)):
        members = group == index
        if 2 * sizes[index] > len(first):
            side = rng.permutation(names.size) % 2
            whole = members & (side[first] == side[second])
            half[whole] = side[first][whole]
        else:
            half[members] = np.sum(half == 1) < np.sum(half == 0)
    return half


def calibration(
    draw_length: xr.DataArray,
    distance: xr.DataArray,
    levels: Sequence[float] = LEVELS,
    num_splits: int = 50,
    num_resamples: int = 1000,
    interval_level: float = 0.95,
    seed: int = 0,
    points: np.ndarray | None = None,
) -> xr.Dataset:
    """Coverage of other retrainings' distances by one training's intervals, at each nominal level.

    Intervals: `normal`, mean ± z std; `student`, `predictive_interval`; `recalibrated`, the same with the factor
    `error_scale`; `conformal`, with `conformal_quantile` in place of t, level by level. The last two learn from half
    of the retrainings on half of the pairs and are tested on the other retrainings and on pairs without a common
    end point, over random splits.

    Args:
        draw_length: lengths under each draw, dims (retraining, draw, pair), at least three draws. Draws and pairs
            with a missing length are left out, and pairs whose draws do not differ.
        distance: distances, dims (retraining, pair), at least four retrainings.
        levels: nominal coverages, each in (0, 1).
        num_splits: random splits.
        num_resamples, interval_level, seed, points: of the intervals, as for `bootstrap`.

    Returns:
        Dataset with dims `level` and `interval`: `coverage`; `coverage_lower` and `coverage_upper`, for `normal` and
        `student` a bootstrap interval over retrainings and points, for the others the quantiles over splits;
        `exchangeable`, the coverage if the other distance were one more draw; `left_out` (level), that of left-out
        own draws by the Student-t interval of the others. Per pair `ratio`, `between_within_ratio`, and `rhat`.
        `factor`, the mean over splits of `error_scale`; `num_draws`; `num_pairs`.

    Raises:
        ValueError: a dim is missing or too short, fewer than two pairs are left, or they cannot be split.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> rng = np.random.default_rng(0)
        >>> draws = xr.DataArray(10 + rng.normal(size=(6, 5, 12)), dims=["retraining", "draw", "pair"])
        >>> distance = draws.mean("draw") + xr.DataArray(3 * rng.normal(size=(6, 12)), dims=["retraining", "pair"])
        >>> found = pg.identifiability.calibration(draws, distance, levels=[0.9], num_splits=5, num_resamples=50)
        >>> coverage = found.coverage.sel(level=0.9)
        >>> bool(coverage.sel(interval="student") < 0.9)  # one training does not see that others differ
        True
        >>> bool(coverage.sel(interval="recalibrated") > coverage.sel(interval="student"))
        True
    """
    lengths, d = checked(draw_length, *CORE, "draw"), checked(distance, *CORE)
    lengths = lengths.dropna("draw", how="all").transpose("retraining", "draw", "pair")
    d = d.transpose(*CORE)
    ends = end_points(d, points)
    errors = prediction_errors(lengths, d)
    num_retrainings, num_draws = d.sizes["retraining"], lengths.sizes["draw"]
    kept = errors.notnull().sum(["retraining", "target"]).values == num_retrainings * (num_retrainings - 1)
    if kept.sum() < 2 or num_retrainings < 4 or num_draws < 3:
        raise ValueError(
            "draw_length, distance: expected at least 4 retrainings, 3 draws and 2 pairs without missing lengths; got "
            f"{num_retrainings}, {num_draws} and {kept.sum()}. Train more seeds, take more pairs."
        )
    lengths, d, ends, e = lengths[..., kept], d[:, kept], ends[kept], errors.values[..., kept]
    t = stats.t.ppf((1 + np.asarray(levels)) / 2, num_draws - 1)
    z = stats.norm.ppf((1 + np.asarray(levels)) / 2) / np.sqrt(1 + 1 / num_draws)
    learned, factor = _learned(e, ends, num_draws, levels, num_splits, interval_level, seed)
    fixed = [_with_interval(e, ends, bounds, num_resamples, interval_level, seed) for bounds in (z, t)]
    coverage = np.stack([*fixed, *learned], axis=-1)  # (estimate and bounds, level, interval)
    exchangeable = [[exchangeable_coverage(num_draws, level), level, level, level] for level in levels]
    own = np.abs(left_out_errors(lengths).values).ravel()
    left_out = [np.mean(own <= stats.t.ppf((1 + level) / 2, num_draws - 2)) for level in levels]
    both = ("level", "interval")
    return xr.Dataset(
        {
            "coverage": (both, coverage[0]),
            "coverage_lower": (both, coverage[1]),
            "coverage_upper": (both, coverage[2]),
            "exchangeable": (both, exchangeable),
            "left_out": ("level", left_out),
            "ratio": between_within_ratio(lengths, d).reset_coords(drop=True),
            "rhat": rhat(lengths).reset_coords(drop=True),
            "factor": factor,
            "num_draws": num_draws,
            "num_pairs": int(kept.sum()),
        },
        coords={"level": list(levels), "interval": ["normal", "student", "recalibrated", "conformal"]},
        attrs={"num_splits": num_splits, "interval_level": interval_level},
    )


def _predictive(draw_length: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, int]:
    """Mean and scale std √(1 + 1/S), missing where 0, of one more draw, and S."""
    d = checked(draw_length, "draw")
    num_draws = d.sizes["draw"]
    scale = d.std("draw", ddof=1, skipna=False) * (1 + 1 / num_draws) ** 0.5
    return d.mean("draw", skipna=False), scale.where(scale > 0), num_draws


def _covered(errors: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Shares |e| <= bound of the errors that are not missing, (bound,)."""
    e = np.abs(errors[~np.isnan(errors)])
    return np.array([np.mean(e <= bound) for bound in bounds])


def _with_interval(
    errors: np.ndarray, ends: np.ndarray, bounds: np.ndarray, num_resamples: int, level: float, seed: int
) -> np.ndarray:
    """Coverage by fixed bounds on |e|, and its bootstrap interval: (3, bound).

    A resample weighs a prediction by how often both of its retrainings and its pair were drawn; never one retraining
    by itself, so a coverage of 1 is not an artefact of a retraining that was drawn twice.
    """
    rng = np.random.default_rng(seed)
    num_retrainings = len(errors)
    hits = (np.abs(errors)[..., None] <= bounds).astype(float)  # (retraining, target, pair, bound); missing: no hit
    apart = 1 - np.eye(num_retrainings)
    resampled: list[np.ndarray] = []
    while len(resampled) < num_resamples:
        count = np.bincount(rng.integers(num_retrainings, size=num_retrainings), minlength=num_retrainings)
        couples = np.outer(count, count) * apart
        if not couples.any():  # one retraining only was drawn
            continue
        weight = resampled_weights(rng, ends)
        by_pair = np.tensordot(couples, hits, 2)  # (pair, bound)
        resampled.append(weight @ by_pair / (weight.sum() * couples.sum()))
    estimate = _covered(errors, bounds)
    centred = np.stack(resampled) - np.mean(resampled, axis=0)
    lower, upper = np.quantile(centred, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.stack([estimate, *np.clip([estimate + lower, estimate + upper], 0, 1)])


def _learned(
    errors: np.ndarray,
    ends: np.ndarray,
    num_draws: int,
    levels: Sequence[float],
    num_splits: int,
    interval_level: float,
    seed: int,
) -> tuple[list[np.ndarray], float]:
    """Mean coverage and its quantiles over splits, (3, level) each, recalibrated and conformal; the mean factor."""
    t = stats.t.ppf((1 + np.asarray(levels)) / 2, num_draws - 1)
    coverage, factors = [], []
    for split in range(num_splits):
        rng = np.random.default_rng([seed, split])
        order = rng.permutation(len(errors))
        learning, testing = np.array_split(order, 2)
        half = pair_halves(ends, int(rng.integers(2**31)))
        if not ((half == 0).any() and (half == 1).any()):
            raise ValueError("points: no two halves of the pairs without a common end point; take more points.")
        known = errors[np.ix_(learning, learning)][..., half == 0]
        unknown = errors[np.ix_(testing, testing)][..., half == 1]
        factors.append(error_scale(known, num_draws))
        quantiles = np.array([conformal_quantile(known, level) for level in levels])
        coverage.append([_covered(unknown, factors[-1] * t), _covered(unknown, quantiles)])
    bounds = np.quantile(coverage, [(1 - interval_level) / 2, (1 + interval_level) / 2], axis=0)
    found = np.stack([np.mean(coverage, axis=0), *bounds])  # (estimate and bounds, interval, level)
    return [found[:, 0], found[:, 1]], float(np.mean(factors))
