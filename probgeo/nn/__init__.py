"""Specs of networks, and `Stacked`: n copies of a module as one batched module.

No network here keeps statistics of its batches, so that copies of all of them can be stacked.
"""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from probgeo.geometry.points import Points, points_like, taken_by
from probgeo.nn import flows
from probgeo.nn.images import ConditionalConvolutional, Convolutional, ResizeConvolutional, check_activation
from probgeo.nn.injective import Injective
from probgeo.nn.sameness import difference
from probgeo.specs import check_numbers

__all__ = [
    "MLP",
    "ConditionalConvolutional",
    "Convolutional",
    "DenseNet",
    "Injective",
    "Network",
    "Residual",
    "ResizeConvolutional",
    "Stacked",
    "flows",
    "mlp",
]


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.SiLU) -> nn.Sequential:
    """Multilayer perceptron W_L σ(W_{L-1} … σ(W_1 z + b_1) …) + b_L.

    Args:
        sizes: widths of all layers, input and output included: (2, 128, 64) has one hidden layer.
        activation: constructor of the elementwise nonlinearity between the layers.

    Returns:
        `nn.Sequential` of `nn.Linear` and activations; no nonlinearity after the last layer.

    Raises:
        ValueError: fewer than two sizes, or a size below one.

    Example:
        >>> import torch, probgeo as pg
        >>> network = pg.nn.mlp((2, 8, 5))
        >>> sum(weights.numel() for weights in network.parameters())  # 2 · 8 + 8 and 8 · 5 + 5
        69
        >>> network(torch.zeros(3, 2)).shape
        torch.Size([3, 5])
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes: expected at least an input and an output width, all positive; got {tuple(sizes)}.")
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), activation()]
    return nn.Sequential(*layers[:-1])


@runtime_checkable
class Network(Protocol):
    """What describes a network: a frozen dataclass that builds its module.

    Example:
        >>> import torch, probgeo as pg
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Linear:  # a network of one's own
        ...     def build(self, num_inputs, num_outputs):
        ...         return torch.nn.Linear(num_inputs, num_outputs)
        >>> isinstance(Linear(), pg.nn.Network)
        True
        >>> model = pg.VAE(latent=2, decoder=pg.Decoder(Linear())).build(num_features=5, seed=0)
        >>> z = torch.randn(3, 2)
        >>> torch.allclose(model.decode(z.mean(0)), model.decode(z).mean(0), atol=1e-6)  # affine
        True
    """

    def build(self, num_inputs: int, num_outputs: int) -> nn.Module:
        """The module (*batch, num_inputs) -> (*batch, num_outputs), freshly initialised from torch's random state."""


def check_network(name: str, network: Any) -> None:
    """TypeError, by the name of the argument, for what is no spec of a network: a module, or a class."""
    if isinstance(network, type) or not isinstance(network, Network):
        raise TypeError(
            f"{name}: expected a spec of a network, such as MLP((128, 128)); got {network!r}. For modules of your own "
            "give a frozen dataclass with a method build(num_inputs, num_outputs) that makes one."
        )


@dataclass(frozen=True)
class MLP:
    """Spec of a multilayer perceptron.

    Args:
        hidden: widths of the hidden layers.
        activation: class of the elementwise nonlinearity, e.g. `torch.nn.SiLU`.

    Raises:
        TypeError: an activation that is no class of modules.
        ValueError: a width below one.

    Example:
        >>> import torch, probgeo as pg
        >>> network = pg.nn.MLP((8,), activation=torch.nn.Tanh).build(num_inputs=2, num_outputs=5)
        >>> network
        Sequential(
          (0): Linear(in_features=2, out_features=8, bias=True)
          (1): Tanh()
          (2): Linear(in_features=8, out_features=5, bias=True)
        )
    """

    hidden: Sequence[int] = (128, 128)
    activation: type[nn.Module] = nn.SiLU

    def __post_init__(self) -> None:
        check_numbers(self)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: expected positive widths; got {self.hidden}.")
        check_activation(self.activation)

    def build(self, num_inputs: int, num_outputs: int) -> nn.Sequential:
        """The network, freshly initialised from torch's random state."""
        return mlp((num_inputs, *self.hidden, num_outputs), self.activation)


