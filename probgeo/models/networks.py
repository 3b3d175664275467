"""The networks of a model of one likelihood, and the geometry that its decoder gives its codes."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points
from probgeo.likelihoods import Likelihood, Parameters, TwoParameterLikelihood
from probgeo.models.base import suited
from probgeo.models.decoders.decoder import DecoderModule, DecoderSpec
from probgeo.nn import check_network

# Of q(z | x), whose prior has log standard deviation 0; ordinary rows stay far within. But the encoder reads a row
# unlike all others far from where it was trained, once in an epoch, and exp has no bound: one such row of Fashion-MNIST
# came to e^25 between two of its minibatches, and its loss to 10¹³ times that of others. Adam keeps going in the
# direction of that one gradient, until the row is where float32 ends. Beyond the range there is no gradient: with one,
# as where exp goes on as its tangent, the same row throws the weights about.
LOG_NARROWEST, LOG_WIDEST = -20.0, math.log(10)


def in_range(log_std: Tensor) -> Tensor:
    """Log standard deviation of q(z | x) from what an encoder gives, within [-20, log 10]."""
    return log_std.clamp(LOG_NARROWEST, LOG_WIDEST)


def check_parts(spec: Any) -> None:
    """TypeError, by the name of the field, for an encoder, decoder or likelihood that is no spec of one."""
    check_network("encoder", spec.encoder)
    if not isinstance(spec.decoder, DecoderSpec) or isinstance(spec.decoder, type):
        raise TypeError(
            f"decoder: expected a spec, such as Decoder(); got {spec.decoder!r}. For a trained module see "
            "adapters.from_torch."
        )
    if not isinstance(spec.likelihood, Likelihood):
        raise TypeError(f"likelihood: expected one, such as Gaussian(); got {spec.likelihood!r}.")


class Networks(nn.Module):
    """An encoder, a decoder, and the parameters of the likelihood that all observations share.

    Args:
        spec: with fields `encoder`, `decoder` and `likelihood`.
        num_features: numbers per observation.
        encoder_sizes: numbers that the encoder reads and gives.
        num_codes: numbers that the decoder reads.
    """

    def __init__(self, spec: Any, num_features: int, encoder_sizes: tuple[int, int], num_codes: int) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = spec.encoder.build(*encoder_sizes)
        num_outputs = spec.likelihood.num_outputs(num_features)
        self.decoder: DecoderModule = spec.decoder.build(num_codes, num_outputs, spec.likelihood)
        self.shared = nn.ParameterDict(
            {name: nn.Parameter(value) for name, value in spec.likelihood.initial_parameters(num_features).items()}
        )

    def parameters_of_likelihood(self) -> Parameters:
        """Parameters that all observations share, by name."""
        return dict(self.shared.items())


class EncoderDecoder(Networks):
    """An encoder and a decoder of observations of one likelihood, and the geometry that the decoder gives its codes.

    Args:
        spec: with fields `encoder`, `decoder` and `likelihood`.
        num_features: numbers per observation.
        latent: dimension d of z.
        num_encoder_outputs: numbers that the encoder gives for an observation.
    """

    def __init__(self, spec: Any, num_features: int, latent: int, num_encoder_outputs: int) -> None:
        num_inputs = spec.likelihood.encoder_input(torch.ones(1, num_features)).shape[1]
        super().__init__(spec, num_features, (num_inputs, num_encoder_outputs), latent)
        self.num_features = num_features
        self._num_codes = latent

    def decode(self, z: Points) -> Float[Tensor, "*batch observation"]:
        """E[x | z] of points (*batch, latent), averaged over the decoder's draws."""
        return self.decoder.mean(self.spec.likelihood.mean())(suited("z", z, self, "*batch latent", self._num_codes))

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

    def uncertainty(self, z: Points) -> Float[Tensor, "*batch"]:
        """Root mean square, over the observations, of the decoder's standard deviation at z; units of x."""
        z = suited("z", z, self, "*batch latent", self._num_codes)
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
