"""Counts of cells by name, and trainings of scVI on them."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import probgeo as pg
from probgeo.datasets import Dataset, cache_folder, count_table

LEAST_TOTAL = 500  # counts of a neuron, below which its recording failed


def blood() -> Dataset:
    """700 cells of blood × 765 genes (10x Genomics, 2017), types by their nearest sorted population; scanpy has them.

    It keeps the logarithms of rates per 10 000 alone, to three digits: the integers that they are of are whole again.
    """
    try:
        import scanpy
    except ImportError as error:
        raise ValueError("data: scanpy, which has the blood cells, is not installed; pip install scanpy.") from error
    with others_warnings():
        adata = scanpy.datasets.pbmc68k_reduced()
    found = np.expm1(adata.raw.X.toarray()) * adata.obs["n_counts"].to_numpy()[:, None] / 1e4
    counts = found.round()
    if np.abs(found - counts).max() > 0.3:
        raise ValueError("data: the blood cells that scanpy has are not those of which counts are known.")
    return _annotated("blood", counts, tuple(map(str, adata.raw.var_names)), adata.obs["bulk_labels"])


def neurons() -> Dataset:
    """174 neurons × 500 genes with at least 500 reads in these (Scala et al. 2020), by family."""
    data = count_table(cache_folder() / "multiview/patchseq_m1_phystemp_counts_ephys.npz", "rna_family")
    return data.rows(torch.from_numpy(np.flatnonzero(data.x.sum(1).numpy() >= LEAST_TOTAL)))


def typed_neurons() -> Dataset:
    """Of these the 171 that are of a family, and not of low quality."""
    data = neurons()
    return data.subset(classes=[name for name in data.class_counts() if name != "low quality"])


def alike() -> Dataset:
    """400 simulated cells × 100 genes that are all of one distribution, as are their types: nothing is to be found.

    `scvi.data.synthetic_iid`: negative binomial counts of mean 12, of which three in ten are lost.
    """
    try:
        import scvi
    except ImportError as error:
        raise ValueError("dataset: scvi-tools is not installed; pip install 'probgeo[scvi]'.") from error
    scvi.settings.seed = 0
    adata = scvi.data.synthetic_iid()
    return _annotated("synthetic_iid", np.asarray(adata.X), tuple(map(str, adata.var_names)), adata.obs["labels"])


def _annotated(name: str, counts: np.ndarray, genes: tuple[str, ...], types: pd.Series) -> Dataset:
    return Dataset(
        name=name,
        x=torch.from_numpy(counts.astype(np.float32)),
        labels=torch.from_numpy(types.cat.codes.to_numpy().astype(np.int64)),
        label_names=tuple(types.cat.categories),
        shape=(counts.shape[1],),
        feature_names=genes,
    )


def scvi_models(
    adata: Any,
    seeds: Sequence[int],
    folder: Path,
    *,
    batch: str | None,
    latent: int,
    width: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> list[pg.LatentModel]:
    """scVI with a negative binomial likelihood, one training per seed; those in the folder are read."""
    with others_warnings():
        import scvi

        scvi.model.SCVI.setup_anndata(adata, batch_key=batch)
        places = [folder / f"scvi-{seed}" for seed in seeds]
        for seed, place in zip(seeds, places, strict=True):
            if (place / "model.pt").exists():
                continue
            scvi.settings.seed = seed
            model = scvi.model.SCVI(adata, n_latent=latent, n_hidden=width, gene_likelihood="nb")
            model.train(
                max_epochs=epochs,
                batch_size=batch_size,
                accelerator="cpu",
                train_size=1.0,
                enable_progress_bar=False,
                enable_model_summary=False,
                logger=False,
                plan_kwargs={"lr": learning_rate, "n_epochs_kl_warmup": max(1, epochs // 2)},
            )
            model.save(str(place), overwrite=True)  # also where it was killed while saving
        return [pg.adapters.from_scvi(place, adata, name="scVI") for place in places]


@contextmanager
def others_warnings() -> Iterator[None]:
    """Warnings of other libraries are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
