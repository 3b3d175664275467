"""Exponential, logarithm, transport and angles, all by three nodes in balance: discrete geodesic calculus.

A node of a discrete geodesic lies where the energy's gradient vanishes. Of three nodes, the middle one can be sought
(a midpoint), or the last one (the next node of a geodesic, a reflection). A velocity v at z enters and leaves through
the discrete momentum G(z) v = −∂E/∂z, which depends on no coordinates and is accurate to second order in 1/N.

References:
    Rumpf and Wirth, Variational time discretization of geodesic calculus (2015).
    Marsden and West, Discrete mechanics and variational integrators (2001), on discrete Legendre transforms.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probgeo.geometry.calculus.arguments import check_metric
from probgeo.geometry.geodesics import AMBIGUITY, GaussNewton, Geodesics, Start, Status, geodesic, length, worse
from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points, check_alike, latent_points
from probgeo.geometry.routes import Search

MAX_STEPS = 40


class Shots(NamedTuple):
    """Geodesics of given initial velocities: what `exponential` returns.

    Attributes:
        point: where they are after unit time, (batch, latent).
        path: nodes at uniform times, (batch, node, latent).
        status: a `Status` each, (batch); MAX_STEPS: some node's balance was not found.

    Example:
        >>> import torch, probgeo as pg
        >>> plane = pg.PullbackMetric(lambda z: 3 * z)
        >>> shots = pg.calculus.exponential(plane, torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]), num_segments=2)
        >>> shots.path, shots.status
        (tensor([[[0.0000, 0.0000],
                 [0.5000, 1.0000],
                 [1.0000, 2.0000]]]), tensor([0]))
    """

    point: Float[Tensor, "batch latent"]
    path: Float[Tensor, "batch node latent"]
    status: Int[Tensor, " batch"]


class Logarithms(NamedTuple):
    """Initial velocities of geodesics between given points: what `logarithm` returns.

    Attributes:
        velocity: in latent coordinates per unit time, (batch, latent); its G-norm is the distance.
        geodesics: what they are the velocities of, with status.

    Example:
        >>> import torch, probgeo as pg
        >>> plane = pg.PullbackMetric(lambda z: 3 * z)
        >>> found = pg.calculus.logarithm(plane, torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        >>> found.velocity, found.geodesics.length  # √(vᵀGv) = 3 · 5
        (tensor([[3.0000, 4.0000]]), tensor([15.]))
    """

    velocity: Float[Tensor, "batch latent"]
    geodesics: Geodesics


class Angles(NamedTuple):
    """Angles between geodesics that start at one corner: what `angle` returns.

    Attributes:
        angle: in radians, 0 … π, (batch); NaN where a side has length zero.
        status: the worse of the two sides' `Status`, (batch); AMBIGUOUS: a side has a rival as short.

    Example:
        >>> import torch, probgeo as pg
        >>> corner, side = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
        >>> pg.calculus.angle(pg.PullbackMetric(lambda z: z), corner, side, torch.tensor([[0.0, 5.0]]))
        Angles(angle=tensor([1.5708]), status=tensor([0]))
    """

    angle: Float[Tensor, " batch"]
    status: Int[Tensor, " batch"]


def exponential(metric: Metric, point: Points, velocity: Points, num_segments: int = 256) -> Shots:
    """exp_z(v): the point reached in unit time from z with initial velocity v, and the way there.

    Each node follows from the two before it, so that the path is a stationary point of the discrete energy, as those of
    `geodesic` are: `exponential` and `logarithm` with equal N are inverse to each other up to the solver's tolerance
    where the metric is smooth. Under the metric of a ReLU decoder, which jumps, expect agreement to a few percent.

    Args:
        metric: a metric.
        point: z, (batch, latent).
        velocity: v in latent coordinates per unit time, (batch, latent).
        num_segments: N; the error falls as N⁻² for a smooth metric.

    Returns:
        End points, paths and status. Rows are independent. MAX_STEPS where a node's balance was not found: segments are
        too long for the curvature, or so short that rounding hides it (float32, tiny velocities). Where the metric is
        not finite the nodes from there on are NaN.

    Raises:
        TypeError, ValueError: an argument's type, shape, dtype or device does not fit, or `num_segments` is below one.

    Example:
        >>> import torch, probgeo as pg
        >>> def half_plane(z):  # G = I / y²
        ...     return torch.eye(2, dtype=z.dtype) / z[..., 1:, None] ** 2
        >>> point, velocity = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
        >>> shot = pg.calculus.exponential(pg.TensorMetric(half_plane), point, velocity, num_segments=32)
        >>> shot.point.round(decimals=2).abs()  # straight up, as far as it takes at unit speed: e
        tensor([[0.0000, 2.7200]], dtype=torch.float64)

    References:
        Rumpf and Wirth, Variational time discretization of geodesic calculus (2015).
    """
    check_metric(metric)
    point = latent_points("point", point, "batch latent")
    velocity = latent_points("velocity", velocity, "batch latent")
    check_alike("velocity point", point, velocity)
    if num_segments < 1:
        raise ValueError(f"num_segments: expected at least 1; got {num_segments}.")
    with torch.no_grad():
        second, error = _departed(metric, point, velocity / num_segments)
        path = [point, second]
        for _ in range(num_segments - 1):
            last, miss = _continued(metric, path[-2], path[-1], _extrapolated(path[-4:]))
            path.append(last)
            error = torch.maximum(error, miss)  # NaN stays
    nodes = torch.stack(path, dim=1)
    status = torch.where(_settled(error), Status.CONVERGED, Status.MAX_STEPS)
    status = torch.where(nodes.isfinite().flatten(1).all(1) & error.isfinite(), status, Status.NONFINITE)
    return Shots(nodes[:, -1], nodes, status)


def logarithm(
    metric: Metric,
    point: Points,
    other: Points,
    *,
    init: Points | Start | Search | None = None,
    solver: GaussNewton | None = None,
) -> Logarithms:
    """log_z(y): the initial velocity of the geodesic from z to y in unit time, G(z)⁻¹(−∂E/∂z).

    Args:
        metric: a metric.
        point: z, (batch, latent).
        other: y, (batch, latent).
        init: as for `geodesic`.
        solver: by default Gauss–Newton with 256 segments and a tolerance that suits the dtype: a velocity is as
            inaccurate as the square root of the solver's tolerance.

    Returns:
        Velocities, and the geodesics with their status. Zero at equal points; NaN where the status is NONFINITE. Where
        the geodesics' `gap` is next to nothing there is another velocity as good.

    Raises:
        TypeError, ValueError: an argument's type, shape, dtype or device does not fit.

    Example:
        >>> import torch, probgeo as pg
        >>> def half_plane(z):  # G = I / y²
        ...     return torch.eye(2, dtype=z.dtype) / z[..., 1:, None] ** 2
        >>> point, other = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[0.0, torch.e]]).double()
        >>> found = pg.calculus.logarithm(pg.TensorMetric(half_plane), point, other)
        >>> found.velocity.round(decimals=3).abs(), found.geodesics.length.round(decimals=3)  # at (0, 1), where G = I
        (tensor([[0., 1.]], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    check_metric(metric)
    point = latent_points("point", point, "batch latent")
    other = latent_points("other", other, "batch latent")
    check_alike("other point", point, other)
    solver = precise(point.dtype) if solver is None else solver
    found = geodesic(metric, point, other, init=init, solver=solver)
    with torch.no_grad():
        velocity = (found.path.shape[1] - 1) * _displacement(metric, point, found.path[:, 1])
        velocity = torch.where((point == other).all(1, keepdim=True), 0, velocity)
        velocity = torch.where((found.status == Status.NONFINITE)[:, None], torch.nan, velocity)
    return Logarithms(velocity, found)


def parallel_transport(metric: Metric, path: Points, vector: Points) -> Tensor:
    """The vector carried along the path so that it stays parallel, by the pole ladder, one rung per segment.

    The vector is laid off at the first node as a point, as far away as a segment is long on average. Reflected through
    the midpoints of all segments, one after the other, that point ends beside the last node, where it is read off.

    Args:
        metric: a metric.
        path: nodes of any path, geodesic or not, (batch, node, latent).
        vector: at the first node, in latent coordinates, (batch, latent).

    Returns:
        The vector at the last node, (batch, latent); the error, of norms and inner products too, falls as N⁻² for a
        smooth metric, and hardly at all where kinks of a decoder carry its curvature. NaN, for that row alone, where
        the metric is not finite or a node's balance was not found.

    Raises:
        TypeError, ValueError: an argument's type, shape, dtype or device does not fit.

    Example:
        >>> import torch, probgeo as pg
        >>> def sphere(z):  # z: polar angle and azimuth
        ...     polar, azimuth = z.unbind(-1)
        ...     around = polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin()
        ...     return torch.stack([*around, polar.cos()], dim=-1)
        >>> azimuth = torch.linspace(0, 2 * torch.pi, 33, dtype=torch.float64)
        >>> circle = torch.stack([torch.full_like(azimuth, torch.pi / 3), azimuth], dim=-1)  # once round, at 30° north
        >>> south = torch.tensor([[1.0, 0.0]]).double()
        >>> turned = pg.calculus.parallel_transport(pg.PullbackMetric(sphere), circle[None], south)
        >>> round(turned[0, 0].item(), 1)  # by 2π cos(π/3) = π: it points north
        -1.0

    References:
        Guigui and Pennec, Numerical accuracy of ladder schemes for parallel transport on manifolds (2022).
    """
    check_metric(metric)
    path = latent_points("path", path, "batch node latent")
    vector = latent_points("vector", vector, "batch latent")
    if path.shape[1] < 2:
        raise ValueError(f"path: expected at least two nodes; got shape {tuple(path.shape)}.")
    check_alike("vector path[:,0]", path[:, 0], vector)
    segments = path.shape[1] - 1
    with torch.no_grad():
        lines = torch.stack([path[:, :-1], (path[:, :-1] + path[:, 1:]) / 2, path[:, 1:]], dim=2).flatten(0, 1)
        lines, miss = _balanced(metric, lines, torch.zeros_like(lines[:, 0]), moved=1, share=1)
        middles, error = lines[:, 1].unflatten(0, (-1, segments)), miss.unflatten(0, (-1, segments)).amax(1)
        norm = _norm(metric.tensor(path[:, 0]), vector)
        scale = (length(metric, path) / segments / norm)[:, None]
        nothing = (norm[:, None] == 0) | (scale == 0)
        offset, miss = _departed(metric, path[:, 0], torch.where(nothing, 0, scale * vector))
        error = torch.maximum(error, miss)
        for middle in middles.unbind(1):
            offset, miss = _continued(metric, offset, middle, 2 * middle - offset)
            error = torch.maximum(error, miss)
        carried = (-1) ** segments / scale * _displacement(metric, path[:, -1], offset)
    carried = torch.where(_settled(error)[:, None], carried, torch.nan)
    return torch.where(nothing, vector, carried)


def angle(
    metric: Metric,
    corner: Points,
    first: Points,
    second: Points,
    *,
    init: Start | Search | None = None,
    solver: GaussNewton | None = None,
) -> Angles:
    """∠(y, z, w): the angle at z between the geodesics to y and to w, cos = ⟨u, v⟩ / ‖u‖‖v‖ in G(z).

    Args:
        metric: a metric.
        corner: z, (batch, latent).
        first: y, (batch, latent).
        second: w, (batch, latent).
        init: None, a callable or a graph, as for `geodesic`.
        solver: as for `logarithm`.

    Returns:
        Angles and status; where a search found a side's second geodesic to be as short, which leaves the corner
        elsewhere, the status is AMBIGUOUS.

    Raises:
        TypeError, ValueError: an argument's type, shape, dtype or device does not fit.

    Example:
        >>> import torch, probgeo as pg
        >>> def sphere(z):  # z: polar angle and azimuth
        ...     polar, azimuth = z.unbind(-1)
        ...     around = polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin()
        ...     return torch.stack([*around, polar.cos()], dim=-1)
        >>> corner = torch.tensor([[torch.pi / 2, 0.0]]).double()  # on the equator
        >>> east, north = torch.tensor([[torch.pi / 2, 1.0]]).double(), torch.tensor([[0.5, 0.0]]).double()
        >>> found = pg.calculus.angle(pg.PullbackMetric(sphere), corner, east, north)
        >>> found.angle.rad2deg().round(decimals=2), found.status
        (tensor([90.], dtype=torch.float64), tensor([0]))
    """
    check_metric(metric)
    corner = latent_points("corner", corner, "batch latent")
    first, second = latent_points("first", first, "batch latent"), latent_points("second", second, "batch latent")
    for name, points in (("first", first), ("second", second)):
        check_alike(f"{name} corner", corner, points)
    sides = logarithm(metric, corner.repeat(2, 1), torch.cat([first, second]), init=init, solver=solver)
    with torch.no_grad():
        tensor = metric.tensor(corner)
        u, v = (x / _norm(tensor, x)[:, None] for x in sides.velocity.chunk(2))
        # Unlike arccos of the inner product, accurate near 0 and π too (Kahan 2006).
        angles = 2 * torch.atan2(_norm(tensor, u - v), _norm(tensor, u + v))
    worst = worse(*sides.geodesics.status.chunk(2))
    ambiguous = (sides.geodesics.gap <= AMBIGUITY).view(2, -1).any(0)
    return Angles(angles, torch.where(ambiguous & (worst == Status.CONVERGED), int(Status.AMBIGUOUS), worst))


def precise(dtype: torch.dtype, num_segments: int = 256) -> GaussNewton:
    """Gauss–Newton for velocities, which are only as accurate as the square root of its tolerance on the energy.

    Args:
        dtype: of the points.
        num_segments: N.

    Returns:
        The solver, with a tolerance some way above the dtype's rounding.
    """
    return GaussNewton(num_segments, tolerance=torch.finfo(dtype).eps ** 0.8, max_steps=100)


def _departed(metric: Metric, point: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    """The node behind `point` whose `_displacement` is the given one, and the relative error."""
    force = -2 * _product(metric.tensor(point), displacement)
    nodes, error = _balanced(metric, torch.stack([point, point, point + displacement], dim=1), force, moved=2, share=-2)
    return nodes[:, 2], error


def _continued(metric: Metric, first: Tensor, middle: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """The node behind `middle` with which `middle` is a midpoint, and the relative error."""
    nodes = torch.stack([first, middle, guess], dim=1)
    nodes, error = _balanced(metric, nodes, torch.zeros_like(first), moved=2, share=-2)
    return nodes[:, 2], error


def _extrapolated(nodes: list[Tensor]) -> Tensor:
    """The next node on the polynomial through the given ones; exactly the same node where they are equal."""
    differences = torch.stack(nodes)
    ahead = differences[-1]
    while len(differences) > 1:
        differences = differences.diff(dim=0)
        ahead = ahead + differences[-1]
    return ahead


def _displacement(metric: Metric, point: Tensor, other: Tensor) -> Tensor:
    """G(z)⁻¹(−½ ∂‖r‖²/∂z) of the one segment from z = point to other."""
    # Behind a segment of length zero, the gradient at the middle node is that of the second segment alone.
    model = metric.linearize(torch.stack([point, point, other], dim=1))
    return _product(_inverse(metric.tensor(point)), -model.gradient[:, 0] / 2)


def _balanced(
    metric: Metric,
    nodes: Float[Tensor, "batch 3 latent"],
    force: Float[Tensor, "batch latent"],
    moved: int,
    share: int,
) -> tuple[Float[Tensor, "batch 3 latent"], Float[Tensor, " batch"]]:
    """The nodes with one of them moved until the energy's gradient at the middle one is `force`, by Broyden's method.

    It begins with the Gauss–Newton step of the middle node and moves the other by `share` of it: 1 for the middle node
    itself and −2 for the last, as G(b − a) = G(c − b) in the limit of short segments.

    Returns:
        The nodes, and the last step relative to the segments' length; NaN where the metric is not finite.
    """
    nodes = nodes.clone()
    error = nodes.new_full((len(nodes),), torch.inf)
    at_rest = (nodes == nodes[:, :1]).flatten(1).all(1) & (force == 0).all(1)
    error[at_rest] = 0
    active = (~at_rest).nonzero()[:, 0]
    step = lacking = reach = nodes[:0, 0]
    for count in range(MAX_STEPS):
        if not len(active):
            break
        model = metric.linearize(nodes[active])
        tensor, before, lacked = model.diagonal[:, 0], error[active], lacking
        lacking = force[active] - model.gradient[:, 0]
        reach = _updated(reach, step, lacked - lacking) if count else share * _inverse(tensor)
        step = _product(reach, lacking)
        nodes[active, moved] += step
        size = abs(share) * model.energy.sqrt().clamp_min(torch.finfo(step.dtype).tiny)
        error[active] = now = _norm(tensor, step) / size
        # Finished when another step would bring less than rounding, or has begun to bring nothing but rounding.
        finished = (now <= torch.finfo(now.dtype).eps ** 0.75) | (_settled(now) & (now > before / 2)) | ~now.isfinite()
        active, step, lacking, reach = (x[~finished] for x in (active, step, lacking, reach))
    return nodes, error


def _updated(
    inverse: Float[Tensor, "batch latent latent"],
    step: Float[Tensor, "batch latent"],
    change: Float[Tensor, "batch latent"],
) -> Float[Tensor, "batch latent latent"]:
    """Broyden's inverse Jacobian, once a step has changed the gradient: the nearest one that says so."""
    row = step[:, None] @ inverse
    length = row @ change[..., None]
    length = torch.where(length == 0, torch.inf, length)
    return inverse + (step[..., None] - inverse @ change[..., None]) @ row / length


def _settled(error: Float[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """Whether an error of `_balanced` is one of rounding."""
    return error <= torch.finfo(error.dtype).eps ** 0.4


def _inverse(tensor: Float[Tensor, "batch latent latent"]) -> Float[Tensor, "batch latent latent"]:
    """G⁻¹, with a ridge of rounding's size for directions in which the metric vanishes; NaN where G is not finite."""
    ridge = torch.finfo(tensor.dtype).eps * tensor.diagonal(dim1=1, dim2=2).amax(1)
    ridge = ridge.clamp_min(torch.finfo(tensor.dtype).tiny)
    identity = torch.eye(tensor.shape[1], dtype=tensor.dtype, device=tensor.device)
    inverse, failed = torch.linalg.inv_ex(tensor + ridge[:, None, None] * identity)
    return torch.where((failed != 0)[:, None, None], torch.nan, inverse)


def _product(matrix: Float[Tensor, "batch latent latent"], vector: Float[Tensor, "batch latent"]) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _norm(tensor: Float[Tensor, "batch latent latent"], vector: Float[Tensor, "batch latent"]) -> Tensor:
    return (vector * _product(tensor, vector)).sum(1).clamp_min(0).sqrt()
