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

    Example:
        >>> import pathlib, tempfile, numpy as np, probgeo as pg
        >>> rng = np.random.default_rng(0)
        >>> neurons = {"ephys": rng.normal(size=(4, 29)), "cells": np.arange(4)}
        >>> morphology = {"morph": rng.normal(size=(4, 61)), "has_morph": np.full(4, True)}
        >>> families = {"rna_family": np.array([0, 1, 0, 1]), "rna_family_names": np.array(["Sst", "Vip"])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(pathlib.Path(folder) / "mine.npz", **neurons, **morphology, **families)
        ...     data = pg.datasets.neurons_morphology(pathlib.Path(folder) / "mine.npz")
        >>> data.views
        {'physiology': (29,), 'morphology': (61,)}

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

    Example:
        >>> import pathlib, tempfile, numpy as np, probgeo as pg
        >>> rng = np.random.default_rng(0)
        >>> neurons = {"ephys": rng.normal(size=(4, 29)), "cells": np.arange(4)}
        >>> expression = {"counts": rng.poisson(5, size=(4, 10)), "library_size": np.full(4, 50.0)}
        >>> families = {"rna_family": np.array([0, 1, 0, 1]), "rna_family_names": np.array(["Sst", "Vip"])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(pathlib.Path(folder) / "mine.npz", **neurons, **expression, **families)
        ...     data = pg.datasets.neurons_expression(pathlib.Path(folder) / "mine.npz", num_genes=5)
        >>> data.views
        {'physiology': (29,), 'expression': (5,)}

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
