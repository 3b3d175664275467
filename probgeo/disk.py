"""Files and folders that are written whole or not at all, under a name of their writer's own until they are done."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; at the end of the block what stands there becomes `path`, in one step.

    Where the block raises, nothing is left, and what `path` held before stays. Several writers do not meet: the last
    one's file stays.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
        >>> with whole_file(path) as unfinished:
        ...     _ = unfinished.write_text("done")
        >>> path.read_text()
        'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _name_of_its_own(path)
    try:
        yield unfinished
        _flush(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; at the end of the block it becomes `path`, in place of what stood there.

    Where the block raises, nothing is left, and what `path` held before stays. Several writers do not meet: one's
    folder stays, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished, former = _name_of_its_own(path), _name_of_its_own(path)
    unfinished.mkdir()
    try:
        yield unfinished
        for file in unfinished.rglob("*"):
            _flush(file)
        while True:
            try:
                os.replace(unfinished, path)
                break
            except OSError as error:  # a folder with files in it is not replaced: it steps aside
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            try:
                os.replace(path, former)
            except FileNotFoundError:  # another writer had it step aside
                continue
            shutil.rmtree(former)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _name_of_its_own(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.unfinished")


def _flush(path: Path) -> None:
    """What was written is on the disk before it gets its name."""
    if path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
