"""Typed command lines with presets."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

Config = TypeVar("Config")


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


def check_retrainings(retrainings: int) -> None:
    """ValueError for fewer retrainings than a variation over them needs."""
    if retrainings < 2:
        raise ValueError(f"retrainings: expected at least 2, as a variation over retrainings needs; got {retrainings}.")
