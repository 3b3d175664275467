"""Intervals and tests: published values, SciPy, and coverage in simulations whose truth is known."""

from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from probgeo.identifiability import (
    bootstrap,
    bootstrap_difference,
    coefficient_of_variation,
    holm,
    icc,
    icc_interval,
    interval_widths,
    kendall_agreement,
    paired_test,
    retrainings_needed,
    wilcoxon_test,
)

RATINGS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]  # targets × judges


def distances(values, **coords) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=["retraining", "pair"], coords=coords)


def components(num: int, num_retrainings: int, num_pairs: int, std=(1.0, 0.3, 0.5), seed: int = 0) -> xr.DataArray:
    """Two-way model 10 + pair + retraining + residual, normal, with these standard deviations; `num` replications."""
    rng = np.random.default_rng(seed)
    shapes = (num, 1, num_pairs), (num, num_retrainings, 1), (num, num_retrainings, num_pairs)
    values = 10 + sum(s * rng.normal(size=shape) for s, shape in zip(std, shapes, strict=True))
    return xr.DataArray(values, dims=["replication", "retraining", "pair"])


def mean_cv(d: xr.DataArray) -> xr.DataArray:
    return coefficient_of_variation(d).mean("pair")


def width(interval: xr.DataArray) -> float:
    return float((interval.sel(bound="upper") - interval.sel(bound="lower")).mean())


# --- ICC ---


def test_interval_of_the_icc_is_the_published_one_for_shrout_and_fleiss_ratings():
    interval = icc_interval(distances(np.transpose(RATINGS)))
    np.testing.assert_allclose(interval, [0.0188, 0.7611], atol=5e-5)  # R psych::ICC, single random raters


def test_icc_estimates_the_share_of_the_pairs_in_the_total_variance():
    found = icc(components(200, 8, 200))
    assert float(found.mean()) == pytest.approx(1 / (1 + 0.09 + 0.25), abs=0.01)  # biased by order 1 / pairs


@pytest.mark.parametrize("std", [(1.0, 0.3, 0.5), (1.0, 0.05, 0.2), (0.5, 0.2, 1.0)])
def test_interval_of_the_icc_covers_the_truth_at_its_level(std):
    truth = std[0] ** 2 / sum(s**2 for s in std)
    interval = icc_interval(components(1000, 6, 20, std), level=0.9)
    covered = ((interval.sel(bound="lower") <= truth) & (truth <= interval.sel(bound="upper"))).mean()
    # Binomial(1000, 0.9) has a standard deviation of 0.0095; Satterthwaite's degrees of freedom are approximate.
    assert 0.87 <= float(covered) <= 0.94


def test_interval_of_the_icc_is_missing_without_variation_between_retrainings():
    same = distances(np.tile([1.0, 2.0, 4.0], (3, 1)))
    assert float(icc(same)) == 1
    assert icc_interval(same).isnull().all()
    with pytest.raises(ValueError, match=r"level: expected a coverage in \(0, 1\); got 95"):
        icc_interval(same, level=95.0)


def test_kendall_agreement_is_the_mean_of_kendalls_tau_b_with_ties():
    values = np.round(np.random.default_rng(0).normal(size=(4, 12)) + np.arange(12) / 4, 0)
    expected = np.mean([stats.kendalltau(values[i], values[j]).statistic for i, j in combinations(range(4), 2)])
    assert float(kendall_agreement(distances(values))) == pytest.approx(expected, abs=1e-14)
    assert np.isnan(kendall_agreement(distances(np.ones((3, 4)))))


# --- bootstrap over points ---


