"""Lengths that are rounding, and decoders that jump, are said; sound lengths of rough decoders are not doubted."""

import pytest
import torch
from torch import Tensor, nn

import probgeo as pg
from probgeo.geometry.geodesics import GaussNewton, Status, geodesic, worse
from probgeo.geometry.metrics import ConformalMetric, DecorrelatedEnergy, ExpectedMetric, PullbackMetric, TensorMetric
from probgeo.nn import mlp
from probgeo.study.measures import StraightLine
from tests.manifolds import hill, plane

START, STOP = torch.tensor([[-1.5, 0.05]]), torch.tensor([[1.5, 0.05]])


def step(z: Tensor) -> Tensor:
    return torch.cat([z, torch.where(z[..., :1] > 0.2, 2.0, 0.0).to(z)], dim=-1)


def direction(z: Tensor) -> Tensor:
    return torch.cat([z, z / z.norm(dim=-1, keepdim=True)], dim=-1)


def safe_direction(z: Tensor) -> Tensor:
    return torch.cat([z, nn.functional.normalize(z, dim=-1)], dim=-1)  # finite at 0, where it is a wall of 1e-12


class Model(pg.LatentModel):
    """A decoder alone."""

    latent, num_features = 2, 2

    def __init__(self, decoder) -> None:
        self.decode = decoder

    def encode(self, x: Tensor) -> pg.Encoding:
        return pg.Encoding(x, torch.zeros_like(x))

    def decode(self, z: Tensor) -> Tensor:
        raise NotImplementedError


def found(decoder, start: Tensor, stop: Tensor) -> dict[str, int]:
    solved = geodesic(PullbackMetric(decoder), start, stop)
    line = StraightLine().paths(Model(decoder), start, stop, start)
    return {"geodesic": int(solved.status[0]), "straight": int(line.status[0])}


def both(status: Status) -> dict[str, int]:
    return {"geodesic": int(status), "straight": int(status)}


@pytest.mark.parametrize(
    "decoder",
    [
        lambda z: hill(z) + 1e5,  # a large offset
        lambda z: hill(z) + ((hill(z) * 255).round() / 255 - hill(z)).detach(),
    ],
    ids=["a large offset", "rounded to 1/255, with the gradient of what was rounded"],
)
def test_lengths_that_are_rounding_are_not_called_converged(decoder):
    assert found(decoder, START, STOP) == both(Status.ROUNDING)


class SoftStep(nn.Module):
    """Elementwise, so that it runs within the fused kernel, and in half precision."""

    elementwise = True

    def forward(self, x: Tensor) -> Tensor:
        return x.half().tanh().to(x)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_decoder_that_computes_in_half_precision_inside_is_refused(half):
    def inside(z: Tensor) -> Tensor:
        return hill(z.to(half)).to(z)

    def at_the_end(z: Tensor) -> Tensor:
        return hill(z).to(half).float()

    def autocast(z: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=half):
            return (z @ torch.eye(2, 3)).to(z)

    for decoder in (inside, at_the_end, autocast):
        for metric in (PullbackMetric(decoder), ExpectedMetric([hill, decoder]), DecorrelatedEnergy([hill, decoder])):
            with pytest.raises(ValueError, match=rf"decoder: it computes in {half} inside.*float32 throughout"):
                geodesic(metric, START, STOP)
        with pytest.raises(ValueError, match=f"computes in {half} inside"):
            StraightLine().paths(Model(decoder), START, STOP, START)
    with pytest.raises(ValueError, match=r"computes in torch.float16 inside"):
        geodesic(PullbackMetric(mlp([2, 8, 8, 3], SoftStep)), START, STOP)


def test_weights_kept_in_half_precision_and_computed_with_in_float32_are_right():
    kept = [torch.tensor([[2.0, 0.0], [0.0, 0.5]]).bfloat16()] * 2

    def decoder(z: Tensor) -> Tensor:
        return z @ torch.stack(kept)[0].to(z)

    found = geodesic(PullbackMetric(decoder), START, STOP)
    torch.testing.assert_close(found.length, torch.tensor([6.0]))  # 2 · 3
    assert found.status == Status.CONVERGED


def test_ends_within_rounding_of_each_other_are_said_and_float64_does_not_mind():
    start, stop = START, START + 1e-5
    assert found(hill, start, stop) == both(Status.ROUNDING)
    assert found(hill, start.double(), START.double() + 1e-5) == both(Status.CONVERGED)
    assert found(hill, start, start.clone()) == both(Status.CONVERGED)


