"""Studies with damaged files: nothing wrong is read, the message says what to delete, nothing else is lost."""

import shutil

import pytest
import torch
import xarray as xr

import probgeo as pg
from tests.damage import damages

NET = pg.nn.MLP((4,))


def study(folder, **changes) -> pg.Study:
    options = {
        "data": torch.rand(30, 5, generator=torch.Generator().manual_seed(0)),
        "pairs": torch.tensor([[0, 1], [2, 3]]),
        "models": {"single": pg.VAE(2, pg.Decoder(NET), encoder=NET)},
        "seeds": range(2),
        "measures": {"straight": pg.StraightLine(num_segments=4)},
        "training": pg.Training(epochs=1, batch_size=16),
    }
    return pg.Study(folder, **{**options, **changes})


def run(folder, **changes) -> xr.Dataset:
    return study(folder, **changes).run(progress=False).drop_vars(["seconds", "training_seconds"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "whole"
    return folder, run(folder)


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "copied")


KINDS = {
    "distances/*.nc": "",
    "trainings/*/seed-0/history.nc": "..",
    "trainings/*/seed-0/config.json": "..",
    "trainings/*/seed-0/weights.safetensors": "..",
    "study.json": "",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_with_the_least_to_delete_and_then_the_study_is_whole_again(whole, copied, kind):
    (copied / "study.nc").unlink()
    if kind.startswith("trainings"):  # else they are not read
        shutil.rmtree(copied / "distances")
    file = sorted(copied.glob(kind))[0]
    kept = file.read_bytes()
    for damage in damages():
        file.write_bytes(damage(kept))
        with pytest.raises(ValueError) as told:
            run(copied)
        assert str(file) in str(told.value) and "Delete" in str(told.value) and "\n" not in str(told.value)
    place = file.parent if KINDS[kind] else file
    others = {
        path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file() and place not in path.parents
    }
    shutil.rmtree(place) if KINDS[kind] else place.unlink()
    xr.testing.assert_allclose(run(copied), whole[1], rtol=1e-4)  # trained alone this time
    for path, time in others.items():
        assert path in (file, copied / "study.nc") or path.stat().st_mtime_ns == time


def test_a_damaged_copy_of_the_results_is_made_anew_of_the_distances(whole, copied):
    kept = (copied / "study.nc").read_bytes()
    for damage in damages():
        (copied / "study.nc").write_bytes(damage(kept))
        assert run(copied).identical(whole[1])


def test_a_training_that_was_deleted_is_done_again_though_its_distances_are_there(whole, copied):
    (training,) = (copied / "trainings").glob("*/seed-1")
    shutil.rmtree(training)
    (copied / "study.nc").unlink()
    assert run(copied).identical(whole[1])
    assert training.exists()


def test_files_of_older_versions_without_checksums_are_read(whole, copied):
    for file in copied.rglob("*.nc"):
        with xr.open_dataset(file, engine="h5netcdf") as stored:
            content = stored.load()
        file.unlink()
        content.to_netcdf(file, engine="h5netcdf")
    assert run(copied).identical(whole[1])
    (copied / "study.nc").unlink()
    assert run(copied).identical(whole[1])
    assert study(copied).fitted("single", 0).history.sizes["epoch"] == 1


def test_what_workers_read_is_looked_at_before(whole, tmp_path):
    from tests.study.test_study import Elsewhere

    expected = study(tmp_path).run(Elsewhere(), progress=False).distance
    for file in (tmp_path / "inputs").iterdir():
        file.write_bytes(file.read_bytes()[:-8] + bytes(8))
    shutil.rmtree(tmp_path / "distances")
    shutil.rmtree(tmp_path / "trainings")
    assert study(tmp_path).run(Elsewhere(), progress=False).distance.equals(expected)


def test_a_finished_study_on_a_disk_that_may_only_be_read_is_read(whole, copied, monkeypatch):
    def refusing(*args, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("probgeo.disk._make", refusing)
    assert run(copied).identical(whole[1])
    (copied / "study.nc").unlink()
    assert run(copied).identical(whole[1])
    with pytest.raises(OSError, match=r"folder: .*nc cannot be written, as it may not be written to \(Read-only"):
        run(copied, pairs=torch.tensor([[4, 5]]))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("distances/*.nc", r"is another file that was renamed: it was written as .*\. Delete it to measure it again"),
        ("trainings/*/seed-*/weights.safetensors", "it belongs to another training, and was renamed or copied here"),
        ("trainings/*/seed-*/history.nc", "is another file that was renamed"),
        ("trainings/*/seed-*/config.json", "it belongs to another training|is another file that was renamed"),
    ],
)
def test_a_file_in_anothers_place_is_no_other_number(copied, kind, told):
    first, *_, last = sorted(copied.glob(kind))
    shutil.copy(last, first)
    (copied / "study.nc").unlink()
    if kind.startswith("trainings"):
        shutil.rmtree(copied / "distances")
    with pytest.raises(ValueError, match=told):
        run(copied)


@pytest.mark.parametrize("kind", ["distances/*.nc", "study.nc", "study.json", "trainings/*/seed-*/config.json"])
def test_a_folder_in_a_files_place_is_told_with_its_name(copied, kind):
    file = sorted(copied.glob(kind))[0]
    (copied / "study.nc").unlink()
    shutil.rmtree(copied / "distances") if kind.startswith("trainings") else None
    file.unlink(missing_ok=True)
    file.mkdir()
    with pytest.raises((ValueError, OSError), match=rf"folder: .*{file.name}.* [dD]elete"):
        run(copied)


def test_a_file_in_a_folders_place_is_told_with_its_name(copied):
    (copied / "study.nc").unlink()
    for name in ("distances", "trainings"):
        shutil.rmtree(copied / name)
        (copied / name).write_text("x")
        with pytest.raises(OSError, match=rf"folder: .* cannot be.*, as .*{name} is a file, and no folder: delete"):
            run(copied)
        (copied / name).unlink()
