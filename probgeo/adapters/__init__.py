"""Models that were trained elsewhere, as latent models."""

from probgeo.adapters.torch import from_torch

__all__ = ["from_torch"]
