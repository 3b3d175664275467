"""Several starts: both ways round a hole are found, and the certificate says how long the other one is."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from probgeo.geometry.calculus import angle, frechet_mean
from probgeo.geometry.geodesics import GaussNewton, Status, geodesic
from probgeo.geometry.graph import Graph
from probgeo.geometry.metrics import DecorrelatedEnergy, PullbackMetric, TensorMetric
from probgeo.geometry.paths import Straight
from probgeo.geometry.routes import Starts, Trees, distinct, excess, out_of_reach, split, vias, waits
from probgeo.nn import mlp


def cylinder(z: Tensor) -> Tensor:
    """The plane without its origin as a cylinder of radius 1: angle, and log r as height."""
    radius = z.norm(dim=-1, keepdim=True)
    return torch.cat([z / radius, radius.log()], dim=-1)


def at(angle: float, radius: float = 1.0) -> Tensor:
    return radius * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)


def ways_round(angle: float, height: float) -> tuple[float, float]:
    """Lengths of the two geodesics on the cylinder."""
    return math.hypot(angle, height), math.hypot(2 * math.pi - angle, height)


def ring(num_points: int = 300) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    angle, radius = torch.rand(2, num_points, generator=generator, dtype=torch.float64)
    return (0.7 + 0.6 * radius)[:, None] * torch.stack([(angle * 7).cos(), (angle * 7).sin()], dim=1)


METRIC = PullbackMetric(cylinder)
TIGHT = GaussNewton(64, tolerance=1e-8, coarse_tolerance=1e-8, max_steps=200)


@pytest.fixture(scope="module")
def graph():
    return Graph(METRIC, ring())


@pytest.mark.parametrize("less", [0.02, 0.05, 0.08])
@pytest.mark.parametrize("radius", [0.8, 1.0])
def test_of_two_ways_round_a_hole_the_shorter_is_found_and_the_gap_is_that_of_the_other(graph, less, radius):
    start, stop = at(0.3), at(0.3 + math.pi - less, radius)
    short, long = ways_round(math.pi - less, math.log(radius))
    found = geodesic(METRIC, start, stop, init=graph, solver=TIGHT)
    assert found.length.item() == pytest.approx(short, rel=1e-3)
    assert found.rivals.item() == 2
    assert found.gap.item() == pytest.approx(long / short - 1, abs=2e-3)


def test_a_hole_exactly_in_the_way_gives_two_rivals_without_a_gap(graph):
    found = geodesic(METRIC, at(1.0), at(1.0 + math.pi), init=graph, solver=TIGHT)
    assert found.length.item() == pytest.approx(math.pi, rel=1e-3)
    assert found.rivals.item() == 2
    assert found.gap.item() == pytest.approx(0, abs=1e-3)


def test_on_a_plane_there_is_one_geodesic():
    points = ring()
    metric = PullbackMetric(lambda z: z)
    found = geodesic(metric, points[:20], points[20:40], init=Graph(metric, points), solver=GaussNewton(32))
    assert (found.rivals == 1).all()
    assert found.gap.isnan().all()


def test_a_pair_does_not_see_its_batch(graph):
    points = ring()
    start, stop = points[:30], points[30:60]
    whole = geodesic(METRIC, start, stop, init=graph, solver=GaussNewton(32))
    assert (whole.rivals > 1).any()
    for rows in ([3], [29, 0, 11]):
        part = geodesic(METRIC, start[rows], stop[rows], init=graph, solver=GaussNewton(32))
        assert torch.equal(part.rivals, whole.rivals[rows])
        assert torch.allclose(part.gap, whole.gap[rows], rtol=1e-6, atol=1e-9, equal_nan=True)
        assert torch.allclose(part.path, whole.path[rows], rtol=1e-6, atol=1e-9)
    for memory in (1, 100_000):
        parts = geodesic(METRIC, start, stop, init=graph, solver=GaussNewton(32, memory=memory))
        assert torch.equal(parts.rivals, whole.rivals)
        assert torch.allclose(parts.path, whole.path, rtol=1e-6, atol=1e-9)


def test_both_directions_have_the_same_rivals(graph):
    points = ring()
    there = geodesic(METRIC, points[:20], points[20:40], init=graph, solver=TIGHT)
    back = geodesic(METRIC, points[20:40], points[:20], init=graph, solver=TIGHT)
    assert torch.equal(there.rivals, back.rivals)
    assert torch.allclose(there.length, back.length, rtol=1e-6)
    assert torch.allclose(there.gap, back.gap, atol=1e-4, equal_nan=True)


def test_without_a_search_nothing_is_said_of_rivals(graph):
    start, stop = at(0.3), at(3.0)
    for init in (None, graph(start, stop), graph.__call__):
        found = geodesic(METRIC, start, stop, init=init, solver=GaussNewton(32))
        assert found.rivals.item() == -1
        assert found.gap.isnan().all()


def test_equal_ends_and_pairs_without_a_value_have_no_rivals_and_harm_no_other(graph):
    start, stop = (torch.cat([at(a) for a in angles]) for angles in ((0.3, 0.5, 0.0), (0.3, 0.5 + math.pi, 0.3)))
    stop[2] = torch.nan
    found = geodesic(METRIC, start, stop, init=graph, solver=GaussNewton(32))
    assert found.rivals.tolist() == [-1, 2, 0]
    assert found.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.NONFINITE]
    assert found.gap[[0, 2]].isnan().all()


def test_a_start_without_a_value_leaves_the_others_of_its_pair_alone():
    class Two:
        """The straight line, and one that is nowhere."""

        def starts(self, start: Tensor, stop: Tensor) -> Starts:
            line = Straight(16)(start, stop)
            path = torch.stack([line * torch.nan, line], dim=1).flatten(0, 1)
            return Starts(path, torch.arange(len(start)).repeat_interleave(2))

    start, stop = at(0.3), at(1.3)
    found = geodesic(METRIC, start, stop, init=Two(), solver=TIGHT, throw=True)
    assert found.length.item() == pytest.approx(1.0, rel=1e-3)
    assert found.rivals.item() == 1


def test_the_line_is_among_the_starts_whatever_a_search_gives():
    class Astray:
        """The long way round the hole alone, at more segments than the line is begun with."""

        def starts(self, start: Tensor, stop: Tensor) -> Starts:
            turns = torch.linspace(0.3, 1.3 - 2 * math.pi, 33, dtype=torch.float64)
            path = torch.stack([turns.cos(), turns.sin()], dim=1)[None].repeat(len(start), 1, 1)
            return Starts(path, torch.arange(len(start)))

    found = geodesic(METRIC, at(0.3), at(1.3), init=Astray(), solver=TIGHT, throw=True)
    assert found.length.item() == pytest.approx(1.0, rel=1e-3)
    assert found.rivals.item() == 2
    assert found.gap.item() == pytest.approx(2 * math.pi - 2, rel=3e-3)


def test_a_graph_that_joins_no_ends_leaves_the_line():
    metric = PullbackMetric(lambda z: torch.where(z[..., :1].abs() < 0.6, torch.nan, z))
    points = torch.tensor([[-1.0, 0.0], [-1.2, 0.3], [1.0, 0.0], [1.2, 0.3]])
    graph = Graph(metric, points, num_nodes=100)
    start, stop = points[[0, 0]], points[[2, 1]]
    given = graph.starts(start, stop)
    assert torch.equal(given.pair.unique(), torch.tensor([0, 1]))
    assert torch.allclose(given.path[given.pair == 0], Straight(32)(start[:1], stop[:1]))
    found = geodesic(metric, start, stop, init=graph, solver=GaussNewton(32))
    assert found.status.tolist() == [Status.NONFINITE, Status.CONVERGED]
    assert found.rivals.tolist() == [0, 1]


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_rivals_are_looked_for_in_every_dimension_and_for_every_energy(latent):
    torch.manual_seed(0)
    members = [mlp([latent, 16, 12]).double() for _ in range(3)]
    points = torch.randn(60, latent, dtype=torch.float64)
    for energy in (DecorrelatedEnergy(members), PullbackMetric(members[0])):
        found = geodesic(energy, points[:8], points[8:16], init=Graph(energy, points), solver=GaussNewton(32))
        line = geodesic(energy, points[:8], points[8:16], solver=GaussNewton(32))
        assert (found.rivals >= 1).all()
        assert torch.equal(found.gap.isnan(), found.rivals == 1)
        assert not (found.gap < 0).any()
        assert (found.energy <= line.energy * 1.02).all()


def test_paths_are_of_one_valley_unless_the_path_halfway_costs_more_than_both():
    def arc(first: float, last: float, radius: float) -> Tensor:
        angle = torch.linspace(first, last, 33, dtype=torch.float64)
        bulge = 1 + (radius - 1) * torch.linspace(0, torch.pi, 33, dtype=torch.float64).sin()
        return bulge[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)

    path = torch.stack([arc(0, math.pi, 1.0), arc(0, math.pi, 1.1), arc(0, -math.pi, 1.2), arc(0, 1.0, 1.3)])
    pair = torch.tensor([0, 0, 0, 1])
    energy = METRIC.measure(path).energy
    assert distinct(METRIC, path, pair, energy).tolist() == [True, False, True, True]
    assert distinct(METRIC, path[[1, 0, 2]], pair[:3], energy[[1, 0, 2]]).tolist() == [False, True, True]


def test_excess_is_the_relative_length_above_the_shortest_of_the_pair():
    energy = torch.tensor([4.0, 1.0, 9.0, 0.0, 0.0, torch.nan], dtype=torch.float64)
    pair = torch.tensor([0, 0, 1, 2, 2, 3])
    assert excess(pair, energy)[:5].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def ridged(z: torch.Tensor) -> torch.Tensor:
    """Ridges at y = 0, a 16th apart, that nodes a 32nd apart do not see; the way around them is longer, and free."""
    x, y = z.unbind(-1)
    return torch.stack([x, y, 0.05 * torch.exp(-((30 * y) ** 2)) * torch.sin(32 * math.pi * x)], dim=-1)


def over_and_around(start: torch.Tensor, stop: torch.Tensor) -> Starts:
    x = torch.linspace(0, 1, 33, dtype=torch.float64)
    path = torch.stack([torch.stack([x, height * (math.pi * x).sin()], dim=1) for height in (0.0, 0.15)])
    return Starts(path, torch.zeros(2, dtype=torch.int64))


def test_a_path_that_looks_short_with_few_segments_takes_none_with_it_where_more_show_the_ridges_that_it_climbs():
    metric, (path, pair) = PullbackMetric(ridged), over_and_around(*torch.zeros(2, 1, 2))
    energy, durations = metric.measure(path)
    assert energy[0] < energy[1]
    for left in (0.0, torch.inf):
        left = torch.full((2,), left, dtype=torch.float64)
        above, lost = out_of_reach(metric, path, pair, energy, durations, left, 256)
        assert above[0] > 1 and above[1] == 0
        assert not lost.any()  # the first may still come down to what it has with few segments


def test_of_two_ways_around_that_is_shorter_which_is_so_with_its_segments_cut():
    """One way leads over ridges that its chords jump, the other, a little longer, over none."""

    def hill(z: Tensor) -> Tensor:
        x, y = z.unbind(-1)
        high = 5 * torch.exp(-4 * (x**2 + (y + 0.1) ** 2))
        return torch.stack([x, y, high, 0.15 * torch.sigmoid(20 * (y - 0.2)) * torch.sin(40 * x)], dim=-1)

    metric, solver = PullbackMetric(hill), GaussNewton(16)
    start, stop = torch.tensor([[[-1.5, 0.0]], [[1.5, 0.0]]], dtype=torch.float64)
    codes = 4 * torch.rand(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 2
    graph = Graph(PullbackMetric(lambda z: hill(z)[..., :3]), codes)
    starts = graph.starts(start, stop)
    over, around = (starts.path[starts.path[:, 16, 1].sign() == side][:1] for side in (1, -1))
    alone = [geodesic(metric, start, stop, init=path, solver=solver) for path in (over, around)]
    assert alone[0].energy < alone[1].energy and alone[0].status == Status.COARSE
    found = geodesic(metric, start, stop, init=graph, solver=solver)
    assert found.status == Status.CONVERGED and found.length.item() == pytest.approx(alone[1].length.item(), rel=0.01)
    assert found.rivals > 1 and found.gap > 0


class Lines:
    """The straight line in so many segments."""

    def __init__(self, num_segments: int) -> None:
        self._num_segments = num_segments

    def starts(self, start: Tensor, stop: Tensor) -> Starts:
        return Starts(Straight(self._num_segments)(start, stop), torch.arange(len(start)))


@pytest.mark.parametrize(("num_segments", "given", "taken"), [(64, 64, 32), (128, 64, 64), (64, 50, 25), (16, 32, 32)])
def test_a_search_with_more_than_half_of_the_segments_begins_with_every_second_node(num_segments, given, taken):
    start, stop, solver = at(0.3), at(1.4, 1.2), GaussNewton(num_segments)
    found, expected = (geodesic(METRIC, start, stop, init=Lines(some), solver=solver) for some in (given, taken))
    torch.testing.assert_close(found.path, expected.path)
    assert found.steps == expected.steps and found.path.shape[1] == num_segments + 1


def test_a_metric_is_asked_of_no_empty_batch_where_there_is_nothing_to_compare():
    def tensor(z: Tensor) -> Tensor:
        assert z.numel()
        return torch.eye(2, dtype=z.dtype).expand(*z.shape[:-1], 2, 2)

    metric, codes = TensorMetric(tensor), torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    found = geodesic(metric, codes[:2], codes[2:4], init=Graph(metric, codes), solver=GaussNewton(32))
    torch.testing.assert_close(found.length, (codes[:2] - codes[2:4]).norm(dim=1))


def test_a_path_is_lost_where_it_could_not_come_down_to_the_best_of_its_pair_alone():
    x = torch.linspace(0, 1, 33, dtype=torch.float64)
    heights = (0.0, 0.1, 0.2, 0.4)
    path = torch.stack([torch.stack([x, height * (math.pi * x).sin()], dim=1) for height in heights])
    plane, pair = PullbackMetric(lambda z: z), torch.tensor([0, 0, 0, 1])
    energy, durations = plane.measure(path)
    for share, kept in ((0.0, [0, 3]), (0.1, [0, 1, 3]), (0.5, [0, 1, 2, 3])):
        lost = out_of_reach(plane, path, pair, energy, durations, share * energy, 256)[1]
        assert (~lost).nonzero()[:, 0].tolist() == kept


@pytest.mark.parametrize("count", [1, 2, 3, 5, 100])
def test_parts_keep_the_starts_of_a_pair_together(count):
    pair = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    parts = [*split(Starts(torch.arange(7.0)[:, None, None], pair), count)]
    assert torch.equal(torch.cat([part.pair for part in parts]), pair)
    assert torch.equal(torch.cat([part.path for part in parts]).flatten(), torch.arange(7.0))
    assert sum(len(part.pair.unique()) for part in parts) == 4
    assert all(len(part.pair) <= max(count, 3) for part in parts)


def test_nodes_of_both_sides_of_a_square_are_ways_from_corner_to_corner():
    """0 - 1 - 2 and 0 - 3 - 2 with ends 4 at 0 and 5 at 2; the first way is 2 long, the second 2.1."""
    infinite = np.inf
    trees = Trees(
        np.array([[0.0, 1.0, 2.0, 1.05, 0.0, infinite], [2.0, 1.0, 0.0, 1.05, infinite, 0.0]]),
        np.array([[4, 0, 1, 0, -9, -9], [1, 2, 5, 2, -9, -9]]),
    )
    one, two, limits = np.array([0]), np.array([1]), np.array([[2.0], [2.0]])
    assert vias(trees, one, two, limits, reach=0.1, share=0.0, most=4).node.tolist() in ([0, 3], [1, 3], [2, 3])
    assert len(vias(trees, one, two, limits, reach=0.01, share=0.0, most=4).node) == 1
    assert len(vias(trees, one, two, limits, reach=0.1, share=0.0, most=1).node) == 1
    assert len(vias(trees, one, two, np.array([[1.02], [2.0]]), reach=0.1, share=0.0, most=4).node) == 1
    assert not len(vias(trees, one, two, np.array([[0.9], [0.9]]), reach=0.1, share=0.0, most=4).node)


def test_the_angle_at_a_corner_with_two_ways_to_one_side_is_ambiguous(graph):
    corner, first = at(0.5).expand(3, -1), torch.cat([at(1.5), at(1.5), at(1.5) * torch.nan])
    found = angle(METRIC, corner, first, torch.cat([at(0.5 + a) for a in (math.pi, 2.5, math.pi)]), init=graph)
    assert found.status.tolist() == [Status.AMBIGUOUS, Status.CONVERGED, Status.NONFINITE]
    assert found.angle[1].item() == pytest.approx(0, abs=0.02)


@pytest.mark.slow
def test_the_mean_of_two_points_with_a_hole_exactly_between_them_is_ambiguous(graph):
    opposite = frechet_mean(METRIC, torch.cat([at(0.4), at(0.4 + math.pi)]), init=graph)
    assert opposite.status == Status.AMBIGUOUS
    assert opposite.variance.item() == pytest.approx((math.pi / 2) ** 2, rel=1e-2)
    nearer = frechet_mean(METRIC, torch.cat([at(0.4), at(0.4 + 2.6)]), init=graph)
    assert nearer.status == Status.CONVERGED
    assert torch.allclose(nearer.mean, at(1.7)[0], atol=0.02)
    assert nearer.variance.item() == pytest.approx(1.3**2, rel=1e-2)


def test_a_path_on_the_slope_to_a_lower_one_is_the_same_valley_when_solved_and_a_start_of_its_own_before():
    metric = PullbackMetric(lambda z: torch.cat([z, (z[..., 1:] - 0.5) ** 2], dim=-1))  # a ridge at y = ½, seen aside
    line = Straight(16)(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    aside = line + 0.3 * torch.sin(math.pi * line[:, :, :1]) * torch.tensor([0.0, 1.0], dtype=torch.float64)
    path, pair = torch.cat([line, aside]), torch.zeros(2, dtype=torch.int64)
    energy = metric.measure(path).energy
    assert energy[1] > energy[0]
    assert distinct(metric, path, pair, energy).tolist() == [True, False]
    assert distinct(metric, path, pair, energy, than=torch.minimum, slack=0.005).tolist() == [True, True]


def waiting(segments: int, offset: float = 0.5) -> DecorrelatedEnergy:
    """Mean z, variance offset + z²: a place at 0 to wait at."""

    def member(sign: float):
        return lambda z: torch.cat([z, sign * (offset + z.square()).sqrt()], dim=1)

    return DecorrelatedEnergy([member(1.0), member(-1.0)], segments=segments)


def test_a_path_that_waits_costs_the_stay_and_the_ways_as_nodes_and_edges_are_weighed():
    # ∫ ½ ż² + n² (½ + z²), z(0) = z(1) = 1: ω tanh(ω/2) + n²/2, ω = √2 n; the way to 0 and back is ∫ √(v − v(0)) = 1.
    segments = 20
    energy, ends = waiting(segments), torch.ones(1, 1).double()
    found = geodesic(energy, ends, ends + 1e-9, init=lambda start, stop: torch.stack([start, 0 * start, stop], dim=1))
    omega = 2**0.5 * segments
    torch.testing.assert_close(
        found.energy[0].item(), omega * math.tanh(omega / 2) + segments**2 / 2, rtol=5e-3, atol=0
    )
    stay = energy.node_weights(torch.zeros(1, 1).double())[0].item()
    assert omega * (stay + 1) == pytest.approx(found.energy[0].item(), rel=5e-3)


def test_the_place_to_wait_at_is_found_far_from_the_shortest_path():
    def member(sign: float):
        def values(z: Tensor) -> Tensor:
            near = 0.5 * torch.exp(-2 * (z - torch.tensor([0.0, 0.4]).to(z)).square().sum(1, keepdim=True))
            far = 0.9 * torch.exp(-2 * (z - torch.tensor([0.0, -3.0]).to(z)).square().sum(1, keepdim=True))
            return torch.cat([z, sign * (1 - near - far).sqrt()], dim=1)

        return values

    energy = DecorrelatedEnergy([member(1.0), member(-1.0)], segments=30)
    codes = torch.tensor([[-4.0, -4.0], [4.0, 4.0]]).double()
    start, stop = torch.tensor([[-1.0, 0.5], [-1.0, 1.0]]).double(), torch.tensor([[1.0, 0.5], [1.0, 0.0]]).double()
    starts = Graph(energy, codes).starts(start, stop)
    far = (starts.path[:, 1] - torch.tensor([0.0, -3.0])).norm(dim=1) < 0.15
    assert starts.pair[far].unique().tolist() == [0, 1]
    # 900 · 0.1 for the stay and √2 · 30 · 7 for the ways at most, 900 · 0.5 and √2 · 30 · 2 · 0.7 at the nearer place.
    found = geodesic(energy, start, stop, init=Graph(energy, codes), solver=GaussNewton(64))
    assert (found.energy < 387).all()


def test_places_to_wait_at_are_those_with_the_least_way_there_stay_and_way_on_around():
    rng = np.random.default_rng(0)
    weights, dense = rng.random(30) * 3, np.triu(rng.random((30, 30)) * (rng.random((30, 30)) < 0.1), 1)
    graph = csr_array(dense + dense.T)
    distance = dijkstra(graph, indices=[0, 1, 2])
    trees = Trees(distance, np.zeros_like(distance, dtype=np.int64))
    found = waits(trees, np.array([0, 0]), np.array([1, 2]), (graph.indices, graph.indptr), weights, most=3)
    for pair, (one, two) in enumerate([(0, 1), (0, 2)]):
        total = weights + distance[one] + distance[two]
        least = [
            i for i in range(30) if np.isfinite(total[i]) and all(total[i] <= total[j] for j in dense.T[i].nonzero()[0])
        ]
        least = [i for i in least if all(total[i] <= total[j] for j in dense[i].nonzero()[0])]
        assert found.node[found.pair == pair].tolist() == sorted(least, key=lambda i: total[i])[:3]
