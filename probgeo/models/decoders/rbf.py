"""A mean network and an RBF network of the precision, whose variance grows away from the data."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.geometry.metrics import Metric, PullbackMetric
from probgeo.likelihoods import Gaussian, Likelihood, Parameters
from probgeo.models.decoders.decoder import DecoderModule, with_head
from probgeo.models.gp.sparse import RBFPrecision
from probgeo.models.phase import Epochs, Phase, Target
from probgeo.nn import MLP, Network, check_network
from probgeo.specs import WRITTEN_AS, check_numbers


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
        return Phase("mean", mean), Phase("precision", weights, _place_centres, _check_centres)

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
def _place_centres(module: RBFModule, target: Target, seed: int) -> None:
    """Centres at the codes; every precision at the data equal to the likelihood's own, 1 / std²."""
    module.precision.place(target.z, (-2 * target.shared["log_std"]).exp(), seed)


def _check_centres(module: RBFModule, target: Target) -> None:
    module.precision.check(len(target))


@dataclass(frozen=True)
class RBFDecoder:
    """Spec of a decoder whose precision is an RBF network: uncertainty grows away from the codes of the data.

    Args:
        network: spec of the mean network.
        num_centres: number of radial basis functions (k-means centres of the codes).
        floor: precision far from the data over the mean precision at the data, in (0, 1). It sets the lengths of
            curves far from the data: the standard deviation rises to 1/√floor times its value at the data.
        curve: length scale of a basis function, in units of its cluster's mean radius.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> decoder = pg.RBFDecoder(pg.nn.MLP((8,)), num_centres=4, floor=0.01)
        >>> training = pg.Training(epochs=1, batch_size=20)
        >>> [model] = pg.fit(pg.VAE(latent=2, decoder=decoder), x, training=training, progress=False)
        >>> codes = model.encode(x).mean
        >>> bool((model.uncertainty(codes + 1000) > 2 * model.uncertainty(codes)).all())  # it grows away from the data
        True

    References:
        Arvanitidis, Hansen & Hauberg (2018), Latent Space Oddity.
    """

    network: Network = MLP()
    num_centres: int = field(default=64, metadata={WRITTEN_AS: "num_centers"})
    floor: float = 1e-2
    curve: float = 2.0
    num_members = 1

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.num_centres < 1:
            raise ValueError(f"num_centres: expected at least one centre; got {self.num_centres}.")
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
        precision = RBFPrecision(num_outputs, latent, self.num_centres, self.floor, self.curve)
        return RBFModule(self.network.build(latent, num_outputs), precision)
