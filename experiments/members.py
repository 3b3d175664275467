"""Measures of an ensemble that see its first members alone."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import probgeo as pg
from probgeo.metrics import Energy
from probgeo.storage import Fitted, Spec

PUBLISHED_SEGMENTS = 1999


def published_energy(model: Fitted) -> Energy:
    """The decorrelated energy of as many segments as the published distances of cells have."""
    return pg.DecorrelatedEnergy(model.draws(), segments=PUBLISHED_SEGMENTS)


@dataclass(frozen=True)
class StraightEnergy(pg.study.Measure):
    """√(2E) of the straight latent line under `published_energy`.

    Published paths begin there, and few small steps are taken: this is close to what was measured.

    Args:
        num_segments: segments of the line.
    """

    num_segments: int = 256

    def paths(self, model: Fitted, start: Tensor, stop: Tensor, codes: Tensor) -> pg.Geodesics:
        line = pg.paths.Straight(self.num_segments)(start, stop)
        energies = pg.energy(published_energy(model), line)
        finite = energies.isfinite()
        status = torch.where(finite, int(pg.Status.CONVERGED), int(pg.Status.NONFINITE))
        return pg.Geodesics(line, energies, (2 * energies).sqrt(), torch.zeros_like(status), status)


def first_members(model: Any, members: int) -> Fitted:
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

    def applies_to(self, spec: Spec) -> bool:
        return spec.num_members >= self.members

    def paths(self, model: Fitted, start: Tensor, stop: Tensor, codes: Tensor) -> pg.Geodesics:
        return self.measure.paths(first_members(model, self.members), start, stop, codes)
