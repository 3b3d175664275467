"""Square grids around codes, finer where the metric is rough: nodes, edges, and the weights of these."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import maximum_filter
from torch import Tensor

from probgeo.geometry.lines import line_lengths
from probgeo.geometry.metrics import Energy
from probgeo.geometry.valleys import along_valleys

MARGIN = 0.1  # of the codes' extent, to spare on either side
ROUGH = 0.1  # an edge that is longer by this share when it is cut in two does not see what is between its ends
HALVINGS = 2  # of the grid's spacing around such edges
MOST = 0.25  # of them for every node of the even grid are replaced each time, those that see the least
FEW = 1 / 16  # of them for every node of the even grid may be left; with more the metric is rough all over
FINER = (8, 6, 4)  # times as many nodes per axis beside codes, where it is; even, as halfway is a place; the first that
MOST_FINE = 20  # nodes there for every node of the even grid allow
NEAR, FAR = 2, 8  # steps to a side: of a node's neighbours, and at most of its edges along valleys
MOST_POINTS = 2**15  # where the metric is evaluated at a time


class Grid(NamedTuple):
    """Nodes of a graph, edges between them."""

    nodes: Float[Tensor, "node latent"]
    edges: Int[np.ndarray, "edge 2"]
    weights: Float[np.ndarray, " edge"]
    rough: bool  #: whether many edges, as short as they are made, do not see what is between their ends


class Square(NamedTuple):
    """The square around codes that a grid is made of."""

    centre: Float[Tensor, " latent"]
    half: Float[Tensor, ""]

    def points(self, place: Int[np.ndarray, "point axis"], size: int) -> Float[Tensor, "point latent"]:
        """Where places are, of so many per axis."""
        share = torch.linspace(-1, 1, size, dtype=self.centre.dtype, device=self.centre.device)
        return self.centre + self.half * share[torch.from_numpy(place).to(share.device)]


class Level(NamedTuple):
    """One even part of a grid."""

    place: Int[np.ndarray, "node axis"]  #: of its nodes, counted in the finest spacing
    edges: Int[np.ndarray, "edge 2"]  #: numbers of its nodes
    weights: Float[np.ndarray, " edge"]


def grid(metric: Energy, codes: Float[Tensor, "point latent"], num_nodes: int) -> Grid:
    """Square grid of num_nodes per axis around the codes, in two dimensions each node joined to the 24 around it.

    Square, because paths may bend far aside where the codes are thin: in dimensions that a model does not use.
    Edges are weighed in two pieces. Those beside codes that are longer by `ROUGH` so than in one are replaced by a
    grid of half the spacing around them, and so are those of that grid. Where many of the finest are still longer, all
    those beside codes are replaced by a grid of down to an eighth of the spacing that has edges along its valleys too.

    Args:
        metric: weighs the edges.
        codes: latent points of data.
        num_nodes: per axis, where the metric is not rough.
    """
    low, high = codes.amin(0), codes.amax(0)
    half = (0.5 + MARGIN) * (high - low).amax().clamp_min(torch.finfo(codes.dtype).tiny)
    square, latent, even = Square((low + high) / 2, half), codes.shape[1], num_nodes ** codes.shape[1]
    relative = ((codes - square.centre) / half).double().cpu().numpy()
    active = np.ones((num_nodes,) * latent, dtype=bool)
    levels: list[Level] = []
    for spacing in (2**left for left in range(HALVINGS, -1, -1)):  # counted in the finest
        # Places are half a spacing apart, so that what is halfway between two nodes is at one too.
        size = 2 * active.shape[0] - 1
        place, ends = _joined(active)
        halfway = place[ends].sum(1)
        looked = np.flatnonzero(_beside(relative, num_nodes, size)[tuple(halfway.T)])
        whole, cut = _weighed(metric, square, place, ends, looked, size)
        unseen = looked[_unseen(whole, cut[looked])]
        if spacing == 1 and latent == 2 and len(unseen) > FEW * even:
            return _fine(metric, square, relative, num_nodes)
        replaced = unseen[: int(MOST * even)] if spacing > 1 else unseen[:0]
        levels.append(Level(spacing * place, np.delete(ends, replaced, axis=0), np.delete(cut, replaced)))
        if not len(replaced):
            break
        active = np.zeros((size,) * latent, dtype=bool)
        active[tuple(halfway[replaced].T)] = True
        active = maximum_filter(active, 5)  # their ends too
    return _of_levels(square, levels, 2**HALVINGS * (num_nodes - 1) + 1, rough=False)


def _fine(metric: Energy, square: Square, relative: Float[np.ndarray, "point axis"], num_nodes: int) -> Grid:
    """A grid in two dimensions that is finer all around the codes, and has edges along its valleys there.

    Args:
        metric: weighs the edges.
        square: where the nodes are.
        relative: codes, from −1 to 1.
        num_nodes: per axis, of the even grid beyond.
    """
    even, ends = _joined(np.ones((num_nodes, num_nodes), dtype=bool))
    room = MOST_FINE * num_nodes**2 / _beside(relative, num_nodes, num_nodes).sum()
    finer = next((some for some in FINER if some**2 <= room), FINER[-1])
    size = finer * (num_nodes - 1) + 1
    beside = _beside(relative, num_nodes, size)
    beyond = ends[~beside[tuple((finer * even[ends].sum(1) // 2).T)]]
    place, edges = _joined(maximum_filter(beside, 2 * finer + 1))  # the ends of the others too
    nodes, none = square.points(place, size), np.zeros(0, dtype=np.int64)
    _, even_weights = _weighed(metric, square, even, beyond, none, 2 * num_nodes - 1)
    _, weights = _weighed(metric, square, place, edges, none, 2 * size - 1)
    along = along_valleys(place, edges, weights, NEAR + 1, FAR)
    along = along[beside[tuple(place.T)][along].any(1)]
    steps = np.abs(place[along[:, 1]] - place[along[:, 0]]).max(1)
    for count in np.unique(steps):
        edges = np.concatenate([edges, along[steps == count]])
        weights = np.concatenate([weights, line_lengths(metric, nodes, along[steps == count], int(count))])
    levels = [Level(finer * even, beyond, even_weights), Level(place, edges, weights)]
    return _of_levels(square, levels, size, rough=True)


def _of_levels(square: Square, levels: Sequence[Level], size: int, rough: bool) -> Grid:
    """All levels as one: nodes at one place, of so many per axis, are the same."""
    number = np.full((size,) * square.centre.shape[0], -1, dtype=np.int32)
    places: list[np.ndarray] = []
    for level in levels:
        new = level.place[number[tuple(level.place.T)] < 0]
        number[tuple(new.T)] = sum(map(len, places)) + np.arange(len(new))
        places.append(new)
    edges = np.concatenate([number[tuple(level.place.T)][level.edges] for level in levels])
    return Grid(
        square.points(np.concatenate(places), size), edges, np.concatenate([level.weights for level in levels]), rough
    )


def _joined(active: Bool[np.ndarray, "..."]) -> tuple[Int[np.ndarray, "node axis"], Int[np.ndarray, "edge 2"]]:
    """Places of the active nodes of a grid, and edges of their numbers, from each to those at most two steps aside."""
    place = np.argwhere(active)
    number = np.full([size + 4 for size in active.shape], -1)  # with a border that nothing is on
    number[tuple(place.T + 2)] = np.arange(len(place))
    edges = []
    for offset in np.ndindex((5,) * active.ndim):
        shift = [o - 2 for o in offset]
        if shift > [0] * active.ndim and np.gcd.reduce(shift) == 1:
            other = number[tuple((place + offset).T)]
            first = np.flatnonzero(other >= 0)
            edges.append(np.stack([first, other[first]], axis=1))
    return place, np.concatenate(edges)


def _numbered(
    places: Int[np.ndarray, "place axis"], size: int
) -> tuple[Int[np.ndarray, "point axis"], Int[np.ndarray, " place"]]:
    """Places that occur, each once, and the numbers of all among them."""
    occurs = np.zeros((size,) * places.shape[1], dtype=bool)
    occurs[tuple(places.T)] = True
    number = np.cumsum(occurs.ravel()) - 1
    return np.argwhere(occurs), number[np.ravel_multi_index(tuple(places.T), occurs.shape)]


def _beside(relative: Float[np.ndarray, "point axis"], num_nodes: int, size: int) -> Bool[np.ndarray, "..."]:
    """Which places are as near to codes as these would be to each other if they were spread evenly.

    Args:
        relative: codes, from −1 to 1.
        num_nodes: of the even grid, per axis.
        size: places per axis.
    """
    beside = np.zeros((size,) * relative.shape[1], dtype=bool)
    beside[tuple(((relative + 1) / 2 * (size - 1)).round().astype(np.int64).T)] = True
    apart = max(1.0, num_nodes / len(relative) ** (1 / relative.shape[1])) / (num_nodes - 1)
    return maximum_filter(beside, 2 * math.ceil(apart * (size - 1)) + 1)


def _weighed(
    metric: Energy,
    square: Square,
    place: Int[np.ndarray, "node axis"],
    ends: Int[np.ndarray, "edge 2"],
    looked: Int[np.ndarray, " looked"],
    size: int,
) -> tuple[Float[np.ndarray, " looked"], Float[np.ndarray, " edge"]]:
    """Weights of some edges in one piece, and of all in two, row by row of their first ends as far as memory asks it.

    Args:
        metric: weighs them.
        square: where the nodes are.
        place: of the nodes.
        ends: of the edges, numbers of nodes.
        looked: numbers of edges.
        size: places per axis, half a step apart.
    """
    cut = np.zeros(len(ends))
    whole = np.zeros(len(ends))
    asked = np.zeros(len(ends), dtype=bool)
    asked[looked] = True
    # A row of nodes has as many places halfway, and a row of these below it.
    block = 4 * np.arange(len(place)) // MOST_POINTS
    block = block[np.searchsorted(place[:, 0], place[:, 0])][ends[:, 0]]
    for rows in (np.flatnonzero(block == number) for number in np.unique(block)):
        first, second = place[ends[rows]].swapaxes(0, 1)
        seen, index = _numbered(np.concatenate([2 * first, first + second, 2 * second]), size)
        begin, middle, end = index.reshape(3, -1)
        some = asked[rows]
        pieces = np.concatenate([[begin, middle], [middle, end], [begin[some], end[some]]], axis=1).T
        with torch.no_grad():
            points = square.points(seen, size)
            weights = metric.edge_weights(points, torch.from_numpy(pieces).to(points.device)).double().cpu().numpy()
        cut[rows] = weights[: len(rows)] + weights[len(rows) : 2 * len(rows)]
        whole[rows[some]] = weights[2 * len(rows) :]
    return whole[looked], cut


def _unseen(whole: Float[np.ndarray, " edge"], cut: Float[np.ndarray, " edge"]) -> Int[np.ndarray, " unseen"]:
    """Edges that are much longer when they are cut in two, those that are so by most first."""
    longer = np.subtract(cut, whole, out=np.zeros_like(cut), where=np.isfinite(cut) & np.isfinite(whole))
    unseen = np.flatnonzero(longer > ROUGH * whole)
    return unseen[np.argsort(-longer[unseen], kind="stable")]
