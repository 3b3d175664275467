"""Workers of dask.distributed: the same bits as in one process, whatever dies; what they do not see is said at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import xarray as xr

import probgeo as pg
from experiments.common.cluster import workers
from probgeo.geometry.distances import distance_matrix
from tests.study.test_measure import TRAINING, X, spec
from tests.study.test_study import timeless

distributed = pytest.importorskip("distributed", reason="no dask.distributed: pip install -e '.[distributed]'")
dask = pytest.importorskip("dask")
psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow

PAIRS = torch.tensor([[0, 1], [2, 30], [5, 5], [7, 3], [9, 11]])
LINE = pg.StraightLine(num_segments=16)
MEASURES = {"geodesic": pg.Geodesic(solver=pg.GaussNewton(32)), "straight": LINE}


def study(folder, **changes) -> pg.Study:
    options = {"data": X, "pairs": PAIRS, "models": {"m": spec()}, "seeds": (0, 1, 2, 3), "training": TRAINING}
    return pg.Study(folder, **{**options, "measures": MEASURES, **changes})


def run(folder, executor=None, **changes) -> xr.Dataset:
    return timeless(study(folder, **changes).run(executor, progress=False, stack=2, num_pairs=2))


@pytest.fixture(scope="module")
def executor():
    """Two processes of one thread."""
    with workers("local", 2) as executor:
        yield executor


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As many as a worker has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def here(one_thread, tmp_path_factory):
    return run(tmp_path_factory.mktemp("study"))


def pid(*_) -> int:
    return os.getpid()


def test_two_processes_give_the_same_bits_as_one(executor, here, tmp_path):
    assert executor.num_workers == 2 and set(executor.on_every_worker(torch.get_num_threads).values()) == {1}
    xr.testing.assert_identical(run(tmp_path, executor), here)


@pytest.mark.parametrize("sign", ["trainings/*", "trainings/*/seed-*", "distances/*"])
def test_a_study_whose_workers_were_killed_says_the_same(executor, here, tmp_path, sign):
    killed = []

    def kill() -> None:
        end = time.monotonic() + 60
        while not list(tmp_path.glob(sign)) and time.monotonic() < end:
            time.sleep(0.002)
        for process in alive:
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    alive = [*executor.on_every_worker(pid).values()]
    killer = threading.Thread(target=kill)
    killer.start()
    found = run(tmp_path, executor)
    killer.join()
    assert killed == alive
    xr.testing.assert_identical(found, here)


@dataclass(frozen=True)
class Deadly(pg.study.Measure):
    """Takes its worker with it at a single pair of a model of three dimensions, and notes it."""

    diary: str

    def paths(self, model, start, stop, codes):
        if model.latent == 3 and len(start) == 1:
            with Path(self.diary).open("a") as file:
                file.write("died\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return LINE.paths(model, start, stop, codes)


def test_a_task_that_kills_three_workers_is_named_and_the_rest_goes_on(executor, tmp_path):
    net = pg.nn.MLP((8,))
    changes = {
        "models": {"good": spec(), "bad": pg.VAE(3, pg.Decoder(net), encoder=net)},
        "seeds": [0],
        "measures": {"line": LINE, "deadly": Deadly(str(tmp_path / "diary"))},
    }
    with pytest.warns(pg.study.RetrainingLost, match="model 'bad', retraining 0: measuring failed, the 3 workers"):
        found = run(tmp_path / "study", executor, **changes)
    assert (tmp_path / "diary").read_text() == "died\n" * 3
    assert found.distance.sel(model="good").notnull().all() and found.distance.sel(model="bad").isnull().all()


class Parting:
    """Takes the process with it that is asked for it."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def parted(diary: str) -> object:
    """At first what kills its worker when it is fetched, then itself, then a number."""
    with Path(diary).open("a") as file:
        file.write("begun\n")
    begun = Path(diary).read_text().count("begun")
    if begun == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return Parting() if begun == 1 else begun


def test_a_result_whose_workers_die_before_it_is_fetched_is_computed_again(executor, tmp_path):
    assert executor.submit(parted, str(tmp_path / "diary")).result(timeout=60) == 3


def test_a_worker_that_takes_its_time_to_come_back_is_waited_for():
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "10 ms"}), workers("local", 1) as executor:
        for _ in range(2):
            (alive,) = executor.on_every_worker(pid).values()
            os.kill(alive, signal.SIGKILL)
            assert executor.submit(pid).result(timeout=60) != alive


def waits(place: str, **named) -> dict:
    """Until the second file is there."""
    Path(place).touch()
    while not Path(place).with_name("end").exists():
        time.sleep(0.01)
    return named


def test_an_executor_lets_its_tasks_end_or_leaves_them_and_takes_no_more(executor, tmp_path):
    place = str(tmp_path / "begun")
    own = pg.study.Workers(executor._client)
    tasks = [own.submit(waits, place) for _ in range(3)]
    while not Path(place).exists():
        time.sleep(0.01)
    own.shutdown(cancel_futures=True)
    assert all(task.cancelled() for task in tasks)

    (tmp_path / "end").touch()
    own = pg.study.Workers(executor._client)
    kept = own.submit(waits, place, retries=1, key="a")  # names that Dask has too
    own.shutdown()
    assert kept.result(timeout=0) == {"retries": 1, "key": "a"}
    with pytest.raises(RuntimeError, match=r"after shutdown"):
        own.submit(waits, place)


