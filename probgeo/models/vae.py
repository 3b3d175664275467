"""The variational autoencoder: a spec, and the Pyro model and guide that it builds."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from probgeo.likelihoods import Gaussian, Likelihood, Parameters, TwoParameterLikelihood
from probgeo.metrics import Metric
from probgeo.models.decoders import Decoder, DecoderModule, DecoderSpec
from probgeo.models.phase import Phase, inside, target, with_decoder
from probgeo.nn import MLP, Network, check_network


class Encoding(NamedTuple):
    """Mean and standard deviation of q(z | x), each (row, latent)."""

    mean: Float[Tensor, "row latent"]
    std: Float[Tensor, "row latent"]


@dataclass(frozen=True)
class Warmup:
    """β rises linearly from `start` at epoch 0 to `stop` at epoch `epochs`, and stays there.

    Raises:
        ValueError: epochs below one, or a negative β.
    """

    epochs: int
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.start < 0 or self.stop < 0:
            raise ValueError(f"Warmup: expected epochs >= 1 and start, stop >= 0; got {self}.")

    def at(self, epoch: int) -> float:
        return self.start + (self.stop - self.start) * min(1.0, epoch / self.epochs)


def check_rows(x: Tensor, column: str) -> None:
    """Raise if x is no table of numbers.

    Args:
        x: what should be (row, column).
        column: what a column is, for the message.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: x has another shape, or is empty.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x: expected a floating-point tensor; got {getattr(x, 'dtype', type(x))}. Use x.float().")
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x: expected shape (row, {column}), neither empty; got {tuple(x.shape)}.")


def data_plate(x: Float[Tensor, "row feature"], num_rows: int | None) -> pyro.plate:
    """The plate `data` of a minibatch x out of num_rows rows; None: x is all the data."""
    rows = torch.arange(len(x), device=x.device)
    return pyro.plate("data", num_rows or len(x), subsample=rows, dim=-2)


class LatentSpec(abc.ABC):
    """A spec with latent variables z ~ N(0, I) and a weight β of KL(q ‖ p)."""

    latent: int
    beta: float | tuple[float, ...] | Warmup

    def __post_init__(self) -> None:
        if self.latent < 1:
            raise ValueError(f"latent: expected at least one dimension; got {self.latent}.")
        if isinstance(self.beta, Sequence):
            object.__setattr__(self, "beta", tuple(self.beta))
            if len(self.beta) != self.latent or min(self.beta) < 0:
                raise ValueError(
                    f"beta: expected {self.latent} non-negative numbers, one per dimension; got {self.beta}."
                )
        elif not isinstance(self.beta, Warmup) and self.beta < 0:
            raise ValueError(f"beta: expected a non-negative number; got {self.beta}.")

    def beta_at(self, epoch: int) -> Float[Tensor, " latent"]:
        """β of every latent dimension at an epoch."""
        beta = self.beta.at(epoch) if isinstance(self.beta, Warmup) else self.beta
        return torch.as_tensor(beta, dtype=torch.float64).expand(self.latent)

    def final_beta(self) -> Float[Tensor, " latent"]:
        """β of every latent dimension once any warm-up is over."""
        return self.beta_at(self.beta.epochs if isinstance(self.beta, Warmup) else 0)


