"""Fusions: how what the encoders say of a row's views becomes one posterior q(z | x)."""

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from probgeo.models.networks import in_range
from probgeo.models.vae import Encoding
from probgeo.nn import Network
from probgeo.specs import check_numbers


class Fusion(abc.ABC):
    """Spec of a fusion: a frozen dataclass.

    Attributes:
        alone: probability that, in training, a row is encoded from one of its views, drawn at random, while all its
            views are decoded: what a translation needs. Any posterior gives a lower bound of log p(x), so the
            objective stays one; it is that of the mean over the draws.
    """

    alone: float

    def num_outputs(self, latent: int) -> int:
        """Numbers that each encoder gives: mean and log standard deviation of the view's own posterior."""
        return 2 * latent

    @abc.abstractmethod
    def build(self, latent: int) -> nn.Module:
        """The module (outputs (row, view, output), given (row, view)) -> `Encoding`, freshly initialised."""


def _check_alone(alone: float) -> None:
    if not 0 <= alone <= 1:
        raise ValueError(f"alone: expected a probability in [0, 1]; got {alone}.")


@dataclass(frozen=True)
class ProductOfExperts(Fusion):
    """q(z | x) ∝ N(0, I) Π_v N(mean_v, std_v²) over the views that are given: each adds its precision to the prior's.

    Args:
        alone: probability that, in training, a row is encoded from a single one of its views.

    Raises:
        ValueError: `alone` is no probability.

    Example:
        >>> import torch, probgeo as pg
        >>> outputs = torch.tensor([[[3.0, 0.0], [0.0, 0.0]]])  # of two views: mean and log standard deviation
        >>> fuse = pg.views.ProductOfExperts().build(latent=1)
        >>> fuse(outputs, torch.tensor([[True, False]]))  # N(3, 1) times the prior
        Encoding(mean=tensor([[1.5000]]), std=tensor([[0.7071]]))
        >>> fuse(outputs, torch.tensor([[True, True]]))  # times N(0, 1) too: 3 / 3, 1 / √3
        Encoding(mean=tensor([[1.]]), std=tensor([[0.5774]]))

    References:
        Wu & Goodman (2018), Multimodal generative models for scalable weakly-supervised learning, section 2.2 (whose
        sub-sampled training adds bounds of single views; here each row draws which bound it has).
    """

    alone: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self)
        _check_alone(self.alone)

    def build(self, latent: int) -> "Product":
        """The module; it has no weights."""
        return Product()


@dataclass(frozen=True)
class Mixture(Fusion):
    """q(z | x) = mean of N(mean_v, std_v²) over the views that are given.

    In training a row draws its view, as the mixture does, and KL(q ‖ p) counts as that of the drawn one. On average
    that is Σ_v KL(q_v ‖ p) / V, an upper bound of the mixture's own divergence (by convexity), so the objective is
    still a lower bound of log p(x). Codes are the mixture's mean and standard deviation.

    Example:
        >>> import torch, probgeo as pg
        >>> outputs = torch.tensor([[[3.0, 0.0], [-3.0, 0.0]]])  # of two views: mean and log standard deviation
        >>> fuse = pg.views.Mixture().build(latent=1)
        >>> fuse(outputs, torch.tensor([[True, True]]))  # variance 1 within, 3² between
        Encoding(mean=tensor([[0.]]), std=tensor([[3.1623]]))

    References:
        Shi, Siddharth, Paige & Torr (2019), Variational mixture-of-experts autoencoders, section 3.
    """

    alone = 1.0

    def build(self, latent: int) -> "Moments":
        """The module; it has no weights."""
        return Moments()


@dataclass(frozen=True)
class Average(Fusion):
    """What the encoders give is averaged over the views that are given: the published merge of shared latent spaces.

    Args:
        network: spec of layers that all views share, average -> mean and log standard deviation; None: the average is
            mean and log standard deviation itself.
        width: numbers that each encoder gives to the shared layers.
        alone: probability that, in training, a row is encoded from a single one of its views.

    Raises:
        ValueError: `alone` is no probability, or a width below one.

    Example:
        >>> import torch, probgeo as pg
        >>> outputs = torch.tensor([[[3.0, 0.0], [1.0, 0.0]]])  # of two views: mean and log standard deviation
        >>> fuse = pg.views.Average().build(latent=1)
        >>> fuse(outputs, torch.tensor([[True, True]]))
        Encoding(mean=tensor([[2.]]), std=tensor([[1.]]))
    """

    network: Network | None = None
    width: int = 64
    alone: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self)
        _check_alone(self.alone)
        if self.width < 1:
            raise ValueError(f"width: expected at least 1; got {self.width}.")

    def num_outputs(self, latent: int) -> int:
        """Numbers that each encoder gives: to the shared layers where there are any."""
        return self.width if self.network else 2 * latent

    def build(self, latent: int) -> "Averaged":
        """The module, freshly initialised from torch's random state."""
        return Averaged(self.network.build(self.width, 2 * latent) if self.network else nn.Identity())


# --- modules ---------------------------------------------------------------------------------------------------------


def _weights(given: Bool[Tensor, "row view"], outputs: Tensor) -> Float[Tensor, "row view 1"]:
    """Of a mean over the views that are given."""
    return (given.to(outputs) / given.sum(-1, keepdim=True))[..., None]


class Product(nn.Module):
    """Normal experts and the standard normal prior, multiplied."""

    def forward(self, outputs: Float[Tensor, "row view output"], given: Bool[Tensor, "row view"]) -> Encoding:
        mean, log_std = outputs.chunk(2, dim=-1)
        precision = (-2 * log_std.masked_fill(~given[..., None], torch.inf)).exp()  # exactly 0 where not given
        total = 1 + precision.sum(1)
        return Encoding((precision * mean).sum(1) / total, total.rsqrt())


class Moments(nn.Module):
    """Mean and standard deviation of a mixture of normal distributions."""

    def forward(self, outputs: Float[Tensor, "row view output"], given: Bool[Tensor, "row view"]) -> Encoding:
        weight, (means, log_std) = _weights(given, outputs), outputs.chunk(2, dim=-1)
        mean = (weight * means).sum(1)
        variance = (weight * ((2 * in_range(log_std)).exp() + (means - mean[:, None]).square())).sum(1)
        return Encoding(mean, variance.sqrt())


class Averaged(nn.Module):
    """A network of the mean over views."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, outputs: Float[Tensor, "row view output"], given: Bool[Tensor, "row view"]) -> Encoding:
        mean, log_std = self.network((_weights(given, outputs) * outputs).sum(1)).chunk(2, dim=-1)
        return Encoding(mean, in_range(log_std).exp())
