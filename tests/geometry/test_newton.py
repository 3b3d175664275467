"""Newton systems: products with Jacobians say what matrices say."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probgeo.geometry.geodesics import GaussNewton, Status, geodesic
from probgeo.geometry.metrics import ConformalMetric, Energy, ExpectedMetric, Metric, PullbackMetric, TensorMetric
from probgeo.geometry.newton import (
    BlockTridiagonal,
    Interpolated,
    MatrixFree,
    chosen,
    corrected_step,
    default_system,
    finite,
    learnt,
    no_secants,
    rows,
)
from probgeo.nn import mlp
from probgeo.specs import from_config, to_config
from tests.manifolds import sphere


def decoders(latent: int, count: int = 3) -> list[nn.Module]:
    torch.manual_seed(3)
    return [mlp([latent, 32, 40], nn.Tanh).double() for _ in range(count)]


def curves(latent: int, batch: int = 5, nodes: int = 17) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    ends = torch.randn(2, batch, 1, latent, dtype=torch.float64, generator=generator)
    share = torch.linspace(0, 1, nodes, dtype=torch.float64)[:, None]
    return torch.lerp(ends[0], ends[1], share) + 0.1 * torch.sin(3 * share) * (1 - share) * ends[0].roll(1, 2)


def metrics(latent: int) -> dict[str, Metric]:
    single, *others = decoders(latent)
    weight = torch.randn(latent, latent, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def tensor(z: Tensor) -> Tensor:
        eye = torch.eye(latent, dtype=z.dtype)
        return eye + weight @ weight.mT * torch.sigmoid(z[..., :1, None]) / latent

    return {
        "pullback": PullbackMetric(single),
        "expected": ExpectedMetric(others),
        "tensor": TensorMetric(tensor),
        "conformal": ConformalMetric(lambda z: (-z.square().sum(-1)).exp(), 0.1),
        "sum": PullbackMetric(single) + TensorMetric(tensor),
    }


REVERSE = pytest.mark.parametrize("system", [Interpolated, MatrixFree])


@REVERSE
@pytest.mark.parametrize("name", metrics(3))
def test_energy_durations_and_gradient_are_those_of_the_blocks(name: str, system) -> None:
    metric, path = metrics(3)[name], curves(3)
    free, dense = system(metric).linearized(path), BlockTridiagonal(metric).linearized(path)
    for one, other in zip(free[:3], dense[:3], strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


@REVERSE
def test_chunks_change_nothing(system) -> None:
    one = system(ExpectedMetric(decoders(3), memory=2**30)).linearized(curves(3))
    many = system(ExpectedMetric(decoders(3), memory=1)).linearized(curves(3))
    for x, y in zip(one, many, strict=True):
        assert torch.allclose(x, y, rtol=1e-12, atol=1e-14)


@REVERSE
def test_first_step_in_a_constant_metric_is_exact(system) -> None:
    weight = torch.randn(24, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    metric, path = PullbackMetric(lambda z: z @ weight), curves(24)
    model = system(metric).linearized(path)
    step, promised = system(metric).step(model, path.new_zeros(len(path)))
    line = torch.lerp(path[:, :1], path[:, -1:], torch.linspace(0, 1, 17, dtype=path.dtype)[:, None])
    least = metric.measure(line).energy
    assert torch.allclose(promised, model.energy - least, rtol=2e-2)
    assert ((path[:, 1:-1] + step - line[:, 1:-1]).norm(dim=(1, 2)) < 0.05 * step.norm(dim=(1, 2))).all()


@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_step_promises_what_the_blocks_promise_where_the_metric_varies_little(damping: float) -> None:
    # H differs only in the metric between samples, so both minimise nearly the same model.
    metric, path = ExpectedMetric(decoders(20)), curves(20, nodes=33)
    damped = path.new_full((len(path),), damping)
    free = MatrixFree(metric).step(MatrixFree(metric).linearized(path), damped)
    dense = BlockTridiagonal(metric).step(BlockTridiagonal(metric).linearized(path), damped)
    if damping == 0:
        assert torch.allclose(free[1], dense[1], rtol=0.05)
    assert (free[1] > 0).all() and (dense[1] > 0).all()


def test_tensors_are_taken_again_once_their_nodes_have_moved_by_a_sixteenth_of_the_path() -> None:
    metric, path = ExpectedMetric(decoders(8)), curves(8)
    newton = Interpolated(metric)
    model, extent = newton.linearized(path), (path - path[:, :1]).norm(dim=2).amax(1)
    near, far = path.clone(), path.clone()
    near[:, 8] += 0.05 * extent[:, None] / 8**0.5
    far[2, 8] += 0.08 * extent[2] / 8**0.5
    kept, taken = newton.updated(model, near), newton.updated(model, far)
    assert torch.equal(kept.tensors, model.tensors) and torch.equal(kept.places, model.places)
    assert torch.equal(kept.gradient, newton.linearized(near).gradient)
    others = torch.arange(5) != 2
    assert torch.equal(taken.tensors[others], model.tensors[others])
    torch.testing.assert_close(taken.tensors[2], metric.tensor(far[2, ::4]))


@pytest.mark.parametrize(("latent", "system"), [(8, Interpolated), (20, MatrixFree), (50, MatrixFree)])
def test_solutions_are_those_of_the_blocks(latent: int, system) -> None:
    metric, path = ExpectedMetric(decoders(latent)), curves(latent)
    solver = GaussNewton(num_segments=32, tolerance=1e-6, coarse_tolerance=1e-4)
    assert default_system(metric, path[0]) is system
    free = geodesic(metric, path[:, 0], path[:, -1], solver=solver, throw=True)
    blocks = replace(solver, system=BlockTridiagonal)
    dense = geodesic(metric, path[:, 0], path[:, -1], solver=blocks, throw=True)
    assert torch.allclose(free.energy, dense.energy, rtol=1e-4)
    assert torch.allclose(free.path, dense.path, atol=0.05 * float(path.std()))


def test_distance_on_a_sphere_is_the_angle() -> None:
    generator = torch.Generator().manual_seed(1)
    start, stop = 0.15 * torch.randn(2, 6, 24, dtype=torch.float64, generator=generator)
    found = geodesic(PullbackMetric(sphere), start, stop, solver=GaussNewton(128), throw=True)
    angle = (sphere(start) * sphere(stop)).sum(-1).acos()
    assert torch.allclose(found.length, angle, rtol=5e-4)


def test_a_poisoned_pair_fails_alone() -> None:
    decoder = decoders(24)[0]

    def poisoned(z: Tensor) -> Tensor:
        return torch.where(z[..., :1] > 50, torch.nan, decoder(z))

    path = curves(24)
    start, stop = path[:, 0].clone(), path[:, -1].clone()
    stop[2] = 100
    start[3] = stop[3]
    solver = GaussNewton(num_segments=32)
    together = geodesic(PullbackMetric(poisoned), start, stop, solver=solver)
    assert together.status.tolist() == [Status.CONVERGED] * 2 + [Status.NONFINITE] + [Status.CONVERGED] * 2
    assert together.energy[3] == 0
    alone = geodesic(PullbackMetric(poisoned), start[[0]], stop[[0]], solver=solver)
    assert torch.allclose(together.path[0], alone.path[0], rtol=1e-9)


def test_few_dimensions_and_energies_without_a_length_have_matrices() -> None:
    class Other(Energy):
        def measure(self, path):
            raise NotImplementedError

        linearize = edge_weights = measure

    assert default_system(PullbackMetric(nn.Identity()), torch.randn(2, 2)) is BlockTridiagonal
    assert default_system(Other(), torch.randn(2, 128)) is BlockTridiagonal
    for system in (Interpolated, MatrixFree):
        with pytest.raises(TypeError, match=f"system: {system.__name__} needs a metric's residuals; Other has none"):
            geodesic(Other(), torch.zeros(1, 3), torch.ones(1, 3), solver=GaussNewton(system=system))


def test_a_solver_with_the_default_system_is_known_by_the_same_key_and_others_by_others() -> None:
    default, free = GaussNewton(64), GaussNewton(64, system=MatrixFree)
    assert "system" not in to_config(default)
    assert from_config(to_config(free)) == free != from_config(to_config(default)) == default
    with pytest.raises(TypeError, match="system"):
        GaussNewton(system="dense")


def test_matrix_free_models_hold_little() -> None:
    metric = PullbackMetric(nn.Identity())
    free, dense = (kind(metric).num_floats(256, 128) for kind in (MatrixFree, BlockTridiagonal))
    assert 5 * free < dense


@pytest.mark.slow
@pytest.mark.parametrize(("latent", "system"), [(10, Interpolated), (30, MatrixFree)])
def test_what_systems_count_is_what_their_geodesics_hold_at_most(latent: int, system) -> None:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(latent, 8), nn.Tanh(), nn.Linear(8, 5))
    metric = PullbackMetric(decoder, memory=(chunk := 1_000_000))
    start, stop = torch.randn(2, 60, latent, generator=torch.Generator().manual_seed(0))
    solve = partial(geodesic, metric, start, stop, solver=GaussNewton(32, max_steps=2, system=system))
    solve()  # what the first use of a metric tries is not counted
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        solve()
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    counted = 60 * system(metric).num_floats(32, latent) * start.element_size()
    assert 0.5 * counted < np.cumsum(changes).max() < counted + chunk


def test_models_are_taken_apart_and_joined_pair_by_pair() -> None:
    path = curves(3)
    model = MatrixFree(ExpectedMetric(decoders(3))).linearized(path)
    which = torch.tensor([True, False, True, False, False])
    other = model._replace(energy=model.energy * torch.nan)
    joined = chosen(which, model, other)
    assert finite(joined).tolist() == which.tolist()
    assert torch.equal(rows(joined, which).energy, model.energy[which])


def test_pairs_that_need_damping_converge_without_matrices_as_with_them() -> None:
    """A hill and a wall in 24 dimensions."""

    def rough(z: Tensor) -> Tensor:
        top = torch.nn.functional.pad(z.new_tensor([0.5]), (0, 23))
        hill = 3 * (-2 * (z - top).square().sum(-1, keepdim=True)).exp()
        return torch.cat([z, hill, 2 * (5 * z[..., 1:2]).tanh()], dim=-1)

    start, stop = 0.3 * torch.randn(2, 4, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start[:, 0] -= 1
    stop[:, 0] += 2
    free = geodesic(PullbackMetric(rough), start, stop, solver=GaussNewton(64))
    dense = geodesic(PullbackMetric(rough), start, stop, solver=GaussNewton(64, system=BlockTridiagonal))
    assert (free.status == Status.CONVERGED).all() and (dense.status == Status.CONVERGED).all()
    assert (free.energy <= 1.02 * dense.energy).all()


def test_a_decoder_without_reverse_mode_is_refused_where_reverse_mode_is_needed_and_right_elsewhere():
    def hill(z: torch.Tensor) -> torch.Tensor:
        return torch.cat([z, 3 * torch.exp(-2 * z.square().sum(-1, keepdim=True))], dim=-1)

    start = torch.zeros(1, 24)
    start[0, :2] = torch.tensor([-1.5, 0.05])
    stop = start * torch.tensor([-1.0] + [1.0] * 23)
    without = PullbackMetric(torch.no_grad()(hill))
    with pytest.raises(ValueError, match=r"reverse mode does not belong to its values.*system=BlockTridiagonal"):
        geodesic(without, start, stop)
    right = geodesic(PullbackMetric(hill), start, stop).length
    forward = geodesic(without, start, stop, solver=GaussNewton(system=BlockTridiagonal)).length
    torch.testing.assert_close(forward, right, rtol=5e-3, atol=0)
    fewer = start[:, :8], stop[:, :8]
    with pytest.raises(ValueError, match=r"reverse mode does not belong to its values.*system=BlockTridiagonal"):
        geodesic(without, *fewer, solver=GaussNewton(system=Interpolated))
    assert default_system(PullbackMetric(hill), torch.cat(fewer)) is Interpolated
    torch.testing.assert_close(geodesic(without, *fewer).length, right, rtol=5e-3, atol=0)


# --- secants ---


@pytest.mark.parametrize("system", [BlockTridiagonal, Interpolated, MatrixFree])
def test_a_step_without_a_secant_is_the_systems_own_and_promises_the_same(system) -> None:
    metric, path = ExpectedMetric(decoders(3)), curves(3)
    newton = system(metric)
    model, still = newton.linearized(path), path.new_zeros(len(path))
    step, promised = corrected_step(newton, model, still, no_secants(model.gradient))
    own = newton.step(model, still)
    assert torch.equal(step, own[0])
    assert torch.allclose(promised, own[1], rtol=1e-6)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_a_corrected_step_from_the_gradient_that_a_secant_saw_is_the_way_back_along_it(damping: float) -> None:
    # B s = y: where the gradient is y, the step is −s, whatever H is.
    metric, path = ExpectedMetric(decoders(3)), curves(3)
    newton = BlockTridiagonal(metric)
    model, damped = newton.linearized(path), path.new_full((len(path),), damping)
    step, promised = corrected_step(newton, model, damped, no_secants(model.gradient))
    moved = path.clone()
    moved[:, 1:-1] += step
    turn = newton.linearized(moved).gradient - model.gradient
    secants = learnt(no_secants(model.gradient), step, turn, promised)
    assert torch.equal(secants.step, step)
    back, decrement = corrected_step(newton, model._replace(gradient=turn), damped, secants)
    assert torch.allclose(back, -step, rtol=1e-8, atol=1e-10)
    assert torch.allclose(decrement, (step * turn).sum((1, 2)) / 2, rtol=1e-8)


def test_a_secant_of_no_curvature_or_without_a_value_leaves_the_last() -> None:
    known = no_secants(torch.zeros(3, 5, 2))._replace(step=torch.full((3, 5, 2), 2.0))
    step, turn = torch.ones(3, 5, 2), torch.ones(3, 5, 2)
    turn[1], turn[2, 0, 0] = -1.0, torch.nan
    found = learnt(known, step, turn, torch.full((3,), 5.0))
    assert torch.equal(found.step[0], step[0]) and torch.equal(found.step[1:], known.step[1:])
    assert found.curvature.tolist() == [10.0, 1.0, 1.0]


def test_secants_that_are_let_go_leave_the_systems_own_step_and_the_others_theirs() -> None:
    metric, path = ExpectedMetric(decoders(3)), curves(3)
    newton = BlockTridiagonal(metric)
    model, still = newton.linearized(path), path.new_zeros(len(path))
    known = no_secants(model.gradient)._replace(step=path[:, 1:-1], turn=path[:, 1:-1] / 2)
    known = known._replace(curvature=(known.step * known.turn).sum((1, 2)))
    kept = torch.tensor([True, False, True, False, False])
    some = corrected_step(newton, model, still, known.where(kept))[0]
    assert torch.equal(some[kept], corrected_step(newton, model, still, known)[0][kept])
    assert torch.equal(some[~kept], newton.step(model, still)[0][~kept])
