"""Jobs of a study, here or on an executor."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, as_completed
from functools import partial
from typing import Any

from tqdm.auto import tqdm


def groups(seeds: Sequence[int], size: int) -> Iterable[list[int]]:
    """The seeds, at most `size` at a time."""
    return ([*seeds[i : i + size]] for i in range(0, len(seeds), size))


def carried_out(
    task: Callable, jobs: Sequence[tuple], executor: Executor | None, label: str, progress: bool
) -> list[Any]:
    """task(*job) for all jobs, here or on the executor, with a bar; the first error is raised after all have ended.

    Raises:
        TypeError: what cannot be sent to other processes.
    """
    found: list[Any] = [None] * len(jobs)
    errors: list[Exception] = []

    def ended(index: int, result: Callable[[], Any]) -> None:
        try:
            found[index] = result()
        except Exception as error:
            errors.append(error)
        bar.update()

    with tqdm(total=len(jobs), desc=label, unit="job", disable=not (progress and jobs)) as bar:
        if executor:
            futures = {executor.submit(task, *job): index for index, job in enumerate(jobs)}
            for future in as_completed(futures):
                ended(futures[future], future.result)
        else:
            for index, job in enumerate(jobs):
                ended(index, partial(task, *job))
    if errors and "pickle" in f"{type(errors[0]).__name__} {errors[0]}".lower():
        raise TypeError(
            f"executor: models and measures are sent to other processes, and one cannot be ({errors[0]}). Define its "
            "functions and classes in a module, or measure here, without an executor."
        ) from errors[0]
    if errors:
        raise errors[0]
    return found
