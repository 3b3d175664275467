"""Small colour photographs: CIFAR-10, CIFAR-100 and SVHN, downloaded once, verified and cached; x in [0, 1].

CIFAR is read from its binary version: the other versions are pickles, and nothing is unpickled.
"""

import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt8

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.published.images import cached_file

_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_SVHN_URL = "https://ufldl.stanford.edu/housenumbers/"
# As published on the page of CIFAR; SVHN's are those that torchvision checks.
_MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
_SHAPE = (32, 32, 3)
_NUM_BYTES = 32 * 32 * 3


def cifar10(train: bool = True) -> Dataset:
    """CIFAR-10: 50 000 (train) or 10 000 (test) photographs of 32 × 32 × 3 in ten classes, x in [0, 1].

    Args:
        train: the training images, else the test images.

    Returns:
        the data set, classes "airplane" … "truck".

    Raises:
        OSError: the archive is neither in the cache nor can it be downloaded.
        ValueError: the archive has a wrong checksum, or lacks a file.

    Example:
        >>> import probgeo as pg
        >>> test = pg.datasets.cifar10(train=False)  # doctest: +SKIP

    References:
        Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """
    batches = [f"data_batch_{index}.bin" for index in range(1, 6)] if train else ["test_batch.bin"]
    archive, files = _cifar_files("cifar10", "cifar-10-binary.tar.gz", [*batches, "batches.meta.txt"])
    names = _lines(files.pop("batches.meta.txt"))
    return _cifar("cifar10", archive, files, num_labels=1, which=0, label_names=names)


def cifar100(train: bool = True, coarse: bool = False) -> Dataset:
    """CIFAR-100: 50 000 (train) or 10 000 (test) photographs of 32 × 32 × 3 in a hundred classes, x in [0, 1].

    Args:
        train: the training images, else the test images.
        coarse: labels are the 20 superclasses, else the 100 classes.

    Returns:
        the data set.

    Raises:
        OSError: the archive is neither in the cache nor can it be downloaded.
        ValueError: the archive has a wrong checksum, or lacks a file.

    Example:
        >>> import probgeo as pg
        >>> test = pg.datasets.cifar100(train=False, coarse=True)  # doctest: +SKIP

    References:
        Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """
    meta = "coarse_label_names.txt" if coarse else "fine_label_names.txt"
    wanted = ["train.bin" if train else "test.bin", meta]
    archive, files = _cifar_files("cifar100", "cifar-100-binary.tar.gz", wanted)
    names = _lines(files.pop(meta))
    return _cifar("cifar100", archive, files, num_labels=2, which=0 if coarse else 1, label_names=names)


def svhn(train: bool = True) -> Dataset:
    """SVHN, cropped digits: 73 257 (train) or 26 032 (test) house numbers of 32 × 32 × 3, x in [0, 1].

    Args:
        train: the training images, else the test images.

    Returns:
        the data set, classes "0" … "9".

    Raises:
        OSError: the file is neither in the cache nor can it be downloaded.
        ValueError: the file has a wrong checksum, or holds something else.

    Example:
        >>> import probgeo as pg
        >>> test = pg.datasets.svhn(train=False)  # doctest: +SKIP

    References:
        Netzer et al. (2011), Reading digits in natural images with unsupervised feature learning.
    """
    from scipy.io import loadmat

    name = "train_32x32.mat" if train else "test_32x32.mat"
    path = cached_file(f"svhn/{name}", _SVHN_URL + name, _MD5[name])
    content = loadmat(path, variable_names=("X", "y"))
    images, digits = content.get("X", np.empty(0)), content.get("y", np.empty(0)).ravel()
    if images.shape != (*_SHAPE, len(digits)) or images.dtype != np.uint8:
        raise ValueError(
            f"{path}: expected bytes X of shape (32, 32, 3, image) and one y per image; got {images.dtype} of shape "
            f"{images.shape} and {len(digits)} labels. Use the file of cropped digits, {_SVHN_URL + name} ."
        )
    return _dataset("svhn", images.transpose(3, 0, 1, 2), digits % 10, tuple("0123456789"))  # 10 stands for 0


def _cifar_files(folder: str, archive: str, wanted: Sequence[str]) -> tuple[Path, dict[str, bytes]]:
    """The archive's path and the contents of the files wanted, by name without folder, in their order."""
    path = cached_file(f"{folder}/{archive}", _CIFAR_URL + archive, _MD5[archive])
    found: dict[str, bytes] = {}
    with tarfile.open(path) as members:
        for member in members:
            file = members.extractfile(member)
            name = Path(member.name).name
            if file is not None and name in wanted:
                found[name] = file.read()
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(
            f"{path}: expected the files {', '.join(wanted)} in the archive; {', '.join(missing)} missing."
        )
    return path, {name: found[name] for name in wanted}


def _lines(content: bytes) -> tuple[str, ...]:
    return tuple(content.decode().split())


def _cifar(
    name: str, archive: Path, files: dict[str, bytes], num_labels: int, which: int, label_names: tuple[str, ...]
) -> Dataset:
    """Records of one byte per label, then the image by channel, row and column."""
    size = num_labels + _NUM_BYTES
    for file, content in files.items():
        if not content or len(content) % size:
            raise ValueError(
                f"{archive}: expected {file} to hold records of {size} bytes, images of 32 × 32 × 3; got "
                f"{len(content)} bytes. Delete the archive to download it again."
            )
    records = np.frombuffer(b"".join(files.values()), np.uint8).reshape(-1, size)
    images = records[:, num_labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _dataset(name, images, records[:, which], label_names)


def _dataset(
    name: str,
    images: UInt8[np.ndarray, "row height width channel"],
    codes: Integer[np.ndarray, " row"],
    label_names: tuple[str, ...],
) -> Dataset:
    x = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32)).div_(255)
    return Dataset(name, x, torch.from_numpy(codes.astype(np.int64)), label_names, _SHAPE)
