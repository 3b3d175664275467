"""Random streams of a seed's own."""

from typing import Any

import torch

from probgeo.specs import digest


def stream(*parts: Any) -> torch.Generator:
    """A random stream of its own for (seed, purpose, ...): the same parts give the same numbers, whatever else runs."""
    return torch.Generator().manual_seed(int(digest(*parts), 16) % 2**63)
