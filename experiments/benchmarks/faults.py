"""What is lost, and what the user reads, when processes are killed, disks are full and files are damaged."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from experiments.benchmarks import damage, victims
from experiments.benchmarks.alone import run
from experiments.benchmarks.victims import Victim, finished, lives, numbers, rewritten
from experiments.common.options import Output
from experiments.common.results import Groups


@dataclass(frozen=True)
class Config(Output):
    """Kill processes at random moments, fill disks, damage files: what is lost, and what is said."""

    kills: int = 12
    """Processes that are killed of each kind."""
    seed: int = 0
    """Of the moments."""
    cluster: bool = True
    """Kill half as many workers of a Dask cluster on this machine too, where it is installed."""


QUICK = {"kills": 2}
WAIT = 20.0  # seconds in which what is to end has ended


class Row(NamedTuple):
    """What was done, how often, and what came of it."""

    fault: str
    times: int  #: that it was done
    equal: int  #: of these, after which the numbers are those of an undisturbed run, bit for bit
    lost: str
    said: str  #: what the user reads


def resumed(task: Callable[[Path], None], folder: Path, config: Config, name: str) -> Row:
    """The driver is killed, up to three times in a row, then runs to its end."""
    rng, (whole, seconds) = np.random.default_rng(config.seed), undisturbed(task, folder)
    kills = equal = left = lost = 0
    while kills < config.kills:
        place, before = Path(tempfile.mkdtemp(dir=folder)), kills
        for _ in range(min(config.kills - kills, int(rng.integers(1, 4)))):
            victim = Victim(task, place)
            time.sleep(rng.uniform(0, seconds))
            workers = victim.workers
            if not victim.killed():
                break
            kills += 1
            left += remaining(workers)
        there = finished(place)
        victims.run(task, place)
        lost += rewritten(there)
        equal += (kills - before) * numbers(place).identical(whole)
    return Row(name, kills, equal, told_of(lost, left), "(killed)")


def orphaned(task: Callable[[Path], None], folder: Path, config: Config, name: str, kills_asked: int) -> Row:
    """A worker is killed; a pool breaks, and its driver runs again, a cluster goes on."""
    rng, (whole, seconds) = np.random.default_rng(config.seed), undisturbed(task, folder)
    kills = equal = lost = 0
    sentences: list[str] = []
    while kills < kills_asked:
        place, done = Path(tempfile.mkdtemp(dir=folder)), 0
        victim = Victim(task, place)
        while begun(folder / "whole").exists() and not begun(place).exists():
            time.sleep(0.05)
        time.sleep(rng.uniform(0, seconds))
        some = [worker for worker in victim.workers if is_worker(worker)]
        # Not after the end: Python's pool waits for ever where a worker dies while the pool is being closed.
        if some and not (place / "study.nc").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(rng.choice(some)), signal.SIGKILL)
                done = 1
        said = victim.ends()
        if said:
            sentences.append(said)
            there = finished(place)
            said, _ = victims.run(task, place)
            lost += rewritten(there)
        kills += done
        equal += done * numbers(place).identical(whole) if not said else 0
    said = shown(sentences[-1], folder) if sentences else "(nothing: others do its job)"
    return Row(name, kills, equal, told_of(lost, 0), said)


def interrupted(task: Callable[[Path], None], folder: Path, config: Config, name: str) -> Row:
    """Ctrl-C, then again to the end."""
    rng, (whole, seconds) = np.random.default_rng(config.seed), undisturbed(task, folder)
    times = equal = went_on = lost = 0
    said = ""
    while times < max(1, config.kills // 4):
        place = Path(tempfile.mkdtemp(dir=folder))
        victim = Victim(task, place)
        time.sleep(rng.uniform(0, seconds))
        before = len(trained(place))
        if not victim.killed(signal.SIGINT) or not (told := victim.ends()):
            victim.process.join()
            continue
        victim.process.join()
        times, said = times + 1, told
        went_on += max(0, len(trained(place)) - before - 2)
        there = finished(place)
        victims.run(task, place)
        lost += rewritten(there)
        equal += numbers(place).identical(whole)
    return Row(name, times, equal, told_of(lost, went_on), said)


def two_at_once(task: Callable[[Path], None], folder: Path, config: Config, name: str) -> Row:
    """Two runs in one folder."""
    whole, _ = undisturbed(task, folder)
    times, equal, sentences = max(1, config.kills // 4), 0, []
    for number in range(times):
        place = folder / f"both-{number}"
        both = [Victim(task, place) for _ in range(2)]
        said = [victim.ends() for victim in both]
        sentences += [each for each in said if each]
        equal += not any(said) and numbers(place).identical(whole)
    return Row(name, times, equal, "nothing", shown(sentences[0], folder) if sentences else "(nothing: both end)")


def told_of(lost: int, left: int) -> str:
    """Files that were finished and are not as they were, and workers or trainings that went on unwanted."""
    parts = [f"{lost} finished files"] * (lost > 0) + [f"{left} went on"] * (left > 0)
    return ", ".join(parts) or "nothing"


def undisturbed(task: Callable[[Path], None], folder: Path) -> tuple[xr.Dataset, float]:
    """Its numbers and how long it takes."""
    said, seconds = victims.run(task, folder / "whole")
    if said:
        raise ValueError(f"faults: an undisturbed run says {said}")
    if begun(folder / "whole").exists():  # its workers were there only then
        seconds = (folder / "whole" / "study.nc").stat().st_mtime - begun(folder / "whole").stat().st_mtime
    return numbers(folder / "whole"), seconds


def begun(place: Path) -> Path:
    """What a victim writes whose workers take long to come, when they are there."""
    return place.parent / f"{place.name}.begun"


def remaining(workers: list[int]) -> int:
    """How many live on although nobody wants them."""
    until = time.monotonic() + WAIT
    while any(map(lives, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    return sum(map(lives, workers))


def is_worker(process: int) -> bool:
    """Whether it is no helper of multiprocessing's own."""
    with contextlib.suppress(OSError):
        return b"resource_tracker" not in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def trained(place: Path) -> list[Path]:
    """Finished trainings."""
    return [*place.glob("trainings/*/seed-*")]


