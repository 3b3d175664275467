"""Standard normal noise, and the samples of a distribution that it maps to."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution


def noise_shape(distribution: Distribution) -> torch.Size:
    """Shape of the standard normal noise that `transformed` needs."""
    inner = base(distribution)
    if isinstance(inner, torch.distributions.LowRankMultivariateNormal):
        return torch.Size([*inner.batch_shape, sum(inner.cov_factor.shape[-2:])])
    return distribution.batch_shape + distribution.event_shape


def base(distribution: Any) -> Any:
    """What `Independent` and the like are wrapped around."""
    while hasattr(distribution, "base_dist") and not hasattr(distribution, "transforms"):
        distribution = distribution.base_dist
    return distribution


def transformed(distribution: Distribution, noise: Tensor, name: str = "") -> Tensor:
    """The sample of `distribution`, that of site `name`, that standard normal `noise` maps to.

    Raises:
        TypeError: a distribution for which this is not known.
    """
    inner = base(distribution)
    if isinstance(inner, torch.distributions.Normal):
        return inner.loc + inner.scale * noise
    if isinstance(inner, torch.distributions.Uniform):
        return inner.low + (inner.high - inner.low) * torch.special.ndtr(noise)
    if isinstance(inner, torch.distributions.LowRankMultivariateNormal):
        factor, diagonal = inner._unbroadcasted_cov_factor, inner._unbroadcasted_cov_diag
        common, own = noise.split([factor.shape[-1], factor.shape[-2]], dim=-1)
        return inner.loc + (factor @ common[..., None])[..., 0] + diagonal.sqrt() * own
    raise TypeError(
        "guide: expected sites with Normal, LowRankMultivariateNormal or Uniform distributions; "
        f"site {name!r} has {type(inner).__name__}."
    )
