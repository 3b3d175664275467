"""How solvers are compared: time in floors, and exact energies in double precision, by code that no solver shares."""

import copy
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.benchmarks.problems import Problem
from probgeo.geometry.jacobians import Maps

DENSE = 1024  # segments of the fine polygon that measures a path's speed
POINTS_AT_ONCE = 4096


class Timing(NamedTuple):
    """What a method took and gave."""

    seconds: list[float]
    floors: list[float]
    path: Float[Tensor, "pair node latent"]


def floor(problem: Problem, num_segments: int) -> Callable[[], None]:
    """One evaluation of all members and their Jacobians at all nodes of all pairs: the unit of time.

    Args:
        problem: pairs and ensemble.
        num_segments: N; there are N + 1 nodes per pair.

    Returns:
        A function that does it, in chunks of the size that was fastest of several here.
    """
    share = torch.linspace(0, 1, num_segments + 1)[:, None]
    points = torch.lerp(problem.start[:, None], problem.stop[:, None], share).flatten(0, 1)
    maps = Maps(problem.members).compressed()

    def evaluate(size: int) -> None:
        for chunk in points.split(size):
            maps.jets(chunk)

    evaluate(1024)
    seconds = {size: _least_seconds(partial(evaluate, size)) for size in (128, 256, 512, 1024, 2048)}
    return partial(evaluate, min(seconds, key=lambda size: seconds[size]))


def timing(solve: Callable[[], Tensor], unit: Callable[[], None], num_repeats: int, patience: float) -> Timing:
    """Wall time of a solver, in seconds and in floors that are measured again right before and after each run.

    Args:
        solve: gives the paths.
        unit: the floor.
        num_repeats: runs, at most.
        patience: no further run is begun after so many seconds.
    """
    seconds: list[float] = []
    floors: list[float] = []
    before = _floor_seconds(unit)
    while not seconds or (len(seconds) < num_repeats and sum(seconds) < patience):
        begun = time.perf_counter()
        path = solve()
        seconds.append(time.perf_counter() - begun)
        after = _floor_seconds(unit)
        floors.append(seconds[-1] / math.sqrt(before * after))
        before = after
    return Timing(seconds, floors, path.detach())


def _floor_seconds(unit: Callable[[], None]) -> float:
    return statistics.median(_seconds(unit) for _ in range(3))


def _least_seconds(call: Callable[[], None]) -> float:
    return min(_seconds(call) for _ in range(3))


def _seconds(call: Callable[[], None]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


@torch.no_grad()
def expected_energy(
    problem: Problem, path: Float[Tensor, "pair node latent"], num_segments: int
) -> Float[Tensor, " pair"]:
    """½ N Σ_i mean_s ‖f_s(z_{i+1}) − f_s(z_i)‖² of paths resampled to N + 1 nodes at constant speed.

    Between its nodes a path is a straight line, and its ends are the pair's, whatever the method.

    Args:
        problem: pairs and ensemble.
        path: nodes at any times.
        num_segments: N.

    Returns:
        Exact expected energies, in double precision.
    """
    members = copy.deepcopy(problem.members).double()
    energies = []
    for nodes in _between_the_ends(problem, path):
        fine = _subdivided(nodes, -(-DENSE // (path.shape[1] - 1)))
        chords = _squared_chords(members, fine).sqrt()
        even = _at_constant_speed(fine, chords, num_segments)
        energies.append(num_segments / 2 * _squared_chords(members, even).sum())
    return torch.stack(energies)


@torch.no_grad()
def decorrelated_energy(
    problem: Problem, path: Float[Tensor, "pair node latent"], num_segments: int
) -> Float[Tensor, " pair"]:
    """Σ_i ‖m(z_{i+1}) − m(z_i)‖² + v(z_i) + v(z_{i+1}), m and v the members' mean and summed variance, as published.

    Args:
        problem: pairs and ensemble.
        path: nodes at uniform times, straight in between; its parametrisation is kept.
        num_segments: of the published sum.

    Returns:
        Exact expectations of the sampled energy, in double precision.
    """
    members = copy.deepcopy(problem.members).double()
    energies = []
    for nodes in _between_the_ends(problem, path):
        values = members(_at_uniform_times(nodes, num_segments))
        variance = values.var(0, correction=0).sum(1)
        energies.append(values.mean(0).diff(dim=0).square().sum() + 2 * variance.sum() - variance[0] - variance[-1])
    return torch.stack(energies)


def _between_the_ends(problem: Problem, path: Float[Tensor, "pair node latent"]) -> Float[Tensor, "pair node latent"]:
    ends = problem.start[:, None], problem.stop[:, None]
    return torch.cat([ends[0].double(), path[:, 1:-1].double(), ends[1].double()], dim=1)


def _squared_chords(members: torch.nn.Module, nodes: Float[Tensor, "node latent"]) -> Float[Tensor, " segment"]:
    chunks = [members(nodes[i : i + POINTS_AT_ONCE + 1]) for i in range(0, len(nodes) - 1, POINTS_AT_ONCE)]
    return torch.cat([values.diff(dim=1).square().sum(2).mean(0) for values in chunks])


def _subdivided(nodes: Float[Tensor, "node latent"], num_parts: int) -> Float[Tensor, "new latent"]:
    share = torch.arange(num_parts, dtype=nodes.dtype)[:, None] / num_parts
    inner = torch.lerp(nodes[:-1, None], nodes[1:, None], share).flatten(0, 1)
    return torch.cat([inner, nodes[-1:]])


def _at_uniform_times(nodes: Float[Tensor, "node latent"], num_segments: int) -> Float[Tensor, "new latent"]:
    return _at_constant_speed(nodes, nodes.new_ones(len(nodes) - 1), num_segments)


def _at_constant_speed(
    nodes: Float[Tensor, "node latent"], lengths: Float[Tensor, " segment"], num_segments: int
) -> Float[Tensor, "new latent"]:
    """num_segments + 1 points of the polygon, equally far apart when its segments have these lengths."""
    travelled = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    wanted = torch.linspace(0, 1, num_segments + 1, dtype=nodes.dtype) * travelled[-1]
    segment = (torch.searchsorted(travelled, wanted, right=True) - 1).clamp(0, len(lengths) - 1)
    tiny = torch.finfo(nodes.dtype).tiny
    share = ((wanted - travelled[segment]) / lengths[segment].clamp_min(tiny)).clamp(0, 1)
    return torch.lerp(nodes[segment], nodes[segment + 1], share[:, None])
