"""Models that were trained elsewhere, as latent models."""

from probgeo.adapters.scvi import SCVIModel, from_scvi, negative_binomial_metric, saved_scvi
from probgeo.adapters.torch import TorchModel, from_torch

__all__ = ["SCVIModel", "TorchModel", "from_scvi", "from_torch", "negative_binomial_metric", "saved_scvi"]
