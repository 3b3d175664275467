"""Rows of a file: they are those of the array, they train the same models, and the file is hashed once."""

import json
import os
import pickle
import time
import tracemalloc

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import probgeo as pg
from probgeo.datasets.mapped import as_rows
from probgeo.rows import FileRows, row_blocks, spread
from probgeo.specs import digest

SMALL = pg.nn.MLP((8,))
FAST = pg.Training(epochs=2, batch_size=16)


@pytest.fixture
def mapped(tmp_path):
    """200 rows of 6 features in a file, changed long ago."""
    return on_disk(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32))


def on_disk(path, values: np.ndarray) -> np.memmap:
    np.save(path, values)
    os.utime(path, ns=(10**18, 10**18))
    return np.load(path, mmap_mode="r")


# --- what the rows are ---


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: a[10:],
        lambda a: a[::3],
        lambda a: a[::-1],
        lambda a: a[:, 1:4],
        lambda a: a[5:90:2, ::2],
        lambda a: np.asarray(a)[7:],
        lambda a: a.T,
    ],
)
@pytest.mark.parametrize(
    "held", [0, 2**26]
)  # of a file that is too large to be mapped all the time, and of a small one
def test_rows_are_those_of_the_array_and_of_its_parts(mapped, view, held, monkeypatch):
    monkeypatch.setattr("probgeo.rows.HELD_BYTES", held)
    part = view(mapped)
    rows, whole = as_rows("x", part), torch.from_numpy(np.array(part))
    assert isinstance(rows, FileRows) and rows.shape == whole.shape and rows.dtype == whole.dtype
    index = torch.randint(len(whole), (3, 4), generator=torch.Generator().manual_seed(0))
    for asked in (slice(None), slice(2, 5), slice(3, 3), slice(None, None, 2), index, index - len(whole)):
        assert torch.equal(rows[asked], whole[asked])
    with pytest.raises(IndexError):
        rows[torch.tensor([len(whole)])]
    chosen = torch.randperm(len(whole), generator=torch.Generator().manual_seed(1))[: len(whole) // 2]
    for asked in (slice(None), slice(1, 3), index % len(chosen)):
        assert torch.equal(rows.rows(chosen)[asked], whole[chosen][asked])
    assert torch.equal(rows.rows(chosen).rows(chosen.argsort())[:], whole[chosen.sort().values])
    assert digest(rows) == digest(whole) and digest(rows, rows.rows(chosen)) == digest(whole, whole[chosen])


def test_plain_binary_files_with_an_offset_are_mapped_too(tmp_path):
    values = np.arange(1200, dtype=np.float64)
    values.tofile(tmp_path / "x.bin")
    found = np.memmap(tmp_path / "x.bin", np.float64, "r", offset=8 * 600, shape=(100, 6))
    assert torch.equal(as_rows("x", found)[:], torch.from_numpy(values[600:].reshape(100, 6)))


def test_what_is_not_in_a_file_is_a_tensor(mapped, tmp_path):
    assert torch.equal(as_rows("x", xr.DataArray(np.array(mapped))), torch.from_numpy(np.array(mapped)))
    for array in (np.array(mapped), mapped * 2, mapped[[3, 1]], np.load(tmp_path / "x.npy", mmap_mode="c")):
        assert torch.equal(as_rows("x", array), torch.from_numpy(np.array(array)))


def test_blocks_follow_each_other_and_cover_all_rows(mapped, monkeypatch):
    monkeypatch.setattr("probgeo.rows.BLOCK_ROWS", 64)
    rows = as_rows("x", mapped)
    begins, blocks = zip(*row_blocks(rows), strict=True)
    assert begins == (0, 64, 128, 192) and torch.equal(torch.cat(blocks), rows[:])
    assert torch.equal(spread(rows), torch.from_numpy(np.array(mapped))[::4])


def test_rows_survive_pickling_without_their_numbers(mapped):
    written = pickle.dumps(as_rows("x", mapped))
    assert len(written) < 1000 and torch.equal(pickle.loads(written)[:], torch.from_numpy(np.array(mapped)))


def test_a_file_that_changes_is_noticed(mapped, tmp_path):
    rows = as_rows("x", mapped)
    np.save(tmp_path / "x.npy", np.zeros((200, 6), np.float32))
    with pytest.raises(ValueError, match=r"x.npy has changed since it was opened. Open it again"):
        rows[:3]


# --- training ---


@pytest.mark.parametrize(
    "spec",
    [
        pg.VAE(2, pg.EnsembleDecoder(2, SMALL), encoder=SMALL),
        pg.VAE(2, pg.RBFDecoder(SMALL, num_centres=4), encoder=SMALL),
        pg.VAE(2, pg.BayesianDecoder(SMALL, guide=pg.posteriors.LaplaceApproximation()), encoder=SMALL),
        pg.ConditionalVAE(2, decoder=pg.Decoder(SMALL), encoder=SMALL),
        pg.SharedLatentVAE({"a": pg.View(4, encoder=SMALL), "b": pg.View(2, encoder=SMALL)}),
        pg.GPLVM(2, num_inducing=8),
    ],
)
def test_rows_of_a_file_train_the_model_that_they_train_in_memory(spec, mapped, monkeypatch):
    monkeypatch.setattr("probgeo.rows.HELD_BYTES", 0)
    options = {"seeds": range(2), "training": FAST, "progress": False}
    found, known = (pg.fit(spec, x, **options) for x in (mapped, torch.from_numpy(np.array(mapped))))
    for model, other in zip(found, known, strict=True):
        expected = other.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
        assert model.history.equals(other.history)


@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_neither_the_rows_held_out_nor_the_others_are_copied(tmp_path, validation, monkeypatch):
    monkeypatch.setattr("probgeo.rows.BLOCK_ROWS", 4000)
    values = np.random.default_rng(0).random((40_000, 50), dtype=np.float32)
    x = on_disk(tmp_path / "x.npy", values)
    training = pg.Training(epochs=1, batch_size=2000, validation=validation)
    spec = pg.VAE(2, pg.Decoder(SMALL), encoder=SMALL)
    tracemalloc.start()  # counts what NumPy allocates, such as copies of mapped rows
    pg.fit(spec, x, training=training, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 2


def test_a_study_of_a_file_is_that_of_its_rows_and_goes_on_with_it(mapped, tmp_path):
    options = {
        "pairs": torch.tensor([[0, 1], [2, 3], [4, 5]]),
        "models": {"single": pg.VAE(2, pg.Decoder(SMALL), encoder=SMALL)},
        "seeds": range(2),
        "training": FAST,
    }
    in_memory = torch.from_numpy(np.array(mapped))
    found = pg.Study(tmp_path / "file", mapped, points=mapped[:50], **options).run(progress=False)
    study = pg.Study(tmp_path / "memory", in_memory, points=in_memory[:50], **options)
    known = study.run(progress=False)
    for name in ("distance", "energy", "euclidean_ambient", "euclidean_latent", "euclidean_reconstructed"):
        assert found[name].equals(known[name])
    assert found.attrs["key"] == known.attrs["key"]
    trainings = {path: path.stat().st_mtime_ns for path in (tmp_path / "memory").rglob("*.safetensors")}
    again = pg.Study(tmp_path / "memory", mapped, points=mapped[:50], **options | {"seeds": range(3)}).run(
        progress=False
    )
    assert again.distance[:, :, :2].equals(known.distance)
    assert {path: path.stat().st_mtime_ns for path in trainings} == trainings


def test_wrong_values_of_a_file_are_refused_with_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr("probgeo.rows.BLOCK_ROWS", 64)
    values = np.zeros((200, 3), np.float32)
    values[130, 1] = np.inf
    x = on_disk(tmp_path / "x.npy", values)
    message = r"expected finite values.* got inf at row 2, column 1 .*\(Rows are counted from row 128.\)"
    with pytest.raises(ValueError, match=message):
        pg.fit(pg.VAE(), x, progress=False)
    with pytest.raises(TypeError, match=r"expected a floating-point tensor; got torch\.int32"):
        pg.fit(pg.VAE(), on_disk(tmp_path / "whole.npy", np.zeros((9, 2), np.int32)), progress=False)


# --- hashes ---


def test_a_file_is_hashed_once_until_it_changes(mapped, tmp_path, monkeypatch):
    first = digest(as_rows("x", mapped))
    part = digest(as_rows("x", mapped[:100]))
    beside = tmp_path / "x.npy.digests.json"
    assert sorted(json.loads(beside.read_text())["digests"].values()) == sorted([first, part])
    with monkeypatch.context() as patch:
        patch.setattr(FileRows, "__getitem__", lambda *_: pytest.fail("the file is read again"))
        assert (digest(as_rows("x", mapped)), digest(as_rows("x", mapped[:100]))) == (first, part)
    values = np.array(mapped)
    values[3, 3] += 1
    changed = on_disk(tmp_path / "x.npy", values)
    os.utime(tmp_path / "x.npy", ns=(10**18 + 1, 10**18 + 1))
    changed = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert digest(as_rows("x", changed)) == digest(torch.from_numpy(values)) != first


def test_the_hash_of_a_file_that_was_just_written_is_not_kept(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 2)))
    os.utime(tmp_path / "x.npy", ns=(time.time_ns() + 10**9,) * 2)
    digest(as_rows("x", np.load(tmp_path / "x.npy", mmap_mode="r")))
    assert not list(tmp_path.glob("*.json"))


