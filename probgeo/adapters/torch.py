"""Latent models of plain PyTorch: any encoder and decoder, or several decoders, as they were trained."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple, final

import torch
import torch.distributions as td
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.geometry.metrics import ExpectedMetric, Metric, PullbackMetric
from probgeo.geometry.trials import watched
from probgeo.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, OneHotCategorical, Poisson
from probgeo.likelihoods.likelihood import TwoParameterLikelihood
from probgeo.models.base import Encoding, LatentModel
from probgeo.models.decoders.decoder import information_metric_of

ROWS = 1024  # encoded at once
Pick = str | int | Callable[[Any], Any]


def from_torch(
    *,
    encode: Callable[..., Any],
    decode: Callable[..., Any] | Sequence[Callable[..., Any]],
    likelihood: Likelihood | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    output: Pick | None = None,
    latent_shape: Sequence[int] | None = None,
    name: str | None = None,
    returns_means: bool = False,
) -> "TorchModel":
    """The latent model of an encoder and a decoder that are modules or functions of PyTorch, trained anywhere.

    Args:
        encode: rows of x, of any trailing shape, -> codes: a tensor (row, latent) or (row, *latent_shape); a
            distribution, of which the mean and standard deviation are taken; or a `probgeo.Encoding(mean, std)`.
        decode: points (point, latent) or (point, *latent_shape), any number of them, -> outputs of any trailing shape;
            a `torch.distributions` object, of which the mean is taken; or what `output` picks one from. A list or
            ModuleList of decoders is an ensemble, whose metric is the expected one.
        likelihood: what the decoder's output parametrises, as everywhere in probgeo: logits, log rates. The space of
            the metric is then E[x | z]. None for a decoder that returns E[x | z] or a distribution.
        parameters: the likelihood's parameters that do not depend on z, by name, such as a dispersion per gene.
        output: key, index, attribute or function that picks what counts from what the decoder returns.
        latent_shape: shape of one code where it is no vector.
        name: what errors call the model.
        returns_means: whether, with a likelihood, the decoder returns E[x | z] and not the likelihood's parameters.

    Returns:
        A `LatentModel`; `latent` and `num_features` are read off its first encoding.

    Raises:
        TypeError, ValueError: arguments that are no functions, no members, parameters that are missing.

    Example:
        >>> import torch, probgeo as pg
        >>> encoder, decoder = torch.nn.Linear(6, 2).eval(), torch.nn.Linear(2, 6).eval()
        >>> model = pg.adapters.from_torch(encode=encoder, decode=decoder)
        >>> start, stop = model.encode(torch.rand(6, 6)).mean.chunk(2)
        >>> found = pg.geodesic(model.metric(), start, stop).length
        >>> torch.allclose(found, (decoder(start) - decoder(stop)).norm(dim=1), rtol=1e-3)  # affine, so straight
        True
    """
    members: list[Any] = list(decode) if isinstance(decode, (nn.ModuleList, list, tuple)) else [decode]
    if not members:
        raise ValueError("decode: expected at least one decoder; got an empty list.")
    for argument, function in (("encode", encode), *(("decode", member) for member in members)):
        if not callable(function):
            raise TypeError(f"{argument}: expected a module or function; got {type(function).__name__}.")
    if likelihood is None and (parameters or returns_means):
        raise ValueError("likelihood: expected one with parameters or returns_means; got None.")
    return TorchModel(
        encode, members, likelihood, dict(parameters or {}), output, tuple(latent_shape or ()), name, returns_means
    )


@final
class TorchModel(LatentModel):
    """What `from_torch` returns; its arguments are those of `from_torch`."""

    def __init__(
        self,
        encode: Callable[..., Any],
        members: list[Callable[..., Any]],
        likelihood: Likelihood | None,
        parameters: dict[str, Tensor],
        output: Pick | None,
        latent_shape: tuple[int, ...],
        name: str | None,
        returns_means: bool,
    ) -> None:
        self._encode, self._likelihood, self._parameters = encode, likelihood, parameters
        self._latent_shape, self._means = latent_shape, returns_means
        self._name = name or "from_torch"
        self._members = [_Member(member, output, latent_shape) for member in members]
        self._sizes: dict[str, int] = {}
        self._examples: list[Tensor] = []  # two codes, once there are any
        self.num_members = len(members)

    @property
    def latent(self) -> int:  # type: ignore[override]
        """Dimension of a code, once there has been one."""
        return self._size("latent")

    @property
    def num_features(self) -> int:  # type: ignore[override]
        """Numbers in a row of x, once there has been one."""
        return self._size("num_features")

    def _size(self, name: str) -> int:
        if not self._sizes:
            raise AttributeError(f"{name}: {self._name} knows it from its first encoding; call encode(x[:2]) before.")
        return self._sizes[name]

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "row *feature"]) -> Encoding:
        """Mean and standard deviation of q(z | x), each (row, latent); std 0 where the encoder returns codes alone.

        Raises:
            TypeError, ValueError: an encoder that samples, is in training mode, or returns what is no code, in words.
        """
        with watched():
            parts = [self._encoding(self._encode(rows), len(rows)) for rows in x.split(ROWS)]
            again = self._encoding(self._encode(x[:ROWS]), min(len(x), ROWS))
        if not torch.allclose(again.mean, parts[0].mean, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise ValueError(
                "encode: called twice on the same rows it gives different codes: it samples. Return the distribution, "
                "or its mean and standard deviation as an Encoding."
            )
        found = Encoding(*(torch.cat(part) for part in zip(*parts, strict=True)))
        if not self._sizes:
            self._sizes.update(latent=found.mean.shape[1], num_features=prod(x.shape[1:]))
            self._examples.append(found.mean[:2].clone())
            self._check_output(found.mean[:256])
        return found

    def decode(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch observation"]:
        """E[x | z], averaged over the members; observations flattened to one axis."""
        points = z.reshape(-1, z.shape[-1])
        return (
            self.draws()(points).mean(0).unflatten(0, z.shape[:-1])
            if z.ndim > 1
            else self.draws()(points)[:, 0].mean(0)
        )

    def metric(self) -> Metric:
        """JᵀJ of E[x | z], in the mean over the members."""
        return self._pullback(self._mean_head())

    def fisher_rao_metric(self) -> Metric:
        """The Fisher-Rao metric of the likelihood, or of the distribution that the decoder returns.

        Raises:
            TypeError: neither is known, or it has no such metric here.
        """
        if isinstance(self._likelihood, TwoParameterLikelihood) and not self._means:
            information = partial(self._likelihood.information, parameters=self._parameters)
            return information_metric_of(_Draws([member.raw for member in self._members]), information)
        if self._likelihood is None and self._returned() is td.Normal:
            return information_metric_of(_Draws([member.location_and_scale for member in self._members]), _normal)
        return self._pullback(partial(_isometric, self._likelihood, self._parameters, self._means))

    def uncertainty(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch"]:
        """Root mean square, over the observations, of the members' standard deviation.

        Raises:
            TypeError: one decoder has none.
        """
        if len(self._members) == 1:
            return super().uncertainty(z)
        variance = self.draws()(z.reshape(-1, z.shape[-1])).var(0, correction=0)
        return variance.mean(-1).sqrt().reshape(z.shape[:-1])

    def draws(self, num_draws: int | None = None, seed: int = 0) -> "_Draws":
        """The members' E[x | z], the first `num_draws` of them, whatever the seed.

        Raises:
            ValueError: fewer than one, or more than there are.
        """
        num_draws = len(self._members) if num_draws is None else num_draws
        if not 1 <= num_draws <= len(self._members):
            raise ValueError(f"num_draws: expected 1 to {len(self._members)} members; got {num_draws}.")
        return _Draws([_Headed(member, self._mean_head()) for member in self._members[:num_draws]])

    def _mean_head(self) -> nn.Module:
        """What maps the decoder's output to E[x | z]."""
        plain = self._likelihood is None or self._means
        return _Mean(nn.Identity() if plain else self._likelihood.mean())  # type: ignore[union-attr]

    def _pullback(self, head: Callable[[Any], Tensor]) -> Metric:
        maps: list[nn.Module] = [_Headed(member, head) for member in self._members]
        if isinstance(head, _Mean) and all(self._is_vector(member) for member in self._members):
            decoders: list[Any] = [member.decode for member in self._members]
            maps = [nn.Sequential(decoder, head.mean) for decoder in decoders]  # perceptrons can be fused
        return PullbackMetric(maps[0]) if len(maps) == 1 else ExpectedMetric(maps)

    def _is_vector(self, member: "_Member") -> bool:
        """Whether a decoder is a module that returns (point, observation) as it is."""
        if not isinstance(member.decode, nn.Module) or member.output is not None or member.latent_shape:
            return False
        with torch.no_grad():
            found = member.decode(self._examples[0]) if self._examples else None
        return isinstance(found, Tensor) and found.ndim == 2

    def _returned(self) -> type:
        """The class of what the decoder returns."""
        self._size("latent")
        found = self._members[0].found(self._examples[0])
        return type(found.base_dist if isinstance(found, td.Independent) else found)

    def _encoding(self, found: Any, rows: int) -> Encoding:
        if isinstance(found, td.Distribution):
            found = Encoding(found.mean, found.stddev)
        elif isinstance(found, (tuple, list, dict)) and not isinstance(found, Encoding):
            raise TypeError(
                f"encode: expected codes, a distribution or an Encoding; got a {type(found).__name__}, whose second "
                "part may be a standard deviation or a log-variance. Say which: `lambda x: Encoding(mean, std)`, where "
                "std is (log_variance / 2).exp()."
            )
        elif isinstance(found, Tensor):
            found = Encoding(found, torch.zeros_like(found))
        if not isinstance(found, Encoding):
            raise TypeError(f"encode: expected codes, a distribution or an Encoding; got {type(found).__name__}.")
        shape = (rows, *self._latent_shape) if self._latent_shape else None
        if (shape and tuple(found.mean.shape) != shape) or (shape is None and found.mean.ndim != 2):
            raise ValueError(
                f"encode: expected codes {shape or '(row, latent)'}; got {tuple(found.mean.shape)}. Codes that are no "
                f"vectors: latent_shape={tuple(found.mean.shape[1:])}."
            )
        return Encoding(found.mean.reshape(rows, -1), found.std.reshape(rows, -1))

    def _check_output(self, codes: Float[Tensor, "row latent"]) -> None:
        """Refuses probabilities that are called logits, and parameters that are missing."""
        if self._likelihood is None:
            return
        missing = set(self._likelihood.initial_parameters(self.num_features)) - set(self._parameters)
        if missing:
            raise ValueError(
                f"parameters: {type(self._likelihood).__name__} needs {', '.join(sorted(missing))} by name."
            )
        with watched():
            values = self._members[0].found(codes)
        if isinstance(values, td.Distribution):
            raise ValueError("likelihood: the decoder returns a distribution, which says it; leave out the likelihood.")
        if isinstance(self._likelihood, Bernoulli) and not self._means and bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(
                "decode: with likelihood Bernoulli() it is to return logits; all its outputs lie in [0, 1]. If they "
                "are probabilities, pass returns_means=True."
            )


