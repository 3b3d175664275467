"""Jobs of a study, here or on an executor."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, as_completed

from tqdm.auto import tqdm


def groups(seeds: Sequence[int], size: int) -> Iterable[list[int]]:
    """The seeds, at most `size` at a time."""
    return ([*seeds[i : i + size]] for i in range(0, len(seeds), size))


def carry_out(task: Callable, jobs: list[tuple], executor: Executor | None, label: str, progress: bool) -> None:
    """task(*job) for all jobs, here or on the executor, with a bar; the first error is raised after all have ended."""
    bar = tqdm(total=len(jobs), desc=label, unit="job", disable=not (progress and jobs))
    errors: list[Exception] = []
    with bar:
        if executor:
            futures = [executor.submit(task, *job) for job in jobs]
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, Exception):
                    errors.append(error)
                bar.update()
        else:
            for job in jobs:
                try:
                    task(*job)
                except Exception as error:
                    errors.append(error)
                bar.update()
    if errors:
        raise errors[0]
