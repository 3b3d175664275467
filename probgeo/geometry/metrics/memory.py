"""How many points are evaluated at once."""

import torch
from jaxtyping import Float
from torch import Tensor


def chunk_points(points: Float[Tensor, "point latent"], memory: int | None, num_floats: int, *, fused: bool) -> int:
    """How many points fit the memory budget, two or more.

    Args:
        points: any of them.
        memory: bytes; None for what suits the device. On a CPU: within the caches, which is faster by far, for fused
            kernels, which are few; more for general maps, each evaluation of which takes the interpreter milliseconds.
            On a GPU: many.
        num_floats: what is held for one point.
        fused: whether they are evaluated by a fused kernel.
    """
    if memory is None:
        on_cpu = (3 * 2**19 if fused else 2**24) * torch.get_num_threads()
        memory = on_cpu if points.device.type == "cpu" else 2**30
    return max(2, memory // (points.element_size() * max(1, num_floats)))