@dataclass(frozen=True)
class VAE(LatentSpec):
    """Spec of a variational autoencoder: z ~ N(0, I), x ~ likelihood(decoder(z)), q(z | x) a diagonal Gaussian.

    Args:
        latent: dimension d of z.
        decoder: spec of the decoder, with its source of uncertainty.
        likelihood: distribution of x given the decoder's output.
        encoder: spec of the network x -> mean and log standard deviation of q(z | x).
        beta: weight of KL(q ‖ p) in the objective: a number, one number per latent dimension, or a `Warmup`.

    Raises:
        ValueError: latent below one, a negative β, or as many β as there are not latent dimensions.

    References:
        Kingma & Welling (2014), Auto-Encoding Variational Bayes; Higgins et al. (2017), β-VAE.
    """

    latent: int = 2
    decoder: DecoderSpec = Decoder()
    likelihood: Likelihood = Gaussian()
    encoder: Network = MLP()
    beta: float | tuple[float, ...] | Warmup = 1.0

    @property
    def num_members(self) -> int:
        return self.decoder.num_members

    def check(self, x: Tensor) -> None:
        """Raise if x cannot be data of this model.

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: x is not (row, observation), is empty, or is outside the likelihood's support.
        """
        check_rows(x, "observation")
        self.likelihood.check(x)

    def build(self, num_features: int, seed: int, history: xr.Dataset | None = None) -> "FittedVAE":
        """The model with weights drawn from `seed`; torch's global random state is left as found."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return FittedVAE(self, num_features, history)


class EncoderDecoder(nn.Module, abc.ABC):
    """An encoder and a decoder of observations of one likelihood, and the geometry that the decoder gives its codes.

    Args:
        spec: with fields `encoder`, `decoder` and `likelihood`.
        num_features: numbers per observation.
        latent: dimension d of z.
        num_encoder_outputs: numbers that the encoder gives for an observation.
    """

    def __init__(self, spec: Any, num_features: int, latent: int, num_encoder_outputs: int) -> None:
        super().__init__()
        self.spec = spec
        self.num_features = num_features
        num_inputs = spec.likelihood.encoder_input(torch.ones(1, num_features)).shape[1]
        num_outputs = spec.likelihood.num_outputs(num_features)
        check_network("encoder", spec.encoder)
        if not isinstance(spec.decoder, DecoderSpec) or isinstance(spec.decoder, type):
            raise TypeError(f"decoder: expected a spec, such as Decoder(); got {spec.decoder!r}.")
        self.encoder = spec.encoder.build(num_inputs, num_encoder_outputs)
        self.decoder: DecoderModule = spec.decoder.build(latent, num_outputs, spec.likelihood)
        self.shared = nn.ParameterDict(
            {name: nn.Parameter(value) for name, value in spec.likelihood.initial_parameters(num_features).items()}
        )

    def parameters_of_likelihood(self) -> Parameters:
        """Parameters that all observations share, by name."""
        return dict(self.shared.items())

    def decode(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch observation"]:
        """E[x | z], averaged over the decoder's draws."""
        return self.decoder.mean(self.spec.likelihood.mean())(z)

    def metric(self) -> Metric:
        """The metric of the decoder's uncertainty in the space of E[x | z]: units of x per unit of z."""
        return self.decoder.metric(self.spec.likelihood.mean())

    def fisher_rao_metric(self) -> Metric:
        """The Fisher-Rao metric of the observation under the decoder's uncertainty: nats^½ per unit of z.

        Raises:
            TypeError: a decoder or a likelihood that has none.
        """
        likelihood, parameters = self.spec.likelihood, self.parameters_of_likelihood()
        if isinstance(likelihood, TwoParameterLikelihood):
            return self.decoder.information_metric(lambda output: likelihood.information(output, parameters))
        return self.decoder.metric(likelihood.isometry(parameters))

    def uncertainty(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch"]:
        """Root mean square, over the observations, of the decoder's standard deviation at z; units of x."""
        return self.decoder.variance(z, self.spec.likelihood.mean()).mean(-1).sqrt()

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Any:
        """Fixed decoder functions z (*batch, latent) -> E[x | z] (member, *batch, observation), as one callable.

        Args:
            num_draws: how many; by default as many as the decoder's metric averages over.
            seed: the same seed gives the same functions, and the first k of n are the k.

        Raises:
            TypeError: a decoder without draws.
            ValueError: fewer than one, or more than there are.
        """
        return self.decoder.draws(num_draws, seed, self.spec.likelihood.mean())


class FittedVAE(EncoderDecoder):
    """A variational autoencoder with weights: a Pyro model/guide pair over minibatches, and its latent geometry.

    Built by `VAE.build`, fitted by `probgeo.fit`, restored by `probgeo.load`. Plates: `data` (dim -2), `latent` and
    `feature` (dim -1), so that every term of the ELBO is available per row and per dimension.
    """

    def __init__(self, spec: VAE, num_features: int, history: xr.Dataset | None = None) -> None:
        super().__init__(spec, num_features, spec.latent, 2 * spec.latent)
        self.history = history

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Everything together; then what else the decoder needs, given the codes of x."""
        first, *later = self.decoder.phases
        closing = (inside(phase, "decoder", lambda model, x: target(model, model.encode(x).mean, x)) for phase in later)
        return (with_decoder(first), *closing)

    def _check(self, x: Tensor) -> None:
        if x.shape[-1] != self.num_features:
            raise ValueError(
                f"x: this model was built for {self.num_features} observations per row; got shape {tuple(x.shape)}."
            )

    def model(self, x: Tensor, num_rows: int | None = None, beta: Tensor | None = None) -> None:
        """Pyro model of a minibatch x (row, observation) out of num_rows rows (default: x is all the data)."""
        self._check(x)
        beta = self.spec.final_beta().to(x) if beta is None else beta
        standard = dist.Normal(torch.zeros_like(beta), torch.ones_like(beta))
        data, latent = data_plate(x, num_rows), pyro.plate("latent", self.spec.latent, dim=-1)
        with data, latent, poutine.scale(scale=positive(beta)):
            z = pyro.sample("z", standard)
        # Outside the plates: a decoder's own latent variables belong to all rows.
        likelihood = self.spec.likelihood
        output, parameters = self.decoder(z, {**self.parameters_of_likelihood(), **likelihood.known(x)})
        observation: Any = likelihood.distribution(output, parameters)
        observed = likelihood.observed(x)
        with data, pyro.plate("feature", observed.shape[1], dim=-1):
            pyro.sample("x", observation, obs=observed)

    def guide(self, x: Tensor, num_rows: int | None = None, beta: Tensor | None = None) -> None:
        """Pyro guide: q(z | x), and the decoder's own posterior if it has one."""
        beta = self.spec.final_beta().to(x) if beta is None else beta
        mean, std = self.encode(x)
        latent = pyro.plate("latent", self.spec.latent, dim=-1)
        with data_plate(x, num_rows), latent, poutine.scale(scale=positive(beta)):
            z = pyro.sample("z", dist.Normal(mean, std))
        self.decoder.guide(z)

    def encode(self, x: Float[Tensor, "row feature"]) -> Encoding:
        """Mean and standard deviation of q(z | x), each (row, latent)."""
        self._check(x)
        mean, log_std = self.encoder(self.spec.likelihood.encoder_input(x)).chunk(2, dim=-1)
        return Encoding(mean, log_std.exp())

    def reconstruct(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row observation"]:
        """E[x | z] at the posterior mean of z, averaged over the decoder's draws."""
        return self.decode(self.encode(x).mean)


def positive(beta: Tensor) -> Tensor:
    """β as a scale: Pyro refuses exactly 0, at which a warm-up may start."""
    return beta.clamp(min=torch.finfo(beta.dtype).tiny)
