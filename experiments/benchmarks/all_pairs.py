"""All pairs of many points: geodesics a second, rivals included, of one process and of several at the same time."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import probgeo as pg
from experiments.benchmarks.alone import run
from experiments.benchmarks.growth import Timed
from experiments.benchmarks.problems import Problem, stored_ensemble, trained_ensemble
from experiments.common.options import Output
from experiments.common.results import Groups, folder_of


@dataclass(frozen=True)
class Config(Output):
    """Time the distances of all pairs of points, in one process and in several, from the graph over all codes."""

    ensemble: Path | None = None
    """npz file of a trained ReLU ensemble, also below $PROBGEO_DATA; default: one is trained on digits."""
    members: int = 10
    """Decoders of that ensemble."""
    width: int = 128
    """Units in each of the two hidden layers of its networks."""
    epochs: int = 60
    """Passes over the data of its training."""
    points: int = 133
    """Random codes between which all distances are computed."""
    segments: int = 64
    """Segments of a geodesic."""
    tile: int = 1024
    """Pairs solved together, at most: a task of a process."""
    processes: tuple[int, ...] = (1, 2)
    """Of one thread each, at the same time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("points", 3), ("tile", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}; got {getattr(self, name)}.")
        if not self.processes or min(self.processes) < 1:
            raise ValueError(f"processes: expected numbers from 1; got {self.processes}.")


QUICK = {"members": 2, "width": 16, "epochs": 5, "points": 8, "segments": 16, "tile": 7}


def problem_of(config: Config) -> Problem:
    """The stored ensemble, or one trained on digits."""
    if config.ensemble:
        return stored_ensemble(config.ensemble)
    folder = folder_of(config, "benchmarks-all_pairs") / "trainings"
    return trained_ensemble("digits", folder, 2, config.members, config.width, config.epochs, 1)


def solved(metric: pg.Metric, points: torch.Tensor, graph: pg.paths.Graph, config: Config, num: int) -> xr.Dataset:
    """All distances by so many processes; seconds of the clock, and of the processor by all and by the busiest."""
    solver = pg.GaussNewton(config.segments)
    with tempfile.TemporaryDirectory() as folder, Timed(Path(folder), num) as executor:

        def distances(some: torch.Tensor) -> xr.DataArray:
            return pg.distance_matrix(metric, some, init=graph, solver=solver, num_pairs=config.tile, executor=executor)

        distances(points[:3])  # whatever is loaded at first
        for note in Path(folder).glob("*.seconds"):
            note.unlink()
        began = time.perf_counter()
        found = distances(points)
        clock = time.perf_counter() - began
        notes = [np.loadtxt(path, ndmin=2) for path in Path(folder).glob("*.seconds")]
    spent = [note[1:, 0].sum() for note in notes]
    numbers = {"clock": clock, "spent": sum(spent), "busiest": max(spent), "memory": max(n[:, 1].max() for n in notes)}
    return xr.Dataset({"distance": found.drop_vars("status"), "status": found.status}).assign(numbers)


def compute(config: Config) -> Groups:
    """Everything that takes time."""
    problem = problem_of(config)
    metric, codes = pg.ExpectedMetric(problem.members), problem.encodings
    points = codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))[: config.points]]
    began = time.process_time()
    graph = pg.paths.Graph(metric, codes)
    built = time.process_time() - began
    runs = [solved(metric, points, graph, config, num) for num in config.processes]
    equal = all(run.distance.identical(runs[0].distance) for run in runs)
    numbers = xr.concat([run.drop_vars(["distance", "status"]) for run in runs], "processes")
    pairs = np.triu_indices(len(points), 1)
    numbers = numbers.assign(status=("pair", runs[0].status.values[pairs]), built=built, equal=equal)
    numbers = numbers.assign_coords(processes=list(config.processes))
    return {"all_pairs": numbers.assign_attrs(members=problem.members.num_members)}


def report(groups: Groups) -> None:
    """The table of a result file."""
    found = groups["all_pairs"]
    pairs = found.sizes["pair"]
    table = found[["clock", "spent", "busiest", "memory"]].to_dataframe()
    table = table.assign(clocked=pairs / table.clock, alone=pairs / table.spent)
    table.columns = ["seconds", "of processor", "busiest", "memory, MB", "a second of the clock", "of the processor"]
    lost = int((found.status != pg.Status.CONVERGED).sum())
    print(table.to_string(float_format="{:.4g}".format))
    print(
        f"{pairs} geodesics, {found.attrs['members']} members, {lost} not converged; the graph was built in "
        f"{float(found.built):.2g} s. Distances of all runs are {'equal' if found.equal else 'NOT equal'} bit for bit."
    )


def main(arguments: list[str] | None = None) -> None:
    """Compute, print the table, say where it is."""
    run(Config, compute, report, QUICK, arguments)


if __name__ == "__main__":
    main()
