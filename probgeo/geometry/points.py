"""Latent points as they come, from torch or NumPy."""

import numpy as np
import torch
from torch import Tensor

Points = Tensor | np.ndarray


def latent_points(name: str, values: Points) -> Tensor:
    """The points as a tensor without a history of gradients, each element in a place of its own.

    Args:
        name: of the argument.
        values: a floating-point tensor or array of any shape, on any device, in float32 or float64.

    Returns:
        The same values; a copy where they lay otherwise, none where not.

    Raises:
        TypeError: neither tensor nor array, or of another dtype.
    """
    if isinstance(values, np.ndarray) and values.dtype in (np.float32, np.float64):
        values = torch.from_numpy(np.ascontiguousarray(values))
    if not isinstance(values, Tensor) or values.dtype not in (torch.float32, torch.float64):
        found = getattr(values, "dtype", type(values).__name__)
        raise TypeError(
            f"{name}: expected a floating-point tensor or array of float32 or float64; got {found}. Use {name}.float()."
        )
    return values.detach().contiguous()