def shown(said: str, folder: Path) -> str:
    """Without the names of this run's folders and files."""
    said = re.sub(rf"{re.escape(str(folder))}/[\w.-]+", "FOLDER", said.partition(": ")[2] if said else said)
    return re.sub(r"[0-9a-f]{16}", "…", said)


# --- disks ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(place: Path, *options: str) -> Iterator[bool]:
    """Whether something could be mounted there; not without the rights."""
    place.mkdir(parents=True, exist_ok=True)
    done = os.geteuid() == 0 and not subprocess.run(["mount", *options, str(place)], capture_output=True).returncode
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", str(place)], check=True)


def full_disk(task: Callable[[Path], None], folder: Path, config: Config, name: str) -> Row:
    """The disk is full after so many kB; then there is room."""
    whole, _ = undisturbed(task, folder)
    times = equal = lost = 0
    said = ""
    for size in np.linspace(24, 150, max(2, config.kills)).astype(int):
        disk = folder / f"disk-{size}"
        with mounted(disk, "-t", "tmpfs", "-o", f"size={size}k", "tmpfs") as done:
            told, _ = victims.run(task, disk / "study") if done else ("", 0.0)
            if not told:
                continue
            said, times = told, times + 1
            subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
            there = finished(disk / "study")
            victims.run(task, disk / "study")
            lost += rewritten(there)
            equal += numbers(disk / "study").identical(whole)
    return Row(name, times, equal, told_of(lost, 0), shown(said, folder))


def read_only(task: Callable[[Path], None], folder: Path, config: Config, name: str) -> list[Row]:
    """A finished one is read; one that is not is refused."""
    whole, _ = undisturbed(task, folder)
    place, rows = folder / "read-only", []
    shutil.copytree(folder / "whole", place)
    for complete in (True, False):
        if not complete:
            (place / "study.nc").unlink()
            next(place.glob("distances/*.nc")).unlink()
        with mounted(place, "--bind", str(place)) as done:
            if done:
                subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
                said, _ = victims.run(task, place)
                equal = complete and not said and numbers(place).identical(whole)
        if done:
            if not complete:
                victims.run(task, place)
                equal = numbers(place).identical(whole)
            what = "finished" if complete else "unfinished, then may be written to"
            rows.append(
                Row(f"{name}, {what}", 1, int(equal), "nothing", shown(said, folder) or "(nothing: it is read)")
            )
    return rows


# --- the table --------------------------------------------------------------------------------------------------------


def compute(config: Config) -> Groups:
    """All faults."""
    rows: list[Row] = []
    tasks = {"study": victims.study, "distance matrix": victims.matrix, "study on a pool": victims.pooled}
    with tempfile.TemporaryDirectory() as scratch:

        def folder() -> Path:
            return Path(tempfile.mkdtemp(dir=scratch))

        rows += [resumed(task, folder(), config, f"kill -9: {name}") for name, task in tasks.items()]
        rows += [orphaned(victims.pooled, folder(), config, "kill -9 of a worker: pool", config.kills)]
        if config.cluster and importlib.util.find_spec("distributed"):
            few = max(1, config.kills // 2)
            rows += [orphaned(victims.clustered, folder(), config, "kill -9 of a worker: Dask cluster", few)]
        rows += [interrupted(task, folder(), config, f"Ctrl-C: {name}") for name, task in tasks.items()]
        rows += [two_at_once(task, folder(), config, f"two at once: {name}") for name, task in tasks.items()]
        rows += [full_disk(victims.study, folder(), config, "full disk")]
        rows += read_only(victims.study, folder(), config, "read-only disk")
        damaged = damage.all_kinds(folder())
    rows = [row for row in rows if row.times]
    table = pd.DataFrame(rows).set_index("fault")
    files = pd.DataFrame(damaged).set_index("file")
    return {"faults": xr.Dataset.from_dataframe(table), "files": xr.Dataset.from_dataframe(files)}


def report(groups: Groups) -> None:
    """The tables of a result file."""
    faults, files = groups["faults"], groups["files"]
    print(f"{int(faults.times.sum())} faults; equal: the numbers, bit for bit, to those of an undisturbed run.")
    print(faults[["times", "equal", "lost"]].to_dataframe().to_string())
    print("\nWhat the user reads:")
    for fault in faults.fault.values:
        print(f"  {fault}: {faults.said.sel(fault=fault).item()}")
    print("\nFiles truncated, emptied, overwritten in the middle, or with a bit flipped, one after the other:")
    print(files[["damages", "refused", "made anew", "wrong", "equal"]].to_dataframe().to_string())
    for file in files.file.values:
        if text := files.said.sel(file=file).item():
            print(f"  {file}: {text}")


def main(arguments: list[str] | None = None) -> None:
    """Compute, print the table, say where it is."""
    run(Config, compute, report, QUICK, arguments)


if __name__ == "__main__":
    main()
