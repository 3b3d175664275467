"""Shortest paths in a graph over the encodings, as starts near the global minimum."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree
from torch import Tensor

from probgeo.geometry.grids import grid
from probgeo.geometry.lines import line_lengths
from probgeo.geometry.metrics import Energy
from probgeo.geometry.metrics.metric import check_energy
from probgeo.geometry.paths import Straight
from probgeo.geometry.points import Points, check_alike, check_latent, latent_points
from probgeo.geometry.routes import Starts, Trees, interpolated, trails, vias, waits
from probgeo.jobs import all_of, carried_out
from probgeo.specs import check_whole

LINE_PIECES = 32
MEMORY = 2**28  # bytes of shortest paths that are held at a time, roughly
REACH = 0.1
SHARE = 0.3
MOST = 12
SEEN = 1 - SHARE / 2  # of the longest route, how far trees of shortest paths reach from either end


class Wanted(NamedTuple):
    """Which routes between two ends a graph is asked for."""

    reach: float  #: at most 1 + reach times as long as the shortest, in the graph's weights
    share: float  #: of a route's length, what is shortest seen from both ends
    most: int  #: of them


SHORTEST = Wanted(0.0, 1.0, 1)


@final
class Graph:
    """Shortest paths in a graph over the encodings, and others nearly as short: starts near the global minimum.

    In two dimensions the graph is a square grid around the encodings, finer beside them where edges do not see what is
    between their ends, and all over, with edges along valleys, where the metric is rough; in more a neighbour graph of
    the encodings. Its edges are weighed in two pieces or more.
    It is built once, from the encodings alone, and then gives the paths of any pair, whatever other pairs are asked for
    with it. As `geodesic(..., init=graph)` it gives `starts`; `init=graph.__call__` tries the shortest path alone.

    Args:
        metric: gives the edges their weights.
        encodings: latent points of data, (point, latent).
        num_nodes: nodes of the graph, roughly, before it is made finer; default a grid of 72 × 72 in two dimensions,
            2000 encodings in more.
        progress: show a progress bar of its edges, in more than two dimensions.

    Attributes:
        rough: whether, in two dimensions, the metric turns out so rough beside the encodings that many edges of a grid
            halved twice do not see what is between their ends. Then its grid is finer all around these, its starts have
            twice the segments, and geodesics take many times as long.

    Raises:
        ValueError: `num_nodes` is below four, or `encodings` are not a finite matrix of at least two points.

    Example:
        >>> import torch, probgeo as pg
        >>> def hill(z):  # a high one at the origin: the shortest way leads around it
        ...     return torch.cat([z, 5 * torch.exp(-4 * z.square().sum(-1, keepdim=True))], dim=-1)
        >>> metric = pg.PullbackMetric(hill)
        >>> encodings = 4 * torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) - 2
        >>> graph = pg.paths.Graph(metric, encodings, num_nodes=900)
        >>> start, stop = torch.tensor([[-1.5, 0.0]]), torch.tensor([[1.5, 0.0]])
        >>> over = pg.geodesic(metric, start, stop).length  # from the straight line, over the top
        >>> around = pg.geodesic(metric, start, stop, init=graph)
        >>> around.length < over / 2, around.rivals, around.gap.round(decimals=2)  # two ways around, equally long
        (tensor([True]), tensor([2]), tensor([0.]))
    """

    def __init__(
        self, metric: Energy, encodings: Points, *, num_nodes: int | None = None, progress: bool = False
    ) -> None:
        check_energy(metric)
        encodings = latent_points("encodings", encodings)
        if num_nodes is not None:
            check_whole("num_nodes", num_nodes)
        if num_nodes is not None and num_nodes < 4:
            raise ValueError(f"num_nodes: expected at least 4; got {num_nodes}.")
        if encodings.ndim != 2 or len(encodings) < 2 or not encodings.shape[1] or not encodings.isfinite().all():
            raise ValueError(
                "encodings: expected a finite matrix (point, latent) of at least two points; "
                f"got {tuple(encodings.shape) if encodings.isfinite().all() else 'non-finite values'}."
            )
        self._metric = metric
        self._pieces = 2 if encodings.shape[1] <= 2 else 4
        if encodings.shape[1] <= 2:
            side = round((num_nodes or 5184) ** (1 / encodings.shape[1]))
            self._nodes, edges, weights, self.rough = grid(metric, encodings, side)
        else:
            self.rough = False
            self._nodes, edges = _neighbours(encodings, num_nodes or 2000, num_neighbours=12)
            weights = line_lengths(metric, self._nodes, edges, self._pieces, progress)
        self._graph = _symmetric(edges, weights, len(self._nodes))
        with torch.no_grad():
            stays = metric.node_weights(self._nodes)
        self._stays = None if stays is None else stays.double().nan_to_num(nan=torch.inf).cpu().numpy()

    @cached_property
    def _tree(self) -> cKDTree:
        # Few points are looked up in it: a tree that is made at once is better than one that answers at once.
        return cKDTree(self._nodes.double().cpu().numpy(), compact_nodes=False, balanced_tree=False)

    def __getstate__(self) -> Mapping[str, Any]:
        # The tree of the nodes is made where it is needed: it would be sent with its own copy of them.
        return {name: value for name, value in vars(self).items() if name != "_tree"}

    def __call__(self, start: Points, stop: Points) -> Float[Tensor, "batch node latent"]:
        """Shortest paths from start to stop, at constant speed in the graph's weights.

        Args:
            start: first points, (batch, latent).
            stop: last points, (batch, latent).

        Returns:
            Paths of `metric.graph_segments` segments whose ends are exactly `start` and `stop`: the straight line where
            that is shorter, or where the graph does not join the two.

        Raises:
            TypeError, ValueError: an argument's type, shape, dtype or device does not fit.
        """
        start, stop = self._ends(start, stop)
        check_alike("stop start", start, stop)
        paths, lines = Straight(self._metric.graph_segments)(start, stop), self._lines(start, stop)
        routes, weights = self._routes(start, stop, lines, SHORTEST, paths.shape[1] - 1)
        shorter = torch.from_numpy(weights < lines[routes.pair.cpu().numpy()]).to(routes.pair.device)
        paths[routes.pair[shorter]] = routes.path[shorter]
        return paths

    def starts(
        self,
        start: Points,
        stop: Points,
        *,
        reach: float = REACH,
        share: float = SHARE,
        most: int = MOST,
    ) -> Starts:
        """The shortest path and the distinct routes nearly as short, from start to stop.

        The lower of them is unknown before they are solved, since a graph misjudges lengths by some percent.

        Args:
            start: first points, (batch, latent).
            stop: last points, (batch, latent).
            reach: routes are at most 1 + reach times as long as the shortest, in the graph's weights.
            share: for at least this share of its length a route is shortest seen from both ends.
            most: routes of a pair at most; of an energy whose minima wait somewhere (`node_weights`) half as many such
                places, and the shortest path.

        Returns:
            Paths of `metric.graph_segments` segments, of a rough graph twice as many, whose ends are exactly `start`
            and `stop`, and whose they are; the straight line for pairs that the graph does not join.

        Raises:
            TypeError, ValueError: an argument's type, shape, dtype or device does not fit.
        """
        start, stop = self._ends(start, stop)
        check_alike("stop start", start, stop)
        num_segments = (2 if self.rough else 1) * self._metric.graph_segments
        routes, _ = self._routes(start, stop, self._lines(start, stop), Wanted(reach, share, most), num_segments)
        alone = (torch.bincount(routes.pair, minlength=len(start)) == 0).nonzero()[:, 0]
        lines = Straight(num_segments)(start[alone], stop[alone])
        pair = torch.cat([routes.pair, alone])
        order = torch.argsort(pair, stable=True)
        return Starts(torch.cat([routes.path, lines])[order], pair[order])

    def _ends(self, start: Points, stop: Points) -> tuple[Tensor, Tensor]:
        """Both as points of the graph's latent space."""
        start, stop = latent_points("start", start, "batch latent"), latent_points("stop", stop, "batch latent")
        for name, points in (("start", start), ("stop", stop)):
            check_latent(name, points, self._nodes.shape[1])
        return start, stop

    def _lines(self, start: Float[Tensor, "batch latent"], stop: Float[Tensor, "batch latent"]) -> np.ndarray:
        """Weights of the straight lines."""
        return self._weights(torch.cat([start, stop]), np.arange(2 * len(start)).reshape(2, -1).T, LINE_PIECES)

    def _routes(
        self, start: Tensor, stop: Tensor, lines: np.ndarray, wanted: Wanted, num_segments: int
    ) -> tuple[Starts, np.ndarray]:
        """Routes through the graph, the shortest of each pair first, and their weights; none where it joins no ends."""
        ends, number = torch.unique(torch.cat([start, stop]), dim=0, return_inverse=True)
        first, second = number.view(2, -1).cpu().numpy()
        near, weights = self._exits(ends)
        # No route is sought that is longer than 1 + reach straight lines. Nodes that it passes by one end need not be
        # seen from the other: what matters of a plateau lies further in.
        nearest = weights.min(1)  # never NaN
        out = np.where(np.isfinite(nearest), nearest, 0)[np.stack([first, second])]
        limits = out + SEEN * np.maximum((1 + wanted.reach) * lines - out.sum(0), 0)
        limit = np.zeros(len(ends))
        for side, furthest in zip((first, second), limits, strict=True):
            np.maximum.at(limit, side, furthest)
        stays = self._stays if wanted.most > 1 else None
        if stays is not None:
            # The least way with a stay costs no more than to stay at either end's node and take the straight line.
            stay = stays[near[:, 0]] + 2 * weights[:, 0]
            furthest = np.minimum(stay[first], stay[second]) + lines - stays.min()
            for side in (first, second):
                np.maximum.at(limit, side, np.where(np.isfinite(furthest), furthest, np.inf))
        found, lengths, pairs = [start.new_zeros(0, num_segments + 1, start.shape[1])], [], []
        for rows in _groups(first, second, max(2, MEMORY // (12 * len(self._nodes)))):
            used = np.unique([first[rows], second[rows]])
            trees = _trees(*_parts(self._graph), near[used], weights[used], limit[used])
            one, two = np.searchsorted(used, first[rows]), np.searchsorted(used, second[rows])
            via = vias(trees, one, two, limits[:, rows], *wanted[:2], wanted.most if stays is None else 1)
            from_one, from_two = one[via.pair], two[via.pair]
            ahead, back = (
                trails(trees.previous, from_one, via.node),
                trails(trees.previous, from_two, via.node)[:, ::-1],
            )
            points = torch.cat([self._nodes, ends[used].to(self._nodes)])[np.concatenate([ahead, back], axis=1)]
            length = trees.distance[from_one, via.node] + trees.distance[from_two, via.node]
            gone, left = trees.distance[from_one[:, None], ahead], trees.distance[from_two[:, None], back]
            times = torch.from_numpy(np.concatenate([gone, length[:, None] - left], axis=1)).to(points)
            found.append(interpolated(points, times, num_segments).to(start))
            lengths.append(length)
            pairs.append(rows[via.pair])
            if stays is not None:
                wait = waits(trees, one, two, (self._graph.indices, self._graph.indptr), stays, wanted.most // 2)
                place, pair = self._nodes[torch.from_numpy(wait.node).to(ends.device)], rows[wait.pair]
                stops = torch.stack([start[pair], place.to(start), stop[pair]], dim=1)
                times = torch.tensor([0.0, 0.5, 1.0]).to(stops).repeat(len(stops), 1)
                found.append(interpolated(stops, times, num_segments))
                pairs.append(pair)
        path, pair = torch.cat(found), np.concatenate([*pairs, np.zeros(0, dtype=np.int64)])
        index = torch.from_numpy(pair).to(start.device)
        path[:, 0], path[:, -1] = start[index], stop[index]
        return Starts(path, index), np.concatenate([*lengths, np.zeros(0)])

    def distances(
        self, start: Points, stop: Points, *, executor: Executor | None = None, progress: bool = False
    ) -> Float[np.ndarray, "start stop"]:
        """Lengths, in the graph's weights, of the shortest paths from every start to every stop.

        Args:
            start: first points, (start, latent); the graph is searched once for each.
            stop: last points, (stop, latent).
            executor: any `concurrent.futures.Executor`, for 64 starts at a time; None searches here.
            progress: show a progress bar with the remaining time.

        Returns:
            Weights of the paths, infinite where the graph does not join the two; between points nearest to the same
            node, the weight of the straight line; NaN where one is not finite.

        Raises:
            TypeError, ValueError: an argument's type or shape does not fit.
        """
        start, stop = self._ends(start, stop)
        near, weights = self._exits(start)
        exits = self._exits(stop)
        near_stop = exits[0]
        blocks = np.array_split(np.arange(len(start)), -(-len(start) // 64))
        arrays = (*_parts(self._graph), *exits)
        jobs = [(arrays, near[rows], weights[rows]) for rows in blocks]
        found = np.concatenate(all_of(carried_out(reached, jobs, executor, "graph", progress), "blocks of starts"))
        # Points of one cell are joined by a line that passes no node.
        close = np.argwhere(near[:, :1] == near_stop[:, 0])
        lines = self._weights(torch.cat([start, stop.to(start)]), close + np.array([0, len(start)]), 2)
        found[tuple(close.T)] = lines
        found[~_finite(start)] = found[:, ~_finite(stop)] = np.nan  # no point is there that something could lead to
        return found

    def _weights(self, points: Float[Tensor, "point latent"], edges: np.ndarray, pieces: int) -> np.ndarray:
        """Weights of edges cut into equal pieces, each weighed by the metric; infinite where they are not finite."""
        return line_lengths(self._metric, points, edges, pieces)

    def _exits(self, ends: Float[Tensor, "end latent"]) -> tuple[np.ndarray, np.ndarray]:
        """The nodes near each end, and the weights of the edges to them; both (end, exit)."""
        count = min(8, len(self._nodes))
        # An end that is not finite has nodes as well, and edges to them that are not.
        near = self._tree.query(ends.double().nan_to_num(0, 0, 0).cpu().numpy(), k=[*range(1, count + 1)])[1]
        edges = np.stack([np.repeat(np.arange(len(ends)), count) + len(self._nodes), near.reshape(-1)], axis=1)
        points = torch.cat([self._nodes, ends.to(self._nodes)])
        return near, self._weights(points, edges, self._pieces).reshape(near.shape)


def _trees(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, near: np.ndarray, weights: np.ndarray, limit: np.ndarray
) -> Trees:
    """Shortest paths, as long as their end's limit at most, from ends given as edges (end, exit) out of each.

    An end has edges out only, so that no path leads through another one: pairs do not see each other.

    Args:
        data, indices, indptr: the graph's matrix, by rows.
        near: nodes near each end.
        weights: of the edges to them.
        limit: one of each end.
    """
    nodes, finite = len(indptr) - 1, np.isfinite(weights)
    augmented = csr_array(
        (
            np.concatenate([data, weights[finite]]),
            np.concatenate([indices, near[finite]]),
            np.concatenate([indptr, indptr[-1] + finite.sum(1).cumsum()]),
        ),
        shape=(nodes + len(near),) * 2,
    )
    found = [
        dijkstra(augmented, indices=nodes + end, limit=most, return_predecessors=True) for end, most in enumerate(limit)
    ]
    return Trees(*map(np.stack, zip(*found, strict=True)))


def _groups(
    first: Int[np.ndarray, " pair"], second: Int[np.ndarray, " pair"], most: int
) -> Iterator[Int[np.ndarray, " some"]]:
    """Pairs in groups that have at most so many ends between them."""
    rows: list[int] = []
    ends: set[int] = set()
    for row in np.lexsort([second, first]):
        new = {first[row], second[row]}
        if rows and len(ends | new) > most:
            yield np.array(rows)
            rows, ends = [], set()
        rows.append(row)
        ends |= new
    if rows:
        yield np.array(rows)


def _finite(points: Tensor) -> np.ndarray:
    return points.isfinite().all(1).cpu().numpy()


def _parts(matrix: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return matrix.data, matrix.indices, matrix.indptr


def reached(arrays: Sequence[np.ndarray], near: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Lengths from some starts to all stops through a graph, by the nodes near each and the ways there.

    Args:
        arrays: the graph's matrix, and of the stops the nodes near each and the ways there.
        near: of the starts.
        weights: of the starts.
    """
    data, indices, indptr, near_stop, weights_stop = arrays
    distance = _trees(data, indices, indptr, near, weights, np.full(len(near), np.inf)).distance
    found = np.full((len(near), len(near_stop)), np.inf)
    for node, weight in zip(near_stop.T, weights_stop.T, strict=True):
        found = np.minimum(found, distance[:, node] + weight)
    return found


def _neighbours(
    encodings: Float[Tensor, "point latent"], num_nodes: int, num_neighbours: int
) -> tuple[Tensor, np.ndarray]:
    """Evenly picked encodings, each joined to its nearest neighbours."""
    picked = torch.linspace(0, len(encodings) - 1, min(num_nodes, len(encodings))).round().long()
    nodes = encodings[picked.to(encodings.device)].unique(dim=0)
    positions = nodes.double().cpu().numpy()
    count = min(num_neighbours, len(nodes) - 1)
    near = cKDTree(positions).query(positions, k=[*range(2, count + 2)])[1]
    edges = np.stack([np.repeat(np.arange(len(nodes)), count), near.reshape(-1)], axis=1)
    return nodes, np.unique(np.sort(edges, axis=1), axis=0)


def _symmetric(edges: np.ndarray, weights: np.ndarray, num_nodes: int) -> csr_array:
    """The undirected graph's matrix; edges without a finite weight are left out, no weight is zero."""
    finite = np.isfinite(weights)
    if not finite.all():
        edges, weights = edges[finite], weights[finite]
    first, second = edges.T.astype(np.int32)
    weight = np.maximum(weights, np.finfo(np.float64).tiny)
    both = (np.concatenate([first, second]), np.concatenate([second, first]))
    return coo_array((np.concatenate([weight, weight]), both), shape=(num_nodes, num_nodes)).tocsr()
