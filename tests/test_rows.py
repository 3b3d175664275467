"""Rows of a file: they are those of the array, they train the same models, and the file is hashed once."""

import copy
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


@pytest.fixture
def num_read(monkeypatch) -> list[int]:
    """How many rows were read at once, time after time; a block is of 64."""
    monkeypatch.setattr("probgeo.rows.HELD_BYTES", 0)
    monkeypatch.setattr("probgeo.rows.BLOCK_ROWS", 64)
    read, found = FileRows.__getitem__, []

    def counted(rows: FileRows, index: object) -> torch.Tensor:
        values = read(rows, index)
        found.append(values.shape[:-1].numel())
        return values

    monkeypatch.setattr(FileRows, "__getitem__", counted)
    return found


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
    monkeypatch.setattr("probgeo.rows.BLOCK_BYTES", 4 * 6 * 20)
    assert [len(block) for _, block in row_blocks(rows)] == 10 * [20] and torch.equal(spread(rows), rows[:][::10])
    images = rows[:].view(200, 2, 3)
    assert torch.equal(torch.cat([block for _, block in row_blocks(images)]), images)
    assert all(len(block) == 20 for _, block in row_blocks(images))


def test_rows_survive_pickling_without_their_numbers(mapped):
    written = pickle.dumps(as_rows("x", mapped))
    assert len(written) < 1000 and torch.equal(pickle.loads(written)[:], torch.from_numpy(np.array(mapped)))


def test_a_file_that_changes_is_noticed(mapped, tmp_path):
    rows = as_rows("x", mapped)
    np.save(tmp_path / "x.npy", np.zeros((200, 6), np.float32))
    with pytest.raises(ValueError, match=r"x.npy has changed since it was opened. Open it again"):
        rows[:3]


# --- training ---


def bayesian(guide, **options) -> pg.BayesianDecoder:
    return pg.BayesianDecoder(SMALL, guide=guide, **options)


SOURCES = {
    "single": pg.Decoder(SMALL),
    "ensemble": pg.EnsembleDecoder(2, SMALL),
    "dropout": pg.DropoutDecoder(SMALL),
    "rbf": pg.RBFDecoder(SMALL, num_centres=4),
    "gp": pg.GPDecoder(SMALL, num_inducing=6, num_rows=50, num_steps=3),
    "mean field": bayesian(pg.posteriors.MeanField()),
    "conjugate": bayesian(pg.posteriors.Conjugate()),
    "laplace": bayesian(pg.posteriors.LaplaceApproximation()),
    "nuts": bayesian(pg.posteriors.NUTS(num_draws=3, warmup=2), draws=3),
    "autoguide": bayesian(pg.posteriors.Autoguide(num_steps=5, num_draws=3), draws=3),
}
SPECS = {name: pg.VAE(2, decoder, encoder=SMALL) for name, decoder in SOURCES.items()}
SPECS["laplace of counts"] = pg.VAE(2, SOURCES["laplace"], pg.likelihoods.Poisson(), encoder=SMALL)
SPECS["conditional"] = pg.ConditionalVAE(2, decoder=pg.Decoder(SMALL), encoder=SMALL)
SPECS |= {
    f"{name} given covariates": pg.ConditionalVAE(
        2, decoder=SOURCES[name], encoder=SMALL, mask=pg.masks.NoMask(), covariates=(5,)
    )
    for name in ("rbf", "gp")
}
SPECS["views"] = pg.SharedLatentVAE(
    {"a": pg.View(4, encoder=SMALL, decoder=SOURCES["rbf"]), "b": pg.View(2, encoder=SMALL, decoder=SOURCES["laplace"])}
)


