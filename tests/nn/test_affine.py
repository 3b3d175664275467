"""Linear layers of many networks at once are the networks' own, value and gradients, under vmap of vmap too."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from probgeo.nn import MLP, Residual, Stacked
from probgeo.nn.affine import batched_linear_layers

NETWORKS = {"mlp": MLP((5, 6)), "residual": Residual(5, 1), "unbiased": None}


def network(name: str) -> nn.Module:
    spec = NETWORKS[name]
    return (nn.Linear(3, 4, bias=False) if spec is None else spec.build(3, 4)).double()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shared", [False, True], ids=["own rows", "shared rows"])
def test_members_are_evaluated_as_one_by_one(name, shared):
    torch.manual_seed(0)
    members = [network(name) for _ in range(3)]
    stacked, z = Stacked(members), torch.randn(3, 2, 7, 3, dtype=torch.float64)
    with batched_linear_layers():
        found = stacked(z[0]) if shared else stacked.each(z)
    expected = torch.stack([member(z[0] if shared else rows) for member, rows in zip(members, z, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    parameters = list(stacked.parameters())
    each = [torch.autograd.grad(expected.sin().sum(), member.parameters(), retain_graph=True) for member in members]
    for index, value in enumerate(torch.autograd.grad(found.sin().sum(), parameters)):
        gradients = torch.stack([gradient[index] for gradient in each])
        torch.testing.assert_close(value, gradients, rtol=1e-12, atol=1e-12)


def test_gradients_of_members_of_members_are_those_of_each():
    torch.manual_seed(0)
    groups = [[network("mlp") for _ in range(3)] for _ in range(2)]
    states = [Stacked(group)._state() for group in groups]
    state = {name: torch.stack([each[name].detach() for each in states]) for name in states[0]}
    z = torch.randn(2, 3, 7, 3, dtype=torch.float64)

    def loss(one, rows):
        return functional_call(groups[0][0], one, (rows,)).sin().sum()

    with batched_linear_layers():
        found = vmap(vmap(grad(loss)))(state, z)
    for i, group in enumerate(groups):
        for j, member in enumerate(group):
            expected = torch.autograd.grad(member(z[i, j]).sin().sum(), member.parameters())
            for name, value in zip(dict(member.named_parameters()), expected, strict=True):
                torch.testing.assert_close(found[name][i, j], value, rtol=1e-12, atol=1e-12)
