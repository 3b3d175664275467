"""Specs: frozen dataclasses that describe a computation without running it; their public names, and their hashes."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import numbers
import sys
from collections.abc import Iterable, Sequence
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from probgeo.rows import StoredRows, row_blocks
from probgeo.sources import is_users, source_digest

__all__ = [
    "digest",
    "from_config",
    "public_name",
    "to_config",
]

# Where users import from, in the order in which a name is looked for: what stands in two places has the first's name.
PUBLIC = (
    "probgeo",
    "probgeo.likelihoods",
    "probgeo.nn",
    "probgeo.nn.flows",
    "probgeo.posteriors",
    "probgeo.views",
    "probgeo.masks",
    "probgeo.schedules",
    "probgeo.study",
    "probgeo.adapters",
    "probgeo.paths",
    "probgeo.datasets",
    "torch.nn",
    "torch.optim",
)
# Names that have been, in files of older versions: modules, and classes that have become another.
FORMER = MappingProxyType(
    {
        "probgeo.models.injective.InjectiveDecoder": "probgeo.Decoder",
        "probgeo.models.vae": "probgeo",
        "probgeo.models.conditional": "probgeo",
        "probgeo.models.shared": "probgeo",
        "probgeo.models.gplvm": "probgeo",
        "probgeo.models.decoders": "probgeo",
        "probgeo.models.gp_decoder": "probgeo",
        "probgeo.models.views": "probgeo.views",
        "probgeo.models.fusion": "probgeo.views",
        "probgeo.models.masks": "probgeo.masks",
        "probgeo.models.injective": "probgeo.nn",
        "probgeo.models.flows": "probgeo.nn.flows",
        "probgeo.models.lastlayer": "probgeo.posteriors",
        "probgeo.models.sampled": "probgeo.posteriors",
        "probgeo.models.bayesian": "probgeo.posteriors",
        "probgeo.models.bayesian.BayesianDecoder": "probgeo.BayesianDecoder",
        "probgeo.models.bayesian.DropoutDecoder": "probgeo.DropoutDecoder",
        "probgeo.likelihoods.continuous": "probgeo.likelihoods",
        "probgeo.likelihoods.counts": "probgeo.likelihoods",
        "probgeo.likelihoods.discrete": "probgeo.likelihoods",
        "probgeo.likelihoods.mixed": "probgeo.likelihoods",
        "probgeo.nn.images": "probgeo.nn",
        "probgeo.geodesics": "probgeo",
        "probgeo.study.measures": "probgeo.study",
        "probgeo.svi": "probgeo",
    }
)
# Metadata of a field that a published spec got later: left out at its default, so that older digests stay.
ADDED_LATER = MappingProxyType({"added later": True})
# Key of a field's metadata: the name that files have for it, where the field has been renamed since; digests stay too.
WRITTEN_AS = "written as"
SOURCE = "source of"  # no field can have this name


def check_whole(name: str, number: Any) -> None:
    """TypeError, by the name of the argument, for what is no whole number."""
    if isinstance(number, bool) or not isinstance(number, numbers.Integral):
        raise TypeError(f"{name}: expected a whole number; got {number!r}.")


def check_real(name: str, number: Any) -> None:
    """TypeError, by the name of the argument, for what is no number; ValueError for what is not a number."""
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(f"{name}: expected a number; got {number!r}.")
    if number != number:
        raise ValueError(f"{name}: expected a number; got {number!r}.")


def check_numbers(spec: Any) -> None:
    """Refuse what is no number where a field of a dataclass is declared to be one, or several; None where it may be.

    Numbers of NumPy become Python's, so that equal specs are equal in files too.

    Raises:
        TypeError: by the name of the field: another type, or a fraction where it is declared whole.
        ValueError: not a number.
    """
    for field in dataclasses.fields(spec):
        value, kind = getattr(spec, field.name), get_origin(field.type)
        options = get_args(field.type) if kind in (Union, UnionType) else (field.type,)
        if value is None and NoneType in options:
            continue
        several = kind in (tuple, Sequence) and get_args(field.type)[0] in (int, float)
        if several and not isinstance(value, Iterable):
            raise TypeError(f"{field.name}: expected several numbers, as (3, 3); got {value!r}.")
        options = get_args(field.type)[:1] if several else options
        values = tuple(value) if several else (value,)
        for each in values if {*options} <= {int, float, NoneType} else ():
            (check_whole if int in options else check_real)(field.name, each)
        if any(isinstance(each, np.number) for each in values):
            plain = tuple(each.item() if isinstance(each, np.number) else each for each in values)
            object.__setattr__(spec, field.name, plain if several else plain[0])


def public_name(named: Any) -> str:
    """The name that a class or function is imported by, whichever file defines it: `probgeo.Gaussian`.

    It is what configurations and keys on disk hold. For a user's own it is its module and name.

    Args:
        named: a class, or a function that a module defines.

    Returns:
        The dotted name.

    Raises:
        TypeError: a lambda, or what another function or class defines; or something of probgeo that is not public.

    Example:
        >>> import probgeo as pg
        >>> pg.specs.public_name(pg.Gaussian)
        'probgeo.Gaussian'
        >>> pg.specs.public_name(pg.nn.MLP)  # whichever file defines it
        'probgeo.nn.MLP'
    """
    package = named.__module__.partition(".")[0]
    for place in (place for place in PUBLIC if place.partition(".")[0] == package):
        module = importlib.import_module(place)
        if named.__name__ in dir(module) and getattr(module, named.__name__) is named:
            return f"{place}.{named.__name__}"
    name = f"{named.__module__}.{named.__qualname__}"
    if "." in named.__qualname__ or "<" in name:
        raise TypeError(
            f"spec: expected classes and functions that a module defines, not lambdas or locals; got {name}."
        )
    if name.startswith("probgeo."):
        places = ", ".join(place for place in PUBLIC if place.startswith("probgeo"))
        raise TypeError(f"spec: {name} is not public, so no file can name it; use what one of {places} holds.")
    return name


def current_name(name: str) -> str:
    """The name today of what a file calls by any name that it has had."""
    module, _, attribute = name.rpartition(".")
    return FORMER.get(name) or f"{FORMER.get(module, module)}.{attribute}"


def _named_class(name: str) -> type:
    """The spec or network class of a dotted name.

    Nothing is imported on a file's word, except from probgeo and torch; and no other class is handed out, because
    those of many a loaded module (subprocess) do harm when called.
    """
    name = current_name(name)
    module, _, attribute = name.rpartition(".")
    if not name.startswith(("probgeo.", "torch.nn.", "torch.optim.")) and module not in sys.modules:
        raise ValueError(
            f"config: {name!r} is not a class of probgeo or torch; import {module!r} first, if you trust it."
        )
    try:
        kind = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ValueError(f"config: no module has the class {name!r} ({error}).") from error
    known = (torch.nn.Module, torch.optim.Optimizer)
    if not isinstance(kind, type) or not (dataclasses.is_dataclass(kind) or issubclass(kind, known)):
        raise ValueError(f"config: expected the name of a dataclass, torch module or optimiser; got {name!r}.")
    return kind


def _described(kind: str, named: Any) -> dict[str, str]:
    """Its public name; of a user's own, the digest of its source too."""
    name = {kind: public_name(named)}
    return {**name, SOURCE: source_digest(named)} if is_users(named) else name


