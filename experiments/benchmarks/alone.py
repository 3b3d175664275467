"""A benchmark of a table alone: computed, or read again from its result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.common.options import Output, name_of, parsed
from experiments.common.results import Groups, folder_of, load_result, save_result, told


def run(
    kind: type[Output],
    compute: Callable[[Any], Groups],
    report: Callable[[Groups], None],
    quick: Mapping[str, Any],
    arguments: Sequence[str] | None,
) -> None:
    """Compute NAME.nc in runs/benchmarks-NAME, or take `--result`; print the table, say where it is.

    Args:
        kind: class of its configurations, in the module that it is named by.
        compute: its configuration -> what is kept.
        report: prints what was kept.
        quick: options of `--quick`.
        arguments: of the command line; None for the process's.
    """
    with told():
        config = parsed(kind, quick, {}, arguments)
        name = name_of(kind)
        file = config.result or folder_of(config, f"benchmarks-{name}") / f"{name}.nc"
        if not config.result:
            save_result(compute(config), config, file)
        report(load_result(file, kind))
        if not config.result:
            print(f"results: {file}")
