"""Latent models of plain PyTorch: any encoder and decoder, or several decoders, as they were trained."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, final

import torch
import torch.distributions as td
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.adapters.outputs import Draws, Headed, Mean, Member, Pick, isometric, normal_information
from probgeo.geometry.immersions import called, check_weights, checked_output
from probgeo.geometry.metrics import ExpectedMetric, Metric, PullbackMetric
from probgeo.geometry.points import Points, first_line, is_said, points_of, rows_of
from probgeo.geometry.trials import check_call, check_values, watched
from probgeo.likelihoods import Bernoulli, Likelihood
from probgeo.likelihoods.likelihood import TwoParameterLikelihood
from probgeo.models.base import Encoding, LatentModel
from probgeo.models.decoders.decoder import information_metric_of

ROWS = 1024  # encoded at once


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
        name: what errors and saved results call the model; part of what identifies it in a `Study`, beside its
            weights and its code.
        returns_means: whether, with a likelihood, the decoder returns E[x | z] and not the likelihood's parameters.

    Returns:
        A `LatentModel`; `latent` and `num_features` are read off its first encoding.

    Raises:
        TypeError, ValueError: arguments that are no functions, no members, modules without weights, parameters that are
            missing.

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
        if isinstance(function, nn.Module):
            with called(argument):
                check_weights(function)
    if likelihood is None and (parameters or returns_means):
        raise ValueError("likelihood: expected one with parameters or returns_means; got None.")
    if likelihood is not None and not isinstance(likelihood, Likelihood):
        raise TypeError(f"likelihood: expected one, such as likelihoods.Bernoulli(); got {likelihood!r}.")
    return TorchModel(
        encode, members, likelihood, dict(parameters or {}), output, tuple(latent_shape or ()), name, returns_means
    )


@final
class TorchModel(LatentModel):
    """A latent model of a user's own encoder and decoders: what `from_torch` returns, which is the way to make one.

    Args:
        encode: as for `from_torch`.
        members: the decoders, one or an ensemble's.
        likelihood, parameters, output, latent_shape, name, returns_means: as for `from_torch`.

    Example:
        >>> import torch, probgeo as pg
        >>> encoder, decoder = torch.nn.Linear(6, 2).eval(), torch.nn.Linear(2, 6).eval()
        >>> model = pg.adapters.from_torch(encode=encoder, decode=decoder)
        >>> isinstance(model, pg.adapters.TorchModel), isinstance(model, pg.LatentModel)
        (True, True)
        >>> x = torch.rand(3, 6)
        >>> torch.allclose(model.encode(x).mean, encoder(x)), model.latent, model.num_features
        (True, 2, 6)
    """

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
        self.name = name or "from_torch"
        self._members = [Member(member, output, latent_shape) for member in members]
        self._sizes: dict[str, int] = {}
        self._examples: list[Tensor] = []  # two codes, once there are any
        self._tried: list[bool] = []  # once the decoders are known to be functions of the point alone
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
            raise AttributeError(f"{name}: {self.name} knows it from its first encoding; call encode(x[:2]) before.")
        return self._sizes[name]

    def identity(self) -> tuple[Any, ...]:
        """The arguments of `from_torch`: what it knows since is no part of it."""
        members = [member.decode for member in self._members]
        settings = (self._members[0].output, self._latent_shape, self._means, self.name)
        return (self._encode, members, self._likelihood, self._parameters, *settings)

    @torch.no_grad()
    def encode(self, x: Any) -> Encoding:
        """Mean and standard deviation of q(z | x), each (row, latent); std 0 where the encoder returns codes alone.

        Args:
            x: rows (row, *feature) as the encoder takes them: a tensor, an array or a table.

        Raises:
            TypeError, ValueError: an encoder that samples, reads a row's neighbours, is in training mode, cannot take
                these rows or returns what is no code, in words.
        """
        x = rows_of("x", x)
        if x.ndim < 2 or not len(x):
            raise ValueError(f"x: expected rows (row, feature), at least one; got shape {tuple(x.shape)}.")
        with called("encode"), watched():
            parts = [self._encoded(rows) for rows in x.split(ROWS)]
            again = self._encoded(x[:ROWS])
            halves = [self._encoded(rows).mean for rows in x[:ROWS].split((min(len(x), ROWS) + 1) // 2)]
        if not torch.allclose(again.mean, parts[0].mean, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise ValueError(
                "encode: called twice on the same rows it gives different codes: it samples. Return the distribution, "
                "or its mean and standard deviation as an Encoding."
            )
        if not torch.allclose(torch.cat(halves), again.mean, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise ValueError(
                "encode: a row's code depends on the other rows that it is called with, as where it normalises by its "
                "whole batch. Normalise by constants; call .eval() on a model."
            )
        found = Encoding(*(torch.cat(part) for part in zip(*parts, strict=True)))
        if not self._sizes:
            self._check_output(found.mean[:256], prod(x.shape[1:]))
            self._sizes.update(latent=found.mean.shape[1], num_features=prod(x.shape[1:]))
            for member in self._members:
                member.latent = found.mean.shape[1]
            self._examples.append(found.mean[:2].clone())
        return found

    def decode(self, z: Points) -> Float[Tensor, "*batch observation"]:
        """E[x | z] of points (*batch, latent), averaged over the members; observations flattened to one axis."""
        z = points_of("z", z, "*batch latent")
        found = self._each(z.reshape(-1, z.shape[-1])).mean(0)
        return found.reshape(*z.shape[:-1], found.shape[1])

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
            return information_metric_of(Draws([member.raw for member in self._members]), information)
        if self._likelihood is None and self._returned() is td.Normal:
            return information_metric_of(
                Draws([member.location_and_scale for member in self._members]), normal_information
            )
        return self._pullback(partial(isometric, self._likelihood, self._parameters, self._means))

    def uncertainty(self, z: Points) -> Float[Tensor, "*batch"]:
        """Root mean square, over the observations, of the members' standard deviation.

        Raises:
            TypeError: one decoder has none.
        """
        z = points_of("z", z, "*batch latent")
        if len(self._members) == 1:
            return super().uncertainty(z)
        variance = self._each(z.reshape(-1, z.shape[-1])).var(0, correction=0)
        return variance.mean(-1).sqrt().reshape(z.shape[:-1])

    def _each(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, "member point observation"]:
        """The members' E[x | z]; points that do not fit are refused in words."""
        draws = self.draws()

        def values(z: Tensor) -> Tensor:
            return checked_output(draws(z), z, self.num_members)

        try:
            if not self._tried and len(points):
                check_values(values, points)
                self._tried.append(True)
            return values(points)
        except Exception as error:
            if not is_said(error):
                check_call(draws, points[:1])
            raise

    def draws(self, num_draws: int | None = None, seed: int = 0) -> "Draws":
        """The members' E[x | z], the first `num_draws` of them, whatever the seed.

        Raises:
            ValueError: fewer than one, or more than there are.
        """
        num_draws = len(self._members) if num_draws is None else num_draws
        if not 1 <= num_draws <= len(self._members):
            raise ValueError(f"num_draws: expected 1 to {len(self._members)} members; got {num_draws}.")
        return Draws([Headed(member, self._mean_head()) for member in self._members[:num_draws]])

    def _mean_head(self) -> nn.Module:
        """What maps the decoder's output to E[x | z]."""
        plain = self._likelihood is None or self._means
        return Mean(nn.Identity() if plain else self._likelihood.mean())  # type: ignore[union-attr]

    def _pullback(self, head: Callable[[Any], Tensor]) -> Metric:
        maps: list[nn.Module] = [Headed(member, head) for member in self._members]
        if isinstance(head, Mean) and all(self._is_vector(member) for member in self._members):
            decoders: list[Any] = [member.decode for member in self._members]
            maps = [nn.Sequential(decoder, head.mean) for decoder in decoders]  # perceptrons can be fused
        return PullbackMetric(maps[0]) if len(maps) == 1 else ExpectedMetric(maps)

    def _is_vector(self, member: "Member") -> bool:
        """Whether a decoder is a module that returns (point, observation) as it is."""
        if not isinstance(member.decode, nn.Module) or member.output is not None or member.latent_shape:
            return False
        if not self._examples or not any(True for _ in member.decode.parameters()):
            return False
        check_call(member.decode, self._examples[0])
        with torch.no_grad():
            found = member.decode(self._examples[0].clone())
        return isinstance(found, Tensor) and found.ndim == 2

    def _returned(self) -> type:
        """The class of what the decoder returns."""
        self._size("latent")
        found = self._members[0].found(self._examples[0].clone())
        return type(found.base_dist if isinstance(found, td.Independent) else found)

    def _encoded(self, rows: Tensor) -> Encoding:
        try:
            return self._encoding(self._encode(rows.clone()), len(rows))  # encoders may work in place
        except Exception as error:
            if is_said(error):
                raise
            raise ValueError(
                f"encode: it cannot be called with rows {tuple(rows.shape)} of {rows.dtype} on {rows.device}: "
                f"{first_line(error)} Give the rows as the model was trained on them, in its dtype and on its device."
            ) from error

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
                f"vectors: latent_shape={tuple(found.mean.shape[1:])}; of one dimension: codes[:, None]."
            )
        if found.mean.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"encode: expected codes in float32 or float64; got {found.mean.dtype}. Convert the encoder, .float()."
            )
        if bool((found.std < 0).any()):
            raise ValueError(
                "encode: expected standard deviations; got negative ones, as log-variances are. Return "
                "Encoding(mean, (log_variance / 2).exp())."
            )
        return Encoding(found.mean.reshape(rows, -1), found.std.reshape(rows, -1))

    def _check_output(self, codes: Float[Tensor, "row latent"], num_features: int) -> None:
        """Refuses probabilities that are called logits, and parameters that are missing."""
        if self._likelihood is None:
            return
        self._check_parameters(self._likelihood.initial_parameters(num_features), num_features)
        with watched():
            values = self._members[0].found(codes.clone())
        if isinstance(values, td.Distribution):
            raise ValueError("likelihood: the decoder returns a distribution, which says it; leave out the likelihood.")
        if isinstance(self._likelihood, Bernoulli) and not self._means and bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(
                "decode: with likelihood Bernoulli() it is to return logits; all its outputs lie in [0, 1]. If they "
                "are probabilities, pass returns_means=True."
            )

    def _check_parameters(self, expected: Mapping[str, Tensor], num_features: int) -> None:
        """Refuses parameters that are missing, unknown or of another shape than the likelihood has."""
        kind, found = type(self._likelihood).__name__, self._parameters
        if missing := expected.keys() - found.keys():
            raise ValueError(f"parameters: {kind} needs {', '.join(sorted(missing))} by name.")
        if unknown := found.keys() - expected.keys():
            raise ValueError(f"parameters: {kind} has no {', '.join(sorted(unknown))}; it has {sorted(expected)}.")
        for name, value in found.items():
            if not isinstance(value, Tensor) or tuple(value.shape) not in (
                expected[name].shape,
                (),
                (num_features,),
            ):
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"parameters: expected {name} as a tensor of {num_features} numbers, one per feature, or of "
                    f"one; got {shape}."
                )
