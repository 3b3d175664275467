"""Specs: frozen dataclasses that describe a computation without running it, to and from JSON, and their hashes."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PACKAGES = ("probgeo.", "torch.nn.", "torch.optim.")


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
        fields = {field.name: to_config(getattr(spec, field.name)) for field in dataclasses.fields(spec) if field.init}
        return {"spec": _dotted_name(type(spec)), **fields}
    if isinstance(spec, dict):
        return {str(key): to_config(value) for key, value in spec.items()}
    if isinstance(spec, (list, tuple, range)):
        return [to_config(value) for value in spec]
    if spec is None or isinstance(spec, (bool, int, float, str)):
        return spec
    raise TypeError(f"spec: expected dataclasses, classes, numbers, strings and their sequences; got {type(spec)}.")


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
            state.update(np.ascontiguousarray(part).tobytes())
        else:
            state.update(json.dumps(to_config(part), sort_keys=True).encode())
        state.update(b"\0")  # parts end somewhere: (1, 2) is not (12,)
    return state.hexdigest()[:16]


def stream(*parts: Any) -> torch.Generator:
    """A random stream of its own for (seed, purpose, ...): the same parts give the same numbers, whatever else runs."""
    return torch.Generator().manual_seed(int(digest(*parts), 16) % 2**63)
