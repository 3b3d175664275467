"""Synthetic sets with a seed of their own; manifolds carry true coordinates, immersion and geodesic distance."""

from functools import partial
from math import pi

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.immersed import counted, frame, immersed, turned


def circle(num_points: int = 500, noise: float = 0.0, seed: int = 0, ambient: int = 2) -> Dataset:
    """Unit circle (cos θ, sin θ), turned at random into R^ambient; distance |θ_a − θ_b| the shorter way round.

    Args:
        num_points: rows, θ uniform on [−π, π).
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of coordinates, rotation and noise.
        ambient: dimension of x; at 2 the circle is not turned.

    Returns:
        a data set with latent (row, 1) = θ in radians, immersion and distance.

    Raises:
        ValueError: num_points below one, noise below zero, ambient below two.

    Example:
        >>> import probgeo as pg
        >>> circle = pg.datasets.circle(num_points=100)
        >>> circle.x.norm(dim=1).round(decimals=4).unique()  # of radius 1
        tensor([1.])
        >>> circle.distance(circle.latent[:1], circle.latent[:1] + 3.0)  # along the arc
        tensor([3.])
    """
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-pi, pi, size=(counted(num_points), 1))
    immersion = partial(turned, immersion=_product_of_circles, frame=frame(2, ambient, rng))
    return immersed("circle", angle, immersion, _circle_distance, noise, rng)


def swiss_roll(num_points: int = 1000, noise: float = 0.0, seed: int = 0, ambient: int = 3) -> Dataset:
    """Swiss roll (t cos t, h, t sin t), scikit-learn's; flat: distance √((s_a − s_b)² + (h_a − h_b)²).

    Here s(t) = ½ (t √(1 + t²) + arsinh t) is the arc length of the spiral.

    Args:
        num_points: rows, t uniform on [1.5 π, 4.5 π], h uniform on [0, 21].
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of coordinates, rotation and noise.
        ambient: dimension of x; at 3 it is not turned.

    Returns:
        a data set with latent (row, 2) = (t, h), immersion and distance.

    Raises:
        ValueError: num_points below one, noise below zero, ambient below three.

    Example:
        >>> import torch, probgeo as pg
        >>> roll = pg.datasets.swiss_roll(num_points=100)
        >>> a, b = torch.tensor([[6.0, 0.0]]), torch.tensor([[6.0, 7.0]])
        >>> round(roll.distance(a, b).item(), 4)  # along the axis
        7.0
        >>> torch.allclose(roll.immersion(roll.latent), roll.x, atol=1e-4)
        True
    """
    from sklearn.datasets import make_swiss_roll

    points, t = make_swiss_roll(counted(num_points), random_state=seed)
    latent = np.stack([t, points[:, 1]], axis=1)
    rng = np.random.default_rng(seed)
    immersion = partial(turned, immersion=_swiss_roll, frame=frame(3, ambient, rng))
    return immersed("swiss_roll", latent, immersion, _swiss_roll_distance, noise, rng)


def s_curve(num_points: int = 1000, noise: float = 0.0, seed: int = 0, ambient: int = 3) -> Dataset:
    """S-curve (sin t, h, sign(t) (cos t − 1)), scikit-learn's; flat: distance √((t_a − t_b)² + (h_a − h_b)²).

    Args:
        num_points: rows, t uniform on [−1.5 π, 1.5 π], h uniform on [0, 2].
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of coordinates, rotation and noise.
        ambient: dimension of x; at 3 it is not turned.

    Returns:
        a data set with latent (row, 2) = (t, h), immersion and distance.

    Raises:
        ValueError: num_points below one, noise below zero, ambient below three.

    Example:
        >>> import torch, probgeo as pg
        >>> curve = pg.datasets.s_curve(num_points=100)
        >>> a, b = torch.tensor([[-1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> round(curve.distance(a, b).item(), 4)  # unit speed
        3.0
    """
    from sklearn.datasets import make_s_curve

    points, t = make_s_curve(counted(num_points), random_state=seed)
    latent = np.stack([t, points[:, 1]], axis=1)
    rng = np.random.default_rng(seed)
    immersion = partial(turned, immersion=_s_curve, frame=frame(3, ambient, rng))
    return immersed("s_curve", latent, immersion, _plane_distance, noise, rng)


