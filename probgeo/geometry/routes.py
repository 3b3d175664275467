"""Several starts for a pair of ends: routes that a graph's own error cannot rule out, and which of them are distinct.

Trees of shortest paths from both ends hold a path through every node. Where the two trees agree, along a plateau, that
path is locally shortest; a long plateau is the floor of a valley, and each is one candidate.

References:
    Abraham, Delling, Goldberg and Werneck, Alternative routes in road networks (2013), via-node alternatives.
    Bader, Dees, Geisberger and Sanders, Alternative route graphs in road networks (2011), plateaus.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probgeo.geometry.metrics import Energy, Metric
from probgeo.geometry.paths import resampled

REACH = 0.05
FAR = 0.1  # of paths solved with few segments, which misjudge a rough metric by some percent
SLACK = 0.01


class Starts(NamedTuple):
    """Initial paths, several for a pair."""

    path: Float[Tensor, "start node latent"]  #: nodes, ends included
    pair: Int[Tensor, " start"]  #: whose start each is; never decreasing, every pair has one


class Beaten(NamedTuple):
    """Paths that another one of their pair beats."""

    pair: Int[Tensor, " rival"]
    excess: Float[Tensor, " rival"]  #: how much longer than the best, relative


@runtime_checkable
class Search(Protocol):
    """What gives a pair several starts, of which the solver is to find the best, such as `paths.Graph`."""

    def starts(self, start: Float[Tensor, "batch latent"], stop: Float[Tensor, "batch latent"]) -> Starts:
        """Initial paths from start to stop, ordered by pair, at least one for each."""


class Trees(NamedTuple):
    """Shortest paths from every end to every node; number n + i, after the n nodes, stands for end i."""

    distance: Float[np.ndarray, "end node"]
    previous: Int[np.ndarray, "end node"]  #: the node before it on the way from the end; negative where there is none


class Vias(NamedTuple):
    """Nodes that lead from one end of a pair to the other by shortest paths from both."""

    pair: Int[np.ndarray, " via"]
    node: Int[np.ndarray, " via"]


def vias(
    trees: Trees,
    first: Int[np.ndarray, " pair"],
    second: Int[np.ndarray, " pair"],
    limits: Float[np.ndarray, "2 pair"],
    reach: float,
    share: float,
    most: int,
) -> Vias:
    """A node of the shortest path of each pair, and one of each plateau of paths nearly as short; the shortest first.

    Args:
        trees: of all ends.
        first: number of each pair's first end.
        second: of its second end.
        limits: how far from the first and from the second end its nodes may be; the trees reach as far.
        reach: such paths are at most 1 + reach times as long as the shortest.
        share: least length of a plateau, over that of the path.
        most: nodes of a pair at most.

    Returns:
        Pairs and nodes; none for a pair that the graph does not join.
    """
    pairs = zip(first.tolist(), second.tolist(), limits[0].tolist(), limits[1].tolist(), strict=True)
    found = [_vias_of_pair(trees, *pair, reach, share)[:most] for pair in pairs]
    return _of_pairs(found)


def _vias_of_pair(
    trees: Trees, first: int, second: int, from_first: float, from_second: float, reach: float, share: float
) -> Int[np.ndarray, " via"]:
    nodes = trees.distance.shape[1] - len(trees.distance)
    to_first, to_second = trees.distance[first, :nodes], trees.distance[second, :nodes]
    before, after = trees.previous[first], trees.previous[second]
    # Trees reach further where other pairs ask for it, which is nothing to this one.
    total = np.where((to_first <= from_first) & (to_second <= from_second), to_first + to_second, np.inf)
    shortest = total.argmin()
    if not np.isfinite(total[shortest]):
        return np.zeros(0, dtype=np.int64)
    near = np.flatnonzero(total <= (1 + reach) * total[shortest])
    place = np.full(len(before), -1)
    place[near] = np.arange(len(near))
    # A plateau goes on where the next node on the way to the second end was reached from here on that from the first.
    following = after[near]
    shared = (before[following] == near) & (place[following] >= 0)
    last = np.where(shared, place[following], np.arange(len(near)))
    heads = np.ones(len(near), dtype=bool)
    heads[last[shared]] = False
    while (last[last] != last).any():
        last = last[last]
    heads &= to_second[near] - to_second[near[last]] >= share * total[near]
    # The shortest path is the first, whether or not its plateau has the length.
    heads &= last != last[place[shortest]]
    found = near[heads]
    return np.concatenate([[shortest], found[np.argsort(total[found], kind="stable")]])


def waits(
    trees: Trees,
    first: Int[np.ndarray, " pair"],
    second: Int[np.ndarray, " pair"],
    neighbours: tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " bound"]],
    weights: Float[np.ndarray, " node"],
    most: int,
) -> Vias:
    """Nodes to spend the time at between hurrying there and on: of ways there, stay and way on, those locally least.

    Args:
        trees: of all ends.
        first: number of each pair's first end.
        second: of its second end.
        neighbours: of every node one after the other, and where those of each begin; the end of the last.
        weights: what staying at each node costs.
        most: nodes of a pair at most, the least first.

    Returns:
        Pairs and nodes; none for a pair that the graph does not join.
    """
    (near, bounds), nodes, found = neighbours, len(weights), []
    joined = np.flatnonzero(np.diff(bounds))
    for one, two in zip(first.tolist(), second.tolist(), strict=True):
        total = weights + trees.distance[one, :nodes] + trees.distance[two, :nodes]
        around = np.full(nodes, np.inf)
        if len(joined):
            around[joined] = np.minimum.reduceat(total[near], bounds[joined])
        least = np.flatnonzero(np.isfinite(total) & (total <= around))
        found.append(least[np.argsort(total[least], kind="stable")][:most])
    return _of_pairs(found)


def _of_pairs(nodes: list[np.ndarray]) -> Vias:
    """The nodes of each pair, one pair after the other."""
    pair = np.repeat(np.arange(len(nodes)), [len(some) for some in nodes])
    return Vias(pair, np.concatenate([*nodes, np.zeros(0, dtype=np.int64)]))


def trails(
    previous: Int[np.ndarray, "end node"], row: Int[np.ndarray, " pair"], last: Int[np.ndarray, " pair"]
) -> np.ndarray:
    """Nodes from each row's end to its last node, (pair, step), the end repeated in front of shorter trails."""
    trail = [last]
    while True:
        step = previous[row, trail[-1]]
        step = np.where(step < 0, trail[-1], step)
        if (step == trail[-1]).all():
            return np.stack(trail[::-1], axis=1)
        trail.append(step)


