"""Workers of dask.distributed, started here, by SLURM or PBS, or already there."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import probgeo as pg

LOCAL = "local"
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster"}  # of dask_jobqueue
NEEDS = "cluster: needs dask.distributed and dask-jobqueue: pip install 'probgeo[distributed]' ({})."


def is_address(cluster: str) -> bool:
    """Whether it is that of a scheduler."""
    return "://" in cluster


@contextmanager
def workers(cluster: str | None, num: int, folder: Path | None = None) -> Iterator[pg.study.Workers | None]:
    """An executor on a cluster, which is closed at the end where it was started here; None for none.

    Args:
        cluster: local, slurm, pbs, or the address of a scheduler.
        num: processes of local, each of one thread; jobs of a queue, as the file jobqueue.yaml describes one.
        folder: that all workers see, where the keys of a queue's jobs are while they run; None for the current one.

    Raises:
        ValueError: Dask is not installed, nothing says what a job is, or none can be submitted from here.
        OSError: no scheduler answers at the address.
    """
    if cluster is None:
        yield None
        return
    try:
        import dask
        import distributed
    except ImportError as error:
        raise ValueError(NEEDS.format(error)) from error
    told = {
        # A worker's death is told at once: what was running on it is tried again by `Workers`, which counts.
        "distributed.scheduler.allowed-failures": 0,
        # Who starts a worker again is given the time for it: Dask sends them home after 15 s, and none would be left.
        "distributed.deploy.lost-worker-timeout": "1000 days",
    }
    with dask.config.set(told):
        if is_address(cluster):
            own, expected = None, 1
        elif cluster == LOCAL:
            own, expected = _local(num), num
        else:
            own = _queue(cluster, num, folder or Path.cwd())
            expected = sum(spec["options"].get("processes", 1) for spec in own.worker_spec.values())
        try:
            with distributed.Client(own or cluster) as client:
                executor = pg.study.Workers(client, expected)
                there = f"workers: {executor.num_workers}, of which {len(client.nthreads())} are there"
                print(f"{there}; dashboard: {executor.dashboard}", file=sys.stderr)
                yield executor
        finally:
            if own is not None:
                own.close()
                for name, held in vars(own).items():  # a queue's keys, else there until this process ends
                    if name.startswith("_job_") and hasattr(held, "close"):
                        held.close()


def _local(num: int) -> Any:
    from distributed import LocalCluster

    # Nothing listens to other machines, the dashboard neither.
    return LocalCluster(n_workers=num, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")


def _queue(name: str, num: int, folder: Path) -> Any:
    import dask

    try:
        import dask_jobqueue
        from distributed.security import Security

        # Keys of this run alone, so that nobody else on the network gives the workers work.
        shared = dask.config.get(f"jobqueue.{name}.shared-temp-directory", None) or str(folder)
        kind = getattr(dask_jobqueue, QUEUES[name])
        if shutil.which(kind.job_cls.submit_command) is None:  # no job would ever come, and it is waited for them
            raise ValueError(
                f"cluster: expected a machine from which jobs of {name} are submitted, as a login node is; there is no "
                f"{kind.job_cls.submit_command} here."
            )
        own = kind(security=Security.temporary(), shared_temp_directory=shared)
    except ImportError as error:
        raise ValueError(NEEDS.format(error)) from error
    own.scale(jobs=num)
    return own
