"""Graphs that go around holes."""

import math

import pytest
import torch
from torch import Tensor

from probgeo.geometry.geodesics import GaussNewton, geodesic, length
from probgeo.geometry.graph import Graph
from probgeo.geometry.metrics import ConformalMetric, DecorrelatedEnergy, PullbackMetric
from probgeo.geometry.paths import Straight
from probgeo.nn import mlp


def hill(z: Tensor) -> Tensor:
    """A plane with a high hill in the middle."""
    return torch.cat([z, 8 * torch.exp(-2 * z.square().sum(-1, keepdim=True))], dim=-1)


@pytest.mark.parametrize("latent", [2, 3, 4])
def test_graph_goes_around_a_hill_the_straight_line_climbs(latent):
    metric = PullbackMetric(hill)
    start = torch.zeros(1, latent, dtype=torch.float64)
    start[0, 0], start[0, 1] = -2.0, 0.01
    stop = start * torch.tensor([-1.0] + [1.0] * (latent - 1), dtype=torch.float64)
    encodings = torch.randn(2000, latent, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.2
    graph = Graph(metric, encodings)
    assert length(metric, graph(start, stop)).item() < 0.6 * length(metric, Straight(64)(start, stop)).item()


def test_graph_gives_shortest_paths_of_the_plane():
    metric = PullbackMetric(lambda z: z)
    generator = torch.Generator().manual_seed(0)
    encodings = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    graph, ends = Graph(metric, encodings), encodings[:40].view(2, 20, 2)
    found = length(metric, graph(ends[0], ends[1]))
    assert torch.allclose(found, (ends[0] - ends[1]).norm(dim=-1), rtol=1e-9)


@pytest.mark.parametrize("latent", [1, 2, 3, 8])
def test_graph_paths_join_the_ends_in_any_dimension(latent):
    generator = torch.Generator().manual_seed(0)
    encodings = torch.randn(400, latent, generator=generator)
    torch.manual_seed(0)
    metric = PullbackMetric(mlp([latent, 16, 12]))
    start, stop = encodings[:10], encodings[10:20] + 0.1
    path = Graph(metric, encodings)(start, stop)
    assert path.shape == (10, 33, latent)
    assert torch.equal(path[:, 0], start)
    assert torch.equal(path[:, -1], stop)
    assert (length(metric, path) <= length(metric, Straight(64)(start, stop)) * 1.01).all()


def test_graph_path_does_not_depend_on_the_batch_or_the_direction():
    metric = PullbackMetric(hill)
    encodings = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph, ends = Graph(metric, encodings), encodings[:60].view(2, 30, 2)
    whole = graph(ends[0], ends[1])
    assert torch.allclose(graph(ends[0][7:8], ends[1][7:8])[0], whole[7], atol=1e-12)
    assert torch.allclose(graph(ends[1], ends[0]).flip(1), whole, atol=1e-12)


def test_graph_avoids_a_region_without_values():
    def holed(z: Tensor) -> Tensor:
        return torch.where(z.norm(dim=-1, keepdim=True) < 0.5, torch.nan, z)

    metric = PullbackMetric(holed)
    encodings = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = torch.tensor([[-1.0, 0.0]], dtype=torch.float64)
    path = Graph(metric, encodings)(start, -start)
    assert length(metric, path).item() == pytest.approx(2 * (math.sqrt(0.75) + math.pi / 12), rel=0.05)


def test_graph_reaches_ends_far_from_the_encodings():
    metric = PullbackMetric(lambda z: z)
    encodings = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    start, stop = torch.tensor([[-30.0, 5.0]]), torch.tensor([[1.0, 0.0]])
    assert length(metric, Graph(metric, encodings)(start, stop)).item() == pytest.approx(31.4, rel=0.01)


def test_the_way_around_a_hill_is_found_from_an_end_far_from_the_encodings():
    metric = PullbackMetric(hill)
    encodings = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start, stop = torch.tensor([[-60.0, 0.0]]).double(), torch.tensor([[2.0, 0.0]]).double()
    path = Graph(metric, encodings)(start, stop)
    assert path[..., 1].abs().max() > 0.5
    assert length(metric, path) < length(metric, Straight(256)(start, stop)) - 5


def test_edges_of_a_grid_see_a_ridge_between_its_nodes():
    spacing = 2.4 / 39  # of forty nodes from −1.2 to 1.2, which a ridge at the origin, 5 high, lies halfway between

    def ridged(z: Tensor) -> Tensor:
        return torch.cat([z, 5 * torch.exp(-((6 * z / spacing) ** 2))], dim=-1)

    start, stop = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).unbind()
    graph = Graph(PullbackMetric(ridged), torch.stack([start, stop]), num_nodes=40)
    assert graph.distances(start[None], stop[None]).item() == pytest.approx(12, rel=0.1)


def test_graph_of_another_metric_starts_any_energy():
    torch.manual_seed(0)
    members = [mlp([2, 16, 12]).double() for _ in range(3)]
    encodings = torch.randn(200, 2, dtype=torch.float64)
    disagreement = Graph(DecorrelatedEnergy(members), encodings)
    density = Graph(ConformalMetric(lambda z: torch.exp(-z.square().sum(-1)), 0.1), encodings)
    for graph in (disagreement, density):
        found = geodesic(PullbackMetric(members[0]), encodings[:5], encodings[5:10], init=graph, solver=GaussNewton(64))
        assert (found.status == 0).all()


@pytest.mark.parametrize("encodings", [torch.zeros(5), torch.zeros(1, 2), torch.full((5, 2), torch.nan)])
def test_wrong_encodings_are_a_named_error(encodings):
    with pytest.raises(ValueError, match="encodings: expected"):
        Graph(PullbackMetric(lambda z: z), encodings)


def test_a_graph_of_thin_encodings_leads_around_a_hill_in_their_way():
    along = torch.linspace(-2, 2, 200, dtype=torch.float64)
    encodings = torch.stack([along, 1e-3 * torch.sin(7 * along)], dim=1)
    metric, start, stop = PullbackMetric(hill), encodings[:1], encodings[-1:]
    around = geodesic(metric, start, stop, init=Graph(metric, encodings), throw=True)
    assert around.path[..., 1].abs().max() > 0.5
    tight = GaussNewton(tolerance=1e-8, coarse_tolerance=1e-6, max_steps=200)
    best = geodesic(metric, start, stop, init=Graph(metric, encodings), solver=tight, throw=True)
    assert around.length < 1.001 * best.length
    assert around.length < 0.9 * length(metric, Straight(256)(start, stop))  # over the top
