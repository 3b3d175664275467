"""Layers of normalizing flows, most of them Pyro's, made so that they stack and have inverses; and their specs."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions.transforms as transforms
import torch
from jaxtyping import Float
from pyro.nn import AutoRegressiveNN, DenseNN
from torch import Tensor, nn
from torch.nn import functional

from probgeo.specs import check_numbers

__all__ = [
    "AffineCoupling",
    "Autoregressive",
    "Bijection",
    "MaskedAutoregressive",
    "NeuralAutoregressive",
    "Planar",
    "SplineCoupling",
]

_MAX_LOG_SCALE = 3.0


class Bijection(nn.Module, abc.ABC):
    """A smooth bijection of ℝ^width with a smooth inverse; stacks, because it holds no state beside its parameters.

    Example:
        >>> import torch, probgeo as pg
        >>> layer = pg.nn.flows.AffineCoupling((8,)).build(width=4)
        >>> x = torch.randn(3, 4)
        >>> isinstance(layer, pg.nn.flows.Bijection), torch.allclose(layer.inverse(layer(x)), x, atol=1e-4)
        (True, True)
    """

    @abc.abstractmethod
    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """y = T(x)."""

    @abc.abstractmethod
    def inverse(self, y: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """x with T(x) = y."""


# --- layers ----------------------------------------------------------------------------------------------------------


class PyroFlow(Bijection):
    """One of Pyro's transforms without its memory of the last call, which can be neither stacked nor copied."""

    def __init__(self, transform: Any) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor) -> Tensor:
        return self._forgotten(self.transform._call(x))

    def _forgotten(self, result: Tensor) -> Tensor:
        for name in vars(self.transform):
            if name.startswith("_cached_") and name != "_cached_x_y":
                setattr(self.transform, name, None)
        return result


class _Bounded(nn.Module):
    """(μ, s) of a network, |s| < 3 smoothly; Pyro cuts s off at -5 and 3, with a derivative that is not the cut's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.network(x)
        return mean, _MAX_LOG_SCALE * torch.tanh(log_scale / _MAX_LOG_SCALE)


class AffineCouplingLayer(PyroFlow):
    """[x_1; exp(s(x_1)) x_2 + μ(x_1)]."""

    def inverse(self, y: Tensor) -> Tensor:
        return self._forgotten(self.transform._inverse(y))


class AutoregressiveLayer(PyroFlow):
    """y_i = exp(s_i(x_<i)) x_i + μ_i(x_<i)."""

    def inverse(self, y: Tensor) -> Tensor:
        # After i rounds x_1 … x_i are right, whatever the rest. Pyro's own inverse knows single precision alone.
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):
            mean, log_scale = self.transform.arn(x)
            x = (y - mean) * torch.exp(-log_scale)
        return x


class MaskedAutoregressiveLayer(Bijection):
    """The inverse of an autoregressive bijection: y_i = (x_i − μ_i(y_<i)) exp(−s_i(y_<i)), one coordinate at a time."""

    def __init__(self, layer: AutoregressiveLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.inverse(x)

    def inverse(self, y: Tensor) -> Tensor:
        return self.layer(y)


class NeuralAutoregressiveLayer(PyroFlow):
    """y_i = an increasing network of x_i, its weights functions of x_<i."""

    @torch.no_grad()
    def inverse(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for i in range(y.shape[-1]):
            head, tail = x[..., :i], x[..., i + 1 :]

            def coordinate(value: Tensor, i: int = i, head: Tensor = head, tail: Tensor = tail) -> Tensor:
                return self(torch.cat([head, value[..., None], tail], dim=-1))[..., i]

            x = torch.cat([head, _increasing_root(coordinate, y[..., i])[..., None], tail], dim=-1)
        return x


class PlanarLayer(PyroFlow):
    """x + u tanh(w·x + b), where w·u > −1."""

    @torch.no_grad()
    def inverse(self, y: Tensor) -> Tensor:
        part = self.transform
        u = part.u_hat(part.u, part.w)

        def along(value: Tensor) -> Tensor:
            return value + (part.w @ u) * torch.tanh(value + part.bias)

        return y - u * torch.tanh(_increasing_root(along, y @ part.w)[..., None] + part.bias)


class SplineCouplingLayer(Bijection):
    """[x_1; spline(x_2)], the knots of the increasing rational quadratic spline functions of x_1.

    Pyro's own selects by a mask of the values, which is not possible for stacked copies.
    """

    def __init__(self, width: int, hidden: Sequence[int], bins: int, bound: float) -> None:
        super().__init__()
        self.kept, self.moved, self.bins, self.bound = width // 2, width - width // 2, bins, bound
        self.network = DenseNN(self.kept, list(hidden), [self.moved * (3 * bins - 1)], nonlinearity=nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = x.split([self.kept, self.moved], dim=-1)
        left, bottom, widths, heights, slopes = self._knots(kept)
        left, bottom, width, height, first, last = self._bin(moved, left, left, bottom, widths, heights, slopes)
        slope = height / width
        t = ((moved - left) / width).clamp(0, 1)
        rise = height * (slope * t**2 + first * t * (1 - t)) / (slope + (first + last - 2 * slope) * t * (1 - t))
        return torch.cat([kept, torch.where(moved.abs() < self.bound, bottom + rise, moved)], dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        kept, moved = y.split([self.kept, self.moved], dim=-1)
        left, bottom, widths, heights, slopes = self._knots(kept)
        left, bottom, width, height, first, last = self._bin(moved, bottom, left, bottom, widths, heights, slopes)
        slope, rise = height / width, (moved - bottom).clamp(min=0)
        excess = rise * (first + last - 2 * slope)
        a, b, c = height * (slope - first) + excess, height * first - excess, -slope * rise
        t = 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())
        return torch.cat([kept, torch.where(moved.abs() < self.bound, left + t * width, moved)], dim=-1)

    def _knots(self, kept: Tensor) -> tuple[Tensor, ...]:
        """Left and lower ends of the bins, their widths and heights (…, moved, bin), slopes (…, moved, bin + 1)."""
        numbers = self.network(kept).unflatten(-1, (self.moved, -1))
        widths, heights, slopes = numbers.split([self.bins, self.bins, self.bins - 1], dim=-1)
        # No bin is narrower than a tenth of the mean one, no slope below 0.1; slope 1 where the identity begins.
        shares = [0.1 / self.bins + 0.9 * functional.softmax(part, dim=-1) for part in (widths, heights)]
        widths, heights = (2 * self.bound * share for share in shares)
        slopes = functional.pad(0.1 + functional.softplus(slopes + 0.38), (1, 1), value=1.0)
        left, bottom = (part.cumsum(-1) - part - self.bound for part in (widths, heights))
        return left, bottom, widths, heights, slopes

    @staticmethod
    def _bin(values: Tensor, ends: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        """The parts in each value's bin, the last part at both sides of it."""
        index = ((values[..., None] >= ends).sum(-1, keepdim=True) - 1).clamp(min=0)
        found = [part.gather(-1, index)[..., 0] for part in parts]
        return *found, parts[-1].gather(-1, index + 1)[..., 0]


