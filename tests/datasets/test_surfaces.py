"""Distances on surfaces without a simple closed form, and through neighbours, against independent computations."""

from math import pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from sklearn.manifold import Isomap

import probgeo as pg
from probgeo import datasets
from probgeo.datasets import tori

TUBE = 0.5


def torus_distance(a, b, tube=TUBE):
    return tori.torus_distance(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), tube)


# --- the torus -------------------------------------------------------------------------------------------------------


def clairaut(constant, start, stop):
    """Turn and length, by quadrature, of the geodesic ϱ² u′ = c from v = start to stop, v growing."""

    def root(v):
        return np.sqrt((1 + TUBE * np.cos(v)) ** 2 - constant**2)

    turn = quad(lambda v: constant * TUBE / ((1 + TUBE * np.cos(v)) * root(v)), start, stop)[0]
    return turn, quad(lambda v: TUBE * (1 + TUBE * np.cos(v)) / root(v), start, stop)[0]


def test_distance_on_the_torus_is_that_of_clairauts_integrals():
    # Short ones are the shortest; c < 1/2 crosses the inner circle too.
    cases = [(c, v, v + width) for c in (0.1, 0.3, 0.45) for v in (-3.0, -1.0, 0.3, 2.0) for width in (0.2, 0.9)]
    turns, lengths = np.transpose([clairaut(*case) for case in cases])
    start = np.array([[0.7, case[1]] for case in cases])
    stop = np.array([[0.7 + turn, case[2]] for turn, case in zip(turns, cases, strict=True)])
    assert torus_distance(start, stop).numpy() == pytest.approx(lengths, abs=1e-6)


@pytest.mark.parametrize("tube", [0.3, 0.5, 0.8])
def test_distance_along_meridians_and_the_inner_circle_of_the_torus_is_that_of_circles(tube):
    v = np.linspace(-3, 3, 7)
    across = torus_distance(np.stack([0 * v, v], 1), np.stack([0 * v, v[::-1] + 0.4], 1), tube)
    apart = np.abs(v - v[::-1] - 0.4) % (2 * pi)
    assert across.numpy() == pytest.approx(tube * np.minimum(apart, 2 * pi - apart), abs=1e-6)
    u = np.linspace(0.1, 3, 7)
    inner = torus_distance(np.stack([0 * u, 0 * u + pi], 1), np.stack([-u, 0 * u - pi], 1), tube)
    assert inner.numpy() == pytest.approx((1 - tube) * u, abs=1e-6)


def test_a_thin_tube_far_from_the_axis_is_nearly_a_cylinder():
    tube = 0.01
    a, b = np.array([[0.0, -1.0]]), np.array([[0.02, 1.5]])
    assert torus_distance(a, b, tube).item() == pytest.approx(np.hypot(0.02, 2.5 * tube), rel=tube)


