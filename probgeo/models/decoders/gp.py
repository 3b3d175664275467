"""A Gaussian process as the decoder of a variational autoencoder: fitted to the codes of a trained one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.geometry.metrics import Metric
from probgeo.likelihoods import Gaussian, Likelihood, Parameters
from probgeo.models.decoders.decoder import DecoderModule
from probgeo.models.gp.sparse import PathwiseDraws, SparseGP
from probgeo.models.phase import Epochs, Phase, Target
from probgeo.nn import MLP, Network, check_network
from probgeo.seeds import stream
from probgeo.specs import check_numbers


class GPModule(DecoderModule):
    """A network that trains the encoder, then a Gaussian process on its codes, whose functions are the decoder's."""

    def __init__(self, network: nn.Module, process: SparseGP, spec: "GPDecoder") -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.spec = spec

    @property
    def phases(self) -> tuple[Phase, ...]:
        network = Epochs(lambda name: not name.startswith("process."))
        return Phase("fit", network), Phase("posterior", None, _fit_process, _check_inducing)

    def forward(self, z: Float[Tensor, "row latent"], parameters: Parameters) -> tuple[Tensor, Parameters]:
        return self.network(z), parameters

    def draws(self, num_draws: int | None = None, seed: int = 0, head: nn.Module | None = None) -> PathwiseDraws:
        """Functions sampled from the process's posterior, as many as wanted."""
        return self.process.draws(num_draws, seed, 1 / self._slope(head))

    def mean(self, head: nn.Module) -> Callable[[Tensor], Tensor]:
        slope = self._slope(head)
        return lambda z: slope * self.process.mean(z)

    def variance(self, z: Float[Tensor, "*batch latent"], head: nn.Module) -> Float[Tensor, "*batch observation"]:
        return self._slope(head) ** 2 * self.process.variance(z)

    def metric(self, head: nn.Module) -> Metric:
        """G = E[J]ᵀE[J] + D cov(J) of the process, exactly."""
        return self.process.expected_metric(1 / self._slope(head))

    def _slope(self, head: nn.Module | None) -> float:
        """The mean and the isometry of a Gaussian are multiples of the output: by how much."""
        return 1.0 if head is None else float(head(self.process.scale.new_ones(())))


def _check_inducing(module: GPModule, target: Target) -> None:
    module.process.check(len(target))


@torch.no_grad()
def _fit_process(module: GPModule, target: Target, seed: int) -> None:
    """Hyperparameters from some of the rows, the posterior from all of them, given their codes."""
    process, spec = module.process, module.spec
    process.place(target.z, lambda: (given.x for given in target), seed)
    rows = torch.randperm(len(target), generator=stream(seed, "process"))[: spec.num_rows].to(target.z.device)
    some = target.at(rows)
    process.fit_hyperparameters(some.z, some.x, spec.num_steps)
    process.condition((given.z, given.x) for given in target)


@dataclass(frozen=True)
class GPDecoder:
    """Spec of a Gaussian process decoder: a network trains the encoder; then a process is fitted to codes and data.

    All outputs share one kernel, an RBF with a length scale for each latent dimension. Mean, variance, draws and the
    exact expected metric are the process's; uncertainty grows away from the codes up to the kernel's own variance.

    Args:
        network: spec of the network that is trained with the encoder.
        num_inducing: number of inducing points (k-means centres of the codes).
        num_rows: rows, at most, that hyperparameters are fitted to; the posterior is given all.
        num_steps: L-BFGS steps of the hyperparameters, at most.

    Raises:
        ValueError: an argument below one.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> decoder = pg.GPDecoder(pg.nn.MLP((8,)), num_inducing=8, num_steps=5)
        >>> training = pg.Training(epochs=1, batch_size=20)
        >>> [model] = pg.fit(pg.VAE(latent=2, decoder=decoder), x, training=training, progress=False)
        >>> codes = model.encode(x).mean
        >>> bool((model.uncertainty(codes + 1000) > model.uncertainty(codes)).all())  # up to the kernel's own
        True

    References:
        Tosi, Hauberg, Vellido & Lawrence (2014), Metrics for probabilistic geometries.
    """

    network: Network = MLP()
    num_inducing: int = 64
    num_rows: int = 1000
    num_steps: int = 40
    num_members = 1

    def __post_init__(self) -> None:
        check_numbers(self)
        check_network("network", self.network)
        if min(self.num_inducing, self.num_rows, self.num_steps) < 1:
            raise ValueError(
                "num_inducing, num_rows, num_steps: expected at least 1; got "
                f"{self.num_inducing}, {self.num_rows}, {self.num_steps}."
            )

    def build(self, latent: int, num_outputs: int, likelihood: Likelihood) -> GPModule:
        """The module, freshly initialised from torch's random state.

        Raises:
            ValueError: a likelihood that is not Gaussian.
        """
        if not isinstance(likelihood, Gaussian):
            raise ValueError(
                f"likelihood: GPDecoder expects Gaussian(), a process has Gaussian noise; got {likelihood}."
            )
        network = self.network.build(latent, num_outputs)
        return GPModule(network, SparseGP(num_outputs, latent, self.num_inducing), self)
