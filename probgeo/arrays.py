"""Arrays that many tasks read: written once to a folder, and mapped from there, where each task would carry them."""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from probgeo.jobs import sends_each_time


@contextmanager
def in_common(executor: Executor | None, arrays: Sequence[np.ndarray]) -> Iterator[Sequence[np.ndarray] | Path]:
    """What stands for the arrays in tasks' arguments, inside the block; `read` gives them back.

    Args:
        executor: who carries out the tasks; None for this process.
        arrays: of numbers.
    """
    if not sends_each_time(executor):
        yield arrays
        return
    with tempfile.TemporaryDirectory(prefix="probgeo-") as folder:
        for number, array in enumerate(arrays):
            np.save(Path(folder) / f"{number}.npy", array, allow_pickle=False)
        yield Path(folder)


def read(arrays: Sequence[np.ndarray] | Path) -> Sequence[np.ndarray]:
    """The arrays that `in_common` stands for.

    Raises:
        OSError: this process does not see them.
    """
    if not isinstance(arrays, Path):
        return arrays
    files = sorted(arrays.glob("*.npy"), key=lambda path: int(path.stem))
    if not files:
        raise OSError(
            f"executor: a worker does not see {arrays}. Set TMPDIR to a folder on a disk that all of them share."
        )
    return [np.load(path, mmap_mode="r", allow_pickle=False) for path in files]
