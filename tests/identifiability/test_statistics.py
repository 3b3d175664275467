"""Statistics of identifiability against textbook values, SciPy and their invariances."""

from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from probgeo.identifiability import (
    bootstrap,
    coefficient_of_variation,
    comparable,
    corrected_coefficient_of_variation,
    holm,
    icc,
    paired_test,
    permutation_test,
    rank_agreement,
    spread,
    summary,
    swap_test,
    variation_by_length,
    with_trainings,
)

EPS = np.finfo(float).eps
STATISTICS = (coefficient_of_variation, spread, icc, rank_agreement)


def distances(values, **coords) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=["retraining", "pair"], coords=coords, name="distance")


def simulated(num_retrainings=6, num_pairs=12, noise=0.1, seed=0, num=()) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (*num, num_retrainings, num_pairs)
    return np.exp(0.5 * rng.normal(size=num_pairs)) * (1 + noise * rng.normal(size=shape))


def study(num_retrainings=6, num_pairs=12) -> xr.DataArray:
    """Two models, three measures; each model's Euclidean row varies most; `single` has no straight line."""
    models, measures = ["rbf", "single"], ["geodesic", "straight", "euclidean"]
    noise = np.array([[0.05, 0.04, 0.1], [0.02, 0.03, 0.2]])[..., None, None]
    unit = (simulated(num_retrainings, num_pairs, 1.0, num=(2, 3)) / simulated(1, num_pairs, 0.0)) - 1
    values = simulated(1, num_pairs, 0.0) * (1 + noise * unit)
    values[1, 1] = np.nan
    dims = ["model", "measure", "retraining", "pair"]
    return xr.DataArray(values, dims=dims, coords={"model": models, "measure": measures}, name="distance")


def with_cv(values) -> xr.DataArray:
    """Two retrainings whose pairs have mean 1 and the coefficients of variation `values`."""
    half = np.asarray(values) / np.sqrt(2)
    return distances([1 - half, 1 + half])


def test_coefficient_of_variation_is_std_over_mean_with_one_degree_less():
    cv = coefficient_of_variation(distances([[1.0, 10.0], [2.0, 10.0], [3.0, 40.0]]))
    np.testing.assert_allclose(cv, [1 / 2, np.sqrt(300) / 20], rtol=4 * EPS)


def test_spread_is_the_relative_std_of_the_mean_distances():
    assert float(spread(distances([[1.0, 4.0, 9.0], [3.0, 4.0, 3.0]]))) == pytest.approx(2 / 4, rel=4 * EPS)


def test_icc_is_the_published_one_of_shrout_and_fleiss():
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]  # targets × judges
    assert float(icc(distances(np.transpose(ratings)))) == pytest.approx(0.2898, abs=5e-5)


def test_icc_falls_with_a_scale_that_differs_between_retrainings_though_ranks_agree():
    base = np.linspace(1.0, 2.0, 9)
    d = distances([base, 2 * base, 3 * base])
    assert float(icc(d)) < 0.5
    assert float(rank_agreement(d)) == pytest.approx(1, abs=8 * EPS)


def test_rank_agreement_is_the_mean_of_spearmans_rho_with_ties():
    values = np.round(simulated(5, 15, 0.4), 1)  # rounding makes ties
    expected = np.mean([stats.spearmanr(values[i], values[j]).statistic for i, j in combinations(range(5), 2)])
    assert float(rank_agreement(distances(values))) == pytest.approx(expected, abs=32 * EPS)


def test_a_constant_distance_has_no_variation_and_tells_nothing_apart():
    d = distances(np.full((3, 7), 0.1))
    assert (coefficient_of_variation(d) == 0).all()
    assert float(spread(d)) == 0
    assert np.isnan(icc(d))
    assert np.isnan(rank_agreement(d))


def test_t_is_the_published_one_of_students_sleep_data():
    first = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    second = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    # The test sees differences only, up to scale: so the data are made coefficients of variation in (0, 1).
    test = paired_test(with_cv(0.3 + first / 20), with_cv(0.3 + second / 20), alternative="two-sided")
    assert float(test.t) == pytest.approx(-4.0621, abs=5e-5)
    assert float(test.p) == pytest.approx(0.002833, abs=5e-7)
    assert float(test.df) == 9
    assert float(test.mean_difference) == pytest.approx(-1.58 / 20, rel=1e-12)


