"""Ensembles of decoders that share one encoder, and how rows are assigned to them in training."""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.likelihoods import Likelihood, Parameters
from probgeo.models.decoders.decoder import DrawnModule, checked_num_draws, with_head
from probgeo.nn import MLP, Network, Stacked, check_network
from probgeo.specs import check_numbers


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


@dataclass(frozen=True)
class SplitBatch:
    """Row i of a minibatch is decoded by member i mod S: every member learns from every batch.

    Where a minibatch has fewer rows than there are members, row i is decoded by member i + k mod S, with k drawn anew.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> decoder = pg.EnsembleDecoder(members=3, network=pg.nn.MLP((8,)), assignment=pg.SplitBatch())  # the default
        >>> training = pg.Training(epochs=1, batch_size=20)
        >>> [model] = pg.fit(pg.VAE(latent=2, decoder=decoder), x, training=training, progress=False)
        >>> model.draws()(torch.zeros(4, 2)).shape
        torch.Size([3, 4, 6])
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
            # Some rows more than once, to members that do not count.
            given = z.index_select(0, (rows - k) % num_members % num_rows)
            return members.each(given[:, None])[:, 0].index_select(0, (rows[:num_rows] + k) % num_members)
        padding = -num_rows % num_members
        padded = torch.cat([z, z[:1].expand(padding, -1)]) if padding else z
        by_member = padded.reshape(-1, num_members, z.shape[-1]).transpose(0, 1)
        return members.each(by_member).transpose(0, 1).reshape(len(padded), -1)[:num_rows]


@dataclass(frozen=True)
class RandomMember:
    """The whole minibatch is decoded by one member, drawn uniformly: the published training of decoder ensembles.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> decoder = pg.EnsembleDecoder(members=3, network=pg.nn.MLP((8,)), assignment=pg.RandomMember())
        >>> training = pg.Training(epochs=1, batch_size=20)
        >>> [model] = pg.fit(pg.VAE(latent=2, decoder=decoder), x, training=training, progress=False)
        >>> model.draws()(torch.zeros(4, 2)).shape
        torch.Size([3, 4, 6])

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

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.VAE(latent=2, decoder=pg.EnsembleDecoder(members=3)).build(num_features=5, seed=0)
        >>> z = torch.zeros(4, 2)
        >>> members = model.draws()(z)
        >>> members.shape, torch.allclose(members.mean(0), model.decode(z), atol=1e-6)
        (torch.Size([3, 4, 5]), True)

    References:
        Syrota, Moreno-Muñoz & Hauberg (2024), Decoder ensembling for learned latent geometries.
    """

    members: int = 10
    network: Network = MLP()
    assignment: SplitBatch | RandomMember = SplitBatch()

    def __post_init__(self) -> None:
        check_numbers(self)
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
