"""Decoders: distributions over functions z -> parameters of the likelihood, each with the metric of its uncertainty."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jvp, vmap

from probgeo.geometry.metrics import ExpectedMetric, Metric, PullbackMetric, TensorMetric
from probgeo.likelihoods import Gaussian, Likelihood, Parameters
from probgeo.models.gp.sparse import RBFPrecision
from probgeo.models.phase import Epochs, Phase, Target
from probgeo.nn import MLP, Network, Stacked, check_network


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

        blocks, tangents = vmap(pushed, randomness="same")(directions)
        tangents = tangents.unflatten(-1, (blocks.shape[-1], -1))
        return torch.einsum("ks...pn,s...npq,ls...qn->...kl", tangents, blocks[0], tangents) / blocks.shape[1]

    return TensorMetric(tensor)


class EnsembleModule(DrawnModule):
    """S networks; each row of a minibatch is decoded by the member that `assignment` gives it."""

    def __init__(self, members: Stacked, assignment: "SplitBatch | RandomMember") -> None:
        super().__init__()
        self.members = members
        self.assignment = assignment

    def guide(self, z: Float[Tensor, "row latent"]) -> None:
        self.assignment.guide(len(z), self.members.num_members)

    def forward(self, z: Float[Tensor, "row latent"], parameters: Parameters) -> tuple[Tensor, Parameters]:
        return self.assignment.decode(self.members, z), parameters

    def draws(self, num_draws: int | None = None, seed: int = 0, head: nn.Module | None = None) -> Stacked:
        """The first `num_draws` members (default: all), whatever the seed: an ensemble's draws are its members."""
        num_draws = checked_num_draws(num_draws, self.members.num_members, "the number of members")
        return Stacked([with_head(self.members.member(index), head) for index in range(num_draws)])


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


class RBFModule(DecoderModule):
    """A mean network and an RBF precision; the precision is trained in a second phase, on the codes of the first."""

    def __init__(self, network: nn.Module, precision: RBFPrecision) -> None:
        super().__init__()
        self.network = network
        self.precision = precision

    @property
    def phases(self) -> tuple[Phase, ...]:
        mean = Epochs(lambda name: not name.startswith("precision."))
        weights = Epochs(lambda name: name == "precision.log_weights", share=0.5, rate=10.0)
        return Phase("mean", mean), Phase("precision", weights, _place_centers, _check_centers)

    def forward(self, z: Float[Tensor, "row latent"], parameters: Parameters) -> tuple[Tensor, Parameters]:
        # In the first phase the likelihood's own standard deviation holds: the centres are not placed yet. In the
        # second the codes are fixed: the precision is fitted to them and does not move them, hence `detach`.
        if not self.precision.any_placed:
            return self.network(z), parameters
        log_std = torch.where(self.precision.placed, -0.5 * self.precision(z.detach()).log(), parameters["log_std"])
        return self.network(z), {**parameters, "log_std": log_std}

    def mean(self, head: nn.Module) -> Callable[[Tensor], Tensor]:
        return with_head(self.network, head)

    def variance(self, z: Float[Tensor, "*batch latent"], head: nn.Module) -> Float[Tensor, "*batch observation"]:
        """σ²(z)."""
        self._check(head)
        return 1 / self.precision(z)

    def metric(self, head: nn.Module) -> Metric:
        """G = J_μᵀJ_μ + J_σᵀJ_σ, the pull-back of [μ(z); σ(z)] (Arvanitidis, Hansen & Hauberg 2018, eq. 8)."""
        self._check(head)
        return PullbackMetric(_MeanAndStd(self.network, self.precision))

    def _check(self, head: nn.Module) -> None:
        if not isinstance(head, nn.Identity):
            raise TypeError(
                "metric: an RBF decoder's metric is that of the mean and standard deviation of a Gaussian, not after "
                f"{type(head).__name__}; use model.metric()."
            )


class _MeanAndStd(nn.Module):
    """z -> [μ(z); σ(z)]."""

    def __init__(self, network: nn.Module, precision: RBFPrecision) -> None:
        super().__init__()
        self.network = network
        self.precision = precision

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([self.network(z), self.precision(z).rsqrt()], dim=-1)


@torch.no_grad()
def _place_centers(module: RBFModule, target: Target, seed: int) -> None:
    """Centres at the codes; every precision at the data equal to the likelihood's own, 1 / std²."""
    module.precision.place(target.z, (-2 * target.parameters["log_std"]).exp(), seed)


def _check_centers(module: RBFModule, target: Target) -> None:
    module.precision.check(target.z)


# --- specs -----------------------------------------------------------------------------------------------------------


@runtime_checkable
class DecoderSpec(Protocol):
    """What describes a decoder: a frozen dataclass that builds its module."""

    @property
    def num_members(self) -> int:
        """How many functions its metric averages over, as tables state it; 1 where it needs no draws."""

    def build(self, latent: int, num_outputs: int, likelihood: Likelihood) -> DecoderModule:
        """The module, freshly initialised from torch's random state."""


@dataclass(frozen=True)
class Decoder:
    """Spec of a single decoder network: no uncertainty.

    Args:
        network: spec with `build(num_inputs, num_outputs)`.
    """

    network: Network = MLP()
    num_members = 1

    def __post_init__(self) -> None:
        check_network("network", self.network)

    def build(self, latent: int, num_outputs: int, likelihood: Likelihood) -> SingleDecoder:
        """The module, freshly initialised from torch's random state."""
        return SingleDecoder(self.network.build(latent, num_outputs))


