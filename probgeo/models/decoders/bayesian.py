"""Bayesian decoders: networks with distributions over their weights, and Monte-Carlo dropout."""

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from probgeo.likelihoods import Likelihood, Parameters
from probgeo.models.decoders.decoder import DecoderModule, DrawnModule
from probgeo.models.decoders.last_layer.gaussian import (
    Conjugate,
    LaplaceApproximation,
    draw_noise,
    linear_layer,
    prior_std,
    varied,
)
from probgeo.models.decoders.last_layer.sampled import NUTS, Autoguide
from probgeo.models.noise import noise_shape, transformed
from probgeo.models.phase import Epochs, Phase
from probgeo.nn import MLP, Network, Stacked, check_network
from probgeo.specs import check_numbers

# A posterior starts with this fraction of the prior's standard deviations: near a single network, which then widens.
_INITIAL_STD = 0.03


class LayerPosterior(nn.Module):
    """q([W, b]) of a linear layer, its rows w_d independent: N(m_d, F_d F_dᵀ + diag(σ_d²)), prior N(0, s²).

    The mean is not held here: it is the layer's own weights.

    Args:
        layer: what the posterior is of.
        prior: scale of s, see `prior_std`.
        rank: columns of every F_d; 0 for a factorised posterior.
    """

    std: Tensor

    def __init__(self, layer: nn.Linear, prior: float, rank: int) -> None:
        super().__init__()
        std = prior_std(layer, prior)
        self.register_buffer("std", std)
        self.log_std = nn.Parameter((_INITIAL_STD * std).log())
        self.factor = nn.Parameter(_INITIAL_STD / max(rank, 1) ** 0.5 * torch.randn(*std.shape, rank))

    def distribution(self, mean: Float[Tensor, "output feature"]) -> Distribution:
        """q, given its mean."""
        if self.factor.shape[-1] == 0:
            return dist.Normal(mean, self.log_std.exp()).to_event(2)
        factor = self.std[..., None] * self.factor
        return dist.LowRankMultivariateNormal(mean, factor, (2 * self.log_std).exp()).to_event(1)

    def prior(self) -> Distribution:
        """The prior, as a distribution of the posterior's family."""
        zero = torch.zeros_like(self.std)
        if self.factor.shape[-1] == 0:
            return dist.Normal(zero, self.std).to_event(2)
        return dist.LowRankMultivariateNormal(zero, zero[..., None], self.std**2).to_event(1)


class VariationalModule(DrawnModule):
    """A network with a variational posterior over the weights of its last layers, trained with everything else."""

    def __init__(self, network: nn.Sequential, prior: float, num_layers: int | None, rank: int, num_draws: int) -> None:
        super().__init__()
        linear = {str(index): part for index, part in enumerate(network) if isinstance(part, nn.Linear)}
        if num_layers is not None and not 1 <= num_layers <= len(linear):
            raise ValueError(f"layers: expected 1 to {len(linear)}, the network's linear layers; got {num_layers}.")
        self.network = network
        chosen = list(linear)[-(num_layers or 0) :]
        self.posteriors: Any = nn.ModuleDict({name: LayerPosterior(linear[name], prior, rank) for name in chosen})
        self.num_draws = num_draws

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Everything together; then the widths σ alone, which move slowly, to where they belong given the rest."""
        widths = [f"posteriors.{name}.log_std" for name in self.posteriors]
        return (*super().phases, Phase("posterior", Epochs(lambda name: name in widths, share=0.5, rate=10.0)))

    def posterior(self) -> dict[str, Any]:
        """q([W, b]) by the layer's place in the network."""
        layers = {name: linear_layer(self.network, int(name)) for name in self.posteriors}
        means = {name: torch.cat([layer.weight, layer.bias[:, None]], dim=1) for name, layer in layers.items()}
        return {name: self.posteriors[name].distribution(mean) for name, mean in means.items()}

    def guide(self, z: Float[Tensor, "row latent"]) -> None:
        for name, posterior in self.posterior().items():
            pyro.sample(f"weights {name}", posterior)

    def forward(self, z: Float[Tensor, "row latent"], parameters: Parameters) -> tuple[Tensor, Parameters]:
        weights = {name: pyro.sample(f"weights {name}", part.prior()) for name, part in self.posteriors.items()}
        return functional_call(self.network, _parameters(weights), (z,)), parameters

    @torch.no_grad()
    def draws(self, num_draws: int | None = None, seed: int = 0, head: nn.Module | None = None) -> Stacked:
        """The network with weights drawn from the posterior."""
        num_draws = self.num_draws if num_draws is None else num_draws
        values = {}
        for name, posterior in self.posterior().items():
            noise = draw_noise(num_draws, noise_shape(posterior), seed, name)
            values[name] = transformed(posterior, noise.to(self.posteriors[name].std))
        return varied(self.network, _parameters(values), head)


def _parameters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights and biases by name, of layers' [W, b] (*batch, output, feature)."""
    parts = {f"{name}.weight": value[..., :-1] for name, value in weights.items()}
    return parts | {f"{name}.bias": value[..., -1] for name, value in weights.items()}


