"""Models that were trained elsewhere, as latent models."""

from probgeo.adapters.torch import TorchModel, from_torch

__all__ = ["TorchModel", "from_torch"]
