"""Values and Jacobians of several maps, against torch.func on each."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacfwd, vmap

from probgeo.geometry.jacobians import Maps
from probgeo.nn import Stacked, mlp


class Logistic(nn.Module):
    """An elementwise module of a user's own."""

    elementwise = True

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(2 * x)


class Quadratic(nn.Module):
    """A module that is no perceptron."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * torch.stack([z[..., 0] ** 2, z[..., 0] * z[..., 1], z.sum(-1)], dim=-1)


def perceptrons(activation, head=None, outputs: int = 5) -> list[nn.Module]:
    torch.manual_seed(0)
    ends = [] if head is None else [head()]
    return [nn.Sequential(mlp([2, 8, 7, outputs], activation), *ends).double() for _ in range(3)]


def reference(members, z: Tensor) -> Tensor:
    """Jets (point, order, member, observation), one point and one member at a time."""
    values = torch.stack([member(z) for member in members], dim=1)
    jacobians = torch.stack([vmap(jacfwd(member))(z) for member in members], dim=1)
    return torch.cat([values[:, None], jacobians.movedim(-1, 1)], dim=1)


MEMBERS = {
    "relu": perceptrons(nn.ReLU),
    "silu": perceptrons(nn.SiLU),
    "tanh": perceptrons(nn.Tanh),
    "gelu": perceptrons(nn.GELU),
    "softplus": perceptrons(nn.Softplus),
    "sigmoid head": perceptrons(nn.ELU, nn.Sigmoid),
    "own head": perceptrons(nn.SiLU, Logistic),
    "softmax head, not elementwise": perceptrons(nn.SiLU, lambda: nn.Softmax(dim=-1)),
    "two architectures": [*perceptrons(nn.SiLU), *perceptrons(nn.Tanh)],
    "own modules": [Quadratic(1.0), Quadratic(2.0)],
    "a function": [lambda z: torch.cat([z.sin(), z.cos()], dim=-1)],
}


@pytest.mark.parametrize("members", MEMBERS.values(), ids=MEMBERS.keys())
def test_jets_are_values_and_jacobians(members):
    z = torch.randn(11, 2, dtype=torch.float64)
    expected = reference(members, z)
    maps = Maps(members)
    assert torch.allclose(maps.jets(z), expected, rtol=1e-12, atol=1e-13)
    assert torch.allclose(maps.values(z), expected[:, 0], rtol=1e-12, atol=1e-13)


def test_stacked_module_equals_its_members():
    members = MEMBERS["silu"]
    z = torch.randn(6, 2, dtype=torch.float64)
    assert torch.equal(Maps(Stacked(members)).jets(z), Maps(members).jets(z))


@pytest.mark.parametrize("outputs", [3, 40])
def test_compression_keeps_each_maps_differences(outputs):
    members = perceptrons(nn.SiLU, outputs=outputs)
    maps, z = Maps(members), torch.randn(6, 2, dtype=torch.float64)
    compressed = maps.compressed()
    assert compressed.values(z).shape[-1] == min(outputs, 7)
    expected = maps.values(z).diff(dim=0).norm(dim=-1)
    assert torch.allclose(compressed.values(z).diff(dim=0).norm(dim=-1), expected, rtol=1e-12)


@pytest.mark.parametrize("outputs", [3, 40])
def test_joint_compression_keeps_differences_between_maps(outputs):
    members = perceptrons(nn.SiLU, outputs=outputs)
    maps, z = Maps(members), torch.randn(6, 2, dtype=torch.float64)
    compressed = maps.jointly_compressed()
    assert compressed.values(z).shape[-1] == min(outputs, 3 * 8)
    expected = torch.cdist(maps.values(z).flatten(0, 1), maps.values(z).flatten(0, 1))
    found = torch.cdist(compressed.values(z).flatten(0, 1), compressed.values(z).flatten(0, 1))
    assert torch.allclose(found, expected, atol=1e-7)


def test_weights_follow_the_dtype_of_the_points():
    maps, z = Maps(MEMBERS["relu"]), torch.randn(4, 2)
    assert maps.jets(z).dtype == maps.values(z).dtype == torch.float32


def test_no_members_is_an_error():
    with pytest.raises(ValueError, match="members: expected at least one"):
        Maps([])


@pytest.mark.parametrize("members", [mlp([2, 3]), 3, [3]])
def test_members_that_are_no_sequence_of_callables_are_an_error(members):
    with pytest.raises(TypeError, match="members"):
        Maps(members)


def test_output_of_another_shape_is_an_error():
    images = Maps([lambda z: z[:, None, :, None].expand(-1, 3, 2, 2)])
    with pytest.raises(ValueError, match="decoder: expected outputs"):
        images.values(torch.zeros(4, 2))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU])
def test_jets_are_differentiable_in_reverse(activation):
    members = perceptrons(activation)
    z = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weight = torch.randn(4, 3, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (found,) = torch.autograd.grad((weight * Maps(members).jets(z)).sum(), z)
    (expected,) = torch.autograd.grad((weight * reference(members, z)).sum(), z)
    assert torch.allclose(found, expected, rtol=1e-10)
