"""Agreement with a reference: against SciPy and by hand, invariances, intervals that cover."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from probgeo.identifiability import agreement, circular_difference, relative_error, triplet_agreement


def distances(seed=0, retrainings=6, pairs=40, noise=0.3):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 3, pairs)
    found = truth * np.exp(noise * rng.normal(size=(2, retrainings, pairs)))
    coords = {"measure": ["geodesic", "euclidean"]}
    return (
        xr.DataArray(found, dims=["measure", "retraining", "pair"], coords=coords),
        xr.DataArray(truth, dims="pair"),
    )


def test_agreement_is_spearmans_rho_of_every_retraining_and_their_mean():
    distance, truth = distances()
    found = agreement(distance, truth, num_resamples=50)
    expected = [[spearmanr(row, truth).statistic for row in rows] for rows in distance.values]
    assert found.rho.transpose("measure", "retraining").values == pytest.approx(np.array(expected))
    assert found["mean"].values == pytest.approx(np.mean(expected, axis=1))
    assert (found.lower < found["mean"]).all() and (found["mean"] < found.upper).all()


def test_agreement_with_tied_references_is_that_of_scipy():
    distance, truth = distances()
    levels = truth.round()
    assert len(np.unique(levels)) == 3
    expected = [spearmanr(row, levels).statistic for row in distance.sel(measure="geodesic").values]
    assert agreement(distance.sel(measure="geodesic"), levels, num_resamples=9).rho.values == pytest.approx(expected)


def test_agreement_is_one_for_any_growing_function_of_the_truth():
    distance, truth = distances()
    exact = (truth**3).broadcast_like(distance).transpose(*distance.dims)
    found = agreement(exact, truth, num_resamples=50)
    for name in ("mean", "lower", "upper"):
        assert found[name].values == pytest.approx(1)
    assert agreement(-exact, truth, num_resamples=50)["mean"].values == pytest.approx(-1)


def test_the_interval_of_agreement_covers_that_of_other_retrainings_and_pairs():
    # ρ in the population, from very many pairs.
    distance, truth = distances(seed=99, pairs=2000)
    population = float(agreement(distance, truth, num_resamples=2).rho.mean())
    covered = 0
    for seed in range(20):
        distance, truth = distances(seed, retrainings=5, pairs=30)
        found = agreement(distance.isel(measure=0), truth, num_resamples=60)
        covered += bool(found.lower <= population <= found.upper)
    assert covered >= 15  # of 20, at a nominal 95 %


def test_pairs_that_share_an_end_widen_the_interval():
    distance, truth = distances(pairs=40)
    alone = agreement(distance, truth, num_resamples=200)
    shared = agreement(distance, truth, num_resamples=200, points=np.stack([np.arange(40) % 4, 4 + np.arange(40)], 1))
    assert ((shared.upper - shared.lower) > 1.2 * (alone.upper - alone.lower)).all()


def test_ends_of_a_study_are_resampled_as_points_are():
    distance, truth = distances(pairs=40)
    ends = np.stack([np.arange(40) % 4, 4 + np.arange(40)], 1)
    labelled = distance.assign_coords(start=("pair", ends[:, 0]), stop=("pair", ends[:, 1]))
    a, b = agreement(labelled, truth, num_resamples=20), agreement(distance, truth, num_resamples=20, points=ends)
    assert np.array_equal(a.lower, b.lower)


def test_the_share_of_triples_is_counted_and_ties_are_half():
    alike = xr.DataArray([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]], dims=["retraining", "pair"])
    unlike = xr.DataArray([[2.0, 2.0, 2.0, 9.0], [2.0, 2.0, 2.0, 2.0]], dims=["retraining", "pair"])
    found = triplet_agreement(alike, unlike, num_resamples=50)
    assert found.share.values.tolist() == [(1 + 0.5 + 0 + 1) / 4, 1]
    assert float(found["mean"]) == pytest.approx(0.8125)
    assert 0 <= float(found.lower) <= 0.8125 <= float(found.upper) <= 1
    assert triplet_agreement(unlike, alike, num_resamples=9).share.values.tolist() == [0.375, 0]


def test_labels_of_pairs_do_not_match_triples_up():
    alike = xr.DataArray(np.ones((2, 3)), dims=["retraining", "pair"], coords={"pair": [0, 1, 2]})
    unlike = xr.DataArray(np.full((2, 3), 2.0), dims=["retraining", "pair"], coords={"pair": [3, 4, 5]})
    assert triplet_agreement(alike, unlike, num_resamples=9).share.values.tolist() == [1, 1]


def test_the_error_is_that_after_the_median_ratio():
    distance, truth = distances(noise=0.1)
    found = relative_error(5 * distance, truth)
    ratio = 5 * distance.values / truth.values
    scale = np.median(ratio, axis=2, keepdims=True)
    assert found.scale.values == pytest.approx(scale[..., 0])
    assert found.error.values == pytest.approx(np.median(abs(ratio / scale - 1), axis=2))
    exact = relative_error((3 * truth).expand_dims(retraining=2), truth)
    assert exact.scale.values == pytest.approx(3) and exact.error.values == pytest.approx(0)


@pytest.mark.parametrize("function", [agreement, relative_error])
def test_references_that_do_not_fit_are_refused(function):
    distance, truth = distances()
    with pytest.raises(ValueError, match="reference: expected the 40 pairs of distance"):
        function(distance, truth[:10])
    with pytest.raises(ValueError, match="reference: expected a finite number for each pair"):
        function(distance, truth.where(truth < 2))
    with pytest.raises(ValueError, match="reference: expected different values"):
        function(distance, 0 * truth + 1)
    with pytest.raises(ValueError, match="reference: expected the pairs of distance in their order"):
        function(distance.assign_coords(pair=range(40)), truth.assign_coords(pair=range(40))[::-1])


def test_errors_relative_to_nothing_and_triples_of_other_sizes_are_refused():
    distance, truth = distances()
    with pytest.raises(ValueError, match="truth: expected positive distances"):
        relative_error(distance, truth - truth.min())
    with pytest.raises(ValueError, match="unlike: expected the sizes of alike"):
        triplet_agreement(distance, distance.isel(pair=slice(20)))


def test_angles_are_as_far_apart_as_the_shorter_way_round_in_any_turn():
    rng = np.random.default_rng(0)
    a, b = (xr.DataArray(rng.uniform(-20, 20, 50), dims="pair") for _ in range(2))
    found = circular_difference(a, b)
    np.testing.assert_allclose(found, np.arccos(np.cos(a - b)), atol=1e-7)
    np.testing.assert_allclose(circular_difference(b, a + 4 * np.pi), found, atol=1e-12)
    np.testing.assert_allclose(circular_difference(np.degrees(a), np.degrees(b), 360.0), np.degrees(found), atol=1e-9)
    assert (circular_difference(a, a) == 0).all()


def test_angles_of_other_pairs_and_a_period_that_is_none_are_refused():
    a, b = (xr.DataArray([0.0, 1.0], {"pair": pairs}, "pair") for pairs in ([0, 1], [1, 2]))
    with pytest.raises(ValueError):
        circular_difference(a, b)
    for period in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="period: expected a positive number"):
            circular_difference(a, a, period)
    assert np.isnan(circular_difference(a * np.nan, a)).all()
