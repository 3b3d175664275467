"""Every kind of file that is written, damaged in every way: noticed, and mended as the message says."""

import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import probgeo as pg
from experiments.benchmarks import victims
from experiments.benchmarks.victims import numbers
from experiments.common.options import Output
from experiments.common.results import load_result, save_result

WAYS: Mapping[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "overwritten": lambda content: _overwritten(content, random.Random(0).randbytes(40)),
    "flipped": lambda content: _overwritten(content, bytes([content[len(content) // 2] ^ 1])),
}


def _overwritten(content: bytes, by: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + by + content[middle + len(by) :]


def one_by_one(folder: Path) -> None:
    """A study whose retrainings are trained alone, so that each can be done again, bit for bit."""
    victims.a_study(folder, seeds=2, epochs=2).run(progress=False, stack=1)


def unfinished(folder: Path) -> None:
    """A training that was interrupted, or goes on from there; its weights in the end."""

    def interrupting(seed: int, epoch: int, terms: dict[str, float]) -> None:
        if epoch == 2 and not (folder / "begun").exists():
            (folder / "begun").touch()
            raise KeyboardInterrupt

    folder.mkdir(parents=True, exist_ok=True)
    spec = pg.VAE(2, encoder=victims.NETWORK)
    training = pg.Training(epochs=4, batch_size=32)
    options: dict[str, Any] = {"progress": False, "checkpoint_seconds": 0.0, "report": interrupting}
    (model,) = pg.fit(spec, victims.rows(), training=training, folder=folder / "models", **options)
    weights = torch.cat([value.flatten() for value in model.state_dict().values()])
    victims.write_netcdf(folder / "study.nc", victims.xr.Dataset({"weights": ("weight", weights.numpy())}))


def result(folder: Path) -> None:
    """A result file of an experiment, written if it is not there, and read."""
    file = folder / "damage.nc"
    if not file.exists():
        save_result({"values": victims.xr.Dataset({"a": ("x", [1.0, 2.0])})}, Output(), file)
    victims.write_netcdf(folder / "study.nc", load_result(file)["values"].drop_attrs())


# By kind: who writes it, which file it is, what has to go so that it is read, and what to delete.
KINDS: Mapping[str, tuple[Callable[[Path], None], str, tuple[str, ...], Callable[[Path], Path]]] = {
    "distances/….nc": (one_by_one, "distances/*.nc", ("study.nc",), lambda file: file),
    "study.nc": (one_by_one, "study.nc", (), lambda file: file),
    "study.json": (one_by_one, "study.json", (), lambda file: file),
    **{
        f"trainings/…/seed-0/{name}": (
            one_by_one,
            f"trainings/*/seed-0/{name}",
            ("study.nc", "distances"),
            lambda file: file.parent,
        )
        for name in ("config.json", "weights.safetensors", "history.nc")
    },
    "unfinished-….safetensors": (unfinished, "models/unfinished-*", (), lambda file: file),
    "inputs/….npy": (victims.pooled, "inputs/*.npy", ("study.nc", "distances", "trainings"), lambda file: file),
    "tile-….npy": (victims.matrix, "tiles/tile-000003.npy", (), lambda file: file),
    "config.json of tiles": (victims.matrix, "tiles/config.json", (), lambda file: file),
    "result file": (result, "damage.nc", (), lambda file: file),
}


def all_kinds(folder: Path) -> list[dict[str, Any]]:
    """A row per kind of file: damages; refused in words; made anew unasked; wrong; equal in the end, bit for bit."""
    found: list[dict[str, Any]] = []
    for kind, (task, pattern, hiding, culprit) in KINDS.items():
        whole = Path(folder) / f"whole-{len(found)}"
        victims.run(task, whole)
        begun = whole
        if task is unfinished:
            begun = Path(shutil.copytree(whole, f"{whole}-begun"))
            victims.run(task, whole)
        expected = numbers(whole)
        counts = dict.fromkeys(("damages", "refused", "made anew", "wrong", "equal"), 0)
        row: dict[str, Any] = {"file": kind, **counts, "said": ""}
        for way, damaged in WAYS.items():
            place = Path(shutil.copytree(begun, f"{whole}-{way}"))
            file = sorted(place.glob(pattern))[0]
            file.write_bytes(damaged(file.read_bytes()))
            for name in hiding:
                shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink()
            said, _ = victims.run(task, place)
            row["damages"] += 1
            if said:
                row["refused"] += 1
                row["said"] = re.sub("[0-9a-f]{16}", "…", said.replace(str(place), "FOLDER")).removeprefix("error: ")
                gone = culprit(file)
                shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
                victims.run(task, place)
                row["equal"] += numbers(place).identical(expected)
            else:
                same = numbers(place).identical(expected)
                row["made anew"] += same
                row["equal"] += same
                row["wrong"] += not same
        found.append(row)
    return found
