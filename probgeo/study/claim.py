"""Whose study a folder holds."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from probgeo.disk import whole_file
from probgeo.specs import digest

FIRST_VERSION = "0.1.0"  # whose studies did not say which version wrote them
LARGEST = 2**24  # bytes


def claim(path: Path, config: dict[str, Any]) -> None:
    """Note whose study a folder holds; refuse another's. Nothing is written where it stands there already.

    Args:
        path: of the note.
        config: its version, data, training, and models by name, to which those of the note are added.

    Raises:
        FileExistsError: another's.
        ValueError: the note is damaged.
    """
    if path.exists():
        found = _read(path)
        if "probgeo" not in found:
            raise FileExistsError(
                f"folder: {path.parent} holds a study of probgeo {FIRST_VERSION}, whose keys and distances are not "
                f"those of {version('probgeo')}: choose another folder; its models can be loaded and measured."
            )
        different = [key for key in ("data", "training") if found[key] != config[key]]
        shared = found["models"].keys() & config["models"].keys()
        different += [f"model {name!r}" for name in shared if found["models"][name] != config["models"][name]]
        if different:
            raise FileExistsError(
                f"folder: {path.parent} holds a study of other {', '.join(different)}. Choose another folder."
            )
        if config["models"].keys() <= found["models"].keys():
            return
        config = {**config, "models": found["models"] | config["models"]}
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps({**config, "digest": digest(config)}, indent=2))


def _read(path: Path) -> dict[str, Any]:
    """The note, its hash verified; older versions wrote none."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"of more than {LARGEST:,} bytes")
        found = json.loads(path.read_text())
        expected = found.pop("digest", None)
        if expected not in (None, digest(found)) or not {"data", "training", "models"} <= found.keys():
            raise ValueError("it is not what was written")
    except (ValueError, TypeError, AttributeError, RecursionError, IsADirectoryError) as error:
        raise ValueError(
            f"folder: {path} is damaged ({str(error)[:200]}). Delete this file alone: it is written anew, and every "
            "training and distance stays."
        ) from error
    return found
