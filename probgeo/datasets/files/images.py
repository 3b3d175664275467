"""Folders of images: any one, CelebA and Imagenette; resized as they are read, then mapped from a file on disk.

A set is read once, into a file of the cache folder that is mapped into memory: what is not in use takes no memory.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from PIL import Image, ImageOps
from torch import Tensor
from tqdm.auto import tqdm

from probgeo.datasets.dataset import Dataset, subset_rows
from probgeo.datasets.published.images import cache_folder
from probgeo.disk import whole_file
from probgeo.specs import digest

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MODES = {1: "L", 3: "RGB"}
_IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def image_folder(
    path: str | Path,
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    classes: Sequence[int | str] | None = None,
    per_class: int | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
) -> Dataset:
    """The images below a folder, one class per subfolder, x in [0, 1].

    Args:
        path: the folder; subfolders are classes, in alphabetical order; without subfolders all are of one class.
        size: (height, width), or one number for both: images are cropped to this shape about their centre, as little
            as possible, and resized. None: as they are, all of one size.
        channels: 3 for colour, 1 for grey.
        classes: codes or names of the classes to read; all by default.
        per_class: images drawn from each class, as by `Dataset.subset`; all by default.
        seed: of the draw.
        cache: folder of the file that is mapped into memory, 4 bytes per value; default `images` in the cache folder.
            It is written once for these images, as long as their names, sizes and dates stay.

    Returns:
        the data set, of shape (height, width, 3), or (height, width) if grey.

    Raises:
        FileNotFoundError: no such folder, or no images in it.
        OSError: the cache cannot be written to.
        ValueError: a file that is no image, images of several sizes, an argument outside its range.

    Example:
        >>> import pathlib, tempfile, numpy as np, probgeo as pg
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cats", "dogs"):
        ...         (pathlib.Path(folder) / "images" / name).mkdir(parents=True)
        ...         grey = Image.fromarray(np.full((6, 8, 3), 255, dtype=np.uint8))
        ...         grey.save(pathlib.Path(folder) / "images" / name / "one.png")
        ...     data = pg.datasets.image_folder(pathlib.Path(folder) / "images", size=4, cache=folder)
        ...     print(data.shape, data.label_names, data.x.max())
        (4, 4, 3) ('cats', 'dogs') tensor(1.)
    """
    return _of_classes(Path(path), {}, size, channels, classes, per_class, seed, cache)


def imagenette(
    train: bool = True,
    size: int | tuple[int, int] = 64,
    folder: str | Path | None = None,
    classes: Sequence[int | str] | None = None,
    per_class: int | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
) -> Dataset:
    """Imagenette: 9 469 (train) or 3 925 (validation) photographs in ten classes of ImageNet, x in [0, 1].

    Args:
        train: the training images, else the validation images.
        folder: the unpacked archive, with `train` and `val`; default imagenette2-160 in the cache folder.
        size, classes, per_class, seed, cache: as for `image_folder`.

    Returns:
        the data set, classes "tench" … "parachute".

    Raises:
        FileNotFoundError: the folder is not there.
        OSError, ValueError: as `image_folder`.

    Example:
        >>> import pathlib, tempfile, numpy as np, probgeo as pg
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     parachutes = pathlib.Path(folder) / "train" / "n03888257"
        ...     parachutes.mkdir(parents=True)
        ...     Image.fromarray(np.zeros((6, 8, 3), dtype=np.uint8)).save(parachutes / "one.png")
        ...     data = pg.datasets.imagenette(size=4, folder=folder, cache=folder)
        ...     print(data.shape, data.label_names)
        (4, 4, 3) ('parachute',)

    References:
        Howard (2019), Imagenette, github.com/fastai/imagenette.
    """
    root = Path(folder) if folder else cache_folder() / "imagenette2-160"
    path = root / ("train" if train else "val")
    if not path.is_dir():
        raise FileNotFoundError(
            f"folder: expected the images of Imagenette in {path}; there is no such folder. Unpack "
            "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz there, or give its folder."
        )
    return _of_classes(path, _IMAGENETTE, size, 3, classes, per_class, seed, cache, name="imagenette")


def celeba(
    attribute: str = "Smiling",
    train: bool = True,
    size: int | tuple[int, int] = 64,
    folder: str | Path | None = None,
    per_class: int | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
) -> Dataset:
    """CelebA, aligned faces: 162 770 (train) or 19 962 (test) photographs, labelled by an attribute, x in [0, 1].

    Args:
        attribute: one of the 40 of list_attr_celeba.txt.
        train: the training images, else the test images, by list_eval_partition.txt.
        folder: where img_align_celeba (the unpacked images) and the two lists are; default celeba in the cache folder.
        size, per_class, seed, cache: as for `image_folder`.

    Returns:
        the data set, classes "not Smiling" and "Smiling".

    Raises:
        FileNotFoundError: a list or an image is not there.
        OSError: the cache cannot be written to.
        ValueError: an unknown attribute, a file that is no image, an argument outside its range.

    Example:
        >>> import pathlib, tempfile, numpy as np, probgeo as pg
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     folder = pathlib.Path(parent)
        ...     (folder / "img_align_celeba").mkdir()
        ...     Image.fromarray(np.zeros((6, 8, 3), dtype=np.uint8)).save(folder / "img_align_celeba" / "000001.jpg")
        ...     with (folder / "list_attr_celeba.txt").open("w") as attributes:
        ...         print("1", "Smiling", "000001.jpg 1", sep=chr(10), file=attributes)
        ...     with (folder / "list_eval_partition.txt").open("w") as parts:
        ...         print("000001.jpg 0", file=parts)
        ...     data = pg.datasets.celeba("Smiling", size=4, folder=folder, cache=folder)
        ...     print(data.shape, data.class_counts())
        (4, 4, 3) {'Smiling': 1}

    References:
        Liu, Luo, Wang & Tang (2015), Deep learning face attributes in the wild.
    """
    root = Path(folder) if folder else cache_folder() / "celeba"
    lists = root / "list_attr_celeba.txt", root / "list_eval_partition.txt"
    for path in (*lists, root / "img_align_celeba"):
        if not path.exists():
            raise FileNotFoundError(
                f"folder: expected {path}; there is none. Get it from "
                "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and put it there, or give the folder that has it."
            )
    attributes = pd.read_csv(lists[0], sep=r"\s+", skiprows=1)
    partition = pd.read_csv(lists[1], sep=r"\s+", header=None, index_col=0)[1]
    if attribute not in attributes:
        raise ValueError(f"attribute: expected one of {', '.join(attributes)}; got {attribute!r}.")
    codes = attributes[attribute][partition[attributes.index] == (0 if train else 2)] > 0
    labels, names = torch.from_numpy(codes.to_numpy(dtype=np.int64)), (f"not {attribute}", attribute)
    kept = subset_rows("celeba", labels, names, per_class=per_class, seed=seed)
    files = [f"img_align_celeba/{codes.index[row]}" for row in kept.tolist()]
    x, shape = _mapped(root, files, size, 3, cache)
    return Dataset("celeba", x, labels[kept], names, shape)


def _of_classes(
    path: Path,
    names: Mapping[str, str],
    size: int | tuple[int, int] | None,
    channels: int,
    classes: Sequence[int | str] | None,
    per_class: int | None,
    seed: int,
    cache: str | Path | None,
    name: str | None = None,
) -> Dataset:
    """The images below `path`; a class is called what `names` calls its folder."""
    if not path.is_dir():
        raise FileNotFoundError(f"path: expected a folder of images; there is no folder {path}.")
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    found = [_image_files(path, folder) for folder in folders or ["."]]
    if not any(found):
        raise FileNotFoundError(f"path: expected images ({', '.join(_SUFFIXES)}) below {path}; there are none.")
    label_names = tuple(names.get(folder, folder) for folder in folders) or (path.name,)
    labels = torch.cat([torch.full((len(files),), code) for code, files in enumerate(found)])
    name = name or path.name
    kept = subset_rows(name, labels, label_names, classes, per_class, seed)
    files = [file for of_class in found for file in of_class]
    x, shape = _mapped(path, [files[row] for row in kept.tolist()], size, channels, cache)
    return Dataset(name, x, labels[kept], label_names, shape)


def _image_files(path: Path, folder: str) -> list[str]:
    """Images below path/folder, relative to path, sorted."""
    below = (path / folder).rglob("*")
    return sorted(file.relative_to(path).as_posix() for file in below if file.suffix.lower() in _SUFFIXES)


def _mapped(
    root: Path, files: Sequence[str], size: int | tuple[int, int] | None, channels: int, cache: str | Path | None
) -> tuple[Float32[Tensor, "row feature"], tuple[int, ...]]:
    """The images as rows of a memory-mapped file, which is written if it is not there; and the shape of one."""
    if channels not in _MODES:
        raise ValueError(f"channels: expected 3 (colour) or 1 (grey); got {channels}.")
    height, width = (size, size) if isinstance(size, int) else size or _size(root / files[0])
    if min(height, width) < 1:
        raise ValueError(f"size: expected a positive height and width; got {size}.")
    shape = (height, width) if channels == 1 else (height, width, channels)
    listing = [(file, (stat := _stat(root / file)).st_size, stat.st_mtime_ns) for file in files]
    path = Path(cache or cache_folder() / "images") / f"{root.name}-{digest(listing, shape, size is None)}.npy"
    if not path.exists():
        _write(path, [root / file for file in files], shape, resized=size is not None)
    # Copy on write: torch has no read-only tensors, and the file stays as it is.
    return torch.from_numpy(np.load(path, mmap_mode="c")), shape


def _stat(file: Path) -> os.stat_result:
    if not file.exists():
        raise FileNotFoundError(f"{file}: the image is listed, but there is no such file. Unpack the images again.")
    return file.stat()


def _write(path: Path, files: Sequence[Path], shape: tuple[int, ...], resized: bool) -> None:
    """Write the images' values to a NumPy file, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            rows = np.lib.format.open_memmap(unfinished, "w+", np.float32, (len(files), int(np.prod(shape))))
            for row, file in enumerate(tqdm(files, desc="reading images", unit="image", disable=None)):
                rows[row] = _values(file, shape, resized)
            rows.flush()
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise OSError(
            f"cache: {path.parent} cannot be written to ({error}). Give another folder as cache, or set the "
            "environment variable PROBGEO_DATA."
        ) from error


def _size(file: Path) -> tuple[int, int]:
    """Height and width of an image."""
    with opened_image(file) as image:
        return image.height, image.width


def opened_image(file: Path) -> Image.Image:
    """An image file; its pixels are not read yet.

    Raises:
        ValueError: no image, or one of far too many pixels.
    """
    try:
        return Image.open(file)
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: expected an image; it cannot be read ({error}). Remove or replace it.") from error


def _values(file: Path, shape: tuple[int, ...], resized: bool) -> Float32[np.ndarray, " feature"]:
    """The image's values in [0, 1], one flat row."""
    height, width = shape[:2]
    with opened_image(file) as image:
        if not resized and (image.height, image.width) != (height, width):
            raise ValueError(
                f"{file}: expected an image of {height} × {width}, as the first one; got {image.height} × "
                f"{image.width}. Give a size, so that all are resized to it."
            )
        try:
            pixels = image.convert(_MODES[shape[2] if len(shape) == 3 else 1])
        except OSError as error:
            raise ValueError(f"{file}: the image is damaged ({error}). Remove or replace it.") from error
    if resized:
        pixels = ImageOps.fit(pixels, (width, height))
    return np.asarray(pixels, dtype=np.float32).ravel() / 255
