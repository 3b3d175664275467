"""Recorded computations give what the computation gives, wherever their tensors are moved to."""

import pytest
import torch
from torch import Tensor, nn

from probgeo.training.recording import NotRecordable, Recording


def mixture(x: Tensor, weight: Tensor) -> list[Tensor]:
    """Views, constants, results that are written into, lists, several results, and gradients."""
    zeros = torch.zeros(4, 4)
    zeros[1:3] = x[:2]
    ranks = torch.arange(4) * 2 + 1
    hidden = torch.cat([x @ weight, zeros]).sin().mul_(ranks)
    low, high = hidden.split(4)
    values, places = (low.T * high).sort(dim=0)
    (gradient,) = torch.autograd.grad((values.exp() * (1 + places)).sum(), weight)
    return [values, gradient, hidden[::2]]


def test_a_replay_gives_what_the_function_gives_at_other_inputs_and_weights():
    weight = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    recorded = Recording(lambda x: mixture(x, weight), [torch.randn(4, 4)], [weight])
    for seed in range(3):
        x = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))
        for found, expected in zip(recorded(x), mixture(x, weight), strict=True):
            assert torch.equal(found, expected)
        with torch.no_grad():
            weight += 1


def test_inputs_are_not_changed_and_memory_is_reused():
    x = torch.rand(1000)

    def long(x: Tensor) -> list[Tensor]:
        for _ in range(50):
            x = (x.sin() + 1) * x.cos()
        return [x]

    kept = x.clone()
    recorded = Recording(long, [x], [])
    (found,) = recorded(x)
    assert torch.equal(x, kept)
    assert torch.equal(found, long(x)[0])
    tensors = [value for call in recorded._calls for value in (*call[1], *call[2].values())]
    places = {value.untyped_storage().data_ptr() for value in tensors if isinstance(value, Tensor)}
    assert len(places) <= 5


def test_what_never_changes_is_not_computed_again():
    recorded = Recording(lambda x: [x + torch.ones(3).exp().sum()], [torch.rand(3)], [])
    assert len(recorded._calls) == 1


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda x: [x * float(x.sum())], "looks at the value"),
        (lambda x: [x + torch.rand(3)], "draws random numbers"),
        (lambda x: [nn.functional.dropout(x)], "draws random numbers"),
    ],
)
def test_what_may_differ_from_one_time_to_the_next_is_refused(function, complaint):
    with pytest.raises(NotRecordable, match=complaint):
        Recording(function, [torch.rand(3)], [])


def test_a_state_that_is_changed_is_refused():
    count = torch.zeros(3)
    with pytest.raises(NotRecordable, match="changes what it is given"):
        Recording(lambda x: [x + count.add_(1)], [torch.rand(3)], [count])


def test_what_nothing_depends_on_is_not_computed():
    def wasteful(x: Tensor) -> list[Tensor]:
        x.sin().exp().mul_(2)
        return [x.cos()]

    assert len(Recording(wasteful, [torch.rand(3)], [])._calls) == 1


@pytest.mark.parametrize("factor", [torch.linalg.cholesky, torch.linalg.inv], ids=["cholesky", "inverse"])
def test_a_factorisation_that_fails_gives_nan_and_its_neighbours_what_is_theirs(factor):
    good, bad = torch.eye(2) * 2, torch.zeros(2, 2)
    recorded = Recording(lambda x: [factor(x) + 1], [torch.stack([good, good])], [])
    (found,) = recorded(torch.stack([bad, good]))
    assert found[0].isnan().all()
    assert torch.equal(found[1], factor(good) + 1)
    with pytest.raises(torch.linalg.LinAlgError):
        factor(bad)
