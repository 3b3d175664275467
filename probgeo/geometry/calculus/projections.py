"""Projection onto a decoder's manifold: the nearest point of the image of an injective immersion."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.geometry.jacobians import Maps


@runtime_checkable
class Invertible(Protocol):
    """An injective immersion and a left inverse."""

    def __call__(self, z: Float[Tensor, "*batch latent"], /) -> Float[Tensor, "*batch observation"]:
        """f(z)."""

    def inverse(self, x: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch latent"]:
        """z where x = f(z)."""


class Projection(NamedTuple):
    """Points of the manifold nearest to rows x: their codes, themselves, and their distances to x."""

    z: Float[Tensor, "row latent"]
    x: Float[Tensor, "row observation"]
    distance: Float[Tensor, "row"]


@torch.no_grad()
def projection(
    immersion: Invertible,
    x: Float[Tensor, "row observation"],
    num_steps: int = 50,
    start: Float[Tensor, "row latent"] | None = None,
) -> Projection:
    """argmin_z ‖f(z) − x‖ by Gauss–Newton with step halving: a local minimum.

    Args:
        immersion: f, with its `inverse`, e.g. `model.decoder.network` of a fitted `Decoder(nn.Injective())`.
        x: observations.
        num_steps: steps at most.
        start: codes to start from; None for f's inverse at x, which is exact on the manifold but far from it may end
            in a worse minimum than an encoder's codes.

    Returns:
        Codes, images and distances; a row that lies on the manifold stays where it is.

    Raises:
        ValueError: fewer than zero steps.

    References:
        Brehmer & Cranmer (2020), Flows for simultaneous manifold learning and density estimation, section 2.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps: expected at least 0; got {num_steps}.")
    maps, z = Maps([immersion]), immersion.inverse(x) if start is None else start
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
