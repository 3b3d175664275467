"""Rows of one minibatch after another, where they are trained on."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from probgeo.rows import StoredRows, pinned, sent


def rows_in_turn(x: Tensor | StoredRows, which: Iterable[slice | Tensor]) -> Iterator[Tensor]:
    """x[index] of one index after another, on the device of x.

    What is stored, and trained on elsewhere than on the CPU, is read one ahead, by a thread of its own, into memory
    from which a GPU copies while it still computes.

    Args:
        x: (row, feature).
        which: slices, or numbers of rows, where x is a tensor on its device.
    """
    if isinstance(x, Tensor) or x.device.type == "cpu":
        yield from (x[index] for index in which)
        return
    here, device = x.to("cpu"), x.device

    def read(index: slice | Tensor) -> Tensor:
        return pinned(here[index], device)

    ahead: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(1) as reader:
        for index in which:
            ahead.append(reader.submit(read, index))
            if len(ahead) > 1:
                yield sent(ahead.popleft().result(), device)
        yield from (sent(last.result(), device) for last in ahead)
