"""Published data sets: bundled with scikit-learn, or downloaded once, verified and cached.

Files lie in the folder `PROBGEO_DATA`, else in the platform's cache folder, as mnist/train-images-idx3-ubyte.gz and
so on; a file put there by hand is used as it is, and a folder that cannot be written to will do.
"""

import gzip
import os
from pathlib import Path

import numpy as np
import pooch
import torch
from jaxtyping import Shaped

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.files.arrays import opened_arrays

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FASHION_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
_FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DIGIT_NAMES = tuple("0123456789")
# Of one commit, whose name is a hash of what it holds.
_TASIC_URL = (
    "https://raw.githubusercontent.com/berenslab/rna-seq-tsne/f6a0a75b59f45fda600f36d4c701cf0e54de2bf3/"
    "data/tasic-preprocessed/"
)
_TASIC_SHAPE, _TASIC_TYPES = (23822, 50), 133
# Sample variances of the first principal components, as printed by users of the published matrix.
_TASIC_VARIANCES = (1737.30, 1096.20, 411.31, 249.90)


def cache_folder() -> Path:
    """Folder of downloaded files: `PROBGEO_DATA` where it is set, else the platform's cache folder.

    Returns:
        The folder; it need not exist.

    Example:
        >>> import os, probgeo as pg
        >>> folder = pg.datasets.cache_folder()
        >>> folder.is_absolute() or "PROBGEO_DATA" in os.environ
        True
    """
    return Path(os.environ.get("PROBGEO_DATA") or pooch.os_cache("probgeo")).expanduser()


def cached_file(name: str, url: str, md5: str | None) -> Path:
    """Local path of a published file, downloaded if it is not in the cache; its MD5 checksum is verified.

    Args:
        name: path below the cache folder, "mnist/train-images-idx3-ubyte.gz".
        url: where the file is published.
        md5: published checksum; None where there is none, then the caller verifies the contents.

    Returns:
        the path; nothing is written where the file is there already.

    Raises:
        OSError: the file is not there, and it cannot be downloaded or stored.
        ValueError: the file, present or downloaded, has another checksum.
    """
    path = cache_folder() / name
    if path.exists():
        if md5 is not None and (found := pooch.file_hash(str(path), alg="md5")) != md5:
            raise ValueError(
                f"{path}: expected the MD5 checksum {md5}; got {found}. The file is damaged or another one: "
                f"delete it to download it again, or replace it with {url} ."
            )
        return path
    known_hash = None if md5 is None else f"md5:{md5}"
    try:
        pooch.retrieve(url, known_hash, fname=path.name, path=path.parent, progressbar=True)
    except ValueError as error:
        raise ValueError(
            f"{url}: the downloaded file has not the MD5 checksum {md5} and was thrown away. "
            f"Try again, or download it by hand and put it at {path} ."
        ) from error
    except OSError as error:
        raise OSError(
            f"{name}: not in the cache, and the download of {url} failed ({error}). Put the file at {path} by hand, "
            "or set the environment variable PROBGEO_DATA to a folder that has it under that name."
        ) from error
    return path


