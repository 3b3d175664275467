"""Small studies, trainings and matrices in processes of their own, which can be killed at any moment."""

import contextlib
import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import probgeo as pg
from experiments.common.results import told
from probgeo.netcdf import read_netcdf, write_netcdf

# Processes that have this module already, and nothing of what ran before.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])
NETWORK = pg.nn.MLP((16,))
TIMES = ["seconds", "training_seconds"]  # differ between runs


def rows(num: int = 200) -> torch.Tensor:
    """Uniform, of six features."""
    return torch.rand(num, 6, generator=torch.Generator().manual_seed(0))


def a_study(folder: Path, seeds: int = 3, epochs: int = 12) -> pg.Study:
    """Geodesics in retrainings of an ensemble."""
    return pg.Study(
        folder,
        data=rows(),
        pairs=pg.sample_pairs(range(200), num_pairs=12, seed=0),
        models={"ensemble": pg.VAE(2, pg.EnsembleDecoder(3, NETWORK), encoder=NETWORK)},
        seeds=range(seeds),
        measures={"geodesic": pg.Geodesic(solver=pg.GaussNewton(16))},
        training=pg.Training(epochs=epochs, batch_size=32),
    )


def study(folder: Path) -> None:
    """In process."""
    a_study(folder).run(progress=False)


def pooled(folder: Path) -> None:
    """On a process pool of two."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        a_study(folder).run(pool, progress=False, stack=1)


def clustered(folder: Path) -> None:
    """On a Dask cluster of two on this machine."""
    import distributed

    options: Any = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with distributed.Client(**options) as client:
        (folder.parent / f"{folder.name}.begun").touch()
        a_study(folder, seeds=12).run(pg.study.Workers(client), progress=False, stack=1)


def matrix(folder: Path) -> None:
    """Distances of twelve points, in tiles of six pairs."""
    metric = pg.PullbackMetric(_paraboloid)
    points = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    found = pg.distance_matrix(metric, points, folder=folder / "tiles", solver=pg.GaussNewton(64), num_pairs=6)
    write_netcdf(folder / "study.nc", found.to_dataset())


def _paraboloid(z: torch.Tensor) -> torch.Tensor:
    return torch.cat([z, z.square().sum(-1, keepdim=True)], dim=-1)


def numbers(folder: Path) -> xr.Dataset:
    """What a victim computed, without the times that it took."""
    return read_netcdf(folder / "study.nc", "").drop_vars(TIMES, errors="ignore")


class Victim:
    """A task in a process of its own, which says what its user would read.

    Args:
        task: of this module, or of another.
        args: of the task.
    """

    def __init__(self, task: Callable[..., None], *args: Any) -> None:
        self._mine, theirs = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(target=_said, args=(theirs, task, *args))
        self.process.start()
        theirs.close()
        self._mine.recv()  # it begins

    def ends(self) -> str:
        """What its user reads at the end; nothing where it has done what it was to do, or was killed."""
        with contextlib.suppress(EOFError):
            return self._mine.recv()
        self.process.join()
        return ""

    def killed(self, number: int = signal.SIGKILL) -> bool:
        """Whether it lived until it got the signal."""
        lives = self.process.is_alive()
        if lives:
            os.kill(self.process.pid or 0, number)
        return lives

    @property
    def workers(self) -> list[int]:
        """Its children, and theirs."""
        return [*descendants(self.process.pid or 0)]


def run(task: Callable[..., None], *args: Any) -> tuple[str, float]:
    """What its user reads, and how many seconds it takes."""
    victim = Victim(task, *args)
    began = time.monotonic()  # not before: a process may take long to begin
    said = victim.ends()
    victim.process.join()
    return said, time.monotonic() - began


def _said(pipe: Any, task: Callable[..., None], *args: Any) -> None:
    os.setsid()  # a signal that is meant for it reaches nobody else
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs behind it
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(io.StringIO()) as told_of:
        os.dup2(nothing.fileno(), 2)
        pipe.send("")
        try:
            with told():
                task(*args)
            said = ""
        except SystemExit as error:
            said = str(error) if isinstance(error.code, str) else told_of.getvalue().strip().rpartition("\n")[2]
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        pipe.send(said)


def finished(place: Path) -> dict[Path, int]:
    """What a victim has finished, and when it was written: trainings, distances, tiles."""
    found = [*place.glob("trainings/*/seed-*/*"), *place.glob("distances/*.nc"), *place.glob("tiles/tile-*")]
    return {path: path.stat().st_mtime_ns for path in found if not path.name.startswith(".")}


def rewritten(before: dict[Path, int]) -> int:
    """How much of what was finished is not as it was."""
    return sum(not path.exists() or path.stat().st_mtime_ns != time for path, time in before.items())


def descendants(process: int) -> Iterator[int]:
    """Processes that it began, and those that they did; Linux."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == process and state != "Z":
                yield int(place.name)
                yield from descendants(int(place.name))


def lives(process: int) -> bool:
    """Whether there is such a process that is not dead."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
