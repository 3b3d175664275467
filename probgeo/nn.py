"""Networks, and `Stacked`: n copies of a module as one batched module."""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.func import functional_call, vmap


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.SiLU) -> nn.Sequential:
    """Multilayer perceptron W_L σ(W_{L-1} … σ(W_1 z + b_1) …) + b_L.

    Args:
        sizes: widths of all layers, input and output included: (2, 128, 64) has one hidden layer.
        activation: constructor of the elementwise nonlinearity between the layers.

    Returns:
        `nn.Sequential` of `nn.Linear` and activations; no nonlinearity after the last layer.

    Raises:
        ValueError: fewer than two sizes, or a size below one.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes: expected at least an input and an output width, all positive; got {tuple(sizes)}.")
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), activation()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class MLP:
    """Spec of a multilayer perceptron.

    Args:
        hidden: widths of the hidden layers.
        activation: class of the elementwise nonlinearity, e.g. `torch.nn.SiLU`.

    Raises:
        TypeError: an activation that is no class of modules.
        ValueError: a width below one.
    """

    hidden: Sequence[int] = (128, 128)
    activation: type[nn.Module] = nn.SiLU

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: expected positive widths; got {self.hidden}.")
        if not (isinstance(self.activation, type) and issubclass(self.activation, nn.Module)):
            raise TypeError(f"activation: expected a class such as torch.nn.SiLU; got {self.activation!r}.")

    def build(self, num_inputs: int, num_outputs: int) -> nn.Sequential:
        """The network, freshly initialised from torch's random state."""
        return mlp((num_inputs, *self.hidden, num_outputs), self.activation)


class Stacked(nn.Module):
    """n modules of one architecture as one batched module: (f_1(z), …, f_n(z)).

    The weights are copied and stacked along a new first dimension, under the names that they have in one module
    (`template.` in front), so saving, `.to(device)` and optimisers work as for any module.

    Args:
        modules: at least one module; all of the same architecture, without buffers that change in the forward pass.

    Raises:
        ValueError: no modules, or modules whose parameters differ in name or shape.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        if not modules:
            raise ValueError("modules: expected at least one module; got none.")
        states = [dict(module.named_parameters()) | dict(module.named_buffers()) for module in modules]
        shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                "modules: expected one architecture; got modules whose parameters differ in name or shape."
            )
        self.num_members = len(modules)
        self.template = copy.deepcopy(modules[0])
        for path in shapes[0]:
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

    def forward(self, z: Tensor) -> Tensor:
        """Every member at the same input: (*batch, in) -> (member, *batch, out)."""
        return vmap(lambda state: functional_call(self.template, state, (z,)), randomness="different")(self._state())

    def each(self, *inputs: Any) -> Any:
        """Member i at its own inputs: (member, *batch, in) -> (member, *batch, out); pytrees of tensors pass too."""

        def call(state: dict[str, Tensor], *rows: Any) -> Any:
            return functional_call(self.template, state, rows)

        return vmap(call, randomness="different")(self._state(), *inputs)

    def one(self, index: Int[Tensor, ""], z: Tensor) -> Tensor:
        """Member `index` (a tensor, so that it may be random) at z: (*batch, in) -> (*batch, out)."""
        return functional_call(self.template, {name: value[index] for name, value in self._state().items()}, (z,))

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
