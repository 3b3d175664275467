"""Data sets: what a subset, a split, a published file and a failed download are."""

import dataclasses
import gzip
import os
import pickle

import numpy as np
import pandas as pd
import pooch
import pytest
import requests
import torch

from probgeo import datasets
from probgeo.datasets import Dataset
from probgeo.datasets.published import images as published

IMAGES = pytest.mark.skipif(
    not os.path.isdir(os.path.join(os.environ.get("PROBGEO_DATA", ""), "mnist")),
    reason="needs PROBGEO_DATA, a folder with the files of MNIST and Fashion-MNIST",
)
FIRST_FILE = "mnist/train-images-idx3-ubyte.gz"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBGEO_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def offline(cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise requests.exceptions.ConnectionError("no route to host")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", refuse)
    return cache


def serve(monkeypatch, content: bytes) -> list[str]:
    """Every download yields these bytes; the list of addresses asked for."""
    asked = []

    def write(self, url, output_file, pooch, check_only=False):
        asked.append(url)
        with open(output_file, "wb") as file:
            file.write(content)

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", write)
    return asked


def toy(num_rows: int = 40) -> Dataset:
    labels = torch.arange(num_rows) % 4
    x = torch.arange(6.0 * num_rows).reshape(num_rows, 6)
    return Dataset("toy", x, labels, ("a", "b", "c", "d"), (2, 3), latent=x[:, :1])


# ---- the data set itself


def test_subset_holds_exactly_the_rows_of_its_classes_in_their_order():
    data = datasets.digits()
    part = data.subset(classes=[5, "0"])
    keep = (data.labels == 5) | (data.labels == 0)
    assert torch.equal(part.x, data.x[keep])
    assert torch.equal(part.labels, data.labels[keep])
    assert part.label_names == data.label_names


def test_subset_draws_the_same_rows_of_a_class_whatever_the_other_classes():
    data = datasets.digits()
    alone = data.subset(classes=[7], per_class=20, seed=3)
    together = data.subset(per_class=20, seed=3)
    assert together.labels.bincount().tolist() == [20] * 10
    assert torch.equal(together.x[together.labels == 7], alone.x)
    assert not torch.equal(data.subset(classes=[7], per_class=20, seed=4).x, alone.x)


def test_split_is_a_partition_of_the_rows():
    data = toy()
    first, second = data.split(fraction=0.75, seed=1)
    assert (len(first), len(second)) == (30, 10)
    both = torch.cat([first.x, second.x])
    assert torch.equal(both[both[:, 0].argsort()], data.x)
    assert torch.equal(first.latent, first.x[:, :1])
    assert torch.equal(first.x, data.split(fraction=0.75, seed=1)[0].x)
    assert not torch.equal(first.x, data.split(fraction=0.75, seed=2)[0].x)


def test_repr_says_name_size_and_number_of_classes():
    assert repr(toy().subset(classes=["a", "c"])) == "Dataset('toy': 20 rows of 2×3, 2 classes)"
    assert repr(datasets.sphere(7)) == "Dataset('sphere': 7 rows of 3, 1 class)"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": [4]}, r"4 is not among the classes of 'toy': 0 \(a\), 1 \(b\)"),
        ({"classes": ["e"]}, "'e' is not among the classes"),
        ({"classes": [-1]}, "-1 is not among the classes"),
        ({"classes": []}, "at least one class"),
        ({"per_class": 0}, "at least 1; got 0"),
        ({"per_class": 11}, "at most 10, the rows of class 'a'; got 11"),
    ],
)
def test_subset_of_what_is_not_there_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        toy().subset(**options)


def test_class_without_rows_is_not_in_a_subset():
    with pytest.raises(ValueError, match="'b' is not among the classes"):
        toy().subset(classes=["a"]).subset(classes=["b"])


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5, -0.2, 0.001, 0.999, float("nan")])
def test_split_with_an_empty_part_is_an_error(fraction):
    with pytest.raises(ValueError, match="leaves one part empty"):
        toy().split(fraction=fraction)


