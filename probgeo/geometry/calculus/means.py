"""Fréchet means: points of least sum of squared distances."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.geometry.calculus.arguments import check_metric
from probgeo.geometry.calculus.shooting import exponential, logarithm, precise
from probgeo.geometry.geodesics import AMBIGUITY, GaussNewton, Start, Status, geodesic
from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points, check_alike, latent_points
from probgeo.geometry.routes import Search

STEP_SEGMENTS = 8  # no step needs to be accurate, and the last one is short
MIN_SHARE = 2**-8


class FrechetMean(NamedTuple):
    """A mean and how it was found: what `frechet_mean` returns.

    Attributes:
        mean: latent coordinates, (latent).
        variance: Σ w_i d(mean, z_i)², Σ w_i = 1, in squared units of length.
        steps: how many were made.
        status: the search's own, or the worst of the geodesics' to the points; AMBIGUOUS: another is as good.

    Example:
        >>> import torch, probgeo as pg
        >>> found = pg.calculus.frechet_mean(pg.PullbackMetric(lambda z: z), torch.tensor([[0.0], [1.0], [5.0]]))
        >>> found.mean, found.variance, found.status.name  # 2, and (2² + 1² + 3²) / 3
        (tensor([2.]), tensor(4.6667), 'CONVERGED')
    """

    mean: Float[Tensor, " latent"]
    variance: Float[Tensor, ""]
    steps: int
    status: Status


def frechet_mean(
    metric: Metric,
    points: Points,
    weights: Points | None = None,
    *,
    start: Points | None = None,
    init: Start | Search | None = None,
    solver: GaussNewton | None = None,
    tolerance: float | None = None,
    max_steps: int = 50,
) -> FrechetMean:
    """argmin_y Σ w_i d(y, z_i)², by steps y ← exp_y(t Σ w_i log_y(z_i)).

    The minimum is unique where the points lie close together for the curvature. Elsewhere this is the local one that
    `start` leads to; or, with a graph for `init` and no `start`, the lowest of those that are reached from the mean of
    the coordinates and from the middles of all geodesics between two points far apart.

    Args:
        metric: a metric.
        points: z_i, (point, latent).
        weights: w_i, not negative, up to a factor, (point); by default equal.
        start: first y, (latent); by default the weighted mean of the coordinates.
        init: start of the first geodesics, None, a callable or a graph, as for `geodesic`; later ones start from the
            last.
        solver: of the geodesics; by default Gauss–Newton with 64 segments, precise enough for velocities.
        tolerance: finished when the mean would move by less than this share of the root of the variance; by default
            the cube root of the dtype's eps, 5e-3 in float32.
        max_steps: steps at most.

    Returns:
        Mean, Fréchet variance, steps and status; mean and variance are NaN where a geodesic's status is NONFINITE. The
        status is AMBIGUOUS where another mean, elsewhere, has the same variance, as of points on both sides of a hill.

    Raises:
        TypeError, ValueError: an argument's type, shape, dtype, device or value does not fit.

    Example:
        >>> import torch, probgeo as pg
        >>> def half_plane(z):  # G = I / y²
        ...     return torch.eye(2, dtype=z.dtype) / z[..., 1:, None] ** 2
        >>> points = torch.tensor([[0.0, 1.0], [0.0, 4.0]]).double()
        >>> found = pg.calculus.frechet_mean(pg.TensorMetric(half_plane), points)
        >>> found.mean.round(decimals=3).abs()  # (0, √(1 · 4)): in the middle of logarithms
        tensor([0., 2.], dtype=torch.float64)
        >>> round(found.variance.item(), 3)  # log(2)²
        0.48

    References:
        Pennec, Intrinsic statistics on Riemannian manifolds (2006).
    """
    check_metric(metric)
    points = latent_points("points", points, "point latent")
    weights = _shares(points, weights)
    tolerance = torch.finfo(points.dtype).eps ** (1 / 3) if tolerance is None else tolerance
    if not (tolerance > 0 and max_steps > 0):
        raise ValueError(f"tolerance, max_steps: expected positive numbers; got {tolerance} and {max_steps}.")
    mean = weights @ points if start is None else latent_points("start", start, "latent")
    check_alike("start points[0]", points[0], mean)
    solver = precise(points.dtype, 64) if solver is None else solver
    points, weights = points[weights > 0], weights[weights > 0]
    with torch.no_grad():
        begin = (
            [mean, *_middles(metric, points, init, solver)] if start is None and isinstance(init, Search) else [mean]
        )
        found = [_descended(metric, points, weights, y, init, solver, tolerance, max_steps) for y in begin]
        return _lowest(metric, found, tolerance)


def _middles(
    metric: Metric, points: Float[Tensor, "point latent"], init: Search, solver: GaussNewton
) -> list[Float[Tensor, " latent"]]:
    """The middles of all local geodesics that the search finds from the first point to the one farthest from it."""
    first = points[:1].expand_as(points)
    far = geodesic(metric, first, points, init=init, solver=solver).length.nan_to_num(nan=0).argmax()
    starts = init.starts(points[:1], points[far][None])
    ends = points[:1].expand(len(starts.pair), -1), points[far].expand(len(starts.pair), -1)
    path = geodesic(metric, *ends, init=starts.path, solver=solver).path
    return [*path[:, path.shape[1] // 2]]


def _lowest(metric: Metric, found: list[FrechetMean], tolerance: float) -> FrechetMean:
    """The mean of least variance; AMBIGUOUS where another one has the same, but not the same place."""
    best = min(found, key=lambda mean: float(mean.variance.nan_to_num(nan=torch.inf)))
    for other in found:
        apart, tensor = other.mean - best.mean, metric.tensor(best.mean)
        elsewhere = apart @ tensor @ apart > 100 * tolerance**2 * best.variance
        if elsewhere and other.variance <= (1 + AMBIGUITY) ** 2 * best.variance and best.status == Status.CONVERGED:
            return best._replace(status=Status.AMBIGUOUS)
    return best


def _descended(
    metric: Metric,
    points: Float[Tensor, "point latent"],
    weights: Float[Tensor, " point"],
    mean: Float[Tensor, " latent"],
    init: Start | Search | None,
    solver: GaussNewton,
    tolerance: float,
    max_steps: int,
) -> FrechetMean:
    """Steps along the mean of the logarithms, each so short that it lowers the variance."""
    logs = logarithm(metric, mean.expand_as(points), points, init=init, solver=solver)
    # Twice the energy, and not the squared length, is what the velocities are the gradient of, at any N.
    variance = 2 * weights @ logs.geodesics.energy
    share, status = 1.0, Status.MAX_STEPS
    for step in range(max_steps + 1):
        velocity = weights @ logs.velocity
        if not velocity.isfinite().all():
            return FrechetMean(mean * torch.nan, variance * torch.nan, step, Status.NONFINITE)
        if velocity @ metric.tensor(mean) @ velocity <= tolerance**2 * variance:
            status = Status.CONVERGED
            break
        if share < MIN_SHARE:
            status = Status.STALLED
            break
        if step == max_steps:
            break
        trial = exponential(metric, mean[None], share * velocity[None], STEP_SEGMENTS).point[0]
        if trial.isfinite().all():
            paths = logs.geodesics.path
            remaining = torch.linspace(1, 0, paths.shape[1], dtype=paths.dtype, device=paths.device)[:, None]
            moved = paths + remaining * (trial - mean)
            new = logarithm(metric, trial.expand_as(points), points, init=moved, solver=solver)
            new_variance = 2 * weights @ new.geodesics.energy
            if new_variance < variance:
                mean, logs, variance = trial, new, new_variance
                continue
        share /= 2
    return FrechetMean(mean, variance, step, max(status, Status(int(logs.geodesics.status.max()))))


def _shares(points: Float[Tensor, "point latent"], weights: Points | None) -> Float[Tensor, " point"]:
    """Weights with sum 1, once all arguments fit."""
    if not len(points):
        raise ValueError("points: expected at least one; got none.")
    if weights is None:
        return points.new_full((len(points),), 1 / len(points))
    weights = latent_points("weights", weights, "point")
    check_alike("weights points[:,0]", points[:, 0], weights)
    if not (weights.isfinite().all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError("weights: expected finite numbers, none negative and not all zero.")
    return weights / weights.sum()
