"""Measures: fitted model -> distances of pairs, angles at triples, volumes of regions."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo import calculus, paths
from probgeo.calculus.shooting import precise
from probgeo.geodesics import GaussNewton, Geodesics, Status, energy, geodesic, length
from probgeo.metrics import DecorrelatedEnergy, Energy, Metric
from probgeo.models.given import GivenVAE
from probgeo.models.shared import FittedSharedLatentVAE
from probgeo.models.views import FittedView
from probgeo.storage import Fitted, Spec

# What is measured: a fitted model, or one given a condition.
Subject = Fitted | GivenVAE

VOLUME_TOLERANCE = 1e-2  # relative; retrainings differ by more


def expected_metric(model: Subject | FittedView) -> Metric:
    """The metric of the model's uncertainty in the space of E[x | z]."""
    return model.metric()


def fisher_rao_metric(model: Subject | FittedView) -> Metric:
    """The metric of the model's uncertainty in the likelihood's isometric space."""
    return model.fisher_rao_metric()


@dataclass(frozen=True)
class ViewMetric:
    """The metric that one view alone gives the space that several share: `Geodesic(ViewMetric("left"))`.

    Args:
        view: its name in the `SharedLatentVAE`.
        metric: which of its metrics: `expected_metric` or `fisher_rao_metric`.
    """

    view: str
    metric: Callable[[FittedView], Metric] = expected_metric

    def __call__(self, model: Subject) -> Metric:
        """The view's metric.

        Raises:
            TypeError: a model without views.
            ValueError: it has none of this name.
        """
        if not isinstance(model, FittedSharedLatentVAE):
            raise TypeError(f"ViewMetric: expected a SharedLatentVAE, which has views; got {type(model).__name__}.")
        return self.metric(model.view(self.view))


def decorrelated_energy(model: Subject) -> Energy:
    """The published energy of decoder ensembles, in closed form."""
    return DecorrelatedEnergy(model.draws())


