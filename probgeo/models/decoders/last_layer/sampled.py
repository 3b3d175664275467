"""Decoders whose last layer is given by samples of its posterior, given the codes: by NUTS, or of Pyro's own guides."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.infer import MCMC, Trace_ELBO
from pyro.infer import NUTS as NUTSKernel
from pyro.infer.autoguide import AutoGuide, AutoNormal, init_to_value
from torch import Tensor, nn

from probgeo.likelihoods import Likelihood
from probgeo.models.decoders.decoder import DrawnModule, checked_num_draws
from probgeo.models.decoders.last_layer.gaussian import LastLayerModule, linear_layer, num_blocks_of
from probgeo.models.decoders.last_layer.regression import Regression, correlated, inverse_transposed
from probgeo.nn import Stacked
from probgeo.seeds import stream
from probgeo.specs import check_numbers


@dataclass(frozen=True)
class NUTS:
    """Samples of the last layer's posterior by the No-U-Turn sampler, given the codes: a reference for small data.

    The sampler moves in the coordinates that whiten the Laplace approximation, in which few steps suffice.

    Args:
        num_draws: samples kept: the functions there are to draw.
        warmup: samples before them, which adapt the step size.
        max_weights: refuse a last layer with more weights than this.

    Raises:
        ValueError: fewer than one sample.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
        >>> decoder = pg.BayesianDecoder(pg.nn.MLP((3,)), guide=pg.posteriors.NUTS(num_draws=5, warmup=5), draws=5)
        >>> training = pg.Training(epochs=1, batch_size=9)
        >>> [model] = pg.fit(pg.VAE(latent=2, decoder=decoder), x, training=training, progress=False)
        >>> model.draws()(torch.zeros(1, 2)).shape
        torch.Size([5, 1, 3])

    References:
        Hoffman & Gelman (2014), The No-U-Turn Sampler.
    """

    num_draws: int = 100
    warmup: int = 100
    max_weights: int = 20_000

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.num_draws < 1 or self.warmup < 1:
            raise ValueError(f"num_draws, warmup: expected at least 1; got {self.num_draws}, {self.warmup}.")

    def build(self, network: nn.Sequential, prior: float, likelihood: Likelihood, num_draws: int) -> "SampledModule":
        """The decoder, its samples not drawn yet.

        Raises:
            TypeError: a likelihood of which an observation depends on several outputs.
            ValueError: more weights than `max_weights`; fewer samples than the metric's draws.
        """
        layer = linear_layer(network, -1)
        num_weights = layer.out_features * (layer.in_features + 1)
        if num_weights > self.max_weights:
            raise ValueError(
                f"max_weights: the last layer has {num_weights} weights, above {self.max_weights}: sampling would take "
                "hours. Use Conjugate() or LaplaceApproximation(), a narrower network, or raise max_weights."
            )
        if num_draws > self.num_draws:
            raise ValueError(f"draws: expected at most the {self.num_draws} samples of {self}; got {num_draws}.")
        return SampledModule(network, prior, num_blocks_of(network, likelihood), self, num_draws)

    def samples(self, regression: Regression, v: Tensor, num_blocks: int, seed: int) -> Tensor:
        """Posterior samples (draw, output, feature), from the seed alone; the global random state is left as found."""
        mode, roots = regression.mode(v, num_blocks)
        factors = inverse_transposed(roots)

        def potential(parameters: dict[str, Tensor]) -> Tensor:
            return -regression.log_joint(mode + correlated(factors, parameters["whitened"])).sum()

        noise = torch.randn(mode.shape, generator=stream(seed, "start"), dtype=mode.dtype).to(mode.device)
        kernel = NUTSKernel(potential_fn=potential, adapt_mass_matrix=False)
        with random_state_of(seed, mode.device), torch.enable_grad():
            chain = MCMC(kernel, self.num_draws, self.warmup, {"whitened": noise}, disable_progbar=True)
            chain.run()
        return mode + torch.stack([correlated(factors, noise) for noise in chain.get_samples()["whitened"]])


@dataclass(frozen=True)
class Autoguide:
    """One of Pyro's automatic guides for the last layer's weights, fitted to the trained codes; samples of it are kept.

    Args:
        kind: class of the guide, e.g. `pyro.infer.autoguide.AutoNormal`; its coordinates are weights over prior std.
        num_steps: steps of Adam on Pyro's `Trace_ELBO`, each on all rows.
        learning_rate: of the first step; it falls to zero.
        num_draws: samples kept: the functions there are to draw.

    Raises:
        TypeError: a class that is not a guide of Pyro's.
        ValueError: a count below one.

    Example:
        >>> import pyro, torch, probgeo as pg
        >>> x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
        >>> guide = pg.posteriors.Autoguide(pyro.infer.autoguide.AutoNormal, num_steps=20, num_draws=5)
        >>> spec = pg.VAE(latent=2, decoder=pg.BayesianDecoder(pg.nn.MLP((3,)), guide=guide, draws=5))
        >>> [model] = pg.fit(spec, x, training=pg.Training(epochs=1, batch_size=9), progress=False)
        >>> model.draws()(torch.zeros(1, 2)).shape
        torch.Size([5, 1, 3])
    """

    kind: type[AutoGuide] = AutoNormal
    num_steps: int = 1000
    learning_rate: float = 0.02
    num_draws: int = 100

    def __post_init__(self) -> None:
        check_numbers(self)
        if not (isinstance(self.kind, type) and issubclass(self.kind, AutoGuide)):
            raise TypeError(
                f"guide: expected one of Pyro's classes, pyro.infer.autoguide.AutoNormal; got {self.kind!r}."
            )
        if self.num_steps < 1 or self.num_draws < 1:
            raise ValueError(f"num_steps, num_draws: expected at least 1; got {self.num_steps}, {self.num_draws}.")

    def build(self, network: nn.Sequential, prior: float, likelihood: Likelihood, num_draws: int) -> "SampledModule":
        """The decoder, its samples not drawn yet.

        Raises:
            TypeError: a likelihood of which an observation depends on several outputs.
            ValueError: fewer samples than the metric's draws.
        """
        if num_draws > self.num_draws:
            raise ValueError(f"draws: expected at most the {self.num_draws} samples of {self}; got {num_draws}.")
        return SampledModule(network, prior, num_blocks_of(network, likelihood), self, num_draws)

    def samples(self, regression: Regression, v: Tensor, num_blocks: int, seed: int) -> Tensor:
        """Samples (draw, output, feature) of the fitted guide, which starts at the mode, from the seed alone."""
        mode, _ = regression.mode(v, num_blocks)
        kind: Any = self.kind
        elbo: Any = Trace_ELBO()

        def model() -> None:
            weights = pyro.sample("v", dist.Normal(torch.zeros_like(v), torch.ones_like(v)).to_event(2))
            pyro.factor("x", regression.log_likelihood(weights).sum())

        with (
            random_state_of(seed, v.device),
            torch.enable_grad(),
            pyro.settings.context(module_local_params=True),
        ):
            guide = kind(model, init_loc_fn=init_to_value(values={"v": mode}))
            objective = elbo(model, guide)
            objective()  # makes the guide's parameters
            objective.to(v)
            optimizer = torch.optim.Adam(objective.parameters(), self.learning_rate)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, self.num_steps)
            for _ in range(self.num_steps):
                optimizer.zero_grad()
                objective().backward()
                optimizer.step()
                schedule.step()
            return torch.stack([guide()["v"].detach() for _ in range(self.num_draws)])


@contextmanager
def random_state_of(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random state from the seed alone, and afterwards as found."""
    value = stream(seed, "posterior").initial_seed()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(value)
        if device.type == "cuda":
            torch.cuda.manual_seed(value)
        yield


class SampledModule(LastLayerModule, DrawnModule):
    """The posterior is given by samples."""

    samples: Tensor

    def __init__(
        self, network: nn.Sequential, prior: float, num_blocks: int, sampler: NUTS | Autoguide, num_draws: int
    ) -> None:
        super().__init__(network, prior, num_blocks, num_draws)
        self.sampler = sampler
        self.register_buffer("samples", self.weights.repeat(sampler.num_draws, 1, 1))

    def find(self, regression: Regression, v: Float[Tensor, "output feature"], seed: int) -> None:
        self.samples.copy_(self.sampler.samples(regression, v, self.num_blocks, seed) * self.std)

    def draws(self, num_draws: int | None = None, seed: int = 0, head: nn.Module | None = None) -> Stacked:
        """The network with posterior samples of the last layer, in an order that the seed gives."""
        num_draws = checked_num_draws(
            self.num_draws if num_draws is None else num_draws, len(self.samples), "the number of samples"
        )
        order = torch.randperm(len(self.samples), generator=stream(seed, "draws"))[:num_draws]
        return self.stacked(self.samples[order.to(self.samples.device)], head)
