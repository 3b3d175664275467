"""Does one distance vary less over retrainings than another? Paired tests, effect sizes, many comparisons."""

from collections.abc import Hashable

import numpy as np
import xarray as xr
from scipy import stats

from probgeo.identifiability.statistics import CORE, checked, coefficient_of_variation, same_pairs

_T_TAILS = {"less": stats.t.cdf, "greater": stats.t.sf, "two-sided": lambda t, df: 2 * stats.t.sf(np.abs(t), df)}


def paired_test(distance_a: xr.DataArray, distance_b: xr.DataArray, alternative: str = "less") -> xr.Dataset:
    """Paired t-test on the pairs' coefficients of variation, t = mean(Δ) / (std(Δ) / √n), Δ = CV_a − CV_b.

    Kept to compare with published numbers, not valid for the claim that a varies less. It takes the pairs for
    independent, which share points and trainings, and the retrainings for given: it speaks of these retrainings, not of
    the next. Where nothing differs, two groups of retrainings of one model, it rejects at a nominal two-sided 5 % in 18
    to 78 % of cases (`experiments.null_tests`); `permutation_test`, which permutes retrainings, in 5 to 7 %, and
    `swap_test` in 3 to 4 %. Retrainings are not paired: the two may have different numbers of them.

    Args:
        distance_a: distances, dims (retraining, pair, ...).
        distance_b: distances of the same pairs; its other dims broadcast against those of `distance_a`.
        alternative: the hypothesis on mean(Δ) as in SciPy, "less" (a varies less than b), "greater" or "two-sided".

    Returns:
        Dataset with `t`, `p`, `df`, `mean_difference` and `effect_size`, Cohen's d = mean(Δ) / std(Δ), over the other
        dims. Pairs without a CV on either side are left out: `df` + 1 pairs were used. `t`, `p` and `effect_size` are
        missing where all Δ are equal.

    Raises:
        ValueError: a dim is missing or has fewer than two entries, the pairs differ, or `alternative` is unknown.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> noise = np.random.default_rng(0).normal(size=(2, 8, 20))
        >>> a = xr.DataArray(1 + 0.05 * noise[0], dims=["retraining", "pair"])
        >>> b = xr.DataArray(1 + 0.20 * noise[1], dims=["retraining", "pair"])
        >>> test = pg.identifiability.paired_test(a, b)
        >>> round(test.mean_difference.item(), 2), test.p.item() < 0.01, test.df.item()  # about 0.05 − 0.20
        (-0.15, True, 19)

    References:
        Cohen (1988), Statistical power analysis for the behavioral sciences, section 2.3.5.
    """
    difference = _cv_differences(distance_a, distance_b, alternative)
    mean, df = difference.mean("pair"), difference.count("pair") - 1
    std = (((difference - mean) ** 2).sum("pair") / df.where(df > 0)) ** 0.5
    effect_size = mean / std.where(std > 0)
    t = effect_size * (df + 1) ** 0.5
    p = xr.apply_ufunc(_T_TAILS[alternative], t, df)
    return xr.Dataset({"t": t, "p": p, "df": df, "mean_difference": mean, "effect_size": effect_size})


def wilcoxon_test(distance_a: xr.DataArray, distance_b: xr.DataArray, alternative: str = "less") -> xr.Dataset:
    """Wilcoxon's signed-rank test on the pairs' coefficients of variation: as `paired_test`, by ranks of Δ alone.

    And no more valid: where nothing differs it rejects at a nominal two-sided 5 % in 26 to 79 % of cases.

    Args:
        distance_a: distances, dims (retraining, pair, ...).
        distance_b: distances of the same pairs; its other dims broadcast against those of `distance_a`.
        alternative: as for `paired_test`.

    Returns:
        Dataset with `p` and `effect_size`, the rank-biserial correlation: the share of the rank sum where Δ > 0 less
        that where Δ < 0, in [-1, 1]. Missing where all Δ are 0; pairs with Δ = 0 or without a CV are left out.

    Raises:
        ValueError: as `paired_test`.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> noise = np.random.default_rng(0).normal(size=(2, 8, 20))
        >>> a = xr.DataArray(1 + 0.05 * noise[0], dims=["retraining", "pair"])
        >>> b = xr.DataArray(1 + 0.20 * noise[1], dims=["retraining", "pair"])
        >>> test = pg.identifiability.wilcoxon_test(a, b)
        >>> test.effect_size.item(), test.p.item() < 0.01  # a varies less on every pair
        (-1.0, True)

    References:
        Wilcoxon (1945), Individual comparisons by ranking methods; Kerby (2014), The simple difference formula.
    """
    difference = _cv_differences(distance_a, distance_b, alternative)

    def test(delta: np.ndarray) -> tuple[float, float]:
        delta = delta[np.isfinite(delta) & (delta != 0)]
        if not len(delta):
            return np.nan, np.nan
        ranks = stats.rankdata(np.abs(delta))
        return stats.wilcoxon(delta, alternative=alternative).pvalue, float(
            (np.sign(delta) * ranks).sum() / ranks.sum()
        )

    p, effect_size = xr.apply_ufunc(
        test, difference, input_core_dims=[["pair"]], output_core_dims=[[], []], vectorize=True
    )
    return xr.Dataset({"p": p, "effect_size": effect_size})


def holm(p: xr.DataArray, *dims: Hashable) -> xr.DataArray:
    """Holm's corrected p-values, max over j <= i of (m − j + 1) p_(j): some of m true hypotheses falls with this level.

    Args:
        p: p-values of m tests along `dims`; missing ones are no tests.
        dims: of the family of tests; default: all.

    Returns:
        Dims of `p`, at most 1: a test with a corrected value below α is significant in the family at level α.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> p = xr.DataArray([0.01, 0.04, 0.03], dims="test")
        >>> pg.identifiability.holm(p).values  # 3 · 0.01, and 2 · 0.03 for both others
        array([0.03, 0.06, 0.06])

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
    """
    family = list(dims or p.dims)

    def corrected(values: np.ndarray) -> np.ndarray:
        flat = values.ravel()
        order = np.argsort(flat)  # missing ones last
        num_tests = np.isfinite(flat).sum()
        factor = np.maximum(num_tests - np.arange(flat.size), 1)
        result = np.empty_like(flat)
        result[order] = np.minimum(np.maximum.accumulate(factor * flat[order]), 1)
        return result.reshape(values.shape)

    result = xr.apply_ufunc(
        corrected, p.astype(float), input_core_dims=[family], output_core_dims=[family], vectorize=True
    )
    return result.transpose(*p.dims)


def _cv_differences(distance_a: xr.DataArray, distance_b: xr.DataArray, alternative: str) -> xr.DataArray:
    """Δ = CV_a − CV_b per pair."""
    if alternative not in _T_TAILS:
        raise ValueError(f"alternative: expected one of {', '.join(map(repr, _T_TAILS))}; got {alternative!r}.")
    a, b = same_pairs(*(checked(distance, *CORE) for distance in (distance_a, distance_b)))
    a, b = (coefficient_of_variation(d).reset_coords(drop=True) for d in (a, b))
    return a - b