@dataclass(frozen=True)
class SplitBatch:
    """Row i of a minibatch is decoded by member i mod S: every member learns from every batch.

    Where a minibatch has fewer rows than there are members, row i is decoded by member i + k mod S, with k drawn anew.
    """

    def guide(self, num_rows: int, num_members: int) -> Tensor | None:
        """Nothing is random where every member has a row, as the minibatch is shuffled already; otherwise k / S is."""
        return pyro.sample("rotation", dist.Uniform(0.0, 1.0)) if num_rows < num_members else None

    def decode(self, members: Stacked, z: Float[Tensor, "row latent"]) -> Float[Tensor, "row observation"]:
        num_rows, num_members = len(z), members.num_members
        share = self.guide(num_rows, num_members)
        if share is not None:
            rows = torch.arange(num_members, device=z.device)
            k = (share * num_members).long().clamp(max=num_members - 1)
            given = z[(rows - k) % num_members % num_rows]  # some rows more than once, to members that do not count
            return members.each(given[:, None])[(rows[:num_rows] + k) % num_members, 0]
        padding = -num_rows % num_members
        padded = torch.cat([z, z[:1].expand(padding, -1)]) if padding else z
        by_member = padded.reshape(-1, num_members, z.shape[-1]).transpose(0, 1)
        return members.each(by_member).transpose(0, 1).reshape(len(padded), -1)[:num_rows]


@dataclass(frozen=True)
class RandomMember:
    """The whole minibatch is decoded by one member, drawn uniformly: the published training of decoder ensembles.

    References:
        Syrota, Moreno-Muñoz & Hauberg (2024), Decoder ensembling for learned latent geometries, section 3.
    """

    def guide(self, num_rows: int, num_members: int) -> Tensor:
        """The Pyro sample statement of the member, as a uniform variable on [0, 1); the same in model and guide."""
        return pyro.sample("member", dist.Uniform(0.0, 1.0))

    def decode(self, members: Stacked, z: Float[Tensor, "row latent"]) -> Float[Tensor, "row observation"]:
        index = (
            (self.guide(len(z), members.num_members) * members.num_members).long().clamp(max=members.num_members - 1)
        )
        return members.one(index, z)


@dataclass(frozen=True)
class EnsembleDecoder:
    """Spec of an ensemble of decoders that share one encoder.

    Args:
        members: number S of decoder networks.
        network: spec of each network.
        assignment: which member decodes which row during training: `SplitBatch()` or `RandomMember()`.

    Raises:
        ValueError: fewer than one member.

    References:
        Syrota, Moreno-Muñoz & Hauberg (2024), Decoder ensembling for learned latent geometries.
    """

    members: int = 10
    network: Network = MLP()
    assignment: SplitBatch | RandomMember = SplitBatch()

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"members: expected at least one decoder; got {self.members}.")
        check_network("network", self.network)

    @property
    def num_members(self) -> int:
        return self.members

    def build(self, latent: int, num_outputs: int, likelihood: Likelihood) -> EnsembleModule:
        """The module, freshly initialised from torch's random state."""
        networks = [self.network.build(latent, num_outputs) for _ in range(self.members)]
        return EnsembleModule(Stacked(networks), self.assignment)


@dataclass(frozen=True)
class RBFDecoder:
    """Spec of a decoder whose precision is an RBF network: uncertainty grows away from the codes of the data.

    Args:
        network: spec of the mean network.
        num_centers: number of radial basis functions (k-means centres of the codes).
        floor: precision far from the data over the mean precision at the data, in (0, 1). It sets the lengths of
            curves far from the data: the standard deviation rises to 1/√floor times its value at the data.
        curve: length scale of a basis function, in units of its cluster's mean radius.

    Raises:
        ValueError: an argument outside its range.

    References:
        Arvanitidis, Hansen & Hauberg (2018), Latent Space Oddity.
    """

    network: Network = MLP()
    num_centers: int = 64
    floor: float = 1e-2
    curve: float = 2.0
    num_members = 1

    def __post_init__(self) -> None:
        if self.num_centers < 1:
            raise ValueError(f"num_centers: expected at least one centre; got {self.num_centers}.")
        if not 0 < self.floor < 1:
            raise ValueError(f"floor: expected a fraction between 0 and 1; got {self.floor}.")
        if not self.curve > 0:
            raise ValueError(f"curve: expected a positive multiple of the cluster radius; got {self.curve}.")
        check_network("network", self.network)

    def build(self, latent: int, num_outputs: int, likelihood: Likelihood) -> RBFModule:
        """The module, freshly initialised from torch's random state.

        Raises:
            ValueError: a likelihood other than a Gaussian with learned standard deviation.
        """
        if not (isinstance(likelihood, Gaussian) and likelihood.std is None):
            raise ValueError(f"likelihood: RBFDecoder learns the variance of Gaussian(); got {likelihood}.")
        precision = RBFPrecision(num_outputs, latent, self.num_centers, self.floor, self.curve)
        return RBFModule(self.network.build(latent, num_outputs), precision)
