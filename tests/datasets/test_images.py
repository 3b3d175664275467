"""Images: what is read from the original files' formats, resized, mapped from disk, drawn and normalised."""

import hashlib
import io
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from probgeo import datasets
from probgeo.datasets import Dataset, Normalisation
from probgeo.datasets.files import images as folders
from probgeo.datasets.published import images as published
from probgeo.datasets.published import photographs
from probgeo.specs import digest

RNG = np.random.default_rng(0)
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBGEO_DATA", str(tmp_path))
    return tmp_path


def images(num: int, height: int = 32, width: int = 32) -> np.ndarray:
    return RNG.integers(0, 256, (num, height, width, 3), dtype=np.uint8)


def records(labels: np.ndarray, pixels: np.ndarray) -> bytes:
    """CIFAR's binary version: label bytes, then the red, the green and the blue plane of each image."""
    rows = [bytes(label) + pixel.transpose(2, 0, 1).tobytes() for label, pixel in zip(labels, pixels, strict=True)]
    return b"".join(rows)


def published_as(monkeypatch, path, files: dict[str, bytes]) -> None:
    """An archive of these files at path, whose checksum is taken for the published one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    trusted(monkeypatch, path)


def trusted(monkeypatch, path) -> None:
    monkeypatch.setitem(photographs._MD5, path.name, published.pooch.file_hash(str(path), alg="md5"))


def cifar10_files(num: int = 3) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """The files of CIFAR-10 with `num` images per batch, the images and the labels of the training batches."""
    pixels, labels = images(6 * num), RNG.integers(0, 10, (6 * num, 1), dtype=np.uint8)
    names = [*(f"data_batch_{index}.bin" for index in range(1, 6)), "test_batch.bin"]
    files = {
        name: records(labels[i * num : (i + 1) * num], pixels[i * num : (i + 1) * num]) for i, name in enumerate(names)
    }
    files["batches.meta.txt"] = "\n".join([*CIFAR10_NAMES, ""]).encode()
    return files, pixels, labels[:, 0]


def saved(path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def tree(root, counts: dict[str, int], height: int = 10, width: int = 8) -> dict[str, np.ndarray]:
    """A folder of classes with so many images each; their pixels."""
    pixels = {name: images(count, height, width) for name, count in counts.items()}
    for name, values in pixels.items():
        for index, value in enumerate(values):
            saved(root / name / f"{index:02}.png", value)
    return pixels


# ---- downloaded archives


def test_cifar10_is_read_plane_by_plane_batch_after_batch(cache, monkeypatch):
    files, pixels, labels = cifar10_files()
    # The order of an archive's members is not that of the batches.
    published_as(monkeypatch, cache / "cifar10/cifar-10-binary.tar.gz", dict(reversed(files.items())))
    train, test = datasets.cifar10(), datasets.cifar10(train=False)
    np.testing.assert_array_equal(train.x.numpy().reshape(15, 32, 32, 3), pixels[:15].astype(np.float32) / 255)
    np.testing.assert_array_equal(test.x.numpy().reshape(3, 32, 32, 3), pixels[15:].astype(np.float32) / 255)
    assert train.labels.tolist() == labels[:15].tolist()
    assert (train.shape, train.label_names) == ((32, 32, 3), CIFAR10_NAMES)
    assert torch.equal(datasets.load("cifar10").x, train.x)


def test_cifar100_has_fine_and_coarse_labels(cache, monkeypatch):
    pixels, labels = images(4), np.array([[1, 7], [0, 3], [1, 99], [19, 0]], dtype=np.uint8)
    files = {
        "train.bin": records(labels, pixels),
        "test.bin": records(labels[:1], pixels[:1]),
        "fine_label_names.txt": "\n".join(f"fine{index}" for index in range(100)).encode(),
        "coarse_label_names.txt": "\n".join(f"coarse{index}" for index in range(20)).encode(),
    }
    published_as(monkeypatch, cache / "cifar100/cifar-100-binary.tar.gz", files)
    fine, coarse = datasets.cifar100(), datasets.cifar100(coarse=True)
    assert fine.labels.tolist() == [7, 3, 99, 0] and coarse.labels.tolist() == [1, 0, 1, 19]
    assert fine.label_names[99] == "fine99" and coarse.label_names[19] == "coarse19"
    assert torch.equal(fine.x, coarse.x)
    assert len(datasets.cifar100(train=False)) == 1


def test_svhn_counts_ten_as_zero(cache, monkeypatch):
    pixels = images(3)
    for name in ("train_32x32.mat", "test_32x32.mat"):
        path = cache / "svhn" / name
        path.parent.mkdir(exist_ok=True)
        savemat(path, {"X": pixels.transpose(1, 2, 3, 0), "y": np.array([[10], [1], [9]], dtype=np.uint8)})
        trusted(monkeypatch, path)
    data = datasets.svhn()
    assert data.labels.tolist() == [0, 1, 9]
    np.testing.assert_array_equal(data.x.numpy().reshape(3, 32, 32, 3), pixels.astype(np.float32) / 255)
    assert len(datasets.svhn(train=False)) == 3


@pytest.mark.parametrize(
    "load, path",
    [
        (datasets.cifar10, "cifar10/cifar-10-binary.tar.gz"),
        (datasets.cifar100, "cifar100/cifar-100-binary.tar.gz"),
        (datasets.svhn, "svhn/train_32x32.mat"),
    ],
)
def test_a_damaged_archive_is_named_with_both_checksums(cache, load, path):
    (cache / path).parent.mkdir()
    (cache / path).write_bytes(b"damaged")
    expected, found = photographs._MD5[(cache / path).name], hashlib.md5(b"damaged").hexdigest()
    with pytest.raises(ValueError, match=f"{path}: expected the MD5 checksum {expected}; got {found}") as caught:
        load()
    assert "delete it to download it again" in str(caught.value)


def test_an_image_of_far_too_many_pixels_is_refused_in_words(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb.png: expected an image; it cannot be read \(.*decompression bomb"):
        datasets.image_folder(tmp_path, size=8, cache=tmp_path)


def test_an_archive_without_a_batch_is_named(cache, monkeypatch):
    files, _, _ = cifar10_files()
    del files["data_batch_4.bin"]
    published_as(monkeypatch, cache / "cifar10/cifar-10-binary.tar.gz", files)
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz: expected .* data_batch_4.bin missing"):
        datasets.cifar10()


def test_images_of_another_size_are_named(cache, monkeypatch):
    files, _, _ = cifar10_files()
    files["test_batch.bin"] = files["test_batch.bin"][:-5]
    published_as(monkeypatch, cache / "cifar10/cifar-10-binary.tar.gz", files)
    with pytest.raises(ValueError, match=r"test_batch.bin to hold records of 3073 bytes, .*; got 9214 bytes"):
        datasets.cifar10(train=False)
    path = cache / "svhn/train_32x32.mat"
    path.parent.mkdir()
    savemat(path, {"X": np.zeros((28, 28, 3, 2), dtype=np.uint8), "y": np.ones((2, 1), dtype=np.uint8)})
    trusted(monkeypatch, path)
    with pytest.raises(ValueError, match=r"train_32x32.mat: expected .*\(32, 32, 3, image\).* \(28, 28, 3, 2\)"):
        datasets.svhn()


# ---- folders


def test_a_folder_of_images_is_read_class_by_class(tmp_path):
    pixels = tree(tmp_path / "pets", {"dog": 2, "cat": 3})
    data = datasets.image_folder(tmp_path / "pets", cache=tmp_path / "cache")
    expected = np.concatenate([pixels["cat"], pixels["dog"]]).reshape(5, -1).astype(np.float32) / 255
    np.testing.assert_array_equal(data.x.numpy(), expected)
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    assert (data.name, data.label_names, data.shape) == ("pets", ("cat", "dog"), (10, 8, 3))


def test_a_folder_without_subfolders_is_one_class(tmp_path):
    tree(tmp_path, {"flat": 2})
    data = datasets.image_folder(tmp_path / "flat", channels=1, cache=tmp_path / "cache")
    assert (data.label_names, data.shape, data.labels.tolist()) == (("flat",), (10, 8), [0, 0])


def test_images_are_cropped_about_their_centre_and_resized(tmp_path):
    # A white square on black, 20 wide and 20 high, in the middle of an image 40 wide and 20 high.
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 255
    saved(tmp_path / "images/class/wide.png", wide)
    saved(tmp_path / "images/class/high.png", wide.transpose(1, 0, 2).copy())
    data = datasets.image_folder(tmp_path / "images", size=10, cache=tmp_path / "cache")
    assert data.shape == (10, 10, 3)
    # The filter reaches a little beyond the crop.
    assert 0.9 < float(data.x.min()) <= float(data.x.max()) == 1
    assert datasets.image_folder(tmp_path / "images", size=(6, 12), channels=1, cache=tmp_path).shape == (6, 12)


def test_resizing_keeps_the_mean_of_a_smooth_image(tmp_path):
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], 64, 1).repeat(3, 2)
    saved(tmp_path / "images/ramp.png", ramp)
    small = datasets.image_folder(tmp_path / "images", size=16, cache=tmp_path / "cache")
    torch.testing.assert_close(small.x.mean(), torch.tensor(ramp.mean() / 255).float(), atol=2e-3, rtol=0)


def test_values_are_mapped_from_a_file_that_is_written_once_and_never_changed(tmp_path, monkeypatch):
    tree(tmp_path / "pets", {"dog": 2, "cat": 3})
    read = []
    values = folders._values
    monkeypatch.setattr(folders, "_values", lambda *args: (read.append(args[0].name), values(*args))[1])
    first = datasets.image_folder(tmp_path / "pets", cache=tmp_path / "cache")
    first.x[0] = 2.0  # in memory alone
    second = datasets.image_folder(tmp_path / "pets", cache=tmp_path / "cache")
    assert len(read) == 5
    assert second.x.max() <= 1
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_size == 5 * 240 * 4 + 128
    saved(tmp_path / "pets/dog/new.png", images(1, 10, 8)[0])
    assert len(datasets.image_folder(tmp_path / "pets", cache=tmp_path / "cache")) == 6


def test_the_digest_of_mapped_values_is_that_of_values_in_memory(tmp_path):
    tree(tmp_path / "pets", {"dog": 2})
    x = datasets.image_folder(tmp_path / "pets", cache=tmp_path / "cache").x
    assert digest(x) == digest(x.clone())


def test_the_images_drawn_from_a_folder_are_those_of_its_subset(tmp_path):
    tree(tmp_path / "pets", {"dog": 4, "cat": 5, "cow": 3})
    whole = datasets.image_folder(tmp_path / "pets", cache=tmp_path / "cache")
    part = datasets.image_folder(
        tmp_path / "pets", classes=["dog", "cat"], per_class=2, seed=3, cache=tmp_path / "cache"
    )
    expected = whole.subset(classes=["dog", "cat"], per_class=2, seed=3)
    assert torch.equal(part.x, expected.x) and torch.equal(part.labels, expected.labels)
    assert whole.class_counts() == {"cat": 5, "cow": 3, "dog": 4}
    assert part.class_counts() == {"cat": 2, "dog": 2}


def test_imagenette_has_names_for_its_folders(cache):
    for part, count in (("train", 3), ("val", 1)):
        tree(cache / "imagenette2-160" / part, {"n03888257": count, "n01440764": count}, 30, 20)
    train = datasets.imagenette(size=16)
    assert train.label_names == ("tench", "parachute")
    assert (len(train), train.shape) == (6, (16, 16, 3))
    assert datasets.imagenette(train=False, classes=["parachute"]).class_counts() == {"parachute": 1}


def test_celeba_is_parted_by_its_lists(cache):
    root = cache / "celeba"
    pixels = images(5, 218, 178)
    for index, value in enumerate(pixels):
        saved(root / f"img_align_celeba/00000{index}.png", value)
    smiling, part = (1, -1, 1, 1, -1), (0, 0, 2, 1, 0)
    rows = [f"00000{index}.png {-value:2d} {value:2d}" for index, value in enumerate(smiling)]
    (root / "list_attr_celeba.txt").write_text("\n".join(["5", "Bald Smiling", *rows, ""]))
    (root / "list_eval_partition.txt").write_text("".join(f"00000{i}.png {value}\n" for i, value in enumerate(part)))
    train, test = datasets.celeba(), datasets.celeba(train=False)
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 0, 0], [1])
    assert (train.label_names, train.shape) == (("not Smiling", "Smiling"), (64, 64, 3))
    assert datasets.celeba("Bald").labels.tolist() == [0, 1, 1]
    full = datasets.celeba(size=(218, 178))
    np.testing.assert_array_equal(full.x[1].numpy(), pixels[1].ravel().astype(np.float32) / 255)
    assert datasets.celeba(per_class=1).class_counts() == {"not Smiling": 1, "Smiling": 1}
    with pytest.raises(ValueError, match="attribute: expected one of Bald, Smiling; got 'Happy'"):
        datasets.celeba("Happy")
    os.remove(root / "img_align_celeba/000001.png")
    with pytest.raises(FileNotFoundError, match=r"000001.png: the image is listed, but there is no such file"):
        datasets.celeba(size=32)


@pytest.mark.parametrize(
    "load, missing",
    [
        (datasets.celeba, r"celeba/list_attr_celeba.txt; there is none. Get it from https://mmlab"),
        (datasets.imagenette, r"imagenette2-160/train; there is no such folder. Unpack https://"),
        (lambda: datasets.image_folder("/nowhere"), "there is no folder /nowhere"),
    ],
)
def test_a_missing_folder_is_named_with_what_to_do(cache, load, missing):
    with pytest.raises(FileNotFoundError, match=missing):
        load()


def test_what_is_no_image_or_of_another_size_is_named(tmp_path):
    root = tmp_path / "images"
    (root / "class").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"below .*images; there are none"):
        datasets.image_folder(root)
    tree(root, {"class": 2})
    saved(root / "class/odd.png", images(1, 9, 8)[0])
    with pytest.raises(ValueError, match=r"odd.png: expected an image of 10 × 8, as the first one; got 9 × 8. Give a"):
        datasets.image_folder(root, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    (root / "class/odd.png").write_text("text")
    with pytest.raises(ValueError, match=r"odd.png: expected an image; it cannot be read"):
        datasets.image_folder(root, size=4, cache=tmp_path / "cache")
    content = (root / "class/00.png").read_bytes()
    (root / "class/odd.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"odd.png: the image is damaged"):
        datasets.image_folder(root, size=4, cache=tmp_path / "cache")


def test_impossible_options_and_caches_are_refused(tmp_path):
    tree(tmp_path / "images", {"class": 2})
    for options, complaint in (
        ({"channels": 4}, r"channels: expected 3 \(colour\) or 1 \(grey\); got 4"),
        ({"size": 0}, "size: expected a positive height and width; got 0"),
        ({"classes": ["cow"]}, "'cow' is not among the classes of 'images'"),
        ({"per_class": 3}, "per_class: expected at most 2"),
    ):
        with pytest.raises(ValueError, match=complaint):
            datasets.image_folder(tmp_path / "images", **options)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cache: .*file cannot be written to .* Give another folder as cache"):
        datasets.image_folder(tmp_path / "images", cache=tmp_path / "file")


# ---- normalisation


def coloured(num: int = 20) -> Dataset:
    x = torch.from_numpy(images(num, 4, 5)).flatten(1).float() / 255 * torch.tensor([1.0, 0.5, 0.1]).repeat(20)
    return Dataset("coloured", x, torch.zeros(num, dtype=torch.int64), ("all",), (4, 5, 3))


def test_each_channel_is_normalised_to_mean_zero_and_variance_one():
    channels = coloured().normalised().x.unflatten(1, (-1, 3))
    torch.testing.assert_close(channels.mean((0, 1)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(channels.var((0, 1), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    digits = datasets.digits().normalised()  # grey: one mean for all pixels
    assert digits.normalisation.mean.shape == (1,)
    torch.testing.assert_close(digits.x.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    sphere = datasets.sphere(50).normalised()
    torch.testing.assert_close(sphere.x.std(0, correction=0), torch.ones(3), atol=1e-5, rtol=0)
    assert sphere.distance is None and sphere.immersion is None


def test_original_is_the_inverse_of_normalised():
    data = coloured()
    changed = data.normalised().rows(torch.tensor([3, 1]))
    torch.testing.assert_close(changed.original(changed.x), data.x[[3, 1]])
    double = changed.x.double()[None]
    torch.testing.assert_close(changed.normalisation.normalised(changed.original(double)), double)
    assert torch.equal(data.original(data.x), data.x)


def test_test_data_are_normalised_by_the_training_data():
    train, test = coloured().split(0.5)
    train = train.normalised()
    same = test.normalised(train.normalisation)
    torch.testing.assert_close(same.original(same.x), test.x)
    assert abs(float(same.x.mean())) > 1e-4
    with pytest.raises(ValueError, match="'coloured' is normalised already"):
        train.normalised()


def test_a_constant_channel_is_only_shifted():
    x = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    data = Dataset("pair", x, torch.zeros(2, dtype=torch.int64), ("all",), (2,)).normalised()
    assert torch.equal(data.x, torch.tensor([[0.0, -1.0], [0.0, 1.0]]))


def test_impossible_normalisations_are_refused():
    with pytest.raises(ValueError, match="std: expected positive"):
        Normalisation(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="expected a multiple of 3 features"):
        Normalisation(torch.zeros(3), torch.ones(3)).original(torch.zeros(2, 4))
