"""Models that were trained elsewhere, as latent models; tables from elsewhere, as data sets."""

from probgeo.adapters.anndata import to_anndata
from probgeo.adapters.scvi import SCVIModel, from_scvi, negative_binomial_metric, saved_scvi
from probgeo.adapters.torch import TorchModel, from_torch
from probgeo.datasets.files.annotated import from_anndata

__all__ = [
    "SCVIModel",
    "TorchModel",
    "from_anndata",
    "from_scvi",
    "from_torch",
    "negative_binomial_metric",
    "saved_scvi",
    "to_anndata",
]