def digits() -> Dataset:
    """Handwritten digits, 1 797 images of 8 × 8, x in [0, 1]; bundled with scikit-learn, no download.

    Returns:
        the data set, classes "0" … "9".

    Example:
        >>> import probgeo as pg
        >>> digits = pg.datasets.digits()
        >>> digits.x.shape, digits.shape, digits.x.max()
        (torch.Size([1797, 64]), (8, 8), tensor(1.))

    References:
        Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.data / 16).float()
    return Dataset("digits", x, torch.from_numpy(bunch.target).long(), _DIGIT_NAMES, shape=(8, 8))


def mnist(train: bool | None = True) -> Dataset:
    """MNIST: 60 000 (train) or 10 000 (test) handwritten digits of 28 × 28, x in [0, 1].

    Args:
        train: the training images, or the test images; None: both, for `Dataset.split`.

    Returns:
        the data set, classes "0" … "9".

    Raises:
        OSError: a file is neither in the cache nor can it be downloaded.
        ValueError: a file has a wrong checksum.

    Example:
        >>> import probgeo as pg
        >>> test = pg.datasets.mnist(train=False)  # doctest: +SKIP

    References:
        LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document recognition.
    """
    return _idx_images("mnist", train, _MNIST_URL, _MNIST_MD5, _DIGIT_NAMES)


def fashion_mnist(train: bool | None = True) -> Dataset:
    """Fashion-MNIST: 60 000 (train) or 10 000 (test) pictures of clothes of 28 × 28, x in [0, 1].

    Args:
        train: the training images, or the test images; None: both, for `Dataset.split`.

    Returns:
        the data set, classes "T-shirt/top" … "Ankle boot".

    Raises:
        OSError: a file is neither in the cache nor can it be downloaded.
        ValueError: a file has a wrong checksum.

    Example:
        >>> import probgeo as pg
        >>> test = pg.datasets.fashion_mnist(train=False)  # doctest: +SKIP

    References:
        Xiao, Rasul & Vollgraf (2017), Fashion-MNIST.
    """
    return _idx_images("fashion_mnist", train, _FASHION_URL, _FASHION_MD5, _FASHION_NAMES)


def tasic(path: str | Path | None = None) -> Dataset:
    """Transcriptomes of 23 822 cells of the mouse cortex, 50 principal components, 133 cell types with colours.

    The published arrays have no published checksum: they are those of one commit of their repository. It is verified
    that they are 23 822 × 50 finite numbers whose first components have the known variances, with 133 types.

    Args:
        path: a local npz file to read instead, with the arrays x (row, feature), label (row,) codes, label_names
            (class,) and label_colors (class, 3) of 0 … 255; the data set takes the name of the file.

    Returns:
        the data set, one class for each cell type, in alphabetic order where it is the published one.

    Raises:
        OSError: a file is neither in the cache nor can it be downloaded; `path` does not exist.
        ValueError: arrays that are not those described.

    Example:
        >>> import pathlib, tempfile, numpy as np, probgeo as pg
        >>> cells = {"x": np.zeros((3, 50), dtype=np.float32), "label": np.array([0, 1, 1])}
        >>> types = {"label_names": np.array(["Sst", "Pvalb"]), "label_colors": np.array([[255, 0, 0], [0, 0, 255]])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(pathlib.Path(folder) / "mine.npz", **cells, **types)
        ...     data = pg.datasets.tasic(pathlib.Path(folder) / "mine.npz")  # without a path, the published cells
        >>> data.x.shape, data.label_names
        (torch.Size([3, 50]), ('Sst', 'Pvalb'))

    References:
        Tasic et al. (2018), Shared and distinct transcriptomic cell types across neocortical areas.
        Kobak & Berens (2019), The art of using t-SNE for single-cell transcriptomics: the preprocessing.
    """
    if path is not None:
        return _npz_table(Path(path))
    components, types, colours = (
        np.load(cached_file(f"tasic/{name}", _TASIC_URL + name, md5=None), allow_pickle=False)
        for name in ("tasic-pca50.npy", "tasic-ttypes.npy", "tasic-colors.npy")
    )
    names, first_row, codes = np.unique(types, return_index=True, return_inverse=True)
    sizes = (components.shape, types.shape, len(colours), len(names))
    expected = (_TASIC_SHAPE, _TASIC_SHAPE[:1], _TASIC_SHAPE[0], _TASIC_TYPES)
    if sizes != expected:
        raise ValueError(
            f"{cache_folder() / 'tasic'}: expected components, types, number of colours and of distinct types "
            f"{expected}; got {sizes}. Delete the files there to download them again."
        )
    finite = np.isfinite(components)
    variances = np.where(finite, components, 0)[:, :4].var(axis=0, ddof=1, dtype=np.float64)
    if not finite.all() or not np.allclose(variances, _TASIC_VARIANCES, rtol=1e-2):
        raise ValueError(
            f"{cache_folder() / 'tasic' / 'tasic-pca50.npy'}: expected finite numbers, the first columns with "
            f"variances {_TASIC_VARIANCES}; got {np.count_nonzero(~finite)} that are not finite and variances "
            f"{tuple(variances.round(2).tolist())}. Delete the file to download it again."
        )
    return _table("tasic", components, codes, names, colours[first_row])


def _npz_table(path: Path) -> Dataset:
    with opened_arrays(path) as arrays:
        missing = {"x", "label", "label_names", "label_colors"} - set(arrays)
        if missing:
            raise ValueError(f"path: {path} lacks the arrays {sorted(missing)}; it has {sorted(arrays)}.")
        x = arrays["x"]
        if x.ndim != 2 or not np.isfinite(x).all():
            raise ValueError(f"path: expected x in {path} to be (row, feature) and finite; got shape {x.shape}.")
        return _table(path.stem, x, arrays["label"], arrays["label_names"], arrays["label_colors"])


def _table(name: str, x: np.ndarray, codes: np.ndarray, names: np.ndarray, colours: np.ndarray) -> Dataset:
    return Dataset(
        name=name,
        x=torch.from_numpy(x.astype(np.float32)),
        labels=torch.from_numpy(codes.astype(np.int64)),
        label_names=tuple(names.tolist()),
        shape=(x.shape[1],),
        colours=_hex_colours(colours),
    )


def _hex_colours(colours: Shaped[np.ndarray, "colour ..."]) -> tuple[str, ...]:
    """Colours as "#rrggbb", from such strings or from (colour, 3) integers of 0 … 255."""
    if colours.ndim == 1:
        return tuple(str(colour) for colour in colours)
    return tuple("#{:02x}{:02x}{:02x}".format(*(int(channel) for channel in colour)) for colour in colours)


def _idx_images(
    folder: str, train: bool | None, url: str, md5: dict[str, str], label_names: tuple[str, ...]
) -> Dataset:
    """Images and labels of one half of an MNIST-like data set, or of both."""
    halves = {True: ("train",), False: ("t10k",), None: ("train", "t10k")}[train]
    parts = [
        [_idx_array(cached_file(f"{folder}/{name}", url + name, md5[name])) for name in names]
        for names in ([f"{half}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")] for half in halves)
    ]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    x = torch.from_numpy(images).flatten(1).float() / 255
    test = torch.arange(len(x)) >= len(parts[0][0]) if train is None else None
    return Dataset(folder, x, torch.from_numpy(labels).long(), label_names, images.shape[1:], test=test)


def _idx_array(path: Path) -> Shaped[np.ndarray, "..."]:
    """Array in a gzipped idx file of bytes: two zero bytes, type, number of axes, their sizes, then the values."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    num_axes = content[3]
    sizes = np.frombuffer(content, ">u4", count=num_axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(tuple(int(size) for size in sizes))
