"""What may happen to a file on a disk."""

import random
from collections.abc import Callable, Iterator


def flipped(content: bytes, place: int) -> bytes:
    """One bit is another."""
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def damages() -> Iterator[Callable[[bytes], bytes]]:
    """Truncated, emptied, overwritten in the middle, a bit flipped."""
    noise = random.Random(0).randbytes(48)
    yield lambda content: content[: len(content) // 3]
    yield lambda content: b""
    yield lambda content: content[: len(content) // 3] + noise + content[len(content) // 3 + 48 :]
    yield lambda content: flipped(content, len(content) // 3)