@pytest.mark.parametrize(
    "field, value",
    [
        ("labels", torch.full((40,), 4)),
        ("labels", torch.full((40,), -2)),
        ("labels", torch.zeros(39, dtype=torch.int64)),
        ("shape", (3, 3)),
        ("colours", ("#000000",)),
        ("latent", torch.zeros(39, 1)),
        ("library_size", torch.ones(41)),
        ("pseudotime", torch.zeros(1, 2)),
        ("test", torch.zeros(39, dtype=torch.bool)),
        ("obs", pd.DataFrame(index=range(39))),
        ("feature_names", ("a",)),
        ("columns", (datasets.Column("a", "real"),)),
        ("views", {"left": (2, 2)}),
    ],
)
def test_fields_that_do_not_belong_together_are_an_error(field, value):
    data = toy()
    fields = {name: getattr(data, name) for name in ("name", "x", "labels", "label_names", "shape", "latent")}
    # The shape checks that are on in the tests see a wrong number of labels before the class does.
    with pytest.raises((ValueError, TypeError), match=field):
        Dataset(**fields | {field: value})


def full() -> Dataset:
    """Every part that follows the rows tells which row it is of."""
    number = torch.arange(40)
    parts = {
        "latent": number[:, None].float(),
        "library_size": number.float(),
        "pseudotime": number[:, None].float(),
        "test": number % 2 == 0,
        "obs": pd.DataFrame({"number": number.numpy()}, index=[f"row {i}" for i in number.tolist()]),
    }
    features = {"feature_names": tuple("abcdef"), "views": {"left": (2, 2), "right": (2,)}}
    return dataclasses.replace(toy(), **parts, **features)


@pytest.mark.parametrize(
    "part", [lambda d: d.rows(torch.tensor([7, 3])), lambda d: d.subset(["a", "c"]), lambda d: d.split(0.3)[1]]
)
def test_every_part_of_the_rows_goes_with_them(part):
    data, chosen = full(), part(full())
    rows = (chosen.x[:, 0] / 6).long()
    assert 0 < len(rows) < 40 and torch.equal(chosen.x, data.x[rows]) and torch.equal(chosen.labels, data.labels[rows])
    for name in ("latent", "library_size", "pseudotime"):
        assert torch.equal(getattr(chosen, name).flatten(), rows.float())
    assert torch.equal(chosen.test, rows % 2 == 0)
    assert chosen.obs["number"].tolist() == rows.tolist()
    assert chosen.row_names.tolist() == [f"row {i}" for i in rows.tolist()]
    assert chosen.feature_names == data.feature_names and chosen.views == data.views


def test_split_without_a_fraction_is_the_published_one_where_it_is_known():
    train, test = full().split()
    assert test.obs["number"].tolist() == list(range(0, 40, 2)) and train.obs["number"].tolist() == list(
        range(1, 40, 2)
    )
    assert [len(part) for part in toy().split()] == [36, 4]


def test_other_features_keep_the_rows_parts_and_lose_the_names_of_the_former():
    wider = datasets.with_columns(full(), torch.ones(40, 1))
    assert wider.x.shape == (40, 7) and wider.feature_names is None and not wider.views
    assert torch.equal(wider.library_size, full().library_size) and wider.row_names[3] == "row 3"


def test_rows_as_a_frame_have_the_names_of_the_features():
    data = full()
    assert list(data.frame(data.x)) == list("abcdef")
    np.testing.assert_allclose(data.normalised().frame(data.normalised().x), data.x, rtol=1e-5, atol=1e-3)
    assert data.view("right").tolist() == data.x[:, 4:].tolist()


def test_dataset_survives_pickling():
    data = datasets.surface(10, seed=1)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.x, data.x)
    assert torch.equal(copy.immersion(data.latent), data.immersion(data.latent))


# ---- published sets


def test_digits_lie_in_the_unit_interval():
    data = datasets.digits()
    assert data.x.shape == (1797, 64)
    assert data.x.dtype == torch.float32
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert data.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert repr(data) == "Dataset('digits': 1797 rows of 8×8, 10 classes)"


