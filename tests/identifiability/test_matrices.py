"""Agreement of distance matrices: configurations whose answer is known, and permutations by hand."""

from itertools import permutations

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.distance import pdist, squareform

from probgeo.identifiability import (
    mantel_test,
    matrix_of_pairs,
    mean_between_retrainings,
    neighbour_overlap,
    procrustes_disagreement,
    relative_frobenius,
)

RNG = np.random.default_rng(0)


def matrix(points: np.ndarray, **coords) -> xr.DataArray:
    return xr.DataArray(squareform(pdist(points)), dims=["start", "stop"], coords=coords)


def configuration(num: int = 12, num_dimensions: int = 2) -> np.ndarray:
    return RNG.normal(size=(num, num_dimensions))


def rotation(num_dimensions: int) -> np.ndarray:
    return np.linalg.qr(RNG.normal(size=(num_dimensions, num_dimensions)))[0]


@pytest.mark.parametrize("num_dimensions", [2, 3])
def test_similar_configurations_do_not_disagree(num_dimensions):
    x = configuration(10, num_dimensions)
    similar = 3 * x @ rotation(num_dimensions) + 5
    assert float(procrustes_disagreement(matrix(x), matrix(similar), num_dimensions)) == pytest.approx(0, abs=1e-12)
    # Frobenius sees the scale: ‖A − 3A‖ / √(½(1 + 9) ‖A‖²).
    assert float(relative_frobenius(matrix(x), matrix(similar))) == pytest.approx(2 / np.sqrt(5), rel=1e-9)


def test_unrelated_configurations_disagree_and_more_noise_disagrees_more():
    x, noise = configuration(30), configuration(30)
    found = [float(procrustes_disagreement(matrix(x), matrix(x + s * noise))) for s in (0.01, 0.1, 1.0)]
    assert 0 < 10 * found[0] < found[1] < found[2] / 10
    assert float(procrustes_disagreement(matrix(x), matrix(configuration(30)))) > 0.7


def test_disagreements_are_symmetric_and_zero_for_equal_matrices():
    a, b = matrix(configuration()), matrix(configuration())
    for statistic in (relative_frobenius, procrustes_disagreement):
        assert float(statistic(a, b)) == pytest.approx(float(statistic(b, a)), rel=1e-9)
        assert float(statistic(a, a)) == pytest.approx(0, abs=1e-12)
    assert float(relative_frobenius(a, 0 * a)) == pytest.approx(np.sqrt(2))


def test_neighbour_sets_overlap_fully_under_a_monotone_map_and_by_chance_otherwise():
    a = matrix(configuration(40))
    assert float(neighbour_overlap(a, a**3, 5)) == 1
    overlaps = [float(neighbour_overlap(matrix(configuration(40)), a, 5)) for _ in range(50)]
    assert np.mean(overlaps) == pytest.approx(5 / 39, abs=0.02)


def test_neighbours_by_hand_and_never_a_point_itself():
    line, other = np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([[0.0], [1.0], [3.0], [-2.0]])
    # Nearest on the line: 1, 0, 1, 2; on the other: 1, 0, 1, 0.
    assert float(neighbour_overlap(matrix(line), matrix(other), 1)) == 3 / 4
    zero = matrix(np.zeros((4, 1)))
    assert float(neighbour_overlap(zero, zero, 1)) == 1


def test_mantel_test_equals_all_permutations_by_hand():
    x = configuration(6)
    a, b = matrix(x), matrix(x + 0.7 * configuration(6))
    upper = np.triu_indices(6, 1)

    def correlation(order):
        return np.corrcoef(a.values[np.ix_(order, order)][upper], b.values[upper])[0, 1]

    every = np.array([correlation(list(order)) for order in permutations(range(6))])
    test = mantel_test(a, b, num_permutations=4000)
    assert float(test.r) == pytest.approx(correlation(range(6)), rel=1e-12)
    exact = np.mean(every >= every[0] - 1e-12)
    assert float(test.p) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4000) + 1e-3)
    xr.testing.assert_identical(mantel_test(a, b, seed=3), mantel_test(a, b, seed=3))


def test_mantel_test_keeps_its_level_where_points_have_common_effects():
    """Entries share points, so 190 entries of 20 points are far from 190 independent ones."""
    p = [float(mantel_test(matrix(configuration(20)), matrix(configuration(20)), 99).p) for _ in range(200)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.07)


def test_other_dims_broadcast_and_means_are_over_pairs_of_retrainings():
    matrices = xr.concat([matrix(configuration()) for _ in range(3)], "retraining")
    by_hand = [float(relative_frobenius(matrices[i], matrices[j])) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert float(mean_between_retrainings(relative_frobenius, matrices)) == pytest.approx(np.mean(by_hand), rel=1e-12)
    for statistic in (
        relative_frobenius,
        procrustes_disagreement,
        lambda a, b: neighbour_overlap(a, b, 3),
        lambda a, b: mantel_test(a, b, 20).r,
    ):
        found = statistic(matrices, matrices[0])
        assert found.dims == ("retraining",)
        assert float(found[2]) == pytest.approx(float(statistic(matrices[2], matrices[0])), rel=1e-12)


def test_a_missing_entry_makes_the_statistic_missing():
    a, b = matrix(configuration()), matrix(configuration())
    a[1, 2] = np.nan
    assert np.isnan(relative_frobenius(a, b))
    assert np.isnan(procrustes_disagreement(a, b))
    assert np.isnan(neighbour_overlap(a, b, 3))
    test = mantel_test(a, b, 9)
    assert np.isnan(test.r) and np.isnan(test.p)


def test_all_pairs_of_a_study_make_a_matrix():
    x, names = configuration(5), np.array([3, 8, 11, 12, 20])
    whole = matrix(x, start=names, stop=names)
    first, second = np.triu_indices(5, 1)
    coords = {"start": ("pair", names[first]), "stop": ("pair", names[second])}
    d = xr.DataArray(whole.values[first, second][None], dims=["model", "pair"], coords=coords | {"model": ["a"]})
    found = matrix_of_pairs(d)
    xr.testing.assert_allclose(found.sel(model="a", drop=True), whole)
    assert np.isnan(matrix_of_pairs(d[:, 1:])[0, 0, 1])
    with pytest.raises(ValueError, match="expected coordinates start and stop along pair; got none for"):
        matrix_of_pairs(d.drop_vars(["start", "stop"]))


def test_matrices_that_do_not_fit_are_named():
    a = matrix(configuration(6), start=range(6), stop=range(6))
    with pytest.raises(ValueError, match="matrix_a, matrix_b: expected the same points"):
        relative_frobenius(a, a.assign_coords(start=range(1, 7), stop=range(1, 7)))
    with pytest.raises(ValueError, match="expected as many along start as along stop"):
        relative_frobenius(a, a[1:])
    with pytest.raises(ValueError, match="num_neighbours: expected 1 to 4"):
        neighbour_overlap(a, a, 5)
    with pytest.raises(ValueError, match="num_dimensions: expected 1 to 5"):
        procrustes_disagreement(a, a, 6)
    with pytest.raises(ValueError, match="num_permutations: expected at least 1; got 0"):
        mantel_test(a, a, 0)
