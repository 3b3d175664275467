"""How the solver's time grows with pairs, segments, members, latent dimensions; training's with rows and the like."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
    """Time an epoch on data that stay in a file, and the peak memory of its process, against the size of everything."""

    rows: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Rows of the file; all else is measured with the first."""
    features: tuple[int, ...] = (50, 200, 800)
    """Numbers of a row, float32; all else is measured with the first."""
    members: tuple[int, ...] = (1, 3, 10)
    """Decoders of an ensemble."""
    retrainings: tuple[int, ...] = (1, 3, 10)
    """Retrainings that are trained at once."""
    batch_size: int = 256
    """Rows of a minibatch."""
    epochs: int = 4
    """Passes over the data; the first is not timed, the fastest of the others counts."""


QUICK = {"rows": (1000, 4000), "features": (10, 40), "members": (1, 3), "retrainings": (1, 3)}


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
    first = Case(*(sizes[0] for sizes in grown.values()))
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


def main(arguments: list[str] | None = None) -> None:
    """Compute, print the table, say where it is."""
    run(Config, compute, report, QUICK, arguments)


if __name__ == "__main__":
    main()
