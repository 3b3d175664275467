"""Workers of dask.distributed, started here, by SLURM, or already there."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import probgeo as pg

LOCAL, SLURM = "local", "slurm"
NEEDS = "cluster: needs dask.distributed and dask-jobqueue: pip install 'probgeo[distributed]' ({})."


def is_address(cluster: str) -> bool:
    """Whether it is that of a scheduler."""
    return "://" in cluster


@contextmanager
def workers(cluster: str | None, num: int, folder: Path | None = None) -> Iterator[pg.study.Workers | None]:
    """An executor on a cluster, which is closed at the end where it was started here; None for none.

    Args:
        cluster: local, slurm, or the address of a scheduler.
        num: processes of local, each of one thread; jobs of slurm, as the file jobqueue.yaml describes one.
        folder: that all workers see, where the keys of slurm's jobs are kept while they run; None for the current one.

    Raises:
        ValueError: Dask is not installed, or nothing says what a job of SLURM is.
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
    # A worker's death is told at once: what was running on it is tried again by `Workers`, which counts.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        if is_address(cluster):
            own, expected = None, 1
        elif cluster == LOCAL:
            own, expected = _local(num), num
        else:
            own = _slurm(num, folder or Path.cwd())
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


def _local(num: int) -> Any:
    from distributed import LocalCluster

    # Nothing listens to other machines, the dashboard neither.
    return LocalCluster(n_workers=num, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")


def _slurm(num: int, folder: Path) -> Any:
    import dask

    try:
        from dask_jobqueue import SLURMCluster
        from distributed.security import Security

        # Keys of this run alone, so that nobody else on the network gives the workers work.
        shared = dask.config.get("jobqueue.slurm.shared-temp-directory", None) or str(folder)
        own = SLURMCluster(security=Security.temporary(), shared_temp_directory=shared)
    except ImportError as error:
        raise ValueError(NEEDS.format(error)) from error
    own.scale(jobs=num)
    return own
