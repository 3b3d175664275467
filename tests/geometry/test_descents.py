"""Solutions with few segments that show one with all: what they say is true, and no derivative is taken then."""

import pytest
import torch
from torch import Tensor, nn

from probgeo.geometry.geodesics import GaussNewton, Status, geodesic
from probgeo.geometry.metrics import ConformalMetric, ExpectedMetric, Metric, PullbackMetric
from probgeo.nn import mlp
from tests.manifolds import globe, globe_distance, hill, paraboloid, torus


def perceptrons(activation: type[nn.Module]) -> list[nn.Module]:
    torch.manual_seed(0)
    return [mlp([2, 24, 24, 6], activation) for _ in range(3)]


def general(z: Tensor) -> Tensor:
    return torch.cat([paraboloid(z), z.sin()], dim=-1)


METRICS: dict[str, Metric] = {
    "general": PullbackMetric(general),
    "in small chunks": PullbackMetric(general, memory=1000),
    "fused": ExpectedMetric(perceptrons(nn.SiLU), memory=2000),
    "sum": PullbackMetric(general) + ExpectedMetric(perceptrons(nn.ReLU)),
    "field": ConformalMetric(lambda z: torch.exp(-z.square().sum(-1)), floor=0.1),
}


@pytest.mark.parametrize("name", METRICS)
def test_chords_of_segments_and_of_their_parts_are_those_that_are_measured_apart(name):
    metric = METRICS[name]
    torch.manual_seed(1)
    path, share = torch.randn(7, 6, 2).double(), torch.rand(7, 5, 1).double()
    cuts = torch.lerp(path[:, :-1], path[:, 1:], share)
    whole, parts = metric.cut_residuals(path, cuts)
    torch.testing.assert_close(whole, metric.squared_residuals(path))
    for index in range(5):
        line = torch.stack([path[:, index], cuts[:, index], path[:, index + 1]], dim=1)
        torch.testing.assert_close(parts[:, index], metric.squared_residuals(line))


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.chordal])
def test_a_path_through_some_nodes_of_another_has_no_more_energy(name):
    torch.manual_seed(2)
    path = torch.randn(20, 33, 2).double().cumsum(1) / 8
    finer, coarser = (METRICS[name].measure(nodes).energy for nodes in (path, path[:, ::4]))
    assert (coarser <= finer * (1 + 1e-12)).all()


def test_a_field_of_tensors_is_not_called_chordal():
    assert not METRICS["field"].chordal
    assert not (METRICS["general"] + METRICS["field"]).chordal


class Counted(nn.Module):
    """A map that counts the points that it is evaluated at, by themselves and for derivatives."""

    def __init__(self, map_) -> None:
        super().__init__()
        self.map, self.numbers = map_, {"values": 0, "derivatives": 0}

    def forward(self, z: Tensor) -> Tensor:
        within = torch._C._functorch.maybe_current_level() is not None
        self.numbers["derivatives" if within else "values"] += z.shape[:-1].numel()
        return self.map(z)


def test_on_a_smooth_map_few_segments_show_the_solution_and_no_derivative_is_taken_of_all():
    counted = Counted(globe)
    metric = PullbackMetric(lambda z: counted(z))
    start = torch.tensor([[0.2, -0.3], [0.9, 0.4], [-0.5, 0.1]]).double()
    stop = torch.tensor([[0.9, 0.8], [-0.2, 0.3], [0.6, -0.9]]).double()
    geodesic(metric, start, stop)  # tries the map
    counted.numbers = {"values": 0, "derivatives": 0}
    found = geodesic(metric, start, stop)
    assert (found.status == Status.CONVERGED).all()
    assert counted.numbers["derivatives"] < 3 * 257  # on the levels of 16 and 32 segments alone
    torch.testing.assert_close(found.length, globe_distance(start, stop), rtol=1e-4, atol=0)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5])
def test_what_is_left_of_the_energy_is_within_the_tolerance(tolerance):
    """Away from the axes of a paraboloid and of a hill, round which there are two ways."""
    torch.manual_seed(3)
    start, stop = 2 + torch.randn(2, 24, 2).double() / 2
    for metric in (PullbackMetric(paraboloid), PullbackMetric(hill)):
        found = geodesic(metric, start, stop, solver=GaussNewton(tolerance=tolerance))
        best = geodesic(metric, start, stop, init=found.path, solver=GaussNewton(tolerance=1e-9, max_steps=200))
        assert (found.status == Status.CONVERGED).all()
        assert (found.energy <= (1 + tolerance) * best.energy).all()


def test_a_path_that_had_ended_on_a_saddle_goes_on_from_there():
    """Of lines round a torus one had ended where another way is 35 % better, and said that it had converged."""
    torch.manual_seed(3)
    start, stop = 2 * torch.randn(2, 60, 2)
    metric, solver = PullbackMetric(torus), GaussNewton(64)
    found = geodesic(metric, start, stop, solver=solver)
    tight = GaussNewton(64, tolerance=1e-7, coarse_tolerance=1e-7, max_steps=400)
    best = geodesic(metric, start, stop, init=found.path, solver=tight)
    assert (found.status == Status.CONVERGED).all()
    assert (found.energy <= 1.003 * best.energy).all()


class Unasked(nn.Module):
    """Two maps that cannot be called with no points at all."""

    def forward(self, z: Tensor) -> Tensor:
        assert len(z) > 0
        return torch.cat([z, z[:, :2].square()], dim=-1)


@pytest.mark.parametrize("latent", [2, 24], ids=["matrices", "matrix-free"])
@pytest.mark.parametrize("max_steps", [1, 30])
def test_a_decoder_is_never_called_with_no_points_whichever_paths_are_left(latent, max_steps):
    decoder = Unasked()
    start, stop = torch.zeros(3, latent), torch.tensor([0.1, 1.0, 4.0])[:, None] * torch.ones(latent)
    for metric in (
        PullbackMetric(lambda z: decoder(z)),
        PullbackMetric(decoder) + PullbackMetric(lambda z: decoder(z)),
    ):
        for some in (slice(0, 1), slice(2, 3), slice(None)):
            found = geodesic(metric, start[some], stop[some], solver=GaussNewton(64, max_steps=max_steps))
            assert found.length.isfinite().all()


def test_paths_that_all_stop_before_they_converge_are_returned_under_a_field_of_tensors():
    field = ConformalMetric(lambda z: torch.exp(-20 * z.square().sum(-1)), floor=1e-3)
    start, stop = torch.tensor([[-1.0, 0.1]]), torch.tensor([[1.0, -0.2]])
    found = geodesic(field, start, stop, solver=GaussNewton(64, max_steps=1, tolerance=1e-9, coarse_tolerance=1e-9))
    assert found.status.item() == Status.MAX_STEPS and found.length.isfinite().all()
