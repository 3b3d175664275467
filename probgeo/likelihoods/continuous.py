"""Likelihoods of real observations, of those on the unit interval, and of features of an observation."""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from probgeo.likelihoods.likelihood import (
    Fault,
    FirstHalf,
    Likelihood,
    Parameters,
    Scale,
    TwoParameterLikelihood,
    not_finite,
    outside_unit_interval,
)
from probgeo.likelihoods.normal import Normal
from probgeo.specs import check_numbers


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive number, or None to learn it; got {value}.")


def _initial_log_std(x: Float[Tensor, "row observation"] | None) -> Float[Tensor, ""]:
    return torch.zeros(()) if x is None else x.var(0).mean().sqrt().clamp(min=1e-6).log()


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """x ~ N(output, std²), one standard deviation for all observations.

    Args:
        std: a fixed standard deviation, in units of x; None learns it (parameter `log_std`).

    Raises:
        ValueError: a standard deviation that is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> likelihood = pg.Gaussian(std=0.5)
        >>> output = torch.tensor([[0.0, 1.0]])
        >>> likelihood.mean()(output), likelihood.isometry({})(output)  # in units of x, and of the noise
        (tensor([[0., 1.]]), tensor([[0., 2.]]))
    """

    std: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        _check_positive("std", self.std)

    def initial_parameters(self, num_features: int, x: Float[Tensor, "row feature"] | None = None) -> dict[str, Tensor]:
        return {"log_std": _initial_log_std(x)} if self.std is None else {}

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        return Normal(output, parameters["log_std"].exp() if self.std is None else self.std)

    def mean(self) -> nn.Module:
        return nn.Identity()

    def isometry(self, parameters: Parameters) -> nn.Module:
        """μ / std: the Fisher-Rao metric of a Gaussian of fixed standard deviation."""
        return Scale(parameters["log_std"].exp().item() if self.std is None else self.std)

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        yield not_finite(x)


@dataclass(frozen=True)
class HeteroscedasticGaussian(TwoParameterLikelihood):
    """x ~ N(μ, σ²), the decoder's output [μ; s] with σ = floor + log(1 + eˢ): a noise level of each observation.

    The Fisher-Rao metric (dμ² + 2 dσ²) / σ² is hyperbolic.

    Args:
        floor: smallest standard deviation, in units of x; without one the density of repeated values has no bound.

    Raises:
        ValueError: a floor that is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> output = torch.tensor([[3.0, 0.0]])  # of one observation: μ, s
        >>> found = pg.HeteroscedasticGaussian().distribution(output, {})
        >>> found.mean.item(), round(found.stddev.item(), 3)  # 0.001 + log 2
        (3.0, 0.694)
    """

    floor: float = 1e-3

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 < self.floor < math.inf:
            raise ValueError(f"floor: expected a positive standard deviation; got {self.floor}.")

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        mean, raw = output.chunk(2, dim=-1)
        return Normal(mean, self.floor + softplus(raw))

    def mean(self) -> nn.Module:
        return FirstHalf()

    def information(
        self, output: Float[Tensor, "*batch output"], parameters: Parameters
    ) -> Float[Tensor, "*batch observation 2 2"]:
        """diag(1/σ², 2 (∂σ/∂s)² / σ²)."""
        raw = output.chunk(2, dim=-1)[1]
        precision = (self.floor + softplus(raw)) ** -2
        return torch.stack([precision, 2 * raw.sigmoid() ** 2 * precision], dim=-1).diag_embed()

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        yield not_finite(x)


