"""Tests over whole retrainings: exact enumeration by hand, invariances, level under a null that holds, refusals."""

from itertools import combinations, product

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from probgeo.identifiability import permutation_test, retrainings_to_detect, swap_test

TESTS = (permutation_test, swap_test)
ENDS = np.array(list(combinations(range(6), 2)))  # 15 pairs of 6 points, which share ends


def distances(values, **coords) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=["retraining", "pair"], coords=coords)


def trained(rng: np.random.Generator, num: int, cv: float = 0.1, tails: float = 5.0) -> np.ndarray:
    """Distances (retraining, pair) with heavy tails and shared ends: a scale per training, an effect per end point."""
    effects = rng.standard_t(tails, size=(num, 6)) * cv
    scale = rng.standard_t(tails, size=(num, 1)) * cv
    return (1 + np.arange(15)) * np.exp(scale + effects[:, ENDS].sum(-1))


def mean_cv(values) -> float:
    return float((values.std(0, ddof=1) / values.mean(0)).mean())


def left_out(values) -> np.ndarray:
    return np.array([np.log(mean_cv(np.delete(values, index, axis=0))) for index in range(len(values))])


def jackknife(values) -> float:
    return (len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum()


def studentised(a, b) -> float:
    return np.log(mean_cv(a) / mean_cv(b)) / np.sqrt(jackknife(left_out(a)) + jackknife(left_out(b)))


def studentised_together(a, b) -> float:
    return np.log(mean_cv(a) / mean_cv(b)) / np.sqrt(jackknife(left_out(a) - left_out(b)))


def tail(all_t, t, alternative) -> float:
    extreme = {"less": -np.array(all_t), "greater": np.array(all_t), "two-sided": np.abs(all_t)}[alternative]
    given = {"less": -t, "greater": t, "two-sided": abs(t)}[alternative]
    return float((extreme >= given - 1e-9 * abs(given)).mean())


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_permutation_test_is_the_share_of_all_regroupings_that_are_as_extreme(alternative):
    rng = np.random.default_rng(0)
    a, b = trained(rng, 4), trained(rng, 5, 0.15)
    pooled = np.concatenate([a / a.mean(0), b / b.mean(0)])
    all_t = []
    for chosen in combinations(range(9), 4):
        rest = [index for index in range(9) if index not in chosen]
        all_t.append(studentised(pooled[list(chosen)], pooled[rest]))
    test = permutation_test(distances(a), distances(b), alternative)
    assert float(test.statistic) == pytest.approx(studentised(a, b), rel=1e-9)
    assert float(test.p_value) == pytest.approx(tail(all_t, studentised(a, b), alternative), rel=1e-12)
    assert float(test.smallest_p) == 1 / 126
    assert float(test.estimate) == pytest.approx(mean_cv(a) / mean_cv(b), rel=1e-9)


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_swap_test_is_the_share_of_all_exchanges_that_are_as_extreme(alternative):
    rng = np.random.default_rng(1)
    a = trained(rng, 6)
    b = a**1.3 * (1 + 0.1 * rng.normal(size=a.shape))
    x, y = a / a.mean(0), b / b.mean(0)
    all_t = []
    for exchanged in product([False, True], repeat=6):
        where = np.array(exchanged)[:, None]
        all_t.append(studentised_together(np.where(where, y, x), np.where(where, x, y)))
    test = swap_test(distances(a), distances(b), alternative)
    assert float(test.statistic) == pytest.approx(studentised_together(a, b), rel=1e-9)
    assert float(test.p_value) == pytest.approx(tail(all_t, studentised_together(a, b), alternative), rel=1e-12)
    assert float(test.smallest_p) == (2 if alternative == "two-sided" else 1) / 2**6


@pytest.mark.parametrize("test", TESTS)
def test_p_does_not_depend_on_the_units_of_pairs_nor_on_the_order_of_retrainings_and_pairs(test):
    rng = np.random.default_rng(2)
    a, b = trained(rng, 7), trained(rng, 7, 0.2)
    expected = test(distances(a), distances(b))
    factors = np.exp(3 * rng.normal(size=15))
    xr.testing.assert_allclose(test(distances(a), distances(factors * b)), expected, rtol=1e-8)
    order, pairs = rng.permutation(7), rng.permutation(15)
    xr.testing.assert_allclose(test(distances(a[order][:, pairs]), distances(b[order][:, pairs])), expected, rtol=1e-8)


@pytest.mark.parametrize("test", TESTS)
def test_exchanging_the_sides_inverts_the_ratio_and_keeps_p(test):
    rng = np.random.default_rng(3)
    a, b = distances(trained(rng, 6)), distances(trained(rng, 6, 0.15))
    there, back = test(a, b), test(b, a)
    assert float(there.p_value) == float(back.p_value)
    np.testing.assert_allclose(there.interval, 1 / back.interval[::-1], rtol=1e-9)
    assert float(there.p_value) == pytest.approx(2 * min(float(test(a, b, s).p_value) for s in ("less", "greater")),
                                                 abs=0.1)  # fmt: skip
    for alternative, other in (("less", "greater"), ("greater", "less")):
        assert float(test(a, b, alternative).p_value) == float(test(b, a, other).p_value)


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("num_permutations", [9999, 199])
def test_interval_leaves_out_a_ratio_of_one_exactly_where_the_test_rejects(test, level, num_permutations):
    rng = np.random.default_rng(4)
    for cv in (0.06, 0.08, 0.1, 0.13, 0.17, 0.25):
        a, b = distances(trained(rng, 6)), distances(trained(rng, 6, cv))
        for alternative in ("two-sided", "less", "greater"):
            found = test(a, b, alternative, num_permutations, level)
            lower, upper = found.interval.values
            assert (lower > 1 or upper < 1) == bool(float(found.p_value) <= 1 - level + 1e-12)


@pytest.mark.parametrize(("test", "num", "smallest"), [(permutation_test, 3, 0.1), (swap_test, 5, 2 / 32)])
def test_too_few_retrainings_are_said_to_tell_nothing_however_large_the_difference(test, num, smallest):
    rng = np.random.default_rng(5)
    found = test(distances(trained(rng, num, 0.001)), distances(trained(rng, num, 0.5)))
    assert float(found.p_value) == float(found.smallest_p) == pytest.approx(smallest)
    assert str(found.verdict.values) == (
        f"cannot tell: {num} against {num} retrainings allow no p below {smallest:.2g}"
    )
    assert found.interval.values.tolist() == [0, np.inf]
    more = test(distances(trained(rng, num + 1, 0.001)), distances(trained(rng, num + 1, 0.5)))
    assert str(more.verdict.values) == "a varies less"


def test_permutation_test_never_aligns_retrainings_and_takes_different_numbers_of_them():
    rng = np.random.default_rng(6)
    a, b = trained(rng, 5), trained(rng, 4)
    bare = permutation_test(distances(a), distances(b))
    labelled = permutation_test(distances(a, retraining=range(5)), distances(b, retraining=[3, 2, 9, 11]))
    xr.testing.assert_equal(labelled, bare)
    assert (float(bare.retrainings_a), float(bare.retrainings_b)) == (5, 4)


def test_swap_test_matches_by_seed_then_by_label_and_refuses_what_does_not_match():
    rng = np.random.default_rng(7)
    a = trained(rng, 6)
    b = a * (1 + 0.1 * rng.normal(size=a.shape))
    expected, order = swap_test(distances(a), distances(b)), rng.permutation(6)
    labels = np.arange(6) * 10
    for name in ("seed", "retraining"):
        coords = [{name: ("retraining", chosen)} for chosen in (labels, labels[order])]
        found = swap_test(distances(a, **coords[0]), distances(b[order], **coords[1]))
        xr.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"same trainings, each once; got seed .*permutation_test"):
        swap_test(distances(a, seed=("retraining", labels)), distances(b, seed=("retraining", labels + 1)))
    with pytest.raises(ValueError, match=r"same trainings; got 6 and 5"):
        swap_test(distances(a), distances(b[:5]))


