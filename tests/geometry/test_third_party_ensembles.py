"""The solver on decoders that others trained: 10 ReLU perceptrons, 2 → 50, with 45 pairs and the published optima."""

import os
from pathlib import Path

import pytest
import torch

from experiments.benchmarks.measures import decorrelated_energy, expected_energy
from experiments.benchmarks.methods import tight_solutions
from experiments.benchmarks.problems import PUBLISHED_TIMES, Problem, stored_ensemble
from probgeo import DecorrelatedEnergy, ExpectedMetric, GaussNewton, geodesic
from probgeo.geometry.geodesics import Status
from probgeo.geometry.graph import Graph

FILES = [Path("tasic") / f"tasic_ensemble_{seed}.npz" for seed in ("seed12", "seed123")]


@pytest.fixture(scope="module", params=FILES, ids=[file.stem for file in FILES])
def problem(request: pytest.FixtureRequest) -> Problem:
    if not (Path(os.environ.get("PROBGEO_DATA", "nowhere")) / request.param).exists():
        pytest.skip(f"no {request.param} below PROBGEO_DATA")
    return stored_ensemble(request.param)


@pytest.mark.slow
def test_geodesics_are_near_the_best_of_many_tight_solutions(problem: Problem) -> None:
    metric = ExpectedMetric(problem.members)
    graph = Graph(metric, problem.encodings)
    found = geodesic(metric, problem.start, problem.stop, init=graph)
    energy = expected_energy(problem, found.path, 256)
    others = [expected_energy(problem, path, 256) for path in tight_solutions(problem, 256, num_bends=4)]
    best = torch.stack([*others, energy]).amin(0)
    assert (found.status == Status.CONVERGED).all()
    assert (energy <= 1.01 * best).double().mean() >= 0.95
    assert energy.sum() <= 1.006 * best.sum()


@pytest.mark.slow
def test_decorrelated_energy_is_far_below_that_of_the_published_optimiser(problem: Problem) -> None:
    metric = DecorrelatedEnergy(problem.members, segments=PUBLISHED_TIMES - 1)
    graph = Graph(metric, problem.encodings)
    found = geodesic(metric, problem.start, problem.stop, init=graph, solver=GaussNewton(num_segments=256))
    assert problem.published is not None
    stored = decorrelated_energy(problem, problem.published, PUBLISHED_TIMES - 1).sum()
    assert decorrelated_energy(problem, found.path, PUBLISHED_TIMES - 1).sum() <= 0.85 * stored