def sphere(num_points: int = 1000, noise: float = 0.0, seed: int = 0, ambient: int = 3) -> Dataset:
    """Unit sphere (cos φ cos λ, cos φ sin λ, sin φ), points uniform on it; distance along great circles.

    Args:
        num_points: rows.
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of coordinates, rotation and noise.
        ambient: dimension of x; at 3 it is not turned.

    Returns:
        a data set with latent (row, 2) = (latitude φ, longitude λ) in radians, immersion and distance.

    Raises:
        ValueError: num_points below one, noise below zero, ambient below three.

    Example:
        >>> import torch, probgeo as pg
        >>> sphere = pg.datasets.sphere(num_points=100)
        >>> sphere.x.norm(dim=1).round(decimals=4).unique()
        tensor([1.])
        >>> equator = torch.tensor([[0.0, 0.0], [0.0, 1.0]])  # latitude, longitude
        >>> round(sphere.distance(*equator).item(), 4)
        1.0
    """
    rng = np.random.default_rng(seed)
    height, longitude = rng.uniform([-1, -pi], [1, pi], size=(counted(num_points), 2)).T
    latent = np.stack([np.arcsin(height), longitude], axis=1)
    immersion = partial(turned, immersion=_sphere, frame=frame(3, ambient, rng))
    return immersed("sphere", latent, immersion, _great_circle_distance, noise, rng)


def surface(num_points: int = 1000, noise: float = 0.0, seed: int = 0, ambient: int = 10) -> Dataset:
    """Curved sheet (cos u, sin u, cos v, sin v), turned at random into R^ambient; distance √((u_a−u_b)² + (v_a−v_b)²).

    A patch of the flat torus, three quarters of the way round each circle: isometric to a square, so its geodesics
    are the straight lines of (u, v), while straight lines in R^ambient leave it.

    Args:
        num_points: rows, u and v uniform on [−0.75 π, 0.75 π].
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of coordinates, rotation and noise.
        ambient: dimension of x; at 4 the sheet is not turned.

    Returns:
        a data set with latent (row, 2) = (u, v), immersion and distance.

    Raises:
        ValueError: num_points below one, noise below zero, ambient below four.

    Example:
        >>> import torch, probgeo as pg
        >>> surface = pg.datasets.surface(num_points=100)
        >>> a, b = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.3, 0.4]])
        >>> round(surface.distance(a, b).item(), 4)
        0.5
        >>> round(pg.geodesic(pg.PullbackMetric(surface.immersion), a, b).length.item(), 4)
        0.5
    """
    rng = np.random.default_rng(seed)
    latent = rng.uniform(-0.75 * pi, 0.75 * pi, size=(counted(num_points), 2))
    immersion = partial(turned, immersion=_product_of_circles, frame=frame(4, ambient, rng))
    return immersed("surface", latent, immersion, _plane_distance, noise, rng)