@pytest.mark.parametrize(
    "decoder", [step, direction, safe_direction], ids=["step", "normalised at 0", "by torch's function"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_path_that_leaps_in_one_segment_is_not_called_converged(decoder, dtype):
    start, stop = torch.tensor([[-1.01, 0.0]], dtype=dtype), torch.tensor([[0.9, 0.0]], dtype=dtype)
    assert found(decoder, start, stop) == both(Status.JUMP)
    off = torch.tensor([[0.0, 0.6]], dtype=dtype)
    if decoder is not step:  # beside the singular point all is well
        assert found(decoder, start + off, stop + off) == both(Status.CONVERGED)


def test_a_path_with_a_node_where_its_decoder_leaps_is_not_called_converged():
    assert found(safe_direction, torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0]])) == both(Status.JUMP)


@pytest.mark.parametrize("latent", [2, 5])
@pytest.mark.parametrize("places", [(0.3,), (-0.4, 0.3, 0.9)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3])
def test_a_leap_is_seen_beside_longer_smooth_segments_whatever_its_share_of_the_length(latent, places, share):
    """Leaps of this share of the length each, at places that no float hits, or where the value lies in between."""

    def smooth(z: Tensor) -> Tensor:
        # On the straight line the longest segment is seven times as long as those at the leaps.
        return torch.cat([z, 2 * torch.exp(-20 * (z[..., :1] + 1).square())], dim=-1)

    def torn(z: Tensor) -> Tensor:
        leaps = sum(torch.sign(z[..., :1] - place) for place in places)
        return torch.cat([smooth(z), share * 6 / 2 * leaps], dim=-1)

    start, stop = torch.zeros(2, 1, latent)
    start[0, :2], stop[0, :2] = torch.tensor([-1.51, 0.05]), torch.tensor([1.47, 0.1])
    assert found(torn, start, stop) == both(Status.JUMP if share else Status.CONVERGED)


def test_a_steep_wall_is_no_leap():
    wall = lambda z: torch.cat([z, 2 * (1e4 * z[..., :1]).tanh()], dim=-1)  # noqa: E731
    assert found(wall, START, STOP)["straight"] == Status.CONVERGED
    assert found(wall, START, STOP)["geodesic"] != Status.JUMP


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
@pytest.mark.parametrize(("latent", "num_pairs"), [(2, 40), (24, 6)])
def test_ensembles_with_kinks_are_not_doubted(activation, latent, num_pairs):
    torch.manual_seed(0)
    members = [mlp([latent, 128, 128, 50], activation) for _ in range(5)]
    z = 2 * torch.randn(2, num_pairs, latent, generator=torch.Generator().manual_seed(1))
    status = geodesic(ExpectedMetric(members), *z, solver=GaussNewton(64)).status
    assert not ((status == Status.ROUNDING) | (status == Status.JUMP)).any()
    status = geodesic(DecorrelatedEnergy(members, 64), *z, solver=GaussNewton(64)).status
    assert not ((status == Status.ROUNDING) | (status == Status.JUMP)).any()
    field = ConformalMetric(lambda z: (-z.square().sum(-1)).exp(), 1e-3)
    status = geodesic(field, *z, solver=GaussNewton(64)).status
    assert not ((status == Status.ROUNDING) | (status == Status.JUMP)).any()


def test_of_two_statuses_the_one_without_a_result_is_worse():
    first, second = torch.tensor([0, 3, 4, 1]), torch.tensor([5, 4, 3, 2])
    assert worse(first, second).tolist() == [5, 3, 3, 2]


@pytest.mark.parametrize("apart", [1e-6, 1e-5])
def test_ends_nearer_than_rounding_end_as_rounding_not_as_stalled(apart):
    generator = torch.Generator().manual_seed(0)
    weight, start, away = (torch.randn(*shape, generator=generator) for shape in ((2, 5), (20, 2), (20, 2)))
    away = away / away.norm(dim=1, keepdim=True)
    metric = PullbackMetric(lambda z: torch.tanh(z @ weight) + 1)
    solution = geodesic(metric, start, start + apart * away, solver=GaussNewton(num_segments=64))
    assert (solution.status == Status.ROUNDING).all()


