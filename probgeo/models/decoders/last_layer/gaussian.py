"""Decoders whose last layer is Bayesian, its posterior Gaussian, found after training, given the codes.

Given the codes z of the data x, the last layer is a regression of x on the features φ(z) of the trained network, a
constant 1 for the bias among them: x_nd ~ likelihood(w_d · φ(z_n)), w_d ~ N(0, s²), independent over the outputs d.
"""

import abc
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from probgeo.geometry.metrics import ExpectedMetric, Metric, PullbackMetric
from probgeo.likelihoods import (
    Categorical,
    Gaussian,
    Laplace,
    Likelihood,
    Mixed,
    OneHotCategorical,
    Parameters,
    Perceptual,
    TwoParameterLikelihood,
)
from probgeo.likelihoods.likelihood import Scale
from probgeo.models.decoders.decoder import DecoderModule, with_head
from probgeo.models.decoders.last_layer.regression import (
    Anew,
    Block,
    Regression,
    correlated,
    inverse_transposed,
    precision_roots,
    solved,
)
from probgeo.models.phase import Phase, Target
from probgeo.nn import Stacked
from probgeo.seeds import stream

_LINEAR_HEADS = (nn.Identity, Scale)
# Likelihoods of which an observation depends on several outputs, or whose log has no second derivative.
_UNSUITED = (TwoParameterLikelihood, Categorical, OneHotCategorical, Mixed, Perceptual, Laplace)


def linear_layer(network: nn.Sequential, index: int) -> nn.Linear:
    """The linear layer at a place of a network."""
    layer = network[index]
    assert isinstance(layer, nn.Linear)
    return layer


def prior_std(layer: nn.Linear, prior: float) -> Float[Tensor, "output feature"]:
    """Standard deviations of the prior of [W, b]: prior/√fan_in for weights, `prior` for the bias."""
    std = torch.full((layer.out_features, layer.in_features + 1), prior)
    std[:, :-1] /= layer.in_features**0.5
    return std


def num_blocks_of(network: nn.Sequential, likelihood: Likelihood) -> int:
    """How many different blocks the Hessian has: one if the curvature is the same everywhere, or one per output."""
    if isinstance(likelihood, _UNSUITED):
        raise TypeError(
            "likelihood: a posterior of the last layer needs a twice differentiable likelihood whose observations "
            f"depend on one output each, such as Gaussian, Bernoulli or Poisson; got {likelihood}."
        )
    return 1 if isinstance(likelihood, Gaussian) else linear_layer(network, -1).out_features


# --- specs of the posterior ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conjugate:
    """The exact posterior of the last layer of a Gaussian likelihood: matrix normal, W ~ N(M, Σ ⊗ I), in closed form.

    The same Σ for all outputs. E[JᵀJ] = J_φᵀ (MᵀM + D Σ) J_φ needs no draws.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> decoder = pg.BayesianDecoder(pg.nn.MLP((8,)), guide=pg.posteriors.Conjugate())
        >>> training = pg.Training(epochs=1, batch_size=20)
        >>> [model] = pg.fit(pg.VAE(latent=2, decoder=decoder), x, training=training, progress=False)
        >>> z = torch.zeros(1, 2)
        >>> exact = model.metric().tensor(z)  # in closed form
        >>> drawn = pg.ExpectedMetric(model.draws(1000)).tensor(z)
        >>> bool((exact - drawn).norm() < 0.1 * exact.norm())
        True
    """

    def build(self, network: nn.Sequential, prior: float, likelihood: Likelihood, num_draws: int) -> "GaussianModule":
        """The decoder, its posterior not known yet.

        Raises:
            ValueError: a likelihood that is not Gaussian.
        """
        if not isinstance(likelihood, Gaussian):
            raise ValueError(f"likelihood: Conjugate() has a posterior for Gaussian() alone; got {likelihood}.")
        return GaussianModule(network, prior, 1, self, num_draws)

    def posterior(self, regression: Regression, v: Tensor, num_blocks: int) -> tuple[Tensor, Tensor]:
        """Mean (output, feature) and F with covariance F Fᵀ: Σ = (ΨᵀΨ/σ² + I)⁻¹, M = xᵀΨ Σ/σ²."""
        grams: Any = 0
        projected: Any = 0
        for block in regression.blocks:
            precision = block.distribution(block.x).variance[0, 0].reciprocal()
            grams = grams + block.gram(precision.expand(len(block.x), 1))
            projected = projected + precision * block.x.T @ block.design
        roots = precision_roots(grams)
        return solved(roots, projected), inverse_transposed(roots)


