"""Tasks of a study: stacks of seeds and tiles of pairs say the same wherever they are done; a lost one is named."""

import dataclasses
import os
import pickle
from concurrent.futures import Executor, Future

import numpy as np
import pytest
import scipy.sparse
import torch
import xarray as xr

import probgeo as pg
from probgeo.jobs import carried_out
from probgeo.models.base import codes_of
from probgeo.rows import SparseRows
from probgeo.specs import digest
from probgeo.study import TaskLost
from probgeo.study import study as studies
from probgeo.study.devices import own_device, taken
from probgeo.study.sparse import read_matrix, write_matrix
from probgeo.study.store import Mapped
from probgeo.study.tasks import Codes, tiles_of
from probgeo.training import budget
from tests.damage import damages, flipped
from tests.study.test_measure import TRAINING, Own, Weighing, X, spec
from tests.study.test_study import Elsewhere, timeless

LINE = {"straight": pg.StraightLine(num_segments=16)}
PAIRS = torch.tensor([[0, 1], [2, 30], [5, 5], [7, 3], [9, 11]])


def study(folder, **changes) -> pg.Study:
    options = {"data": X, "pairs": PAIRS, "models": {"m": spec()}, "seeds": (0, 1, 2), "training": TRAINING}
    return pg.Study(folder, **{**options, "measures": LINE, **changes})


def files(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# --- the same numbers ---


def test_stacks_and_tiles_give_the_same_bits_here_and_elsewhere(tmp_path):
    changes = {"triples": torch.tensor([[0, 1, 2]]), "regions": {"some": torch.arange(4)}, "pairs": PAIRS[:3]}
    here = study(tmp_path / "here", **changes).run(progress=False, stack=2, num_pairs=2)
    there = study(tmp_path / "there", **changes).run(Elsewhere(), progress=False, stack=2, num_pairs=2)
    xr.testing.assert_identical(timeless(here), timeless(there))
    assert not [name for name in files(tmp_path / "here") if "tiles" in name]


def test_every_tile_is_kept_as_soon_as_it_is_there(tmp_path, monkeypatch):
    whole = study(tmp_path / "whole", seeds=[0]).run(progress=False, num_pairs=2)
    done, usual = [], studies.measure_into

    def until_killed(*job):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job[3])
        usual(*job)

    monkeypatch.setattr(studies, "measure_into", until_killed)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "killed", seeds=[0]).run(progress=False, num_pairs=2)
    monkeypatch.setattr(studies, "measure_into", lambda *job: (done.append(job[3]), usual(*job)))
    found = study(tmp_path / "killed", seeds=[0]).run(progress=False, num_pairs=2)
    assert done == tiles_of(5, 2)
    xr.testing.assert_identical(timeless(found), timeless(whole))


def test_rows_are_encoded_once_for_all_tiles(tmp_path, monkeypatch):
    encoded: list[int] = []
    usual = codes_of
    monkeypatch.setattr("probgeo.study.tasks.codes_of", lambda model, x: (encoded.append(len(x)), usual(model, x))[1])
    changes = {"models": {"mine": [Own(0), Own(1)]}, "seeds": ()}
    whole = study(tmp_path / "whole", **changes).run(progress=False)
    assert encoded == [50] * 2
    encoded.clear()
    by_tiles = study(tmp_path / "tiles", **changes).run(Elsewhere(), progress=False, num_pairs=1)
    assert encoded == [50] * 2 and not (tmp_path / "tiles" / "codes").exists()
    xr.testing.assert_allclose(by_tiles.distance, whole.distance)


def test_codes_that_are_damaged_or_gone_are_computed_again(tmp_path):
    model, encoded = Own(0), []
    model.encoder.register_forward_hook(lambda *_: encoded.append(1))
    first = Codes(tmp_path)(model, X, None)
    assert torch.equal(Codes(tmp_path)(model, X, None), first) and len(encoded) == 1
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    for damaged in (damage(content) for damage in damages()):
        file.write_bytes(damaged)
        assert torch.equal(Codes(tmp_path)(model, X, None), first)
    assert len(encoded) == 5
    other = Codes(tmp_path)(Own(1), X, pg.StraightLine())  # of what a measure makes of a model
    assert not torch.equal(other, first) and torch.equal(Codes(tmp_path)(model, X, None), first)


