"""Neurons of the mouse motor cortex, of which several things were measured at once: views of a neuron."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.files.arrays import opened_arrays
from probgeo.datasets.published.images import cache_folder
from probgeo.datasets.views import two_views

_INTERNEURONS = ("Lamp5", "Pvalb", "Sncg", "Sst", "Vip")
_NEURONS_ORIGIN = (
    "It is made from the tables of github.com/berenslab/mini-atlas (Scala et al. 2020); or join tables of your own by "
    "two_views."
)


def neurons_morphology(path: str | Path | None = None) -> Dataset:
    """Interneurons of the mouse motor cortex: electrophysiology, and morphology where it was reconstructed.

    Args:
        path: npz file with the arrays ephys (row, 29), morph (row, 61; NaN where absent), has_morph, cells, rna_family,
            rna_family_names; default multiview/patchseq_m1_ephys_morph.npz in the cache folder.

    Returns:
        The interneurons with complete electrophysiology, and the morphological features that all reconstructed ones
        have; the classes are transcriptomic families.

    Raises:
        FileNotFoundError: there is no such file.

    References:
        Scala et al. (2020), Phenotypic variation of transcriptomic cell types in mouse motor cortex.
    """
    arrays = _archive(path, "patchseq_m1_ephys_morph.npz")
    family = arrays["rna_family_names"][arrays["rna_family"]]
    kept = np.isin(family, _INTERNEURONS) & np.isfinite(arrays["ephys"]).all(1)
    has_morph = arrays["has_morph"][kept]
    morph = np.where(has_morph[:, None], arrays["morph"][kept], np.nan)
    return two_views(
        arrays["ephys"][kept],
        morph[:, np.isfinite(morph[has_morph]).all(0)],
        names=("physiology", "morphology"),
        labels=family[kept].tolist(),
        name="neurons_morphology",
    )


def neurons_expression(path: str | Path | None = None, num_genes: int = 100) -> Dataset:
    """Neurons of the mouse motor cortex at physiological temperature: electrophysiology and gene expression.

    Args:
        path: npz file with the arrays ephys (row, 29), counts (row, gene), library_size, cells, rna_family,
            rna_family_names; default multiview/patchseq_m1_phystemp_counts_ephys.npz in the cache folder.
        num_genes: genes kept, those of the largest variance.

    Returns:
        Electrophysiology, and log(1 + counts per 10 000 reads), of the neurons with complete electrophysiology that
        are not of low quality; the classes are transcriptomic families.

    Raises:
        FileNotFoundError: there is no such file.

    References:
        Scala et al. (2020), Phenotypic variation of transcriptomic cell types in mouse motor cortex.
    """
    arrays = _archive(path, "patchseq_m1_phystemp_counts_ephys.npz")
    family = arrays["rna_family_names"][arrays["rna_family"]]
    kept = np.isfinite(arrays["ephys"]).all(1) & (family != "low quality")
    expression = np.log1p(1e4 * arrays["counts"][kept] / arrays["library_size"][kept, None])
    genes = np.sort(np.argsort(-expression.var(0), kind="stable")[:num_genes])
    found = two_views(
        arrays["ephys"][kept],
        expression[:, genes],
        names=("physiology", "expression"),
        labels=family[kept].tolist(),
        name="neurons_expression",
    )
    library_size = torch.from_numpy(arrays["library_size"][kept].astype(np.float32))
    return dataclasses.replace(found, library_size=library_size)


def _archive(path: str | Path | None, default: str) -> dict[str, np.ndarray]:
    path = Path(path) if path else cache_folder() / "multiview" / default
    if not path.exists():
        raise FileNotFoundError(f"path: expected {path}; there is no such file. {_NEURONS_ORIGIN}")
    with opened_arrays(path) as arrays:
        return dict(arrays)