@pytest.mark.parametrize("alternative", ["less", "greater", "two-sided"])
def test_paired_test_equals_scipys_on_the_coefficients_of_variation(alternative):
    a, b = simulated(6, 12, 0.1, seed=1), simulated(9, 12, 0.12, seed=2)
    expected = stats.ttest_rel(
        a.std(0, ddof=1) / a.mean(0), b.std(0, ddof=1) / b.mean(0), axis=0, alternative=alternative
    )
    test = paired_test(distances(a), distances(b), alternative)
    assert float(test.t) == pytest.approx(expected.statistic, rel=1e-10)
    assert float(test.p) == pytest.approx(expected.pvalue, rel=1e-9)


def test_paired_test_leaves_out_pairs_without_a_cv_and_shows_it_in_df():
    a, b = distances(simulated(seed=1)), distances(simulated(seed=2))
    kept = paired_test(a[:, 2:], b[:, 2:])
    a[0, 0], b[:, 1] = np.nan, 0.0
    test = paired_test(a, b)
    assert float(test.df) == a.sizes["pair"] - 2 - 1
    xr.testing.assert_allclose(test, kept, rtol=1e-12)


def test_paired_test_broadcasts_over_other_dims_by_name():
    d = study()
    reference = d.sel(measure="euclidean")
    test = paired_test(d.transpose("pair", "measure", "retraining", "model"), reference)
    assert set(test.t.dims) == {"model", "measure"}
    single = paired_test(d.sel(model="single", measure="geodesic"), reference.sel(model="single"))
    assert float(test.t.sel(model="single", measure="geodesic")) == pytest.approx(float(single.t), rel=1e-12)
    assert np.isnan(test.t.sel(measure="euclidean")).all()  # no difference from itself


@pytest.mark.parametrize("statistic", STATISTICS)
def test_statistics_do_not_depend_on_the_order_of_dims_and_keep_the_others(statistic):
    d = study().isel(measure=[0, 2])
    expected = statistic(d)
    assert {"model", "measure"} <= set(expected.dims)
    actual = statistic(d.transpose("pair", "model", "retraining", "measure")).transpose(*expected.dims)
    np.testing.assert_allclose(actual, expected, rtol=64 * EPS)
    alone = statistic(d.sel(model="single", measure="euclidean"))
    np.testing.assert_allclose(expected.sel(model="single", measure="euclidean"), alone, rtol=64 * EPS)


@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 10**6), noise=st.floats(0.01, 0.3))
def test_statistics_do_not_depend_on_the_unit_nor_on_the_order_of_retrainings(scale, seed, noise):
    values = simulated(4, 9, noise, seed)
    for statistic in STATISTICS:
        expected = statistic(distances(values))
        np.testing.assert_allclose(statistic(distances(scale * values)), expected, rtol=1e-10)
        np.testing.assert_allclose(statistic(distances(values[::-1])), expected, rtol=1e-10)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_missing_distance_makes_the_statistic_missing_never_silently_smaller(statistic):
    values = simulated()
    values[2, 3] = np.nan
    result = statistic(distances(values))
    assert np.isnan(result.sel(pair=3) if "pair" in result.dims else result)
    assert int(np.isnan(result).sum()) == 1


def test_bootstrap_interval_covers_the_true_variation_of_normal_distances():
    num, noise = 200, 0.1
    d = xr.DataArray(simulated(6, 30, noise, num=(num,)), dims=["replication", "retraining", "pair"])
    interval = bootstrap(lambda d: coefficient_of_variation(d).mean("pair"), d, num_resamples=300)
    covered = (interval.sel(bound="lower") <= noise) & (noise <= interval.sel(bound="upper"))
    assert covered.sizes == {"replication": num}
    # Binomial(200, 0.95) lies at or above 180 with probability 0.999; raw quantiles cover about 0.7 here.
    assert int(covered.sum()) >= 180


