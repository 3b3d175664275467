"""Riemannian volumes: the density √det G, and its integral over a region made of simplices."""

from itertools import combinations_with_replacement
from math import factorial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import Delaunay, QhullError
from torch import Tensor

from probgeo.geometry.calculus.arguments import check_metric
from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points, latent_points, points_of

MIN_SIMPLICES = 64  # two rules on fewer may both miss what lies between their nodes
MAX_SIMPLICES = 2**15


class Volume(NamedTuple):
    """Volume of a region, an area in two dimensions, a length in one: what `volume` returns.

    Attributes:
        volume: ∫ √det G dz.
        error: estimate of its error.

    Example:
        >>> import torch, probgeo as pg
        >>> segment = torch.tensor([[[0.0], [2.0]]])
        >>> found = pg.calculus.volume(pg.PullbackMetric(lambda z: 3 * z), segment)
        >>> round(found.volume.item(), 4), found.error < 1e-4
        (6.0, tensor(True))
    """

    volume: Float[Tensor, ""]
    error: Float[Tensor, ""]


def volume_density(metric: Metric, z: Points) -> Tensor:
    """√det G(z): Riemannian volume per unit of latent volume, the magnification factor.

    Args:
        metric: a metric.
        z: latent points, (*batch, latent).

    Returns:
        (*batch); 0 where the metric is singular, NaN where it is not finite.

    Raises:
        TypeError: `metric` is no metric, or `z` no floating-point tensor or array.

    Example:
        >>> import torch, probgeo as pg
        >>> plane = pg.PullbackMetric(lambda z: z @ torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        >>> pg.calculus.volume_density(plane, torch.zeros(4, 2)).round(decimals=4)  # 2 · 3
        tensor([6., 6., 6., 6.])

    References:
        Bishop, Svensén and Williams, Magnification factors for the GTM algorithm (1997).
    """
    check_metric(metric)
    z = points_of("z", z, "*batch latent")
    # Through the logarithm, as the determinant of many dimensions leaves the range of floats.
    sign, logarithm = torch.linalg.slogdet(metric.tensor(z))
    return torch.where(sign < 0, 0, (logarithm / 2).exp())


def convex_hull(points: Points) -> Tensor:
    """The convex hull of points, cut into simplices between them (Delaunay): a region for `volume`.

    Args:
        points: latent points, (point, latent), of few dimensions: the number of simplices grows exponentially with it.

    Returns:
        Corners (simplex, vertex, latent) with latent + 1 vertices each; interiors are disjoint.

    Raises:
        TypeError, ValueError: no finite floating-point matrix, or points that span no region of positive volume.

    Example:
        >>> import torch, probgeo as pg
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> pg.calculus.convex_hull(square).shape  # two triangles
        torch.Size([2, 3, 2])
    """
    points = latent_points("points", points, "point latent")
    if not points.isfinite().all():
        raise ValueError("points: expected finite values; got NaN or infinity. Leave such points out.")
    flat = f"points: expected points that span the latent space; these {len(points)} have a hull of volume zero."
    if points.shape[1] == 1:
        sorted_points = points.unique(dim=0)
        if len(sorted_points) < 2:
            raise ValueError(flat)
        return torch.stack([sorted_points[:-1], sorted_points[1:]], dim=1)
    try:
        corners = Delaunay(points.cpu().double().numpy()).simplices
    except (QhullError, ValueError) as error:
        raise ValueError(flat) from error
    return points[torch.from_numpy(corners.astype(np.int64)).to(points.device)]


