"""Error bars of one training: exact where draws are exchangeable and normal, and honest where retrainings differ."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from probgeo.identifiability import (
    between_within_ratio,
    calibration,
    conformal_quantile,
    error_scale,
    ess,
    exchangeable_coverage,
    inference_data,
    left_out_errors,
    pair_halves,
    prediction_errors,
    predictive_interval,
    rhat,
)

LEVELS = (0.5, 0.8, 0.9, 0.95)


def simulated(between: float, num_retrainings: int = 10, num_draws: int = 10, num_pairs: int = 60, seed: int = 0):
    """Lengths (retraining, draw, pair) of standard deviation 1 within, `between` between retrainings; distances.

    The distance of a retraining is one more draw of it, so that with between = 0 all are exchangeable.
    """
    rng = np.random.default_rng(seed)
    center = 20 + rng.normal(size=num_pairs) + between * rng.normal(size=(num_retrainings, 1, num_pairs))
    values = center + rng.normal(size=(num_retrainings, num_draws + 1, num_pairs))
    d = xr.DataArray(values, dims=["retraining", "draw", "pair"])
    return d[:, 1:], d[:, 0]


# --- intervals of exchangeable draws ---


@pytest.mark.parametrize("num_draws", [2, 5, 10])
def test_predictive_interval_covers_one_more_normal_draw_at_exactly_its_level(num_draws):
    num = 40_000
    values = xr.DataArray(3 + 2 * np.random.default_rng(0).normal(size=(num, num_draws + 1)), dims=["case", "draw"])
    draws, target = values[:, 1:], values[:, 0]
    for level in LEVELS:
        lower, upper = predictive_interval(draws, level)
        covered = float(((lower <= target) & (target <= upper)).mean())
        assert covered == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / num))


@pytest.mark.parametrize("num_draws", [2, 8, 20])
def test_coverage_of_a_normal_interval_of_few_draws_is_the_formula(num_draws):
    num = 40_000
    values = np.random.default_rng(0).normal(size=(num, num_draws + 1))
    mean, std = values[:, 1:].mean(1), values[:, 1:].std(1, ddof=1)
    covered = np.mean(np.abs(values[:, 0] - mean) <= stats.norm.ppf(0.95) * std)
    assert exchangeable_coverage(num_draws, 0.9) == pytest.approx(covered, abs=4 * 0.5 / np.sqrt(num))
    assert exchangeable_coverage(num_draws, 0.9) < 0.9
    assert exchangeable_coverage(10**7, 0.9) == pytest.approx(0.9, abs=1e-6)


def test_left_out_errors_are_those_of_a_loop_and_follow_student_t():
    lengths, _ = simulated(3.0, num_retrainings=40, num_draws=6, num_pairs=100)
    errors = left_out_errors(lengths)
    others = lengths.values[3, [0, 1, 2, 4, 5], 7]
    expected = (lengths.values[3, 3, 7] - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 5))
    assert float(errors[3, 3, 7]) == pytest.approx(expected, rel=1e-9)
    for level in LEVELS:  # whatever lies between retrainings
        covered = float((np.abs(errors) <= stats.t.ppf((1 + level) / 2, 4)).mean())
        assert covered == pytest.approx(level, abs=0.02)


def test_prediction_errors_are_by_predicting_and_predicted_retraining_never_of_itself():
    lengths, d = simulated(1.0, 4, 5, 6)
    errors = prediction_errors(lengths, d)
    assert errors.dims == ("retraining", "target", "pair")
    own = lengths.values[1, :, 2]
    expected = (float(d[3, 2]) - own.mean()) / (own.std(ddof=1) * np.sqrt(6 / 5))
    assert float(errors[1, 3, 2]) == pytest.approx(expected, rel=1e-12)
    assert np.isnan(errors.values[np.arange(4), np.arange(4)]).all()
    lower, upper = predictive_interval(lengths, 0.8)
    inside = (lower <= d.rename(retraining="target")) & (d.rename(retraining="target") <= upper)
    within = np.abs(errors) <= stats.t.ppf(0.9, 4)
    assert (inside.transpose(*within.dims) == within).where(errors.notnull(), True).all()


# --- ratios and chains ---


@pytest.mark.parametrize("between", [0.0, 1.0, 4.0])
def test_ratio_and_rhat_are_those_of_the_variance_components(between):
    lengths, d = simulated(between, 200, 10, 50)
    assert float(between_within_ratio(lengths, d).mean()) == pytest.approx(np.sqrt(1 + between**2), rel=0.03)
    # B = between² + 1/S, W = 1.
    assert float(rhat(lengths).mean()) == pytest.approx(np.sqrt(1 + between**2), rel=0.03)


def test_ratio_at_which_student_intervals_cover_is_that_of_two_retrainings_as_far_off_as_a_draw():
    num_draws = 10
    of_means = (1 + 1 / num_draws) / 2  # variance of the mean length over retrainings
    lengths, _ = simulated(float(np.sqrt(of_means - 1 / num_draws)), 60, num_draws, 100)
    d = lengths.mean("draw")
    assert float((between_within_ratio(lengths, d) ** 2).mean()) == pytest.approx(of_means, rel=0.05)
    errors = prediction_errors(lengths, d)
    for level in LEVELS:
        covered = float((np.abs(errors) <= stats.t.ppf((1 + level) / 2, num_draws - 1)).where(errors.notnull()).mean())
        assert covered == pytest.approx(level, abs=0.02)
    same, _ = simulated(0.0, 60, num_draws, 100)
    ratio = between_within_ratio(same, same.mean("draw"))
    assert float((ratio**2).mean()) == pytest.approx(1 / num_draws, rel=0.05)  # all draws exchangeable


def test_rhat_of_exchangeable_draws_is_1_and_their_effective_number_is_their_number():
    lengths, _ = simulated(0.0, 8, 50, 60)
    assert float(rhat(lengths).mean()) == pytest.approx(1, abs=0.005)
    assert float(ess(lengths).mean()) == pytest.approx(8 * 50, rel=0.1)
    apart, _ = simulated(10.0, 8, 50, 60)
    assert float(ess(apart).mean()) < 2 * 8  # no more than retrainings, however many draws


def test_retrainings_are_chains():
    lengths, _ = simulated(0.0, 4, 6, 5)
    data = inference_data(lengths.rename("length"))
    assert dict(data.posterior.sizes) == {"chain": 4, "draw": 6, "pair": 5}
    np.testing.assert_array_equal(data.posterior["length"], lengths)
    by_hand = np.sqrt(
        5 / 6 + lengths.mean("draw").var("retraining", ddof=1) / lengths.var("draw", ddof=1).mean("retraining")
    )
    np.testing.assert_allclose(rhat(lengths), by_hand, rtol=1e-12)


# --- learned factors ---


def test_conformal_quantile_guarantees_its_level_and_not_much_more_for_any_distribution():
    rng = np.random.default_rng(0)
    num_known, num = 19, 20_000
    scores = rng.standard_cauchy(size=(num, num_known + 1)) ** 3
    for level in (0.5, 0.8, 0.95):
        covered = np.mean([abs(row[0]) <= conformal_quantile(row[1:], level) for row in scores])
        slack = 4 * np.sqrt(level * (1 - level) / num)
        assert level - slack <= covered <= level + 1 / (num_known + 1) + slack


def test_conformal_quantile_is_infinite_where_too_few_errors_are_known():
    assert conformal_quantile(np.arange(1.0, 20.0), 0.95) == 19
    assert conformal_quantile(np.arange(1.0, 19.0), 0.95) == np.inf
    assert conformal_quantile(np.array([1.0, -3.0, np.nan, 2.0]), 0.5) == 2


def test_error_scale_is_found_again():
    errors = 2.5 * stats.t.rvs(7, size=20_000, random_state=0)
    assert error_scale(np.append(errors, np.nan), 8) == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("num_points", [12, 40, 400])
def test_halves_of_the_pairs_share_no_end_point(num_points):
    ends = np.random.default_rng(0).integers(num_points, size=(60, 2))
    half = pair_halves(ends, seed=1)
    first, second = (set(ends[half == side].ravel()) for side in (0, 1))
    assert first and second and not first & second
    assert (pair_halves(ends, 1) == half).all() and (pair_halves(ends, 2) != half).any()


def test_pairs_without_common_ends_are_halved_and_none_is_left_out():
    half = pair_halves(np.arange(40).reshape(20, 2), seed=0)
    assert np.bincount(half).tolist() == [10, 10]


# --- the whole ---


def test_intervals_of_exchangeable_retrainings_are_calibrated():
    found = [calibration(*simulated(0.0, 8, 10, 40, seed), num_splits=5, num_resamples=20) for seed in range(10)]
    mean = xr.concat(found, "simulation").mean("simulation")
    np.testing.assert_allclose(
        mean.coverage.sel(interval="normal"), mean.exchangeable.sel(interval="normal"), atol=0.03
    )
    for interval in ("student", "recalibrated", "conformal"):
        np.testing.assert_allclose(mean.coverage.sel(interval=interval), LEVELS, atol=0.03)
    np.testing.assert_allclose(mean.left_out, LEVELS, atol=0.02)
    assert float(mean.factor) == pytest.approx(1, abs=0.04)
    assert float(mean.ratio.mean()) == pytest.approx(1, abs=0.04)


def test_intervals_that_ignore_retraining_fail_and_learned_factors_mend_them():
    lengths, d = simulated(4.0, 12, 10, 80)
    found = calibration(lengths, d, num_splits=20, num_resamples=50)
    student, normal = found.coverage.sel(interval="student"), found.coverage.sel(interval="normal")
    assert (student < np.array(LEVELS) - 0.15).all() and (normal < student).all()
    np.testing.assert_allclose(found.coverage.sel(interval=["recalibrated", "conformal"]).T, [LEVELS] * 2, atol=0.07)
    np.testing.assert_allclose(found.left_out, LEVELS, atol=0.03)  # the draws themselves are as they should be
    # Two retrainings and the draws' own error: √(2 · 4² + 1 + 1/10) over √(1 + 1/10).
    assert float(found.factor) == pytest.approx(np.sqrt(33.1 / 1.1), rel=0.15)
    low, high = found.coverage_lower.sel(interval="student"), found.coverage_upper.sel(interval="student")
    assert (low < student).all() and (student < high).all()


@pytest.mark.slow
def test_bootstrap_interval_of_the_coverage_covers_it():
    truth = float(np.mean([_student_coverage(1.5, seed) for seed in range(1000, 1400)]))
    found = [calibration(*simulated(1.5, 10, 8, 30, seed), (0.9,), 2, 200, seed=seed) for seed in range(100)]
    low, high = (np.array([float(f[name].sel(interval="student")[0]) for f in found]) for name in _BOUNDS)
    # Pairs are independent here; ten retrainings make percentile intervals somewhat narrow.
    assert np.mean((low <= truth) & (truth <= high)) >= 0.85


_BOUNDS = ("coverage_lower", "coverage_upper")


def _student_coverage(between: float, seed: int) -> float:
    lengths, d = simulated(between, 10, 8, 30, seed)
    errors = prediction_errors(lengths, d)
    return float((np.abs(errors) <= stats.t.ppf(0.95, 7)).where(errors.notnull()).mean())


def test_draws_and_pairs_that_are_missing_are_left_out_and_counted():
    lengths, d = simulated(1.0, 5, 8, 12)
    padded = xr.concat([lengths, lengths[:, :2] * np.nan], "draw")  # another source has more draws
    padded[2, 3, 4] = np.nan
    padded[:, :8, 5] = 0.0  # equal ends
    found = calibration(padded, d, num_splits=3, num_resamples=10)
    assert (int(found.num_draws), int(found.num_pairs)) == (8, 10)
    kept = [pair for pair in range(12) if pair not in (4, 5)]
    expected = calibration(lengths[..., kept], d[..., kept], num_splits=3, num_resamples=10)
    xr.testing.assert_allclose(found.coverage, expected.coverage)


def test_too_little_is_refused_with_what_there_is():
    lengths, d = simulated(1.0, 3, 5, 6)
    with pytest.raises(ValueError, match=r"expected at least 4 retrainings, 3 draws and 2 pairs .*; got 3, 5 and 6"):
        calibration(lengths, d)
    with pytest.raises(ValueError, match=r"distance: expected the sizes of draw_length"):
        prediction_errors(lengths, d[:2])
    with pytest.raises(ValueError, match=r"level: expected a coverage in \(0, 1\); got 90"):
        predictive_interval(lengths, 90.0)
    with pytest.raises(ValueError, match="factor: expected a positive number; got 0"):
        predictive_interval(lengths, 0.9, 0.0)
    with pytest.raises(ValueError, match="num_draws: expected at least 2; got 1"):
        exchangeable_coverage(1, 0.9)
    star = np.array([[0, 1], [0, 2], [0, 3], [0, 4]])
    with pytest.raises(ValueError, match="points: no two halves of the pairs without a common end point"):
        calibration(*simulated(1.0, 4, 5, 4), num_resamples=10, points=star)
