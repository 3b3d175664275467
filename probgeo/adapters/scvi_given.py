"""What a user gives `from_scvi`, checked: a model or its folder, batches, a label, covariates."""

import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probgeo.adapters.scvi_decoder import LIKELIHOODS
from probgeo.adapters.scvi_rows import Registered

SUPPORTED = ("SCVI", "SCANVI", "LinearSCVI")


def imported() -> Any:
    """The package scvi, or an ImportError that says how to get it."""
    try:
        import scvi
    except ImportError as error:
        raise ImportError(
            f"from_scvi: scvi-tools is not installed ({error}); pip install 'probgeo[scvi]'. Its models "
            f"{', '.join(SUPPORTED)} are supported."
        ) from error
    return scvi


def loaded(scvi: Any, folder: Path, adata: Any) -> Any:
    """A saved model, without data where none are given or saved."""
    if not (folder / "model.pt").exists():
        found = "is a file: give its folder" if folder.is_file() else "has no model.pt"
        raise ValueError(f"model: expected a folder that scvi-tools saved a model in; {folder} {found}.")
    kind = scvi.model.SCVI.load_registry(str(folder))["model_name"]
    if kind not in SUPPORTED:
        raise TypeError(f"model: expected {', '.join(SUPPORTED)} of scvi.model; {folder} holds a {kind}.")
    data = adata if adata is not None or (folder / "adata.h5ad").exists() else False
    return getattr(scvi.model, kind).load(str(folder), adata=data)


def check_module(module: Any) -> None:
    """Refuse what is not known here, or has no metric."""
    if module.gene_likelihood not in LIKELIHOODS:
        raise TypeError(
            f"model: expected gene_likelihood {', '.join(LIKELIHOODS)}; got {module.gene_likelihood!r}, whose metric "
            "is not known here."
        )
    if module.latent_distribution != "normal":
        raise TypeError(
            f"model: latent_distribution={module.latent_distribution!r} has codes on a simplex, where a metric of all "
            "their coordinates is singular. Train with latent_distribution='normal'."
        )


def batch_codes(registered: Registered, batch: Any) -> list[int]:
    """Codes of one batch, of several, each once, or of all."""
    single = isinstance(batch, str) or not hasattr(batch, "__iter__")
    chosen = list(registered.batch.names) if batch is None else [batch] if single else list(batch)
    if not chosen:
        raise ValueError("batch: expected a batch, several, or None for all; got an empty list.")
    codes = [registered.batch.code("batch", each) for each in chosen]
    if len(set(codes)) < len(codes):
        raise ValueError(f"batch: expected each batch once, as each counts alike; got {', '.join(map(str, chosen))}.")
    return codes


def label_code(module: Any, registered: Registered, label: Any) -> int | None:
    """The code of the label whose dispersion counts."""
    if label is None:
        return None
    if module.dispersion != "gene-label":
        raise ValueError(
            f"label: the model has dispersion={module.dispersion!r}, the same for every label; leave it out. "
            "It is meant for dispersion='gene-label'."
        )
    return registered.label.code("label", label)


def covariate_values(registered: Registered, values: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """Codes and values of further covariates, in the order of the model."""
    if not isinstance(values, Mapping):
        raise TypeError(f"covariates: expected values by column of obs, {{'percent_mito': 0.05}}; got {values!r}.")
    keys = [factor.key for factor in registered.categories] + list(registered.continuous)
    missing, unknown = [key for key in keys if key not in values], [key for key in values if key not in keys]
    if missing or unknown:
        raise ValueError(
            f"covariates: the model decodes codes at values of {keys or 'none'}; got {sorted(values) or 'none'}. Give "
            "them by column of obs: covariates={'percent_mito': 0.05}."
        )
    for key in registered.continuous:
        if not (isinstance(values[key], numbers.Real) and math.isfinite(values[key])):
            raise ValueError(f"covariates: expected a finite number of {key!r}; got {values[key]!r}.")
    return (
        [factor.code("covariates", values[factor.key]) for factor in registered.categories],
        [float(values[key]) for key in registered.continuous],
    )
