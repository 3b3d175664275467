"""Square grids around codes, finer where the metric is rough: nodes, edges, and the weights of these."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import maximum_filter
from torch import Tensor

from probgeo.geometry.metrics import Energy

MARGIN = 0.1  # of the codes' extent, to spare on either side
ROUGH = 0.1  # an edge that is longer by this share when it is cut in two does not see what is between its ends
HALVINGS = 2  # of the grid's spacing around such edges
MOST = 0.25  # of them for every node of the even grid are replaced each time, those that see the least


def grid(
    metric: Energy, codes: Float[Tensor, "point latent"], num_nodes: int
) -> tuple[Float[Tensor, "node latent"], Int[np.ndarray, "edge 2"], Float[np.ndarray, " edge"]]:
    """Square grid of num_nodes per axis around the codes, in two dimensions each node joined to the 24 around it.

    Square, because paths may bend far aside where the codes are thin: in dimensions that a model does not use.
    Edges are weighed in two pieces. Those beside codes that are longer by `ROUGH` so than in one are replaced by a
    grid of half the spacing around them, and so are those of that grid.

    Args:
        metric: weighs the edges.
        codes: latent points of data.
        num_nodes: per axis, where the metric is not rough.

    Returns:
        Nodes, edges between them, the edges' weights.
    """
    low, high = codes.amin(0), codes.amax(0)
    half = (0.5 + MARGIN) * (high - low).amax().clamp_min(torch.finfo(codes.dtype).tiny)
    centre, latent, most = (low + high) / 2, codes.shape[1], int(MOST * num_nodes ** codes.shape[1])
    relative = ((codes - centre) / half).double().cpu().numpy()
    number = np.full((2**HALVINGS * (num_nodes - 1) + 1,) * latent, -1, dtype=np.int32)
    active = np.ones((num_nodes,) * latent, dtype=bool)
    nodes: list[Tensor] = []
    edges: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for spacing in (2**left for left in range(HALVINGS, -1, -1)):  # counted in the finest
        # Places are half a spacing apart, so that what is halfway between two nodes is at one too.
        size = 2 * active.shape[0] - 1
        place, ends = _joined(active)
        halfway = place[ends].sum(1)
        seen, index = _numbered(np.concatenate([2 * place, halfway]), size)
        share = torch.linspace(-1, 1, size, dtype=codes.dtype, device=codes.device)
        points = centre + half * share[torch.from_numpy(seen).to(share.device)]
        looked = np.flatnonzero(_beside(relative, num_nodes, size)[tuple(halfway.T)] & (spacing > 1))
        whole, cut = _weighed(metric, points, index[ends], index[len(place) :], looked)
        unseen = looked[_unseen(whole, cut[looked], most)]
        new = number[tuple(spacing * place.T)] < 0
        number[tuple(spacing * place[new].T)] = sum(map(len, nodes)) + np.arange(new.sum())
        nodes.append(points[torch.from_numpy(index[: len(place)][new]).to(points.device)])
        edges.append(np.delete(number[tuple(spacing * place.T)][ends], unseen, axis=0))
        weights.append(np.delete(cut, unseen))
        if not len(unseen):
            break
        active = np.zeros((size,) * latent, dtype=bool)
        active[tuple(halfway[unseen].T)] = True
        active = maximum_filter(active, 5)  # their ends too
    return torch.cat(nodes), np.concatenate(edges), np.concatenate(weights)


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
    points: Float[Tensor, "point latent"],
    ends: Int[np.ndarray, "edge 2"],
    halfway: Int[np.ndarray, " edge"],
    looked: Int[np.ndarray, " looked"],
) -> tuple[Float[np.ndarray, " looked"], Float[np.ndarray, " edge"]]:
    """Weights of some edges in one piece, and of all in two."""
    halves = np.stack([ends[:, 0], halfway, halfway, ends[:, 1]], axis=1).reshape(-1, 2)
    pieces = torch.from_numpy(np.concatenate([halves, ends[looked]]))
    with torch.no_grad():
        weights = metric.edge_weights(points, pieces.to(points.device)).double().cpu().numpy()
    return weights[len(halves) :], weights[: len(halves)].reshape(-1, 2).sum(1)


def _unseen(
    whole: Float[np.ndarray, " edge"], cut: Float[np.ndarray, " edge"], most: int
) -> Int[np.ndarray, " unseen"]:
    """Edges that are much longer when they are cut in two; where these are many, those that are so by most."""
    longer = np.subtract(cut, whole, out=np.zeros_like(cut), where=np.isfinite(cut) & np.isfinite(whole))
    unseen = np.flatnonzero(longer > ROUGH * whole)
    return unseen[np.argsort(-longer[unseen], kind="stable")[:most]]
