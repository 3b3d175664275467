"""netCDF files: sealed, read at once, refused where they lead elsewhere or hold far more than their bytes."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import xarray as xr

from probgeo.disk import seal, unsealed, whole_file

UNPACKED = 2**28  # bytes that any file may unpack to
PACKED = 200  # times as large as the file that it may unpack to beyond that
MAX_OBJECTS = 20_000  # in a file

Found = TypeVar("Found")


def write_netcdf(path: Path, dataset: xr.Dataset, of: str | None = None) -> None:
    """One sealed file, whole or not at all; `of` says what it is of, by which `read_netcdf` tells another's."""
    with whole_file(path) as unfinished:
        dataset.to_netcdf(unfinished, engine="h5netcdf")
        seal(unfinished, of)


def read_netcdf(path: Path, remedy: str, of: str | None = None) -> xr.Dataset:
    """What a file holds, in memory; nothing but that file is read.

    Args:
        path: of the file, from wherever it comes.
        remedy: what the error advises.
        of: what it was written as, where that was said; None for anything.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or another's that was renamed, or it leads to other files, or it is far larger
            unpacked than packed.
    """
    return _read(path, remedy, lambda content, _: xr.load_dataset(content, engine="h5netcdf"), of)


def read_groups(path: Path, remedy: str) -> dict[str, xr.Dataset]:
    """The same of a file's groups, by name."""

    def loaded(content: io.BytesIO, groups: list[str]) -> dict[str, xr.Dataset]:
        return {name: xr.load_dataset(content, group=name, engine="h5netcdf") for name in groups}

    return _read(path, remedy, loaded)


def _read(path: Path, remedy: str, load: Callable[[io.BytesIO, list[str]], Found], of: str | None = None) -> Found:
    """What `load` makes of a file's bytes and the names of its groups, once it is known to hold no more than itself."""
    content, sealed = unsealed(path, remedy)
    if of is not None and sealed not in (None, of):
        raise ValueError(f"folder: {path} is another file that was renamed: it was written as {sealed!r}. {remedy}")
    fault = ""
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            fault = _fault(file, len(content))
            groups = [] if fault else [name for name in file if isinstance(file[name], h5py.Group)]
        if not fault:
            return load(io.BytesIO(content), groups)
    except Exception as error:  # of any kind, as a damaged file breaks the library anywhere
        why = " ".join(str(error).split())
        raise ValueError(f"folder: {path} is damaged ({why}). {remedy}") from error
    raise ValueError(f"folder: {path} {fault}, so that it is not read. {remedy}")


def _fault(file: h5py.File, size: int) -> str:
    """Why a file is not read, before any of its values are; empty where it is."""
    groups: list[Any] = [file]
    num_objects = num_bytes = 0
    while groups:
        group = groups.pop()
        for name in group:
            num_objects += 1
            if num_objects > MAX_OBJECTS:
                return f"holds more than {MAX_OBJECTS:,} objects, or itself"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                return f"leads to another file, by its {name!r}"
            if isinstance(link, h5py.SoftLink):  # what it names is looked at where it stands
                continue
            found = group[name]
            if isinstance(found, h5py.Group):
                groups.append(found)
            elif isinstance(found, h5py.Dataset):
                if found.external or found.is_virtual:
                    return f"leads to another file, by its {name!r}"
                num_bytes += (found.size or 0) * found.dtype.itemsize
    return f"has {size:,} bytes, and {num_bytes:,} unpacked" if num_bytes > max(UNPACKED, PACKED * size) else ""