def two_moons(num_points: int = 500, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Two interleaved half circles of radius 1 in the plane, scikit-learn's; the moon is the label.

    Args:
        num_points: rows.
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of points and noise.

    Returns:
        the data set, x (row, 2).

    Example:
        >>> import probgeo as pg
        >>> moons = pg.datasets.two_moons(num_points=100, noise=0.0)
        >>> moons.x.shape, moons.class_counts()
        (torch.Size([100, 2]), {'upper': 50, 'lower': 50})
    """
    from sklearn.datasets import make_moons

    x, moon = make_moons(num_points, noise=noise, random_state=seed)
    return _classes("two_moons", x, moon, ("upper", "lower"))


def circles(num_points: int = 500, noise: float = 0.05, seed: int = 0) -> Dataset:
    """Two concentric circles of radius 1 and 0.5 in the plane, scikit-learn's; the circle is the label.

    Args:
        num_points: rows.
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of points and noise.

    Returns:
        the data set, x (row, 2).

    Example:
        >>> import probgeo as pg
        >>> circles = pg.datasets.circles(num_points=100, noise=0.0)
        >>> circles.x.norm(dim=1).round(decimals=4).unique()
        tensor([0.5000, 1.0000])
    """
    from sklearn.datasets import make_circles

    x, ring = make_circles(num_points, noise=noise, random_state=seed, factor=0.5)
    return _classes("circles", x, ring, ("outer", "inner"))


def blobs(num_points: int = 500, noise: float = 1.0, seed: int = 0, ambient: int = 2, num_classes: int = 3) -> Dataset:
    """Isotropic Gaussians of standard deviation `noise` around random centres, scikit-learn's; one class each.

    Args:
        num_points: rows.
        noise: standard deviation of each Gaussian.
        seed: of centres and points.
        ambient: dimension of x.
        num_classes: Gaussians.

    Returns:
        the data set, x (row, ambient).

    Example:
        >>> import probgeo as pg
        >>> blobs = pg.datasets.blobs(num_points=90, ambient=5, num_classes=3)
        >>> blobs.x.shape, blobs.class_counts()
        (torch.Size([90, 5]), {'0': 30, '1': 30, '2': 30})
    """
    from sklearn.datasets import make_blobs

    x, blob, *_ = make_blobs(num_points, ambient, centers=num_classes, cluster_std=noise, random_state=seed)
    return _classes("blobs", x, blob, tuple(str(code) for code in range(num_classes)))


def _classes(name: str, x: np.ndarray, labels: np.ndarray, label_names: tuple[str, ...]) -> Dataset:
    codes = torch.from_numpy(labels).long()
    return Dataset(name, torch.from_numpy(x).float(), codes, label_names, shape=(x.shape[1],))


def _product_of_circles(z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch twice"]:
    return torch.stack([z.cos(), z.sin()], dim=-1).flatten(-2)


def _swiss_roll(z: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 3"]:
    t, h = z.unbind(-1)
    return torch.stack([t * t.cos(), h, t * t.sin()], dim=-1)


def _s_curve(z: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 3"]:
    t, h = z.unbind(-1)
    return torch.stack([t.sin(), h, t.sign() * (t.cos() - 1)], dim=-1)


def _sphere(z: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 3"]:
    latitude, longitude = z.unbind(-1)
    return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=-1)


def _plane_distance(a: Float[Tensor, "*#batch 2"], b: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*#batch"]:
    return torch.linalg.vector_norm(a - b, dim=-1)


def _circle_distance(a: Float[Tensor, "*#batch 1"], b: Float[Tensor, "*#batch 1"]) -> Float[Tensor, "*#batch"]:
    apart = (a - b).squeeze(-1).abs() % (2 * pi)
    return torch.minimum(apart, 2 * pi - apart)


def _swiss_roll_distance(a: Float[Tensor, "*#batch 2"], b: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*#batch"]:
    def unrolled(z: Tensor) -> Tensor:
        t, h = z.unbind(-1)
        return torch.stack([(t * (1 + t**2).sqrt() + t.asinh()) / 2, h], dim=-1)

    return _plane_distance(unrolled(a), unrolled(b))


def _great_circle_distance(a: Float[Tensor, "*#batch 2"], b: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*#batch"]:
    # Half-angle form: accurate for near and for opposite points, where the arc cosine of the inner product is not.
    u, v = _sphere(a), _sphere(b)
    return 2 * torch.atan2(torch.linalg.vector_norm(u - v, dim=-1), torch.linalg.vector_norm(u + v, dim=-1))