@dataclass(frozen=True)
class Residual:
    """Spec of a residual network: x_0 = W z + b, x_{k+1} = x_k + V_k σ(W_k σ(x_k) + b_k) + c_k, output W σ(x_K) + b.

    Args:
        width: units of every layer.
        blocks: number K of residual blocks.
        activation: class of the elementwise nonlinearity σ.

    Raises:
        TypeError: an activation that is no class of modules.
        ValueError: width or blocks below one.

    Example:
        >>> import torch, probgeo as pg
        >>> network = pg.nn.Residual(width=8, blocks=2).build(num_inputs=2, num_outputs=5)
        >>> sum(weights.numel() for weights in network.parameters())  # 2 · 8 + 8, twice 2 · (8 · 8 + 8), 8 · 5 + 5
        357

    References:
        He, Zhang, Ren & Sun (2016), Identity mappings in deep residual networks.
    """

    width: int = 128
    blocks: int = 2
    activation: type[nn.Module] = nn.SiLU

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.width < 1 or self.blocks < 1:
            raise ValueError(f"width, blocks: expected at least 1; got {self.width}, {self.blocks}.")
        check_activation(self.activation)

    def build(self, num_inputs: int, num_outputs: int) -> nn.Sequential:
        """The network, freshly initialised from torch's random state; it ends in a linear layer."""
        sizes, kind = (self.width, self.width, self.width), self.activation
        blocks = [_Sum(nn.Sequential(kind(), *mlp(sizes, kind))) for _ in range(self.blocks)]
        return nn.Sequential(nn.Linear(num_inputs, self.width), *blocks, kind(), nn.Linear(self.width, num_outputs))


@dataclass(frozen=True)
class DenseNet:
    """Spec of a densely connected network: x_0 = z, x_{k+1} = [x_k; σ(W_k x_k + b_k)], output W x_K + b.

    Args:
        growth: units that every layer adds.
        layers: number K of them.
        activation: class of the elementwise nonlinearity σ.

    Raises:
        TypeError: an activation that is no class of modules.
        ValueError: growth or layers below one.

    Example:
        >>> import torch, probgeo as pg
        >>> network = pg.nn.DenseNet(growth=4, layers=2).build(num_inputs=2, num_outputs=5)
        >>> sum(weights.numel() for weights in network.parameters())  # 2 · 4 + 4, 6 · 4 + 4, 10 · 5 + 5
        95

    References:
        Huang, Liu, van der Maaten & Weinberger (2017), Densely connected convolutional networks.
    """

    growth: int = 64
    layers: int = 3
    activation: type[nn.Module] = nn.SiLU

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.growth < 1 or self.layers < 1:
            raise ValueError(f"growth, layers: expected at least 1; got {self.growth}, {self.layers}.")
        check_activation(self.activation)

    def build(self, num_inputs: int, num_outputs: int) -> nn.Sequential:
        """The network, freshly initialised from torch's random state; it ends in a linear layer."""
        widths = [num_inputs + self.growth * layer for layer in range(self.layers + 1)]
        layers = [
            _Concatenation(nn.Sequential(nn.Linear(width, self.growth), self.activation())) for width in widths[:-1]
        ]
        return nn.Sequential(*layers, nn.Linear(widths[-1], num_outputs))


class _Sum(nn.Module):
    """x + f(x)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return x + self.network(x)


class _Concatenation(nn.Module):
    """[x; f(x)]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.network(x)], dim=-1)


