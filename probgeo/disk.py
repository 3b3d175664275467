"""Files and folders that are written whole or not at all, under a name of their writer's own until they are done.

A sealed file ends with a line that holds the hash of what stands before it, and what it was made of. Readers of netCDF
and of NumPy's files stop where their data end, and do not see it.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_SEAL = b'\n{"sha256": '
_FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def path_of(name: str, given: Any) -> Path:
    """A folder's path, which may not be there yet.

    Args:
        name: of the argument.
        given: a string or path.

    Raises:
        TypeError: something else.
        OSError, ValueError: a file, or what no folder can be called.
    """
    try:
        path = Path(given)
        path.lstat()
    except FileNotFoundError:
        return path
    except NotADirectoryError as error:
        place = _file_on_the_way(path)
        raise NotADirectoryError(
            f"{name}: {path} cannot be, as {place} is a file, and no folder: delete it, or choose another folder."
        ) from error
    except TypeError as error:
        raise TypeError(f"{name}: expected the path of a folder; got {given!r}.") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise type(error)(f"{name}: expected the path of a folder; got {str(given)[:200]!r} ({why}).") from error
    if not path.is_dir():
        raise FileExistsError(f"{name}: expected a folder, or the name of a new one; {path} is a file.")
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; at the end of the block what stands there becomes `path`, in one step.

    Where the block raises, nothing is left, and what `path` held before stays. Several writers do not meet: the last
    one's file stays. What has its name is on the disk, and its name too.

    Raises:
        OSError: the disk is full, or may not be written to, in words.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
        >>> with whole_file(path) as unfinished:
        ...     _ = unfinished.write_text("done")
        >>> path.read_text()
        'done'
    """
    with _in_words(path):
        _make(path.parent)
        unfinished = _name_of_its_own(path)
        try:
            yield unfinished
            _flush(unfinished)
            os.replace(unfinished, path)
            _flush(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; at the end of the block it becomes `path`, in place of what stood there.

    Where the block raises, nothing is left, and what `path` held before stays. Several writers do not meet: one's
    folder stays, whole.

    Raises:
        OSError: the disk is full, or may not be written to, in words.
    """
    with _in_words(path):
        _make(path.parent)
        unfinished, former = _name_of_its_own(path), _name_of_its_own(path)
        unfinished.mkdir()
        try:
            yield unfinished
            for file in [*unfinished.rglob("*"), unfinished]:
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
            _flush(path.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def seal(path: Path, of: Any = None) -> None:
    """Add the line that holds the hash of what a file holds, by which `unsealed` tells whether it is damaged.

    Args:
        path: of a file of netCDF, of NumPy, or another whose readers stop at their data's end.
        of: what it was made of, JSON-able; it stands in the line.
    """
    line = {"sha256": _hash(path.read_bytes(), of), "of": of}
    with path.open("ab") as file:
        file.write(b"\n" + json.dumps(line).encode() + b"\n")


def unsealed(path: Path, remedy: str) -> tuple[bytes, Any]:
    """What a file holds, and what it was made of; of one without a seal, as older versions wrote them, all and None.

    Raises:
        ValueError: it is not what was sealed, with the remedy.
    """
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise ValueError(f"folder: {path} is a folder, and no file. {remedy}") from error
    begin = content.rfind(_SEAL)
    if begin < 0:
        return content, None
    try:
        line = json.loads(content[begin:])
        if _hash(content[:begin], line["of"]) != line["sha256"]:
            raise ValueError("its checksum is that of other content")
    except (ValueError, KeyError) as error:
        raise ValueError(f"folder: {path} is damaged ({error}). {remedy}") from error
    return content[:begin], line["of"]


def _hash(content: bytes, of: Any) -> str:
    return hashlib.sha256(content + json.dumps(of).encode()).hexdigest()


def is_read_only(error: OSError) -> bool:
    """Whether it says that something may not be written to."""
    return error.errno in READ_ONLY


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """What a user can do where the disk is full or may not be written to."""
    try:
        yield
    except Exception as error:
        code = getattr(error, "errno", None)
        # Some libraries say in their own error's text alone what the system answered.
        if code in _FULL or "No space left on device" in str(error):
            why, code = "its disk is full: free some space there", code or errno.ENOSPC
        elif code in READ_ONLY:
            why = f"it may not be written to ({os.strerror(code)}): allow it, or choose another folder"
        elif isinstance(error, IsADirectoryError):
            why = "a folder has its name: delete that"
        elif isinstance(error, (FileExistsError, NotADirectoryError)) and (place := _file_on_the_way(path)):
            why = f"{place} is a file, and no folder: delete it, or choose another folder"
        else:
            raise
        told = OSError(f"folder: {path} cannot be written, as {why}. What was finished before is kept; run it again.")
        told.errno = code
        raise told from error


def _file_on_the_way(path: Path) -> Path | None:
    """What stands where a folder has to be."""
    return next((place for place in path.parents if os.path.lexists(place) and not place.is_dir()), None)


def _make(folder: Path) -> None:
    """Make a folder and those on the way, whose names are on the disk then."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        _flush(place.parent)


def _name_of_its_own(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.unfinished")


def _flush(path: Path) -> None:
    """What was written to a file, or the names in a folder, are on the disk."""
    if path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    elif os.name == "posix":  # elsewhere folders cannot be opened
        folder = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # of a file system without it
                os.fsync(folder)
        finally:
            os.close(folder)
