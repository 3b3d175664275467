"""How many points are evaluated at once, and the memory that one evaluation leaves to the next."""

import functools

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
    _keep_freed()
    if memory is None:
        on_cpu = (3 * 2**19 if fused else 2**25) * torch.get_num_threads()
        memory = on_cpu if points.device.type == "cpu" else 2**30
    return max(2, memory // (points.element_size() * max(1, num_floats)))


@functools.cache
def _keep_freed() -> None:
    """Lets the C library keep what one chunk frees for the next one, once in a process.

    glibc gives the top of its heap back to the system when more of it is free than twice the largest block that was
    mapped and freed, at most 32 MB; a page of 4 kB that is asked for again is a fault. Tensors of each chunk of a
    general map then took a third of its time. Here such a block is taken and freed, none of its pages touched.

    References:
        mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)
