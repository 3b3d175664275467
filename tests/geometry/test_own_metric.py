"""A metric of one's own, of residuals and a tensor alone, is as good as a built-in one."""

import copy

import pytest
import torch
from torch import Tensor, nn

import probgeo as pg
from probgeo.geometry.calculus import angle, convex_hull, logarithm, volume
from probgeo.geometry.geodesics import energy, length
from probgeo.geometry.graph import Graph
from probgeo.geometry.metrics import ConformalMetric, ExpectedMetric, Metric, PullbackMetric, TensorMetric
from probgeo.geometry.newton import BlockTridiagonal, MatrixFree
from probgeo.nn import Stacked, mlp

SOLVER = pg.GaussNewton(32, tolerance=1e-10, coarse_tolerance=1e-6)


def hill(z: Tensor) -> Tensor:
    height = (-2 * z.square().sum(-1, keepdim=True)).exp()
    return torch.cat([z, 1.5 * height], dim=-1)


class Hill(Metric):
    """The pull-back of z ↦ (z, 1.5 exp(−2‖z‖²)), written down by hand."""

    def residuals(self, points: Tensor) -> Tensor:
        return hill(points).diff(dim=0)

    def tensor(self, z: Tensor) -> Tensor:
        slope = -6 * z * (-2 * z.square().sum(-1, keepdim=True)).exp()
        return torch.eye(z.shape[-1], dtype=z.dtype) + slope[..., :, None] * slope[..., None, :]


def points(count: int, latent: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, latent, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


BUILT_IN = PullbackMetric(hill)


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_everything_derived_equals_the_closed_forms(latent):
    path = points(5 * 8, latent).view(5, 8, latent) / 2
    found, expected = Hill().linearize(path), BUILT_IN.linearize(path)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    assert torch.allclose(Hill().squared_residuals(path), BUILT_IN.squared_residuals(path), rtol=1e-12)
    nodes, edges = path.flatten(0, 1), torch.tensor([[0, 5], [7, 2], [3, 39]])
    assert torch.allclose(Hill().edge_weights(nodes, edges), BUILT_IN.edge_weights(nodes, edges), rtol=1e-12)
    embedding = nn.Linear(2, latent).double()
    pulled, closed = Hill().pulled_back(embedding), BUILT_IN.pulled_back(embedding)
    plane = points(12).view(2, 6, 2)
    assert torch.allclose(pulled.tensor(plane), closed.tensor(plane), rtol=1e-10)
    for one, other in zip(pulled.linearize(plane), closed.linearize(plane), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_chunks_of_derived_quantities_change_nothing(monkeypatch):
    path = points(60).view(4, 15, 2)
    expected = Hill().linearize(path)
    monkeypatch.setattr(Hill, "num_points", lambda self, points: 7)
    for one, other in zip(Hill().linearize(path), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-13)


def test_geodesics_lengths_graphs_and_matrices_are_those_of_the_built_in_metric():
    start, stop, codes = points(4), points(4, seed=1), points(60, seed=2)
    for init in (None, Graph(Hill(), codes, num_nodes=400)):
        found = pg.geodesic(Hill(), start, stop, init=init, solver=SOLVER, throw=True)
        expected = pg.geodesic(BUILT_IN, start, stop, init=init, solver=SOLVER, throw=True)
        assert torch.allclose(found.length, expected.length, rtol=1e-8)
        assert torch.allclose(length(Hill(), found.path), length(BUILT_IN, found.path), rtol=1e-12)
        assert torch.allclose(energy(Hill(), found.path), energy(BUILT_IN, found.path), rtol=1e-12)
    assert torch.allclose(Graph(Hill(), codes)(start, stop), Graph(BUILT_IN, codes)(start, stop), rtol=0, atol=1e-12)
    matrices = [pg.distance_matrix(metric, start, solver=SOLVER).values for metric in (Hill(), BUILT_IN)]
    assert torch.allclose(*map(torch.from_numpy, matrices), rtol=1e-8)


def test_sums_angles_logarithms_and_volumes_are_those_of_the_built_in_metric():
    field = TensorMetric(lambda z: torch.diag_embed(1 + z.square()))
    corner, first, second = points(3), points(3, seed=1), points(3, seed=2)
    sums = [pg.geodesic(metric + field, first, second, solver=SOLVER).length for metric in (Hill(), BUILT_IN)]
    assert torch.allclose(*sums, rtol=1e-8)
    angles = [angle(metric, corner, first, second, solver=SOLVER).angle for metric in (Hill(), BUILT_IN)]
    assert torch.allclose(*angles, rtol=1e-5)
    velocities = [logarithm(metric, corner, first, solver=SOLVER).velocity for metric in (Hill(), BUILT_IN)]
    assert torch.allclose(*velocities, rtol=1e-4, atol=1e-5)
    region = convex_hull(points(12))
    assert torch.allclose(*(volume(metric, region).volume for metric in (Hill(), BUILT_IN)), rtol=1e-9)


@pytest.mark.parametrize("system", [BlockTridiagonal, MatrixFree])
def test_both_linear_systems_solve_a_metric_of_ones_own(system):
    solver = pg.GaussNewton(32, tolerance=1e-6, system=system)
    start, stop = points(3, 5) / 2, points(3, 5, seed=1) / 2
    found, expected = (pg.geodesic(metric, start, stop, solver=solver, throw=True) for metric in (Hill(), BUILT_IN))
    assert torch.allclose(found.length, expected.length, rtol=1e-6)


def test_a_metric_keeps_the_weights_that_a_module_had():
    """Of perceptrons and of all else, of modules, their methods and what they are part of."""
    torch.manual_seed(0)
    nets = {
        "perceptron": mlp([2, 8, 5]).double(),
        "one input": nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 5)).double(),
        "softmax": nn.Sequential(mlp([2, 8, 5]), nn.Softmax(-1)).double(),
    }
    field = nn.Sequential(nn.Linear(2, 1), nn.Softplus(), nn.Flatten(0)).double()
    z = points(6)
    for net in nets.values():
        others = [copy.deepcopy(net) for _ in range(2)]
        metrics = [
            PullbackMetric(net),
            PullbackMetric(net.forward),
            ExpectedMetric([net, *others]),
            ExpectedMetric(stacked := Stacked([net, *others])),
            ConformalMetric(field, 0.1),
        ]
        before = [metric.tensor(z) for metric in metrics]
        with torch.no_grad():
            for parameter in [*net.parameters(), *stacked.parameters(), *field.parameters()]:
                parameter.mul_(1.5).add_(0.1)
        for metric, tensor in zip(metrics, before, strict=True):
            assert torch.equal(metric.tensor(z), tensor)
        assert not torch.allclose(PullbackMetric(net).tensor(z), before[0])


def test_a_module_that_holds_results_of_computations_is_copied_and_one_that_cannot_be_is_named():
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 3).double()
            self.cache = {"twice": 2 * self.linear.weight}

        def forward(self, z: Tensor) -> Tensor:
            return z @ self.cache["twice"].T

    module, z = Holding(), points(3)
    expected = module.cache["twice"].T @ module.cache["twice"]
    assert torch.allclose(PullbackMetric(module).tensor(z), expected)
    module.file = (x for x in ())  # no generator can be copied
    with pytest.raises(TypeError, match=r"Holding cannot be copied .* Pass a function instead"):
        PullbackMetric(module)
