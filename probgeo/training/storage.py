"""Fitted models on disk: a JSON configuration beside safetensors weights; nothing is unpickled."""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probgeo.disk import whole_file, whole_folder
from probgeo.models.base import FittedModel
from probgeo.netcdf import read_netcdf, write_netcdf
from probgeo.specs import digest, from_config, to_config
from probgeo.training.bounded import bounded

MAX_CONFIG = 2**24  # bytes


def save(
    model: FittedModel,
    folder: str | os.PathLike,
    extra: dict[str, Any] | None = None,
    last: dict[str, Tensor] | None = None,
) -> None:
    """Write a fitted model: `config.json`, `weights.safetensors`, and `history.nc` if it has a history.

    The folder appears whole or not at all. `extra` (JSON-able) is kept in the configuration, and is part of its hash;
    `last`, parameters by name, is kept as `last.safetensors`.

    Args:
        model: from `fit`, or from a spec's `build`.
        folder: where it will be.
        extra: JSON-able, kept in the configuration, and part of its hash.
        last: parameters by name, kept as `last.safetensors`.

    Raises:
        TypeError: a model that no spec of probgeo built.
        ValueError: `extra` is far too large.
        OSError: the disk is full, or may not be written to.

    Example:
        >>> import tempfile, pathlib, probgeo as pg
        >>> model = pg.VAE(latent=2).build(num_features=5, seed=0)
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     pg.save(model, pathlib.Path(parent) / "model")
        ...     print(sorted(path.name for path in (pathlib.Path(parent) / "model").iterdir()))
        ['config.json', 'weights.safetensors']
    """
    if not isinstance(model, FittedModel):
        raise TypeError(
            f"model: expected a model that `fit` or a spec's `build` returned; got {type(model).__name__}. Save what "
            "was trained elsewhere by the means of its own library."
        )
    content = {"model": to_config(model.spec), "num_features": model.num_features, "extra": to_config(extra or {})}
    config = {"probgeo": version("probgeo"), "digest": digest(content), **content}
    text = json.dumps(config, indent=2)
    if len(text) > MAX_CONFIG:
        raise ValueError(f"extra: expected a configuration of at most {MAX_CONFIG:,} bytes; got {len(text):,}.")
    with whole_folder(Path(folder)) as unfinished:
        (unfinished / "config.json").write_text(text)
        write_tensors(unfinished / "weights.safetensors", model.state_dict(), config["digest"])
        if last is not None:
            write_tensors(unfinished / "last.safetensors", last, config["digest"])
        if model.history is not None:
            write_netcdf(unfinished / "history.nc", model.history, config["digest"])


def load(folder: str | os.PathLike) -> FittedModel:
    """The fitted model that `save` or `fit` wrote to a folder, on the CPU.

    Args:
        folder: what was written.

    Returns:
        The model, with its spec and its history.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: its configuration was edited, or names what this version does not know; or a file is damaged, or its
            weights belong to another configuration. The message says what to delete.

    Example:
        >>> import tempfile, pathlib, torch, probgeo as pg
        >>> model = pg.VAE(latent=2).build(num_features=5, seed=0)
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     pg.save(model, pathlib.Path(parent) / "model")
        ...     again = pg.load(pathlib.Path(parent) / "model")
        >>> z = torch.zeros(1, 2)
        >>> again.spec == model.spec, torch.equal(again.decode(z), model.decode(z))
        (True, True)
    """
    folder = Path(folder)
    remedy = f"Delete the folder {folder}, which is this model's alone, to train it again."
    config = read_config(folder)
    weights = read_tensors(folder / "weights.safetensors", remedy, config["digest"])
    history = folder / "history.nc"
    found = read_netcdf(history, remedy, config["digest"]) if history.exists() else None
    try:
        spec = from_config(config["model"])
        with bounded(sum(value.numel() for value in weights.values()), len(weights)):
            model = spec.build(config["num_features"], seed=0, history=found)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"folder: {folder} was written by probgeo {config['probgeo']} and cannot be read by this version, "
            f"{version('probgeo')}: {error} Where a name is missing, install the version that wrote it, or retrain."
        ) from error
    dtypes = {value.dtype for value in weights.values() if value.is_floating_point()}
    try:
        model.to(dtypes.pop() if dtypes else None).load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"folder: the weights in {folder} do not fit its config.json; retrain. ({error})") from error
    return model.eval()


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """The configuration of a saved model, its hash verified.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or was edited.
    """
    path = Path(folder) / "config.json"
    remedy = f"Delete the folder {path.parent}, which is this model's alone, to train it again."
    if not path.exists():
        advice = f" {remedy}" if os.path.lexists(path.parent) else ""
        raise FileNotFoundError(f"folder: expected a saved model with {path}; there is none.{advice}")
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError(f"of more than {MAX_CONFIG:,} bytes")
        config = json.loads(path.read_text())
        content = {key: config[key] for key in ("model", "num_features", "extra")}
        expected = config["digest"]
        if not isinstance(content["num_features"], int) or content["num_features"] < 1:
            raise ValueError(f"num_features is {content['num_features']!r}")
        found = digest(content)
    except (ValueError, KeyError, TypeError, RecursionError, IsADirectoryError) as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise ValueError(f"folder: {path} is not a configuration ({why}). {remedy}") from error
    if found != expected:
        raise ValueError(
            f"folder: {path} does not match its own hash: it was edited, or is damaged. Restore the file, or: {remedy}"
        )
    return config


def read_tensors(path: Path, remedy: str = "Train it again.", of: str | None = None) -> dict[str, Tensor]:
    """Named tensors of a safetensors file.

    Args:
        path: of the file.
        remedy: what the error advises.
        of: digest of the configuration that it was written beside, where that was noted; None for any.

    Raises:
        ValueError: the file is missing, truncated, not safetensors, or holds others than were written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            noted = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if noted.get("sha256") not in (None, _checksum(tensors)):
            raise ValueError("its checksum is that of other content")
        if of is not None and noted.get("of") not in (None, of):
            raise ValueError("it belongs to another training, and was renamed or copied here")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"folder: {path} is missing, truncated or corrupt ({error}). {remedy}") from error
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor], of: str | None = None) -> None:
    """Named tensors to a safetensors file, with their checksum and what they are of, whole or not at all."""
    with whole_file(path) as unfinished:
        # Clones, because safetensors refuses tensors that share memory.
        kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        save_file(kept, unfinished, metadata={"sha256": _checksum(kept), **({"of": of} if of else {})})


def _checksum(tensors: dict[str, Tensor]) -> str:
    """The hash of names, kinds, shapes and values; older versions wrote none."""
    state = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        state.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
