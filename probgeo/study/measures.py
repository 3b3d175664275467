"""Measures: fitted model -> distances of pairs, angles at triples, volumes of regions."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import factorial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo import paths
from probgeo.geometry import calculus
from probgeo.geometry.calculus.shooting import precise
from probgeo.geometry.doubts import cut
from probgeo.geometry.geodesics import GaussNewton, Geodesics, Status, check_solver, geodesic, with_doubts
from probgeo.geometry.metrics import DecorrelatedEnergy, Energy, Metric
from probgeo.models.base import LatentModel, ModelSpec
from probgeo.specs import check_numbers

VOLUME_TOLERANCE = 1e-2  # relative; retrainings differ by more


def expected_metric(model: LatentModel) -> Metric:
    """The metric of the model's uncertainty in the space of E[x | z].

    Args:
        model: a fitted model.

    Returns:
        The expected metric, lengths in units of x.

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.VAE(latent=2).build(num_features=5, seed=0)
        >>> z = torch.zeros(1, 2)
        >>> jacobian = torch.func.jacrev(model.decode)(z[0])
        >>> torch.allclose(pg.study.expected_metric(model).tensor(z)[0], jacobian.mT @ jacobian)
        True
    """
    return model.metric()


def fisher_rao_metric(model: LatentModel) -> Metric:
    """The metric of the model's uncertainty in the likelihood's isometric space.

    Args:
        model: a fitted model.

    Returns:
        The expected Fisher-Rao metric, lengths in nats^½.

    Raises:
        TypeError: a model that says nothing of the distribution of x.

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.VAE(latent=2, likelihood=pg.Gaussian(std=0.5)).build(num_features=5, seed=0)
        >>> fisher_rao, expected = pg.study.fisher_rao_metric(model), pg.study.expected_metric(model)
        >>> z = torch.zeros(1, 2)
        >>> torch.allclose(fisher_rao.tensor(z), expected.tensor(z) / 0.5**2)
        True
    """
    return model.fisher_rao_metric()


@dataclass(frozen=True)
class ViewMetric:
    """The metric that one view alone gives the space that several share: `Geodesic(ViewMetric("left"))`.

    Args:
        view: its name in the `SharedLatentVAE`.
        metric: which of its metrics: `expected_metric` or `fisher_rao_metric`.

    Example:
        >>> import torch, probgeo as pg
        >>> views = {"left": pg.View(3), "right": pg.View(2)}
        >>> model = pg.SharedLatentVAE(views, latent=2).build(num_features=5, seed=0)
        >>> left, right = (pg.study.ViewMetric(name)(model) for name in views)
        >>> z = torch.zeros(1, 2)
        >>> torch.allclose(model.metric().tensor(z), left.tensor(z) + right.tensor(z))
        True
    """

    view: str
    metric: Callable[[LatentModel], Metric] = expected_metric

    def __call__(self, model: LatentModel) -> Metric:
        """The view's metric.

        Raises:
            TypeError: a model without views.
            ValueError: it has none of this name.
        """
        return self.metric(model.view(self.view))

    def applies_to(self, model: LatentModel | ModelSpec) -> bool:
        """Whether it has the view."""
        return self.view in model.view_names


def decorrelated_energy(model: LatentModel) -> Energy:
    """The published energy of decoder ensembles, in closed form.

    Args:
        model: a fitted model with draws of its decoder, such as an ensemble.

    Returns:
        The energy over the draws, in squared units of x.

    Raises:
        TypeError: a model without draws.

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.VAE(latent=2, decoder=pg.EnsembleDecoder(members=3)).build(num_features=5, seed=0)
        >>> resting = torch.zeros(1, 65, 2)  # a path that stays where it is: all of its energy is the members' variance
        >>> variance = model.draws()(resting[0, 0]).var(0, correction=0).sum()
        >>> torch.allclose(pg.energy(pg.study.decorrelated_energy(model), resting), 256**2 * variance)
        True
    """
    return DecorrelatedEnergy(model.draws())


def _applies(metric: Any, model: LatentModel | ModelSpec) -> bool:
    """Whether the model has what a function to its metric needs: all have, unless the function tells."""
    return metric.applies_to(model) if hasattr(metric, "applies_to") else True


def _check_metric(metric: Any) -> None:
    """Refuse what gives no metric of a model."""
    if not callable(metric):
        raise TypeError(f"metric: expected a function of a model that gives its metric; got {metric!r}.")


def angle_between(
    tensor: Float[Tensor, "batch latent latent"], u: Float[Tensor, "batch latent"], v: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch"]:
    """∠(u, v) = 2 atan2(‖u/‖u‖ − v/‖v‖‖, ‖u/‖u‖ + v/‖v‖‖) in G, accurate near 0 and π too; NaN where one is zero.

    References:
        Kahan, How futile are mindless assessments of roundoff in floating-point computation? (2006), section 12.
    """

    def norm(x: Tensor) -> Tensor:
        return torch.einsum("bi,bij,bj->b", x, tensor, x).clamp_min(0).sqrt()

    u, v = u / norm(u)[:, None], v / norm(v)[:, None]
    return 2 * torch.atan2(norm(u - v), norm(u + v))


class Measure(abc.ABC):
    """A distance in a fitted model's latent space, with its angles and volumes. A frozen dataclass: it can be a key.

    Example:
        >>> import torch, probgeo as pg
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class CityBlocks(pg.Measure):  # ‖z_i − z_j‖₁
        ...     def paths(self, model, start, stop, codes):
        ...         found = pg.Euclidean().paths(model, start, stop, codes)
        ...         return found._replace(length=(stop - start).abs().sum(-1))
        >>> class Plane(pg.LatentModel):
        ...     latent, num_features = 2, 2
        ...     def encode(self, x):
        ...         return pg.Encoding(x, torch.zeros_like(x))
        ...     def decode(self, z):
        ...         return z
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> found = pg.measure({"plane": [Plane()]}, x, torch.tensor([[0, 1]]), {"blocks": CityBlocks()})
        >>> dict(zip(found.measure.values.tolist(), found.distance.values.ravel().tolist()))
        {'blocks': 7.0, 'euclidean': 5.0}
    """

    def subject(self, model: LatentModel) -> LatentModel:
        """Whose codes and geometry are measured: the model's own; all other methods, and codes, are of this."""
        return model

    @abc.abstractmethod
    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        """Paths between start and stop (batch, latent) and their lengths; codes (row, latent) are those of the data."""

    def applies_to(self, model: LatentModel | ModelSpec) -> bool:
        """Whether the model, or models of the spec, have what the measure needs; where not, a dataset holds NaN."""
        return True

    def also(self, model: LatentModel, path: Float[Tensor, "batch node latent"]) -> Mapping[str, Tensor]:
        """What else is kept of each path, by variable of the dataset, (batch,) or (draw, batch)."""
        return {}

    def angles(
        self, model: LatentModel, corner: Tensor, first: Tensor, second: Tensor, codes: Tensor
    ) -> calculus.Angles | None:
        """Angles at the corners between the ways to first and to second, (batch, latent); None for one without."""
        return None

    def volume(self, model: LatentModel, region: Float[Tensor, "simplex vertex latent"]) -> calculus.Volume | None:
        """Volume of a region; None for a measure without."""
        return None


