"""What a study measures in one retraining: distances of pairs, angles at triples, volumes of regions.

All functions take codes of the observations that are asked for: of distances, those of the pairs (pair, 2, latent); of
angles, those of the triples (triple, 3, latent), corner first; of volumes, those of each region (row, latent). They
return values by variable, with the quantity's dim last.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probgeo.geometry import calculus
from probgeo.models.base import LatentModel
from probgeo.study.measures import Measure

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Quantity:
    """What is measured alike: where it is kept, along which dim, and how.

    Args:
        folder: of its files.
        dim: of its values.
        measured: (measure, model, codes asked for, codes of the training data) -> values.
    """

    folder: str
    dim: str
    measured: Callable[[Measure, LatentModel, Sequence[Tensor], Tensor], Values]


def distances(measure: Measure, model: LatentModel, at: Sequence[Tensor], codes: Tensor) -> Values:
    """Lengths of the measure's paths, and what came with them."""
    began = time.monotonic()
    start, stop = at[0].unbind(1)
    found = measure.paths(model, start, stop, codes)
    seconds = torch.tensor(time.monotonic() - began, dtype=torch.float64)
    values = {"distance": found.length, "energy": found.energy, "status": found.status, "seconds": seconds}
    values |= {"rivals": found.rivals, "gap": found.gap}
    return {**values, **measure.also(model, found.path)}


def angles(measure: Measure, model: LatentModel, at: Sequence[Tensor], codes: Tensor) -> Values:
    """Angles at the corners; NaN for a measure without."""
    corner, first, second = at[0].unbind(1)
    found = measure.angles(model, corner, first, second, codes)
    if found is None:
        return {"angle": torch.full_like(at[0][:, 0, 0], torch.nan)}
    return {"angle": found.angle, "angle_status": found.status}


def volumes(measure: Measure, model: LatentModel, at: Sequence[Tensor], codes: Tensor) -> Values:
    """Volumes of the codes' convex hulls, and estimated errors; NaN for a measure without."""
    absent = at[0].new_tensor(torch.nan)
    found = [measure.volume(model, calculus.convex_hull(region)) or (absent, absent) for region in at]
    values, errors = map(torch.stack, zip(*found, strict=True))
    return {"volume": values, "volume_error": errors}


DISTANCES = Quantity("distances", "pair", distances)
ANGLES = Quantity("angles", "triple", angles)
VOLUMES = Quantity("volumes", "region", volumes)