def test_trainings_that_are_known_to_be_shared_or_different_need_the_right_test():
    rng = np.random.default_rng(8)
    a, b = trained(rng, 6), trained(rng, 6)
    ids = np.array(list("uvwxyz"))
    first, same, other = (distances(v, training=("retraining", i)) for v, i in ((a, ids), (b, ids), (b, ids + "'")))
    assert np.isfinite(swap_test(first, same).p_value) and np.isfinite(permutation_test(first, other).p_value)
    with pytest.raises(ValueError, match=r"`training` shows 6 on both sides\. Use `swap_test`"):
        permutation_test(first, same)
    with pytest.raises(ValueError, match=r"`training` differs.*`permutation_test`"):
        swap_test(first, other)


@pytest.mark.parametrize("test", TESTS)
def test_other_dims_broadcast_by_name_and_a_side_without_distances_is_missing(test):
    rng = np.random.default_rng(9)
    models = xr.concat([distances(trained(rng, 5, cv)) for cv in (0.05, 0.1, 0.2)], "model")
    models = models.assign_coords(model=["x", "y", "z"])
    models[1] = np.nan
    reference = distances(trained(rng, 5))
    found = test(models.transpose("pair", "model", "retraining"), reference)
    assert found.p_value.dims == ("model",)
    assert found.p_value.isnull().values.tolist() == [False, True, False]
    assert found.verdict.sel(model="y") == "no distances"
    for model in ("x", "z"):
        xr.testing.assert_allclose(found.sel(model=model, drop=True), test(models.sel(model=model), reference))


