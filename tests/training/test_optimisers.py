"""Optimisers in their fastest form take the steps of torch's plain ones."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from probgeo.training.optimisers import gradients_of, optimizer_of

KINDS = {
    "adam": (torch.optim.Adam, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "radam": (torch.optim.RAdam, {}),
}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4, 5), (3,), (2, 2))
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]


def loss(some: list[nn.Parameter]) -> torch.Tensor:
    """Whose gradient in the first parameter is not laid out as it, and whose gradients in the others are one tensor."""
    weight, bias, unused = some
    return (weight.mT.reshape(3, -1).sin() @ torch.ones(20, dtype=torch.float64) * bias).square().sum() + unused.sum()


@pytest.mark.parametrize("name", KINDS)
def test_steps_are_those_of_the_plain_optimiser(name):
    kind, options = KINDS[name]
    fast, plain = parameters(), parameters()
    optimiser = optimizer_of(kind, fast, 1e-2, options)
    reference = kind(plain, lr=1e-2, foreach=False, **options)
    for _ in range(4):
        for parameter, gradient in zip(fast, gradients_of(loss(fast), fast), strict=True):
            parameter.grad = gradient
        optimiser.step()
        reference.zero_grad()
        loss(plain).backward()
        reference.step()
        optimiser.load_state_dict(optimiser.state_dict())
    for value, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_gradients_have_memory_of_their_own_laid_out_as_their_parameters():
    first, second, unused = (nn.Parameter(torch.rand(3, 4)) for _ in range(3))
    found = gradients_of(((first + second).mT * torch.rand(4, 3)).sum(), [first, second, unused])
    assert found[2] is None
    assert torch.equal(found[0], found[1])
    assert found[0].data_ptr() != found[1].data_ptr()
    assert found[0].is_contiguous() and found[1].is_contiguous()


def test_options_that_choose_the_form_are_followed():
    assert optimizer_of(torch.optim.Adam, parameters(), 1e-2, {"foreach": True}).defaults["foreach"] is True
    assert not optimizer_of(torch.optim.Adam, parameters(), 1e-2, {"foreach": True}).defaults["fused"]
    assert optimizer_of(torch.optim.Adam, parameters(), 1e-2, {}).defaults["fused"] is True


def test_no_optimiser_needs_the_compiler():
    script = """
import sys, torch
from probgeo.training.optimisers import optimizer_of
for kind in (torch.optim.Adam, torch.optim.RMSprop):
    value = torch.nn.Parameter(torch.zeros(2))
    optimiser = optimizer_of(kind, [value], 0.1, {})
    value.grad = torch.ones(2)
    optimiser.step()
    optimiser.load_state_dict(optimiser.state_dict())
    optimiser.zero_grad()
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
