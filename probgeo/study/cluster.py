"""Workers of dask.distributed as an executor: a worker that dies costs its task, a task that kills workers itself."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures import wait as all_ended
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakSet

from probgeo.jobs import TaskLost
from probgeo.training import budget

DEATHS = 3  # of a task's workers, after which it is lost
HEAVY = 20_000  # bytes of an argument that is sent to a cluster once, and from worker to worker from then on


class Workers(Executor):
    """Workers of Dask as an executor of `Study.run`, `measure`, `distance_matrix` and `graph_distances`.

    What a worker was doing when it died is done again by another. A task whose workers died is tried alone, beside
    tasks that nothing is held against, and after the third death it is left out (`TaskLost`): it takes none with it.
    What is sent to a worker is pickled by Dask, between processes that the user started; see its
    `distributed.security.Security` for TLS. A cluster that Dask started sends home for good what is not started again
    within `distributed.deploy.lost-worker-timeout`, 15 s: set it higher where that may take longer, lest a run waits
    for workers that never come.

    Args:
        client: a `distributed.Client`, of any cluster.
        expected: threads of the workers that are asked for, where they come one after another.

    Attributes:
        dashboard: address of the cluster's page.
        num_workers: threads of all workers that are there now, or are expected.
        sends_once: what several tasks have in common is sent to the cluster once.

    Example:
        ``with distributed.Client(n_workers=2, threads_per_worker=1) as client: study.run(pg.study.Workers(client))``

        >>> import concurrent.futures, probgeo as pg
        >>> issubclass(pg.study.Workers, concurrent.futures.Executor)  # what all of them take
        True
    """

    sends_once = True

    def __init__(self, client: Any, expected: int = 1) -> None:
        self._client, self._expected = client, expected
        self._closed = False
        self._futures: WeakSet[Future] = WeakSet()
        self._held: dict[int, tuple[Any, Any]] = {}
        self._suspects: deque[_Job] = deque()
        self._tried: _Job | None = None

    @property
    def dashboard(self) -> str:
        return self._client.dashboard_link

    @property
    def num_workers(self) -> int:
        return max(self._expected, sum(self._client.nthreads().values()))

    def submit(self, task: Callable, /, *args: Any, **options: Any) -> Future:
        """A future of task(*args, **options).

        Raises:
            RuntimeError: after `shutdown`.
        """
        if self._closed:
            raise RuntimeError("executor: cannot carry out anything after shutdown().")
        job = _Job(task, args, options)
        self._send(job, [self._once(value) for value in args])
        self._futures.add(job.future)
        return job.future

    def on_every_worker(self, task: Callable, /, *args: Any) -> dict[str, Any]:
        """task(*args) on every worker that is there, by its address; waits for the first."""
        self._client.wait_for_workers(1)
        return self._client.run(task, *args)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of what was sent; client and cluster stay."""
        self._closed = True
        futures = {*self._futures}
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            all_ended(futures)
        self._held.clear()

    def _once(self, value: Any) -> Any:
        """A heavy argument as a promise of it, by which workers get it from one another; a light one as it is."""
        from distributed.protocol.pickle import dumps

        if id(value) in self._held:
            return self._held[id(value)][1]
        if isinstance(value, (int, float, str, bytes, type(None))) or len(dumps(value)) <= HEAVY:
            return value
        # Not scattered: what a dead worker held is sent again.
        with _of_any_size():
            self._held[id(value)] = value, self._client.submit(_itself, value, pure=False)
        return self._held[id(value)][1]

    def _send(self, job: "_Job", args: Any) -> None:
        with _of_any_size():
            sent = self._client.submit(on_worker, partial(job.task, **job.options), *args, pure=False)
        job.future.add_done_callback(lambda future: sent.cancel() if future.cancelled() else None)
        sent.add_done_callback(lambda sent: self._ended(job, sent))

    def _ended(self, job: "_Job", sent: Any) -> None:
        """Pass on how a job ended, or try it again; always in the one thread that Dask calls back from."""
        from distributed import KilledWorker

        alone = self._tried is job
        if alone:
            self._tried = None
        try:
            # Fetched here: its worker may have died since, and the next one that computed it.
            job.ends(None, sent.result())
        except KilledWorker as error:
            job.deaths += error.allowed_failures + 1
            if job.future.cancelled() or (alone and job.deaths >= DEATHS):
                job.ends(TaskLost(job.deaths))
            else:
                self._suspects.append(job)
        except CancelledError:
            job.ends(ConnectionError("executor: the scheduler is gone, and with it what it had not carried out."))
        except BaseException as error:
            job.ends(error)
        if self._tried is None and self._suspects:
            self._tried = self._suspects.popleft()
            try:
                self._send(self._tried, self._tried.args)
            except Exception as error:  # the client is closed
                self._tried.ends(error)


@dataclass(eq=False)
class _Job:
    task: Callable
    args: tuple
    options: dict[str, Any]
    future: Future = field(default_factory=Future)
    deaths: int = 0

    def ends(self, error: BaseException | None, result: Any = None) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


def on_worker(task: Callable, /, *args: Any) -> Any:
    """A task in its worker's share of the memory."""
    from distributed import get_worker

    worker = get_worker()
    with budget.within((worker.memory_manager.memory_limit or float("inf")) / worker.state.nthreads):
        return task(*args)


def _itself(value: Any) -> Any:
    return value


def _of_any_size() -> Any:
    """Dask warns of what is large; here it is sent once."""
    import dask

    return dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})
