"""The variational autoencoder: a spec, and the Pyro model and guide that it builds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from probgeo.likelihoods import Gaussian, Likelihood
from probgeo.models.base import Encoding, FittedModel, ModelSpec, block_by_block, suited
from probgeo.models.decoders.decoder import DecoderSpec
from probgeo.models.decoders.single import Decoder
from probgeo.models.networks import EncoderDecoder, check_parts, in_range
from probgeo.models.phase import Phase, Target, inside, with_decoder
from probgeo.nn import MLP, Network
from probgeo.rows import StoredRows
from probgeo.specs import check_numbers


@dataclass(frozen=True)
class Warmup:
    """β rises linearly from `start` at epoch 0 to `stop` at epoch `epochs`, and stays there.

    Args:
        epochs: how long β rises.
        start: β at epoch 0.
        stop: β from epoch `epochs` on.

    Raises:
        ValueError: epochs below one, or a negative β.

    Example:
        >>> import probgeo as pg
        >>> beta = pg.Warmup(epochs=10)
        >>> [beta.at(epoch) for epoch in (0, 5, 10, 50)]
        [0.0, 0.5, 1.0, 1.0]
        >>> pg.VAE(beta=beta).beta
        Warmup(epochs=10, start=0.0, stop=1.0)
    """

    epochs: int
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.epochs < 1 or self.start < 0 or self.stop < 0:
            raise ValueError(f"Warmup: expected epochs >= 1 and start, stop >= 0; got {self}.")

    def at(self, epoch: int) -> float:
        return self.start + (self.stop - self.start) * min(1.0, epoch / self.epochs)


def data_plate(x: Float[Tensor, "row feature"], num_rows: int | None) -> pyro.plate:
    """The plate `data` of a minibatch x out of num_rows rows; None: x is all the data."""
    rows = torch.arange(len(x), device=x.device)
    return pyro.plate("data", num_rows or len(x), subsample=rows, dim=-2)


class LatentSpec(ModelSpec):
    """A spec with latent variables z ~ N(0, I) and a weight β of KL(q ‖ p)."""

    beta: float | tuple[float, ...] | Warmup

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.latent < 1:
            raise ValueError(f"latent: expected at least one dimension; got {self.latent}.")
        if isinstance(self.beta, Sequence):
            object.__setattr__(self, "beta", tuple(self.beta))
            if len(self.beta) != self.latent or not all(beta >= 0 for beta in self.beta):
                raise ValueError(
                    f"beta: expected {self.latent} non-negative numbers, one per dimension; got {self.beta}."
                )
        elif not isinstance(self.beta, Warmup) and not self.beta >= 0:
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
        encoder: spec of the network x -> mean and log standard deviation of q(z | x); the latter is kept within
            [-20, log 10] (the prior's is 0), so that a row unlike all others cannot blow up the objective.
        beta: weight of KL(q ‖ p) in the objective: a number, one number per latent dimension, or a `Warmup`.

    Raises:
        ValueError: latent below one, a negative β, or as many β as there are not latent dimensions.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> spec = pg.VAE(latent=2, decoder=pg.Decoder(pg.nn.MLP((8,))), likelihood=pg.likelihoods.Bernoulli())
        >>> training = pg.Training(epochs=1, batch_size=20)
        >>> first, second = pg.fit(spec, x, seeds=range(2), training=training, progress=False)
        >>> codes = first.encode(x).mean
        >>> pg.geodesic(first.metric(), codes[:3], codes[3:6]).length.shape
        torch.Size([3])
        >>> bool((first.decode(codes) > 0).all())  # E[x | z], probabilities and no logits
        True

    References:
        Kingma & Welling (2014), Auto-Encoding Variational Bayes; Higgins et al. (2017), β-VAE.
    """

    latent: int = 2
    decoder: DecoderSpec = Decoder()
    likelihood: Likelihood = Gaussian()
    encoder: Network = MLP()
    beta: float | tuple[float, ...] | Warmup = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parts(self)

    @property
    def num_members(self) -> int:
        return self.decoder.num_members

    def _check_values(self, x: Float[Tensor, "row feature"]) -> None:
        self.likelihood.check(x)

    def _built(self, num_features: int, history: xr.Dataset | None) -> "FittedVAE":
        return FittedVAE(self, num_features, history)


class FittedVAE(EncoderDecoder, FittedModel):
    """A variational autoencoder with weights: a Pyro model/guide pair over minibatches, and its latent geometry.

    Built by `VAE.build`, fitted by `probgeo.fit`, restored by `probgeo.load`. Plates: `data` (dim -2), `latent` and
    `feature` (dim -1), so that every term of the ELBO is available per row and per dimension.
    """

    def __init__(self, spec: VAE, num_features: int, history: xr.Dataset | None = None) -> None:
        super().__init__(spec, num_features, spec.latent, 2 * spec.latent)
        self.latent = spec.latent
        self.num_members = spec.num_members
        self.history = history

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Everything together; then what else the decoder needs, given the codes of x."""
        first, *later = self.decoder.phases
        return (with_decoder(first), *(inside(phase, "decoder", _target) for phase in later))

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
        mean, std = self._encoding(x)
        latent = pyro.plate("latent", self.spec.latent, dim=-1)
        with data_plate(x, num_rows), latent, poutine.scale(scale=positive(beta)):
            z = pyro.sample("z", dist.Normal(mean, std))
        self.decoder.guide(z)

    @block_by_block
    def encode(self, x: Any) -> Encoding:
        """Mean and standard deviation of q(z | x), each (row, latent), of rows x (row, feature) or a `Dataset`.

        Raises:
            TypeError, ValueError: x is no data of this model.
        """
        x = suited("x", x, self, "row feature")
        self._check(x)
        self.spec.check_encoded(x)
        return self._encoding(x)

    def _encoding(self, x: Tensor) -> Encoding:
        mean, log_std = self.encoder(self.spec.likelihood.encoder_input(x)).chunk(2, dim=-1)
        return Encoding(mean, in_range(log_std).exp())


def _target(model: FittedVAE, x: Tensor | StoredRows) -> Target:
    """What the decoder is fitted to, given the codes of x."""
    return Target(model, x, lambda rows: model._encoding(rows).mean)


def positive(beta: Tensor) -> Tensor:
    """β as a scale: Pyro refuses exactly 0, at which a warm-up may start."""
    return beta.clamp(min=torch.finfo(beta.dtype).tiny)
