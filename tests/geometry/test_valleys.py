"""Edges along valleys: short steps against brute force, tensors against those that edges were weighed by."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from probgeo.geometry.geodesics import GaussNewton, Status, geodesic
from probgeo.geometry.graph import Graph
from probgeo.geometry.grids import FINER, MOST_POINTS, grid
from probgeo.geometry.metrics import PullbackMetric
from probgeo.geometry.valleys import along_valleys, fitted, short_steps

CODES = 2 * torch.rand(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
BAND = torch.tensor([1.0, 0.25], dtype=torch.float64)
TURN, WAVES, HEIGHT = 0.35, 10.0, 0.15  # radians; for each unit across; of each
SIZE = 9
PLACE = np.argwhere(np.ones((SIZE, SIZE)))
NEIGHBOURS = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if math.gcd(i, j) == 1]


def anisotropic(angle: float, ratio: float) -> np.ndarray:
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return turn @ np.diag([1.0, ratio**2]) @ turn.T


def entries(tensor: np.ndarray) -> np.ndarray:
    return tensor[[0, 0, 1], [0, 1, 1]][None]


def norms(steps: np.ndarray, tensor: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ni,ij,nj->n", steps, tensor, steps))


def neighbouring(tensor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All edges between neighbours, and their weights."""
    apart = PLACE[None] - PLACE[:, None]
    joined = np.argwhere((np.abs(apart).max(2) <= 2) & (np.gcd(*np.moveaxis(apart, 2, 0)) == 1))
    edges = joined[joined[:, 0] < joined[:, 1]]
    return edges, norms(PLACE[edges[:, 1]] - PLACE[edges[:, 0]], tensor)


@given(st.floats(0, math.pi), st.floats(1, 20))
def test_the_two_shortest_steps_are_those_of_all(angle, ratio):
    tensor = anisotropic(angle, ratio)
    short, long, *others = (step[0] for step in short_steps(entries(tensor)))
    assert abs(short[0] * long[1] - short[1] * long[0]) == 1
    every = np.argwhere(np.ones((81, 81))) - 40
    every = every[np.any(every != 0, axis=1)]
    order = np.argsort(norms(every, tensor))
    first = every[order[0]]
    second = next(step for step in every[order] if step[0] * first[1] != step[1] * first[0])
    for found, least in ((short, first), (long, second)):
        np.testing.assert_allclose(*norms(np.stack([found, least]), tensor), rtol=1e-6)
    assert {
        tuple(abs(step)) for step in np.linalg.solve(np.stack([short, long], 1), np.stack(others, 1)).T.round()
    } == {
        (1, 1),
        (2, 1),
        (1, 2),
    }


@given(st.floats(0, math.pi), st.floats(1, 20))
def test_a_tensor_is_what_edges_were_weighed_by(angle, ratio):
    tensor = anisotropic(angle, ratio)
    found, known = fitted(PLACE, *neighbouring(tensor))
    assert known.tolist() == list(range(SIZE**2))
    unit = neighbouring(tensor)[1].max() ** 2
    np.testing.assert_allclose(unit * found, entries(tensor).repeat(SIZE**2, 0), rtol=1e-6, atol=1e-6 * ratio**2)


@given(st.floats(0, math.pi), st.floats(1, 6))
def test_edges_along_valleys_are_short_steps_between_nodes_once_each(angle, ratio):
    tensor = anisotropic(angle, ratio)
    found = along_valleys(PLACE, *neighbouring(tensor), 3, 8)
    steps = {tuple(way * step[0]) for step in short_steps(entries(tensor)) for way in (1, -1)}
    steps = {step for step in steps if 3 <= max(map(abs, step)) <= 8}
    assert {tuple(step) for step in PLACE[found[:, 1]] - PLACE[found[:, 0]]} <= steps
    expected = sum((SIZE - abs(one)) * (SIZE - abs(two)) for one, two in steps if max(abs(one), abs(two)) < SIZE) // 2
    assert len(found) == expected and len(np.unique(found, axis=0)) == expected


@given(st.integers(0, 2**31), st.floats(0, 40), st.sampled_from([1e-300, 1e-20, 1.0, 1e100]))
def test_edges_of_any_weights_lead_to_whole_steps_that_are_not_too_long(seed, spread, unit):
    edges, _ = neighbouring(np.eye(2))
    weights = unit * np.exp(spread * np.random.default_rng(seed).standard_normal(len(edges)))
    found = along_valleys(PLACE, edges, weights, 3, 8)
    steps = np.abs(PLACE[found[:, 1]] - PLACE[found[:, 0]])
    assert ((steps.max(1) >= 3) & (steps.max(1) <= 8)).all() and (np.gcd(*steps.T) == 1).all()


def test_a_plane_has_no_edges_beyond_neighbours():
    assert not len(along_valleys(PLACE, *neighbouring(np.eye(2)), 3, 8))


def test_what_edges_do_not_say_is_not_known():
    edges, weights = neighbouring(anisotropic(0.3, 5.0))
    weights[(edges == 0).any(1)] = np.inf
    found, known = fitted(PLACE, edges, weights)
    assert known.tolist() == list(range(1, SIZE**2)) and np.isfinite(found).all()
    assert not len(fitted(PLACE, edges, np.full(len(edges), np.nan))[1])
    assert not len(fitted(PLACE, edges[:0], weights[:0])[1])


