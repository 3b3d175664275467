"""Nearest neighbours under a metric, against all pairs measured, closed forms and solved geodesics."""

import numpy as np
import pytest
import torch
from torch import Tensor

from probgeo.geometry import lines
from probgeo.geometry.geodesics import GaussNewton, geodesic
from probgeo.geometry.lines import line_lengths
from probgeo.geometry.metrics import DecorrelatedEnergy, ExpectedMetric, PullbackMetric, TensorMetric
from probgeo.geometry.neighbours import neighbours
from probgeo.geometry.paths import Straight
from probgeo.nn import mlp
from tests.manifolds import globe, globe_distance, half_plane, half_plane_distance, torus

K = 7


def points(count: int = 120, latent: int = 2) -> Tensor:
    return torch.randn(count, latent, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2


def nearest(distance: np.ndarray, k: int = K) -> list[set[int]]:
    """The k nearest of each row of a full matrix."""
    away = distance + np.diag(np.full(len(distance), np.inf))
    return [set(row[:k].tolist()) for row in np.argsort(away, axis=1)]


def recall(found, distance: np.ndarray, k: int = K) -> float:
    return float(np.mean([len(near & set(found[[row]].indices)) / k for row, near in enumerate(nearest(distance, k))]))


def all_pairs(distance, z: Tensor) -> np.ndarray:
    count = len(z)
    return distance(z.repeat_interleave(count, 0), z.repeat(count, 1)).view(count, count).numpy()


def test_neighbours_and_lengths_are_those_of_great_circles_where_points_are_dense():
    z = points(400)
    found, exact = neighbours(PullbackMetric(globe), z, K), all_pairs(globe_distance, z)
    assert recall(found, exact) > 0.98
    start, stop = found.nonzero()
    ratio = found[start, stop] / exact[start, stop]
    assert ratio.min() > 1 - 1e-2 and np.quantile(ratio, 0.9) < 1.01


def test_neighbours_are_those_of_a_tensor_field_that_is_no_pull_back():
    z = points(400) + torch.tensor([0.0, 3.0])
    assert recall(neighbours(TensorMetric(half_plane), z, K), all_pairs(half_plane_distance, z)) > 0.97


def test_neighbours_are_those_of_solved_geodesics():
    torch.manual_seed(3)
    metric, z = ExpectedMetric([mlp([6, 16, 12]).double() for _ in range(3)]), points(60, 6)
    first, second = torch.triu_indices(60, 60, 1)
    solved = geodesic(metric, z[first], z[second], solver=GaussNewton(16)).length
    exact = torch.zeros(60, 60, dtype=torch.float64)
    exact[first, second] = exact[second, first] = solved
    assert recall(neighbours(metric, z, K), exact.numpy()) > 0.95


@pytest.mark.parametrize("num_segments", [1, 3])
def test_every_row_holds_its_nearest_by_lines_sorted_and_never_itself(num_segments):
    z, metric = points(), PullbackMetric(torus)
    found = neighbours(metric, z, K, num_candidates=119, num_segments=num_segments)
    line = Straight(num_segments)
    lengths = all_pairs(lambda a, b: torus(line(a, b)).diff(dim=1).norm(dim=2).sum(1), z)
    for row, near in enumerate(nearest(lengths)):
        indices = found[[row]].indices
        assert set(indices) == near and row not in near and (np.diff(indices) > 0).all()
        assert np.allclose(found[[row]].data, lengths[row, indices], rtol=1e-12)


def test_a_line_is_as_long_back_as_forth_and_a_graph_of_either_or_of_both_is_symmetric():
    found = neighbours(PullbackMetric(torus), points(), K)
    both = found.minimum(found.T)
    assert both.nnz < found.nnz
    start, stop = both.nonzero()
    assert (found[start, stop] == found[stop, start]).all()
    for graph in (found.maximum(found.T), both):
        assert abs(graph - graph.T).max() == 0


def test_candidates_are_doubled_until_they_are_enough():
    def sheared(z: Tensor) -> Tensor:  # what is near to the eye is far, and no single tensor says so
        return torch.stack([z[..., 0], z[..., 1], 40 * (3 * z[..., 0]).sin()], dim=-1)

    z, metric = points(300), PullbackMetric(sheared)
    wanted = neighbours(metric, z, K, num_candidates=299)
    few = neighbours(metric, z, K, num_candidates=K)
    enough = neighbours(metric, z, K)

    def common(found) -> float:
        return (found.astype(bool) * wanted.astype(bool)).nnz / wanted.nnz

    assert common(few) < 0.9 < 0.97 < common(enough)


def test_scale_of_the_coordinates_changes_nothing():
    z, metric = points(), PullbackMetric(globe)
    stretch = torch.tensor([100.0, 1.0], dtype=torch.float64)
    other = neighbours(PullbackMetric(lambda u: globe(u / stretch)), z * stretch, K)
    assert abs(other - neighbours(metric, z, K)).max() < 1e-9


def test_equal_codes_are_neighbours_at_zero_and_none_is_its_own():
    z = torch.cat([torch.zeros(4, 2).double(), points(20)])
    found = neighbours(PullbackMetric(globe), z, 3)
    for row in range(4):
        assert set(found[[row]].indices) == set(range(4)) - {row}
        assert (found[[row]].data == 0).all()
    assert found.nnz == 3 * len(z) and found.diagonal().sum() == 0


def test_blocks_do_not_change_a_length(monkeypatch):
    metric, z = PullbackMetric(torus), points()
    whole = neighbours(metric, z, K)
    monkeypatch.setattr(lines, "MOST_PIECES", 256)
    blocks = neighbours(metric, z, K)
    assert abs(whole - blocks).max() < 1e-12
    edges = np.stack(np.triu_indices(120, 1), axis=1)
    lengths = line_lengths(metric, z, edges[:40], 3)
    monkeypatch.setattr(lines, "MOST_PIECES", 5)
    assert np.allclose(line_lengths(metric, z, edges[:40], 3), lengths, rtol=1e-12)


def test_points_where_the_decoder_is_not_finite_are_refused_if_they_lack_neighbours():
    def holed(z: Tensor) -> Tensor:
        return torch.where(z[..., :1] > 3, torch.nan, z)

    z = points(30)
    z[4, 0] = 4.0
    with pytest.raises(ValueError, match="1 have fewer, the first in row 4"):
        neighbours(PullbackMetric(holed), z, K)


def test_progress_is_shown(capsys):
    neighbours(PullbackMetric(torus), points(), K, progress=True)
    shown = capsys.readouterr().err
    assert "candidates" in shown and "lines" in shown


def test_wrong_argument_is_a_named_error():
    metric, z = PullbackMetric(torus), points(10)
    with pytest.raises(TypeError, match="metric: expected a metric, which has lengths"):
        neighbours(DecorrelatedEnergy([torus, torus]), z, 3)
    with pytest.raises(ValueError, match="num_neighbours: expected 1 to 9"):
        neighbours(metric, z, 10)
    with pytest.raises(ValueError, match="num_candidates: expected 3 to 9"):
        neighbours(metric, z, 3, num_candidates=2)
    with pytest.raises(ValueError, match="num_segments"):
        neighbours(metric, z, 3, num_segments=0)
    with pytest.raises(ValueError, match="1 that are not"):
        neighbours(metric, torch.where(torch.arange(10)[:, None] == 2, torch.nan, z), 3)