def disagreeing(decoder) -> DecorrelatedEnergy:
    """Two members, the decoder moved by ±0.1 in each output: its chords, and a variance of 0.01 in each."""
    return DecorrelatedEnergy([lambda z: decoder(z) - 0.1, lambda z: decoder(z) + 0.1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energies_of_members_that_leap_or_are_rounding_are_not_called_converged(dtype):
    start, stop = torch.tensor([[-1.01, 0.0]], dtype=dtype), torch.tensor([[0.9, 0.0]], dtype=dtype)
    for decoder in (step, direction, safe_direction):
        assert geodesic(disagreeing(decoder), start, stop).status == Status.JUMP
    offset = geodesic(disagreeing(lambda z: hill(z) + 1e5), start, stop).status
    assert offset == (Status.ROUNDING if dtype == torch.float32 else Status.CONVERGED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energies_of_members_whose_variance_alone_leaps_are_not_called_converged(dtype):
    """The members part at x = 0.2, each as far as the other, so that their mean stays as it is: the plane."""

    def apart(z: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(z), torch.where(z[..., :1] > 0.2, 1.0, 0.1).to(z)], dim=-1)

    energy = DecorrelatedEnergy([lambda z: plane_of(z) - apart(z), lambda z: plane_of(z) + apart(z)])
    start = torch.tensor([[-1.01, 0.0], [-1.01, 0.0], [0.5, 0.0]], dtype=dtype)
    stop = torch.tensor([[0.9, 0.0], [0.1, 0.3], [0.9, 0.3]], dtype=dtype)
    found = geodesic(energy, start, stop)
    assert found.status.tolist() == [Status.JUMP, Status.CONVERGED, Status.CONVERGED]
    torch.testing.assert_close(found.energy[2], torch.tensor(0.25 / 2 + 256**2.0, dtype=dtype))


def plane_of(z: Tensor) -> Tensor:
    return torch.cat([z, torch.zeros_like(z[..., :1])], dim=-1)


def test_energies_of_ends_within_rounding_of_each_other_are_said():
    apart = geodesic(disagreeing(hill), START, START + 1e-5)
    assert apart.status == Status.ROUNDING
    assert geodesic(disagreeing(hill), START, START.clone()).status == Status.CONVERGED


def test_energies_of_planes_are_not_doubted():
    found = geodesic(disagreeing(plane), START, STOP)
    chord = plane(STOP) - plane(START)
    torch.testing.assert_close(found.energy, chord.square().sum(1) / 2 + 256**2 * 3 * 0.01, rtol=1e-5, atol=0)
    assert found.status == Status.CONVERGED


@pytest.mark.parametrize("kind", ["tensor", "density"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_path_across_a_step_of_a_field_is_not_called_converged_nor_one_beside_it_doubted(kind, dtype):
    """Speed 1 where x < 0.2 and 1/3 beyond, as of light that enters glass."""

    def slowness(z: Tensor) -> Tensor:
        return 1 + 2 * (z[..., 0] > 0.2).to(z)

    identity = torch.eye(2, dtype=dtype)
    fields = {
        "tensor": TensorMetric(lambda z: slowness(z)[..., None, None] ** 2 * identity),
        "density": ConformalMetric(lambda z: 1 / slowness(z) ** 2, 1e-8),
    }
    start = torch.tensor([[-1.01, 0.0]] * 5 + [[0.3, -0.5]], dtype=dtype)
    stop = torch.tensor([[0.9, y] for y in (0.0, 0.01, 0.3, -0.6, 2.0)] + [[0.9, 0.3]], dtype=dtype)
    found = geodesic(fields[kind], start, stop)
    assert (found.status[:5] != Status.CONVERGED).all()
    torch.testing.assert_close(found.length[5], torch.tensor(3.0, dtype=dtype), rtol=1e-5, atol=0)  # 3 · √(0.6² + 0.8²)
    assert found.status[5] == Status.CONVERGED


class Detached(pg.Metric):
    """A metric of a user's own, whose residuals hide a factor from reverse mode."""

    def residuals(self, points: Tensor) -> Tensor:
        return points.diff(dim=0) * Hidden.apply((points[1:] + points[:-1]) / 2)

    def tensor(self, z: Tensor) -> Tensor:
        return Hidden.apply(z).square()[..., None] * torch.eye(z.shape[-1], dtype=z.dtype)


class Hidden(torch.autograd.Function):
    """2 + sin z, with a derivative in forward mode and none in reverse mode."""

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return 2 + z.sin()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_forward(*inputs)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def jvp(ctx, v: Tensor) -> Tensor:
        return v * ctx.saved_tensors[0].cos()

    @staticmethod
    def backward(ctx, u: Tensor) -> Tensor:
        return torch.zeros_like(u)


def test_matrix_free_systems_refuse_by_the_name_of_what_the_metric_was_made_of():
    def field(z: Tensor) -> Tensor:
        return Hidden.apply(z).square().diag_embed()

    start, stop = torch.zeros(1, 2), torch.ones(1, 2)
    solver = GaussNewton(16, system=pg.MatrixFree)
    made = {
        "metric": Detached(),
        "tensor": TensorMetric(field),
        "density": ConformalMetric(lambda z: Hidden.apply(z).sum(-1), 0.1),
        "decoder": PullbackMetric(lambda z: torch.cat([z, Hidden.apply(z)], dim=-1)),
    }
    for name, metric in made.items():
        with pytest.raises(ValueError, match=f"^{name}: its derivative in reverse mode does not belong"):
            geodesic(metric, start, stop, solver=solver)


def test_fields_are_refused_by_the_name_of_their_argument():
    def rounded(z: Tensor) -> Tensor:
        return ((-z.square().sum(-1)).exp() * 255).round() / 255

    half = lambda z: (-z.half().square().sum(-1)).exp().to(z)  # noqa: E731
    identity = torch.eye(2)
    for field, words in ((rounded, "its derivative does not belong"), (half, "it computes in torch.float16 inside")):
        with pytest.raises(ValueError, match=f"^density: {words}"):
            geodesic(ConformalMetric(field, 0.1), START, STOP)
        with pytest.raises(ValueError, match=f"^tensor: {words}"):
            geodesic(TensorMetric(lambda z, field=field: (1 + field(z))[..., None, None] * identity), START, STOP)
    with pytest.raises(ValueError, match=r"^density: it cannot be called with points"):
        ConformalMetric(nn.Linear(3, 1), 0.1).tensor(START)


def corrugated(z: Tensor) -> Tensor:
    return torch.cat([z, 0.2 * (128 * torch.pi * z[..., :1]).sin()], dim=-1)  # 64 ridges from 0 to 1


@pytest.mark.parametrize("num_segments", [16, 48, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_path_whose_segments_jump_ridges_is_not_called_converged(num_segments, dtype):
    ends = torch.tensor([[0.0, 0.0]], dtype=dtype), torch.tensor([[1.0, 0.0]], dtype=dtype)
    solved = geodesic(PullbackMetric(corrugated), *ends, solver=GaussNewton(num_segments))
    line = StraightLine(num_segments=num_segments).paths(Model(corrugated), *ends, ends[0])
    assert solved.status == Status.COARSE and line.status == Status.COARSE


def test_with_segments_that_see_the_ridges_the_line_has_its_length():
    ends = torch.zeros(1, 2).double(), torch.tensor([[1.0, 0.0]]).double()
    line = StraightLine(num_segments=2048).paths(Model(corrugated), *ends, ends[0])
    x = torch.linspace(0, 1, 2**20 + 1).double()
    speed = (1 + (0.2 * 128 * torch.pi * (128 * torch.pi * x).cos()).square()).sqrt()
    assert line.status == Status.CONVERGED
    torch.testing.assert_close(line.length, torch.trapezoid(speed, x)[None], rtol=0.01, atol=0)


def test_one_coarse_path_touches_no_other():
    start, stop = torch.tensor([[0.0, 0.0], [0.3, 0.0]]), torch.tensor([[1.0, 0.0], [0.3, 1.0]])
    found = geodesic(PullbackMetric(corrugated), start, stop, solver=GaussNewton(64))
    assert found.status.tolist() == [Status.COARSE, Status.CONVERGED]


@pytest.mark.parametrize("num_segments", [8, 64])
def test_a_smooth_decoder_s_segments_are_not_too_coarse(num_segments):
    sphere = lambda z: torch.cat([z.cos(), z.sin(), z.cos() * z.flip(-1).sin()], dim=-1)  # noqa: E731
    ends = torch.tensor([[0.0, 0.2]]), torch.tensor([[1.0, 0.7]])
    assert geodesic(PullbackMetric(sphere), *ends, solver=GaussNewton(num_segments)).status == Status.CONVERGED
