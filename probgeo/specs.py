"""Specs: frozen dataclasses that describe a computation without running it, to and from JSON, and their hashes."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import sys
from types import MappingProxyType, UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

_PACKAGES = ("probgeo.", "torch.nn.", "torch.optim.")
# Metadata of a field that a published spec got later: left out at its default, so that older digests stay.
ADDED_LATER = MappingProxyType({"added later": True})


def _named_class(name: str) -> type:
    """The spec or network class of a dotted name.

    Nothing is imported on a file's word, except from probgeo and torch; and no other class is handed out, because
    those of many a loaded module (subprocess) do harm when called.
    """
    module, _, attribute = name.rpartition(".")
    if not name.startswith(_PACKAGES) and module not in sys.modules:
        raise ValueError(
            f"config: {name!r} is not a class of probgeo or torch; import {module!r} first, if you trust it."
        )
    try:
        kind = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ValueError(f"config: no module has the class {name!r} ({error}).") from error
    if not isinstance(kind, type) or not (dataclasses.is_dataclass(kind) or issubclass(kind, torch.nn.Module)):
        raise ValueError(f"config: expected the name of a dataclass or a torch module; got {name!r}.")
    return kind


def _dotted_name(kind: Any) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if "." in kind.__qualname__ or "<" in name:
        raise TypeError(
            f"spec: expected classes and functions that a module defines, not lambdas or locals; got {name}."
        )
    return name


def to_config(spec: Any) -> Any:
    """The JSON-able description of a spec: dataclasses become {"spec": name, field: value}, classes {"class": name}.

    Whole numbers in fields declared `float` become floats, so that equal specs have equal descriptions.

    Args:
        spec: a frozen dataclass, a class, a module's function, a number, string, None, or a sequence or string-keyed
            mapping of these.

    Raises:
        TypeError: anything else, named; a lambda or a local class, which no file can name.
    """
    if isinstance(spec, type):
        return {"class": _dotted_name(spec)}
    if inspect.isfunction(spec):
        return {"function": _dotted_name(spec)}
    if dataclasses.is_dataclass(spec):
        values = {field: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.init}
        fields = {
            field.name: to_config(_as_declared(value, field.type))
            for field, value in values.items()
            if field.metadata != ADDED_LATER or value != field.default
        }
        return {"spec": _dotted_name(type(spec)), **fields}
    if isinstance(spec, dict):
        return {str(key): to_config(value) for key, value in spec.items()}
    if isinstance(spec, (list, tuple, range)):
        return [to_config(value) for value in spec]
    if spec is None or isinstance(spec, (bool, int, float, str)):
        return spec
    raise TypeError(f"spec: expected dataclasses, classes, numbers, strings and their sequences; got {type(spec)}.")


def _as_declared(value: Any, declared: Any) -> Any:
    """The value, whole numbers as floats where they are declared so."""
    if declared is float and type(value) is int:
        return float(value)
    if get_origin(declared) is tuple and get_args(declared)[1:] == (...,) and isinstance(value, tuple):
        return tuple(_as_declared(item, get_args(declared)[0]) for item in value)
    if get_origin(declared) in (Union, UnionType) and int not in get_args(declared):
        for option in get_args(declared):
            value = _as_declared(value, option)
    return value


def from_config(config: Any) -> Any:
    """The spec that `to_config` described; lists come back as tuples.

    Raises:
        ValueError: a class outside probgeo and torch that the caller has not imported, a class that is neither a
            dataclass nor a torch module, or a function.
    """
    if isinstance(config, dict):
        if "function" in config:
            raise ValueError(f"config: functions are not restored from files; got {config['function']!r}.")
        if "class" in config:
            return _named_class(config["class"])
        fields = {key: from_config(value) for key, value in config.items() if key != "spec"}
        return _named_class(config["spec"])(**fields) if "spec" in config else fields
    if isinstance(config, list):
        return tuple(from_config(value) for value in config)
    return config


def digest(*parts: Any) -> str:
    """Sixteen hexadecimal digits that identify specs and arrays by content: equal content, equal digest."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().numpy()
        if isinstance(part, np.ndarray):
            state.update(f"{part.dtype.str}{part.shape}".encode())
            # A view, not a copy: the array may be mapped from a file.
            state.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            state.update(json.dumps(to_config(part), sort_keys=True).encode())
        state.update(b"\0")  # parts end somewhere: (1, 2) is not (12,)
    return state.hexdigest()[:16]


def stream(*parts: Any) -> torch.Generator:
    """A random stream of its own for (seed, purpose, ...): the same parts give the same numbers, whatever else runs."""
    return torch.Generator().manual_seed(int(digest(*parts), 16) % 2**63)
