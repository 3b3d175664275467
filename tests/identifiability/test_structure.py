"""What is made of distances: neighbours, clusters, orders, groups, against counting one by one and scikit-learn."""

from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

import probgeo.identifiability as ident
from probgeo.identifiability.structure import orders_between

MEASURES = ["geodesic", "euclidean"]


def lists(
    num_retrainings: int = 4, num_points: int = 12, k: int = 3, noise: float = 1.0, seed: int = 0
) -> xr.DataArray:
    """Nearest neighbours among points of a line, each training with noise of its own."""
    rng = np.random.default_rng(seed)
    x = np.arange(num_points) + noise * rng.normal(size=(num_retrainings, num_points))
    away = np.abs(x[:, :, None] - x[:, None]) + np.where(np.eye(num_points, dtype=bool), np.inf, 0)
    return xr.DataArray(np.argsort(away, axis=2)[..., :k], dims=["retraining", "point", "neighbour"])


def partitions(num_retrainings: int = 4, num_points: int = 40, seed: int = 0) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((num_retrainings, num_points)) < 0.7, np.arange(num_points) // 10, 7)
    return xr.DataArray(values, dims=["retraining", "point"])


def test_share_of_an_edge_is_that_of_the_retrainings_that_have_it():
    values = lists()
    found = ident.edge_shares(values).toarray()
    for point in range(12):
        for other in range(12):
            assert found[point, other] == pytest.approx(np.mean([other in row[point] for row in values.values]))
    assert np.allclose(found.sum(1), 3)


def test_reliability_is_the_mean_overlap_of_couples_and_its_mean_that_of_the_table():
    values = lists()
    found = ident.neighbour_reliability(values)
    for point in range(12):
        near = [set(row[point]) for row in values.values]
        assert found[point] == pytest.approx(np.mean([len(a & b) / 3 for a, b in combinations(near, 2)]))
    table = ident.survival(neighbours=values.expand_dims(measure=["euclidean"]), num_resamples=10)
    assert table.loc[("neighbours", "euclidean"), "value"] == pytest.approx(found.mean().item())
    assert table.loc[("neighbours", "euclidean"), "by_chance"] == 3 / 11


def test_equal_lists_are_reliable_everywhere_and_unrelated_ones_as_chance_has_it():
    assert (ident.neighbour_reliability(lists(noise=0.0)) == 1).all()
    unrelated = ident.neighbour_reliability(lists(20, 30, 5, noise=1e6)).mean()
    assert unrelated == pytest.approx(5 / 29, abs=0.02)


def test_other_dims_are_kept_and_each_is_by_itself():
    both = xr.concat([lists(), lists(seed=1)], "measure").assign_coords(measure=MEASURES)
    found = ident.neighbour_reliability(both)
    assert found.dims == ("measure", "point")
    assert np.allclose(found.sel(measure="euclidean"), ident.neighbour_reliability(lists(seed=1)))


def test_agreement_of_clusters_is_the_adjusted_rand_index_of_scikit_learn():
    values = partitions()
    expected = np.mean([adjusted_rand_score(a, b) for a, b in combinations(values.values, 2)])
    assert ident.cluster_agreement(values) == pytest.approx(expected)
    assert ident.cluster_agreement(values.astype(str)) == pytest.approx(expected)  # whatever they are called
    for same in (np.zeros((3, 5), int), np.tile(np.arange(5), (3, 1))):
        assert ident.cluster_agreement(xr.DataArray(same, dims=["retraining", "point"])) == 1


def test_co_assignment_is_the_share_of_retrainings_with_both_in_one_cluster():
    values = partitions()
    pairs = np.array(list(combinations(range(40), 2)))
    found = ident.co_assignment(values, pairs)
    for row in (0, 3, 100, 700):
        first, second = pairs[row]
        assert found[row] == pytest.approx(np.mean(values.values[:, first] == values.values[:, second]))
    assert (found.start.values == pairs[:, 0]).all() and (found.stop.values == pairs[:, 1]).all()


