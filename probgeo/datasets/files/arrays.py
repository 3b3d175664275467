"""Arrays of an npz file, refused before they are unpacked where they are far larger than the file."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

UNPACKED = 2**28  # bytes that any file may unpack to
PACKED = 200  # times as large as the file that it may unpack to beyond that; sparse counts reach about a hundred


@contextmanager
def opened_arrays(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of an npz file by name, closed at the end of the block; nothing is unpickled.

    Raises:
        ValueError: no npz file, or one that is far larger unpacked than packed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"path: expected an npz file; {path} is none ({error}).") from error
    if unpacked > max(UNPACKED, PACKED * path.stat().st_size):
        raise ValueError(
            f"path: {path} has {path.stat().st_size:,} bytes, and {unpacked:,} unpacked. If you trust it, write it "
            "anew by numpy.savez, which does not pack."
        )
    with np.load(path, allow_pickle=False) as arrays:
        yield arrays
