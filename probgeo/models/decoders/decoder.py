"""Decoders: distributions over functions z -> parameters of the likelihood, each with the metric of its uncertainty."""

import abc
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jvp, vmap

from probgeo.geometry.immersions import Elementary
from probgeo.geometry.metrics import ExpectedMetric, Metric, TensorMetric
from probgeo.likelihoods import Likelihood, Parameters
from probgeo.models.phase import Phase


class DecoderModule(nn.Module, abc.ABC):
    """A decoder with weights. Its Pyro sample statements, if any, are made by `guide` and by `forward`."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The parts of training, in order, their parameters named as in this module; the first has epochs.

        Whatever has the decoder is trained with it in the first; in what follows the codes are fixed.
        """
        return (Phase("fit"),)

    def guide(self, z: Float[Tensor, "row latent"]) -> None:
        """Pyro sample statements of the variational posterior over the decoder's own latent variables, for rows z."""

    def draws(self, num_draws: int | None = None, seed: int = 0, head: nn.Module | None = None) -> Any:
        """Fixed functions head ∘ f_s, a callable (*batch, latent) -> (member, *batch, observation) with `num_members`.

        The same seed gives the same functions, and the first k of n are the k.

        Raises:
            TypeError: a decoder without draws.
            ValueError: fewer than one, or more than there are.
        """
        raise TypeError(f"draws: {type(self).__name__} has no draws; use an ensemble or a Bayesian decoder.")

    @abc.abstractmethod
    def forward(self, z: Float[Tensor, "row latent"], parameters: Parameters) -> tuple[Tensor, Parameters]:
        """One draw of the likelihood's (output, parameters) per row."""

    @abc.abstractmethod
    def mean(self, head: nn.Module) -> Callable[[Tensor], Tensor]:
        """The mean over draws of head(output) as a function of z: (*batch, latent) -> (*batch, observation)."""

    @abc.abstractmethod
    def variance(self, z: Float[Tensor, "*batch latent"], head: nn.Module) -> Float[Tensor, "*batch observation"]:
        """The decoder's variance of head(output) at z: what it does not know, or takes for noise that depends on z."""

    @abc.abstractmethod
    def metric(self, head: nn.Module) -> Metric:
        """The metric of this source of uncertainty in the space that `head` maps the decoder's output to."""

    def information_metric(self, information: Callable[[Tensor], Tensor]) -> Metric:
        """The metric whose tensor is the mean of Jᵀ I(output) J over this source's functions, J = ∂output / ∂z.

        Args:
            information: outputs (*batch, output) -> (*batch, observation, parameter, parameter), where the outputs are
                all observations' first parameters, then all their second ones, and so on.

        Raises:
            TypeError: a decoder without functions z -> output.
        """
        raise TypeError(f"metric: {type(self).__name__} has no Fisher-Rao metric; use model.metric().")


def with_head(network: nn.Module, head: nn.Module | None) -> nn.Module:
    """head ∘ network."""
    return network if head is None or isinstance(head, nn.Identity) else nn.Sequential(network, head)


class DrawnModule(DecoderModule):
    """A decoder whose mean, variance and metric are those of its draws."""

    def mean(self, head: nn.Module) -> Callable[[Tensor], Tensor]:
        draws = self.draws(head=head)
        return lambda z: draws(z).mean(0)

    def variance(self, z: Float[Tensor, "*batch latent"], head: nn.Module) -> Float[Tensor, "*batch observation"]:
        return self.draws(head=head)(z).var(0, correction=0)

    def metric(self, head: nn.Module) -> Metric:
        """E[JᵀJ] over the draws, of head ∘ draw."""
        return ExpectedMetric(self.draws(head=head))

    def information_metric(self, information: Callable[[Tensor], Tensor]) -> Metric:
        return information_metric_of(self.draws(), information)


def information_metric_of(functions: Callable[[Tensor], Tensor], information: Callable[[Tensor], Tensor]) -> Metric:
    """The mean of Jᵀ I J over functions z -> (member, *batch, output)."""

    def tensor(z: Tensor) -> Tensor:
        directions = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)

        def pushed(direction: Tensor) -> tuple[Tensor, Tensor]:
            output, tangent, *_ = jvp(functions, (z,), (direction.expand_as(z),))
            return information(output), tangent

        with Elementary():  # the field is differentiated once more
            blocks, tangents = vmap(pushed, randomness="same")(directions)
        tangents = tangents.unflatten(-1, (blocks.shape[-1], -1))
        return torch.einsum("ks...pn,s...npq,ls...qn->...kl", tangents, blocks[0], tangents) / blocks.shape[1]

    return TensorMetric(tensor)


def checked_num_draws(num_draws: int | None, available: int, what: str) -> int:
    """`num_draws`, by default all that are available.

    Raises:
        ValueError: it is below one or above `available`.
    """
    if num_draws is None:
        return available
    if not 1 <= num_draws <= available:
        raise ValueError(f"num_draws: expected 1 to {available}, {what}; got {num_draws}.")
    return num_draws


@runtime_checkable
class DecoderSpec(Protocol):
    """What describes a decoder: a frozen dataclass that builds its module."""

    @property
    def num_members(self) -> int:
        """How many functions its metric averages over, as tables state it; 1 where it needs no draws."""

    def build(self, latent: int, num_outputs: int, likelihood: Likelihood) -> DecoderModule:
        """The module, freshly initialised from torch's random state."""