@dataclass(frozen=True)
class Laplace(Likelihood):
    """x ~ Laplace(output, scale), one scale for all observations: absolute errors instead of squares.

    Args:
        scale: a fixed mean absolute deviation, in units of x; None learns it (parameter `log_scale`).

    Raises:
        ValueError: a scale that is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> likelihood = pg.likelihoods.Laplace(scale=2.0)
        >>> output = torch.tensor([[3.0]])
        >>> likelihood.isometry({})(output).item()  # 3 / 2
        1.5
        >>> round(likelihood.distribution(output, {}).log_prob(output).exp().item(), 3)  # 1 / (2 · 2)
        0.25
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        _check_positive("scale", self.scale)

    def initial_parameters(self, num_features: int, x: Float[Tensor, "row feature"] | None = None) -> dict[str, Tensor]:
        return {"log_scale": _initial_log_std(x)} if self.scale is None else {}

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        return dist.Laplace(output, parameters["log_scale"].exp() if self.scale is None else self.scale)

    def mean(self) -> nn.Module:
        return nn.Identity()

    def isometry(self, parameters: Parameters) -> nn.Module:
        """μ / scale: the Fisher information of a Laplace location is 1 / scale²."""
        return Scale(parameters["log_scale"].exp().item() if self.scale is None else self.scale)

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        yield not_finite(x)


# log((e^η - 1) / η) is the log normaliser A of the continuous Bernoulli. Around 0 its derivatives are power series in
# η with radius 2π, from the Bernoulli numbers B_2, B_4, …; beyond _SERIES_UNTIL the closed forms have no cancellation.
_BERNOULLI_NUMBERS = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798)
_VARIANCE_SERIES = [
    b * (2 * n - 1) / math.factorial(2 * n) for n, b in enumerate(_BERNOULLI_NUMBERS, start=1)
]  # of η^(2n - 2)
_MEAN_SERIES = [b / math.factorial(2 * n) for n, b in enumerate(_BERNOULLI_NUMBERS, start=1)]  # of η^(2n - 1)
_LOG_SERIES = [b / (2 * n) for n, b in enumerate(_MEAN_SERIES, start=1)]  # of η^(2n)
_SERIES_UNTIL = 1.5
# Gauss–Legendre on [0, 1].
_NODES, _WEIGHTS = ((rule + shift) / 2 for rule, shift in zip(np.polynomial.legendre.leggauss(20), (1, 0), strict=True))


def _power_series(coefficients: list[float], square: Tensor) -> Tensor:
    value = torch.zeros_like(square)
    for coefficient in reversed(coefficients):
        value = value * square + coefficient
    return value


def _near_and_far(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether |x| is small, and x where it is small and where it is not, each harmless elsewhere."""
    near = x.abs() < _SERIES_UNTIL
    return near, torch.where(near, x, 0), torch.where(near, 2 * _SERIES_UNTIL, x)


def _log_normalizer(logits: Tensor) -> Tensor:
    """A(η) = log((e^η - 1) / η)."""
    is_near, near, far = _near_and_far(logits)
    square = near.square()
    series = near / 2 + square * _power_series(_LOG_SERIES, square)
    return torch.where(is_near, series, far.clamp(min=0) + torch.log(-torch.expm1(-far.abs()) / far.abs()))


class _ContinuousBernoulli(dist.ContinuousBernoulli):
    """Pyro's, with a normaliser that is exact for large logits too (there it is bounded by the precision of p)."""

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.logits - _log_normalizer(self.logits)


class ContinuousBernoulliMean(nn.Module):
    """A'(η) = 1 / (1 - e^-η) - 1/η."""

    elementwise = True

    def forward(self, logits: Tensor) -> Tensor:
        is_near, near, far = _near_and_far(logits)
        series = near * _power_series(_MEAN_SERIES, near.square())
        return 0.5 + torch.where(is_near, series, 0.5 / torch.tanh(far / 2) - 1 / far)


def _variance(logits: Tensor) -> Tensor:
    """A''(η) = 1/η² - 1 / (4 sinh²(η/2))."""
    is_near, near, far = _near_and_far(logits)
    decay = torch.exp(-far.abs())  # 1 / (4 sinh²) = e^-|η| / (1 - e^-|η|)², without overflow
    return torch.where(is_near, _power_series(_VARIANCE_SERIES, near.square()), far**-2 - decay / (1 - decay).square())


class ContinuousBernoulliIsometry(nn.Module):
    """∫₀^η √A''(t) dt by a fixed Gauss–Legendre rule in u, t = √12 sinh u, where the integrand hardly varies.

    √A'' is 1/√12 at 0 and 1/|t| far away, as is 1/√(12 + t²), whose integral is u.
    """

    elementwise = True

    def forward(self, logits: Tensor) -> Tensor:
        u = torch.asinh(logits / math.sqrt(12))
        total = torch.zeros_like(u)
        for node, weight in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True):
            t = math.sqrt(12) * torch.sinh(u * node)
            total = total + weight * (_variance(t) * (12 + t.square())).sqrt()
        return u * total


