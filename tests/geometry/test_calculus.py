"""Exponential, logarithm, transport, angles, volumes, means and curvature against closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacfwd, jvp, vmap

from probgeo.geometry.calculus import (
    angle,
    convex_hull,
    exponential,
    frechet_mean,
    logarithm,
    parallel_transport,
    sectional_curvature,
    volume,
    volume_density,
)
from probgeo.geometry.calculus.arguments import check_metric
from probgeo.geometry.geodesics import GaussNewton, Status, geodesic
from probgeo.geometry.graph import Graph
from probgeo.geometry.metrics import ConformalMetric, DecorrelatedEnergy, ExpectedMetric, PullbackMetric, TensorMetric
from probgeo.nn import mlp
from tests.manifolds import cylinder, globe, half_plane, paraboloid, plane, sphere, torus

EPS = torch.finfo(torch.float64).eps


def tight(num_segments: int = 32) -> GaussNewton:
    return GaussNewton(num_segments, tolerance=4 * EPS, coarse_tolerance=1e-8, max_steps=200)


def decoders(count: int = 2, latent: int = 2, dtype: torch.dtype = torch.float64) -> list[nn.Sequential]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [mlp([latent, 24, 24, 30]).to(dtype) for _ in range(count)]


def chart(z: Tensor) -> Tensor:
    """A diffeomorphism of the plane, not linear."""
    x, y = z.unbind(-1)
    return torch.stack([x + 0.3 * y.sin(), y + 0.3 * x.sin()], dim=-1)


def pushed(map: object, z: Tensor, v: Tensor) -> Tensor:
    return jvp(map, (z,), (v,))[1]


def vectors(count: int = 5, latent: int = 2, seed: int = 0, scale: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, latent, generator=generator, dtype=torch.float64)


def inner(metric, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bk,bkl,bl->b", u, metric.tensor(z), v)


UP = torch.tensor([0.0, 1.5], dtype=torch.float64)  # into the half-plane
SURFACES = {
    "sphere": (PullbackMetric(sphere), vectors()),
    "paraboloid": (PullbackMetric(paraboloid), vectors()),
    "torus": (PullbackMetric(torus), vectors()),
    "half-plane": (TensorMetric(half_plane), UP + vectors(scale=0.2)),
    "bump": (ConformalMetric(lambda z: torch.exp(-z.square().sum(-1)), 0.5), vectors()),
    "ensemble": (ExpectedMetric(decoders()), vectors()),
    "sum": (PullbackMetric(decoders(1)[0]) + TensorMetric(half_plane), UP + vectors(scale=0.2)),
}
surfaces = pytest.mark.parametrize(("metric", "z"), SURFACES.values(), ids=SURFACES.keys())
V, W = vectors(seed=1), vectors(seed=2)
OCTANT = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


@surfaces
def test_logarithm_inverts_exponential(metric, z):
    there = exponential(metric, z, V, 16)
    assert (there.status == Status.CONVERGED).all()
    assert torch.equal(there.path[:, 0], z)
    assert torch.equal(there.path[:, -1], there.point)
    back = logarithm(metric, z, there.point, solver=tight(16))
    assert torch.allclose(back.velocity, V, atol=1e-6)
    assert torch.allclose(back.geodesics.path, there.path, atol=1e-6)


@surfaces
def test_exponential_inverts_logarithm(metric, z):
    other = z + W
    there = logarithm(metric, z, other, solver=tight(16))
    assert torch.allclose(exponential(metric, z, there.velocity, 16).point, other, atol=1e-6)
    assert torch.allclose(inner(metric, z, there.velocity, there.velocity), there.geodesics.length**2, rtol=1e-2)


@surfaces
def test_path_of_exponential_is_stationary(metric, z):
    path = exponential(metric, z, V, 16).path
    with torch.no_grad():
        model = metric.linearize(path)
    assert (model.gradient.abs().amax((1, 2)) <= 1e-9 * model.energy).all()


def sphere_point(z: Tensor, v: Tensor) -> Tensor:
    tangent = pushed(sphere, z, v)
    speed = tangent.norm(dim=1, keepdim=True)
    return speed.cos() * sphere(z) + speed.sin() * tangent / speed


def test_error_of_exponential_falls_as_the_square_of_the_number_of_segments():
    z, metric = vectors(), PullbackMetric(sphere)
    errors = [(sphere(exponential(metric, z, V, n).point) - sphere_point(z, V)).norm(dim=1).max() for n in (8, 16)]
    heights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    z = torch.stack([0 * heights, heights], dim=1)
    shots = [exponential(TensorMetric(half_plane), z, z, n).point[:, 1] for n in (8, 16)]
    vertical = [(height - heights * math.e).abs().max() for height in shots]
    for coarse, fine in [*pairwise(errors), *pairwise(vertical)]:
        assert coarse / fine == pytest.approx(4, rel=0.1)


def test_error_of_logarithm_falls_as_the_square_of_the_number_of_segments():
    z, y = vectors(), vectors() + V
    cosine = (sphere(z) * sphere(y)).sum(1, keepdim=True)
    tangent = (sphere(y) - cosine * sphere(z)) * cosine.arccos() / (1 - cosine**2).sqrt()
    errors = []
    for n in (8, 16):
        found = logarithm(PullbackMetric(sphere), z, y, solver=tight(n)).velocity
        errors.append((pushed(sphere, z, found) - tangent).norm(dim=1).max())
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.1)


def test_flat_space_has_straight_geodesics():
    z, metric = vectors(), PullbackMetric(plane)
    assert torch.allclose(exponential(metric, z, V, 64).point, z + V, rtol=1e-9)
    assert torch.allclose(logarithm(metric, z, z + V).velocity, V, rtol=1e-6)
    path = torch.stack([z, z + W, z - V, z + V], dim=1)
    assert torch.allclose(parallel_transport(metric, path, V), V, rtol=1e-9)


def test_logarithm_follows_a_given_start():
    metric = PullbackMetric(torus)
    start, stop = torch.tensor([[0.0, -2.0]]).double(), torch.tensor([[0.0, 2.0]]).double()
    around = torch.stack([start, start + torch.tensor([math.pi, 2.0]), stop + torch.tensor([2 * math.pi, 0])], dim=1)
    outer = logarithm(metric, start, stop).geodesics
    inner_side = logarithm(metric, start, around[:, -1], init=around)
    assert outer.length > inner_side.geodesics.length  # the hole is shorter to go round by the inside
    assert inner_side.velocity[0, 0] > 0
    best = logarithm(metric, start, stop, init=Graph(metric, torch.cat([start, stop]))).geodesics
    assert outer.length > best.length


@pytest.mark.slow
@surfaces
def test_transported_inner_products_converge_to_the_originals(metric, z):
    v, w = V[:2], W[:2]
    exact = inner(metric, z[[0, 1, 0, 1]], torch.cat([v, v]), torch.cat([v, w]))
    errors = []
    for segments in (8, 16):
        path = exponential(metric, z[:2], v, segments).path
        moved_v, moved_w = parallel_transport(metric, path.repeat(2, 1, 1), torch.cat([v, w])).chunk(2)
        end = path[:, -1].repeat(2, 1)
        errors.append((inner(metric, end, moved_v.repeat(2, 1), torch.cat([moved_v, moved_w])) - exact).abs().max())
    if errors[0] < 1e-9:  # on the sphere the ladder's reflections are exact
        return
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


def test_velocity_of_a_geodesic_is_parallel():
    z, metric = vectors(), ExpectedMetric(decoders())
    there = exponential(metric, z, V, 64)
    arriving = -logarithm(metric, there.point, z, init=there.path.flip(1), solver=tight(64)).velocity
    assert torch.allclose(parallel_transport(metric, there.path, V), arriving, atol=1e-4)


def test_transport_is_homogeneous_and_undone_by_the_way_back():
    z, metric = vectors(), PullbackMetric(paraboloid)
    path = exponential(metric, z, V, 16).path
    moved = parallel_transport(metric, path, W)
    assert torch.allclose(parallel_transport(metric, path, -3 * W), -3 * moved, rtol=2e-2)
    assert torch.allclose(parallel_transport(metric, path, 5 * W), 5 * moved, rtol=1e-8)
    assert torch.allclose(parallel_transport(metric, path.flip(1), moved), W, atol=1e-3)
    assert torch.equal(parallel_transport(metric, path, 0 * W), 0 * W)
    assert torch.equal(parallel_transport(metric, path[:, :1].expand(-1, 5, -1), W), W)


def test_transport_around_an_octant_turns_by_a_right_angle():
    metric = PullbackMetric(sphere)
    sides = geodesic(metric, OCTANT, OCTANT[[1, 2, 0]], solver=tight(16)).path
    loop = torch.cat([sides[0], sides[1, 1:], sides[2, 1:]])[None]
    vector = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    assert torch.allclose(parallel_transport(metric, loop, vector), torch.tensor([[-0.5, 1.0]]).double(), atol=1e-2)


def test_octant_has_three_right_angles():
    found = angle(PullbackMetric(sphere), OCTANT, OCTANT[[1, 2, 0]], OCTANT[[2, 0, 1]], solver=tight(64))
    assert (found.status == Status.CONVERGED).all()
    assert torch.allclose(found.angle, torch.full((3,), math.pi / 2).double(), atol=1e-3)


def test_angle_of_a_flat_metric_is_that_of_the_plane():
    z, y, w = vectors(), vectors(seed=3), vectors(seed=4)
    found = angle(PullbackMetric(plane), z, y, w).angle
    cosine = torch.cosine_similarity(plane(y) - plane(z), plane(w) - plane(z))
    assert torch.allclose(found, cosine.arccos(), atol=1e-6)
    same = angle(PullbackMetric(plane), z, y, z + 0.5 * (y - z)).angle
    opposite = angle(PullbackMetric(plane), z, y, 2 * z - y).angle
    assert torch.allclose(same, 0 * same, atol=1e-6)
    assert torch.allclose(opposite, torch.full_like(opposite, math.pi), atol=1e-6)
    assert angle(PullbackMetric(plane), z, y, z).angle.isnan().all()


def triangle(metric, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the angles of a geodesic triangle, and its region as a fan."""
    following, preceding = corners[[1, 2, 0]], corners[[2, 0, 1]]
    angles = angle(metric, corners, following, preceding, solver=tight(64)).angle
    sides = geodesic(metric, corners, following, solver=tight(64)).path
    centre = corners.mean(0).expand(3, 64, 2)
    return angles.sum(), torch.stack([centre, sides[:, :-1], sides[:, 1:]], dim=2).flatten(0, 1)


