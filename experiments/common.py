"""What the experiments share: typed command lines with presets, data, sources of uncertainty, small result files."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import h5netcdf
import numpy as np
import tyro
import xarray as xr

import probgeo as pg
from probgeo.disk import whole_file

Config = TypeVar("Config")
Source = Literal["single", "rbf", "ensemble", "dropout", "mean-field", "low-rank", "laplace", "exact", "nuts", "gp"]


def parsed(
    kind: type[Config], presets: Mapping[str, Config], quick: Mapping[str, Any], arguments: Sequence[str] | None = None
) -> Config:
    """The configuration of a command line: the preset's values, then those of `--quick`, then the options given.

    Args:
        kind: frozen dataclass with fields `preset` and `quick`; every field is an option, its docstring the help.
        presets: configurations by name.
        quick: fields that `--quick` sets.
        arguments: the command line; None for that of the process.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--quick", action="store_true")
    known, _ = first.parse_known_args(arguments)
    default = presets[known.preset] if known.preset in presets else kind()
    if known.quick:
        default = dataclasses.replace(default, **quick)  # type: ignore[type-var]
    module = sys.modules[kind.__module__].__spec__  # run with -m, the module is called __main__
    prog = f"python -m {module.name if module else kind.__module__}"
    return tyro.cli(kind, prog=prog, args=arguments, default=default, config=(tyro.conf.FlagCreatePairsOff,))


def output_folder(name: str, preset: str | None, out: Path | None) -> Path:
    """`out`, or runs/NAME (runs/NAME-PRESET for a preset) in the current folder."""
    return out or Path("runs") / (f"{name}-{preset}" if preset else name)


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


def check_retrainings(retrainings: int) -> None:
    """ValueError for fewer retrainings than a variation over them needs."""
    if retrainings < 2:
        raise ValueError(f"retrainings: expected at least 2, as a variation over retrainings needs; got {retrainings}.")


def observations(name: str, classes: Sequence[int] = ()) -> tuple[pg.datasets.Dataset, pg.datasets.Dataset]:
    """The data to train on, and those that pairs are taken from: the test set where one is published, else the same."""
    sets = pg.datasets
    published = (sets.mnist, sets.fashion_mnist, sets.cifar10, sets.cifar100, sets.svhn, sets.celeba, sets.imagenette)
    test_sets = {function.__name__: function for function in published}
    data = sets.load(name)
    points = test_sets[name](train=False) if name in test_sets else data
    return (data.subset(classes=classes), points.subset(classes=classes)) if classes else (data, points)


def cells(table: Path | None) -> pg.datasets.Dataset:
    """`datasets.tasic(table)` in units of its overall standard deviation, which leaves the ratios of distances."""
    data = pg.datasets.tasic(table)
    return dataclasses.replace(data, x=data.x / data.x.std())


def decoders(network: pg.nn.MLP, members: int, samples: int = 100) -> dict[str, Any]:
    """Specs of decoders that differ only in their source of uncertainty, by name.

    Args:
        network: of every decoder.
        members: decoders of an ensemble, and draws that the metric of a sampled decoder averages over.
        samples: of NUTS, and its warm-up; at least as many as members.
    """
    guides: dict[str, Any] = {
        "mean-field": pg.posteriors.MeanField(),
        "low-rank": pg.posteriors.LowRank(),
        "laplace": pg.posteriors.LaplaceApproximation(),
        "exact": pg.posteriors.Conjugate(),
        "nuts": pg.posteriors.NUTS(num_draws=samples, warmup=samples),
    }
    return {
        "single": pg.Decoder(network),
        "rbf": pg.RBFDecoder(network),
        "ensemble": pg.EnsembleDecoder(members, network),
        "dropout": pg.DropoutDecoder(network, draws=members),
        **{name: pg.BayesianDecoder(network, guide=guide, draws=members) for name, guide in guides.items()},
        "gp": pg.GPDecoder(network),
    }


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
