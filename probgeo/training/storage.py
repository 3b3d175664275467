"""Fitted models on disk: a JSON configuration beside safetensors weights; nothing is unpickled."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xarray as xr
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from probgeo.disk import whole_file, whole_folder
from probgeo.models.base import FittedModel
from probgeo.specs import digest, from_config, to_config


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
    with whole_folder(Path(folder)) as unfinished:
        (unfinished / "config.json").write_text(json.dumps(config, indent=2))
        save_file(_contiguous(model.state_dict()), unfinished / "weights.safetensors")
        if last is not None:
            save_file(_contiguous(last), unfinished / "last.safetensors")
        if model.history is not None:
            model.history.to_netcdf(unfinished / "history.nc", engine="h5netcdf")


def load(folder: str | os.PathLike) -> FittedModel:
    """The fitted model that `save` or `fit` wrote to a folder, on the CPU.

    Args:
        folder: what was written.

    Returns:
        The model, with its spec and its history.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: its configuration was edited, or names what this version does not know; or its weights are truncated
            or belong to another configuration.

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
    config = read_config(folder)
    history = folder / "history.nc"
    try:
        spec = from_config(config["model"])
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"folder: {folder} was written by probgeo {config['probgeo']} and cannot be read by this version, "
            f"{version('probgeo')}: {error} Where a name is missing, install the version that wrote it, or retrain."
        ) from error
    model = spec.build(
        config["num_features"],
        seed=0,
        history=xr.load_dataset(history, engine="h5netcdf") if history.exists() else None,
    )
    weights = read_tensors(folder / "weights.safetensors")
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
    if not path.exists():
        raise FileNotFoundError(f"folder: expected a saved model with {path}; there is none.")
    try:
        config = json.loads(path.read_text())
        content = {key: config[key] for key in ("model", "num_features", "extra")}
        expected = config["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"folder: {path} is not a configuration ({error!r}). Delete its folder to retrain.") from error
    if digest(content) != expected:
        raise ValueError(f"folder: {path} does not match its own hash: it was edited. Retrain, or restore the file.")
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file.

    Raises:
        ValueError: the file is missing, truncated or not safetensors.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"checkpoint: {path} is missing, truncated or corrupt ({error}). Delete its folder to retrain."
        ) from error


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Named tensors to a safetensors file, whole or not at all."""
    with whole_file(path) as unfinished:
        save_file(_contiguous(tensors), unfinished)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Clones, because safetensors refuses tensors that share memory.
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