def test_seeds_are_shared_out_so_that_every_worker_has_a_task(tmp_path):
    class Three(Weighing):
        num_workers = 3

        def submit(self, task, /, *args, **options):
            tasks.append((task.__name__, args))
            return super().submit(task, *args, **options)

    tasks: list = []
    models = {"a": spec(), "b": spec(pg.EnsembleDecoder(2, pg.nn.MLP((8,))))}
    study(tmp_path, models=models).run(Three(), progress=False)
    assert [args[2] for name, args in tasks if name == "train_into"] == [[0, 1], [2], [0, 1], [2]]


def test_rows_picked_from_a_file_are_sent_by_the_names_of_files(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20_000, 6), np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    points = pg.datasets.mapped.as_rows("x", x).rows(torch.arange(0, 20_000, 2))
    executor = Weighing()
    changes = {"data": x, "points": points, "measures": LINE, "seeds": [0]}
    changes["training"] = pg.Training(epochs=1, batch_size=5000)
    study(tmp_path / "study", **changes).run(executor, progress=False)
    assert max(executor.sizes) < 10_000


def test_a_sparse_matrix_is_mapped_and_has_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("probgeo.rows.BLOCK_ROWS", 7)
    counts = np.random.default_rng(0).poisson(0.3, (50, 20)).astype(np.float64)
    counts[[0, 3, 49]] = 0
    for values in (counts, 0 * counts, counts[:, :0]):
        rows = dataclasses.replace(SparseRows.of_matrix(scipy.sparse.csr_array(values)), numbers="<f8")
        write_matrix(tmp_path / "x", rows)
        mapped = pickle.loads(pickle.dumps(read_matrix(tmp_path / "x")))
        assert (mapped.shape, mapped.dtype, digest(mapped)) == (rows.shape, rows.dtype, digest(rows))
        for index in (slice(None), slice(3, 40, 5), slice(9, 9), torch.tensor([[49, 0], [7, 7]])):
            assert torch.equal(mapped[index], torch.from_numpy(values)[index])


