"""Tasks of a process pool that end with whoever wants them: on Ctrl-C, and where the driver dies."""

import contextlib
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

PATIENCE = 0.5  # seconds between two looks
CLOSING = 10.0  # seconds that the workers of a pool may take to end, from the first to the last
_watched: set[Path] = set()  # by this worker, while it carries out tasks of theirs
_watch: list[threading.Thread] = []
_seen_off: weakref.WeakSet[ProcessPoolExecutor] = weakref.WeakSet()  # pools whose end is watched


class Wanted:
    """A folder that stands for as long as a driver wants its tasks; in it, the numbers of those that have begun.

    Args:
        executor: who carries them out.

    Attributes:
        place: the folder; None where there is none.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.place: Path | None = None
        if isinstance(executor, ProcessPoolExecutor):
            with contextlib.suppress(OSError):  # where nothing can be written, tasks run to their end
                self.place = Path(tempfile.mkdtemp(prefix="probgeo-"))

    def submit(self, number: int, task: Callable, /, *args: Any) -> Future:
        """A future of task(*args)."""
        if self.place is None:
            return self._executor.submit(task, *args)
        return self._executor.submit(carried_out_while, self.place, number, task, *args)

    def begun(self) -> list[int]:
        """Tasks that have begun and not ended."""
        names = os.listdir(self.place) if self.place and self.place.exists() else []
        return sorted(int(name) for name in names if name.isdigit())

    def end(self, futures: Iterable[Future] = ()) -> None:
        """No task is wanted any more: of a pool those that run end now, and their workers with them."""
        if self.place is not None:
            shutil.rmtree(self.place, ignore_errors=True)
            return  # a pool that breaks does not bear with futures that were cancelled; no task begins any more
        for future in futures:
            future.cancel()


@contextlib.contextmanager
def wanted(executor: Executor) -> Iterator[Wanted]:
    """Inside, tasks are wanted.

    Args:
        executor: who carries them out; of a process pool tasks end with the block or the driver, of others as they do.
    """
    tasks = Wanted(executor)
    try:
        yield tasks
    finally:
        tasks.end()
        if isinstance(executor, ProcessPoolExecutor) and executor not in _seen_off:
            _seen_off.add(executor)
            threading.Thread(target=_see_off, args=(weakref.ref(executor), executor._processes), daemon=True).start()


def _see_off(pool: "weakref.ref[ProcessPoolExecutor]", workers: Mapping[int, Any] | None) -> None:
    """End the workers of a pool that closes where they cannot: one that was killed then leaves the others a lock.

    A pool that is closed sends its workers home when nothing is left to do, and waits for them without a limit. What
    they computed is there by then.
    """
    closing = False
    while not closing:
        time.sleep(PATIENCE)
        executor = pool()
        if executor is not None and getattr(executor, "_max_tasks_per_child", None) is not None:
            return  # such workers end while others are at work
        closing = executor is None or bool(getattr(executor, "_shutdown_thread", True))
        del executor
    first = None
    while there := {worker.sentinel: worker for worker in [*(workers or {}).values()] if worker.is_alive()}:
        first = first or (time.monotonic() if len(there) < len(workers or {}) else None)
        if first and time.monotonic() > first + CLOSING:
            for worker in there.values():
                worker.kill()
        time.sleep(PATIENCE)


def carried_out_while(place: Path, number: int, task: Callable, /, *args: Any) -> Any:
    """In a worker: task(*args) for as long as the place stands and the driver lives.

    A worker whose task is not wanted any more ends at once, as if it were killed: files are whole or not there.
    """
    if not _watch:
        _watch.append(threading.Thread(target=_look, daemon=True))
        _watch[0].start()
    if not place.exists():
        raise InterruptedError("executor: the task is not wanted any more.")
    mark = place / str(number)
    with contextlib.suppress(OSError):
        mark.touch()
    _watched.add(place)
    try:
        return task(*args)
    finally:
        _watched.discard(place)
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)


def _look() -> None:
    """End this process when its parent or the driver is gone, or what it does is not wanted."""
    parent, driver = os.getppid(), multiprocessing.parent_process()  # not the same where a server forks the workers
    lives = True
    while lives and all(place.exists() for place in [*_watched]):
        time.sleep(PATIENCE)
        lives = os.getppid() == parent and (driver is None or driver.is_alive())
    if not lives:
        for place in [*_watched]:
            shutil.rmtree(place, ignore_errors=True)
    os._exit(1)
