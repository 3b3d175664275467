"""Random streams of a seed's own."""

from typing import Any

import torch

from probgeo.specs import check_whole, digest


def check_seed(name: str, seed: Any) -> None:
    """Refuse what no random state can be seeded with, by the name of the argument.

    Raises:
        TypeError: no whole number.
        ValueError: one of more than 64 bits.
    """
    check_whole(name, seed)
    if not -(2**63) <= int(seed) < 2**64:
        raise ValueError(f"{name}: expected whole numbers of at most 64 bits, such as those of range(10); got {seed}.")


def stream(*parts: Any) -> torch.Generator:
    """A random stream of its own for (seed, purpose, ...): the same parts give the same numbers, whatever else runs."""
    return torch.Generator().manual_seed(int(digest(*parts), 16) % 2**63)
