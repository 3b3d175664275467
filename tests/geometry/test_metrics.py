"""Energies, gradients and Gauss–Newton blocks against closed forms and dense derivatives."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probgeo.geometry.geodesics import energy, geodesic, length
from probgeo.geometry.metrics import (
    ConformalMetric,
    DecorrelatedEnergy,
    Energy,
    ExpectedMetric,
    Linearization,
    Metric,
    PullbackMetric,
    SumMetric,
    TensorMetric,
)
from probgeo.geometry.metrics.metric import FROZEN_SHARE
from probgeo.geometry.paths import Straight
from probgeo.nn import Stacked, mlp
from tests.manifolds import half_plane


def members(count: int = 3, outputs: int = 5, latent: int = 2) -> list[nn.Module]:
    torch.manual_seed(1)
    return [mlp([latent, 16, outputs]).double() for _ in range(count)]


def paths(batch: int = 4, nodes: int = 9, latent: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, nodes, latent, generator=generator, dtype=torch.float64).cumsum(1) / 3


def tensor(z: Tensor) -> Tensor:
    """A field with off-diagonal entries that vary."""
    x, y = z.unbind(-1)
    rows = torch.stack([2 + x.sin(), 0.5 * (x * y).cos(), 0.5 * (x * y).cos(), 3 + y.cos()], dim=-1)
    return rows.unflatten(-1, (2, 2))


def density(z: Tensor) -> Tensor:
    return torch.exp(-z.square().sum(-1))


ENERGIES: dict[str, Energy] = {
    "pullback": PullbackMetric(members()[0]),
    "pullback, general": PullbackMetric(lambda z: torch.cat([z.sin(), z.prod(-1, keepdim=True)], dim=-1)),
    "pullback, compressed": PullbackMetric(members(outputs=40)[0]),
    "expected": ExpectedMetric(members()),
    "expected, compressed": ExpectedMetric(members(outputs=40)),
    "decorrelated": DecorrelatedEnergy(members(), segments=20),
    "decorrelated, compressed": DecorrelatedEnergy(members(outputs=60), segments=20),
    "tensor": TensorMetric(tensor),
    "conformal": ConformalMetric(density, 0.1),
    "sum": PullbackMetric(members()[0]) + TensorMetric(tensor),
}
energies = pytest.mark.parametrize("metric", ENERGIES.values(), ids=ENERGIES.keys())


@energies
def test_gradient_is_the_derivative_of_the_energy(metric):
    path = paths().requires_grad_()
    expected = torch.autograd.grad(energy(metric, path).sum(), path)[0][:, 1:-1]
    with torch.no_grad():
        found = metric.linearize(path)
        measure = metric.measure(path)
        assert torch.allclose(found.energy, measure.energy, rtol=1e-13)
        assert torch.allclose(found.durations, measure.durations, rtol=1e-12)
    assert torch.allclose(found.gradient, expected, rtol=1e-10, atol=1e-12 * expected.abs().max())


def dense(model: Linearization) -> Tensor:
    batch, nodes, latent = model.gradient.shape
    matrix = model.gradient.new_zeros(batch, nodes, latent, nodes, latent)
    for i in range(nodes):
        matrix[:, i, :, i] = model.diagonal[:, i]
    for i in range(nodes - 1):
        matrix[:, i, :, i + 1] = model.off_diagonal[:, i]
        matrix[:, i + 1, :, i] = model.off_diagonal[:, i].mT
    return matrix.reshape(batch, nodes * latent, nodes * latent)


def residuals(name: str, nets: list[nn.Module], path: Tensor) -> Tensor:
    """All residuals of one path, scaled so that E = ½‖r‖²."""
    segments = len(path) - 1
    middle, step = (path[1:] + path[:-1]) / 2, path.diff(dim=0)
    pullback = nets[0](path).diff(dim=0).flatten()
    field = (torch.linalg.cholesky(tensor(middle)).mT @ step[..., None]).flatten()
    values = torch.stack([net(path) for net in nets])
    spread = (values - values.mean(0)) / math.sqrt(3) * (20 / segments)
    spread = torch.cat([spread[:, :1] / math.sqrt(2), spread[:, 1:-1], spread[:, -1:] / math.sqrt(2)], dim=1)
    return (
        math.sqrt(segments)
        * {
            "pullback": pullback,
            "expected": values.diff(dim=1).flatten() / math.sqrt(3),
            "decorrelated": torch.cat([values.mean(0).diff(dim=0).flatten(), math.sqrt(2) * spread.flatten()]),
            "tensor": field,
            "sum": torch.cat([pullback, field]),
        }[name]
    )


def relaxation(name: str, nets: list[nn.Module], path: Tensor) -> Tensor:
    """FROZEN_SHARE (H_frozen − H_GN) of the pull-back part; H_frozen is that of ½N Σ ΔᵀGΔ at fixed G."""

    def mean(z: Tensor) -> Tensor:
        return torch.stack([net(z) for net in nets]).mean(0)

    parts = {"expected": nets, "decorrelated": [mean], "tensor": []}.get(name, nets[:1])
    segments = len(path) - 1
    matrix = path.new_zeros(len(path), 2, len(path), 2)
    for part in parts:
        jacobian = torch.func.vmap(torch.func.jacfwd(part))(path).detach() * math.sqrt(segments / len(parts))
        for i in range(segments):
            first, second = jacobian[i], jacobian[i + 1]
            between = (first.T @ first + second.T @ second) / 2
            matrix[i, :, i] += between - first.T @ first
            matrix[i + 1, :, i + 1] += between - second.T @ second
            matrix[i, :, i + 1] -= between - first.T @ second
            matrix[i + 1, :, i] -= between - second.T @ first
    return FROZEN_SHARE * matrix[1:-1, :, 1:-1].flatten(2).flatten(0, 1)


@pytest.mark.parametrize("name", ["pullback", "expected", "decorrelated", "tensor", "sum"])
def test_blocks_are_gauss_newtons_with_a_share_of_the_frozen_metrics(name):
    path = paths(batch=1)
    nets = members()

    def of_inner(inner: Tensor) -> Tensor:
        return residuals(name, nets, torch.cat([path[0, :1], inner, path[0, -1:]]))

    jacobian = torch.func.jacfwd(of_inner)(path[0, 1:-1]).flatten(1)
    with torch.no_grad():
        found = dense(ENERGIES[name].linearize(path))[0]
    expected = jacobian.T @ jacobian + relaxation(name, nets, path[0])
    assert torch.allclose(
        energy(ENERGIES[name], path)[0], residuals(name, nets, path[0]).square().sum() / 2, rtol=1e-12
    )
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


@energies
def test_blocks_are_positive_semidefinite(metric):
    with torch.no_grad():
        matrix = dense(metric.linearize(paths()))
    assert torch.equal(matrix, matrix.mT) or torch.allclose(matrix, matrix.mT, rtol=1e-12)
    assert torch.linalg.eigvalsh(matrix).amin() >= -1e-12 * matrix.abs().max()


@pytest.mark.parametrize("name", ["pullback", "pullback, general", "expected", "tensor", "conformal", "sum"])
def test_tensor_is_the_limit_of_squared_lengths(name):
    z, direction = paths()[:, 0], paths()[:, 1]
    segment = torch.stack([z - 1e-5 * direction, z + 1e-5 * direction], dim=1)
    metric = ENERGIES[name]
    expected = torch.einsum("bk,bkl,bl->b", direction, metric.tensor(z), direction)
    assert torch.allclose(metric.squared_residuals(segment)[:, 0] / 4e-10, expected.detach(), rtol=1e-6)


def test_tensor_takes_any_leading_axes():
    z = paths()
    for metric in (ENERGIES["expected"], ENERGIES["tensor"], ENERGIES["conformal"], ENERGIES["sum"]):
        assert metric.tensor(z).shape == (*z.shape, 2)
        assert torch.allclose(metric.tensor(z)[1, 2], metric.tensor(z[1, 2]), rtol=1e-12)


def test_plane_has_the_energy_of_straight_lines():
    matrix = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
    metric = PullbackMetric(lambda z: z @ matrix.T)
    path = torch.lerp(paths()[:, :1], paths()[:, 1:2], torch.linspace(0, 1, 11, dtype=torch.float64)[:, None])
    expected = ((path[:, -1] - path[:, 0]) @ matrix.T).square().sum(-1) / 2
    assert torch.allclose(energy(metric, path), expected, rtol=1e-12)
    assert torch.allclose(length(metric, path), (2 * expected).sqrt(), rtol=1e-12)


def test_cylinder_has_the_energy_of_helices():
    metric = PullbackMetric(lambda z: torch.stack([2 * z[..., 0].cos(), 2 * z[..., 0].sin(), z[..., 1]], dim=-1))
    segments, turn, rise = 4000, 1.5, 0.7
    time = torch.linspace(0, 1, segments + 1, dtype=torch.float64)
    path = torch.stack([turn * time, rise * time], dim=-1)[None]
    chord = (2 * 2 * math.sin(turn / segments / 2)) ** 2 + (rise / segments) ** 2
    assert energy(metric, path).item() == pytest.approx(segments**2 * chord / 2, rel=1e-9)
    assert length(metric, path).item() == pytest.approx(math.hypot(2 * turn, rise), rel=1e-6)


def test_half_plane_has_the_energy_of_vertical_lines():
    time = torch.linspace(0, 1, 2001, dtype=torch.float64)
    path = torch.stack([torch.zeros_like(time), torch.exp(2 * time)], dim=-1)[None]
    for metric in (TensorMetric(half_plane), ConformalMetric(lambda z: z[..., 1] ** 2 - 1e-3, 1e-3)):
        assert energy(metric, path).item() == pytest.approx(2.0, rel=1e-6)
        assert length(metric, path).item() == pytest.approx(2.0, rel=1e-6)


@energies
def test_energy_does_not_depend_on_memory(metric):
    path = paths(batch=5, nodes=40)
    for small in (1, 3000, 20000):
        other = {
            PullbackMetric: lambda memory: PullbackMetric(members()[0], memory=memory),
            ExpectedMetric: lambda memory: ExpectedMetric(members(), memory=memory),
            DecorrelatedEnergy: lambda memory: DecorrelatedEnergy(members(), segments=20, memory=memory),
            TensorMetric: lambda memory: TensorMetric(tensor, memory=memory),
            ConformalMetric: lambda memory: ConformalMetric(density, 0.1, memory=memory),
            SumMetric: lambda memory: PullbackMetric(members()[0], memory=memory) + TensorMetric(tensor),
        }[type(metric)]
        with torch.no_grad():
            whole, parts = other(2**30).linearize(path), other(small).linearize(path)
        assert (whole.grams is None) == isinstance(metric, DecorrelatedEnergy)
        for x, y in zip(whole, parts, strict=True):
            assert x is y is None or torch.allclose(x, y, rtol=1e-11, atol=1e-11 * x.abs().max())


def test_large_batches_equal_small_ones():
    """Overlapping views updated in place go wrong on large tensors only."""
    metric = ExpectedMetric(members(), memory=2**28)
    path = paths(batch=300, nodes=129)
    with torch.no_grad():
        large = metric.linearize(path)
        for row in (0, 150, 299):
            for x, y in zip(large, metric.linearize(path[row : row + 1]), strict=True):
                assert torch.allclose(x[row], y[0], rtol=1e-11, atol=1e-11 * y.abs().max())


def test_energy_of_many_nodes_is_its_closed_form():
    nets = members()
    path = paths(batch=200, nodes=257)
    values = torch.stack([net(path) for net in nets])
    expected = 128 * values.diff(dim=2).square().sum((2, 3)).mean(0)
    assert torch.allclose(energy(ExpectedMetric(nets), path), expected, rtol=1e-9)
    with torch.no_grad():
        assert torch.allclose(ExpectedMetric(nets).linearize(path).energy, expected, rtol=1e-9)


def test_expected_metric_is_the_mean_of_the_members_metrics():
    nets, path = members(), paths()
    each = torch.stack([energy(PullbackMetric(net), path) for net in nets])
    assert torch.allclose(energy(ExpectedMetric(nets), path), each.mean(0), rtol=1e-12)
    assert torch.allclose(energy(ExpectedMetric(Stacked(nets)), path), each.mean(0), rtol=1e-12)


def test_expected_metric_of_one_member_is_its_pullback():
    nets, path = members(), paths()
    assert torch.equal(energy(ExpectedMetric(nets[:1]), path), energy(PullbackMetric(nets[0]), path))


def test_decorrelated_energy_is_half_n_times_the_expectation_over_independent_members():
    nets, path = members(), paths(nodes=21)
    values = torch.stack([net(path) for net in nets])
    chords = (values[:, None, :, 1:] - values[None, :, :, :-1]).square().sum(-1)
    published = chords.mean((0, 1)).sum(-1)
    assert torch.allclose(energy(DecorrelatedEnergy(nets, segments=20), path), 10 * published, rtol=1e-12)


def test_decorrelated_energy_converges_as_the_grid_is_refined():
    metric = DecorrelatedEnergy(members(), segments=64)

    def at(segments: int) -> Tensor:
        time = torch.linspace(0, 1, segments + 1, dtype=torch.float64)
        return energy(metric, torch.stack([time.sin(), (2 * time).cos()], dim=-1)[None])

    coarse, fine = (at(32) - at(4096)).abs(), (at(64) - at(4096)).abs()
    assert (coarse / fine).item() == pytest.approx(4, rel=0.02)


def test_sum_of_metrics_adds_energies_and_tensors():
    first, second, path = ENERGIES["expected"], ENERGIES["tensor"], paths()
    both = first + second
    assert torch.allclose(energy(both, path), energy(first, path) + energy(second, path), rtol=1e-13)
    assert torch.allclose(both.tensor(path), first.tensor(path) + second.tensor(path), rtol=1e-13)


def test_float32_energy_agrees_with_float64():
    metric, path = ENERGIES["expected"], paths()
    assert energy(metric, path.float()).dtype == torch.float32
    eps = torch.finfo(torch.float32).eps
    assert torch.allclose(energy(metric, path.float()).double(), energy(metric, path), rtol=100 * eps)


def test_edge_weights_are_lengths_of_single_segments():
    nodes = paths()[0]
    edges = torch.tensor([[0, 1], [3, 7], [5, 2]])
    for name in ("pullback", "expected", "tensor", "conformal", "sum"):
        metric = ENERGIES[name]
        assert torch.allclose(metric.edge_weights(nodes, edges), length(metric, nodes[edges]), rtol=1e-12)


@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("edges", [[(3, 7), (0, 1), (2, 2), (7, 3), (5, 4)], []])
def test_edge_weights_do_not_depend_on_the_memory_and_may_be_none(edges, memory):
    nodes, metric = paths()[0], ExpectedMetric(members(), memory=memory)
    edges = torch.tensor(edges, dtype=torch.int64).view(-1, 2)
    alone = torch.cat([nodes.new_zeros(0), *(length(metric, nodes[edge][None]) for edge in edges)])
    assert torch.allclose(metric.edge_weights(nodes, edges), alone, rtol=1e-12)


def test_tensor_that_is_not_positive_definite_is_not_finite():
    metric = TensorMetric(lambda z: torch.diag_embed(torch.stack([z[..., 0], z[..., 0] + 1], dim=-1)))
    path = paths(batch=2) + torch.tensor([[[50.0, 0.0]], [[-50.0, 0.0]]], dtype=torch.float64)
    found = metric.linearize(path)
    assert found.gradient[0].isfinite().all()
    assert not found.gradient[1].isfinite().any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PullbackMetric(3), TypeError, "immersion"),
        (lambda: TensorMetric(3), TypeError, "tensor"),
        (lambda: ConformalMetric(3, 1.0), TypeError, "density"),
        (lambda: ConformalMetric(density, 0.0), ValueError, "floor: expected a positive number"),
        (lambda: ExpectedMetric([]), ValueError, "members: expected at least one"),
        (lambda: DecorrelatedEnergy(members(), segments=0), ValueError, "segments: expected at least 1"),
        (lambda: ENERGIES["tensor"] + ENERGIES["decorrelated"], TypeError, "second|two metrics"),
    ],
)
def test_wrong_argument_is_a_named_error(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_decorrelated_energy_has_no_length():
    with pytest.raises(TypeError, match="metric"):
        length(ENERGIES["decorrelated"], paths())


@pytest.mark.parametrize("name", [name for name, found in ENERGIES.items() if isinstance(found, Metric)])
def test_a_pulled_back_metric_measures_the_embedded_path(name):
    metric: Metric = ENERGIES[name]
    embedding = nn.Linear(1, 2).double()
    pulled, weight = metric.pulled_back(embedding), embedding.weight.detach()
    path = paths(latent=1)
    with torch.no_grad():
        embedded = embedding(path)
        assert torch.allclose(pulled.squared_residuals(path), metric.squared_residuals(embedded), rtol=1e-10)
        assert torch.allclose(pulled.tensor(path), weight.mT @ metric.tensor(embedded) @ weight, rtol=1e-10)
        found, whole = pulled.linearize(path), metric.linearize(embedded)
        assert torch.allclose(found.energy, whole.energy, rtol=1e-10)
        assert torch.allclose(found.gradient, whole.gradient @ weight, rtol=1e-8, atol=1e-10)


FIELDS = {
    "no matrices": (TensorMetric(lambda z: z), r"tensor: expected a matrix of each point, \(\d, 2, 2\); got"),
    "not symmetric": (
        TensorMetric(lambda z: torch.tensor([[1.0, 0.5], [0.0, 1.0]]).expand(len(z), 2, 2)),
        r"tensor: expected symmetric matrices; got \[\[1.0, 0.5\], \[0.0, 1.0\]\] at",
    ),
    "NumPy inside": (
        TensorMetric(lambda z: torch.from_numpy((1 + z.detach().numpy() ** 2)[..., None] * np.eye(2, dtype="f"))),
        "derivative does not belong to its values",
    ),
    "one of each coordinate": (ConformalMetric(lambda z: z.exp(), 0.1), "density: expected one number of each point"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_are_none_are_refused_in_words(name):
    metric, message = FIELDS[name]
    start, stop = torch.tensor([[-1.0, 0.3]]), torch.tensor([[1.0, 0.1]])
    for call in (lambda: geodesic(metric, start, stop), lambda: length(metric, Straight(8)(start, stop))):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
