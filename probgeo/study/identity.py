"""What tells one model that was trained elsewhere from another: its class, its settings, its weights, its code."""

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from probgeo.models.base import LatentModel
from probgeo.sources import is_users
from probgeo.specs import digest, to_config

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def model_key(model: LatentModel, name: str, index: int) -> str:
    """What identifies a model that no study trained: its class and what it holds; without weights its user's name too.

    Args:
        model: of any class.
        name: what the user calls its list of retrainings.
        index: its place there.
    """
    parts = list(_parts(model.identity(), {}))
    has_weights = any(isinstance(part, (Tensor, np.ndarray)) for part in parts)
    return digest(to_config(type(model)), *parts, *(() if has_weights else (name, index)))


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """Arrays, numbers and texts in an object, in functions' code and in what they read, in a fixed order."""
    if isinstance(value, (bool, int, float, str, type(None), Tensor, np.ndarray)):
        yield value
        return
    if id(value) in seen:
        return
    seen[id(value)] = value  # held, so that no other object gets its number
    inside: list[Any] = []
    if isinstance(value, (type, ModuleType)):
        yield value.__name__
        inside = list(_own_functions(value)) if isinstance(value, type) else []
    elif isinstance(value, nn.Module):
        yield str(value)
        inside = [dict(value.named_parameters()), dict(value.named_buffers())]
        for part in value.modules():
            settings = {key: each for key, each in vars(part).items() if not key.startswith("_")}
            inside += [type(part), settings, *(list(vars(part)[hooks].values()) for hooks in _HOOKS)]
    elif isinstance(value, LatentModel) and value.identity() is not value:
        inside = [type(value), value.identity()]
    elif isinstance(value, Mapping):
        inside = [part for key, item in value.items() for part in (str(key), item)]
    elif isinstance(value, (list, tuple)):
        inside = [len(value), *value]
    elif isinstance(value, FunctionType):
        yield f"{value.__module__}.{value.__qualname__}"
        if is_users(value):
            inside = [value.__code__, value.__defaults__, value.__kwdefaults__, _read_by(value)]
    elif isinstance(value, CodeType):
        yield value.co_code.hex()
        inside = [value.co_names, value.co_consts]
    elif isinstance(value, MethodType):
        inside = [value.__func__, value.__self__]
    elif isinstance(value, partial):
        inside = [value.func, value.args, value.keywords]
    else:
        inside = [type(value), getattr(value, "__name__", None), getattr(value, "__dict__", None)]
    for part in inside:
        yield from _parts(part, seen)


def _own_functions(kind: type) -> Iterator[Any]:
    """The methods that a user's class, or those that it is made of, define."""
    for each in kind.__mro__:
        if is_users(each):
            yield from (inspect.unwrap(part) for part in vars(each).values() if callable(part))


def _read_by(function: FunctionType) -> dict[str, Any]:
    """What a function reads of the function and of the module that it stands in, by name."""
    closed = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = {name: cell.cell_contents for name, cell in closed if _is_filled(cell)}
    return found | {
        name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__
    }


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not assigned yet
        return False


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
