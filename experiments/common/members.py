"""Measures of an ensemble that see its first members alone."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import probgeo as pg
from probgeo.geometry.metrics import Energy
from probgeo.models.base import FittedModel, LatentModel, ModelSpec


def energy_of_1999_segments(model: LatentModel) -> Energy:
    """The decorrelated energy of as many segments as published distances of cells have.

    With one decoder it is that of the decoder's metric, and taken as such: nothing is left of its graph's weights then.
    """
    if model.num_members == 1:
        return model.metric()
    return pg.DecorrelatedEnergy(model.draws(), segments=1999)


@dataclass(frozen=True)
class StraightEnergy(pg.study.Measure):
    """√(2E) of the straight latent line under `energy_of_1999_segments`.

    Published paths begin there, and few small steps are taken: this is close to what was measured.

    Args:
        num_segments: segments of the line.
    """

    num_segments: int = 256

    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> pg.Geodesics:
        line = pg.paths.Straight(self.num_segments)(start, stop)
        energies = pg.energy(energy_of_1999_segments(model), line)
        finite = energies.isfinite()
        status = torch.where(finite, int(pg.Status.CONVERGED), int(pg.Status.NONFINITE))
        steps, rivals, gap = torch.zeros_like(status), torch.full_like(status, -1), torch.full_like(energies, torch.nan)
        return pg.Geodesics(line, energies, (2 * energies).sqrt(), steps, status, rivals, gap)


def first_members(model: Any, members: int) -> FittedModel:
    """The fitted ensemble without all but its first members: the same encoder, the same weights."""
    spec = replace(model.spec, decoder=replace(model.spec.decoder, members=members))
    part = spec.build(model.num_features, seed=0)
    part.encoder, part.shared, part.decoder.members = model.encoder, model.shared, model.decoder.draws(members)
    return part


@dataclass(frozen=True)
class OfFirst(pg.study.Measure):
    """A measure of the first members of an ensemble, as if there were no others.

    Args:
        members: how many.
        measure: of a fitted model.
    """

    members: int
    measure: pg.study.Measure

    def applies_to(self, model: LatentModel | ModelSpec) -> bool:
        return model.num_members >= self.members

    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> pg.Geodesics:
        return self.measure.paths(first_members(model, self.members), start, stop, codes)