def crossed(num_points: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of some points, and distances (retraining, pair) made by effects of the points alone."""
    points = np.array(list(combinations(range(num_points), 2)))
    effects = np.random.default_rng(0).normal(size=(5, num_points))
    return points, 10 + effects[:, points[:, 0]] + effects[:, points[:, 1]]


def test_resampled_points_give_wider_intervals_than_pairs_where_pairs_share_ends():
    points, values = crossed()
    for statistic, factor in ((mean_cv, 1.1), (lambda d: d.mean(["retraining", "pair"]), 1.3)):
        by_pair = bootstrap(statistic, distances(values))
        by_point = bootstrap(statistic, distances(values), points=points)
        assert width(by_point) > factor * width(by_pair)


def test_end_points_are_taken_from_the_coordinates_of_a_study():
    points, values = crossed()
    coords = {"start": ("pair", points[:, 0]), "stop": ("pair", points[:, 1])}
    by_coordinate = bootstrap(mean_cv, distances(values, **coords))
    xr.testing.assert_identical(by_coordinate, bootstrap(mean_cv, distances(values), points=points))


def test_pairs_without_common_ends_are_resampled_as_pairs():
    d = components(1, 400, 200, (1.0, 0.0, 0.01))[0]
    interval = bootstrap(lambda d: d.mean(["retraining", "pair"]), d, points=np.arange(400).reshape(200, 2))
    expected = 2 * 1.96 * float(d.mean("retraining").std()) / np.sqrt(200)
    assert width(interval) == pytest.approx(expected, rel=0.08)  # by products of the ends' counts it were √3 times that


def test_difference_of_independent_models_is_as_uncertain_as_both_together():
    a, b = components(1, 30, 40, (1.0, 0.0, 0.2))[0], components(1, 31, 40, (1.0, 0.0, 0.3), seed=1)[0]
    separate = [width(bootstrap(mean_cv, d, num_resamples=2000)) for d in (a, b)]
    together = width(bootstrap_difference(mean_cv, a, b, num_resamples=2000))
    assert together == pytest.approx(np.hypot(*separate), rel=0.15)


def test_difference_of_two_measures_of_the_same_retrainings_is_paired():
    a = components(1, 20, 30)[0]
    b = a * 2
    assert (bootstrap_difference(mean_cv, a, b) == pytest.approx(0, abs=1e-12)).all()
    with pytest.raises(ValueError, match=r"distance_b: expected the 30 pairs of distance_a; got 29"):
        bootstrap_difference(mean_cv, a, b[:, 1:])


@pytest.mark.slow
def test_bootstrap_interval_of_the_icc_covers_the_truth():
    d = components(200, 15, 40, (1.0, 0.1, 0.3))
    truth = 1 / (1 + 0.01 + 0.09)
    interval = bootstrap(icc, d, num_resamples=300)
    covered = ((interval.sel(bound="lower") <= truth) & (truth <= interval.sel(bound="upper"))).mean()
    assert 0.85 <= float(covered) <= 0.99


# --- how many retrainings ---


def test_width_of_an_interval_falls_with_the_root_of_the_number_of_retrainings():
    noise = components(1, 12, 400, (0.0, 0.0, 1.0))[0]
    shared = components(1, 12, 1, (0.0, 0.0, 1.0), seed=1)[0]  # what all pairs have in common: more pairs do not help
    widths = interval_widths(lambda d: d.mean(["retraining", "pair"]), 0.01 * noise + shared.values, (4, 16, 64))
    np.testing.assert_allclose(widths / widths[0], [1, 1 / 2, 1 / 4], rtol=0.1)


def test_extrapolated_width_is_that_of_a_study_with_as_many_retrainings():
    many = components(1, 60, 80, (1.0, 0.0, 0.4))[0]
    few = many[:15]
    extrapolated = float(interval_widths(mean_cv, few, (60,))[0])
    assert extrapolated == pytest.approx(width(bootstrap(mean_cv, many)), rel=0.25)


def test_retrainings_needed_inverts_the_law_of_widths():
    numbers = np.array([3, 5, 10, 20])
    widths = xr.DataArray(
        np.sqrt(0.02**2 + 0.3**2 / numbers), dims="num_retrainings", coords={"num_retrainings": numbers}
    )
    assert float(retrainings_needed(widths, 0.05)) == pytest.approx(0.3**2 / (0.05**2 - 0.02**2), rel=1e-9)
    assert np.isinf(retrainings_needed(widths, 0.019))  # the pairs alone leave more
    assert float(retrainings_needed(widths, 10.0)) == 2
    with pytest.raises(ValueError, match=r"width: expected a positive number; got 0.0"):
        retrainings_needed(widths, 0.0)
    with pytest.raises(ValueError, match=r"num_retrainings: expected numbers from 2; got \[1, 4\]"):
        interval_widths(mean_cv, distances(np.ones((3, 4))), [1, 4])


# --- tests of differences ---


def with_cv(values) -> xr.DataArray:
    """Two retrainings whose pairs have mean 1 and the coefficients of variation `values`."""
    half = np.asarray(values) / np.sqrt(2)
    return distances([1 - half, 1 + half])


@pytest.mark.parametrize("alternative", ["less", "greater", "two-sided"])
def test_wilcoxon_test_equals_scipys_and_its_effect_size_is_the_balance_of_ranks(alternative):
    rng = np.random.default_rng(1)
    a, b = 0.3 + 0.05 * rng.normal(size=14), 0.33 + 0.05 * rng.normal(size=14)
    test = wilcoxon_test(with_cv(a), with_cv(b), alternative)
    assert float(test.p) == pytest.approx(stats.wilcoxon(a, b, alternative=alternative).pvalue, rel=1e-9)
    ranks = stats.rankdata(np.abs(a - b))
    expected = (ranks[a > b].sum() - ranks[a < b].sum()) / ranks.sum()
    assert float(test.effect_size) == pytest.approx(expected, rel=1e-12)


def test_effect_sizes_are_bounded_and_missing_without_differences():
    a = np.linspace(0.1, 0.2, 9)
    assert float(wilcoxon_test(with_cv(a), with_cv(2 * a)).effect_size) == -1
    same = wilcoxon_test(with_cv(a), with_cv(a))
    assert np.isnan(same.p) and np.isnan(same.effect_size)
    test = paired_test(with_cv(a), with_cv(a + [0.01, 0.02, 0.03] * 3))
    assert float(test.effect_size) == pytest.approx(-0.02 / np.std([0.01, 0.02, 0.03] * 3, ddof=1), rel=1e-9)
    assert float(test.t) == pytest.approx(3 * float(test.effect_size), rel=1e-12)


def test_holm_corrects_by_hand_and_leaves_missing_tests_out():
    p = xr.DataArray([[0.01, 0.04, np.nan], [0.03, 0.005, 0.6]], dims=["row", "reference"])
    expected = [[0.04, 0.09, np.nan], [0.09, 0.025, 0.6]]  # 5·.005, 4·.01, 3·.03, then 2·.04 is below 3·.03
    np.testing.assert_allclose(holm(p), expected, rtol=1e-12)
    np.testing.assert_allclose(holm(p, "row"), [[0.02, 0.04, np.nan], [0.03, 0.01, 0.6]], rtol=1e-12)
    assert holm(p.T).dims == ("reference", "row")


def test_holm_keeps_the_error_rate_of_the_family():
    p = xr.DataArray(np.random.default_rng(0).random((4000, 8)), dims=["replication", "test"])
    wrong = float((holm(p, "test") < 0.05).any("test").mean())
    assert 0.04 <= wrong <= 0.06  # exactly 1 − (1 − 0.05/8)⁸ = 0.049; uncorrected 0.34
