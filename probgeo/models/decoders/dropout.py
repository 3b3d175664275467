"""Dropout masks as draws of a decoder."""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.likelihoods import Likelihood, Parameters
from probgeo.models.decoders.decoder import DrawnModule
from probgeo.models.decoders.last_layer.gaussian import (
    draw_noise,
    linear_layer,
    varied,
)
from probgeo.nn import MLP, Network, Stacked
from probgeo.specs import check_numbers


class DropoutModule(DrawnModule):
    """A network whose hidden units are kept or dropped at random; a draw is a network with one fixed mask.

    A mask is folded into the weights of the layer behind it, so that each draw is a plain network.
    """

    def __init__(self, network: nn.Sequential, rate: float, num_draws: int) -> None:
        super().__init__()
        self.network = network
        self.rate = rate
        self.num_draws = num_draws
        # Units are dropped before every linear layer but the first.
        linear = {index: part.in_features for index, part in enumerate(network) if isinstance(part, nn.Linear)}
        self.widths = dict(list(linear.items())[1:])

    def guide(self, z: Float[Tensor, "row latent"]) -> None:
        self._uniform(z)

    def _uniform(self, z: Float[Tensor, "row latent"]) -> Float[Tensor, "row unit"]:
        """Pyro sample statement of the masks, the same in model and guide: uniform variables, fresh for each row."""
        low, high = torch.tensor([0, 1], dtype=z.dtype, device=z.device)
        shape = [len(z), sum(self.widths.values())]
        return pyro.sample("mask", dist.Uniform(low, high).expand(shape).to_event(2))

    def forward(self, z: Float[Tensor, "row latent"], parameters: Parameters) -> tuple[Tensor, Parameters]:
        masks = dict(zip(self.widths, self._kept(self._uniform(z)), strict=True))
        for index, part in enumerate(self.network):
            z = part(z * masks[index] if index in masks else z)
        return z, parameters

    def _kept(self, uniform: Float[Tensor, "row unit"]) -> tuple[Tensor, ...]:
        """For each masked layer 0 for a dropped input, 1/(1 − rate) for a kept one."""
        return ((uniform >= self.rate).to(uniform) / (1 - self.rate)).split(list(self.widths.values()), dim=-1)

    def draws(self, num_draws: int | None = None, seed: int = 0, head: nn.Module | None = None) -> Stacked:
        """The network with fixed masks."""
        num_draws = self.num_draws if num_draws is None else num_draws
        noise = draw_noise(num_draws, torch.Size([sum(self.widths.values())]), seed)
        masks = self._kept(torch.special.ndtr(noise).to(linear_layer(self.network, 0).weight))
        values = {
            f"{index}.weight": linear_layer(self.network, index).weight.detach() * mask[:, None]
            for index, mask in zip(self.widths, masks, strict=True)
        }
        return varied(self.network, values, head)


@dataclass(frozen=True)
class DropoutDecoder:
    """Spec of a decoder with Monte-Carlo dropout of its hidden units, in training and afterwards.

    Args:
        network: spec of the network; it needs a hidden layer.
        rate: probability that a unit is dropped, in (0, 1).
        draws: masks that mean, variance and metric average over.

    Raises:
        TypeError: a network that is no MLP.
        ValueError: an argument outside its range.

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.VAE(latent=2, decoder=pg.DropoutDecoder(rate=0.1)).build(num_features=5, seed=0)
        >>> z = torch.zeros(1, 2)
        >>> torch.equal(model.draws(4, seed=7)(z), model.draws(4, seed=7)(z))  # fixed functions: masks of a seed's own
        True
        >>> bool(model.uncertainty(z) > 0)
        True

    References:
        Gal & Ghahramani (2016), Dropout as a Bayesian approximation.
    """

    network: Network = MLP()
    rate: float = 0.1
    draws: int = 20

    def __post_init__(self) -> None:
        check_numbers(self)
        if not isinstance(self.network, MLP):
            raise TypeError(f"network: expected MLP(...), whose hidden units are dropped; got {self.network}.")
        if not self.network.hidden:
            raise ValueError("network: expected a hidden layer, of which units can be dropped; got none.")
        if not 0 < self.rate < 1:
            raise ValueError(f"rate: expected a probability between 0 and 1; got {self.rate}.")
        if self.draws < 1:
            raise ValueError(f"draws: expected at least 1; got {self.draws}.")

    @property
    def num_members(self) -> int:
        return self.draws

    def build(self, latent: int, num_outputs: int, likelihood: Likelihood) -> DropoutModule:
        """The module, freshly initialised from torch's random state."""
        network = self.network.build(latent, num_outputs)
        assert isinstance(network, nn.Sequential)
        return DropoutModule(network, self.rate, self.draws)