@dataclass(frozen=True)
class Geodesic(Measure):
    """Length of the shortest path under `metric(model)`, found from a graph over the codes of the data.

    Args:
        metric: fitted model -> metric or energy.
        solver: how it is minimised.
        needs_draws: whether the metric exists for ensembles only.

    Example:
        >>> import torch, probgeo as pg
        >>> class Plane(pg.LatentModel):
        ...     latent, num_features = 2, 2
        ...     def encode(self, x):
        ...         return pg.Encoding(x / 10, torch.zeros_like(x))
        ...     def decode(self, z):
        ...         return 10 * z
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0], [0.0, 4.0]])
        >>> measures = {"geodesic": pg.Geodesic(solver=pg.GaussNewton(num_segments=16))}
        >>> distance = pg.measure({"plane": [Plane()]}, x, torch.tensor([[0, 1]]), measures).distance
        >>> dict(zip(distance.measure.values.tolist(), distance.values.ravel().round(3).tolist()))  # units of x, of z
        {'geodesic': 5.0, 'euclidean': 0.5}
    """

    metric: Callable[[LatentModel], Energy] = expected_metric
    solver: GaussNewton = GaussNewton()
    needs_draws: bool = False

    def __post_init__(self) -> None:
        _check_metric(self.metric)
        check_solver(self.solver)

    def applies_to(self, model: LatentModel | ModelSpec) -> bool:
        return _applies(self.metric, model) and (not self.needs_draws or model.num_members > 1)

    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        metric = self.metric(model)
        return geodesic(metric, start, stop, init=paths.Graph(metric, codes), solver=self.solver)

    def angles(
        self, model: LatentModel, corner: Tensor, first: Tensor, second: Tensor, codes: Tensor
    ) -> calculus.Angles | None:
        metric = self.metric(model)
        if not isinstance(metric, Metric):  # the published energy has no metric tensor
            return None
        solver = precise(corner.dtype, self.solver.num_segments)
        return calculus.angle(metric, corner, first, second, init=paths.Graph(metric, codes), solver=solver)

    def volume(self, model: LatentModel, region: Float[Tensor, "simplex vertex latent"]) -> calculus.Volume | None:
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

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.VAE(latent=2, decoder=pg.EnsembleDecoder(members=3)).build(num_features=5, seed=0)
        >>> x = torch.rand(20, 5, generator=torch.Generator().manual_seed(0))
        >>> measures = {"drawn": pg.study.DrawnGeodesic(pg.GaussNewton(num_segments=16))}
        >>> found = pg.measure({"ensemble": [model]}, x, torch.tensor([[0, 1], [2, 3]]), measures)
        >>> drawn = found.draw_length.sel(model="ensemble", measure="drawn", retraining=0)
        >>> dict(drawn.sizes)
        {'draw': 3, 'pair': 2}
        >>> distance = found.distance.sel(model="ensemble", measure="drawn", retraining=0)
        >>> bool((abs((drawn**2).mean("draw") ** 0.5 / distance - 1) < 0.05).all())  # E[JᵀJ] is a mean of squares
        True
    """

    solver: GaussNewton = GaussNewton()
    num_draws: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        check_solver(self.solver)
        if self.num_draws is not None and self.num_draws < 1:
            raise ValueError(f"num_draws: expected at least 1, or None; got {self.num_draws}.")

    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        return Geodesic(solver=self.solver).paths(model, start, stop, codes)

    def also(self, model: LatentModel, path: Float[Tensor, "batch node latent"]) -> Mapping[str, Tensor]:
        """`draw_length`, the length of each path under every decoder draw, (draw, batch)."""
        draws = model.draws(self.num_draws)
        # One path at a time: images of all nodes under all draws are large.
        lengths = torch.stack([draws(nodes).diff(dim=1).norm(dim=2).sum(1) for nodes in path], dim=1)
        return {"draw_length": lengths.masked_fill((path[:, 0] == path[:, -1]).all(1), 0)}

    def angles(
        self, model: LatentModel, corner: Tensor, first: Tensor, second: Tensor, codes: Tensor
    ) -> calculus.Angles | None:
        return Geodesic(solver=self.solver).angles(model, corner, first, second, codes)

    def volume(self, model: LatentModel, region: Float[Tensor, "simplex vertex latent"]) -> calculus.Volume | None:
        return Geodesic().volume(model, region)


@dataclass(frozen=True)
class StraightLine(Measure):
    """Length of the straight latent line under `metric(model)`: what the metric earns without the path.

    Its angles are those between straight lines, in the metric at the corner. It has no volumes: a volume has no path.

    Args:
        metric: fitted model -> metric.
        num_segments: segments of the line.

    Example:
        >>> import torch, probgeo as pg
        >>> class Parabola(pg.LatentModel):  # z -> (z, z²)
        ...     latent, num_features = 1, 2
        ...     def encode(self, x):
        ...         return pg.Encoding(x[:, :1], torch.zeros_like(x[:, :1]))
        ...     def decode(self, z):
        ...         return torch.cat([z, z**2], dim=-1)
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
        >>> lines = {"chord": pg.StraightLine(num_segments=1), "arc": pg.StraightLine()}
        >>> found = pg.measure({"parabola": [Parabola()]}, x, torch.tensor([[0, 1]]), lines)
        >>> found.distance.sel(measure=["chord", "arc"]).values.ravel().round(3)  # √(2² + 4²), √17 + arsinh(4)/4
        array([4.472, 4.647], dtype=float32)
    """

    metric: Callable[[LatentModel], Metric] = expected_metric
    num_segments: int = 256

    def __post_init__(self) -> None:
        check_numbers(self)
        _check_metric(self.metric)
        paths.Straight(self.num_segments)  # refuses what is no number of segments

    def applies_to(self, model: LatentModel | ModelSpec) -> bool:
        return _applies(self.metric, model)

    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        metric = self.metric(model)
        line = paths.Straight(self.num_segments)(start, stop)
        (energies, chords), cut_lengths = cut(metric, line)
        lengths, finite = chords.sum(1), energies.isfinite()
        status = torch.where(finite, int(Status.CONVERGED), int(Status.NONFINITE))
        status = with_doubts(metric, line, chords, cut_lengths, status)
        # At equal ends the nodes are equal, but their images only up to rounding.
        zero = (start == stop).all(1) & finite
        steps, rivals, gap = torch.zeros_like(status), torch.full_like(status, -1), torch.full_like(lengths, torch.nan)
        lengths = lengths.masked_fill(zero, 0)
        return Geodesics(line, energies.masked_fill(zero, 0), lengths, steps, status, rivals, gap)

    def angles(
        self, model: LatentModel, corner: Tensor, first: Tensor, second: Tensor, codes: Tensor
    ) -> calculus.Angles | None:
        tensor = self.metric(model).tensor(corner)
        finite = tensor.isfinite().flatten(1).all(1)
        status = torch.where(finite, int(Status.CONVERGED), int(Status.NONFINITE))
        return calculus.Angles(angle_between(tensor, first - corner, second - corner), status)


@dataclass(frozen=True)
class Euclidean(Measure):
    """‖z_i − z_j‖, angles and volumes in the Euclidean space of the codes: what a latent map shows to the eye.

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.VAE(latent=2).build(num_features=5, seed=0)
        >>> x = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
        >>> pairs = torch.tensor([[0, 1], [2, 3]])
        >>> distance = pg.measure({"vae": [model]}, x, pairs, {"euclidean": pg.Euclidean()}).distance
        >>> codes = model.encode(x).mean[pairs]
        >>> torch.allclose(torch.tensor(distance.values).squeeze(), (codes[:, 0] - codes[:, 1]).norm(dim=1))
        True
    """

    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        lengths = (start - stop).norm(dim=-1)
        status = torch.where(lengths.isfinite(), int(Status.CONVERGED), int(Status.NONFINITE))
        line = torch.stack([start, stop], dim=1)
        unsearched = torch.full_like(status, -1), torch.full_like(lengths, torch.nan)
        return Geodesics(line, lengths.square() / 2, lengths, torch.zeros_like(status), status, *unsearched)

    def also(self, model: LatentModel, path: Float[Tensor, "batch node latent"]) -> Mapping[str, Tensor]:
        """`euclidean_reconstructed`, ‖E[x | z_i] − E[x | z_j]‖ of the ends."""
        # Each code once, so that equal ends have equal images to the last digit.
        ends, number = path[:, [0, -1]].flatten(0, 1).unique(dim=0, return_inverse=True)
        first, second = model.decode(ends).flatten(1)[number.view(-1, 2)].unbind(1)
        return {"euclidean_reconstructed": (first - second).norm(dim=-1)}

    def angles(
        self, model: LatentModel, corner: Tensor, first: Tensor, second: Tensor, codes: Tensor
    ) -> calculus.Angles | None:
        identity = torch.eye(corner.shape[1], dtype=corner.dtype, device=corner.device).expand(len(corner), -1, -1)
        angle = angle_between(identity, first - corner, second - corner)
        return calculus.Angles(angle, torch.full_like(angle, int(Status.CONVERGED), dtype=torch.int64))

    def volume(self, model: LatentModel, region: Float[Tensor, "simplex vertex latent"]) -> calculus.Volume | None:
        edges = region[:, 1:] - region[:, :1]
        value = torch.linalg.det(edges).abs().sum() / factorial(edges.shape[-1])
        return calculus.Volume(value, torch.zeros_like(value))


DEFAULT_MEASURES: Mapping[str, Measure] = {"geodesic": Geodesic(), "straight": StraightLine()}