def interpolated(
    points: Float[Tensor, "batch point latent"], times: Float[Tensor, "batch point"], num_segments: int
) -> Float[Tensor, "batch node latent"]:
    """Piecewise linear curves through points at increasing times, at num_segments + 1 uniform ones."""
    share = torch.linspace(0, 1, num_segments + 1, dtype=times.dtype, device=times.device)
    wanted = share * times[:, -1:]
    right = torch.searchsorted(times, wanted, right=True).clamp(1, times.shape[1] - 1)
    begin, end = times.gather(1, right - 1), times.gather(1, right)
    t = ((wanted - begin) / (end - begin).clamp_min(torch.finfo(times.dtype).tiny)).clamp(0, 1)
    index = right[..., None].expand(-1, -1, points.shape[2])
    return torch.lerp(points.gather(1, index - 1), points.gather(1, index), t[..., None])


def firsts(pair: Int[Tensor, " start"]) -> Bool[Tensor, " start"]:
    """Which starts are the first of their pair."""
    return torch.cat([pair.new_ones(min(1, len(pair)), dtype=torch.bool), pair[1:] != pair[:-1]])


def ranked(pair: Int[Tensor, " start"], energy: Float[Tensor, " start"]) -> Int[Tensor, " start"]:
    """Starts by pair, and of each pair the lowest first; those without a finite energy last."""
    order = torch.argsort(energy.nan_to_num(nan=torch.inf), stable=True)
    return order[torch.argsort(pair[order], stable=True)]


def excess(pair: Int[Tensor, " start"], energy: Float[Tensor, " start"]) -> Float[Tensor, " start"]:
    """√(E / E₁) − 1, E₁ the least of the pair's energies: for paths of constant speed, how much longer they are."""
    order = ranked(pair, energy)
    group = firsts(pair[order]).cumsum(0) - 1
    least = energy.new_empty(len(energy))
    least[order] = energy[order][firsts(pair[order])][group]
    return torch.where(energy > least, (energy / least).sqrt() - 1, 0 * energy)


