"""A bound on what is made inside: for models that are built on a file's word."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_SLACK, _MANY, _TENSORS = 2**24, 64, 10_000


class _Bound(TorchDispatchMode):
    def __init__(self, num_numbers: int, num_tensors: int) -> None:
        super().__init__()
        self.numbers, self.tensors = num_numbers, num_tensors

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch would wrap the method below in a function whose first call imports its compiler: seconds, for nothing.
        return False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = args[0] if args and isinstance(args[0], (list, tuple)) else ()
        if all(isinstance(length, int) for length in size):  # a new tensor's size comes first
            self.numbers -= prod(size)
            self.tensors -= bool(size)
        if self.numbers < 0 or self.tensors < 0:
            raise ValueError("it is of far more numbers than its weights are.")
        return operation(*args, **(kwargs or {}))


@contextmanager
def bounded(num_numbers: int, num_tensors: int) -> Iterator[None]:
    """Inside, no more is made than models of so many weights take by any means.

    Args:
        num_numbers: in their weights.
        num_tensors: that these are.

    Raises:
        ValueError: in time, before the memory is asked for.
    """
    with torch.no_grad(), _Bound(_MANY * num_numbers + _SLACK, _MANY * num_tensors + _TENSORS):
        yield
