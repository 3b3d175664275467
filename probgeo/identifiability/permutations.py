"""Would the difference hold in other trainings? Tests that permute whole retrainings, and what they can tell."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from probgeo.identifiability.statistics import CORE, check_level, checked, same_pairs

_CHUNK = 2**17  # distances permuted at once: 1 MiB, which the cache of a processor holds
_TIE = 1e-9  # relative: permutations that are equal but for rounding are ties
_WORDS = {"two-sided": "", "less": "less", "greater": "more"}


class _Regrouped(NamedTuple):
    """Rows of both sides' retrainings, one behind the other, that every permutation takes for a and b."""

    first: np.ndarray  # (permutation, retraining); the first permutation is the given one
    second: np.ndarray
    has_mirror: bool  # all permutations of sides of one size: the last exchanges the sides whole


_Regroup = Callable[[int, int], _Regrouped]


def permutation_test(
    distance_a: xr.DataArray,
    distance_b: xr.DataArray,
    alternative: str = "two-sided",
    num_permutations: int = 9999,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """p = (1 + #{T* ≥ T}) / (1 + m) over m permutations of whole retrainings, T = log(CV_a / CV_b) / SE.

    For two models that were trained independently of each other. CV is the mean over pairs of the coefficient of
    variation. Every pair is divided by its mean on its own side, so that only variation is compared, and what is
    permuted is a training with all its pairs: they are as dependent as they are. SE is the jackknife's over
    retrainings, of both sides together, computed anew in every permutation (studentised), so that the test keeps its
    level where the sides differ in more than their CV. All permutations are taken where there are no more than
    `num_permutations` + 1; the p-value then counts the given one once, as it does among random ones.

    Exact if the means of the pairs were known. They are estimated, so the test is somewhat liberal with few
    retrainings: at 5 % it rejects 7 to 8 % of true hypotheses with five on a side, 5 to 6 % with ten or fifteen
    (`experiments.null_tests`). Retrainings are never matched, whatever their labels: a
    and b may have different numbers of them. Models that share trainings are for `swap_test`.

    Args:
        distance_a: distances, dims (retraining, pair, ...), not negative, in any unit.
        distance_b: distances of the same pairs in other trainings; its other dims broadcast against those of a.
        alternative: "two-sided", "less" (a varies less than b) or "greater", as in SciPy.
        num_permutations: random ones, where there are too many to take all.
        level: coverage of the interval; the verdict is at 1 − `level`.
        seed: of random permutations; the global random state is not used.

    Returns:
        Dataset over the other dims:
        `p_value`; `smallest_p` that these numbers of retrainings allow (three against three: .1, two-sided);
        `estimate`, the ratio CV_a / CV_b, below 1 if a varies less; `interval` of the ratio, dim `bound`, all ratios
        that the studentised test does not reject (0 or infinity where it can reject none); `statistic` T;
        `standard_error` of the log ratio; `p_jackknife`, by Student's t with Welch's degrees of freedom, as a check;
        `variance_per_retraining` of the log ratio, for `retrainings_to_detect`; `retrainings_a`, `retrainings_b` and
        `pairs` that were used; and `verdict` in words. A retraining without any distance, and a pair that misses one
        elsewhere or is 0 throughout, are left out. All is missing where a side has no distances.

    Raises:
        ValueError: a dim is missing, fewer than three retrainings or no pair are left on a side, a distance is
            negative, the pairs or labels differ, coordinates `training` show that sides share trainings, or an
            argument is out of range.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> noise = np.random.default_rng(0).normal(size=(2, 8, 20))
        >>> a = xr.DataArray(1 + 0.05 * noise[0], dims=["retraining", "pair"])
        >>> b = xr.DataArray(1 + 0.20 * noise[1], dims=["retraining", "pair"])
        >>> test = pg.identifiability.permutation_test(a, b, num_permutations=999)
        >>> test.p_value.item() < 0.01, round(test.estimate.item(), 1)  # the ratio of the CVs, 0.05 / 0.20
        (True, 0.2)

    References:
        Janssen (1997), Studentized permutation tests for non-i.i.d. hypotheses, Statistics & Probability Letters 36;
        Phipson & Smyth (2010), Permutation p-values should never be zero, SAGMB 9; Efron & Stein (1981), The jackknife
        estimate of variance, Annals of Statistics 9.
    """
    _check(alternative, num_permutations, level)
    a, b = same_pairs(_positive("distance_a", distance_a), _positive("distance_b", distance_b))
    if _trainings(a) & _trainings(b):
        raise ValueError(
            "distance_a, distance_b: expected trainings that are independent of each other; the coordinate `training` "
            f"shows {len(_trainings(a) & _trainings(b))} on both sides. Use `swap_test`."
        )

    def regroup(num_a: int, num_b: int) -> _Regrouped:
        num = num_a + num_b
        if math.comb(num, num_a) <= num_permutations + 1:
            first = np.array(list(combinations(range(num), num_a)))
            others = np.ones((len(first), num), dtype=bool)
            np.put_along_axis(others, first, False, axis=1)
            return _Regrouped(first, np.nonzero(others)[1].reshape(-1, num_b), num_a == num_b)
        rows = np.tile(np.arange(num), (1 + num_permutations, 1))
        rows[1:] = np.random.default_rng(seed).permuted(rows[1:], axis=1)
        return _Regrouped(rows[:, :num_a], rows[:, num_a:], False)

    return _tested(a, b, regroup, alternative, level, paired=False)


def swap_test(
    distance_a: xr.DataArray,
    distance_b: xr.DataArray,
    alternative: str = "two-sided",
    num_permutations: int = 9999,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """p = (1 + #{T* ≥ T}) / (1 + m) over m exchanges of a and b within trainings, T = log(CV_a / CV_b) / SE.

    For two measures of the same trainings, or two models that share them (a trained decoder, and the same with
    uncertainty added afterwards). As `permutation_test`, but what moves both in one training stays with both: each
    training's distances are exchanged as a whole or not at all, and SE is the jackknife's over trainings, of the
    difference. Every pair is divided by its mean under its own measure first, for units differ. Two-sided, it takes six
    trainings for a p below .05.

    Args:
        distance_a: distances, dims (retraining, pair, ...), not negative, in any unit.
        distance_b: distances of the same pairs in the same trainings. Matched by the coordinate `seed` where both have
            it, else by the labels of `retraining`, else, without labels on either side, by their order.
        alternative, num_permutations, level, seed: as for `permutation_test`.

    Returns:
        As `permutation_test`.

    Raises:
        ValueError: as `permutation_test`, or the trainings do not match.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> noise = np.random.default_rng(0).normal(size=(8, 20))
        >>> a = xr.DataArray(1 + 0.1 * noise, dims=["retraining", "pair"])
        >>> test = pg.identifiability.swap_test(a, 3 * a**2, num_permutations=999)
        >>> test.p_value.item() < 0.01, round(test.estimate.item(), 1)  # squares vary twice as much, in any unit
        (True, 0.5)

    References:
        Fisher (1935), The design of experiments, section 21; and as `permutation_test`.
    """
    _check(alternative, num_permutations, level)
    a, b = same_pairs(_positive("distance_a", distance_a), _positive("distance_b", distance_b))
    b = _matched(a, b)
    if "training" in a.coords and "training" in b.coords:
        of_a, of_b = (d["training"].drop_vars(set(d["training"].coords) - {"model"}) for d in (a, b))
        if not bool((of_a == of_b).all()):
            raise ValueError(
                "distance_a, distance_b: expected the same trainings; the coordinate `training` differs. Use "
                "`permutation_test` for independent trainings."
            )

    def regroup(num: int, _: int) -> _Regrouped:
        is_small = 2**num <= num_permutations + 1
        if is_small:
            exchanged = np.arange(2**num)[:, None] >> np.arange(num) & 1
        else:
            exchanged = np.random.default_rng(seed).integers(2, size=(1 + num_permutations, num))
            exchanged[0] = 0
        return _Regrouped(np.arange(num) + num * exchanged, np.arange(num) + num * (1 - exchanged), is_small)

    return _tested(a, b, regroup, alternative, level, paired=True)


def _check(alternative: str, num_permutations: int, level: float) -> None:
    if alternative not in _WORDS:
        raise ValueError(f"alternative: expected one of {', '.join(map(repr, _WORDS))}; got {alternative!r}.")
    if num_permutations < 1:
        raise ValueError(f"num_permutations: expected at least 1; got {num_permutations}.")
    check_level(level)


def _positive(name: str, distance: xr.DataArray) -> xr.DataArray:
    """Checked distances (…, retraining, pair), infinite ones missing."""
    try:
        d = checked(checked(distance, "retraining", least=3), "pair", least=1)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).partition(': ')[2]}") from error
    if bool((d < 0).any()):
        raise ValueError(f"{name}: expected distances, none negative; got {float(d.min()):g}.")
    return d.where(np.isfinite(d)).transpose(..., *CORE)


