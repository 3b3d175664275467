"""The evidence lower bound of a Pyro model/guide pair, with given noise, so that many of them can be batched."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.distributions import kl_divergence

from probgeo.likelihoods.normal import Normal
from probgeo.models.noise import noise_shape, transformed
from probgeo.seeds import stream


class ELBO(nn.Module):
    """Terms of -ELBO = KL(q ‖ p) - E_q[log p(x | z)] per row of data, of a model/guide pair, with given noise.

    The expectation is one reparametrised sample; Kullback-Leibler divergences are exact, site by site.
    """

    def __init__(self, model: Any, num_rows: int) -> None:
        super().__init__()
        self.model: Any = model
        self.num_rows = num_rows

    def forward(
        self, x: Float[Tensor, "row observation"], noise: dict[str, Tensor], beta: Float[Tensor, " latent"]
    ) -> dict[str, Tensor]:
        """Terms per row: loss = β-weighted kl - log_likelihood; kl is unweighted."""
        with _GivenNoise(noise):
            posterior = poutine.trace(self.model.guide).get_trace(x, self.num_rows, beta)
        joint = poutine.trace(poutine.replay(self.model.model, posterior)).get_trace(x, self.num_rows, beta)
        log_likelihood = kl = weighted_kl = torch.zeros((), dtype=x.dtype, device=x.device)
        site: Any
        for name, site in prune_subsample_sites(joint).nodes.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                log_likelihood = log_likelihood + _summed_log_prob(site["fn"], site["value"], site["scale"])
            else:
                fitted: Any = posterior.nodes[name]
                divergence = kl_divergence(fitted["fn"], site["fn"])
                kl = kl + _plate_scale(site) * divergence.sum()
                weighted_kl = weighted_kl + (site["scale"] * divergence).sum()
        terms = {"loss": weighted_kl - log_likelihood, "log_likelihood": log_likelihood, "kl": kl}
        return {name: value / self.num_rows for name, value in terms.items()}


def _summed_log_prob(distribution: Any, value: Tensor, scale: Tensor | float) -> Float[Tensor, ""]:
    """Σ scale · log p(value), with as few tensors of the value's size as the distribution allows."""
    if isinstance(scale, Tensor) and scale.numel() > 1:
        return (scale * distribution.log_prob(value)).sum()
    if isinstance(distribution, Normal) and value.shape == distribution.batch_shape:
        return scale * distribution.summed_log_prob(value)
    return scale * distribution.log_prob(value).sum()


def _plate_scale(site: dict[str, Any]) -> float:
    sizes = [(frame.full_size or frame.size) / frame.size for frame in site["cond_indep_stack"] if frame.vectorized]
    return math.prod(sizes, start=1.0)


def noise_shapes(model: Any, x: Float[Tensor, "row observation"]) -> dict[str, torch.Size]:
    """Shape of the standard normal noise that each latent variable of the guide needs for a minibatch like x.

    The model is run too: what is made at its first use is made here, and not under vmap.
    """
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
        trace = poutine.trace(model.guide).get_trace(x)
        poutine.replay(model.model, trace)(x)
    sites: Any = prune_subsample_sites(trace).nodes.items()
    return {name: noise_shape(site["fn"]) for name, site in sites if site["type"] == "sample"}


def random_noise(
    seeds: Sequence[int], steps: int, shapes: Mapping[str, torch.Size], *purpose: Any
) -> dict[str, Float[Tensor, "seed step *shape"]]:
    """Standard normal noise of each seed, step and latent variable, from streams of (seed, variable, purpose)."""
    return {
        name: torch.stack([torch.randn((steps, *shape), generator=stream(seed, name, *purpose)) for seed in seeds])
        for name, shape in shapes.items()
    }


def random_rows(
    seeds: Sequence[int], steps: int, batch_size: int, num_rows: int, *purpose: Any
) -> Int[Tensor, "seed step row"]:
    """Rows of each minibatch of an epoch, none twice, for each seed, from streams of (seed, purpose)."""
    orders = [torch.randperm(num_rows, generator=stream(seed, *purpose)) for seed in seeds]
    return torch.stack(orders)[:, : steps * batch_size].unflatten(1, (steps, batch_size))


class _GivenNoise(Messenger):
    """Samples latent variables from given standard normal noise, so that a retraining's noise is its own."""

    def __init__(self, noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if message["name"] in self.noise:
            message["value"] = transformed(message["fn"], self.noise[message["name"]], message["name"])
            message["done"] = True
