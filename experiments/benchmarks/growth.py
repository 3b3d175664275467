"""How the solver's time grows with pairs, segments, members and latent dimensions."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from experiments.benchmarks.methods import from_straight
from experiments.benchmarks.problems import Problem


def growth(cases: Mapping[str, Mapping[int, tuple[Problem, int]]], num_repeats: int, patience: float) -> xr.Dataset:
    """Seconds of the solver from straight lines, per size.

    Args:
        cases: problem and number of segments, by the quantity that grows and its size.
        num_repeats: runs of each, at most; the fastest counts, as other work on the machine only slows.
        patience: seconds after which a case is not run again.

    Returns:
        A variable `seconds_by_QUANTITY` with dim QUANTITY for each.
    """
    found = {}
    for name, sizes in cases.items():
        seconds = [_least_seconds(from_straight(problem, N), num_repeats, patience) for problem, N in sizes.values()]
        found[f"seconds_by_{name}"] = xr.DataArray(seconds, dims=name, coords={name: list(sizes)})
    return xr.Dataset(found)


def _least_seconds(solve: Callable[[], object], num_repeats: int, patience: float) -> float:
    taken: list[float] = []
    while not taken or (len(taken) < num_repeats and sum(taken) < patience):
        begun = time.perf_counter()
        solve()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def slope(sizes: Sequence[float] | np.ndarray, seconds: Sequence[float] | np.ndarray) -> float:
    """Exponent p of the least-squares power law seconds ∝ size^p."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