def test_excess_of_a_triangle_is_its_total_curvature():
    """Gauss and Bonnet, on surfaces of curvature 1, −1 and (1 + ‖z‖²)⁻²."""

    def curved(z: Tensor) -> Tensor:
        square = z.square().sum(-1)[..., None, None]
        return (torch.eye(2, dtype=z.dtype) + z[..., :, None] * z[..., None, :]) / (1 + square).square()

    for metric, weighted, corners, sign in (
        (PullbackMetric(sphere), PullbackMetric(sphere), OCTANT, 1),
        (TensorMetric(half_plane), TensorMetric(half_plane), OCTANT / 2 + 1, -1),
        (PullbackMetric(paraboloid), TensorMetric(curved), OCTANT - 0.2, 1),
    ):
        total, fan = triangle(metric, corners)
        assert total - math.pi == pytest.approx(sign * volume(weighted, fan).volume.item(), abs=1e-3)


def rectangle(left: float, right: float, bottom: float, top: float) -> Tensor:
    return convex_hull(torch.tensor([[left, bottom], [right, bottom], [left, top], [right, top]], dtype=torch.float64))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize(
    ("metric", "exact"),
    [
        (PullbackMetric(globe), 1.2 * (math.sin(0.7) - math.sin(0.1))),
        (TensorMetric(half_plane), 1.2 * (1 / 0.1 - 1 / 0.7)),
        (TensorMetric(lambda z: torch.eye(2, dtype=z.dtype).expand(*z.shape, 2) * 4), 4 * 1.2 * 0.6),
    ],
    ids=["sphere", "half-plane", "plane"],
)
def test_volume_of_a_rectangle_is_within_its_error(metric, exact, tolerance):
    if isinstance(metric, PullbackMetric):  # latitude is the first coordinate
        found = volume(metric, rectangle(0.1, 0.7, -0.2, 1.0), tolerance)
    else:
        found = volume(metric, rectangle(-0.2, 1.0, 0.1, 0.7), tolerance)
    assert abs(found.volume - exact) <= found.error + 8 * EPS * exact
    assert found.error <= tolerance * exact


