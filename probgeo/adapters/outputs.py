"""What a decoder of plain PyTorch returns: picked, in the mean, and in the space where Fisher-Rao is Euclidean."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributions as td
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.geometry.immersions import single_output
from probgeo.geometry.points import Points, check_latent, first_line, points_like, taken_by
from probgeo.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, OneHotCategorical, Poisson

Pick = str | int | Callable[[Any], Any]


class Member(nn.Module):
    """One decoder, of points (point, latent), with what is picked of its output.

    Attributes:
        latent: that its points are to have, once it is known: many functions take any number.
    """

    latent: int | None = None

    def __init__(self, decode: Callable[..., Any], output: Pick | None, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.decode, self.output, self.latent_shape = decode, output, latent_shape

    def found(self, z: Float[Tensor, "point latent"]) -> Any:
        """What the decoder returns, picked.

        Raises:
            ValueError: points of another latent space.
        """
        if self.latent is not None:
            check_latent("codes", z, self.latent)
        values = _valid_in_places(self.decode, z.unflatten(1, self.latent_shape) if self.latent_shape else z)
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
        weights = [w for f in self.functions if isinstance(f, nn.Module) for w in f.parameters()]
        z = points_like("z", z, weights)
        points = z.reshape(-1, z.shape[-1])
        with taken_by(weights, "z", z):
            # Each its own: a decoder may work in place.
            found = torch.stack([single_output(f(points.clone()), points) for f in self.functions])
        return found.reshape(self.num_members, *z.shape[:-1], found.shape[2])


def _valid_in_places(decode: Callable[[Tensor], Any], z: Tensor) -> Any:
    """What a decoder returns; a distribution whose parameters are not finite in places, too, as no point harms another.

    Raises:
        ValueError: parameters that are finite and no parameters of it.
    """
    try:
        return decode(z)
    except ValueError as error:
        before = td.Distribution._validate_args
        td.Distribution.set_default_validate_args(False)
        try:
            values = decode(z)
        finally:
            td.Distribution.set_default_validate_args(before)
        if not isinstance(values, td.Distribution):
            raise
        base = values.base_dist if isinstance(values, td.Independent) else values
        for name, constraint in base.arg_constraints.items():
            value = base.__dict__.get(name)
            if value is not None and not bool((constraint.check(value) | ~_finite(value, constraint)).all()):
                raise ValueError(
                    f"decode: {type(base).__name__} cannot have such {name}: {first_line(error)}"
                ) from error
        return values


def _finite(value: Tensor, constraint: Any) -> Tensor:
    """Whether a parameter is finite, of each event of a constraint."""
    finite, event = value.isfinite(), constraint.event_dim
    return finite.flatten(-event).all(-1) if event else finite


class _Natural(NamedTuple):
    likelihood: Likelihood
    output: Tensor


def _described(values: Any) -> str:
    names = f" of {', '.join(map(str, values))}" if isinstance(values, Mapping) else ""
    count = f" of {len(values)}" if isinstance(values, (tuple, list)) else ""
    return f"a {type(values).__name__}{names}{count}"


def _flat(values: Any) -> Any:
    if not isinstance(values, Tensor):
        return values
    if values.ndim < 2:
        raise ValueError(
            f"decode: expected outputs (point, *observation); got shape {tuple(values.shape)}. Of one number of each "
            "point write [:, None]."
        )
    return values.flatten(1)


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
    if isinstance(base, (td.Categorical, td.OneHotCategorical)):
        return base.probs
    try:
        if not isinstance(base, (td.Cauchy, td.HalfCauchy)):
            return base.mean
    except NotImplementedError:
        pass
    raise TypeError(
        f"decode: {type(base).__name__} has no mean that torch knows; return what stands for it, such as its median, "
        "or pick it with output=."
    )


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