def test_distances_between_groups_are_means_whichever_end_a_group_is_at():
    rng = np.random.default_rng(0)
    distance = xr.DataArray(rng.random((3, 50)), dims=["retraining", "pair"])
    start, stop = rng.choice(list("abc"), 50), rng.choice(list("abc"), 50)
    found = ident.between_groups(distance, start, stop)
    assert found.sizes == {"retraining": 3, "pair": 6} and found.num_pairs.sum() == 50
    here = ((start == "a") & (stop == "b")) | ((start == "b") & (stop == "a"))
    expected = distance.values[:, here].mean(1)
    assert np.allclose(found.isel(pair=((found.start == "a") & (found.stop == "b")).values).squeeze("pair"), expected)
    matrix = ident.matrix_of_pairs(found)
    assert np.allclose(matrix, matrix.transpose("retraining", "stop", "start"))


def test_correlation_of_orders_is_spearmans():
    values = xr.DataArray(np.random.default_rng(0).normal(size=(3, 20)).round(1), dims=["retraining", "point"])
    found = orders_between(values, "point")
    for one, other in combinations(range(3), 2):
        assert found[one, other] == pytest.approx(spearmanr(values[one], values[other]).statistic)
    assert orders_between(values * [[1], [0], [1]], "point")[0, 1].isnull()


def steady_and_noisy(seed: int = 0, num_retrainings: int = 6) -> xr.DataArray:
    """An order that survives under one measure and less so under the other."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, num_retrainings, 40)) * np.array([0.2, 1.0])[:, None, None]
    x = xr.DataArray(np.linspace(0, 3, 40) + noise, dims=["measure", "retraining", "point"])
    return x.assign_coords(measure=MEASURES)


def test_the_table_finds_which_measure_survives_better():
    order = steady_and_noisy()
    groups = order.rename(point="pair")
    table = ident.survival(order=order, groups=groups, num_resamples=200)
    for what in ("order", "groups, rank", "groups, icc"):
        row = table.loc[(what, "geodesic")]
        assert row.difference == pytest.approx(row.value - table.loc[(what, "euclidean"), "value"])
        assert row.lower < row.value < row.upper and row.difference_lower > 0
    expected = ident.rank_agreement(groups).sel(measure="euclidean")
    assert table.loc[("groups, rank", "euclidean"), "value"] == pytest.approx(expected.item())
    assert np.isnan(table.loc[("order", "euclidean"), "difference"])


def test_intervals_cover_the_mean_of_many_retrainings_about_as_often_as_they_say():
    truth = ident.survival(order=steady_and_noisy(99, 200), num_resamples=2)["value"].loc[("order", "euclidean")]
    covered = []
    for seed in range(40):
        row = ident.survival(order=steady_and_noisy(seed, 10), num_resamples=100).loc[("order", "euclidean")]
        covered.append(row.lower <= truth <= row.upper)
    assert np.mean(covered) >= 0.8  # nominally 0.95, of ten retrainings


def test_two_retrainings_have_a_value_and_no_interval():
    order = steady_and_noisy(num_retrainings=2)
    table = ident.survival(order=order, groups=order.rename(point="pair"), num_resamples=10)
    assert table["value"].notna().all() and table[["lower", "upper", "difference_lower"]].isna().all(axis=None)


def test_what_does_not_fit_is_a_named_error():
    with pytest.raises(ValueError, match="neighbours: expected other points"):
        ident.neighbour_reliability(lists().where(lists() != 1, 0).astype(int))
    with pytest.raises(ValueError, match="from 0 to 11"):
        ident.edge_shares(lists() + 12)
    with pytest.raises(ValueError, match="Select one of the others"):
        ident.edge_shares(lists().expand_dims("measure"))
    with pytest.raises(ValueError, match="some are missing"):
        ident.cluster_agreement(partitions().where(partitions() != 7))
    with pytest.raises(ValueError, match="at least 2 along 'retraining'"):
        ident.cluster_agreement(partitions()[:1])
    with pytest.raises(ValueError, match="pairs: expected"):
        ident.co_assignment(partitions(), np.arange(4))
    with pytest.raises(ValueError, match="start, stop: expected 3 groups"):
        ident.between_groups(xr.DataArray([1.0, 2.0, 3.0], dims="pair"), list("ab"), list("ab"))
    with pytest.raises(ValueError, match="got none"):
        ident.survival()
    with pytest.raises(ValueError, match="order: expected the measure 'euclidean'"):
        ident.survival(order=steady_and_noisy().sel(measure=["geodesic"]))
