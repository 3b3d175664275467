"""Networks: a stacked module is exactly its members."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from probgeo.nn import MLP, Stacked, mlp
from tests.fitted import close

EPS = torch.finfo(torch.float64).eps


class WithBuffer(nn.Module):
    """A linear layer, an offset that is no parameter, and a frozen scale."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.register_buffer("offset", torch.randn(4))
        self.scale = nn.Parameter(torch.rand(()), requires_grad=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.scale * self.linear(z).tanh() + self.offset


def networks(count: int = 3) -> list[nn.Module]:
    torch.manual_seed(0)
    return [WithBuffer().double() for _ in range(count)]


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_stacked_equals_the_separate_modules_at_a_shared_input(shape):
    modules, z = networks(), torch.randn(shape, dtype=torch.float64)
    close(Stacked(modules)(z), torch.stack([module(z) for module in modules]), factor=100)


def test_stacked_equals_the_separate_modules_each_at_its_own_inputs():
    modules, z = networks(), torch.randn(3, 5, 3, dtype=torch.float64)
    close(
        Stacked(modules).each(z), torch.stack([module(row) for module, row in zip(modules, z, strict=True)]), factor=100
    )


@pytest.mark.parametrize("index", [0, 2])
def test_one_and_member_are_the_separate_module(index):
    modules, z = networks(), torch.randn(5, 3, dtype=torch.float64)
    stacked = Stacked(modules)
    close(stacked.one(torch.tensor(index), z), modules[index](z), factor=100)
    assert torch.equal(stacked.member(index)(z), modules[index](z))


def test_stacked_gradients_equal_those_of_the_separate_modules():
    modules, z = networks(), torch.randn(3, 5, 3, dtype=torch.float64)
    stacked = Stacked(modules)
    stacked.each(z).square().sum().backward()
    for index, module in enumerate(modules):
        module(z[index]).square().sum().backward()
    for name, parameter in stacked.template.named_parameters():
        if parameter.requires_grad:
            close(parameter.grad, torch.stack([module.get_parameter(name).grad for module in modules]), factor=100)


def test_stacks_of_stacks_equal_the_separate_modules():
    torch.manual_seed(0)
    outer = [Stacked(networks(2)) for _ in range(3)]
    z = torch.randn(5, 3, dtype=torch.float64)
    nested = Stacked(outer)
    assert nested(z).shape == (3, 2, 5, 4)
    close(nested(z), torch.stack([inner(z) for inner in outer]), factor=100)
    assert torch.equal(nested.member(1).member(1)(z), outer[1].member(1)(z))


def test_stacked_copies_weights_and_keeps_what_is_frozen():
    modules = networks()
    stacked, before = Stacked(modules), modules[0].linear.weight.clone()
    with torch.no_grad():
        stacked.template.linear.weight.zero_()
    assert torch.equal(modules[0].linear.weight, before)
    assert not stacked.template.scale.requires_grad
    assert stacked.template.linear.weight.requires_grad
    assert not stacked.member(0).scale.requires_grad


def test_state_of_a_stacked_module_survives_a_round_trip():
    first, second = Stacked(networks()), Stacked(networks()[::-1])
    second.load_state_dict(first.state_dict())
    z = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(first(z), second(z))
    assert set(first.state_dict()) == {f"template.{name}" for name in WithBuffer().state_dict()}


def test_stacked_follows_dtype():
    stacked = Stacked([WithBuffer(), WithBuffer()]).double()
    assert stacked(torch.zeros(3, dtype=torch.float64)).dtype == torch.float64


def test_stacked_acts_as_a_module_inside_another_functional_call():
    stacked = Stacked(networks())
    z = torch.randn(5, 3, dtype=torch.float64)
    state = {name: 2 * value for name, value in stacked.state_dict().items()}
    doubled = copy.deepcopy(stacked)
    doubled.load_state_dict(state)
    close(functional_call(stacked, state, (z,)), doubled(z), factor=100)


def test_stacking_nothing_or_different_architectures_is_refused():
    with pytest.raises(ValueError, match="at least one module"):
        Stacked([])
    with pytest.raises(ValueError, match="one architecture"):
        Stacked([nn.Linear(2, 3), nn.Linear(2, 4)])


def test_mlp_is_affine_maps_with_activations_between():
    net, z = mlp((2, 5, 3), nn.Tanh), torch.randn(4, 2)
    first, last = net[0], net[2]
    assert [type(layer) for layer in net] == [nn.Linear, nn.Tanh, nn.Linear]
    torch.testing.assert_close(net(z), torch.tanh(z @ first.weight.T + first.bias) @ last.weight.T + last.bias)


def test_mlp_spec_builds_the_layers_it_names():
    net = MLP(hidden=[7, 6], activation=nn.ReLU).build(2, 3)
    assert [layer.weight.shape for layer in net if isinstance(layer, nn.Linear)] == [(7, 2), (6, 7), (3, 6)]
    assert hash(MLP(hidden=[7, 6])) == hash(MLP(hidden=(7, 6)))
    assert len(MLP(hidden=()).build(2, 3)) == 1


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0)])
def test_mlp_refuses_impossible_sizes(sizes):
    with pytest.raises(ValueError, match="sizes: expected"):
        mlp(sizes)


def test_mlp_spec_refuses_impossible_fields():
    with pytest.raises(ValueError, match="hidden: expected positive widths"):
        MLP(hidden=(8, 0))
    with pytest.raises(TypeError, match="activation"):
        MLP(activation="relu")
