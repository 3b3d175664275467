"""Images in a small file, and as panels."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import probgeo as pg


def in_bytes(x: Tensor) -> np.ndarray:
    """Values of [0, 1], rounded to 256 steps: what is shown, in a small file."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def panels(images: np.ndarray, shape: np.ndarray, num_columns: int, rows: Sequence[object]) -> Figure:
    """Images (..., feature) as `in_bytes` stores them, in rows of so many, with the names of the rows."""
    values, size = images.reshape(-1, images.shape[-1]) / 255, tuple(int(length) for length in shape)
    return pg.plots.panels(values, size, num_columns, [str(row) for row in rows])