def test_volume_across_a_jump_is_found():
    def torn(z: Tensor) -> Tensor:
        return torch.eye(2, dtype=z.dtype) * torch.where(z.square().sum(-1) > 0.4, 3.0, 1.0)[..., None, None]

    exact = 3 - 2 * math.pi * 0.4 / 4
    for tolerance in (1e-2, 1e-3):
        found = volume(TensorMetric(torn), rectangle(0, 1, 0, 1), tolerance)
        assert found.error <= tolerance * exact
        assert abs(found.volume - exact) <= 3 * found.error


@pytest.mark.parametrize("latent", [1, 2, 3, 5])
def test_polynomial_densities_up_to_degree_five_are_integrated_exactly(latent):
    def tensor(z: Tensor) -> Tensor:
        return torch.eye(latent, dtype=z.dtype) * ((1 + z[..., 0]) ** (10 / latent))[..., None, None]

    corners = torch.cat([torch.zeros(1, latent), torch.eye(latent)]).double()
    found = volume(TensorMetric(tensor), corners[None], tolerance=100.0)
    # ∫ (1 + x)^5 over the unit simplex: x has density latent (1 − x)^(latent − 1) / latent!.
    moments = [math.factorial(k) * math.factorial(latent) / math.factorial(k + latent) for k in range(6)]
    exact = sum(math.comb(5, k) * moment for k, moment in enumerate(moments)) / math.factorial(latent)
    assert found.volume == pytest.approx(exact, rel=1e-12)


