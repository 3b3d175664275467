"""Small result files, and the runs that write and read them."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr

from experiments.common.options import output_folder
from probgeo.disk import whole_file


def carried_out(name: str, config: Any, compute: Callable, report: Callable) -> Path | None:
    """compute(config, folder), which writes folder/NAME.nc, then report(file, folder); or report alone, of a result.

    Args:
        name: of the experiment.
        config: with fields `out` and `result`, and `preset` if there are any.
        compute: everything that takes time.
        report: tables and figures of a result file.

    Returns:
        The folder; None where nothing was computed.
    """
    if config.result:
        report(config.result, config.out or config.result.parent)
        return None
    folder = output_folder(name, getattr(config, "preset", None), config.out)
    compute(config, folder)
    report(folder / f"{name}.nc", folder)
    return folder


def rounded(values: xr.Dataset) -> xr.Dataset:
    """Floating-point variables to 17 significant bits: a relative error below 1e-5, and a smaller file."""

    def one(variable: xr.DataArray) -> xr.DataArray:
        if variable.dtype.kind != "f":
            return variable
        mantissa, exponent = np.frexp(variable)
        return variable.copy(data=np.ldexp(np.round(mantissa * 2**17) / 2**17, exponent))

    return values.assign({name: one(variable) for name, variable in values.data_vars.items()})


def save_result(groups: Mapping[str, xr.Dataset], config: Any, path: Path) -> None:
    """Write datasets, `rounded`, as groups of one small file, configuration and version in attrs; whole or not."""
    shown = {key: value.name if isinstance(value, Path) else value for key, value in dataclasses.asdict(config).items()}
    attrs = {"config": json.dumps(shown), "probgeo": version("probgeo")}
    with whole_file(path) as file:
        for group, dataset in groups.items():
            encoding: dict[Any, dict[str, Any]] = {
                name: {
                    "zlib": True,
                    "complevel": 9,
                    "shuffle": True,
                    **({"dtype": "float32"} if variable.dtype.kind == "f" else {}),
                }
                for name, variable in dataset.variables.items()
                if variable.dtype.kind in "fiu"
            }
            rounded(dataset).assign_attrs(attrs).to_netcdf(file, "a", group=group, engine="h5netcdf", encoding=encoding)


def load_result(path: Path) -> dict[str, xr.Dataset]:
    """The groups that `save_result` wrote."""
    with h5netcdf.File(path) as file:
        return {name: xr.load_dataset(path, group=name, engine="h5netcdf") for name in file.groups}


def run(main: Callable[[], None]) -> None:
    """main(), with what a user can mend (a wrong value, a missing file, an occupied folder) told in one line."""
    try:
        main()
    except (ValueError, OSError, ArithmeticError) as error:
        raise SystemExit(f"error: {error}") from error
