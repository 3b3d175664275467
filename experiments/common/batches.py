"""Counts of several batches: a model that is told of them, as one of no batch; distances within and across."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

import probgeo as pg
from experiments.common.lost import undiverged
from probgeo import identifiability
from probgeo.datasets import Dataset


class AcrossBatches(pg.LatentModel):
    """A conditional model of counts whose cells are encoded with their own batch, in the mean of the batches' metrics.

    The metric given one batch tells nothing of another; that of a mean decoder loses in which batches differ.

    Args:
        model: a fitted `ConditionalVAE` of a single decoder, whose covariates are one-hot columns of the batch.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.latent = model, model.latent
        columns = list(model.covariates)
        self.num_features, self.num_members = model.num_features - len(columns), len(columns)
        self._given = [model.given_values({c: float(c == column) for c in columns}) for column in columns]

    def encode(self, x: Tensor) -> Any:
        """q(z | x, batch) of rows with their columns of the batch."""
        return self.model.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        """E[x | z], the mean over the batches."""
        return torch.stack([given.decode(z) for given in self._given]).mean(0)

    def metric(self) -> pg.geometry.metrics.Metric:
        """The mean over the batches of JᵀJ of E[x | z, batch]."""
        return pg.ExpectedMetric([given.decode for given in self._given])

    def fisher_rao_metric(self) -> pg.geometry.metrics.Metric:
        """The mean over the batches of the Fisher-Rao metric given each."""
        isometry = self.model.spec.likelihood.isometry(self.model.parameters_of_likelihood())

        def member(given: Any) -> Callable[[Tensor], Tensor]:
            return lambda z: isometry(given.decode(z).log())

        return pg.ExpectedMetric([member(given) for given in self._given])


def told_models(
    spec: pg.VAE, cells: Dataset, batch: str, seeds: Sequence[int], training: pg.Training, folder: Path
) -> tuple[list[pg.LatentModel], Dataset]:
    """Conditional models, with networks as those of `spec`, told of each cell's batch; those in the folder are read.

    Returns:
        The models, and the cells as they read them.
    """
    given = pg.datasets.with_obs(cells, batch)
    columns = tuple(range(cells.x.shape[1], given.x.shape[1]))
    told = pg.ConditionalVAE(
        spec.latent, spec.decoder, spec.likelihood, spec.encoder, mask=pg.masks.NoMask(), covariates=columns
    )
    places = [folder / f"told-{seed}" for seed in seeds]
    missing = [seed for seed, place in zip(seeds, places, strict=True) if not place.exists()]
    if missing:
        for place, model in undiverged(told, given.x, missing, training=training).items():
            pg.save(model, folder / f"told-{missing[place]}")
    return [AcrossBatches(pg.load(place)) for place in places if place.exists()], given


def batch_means(distance: xr.DataArray, batches: np.ndarray, pairs: tuple[Any, Any]) -> xr.Dataset:
    """Mean distances between and within batches (model, measure, retraining, pair), of the pairs' ends (pair,)."""
    start, stop = (batches[np.asarray(ends)] for ends in pairs)
    return identifiability.between_groups(distance, start, stop).to_dataset(name="distance")


def batch_table(means: xr.DataArray) -> pd.DataFrame:
    """By model and measure: mean distance within batches and across two, their CV over retrainings, and their ratio."""
    across = (means.start != means.stop).values
    weight = means.num_pairs.astype(float)

    def mean(chosen: np.ndarray) -> xr.DataArray:
        return means.isel(pair=chosen).weighted(weight.isel(pair=chosen)).mean("pair")

    within, between = mean(~across), mean(across)
    ratio = between / within
    columns = {
        "within": within.mean("retraining"),
        "across": between.mean("retraining"),
        "cv within": within.std("retraining", ddof=1) / within.mean("retraining"),
        "cv across": between.std("retraining", ddof=1) / between.mean("retraining"),
        "across / within": ratio.mean("retraining"),
        "std": ratio.std("retraining", ddof=1),
    }
    found = xr.Dataset(columns).to_dataframe()[list(columns)]
    counts = [int(weight.values[side].sum()) for side in (~across, across)]
    return found.rename(columns={"within": f"within, {counts[0]} pairs", "across": f"across, {counts[1]} pairs"})
