"""An image that is turned: a closed curve among images, whose coordinate is an angle."""

import dataclasses
from functools import partial
from math import pi

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.immersed import counted, immersed

NUM_CHORDS = 4096  # of the closed curve, whose lengths add up to its own to a millionth


def rotated_image(
    image: Float[Tensor, "height width"], num_points: int = 1000, noise: float = 0.0, seed: int = 0, blur: float = 0.6
) -> Dataset:
    """An image turned about its centre by angles θ, x_p(θ) = Σ_q I_q k(R(−θ) p − q); distance along the closed curve.

    Pixels are Gaussian spots of light, k the density of N(0, b² I), so that the image can be turned by any angle and x
    is a smooth function of it. The distance is the shorter way round, by arc length: the sum of the chords of a fine
    mesh of angles. A turned image moves at nearly the same speed at all angles, so that the distance is nearly
    proportional to the difference of angles, `identifiability.circular_difference`.

    Args:
        image: what is turned, one number per pixel; what is outside of it is 0.
        num_points: rows, θ uniform on [−π, π).
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of angles and noise.
        blur: b, in pixels.

    Returns:
        a data set with latent (row, 1) = θ in radians, immersion and distance, shown as images.

    Raises:
        ValueError: no image, one that is the same at all angles, num_points below one, noise below zero, or a blur that
            is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> digits = pg.datasets.digits()
        >>> seven = digits.x[digits.labels == 7][0].reshape(8, 8)
        >>> turned = pg.datasets.rotated_image(seven, num_points=100)
        >>> turned.x.shape, turned.shape
        (torch.Size([100, 64]), (8, 8))
        >>> far, near = turned.distance(torch.zeros(2, 1), torch.tensor([[3.14], [6.27]]))
        >>> bool(far > 100 * near)  # 6.27 is nearly once round
        True
    """
    if image.ndim != 2 or not image.isfinite().all():
        raise ValueError(f"image: expected finite numbers, (height, width); got shape {tuple(image.shape)}.")
    if not blur > 0:
        raise ValueError(f"blur: expected a positive number of pixels; got {blur}.")
    immersion = partial(_turned_image, image=image.double(), blur=blur)
    mesh = torch.linspace(-pi, pi, NUM_CHORDS + 1, dtype=torch.float64)[:, None]
    chords = torch.cat([(part[1:] - part[:-1]).norm(dim=1) for part in _meshes(immersion, mesh)])
    if not chords.sum() > 1e-9 * image.abs().max():
        raise ValueError("image: expected one that differs when it is turned; got one that is the same at all angles.")
    arc = torch.cat([torch.zeros(1, dtype=torch.float64), chords.cumsum(0)])
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-pi, pi, size=(counted(num_points), 1))
    data = immersed("rotated_image", angle, immersion, partial(_way_round, arc=arc), noise, rng)
    return dataclasses.replace(data, shape=tuple(image.shape))


def _meshes(immersion: partial, mesh: Tensor) -> list[Tensor]:
    """Images of a mesh in parts that share their ends."""
    step = 256
    return [immersion(mesh[begin : begin + step + 1]) for begin in range(0, len(mesh) - 1, step)]


def _turned_image(
    z: Float[Tensor, "*batch 1"], image: Float[Tensor, "height width"], blur: float
) -> Float[Tensor, "*batch pixel"]:
    height, width = image.shape
    rows = torch.arange(height, dtype=z.dtype, device=z.device) - (height - 1) / 2
    columns = torch.arange(width, dtype=z.dtype, device=z.device) - (width - 1) / 2
    down, right = (each.flatten() for each in torch.meshgrid(rows, columns, indexing="ij"))
    # Where each pixel of the turned image comes from.
    from_right = z.cos() * right + z.sin() * down
    from_down = z.cos() * down - z.sin() * right
    # The Gaussian is a product of one of rows and one of columns.
    of_rows = _spot(from_down[..., None] - rows, blur)
    of_columns = _spot(from_right[..., None] - columns, blur)
    return ((of_rows @ image.to(z)) * of_columns).sum(-1)


def _spot(apart: Tensor, blur: float) -> Tensor:
    return torch.exp(-((apart / blur) ** 2) / 2) / (blur * (2 * pi) ** 0.5)


def _way_round(
    a: Float[Tensor, "*#batch 1"], b: Float[Tensor, "*#batch 1"], arc: Float[Tensor, " node"]
) -> Float[Tensor, "*#batch"]:
    """The shorter of the two ways along a closed curve, by its arc lengths at angles from −π to π."""
    apart = (_arc_length(a, arc) - _arc_length(b, arc)).abs()
    return torch.minimum(apart, arc[-1].to(apart) - apart)


def _arc_length(z: Float[Tensor, "*batch 1"], arc: Float[Tensor, " node"]) -> Float[Tensor, "*batch"]:
    place = torch.remainder(z.squeeze(-1).double() + pi, 2 * pi) / (2 * pi) * (len(arc) - 1)
    index = place.floor().long().clamp(0, len(arc) - 2)
    arc = arc.to(z.device)
    return torch.lerp(arc[index], arc[index + 1], place - index).to(z.dtype)
