"""Tasks of a process pool: whose worker dies is named, and none outlives the wish for it, nor its driver."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from probgeo import pools
from probgeo.jobs import carried_out

# Of this process; others are begun with nothing but this file, so that they are there at once.
SPAWN = {"mp_context": multiprocessing.get_context("spawn")}
FOREVER = 600


def task(folder: Path, number: int, seconds: float) -> int:
    (folder / f"begun-{number}").write_text(str(os.getpid()))
    if seconds < 0:
        while not (folder / "begun-0").exists():
            time.sleep(0.01)
        os._exit(1)
    time.sleep(seconds)
    (folder / f"ended-{number}").touch()
    return number


def names(folder: Path, kind: str) -> set[str]:
    return {path.name for path in folder.glob(f"{kind}-*")}


def test_a_worker_that_dies_is_told_with_the_jobs_that_it_may_have_been_at(tmp_path):
    jobs = [(tmp_path, 0, FOREVER), (tmp_path, 1, -1), (tmp_path, 2, 0)]
    told = r"died at its job \(training a or training b\), killed .* What was finished is kept: run it again"
    with ProcessPoolExecutor(2, **SPAWN) as pool, pytest.raises(BrokenExecutor, match=told):
        carried_out(task, jobs, pool, "training", progress=False, names=["a", "b", "c"])
    assert not names(tmp_path, "ended")


def test_an_interrupt_ends_what_runs_and_nothing_more_begins(tmp_path):
    def interrupted(number, result):
        while len(names(tmp_path, "begun")) < 3:
            time.sleep(0.01)
        raise KeyboardInterrupt

    jobs = [(tmp_path, 0, 0), *((tmp_path, number, FOREVER) for number in range(1, 9))]
    with ProcessPoolExecutor(2, **SPAWN) as pool, pytest.raises(KeyboardInterrupt):
        carried_out(task, jobs, pool, "training", progress=False, keep=interrupted)
    assert names(tmp_path, "ended") == {"ended-0"}
    assert names(tmp_path, "begun") == {"begun-0", "begun-1", "begun-2"}


def test_a_pool_that_has_done_its_tasks_goes_on_to_others(tmp_path):
    with ProcessPoolExecutor(1, **SPAWN) as pool:
        for numbers in ((0, 1), (2, 3)):
            jobs = [(tmp_path, number, 0) for number in numbers]
            assert carried_out(task, jobs, pool, "training", progress=False) == [*numbers]
            time.sleep(1)  # longer than between two looks
    with ThreadPoolExecutor(1) as pool:
        assert carried_out(task, [(tmp_path, 4, 0)], pool, "training", progress=False) == [4]


@pytest.mark.slow
def test_a_pool_whose_worker_is_killed_while_it_closes_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "CLOSING", 1.0)
    pool = ProcessPoolExecutor(2, **SPAWN)
    lock = pool._call_queue._rlock  # that a worker holds which waits for a task, and keeps if it is killed

    def take() -> None:
        while len(names(tmp_path, "begun")) < 2:
            time.sleep(0.01)
        lock.acquire()

    taker = threading.Thread(target=take)
    taker.start()
    jobs = [(tmp_path, number, 2) for number in range(2)]
    assert carried_out(task, jobs, pool, "training", progress=False) == [0, 1]
    taker.join()
    first, second = pool._processes.values()
    pool.shutdown(wait=False)
    time.sleep(1)
    assert first.is_alive() and second.is_alive()
    first.kill()
    second.join(60)
    assert second.exitcode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_end_where_their_driver_is_killed(tmp_path, method):
    script = (
        "import multiprocessing, sys\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from pathlib import Path\n"
        "from probgeo.jobs import carried_out\n"
        "from tests.test_pools import task, FOREVER\n"
        "if __name__ == '__main__':\n"
        f"    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context({method!r})) as pool:\n"
        f"        jobs = [(Path({str(tmp_path)!r}), number, FOREVER) for number in range(4)]\n"
        "        carried_out(task, jobs, pool, 'training', False)\n"
    )
    (tmp_path / "driver.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    driver = subprocess.Popen([sys.executable, str(tmp_path / "driver.py")], env=environment, stderr=subprocess.DEVNULL)
    while len(names(tmp_path, "begun")) < 2:
        assert driver.poll() is None
        time.sleep(0.05)
    workers = [int((tmp_path / name).read_text() or 0) for name in names(tmp_path, "begun")]
    driver.send_signal(signal.SIGKILL)
    while any(map(lives, workers)):  # for ever, where it does not hold
        time.sleep(0.05)
    driver.wait()


def lives(process: int) -> bool:
    try:
        return process > 0 and Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