# --- specs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeanField:
    """A factorised normal posterior over the weights of linear layers, the family of Pyro's `AutoNormal`.

    Args:
        layers: how many of the last linear layers are Bayesian; None for all (but those inside a block of a residual
            or dense network).

    Example:
        >>> import torch, probgeo as pg
        >>> decoder = pg.BayesianDecoder(guide=pg.posteriors.MeanField(layers=1))
        >>> model = pg.VAE(latent=2, decoder=decoder).build(num_features=5, seed=0)
        >>> z = torch.zeros(1, 2)
        >>> torch.equal(model.draws(4, seed=7)(z), model.draws(4, seed=7)(z)), bool(model.uncertainty(z) > 0)
        (True, True)

    References:
        Blundell, Cornebise, Kavukcuoglu & Wierstra (2015), Weight uncertainty in neural networks.
    """

    layers: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self)

    def build(self, network: nn.Sequential, prior: float, likelihood: Likelihood, num_draws: int) -> VariationalModule:
        """The decoder.

        Raises:
            ValueError: more layers than the network has, or fewer than one.
        """
        return VariationalModule(network, prior, self.layers, 0, num_draws)


@dataclass(frozen=True)
class LowRank:
    """A normal posterior with covariance F Fᵀ + diag(σ²) for the weights of each output unit, F of the given rank.

    The family of Pyro's `AutoLowRankMultivariateNormal`, one for each unit instead of one for all: given the codes the
    outputs are independent, and memory is rank times the number of weights, 10⁶ numbers for 10⁵ weights at rank 10.

    Args:
        rank: columns of every F.
        layers: how many of the last linear layers are Bayesian; None for all.

    Raises:
        ValueError: a rank below one.

    Example:
        >>> import torch, probgeo as pg
        >>> decoder = pg.BayesianDecoder(guide=pg.posteriors.LowRank(rank=2))
        >>> model = pg.VAE(latent=2, decoder=decoder).build(num_features=5, seed=0)
        >>> z = torch.zeros(1, 2)
        >>> torch.equal(model.draws(4, seed=7)(z), model.draws(4, seed=7)(z)), bool(model.uncertainty(z) > 0)
        (True, True)
    """

    rank: int = 10
    layers: int | None = 1

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.rank < 1:
            raise ValueError(f"rank: expected at least 1; got {self.rank}. For a diagonal covariance use MeanField().")

    def build(self, network: nn.Sequential, prior: float, likelihood: Likelihood, num_draws: int) -> VariationalModule:
        """The decoder.

        Raises:
            ValueError: more layers than the network has, or fewer than one.
        """
        return VariationalModule(network, prior, self.layers, self.rank, num_draws)


Guide = MeanField | LowRank | LaplaceApproximation | Conjugate | NUTS | Autoguide


@dataclass(frozen=True)
class BayesianDecoder:
    """Spec of a decoder with a posterior over weights.

    Args:
        network: spec of a network that ends in a linear layer: `MLP()`, `Residual()`, `DenseNet()`.
        prior: scale of the weights' prior: weights of a layer are N(0, prior²/fan_in), biases N(0, prior²).
        guide: the posterior: `MeanField()`, `LowRank()`, `LaplaceApproximation()`, `Conjugate()`, `NUTS()`, or one of
            Pyro's automatic guides for the last layer, as `Autoguide(kind)` or as its bare class.
        draws: functions that mean, variance and metric average over, where they are not known in closed form.

    Raises:
        TypeError: another guide.
        ValueError: a prior that is not positive, or fewer than one draw.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> decoder = pg.BayesianDecoder(pg.nn.MLP((8,)), guide=pg.posteriors.LaplaceApproximation())
        >>> training = pg.Training(epochs=1, batch_size=20)
        >>> [model] = pg.fit(pg.VAE(latent=2, decoder=decoder), x, training=training, progress=False)
        >>> z = torch.zeros(1, 2)
        >>> model.draws(4)(z).shape, bool(model.uncertainty(z) > 0)
        (torch.Size([4, 1, 6]), True)
    """

    network: Network = MLP()
    prior: float = 1.0
    guide: Guide | type[AutoGuide] = MeanField()
    draws: int = 20

    def __post_init__(self) -> None:
        check_numbers(self)
        if isinstance(self.guide, type):
            object.__setattr__(self, "guide", Autoguide(self.guide))
        if not isinstance(self.guide, Guide):
            raise TypeError(
                "guide: expected MeanField(), LowRank(), LaplaceApproximation(), Conjugate(), NUTS() or a guide of "
                f"Pyro's, such as pyro.infer.autoguide.AutoNormal; got {self.guide!r}."
            )
        check_network("network", self.network)
        if not self.prior > 0:
            raise ValueError(f"prior: expected a positive standard deviation; got {self.prior}.")
        if self.draws < 1:
            raise ValueError(f"draws: expected at least 1; got {self.draws}.")

    @property
    def num_members(self) -> int:
        return self.draws

    def build(self, latent: int, num_outputs: int, likelihood: Likelihood) -> DecoderModule:
        """The module, freshly initialised from torch's random state.

        Raises:
            TypeError: a network that does not end in a linear layer.
        """
        assert not isinstance(self.guide, type)
        network = self.network.build(latent, num_outputs)
        if not (isinstance(network, nn.Sequential) and isinstance(network[-1], nn.Linear)):
            raise TypeError(
                "network: expected one that ends in a linear layer, such as MLP(), Residual() or DenseNet(), whose "
                f"weights can be Bayesian; got {self.network}. For convolutions use EnsembleDecoder."
            )
        return self.guide.build(network, self.prior, likelihood, self.draws)