@dataclass(frozen=True)
class LaplaceApproximation:
    """A Gaussian at the mode of the last layer's posterior, with the exact Hessian of the log joint there.

    Given the codes the outputs are independent, so the Hessian is one (H+1)² block per output, and for a Gaussian
    likelihood one block for all: 10⁵ weights (784 outputs of 128 features) take 52 MB in single precision, where
    the full Hessian would take 40 GB. The mode is found by Newton's method from the trained weights.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> decoder = pg.BayesianDecoder(pg.nn.MLP((8,)), guide=pg.posteriors.LaplaceApproximation())
        >>> spec = pg.VAE(latent=2, decoder=decoder, likelihood=pg.likelihoods.Bernoulli())
        >>> [model] = pg.fit(spec, x, training=pg.Training(epochs=1, batch_size=20), progress=False)
        >>> few, many = (model.draws(num)(torch.zeros(1, 2)) for num in (2, 5))
        >>> torch.equal(few, many[:2])  # the first draws of more
        True

    References:
        MacKay (1992), A practical Bayesian framework for backpropagation networks.
    """

    def build(self, network: nn.Sequential, prior: float, likelihood: Likelihood, num_draws: int) -> "GaussianModule":
        """The decoder, its posterior not known yet.

        Raises:
            TypeError: a likelihood of which an observation depends on several outputs.
        """
        return GaussianModule(network, prior, num_blocks_of(network, likelihood), self, num_draws)

    def posterior(self, regression: Regression, v: Tensor, num_blocks: int) -> tuple[Tensor, Tensor]:
        """Mode (output, feature) and F_d with covariances F_d F_dᵀ."""
        mode, roots = regression.mode(v, num_blocks)
        return mode, inverse_transposed(roots)


# --- modules ---------------------------------------------------------------------------------------------------------


