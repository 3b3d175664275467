"""Whether modules compute the same function of their weights: what may be run as one."""

from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

# Weights, which may differ, and what torch keeps for saving and loading alone.
_WEIGHTS = ("_parameters", "_buffers", "_modules")
_BOOKKEEPING = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_is_full_backward_hook",
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_global_hooks() -> bool:
    """Whether torch calls something around every module, so that no class tells what its modules do."""
    return bool(nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks)


def is_altered(part: nn.Module) -> bool:
    """Whether a module has hooks, or methods put in place of its class's, so that its class does not tell what it does.

    Args:
        part: a module; its children are not looked at.
    """
    state = vars(part)
    return any(state.get(name) for name in _HOOKS) or any(
        isinstance(value, (FunctionType, MethodType)) and hasattr(type(part), name) for name, value in state.items()
    )


def difference(first: nn.Module, second: nn.Module) -> str | None:
    """Where two modules differ in anything but the values of their weights and buffers, in words; None if nowhere.

    Settings are compared one by one, hooks and functions by their code and what they close over.

    Args:
        first: a module.
        second: another.
    """
    parts, others = dict(first.named_modules()), dict(second.named_modules())
    if list(parts) != list(others):
        return f"parts {[*parts][1:]} and {[*others][1:]}"
    known = {id(part): (part, others[name]) for name, part in parts.items()}
    for name, part in parts.items():
        where, other = f" of part {name!r}" if name else "", others[name]
        if type(part) is not type(other):
            return f"class {type(part).__name__} and {type(other).__name__}{where}"
        for weights in _WEIGHTS[:2]:
            one, two = (
                {
                    key: None if value is None else (tuple(value.shape), value.dtype)
                    for key, value in vars(module)[weights].items()
                }
                for module in (part, other)
            )
            if one != two:
                return f"parameters{where} in name, shape or dtype"
        settings, counterpart = _settings(part), _settings(other)
        for key in {**settings, **counterpart}:
            if not _same(settings.get(key), counterpart.get(key), known):
                return f"{key}{where}"
    return None


def _settings(part: nn.Module) -> dict[str, Any]:
    return {
        name: list(value.values()) if name in _HOOKS else value
        for name, value in vars(part).items()
        if name not in (*_WEIGHTS, *_BOOKKEEPING)
    }


def _same(one: Any, two: Any, known: dict[int, tuple[Any, Any]]) -> bool:
    """Equality of values that may hold each other; `known` are the objects already taken for equal."""
    if one is two or (id(one) in known and known[id(one)][1] is two):
        return True
    if type(one) is not type(two):
        return False
    known[id(one)] = one, two  # held, so that nothing else gets their numbers meanwhile
    if isinstance(one, Tensor):
        return one.shape == two.shape and one.dtype == two.dtype and torch.equal(one.cpu(), two.cpu())
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(_same(x, y, known) for x, y in zip(one, two, strict=True))
    if isinstance(one, dict):
        return list(one) == list(two) and all(_same(one[key], two[key], known) for key in one)
    if isinstance(one, MethodType):
        return one.__func__ is two.__func__ and _same(one.__self__, two.__self__, known)
    if isinstance(one, FunctionType):
        first, second = _kept_by(one), _kept_by(two)
        return one.__code__ == two.__code__ and one.__globals__ is two.__globals__ and _same(first, second, known)
    if isinstance(one, (type, BuiltinFunctionType, CodeType)):
        return bool(one == two)
    if isinstance(one, nn.Module):
        return difference(one, two) is None and _same(one.state_dict(), two.state_dict(), known)
    if type(one).__eq__ is object.__eq__:
        return hasattr(one, "__dict__") and _same(vars(one), vars(two), known)
    try:
        return bool(one == two)
    except (TypeError, ValueError, RuntimeError):  # arrays, whose equality is an array
        return bool(getattr(one == two, "all", lambda: False)())


def _kept_by(function: FunctionType) -> tuple[Any, ...]:
    """Defaults of a function, and what it keeps of an enclosing one."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return function.__defaults__, function.__kwdefaults__, cells
