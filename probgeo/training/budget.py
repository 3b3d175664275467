"""How many retrainings fit in memory at once, by a model of what each of them takes."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from probgeo.models.vae import LatentSpec
from probgeo.rows import StoredRows
from probgeo.training.objective import noise_shapes
from probgeo.training.recording import bytes_made
from probgeo.training.stacks import MAX_NOISE, examples, pyro_settings

SHARE = 0.5  # of the device's memory
# Weights; in training their gradients, twice while the step is recorded, two moments, and the two copies that a
# retraining goes back to.
COPIES_OF_WEIGHTS = 7
# What the forward pass makes, and what its derivative does.
PASSES = 3

_SHARE_OF_WORKER: ContextVar[float] = ContextVar("bytes that a worker may use", default=math.inf)


@contextmanager
def within(num_bytes: float) -> Iterator[None]:
    """Inside, the machine has no more memory than this: for a worker that shares it with others."""
    token = _SHARE_OF_WORKER.set(num_bytes)
    try:
        yield
    finally:
        _SHARE_OF_WORKER.reset(token)


@pyro_settings()
def bytes_of_retraining(
    spec: LatentSpec, train: Tensor | StoredRows, held_out: Tensor | StoredRows | None, seed: int, batch_size: int
) -> int:
    """Modelled memory: 7 · weights + 3 · all that a forward pass on a minibatch makes + 2 · the noise drawn at once.

    On rows held out there is no derivative, so that one forward pass counts; where it makes more than those of the
    minibatch, it takes their place. Measured peaks were 0.7 to 1.6 times as much
    for all decoders, hence only half of a memory is given out.

    Args:
        spec: of the models.
        train: rows to train on.
        held_out: rows to validate on, or None.
        seed: of the retraining that is tried.
        batch_size: rows of a minibatch.
    """
    model = spec.build(train.shape[1], seed).to(train[:1])
    minibatch, *blocks = examples(train, held_out, batch_size)
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    made = [bytes_made(partial(noise_shapes, model, rows)) for rows in (minibatch, *blocks)]
    noise = sum(shape.numel() for shape in noise_shapes(model, minibatch).values())
    at_once = min(max(noise, MAX_NOISE), noise * (len(train) // len(minibatch)))
    return COPIES_OF_WEIGHTS * weights + max(PASSES * made[0], *made) + 2 * at_once * minibatch.element_size()


def memory_of(device: torch.device) -> float:
    """Bytes that a device has: of a GPU, or of the machine, or what a container is given of it."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    limits = [_SHARE_OF_WORKER.get()]
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if path.exists() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return float(min(limits))


def num_at_once(
    spec: LatentSpec,
    train: Tensor | StoredRows,
    held_out: Tensor | StoredRows | None,
    seed: int,
    batch_size: int,
    most: int,
) -> int:
    """How many retrainings are trained at once: at most `most`, in half of the device's memory; at least one.

    It follows from sizes alone, and not from what else is running, so that one machine divides a stack in one way.
    """
    each = bytes_of_retraining(spec, train, held_out, seed, batch_size)
    return int(max(1, min(most, SHARE * memory_of(train.device) // each)))