def corrugated(z: Tensor) -> Tensor:
    """A plane in waves across one direction, which unrolls, so that distances are those of a plane; walls around."""
    across, along = turned(z)
    walls = 200 * (z.abs() - 1.2 * BAND.to(z)).clamp_min(0).sum(-1)
    return torch.stack([across, along, HEIGHT * torch.sin(2 * math.pi * WAVES * across), walls], dim=-1)


def turned(z: Tensor) -> tuple[Tensor, Tensor]:
    x, y = z.unbind(-1)
    return math.cos(TURN) * x - math.sin(TURN) * y, math.sin(TURN) * x + math.cos(TURN) * y


def unrolled(first: float, second: float) -> float:
    """Arc length across, from one place to another."""

    def slope(u: float) -> float:
        return 2 * math.pi * WAVES * HEIGHT * math.cos(2 * math.pi * WAVES * u)

    return abs(quad(lambda u: math.hypot(1, slope(u)), first, second, limit=500)[0])


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph(PullbackMetric(corrugated), CODES * BAND)


def pairs_and_lengths() -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of four points, and their distances on the unrolled plane."""
    points = torch.tensor([[-0.6, -0.2], [-0.3, 0.2], [0.0, -0.1], [0.5, 0.1]], dtype=torch.float64)
    first, second = torch.combinations(torch.arange(4)).T
    across, along = turned(points)
    arc = [unrolled(*ends) for ends in zip(across[first].tolist(), across[second].tolist(), strict=True)]
    return (
        points[first],
        points[second],
        torch.hypot(torch.tensor(arc, dtype=torch.float64), along[first] - along[second]),
    )


def test_in_a_rough_metric_shortest_paths_follow_valleys(graph):
    start, stop, lengths = pairs_and_lengths()
    assert graph.rough
    np.testing.assert_allclose(graph.distances(start, stop).diagonal(), lengths, rtol=0.02)
    # Down one valley, whatever its direction on the grid.
    lowest = (torch.tensor([0.25]) / WAVES - 0.1).double() * torch.tensor([math.cos(TURN), -math.sin(TURN)])
    way = 0.15 * torch.tensor([[math.sin(TURN), math.cos(TURN)]], dtype=torch.float64)
    assert graph.distances(lowest - way, lowest + way).item() == pytest.approx(0.3, rel=0.01)


def test_in_a_rough_metric_geodesics_are_as_long_as_on_the_unrolled_plane_or_say_that_segments_jump_its_waves(graph):
    start, stop, lengths = pairs_and_lengths()
    found = geodesic(PullbackMetric(corrugated), start, stop, init=graph, solver=GaussNewton(1024))
    assert {*found.status.tolist()} <= {Status.CONVERGED, Status.COARSE}
    right = found.status == Status.CONVERGED
    assert right.sum() >= 4
    torch.testing.assert_close(found.length[right], lengths[right], rtol=0.005, atol=0)


def test_a_rough_grid_is_finer_beside_codes_alone_joined_throughout_and_repeats_nothing():
    codes = 0.3 * CODES
    codes[0] = 1.5
    nodes, edges, weights, rough = grid(PullbackMetric(corrugated), codes, 30)
    assert rough and len(nodes.unique(dim=0)) == len(nodes)
    assert len(np.unique(np.sort(edges, axis=1), axis=0)) == len(edges) and (edges[:, 0] != edges[:, 1]).all()
    matrix = np.stack([edges[:, 0], edges[:, 1]])
    assert connected_components(coo_array((weights, matrix), shape=(len(nodes),) * 2))[0] == 1
    start, stop = nodes[edges].unbind(1)
    apart, middle = (stop - start).abs().amax(1), (start + stop) / 2
    far, near = (middle[:, 0] > 0.7) & (middle[:, 1] < 0.7), (middle.abs() < 0.3).all(1)
    assert apart[far].unique().max().item() == pytest.approx(2 * FINER[0] * apart[near].min().item())
    assert apart[far].min().item() == pytest.approx(FINER[0] * apart[near].min().item())


def test_a_grid_asks_for_so_many_points_at_a_time():
    asked: list[int] = []

    def counted(z: Tensor) -> Tensor:
        asked.append(z[..., 0].numel())
        return corrugated(z)

    assert len(grid(PullbackMetric(counted), CODES * BAND, 60).nodes) > MOST_POINTS
    assert max(asked) < 1.5 * MOST_POINTS


def test_starts_of_a_rough_graph_have_twice_the_segments(graph):
    metric, ends = PullbackMetric(corrugated), (CODES[:5] * BAND, CODES[5:10] * BAND)
    starts = graph.starts(*ends)
    assert starts.path.shape[1:] == (2 * metric.graph_segments + 1, 2)
    assert torch.equal(starts.path[:, 0], ends[0][starts.pair])
    assert graph(*ends).shape == (5, metric.graph_segments + 1, 2)