def test_resampled_points_cover_the_mean_where_resampled_pairs_do_not():
    num, num_points = 200, 15
    points = np.array(list(combinations(range(num_points), 2)))
    effects = np.random.default_rng(0).normal(size=(num, num_points))
    values = 10 + effects[:, points[:, 0]] + effects[:, points[:, 1]]
    d = xr.DataArray(np.stack([values, values], 1), dims=["replication", "retraining", "pair"])

    def coverage(**options) -> float:
        interval = bootstrap(lambda d: d.mean(["retraining", "pair"]), d, num_resamples=300, **options)
        return float(((interval.sel(bound="lower") <= 10) & (interval.sel(bound="upper") >= 10)).mean())

    assert coverage(points=points) >= 0.88  # 15 points: the bootstrap of a mean covers about 0.92
    assert coverage() < 0.6


def test_bootstrap_widens_with_the_level_and_repeats_with_the_seed_whatever_the_chunks(monkeypatch):
    d = distances(simulated())
    interval = bootstrap(spread, d, num_resamples=50, seed=3)
    wide = bootstrap(spread, d, num_resamples=50, level=0.99, seed=3)
    assert float(wide[0]) < float(interval[0]) < float(spread(d)) < float(interval[1]) < float(wide[1])
    monkeypatch.setattr("probgeo.identifiability.resampling._CHUNK", 7 * d.size)
    xr.testing.assert_allclose(bootstrap(spread, d, num_resamples=50, seed=3), interval, rtol=1e-12)
    assert not bootstrap(spread, d, num_resamples=50, seed=4).equals(interval)


def test_summary_rows_are_the_statistics_of_each_model_and_measure():
    d = study()
    table = summary(d, num_resamples=50)
    assert ("single", "straight") not in table.index  # no distances at all
    assert table.index.names == ["model", "measure"]
    assert len(table) == 5
    for (model, measure), row in table.iterrows():
        values = d.sel(model=model, measure=measure)
        assert row["cv"] == pytest.approx(float(coefficient_of_variation(values).mean()), rel=1e-12)
        assert row["cv_median"] == pytest.approx(float(coefficient_of_variation(values).median()), rel=1e-12)
        for name, statistic in (("spread", spread), ("icc", icc), ("rank_agreement", rank_agreement)):
            assert row[name] == pytest.approx(float(statistic(values)), rel=1e-12)
        for name in ("cv", "spread", "icc", "rank_agreement"):
            assert row[f"{name}_lower"] <= row[name] <= row[f"{name}_upper"]
        assert row["icc_upper"] <= 1
        assert (row["retrainings"], row["pairs"], row["pairs_missing"]) == (6, 12, 0)


def test_summary_tests_against_rbf_and_against_euclidean_of_the_same_model():
    d = study()
    table = summary(d, num_resamples=50)
    geodesic = d.sel(model="single", measure="geodesic")
    for name, reference in (
        ("rbf", d.sel(model="rbf", measure="geodesic")),
        ("euclidean", d.sel(model="single", measure="euclidean")),
    ):
        expected = paired_test(geodesic, reference)
        row = table.loc[("single", "geodesic")]
        assert row[f"t_{name}"] == pytest.approx(float(expected.t), rel=1e-10)
        assert row[f"p_t_{name}"] == pytest.approx(float(expected.p), rel=1e-8)
        valid = (swap_test if name == "euclidean" else permutation_test)(geodesic, reference)
        assert row[f"swapped_{name}"] == (name == "euclidean")
        assert row[f"p_{name}"] == float(valid.p_value) and row[f"smallest_p_{name}"] == float(valid.smallest_p)
        bounds = [row[f"ratio_{name}{bound}"] for bound in ("", "_lower", "_upper")]
        np.testing.assert_allclose(bounds, [valid.estimate, *valid.interval], rtol=1e-9)
    assert np.isnan(table.loc[("rbf", "geodesic"), "t_rbf"])  # no difference from itself
    assert np.isnan(table.loc[("rbf", "euclidean"), "t_euclidean"])


def test_summary_tests_against_any_given_reference_with_its_own_retrainings():
    d, reference = study(), distances(simulated(9, 12, 0.1, seed=5))
    table = summary(d, references={"published": reference}, num_resamples=50)
    expected = paired_test(d.sel(model="rbf", measure="straight"), reference)
    assert table.loc[("rbf", "straight"), "t_published"] == pytest.approx(float(expected.t), rel=1e-10)
    assert "t_rbf" not in table