def out_of_reach(
    metric: Energy,
    path: Float[Tensor, "start node latent"],
    pair: Int[Tensor, " start"],
    energy: Float[Tensor, " start"],
    durations: Float[Tensor, "start segment"],
    left: Float[Tensor, " start"],
    num_segments: int,
) -> tuple[Float[Tensor, " start"], Bool[Tensor, " start"]]:
    """How much longer paths are than the best of their pair, and which are too far above it to come down to it.

    Segments that are chords are no longer when joined: a path cannot come down below what it has with M at its best,
    or, where that is unknown, hardly by more than `FAR`. It is lost where that is above what the path that is best with
    M has with N, resampled. The others are compared with N segments, E_N each. Where M misjudge a path by `FAR`, it may
    still come down all the way to what it has with M. Any other is lost where it would have to come down more than
    halfway there: as measured, it comes down by about a fourth, which is no proof. Where segments are no chords, paths
    are lost that are longer by `FAR` with M or by `REACH` with N; of another energy, by `REACH` with M.

    Args:
        metric: gives E.
        path: nodes of paths with M segments, solved.
        pair: whose path each is.
        energy: E_M of each.
        durations: of the segments.
        left: of E_M above its least in the valley.
        num_segments: N.
    """
    above = excess(pair, energy)
    if not isinstance(metric, Metric):
        return above, above > REACH
    chordal = metric.chordal and num_segments % durations.shape[1] == 0
    least = torch.where(left.isfinite(), energy - left, energy / (1 + FAR) ** 2)
    count = torch.bincount(pair)
    several = count[pair] > 1
    finer = torch.full_like(energy, torch.nan)

    def compare(some: Tensor) -> Tensor:
        """E_N of some, and of all the least of their pair's so far."""
        if some.any():
            finer[some] = metric.measure(resampled(path[some], durations[some], num_segments)).energy
        known = finer.nan_to_num(nan=torch.inf)
        return energy.new_full(count.shape, torch.inf).scatter_reduce(0, pair, known, "amin")[pair]

    first = several & (above == 0)
    best = compare(first)
    lost = ~first & (least > best if chordal else above > FAR)
    near = several & ~lost
    best = compare(near & ~first)
    above = above.masked_scatter(near, excess(pair[near], finer[near]))
    misjudged = finer > (1 + FAR) ** 2 * energy
    reached = torch.where(misjudged, least, (finer + least) / 2)
    return above, lost | (near & (above > 0) & (reached > best if chordal else above > REACH))


def split(starts: Starts, count: int) -> Iterator[Starts]:
    """The starts in parts of `count` at most, each with all starts of its pairs; more where one pair has more."""
    ends = torch.cat([firsts(starts.pair).nonzero()[1:, 0], starts.pair.new_tensor([len(starts.pair)])]).tolist()
    begin = reached = 0
    for end in ends:
        if end - begin > count and reached > begin:
            yield Starts(*(values[begin:reached] for values in starts))
            begin = reached
        reached = end
    yield Starts(*(values[begin:] for values in starts))


def distinct(
    metric: Energy,
    path: Float[Tensor, "start node latent"],
    pair: Int[Tensor, " start"],
    energy: Float[Tensor, " start"],
    than: Callable[[Tensor, Tensor], Tensor] = torch.maximum,
    slack: float = SLACK,
) -> Bool[Tensor, " start"]:
    """Which paths are the lowest of their valley: E((p + q)/2) > (1 + slack) max(E(p), E(q)) for any two of one pair.

    Two paths are in one valley where no ridge is between them, that is where the path halfway costs no more than the
    dearer of them. Of paths that are not solved yet that is no sign, as they may lie on the slope of a ridge: there,
    `than` the cheaper of them. A path without a finite energy stays only where its pair has no other.

    Args:
        metric: gives E.
        path: nodes.
        pair: whose path each is.
        energy: E of each.
        than: of both energies, what the path halfway must not exceed.
        slack: by what share it may.
    """
    chosen = torch.zeros_like(pair, dtype=torch.bool)
    left = ranked(pair, energy)
    while len(left):
        # The lowest of those left is the best of its valley, and the others of that valley drop out.
        first = firsts(pair[left])
        best = left[first]
        chosen[best] = True
        best, left = best[first.cumsum(0) - 1][~first], left[~first]
        best, left = best[energy[left].isfinite()], left[energy[left].isfinite()]
        if len(left):
            halfway = metric.measure((path[left] + path[best]) / 2).energy
            left = left[~(halfway <= (1 + slack) * than(energy[left], energy[best]))]
    return chosen
