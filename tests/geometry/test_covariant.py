"""What is left of a path's energy, on planes in coordinates that hide that they are: there it is known."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from experiments.benchmarks.planes import Shears, laid, sheared
from probgeo.geometry.geodesics import GaussNewton, Status, geodesic
from probgeo.geometry.metrics import PullbackMetric, TensorMetric
from probgeo.geometry.newton import BlockTridiagonal, Interpolated
from probgeo.geometry.newton.covariant import covariant_excess, eliminated
from probgeo.paths import Graph


def bent_paths(latent: int, segments: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randn(2, 4, 1, latent, dtype=torch.float64, generator=generator)
    share = torch.linspace(0, 1, segments + 1, dtype=torch.float64)[:, None]
    side = torch.randn(4, 1, latent, dtype=torch.float64, generator=generator)
    return torch.lerp(ends[0], ends[1], share) + (torch.pi * share).sin() * side


def true_excess(plane: Callable[[Tensor], Tensor], path: Tensor) -> Tensor:
    """½ N Σ ‖φ(z_{i+1}) − φ(z_i)‖² − ½ ‖φ(z_N) − φ(z_0)‖²: nothing but straight lines is least."""
    values = plane(path)
    energy = (path.shape[1] - 1) / 2 * values.diff(dim=1).square().sum((1, 2))
    return energy - (values[:, -1] - values[:, 0]).square().sum(1) / 2


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(2, 40), st.integers(0, 2**16))
def test_on_a_plane_the_excess_is_exact_in_whatever_coordinates(latent: int, segments: int, seed: int) -> None:
    plane = sheared(Shears(latent, 2, 0.5, 1.5), seed)
    path = bent_paths(latent, segments, seed)
    model = PullbackMetric(laid(plane, latent, seed)).linearize(path)
    found = covariant_excess(model.grams, model.gradient)
    assert torch.allclose(found, true_excess(plane, path), rtol=1e-5, atol=1e-9 * float(model.energy.max()))


def test_on_a_rolled_plane_it_is_nearly_so_where_gauss_newton_takes_turning_for_stiffness() -> None:
    """Two turns of a roll between the ends; a small bow on straight lines."""
    share = torch.linspace(0, 1, 257, dtype=torch.float64)
    path = torch.stack([12 * share, share + 0.02 * (torch.pi * share).sin()], dim=-1)[None]
    metric = PullbackMetric(lambda z: torch.stack([z[..., 0].cos(), z[..., 0].sin(), z[..., 1]], dim=-1))
    model = metric.linearize(path)
    excess = true_excess(lambda z: z, path)
    assert torch.allclose(covariant_excess(model.grams, model.gradient), excess, rtol=1e-2)


def test_by_few_nodes_it_is_that_of_slow_moves() -> None:
    """In eight dimensions, whose paths are solved by the metric's tensor at few nodes."""
    plane, path = sheared(Shears(8, 1, 0.2, 1.0), seed=1), bent_paths(8, 256, seed=1)
    metric = PullbackMetric(plane)
    newton = Interpolated(metric)
    found = newton.excess(newton.linearized(path), path)
    assert torch.allclose(found, true_excess(plane, path), rtol=2e-2)


def test_energies_that_are_no_metrics_have_none_and_vanishing_ones_no_number_that_says_solved() -> None:
    path = bent_paths(2, 8, seed=2)
    metric = PullbackMetric(lambda z: z)
    model = metric.linearize(path)
    assert BlockTridiagonal(metric).excess(model._replace(grams=None), path).tolist() == [0.0] * 4
    unknown = covariant_excess(0 * model.grams, model.gradient)
    assert not (unknown <= model.energy).any()


def test_what_is_eliminated_is_the_schur_complement() -> None:
    factor = torch.randn(5, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = factor.mT @ factor
    first, mixed, last = gram[..., :3, :3], gram[..., :3, 3:], gram[..., 3:, 3:]
    assert torch.allclose(eliminated(gram), last - mixed.mT @ torch.linalg.solve(first, mixed))


def test_of_a_metric_by_its_tensor_it_is_that_to_a_tenth() -> None:
    """Its residuals' frame turns along the path, which is taken for stiffness."""
    plane, path = sheared(Shears(2, 2, 0.5, 1.5), seed=3), bent_paths(2, 400, seed=3)
    jacobian = torch.func.vmap(torch.func.jacfwd(plane))

    def tensor(z: Tensor) -> Tensor:
        j = jacobian(z.reshape(-1, 2)).reshape(*z.shape, 2)
        return j.mT @ j

    model = TensorMetric(tensor).linearize(path)
    assert torch.allclose(covariant_excess(model.grams, model.gradient), true_excess(plane, path), rtol=0.1)


@pytest.mark.parametrize(
    ("shears", "dtype"),
    [
        (Shears(2, 3, 0.5, 4.0), torch.float32),
        (Shears(2, 2, 1.0, 4.0), torch.float64),
        (Shears(3, 3, 0.5, 2.0), torch.float32),
        pytest.param(Shears(8, 2, 0.2, 2.0), torch.float32, marks=pytest.mark.slow),
    ],
)
def test_what_converged_is_straight_however_the_plane_is_sheared(shears: Shears, dtype: torch.dtype) -> None:
    """Gauss–Newton's steps become tiny far from the straight lines, where they would be refused were they longer."""
    codes = torch.randn(400, shears.latent, generator=torch.Generator().manual_seed(1)).to(dtype)
    plane = sheared(shears, seed=1)
    metric = PullbackMetric(laid(plane, shears.latent, seed=1))
    first, second = torch.combinations(torch.arange(8)).unbind(1)
    start, stop = codes[first], codes[second]
    found = geodesic(metric, start, stop, init=Graph(metric, codes), solver=GaussNewton(256))
    longer = found.length / (plane(stop.double()) - plane(start.double())).norm(dim=1)
    converged = found.status == Status.CONVERGED
    assert converged.any()
    assert (longer[converged] < 1.01).all()
