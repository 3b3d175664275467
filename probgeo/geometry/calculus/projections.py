"""Projection onto a decoder's manifold: the nearest point of the image of an injective immersion."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.geometry.jacobians import Maps
from probgeo.geometry.points import Points, first_line, latent_points


@runtime_checkable
class Invertible(Protocol):
    """An injective immersion and a left inverse."""

    def __call__(self, z: Float[Tensor, "*batch latent"], /) -> Float[Tensor, "*batch observation"]:
        """f(z)."""

    def inverse(self, x: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch latent"]:
        """z where x = f(z)."""


class Projection(NamedTuple):
    """Points of the manifold nearest to rows x: what `projection` returns.

    Attributes:
        z: their codes, (row, latent).
        x: the points themselves, f(z), (row, observation).
        distance: to the rows, in their units, (row).

    Example:
        >>> import torch, probgeo as pg
        >>> class Plane:
        ...     def __call__(self, z):
        ...         return torch.cat([z, torch.zeros_like(z[..., :1])], dim=-1)
        ...
        ...     def inverse(self, x):
        ...         return x[..., :2]
        >>> pg.calculus.projection(Plane(), torch.tensor([[1.0, 2.0, 7.0]]))
        Projection(z=tensor([[1., 2.]]), x=tensor([[1., 2., 0.]]), distance=tensor([7.]))
    """

    z: Float[Tensor, "row latent"]
    x: Float[Tensor, "row observation"]
    distance: Float[Tensor, " row"]


@torch.no_grad()
def projection(
    immersion: Invertible,
    x: Points,
    num_steps: int = 50,
    start: Points | None = None,
) -> Projection:
    """argmin_z ‖f(z) − x‖ by Gauss–Newton with step halving: a local minimum.

    Args:
        immersion: f, with its `inverse`, e.g. `model.decoder.network` of a fitted `Decoder(nn.Injective())`.
        x: observations, (row, observation).
        num_steps: steps at most.
        start: codes to start from, (row, latent); None for f's inverse at x, which is exact on the manifold but far
            from it may end in a worse minimum than an encoder's codes.

    Returns:
        Codes, images and distances; a row that lies on the manifold stays where it is.

    Raises:
        TypeError: an immersion without `inverse`, or rows that are no floating-point tensor or array.
        ValueError: fewer than zero steps, or another number of features, rows or latent dimensions.

    Example:
        >>> import torch, probgeo as pg
        >>> class Parabola:
        ...     def __call__(self, z):
        ...         return torch.cat([z, z**2], dim=-1)
        ...
        ...     def inverse(self, x):
        ...         return x[..., :1]
        >>> found = pg.calculus.projection(Parabola(), torch.tensor([[3.0, 0.0]]))
        >>> found.x.round(decimals=3), found.distance.round(decimals=3)  # 2z³ + z = 3 at z = 1; √(2² + 1²)
        (tensor([[1., 1.]]), tensor([2.2360]))

    References:
        Brehmer & Cranmer (2020), Flows for simultaneous manifold learning and density estimation, section 2.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps: expected at least 0; got {num_steps}.")
    if not isinstance(immersion, Invertible):
        raise TypeError(
            f"immersion: expected an injective map with `inverse`, such as the network of Decoder(nn.Injective()); got "
            f"{type(immersion).__name__}."
        )
    x = latent_points("x", x, "row observation")
    maps = Maps([immersion])
    z = _inverse(immersion, x) if start is None else latent_points("start", start, "row latent")
    if len(z) != len(x) or z.dtype != x.dtype:
        raise ValueError(f"start: expected {len(x)} rows of {x.dtype}, one for each of x; got {len(z)} of {z.dtype}.")
    if maps.values(z[:1]).shape[2] != x.shape[1]:
        raise ValueError(
            f"x: expected the immersion's {maps.values(z[:1]).shape[2]} observations; got shape {tuple(x.shape)}."
        )
    fractions = torch.tensor([0.0, *(0.5**k for k in range(12))], dtype=x.dtype, device=x.device)[:, None, None]
    for _ in range(num_steps):
        value, *columns = maps.jets(z)[:, :, 0].unbind(1)
        direction = torch.linalg.lstsq(torch.stack(columns, -1), (x - value)[..., None]).solution[..., 0]
        tried = z + fractions * direction
        best = (immersion(tried) - x).norm(dim=-1).argmin(0)
        if not best.any():
            break
        z = tried[best, torch.arange(len(z), device=z.device)]
    value = immersion(z)
    return Projection(z, value, (value - x).norm(dim=-1))


def _inverse(immersion: Invertible, x: Float[Tensor, "row observation"]) -> Float[Tensor, "row latent"]:
    """The immersion's left inverse at x, refused in words where x does not fit it."""
    try:
        return immersion.inverse(x)
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"x: the immersion's inverse cannot be called with rows {tuple(x.shape)} of {x.dtype}: "
            f"{first_line(error)} Use rows like those that it puts out, in the dtype of its weights."
        ) from error
