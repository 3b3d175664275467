"""probgeo's solver from its starts, SciPy's L-BFGS, and the many tight solves that give the best known energies.

A method takes a problem and returns a function without arguments, which is what is timed: it gives the paths.
"""

from collections.abc import Callable

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Float
from torch import Tensor

import probgeo as pg
from experiments.benchmarks.problems import Problem
from probgeo.geometry.graph import Graph
from probgeo.geometry.paths import Straight, resampled

Solve = Callable[[], Tensor]


def straight_line(problem: Problem) -> Float[Tensor, "pair node latent"]:
    """The path that needs no solver."""
    return torch.stack([problem.start, problem.stop], dim=1)


def from_straight(problem: Problem, num_segments: int) -> Solve:
    """probgeo's solver from straight lines."""
    metric = pg.ExpectedMetric(problem.members)
    return lambda: _geodesic(problem, metric, None, num_segments)


def from_graph(problem: Problem, num_segments: int) -> Solve:
    """probgeo's solver from shortest paths in a graph that is there already, as in a study or a matrix."""
    metric = pg.ExpectedMetric(problem.members)
    graph = Graph(metric, problem.encodings)
    return lambda: _geodesic(problem, metric, graph, num_segments)


def with_graph(problem: Problem, num_segments: int) -> Solve:
    """The same with the graph built each time."""
    metric = pg.ExpectedMetric(problem.members)
    return lambda: _geodesic(problem, metric, Graph(metric, problem.encodings), num_segments)


def graph_alone(problem: Problem, num_segments: int) -> Solve:
    """The graph's shortest paths themselves, the graph built each time."""
    metric = pg.ExpectedMetric(problem.members)
    return lambda: Graph(metric, problem.encodings)(problem.start, problem.stop)


def decorrelated_from_straight(problem: Problem, num_segments: int, published_segments: int) -> Solve:
    """probgeo's solver for the published energy, in closed form, from straight lines."""
    metric = pg.DecorrelatedEnergy(problem.members, segments=published_segments)
    return lambda: _geodesic(problem, metric, None, num_segments)


def decorrelated_from_graph(problem: Problem, num_segments: int, published_segments: int) -> Solve:
    """The same from shortest paths in a graph weighted by the members' disagreement, built each time."""
    metric = pg.DecorrelatedEnergy(problem.members, segments=published_segments)
    return lambda: _geodesic(problem, metric, Graph(metric, problem.encodings), num_segments)


def _geodesic(problem: Problem, metric: pg.metrics.Energy, init: Graph | None, num_segments: int) -> Tensor:
    solver = pg.GaussNewton(num_segments=num_segments)
    return pg.geodesic(metric, problem.start, problem.stop, init=init, solver=solver).path


def scipy_lbfgs(problem: Problem, num_segments: int, max_iterations: int) -> Solve:
    """SciPy's L-BFGS-B on all nodes of all pairs at once, from straight lines at constant speed.

    Pairs do not interact; each pair's energy is divided by that of its straight line, so that none drowns the others.

    Args:
        problem: pairs and ensemble.
        num_segments: N.
        max_iterations: of L-BFGS; other settings are SciPy's own.
    """
    line = Straight(num_segments)(problem.start, problem.stop)
    line = resampled(line, pg.ExpectedMetric(problem.members).measure(line).durations, num_segments)

    def energies(path: Tensor) -> Tensor:
        return num_segments / 2 * problem.members(path).diff(dim=2).square().sum((2, 3)).mean(0)

    def solve() -> Tensor:
        with torch.no_grad():
            scale = energies(line).clamp_min(torch.finfo(line.dtype).tiny)

        def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            inner = torch.from_numpy(flat).to(line).view_as(line[:, 1:-1]).requires_grad_()
            total = (energies(torch.cat([line[:, :1], inner, line[:, -1:]], dim=1)) / scale).sum()
            (gradient,) = torch.autograd.grad(total, inner)
            return total.item(), gradient.double().numpy().ravel()

        begin = line[:, 1:-1].double().numpy().ravel()
        options = {"maxiter": max_iterations, "maxfun": 2 * max_iterations}
        found = scipy.optimize.minimize(value_and_gradient, begin, jac=True, method="L-BFGS-B", options=options)
        inner = torch.from_numpy(found.x).to(line).view_as(line[:, 1:-1])
        return torch.cat([line[:, :1], inner, line[:, -1:]], dim=1)

    return solve


def tight_solutions(problem: Problem, num_segments: int, num_bends: int) -> list[Tensor]:
    """Paths of many solves to a small tolerance: from straight lines, from the graph, from bent lines.

    Args:
        problem: pairs and ensemble.
        num_segments: N.
        num_bends: bent starts, besides two straight ones and the graph.
    """
    metric = pg.ExpectedMetric(problem.members)
    solver = pg.GaussNewton(num_segments=num_segments, tolerance=1e-5, coarse_tolerance=1e-5, max_steps=100)
    first = min(64, num_segments)
    starts: list[Tensor | Straight | Graph | None] = [None, Straight(first), Graph(metric, problem.encodings)]
    starts += [_bent(problem, first, index) for index in range(num_bends)]
    return [pg.geodesic(metric, problem.start, problem.stop, init=init, solver=solver).path for init in starts]


def _bent(problem: Problem, num_segments: int, index: int) -> Float[Tensor, "pair node latent"]:
    """Lines bent to one side, or to both, at random right angles; the further, the higher the index."""
    line = Straight(num_segments)(problem.start, problem.stop)
    chord = problem.stop - problem.start
    aside = torch.randn(chord.shape, generator=torch.Generator().manual_seed(index // 4)).to(chord)
    along = chord / chord.norm(dim=1, keepdim=True).clamp_min(torch.finfo(chord.dtype).tiny)
    aside = aside - (aside * along).sum(1, keepdim=True) * along
    aside = aside / aside.norm(dim=1, keepdim=True).clamp_min(torch.finfo(chord.dtype).tiny)
    height = (-1) ** index * 0.2 * (1 + index // 4) * chord.norm(dim=1, keepdim=True)
    waves = 1 + index % 4 // 2
    bend = torch.sin(torch.linspace(0, torch.pi, num_segments + 1) * waves).to(line)
    path = line + bend[:, None] * (height * aside)[:, None]
    path[:, -1] = line[:, -1]
    return path