def to_config(spec: Any) -> Any:
    """The JSON-able description of a spec: dataclasses become {"spec": name, field: value}, classes {"class": name}.

    Names are public ones. A class or function of the user's own has the digest of its source beside its name, so that
    an edited one has another description. Whole numbers in fields declared `float` become floats, so that equal specs
    have equal descriptions.

    Args:
        spec: a frozen dataclass, a class, a module's function, a number, string, None, or a sequence or string-keyed
            mapping of these.

    Returns:
        Dicts, lists, strings and numbers.

    Raises:
        TypeError: anything else, named; a lambda or a local class, which no file can name; a user's class or function
            without source, or one that reads what nothing identifies.

    Example:
        >>> import probgeo as pg
        >>> pg.specs.to_config(pg.nn.MLP((8, 8)))
        {'spec': 'probgeo.nn.MLP', 'hidden': [8, 8], 'activation': {'class': 'torch.nn.SiLU'}}
    """
    if isinstance(spec, type):
        return _described("class", spec)
    if inspect.isfunction(spec):
        return _described("function", spec)
    if dataclasses.is_dataclass(spec):
        values = {field: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.init}
        fields = {
            field.metadata.get(WRITTEN_AS, field.name): to_config(_as_declared(value, field.type))
            for field, value in values.items()
            if field.metadata != ADDED_LATER or value != field.default
        }
        return {**_described("spec", type(spec)), **fields}
    if isinstance(spec, dict):
        return {str(key): to_config(value) for key, value in spec.items()}
    if isinstance(spec, (list, tuple, range)):
        return [to_config(value) for value in spec]
    if spec is None or isinstance(spec, (bool, int, float, str)):
        return spec
    if isinstance(spec, np.number) and isinstance(spec, numbers.Real):  # as Python has them, so that files do
        return spec.item()
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

    Args:
        config: what `to_config` returned, also after a round trip through JSON; names of older versions are known.

    Returns:
        What it described.

    Raises:
        ValueError: a class outside probgeo and torch that the caller has not imported, a class that is neither a
            dataclass nor a torch module, a field that it does not have, or a function.

    Example:
        >>> import json, probgeo as pg
        >>> spec = pg.VAE(latent=3, likelihood=pg.likelihoods.Bernoulli())
        >>> config = json.loads(json.dumps(pg.specs.to_config(spec)))
        >>> pg.specs.from_config(config) == spec
        True
    """
    if isinstance(config, dict):
        if "function" in config:
            raise ValueError(f"config: functions are not restored from files; got {config['function']!r}.")
        if "class" in config:
            return _named_class(config["class"])
        fields = {key: from_config(value) for key, value in config.items() if key not in ("spec", SOURCE)}
        return _made(_named_class(config["spec"]), fields) if "spec" in config else fields
    if isinstance(config, list):
        return tuple(from_config(value) for value in config)
    return config


def current_config(config: Any) -> Any:
    """What `to_config` writes today for a description of any version; as it is where this version cannot tell."""
    try:
        return to_config(from_config(config))
    except (ValueError, TypeError):
        return config


def _made(kind: type, fields: dict[str, Any]) -> Any:
    known = {name: name for name in fields}
    if dataclasses.is_dataclass(kind):
        known = {field.metadata.get(WRITTEN_AS, field.name): field.name for field in dataclasses.fields(kind)}
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise ValueError(
            f"config: {public_name(kind)} has no field {', '.join(map(repr, unknown))}, only {', '.join(known)}."
        )
    return kind(**{known[name]: value for name, value in fields.items()})


def digest(*parts: Any) -> str:
    """Sixteen hexadecimal digits that identify specs and arrays by content: equal content, equal digest.

    Rows of a file are read block by block, and once for each version of the file.

    Args:
        parts: specs, numbers, strings, and tensors or arrays, which count by dtype, shape and values.

    Returns:
        The digits.

    Example:
        >>> import torch, probgeo as pg
        >>> pg.specs.digest(torch.zeros(2), 1) == pg.specs.digest(torch.zeros(2), 1)
        True
        >>> pg.specs.digest(pg.VAE(latent=2)) == pg.specs.digest(pg.VAE(latent=3))
        False
    """
    if len(parts) == 1 and isinstance(parts[0], StoredRows):
        return parts[0].remembered(lambda: _digest(parts))
    return _digest(parts)


def _digest(parts: tuple[Any, ...]) -> str:
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, StoredRows):
            state.update(f"{part.numbers}{part.shape}".encode())
            for _, block in row_blocks(part):
                state.update(block.cpu().numpy().reshape(-1).view(np.uint8).data)
            state.update(b"\0")
            continue
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
