"""How time and memory grow: the solver's with pairs and the like, training's with rows and the like, with workers."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

import probgeo as pg
from experiments.benchmarks.alone import run
from experiments.benchmarks.methods import from_straight
from experiments.benchmarks.problems import Problem
from experiments.common.options import Output
from experiments.common.results import Groups
from probgeo.datasets.mapped import as_rows
from probgeo.models.base import codes_of
from probgeo.specs import digest


def growth(cases: Mapping[str, Mapping[int, tuple[Problem, int]]], num_repeats: int, patience: float) -> xr.Dataset:
    """Seconds of the solver from straight lines, per size.

    Args:
        cases: problem and number of segments, by the quantity that grows and its size.
        num_repeats: runs of each, at most; the fastest counts, as other work on the machine only slows.
        patience: seconds after which a case is not run again.

    Returns:
        A variable `seconds_by_QUANTITY` with dim QUANTITY for each.
    """
    found = {}
    for name, sizes in cases.items():
        seconds = [_least_seconds(from_straight(problem, N), num_repeats, patience) for problem, N in sizes.values()]
        found[f"seconds_by_{name}"] = xr.DataArray(seconds, dims=name, coords={name: list(sizes)})
    return xr.Dataset(found)


def _least_seconds(solve: Callable[[], object], num_repeats: int, patience: float) -> float:
    taken: list[float] = []
    while not taken or (len(taken) < num_repeats and sum(taken) < patience):
        begun = time.perf_counter()
        solve()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def slope(sizes: Sequence[float] | np.ndarray, seconds: Sequence[float] | np.ndarray) -> float:
    """Exponent p of the least-squares power law seconds ∝ size^p."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


# --- training on a file ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config(Output):
    """Time an epoch on data that stay in a file, and the peak memory of its process, against the size of everything;
    then distances against the number of pairs and of features, and a study against that of workers; and say where one
    machine ends by these numbers, and what they come to for 10^8 cells and 10^3 workers."""

    rows: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)
    """Rows of the file; all else is measured with the smallest of at least 10 000."""
    features: tuple[int, ...] = (50, 200, 800, 2000)
    """Numbers of a row, float32; all else is measured with the first."""
    members: tuple[int, ...] = (1, 3, 10)
    """Decoders of an ensemble."""
    retrainings: tuple[int, ...] = (1, 3, 10)
    """Retrainings that are trained at once."""
    pairs: tuple[int, ...] = (100, 1000, 10_000)
    """Pairs whose distances are measured, 64 segments each; 2 048 at a time."""
    workers: tuple[int, ...] = (1, 2)
    """Processes that carry out a study of four retrainings."""
    shared_pairs: int = 4096
    """Pairs of this study."""
    batch_size: int = 256
    """Rows of a minibatch."""
    epochs: int = 4
    """Passes over the data; the first is not timed, the fastest of the others counts."""


QUICK = {
    "rows": (1000, 4000),
    "features": (10, 40),
    "members": (1, 3),
    "retrainings": (1, 3),
    "pairs": (10, 40),
    "workers": (1, 2),
    "shared_pairs": 40,
}
SEGMENTS = 64
WIDE = 500  # pairs whose distances are measured against the features
TILE = 2048


class Case(NamedTuple):
    """Sizes of what is trained."""

    rows: int
    features: int
    members: int
    retrainings: int


class Cost(NamedTuple):
    """Of a process that imports the library, checks and hashes the data, and trains; MB are 2^20 bytes.

    Seconds are the processor's, as other work on the machine only slows.
    """

    hash: float  #: of the file
    start: float  #: this, checks, and first epoch
    epoch: float  #: a later epoch, of all retrainings
    encode: float  #: codes of all rows under one retraining
    peak: float  #: most memory in use, pages of the file included
    before: float  #: the same before the data are opened


def cases_of(config: Config) -> dict[str, list[Case]]:
    """One size grows, the others stay as small as they are."""
    grown: dict[str, tuple[int, ...]] = {name: getattr(config, name) for name in Case._fields}
    rows = next((size for size in config.rows if size >= 10_000), config.rows[0])
    first = Case(*(sizes[0] for sizes in grown.values()))._replace(rows=rows)
    return {name: [first._replace(**{name: size}) for size in sizes] for name, sizes in grown.items()}