@pytest.mark.parametrize("test", TESTS)
def test_diverged_retrainings_and_pairs_with_holes_are_left_out_and_counted(test):
    rng = np.random.default_rng(10)
    a, b = trained(rng, 8), trained(rng, 8, 0.15)
    expected = test(distances(np.delete(np.delete(a, 2, 0), [4, 9], 1)), distances(
        np.delete(np.delete(b, 2, 0) if test is swap_test else b, [4, 9], 1)))  # fmt: skip
    a[2], a[5, 4], b[:, 9] = np.nan, np.inf, 0
    found = test(distances(a), distances(b))
    xr.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (float(found.retrainings_a), float(found.pairs)) == (7, 13)


@pytest.mark.parametrize("test", TESTS)
def test_a_constant_varies_less_than_anything_and_two_constants_vary_alike(test):
    rng = np.random.default_rng(11)
    constant = distances(np.tile(0.1 * np.arange(1, 16), (6, 1)))
    found = test(constant, distances(trained(rng, 6)))
    assert float(found.p_value) == float(found.smallest_p)
    assert float(found.estimate) == 0 and str(found.verdict.values) == "a varies less"
    alike = test(constant, 3 * constant)
    assert float(alike.p_value) == 1 and float(alike.statistic) == 0


def test_what_moves_both_measures_in_a_training_is_no_noise_for_the_swap_test():
    rng = np.random.default_rng(12)
    common = trained(rng, 10, 0.2)
    a, b = (distances(common**power * (1 + 0.05 * rng.normal(size=common.shape))) for power in (1, 1.2))
    swapped, permuted = swap_test(a, b), permutation_test(a, b)
    assert float(swapped.standard_error) < float(permuted.standard_error) / 3
    assert float(swapped.p_value) < 0.01 < 0.1 < float(permuted.p_value)


def test_jackknife_is_welchs_t_of_the_left_out_values():
    rng = np.random.default_rng(13)
    a, b = trained(rng, 6), trained(rng, 9)
    found = permutation_test(distances(a), distances(b), num_permutations=9)
    of_a, of_b = jackknife(left_out(a)), jackknife(left_out(b))
    df = (of_a + of_b) ** 2 / (of_a**2 / 5 + of_b**2 / 8)
    assert float(found.standard_error) == pytest.approx(np.sqrt(of_a + of_b), rel=1e-9)
    assert float(found.p_jackknife) == pytest.approx(2 * stats.t.sf(abs(studentised(a, b)), df), rel=1e-8)
    assert float(found.variance_per_retraining) == pytest.approx(6 * of_a + 9 * of_b, rel=1e-9)