def test_workers_in_another_directory_find_a_relative_folder(executor, here, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    executor.on_every_worker(os.chdir, str(tmp_path / "there"))
    try:
        xr.testing.assert_identical(run("study", executor), here)
    finally:
        executor.on_every_worker(os.chdir, "/")
    assert not [path for path in (tmp_path / "there").iterdir()]


def test_a_folder_that_workers_do_not_see_is_said_before_anything_is_trained(tmp_path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount anything")
    (tmp_path / "study").mkdir()
    local = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )
    with local as cluster, distributed.Client(cluster) as client:
        command = (
            f"{sys.executable} -m distributed.cli.dask_worker {cluster.scheduler_address} --no-nanny --no-dashboard"
        )
        hidden = f"mount -t tmpfs none {tmp_path / 'study'} && exec {command} --nthreads 1"
        worker = subprocess.Popen(["unshare", "-m", "sh", "-c", hidden], stderr=subprocess.DEVNULL)
        try:
            client.wait_for_workers(2, timeout=120)
            with pytest.raises(OSError, match=r"folder: of 2 workers 1 do not see .*study.* disk that all of them"):
                run(tmp_path / "study", pg.study.Workers(client))
        finally:
            worker.terminate()
            worker.wait(30)
    assert not (tmp_path / "study" / "trainings").exists()


def test_what_is_heavy_is_sent_once_and_solved_to_the_same_bits(executor):
    torch.manual_seed(0)
    metric = pg.ExpectedMetric([pg.nn.mlp([2, 16, 6000]) for _ in range(2)])  # 0.8 MB
    points, solver = torch.rand(9, 2), pg.GaussNewton(8)
    here = distance_matrix(metric, points, solver=solver, num_pairs=10)
    there = pg.study.Workers(executor._client)
    assert distance_matrix(metric, points, solver=solver, num_pairs=10, executor=there).identical(here)
    held = sorted(type(value).__name__ for value, _ in there._held.values())
    assert held == ["ExpectedMetric", "Graph"]  # whatever the number of tiles


def test_nothing_listens_to_other_machines(executor):
    own = psutil.Process()
    found = {
        c.laddr.ip for p in [own, *own.children(recursive=True)] for c in p.net_connections() if c.status == "LISTEN"
    }
    assert found == {"127.0.0.1"}


QUEUED = {
    "cores": 2,
    "processes": 1,
    "worker-extra-args": ["--nthreads", "1"],
    "memory": "2GB",
    "walltime": "04:00:00",
    "queue": "normal",
}
DIRECTIVES = {
    "slurm": ["#SBATCH -p normal", "#SBATCH --cpus-per-task=2", "#SBATCH -t 04:00:00", "#SBATCH --gres=gpu:1"],
    "pbs": ["#PBS -q normal", "#PBS -l select=1:ncpus=2:mem=2GB", "#PBS -l walltime=04:00:00", "#PBS -j oe"],
}
ONLY = {
    "slurm": {"job-extra-directives": ["--gres=gpu:1"]},
    "pbs": {
        "job-extra-directives": ["-j oe"],
        "resource-spec": "select=1:ncpus=2:mem=2GB",
        "job-script-prologue": ["cd $PBS_O_WORKDIR"],
    },
}
COMMANDS = {"slurm": ("sbatch", "scancel"), "pbs": ("qsub", "qdel")}


@pytest.fixture(params=[*COMMANDS])
def queue(request, tmp_path, monkeypatch):
    """A queue's name, and the folder of what was submitted to it; its jobs begin at once on this machine."""
    pytest.importorskip("dask_jobqueue")  # which adds to the configuration
    place = tmp_path / "queue"
    place.mkdir()
    submit, cancel = (place / name for name in COMMANDS[request.param])
    submit.write_text(
        f'#!/bin/sh\nexport PBS_O_WORKDIR="$PWD" TMPDIR=/tmp\ncp "$1" {place}/$$.job\ncd /\n'
        f"sh {place}/$$.job >/dev/null 2>&1 &\necho $! > {place}/$$.pid\necho $$\n"
    )
    cancel.write_text(f"#!/bin/sh\npkill -P $(cat {place}/$1.pid)\ntouch {place}/$1.gone\n")
    submit.chmod(0o755), cancel.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    own = {"jobqueue": {request.param: {**QUEUED, **ONLY[request.param]}}}
    with dask.config.set(dask.config.merge(dask.config.config, own)):
        yield request.param, place


def test_jobs_of_a_queue_are_as_asked_give_the_same_bits_and_end_with_the_run(queue, here, tmp_path):
    name, place = queue
    with workers(name, 1, tmp_path) as executor:
        xr.testing.assert_identical(run(tmp_path / "study", executor), here)
        keys = {path.name for path in tmp_path.glob(".dask-jobqueue.worker.*")}
        assert len(keys) == 3 and all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("*worker.key*"))
    (job,) = place.glob("*.job")
    written = job.read_text().splitlines()
    assert all(line in written for line in DIRECTIVES[name])
    assert "tls://" in written[-1] and all(key in written[-1] for key in keys)
    assert len(list(place.glob("*.gone"))) == 1 and not list(tmp_path.glob(".dask-jobqueue.worker.*"))


def test_without_a_queue_jobs_are_refused_at_once(monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("PATH", "")
    told = r"cluster: expected a machine .* as a login node is; there is no qsub here"
    with pytest.raises(ValueError, match=told), workers("pbs", 1):
        pass
