"""Synthetic manifolds: coordinates, immersion and distance belong to one geometry."""

from math import pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import dijkstra
from sklearn.datasets import make_s_curve, make_swiss_roll
from sklearn.neighbors import kneighbors_graph
from torch.func import jacfwd, vmap

from probgeo import datasets

CLOSED_FORMS = [
    datasets.circle,
    datasets.swiss_roll,
    datasets.s_curve,
    datasets.sphere,
    datasets.surface,
    datasets.plane_with_hole,
    datasets.folded_sheet,
]
MANIFOLDS = [*CLOSED_FORMS, datasets.torus]  # whose distance is found numerically, see test_surfaces.py
EVERY = [*MANIFOLDS, datasets.two_moons, datasets.circles, datasets.blobs]
EPS32, EPS64 = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_points_without_noise_are_the_immersed_coordinates(manifold):
    data = manifold(200, seed=1)
    error = (data.immersion(data.latent.double()) - data.x).abs().max()
    # Rounding of coordinates and of points, through a map that stretches by at most 15 (swiss roll, |t| <= 14.2).
    assert error <= 16 * EPS32 * max(1, data.latent.abs().max())


@pytest.mark.parametrize("manifold", CLOSED_FORMS)
def test_distance_is_locally_the_norm_of_the_immersed_step(manifold):
    data = manifold(200, seed=2)
    z = data.latent.double()
    step = 1e-4 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    chord = torch.linalg.vector_norm(data.immersion(z + step) - data.immersion(z), dim=-1)
    distance = data.distance(z, z + step)
    inside = distance.isnan()  # a step into a hole
    assert inside.sum() <= (2 if manifold is datasets.plane_with_hole else 0)
    assert torch.allclose(distance[~inside], chord[~inside], rtol=1e-6, atol=0)


@pytest.mark.parametrize("manifold", CLOSED_FORMS)
def test_distance_is_the_shortest_path_through_dense_points(manifold):
    # In a corner neighbours are .23 apart: between halves that are nearer the graph would jump.
    data = manifold(4000, seed=3, **({"gap": 0.5} if manifold is datasets.folded_sheet else {}))
    graph = kneighbors_graph(data.x.numpy(), n_neighbors=20, mode="distance")
    sources = list(range(10))
    shortest = torch.from_numpy(dijkstra(graph, directed=False, indices=sources))
    distance = data.distance(data.latent[sources, None], data.latent[None])
    chord = torch.cdist(data.x[sources], data.x)
    far = distance > 0.5 * distance.max()
    assert float((shortest / distance)[far].mean()) == pytest.approx(1, abs=0.02)
    bends = far if manifold is not datasets.plane_with_hole else distance > 1.01 * chord  # else it is a plane
    assert bends.sum() > 1000
    assert float((chord / distance)[bends].mean()) < (0.9 if manifold is not datasets.plane_with_hole else 0.94)


@pytest.mark.parametrize("manifold", CLOSED_FORMS)
def test_distance_satisfies_the_axioms_of_a_metric(manifold):
    data = manifold(60, seed=4)
    z = data.latent.double()
    distance = data.distance(z[:, None], z[None])
    tolerance = 100 * EPS64 * distance.max()
    assert torch.equal(distance, distance.T)
    assert (distance.diagonal() == 0).all()
    assert (distance + torch.eye(60) > 0).all()
    assert (distance[:, :, None] <= distance[:, None, :] + distance.T[None] + tolerance).all()


@pytest.mark.parametrize(
    "manifold, metric",
    [
        (datasets.circle, lambda z: torch.ones(1)),
        (datasets.swiss_roll, lambda z: torch.stack([1 + z[0] ** 2, torch.ones_like(z[0])])),
        (datasets.s_curve, lambda z: torch.ones(2)),
        (datasets.sphere, lambda z: torch.stack([torch.ones_like(z[0]), z[0].cos() ** 2])),
        (datasets.surface, lambda z: torch.ones(2)),
        (datasets.torus, lambda z: torch.stack([(1 + 0.5 * z[1].cos()) ** 2, torch.full_like(z[0], 0.25)])),
        (datasets.plane_with_hole, lambda z: torch.ones(2)),
        (datasets.folded_sheet, lambda z: torch.ones(2)),
    ],
)
def test_immersion_pulls_back_the_known_metric_tensor(manifold, metric):
    data = manifold(50, seed=5)
    z = data.latent.double()
    J = vmap(jacfwd(data.immersion))(z)
    expected = vmap(lambda row: torch.diag(metric(row).double()))(z)
    assert torch.allclose(J.mT @ J, expected, rtol=100 * EPS64, atol=100 * EPS64)


@pytest.mark.parametrize("dimension, manifold", [(2, datasets.circle), (4, datasets.surface)])
def test_turning_into_more_dimensions_keeps_lengths(dimension, manifold):
    data = manifold(100, seed=6, ambient=12)
    assert data.x.shape == (100, 12)
    assert torch.linalg.matrix_rank(data.x, rtol=1e-5) == dimension
    norm = torch.linalg.vector_norm(data.x, dim=1)
    assert torch.allclose(norm, torch.full_like(norm, (dimension / 2) ** 0.5), rtol=10 * EPS32)