class _Member(nn.Module):
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
        if isinstance(pick, (str, int)):
            by_key = isinstance(values, (Mapping, tuple, list)) and not (
                isinstance(pick, str) and hasattr(values, "_fields")
            )
            return values[pick] if by_key else getattr(values, str(pick))
        return pick(values)

    def raw(self, z: Float[Tensor, "point latent"]) -> Tensor:
        """The decoder's outputs, flattened."""
        return _flat(self.found(z))

    def location_and_scale(self, z: Float[Tensor, "point latent"]) -> Tensor:
        """[μ; log σ] of a normal distribution."""
        found = self.found(z)
        return torch.cat([_flat(found.mean), _flat(found.stddev.expand_as(found.mean).log())], dim=-1)


class _Headed(nn.Module):
    """head ∘ decoder."""

    def __init__(self, member: _Member, head: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.member, self.head = member, head

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.member.found(z))


class _Mean(nn.Module):
    """E[x | z] of what a decoder returns."""

    def __init__(self, mean: nn.Module) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, found: Any) -> Any:
        return _flat(_mean_of(found)) if isinstance(found, td.Distribution) else self.mean(_flat(found))


class _Draws(nn.Module):
    """Functions z (*batch, latent) -> (member, *batch, observation)."""

    def __init__(self, functions: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions, self.num_members = list(functions), len(functions)

    def forward(self, z: Tensor) -> Tensor:
        points = z.reshape(-1, z.shape[-1])
        return torch.stack([f(points) for f in self.functions]).reshape(self.num_members, *z.shape[:-1], -1)


class _Natural(NamedTuple):
    likelihood: Likelihood
    output: Tensor


def _flat(values: Any) -> Any:
    return values.flatten(1) if isinstance(values, Tensor) else values


def _isometric(likelihood: Likelihood | None, parameters: Mapping[str, Tensor], means: bool, found: Any) -> Tensor:
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


def _normal(output: Tensor) -> Tensor:
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