def test_distance_on_the_torus_lies_between_bounds_of_a_fine_mesh():
    num_u, num_v = 96, 64
    u, v = np.arange(num_u) * 2 * pi / num_u, np.arange(num_v) * 2 * pi / num_v
    steps = [(i, j) for i in range(-6, 7) for j in range(-6, 7) if np.gcd(i, j) == 1]
    rows, columns, lengths = [], [], []
    grid = np.arange(num_u * num_v).reshape(num_u, num_v)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    for i, j in steps:
        # The line of the coordinates, which is a path: its length by quadrature.
        along = v[:, None] + j * 2 * pi / num_v * (nodes + 1) / 2
        speed = np.hypot((1 + TUBE * np.cos(along)) * i * 2 * pi / num_u, TUBE * j * 2 * pi / num_v)
        lengths.append(np.broadcast_to(speed @ weights / 2, grid.shape).ravel())
        rows.append(grid.ravel())
        columns.append(np.roll(grid, (-i, -j), (0, 1)).ravel())
    graph = csr_matrix((np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))), [grid.size] * 2)
    starts = [grid[0, 0], grid[0, 20], grid[0, 32]]
    upper = dijkstra(graph, indices=starts)
    some = np.random.default_rng(0).choice(grid.size, 40, replace=False)
    ends = np.stack([u[some // num_v], v[some % num_v]], 1)
    for start, row in zip(starts, upper, strict=True):
        found = torus_distance(np.tile([[0.0, v[start % num_v]]], (40, 1)), ends).numpy()
        assert (found <= row[some] + 1e-9).all()
        # Directions of a mesh are at most 1/6 rad apart (in its own angles): a path is at most so much too long.
        assert (found >= 0.985 * row[some]).all()


def test_distance_on_the_torus_is_a_metric_and_no_geodesic_of_the_library_is_shorter():
    data = datasets.torus(9, seed=4)
    z = data.latent.double()
    distance = data.distance(z[:, None], z[None])
    assert (distance - distance.T).abs().max() < 1e-6
    assert (distance.diagonal() == 0).all() and (distance + torch.eye(9) > 0).all()
    assert (distance[:, :, None] <= distance[:, None, :] + distance.T[None] + 1e-6).all()
    start, stop = z[torch.triu_indices(9, 9, 1)]
    solver = pg.GaussNewton(num_segments=128)
    length = pg.geodesic(pg.PullbackMetric(data.immersion), start, stop, solver=solver).length
    known = data.distance(start, stop)
    assert (length > (1 - 5e-4) * known).all()  # a chord is shorter than its arc
    assert ((length - known).abs() < 5e-4 * known).sum() > 10  # of 36: straight starts go one way round


def test_distance_on_the_torus_does_not_change_when_everything_is_twice_as_fine(monkeypatch):
    data = datasets.torus(40, seed=5)
    a, b = data.latent.double().chunk(2)
    coarse = data.distance(a, b)
    for name, value in (("NUM_RAYS", 240), ("STEP", 0.025), ("NUM_STEPS", 256)):
        monkeypatch.setattr(tori, name, value)
    assert (data.distance(a, b) - coarse).abs().max() < 1e-6


def test_a_distance_that_is_not_found_is_an_error(monkeypatch):
    monkeypatch.setattr(tori, "NUM_CORRECTIONS", 0)
    with pytest.raises(ArithmeticError, match="no geodesic was found that is as short as a path that is known"):
        torus_distance([[0.0, 0.0]], [[2.0, 1.0]])


def test_the_torus_is_covered_uniformly():
    v = datasets.torus(20000, seed=8).latent[:, 1].double()
    # Under the density (1 + r cos v) / 2π the mean of cos v is r/2, that of cos² v is 1/2.
    assert abs(float(v.cos().mean()) - TUBE / 2) < 5 * (0.5 / 20000) ** 0.5
    assert abs(float((v.cos() ** 2).mean()) - 0.5) < 5 * (0.125 / 20000) ** 0.5


# --- the hole --------------------------------------------------------------------------------------------------------


def hole_distance(a, b, hole=0.5):
    distance = datasets.plane_with_hole(1, hole=hole).distance
    return distance(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))


@settings(deadline=None, max_examples=60)
@given(radii=st.tuples(st.floats(0.5, 1.4), st.floats(0.5, 1.4)), angle=st.floats(-pi, pi), start=st.floats(-pi, pi))
def test_distance_round_a_hole_is_that_by_the_best_places_to_touch_it(radii, angle, start):
    a, b = radii[0] * np.exp(1j * start), radii[1] * np.exp(1j * (start + angle))
    found = hole_distance([a.real, a.imag], [b.real, b.imag]).item()
    line = a + np.linspace(0, 1, 2001) * (b - a)
    if np.abs(line).min() >= 0.5:
        assert found == pytest.approx(abs(a - b), abs=1e-12)
        return
    # By brute force: straight to a place on the rim that is seen from a, along the rim, and straight on to b.
    arc = 0.5 * np.linspace(0, abs(angle), 4001)
    rim = 0.5 * np.exp(1j * (start + 2 * np.sign(angle) * arc))
    from_a, from_b = np.abs(rim - a), np.abs(rim - b)
    leave = np.where(from_a**2 <= abs(a) ** 2 - 0.25 + 1e-9, from_a - arc, np.inf).min()
    reach = np.where(from_b**2 <= abs(b) ** 2 - 0.25 + 1e-9, from_b + arc, np.inf).min()
    assert found == pytest.approx(leave + reach, abs=1e-3)
    assert found >= abs(a - b) - 1e-12


def test_points_in_the_hole_have_no_distance_and_none_are_drawn():
    data = datasets.plane_with_hole(2000, hole=0.7)
    assert len(data) == 2000 and (data.latent.norm(dim=1) >= 0.7 - 1e-6).all()
    assert hole_distance([0.1, 0.2], [0.9, 0.9]).isnan()


@pytest.mark.parametrize(
    "wrong, match",
    [
        (lambda: datasets.plane_with_hole(hole=1.0), r"hole: expected a radius in \(0, 1\); got 1.0"),
        (lambda: datasets.torus(tube=0.0), r"tube: expected a radius in \(0, 1\); got 0.0"),
        (lambda: datasets.folded_sheet(gap=-1.0), "gap: expected a positive number; got -1.0"),
    ],
)
def test_surfaces_that_cannot_be_are_errors(wrong, match):
    with pytest.raises(ValueError, match=match):
        wrong()


# --- the folded sheet ------------------------------------------------------------------------------------------------


def test_the_halves_of_a_folded_sheet_are_a_gap_apart_and_its_profile_has_unit_speed():
    data = datasets.folded_sheet(1, ambient=3, gap=0.2)
    s = torch.linspace(-2.1, 2.1, 40001, dtype=torch.float64)
    x = data.immersion(torch.stack([s, torch.ones_like(s)], dim=1))
    assert x.diff(dim=0).norm(dim=1).sum().item() == pytest.approx(4.2, abs=1e-6)
    apart = (x - x.flip(0)).norm(dim=1)[s.abs() > 0.1 * pi / 2]
    assert (apart - 0.2).abs().max() < 1e-9


# --- distances of data -----------------------------------------------------------------------------------------------


def test_intrinsic_distances_are_those_of_the_rows_coordinates():
    data = datasets.sphere(50, noise=0.3, seed=3, ambient=7)
    pairs = pg.sample_pairs(data.labels, 20)
    latitude, longitude = data.latent.double().T
    turn = (longitude[pairs[:, 0]] - longitude[pairs[:, 1]]).cos()
    a, b = latitude[pairs].unbind(1)
    expected = (a.sin() * b.sin() + a.cos() * b.cos() * turn).acos()
    assert torch.allclose(datasets.intrinsic_distances(data, pairs), expected, rtol=1e-6)


def test_intrinsic_distances_of_what_has_none_are_refused():
    pairs = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="expected a synthetic manifold, whose distance is known; 'digits' has none"):
        datasets.intrinsic_distances(datasets.digits(), pairs)
    with pytest.raises(ValueError, match="left out where x was changed"):
        datasets.intrinsic_distances(datasets.sphere(50).normalised(), pairs)


def test_distances_through_neighbours_are_those_of_isomap():
    data = datasets.swiss_roll(400, noise=0.2, seed=2)
    pairs = pg.sample_pairs(data.labels, 50)
    expected = Isomap(n_neighbors=8).fit(data.x.double().numpy()).dist_matrix_[pairs[:, 0], pairs[:, 1]]
    assert datasets.neighbour_graph_distances(data.x, pairs, num_neighbours=8).numpy() == pytest.approx(expected)


def test_distances_through_neighbours_are_no_shorter_than_chords_and_exact_on_a_line():
    line = torch.rand(100, 1, generator=torch.Generator().manual_seed(0))
    pairs = torch.tensor([[3, 50], [99, 0]])
    found = datasets.neighbour_graph_distances(line, pairs, num_neighbours=20)
    assert torch.allclose(found, (line[pairs[:, 0]] - line[pairs[:, 1]]).abs().double().squeeze(1), rtol=1e-6)
    x = datasets.digits().x[:300]
    pairs = pg.sample_pairs(range(300), 40)
    found = datasets.neighbour_graph_distances(x, pairs, num_neighbours=30)
    assert (found >= (x[pairs[:, 0]] - x[pairs[:, 1]]).norm(dim=1) * (1 - 1e-6)).all()


def test_equal_rows_are_no_way_apart():
    x = torch.tensor([[0.0], [0.0], [1.0], [2.0]])
    found = datasets.neighbour_graph_distances(x, torch.tensor([[0, 1], [0, 2], [1, 3]]), num_neighbours=2)
    assert found.tolist() == [0.0, 1.0, 2.0]


def test_rows_that_no_path_joins_are_refused():
    x = torch.cat([torch.randn(20, 2), 100 + torch.randn(20, 2)])
    with pytest.raises(ValueError, match="1 of 2 pairs are not joined by any path of 3 neighbours; take more"):
        datasets.neighbour_graph_distances(x, torch.tensor([[0, 39], [5, 5]]), num_neighbours=3)
    with pytest.raises(ValueError, match="num_neighbours: expected 1 to 39, the other rows; got 40"):
        datasets.neighbour_graph_distances(x, torch.tensor([[0, 39]]), num_neighbours=40)
