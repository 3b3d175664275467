"""Torch's optimisers, in their fastest form, and without torch's compiler, which their first use would import."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Methods that torch wraps in functions whose first call imports its compiler: seconds, for what is not compiled.
_WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def optimizer_of(
    kind: type[torch.optim.Optimizer], parameters: Sequence[nn.Parameter], rate: float, options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """The optimiser of parameters: one fused kernel where there is one, otherwise one for each kind of operation.

    Args:
        kind: class of torch.optim.
        parameters: what it moves.
        rate: learning rate.
        options: further arguments; `fused` and `foreach` are taken as they are given.

    Returns:
        An instance of a subclass of `kind` of the same name.
    """
    hashable: Any = kind
    plain = _without_compiler(hashable)
    given = inspect.signature(kind).parameters
    if not {"fused", "foreach"} & options.keys():
        if "fused" in given and _fusable(parameters):
            return plain(parameters, lr=rate, **options, fused=True)
        if "foreach" in given:
            return plain(parameters, lr=rate, **options, foreach=True)
    return plain(parameters, lr=rate, **options)


def gradients_of(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """Gradients as optimisers take them: each in memory of its own, laid out as its parameter; None where it has none.

    Fused kernels read them in the parameter's order, whatever their strides; clipping changes them in place.
    """
    found: list[Tensor | None] = []
    places: set[int] = set()
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        if gradient is not None:
            shared = gradient.untyped_storage()._cdata in places
            if shared or gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            places.add(gradient.untyped_storage()._cdata)
        found.append(gradient)
    return found


def _fusable(parameters: Sequence[nn.Parameter]) -> bool:
    devices = {"cpu", "cuda", "mps", "xpu"}
    return all(value.is_floating_point() and value.device.type in devices for value in parameters)


@functools.cache
def _without_compiler(kind: Any) -> Any:
    """The class with the functions that torch's wrappers wrap."""
    base: Any = torch.optim.Optimizer
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(base, name)) for name in _WRAPPED}
    methods = {name: method for name, method in methods.items() if getattr(kind, name) is getattr(base, name)}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})