def test_load_is_the_function_of_that_name():
    assert torch.equal(datasets.load("digits").x, datasets.digits().x)
    assert torch.equal(datasets.load("sphere").x, datasets.sphere().x)


def test_unknown_data_set_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown data set 'mnits'; choose from digits, mnist, .*surface"):
        datasets.load("mnits")


@IMAGES
def test_mnist_has_its_known_mean_and_counts():
    train, test = datasets.mnist(), datasets.mnist(train=False)
    assert (train.x.shape, test.x.shape) == ((60000, 784), (10000, 784))
    assert train.shape == (28, 28)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert float(train.x.double().mean()) == pytest.approx(0.1307, abs=1e-4)
    assert float(train.x.double().std()) == pytest.approx(0.3081, abs=1e-4)
    assert (train.x.min(), train.x.max()) == (0, 1)
    parts = datasets.mnist(train=None).split()
    assert all(torch.equal(part.x, half.x) for part, half in zip(parts, (train, test), strict=True))


@IMAGES
def test_fashion_mnist_has_its_known_mean_and_counts():
    train, test = datasets.fashion_mnist(), datasets.fashion_mnist(train=False)
    assert (train.x.shape, test.x.shape) == ((60000, 784), (10000, 784))
    assert train.labels.bincount().tolist() == [6000] * 10
    assert train.label_names[int(train.labels[0])] == "Ankle boot"
    assert float(train.x.double().mean()) == pytest.approx(0.2860, abs=1e-4)
    assert float(train.x.double().std()) == pytest.approx(0.3530, abs=1e-4)


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("PROBGEO_DATA", "~/somewhere")
    assert datasets.cache_folder() == published.Path.home() / "somewhere"
    monkeypatch.delenv("PROBGEO_DATA")
    assert datasets.cache_folder() == published.Path(pooch.os_cache("probgeo"))


def test_idx_bytes_become_flat_rows_in_the_unit_interval(offline, monkeypatch):
    images = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4) * 10
    sizes = {
        "images-idx3": bytes([0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 4]),
        "labels-idx1": bytes([0, 0, 8, 1, 0, 0, 0, 3]),
    }
    (offline / "mnist").mkdir()
    for kind, values in (("images-idx3", images), ("labels-idx1", np.array([9, 0, 4], np.uint8))):
        path = offline / "mnist" / f"t10k-{kind}-ubyte.gz"
        path.write_bytes(gzip.compress(sizes[kind] + values.tobytes()))
        monkeypatch.setitem(published._MNIST_MD5, path.name, pooch.file_hash(str(path), alg="md5"))
    data = datasets.mnist(train=False)
    assert data.shape == (2, 4)
    assert torch.equal(data.x, torch.arange(24.0).reshape(3, 8) * 10 / 255)
    assert data.labels.tolist() == [9, 0, 4]


def test_offline_download_names_file_address_and_place(offline):
    with pytest.raises(OSError, match="no route to host") as caught:
        datasets.mnist()
    message = str(caught.value)
    assert FIRST_FILE in message
    assert "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz" in message
    assert str(offline / FIRST_FILE) in message
    assert "PROBGEO_DATA" in message
    for name in ("fashion_mnist", "tasic"):
        with pytest.raises(OSError, match=f"{name}/"):
            datasets.load(name)


