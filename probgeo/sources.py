"""The source of a user's functions and classes: what tells an edited one from the one that a result was made with."""

import ast
import dataclasses
import dis
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from logging import Logger
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

_OTHERS = sys.stdlib_module_names | {"builtins", "probgeo", "torch"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_DATACLASS_METHODS = {
    *("__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"),
    *("__setattr__", "__delattr__", "__replace__"),
}


def is_users(named: Any) -> bool:
    """Whether a function or class is neither probgeo's nor torch's nor Python's own."""
    return named.__module__.partition(".")[0] not in _OTHERS


def _is_edited(module: str) -> bool:
    """Whether a module is a user's own code and not an installed package's."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return module.partition(".")[0] not in _OTHERS and not {"site-packages", "dist-packages"} & set(Path(file).parts)


def source_digest(named: Any) -> str:
    """Sixteen hexadecimal digits of a user's function or class: its source, and that of what it calls of the user's.

    Comments, layout and docstrings do not count. Of the global names that the code reads, functions and classes of the
    user's count by their source, numbers and text, arrays and modules with weights by their content.

    Args:
        named: a function or class that a module defines.

    Raises:
        TypeError: there is no source to read, as for what was typed into an interpreter; a function that keeps values
            of an enclosing one; or a global name whose content nothing identifies.
    """
    state = hashlib.sha256()
    for part in _parts(named, set()):
        state.update(part)
        state.update(b"\0")
    return state.hexdigest()[:16]


def _parts(named: Any, seen: set[int]) -> Iterator[bytes]:
    """Source of a function or class, then of what it refers to; each once."""
    if id(named) in seen:
        return
    seen.add(id(named))
    yield f"{named.__module__}.{named.__qualname__}".encode()
    yield _normalized(named)
    if not _is_edited(named.__module__):
        return
    for base in named.__mro__[1:] if isinstance(named, type) else ():
        if _is_edited(base.__module__):
            yield from _parts(base, seen)
    for function in _functions(named):
        if function.__closure__ and function.__code__.co_freevars != ("__class__",):
            raise TypeError(
                f"{named.__qualname__}: expected a function that keeps no values of an enclosing one, as no file says "
                f"what they were; got {', '.join(function.__code__.co_freevars)}. Make it a frozen dataclass that has "
                "them as fields."
            )
        for name in sorted(set(_names(function.__code__))):
            if name in function.__globals__:
                yield name.encode()
                yield from _content(named, name, function.__globals__[name], seen)


def _normalized(named: Any) -> bytes:
    """The source without comments, layout and docstrings."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(named)))
    except (OSError, TypeError, SyntaxError) as error:
        raise TypeError(
            f"{named.__qualname__}: expected a function or class whose source can be read, so that an edited one is "
            f"told from the one that was measured; there is none ({error}). Define it in a file."
        ) from error
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree).encode()


def _functions(named: Any) -> Iterator[FunctionType]:
    """The Python functions of a function or of a class's own body, undecorated."""
    members = vars(named).items() if isinstance(named, type) else [("", named)]
    made = _made_by_dataclass(named)
    for name, member in members:
        if name in made:
            continue
        for part in (member, *(getattr(member, name, None) for name in ("fget", "fset", "__func__", "func"))):
            function = inspect.unwrap(part) if callable(part) else part
            if isinstance(function, FunctionType) and function.__code__.co_filename != "<string>":
                yield function


def _made_by_dataclass(named: Any) -> set[str]:
    """Methods of a dataclass that its own body does not define: the library made them.

    Their code says so itself, except where the class came back from another process: there no code says its file.
    """
    if not isinstance(named, type) or "__dataclass_fields__" not in vars(named):
        return set()
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(named))).body
    return _DATACLASS_METHODS - {node.name for node in ast.walk(body) if isinstance(node, ast.FunctionDef)}


def _names(code: CodeType) -> Iterator[str]:
    """Global names that the code, and functions inside it, read."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _content(owner: Any, name: str, value: Any, seen: set[int]) -> Iterator[bytes]:
    """What identifies the value of a global name that the owner reads; nothing for what an installed package made."""
    more: list[Any] = []
    if isinstance(value, (FunctionType, type)):
        if _is_edited(value.__module__):
            yield from _parts(value, seen)
    elif isinstance(value, ModuleType):
        if _is_edited(value.__name__):
            yield value.__name__.encode()
            yield Path(value.__file__).read_bytes() if value.__file__ else b""
    elif isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif isinstance(value, (Tensor, np.ndarray)):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        yield f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    elif isinstance(value, (tuple, list)):
        more = [len(value), *value]
    elif isinstance(value, (set, frozenset)):
        more = sorted(value, key=repr)
    elif isinstance(value, dict):
        more = [part for item in value.items() for part in item]
    elif dataclasses.is_dataclass(value):
        more = [type(value), *(getattr(value, field.name) for field in dataclasses.fields(value))]
    elif isinstance(value, partial):
        more = [value.func, value.args, value.keywords]
    elif isinstance(value, nn.Module):
        more = [type(value), dict(value.state_dict())]
    elif not (isinstance(value, Logger) or (callable(value) and not _is_edited(type(value).__module__))):
        raise TypeError(
            f"{owner.__qualname__}: it reads the global name {name!r}, a {type(value).__name__} whose content nothing "
            "identifies, so that another one could not be told from it. Make it a field of a frozen dataclass."
        )
    for part in more:
        yield from _content(owner, name, part, seen)
