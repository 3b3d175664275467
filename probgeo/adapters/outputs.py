"""What a decoder of plain PyTorch returns: picked, in the mean, and in the space where Fisher-Rao is Euclidean."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.geometry.points import Points, points_like
from probgeo.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, OneHotCategorical, Poisson

Pick = str | int | Callable[[Any], Any]


class Member(nn.Module):
    """One decoder, of points (point, latent), with what is picked of its output."""

    def __init__(self, decode: Callable[..., Any], output: Pick | None, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.decode, self.output, self.latent_shape = decode, output, latent_shape

    def found(self, z: Float[Tensor, "point latent"]) -> Any:
        """What the decoder returns, picked."""
        values = self.decode(z.unflatten(1, self.latent_shape) if self.latent_shape else z)
        pick = self.output
        if pick is None:
            return values
        if not isinstance(pick, (str, int)):
            return pick(values)
        by_key = isinstance(values, (Mapping, tuple, list)) and not (
            isinstance(pick, str) and hasattr(values, "_fields")
        )
        try:
            return values[pick] if by_key else getattr(values, str(pick))
        except (LookupError, AttributeError, TypeError) as error:
            raise ValueError(f"output: the decoder returns {_described(values)}, which has no {pick!r}.") from error

    def raw(self, z: Float[Tensor, "point latent"]) -> Tensor:
        """The decoder's outputs, flattened."""
        return _flat(self.found(z))

    def location_and_scale(self, z: Float[Tensor, "point latent"]) -> Tensor:
        """[μ; log σ] of a normal distribution."""
        found = self.found(z)
        return torch.cat([_flat(found.mean), _flat(found.stddev.expand_as(found.mean).log())], dim=-1)


class Headed(nn.Module):
    """head ∘ decoder."""

    def __init__(self, member: Member, head: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.member, self.head = member, head

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.member.found(z))


class Mean(nn.Module):
    """E[x | z] of what a decoder returns."""

    def __init__(self, mean: nn.Module) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, found: Any) -> Any:
        if isinstance(found, td.Distribution):
            return _flat(_mean_of(found))
        if not isinstance(found, Tensor):
            raise TypeError(
                f"decode: expected a tensor or a distribution; got {_described(found)}. Say which part with output=, "
                "such as output=0."
            )
        return self.mean(_flat(found))


class Draws(nn.Module):
    """Functions z (*batch, latent) -> (member, *batch, observation)."""

    def __init__(self, functions: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions, self.num_members = list(functions), len(functions)

    def forward(self, z: Points) -> Tensor:
        modules = (f for f in self.functions if isinstance(f, nn.Module))
        z = points_like("z", z, (weights for module in modules for weights in module.parameters()))
        points = z.reshape(-1, z.shape[-1])
        # Each its own: a decoder may work in place.
        return torch.stack([f(points.clone()) for f in self.functions]).reshape(self.num_members, *z.shape[:-1], -1)


class _Natural(NamedTuple):
    likelihood: Likelihood
    output: Tensor


def _described(values: Any) -> str:
    names = f" of {', '.join(map(str, values))}" if isinstance(values, Mapping) else ""
    count = f" of {len(values)}" if isinstance(values, (tuple, list)) else ""
    return f"a {type(values).__name__}{names}{count}"


def _flat(values: Any) -> Any:
    return values.flatten(1) if isinstance(values, Tensor) else values


def isometric(likelihood: Likelihood | None, parameters: Mapping[str, Tensor], means: bool, found: Any) -> Tensor:
    """What a decoder returns in the space whose Euclidean metric is Fisher-Rao."""
    if isinstance(found, td.Distribution):
        natural = _natural(found)
        return natural.likelihood.isometry({})(_flat(natural.output))
    if likelihood is None:
        raise TypeError(
            "fisher_rao_metric: the decoder says nothing of the distribution of x; pass likelihood= to from_torch, or "
            "use metric()."
        )
    values = _flat(found)
    return likelihood.isometry(parameters)(_natural_of_mean(likelihood, values) if means else values)


def normal_information(output: Tensor) -> Tensor:
    """Fisher information of N(μ, σ²) by μ and log σ: diag(1/σ², 2)."""
    log_std = output.chunk(2, dim=-1)[1]
    return torch.stack([(-2 * log_std).exp(), torch.full_like(log_std, 2.0)], dim=-1).diag_embed()


def _mean_of(found: td.Distribution) -> Tensor:
    base = found.base_dist if isinstance(found, td.Independent) else found
    return base.probs if isinstance(base, (td.Categorical, td.OneHotCategorical)) else base.mean


def _natural(found: td.Distribution) -> _Natural:
    """The likelihood of a distribution of torch's, and what its decoder would return."""
    base = found.base_dist if isinstance(found, td.Independent) else found
    if isinstance(base, td.Bernoulli):
        return _Natural(Bernoulli(), base.logits)
    if isinstance(base, td.Poisson):
        return _Natural(Poisson(), base.rate.log())
    if isinstance(base, (td.Categorical, td.OneHotCategorical)):
        return _Natural(Categorical(base.logits.shape[-1]), base.logits)
    raise TypeError(f"fisher_rao_metric: unknown for {type(base).__name__}; pass the output and likelihood= instead.")


def _natural_of_mean(likelihood: Likelihood, mean: Tensor) -> Tensor:
    """The output that a mean belongs to."""
    if isinstance(likelihood, Gaussian):
        return mean
    if isinstance(likelihood, Bernoulli):
        return mean.logit()
    if isinstance(likelihood, (Poisson, Categorical, OneHotCategorical)):
        return mean.log()
    raise TypeError(f"fisher_rao_metric: unknown from the means of {type(likelihood).__name__}; return its output.")