def test_a_sparse_matrix_for_workers_is_looked_at_before_they_read_it(tmp_path):
    counts = scipy.sparse.csr_array(np.random.default_rng(0).poisson(0.3, (50, 20)).astype(np.float32))
    held = studies.Held(rows := SparseRows.of_matrix(counts), rows, study(tmp_path / "any").asked)
    (folder,) = {path.parent for path in Mapped.written(held, tmp_path, digest(rows), digest(rows)).x.paths}
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        file.write_bytes(flipped(content, len(content) // 3))
        Mapped.written(held, tmp_path, digest(rows), digest(rows))
        assert file.read_bytes() == content


# --- what is lost ---


class Deadly(Elsewhere):
    """Its workers die of every task that is told."""

    def __init__(self, kills) -> None:
        self.kills = kills

    def submit(self, task, /, *args, **options):
        if not self.kills(task.__name__, args):
            return super().submit(task, *args, **options)
        future = Future()
        future.set_exception(pickle.loads(pickle.dumps(TaskLost(3))))
        return future


@pytest.mark.parametrize(
    "kills",
    [
        lambda name, args: name == "train_into" and 1 in args[2],
        lambda name, args: name == "measure_into" and args[0].name == "seed-1" and args[3].begin == 2,
    ],
    ids=["training", "measuring"],
)
def test_a_task_that_kills_its_workers_costs_its_retraining_and_the_rest_goes_on(tmp_path, kills):
    with pytest.warns(pg.study.RetrainingLost, match="retraining 1: .* failed, the 3 workers that ran it died"):
        found = study(tmp_path).run(Deadly(kills), progress=False, stack=1, num_pairs=2)
    assert found.distance.sel(retraining=1).isnull().all()
    assert found.distance.sel(retraining=[0, 2]).notnull().all()
    assert found.lost.values.tolist()[0][::2] == ["", ""]
    # Nothing is held against it: the next run computes it, and what was computed stays.
    again = study(tmp_path).run(progress=False, stack=1, num_pairs=2)
    assert again.distance.notnull().all() and (again.lost == "").all()
    xr.testing.assert_equal(again.distance.sel(retraining=[0, 2]), found.distance.sel(retraining=[0, 2]))


def test_models_trained_elsewhere_are_lost_alone_too():
    class Third(Deadly):
        def submit(self, task, /, *args, **options):
            self.kills = lambda *_, number=next(numbers): number == 3
            return super().submit(task, *args, **options)

    numbers = iter(range(9))
    models = {"mine": [Own(0), Own(1), Own(2)]}
    with pytest.warns(pg.study.RetrainingLost, match="retraining 2: the 3 workers"):
        found = pg.measure(models, X, PAIRS, LINE, executor=Third(None))
    assert found.distance.isnull().any(("model", "measure", "pair")).values.tolist() == [False, False, True]


def test_after_an_interrupt_nothing_begins_that_has_not_begun():
    class Interrupted(Executor):
        def submit(self, task, /, *args, **options):
            futures.append(Future())
            if args == (2,):
                raise KeyboardInterrupt
            return futures[-1]

    futures: list[Future] = []
    with pytest.raises(KeyboardInterrupt):
        carried_out(abs, [(0,), (1,), (2,), (3,)], Interrupted(), "", progress=False)
    assert [future.cancelled() for future in futures] == [True, True, False]


# --- where workers are ---


class Apart(Elsewhere):
    """Its workers see another disk: while they work, the study's folder has another name."""

    def __init__(self, folder) -> None:
        self.folder, self.tasks = folder, []

    def submit(self, task, /, *args, **options):
        self.tasks.append(task.__name__)
        hidden = self.folder.with_name("hidden")
        os.rename(self.folder, hidden)
        try:
            return super().submit(task, *args, **options)
        finally:
            os.rename(hidden, self.folder)


def test_a_folder_that_workers_do_not_see_is_said_before_anything_is_trained(tmp_path):
    executor = Apart(tmp_path / "study")
    with pytest.raises(OSError, match=r"folder: of 1 workers 1 do not see .*study.* disk that all of them share"):
        study(tmp_path / "study").run(executor, progress=False)
    assert executor.tasks == ["look"]
    assert not [name for name in files(tmp_path / "study") if name.startswith(("trainings", "distances", ".seen"))]


def test_a_relative_folder_is_found_by_workers_in_another_directory(tmp_path, monkeypatch):
    class InAnother(Elsewhere):
        def submit(self, task, /, *args, **options):
            (tmp_path / "there").mkdir(exist_ok=True)
            with monkeypatch.context() as here:
                here.chdir(tmp_path / "there")
                return super().submit(task, *args, **options)

    monkeypatch.chdir(tmp_path)
    found = study("study", seeds=[0]).run(InAnother(), progress=False)
    assert found.distance.notnull().all()
    assert not list((tmp_path / "there").iterdir())


def test_workers_of_a_machine_take_its_devices_in_turn(tmp_path):
    names = ["gpu a", "gpu b"]
    first, second = taken(names, tmp_path / "gpus"), taken(names, tmp_path / "gpus")
    assert (first[0], second[0]) == (0, 1)
    assert taken(names, tmp_path / "gpus")[0] in (0, 1)  # more workers than devices share them
    os.close(first[1])  # as the end of the process does
    assert taken(names, tmp_path / "gpus")[0] == 0
    assert taken(["the only one"], tmp_path / "gpus") == (0, None)


def test_data_go_to_the_workers_own_of_several_devices(tmp_path, monkeypatch):
    asked = study(tmp_path).asked
    held = studies.Held(X, X, asked)
    mapped = Mapped.written(held, tmp_path / "inputs", "x", "x")
    assert mapped.load()[0].device.type == "cpu"
    monkeypatch.setattr("probgeo.study.store.own_device", lambda device: torch.device("meta"))
    assert mapped.load()[0].device.type == mapped.load()[1].device.type == "meta"
    assert mapped.load(own=False)[0].device.type == "cpu"
    assert own_device("cpu") == torch.device("cpu")


def test_no_more_is_trained_at_once_than_a_workers_share_of_the_memory_holds():
    sizes = spec(), X, None, 0, 25
    each = budget.bytes_of_retraining(*sizes)
    assert budget.num_at_once(*sizes, most=10) == 10
    with budget.within(7.0 * each):  # half of which is given out
        assert budget.num_at_once(*sizes, most=10) == 3
    assert budget.num_at_once(*sizes, most=10) == 10