def test_summary_compares_all_rows_on_the_same_pairs_and_counts_those_left_out():
    d = study()
    d.loc[{"model": "rbf", "measure": "straight", "pair": 4, "retraining": 2}] = np.nan  # a solver that failed
    d.loc[{"pair": 7}] = d.sel(pair=7) * 0  # equal ends
    table = summary(d, num_resamples=50)
    assert (table["pairs"] == 10).all()
    assert table["pairs_missing"].to_dict() == {row: 1 + (row == ("rbf", "straight")) for row in table.index}
    kept = summary(d.drop_sel(pair=[4, 7]) if "pair" in d.indexes else d.drop_isel(pair=[4, 7]), num_resamples=50)
    np.testing.assert_allclose(table.drop(columns="pairs_missing"), kept.drop(columns="pairs_missing"), rtol=1e-10)
    assert "10 of 12 pairs" in " ".join(str(table).split())


def test_summary_leaves_out_a_retraining_without_any_distance_in_its_row_and_counts_it():
    d = study()
    d.loc[{"model": "single", "retraining": 5}] = np.nan
    table = summary(d, num_resamples=50)
    assert (table["pairs"] == 12).all()
    assert table["retrainings"].to_dict() == {row: 5 if row[0] == "single" else 6 for row in table.index}
    assert "5 to 6 retrainings" in " ".join(str(table).split())


def test_comparable_rows_are_those_of_the_summary():
    d = study()
    d.loc[{"model": "rbf", "measure": "straight", "pair": 4, "retraining": 2}] = np.nan
    d.loc[{"model": "single", "retraining": 5}] = np.nan
    rows, table = comparable(d), summary(d, num_resamples=50)
    assert list(rows) == list(table.index)
    for label, row in rows.items():
        assert row.notnull().all()
        assert row.sizes == {"retraining": table.loc[label, "retrainings"], "pair": 11}
        assert float(icc(row)) == pytest.approx(table.loc[label, "icc"], rel=1e-12)


def test_summary_of_one_unnamed_distance_is_one_row():
    table = summary(distances(simulated()), num_resamples=50)
    assert list(table.index) == [("distance",)]
    assert table["cv"].iloc[0] == pytest.approx(float(coefficient_of_variation(distances(simulated())).mean()))


def test_summary_of_a_constant_shows_no_variation_beside_no_discrimination():
    constant = distances(np.full((6, 12), 0.1)).expand_dims(measure=["constant"])
    table = summary(constant, num_resamples=50)
    row = table.loc[("constant",)]
    assert row["cv"] == row["cv_upper"] == row["spread"] == row["spread_upper"] == 0
    assert np.isnan(row["icc"])
    assert "nan" in str(table)


def test_printed_summary_is_narrow_and_has_one_line_per_row_and_per_comparison():
    d = xr.concat([study(), study().sel(model=["single"]).assign_coords(model=["ensemble"])], "model")
    text = str(summary(d, num_resamples=50))
    assert max(map(len, text.splitlines())) <= 100
    estimates, *comparisons, verdicts = text.split("\n\n")
    assert sum("geodesic" in line for line in verdicts.splitlines()) == 3
    assert sum("[" in line and "geodesic" in line for line in estimates.splitlines()) == 3
    # Each geodesic against that of rbf, but not that one; each against its own model's Euclidean distance.
    assert [sum("geodesic" in line for line in part.splitlines()) for part in comparisons] == [2, 3]
    assert "95% bootstrap interval over retrainings and end points" in " ".join(text.split())