def write(path: Path, case: Case, block: int = 10_000) -> None:
    """Normal noise around a curve, block by block."""
    values = np.lib.format.open_memmap(path, "w+", np.float32, (case.rows, case.features))
    rng, frequencies = np.random.default_rng(0), np.arange(1, case.features + 1) / case.features
    for begin in range(0, case.rows, block):
        rows = values[begin : begin + block]
        time = rng.uniform(0, 2 * np.pi, (len(rows), 1))
        rows[:] = np.sin(frequencies * time) + 0.1 * rng.standard_normal(rows.shape)
    values.flush()


def memory(kind: str = "VmHWM") -> float:
    """Of this process, in MB; Linux."""
    return int(Path("/proc/self/status").read_text().partition(f"{kind}:")[2].split()[0]) / 1024


def train(path: Path, folder: Path, case: Case, config: Config) -> Cost:
    """Train on a file, in this process."""
    before, ends = memory(), [time.process_time()]
    rows = as_rows("x", np.load(path, mmap_mode="r"))
    digest(rows)
    hashed = time.process_time() - ends[0]
    models = pg.fit(
        pg.VAE(2, pg.EnsembleDecoder(case.members) if case.members > 1 else pg.Decoder()),
        rows,
        seeds=range(case.retrainings),
        training=pg.Training(epochs=config.epochs, batch_size=config.batch_size),
        folder=folder,
        progress=False,
        report=lambda seed, epoch, terms: ends.append(time.process_time()) if seed == 0 else None,
    )
    peak, began = memory(), time.process_time()
    with torch.no_grad():
        codes_of(models[0], rows)
    encoded = time.process_time() - began
    return Cost(hashed, ends[1] - ends[0], min(np.diff(ends[1:])), encoded, peak, before)


def cost(case: Case, config: Config) -> Cost:
    """Of a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        write(path, case)
        script = (
            "import sys, torch\n"
            "from pathlib import Path\n"
            "from experiments.benchmarks.growth import Case, Config, train\n"
            f"torch.set_num_threads({torch.get_num_threads()})\n"
            f"config = Config(batch_size={config.batch_size}, epochs={config.epochs})\n"
            f"print(*train(Path({str(path)!r}), Path({folder!r}), {case!r}, config))"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return Cost(*map(float, done.stdout.split()))


# --- distances, and a study on several processes ---------------------------------------------------------------------


class Spent(NamedTuple):
    """Of a process that imports the library and measures distances; MB are 2^20 bytes, seconds the processor's."""

    seconds: float  #: checks, codes of all rows, graph, geodesics
    peak: float  #: most memory in use
    before: float  #: the same before the data are made


class Shared(NamedTuple):
    """Of a study on worker processes; seconds are their processors'."""

    tasks: float  #: of training and measuring
    total: float  #: seconds of all tasks
    longest: float  #: seconds of the worker that had the most to do: what a study takes where each has a core
    start: float  #: seconds of a worker until it has imported the library
    peak: float  #: most memory in use by a worker, MB
    driver: float  #: by the process that shares the tasks out


def study_of(folder: Path, num_pairs: int, seeds: Sequence[int], features: int = 50) -> pg.Study:
    """Ten thousand rows, an ensemble of three, one epoch; geodesics between random pairs."""
    file = folder / "x.npy"
    if not file.exists():
        write(file, Case(10_000, features, 3, 1))
    rng = np.random.default_rng(0)
    return pg.Study(
        folder / f"study-{num_pairs}",
        data=np.load(file, mmap_mode="r"),
        pairs=rng.integers(0, 10_000, (num_pairs, 2)),
        models={"ensemble": pg.VAE(2, pg.EnsembleDecoder(3))},
        seeds=seeds,
        measures={"geodesic": pg.Geodesic(solver=pg.GaussNewton(SEGMENTS))},
        training=pg.Training(epochs=1, batch_size=256),
    )


