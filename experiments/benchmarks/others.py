"""Solvers of other libraries, called as their documentation shows; each is left out where it is not installed."""

import copy
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp

from experiments.benchmarks.problems import Problem

TIMES = 1025  # at which a spline is read off


def installed(library: str) -> bool:
    """Whether a library can be imported."""
    return importlib.util.find_spec(library) is not None


def stochman_spline(
    problem: Problem, num_nodes: int = 5, optimizer: type = torch.optim.Adam, max_iter: int = 150, eval_grid: int = 20
) -> Callable[[], Tensor]:
    """stochman's `geodesic_minimizing_energy` of a `CubicSpline`; the default arguments are its own.

    Args:
        problem: pairs and ensemble.
        num_nodes: of the spline.
        optimizer: class from torch.optim.
        max_iter: steps of the optimiser.
        eval_grid: times at which the energy is evaluated.
    """
    return _stochman(problem, "CubicSpline", num_nodes, TIMES, (optimizer, max_iter, eval_grid))


def stochman_discrete(problem: Problem, num_nodes: int = 32, max_iter: int = 150) -> Callable[[], Tensor]:
    """stochman's `geodesic_minimizing_energy` of a `DiscreteCurve`, evaluated at its nodes.

    Args:
        problem: pairs and ensemble.
        num_nodes: of the polygon.
        max_iter: steps of Adam.
    """
    return _stochman(problem, "DiscreteCurve", num_nodes, num_nodes, (torch.optim.Adam, max_iter, num_nodes))


def _stochman(problem: Problem, kind: str, num_nodes: int, num_times: int, options: tuple) -> Callable[[], Tensor]:
    import stochman.curves
    from stochman.geodesic import geodesic_minimizing_energy
    from stochman.manifold import EmbeddedManifold

    class Ensemble(EmbeddedManifold):
        def embed(self, points: Tensor, jacobian: bool = False) -> Tensor:
            return _stacked(problem, points)

    def solve() -> Tensor:
        with _as_found():
            curve = getattr(stochman.curves, kind)(problem.start, problem.stop, num_nodes=num_nodes)
            geodesic_minimizing_energy(curve, Ensemble(), *options)
            with torch.no_grad():
                return curve(torch.linspace(0, 1, num_times)).view(len(problem.start), num_times, -1)

    return solve


def geomstats_straightening(problem: Problem, num_nodes: int = 100) -> Callable[[], Tensor]:
    """geomstats' `PathStraightening` under its pull-back metric, pair by pair; the default argument is its own.

    Its differentiation of the immersion, one output at a time, is replaced by forward mode, which is much faster here.

    Args:
        problem: pairs and ensemble.
        num_nodes: of the path.
    """
    with _importable_geomstats():
        from geomstats.geometry.base import ImmersedSet
        from geomstats.geometry.euclidean import Euclidean
        from geomstats.numerics.geodesic import PathStraightening
    members = copy.deepcopy(problem.members).double()
    double = replace(problem, members=members, start=problem.start.double(), stop=problem.stop.double())
    width = _stacked(double, double.start).shape[1]
    latent = problem.start.shape[1]

    class Ensemble(ImmersedSet):
        def _define_embedding_space(self) -> Euclidean:
            return Euclidean(width, equip=True)

        def immersion(self, point: Tensor) -> Tensor:
            return _stacked(double, point)

        def jacobian_immersion(self, base_point: Tensor) -> Tensor:
            directions = torch.eye(latent, dtype=base_point.dtype)
            columns = [jvp(self.immersion, (base_point,), (e.expand_as(base_point),))[1] for e in directions]
            return torch.stack(columns, dim=-1)

    def solve() -> Tensor:
        with _as_found():
            torch.set_default_dtype(torch.float64)
            solver = PathStraightening(Ensemble(latent), n_nodes=num_nodes)
            return solver.discrete_geodesic_bvp(double.stop, double.start)

    return solve


def _stacked(problem: Problem, points: Tensor) -> Tensor:
    """(f_1, …, f_S)/√S, whose pull-back metric is the expected one, in one last axis."""
    values = problem.members(points)
    return values.movedim(0, -2).flatten(-2) / len(values) ** 0.5


@contextmanager
def _importable_geomstats() -> Iterator[None]:
    """geomstats with its PyTorch backend; it asks NumPy for `trapz`, which new versions call `trapezoid`."""
    os.environ["GEOMSTATS_BACKEND"] = "pytorch"
    renamed = "trapz" not in vars(np)
    if renamed:
        vars(np)["trapz"] = np.trapezoid
    try:
        with _as_found():
            yield
    finally:
        if renamed:
            del vars(np)["trapz"]


@contextmanager
def _as_found() -> Iterator[None]:
    """No warnings and no logging meanwhile; torch's default dtype restored afterwards."""
    dtype, disabled = torch.get_default_dtype(), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(dtype)
        logging.disable(disabled)
