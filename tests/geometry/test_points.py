"""Codes as they come: with a history of gradients, from NumPy, in any layout, give what their plain copies give."""

import numpy as np
import pytest
import torch

import probgeo as pg
from probgeo.geometry.metrics import PullbackMetric
from probgeo.geometry.points import latent_points
from tests.manifolds import hill

METRIC, SOLVER = PullbackMetric(hill), pg.GaussNewton(8)
CODES = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
FORMS = {
    "with gradients": lambda z: 1 * z.clone().requires_grad_(),
    "a parameter": lambda z: torch.nn.Parameter(z.clone()),
    "of NumPy": lambda z: z.numpy(),
    "of NumPy, by columns": lambda z: np.asfortranarray(z.numpy()),
    "transposed": lambda z: z.T.contiguous().T,
    "every second column": lambda z: z.repeat_interleave(2, dim=1)[:, ::2],
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_codes_gives_the_same_distances(name):
    codes = FORMS[name](CODES)
    graph, plain = pg.paths.Graph(METRIC, codes, num_nodes=400), pg.paths.Graph(METRIC, CODES, num_nodes=400)
    found = pg.geodesic(METRIC, codes[:4], codes[4:8], init=graph, solver=SOLVER)
    expected = pg.geodesic(METRIC, CODES[:4], CODES[4:8], init=plain, solver=SOLVER)
    assert torch.equal(found.length, expected.length)
    some, same = codes[:5], CODES[:5]
    matrices = [pg.distance_matrix(METRIC, z, solver=SOLVER).values for z in (some, same)]
    assert np.array_equal(*matrices)
    graphs = [pg.graph_distances(METRIC, z, z[:3], num_checked=5, solver=SOLVER).values for z in (codes, CODES)]
    assert np.array_equal(*graphs)


@pytest.mark.parametrize("values", [torch.zeros(2, 2).long(), torch.zeros(2, 2).half(), np.zeros((2, 2), dtype=int)])
def test_other_numbers_are_refused_by_the_name_of_the_argument(values):
    with pytest.raises(TypeError, match="codes: expected a floating-point tensor or array of float32 or float64"):
        latent_points("codes", values)


def _graph() -> pg.paths.Graph:
    return pg.paths.Graph(METRIC, CODES, num_nodes=100)


STATED = {
    "energy": lambda z: pg.energy(METRIC, z.reshape(3, 4, 2)),
    "length": lambda z: pg.length(METRIC, z.reshape(3, 4, 2)),
    "geodesic": lambda z: pg.geodesic(METRIC, z[:2], z[2:4], init=z[:6].reshape(2, 3, 2), solver=SOLVER).path[:, 5],
    "Straight": lambda z: pg.paths.Straight(4)(z[:2], z[2:4]),
    "Graph": lambda z: _graph()(z[:2], z[2:4]),
    "Graph.starts": lambda z: _graph().starts(z[:2], z[2:4]).path,
    "Graph.distances": lambda z: torch.from_numpy(_graph().distances(z[:2], z[2:4])),
    "exponential": lambda z: pg.calculus.exponential(METRIC, z[:2], 0.1 * z[2:4], 8).point,
    "logarithm": lambda z: pg.calculus.logarithm(METRIC, z[:2], z[2:4], solver=SOLVER).velocity,
    "parallel_transport": lambda z: pg.calculus.parallel_transport(METRIC, z[:8].reshape(2, 4, 2), z[:2]),
    "angle": lambda z: pg.calculus.angle(METRIC, z[:2], z[2:4], z[4:6], solver=SOLVER).angle,
    "volume": lambda z: pg.calculus.volume(METRIC, z[:3].reshape(1, 3, 2), 0.1).volume,
    "volume_density": lambda z: pg.calculus.volume_density(METRIC, z),
    "convex_hull": lambda z: pg.calculus.convex_hull(z),
    "frechet_mean": lambda z: pg.calculus.frechet_mean(METRIC, z[:3], abs(z[3:6, 0]), start=z[0], max_steps=2).mean,
    "sectional_curvature": lambda z: pg.calculus.sectional_curvature(METRIC, z),
    "smallest_singular_value": lambda z: pg.calculus.smallest_singular_value([hill], z),
}


@pytest.mark.parametrize("function", STATED)
def test_every_function_takes_every_form_of_codes_and_refuses_whole_numbers(function):
    call = STATED[function]
    expected = call(CODES)
    for name, form in FORMS.items():
        found = call(form(CODES))
        assert torch.equal(found, expected) or torch.allclose(found, expected, rtol=1e-5, equal_nan=True), name
    for whole in (CODES.long(), CODES.long().numpy()):
        with pytest.raises(TypeError, match=r"^\w+: expected a floating-point tensor or array of float32 or float64;"):
            call(whole)


@pytest.mark.parametrize("function", ["energy", "length", "Straight", "volume_density", "smallest_singular_value"])
def test_what_is_differentiable_in_the_codes_stays_so(function):
    codes = CODES.double().requires_grad_()
    slope = torch.autograd.grad(STATED[function](codes).sum(), codes)[0]
    step, v = 1e-6, torch.randn(CODES.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ahead, behind = (STATED[function](codes.detach() + sign * step * v).sum() for sign in (1, -1))
    assert torch.allclose((slope * v).sum(), (ahead - behind) / (2 * step), rtol=1e-5)


NETWORKS = {
    "fused": torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)),
    "general": torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3)),
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("function", ["energy", "geodesic", "distance_matrix", "Graph", "volume_density"])
def test_codes_of_another_latent_space_are_refused_in_words(kind, function):
    metric, codes = PullbackMetric(NETWORKS[kind]), torch.randn(4, 3)
    calls = {
        "energy": lambda: pg.energy(metric, codes[None]),
        "geodesic": lambda: pg.geodesic(metric, codes[:2], codes[2:]),
        "distance_matrix": lambda: pg.distance_matrix(metric, codes),
        "Graph": lambda: pg.paths.Graph(metric, codes),
        "volume_density": lambda: pg.calculus.volume_density(metric, codes),
    }
    with pytest.raises(ValueError, match=r"codes: expected points of 2 latent|decoder: it cannot be called with"):
        calls[function]()


def test_codes_of_another_dtype_are_refused_or_computed_in_it():
    codes = CODES.numpy().astype(np.float64)
    with pytest.raises(ValueError, match=r"cannot be called with points \(1, 2\) of torch.float64"):
        pg.geodesic(PullbackMetric(NETWORKS["general"]), codes[:2], codes[2:4])
    found = pg.geodesic(PullbackMetric(NETWORKS["fused"]), codes[:2], codes[2:4]).length
    assert found.dtype == torch.float64 and found.isfinite().all()


def test_a_graph_refuses_ends_of_another_latent_space():
    for call in (_graph(), _graph().starts, _graph().distances):
        with pytest.raises(ValueError, match="start: expected points of 2 latent dimensions; got 3"):
            call(torch.zeros(2, 3), torch.zeros(2, 3))


def test_arrays_that_may_not_be_written_to_are_taken():
    codes = CODES.numpy().copy()
    codes.setflags(write=False)
    assert torch.equal(latent_points("codes", codes), CODES)
    assert torch.equal(latent_points("codes", codes.astype(">f4")), CODES)