def _increasing_root(function: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """x with function(x) = target, by bisection down to neighbouring floating-point numbers."""
    low, high = target - 1, target + 1
    for _ in range(64):  # the bracket doubles until it holds the root; never for NaN
        too_high, too_low = function(low) > target, function(high) < target
        if not (too_high | too_low).any():
            break
        width = high - low
        low, high = torch.where(too_high, low - width, low), torch.where(too_low, high + width, high)
    for _ in range(128):
        middle = (low + high) / 2
        if ((middle == low) | (middle == high)).all():
            break
        below = function(middle) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


# --- specs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Hypernetwork(abc.ABC):
    """A layer whose parameters are given by a network of some of the coordinates."""

    hidden: Sequence[int] = (64,)

    @abc.abstractmethod
    def build(self, width: int) -> Bijection:
        """The layer, freshly initialised from torch's random state."""

    def __post_init__(self) -> None:
        check_numbers(self)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden: expected at least one layer, all positive; got {self.hidden}.")

    def _network(self, width: int, num_parameters: list[int]) -> AutoRegressiveNN:
        """Parameters of coordinate i as functions of those before it."""
        if min(self.hidden) < width:
            raise ValueError(
                f"hidden: expected layers of at least {width} units, one per coordinate; got {self.hidden}."
            )
        order: Any = torch.arange(width)
        return AutoRegressiveNN(width, list(self.hidden), num_parameters, order, nonlinearity=nn.SiLU())


@dataclass(frozen=True)
class AffineCoupling(_Hypernetwork):
    """Spec of [x_1; exp(s(x_1)) x_2 + μ(x_1)], halves x_1, x_2.

    Args:
        hidden: widths of the hidden layers of the network x_1 -> s, μ.

    Raises:
        ValueError: no hidden layers, or a width below one.

    Example:
        >>> import torch, probgeo as pg
        >>> layer = pg.nn.flows.AffineCoupling((8,)).build(width=4)
        >>> x = torch.randn(3, 4)
        >>> torch.equal(layer(x)[:, :2], x[:, :2])  # the first half passes
        True
        >>> torch.allclose(layer.inverse(layer(x)), x, atol=1e-4)
        True

    References:
        Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using Real NVP.
    """

    def build(self, width: int) -> Bijection:
        """The layer, freshly initialised from torch's random state."""
        kept = width // 2
        network = DenseNN(kept, list(self.hidden), [width - kept, width - kept], nonlinearity=nn.SiLU())
        return AffineCouplingLayer(transforms.AffineCoupling(kept, _Bounded(network)))


@dataclass(frozen=True)
class SplineCoupling(_Hypernetwork):
    """Spec of [x_1; spline(x_2; x_1)]: increasing rational quadratic on [−bound, bound], beyond it the identity.

    Args:
        hidden: widths of the hidden layers of the network x_1 -> knots and slopes.
        bins: pieces of a spline.
        bound: where the identity begins.

    Raises:
        ValueError: no hidden layers, a width below one, fewer than two bins, or a bound that is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> layer = pg.nn.flows.SplineCoupling((8,), bound=4.0).build(width=4)
        >>> x = torch.tensor([[0.5, -0.5, 0.5, 9.0]])
        >>> layer(x)[0, 3].item()  # beyond the bound it is the identity
        9.0
        >>> torch.allclose(layer.inverse(layer(x)), x, atol=1e-4)
        True

    References:
        Durkan, Bekasov, Murray & Papamakarios (2019), Neural spline flows, equations 4 and 6 to 8.
    """

    bins: int = 8
    bound: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 2 or not self.bound > 0:
            raise ValueError(f"bins, bound: expected at least 2 and a positive number; got {self.bins}, {self.bound}.")

    def build(self, width: int) -> Bijection:
        """The layer, freshly initialised from torch's random state."""
        return SplineCouplingLayer(width, self.hidden, self.bins, self.bound)


@dataclass(frozen=True)
class Autoregressive(_Hypernetwork):
    """Spec of y_i = exp(s_i(x_<i)) x_i + μ_i(x_<i): one pass forwards, as many as coordinates backwards.

    Args:
        hidden: widths of the hidden layers of the network x -> s, μ, at least that of x.

    Raises:
        ValueError: no hidden layers, or a width below one.

    Example:
        >>> import torch, probgeo as pg
        >>> layer = pg.nn.flows.Autoregressive((8,)).build(width=3)
        >>> x = torch.randn(3)
        >>> jacobian = torch.func.jacrev(layer)(x)
        >>> torch.equal(jacobian, jacobian.tril())  # y_i depends on x_1, …, x_i alone
        True
        >>> torch.allclose(layer.inverse(layer(x)), x, atol=1e-4)
        True

    References:
        Kingma et al. (2016), Improving variational inference with inverse autoregressive flow.
    """

    def build(self, width: int) -> AutoregressiveLayer:
        """The layer, freshly initialised from torch's random state.

        Raises:
            ValueError: a hidden layer narrower than x.
        """
        return AutoregressiveLayer(transforms.AffineAutoregressive(_Bounded(self._network(width, [1, 1]))))


@dataclass(frozen=True)
class MaskedAutoregressive(_Hypernetwork):
    """Spec of y_i = (x_i − μ_i(y_<i)) exp(−s_i(y_<i)), the inverse: as many passes as coordinates forwards, so slow.

    Args:
        hidden: widths of the hidden layers of the network y -> s, μ, at least that of y.

    Raises:
        ValueError: no hidden layers, or a width below one.

    Example:
        >>> import torch, probgeo as pg
        >>> layer = pg.nn.flows.MaskedAutoregressive((8,)).build(width=3)
        >>> x = torch.randn(3)
        >>> torch.allclose(layer.inverse(layer(x)), x, atol=1e-4)
        True

    References:
        Papamakarios, Pavlakou & Murray (2017), Masked autoregressive flow for density estimation.
    """

    def build(self, width: int) -> Bijection:
        """The layer, freshly initialised from torch's random state.

        Raises:
            ValueError: a hidden layer narrower than y.
        """
        return MaskedAutoregressiveLayer(Autoregressive(self.hidden).build(width))


@dataclass(frozen=True)
class NeuralAutoregressive(_Hypernetwork):
    """Spec of y_i = an increasing network of x_i, its weights functions of x_<i; inverted by bisection, slowly.

    Args:
        hidden: widths of the hidden layers of the network x -> weights, at least that of x.
        units: hidden units of the increasing networks.

    Raises:
        ValueError: no hidden layers, a width below one, or no units.

    Example:
        >>> import torch, probgeo as pg
        >>> layer = pg.nn.flows.NeuralAutoregressive((8,), units=4).build(width=3)
        >>> x = torch.randn(3)
        >>> torch.allclose(layer.inverse(layer(x)), x, atol=1e-3)
        True

    References:
        Huang, Krueger, Lacoste & Courville (2018), Neural autoregressive transforms.
    """

    units: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.units < 1:
            raise ValueError(f"units: expected at least 1; got {self.units}.")

    def build(self, width: int) -> Bijection:
        """The layer, freshly initialised from torch's random state.

        Raises:
            ValueError: a hidden layer narrower than x.
        """
        # ELU, because a sigmoid's inverse saturates: in single precision x beyond about 16 would have one image.
        network = self._network(width, [self.units] * 3)
        return NeuralAutoregressiveLayer(transforms.NeuralAutoregressive(network, self.units, "ELU"))


@dataclass(frozen=True)
class Planar:
    """Spec of x + u tanh(w·x + b), w·u > −1; inverted by bisection.

    Example:
        >>> import torch, probgeo as pg
        >>> layer = pg.nn.flows.Planar().build(width=3)
        >>> x = torch.randn(3)
        >>> torch.allclose(layer.inverse(layer(x)), x, atol=1e-3)
        True

    References:
        Rezende & Mohamed (2015), Variational inference with normalizing flows, equation 10.
    """

    def build(self, width: int) -> Bijection:
        """The layer, freshly initialised from torch's random state."""
        return PlanarLayer(transforms.Planar(width))


Layer = AffineCoupling | SplineCoupling | Autoregressive | MaskedAutoregressive | NeuralAutoregressive | Planar