def data_of(name: str, values: np.ndarray) -> np.ndarray:
    """Counts, or numbers with values or views that are missing, as the model of this name reads them."""
    values, rng = values.copy(), np.random.default_rng(1)
    if name == "laplace of counts":
        return np.floor(np.exp(values))
    if name == "conditional":
        values[rng.random(values.shape) < 0.1] = np.nan
        values[:-3, 2] = np.nan  # hardly any row has it
    elif "covariates" in name:
        values[rng.random(len(values)) < 0.3, 0] = np.nan
    elif name == "views":
        values[:30, :4] = values[150:, 4:] = np.nan
    return values


@pytest.mark.parametrize("name", SPECS)
def test_rows_of_a_file_are_read_in_blocks_and_train_the_model_that_they_train_in_memory(
    name, mapped, tmp_path, num_read
):
    values = data_of(name, np.array(mapped))
    file, x = on_disk(tmp_path / "own.npy", values), torch.from_numpy(values)
    [found], [known] = (pg.fit(SPECS[name], rows, training=FAST, progress=False) for rows in (file, x))
    codes = found.encode(file).mean
    assert max(num_read) == 64
    expected = known.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    assert found.history.equals(known.history)
    torch.testing.assert_close(codes, known.encode(x).mean)


@pytest.mark.parametrize(
    "name", ["rbf", "gp", "conjugate", "laplace", "laplace of counts", "autoguide", "gp given covariates", "views"]
)
def test_what_is_fitted_to_codes_in_blocks_is_what_is_fitted_to_all_at_once(name, mapped, monkeypatch):
    x = torch.from_numpy(data_of(name, np.array(mapped))).double()
    [model] = pg.fit(SPECS[name], x, training=FAST, progress=False)
    found = []
    for num_rows in (200, 64):
        monkeypatch.setattr("probgeo.rows.BLOCK_ROWS", num_rows)
        found.append(copy.deepcopy(model))
        for phase in found[-1].phases[1:]:
            if phase.start:
                phase.start(found[-1], x, 1)
    changed = 0
    for key, value in found[0].state_dict().items():
        torch.testing.assert_close(found[1].state_dict()[key], value, rtol=1e-6, atol=1e-9)
        changed += not torch.equal(value, model.state_dict()[key])
    assert changed


def test_rows_of_a_file_train_the_gplvm_that_they_train_in_memory_or_it_is_refused(mapped, monkeypatch):
    spec, options = pg.GPLVM(2, num_inducing=8), {"training": FAST, "progress": False}
    [found], [known] = (pg.fit(spec, x, **options) for x in (mapped, torch.from_numpy(np.array(mapped))))
    expected = known.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    monkeypatch.setattr("probgeo.training.gplvm.memory_of", lambda device: 1e5)
    with pytest.raises(ValueError, match=r"reads all 200 at once: about 0\.0 GB, more than half .* Give it fewer rows"):
        pg.fit(spec, mapped, **options)


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


def test_a_study_of_a_file_is_that_of_its_rows_and_goes_on_with_it(mapped, tmp_path, num_read):
    options = {
        "pairs": torch.arange(2 * 40).view(-1, 2),
        "models": {"single": pg.VAE(2, pg.Decoder(SMALL), encoder=SMALL)},
        "seeds": range(2),
        "measures": {"straight": pg.StraightLine(num_segments=8)},
        "training": FAST,
    }
    in_memory = torch.from_numpy(np.array(mapped))
    found = pg.Study(tmp_path / "file", mapped, points=mapped[:150], **options).run(progress=False)
    assert max(num_read) == 64
    study = pg.Study(tmp_path / "memory", in_memory, points=in_memory[:150], **options)
    known = study.run(progress=False)
    for name in ("distance", "energy", "euclidean_ambient", "euclidean_latent", "euclidean_reconstructed"):
        assert found[name].equals(known[name])
    assert found.attrs["key"] == known.attrs["key"]
    trainings = {path: path.stat().st_mtime_ns for path in (tmp_path / "memory").rglob("*.safetensors")}
    again = pg.Study(tmp_path / "memory", mapped, points=mapped[:150], **options | {"seeds": range(3)}).run(
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