def test_cache_that_cannot_be_written_to_is_said(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("PROBGEO_DATA", str(blocked))
    serve(monkeypatch, b"never stored")
    with pytest.raises(OSError, match=r"not in the cache.*by hand"):
        datasets.mnist()


def test_damaged_file_is_an_error_and_left_alone(offline):
    (offline / "mnist").mkdir()
    (offline / FIRST_FILE).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz: expected the MD5 checksum f68b.*delete it"):
        datasets.mnist()
    assert (offline / FIRST_FILE).read_bytes() == b"damaged"


def test_damaged_download_is_an_error_and_not_kept(cache, monkeypatch):
    serve(monkeypatch, b"damaged")
    with pytest.raises(ValueError, match="downloaded file has not the MD5 checksum f68b"):
        datasets.mnist()
    assert not (cache / FIRST_FILE).exists()


def test_file_is_downloaded_once(cache, monkeypatch):
    asked = serve(monkeypatch, b"content")
    md5 = "9a0364b9e99bb480dd25e1f0284c8555"
    for _ in range(2):
        path = published.cached_file("set/file.bin", "https://example.org/file.bin", md5)
    assert path.read_bytes() == b"content"
    assert path == cache / "set" / "file.bin"
    assert asked == ["https://example.org/file.bin"]


# ---- Tasic: no published checksum, so the contents are verified


@pytest.fixture
def tasic_files(offline):
    rng = np.random.default_rng(0)
    components = rng.standard_normal(published._TASIC_SHAPE).astype(np.float32)
    components[:, :4] *= np.sqrt(published._TASIC_VARIANCES) / components[:, :4].std(axis=0)
    codes = rng.permutation(np.arange(23822) % 133)
    (offline / "tasic").mkdir()
    np.save(offline / "tasic" / "tasic-pca50.npy", components)
    np.save(offline / "tasic" / "tasic-ttypes.npy", np.array([f"type {code:03d}" for code in codes]))
    np.save(offline / "tasic" / "tasic-colors.npy", np.array([f"#0000{code:02x}" for code in codes]))
    return offline / "tasic", components, codes


def test_tasic_names_its_types_and_colours(tasic_files):
    _, components, codes = tasic_files
    data = datasets.tasic()
    assert torch.equal(data.x, torch.from_numpy(components))
    assert torch.equal(data.labels, torch.from_numpy(codes))
    assert data.label_names[17] == "type 017"
    assert data.colours[17] == "#000011"


@pytest.mark.parametrize("damage", ["nan", "scale", "types", "rows"])
def test_tasic_of_other_contents_is_an_error(tasic_files, damage):
    folder, components, codes = tasic_files
    if damage == "nan":
        components[3, 40] = np.nan
    elif damage == "scale":
        components *= 2
    elif damage == "rows":
        components = components[:-1]
    else:
        np.save(folder / "tasic-ttypes.npy", np.array([f"type {code % 132}" for code in codes]))
    np.save(folder / "tasic-pca50.npy", components)
    with pytest.raises(ValueError, match=r"tasic.*expected .* to download"):
        datasets.tasic()


def test_tasic_reads_a_local_file(tmp_path):
    arrays = {
        "x": np.arange(12.0, dtype=np.float32).reshape(4, 3),
        "label": np.array([1, 0, 1, 1], np.uint8),
        "label_names": np.array(["Sst", "Vip"]),
        "label_colors": np.array([[255, 0, 16], [1, 2, 3]], np.uint8),
    }
    np.savez(tmp_path / "cells.npz", **arrays)
    data = datasets.tasic(path=tmp_path / "cells.npz")
    assert repr(data) == "Dataset('cells': 4 rows of 3, 2 classes)"
    assert data.colours == ("#ff0010", "#010203")
    assert data.labels.tolist() == [1, 0, 1, 1]
    assert data.subset(classes=["Sst"]).x.tolist() == [[3, 4, 5]]

    np.savez(tmp_path / "nan.npz", **arrays | {"x": np.full((4, 3), np.nan)})
    with pytest.raises(ValueError, match=r"nan.npz to be \(row, feature\) and finite"):
        datasets.tasic(path=str(tmp_path / "nan.npz"))
    del arrays["label_colors"]
    np.savez(tmp_path / "bare.npz", **arrays)
    with pytest.raises(ValueError, match=r"lacks the arrays \['label_colors'\]"):
        datasets.tasic(path=tmp_path / "bare.npz")
    with pytest.raises(FileNotFoundError, match=r"absent.npz"):
        datasets.tasic(path=tmp_path / "absent.npz")