def test_summary_corrects_the_family_that_is_named_and_nothing_else():
    d = study()
    family = {"rbf": [("single", "geodesic")], "euclidean": [("single", "geodesic"), ("rbf", "straight")]}
    table, plain = summary(d, num_resamples=50, family=family), summary(d, num_resamples=50)
    assert not [column for column in plain if "holm" in column]
    tests = [(name, label) for name, labels in family.items() for label in labels]
    expected = holm(xr.DataArray([table.loc[label, f"p_{name}"] for name, label in tests], dims="test"))
    assert [table.loc[label, f"p_holm_{name}"] for name, label in tests] == expected.values.tolist()
    assert table[["p_holm_rbf", "p_holm_euclidean"]].notna().to_numpy().sum() == len(tests)
    assert "Holm's p within the family" in " ".join(str(table).split()) and "Holm" not in str(plain)
    with pytest.raises(ValueError, match=r"family: expected references .*; got other, \('single', 'none'\)"):
        summary(d, num_resamples=50, family={"other": [("single", "none")]})


def test_summary_shows_differences_with_intervals():
    table = summary(study(), num_resamples=50)
    row = table.loc[("single", "geodesic")]
    assert row["difference_euclidean"] == pytest.approx(row["cv"] - table.loc[("single", "euclidean"), "cv"])
    assert row["difference_euclidean_lower"] < row["difference_euclidean"] < row["difference_euclidean_upper"] < 0
    assert row["effect_euclidean"] == pytest.approx(row["t_euclidean"] / np.sqrt(12))


def test_models_with_equal_distances_of_codes_share_trainings_and_go_through_the_swap_test():
    d = study()
    d.loc[{"model": "single", "measure": "euclidean"}] = d.sel(model="rbf", measure="euclidean") * (1 + 1e-6)
    training = with_trainings(d).training
    assert training.dims == ("model", "retraining")
    assert (training.sel(model="single") == training.sel(model="rbf")).all() and len(np.unique(training)) == 6
    assert summary(d, num_resamples=50).loc[("single", "geodesic"), "swapped_rbf"] == 1
    apart = with_trainings(study()).training
    assert len(np.unique(apart)) == 12
    # The coordinate is believed, where it is given.
    given = d.assign_coords(training=(("model", "retraining"), np.arange(12).reshape(2, 6)))
    assert summary(given, num_resamples=50).loc[("single", "geodesic"), "swapped_rbf"] == 0
    assert with_trainings(given) is given
    all_the_same = d.assign_coords(training=("retraining", np.arange(6)))
    assert (summary(all_the_same, num_resamples=50)["swapped_rbf"].dropna() == 1).all()


def test_trainings_that_are_shared_in_part_and_two_retrainings_have_no_test_and_it_is_said():
    ids = np.arange(12).reshape(2, 6)
    ids[1, :2] = ids[0, :2]
    table = summary(study().assign_coords(training=(("model", "retraining"), ids)), num_resamples=50)
    assert np.isnan(table.loc[("single", "geodesic"), "p_rbf"])
    few = summary(study(num_retrainings=2), num_resamples=50)
    assert few[["p_rbf", "p_euclidean"]].isna().all(axis=None)
    assert "–: no test, which takes three retrainings" in " ".join(str(few).split())


def test_summary_says_that_three_retrainings_cannot_tell():
    text = " ".join(str(summary(study(num_retrainings=3), num_resamples=50)).split())
    assert "?: so few retrainings allow no p below .25, nothing can be told" in text


@pytest.mark.parametrize("num", [3, 5, 10, 30])
def test_corrected_variation_does_not_depend_on_the_number_of_retrainings(num):
    values = 1 + 0.1 * np.random.default_rng(num).normal(size=(num, 40_000))
    corrected = float(corrected_coefficient_of_variation(distances(values)).mean())
    assert corrected == pytest.approx(0.1, rel=0.01)  # c4 from 0.886 to 0.991; four standard errors of 40 000 pairs
    assert float(coefficient_of_variation(distances(values)).mean()) < corrected


def test_variation_by_length_is_that_of_thirds_of_the_pairs():
    values = np.array([[1.0, 30.0, 2.0, 10.0, 11.0, 29.0], [3.0, 31.0, 2.5, 12.0, 13.0, 33.0]])
    cv = coefficient_of_variation(distances(values)).values
    found = variation_by_length(distances(values))
    assert found.length.values.tolist() == ["short", "middle", "long"]
    np.testing.assert_allclose(found, [cv[[0, 2]].mean(), cv[[3, 4]].mean(), cv[[1, 5]].mean()], rtol=4 * EPS)
    by = xr.DataArray(-np.arange(6.0), dims="pair")
    np.testing.assert_allclose(variation_by_length(distances(values), by)[0], cv[4:].mean(), rtol=4 * EPS)
    with pytest.raises(ValueError, match="at least 3 along 'pair'; got 2"):
        variation_by_length(distances(values[:, :2]))