class LastLayerModule(DecoderModule):
    """A network whose last layer has a posterior, found in a closing phase of training when the rest is trained."""

    std: Tensor

    def __init__(self, network: nn.Sequential, prior: float, num_blocks: int, num_draws: int) -> None:
        super().__init__()
        self.network = network
        self.num_blocks = num_blocks
        self.num_draws = num_draws
        self.register_buffer("std", prior_std(linear_layer(network, -1), prior)[0])

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (*super().phases, Phase("posterior", epochs=None, start=_find_posterior))

    def forward(self, z: Float[Tensor, "row latent"], parameters: Parameters) -> tuple[Tensor, Parameters]:
        return self.network(z), parameters

    @abc.abstractmethod
    def find(self, regression: Regression, v: Float[Tensor, "output feature"], seed: int) -> None:
        """Set the posterior to that of the regression; v are the trained weights in its coordinates."""

    def features(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch feature"]:
        """[φ(z), 1]."""
        hidden = self.network[:-1](z)
        return torch.cat([hidden, torch.ones_like(hidden[..., :1])], dim=-1)

    @property
    def weights(self) -> Float[Tensor, "output feature"]:
        """[W, b] of the network's own last layer."""
        last = linear_layer(self.network, -1)
        return torch.cat([last.weight, last.bias[:, None]], dim=1).detach()

    def stacked(self, weights: Float[Tensor, "draw output feature"], head: nn.Module | None) -> Stacked:
        """head ∘ network with each of the last layers."""
        last = len(self.network) - 1
        return varied(self.network, {f"{last}.weight": weights[..., :-1], f"{last}.bias": weights[..., -1]}, head)


@torch.no_grad()
def _find_posterior(module: LastLayerModule, target: Target, seed: int) -> None:
    std, likelihood = module.std.double(), target.model.spec.likelihood

    @torch.no_grad()
    def blocks() -> Iterator[Block]:
        for given in target:
            parameters = {name: value.double() for name, value in given.parameters.items()}
            design = module.features(given.z).double() * std
            yield Block(design, given.x.double(), functools.partial(likelihood.distribution, parameters=parameters))

    first = next(blocks())
    regression = Regression((first,) if len(first.x) == len(target) else Anew(blocks))
    module.find(regression, module.weights.double() / std, seed)


class GaussianModule(LastLayerModule):
    """The posterior is Gaussian, its mean the network's own last layer. Before it is found its covariance is zero."""

    factors: Tensor

    def __init__(
        self,
        network: nn.Sequential,
        prior: float,
        num_blocks: int,
        guide: Conjugate | LaplaceApproximation,
        num_draws: int,
    ) -> None:
        super().__init__(network, prior, num_blocks, num_draws)
        self.approximation = guide
        self.register_buffer("factors", torch.zeros(num_blocks, len(self.std), len(self.std)))

    def find(self, regression: Regression, v: Float[Tensor, "output feature"], seed: int) -> None:
        mean, factors = self.approximation.posterior(regression, v, self.num_blocks)
        weights, last = mean * self.std, linear_layer(self.network, -1)
        last.weight.copy_(weights[:, :-1])
        last.bias.copy_(weights[:, -1])
        self.factors.copy_(self.std[:, None] * factors)

    def draws(self, num_draws: int | None = None, seed: int = 0, head: nn.Module | None = None) -> Stacked:
        """The network with last layers drawn from the posterior."""
        noise = draw_noise(self.num_draws if num_draws is None else num_draws, self.weights.shape, seed)
        spread = torch.stack([correlated(self.factors, one) for one in noise.to(self.factors)])
        return self.stacked(self.weights + spread, head)

    def mean(self, head: nn.Module) -> Callable[[Tensor], Tensor]:
        if isinstance(head, _LINEAR_HEADS):
            return with_head(self.network, head)
        draws = self.draws(head=head)
        return lambda z: draws(z).mean(0)

    def variance(self, z: Float[Tensor, "*batch latent"], head: nn.Module) -> Float[Tensor, "*batch observation"]:
        """φᵀ Σ_d φ in closed form after a linear head, of draws otherwise."""
        if not isinstance(head, _LINEAR_HEADS):
            return self.draws(head=head)(z).var(0, correction=0)
        std = torch.einsum("...h,dhk->...dk", self.features(z), self.factors).norm(dim=-1)
        return head(std.expand(*std.shape[:-1], len(self.weights))).square()

    def metric(self, head: nn.Module) -> Metric:
        """J_φᵀ E[WᵀW] J_φ = J_φᵀ (MᵀM + Σ_d cov(w_d)) J_φ after a linear head, exact; E[JᵀJ] of draws otherwise."""
        if not isinstance(head, _LINEAR_HEADS):
            return ExpectedMetric(self.draws(head=head))
        # The bias multiplies a constant feature, of derivative zero: it has no part in R.
        mean, factors = self.weights[:, :-1].double(), self.factors[:, :-1].double()
        moment = mean.T @ mean + len(mean) / len(factors) * (factors @ factors.mT).sum(0)
        values, vectors = torch.linalg.eigh(moment)
        root = skip_init(nn.Linear, len(moment), len(moment), bias=False).to(self.factors)
        with torch.no_grad():
            root.weight.copy_(values.clamp(min=0).sqrt()[:, None] * vectors.T)
        return PullbackMetric(with_head(nn.Sequential(self.network[:-1], root), head))


def varied(network: nn.Module, values: Mapping[str, Tensor], head: nn.Module | None) -> Stacked:
    """head ∘ network with each of the values (member, *shape) of some parameters."""
    whole = with_head(network, head)
    prefix = "" if whole is network else "0."
    return Stacked.varied(whole, {prefix + name: value for name, value in values.items()})


def draw_noise(num_draws: int, shape: torch.Size, seed: int, *purpose: Any) -> Float[Tensor, " draw *shape"]:
    """Standard normal noise of each draw, from a stream of its own: the first k of n are the k.

    Raises:
        ValueError: fewer than one draw.
    """
    if num_draws < 1:
        raise ValueError(f"num_draws: expected at least 1; got {num_draws}.")
    noise = [torch.randn(shape, generator=stream(seed, "draw", index, *purpose)) for index in range(num_draws)]
    return torch.stack(noise)