def angle_between(
    tensor: Float[Tensor, "batch latent latent"], u: Float[Tensor, "batch latent"], v: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch"]:
    """∠(u, v) = 2 atan2(‖u/‖u‖ − v/‖v‖‖, ‖u/‖u‖ + v/‖v‖‖) in G, accurate near 0 and π too; NaN where one is zero.

    References:
        Kahan, How futile are mindless assessments of roundoff in floating-point computation? (2006), section 12.
    """

    def norm(x: Tensor) -> Tensor:
        return torch.einsum("bi,bij,bj->b", x, tensor, x).clamp_min(0).sqrt()

    u, v = u / norm(u)[:, None], v / norm(v)[:, None]
    return 2 * torch.atan2(norm(u - v), norm(u + v))


class Measure(abc.ABC):
    """A distance in a fitted model's latent space, with its angles and volumes. A frozen dataclass: it can be a key."""

    def subject(self, model: Fitted) -> Subject:
        """Whose codes and geometry are measured: the model's own; all other methods, and codes, are of this."""
        return model

    @abc.abstractmethod
    def paths(self, model: Any, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        """Paths between start and stop (batch, latent) and their lengths; codes (row, latent) are those of the data."""

    def applies_to(self, spec: Spec) -> bool:
        """Whether models of this spec have what the measure needs; where not, the study holds NaN."""
        return True

    def draw_lengths(self, model: Any, path: Float[Tensor, "batch node latent"]) -> Tensor | None:
        """Length of each path under every decoder draw, (draw, batch); None for a measure without."""
        return None

    def angles(
        self, model: Any, corner: Tensor, first: Tensor, second: Tensor, codes: Tensor
    ) -> calculus.Angles | None:
        """Angles at the corners between the ways to first and to second, (batch, latent); None for one without."""
        return None

    def volume(self, model: Any, region: Float[Tensor, "simplex vertex latent"]) -> calculus.Volume | None:
        """Volume of a region; None for a measure without."""
        return None


@dataclass(frozen=True)
class Geodesic(Measure):
    """Length of the shortest path under `metric(model)`, found from a graph over the codes of the data.

    Args:
        metric: fitted model -> metric or energy.
        solver: how it is minimised.
        needs_draws: whether the metric exists for ensembles only.
    """

    metric: Callable[[Any], Energy] = expected_metric
    solver: GaussNewton = GaussNewton()
    needs_draws: bool = False

    def applies_to(self, spec: Spec) -> bool:
        return not self.needs_draws or spec.num_members > 1

    def paths(self, model: Subject, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        metric = self.metric(model)
        return geodesic(metric, start, stop, init=paths.Graph(metric, codes), solver=self.solver)

    def angles(
        self, model: Subject, corner: Tensor, first: Tensor, second: Tensor, codes: Tensor
    ) -> calculus.Angles | None:
        metric = self.metric(model)
        if not isinstance(metric, Metric):  # the published energy has no metric tensor
            return None
        solver = precise(corner.dtype, self.solver.num_segments)
        return calculus.angle(metric, corner, first, second, init=paths.Graph(metric, codes), solver=solver)

    def volume(self, model: Subject, region: Float[Tensor, "simplex vertex latent"]) -> calculus.Volume | None:
        metric = self.metric(model)
        return calculus.volume(metric, region, VOLUME_TOLERANCE) if isinstance(metric, Metric) else None


@dataclass(frozen=True)
class DrawnGeodesic(Measure):
    """The geodesic of the model's expected metric, and its length under each decoder draw: one training's error bar.

    Angles and volumes are those of `Geodesic`.

    For models with draws only: `run` raises TypeError for others.

    Args:
        solver: how the energy is minimised.
        num_draws: number of draws; None for those of the model's own metric.
    """

    solver: GaussNewton = GaussNewton()
    num_draws: int | None = None

    def paths(self, model: Subject, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        return Geodesic(solver=self.solver).paths(model, start, stop, codes)

    def draw_lengths(self, model: Subject, path: Float[Tensor, "batch node latent"]) -> Tensor | None:
        draws = model.draws(self.num_draws)
        # One path at a time: images of all nodes under all draws are large.
        lengths = torch.stack([draws(nodes).diff(dim=1).norm(dim=2).sum(1) for nodes in path], dim=1)
        return lengths.masked_fill((path[:, 0] == path[:, -1]).all(1), 0)

    def angles(
        self, model: Subject, corner: Tensor, first: Tensor, second: Tensor, codes: Tensor
    ) -> calculus.Angles | None:
        return Geodesic(solver=self.solver).angles(model, corner, first, second, codes)

    def volume(self, model: Subject, region: Float[Tensor, "simplex vertex latent"]) -> calculus.Volume | None:
        return Geodesic().volume(model, region)


@dataclass(frozen=True)
class StraightLine(Measure):
    """Length of the straight latent line under `metric(model)`: what the metric earns without the path.

    Its angles are those between straight lines, in the metric at the corner. It has no volumes: a volume has no path.

    Args:
        metric: fitted model -> metric.
        num_segments: segments of the line.
    """

    metric: Callable[[Any], Metric] = expected_metric
    num_segments: int = 256

    def paths(self, model: Subject, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        metric = self.metric(model)
        line = paths.Straight(self.num_segments)(start, stop)
        energies, lengths = energy(metric, line), length(metric, line)
        finite = energies.isfinite()
        status = torch.where(finite, int(Status.CONVERGED), int(Status.NONFINITE))
        # At equal ends the nodes are equal, but their images only up to rounding.
        zero = (start == stop).all(1) & finite
        steps, rivals, gap = torch.zeros_like(status), torch.full_like(status, -1), torch.full_like(lengths, torch.nan)
        lengths = lengths.masked_fill(zero, 0)
        return Geodesics(line, energies.masked_fill(zero, 0), lengths, steps, status, rivals, gap)

    def angles(
        self, model: Subject, corner: Tensor, first: Tensor, second: Tensor, codes: Tensor
    ) -> calculus.Angles | None:
        tensor = self.metric(model).tensor(corner)
        finite = tensor.isfinite().flatten(1).all(1)
        status = torch.where(finite, int(Status.CONVERGED), int(Status.NONFINITE))
        return calculus.Angles(angle_between(tensor, first - corner, second - corner), status)


DEFAULT_MEASURES: Mapping[str, Measure] = {"geodesic": Geodesic(), "straight": StraightLine()}
