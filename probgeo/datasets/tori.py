"""Geodesic distance on a torus of revolution, by shooting: no closed form is known."""

from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

NUM_RAYS = 120  # from each point, over the half circle of directions
NUM_SECTORS = 8  # of directions; in each, the ray that leads best is shot again
STEP = 0.05  # arc length between the points of a ray
NUM_CORRECTIONS = 8
NUM_STEPS = 96  # of a ray that is shot again
LONGEST_CORRECTION = 0.3
DIFFERENCE = 1e-6  # of velocities, for their derivative
TOLERANCE = 1e-8  # by which a shot may miss
CHUNK = 256  # pairs at once


def torus_immersion(z: Float[Tensor, "*batch 2"], tube: float) -> Float[Tensor, "*batch 3"]:
    """((1 + r cos v) cos u, (1 + r cos v) sin u, r sin v)."""
    u, v = z.unbind(-1)
    axis = 1 + tube * v.cos()
    return torch.stack([axis * u.cos(), axis * u.sin(), tube * v.sin()], dim=-1)


def torus_distance(
    a: Float[Tensor, "*#batch 2"], b: Float[Tensor, "*#batch 2"], tube: float
) -> Float[Tensor, "*#batch"]:
    """The length of the shortest geodesic from a to b, by the metric ϱ² du² + r² dv², ϱ = 1 + r cos v.

    A fan of geodesics is shot from a; those that lead best to b are shot again, their velocities corrected by Newton's
    method until they hit it. A ray of the fan and a line from one of its points to b are a path from a to b, so that
    their length bounds the distance from above: what is found is no longer.

    Args:
        a, b: (u, v) in radians.
        tube: radius r.

    Returns:
        distances, correct to 1e-6.

    Raises:
        ArithmeticError: no geodesic was found that is as short as that bound.
    """
    shape, dtype = torch.broadcast_shapes(a.shape, b.shape), torch.result_type(a, b)
    a, b = (point.expand(shape).reshape(-1, 2).double() for point in (a, b))
    # From the outer of the two, so that the distance is the same from either end.
    swap = (b[:, 1].cos() > a[:, 1].cos())[:, None]
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    # The torus is symmetric about its axis, and about every plane through it: a at u = 0, b at 0 <= u <= π.
    goal = torch.stack([_wrapped(b[:, 0] - a[:, 0]).abs(), b[:, 1]], dim=1)
    parts = [_shot(v, q, tube) for v, q in zip(a[:, 1].split(CHUNK), goal.split(CHUNK), strict=True)]
    return torch.cat(parts).reshape(shape[:-1]).to(dtype)


def _shot(v: Float[Tensor, " pair"], goal: Float[Tensor, "pair 2"], tube: float) -> Float[Tensor, " pair"]:
    """Distances from (0, v)."""
    velocity, bound = _fan(v, goal, tube)
    moved = DIFFERENCE * torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=v.dtype)[:, None, None]
    for _ in range(NUM_CORRECTIONS):
        missed, *others = _missed(_end(v, velocity + moved, tube), goal[:, None], tube)
        jacobian = (torch.stack(others, dim=-1) - missed[..., None]) / DIFFERENCE
        # A singular derivative, at a conjugate point, gives no correction and no hit.
        correction = torch.linalg.solve_ex(jacobian, -missed).result.nan_to_num(0, 0, 0)
        length = correction.norm(dim=-1, keepdim=True)
        velocity = velocity + correction * (LONGEST_CORRECTION / length.clamp_min(LONGEST_CORRECTION))
    missed = _missed(_end(v, velocity, tube), goal[:, None], tube).norm(dim=-1)
    found = velocity.norm(dim=-1).masked_fill(~(missed < TOLERANCE), torch.inf).amin(1)
    same = (_missed(torch.stack([torch.zeros_like(v), v], dim=1), goal, tube) == 0).all(1)
    found = found.masked_fill(same, 0)
    if not (found <= bound + TOLERANCE).all():
        raise ArithmeticError("distance: no geodesic was found that is as short as a path that is known.")
    return found