@dataclass(frozen=True)
class ContinuousBernoulli(Likelihood):
    """x in [0, 1] with density exp(η x - A(η)), η the output and A(η) = log((e^η - 1) / η): grey values of an image.

    Unlike `Bernoulli` of grey values it is a normalised density.

    Example:
        >>> import torch, probgeo as pg
        >>> likelihood = pg.likelihoods.ContinuousBernoulli()
        >>> flat = torch.zeros(1, 1)  # η = 0: uniform on [0, 1]
        >>> round(likelihood.mean()(flat).item(), 3)
        0.5
        >>> round(likelihood.distribution(flat, {}).log_prob(torch.tensor([[0.3]])).exp().item(), 3)
        1.0

    References:
        Loaiza-Ganem & Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in VAEs.
    """

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        return _ContinuousBernoulli(logits=output)

    def mean(self) -> nn.Module:
        return ContinuousBernoulliMean()

    def isometry(self, parameters: Parameters) -> nn.Module:
        """∫₀^η √A''(t) dt, the Fisher information being the variance A'' of x."""
        return ContinuousBernoulliIsometry()

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        yield not_finite(x)
        yield outside_unit_interval(x, "a continuous Bernoulli likelihood")


class _FrozenFeatures(nn.Module):
    """φ(x), by a network that is no part of the model: neither trained nor copied for each decoder of an ensemble."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._held = (network,)  # in a tuple, so that its weights are not registered

    def forward(self, x: Tensor) -> Tensor:
        (network,) = self._held
        values = itertools.chain(network.named_parameters(), network.named_buffers())
        state = {name: value.to(x if value.is_floating_point() else x.device) for name, value in values}
        rows = x.reshape(-1, x.shape[-1])
        return functional_call(network, state, (rows,)).flatten(1).reshape(*x.shape[:-1], -1)


@dataclass(frozen=True)
class Perceptual(Likelihood):
    """φ(x) ~ N(φ(output), std²): a Gaussian in the space of a feature extractor φ, e.g. a classifier's inner layer.

    The mean of the observation is the output itself, in units of x; Fisher-Rao distances are those of φ / std.

    Args:
        features: class of torch modules (row, feature) -> (row, ...), differentiable, built without arguments; it
            loads weights of its own, or has random ones, always the same.
        std: a fixed standard deviation, in units of φ; None learns it (parameter `log_std`).

    Raises:
        TypeError: features that are no class of modules.
        ValueError: a standard deviation that is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> class Total(torch.nn.Module):  # what is perceived of an image: how bright it is as a whole
        ...     def forward(self, x):
        ...         return x.sum(-1, keepdim=True)
        >>> likelihood = pg.likelihoods.Perceptual(Total, std=0.5)
        >>> likelihood.isometry({})(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))  # 3 / 0.5, no telling the two apart
        tensor([[6.],
                [6.]])

    References:
        Hou, Shen, Sun & Qiu (2017), Deep feature consistent variational autoencoder.
    """

    features: type[nn.Module]
    std: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        if not (isinstance(self.features, type) and issubclass(self.features, nn.Module)):
            raise TypeError(f"features: expected a class of torch modules; got {self.features!r}.")
        _check_positive("std", self.std)

    @functools.cached_property
    def _features(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return _FrozenFeatures(self.features().eval().requires_grad_(False))

    def observed(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row observation"]:
        return self._features(x)

    def initial_parameters(self, num_features: int, x: Float[Tensor, "row feature"] | None = None) -> dict[str, Tensor]:
        if self.std is not None:
            return {}
        return {"log_std": _initial_log_std(None if x is None else self._features(x))}

    def distribution(self, output: Float[Tensor, "*batch output"], parameters: Parameters) -> dist.Distribution:
        return Normal(self._features(output), parameters["log_std"].exp() if self.std is None else self.std)

    def mean(self) -> nn.Module:
        return nn.Identity()

    def isometry(self, parameters: Parameters) -> nn.Module:
        """φ(output) / std."""
        return nn.Sequential(
            self._features, Scale(parameters["log_std"].exp().item() if self.std is None else self.std)
        )

    def faults(self, x: Float[Tensor, "row feature"]) -> Iterator[Fault]:
        yield not_finite(x)
