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
import torch
import xarray as xr

import probgeo as pg
from experiments.benchmarks.alone import run
from experiments.benchmarks.methods import from_straight
from experiments.benchmarks.problems import Problem
from experiments.common.options import Output
from experiments.common.results import Groups


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
    then distances against the number of pairs, and a study against that of workers."""

    rows: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)
    """Rows of the file; all else is measured with the smallest of at least 10 000."""
    features: tuple[int, ...] = (50, 200, 800)
    """Numbers of a row, float32; all else is measured with the first."""
    members: tuple[int, ...] = (1, 3, 10)
    """Decoders of an ensemble."""
    retrainings: tuple[int, ...] = (1, 3, 10)
    """Retrainings that are trained at once."""
    pairs: tuple[int, ...] = (100, 1000, 10_000)
    """Pairs whose distances are measured, 64 segments each; 2 048 at a time."""
    workers: tuple[int, ...] = (1, 2)
    """Processes that carry out a study of four retrainings and of the last number of pairs."""
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
}
SEGMENTS = 64
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

    start: float  #: checks, hash and first epoch
    epoch: float  #: a later epoch, of all retrainings
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
    pg.fit(
        pg.VAE(2, pg.EnsembleDecoder(case.members) if case.members > 1 else pg.Decoder()),
        np.load(path, mmap_mode="r"),
        seeds=range(case.retrainings),
        training=pg.Training(epochs=config.epochs, batch_size=config.batch_size),
        folder=folder,
        progress=False,
        report=lambda seed, epoch, terms: ends.append(time.process_time()) if seed == 0 else None,
    )
    return Cost(ends[1] - ends[0], min(np.diff(ends[1:])), memory(), before)


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

    seconds: float  #: codes of all rows, graph, geodesics
    peak: float  #: most memory in use
    before: float  #: the same before the data are made


class Shared(NamedTuple):
    """Of a study on worker processes; seconds are their processors'."""

    tasks: float  #: of training and measuring
    total: float  #: seconds of all tasks
    longest: float  #: seconds of the worker that had the most to do: what a study takes where each has a core
    start: float  #: seconds of a worker until it has imported the library


def study_of(folder: Path, num_pairs: int, seeds: Sequence[int]) -> pg.Study:
    """Ten thousand rows of 50 numbers, an ensemble of three, one epoch; geodesics between random pairs."""
    file = folder / "x.npy"
    write(file, Case(10_000, 50, 3, 1))
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


def measure_pairs(folder: Path, num_pairs: int) -> Spent:
    """Distances of one model, in this process; its training is not counted."""
    study = study_of(folder, num_pairs, [0])
    study.fitted("ensemble", 0)
    before, began = memory(), time.process_time()
    study.run(progress=False, num_pairs=TILE)
    return Spent(time.process_time() - began, memory(), before)


class Timed(Executor):
    """Worker processes that note the processor's seconds of every task in a file of their own."""

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
    """The task's result; its seconds, behind those before it, go into the process's file."""
    own, began = folder / f"{os.getpid()}.seconds", time.process_time()
    found = task(*args)
    with own.open("a") as file:
        if own.stat().st_size == 0:
            file.write(f"{began}\n")
        file.write(f"{time.process_time() - began}\n")
    return found


def share(folder: Path, num_workers: int, num_pairs: int) -> Shared:
    """A study of four retrainings, each of them a task, and of pairs in tiles."""
    with Timed(folder, num_workers) as executor:
        study_of(folder, num_pairs, range(4)).run(executor, progress=False, stack=1, num_pairs=TILE)
    notes = [[float(line) for line in path.read_text().split()] for path in folder.glob("*.seconds")]
    spent = [sum(seconds) for _, *seconds in notes]
    tasks = sum(len(seconds) for _, *seconds in notes)
    return Shared(tasks, sum(spent), max(spent), max(note[0] for note in notes))


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
        groups[name] = xr.Dataset({"value": ((name, "cost"), values)}, coords, {"threads": torch.get_num_threads()})
    calls: dict[str, tuple[str, type[Spent] | type[Shared]]] = {
        "pairs": ("measure_pairs({{}}, {})", Spent),
        "workers": (f"share({{{{}}}}, {{}}, {config.pairs[-1]})", Shared),
    }
    for name, (call, kind) in calls.items():
        sizes = list(getattr(config, name))
        values = np.array([alone(call.format(size)) for size in sizes])
        coords = {name: sizes, "cost": list(kind._fields)}
        groups[name] = xr.Dataset({"value": ((name, "cost"), values)}, coords, {"threads": torch.get_num_threads()})
    return groups


def report(groups: Groups) -> None:
    """The table of a result file."""
    for name in Case._fields:
        found = groups[name]
        frame = found.value.to_pandas()
        exponent = slope(frame.index.to_numpy(), frame["epoch"].to_numpy())
        frame["peak - before"] = frame["peak"] - frame["before"]
        print(f"\nProcessor seconds of an epoch grow as {name}^{exponent:.2f} (threads: {found.attrs['threads']}); MB:")
        print(frame.to_string(float_format="{:.2f}".format))
    if "pairs" in groups:  # older files hold training alone
        frame = groups["pairs"].value.to_pandas()
        exponent = slope(frame.index.to_numpy(), frame["seconds"].to_numpy())
        frame["peak - before"] = frame["peak"] - frame["before"]
        print(f"\nProcessor seconds of distances grow as pairs^{exponent:.2f}; MB:")
        print(frame.to_string(float_format="{:.2f}".format))
        frame = groups["workers"].value.to_pandas()
        frame["speed-up"] = frame["total"].iloc[0] / frame["longest"]
        print("\nProcessor seconds of the same study on worker processes of one thread:")
        print(frame.to_string(float_format="{:.2f}".format))


def main(arguments: list[str] | None = None) -> None:
    """Compute, print the table, say where it is."""
    run(Config, compute, report, QUICK, arguments)


if __name__ == "__main__":
    main()
