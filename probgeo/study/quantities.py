"""What a study measures in one retraining: distances of pairs, angles at triples, volumes of regions.

All functions take codes of the observations that are asked for: of distances, those of the pairs (pair, 2, latent); of
angles, those of the triples (triple, 3, latent), corner first; of volumes, those of each region (row, latent). They
return values by variable, with the quantity's dim last.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import factorial

import torch
from torch import Tensor

from probgeo import calculus
from probgeo.study.measures import Measure, Subject, angle_between

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Quantity:
    """What is measured alike: where it is kept, along which dim, and how.

    Args:
        folder: of its files.
        dim: of its values.
        measured: (measure, model, codes asked for, codes of the training data) -> values.
        euclidean: (model, codes asked for) -> the same in the Euclidean latent space.
    """

    folder: str
    dim: str
    measured: Callable[[Measure, Subject, Sequence[Tensor], Tensor], Values]
    euclidean: Callable[[Subject, Sequence[Tensor]], Values]


def distances(measure: Measure, model: Subject, at: Sequence[Tensor], codes: Tensor) -> Values:
    """Lengths of the measure's paths, and what came with them."""
    began = time.monotonic()
    start, stop = at[0].unbind(1)
    found = measure.paths(model, start, stop, codes)
    seconds = torch.tensor(time.monotonic() - began, dtype=torch.float64)
    drawn = measure.draw_lengths(model, found.path)
    values = {"distance": found.length, "energy": found.energy, "status": found.status, "seconds": seconds}
    values |= {"rivals": found.rivals, "gap": found.gap}
    return values if drawn is None else {**values, "draw_length": drawn}


def euclidean_distances(model: Subject, at: Sequence[Tensor]) -> Values:
    """‖z_i − z_j‖ of the codes, and ‖x_i − x_j‖ of the reconstructions."""
    start, stop = at[0].unbind(1)
    # Each code once, so that equal ends have equal images to the last digit.
    ends, number = at[0].flatten(0, 1).unique(dim=0, return_inverse=True)
    first, second = model.decode(ends)[number.view(-1, 2)].unbind(1)
    return {
        "euclidean_latent": (start - stop).norm(dim=-1),
        "euclidean_reconstructed": (first - second).norm(dim=-1),
    }


def angles(measure: Measure, model: Subject, at: Sequence[Tensor], codes: Tensor) -> Values:
    """Angles at the corners; NaN for a measure without."""
    corner, first, second = at[0].unbind(1)
    found = measure.angles(model, corner, first, second, codes)
    if found is None:
        return {"angle": torch.full_like(at[0][:, 0, 0], torch.nan)}
    return {"angle": found.angle, "angle_status": found.status}


def euclidean_angles(model: Subject, at: Sequence[Tensor]) -> Values:
    """Angles of straight lines in the Euclidean latent space."""
    corner, first, second = at[0].unbind(1)
    identity = torch.eye(corner.shape[1], dtype=corner.dtype, device=corner.device).expand(len(corner), -1, -1)
    return {"angle": angle_between(identity, first - corner, second - corner)}


def volumes(measure: Measure, model: Subject, at: Sequence[Tensor], codes: Tensor) -> Values:
    """Volumes of the codes' convex hulls, and estimated errors; NaN for a measure without."""
    absent = at[0].new_tensor(torch.nan)
    found = [measure.volume(model, calculus.convex_hull(region)) or (absent, absent) for region in at]
    values, errors = map(torch.stack, zip(*found, strict=True))
    return {"volume": values, "volume_error": errors}


def euclidean_volumes(model: Subject, at: Sequence[Tensor]) -> Values:
    """Euclidean volumes of the codes' convex hulls."""
    simplices = [calculus.convex_hull(region) for region in at]
    edges = [corners[:, 1:] - corners[:, :1] for corners in simplices]
    return {"volume": torch.stack([torch.linalg.det(edge).abs().sum() / factorial(edge.shape[-1]) for edge in edges])}


DISTANCES = Quantity("distances", "pair", distances, euclidean_distances)
ANGLES = Quantity("angles", "triple", angles, euclidean_angles)
VOLUMES = Quantity("volumes", "region", volumes, euclidean_volumes)