def measure_pairs(folder: Path, num_pairs: int, features: int = 50) -> Spent:
    """Distances of one model, in this process; it is trained in another."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), set_threads, (1,)) as pool:
        pool.submit(trained, folder, num_pairs, features).result()
    before, began = memory(), time.process_time()
    study = study_of(folder, num_pairs, [0], features)
    study.run(progress=False, num_pairs=TILE)
    return Spent(time.process_time() - began, memory(), before)


def trained(folder: Path, num_pairs: int, features: int) -> None:
    """Train the model that `measure_pairs` measures."""
    study_of(folder, num_pairs, [0], features).fitted("ensemble", 0)


class Timed(Executor):
    """Worker processes that note the processor's seconds of every task, and their memory, in a file of their own."""

    def __init__(self, folder: Path, num: int) -> None:
        self.folder, self.num_workers = folder, num
        self.pool = ProcessPoolExecutor(num, multiprocessing.get_context("spawn"), set_threads, (1,))

    def submit(self, task: Callable, /, *args: Any, **options: Any) -> Future:
        return self.pool.submit(timed, self.folder, task, *args, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.pool.shutdown(wait, cancel_futures=cancel_futures)


def set_threads(num: int) -> None:
    """Of torch, in a new process."""
    torch.set_num_threads(num)


def timed(folder: Path, task: Callable, *args: Any) -> Any:
    """The task's result; its seconds and the memory go into the process's file, behind those of the tasks before."""
    own, began = folder / f"{os.getpid()}.seconds", time.process_time()
    found = task(*args)
    with own.open("a") as file:
        if own.stat().st_size == 0:
            file.write(f"{began} {memory()}\n")
        file.write(f"{time.process_time() - began} {memory()}\n")
    return found


def share(folder: Path, num_workers: int, num_pairs: int) -> Shared:
    """A study of four retrainings, each of them a task, and of pairs in tiles."""
    with Timed(folder, num_workers) as executor:
        study_of(folder, num_pairs, range(4)).run(executor, progress=False, stack=1, num_pairs=TILE)
    notes = [np.loadtxt(path, ndmin=2) for path in folder.glob("*.seconds")]
    spent = [note[1:, 0].sum() for note in notes]
    tasks, start = sum(len(note) - 1 for note in notes), max(note[0, 0] for note in notes)
    return Shared(tasks, sum(spent), max(spent), start, max(note[:, 1].max() for note in notes), memory())


def alone(call: str) -> list[float]:
    """What a function of this module returns in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        script = (
            "import torch\nfrom pathlib import Path\nfrom experiments.benchmarks import growth\n"
            f"torch.set_num_threads({torch.get_num_threads()})\n"
            f"print(*growth.{call.format(f'Path({folder!r})')})"
        )
        guarded = "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in script.splitlines())
        file = Path(folder) / "alone.py"
        file.write_text(guarded)
        paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run([sys.executable, str(file)], check=True, capture_output=True, text=True, env=environment)
    return [float(part) for part in done.stdout.split()]


def compute(config: Config) -> Groups:
    """All costs."""
    costs: dict[Case, Cost] = {}
    groups: dict[str, xr.Dataset] = {}
    for name, cases in cases_of(config).items():
        for case in cases:
            costs[case] = costs.get(case) or cost(case, config)
        values = np.array([costs[case] for case in cases])
        coords = {name: [getattr(case, name) for case in cases], "cost": list(Cost._fields)}
        attrs = {"threads": torch.get_num_threads(), "rows": cases[0].rows}
        groups[name] = xr.Dataset({"value": ((name, "cost"), values)}, coords, attrs)
    others: dict[str, tuple[Any, dict[int, str]]] = {
        "pairs": (Spent, {size: f"measure_pairs({{}}, {size})" for size in config.pairs}),
        "observations": (Spent, {size: f"measure_pairs({{}}, {WIDE}, {size})" for size in config.features}),
        "workers": (Shared, {size: f"share({{}}, {size}, {config.shared_pairs})" for size in config.workers}),
    }
    for name, (kind, calls) in others.items():
        values = np.array([alone(call) for call in calls.values()])
        coords = {name: list(calls), "cost": list(kind._fields)}
        groups[name] = xr.Dataset({"value": ((name, "cost"), values)}, coords, {"threads": torch.get_num_threads()})
    return groups


# --- what is said of it ----------------------------------------------------------------------------------------------

DAY = 2 * 86_400  # seconds of two cores
WHOLE = 3 * 30  # retrainings of a study of three models
CELLS, PAIRS, WORKERS = 10**8, 10**5, 10**3


def report(groups: Groups) -> None:
    """The tables of a result file, where one machine ends by them, and an estimate far beyond it."""
    frames = {name: _with_increase(found.value.to_pandas()) for name, found in groups.items()}
    for name in (*Case._fields, "pairs", "observations"):
        what, column = ("an epoch", "epoch") if name in Case._fields else ("distances", "seconds")
        frame, threads = frames[name], groups[name].attrs["threads"]
        time, space = (slope(frame.index.to_numpy(), frame[one].to_numpy()) for one in (column, "peak - before"))
        print(
            f"\nProcessor seconds of {what} grow as {name}^{time:.2f}, memory as {name}^{space:.2f}; threads: {threads}"
        )
        print(frame.to_string(float_format="{:.3f}".format))
    frame = frames["workers"]
    frame["speed-up"] = frame["total"].iloc[0] / frame["longest"]
    print("\nProcessor seconds of one study on worker processes of one thread; MB of a worker, and of the driver")
    print(frame.to_string(float_format="{:.2f}".format))
    together, pairs = frames["retrainings"].iloc[-1], frames["pairs"].iloc[-1]
    print(
        _one_machine(together.epoch / together.name / groups["retrainings"].attrs["rows"], pairs.seconds / pairs.name)
    )
    wide = frames["features"].iloc[-1] / groups["features"].attrs["rows"]
    print(_far_beyond(int(frames["features"].index[-1]), wide, frames["observations"].seconds.iloc[-1] / WIDE))


def _one_machine(row: float, pair: float) -> str:
    """Where it ends, by the seconds of a row and of a pair."""
    rows, pairs = DAY / (WHOLE * 30 * row) / 1e6, DAY / (WHOLE * pair) / 1e3
    return (
        f"\nWhere one machine ends: two cores have {DAY} seconds in a day, in which 3 models x 30 retrainings take\n"
        f"  {rows:.0f} million rows of the first table, 30 epochs ({1e6 * row:.1f} us a row and epoch, ten at once)\n"
        f"  or {pairs:.0f} thousand pairs ({1e3 * pair:.1f} ms a geodesic)"
    )


def _far_beyond(genes: int, row: pd.Series, pair: float) -> str:
    """For 10^8 cells and 10^3 workers, by the seconds of a row and of a pair."""
    tiles, reads = WHOLE * -(-PAIRS // TILE), WHOLE / row.epoch
    return (
        f"\n10^8 cells x {genes} genes ({CELLS * genes * 4 / 1e9:.0f} GB) on 10^3 workers, by the last lines of "
        f"features and observations:\n3 models x 30 retrainings x 10 epochs, 10^5 pairs\n"
        f"  hash of the file, by the driver: {CELLS * row.hash / 60:.0f} minutes\n"
        f"  training, {WHOLE} tasks: {CELLS * 10 * row.epoch / 3600:.1f} hours each; they read {reads / 1e6:.1f} "
        f"million rows a second, {reads * genes * 4 / 1e9:.0f} GB/s\n"
        f"  codes, {WHOLE} tasks: {CELLS * row.encode:.0f} s and {CELLS * 8 / 1e9:.1f} GB each\n"
        f"  distances, {tiles} tiles: {TILE * pair:.0f} s each, {tiles * TILE * pair / WORKERS / 60:.1f} minutes of "
        f"all workers; they read {tiles * CELLS * 8 / 1e12:.1f} TB of codes"
    )


def _with_increase(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**{"peak - before": frame["peak"] - frame["before"]}) if "before" in frame else frame


def main(arguments: list[str] | None = None) -> None:
    """Compute, print the table, say where it is."""
    run(Config, compute, report, QUICK, arguments)


if __name__ == "__main__":
    main()