def volume(metric: Metric, region: Points, tolerance: float = 1e-3) -> Volume:
    """∫ √det G dz over a region, the sum over its simplices.

    Quadrature of degree 5 on each simplex. Its difference to one of degree 3 stands for its error, the root of their
    squared sum for the error of the whole; the simplices with most of it are halved at their longest edges until it is
    below the tolerance, or there are too many of them.

    Args:
        metric: a metric.
        region: simplices with disjoint interiors, (simplex, vertex, latent) with latent + 1 vertices: from
            `convex_hull(points)`, or any triangulation.
        tolerance: relative error.

    Returns:
        Volume and estimated error, above the tolerance where it could not be reached; NaN where the metric is not
        finite in the region. Of a density that jumps, as that of a piecewise linear decoder, the estimate is right in
        its order of magnitude only.

    Raises:
        TypeError, ValueError: an argument's type or shape does not fit, or `tolerance` is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> def sphere(z):  # z: polar angle and azimuth
        ...     polar, azimuth = z.unbind(-1)
        ...     around = polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin()
        ...     return torch.stack([*around, polar.cos()], dim=-1)
        >>> corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [torch.pi / 2, 0.0], [torch.pi / 2, 1.0]])
        >>> found = pg.calculus.volume(pg.PullbackMetric(sphere), pg.calculus.convex_hull(corners))
        >>> round(found.volume.item(), 2)  # a sector of the northern hemisphere, one radian wide
        1.0

    References:
        Grundmann and Möller, Invariant integration formulas for the n-simplex (1978).
    """
    check_metric(metric)
    region = latent_points("region", region, "simplex vertex latent")
    if region.shape[1] != region.shape[2] + 1:
        raise ValueError(
            f"region: expected simplices (simplex, vertex, latent) with one vertex more than dimensions; "
            f"got shape {tuple(region.shape)}. `convex_hull(points)` makes them from points."
        )
    if not tolerance > 0:
        raise ValueError(f"tolerance: expected a positive number; got {tolerance}.")
    with torch.no_grad():
        simplices, (volumes, errors) = region, _integrals(metric, region)
        while 0 < len(simplices) < MAX_SIMPLICES:
            allowed = (tolerance * volumes.sum()).square()
            coarse = errors.square() > allowed / len(errors)
            if len(simplices) < MIN_SIMPLICES:
                coarse = torch.ones_like(coarse)
            elif not errors.square().sum() > allowed or not coarse.any():
                break
            halves = _halved(simplices[coarse])
            new_volumes, new_errors = _integrals(metric, halves)
            # A jump may lie between the nodes of both rules; then the whole has seen it, or the other half.
            missed = (new_volumes.view(2, -1).sum(0) - volumes[coarse]).abs().repeat(2) / 2
            simplices = torch.cat([simplices[~coarse], halves])
            volumes = torch.cat([volumes[~coarse], new_volumes])
            errors = torch.cat([errors[~coarse], torch.maximum(new_errors, missed)])
    return Volume(volumes.sum(), errors.norm())


def _integrals(metric: Metric, simplices: Float[Tensor, "simplex vertex latent"]) -> tuple[Tensor, Tensor]:
    """Volume of each simplex, and the difference of two rules."""
    nodes, fine, coarse = _rule(simplices.shape[2])
    weights = torch.tensor([fine, coarse], dtype=simplices.dtype, device=simplices.device)
    points = torch.tensor(nodes, dtype=simplices.dtype, device=simplices.device) @ simplices
    density = volume_density(metric, points.flatten(0, 1)).unflatten(0, points.shape[:2])
    edges = simplices[:, 1:] - simplices[:, :1]
    volumes = density @ weights.mT * (torch.linalg.det(edges).abs() / factorial(simplices.shape[2]))[:, None]
    return volumes[:, 0], (volumes[:, 0] - volumes[:, 1]).abs()


def _rule(latent: int) -> tuple[list[list[float]], list[float], list[float]]:
    """Barycentric nodes and weights of degree 5, and the weights of degree 3 at the same nodes."""
    nodes: list[list[float]] = []
    fine: list[float] = []
    coarse: list[float] = []
    for order in (2, 1, 0):
        parts = latent + 1 + 2 * order
        for chosen in combinations_with_replacement(range(latent + 1), order):
            nodes.append([(2 * chosen.count(vertex) + 1) / parts for vertex in range(latent + 1)])
            fine.append(_weight(latent, 2, 2 - order))
            coarse.append(_weight(latent, 1, 1 - order) if order < 2 else 0.0)
    return nodes, fine, coarse


def _weight(latent: int, strength: int, index: int) -> float:
    """Weight of Grundmann and Möller's rule of degree 2·strength + 1, for a simplex of volume 1."""
    degree = 2 * strength + 1
    power = (degree + latent - 2 * index) ** degree
    share = factorial(index) * factorial(degree + latent - index)
    return (-1) ** index * power * factorial(latent) / (4**strength * share)


def _halved(simplices: Float[Tensor, "simplex vertex latent"]) -> Float[Tensor, "half vertex latent"]:
    """Two halves of each, cut at the middle of the longest edge."""
    rows = torch.arange(len(simplices), device=simplices.device)
    distances = torch.cdist(simplices, simplices).flatten(1)
    one, two = (index(distances.argmax(1), simplices.shape[1]) for index in (torch.floor_divide, torch.remainder))
    middle = (simplices[rows, one] + simplices[rows, two]) / 2
    left, right = simplices.clone(), simplices.clone()
    left[rows, one], right[rows, two] = middle, middle
    return torch.cat([left, right])