class Stacked(nn.Module):
    """n modules of one architecture as one batched module: (f_1(z), …, f_n(z)).

    The weights are copied and stacked along a new first dimension, under the names that they have in one module
    (`template.` in front), so saving, `.to(device)` and optimisers work as for any module.

    Args:
        modules: at least one module; all of the same architecture, without buffers that change in the forward pass.

    Raises:
        ValueError: no modules, or modules that differ in more than the values of their weights: in parameters' names or
            shapes, in a setting, in a hook.

    Example:
        >>> import torch, probgeo as pg
        >>> networks = [torch.nn.Linear(2, 5) for _ in range(3)]
        >>> stacked = pg.nn.Stacked(networks)
        >>> z = torch.randn(4, 2)
        >>> stacked(z).shape
        torch.Size([3, 4, 5])
        >>> torch.allclose(stacked(z)[1], networks[1](z), atol=1e-6)
        True
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        if not modules:
            raise ValueError("modules: expected at least one module; got none.")
        for index, module in enumerate(modules[1:], 1):
            if found := difference(modules[0], module):
                raise ValueError(
                    f"modules: expected one architecture; module {index} differs from module 0 in {found}. Modules "
                    "that compute different functions are called one by one: pass a list of them to ExpectedMetric."
                )
        states = [dict(module.named_parameters()) | dict(module.named_buffers()) for module in modules]
        self.num_members = len(modules)
        self.template = copy.deepcopy(modules[0])
        for path in states[0]:
            owner_name, _, name = path.rpartition(".")
            owner = self.template.get_submodule(owner_name)
            stacked = torch.stack([state[path].detach() for state in states])
            if name in owner._parameters:
                trained = states[0][path].requires_grad
                owner._parameters[name] = nn.Parameter(stacked, requires_grad=trained)
            else:
                owner._buffers[name] = stacked

    @classmethod
    def varied(cls, module: nn.Module, values: Mapping[str, Tensor]) -> "Stacked":
        """Copies of one module that differ in some parameters; the others, and all buffers, are copied once.

        Args:
            module: what is copied.
            values: parameters (member, *shape) by name, at least one.
        """
        stacked = cls.__new__(cls)
        nn.Module.__init__(stacked)
        stacked.num_members = len(next(iter(values.values())))
        stacked.template = copy.deepcopy(module)
        for path, value in (dict(module.named_parameters()) | dict(module.named_buffers())).items():
            owner_name, _, name = path.rpartition(".")
            owner = stacked.template.get_submodule(owner_name)
            many = values.get(path, value.detach().clone().expand(stacked.num_members, *value.shape))
            if name in owner._parameters:
                owner._parameters[name] = nn.Parameter(many, requires_grad=False)
            else:
                owner._buffers[name] = many
        return stacked

    def _state(self) -> dict[str, Tensor]:
        return dict(self.template.named_parameters()) | dict(self.template.named_buffers())

    def forward(self, z: Points) -> Tensor:
        """Every member at the same input: (*batch, in) -> (member, *batch, out); arrays and tables in their dtype."""
        state = self._state()
        z = points_like("z", z, state.values())
        with taken_by(state.values(), "z", z):
            return vmap(lambda state: functional_call(self.template, state, (z,)), randomness="different")(state)

    def each(self, *inputs: Any) -> Any:
        """Member i at its own inputs: (member, *batch, in) -> (member, *batch, out); pytrees of tensors pass too."""

        def call(state: dict[str, Tensor], *rows: Any) -> Any:
            return functional_call(self.template, state, rows)

        return vmap(call, randomness="different")(self._state(), *inputs)

    def one(self, index: Int[Tensor, ""], z: Tensor) -> Tensor:
        """Member `index` (a tensor, so that it may be random) at z: (*batch, in) -> (*batch, out)."""
        # Indexing under vmap would send numbers of the members to a GPU at every step.
        state, which = self._state(), index.reshape(1).to(z.device)
        own = {name: value.index_select(0, which)[0] for name, value in state.items()}
        return functional_call(self.template, own, (z,))

    def member(self, index: int) -> nn.Module:
        """Member `index` as a module of its own, its weights copied."""
        module = copy.deepcopy(self.template)
        for path, stacked in self._state().items():
            owner_name, _, name = path.rpartition(".")
            owner = module.get_submodule(owner_name)
            values = stacked[index].detach().clone()
            if name in owner._parameters:
                owner._parameters[name] = nn.Parameter(values, requires_grad=stacked.requires_grad)
            else:
                owner._buffers[name] = values
        return module
