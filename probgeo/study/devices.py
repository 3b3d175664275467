"""Which of a machine's GPUs is a worker's own."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@cache
def own_device(device: str) -> torch.device:
    """The device on which this process computes what is kept on `device` elsewhere: of several GPUs, one of its own.

    Workers of one machine take its GPUs in turn, whoever started them; where a worker sees a single one, as under
    `CUDA_VISIBLE_DEVICES`, it is that. Once chosen it stays.
    """
    found = torch.device(device)
    if found.type != "cuda":
        return found
    names = [str(getattr(torch.cuda.get_device_properties(i), "uuid", i)) for i in range(torch.cuda.device_count())]
    return torch.device("cuda", taken(names, Path(tempfile.gettempdir()) / f"probgeo-gpus-{_user()}")[0])


def taken(names: Sequence[str], folder: Path) -> tuple[int, object]:
    """The first of some devices that no living process has taken, and what holds it; all taken, by turns.

    Args:
        names: of the devices, the same in all processes of the machine.
        folder: where each device has a file, which is locked for as long as the process lives.

    Returns:
        Its position, and the open file.
    """
    if len(names) == 1 or fcntl is None:
        return os.getpid() % len(names), None
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        for index, name in enumerate(names):
            file = os.open(folder / name.replace("/", "-"), os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                continue
            return index, file  # never closed: the process's end gives the device back
    return os.getpid() % len(names), None


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