def _trainings(distance: xr.DataArray) -> set[Any]:
    """The identities of the trainings, where the array says them."""
    return set(distance["training"].values.ravel().tolist()) if "training" in distance.coords else set()


def _matched(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """b with its retrainings in the order of those of a."""
    name = next((name for name in ("seed", "retraining") if all(_labels(d, name) is not None for d in (a, b))), None)
    if name is None:
        bare = [side for side, d in (("a", a), ("b", b)) if "retraining" not in d.indexes]
        if len(bare) == 1 or a.sizes["retraining"] != b.sizes["retraining"]:
            raise ValueError(
                f"distance_a, distance_b: expected the same trainings; got {a.sizes['retraining']} and "
                f"{b.sizes['retraining']}, labels of `retraining` missing on {' and '.join(bare)}. Give both the "
                "coordinate `seed`, or use `permutation_test` for independent trainings."
            )
        return b
    of_a, of_b = (np.asarray(_labels(d, name)) for d in (a, b))
    unique = len(set(of_a.tolist())) == len(of_a) and len(set(of_b.tolist())) == len(of_b)
    if not unique or set(of_a.tolist()) != set(of_b.tolist()):
        raise ValueError(
            f"distance_a, distance_b: expected the same trainings, each once; got {name} {of_a.tolist()} and "
            f"{of_b.tolist()}. Select the shared ones, or use `permutation_test` for independent trainings."
        )
    place = {label: index for index, label in enumerate(of_b.tolist())}
    return b.isel(retraining=[place[label] for label in of_a.tolist()])


def _labels(distance: xr.DataArray, name: str) -> np.ndarray | None:
    """The coordinate of the retrainings, if there is one along them alone."""
    alone = name in distance.coords and distance[name].dims == ("retraining",)
    return distance[name].values if alone else None


_RESULTS = (
    *("p_value", "smallest_p", "estimate", "lower", "upper", "statistic", "standard_error", "p_jackknife"),
    *("variance_per_retraining", "retrainings_a", "retrainings_b", "pairs"),
)


def _tested(
    a: xr.DataArray, b: xr.DataArray, regroup: _Regroup, alternative: str, level: float, paired: bool
) -> xr.Dataset:
    """The test for every combination of the other dims."""

    def one(of_a: np.ndarray, of_b: np.ndarray) -> tuple[float, ...]:
        if np.isnan(of_a).all() or np.isnan(of_b).all():
            return (math.nan,) * len(_RESULTS)
        x, y = _complete(of_a, of_b, paired)
        regrouped = regroup(len(x), len(y))
        t, *given, df = _studentised(np.concatenate([x, y]), regrouped, _common if paired else _independent)
        log_ratio, standard_error, variance = given
        p, smallest, lower, upper = _rank(regrouped, t, log_ratio, standard_error, alternative, 1 - level)
        tails = {"less": stats.t.cdf(t[0], df), "greater": stats.t.sf(t[0], df)}
        p_jackknife = tails.get(alternative, 2 * stats.t.sf(abs(t[0]), df))
        ratios = [_exp(float(value)) for value in (log_ratio, lower, upper)]
        counts = (len(x), len(y), x.shape[1])
        results = (p, smallest, *ratios, t[0], standard_error, p_jackknife, variance, *counts)
        return tuple(float(value) for value in results)

    # Labels are dropped, and the two dims of retrainings named apart: nothing is aligned along them.
    a, b = (d.reset_coords(drop=True).drop_vars(CORE, errors="ignore") for d in (a, b))
    values = xr.apply_ufunc(
        one, a, b.rename(retraining="retraining_b"), vectorize=True, join="exact",
        input_core_dims=[CORE, ("retraining_b", "pair")], output_core_dims=[[] for _ in _RESULTS],
        output_dtypes=[float] * len(_RESULTS),
    )  # fmt: skip
    found = xr.Dataset(dict(zip(_RESULTS, values, strict=True)))
    bounds = xr.concat([found.lower, found.upper], "bound").assign_coords(bound=["lower", "upper"])
    found = found.drop_vars(["lower", "upper"]).assign(interval=bounds.transpose(..., "bound"))
    told = [found[name] for name in ("p_value", "smallest_p", "estimate", "retrainings_a", "retrainings_b")]
    words = {"alternative": alternative, "level": level}
    found["verdict"] = xr.apply_ufunc(_verdict, *told, kwargs=words, vectorize=True, output_dtypes=[object])
    attrs = {"estimate": "mean CV of a over mean CV of b", **words, "paired": int(paired)}
    return found.assign_attrs(attrs)


def _complete(a: np.ndarray, b: np.ndarray, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """Residuals d / mean − 1 (retraining, pair) of both sides, without what is missing on either."""
    there_a, there_b = (~np.isnan(d).all(1) for d in (a, b))
    if paired:
        there_a = there_b = there_a & there_b
    a, b = a[there_a], b[there_b]
    usable = np.all([np.isfinite(d).all(0) & (d > 0).any(0) for d in (a, b)], axis=0)
    if min(len(a), len(b)) < 3 or not usable.any():
        raise ValueError(
            f"distance_a, distance_b: expected at least 3 retrainings on both sides and a pair whose distances are "
            f"finite and not all 0; got {len(a)} and {len(b)} retrainings with distances, {usable.sum()} such pairs of "
            f"{usable.size}. Train more seeds, or leave out the retrainings that miss most."
        )
    a, b = a[:, usable], b[:, usable]
    # A constant has residuals of exactly 0, whatever the rounding of its mean.
    return tuple(np.where((d == d[0]).all(0), 0.0, d / d.mean(0) - 1) for d in (a, b))  # type: ignore[return-value]


def _studentised(
    residuals: np.ndarray, regrouped: _Regrouped, error: Callable[..., Any]
) -> tuple[np.ndarray, float, float, float, float]:
    """T (permutation,); and of the given one log ratio, SE, variance per retraining, degrees of freedom."""
    num = len(regrouped.first)
    step = max(1, _CHUNK // (residuals.shape[1] * regrouped.first.shape[1]))
    t = np.empty(num)
    given: list[float] = []
    for chunk in (slice(start, start + step) for start in range(0, num, step)):
        of_a, of_b = (_log_cv(residuals[rows[chunk]]) for rows in (regrouped.first, regrouped.second))
        with np.errstate(invalid="ignore", divide="ignore"):
            difference = np.where(of_a[0] == of_b[0], 0.0, of_a[0] - of_b[0])  # two constants vary alike
            standard_error, variance, df = error(of_a[1], of_b[1])
            t[chunk] = np.where(difference == 0, 0.0, difference / standard_error)
        given = given or [float(values[0]) for values in (difference, standard_error, variance, df)]
    log_ratio, standard_error, variance, df = given
    return t, log_ratio, standard_error, variance, df


def _log_cv(residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log mean CV (permutation,) of residuals (permutation, retraining, pair); and of all retrainings but one."""
    num = residuals.shape[1]
    total, squares = residuals.sum(1), np.einsum("mrp,mrp->mp", residuals, residuals)
    whole = _cv(total, squares, num, squares)
    left_out = _cv(total[:, None] - residuals, squares[:, None] - residuals**2, num - 1, squares[:, None])
    with np.errstate(divide="ignore"):
        return np.log(whole.mean(-1)), np.log(left_out.mean(-1))


def _cv(total: np.ndarray, squares: np.ndarray, num: int, scale: np.ndarray) -> np.ndarray:
    """std / mean of 1 + residuals with this sum and sum of squares; 0 for what is below the rounding of `scale`."""
    deviations = squares - total**2 / num
    deviations = np.where(deviations > 16 * num * np.finfo(float).eps * scale, deviations, 0.0)
    mean = 1 + total / num  # 0 only if all distances are: then they do not vary
    return np.sqrt(deviations / (num - 1)) / np.where(mean > 0, mean, 1.0)


def _jackknife(left_out: np.ndarray) -> np.ndarray:
    """(n − 1)/n Σ (θ_(i) − mean θ_(·))² along the last axis; infinite where a θ_(i) is."""
    num = left_out.shape[-1]
    variance = (num - 1) / num * ((left_out - left_out.mean(-1, keepdims=True)) ** 2).sum(-1)
    # All constant: no variation, and a certain one. Some constant: the CV hangs on one retraining.
    infinite = np.isinf(left_out)
    return np.where(infinite.all(-1), 0.0, np.where(infinite.any(-1), math.inf, variance))


def _independent(left_out_a: np.ndarray, left_out_b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SE of log CV_a − log CV_b of independent sides, variance per retraining, Welch's degrees of freedom."""
    of_a, of_b = _jackknife(left_out_a), _jackknife(left_out_b)
    num_a, num_b = left_out_a.shape[-1], left_out_b.shape[-1]
    df = (of_a + of_b) ** 2 / (of_a**2 / (num_a - 1) + of_b**2 / (num_b - 1))
    return np.sqrt(of_a + of_b), num_a * of_a + num_b * of_b, df


def _common(left_out_a: np.ndarray, left_out_b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SE of log CV_a − log CV_b of the same trainings, variance per training, degrees of freedom."""
    num = left_out_a.shape[-1]
    constant = np.isinf(left_out_a).all(-1, keepdims=True) | np.isinf(left_out_b).all(-1, keepdims=True)
    variance = _jackknife(np.where(constant, 0.0, left_out_a - left_out_b))
    return np.sqrt(variance), num * variance, np.full(len(variance), num - 1.0)


def _rank(
    regrouped: _Regrouped, t: np.ndarray, log_ratio: float, standard_error: float, alternative: str, alpha: float
) -> tuple[float, float, float, float]:
    """p-value, the smallest one possible, and the bounds of the log ratios that the test keeps at level alpha."""
    extremeness = {"less": -t, "greater": t}.get(alternative, np.abs(t))
    ties = 2 if regrouped.has_mirror and alternative == "two-sided" else 1  # the mirror image has −T
    tolerance = _TIE * abs(extremeness[0]) if np.isfinite(extremeness[0]) else 0.0
    others = extremeness[1 : len(t) - ties + 1]
    p = (ties + float((others >= extremeness[0] - tolerance).sum())) / len(t)
    # A log ratio δ is kept while the others that reach |log_ratio − δ| / SE, and the given one, are more than α.
    rank = math.floor(alpha * len(t) * (1 + _TIE)) - ties
    critical = float(np.sort(others)[::-1][rank]) if rank >= 0 else math.inf
    reach = critical * standard_error if math.isfinite(critical) else math.inf
    unbounded = not math.isfinite(reach)
    lower = -math.inf if alternative == "less" or unbounded else log_ratio - reach
    upper = math.inf if alternative == "greater" or unbounded else log_ratio + reach
    return p, ties / len(t), lower, upper


def _exp(log: float) -> float:
    return math.exp(log) if log < 700 else math.inf  # what a double holds


def _verdict(
    p: float, smallest: float, ratio: float, num_a: float, num_b: float, alternative: str, level: float
) -> str:
    """What the test says, in words: that it cannot say anything is not that there is nothing."""
    if math.isnan(p):
        return "no distances"
    if smallest > 1 - level:
        return f"cannot tell: {num_a:.0f} against {num_b:.0f} retrainings allow no p below {smallest:.2g}"
    if p > 1 - level:
        return "no difference found" if alternative == "two-sided" else f"not found to vary {_WORDS[alternative]}"
    return f"a varies {'less' if ratio < 1 else 'more'}"
