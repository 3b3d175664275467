"""Surfaces that are harder to find: closed with curvature of both signs, with a hole, folded back on themselves."""

from functools import partial
from math import pi

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.immersed import counted, frame, immersed, turned
from probgeo.datasets.tori import torus_distance, torus_immersion


def torus(num_points: int = 1000, noise: float = 0.0, seed: int = 0, ambient: int = 3, tube: float = 0.5) -> Dataset:
    """Torus of revolution ((1 + r cos v) cos u, (1 + r cos v) sin u, r sin v), points uniform on it.

    Its distance has no closed form: geodesics are shot, and shot again at the other point, to 1e-6 of it.

    Args:
        num_points: rows.
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of coordinates, rotation and noise.
        ambient: dimension of x; at 3 it is not turned.
        tube: radius r of the tube, in (0, 1).

    Returns:
        a data set with latent (row, 2) = (u, v) in radians, round the axis and round the tube, immersion and distance;
        a thousand distances take some seconds.

    Raises:
        ValueError: num_points below one, noise below zero, ambient below three, tube out of its range.

    Example:
        >>> import torch, probgeo as pg
        >>> torus = pg.datasets.torus(num_points=100)
        >>> inside = torch.tensor([[0.0, torch.pi], [1.0, torch.pi]])
        >>> round(torus.distance(*inside).item(), 4)  # along the inner circle, of radius 1/2
        0.5
    """
    if not 0 < tube < 1:
        raise ValueError(f"tube: expected a radius in (0, 1); got {tube}.")
    rng = np.random.default_rng(seed)
    around = rng.uniform(-pi, pi, counted(num_points))
    # The area of a strip around the tube is in proportion to its distance 1 + r cos v from the axis.
    angles = rng.uniform(-pi, pi, 8 * num_points + 64)
    kept = angles[rng.uniform(0, 1 + tube, len(angles)) < 1 + tube * np.cos(angles)][:num_points]
    immersion = partial(turned, immersion=partial(torus_immersion, tube=tube), frame=frame(3, ambient, rng))
    latent = np.stack([around, kept], axis=1)
    return immersed("torus", latent, immersion, partial(torus_distance, tube=tube), noise, rng)


def plane_with_hole(
    num_points: int = 1000, noise: float = 0.0, seed: int = 0, ambient: int = 10, hole: float = 0.5
) -> Dataset:
    """The square [−1, 1]² without a disc around 0, turned at random into R^ambient; distance round the disc.

    Where the straight line from a to b misses the disc it is the shortest path. Else that is the two tangents and the
    arc between them: √(‖a‖² − ϱ²) + √(‖b‖² − ϱ²) + ϱ (∠(a, b) − arccos(ϱ/‖a‖) − arccos(ϱ/‖b‖)), ϱ the disc's radius.

    Args:
        num_points: rows, uniform on what is left of the square.
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of coordinates, rotation and noise.
        ambient: dimension of x; at 2 it is not turned.
        hole: radius ϱ of the disc, in (0, 1).

    Returns:
        a data set with latent (row, 2), immersion and distance; of points in the hole the distance is NaN.

    Raises:
        ValueError: num_points below one, noise below zero, ambient below two, hole out of its range.

    Example:
        >>> import torch, probgeo as pg
        >>> plane = pg.datasets.plane_with_hole(num_points=100)
        >>> left, right = torch.tensor([[-0.5, 0.0]]), torch.tensor([[0.5, 0.0]])
        >>> round(plane.distance(left, right).item(), 4)  # half way round
        1.5708
    """
    if not 0 < hole < 1:
        raise ValueError(f"hole: expected a radius in (0, 1); got {hole}.")
    rng = np.random.default_rng(seed)
    # At least 1 − π/4 of the square is left.
    square = rng.uniform(-1, 1, size=(8 * counted(num_points) + 64, 2))
    latent = square[np.hypot(*square.T) >= hole][:num_points]
    immersion = partial(turned, immersion=_itself, frame=frame(2, ambient, rng))
    return immersed("plane_with_hole", latent, immersion, partial(_round_a_hole, hole=hole), noise, rng)


def folded_sheet(
    num_points: int = 1000, noise: float = 0.0, seed: int = 0, ambient: int = 10, gap: float = 0.15
) -> Dataset:
    """A sheet folded in the middle, its halves close to each other; flat: distance √((s_a − s_b)² + (h_a − h_b)²).

    Its profile, along the arc length s, is a line of length 2, half a circle of radius gap/2, and a line back.

    Args:
        num_points: rows, s uniform from end to end, h uniform on [0, 2].
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of coordinates, rotation and noise.
        ambient: dimension of x; at 3 it is not turned.
        gap: between the halves, above 0.

    Returns:
        a data set with latent (row, 2) = (s, h), s = 0 in the middle of the fold, immersion and distance.

    Raises:
        ValueError: num_points below one, noise below zero, ambient below three, gap out of its range.

    Example:
        >>> import torch, probgeo as pg
        >>> sheet = pg.datasets.folded_sheet(num_points=100, gap=0.2)
        >>> a, b = torch.tensor([[-2.0, 1.0]]), torch.tensor([[2.0, 1.0]])
        >>> round(sheet.distance(a, b).item(), 4), round((sheet.immersion(a) - sheet.immersion(b)).norm().item(), 4)
        (4.0, 0.2)
    """
    if not 0 < gap < np.inf:
        raise ValueError(f"gap: expected a positive number; got {gap}.")
    rng = np.random.default_rng(seed)
    half = 2 + pi * gap / 4
    latent = rng.uniform([-half, 0], [half, 2], size=(counted(num_points), 2))
    immersion = partial(turned, immersion=partial(_folded, radius=gap / 2), frame=frame(3, ambient, rng))
    return immersed("folded_sheet", latent, immersion, _straight, noise, rng)


def _itself(z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
    return z


def _folded(z: Float[Tensor, "*batch 2"], radius: float) -> Float[Tensor, "*batch 3"]:
    s, h = z.unbind(-1)
    bend = s.clamp(-pi * radius / 2, pi * radius / 2)
    beyond = (s - bend).abs()
    return torch.stack([radius * (bend / radius).cos() - beyond, radius * (bend / radius).sin(), h], dim=-1)


def _straight(a: Float[Tensor, "*#batch 2"], b: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*#batch"]:
    return torch.linalg.vector_norm(a - b, dim=-1)


def _round_a_hole(
    a: Float[Tensor, "*#batch 2"], b: Float[Tensor, "*#batch 2"], hole: float
) -> Float[Tensor, "*#batch"]:
    far_a, far_b = (torch.linalg.vector_norm(point, dim=-1) for point in (a, b))
    cross, dot = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], (a * b).sum(-1)
    # Angles, seen from the centre, between each point and where its tangent touches.
    to_tangents = (hole / far_a).clamp(max=1).acos() + (hole / far_b).clamp(max=1).acos()
    arc = torch.atan2(cross.abs(), dot) - to_tangents
    tangents = (far_a**2 - hole**2).clamp_min(0).sqrt() + (far_b**2 - hole**2).clamp_min(0).sqrt()
    found = torch.where(arc > 0, tangents + hole * arc, _straight(a, b))
    rounding = 1 - 8 * torch.finfo(found.dtype).eps
    inside = torch.minimum(far_a, far_b) < hole * rounding
    return found.masked_fill(inside, torch.nan)
