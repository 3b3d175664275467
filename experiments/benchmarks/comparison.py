"""All methods on one problem: their times in floors, their energies pair by pair, and the table of both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from experiments.benchmarks import methods, others, published
from experiments.benchmarks.measures import decorrelated_energy, expected_energy, floor, timing
from experiments.benchmarks.problems import Problem

EXPECTED, DECORRELATED = "expected", "decorrelated"
STRAIGHT = "straight latent line"
GEOMSTATS, PUBLISHED = "geomstats PathStraightening", "published: Adam on a spline"
Method = Callable[[Problem], methods.Solve]
Score = Callable[[Problem, Tensor], Tensor]


@dataclass(frozen=True)
class Budget:
    """How much is spent on the comparison.

    Args:
        segments: N of the solver, of the floor and of the expected energy.
        repeats: runs of each method, at most.
        patience: seconds after which a method is not run again.
        bends: bent starts among the tight solves for the best known energies.
        lbfgs_iterations: of SciPy's L-BFGS.
        geomstats_pairs: pairs that geomstats solves; it takes them one by one, so its time is scaled to all.
        published_pairs: pairs that the published optimiser solves, in groups that do not interact; likewise scaled.
        published_steps: steps of the published optimiser.
        published_times: times at which the published energy is a sum.
    """

    segments: int
    repeats: int
    patience: float
    bends: int
    lbfgs_iterations: int
    geomstats_pairs: int
    published_pairs: int
    published_steps: int
    published_times: int


def expected_methods(budget: Budget) -> dict[str, Method]:
    """Methods for the expected energy, by name; those of libraries that are not installed are left out, and said so."""
    found: dict[str, Method] = {
        "probgeo, straight start": partial(methods.from_straight, num_segments=budget.segments),
        "probgeo, graph start": partial(methods.from_graph, num_segments=budget.segments),
        "probgeo, graph built and start": partial(methods.with_graph, num_segments=budget.segments),
        "graph built, its path alone": partial(methods.graph_alone, num_segments=budget.segments),
        "SciPy L-BFGS on all nodes": partial(
            methods.scipy_lbfgs, num_segments=budget.segments, max_iterations=budget.lbfgs_iterations
        ),
    }
    spline = partial(others.stochman_spline, num_nodes=10, eval_grid=64)
    if _available("stochman"):
        found |= {
            "stochman CubicSpline, its defaults": others.stochman_spline,
            "stochman CubicSpline(10), Adam": partial(spline, max_iter=300),
            "stochman CubicSpline(10), LBFGS": partial(spline, optimizer=torch.optim.LBFGS, max_iter=30),
            "stochman DiscreteCurve(32), Adam": others.stochman_discrete,
        }
    if budget.geomstats_pairs and _available("geomstats"):
        found[GEOMSTATS] = others.geomstats_straightening
    return found


def decorrelated_methods(budget: Budget) -> dict[str, Method]:
    """Methods for the published, decorrelated energy, by name."""
    N, steps, times = budget.segments, budget.published_steps, budget.published_times
    straight = partial(methods.decorrelated_from_straight, num_segments=N, published_segments=times - 1)
    graph = partial(methods.decorrelated_from_graph, num_segments=N, published_segments=times - 1)
    adam = partial(published.adam_on_spline, num_steps=steps, num_times=times)
    return {
        "probgeo, straight start": straight,
        "probgeo, graph built and start": graph,
        PUBLISHED: adam,
    }


def _available(library: str) -> bool:
    if not others.installed(library):
        print(f"{library}: left out, not installed (the extra `benchmarks` brings it)")
        return False
    return True


def comparison(problem: Problem, budget: Budget) -> dict[str, xr.Dataset]:
    """Times and energies of all methods on a problem, by the energy that they minimise and are scored by.

    Args:
        problem: pairs and ensemble.
        budget: what is spent.

    Returns:
        Under `EXPECTED` and `DECORRELATED`: `floors`, `seconds` (solver, repeat), `energy` (solver, pair), `best`
        (pair), the least energy known, `pairs` (solver), how many were solved. Energies in units of the observations,
        squared.
    """
    expected = partial(expected_energy, num_segments=budget.segments)
    decorrelated = partial(decorrelated_energy, num_segments=budget.published_times - 1)
    straight = methods.straight_line(problem)
    tight = methods.tight_solutions(problem, budget.segments, budget.bends)
    known = torch.stack([expected(problem, path) for path in tight]).amin(0).numpy()

    print("expected energy, mean over pairs:", flush=True)
    rows = _measured(problem, expected_methods(budget), expected, budget)
    first = xr.concat([*rows, _untimed(STRAIGHT, expected(problem, straight))], "solver", join="outer")
    print("decorrelated energy, mean over pairs:", flush=True)
    rows = _measured(problem, decorrelated_methods(budget), decorrelated, budget)
    rows.append(_untimed(STRAIGHT, decorrelated(problem, straight)))
    if problem.published is not None:
        rows.append(_untimed("published: stored optimum", decorrelated(problem, problem.published)))
    second = xr.concat(rows, "solver", join="outer")
    return {
        EXPECTED: first.assign(best=("pair", np.fmin(known, first.energy.min("solver").values))),
        DECORRELATED: second.assign(best=second.energy.min("solver")),
    }


def _measured(problem: Problem, solvers: Mapping[str, Method], score: Score, budget: Budget) -> list[xr.Dataset]:
    unit = floor(problem, budget.segments)
    num_pairs = len(problem.start)
    rows = []
    for name, method in solvers.items():
        few = problem.first({GEOMSTATS: budget.geomstats_pairs, PUBLISHED: budget.published_pairs}.get(name, num_pairs))
        share = num_pairs / len(few.start)
        taken = timing(method(few), unit, budget.repeats, budget.patience)
        energy = torch.full((num_pairs,), torch.nan, dtype=torch.float64)
        energy[: len(few.start)] = score(few, taken.path)
        floors = [share * x for x in taken.floors]
        print(f"  {name}: {np.median(floors):.3g} floors, {energy.nanmean():.6g}", flush=True)
        rows.append(_row(name, energy, floors, [share * x for x in taken.seconds]))
    return rows


def _row(name: str, energy: Tensor, floors: Sequence[float], seconds: Sequence[float]) -> xr.Dataset:
    values = energy.numpy()
    return xr.Dataset(
        {
            "energy": (("solver", "pair"), values[None]),
            "pairs": ("solver", [int(np.isfinite(values).sum())]),
            "floors": (("solver", "repeat"), [floors]),
            "seconds": (("solver", "repeat"), [seconds]),
        },
        coords={"solver": [name], "repeat": range(len(floors))},
    )


def _untimed(name: str, energy: Tensor) -> xr.Dataset:
    return _row(name, energy, [np.nan], [np.nan])


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """Per method, the fastest first: time, total energy over the best known, pairs within 1 % of it, worst pair.

    Args:
        dataset: as `comparison` returns it, for one energy.
    """
    ratio = dataset.energy / dataset.best
    measured = ratio.notnull()
    columns = {
        "floors": dataset.floors.median("repeat"),
        "seconds": dataset.seconds.median("repeat"),
        "energy/best": dataset.energy.sum("pair") / dataset.best.where(measured).sum("pair"),
        "mean ratio": ratio.mean("pair"),
        "within 1 %": (ratio <= 1.01).where(measured).mean("pair"),
        "worst": ratio.max("pair"),
        "pairs": dataset.pairs.astype(int),
    }
    frame = pd.DataFrame({name: column.values for name, column in columns.items()}, index=list(dataset.solver.values))
    return frame.sort_values("floors")
