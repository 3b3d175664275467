"""Random streams of a seed's own."""

import torch

from probgeo.seeds import stream


def test_streams_of_the_same_parts_are_equal_and_of_others_are_not():
    before = torch.get_rng_state()
    first = torch.randn(4, generator=stream(0, "noise", 1))
    assert torch.equal(first, torch.randn(4, generator=stream(0, "noise", 1)))
    for other in ((1, "noise", 1), (0, "order", 1), (0, "noise", 2)):
        assert not torch.equal(first, torch.randn(4, generator=stream(*other)))
    assert torch.equal(before, torch.get_rng_state())
