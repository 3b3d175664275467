"""One run of an experiment, its small result file, and the tables and figures that are written from it."""

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

import probgeo as pg
from experiments.common.options import Config, name_of, parsed
from probgeo.disk import seal, whole_file
from probgeo.netcdf import read_groups

Groups: TypeAlias = Mapping[str, xr.Dataset]
Shown: TypeAlias = tuple[Mapping[str, pd.DataFrame], Mapping[str, Figure]]
DOTS_PER_INCH = 150
COMPRESSED = 1000  # numbers, from which on a variable is: an index of its pieces takes 3 kB by itself
# Options that the first stored results do not hold yet.
NEWER = {
    *("alone", "angles", "as_released", "bends", "cluster", "dataset", "stack", "tight_pairs", "volumes", "workers"),
}


def run(
    kind: type[Config],
    compute: Callable[[Config, Path], Groups],
    report: Callable[[Groups], Shown],
    quick: Mapping[str, Any],
    presets: Mapping[str, Config] | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """A command line from end to end: `parsed`, and `carry_out`.

    Args:
        kind: class of configurations, see `options.Output`.
        compute, report: of `carry_out`.
        quick, presets, arguments: of `parsed`.

    Raises:
        SystemExit: what a user can mend, in one sentence.
    """
    with told():
        carry_out(parsed(kind, quick, presets or {}, arguments), compute, report)


def carry_out(config: Config, compute: Callable[[Config, Path], Groups], report: Callable[[Groups], Shown]) -> None:
    """Computes, or takes `--result FILE`; reports; says where everything is.

    Args:
        config: an `options.Output`.
        compute: everything that takes time: configuration and folder -> groups of the result file, NAME.nc.
        report: groups, as they are read back -> tables and figures by name; prints what is to be read.
    """
    if config.result:
        groups = load_result(config.result, type(config))
        write(*report(groups), config.out or config.result.parent, config.result.stem)
        return
    name = name_of(type(config))
    folder = folder_of(config, name)
    file = folder / f"{name}.nc"
    save_result(compute(config, folder), config, file)
    write(*report(load_result(file, type(config))), folder, name)
    models = folder / "trainings"
    print(f"result: {file}" + (f"; models: {models}" if models.exists() else ""))


@contextmanager
def told() -> Iterator[None]:
    """What a user can mend (a wrong value, a full disk, an occupied folder), and Ctrl-C, end with one sentence."""
    try:
        yield
    except (ValueError, OSError, ArithmeticError, BrokenExecutor) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("\ninterrupted. What was finished is kept: type the same again to go on.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def folder_of(config: Any, name: str) -> Path:
    """`--out`, or runs/NAME (runs/NAME-PRESET for a preset) in the current folder.

    Raises:
        ValueError: it is a file.
    """
    preset = getattr(config, "preset", None)
    folder = config.out or Path("runs") / (f"{name}-{preset}" if preset else name)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: expected a folder, or the name of a new one; {folder} is a file.")
    return folder


def write(tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Figure], folder: Path, stem: str) -> None:
    """Tables as STEM-NAME.csv and figures as STEM-NAME.png, without -NAME for an empty name; prints where."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        folder / ((f"{stem}-{name}" if name else stem) + end)
        for shown, end in ((tables, ".csv"), (figures, ".png"))
        for name in shown
    ]
    for path, shown in zip(written, [*tables.values(), *figures.values()], strict=True):
        if isinstance(shown, Figure):
            shown.savefig(path, dpi=DOTS_PER_INCH)
        else:
            shown.to_csv(path)
    print("wrote", *written)


def convergence(status: xr.DataArray) -> str:
    """How many geodesics did not converge, of those that were sought, and how they ended."""
    failed, measured = int((status > pg.Status.CONVERGED).sum()), int((status >= 0).sum())
    ends = ", ".join(f"{int((status == s).sum())} {s.name}" for s in pg.Status if s and (status == s).any())
    return f"geodesics that did not converge: {failed} of {measured}" + (f" ({ends})" if ends else "")


def config_of(dataset: xr.Dataset) -> dict[str, Any]:
    """The configuration by which a group of a result file was computed."""
    return json.loads(dataset.attrs["config"])


def rounded(values: xr.Dataset) -> xr.Dataset:
    """Floating-point variables to 17 significant bits: a relative error below 1e-5, and a smaller file."""

    def one(variable: xr.DataArray) -> xr.DataArray:
        if variable.dtype.kind != "f":
            return variable
        mantissa, exponent = np.frexp(variable)
        return variable.copy(data=np.ldexp(np.round(mantissa * 2**17) / 2**17, exponent))

    return values.assign({name: one(variable) for name, variable in values.data_vars.items()})


def encoding_of(variable: xr.Variable) -> dict[str, Any]:
    """How numbers are stored: as float32 if they are no integers, compressed in one piece where that is smaller."""
    encoding: dict[str, Any] = {"dtype": "float32"} if variable.dtype.kind == "f" else {}
    if variable.size > COMPRESSED:
        encoding |= {"zlib": True, "complevel": 9, "shuffle": True, "chunksizes": variable.shape}
    return encoding


def save_result(groups: Groups, config: Any, path: Path) -> None:
    """Write datasets, `rounded`, as groups of one small file, whole or not; attrs: experiment, options, version."""
    shown = {key: value.name if isinstance(value, Path) else value for key, value in dataclasses.asdict(config).items()}
    attrs = {"experiment": name_of(type(config)), "config": json.dumps(shown), "probgeo": version("probgeo")}
    with whole_file(path) as file:
        for group, dataset in groups.items():
            numbers = {name: value for name, value in dataset.variables.items() if value.dtype.kind in "fiu"}
            encoding: dict[Any, dict[str, Any]] = {name: encoding_of(value) for name, value in numbers.items()}
            # What a dataset was read with would cut its longer labels off.
            plain = rounded(dataset).assign_attrs(attrs).drop_encoding()
            plain.to_netcdf(file, "a", group=group, engine="h5netcdf", encoding=encoding)
        seal(file)


def load_result(path: Path, kind: type | None = None) -> dict[str, xr.Dataset]:
    """The groups that `save_result` wrote.

    Args:
        path: of the file.
        kind: class of configurations whose experiment is to have written it; None for any.

    Raises:
        ValueError: there is no such file, or it is no result, or that of another experiment.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"result: expected the .nc file of an experiment; {path} {what}.")
    try:
        groups = read_groups(path, "Run the experiment again.")
        attrs = next(iter(groups.values())).attrs
        set(json.loads(attrs["config"]))  # what no result has is told here
    except (OSError, KeyError, StopIteration, ValueError) as error:
        raise ValueError(f"result: expected the .nc file of an experiment; {path} is none, or damaged.") from error
    if kind:
        check_kind(path, attrs, kind)
    return groups


def check_kind(path: Path, attrs: Mapping[str, Any], kind: type) -> None:
    """Refuse the result of another experiment, by the attributes of its groups.

    Raises:
        ValueError: another's.
    """
    # Older files do not say of which experiment they are, but by which options: no two have the same.
    fields, options = {field.name for field in dataclasses.fields(kind)}, set(json.loads(attrs["config"]))
    own = attrs.get("experiment", name_of(kind)) == name_of(kind)
    if not own or ("experiment" not in attrs and not fields - NEWER <= options <= fields):
        other = f", that of {attrs['experiment']}" if "experiment" in attrs else ""
        raise ValueError(f"result: expected a result of the experiment {name_of(kind)}; {path} is another's{other}.")
