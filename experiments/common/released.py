"""Distances of an RBF model as the published code computes them, on the trainings that the right ones are measured on.

The code of Syrota et al. (2024) trains the precision β(z) of its RBF model, 1/variance, but its geometry takes the root
of that very output for the standard deviation: geodesics are those of [μ; √β], where the right ones are of [μ; 1/√β].
So its "uncertainty" is large at the data and vanishes away from them. Its length adds the two parts' lengths,
Σ ‖Δμ‖ + Σ ‖Δ√β‖, where that of the metric is Σ (‖Δμ‖² + ‖Δ√β‖²)^½.

Only that is reproduced here. The trainings are this library's own: precisions by the likelihood (there, the variance of
the likelihood is exp(1/β)), its centres and length scales, posterior means as end points.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import probgeo as pg
from probgeo.models.base import LatentModel, ModelSpec


class MeanAndRootPrecision(nn.Module):
    """z -> [μ(z); √β(z)] of an RBF decoder, β its precision."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.network, self.precision = decoder.network, decoder.precision

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([self.network(z), self.precision(z).sqrt()], dim=-1)


def mean_and_root_precision(model: Any) -> MeanAndRootPrecision:
    """[μ; √β] of a fitted RBF model."""
    return MeanAndRootPrecision(model.decoder)


def released_metric(model: LatentModel) -> pg.PullbackMetric:
    """G = J_μᵀJ_μ + JᵀJ of √β: the metric of an RBF model with its precision taken for a variance."""
    return pg.PullbackMetric(mean_and_root_precision(model))


def is_rbf(model: LatentModel | ModelSpec) -> bool:
    """Whether the model, or models of the spec, have an RBF precision."""
    spec = getattr(model, "spec", model)
    return isinstance(spec, pg.VAE) and isinstance(spec.decoder, pg.RBFDecoder)


@dataclass(frozen=True)
class AsReleased(pg.study.Measure):
    """Length of the shortest path under `released_metric`; for RBF models only.

    Args:
        solver: how the energy is minimised.
    """

    solver: pg.GaussNewton = pg.GaussNewton()

    def applies_to(self, model: LatentModel | ModelSpec) -> bool:
        return is_rbf(model)

    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> pg.Geodesics:
        return pg.Geodesic(released_metric, self.solver).paths(model, start, stop, codes)


@dataclass(frozen=True)
class SummedAsReleased(pg.study.Measure):
    """Σ ‖Δμ‖ + Σ ‖Δ√β‖ along the path of `AsReleased`: its length as published; for RBF models only.

    Args:
        solver: how the energy is minimised.
    """

    solver: pg.GaussNewton = pg.GaussNewton()

    def applies_to(self, model: LatentModel | ModelSpec) -> bool:
        return is_rbf(model)

    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> pg.Geodesics:
        found = AsReleased(self.solver).paths(model, start, stop, codes)
        stacked = mean_and_root_precision(model)
        # One path at a time: images of all nodes are large.
        halves = [stacked(nodes).diff(dim=0).unflatten(1, (2, -1)) for nodes in found.path]
        lengths = torch.stack([half.norm(dim=2).sum() for half in halves])
        return found._replace(length=lengths.where(found.length > 0, found.length))
