"""Jobs, here or on an executor: one that takes its workers with it is left out, and the rest goes on."""

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed, wait
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from probgeo.arrays import light
from probgeo.pools import wanted

Item = TypeVar("Item")


class TaskLost(RuntimeError):
    """A job whose workers died each time that it was tried, as those do that run out of memory.

    Args:
        num_workers: that died.

    Attributes:
        num_workers: that died.

    Example:
        >>> import probgeo as pg
        >>> str(pg.study.TaskLost(3))
        'the 3 workers that ran it died, of too little memory perhaps'
    """

    def __init__(self, num_workers: int) -> None:
        super().__init__(f"the {num_workers} workers that ran it died, of too little memory perhaps")
        self.num_workers = num_workers

    def __reduce__(self) -> tuple[Any, ...]:
        return TaskLost, (self.num_workers,)


def groups(items: Sequence[Item], size: int) -> Iterable[list[Item]]:
    """The items, at most `size` at a time."""
    return ([*items[i : i + size]] for i in range(0, len(items), size))


def num_workers(executor: Executor) -> int | None:
    """How many jobs an executor carries out at once; None where it does not say."""
    for name in ("num_workers", "_max_workers"):
        if isinstance(found := getattr(executor, name, None), int):
            return max(1, found)
    return None


def check_executor(executor: Any) -> None:
    """Refuse what carries out no jobs.

    Raises:
        TypeError: no executor; a client of Dask, with what it wants.
    """
    if executor is not None and not isinstance(executor, Executor):
        dask = " Did you mean study.Workers(client)?" if hasattr(executor, "get_executor") else ""
        raise TypeError(
            f"executor: expected a concurrent.futures.Executor, such as ProcessPoolExecutor(), or None; got "
            f"{executor!r}.{dask}"
        )


def carried_out(
    task: Callable,
    jobs: Sequence[tuple],
    executor: Executor | None,
    label: str,
    progress: bool,
    keep: Callable[[int, Any], None] | None = None,
    names: Sequence[str] = (),
    folder: Path | None = None,
) -> list[Any]:
    """task(*job) for all jobs, here or on the executor, with a bar; the first error is raised after all have ended.

    Args:
        task: a function of a module.
        jobs: its arguments.
        executor: None for here.
        label: of the bar; the address of an executor's dashboard stands behind it.
        progress: show the bar, with the remaining time.
        keep: called here with a job's number and result as soon as it is there.
        names: of the jobs, for errors; their numbers, if none are given.
        folder: that workers see: their arguments' arrays, where there are many, are there until all have ended. None
            for one that `tempfile` chooses (`TMPDIR`).

    Returns:
        By job, what the task returned, or the `TaskLost` that tells why there is nothing.

    Raises:
        TypeError: no executor, or what cannot be sent to other processes.
        BrokenExecutor: a worker of a pool died, and the pool with it.
        OSError: the disk of the folder is full, or may not be written to.
    """
    check_executor(executor)
    found: list[Any] = [None] * len(jobs)
    errors: list[Exception] = []
    begun: list[int] = []

    def ended(index: int, result: Callable[[], Any]) -> None:
        try:
            found[index] = result()
        except Exception as error:
            if lost := _lost(error):
                found[index] = lost
            else:
                errors.append(error)
            return
        finally:
            bar.update()
        if keep:
            keep(index, found[index])

    page = getattr(executor, "dashboard", "")
    label = f"{label} ({page})" if page else label
    with tqdm(total=len(jobs), desc=label, unit="job", disable=not (progress and jobs)) as bar:
        if executor:
            futures: dict[Future, int] = {}
            with wanted(executor) as tasks, light(task, jobs, executor, folder or tasks.place) as sent:
                try:
                    for index, job in enumerate(sent):
                        futures[tasks.submit(index, *job)] = index
                    for future in as_completed(futures):
                        ended(futures[future], future.result)
                except Exception as error:  # what cannot be sent, or kept: what has not begun never does
                    for future in futures:
                        future.cancel()
                    wait(futures)
                    errors.append(error)
                except BaseException:  # an interrupt
                    tasks.end(futures)
                    raise
                begun = tasks.begun()
        else:
            for index, job in enumerate(jobs):
                ended(index, partial(task, *job))
    if errors:
        raise _told(errors[0], [f"{label} {names[index] if names else index + 1}" for index in begun]) from errors[0]
    return found


def all_of(found: Sequence[Any], what: str) -> Sequence[Any]:
    """What `carried_out` returned, where none may be missing.

    Raises:
        RuntimeError: some are lost.
    """
    lost = [index for index, each in enumerate(found) if isinstance(each, TaskLost)]
    if lost:
        raise RuntimeError(
            f"executor: {what} {', '.join(map(str, lost))} of {len(found)} could not be computed: {found[lost[0]]}. "
            "Give workers more memory, or fewer pairs at a time."
        ) from found[lost[0]]
    return found


def _lost(error: Exception) -> TaskLost | None:
    """A lost job's error as ours; that of dask.distributed too."""
    killed: Any = getattr(sys.modules.get("distributed"), "KilledWorker", ())
    return (
        TaskLost(error.allowed_failures + 1)
        if isinstance(error, killed)
        else (error if isinstance(error, TaskLost) else None)
    )


def _told(error: Exception, begun: Sequence[str]) -> Exception:
    """The error in words; begun: jobs that had not ended."""
    text = f"{type(error).__name__} {error}".lower()
    if "pickle" in text or "could not serialize" in text:
        return TypeError(
            f"executor: models and measures are sent to other processes, and one cannot be ({error}). Define its "
            "functions and classes in a module, or measure here, without an executor."
        )
    if isinstance(error, BrokenExecutor):
        return type(error)(
            f"executor: a worker died at its job ({' or '.join(begun) or 'not known which'}), killed or of too little "
            "memory, and the pool with it. What was finished is kept: run it again to go on, with fewer workers, or on "
            "a cluster, where a dead worker costs its task alone."
        )
    return error