def test_a_garbled_hash_file_is_made_anew(mapped, tmp_path):
    known = digest(as_rows("x", mapped))
    for garbage in ("{", "[]", '{"file": 1}', '{"file": [], "digests": 3}'):
        (tmp_path / "x.npy.digests.json").write_text(garbage)
        assert digest(as_rows("x", mapped)) == known


# --- stores of chunks ---


def stores(folder, values: np.ndarray):
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(30, 4))
    return h5py.File(folder / "x.h5")["x"]


def zarr_store(folder, values: np.ndarray):
    zarr = pytest.importorskip("zarr", reason="needs zarr")
    store = zarr.open(str(folder / "x.zarr"), mode="w", shape=values.shape, chunks=(30, 4), dtype=values.dtype)
    store[:] = values
    return store


@pytest.mark.parametrize("made", [stores, zarr_store])
def test_a_store_of_chunks_is_unpacked_once_and_has_the_same_rows(made, tmp_path, monkeypatch):
    monkeypatch.setenv("PROBGEO_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("probgeo.datasets.mapped.BLOCK_BYTES", 6 * 4 * 70)
    values = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    rows = as_rows("x", made(tmp_path, values))
    assert isinstance(rows, FileRows) and torch.equal(rows[:], torch.from_numpy(values))
    (file,) = (tmp_path / "cache" / "unpacked").glob("*.npy")
    changed = file.stat().st_mtime_ns
    assert digest(as_rows("x", made(tmp_path, values))) == digest(torch.from_numpy(values))
    assert file.stat().st_mtime_ns == changed