def test_summary_resamples_points_where_they_are_given():
    points = np.array(list(combinations(range(5), 2)))
    d = study(num_pairs=10)
    d.loc[{"pair": 3}] = np.nan  # its ends leave with it
    table, wide = summary(d, num_resamples=100), summary(d, num_resamples=100, points=points)
    row = ("rbf", "geodesic")
    assert table.loc[row, "spread"] == wide.loc[row, "spread"]
    assert table.loc[row, "spread_upper"] != wide.loc[row, "spread_upper"]


@pytest.mark.parametrize(
    "statistic", [*STATISTICS[1:], lambda d: paired_test(d, d), lambda d: bootstrap(spread, d), summary]
)
def test_missing_dims_are_named(statistic):
    with pytest.raises(ValueError, match=r"distance: expected dims .*'pair'.*got \('retraining', 'couple'\), without"):
        statistic(xr.DataArray(simulated(), dims=["retraining", "couple"]))


@pytest.mark.parametrize(
    "statistic",
    [
        coefficient_of_variation,
        icc,
        rank_agreement,
        lambda d: paired_test(d, d),
        lambda d: bootstrap(spread, d),
        summary,
    ],
)
def test_one_retraining_is_refused_with_the_count_and_what_to_do(statistic):
    with pytest.raises(ValueError, match=r"at least 2 along 'retraining'; got 1\. Train more seeds"):
        statistic(distances(simulated(1)))


def test_one_retraining_is_enough_for_the_spread_but_one_pair_is_not():
    assert float(spread(distances([[1.0, 3.0]]))) == pytest.approx(np.sqrt(2) / 2)
    with pytest.raises(ValueError, match="at least 2 along 'pair'; got 1"):
        spread(distances(simulated(4, 1)))


def test_a_row_with_one_retraining_left_is_refused_by_name():
    d = study()
    d.loc[{"model": "single", "retraining": slice(1, None)}] = np.nan
    with pytest.raises(ValueError, match=r"at least 2 retrainings in row \('single', 'geodesic'\); got 1"):
        summary(d)


def test_a_study_without_two_common_pairs_is_refused_with_the_rows_that_lack_them():
    d = study()
    d.loc[{"model": "rbf", "measure": "straight", "pair": slice(1, None), "retraining": 0}] = np.nan
    with pytest.raises(ValueError, match=r"got 1 of 12\. Missing by row: .*\('rbf', 'straight'\): 11"):
        summary(d)


def test_all_distances_missing_is_an_error():
    with pytest.raises(ValueError, match="expected at least one row with distances"):
        summary(study() * np.nan)


@pytest.mark.parametrize(
    "reference",
    [
        distances(simulated(6, 11)),
        study().sel(model=["rbf"], measure="euclidean"),
        distances(simulated()).expand_dims(draw=2),
    ],
    ids=["other pairs", "other labels", "unknown dim"],
)
def test_a_reference_that_does_not_match_is_named(reference):
    with pytest.raises(ValueError, match=r"references\['other'\]: expected the pairs of `distance`"):
        summary(study(), references={"other": reference})


def test_different_pairs_are_not_paired():
    with pytest.raises(ValueError, match="distance_a, distance_b: expected the same pairs"):
        paired_test(distances(simulated(), pair=range(12)), distances(simulated(), pair=range(1, 13)))


def test_an_unknown_alternative_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="alternative: expected one of 'less', 'greater', 'two-sided'; got 'lower'"):
        paired_test(distances(simulated()), distances(simulated()), "lower")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_resamples": 1}, "num_resamples: expected at least 2; got 1"),
        ({"level": 95.0}, r"level: expected a coverage in \(0, 1\); got 95"),
        ({"points": np.zeros((3, 2), dtype=int)}, r"points: expected shape \(12, 2\).*got \(3, 2\)"),
    ],
)
def test_bootstrap_refuses_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(spread, distances(simulated()), **options)
