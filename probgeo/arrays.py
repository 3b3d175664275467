"""Arrays in tasks' arguments: written once to a folder, and mapped from there, where each task would carry them."""

import copy
import hashlib
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probgeo.disk import whole_file

CARRIED = 20_000  # bytes of arrays that an argument carries: with five of them a task stays below 100 kB
SMALL = 1_000  # bytes of an array that is carried, whatever its argument


def sends_each_time(executor: Executor | None) -> bool:
    """Whether what tasks have in common is sent with each of them: not in one process, nor where it is sent once."""
    return executor is not None and not isinstance(executor, ThreadPoolExecutor) and not hasattr(executor, "sends_once")


@contextmanager
def light(
    task: Callable, jobs: Sequence[tuple], executor: Executor | None, folder: Path | None
) -> Iterator[Sequence[tuple]]:
    """(task, *job) of all jobs, inside the block; of those with many numbers, what comes to the same without arrays.

    Each array is written once, under the hash of what it holds, however many jobs have it; tensors as they lie in
    memory, so that what is computed from them is the same to the last digit.

    Args:
        task: a function of a module.
        jobs: its arguments.
        executor: who carries them out; None for this process.
        folder: where arrays may be written; None for one that `tempfile` chooses.

    Raises:
        OSError: the disk is full, or may not be written to.
    """
    values = {id(value): value for job in jobs for value in job} if sends_each_time(executor) else {}
    heavy = {key: arrays for key, value in values.items() if (arrays := _arrays_of(value))}
    if not heavy:
        yield [(task, *job) for job in jobs]
        return
    with TemporaryDirectory(prefix="probgeo-", dir=folder, ignore_cleanup_errors=True) as place:
        copies = {key: _without(values[key], arrays, Path(place)) for key, arrays in heavy.items()}
        yield [
            (with_arrays, task, *(copies.get(id(value), value) for value in job))
            if any(id(value) in copies for value in job)
            else (task, *job)
            for job in jobs
        ]


def with_arrays(task: Callable, /, *args: Any) -> Any:
    """task(*args) of arguments that `light` gave.

    Raises:
        OSError: this process does not see the arrays.
    """
    return task(*(copy.deepcopy(arg.value) if isinstance(arg, Light) else arg for arg in args))


@dataclass(frozen=True)
class Light:
    """An argument with files in place of its arrays; a deep copy of its value has the arrays again."""

    value: Any


@dataclass(frozen=True)
class InFile:
    """A file in place of an array, or of a tensor, which are what a deep copy of it is.

    Args:
        path: of an array; or of all bytes that a tensor is part of.
        tensor: where in these it lies, and what else there is to know of it; None for an array.
    """

    path: Path
    tensor: tuple[torch.dtype, tuple[int, ...], tuple[int, ...], int, bool, torch.device, bool] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        try:  # copy-on-write: torch wants memory that it may write to, and the file stays as it is
            found = np.asarray(np.load(self.path, mmap_mode="c", allow_pickle=False))
        except FileNotFoundError as error:
            raise OSError(
                f"executor: a worker does not see {self.path}. Set TMPDIR to a folder on a disk that all of them share."
            ) from error
        if self.tensor is not None:
            dtype, size, stride, offset, needs_gradient, device, is_parameter = self.tensor
            whole = torch.from_numpy(found).to(device)
            values = whole[: len(whole) // dtype.itemsize * dtype.itemsize].view(dtype).as_strided(size, stride, offset)
            return torch.nn.Parameter(values, needs_gradient) if is_parameter else values.requires_grad_(needs_gradient)
        return found


class _Arrays(pickle.Pickler):
    """Goes through what would be sent of a value, and notes the tensors and arrays in it."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), pickle.HIGHEST_PROTOCOL)
        self.found: dict[int, Tensor | np.ndarray] = {}

    def reducer_override(self, value: Any) -> Any:
        tensor = type(value) in (Tensor, torch.nn.Parameter) and value.layout is torch.strided and not vars(value)
        array = type(value) is np.ndarray and not value.dtype.hasobject
        if not (tensor or array) or value.nbytes <= SMALL:
            return NotImplemented
        if tensor and (value.is_conj() or value.is_neg() or value.is_meta):
            return NotImplemented
        self.found[id(value)] = value
        return str, ()


def _arrays_of(value: Any) -> list[Tensor | np.ndarray]:
    """Those in a value that holds many numbers; none in others, nor in what cannot be sent: the executor says so."""
    arrays = _Arrays()
    try:
        arrays.dump(value)
    except Exception:  # of any kind, as a value's own functions are called
        return []
    found = [*arrays.found.values()]
    return found if sum(array.nbytes for array in found) > CARRIED else []


def _without(value: Any, arrays: Sequence[Tensor | np.ndarray], folder: Path) -> Any:
    """A `Light` of the value; itself, where it cannot be copied."""
    copied: dict[int, Any] = {id(array): _written(array, folder) for array in arrays}
    try:
        return Light(copy.deepcopy(value, copied))
    except Exception:  # of any kind, as above
        return value


def _written(array: Tensor | np.ndarray, folder: Path) -> InFile:
    if isinstance(array, np.ndarray):
        return InFile(_kept(array, folder))
    held = array.detach().cpu()
    where = held.dtype, tuple(held.shape), held.stride(), int(held.storage_offset())
    whole = torch.empty(0, dtype=torch.uint8).set_(held.untyped_storage())
    is_parameter = isinstance(array, torch.nn.Parameter)
    return InFile(_kept(whole.numpy(), folder), (*where, array.requires_grad, array.device, is_parameter))


def _kept(array: np.ndarray, folder: Path) -> Path:
    described = f"{array.dtype.descr} {array.shape} {array.flags.f_contiguous}".encode()
    name = hashlib.sha256(described + np.ascontiguousarray(array).tobytes()).hexdigest()
    path = folder / f"{name}.npy"
    if not path.exists():
        with whole_file(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    return path
