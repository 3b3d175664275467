"""Surfaces and metrics whose distances are known, as immersions z ↦ f(z) and tensor fields z ↦ G(z)."""

import torch
from torch import Tensor


def plane(z: Tensor) -> Tensor:
    """A plane in space, at a slant."""
    return z @ torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 3.0]], dtype=z.dtype)


def globe(z: Tensor) -> Tensor:
    """The unit sphere by latitude and longitude."""
    latitude, longitude = z.unbind(-1)
    return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=-1)


def globe_distance(a: Tensor, b: Tensor) -> Tensor:
    """Along the great circle."""
    return 2 * ((globe(a) - globe(b)).norm(dim=-1) / 2).asin()


def sphere(z: Tensor) -> Tensor:
    """The unit sphere in stereographic projection: (0, 0), (1, 0) and (0, 1) are the corners of an octant."""
    square = z.square().sum(-1, keepdim=True)
    return torch.cat([2 * z, 1 - square], dim=-1) / (1 + square)


def cylinder(z: Tensor) -> Tensor:
    """Radius 2: angle and height."""
    return torch.stack([2 * z[..., 0].cos(), 2 * z[..., 0].sin(), z[..., 1]], dim=-1)


def paraboloid(z: Tensor) -> Tensor:
    """Height ‖z‖² / 2."""
    return torch.cat([z, z.square().sum(-1, keepdim=True) / 2], dim=-1)


def torus(z: Tensor) -> Tensor:
    """Radii 2 and 1: the angle within the tube, and around the hole."""
    a, b = z.unbind(-1)
    return torch.stack([(2 + a.cos()) * b.cos(), (2 + a.cos()) * b.sin(), a.sin()], dim=-1)


def hill(z: Tensor) -> Tensor:
    """A plane with a hill in its middle, 3 exp(−2‖z‖²): the shortest way between two sides goes round it."""
    return torch.cat([z, 3 * (-2 * z.square().sum(-1, keepdim=True)).exp()], dim=-1)


def half_plane(z: Tensor) -> Tensor:
    """The hyperbolic plane: G = I / y²."""
    return torch.eye(2, dtype=z.dtype) / z[..., 1, None, None] ** 2


def half_plane_distance(a: Tensor, b: Tensor) -> Tensor:
    """2 arsinh(‖a − b‖ / 2√(y_a y_b))."""
    return 2 * ((a - b).norm(dim=-1) / (2 * (a[..., 1] * b[..., 1]).sqrt())).asinh()


def cylinder_distance(a: Tensor, b: Tensor) -> Tensor:
    """Of ends less than half a turn apart."""
    return torch.hypot(2 * (a - b)[..., 0], (a - b)[..., 1])
