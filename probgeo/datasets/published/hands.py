"""Hands: depth images and joints, two views of a pose."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.files.images import opened_image
from probgeo.datasets.views import two_views

_ICVL_FOCAL_LENGTH = 241.42  # pixels
_ICVL_JOINTS = 16


def hand_poses(
    folder: str | Path, train: bool = True, size: int = 32, reach: float = 120.0, max_rows: int | None = None
) -> Dataset:
    """Depth images of hands and the positions of 16 joints, from a local copy of ICVL.

    The image is a square about the mean of the joints, `reach` wide to each side at their mean depth. Its values fall
    from 1 at `reach` in front of the mean depth to 0 at `reach` behind it, 0 also where nothing was measured. Joints
    are relative to the same centre, in units of `reach` (horizontal, vertical, depth).

    Args:
        folder: with Training/labels.txt and Training/Depth, or Testing/test_seq_*.txt and Testing/Depth: every line of
            a list is the path of a 16-bit PNG below Depth, in millimetres, and 16 × (column, row, depth).
        train: the training images, else the test images.
        size: height and width of the image view.
        reach: in millimetres.
        max_rows: rows read at most, evenly spaced; None for all.

    Returns:
        The views `depth` (size, size) and `joints` (48,); the classes are the sequences.

    Raises:
        FileNotFoundError: a list or an image is not there.
        ValueError: a line without 16 joints, or an argument that is not positive.

    Example:
        >>> import pathlib, tempfile, numpy as np, probgeo as pg
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = pathlib.Path(folder) / "Training" / "Depth" / "first"
        ...     images.mkdir(parents=True)
        ...     Image.fromarray(np.full((240, 320), 400, dtype=np.uint16)).save(images / "0.png")
        ...     with (pathlib.Path(folder) / "Training" / "labels.txt").open("w") as lines:
        ...         print("first/0.png", *16 * (160, 120, 400), file=lines)  # a hand without extent, in the middle
        ...     data = pg.datasets.hand_poses(folder, size=8)
        >>> data.views, data.view("joints").abs().max().item()
        ({'depth': (8, 8), 'joints': (48,)}, 0.0)

    References:
        Tang, Chang, Tejani & Kim (2014), Latent regression forest: structured estimation of 3D articulated hand
        posture.
    """
    if size < 1 or not reach > 0 or (max_rows is not None and max_rows < 1):
        raise ValueError(f"size, reach, max_rows: expected positive numbers; got {size}, {reach} and {max_rows}.")
    root = Path(folder) / ("Training" if train else "Testing")
    lists = [root / "labels.txt"] if train else sorted(root.glob("test_seq_*.txt"))
    if not lists or not lists[0].exists():
        raise FileNotFoundError(
            f"folder: expected {root / ('labels.txt' if train else 'test_seq_1.txt')}; there is none. Unpack ICVL "
            "(labicvl.github.io/hand.html) there."
        )
    lines = [line.split() for path in lists for line in path.read_text().splitlines() if line.strip()]
    if max_rows is not None and max_rows < len(lines):
        lines = [lines[i] for i in np.linspace(0, len(lines) - 1, max_rows).round().astype(int)]
    depths, joints = np.zeros((len(lines), size * size), np.float32), np.zeros((len(lines), 3 * _ICVL_JOINTS))
    for row, (file, *numbers) in enumerate(lines):
        if len(numbers) != 3 * _ICVL_JOINTS:
            raise ValueError(f"{file}: expected {_ICVL_JOINTS} joints of three numbers; got {len(numbers)} numbers.")
        positions = np.array(numbers, dtype=np.float64).reshape(-1, 3)
        centre = positions.mean(0)
        half = _ICVL_FOCAL_LENGTH * reach / centre[2]  # pixels
        depths[row] = _depth_crop(root / "Depth" / file, centre, half, size, reach).ravel()
        joints[row] = ((positions - centre) / (half, half, reach)).ravel()
    sequences = [file.partition("/")[0] for file, *_ in lines]
    shapes = ((size, size), (3 * _ICVL_JOINTS,))
    return two_views(depths, joints, names=("depth", "joints"), shapes=shapes, labels=sequences, name="hand_poses")


def _depth_crop(
    file: Path, centre: np.ndarray, half: float, size: int, reach: float
) -> Float[np.ndarray, "height width"]:
    """Depths about the centre, in [0, 1], near is 1; by the nearest pixel."""
    if not file.exists():
        raise FileNotFoundError(f"{file}: the image is listed, but there is no such file. Unpack the images again.")
    with opened_image(file) as image:
        depth = np.asarray(image, dtype=np.float64)
    offsets = (np.arange(size) + 0.5) / size * 2 * half - half
    columns, rows = (np.rint(middle + offsets).astype(int) for middle in centre[:2])
    inside = ((rows >= 0) & (rows < depth.shape[0]))[:, None] & ((columns >= 0) & (columns < depth.shape[1]))
    found = depth[rows.clip(0, depth.shape[0] - 1)[:, None], columns.clip(0, depth.shape[1] - 1)]
    value = (centre[2] + reach - found) / (2 * reach)
    return np.where(inside & (found > 0), value.clip(0, 1), 0)