def _fan(v: Tensor, goal: Tensor, tube: float) -> tuple[Float[Tensor, "pair sector 2"], Float[Tensor, " pair"]]:
    """Velocities of the rays that lead best to the goal, in each sector, and a bound of the distance from above."""
    angle = torch.linspace(-pi / 2, pi / 2, NUM_RAYS, dtype=v.dtype)
    heading = torch.stack([angle.cos(), angle.sin()], dim=1).expand(len(v), -1, -1)
    rays = _started(v, heading, tube)
    best, length = v.new_full(heading.shape[:2], torch.inf), v.new_zeros(heading.shape[:2])
    # No distance is longer than round the tube, half round the inner circle, and round the tube again.
    for index in range(int(pi * (1 + tube) / STEP) + 2):
        bound = index * STEP + _line(rays[0], rays[1], goal[:, None], tube)
        length = torch.where(bound < best, index * STEP, length)
        best = torch.minimum(bound, best)
        rays = _stepped(rays, STEP, tube)
    chosen = best.view(len(v), NUM_SECTORS, -1).argmin(-1, keepdim=True)
    of_sector = (length[..., None] * heading).view(len(v), NUM_SECTORS, -1, 2)
    return torch.take_along_dim(of_sector, chosen[..., None], 2).squeeze(2), best.amin(1)


def _line(u: Tensor, v: Tensor, goal: Tensor, tube: float) -> Tensor:
    """The length of the straight line of the coordinates to the goal, or more: ϱ changes by at most r |dv|."""
    du, dv = _wrapped(goal[..., 0] - u).abs(), _wrapped(goal[..., 1] - v).abs()
    axis = (_axis(v, tube) + _axis(goal[..., 1], tube)) / 2 + tube * dv / 2
    return torch.hypot(axis * du, tube * dv)


def _missed(end: Float[Tensor, "*batch 2"], goal: Float[Tensor, "*#batch 2"], tube: float) -> Tensor:
    """From the goal to the end, in units of length."""
    du, dv = _wrapped(end - goal).unbind(-1)
    return torch.stack([_axis(goal[..., 1], tube) * du, tube * dv], dim=-1)


def _end(v: Tensor, velocity: Float[Tensor, "*shot pair sector 2"], tube: float) -> Tensor:
    """Where the geodesics from (0, v) are at time 1."""
    rays = _started(v, velocity, tube)
    for _ in range(NUM_STEPS):
        rays = _stepped(rays, 1 / NUM_STEPS, tube)
    return torch.stack([rays[0], rays[1]], dim=-1)


def _started(v: Tensor, velocity: Float[Tensor, "*shot pair ray 2"], tube: float) -> Tensor:
    """u, v, u′, v′ of points of geodesics, (4, *batch), by arc length or by time."""
    v = v[:, None].expand(velocity.shape[:-1])
    return torch.stack([torch.zeros_like(v), v, velocity[..., 0] / _axis(v, tube), velocity[..., 1] / tube])


def _stepped(rays: Tensor, step: float, tube: float) -> Tensor:
    """The classical method of fourth order."""
    first = _slope(rays, tube)
    second = _slope(rays + step / 2 * first, tube)
    third = _slope(rays + step / 2 * second, tube)
    fourth = _slope(rays + step * third, tube)
    return rays + step / 6 * (first + 2 * (second + third) + fourth)


def _slope(rays: Tensor, tube: float) -> Tensor:
    """u″ = −2 (ϱ′/ϱ) u′ v′, v″ = ϱ ϱ′ u′² / r², ϱ′ = −r sin v."""
    _, v, du, dv = rays
    axis, bend = 1 + tube * v.cos(), -tube * v.sin()
    return torch.stack([du, dv, -2 * bend / axis * du * dv, axis * bend * (du / tube) ** 2])


def _axis(v: Tensor, tube: float) -> Tensor:
    """ϱ, the distance from the axis."""
    return 1 + tube * v.cos()


def _wrapped(angle: Tensor) -> Tensor:
    return torch.remainder(angle + pi, 2 * pi) - pi