def test_random_permutations_repeat_with_the_seed_and_leave_the_global_state():
    rng = np.random.default_rng(14)
    a, b = distances(trained(rng, 12)), distances(trained(rng, 12, 0.13))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for test in TESTS:
        first = test(a, b, num_permutations=199, seed=1)
        xr.testing.assert_equal(test(a, b, num_permutations=199, seed=1), first)
        assert not test(a, b, num_permutations=199, seed=2).equals(first)
        assert float(first.smallest_p) == 1 / 200
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("num", [5, 10])
def test_permutation_test_keeps_its_level_with_heavy_tails_and_shared_ends(num):
    rng = np.random.default_rng(15)
    replications = 200
    a, b = (xr.concat([distances(trained(rng, num)) for _ in range(replications)], "replication") for _ in range(2))
    p = permutation_test(a, b, num_permutations=99).p_value
    # Measured in experiments.null_tests: at most .10 and .07; three standard errors of 200 replications above.
    most = {5: 0.10, 10: 0.07}[num]
    assert float((p <= 0.05).mean()) <= most + 3 * np.sqrt(most * (1 - most) / replications)


def test_retrainings_to_detect_a_ratio_are_those_of_a_t_test_and_find_it_as_often_as_promised():
    rng = np.random.default_rng(16)
    a, b = distances(trained(rng, 200, 0.1, 30)), distances(trained(rng, 200, 0.17, 30))
    test = permutation_test(a, b, num_permutations=9)
    num = int(retrainings_to_detect(test))
    x, y = (xr.concat([distances(trained(rng, num, cv, 30)) for _ in range(100)], "replication") for cv in (0.1, 0.17))
    found = permutation_test(x, y, num_permutations=99).p_value <= 0.05
    assert float(found.mean()) == pytest.approx(0.8, abs=3 * 0.04 + 0.05)
    assert int(retrainings_to_detect(test, ratio=1.1)) > 10 * num
    assert np.isinf(retrainings_to_detect(test, ratio=1.0))
    assert int(retrainings_to_detect(test, ratio=1e9)) == 4  # four against four can reject at .05
    assert int(retrainings_to_detect(swap_test(a, b, num_permutations=9), ratio=1e9)) == 6


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda d: d, {"alternative": "lower"}, "alternative: expected one of 'two-sided', 'less', 'greater'"),
        (lambda d: d, {"num_permutations": 0}, "num_permutations: expected at least 1; got 0"),
        (lambda d: d, {"level": 95.0}, "level: expected a coverage"),
        (lambda d: d[:2], {}, "distance_b: expected at least 3 along 'retraining'; got 2"),
        (lambda d: d - 1e3, {}, "distance_b: expected distances, none negative"),
        (lambda d: d.rename(pair="couple"), {}, "distance_b: expected dims"),
        (lambda d: d[:, 1:], {}, "distance_a, distance_b: expected the same pairs"),
        (lambda d: d.where(d.pair != d.pair), {}, None),
        (lambda d: d.where(xr.DataArray(np.arange(6) < 2, dims="retraining")), {}, "at least 3 retrainings on both"),
        (lambda d: d.assign_coords(start=("pair", np.arange(15) + 1)), {}, "expected the same pairs"),
    ],
    ids=["alternative", "permutations", "level", "two", "negative", "dims", "pairs", "missing", "few left", "ends"],
)
def test_what_cannot_be_tested_is_refused_with_the_argument_and_what_came(test, change, options, message):
    rng = np.random.default_rng(17)
    a, b = (distances(trained(rng, 6), start=("pair", np.arange(15))) for _ in range(2))
    b = b.assign_coords(pair=range(15))
    if message is None:
        assert np.isnan(test(a, change(b), **options).p_value)
    else:
        with pytest.raises(ValueError, match=message):
            test(a, change(b), **options)
