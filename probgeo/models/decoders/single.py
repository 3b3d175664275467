"""A single decoder network: no uncertainty."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.geometry.metrics import Metric, PullbackMetric
from probgeo.likelihoods import Likelihood, Parameters
from probgeo.models.decoders.decoder import DecoderModule, information_metric_of, with_head
from probgeo.nn import MLP, Network, Stacked, check_network


class SingleDecoder(DecoderModule):
    """One network, no uncertainty."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Float[Tensor, "row latent"], parameters: Parameters) -> tuple[Tensor, Parameters]:
        return self.network(z), parameters

    def mean(self, head: nn.Module) -> Callable[[Tensor], Tensor]:
        return with_head(self.network, head)

    def variance(self, z: Float[Tensor, "*batch latent"], head: nn.Module) -> Float[Tensor, "*batch observation"]:
        return torch.zeros_like(self.mean(head)(z))

    def metric(self, head: nn.Module) -> Metric:
        """G = JᵀJ of head ∘ network."""
        return PullbackMetric(with_head(self.network, head))

    def information_metric(self, information: Callable[[Tensor], Tensor]) -> Metric:
        return information_metric_of(Stacked([self.network]), information)


@dataclass(frozen=True)
class Decoder:
    """Spec of a single decoder network: no uncertainty.

    Args:
        network: spec with `build(num_inputs, num_outputs)`.

    Example:
        >>> import torch, probgeo as pg
        >>> spec = pg.VAE(latent=2, decoder=pg.Decoder(pg.nn.Injective(width=4)))
        >>> model = spec.build(num_features=5, seed=0)
        >>> z = torch.randn(3, 2)
        >>> torch.allclose(model.decoder.network.inverse(model.decode(z)), z, atol=1e-4)
        True
    """

    network: Network = MLP()
    num_members = 1

    def __post_init__(self) -> None:
        check_network("network", self.network)

    def build(self, latent: int, num_outputs: int, likelihood: Likelihood) -> SingleDecoder:
        """The module, freshly initialised from torch's random state."""
        return SingleDecoder(self.network.build(latent, num_outputs))
