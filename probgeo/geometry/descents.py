"""The descents behind geodesics: damped Gauss–Newton steps, coarse to fine, of several starts for a pair."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probgeo.geometry.doubts import cut
from probgeo.geometry.metrics import Energy, Metric
from probgeo.geometry.minimisation import Descents, Level, joined, measured_alone, minimised
from probgeo.geometry.paths import Straight, resampled
from probgeo.geometry.routes import SLACK, Beaten, distinct, excess, firsts, out_of_reach, ranked
from probgeo.geometry.solver import GaussNewton, Status

REVISION = 11  # of the search: raised when the same options find other paths, or end them by another status
CHEAP = 4  # times as many segments on the last level as on the first
UNKNOWN_CONTRACTION = 0.25  # of one step, before it is measured
SURELY = 10  # tolerances that may be left by the covariant blocks, which know nothing of curvature
NUM_STRIDES = 3  # of a path that may lie on a saddle, one after the other,
STRIDES = (0.03, 0.2)  # of so much of its extent
HOPE = 0.75  # of what may be missing of a solution with all segments, the share of what those with fewer fall short by
ROUGH = 16  # tolerances that paths of the last but one level fall short by, from which one more level is cheaper
GRID_DIMENSIONS = 2  # up to which a graph is a grid, which sees every ridge


def _levels(first: int, last: int) -> list[int]:
    """Numbers of segments from the first level to the last: doubled up to an eighth of the last, or to 32."""
    if first >= last:
        return [last]
    levels = [first]
    while 2 * levels[-1] <= max(last // 8, min(32, last // 4)):
        levels.append(2 * levels[-1])
    return [*levels, last]


def descended(
    metric: Energy, newton: Any, descents: Descents, searched: bool, solver: GaussNewton
) -> tuple[Descents, Beaten]:
    """All levels, one after the other: the best descent of each pair, and by how much it beats those to other valleys.

    Where others than the straight line were looked for, the line is begun from all the same: beyond two dimensions,
    where a graph over codes is coarse, with as few segments as when it is alone. Before the last level, which is the
    dear one, paths that lie in one valley become one, and those too far above the best of their pair to come down to it
    are left. Where the first level is cheap beside the last, it takes more: more steps, and every start that is not
    surely in the valley of a better one.
    """
    beaten = Beaten(descents.pair[:0], descents.energy[:0])
    first = descents.path.shape[1] - 1
    surely = SURELY * solver.tolerance
    coarse = Level(solver.coarse_tolerance, -(-solver.max_steps // 5), measured_alone, surely)
    valleys: Callable[..., Tensor] = distinct
    if CHEAP * first <= solver.num_segments:
        coarse = coarse._replace(max_steps=-(-solver.max_steps // 2))
        valleys = partial(distinct, than=torch.minimum, slack=SLACK / 2)
    if searched:
        one = descents.those(firsts(descents.pair))
        if descents.path.shape[2] > GRID_DIMENSIONS:
            line = _line(metric, newton, one, min(metric.line_segments, first), first, coarse)
            descents = descents.those(valleys(metric, *descents[:3]))
            descents = Descents(*map(torch.cat, zip(descents, line, strict=True)))
        else:
            line = _line(metric, newton, one, first, first, coarse)
            descents = Descents(*map(torch.cat, zip(line, descents, strict=True)))
            descents = descents.those(valleys(metric, *descents[:3]))
    for num_segments in _levels(first, solver.num_segments):
        last, refined = num_segments == solver.num_segments, num_segments != descents.path.shape[1] - 1
        if last and refined and searched:
            descents = descents.those(distinct(metric, *descents[:3]))
            above, lost = out_of_reach(metric, *descents[:4], descents.left, num_segments)
            beaten = Beaten(descents.pair[lost], above[lost])
            descents = descents.those(~lost)
        if refined and not searched and descents.path.shape[1] - 1 == first:
            descents = _off_saddles(metric, newton, descents, coarse._replace(tolerance=solver.tolerance))
        if last:
            level = Level(solver.tolerance, solver.max_steps, _measured_cut, surely)
            known = torch.zeros_like(descents.pair, dtype=torch.bool)
            if refined:
                descents, known = _refined(metric, newton, descents, coarse, level, num_segments)
            descents = joined(known, descents.those(known), _assured(metric, newton, descents.those(~known), level))
        else:
            descents = _with_segments(descents, num_segments) if refined else descents
            descents = minimised(metric, newton, descents, coarse)
    if searched:
        descents, cost = _cut(metric, descents)
        some = distinct(metric, *descents[:2], cost)
        descents, cost = descents.those(some), cost[some]
        order = ranked(descents.pair, cost)
        descents, cost = descents.those(order), cost[order]
        best = firsts(descents.pair)
        above = excess(descents.pair, cost)[~best]
        beaten = Beaten(torch.cat([beaten.pair, descents.pair[~best]]), torch.cat([beaten.excess, above]))
        descents = descents.those(best)
    return descents, beaten


def _cut(metric: Energy, descents: Descents) -> tuple[Descents, Float[Tensor, " start"]]:
    """The length with segments cut of those that others of their pair are compared with, and E with segments cut.

    A path that jumps ridges has little energy, and is no way.

    Args:
        metric: gives E.
        descents: solved.
    """
    if not isinstance(metric, Metric):
        return descents, descents.energy
    cut_length = descents.cut_length.clone()
    missing = cut_length.isnan() & (torch.bincount(descents.pair)[descents.pair] > 1)
    if missing.any():
        cut_length[missing] = cut(metric, descents.path[missing])[1]
    longer = cut_length / descents.durations.sum(1)
    cost = torch.where(longer.isfinite(), longer.square() * descents.energy, descents.energy)
    return descents._replace(cut_length=cut_length), cost


def _line(metric: Energy, newton: Any, one: Descents, level: int, num_segments: int, coarse: Level) -> Descents:
    """The straight line of each pair with so many segments, solved on the levels below.

    Args:
        metric: gives E.
        newton: its systems.
        one: any descent of each pair.
        level: segments that it is begun with.
        num_segments: of the result.
        coarse: how it is solved there.
    """
    path = Straight(level)(one.path[:, 0], one.path[:, -1])
    line = one._replace(path=path, steps=torch.zeros_like(one.pair), status=torch.zeros_like(one.pair))
    while level < num_segments:
        line = minimised(metric, newton, line, coarse)
        level = min(2 * level, num_segments)
        line = line._replace(path=resampled(line.path, line.durations, level))
    energy, durations = metric.measure(line.path)
    return line._replace(energy=energy, durations=durations)


def _off_saddles(metric: Energy, newton: Any, descents: Descents, level: Level) -> Descents:
    """Descents that had ended on a saddle, solved anew from further along their next step.

    The models are convex: beside a saddle of E a step is as short, and brings as little, as beside a minimum, and it
    goes where E falls further on. Where E is lower by half the tolerance some way along it, in shares of the path's
    extent in the latent space, the path goes on from there.

    Args:
        metric: gives E.
        newton: its systems.
        descents: solved.
        level: how they go on.
    """
    left = (descents.status == Status.CONVERGED).nonzero()[:, 0]
    for _ in range(NUM_STRIDES):
        if not len(left):
            break
        path, energy = descents.path[left], descents.energy[left]
        step = torch.nn.functional.pad(newton.step(newton.linearized(path), torch.zeros_like(energy))[0], (0, 0, 1, 1))
        extent, tiny = (path - path[:, :1]).norm(dim=2).amax(1), torch.finfo(path.dtype).tiny
        stride = (extent / step.norm(dim=2).amax(1).clamp_min(tiny))[:, None, None] * step
        further = torch.stack([path, *(path + share * stride for share in STRIDES)])
        energies = torch.stack([energy, *(metric.measure(some).energy for some in further[1:])])
        least, which = energies.nan_to_num(nan=torch.inf).min(0)
        falls = least < (1 - level.tolerance / 2) * energy
        left, which = left[falls], which[falls]
        begun = descents.those(left)._replace(path=further[which, falls.nonzero()[:, 0]])
        found = minimised(metric, newton, begun, level)
        lower = found.energy < descents.energy[left]
        gone_on = torch.zeros_like(descents.pair, dtype=torch.bool).index_fill(0, left[lower], True)
        descents, left = joined(gone_on, found.those(lower), descents.those(~gone_on)), left[lower]
    return descents


def _refined(
    metric: Energy, newton: Any, coarse: Descents, level: Level, last: Level, num_segments: int
) -> tuple[Descents, Bool[Tensor, " start"]]:
    """Descents with all segments, after those with fewer; and which of them are solutions, as those with fewer show.

    Segments that are chords are no longer when joined, so that every path of N segments has at least the energy of that
    through each (N/M)-th of its nodes: the least E_N of a valley is at least the least E_M, which is at least
    E_M − what is left there. Where E_N of a resampled path is within the tolerance of that, it is solved, and no
    derivative with N segments is taken. Only those are tried whose E_M and E_{M/2} let hope for it: E_M falls short of
    its limit by a third of what it is above E_{M/2}, as chords fall short of smooth curves by 1/M². Those that fall
    short by `ROUGH` tolerances are solved with 2M first: from M they would take more than one of the dear steps.

    Args:
        metric: gives E.
        newton: its systems.
        coarse: solved with M segments.
        level: how paths of 2M segments are solved.
        last: how paths of N segments are.
        num_segments: N.
    """
    tolerance, few = last.tolerance, coarse.path.shape[1] - 1
    known, rough = torch.zeros_like(coarse.pair, dtype=torch.bool), torch.zeros_like(coarse.pair, dtype=torch.bool)
    if metric.chordal and few % 2 == 0 and num_segments % few == 0:
        shortfall = (coarse.energy - metric.measure(coarse.path[:, ::2]).energy) / 3
        known = (coarse.status == Status.CONVERGED) & (shortfall <= HOPE * tolerance * coarse.energy)
        unsure = known & (coarse.left > (1 - HOPE) * tolerance * coarse.energy)
        nearer = level._replace(tolerance=(1 - HOPE) * tolerance, max_steps=-(-last.max_steps // 10))
        coarse = joined(unsure, minimised(metric, newton, coarse.those(unsure), nearer), coarse.those(~unsure))
        rough = (shortfall > ROUGH * tolerance * coarse.energy) & (2 * few < num_segments)
    twice = _with_segments(coarse.those(rough), 2 * few)
    twice = _with_segments(minimised(metric, newton, twice, level), num_segments)
    found = joined(rough, twice, _with_segments(coarse.those(~rough), num_segments))
    if known.any():
        energy, durations, cut_length = last.measured(metric, found.path[known])
        found.energy[known], found.durations[known], found.cut_length[known] = energy, durations, cut_length
        solved = energy <= (1 + tolerance) * (coarse.energy - coarse.left)[known]
        known = known.masked_scatter(known, solved & (coarse.status[known] == Status.CONVERGED))
    return found, known


def _with_segments(descents: Descents, num_segments: int) -> Descents:
    """The same paths with another number of segments, of which neither energy nor durations are known yet."""
    path = resampled(descents.path, descents.durations, num_segments)
    unknown = torch.full_like(path[:, 1:, 0], torch.nan)
    return descents._replace(path=path, durations=unknown, energy=unknown[:, 0].clone())


def _measured_cut(metric: Energy, path: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, durations, and of a metric the length with segments cut in two."""
    if not isinstance(metric, Metric):
        return measured_alone(metric, path)
    (energy, durations), cut_length = cut(metric, path)
    return energy, durations, cut_length


def _assured(metric: Energy, newton: Any, descents: Descents, level: Level) -> Descents:
    """Paths solved on the last level; those whose last step did not do what it promised are solved on.

    That it leaves less than the tolerance is estimated from what it promises. Where it brought more, the model of the
    energy was no good, and where it brought nothing, all that it was to bring is left.
    """
    found = minimised(metric, newton, descents, level)
    unsure = (found.status == Status.CONVERGED) & (found.left > level.tolerance * found.energy)
    nearer = level._replace(tolerance=level.tolerance / 8)
    return joined(unsure, minimised(metric, newton, found.those(unsure), nearer), found.those(~unsure))
