"""Geodesics against closed forms, and what must hold of every pair of a batch."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probgeo.geometry.geodesics import GaussNewton, Status, energy, geodesic, length
from probgeo.geometry.graph import Graph
from probgeo.geometry.metrics import ConformalMetric, DecorrelatedEnergy, ExpectedMetric, PullbackMetric, TensorMetric
from probgeo.geometry.minimisation import Descents, Level, _excesses, _with_last_steps, measured_alone
from probgeo.geometry.paths import Straight
from probgeo.nn import mlp
from tests.manifolds import (
    cylinder,
    cylinder_distance,
    globe,
    globe_distance,
    half_plane,
    half_plane_distance,
    plane,
    torus,
)

TIGHT = GaussNewton(num_segments=256, tolerance=1e-12, coarse_tolerance=1e-10, max_steps=200)


def pairs(count: int = 8, scale: float = 0.5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, count, 2, generator=generator, dtype=torch.float64) * scale
    return points[0].to(dtype), points[1].to(dtype)


def upper(points: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    a, b = (torch.stack([z[:, 0], z[:, 1].exp()], dim=-1) for z in points)
    return a, b


def ensemble(dtype: torch.dtype = torch.float64) -> ExpectedMetric:
    torch.manual_seed(0)
    return ExpectedMetric([mlp([2, 24, 24, 30]).to(dtype) for _ in range(3)])


SURFACES = {
    "sphere": (PullbackMetric(globe), pairs(), globe_distance),
    "cylinder": (PullbackMetric(cylinder), pairs(), cylinder_distance),
    "half-plane": (TensorMetric(half_plane), upper(pairs()), half_plane_distance),
    "half-plane, conformal": (
        ConformalMetric(lambda z: z[..., 1] ** 2 - 1e-3, 1e-3),
        upper(pairs()),
        half_plane_distance,
    ),
    "plane": (PullbackMetric(plane), pairs(), lambda a, b: (plane(a) - plane(b)).norm(dim=-1)),
}
surfaces = pytest.mark.parametrize(("metric", "ends", "distance"), SURFACES.values(), ids=SURFACES.keys())


@surfaces
def test_length_is_the_distance(metric, ends, distance):
    found = geodesic(metric, *ends)
    assert (found.status == Status.CONVERGED).all()
    assert torch.allclose(found.length, distance(*ends), rtol=2e-4)


@surfaces
def test_error_falls_as_the_square_of_the_number_of_segments(metric, ends, distance):
    exact = distance(*ends)
    errors = []
    for segments in (32, 64, 128):
        solver = GaussNewton(segments, tolerance=1e-13, coarse_tolerance=1e-10, max_steps=300)
        errors.append((geodesic(metric, *ends, solver=solver).length - exact).abs().max().item())
    if errors[-1] < 1e-10:  # the plane is exact with any number of segments
        return
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.1)


def test_lengths_on_a_torus_and_of_a_smooth_decoder_converge_with_the_square_of_the_number_of_segments():
    torch.manual_seed(0)
    for immersion in (torus, mlp([2, 24, 30]).double()):
        solvers = [GaussNewton(n, tolerance=1e-13, coarse_tolerance=1e-10, max_steps=300) for n in (32, 64, 128)]
        lengths = [geodesic(PullbackMetric(immersion), *pairs(), solver=solver).length for solver in solvers]
        first, second = (lengths[1] - lengths[0]).abs(), (lengths[2] - lengths[1]).abs()
        assert (first.sum() / second.sum()).item() == pytest.approx(4, rel=0.1)


@surfaces
def test_length_squared_is_at_most_twice_energy(metric, ends, distance):
    found = geodesic(metric, *ends)
    assert (found.length**2 <= 2 * found.energy * (1 + 1e-12)).all()
    assert torch.allclose(found.length**2, 2 * found.energy, rtol=1e-3)


@surfaces
def test_converged_path_is_stationary(metric, ends, distance):
    found = geodesic(metric, *ends, solver=TIGHT)
    assert (found.status == Status.CONVERGED).all()
    with torch.no_grad():
        gradient = metric.linearize(found.path).gradient
    assert gradient.abs().max() <= 1e-4 * found.energy.max()


@surfaces
def test_reported_energy_and_length_are_those_of_the_path(metric, ends, distance):
    found = geodesic(metric, *ends, solver=GaussNewton(50))
    assert found.path.shape == (8, 51, 2)
    assert torch.allclose(found.energy, energy(metric, found.path), rtol=1e-12)
    assert torch.allclose(found.length, length(metric, found.path), rtol=1e-12)
    assert torch.equal(found.path[:, 0], ends[0])
    assert torch.equal(found.path[:, -1], ends[1])


@surfaces
def test_distance_is_symmetric(metric, ends, distance):
    there, back = geodesic(metric, *ends, solver=TIGHT), geodesic(metric, *ends[::-1], solver=TIGHT)
    assert torch.allclose(there.length, back.length, rtol=1e-8)


def test_distance_is_invariant_to_reparametrisation():
    def chart(z: Tensor) -> Tensor:
        """A diffeomorphism of the plane, not linear."""
        x, y = z.unbind(-1)
        return torch.stack([x + 0.3 * y.sin(), y + 0.3 * x.sin()], dim=-1)

    torch.manual_seed(0)
    net = mlp([2, 24, 24, 30]).double()
    start, stop = pairs(scale=1.0)
    direct = geodesic(PullbackMetric(net), chart(start), chart(stop), solver=TIGHT)
    charted = geodesic(PullbackMetric(lambda z: net(chart(z))), start, stop, solver=TIGHT)
    assert torch.allclose(direct.length, charted.length, rtol=1e-6)


def test_result_does_not_depend_on_the_batch():
    metric, (start, stop) = ensemble(), pairs(12, scale=2.0)
    graph = Graph(metric, torch.cat(pairs(100, scale=1.5)))
    for init in (None, graph):
        whole = geodesic(metric, start, stop, init=init)
        for rows in ([3], [11, 0, 5]):
            part = geodesic(metric, start[rows], stop[rows], init=init)
            assert torch.allclose(part.path, whole.path[rows], rtol=1e-9, atol=1e-9)
            assert torch.equal(part.steps, whole.steps[rows])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.sampled_from([2, 3, 7, 16, 33]))
def test_every_pair_ends_within_its_status(numbers, segments):
    ends = torch.tensor(numbers, dtype=torch.float64).view(2, 1, 2)
    found = geodesic(ensemble(), ends[0], ends[1], solver=GaussNewton(segments))
    straight = energy(ensemble(), Straight(segments)(ends[0], ends[1]))
    # Ends so near that the decoder's rounding is all the energy there is are said to be, and segments too long for it.
    whole = found.path[:, :-1, None] + torch.linspace(0, 1, 65)[:64, None] * found.path.diff(dim=1)[:, :, None]
    finely = length(ensemble(), torch.cat([whole.flatten(1, 2), found.path[:, -1:]], dim=1))
    expected = {Status.CONVERGED: finely < 1.05 * found.length + 1e-12, Status.COARSE: finely > 1.02 * found.length}
    assert (expected | {Status.ROUNDING: found.length < 1e-12})[Status(found.status.item())]
    assert found.length**2 <= 2 * found.energy * (1 + 1e-12)
    assert found.energy <= straight * (1 + 2e-3)


def test_equal_ends_are_at_distance_zero():
    metric, (start, stop) = ensemble(), pairs(3)
    stop = torch.cat([start[:1], stop[1:]])
    for energies in (metric, DecorrelatedEnergy([mlp([2, 5, 5]).double() for _ in range(2)])):
        for init in (None, Graph(metric, start), torch.randn(3, 30, 2, dtype=torch.float64)):
            found = geodesic(energies, start, stop, init=init)
            assert found.energy[0] == found.length[0] == 0
            assert found.status[0] == Status.CONVERGED
            assert torch.equal(found.path[0], start[:1].expand(257, 2))
            assert (found.energy[1:] > 0).all()


def test_nonfinite_pair_fails_alone():
    torch.manual_seed(0)
    net = mlp([2, 24, 30]).double()

    def broken(z: Tensor) -> Tensor:
        return torch.where(z[..., :1] > 3, torch.nan, net(z))

    start, stop = pairs(5)
    stop[2] = torch.tensor([5.0, 0.0])
    start[4] = stop[4] = torch.tensor([4.0, 1.0])
    found = geodesic(PullbackMetric(broken), start, stop)
    expected = geodesic(PullbackMetric(broken), start[[0, 1, 3]], stop[[0, 1, 3]])
    assert (found.status[[2, 4]] == Status.NONFINITE).all()
    assert found.energy[[2, 4]].isnan().all()
    assert found.length[[2, 4]].isnan().all()
    assert (found.status[[0, 1, 3]] == Status.CONVERGED).all()
    assert torch.allclose(found.length[[0, 1, 3]], expected.length, rtol=1e-9)


def test_discontinuous_immersion_does_not_harm_other_pairs():
    def torn(z: Tensor) -> Tensor:
        return torch.cat([z, torch.where(z[..., :1] > 2, 5.0, 0.0)], dim=-1)

    start, stop = pairs(4)
    stop[1] = torch.tensor([4.0, 0.0])
    found = geodesic(PullbackMetric(torn), start, stop)
    assert found.energy.isfinite().all()
    healthy = [0, 2, 3]
    assert (found.status[healthy] == Status.CONVERGED).all()
    assert torch.allclose(found.length[healthy], (start - stop)[healthy].norm(dim=1), rtol=1e-9)


def test_vanishing_metric_is_solved():
    """A constant map, and a map of one coordinate only, leave the Newton system without full rank."""
    start, stop = pairs(4)
    constant = geodesic(PullbackMetric(lambda z: 0 * z), start, stop)
    assert (constant.length == 0).all()
    assert (constant.status == Status.CONVERGED).all()
    one = geodesic(PullbackMetric(lambda z: z[..., :1]), start, stop)
    assert (one.status == Status.CONVERGED).all()
    assert torch.allclose(one.length, (start - stop)[:, 0].abs(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("latent", [1, 2, 3, 10])
def test_any_latent_dimension_and_dtype(latent, dtype):
    torch.manual_seed(0)
    metric = ExpectedMetric([mlp([latent, 16, 12]).to(dtype) for _ in range(2)])
    start, stop = torch.randn(2, 6, latent, dtype=dtype)
    for init in (None, Graph(metric, torch.randn(50, latent, dtype=dtype))):
        found = geodesic(metric, start, stop, init=init, solver=GaussNewton(64))
        assert found.path.dtype == found.length.dtype == dtype
        assert (found.status == Status.CONVERGED).all()
        line = length(metric, Straight(64)(start, stop))
        assert (found.length <= line * (1 + 1e-3)).all()


def test_float32_agrees_with_float64():
    start, stop = pairs(scale=2.0)
    double = geodesic(ensemble(), start, stop)
    single = geodesic(ensemble(torch.float32), start.float(), stop.float())
    assert torch.allclose(single.length.double(), double.length, rtol=1e-3)


def test_decorrelated_energy_decreases_and_its_length_is_the_root_of_twice_the_energy():
    torch.manual_seed(0)
    metric = DecorrelatedEnergy([mlp([2, 24, 30]).double() for _ in range(4)], segments=64)
    start, stop = pairs(scale=1.5)
    found = geodesic(metric, start, stop, solver=GaussNewton(64))
    assert (found.energy <= energy(metric, Straight(64)(start, stop))).all()
    assert torch.equal(found.length, (2 * found.energy).sqrt())


def test_given_path_is_entered_at_its_own_level():
    metric, (start, stop) = PullbackMetric(globe), pairs()
    solved = geodesic(metric, start, stop, solver=TIGHT)
    again = geodesic(metric, start, stop, init=solved.path)
    assert (again.steps == 1).all()
    assert torch.allclose(again.path, solved.path, atol=1e-6)


def test_steps_used_up_are_reported():
    start, stop = pairs(scale=2.0)
    solver = GaussNewton(64, tolerance=1e-14, coarse_tolerance=1e-14, max_steps=1)
    found = geodesic(ensemble(), start, stop, solver=solver)
    assert (found.status == Status.MAX_STEPS).any()
    assert found.energy.isfinite().all()
    with pytest.raises(RuntimeError, match="did not converge"):
        geodesic(ensemble(), start, stop, solver=solver, throw=True)


def test_empty_batch_gives_an_empty_result():
    found = geodesic(ensemble(), torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, 2, dtype=torch.float64))
    assert found.path.shape == (0, 257, 2)
    assert found.length.shape == found.status.shape == (0,)


A = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((plane, A, A), TypeError, "metric"),
        ((PullbackMetric(plane), A.long(), A), TypeError, "start: expected a floating-point tensor"),
        ((PullbackMetric(plane), A[0], A), ValueError, r"start: expected \(batch, latent\)"),
        ((PullbackMetric(plane), A, A[:2]), ValueError, "stop: expected the shape of start"),
        ((PullbackMetric(plane), A, A.double()), ValueError, "stop: expected the dtype of start"),
        (
            (PullbackMetric(plane), A, A.to("meta")),
            ValueError,
            'stop: expected values; got a tensor on the device "meta"',
        ),
    ],
)
def test_wrong_argument_is_a_named_error(arguments, error, message):
    with pytest.raises(error, match=message):
        geodesic(*arguments)


@pytest.mark.parametrize("init", [torch.zeros(2, 9, 2), torch.zeros(3, 2, 2), torch.zeros(3, 9, 2).double()])
def test_wrong_initial_path_is_a_named_error(init):
    with pytest.raises(ValueError, match="init: expected"):
        geodesic(PullbackMetric(plane), A, A + 1, init=init)


def test_result_does_not_depend_on_the_memory():
    metric, (start, stop) = ensemble(), pairs(12, scale=2.0)
    whole = geodesic(metric, start, stop, solver=GaussNewton(32))
    for memory in (1, 20_000):
        parts = geodesic(metric, start, stop, solver=GaussNewton(32, memory=memory))
        assert torch.allclose(parts.path, whole.path, rtol=1e-9, atol=1e-9)
        assert torch.equal(parts.steps, whole.steps)


@pytest.mark.parametrize("options", [{"num_segments": 1}, {"tolerance": 0.0}, {"max_steps": 0}, {"memory": 0}])
def test_wrong_solver_option_is_a_named_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        GaussNewton(**options)


def ravine(z: Tensor) -> Tensor:
    """A plane between steep walls that wind: y = sin x is the floor, along which steps are slow."""
    x, y = z.unbind(-1)
    return torch.stack([x, y, (y - x.sin()) ** 2], dim=-1)


@pytest.mark.parametrize("immersion", [ravine, torus])
def test_of_a_converged_geodesic_no_more_than_the_tolerance_is_left_to_be_gained_in_its_valley(immersion):
    metric, (start, stop) = PullbackMetric(immersion), pairs(12, scale=1.0)
    found = geodesic(metric, start, stop, solver=GaussNewton(64), throw=True)
    tight = GaussNewton(64, tolerance=1e-8, coarse_tolerance=1e-8, max_steps=100)
    least = geodesic(metric, start, stop, init=found.path, solver=tight).energy
    assert (found.energy <= (1 + GaussNewton().tolerance) * least).all()


def test_a_last_step_that_did_not_do_what_it_promised_is_no_last_one():
    """Of waves of many heights: where such steps were the last, up to 1 % of the energy was left of what converged."""
    generator = torch.Generator().manual_seed(10)
    slopes = 4 * torch.randn(2, 12, generator=generator, dtype=torch.float64)
    phases = 6 * torch.rand(12, generator=generator, dtype=torch.float64)
    metric = PullbackMetric(lambda z: torch.cat([z, 0.25 * torch.sin(z @ slopes + phases)], dim=-1))
    start, stop = 1.5 * torch.randn(2, 60, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = geodesic(metric, start, stop, throw=True)
    tight = GaussNewton(256, tolerance=1e-7, max_steps=300)
    least = geodesic(metric, start, stop, init=found.path, solver=tight).energy
    assert (found.energy <= 1.005 * least).all()


def test_what_a_last_step_leaves_is_known_where_it_brings_what_it_promised_alone():
    """On the plane: a bow made flat by half brings three quarters of its excess; one made higher, nothing."""
    metric = PullbackMetric(plane)
    line = Straight(8)(*torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]], dtype=torch.float64)).expand(4, -1, -1)
    bow = torch.zeros_like(line)
    bow[..., 1] = 0.2 * (torch.pi * line[..., 0]).sin()
    path, proposed = line + bow, line + bow / 2
    proposed[3] = line[3] + 2 * bow[3]
    energies, durations = metric.measure(path)
    gain = energies - metric.measure(proposed).energy
    number, above = torch.arange(4), torch.full((4,), 5.0, dtype=torch.float64)
    before = Descents(
        path.clone(),
        number,
        energies.clone(),
        durations.clone(),
        number,
        0 * number,
        above,
        above.clone(),
        above.clone(),
    )
    hoped = torch.stack([gain[0], gain[1] / 1.05, gain[2] / 1.2, gain[0]])
    found = _with_last_steps(metric, before, proposed, hoped, above / 10, Level(1e-3, 1, measured_alone, 1e-2))
    assert found.left.tolist() == [0.5, 0.5, torch.inf, 5.0]
    assert torch.equal(found.path, torch.cat([proposed[:3], path[3:]]))
    torch.testing.assert_close(found.energy, metric.measure(found.path).energy)


@pytest.mark.parametrize("share", [0.9, 0.3, 1.4])
def test_excess_and_what_a_step_leaves_of_it_are_exact_in_one_mode_of_a_quadratic(share):
    """A step goes by σ = `share` of the way to the least energy, overshooting above 1: there the excess is a bound."""
    excess = 3.0  # ½ h e²; a step takes the share h / H of e
    decrements = [share * excess * (1 - share) ** (2 * k) for k in range(2)]  # ½ (h e)² / H
    contraction = torch.tensor([decrements[1] / decrements[0]], dtype=torch.float64)
    found, left = (float(x) for x in _excesses(torch.tensor([decrements[1]], dtype=torch.float64), contraction))
    now = excess * (1 - share) ** 2
    assert left == pytest.approx((1 - share) ** 2 * found)
    assert found == pytest.approx(now) if share <= 1 else found >= now


def test_decrements_that_do_not_fall_promise_no_end():
    assert _excesses(torch.tensor([1e-9]), torch.tensor([1.0]))[1].isinf().all()