def test_hull_has_the_volume_of_the_region():
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    corners = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    hull = convex_hull(torch.cat([points, corners]))
    metric = PullbackMetric(globe)
    assert volume(metric, hull).volume == pytest.approx(math.sin(1), rel=1e-6)
    line = convex_hull(torch.tensor([[3.0], [1.0], [2.0]]))
    assert volume(PullbackMetric(lambda z: 2 * z), line).volume == pytest.approx(4, rel=1e-6)


def test_volume_density_is_the_root_of_the_determinant():
    z = vectors().view(5, 1, 2)
    assert torch.allclose(volume_density(PullbackMetric(globe), z), z[..., 0].cos(), rtol=1e-12)
    assert torch.allclose(volume_density(PullbackMetric(globe), z[0, 0]), z[0, 0, 0].cos(), rtol=1e-12)
    assert (volume_density(PullbackMetric(lambda z: z.sum(-1, keepdim=True)), z) <= 1e-7).all()
    # The determinant itself would be 10^-600.
    small = TensorMetric(lambda z: 1e-6 * torch.eye(100, dtype=z.dtype).expand(*z.shape, 100))
    assert volume_density(small, torch.zeros(1, 100, dtype=torch.float64)).item() == pytest.approx(1e-300, rel=1e-9)


def test_curvature_equals_its_closed_form():
    z = vectors() + UP
    square = z.square().sum(1)
    for metric, exact in (
        (PullbackMetric(sphere), torch.ones_like(square)),
        (TensorMetric(half_plane), -torch.ones_like(square)),
        (PullbackMetric(cylinder), torch.zeros_like(square)),
        (PullbackMetric(paraboloid), (1 + square) ** -2),
        (PullbackMetric(torus), z[:, 0].cos() / (2 + z[:, 0].cos())),
        (ConformalMetric(lambda z: torch.exp(z.square().sum(-1)), 1e-12), 2 * torch.exp(square)),
    ):
        assert torch.allclose(sectional_curvature(metric, z), exact, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("activation", [nn.SiLU, nn.Tanh, nn.GELU])
def test_curvature_of_a_decoder_satisfies_the_equation_of_gauss(activation):
    torch.manual_seed(0)
    net, z = mlp([2, 16, 16, 8], activation).double(), vectors()
    slope, bend = vmap(jacfwd(net))(z), vmap(torch.func.hessian(net))(z)
    normal = torch.eye(8, dtype=z.dtype) - slope @ torch.linalg.pinv(slope)
    second = torch.einsum("bij,bjkl->bikl", normal, bend)
    squares = torch.einsum("bikl,bimn->bklmn", second, second)
    gauss = (squares[:, 0, 0, 1, 1] - squares[:, 0, 1, 0, 1]) / torch.linalg.det(slope.mT @ slope)
    fused, general = PullbackMetric(net), PullbackMetric(lambda z: net(z))
    for metric in (fused, general):
        found = sectional_curvature(metric, z)
        assert torch.allclose(found, gauss.detach(), rtol=1e-8)
        assert not found.requires_grad


def test_mean_of_a_flat_metric_is_the_arithmetic_mean():
    points, weights = vectors(9), vectors(9)[:, 0].abs()
    found = frechet_mean(PullbackMetric(plane), points, weights, start=points[0])
    exact = weights @ points / weights.sum()
    assert found.status == Status.CONVERGED
    assert torch.allclose(found.mean, exact, atol=1e-4)
    squares = (plane(points) - plane(exact)).square().sum(1)
    assert found.variance == pytest.approx((weights @ squares / weights.sum()).item(), rel=1e-6)


def test_mean_of_an_octants_corners_is_its_centre():
    found = frechet_mean(PullbackMetric(sphere), OCTANT)
    centre = torch.full((3,), 3**-0.5, dtype=torch.float64)
    assert found.status == Status.CONVERGED
    assert torch.allclose(sphere(found.mean), centre, atol=1e-3)
    assert found.variance == pytest.approx(math.acos(3**-0.5) ** 2, rel=1e-3)


class Composed(torch.nn.Module):
    """What a normalisation does, in sums and products."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        found = centred / (centred.square().mean(-1, keepdim=True) + self.norm.eps).sqrt()
        return found * self.norm.weight[:, None] + self.norm.bias[:, None] if x.ndim == 3 else found * self.norm.weight


@pytest.mark.parametrize("kind", ["layer", "instance"])
def test_curvature_is_that_of_normalised_layers_whose_second_derivative_torch_has_wrong(kind):
    torch.manual_seed(0)
    norm = torch.nn.LayerNorm(12, bias=False) if kind == "layer" else torch.nn.InstanceNorm1d(3, affine=True)
    torch.nn.init.uniform_(norm.weight)
    shape = [torch.nn.Unflatten(1, (3, 4))] if kind == "instance" else []
    before, after = mlp([2, 12]), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Tanh(), mlp([12, 8]))
    first, second = (torch.nn.Sequential(before, *shape, n, after).double() for n in (norm, Composed(norm)))
    z = vectors()
    torch.testing.assert_close(first(z), second(z))
    expected = sectional_curvature(PullbackMetric(lambda z: second(z)), z)
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(sectional_curvature(PullbackMetric(lambda z: first(z)), z), expected, rtol=1e-6, atol=0)


def test_curvature_of_what_torch_differentiates_wrongly_is_refused():
    def determinants(z):
        squares = z[..., :, None] * z[..., None, :] + torch.eye(2, dtype=z.dtype) * z[..., :1, None].exp()
        return torch.stack([torch.linalg.det(squares), z[..., 0] ** 2 * z[..., 1], z[..., 1]], dim=-1)

    with pytest.raises(ValueError, match=r"metric: the derivative of its tensor.*linalg\.solve, linalg\.det"):
        sectional_curvature(PullbackMetric(determinants), vectors())


def test_mean_of_far_points_of_negative_curvature_is_found_by_shorter_steps():
    points = torch.tensor([[-30.0, 1.0], [30.0, 1.0], [-30.0, 2.0], [30.0, 2.0]], dtype=torch.float64)
    start = torch.tensor([3.0, 20.0], dtype=torch.float64)
    found = frechet_mean(TensorMetric(half_plane), points, start=start, tolerance=1e-3)
    assert found.status == Status.CONVERGED
    assert abs(found.mean[0]) <= 0.2
    ends = logarithm(TensorMetric(half_plane), found.mean.expand(4, 2), points).velocity
    assert ends.mean(0).norm() <= 1e-2 * ends.norm(dim=1).mean()


def test_mean_ignores_points_of_weight_zero_and_of_one_point_is_that_point():
    metric, points = ExpectedMetric(decoders()), vectors()
    weights = torch.tensor([1.0, 1, 0, 0, 0]).double()
    two = frechet_mean(metric, points[:2])
    assert torch.allclose(frechet_mean(metric, points, weights).mean, two.mean, atol=1e-9)
    assert two.variance == pytest.approx(
        geodesic(metric, points[:1], points[1:2], solver=tight(64)).length.item() ** 2 / 4, rel=1e-3
    )
    one = frechet_mean(metric, points[:1])
    assert torch.equal(one.mean, points[0])
    assert one.variance == one.steps == 0


def test_mean_that_is_not_found_says_so():
    metric, points = PullbackMetric(decoders(1)[0]), vectors(3, scale=2.0)
    assert frechet_mean(metric, points, max_steps=1, tolerance=1e-9).status == Status.MAX_STEPS
    loose = GaussNewton(16, tolerance=0.5)
    assert frechet_mean(metric, points, tolerance=1e-14, solver=loose).status == Status.STALLED
    points[1] = torch.nan
    lost = frechet_mean(metric, points)
    assert lost.status == Status.NONFINITE
    assert lost.mean.isnan().all()
    assert lost.variance.isnan()


def test_calculus_is_invariant_to_reparametrisation():
    """Also at finite N: the discrete momenta of a pull-back know nothing of coordinates."""
    net, z = decoders(1)[0], vectors()
    direct, charted = PullbackMetric(net), PullbackMetric(lambda z: net(chart(z)))
    shots = exponential(charted, z, V, 16)
    assert torch.allclose(chart(shots.path), exponential(direct, chart(z), pushed(chart, z, V), 16).path, atol=1e-9)
    moved = parallel_transport(charted, shots.path, W)
    expected = parallel_transport(direct, chart(shots.path), pushed(chart, z, W))
    assert torch.allclose(pushed(chart, shots.point, moved), expected, atol=1e-9)
    there = logarithm(charted, z, z + V, solver=tight()).velocity
    expected = logarithm(direct, chart(z), chart(z + V), solver=tight()).velocity
    assert torch.allclose(pushed(chart, z, there), expected, atol=1e-6)
    angles = angle(charted, z, z + V, z + W).angle
    assert torch.allclose(angles, angle(direct, chart(z), chart(z + V), chart(z + W)).angle, atol=1e-5)
    assert torch.allclose(sectional_curvature(charted, z), sectional_curvature(direct, chart(z)), rtol=1e-8)
    mean, expected = frechet_mean(charted, z), frechet_mean(direct, chart(z))
    assert torch.allclose(chart(mean.mean), expected.mean, atol=1e-4)


def test_result_does_not_depend_on_the_batch():
    metric, z = ExpectedMetric(decoders()), vectors()
    shots, logs = exponential(metric, z, V, 16), logarithm(metric, z, z + V)
    moved, angles = parallel_transport(metric, shots.path, W), angle(metric, z, z + V, z + W)
    for rows in ([3], [4, 0, 2]):
        assert torch.allclose(exponential(metric, z[rows], V[rows], 16).path, shots.path[rows], atol=1e-9)
        assert torch.allclose(logarithm(metric, z[rows], (z + V)[rows]).velocity, logs.velocity[rows], atol=1e-9)
        assert torch.allclose(parallel_transport(metric, shots.path[rows], W[rows]), moved[rows], atol=1e-9)
        part = angle(metric, z[rows], (z + V)[rows], (z + W)[rows]).angle
        assert torch.allclose(part, angles.angle[rows], atol=1e-9)


def test_nonfinite_row_fails_alone():
    net = decoders(1)[0]

    def broken(z: Tensor) -> Tensor:
        return net(z) * torch.where(z[..., :1] > 3, torch.nan, 1.0)

    metric, healthy = PullbackMetric(broken), [0, 1, 3, 4]
    z, far = vectors(), torch.tensor([9.0, 0.0], dtype=torch.float64)
    v = torch.where(torch.arange(5)[:, None] == 2, far, V)
    shots, logs = exponential(metric, z, v, 16), logarithm(metric, z, z + v)
    assert shots.status[2] == logs.geodesics.status[2] == Status.NONFINITE
    assert shots.point[2].isnan().all()
    assert shots.path[2, 0].isfinite().all()
    assert logs.velocity[2].isnan().all()
    moved = parallel_transport(metric, torch.stack([z, z + v / 2, z + v], dim=1), W)
    assert moved[2].isnan().all()
    angles = angle(metric, z, z + v, z + W)
    assert angles.status[2] == Status.NONFINITE
    assert angles.angle[2].isnan()
    assert not any(found.requires_grad for found in (shots.path, logs.velocity, moved, angles.angle))
    assert volume_density(metric, z + v)[2].isnan()
    assert sectional_curvature(metric, z + v)[2].isnan()
    assert (shots.status[healthy] == Status.CONVERGED).all()
    assert (logs.geodesics.status[healthy] == Status.CONVERGED).all()
    for values in (shots.path, logs.velocity, moved, angles.angle, volume_density(metric, z + v)):
        assert values[healthy].isfinite().all()
    assert volume(metric, convex_hull(z + v)).volume.isnan()


def test_node_out_of_balance_is_reported():
    """Three nodes in balance exist only where the last is near enough: one segment of half the sphere is too long."""
    z = torch.zeros(1, 2, dtype=torch.float64)
    assert exponential(PullbackMetric(sphere), z, torch.full_like(z, 2.0), 2).status != Status.CONVERGED


def test_vanishing_velocity_stays():
    z, metric = vectors(), ExpectedMetric(decoders())
    shots = exponential(metric, z, 0 * V)
    assert torch.equal(shots.path, z[:, None].expand(5, 257, 2))
    assert (shots.status == Status.CONVERGED).all()
    logs = logarithm(metric, z, z.clone())
    assert (logs.velocity == 0).all()
    assert (logs.geodesics.status == Status.CONVERGED).all()


def test_direction_in_which_the_metric_vanishes_is_left_alone():
    metric, z = PullbackMetric(lambda z: z[..., :1].sinh()), vectors()
    found = logarithm(metric, z, z + V, solver=tight()).velocity
    exact = ((z + V)[:, 0].sinh() - z[:, 0].sinh()) / z[:, 0].cosh()
    assert torch.allclose(found, torch.stack([exact, 0 * exact], dim=1), atol=1e-6)
    along = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(5, 2)
    assert torch.allclose(exponential(metric, z, along, 8).point, z + along, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("latent", [1, 3, 10])
def test_any_latent_dimension_and_dtype(latent, dtype):
    metric = ExpectedMetric(decoders(latent=latent, dtype=dtype))
    z, v = (vectors(4, latent, seed).to(dtype) for seed in (0, 1))
    shots = exponential(metric, z, v, 16)
    assert (shots.status == Status.CONVERGED).all()
    assert shots.point.dtype == dtype
    logs = logarithm(metric, z, shots.point, solver=GaussNewton(16, tolerance=torch.finfo(dtype).eps ** 0.8))
    accuracy = torch.finfo(dtype).eps ** (1 / 3)
    assert torch.allclose(logs.velocity, v, rtol=accuracy, atol=accuracy)
    moved = parallel_transport(metric, shots.path, v)
    assert moved.dtype == volume_density(metric, z).dtype == angle(metric, z, z + v, z - v).angle.dtype == dtype
    assert torch.allclose(inner(metric, shots.point, moved, moved), inner(metric, z, v, v), rtol=1e-2)
    mean = frechet_mean(metric, z)
    assert mean.mean.dtype == dtype
    assert mean.status == Status.CONVERGED


FLAT, Z = PullbackMetric(plane), torch.zeros(3, 2)
ENERGY = DecorrelatedEnergy(decoders(dtype=torch.float32))


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (check_metric, (ENERGY,), TypeError, "metric: expected a Metric.*got DecorrelatedEnergy"),
        (check_metric, (plane,), TypeError, "metric: expected a Metric.*got function"),
        (exponential, (FLAT, Z[0], Z[0]), ValueError, r"point: expected \(batch, latent\)"),
        (exponential, (FLAT, Z, Z.double()), ValueError, "velocity: expected the dtype of point"),
        (exponential, (FLAT, Z, Z, 0), ValueError, "num_segments"),
        (logarithm, (FLAT, Z, Z[:2]), ValueError, "other: expected the shape of point"),
        (logarithm, (FLAT, Z, Z.long()), TypeError, "other: expected a floating-point tensor"),
        (parallel_transport, (FLAT, Z, Z), ValueError, r"path: expected \(batch, node, latent\)"),
        (parallel_transport, (FLAT, Z[:, None], Z), ValueError, "path: expected at least two nodes"),
        (parallel_transport, (FLAT, Z[:, None].repeat(1, 3, 1), Z[:2]), ValueError, "vector: expected the shape"),
        (angle, (FLAT, Z, Z[:2], Z), ValueError, "first: expected the shape of corner"),
        (angle, (FLAT, Z, Z, Z.to("meta")), ValueError, 'second: expected values; got a tensor on the device "meta"'),
        (sectional_curvature, (FLAT, torch.zeros(4, 3)), ValueError, "two dimensions"),
        (volume, (FLAT, torch.zeros(4, 4, 2)), ValueError, "region: expected simplices"),
        (volume, (FLAT, torch.zeros(4, 3, 2), 0.0), ValueError, "tolerance"),
        (convex_hull, (Z,), ValueError, "hull of volume zero"),
        (convex_hull, (torch.ones(3, 1),), ValueError, "hull of volume zero"),
        (convex_hull, (Z / 0,), ValueError, "points: expected finite values"),
        (frechet_mean, (FLAT, Z[:0]), ValueError, "points: expected at least one"),
        (frechet_mean, (FLAT, Z, Z[:2, 0]), ValueError, "weights: expected the shape"),
        (frechet_mean, (FLAT, Z, Z[:, 0]), ValueError, "weights: expected finite numbers"),
        (frechet_mean, (FLAT, Z, Z[:, 0] - 1), ValueError, "weights: expected finite numbers"),
    ],
)
def test_wrong_argument_is_a_named_error(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"max_steps": 0}, {"start": torch.zeros(3)}])
def test_wrong_option_of_the_mean_is_a_named_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        frechet_mean(FLAT, Z + 1, **options)