@pytest.mark.parametrize("manifold", [m for m in MANIFOLDS if m not in (datasets.circle, datasets.surface)])
def test_a_turned_manifold_is_the_same_but_for_a_rotation(manifold):
    flat = manifold(100, seed=6, ambient=2 if manifold is datasets.plane_with_hole else 3)
    data = manifold(100, seed=6, ambient=20)
    assert data.x.shape == (100, 20)
    if manifold is datasets.swiss_roll or manifold is datasets.s_curve:  # scikit-learn draws the coordinates
        assert torch.equal(data.latent, flat.latent)
    x = data.immersion(data.latent.double())
    plain = flat.immersion(data.latent.double())
    scale = torch.cdist(plain, plain).max()
    assert (torch.cdist(x, x) - torch.cdist(plain, plain)).abs().max() <= 1e-7 * scale  # of squares: √eps
    assert (data.x - x).abs().max() <= 16 * EPS32 * scale


def test_swiss_roll_and_s_curve_are_those_of_scikit_learn():
    roll, curve = datasets.swiss_roll(300, seed=7), datasets.s_curve(300, seed=7)
    expected_roll, expected_curve = make_swiss_roll(300, random_state=7)[0], make_s_curve(300, random_state=7)[0]
    assert torch.equal(roll.x, torch.from_numpy(expected_roll).float())
    assert torch.equal(curve.x, torch.from_numpy(expected_curve).float())


@settings(deadline=None)
@given(angle=st.floats(-pi, pi), step=st.floats(0, pi), turns=st.integers(-3, 3))
def test_circle_is_measured_the_shorter_way_round(angle, step, turns):
    distance = datasets.circle(1).distance
    a, b = (
        torch.tensor([[angle]], dtype=torch.float64),
        torch.tensor([[angle + step + 2 * pi * turns]], dtype=torch.float64),
    )
    assert abs(distance(a, b).item() - step) <= 64 * EPS64
    assert distance(b, a) == distance(a, b)


@settings(deadline=None)
@given(latitude=st.floats(-1.5, 1.5), longitude=st.floats(-pi, pi), apart=st.floats(1e-12, pi))
def test_great_circle_is_accurate_for_near_and_opposite_points(latitude, longitude, apart):
    distance = datasets.sphere(1).distance
    equator = torch.tensor([[0, longitude], [0, longitude + apart]], dtype=torch.float64)
    assert abs(distance(equator[0], equator[1]).item() - apart) <= 16 * EPS64
    opposite = torch.tensor([[latitude, longitude], [-latitude, longitude + pi]], dtype=torch.float64)
    assert abs(distance(opposite[0], opposite[1]).item() - pi) <= 16 * EPS64


def test_sphere_is_covered_uniformly():
    x = datasets.sphere(20000, seed=8).x
    # Each coordinate of a uniform point is uniform on [-1, 1]: mean 0, second moment 1/3.
    assert (x.mean(0).abs() < 5 * (1 / 3 / 20000) ** 0.5).all()
    assert ((x**2).mean(0) - 1 / 3).abs().max() < 5 * (4 / 45 / 20000) ** 0.5


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_noise_has_the_stated_standard_deviation(manifold):
    data = manifold(4000, noise=0.3, seed=9)
    residual = data.x - data.immersion(data.latent)
    assert torch.equal(data.latent, manifold(4000, seed=9).latent)
    assert abs(float(residual.std()) / 0.3 - 1) < 5 / (2 * residual.numel()) ** 0.5


@pytest.mark.parametrize("function", EVERY)
def test_seed_decides_the_points_and_no_global_state_is_touched(function):
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = function(50, noise=0.1, seed=10)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(first.x, function(50, noise=0.1, seed=10).x)
    assert not torch.equal(first.x, function(50, noise=0.1, seed=11).x)
    assert len(first) == 50
    assert first.x.isfinite().all()


def test_labels_of_planar_sets_tell_their_parts_apart():
    radius = torch.linalg.vector_norm(datasets.circles(100, noise=0.0).x, dim=1)
    expected = torch.where(datasets.circles(100, noise=0.0).labels == 0, 1.0, 0.5)
    assert torch.allclose(radius, expected, rtol=10 * EPS32)
    moons = datasets.two_moons(100, noise=0.0)
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.5]])[moons.labels]
    assert torch.allclose(torch.linalg.vector_norm(moons.x - centres, dim=1), torch.ones(100), rtol=10 * EPS32)
    blobs = datasets.blobs(90, noise=0.0, ambient=5, num_classes=3)
    assert blobs.x.unique(dim=0).shape == (3, 5)
    assert blobs.labels.bincount().tolist() == [30, 30, 30]


@pytest.mark.parametrize("manifold", MANIFOLDS)
def test_sets_that_cannot_be_are_errors(manifold):
    with pytest.raises(ValueError, match="num_points: expected at least 1; got 0"):
        manifold(0)
    with pytest.raises(ValueError, match=r"noise: expected .* got -0.1"):
        manifold(10, noise=-0.1)


def test_too_few_ambient_dimensions_are_an_error():
    with pytest.raises(ValueError, match="ambient: expected at least 2 dimensions; got 1"):
        datasets.circle(ambient=1)
    with pytest.raises(ValueError, match="ambient: expected at least 4 dimensions; got 3"):
        datasets.surface(ambient=3)
    for manifold in (datasets.swiss_roll, datasets.s_curve, datasets.sphere, datasets.torus, datasets.folded_sheet):
        with pytest.raises(ValueError, match="ambient: expected at least 3 dimensions; got 2"):
            manifold(ambient=2)
