"""Edges of a square grid along the valleys of an anisotropic metric, farther than a node's neighbours.

A path along a valley that no edge leads along goes up its sides: whatever the grid's spacing, it is weighed too long.

References:
    Mirebeau, Anisotropic fast-marching on Cartesian grids using lattice basis reduction (2014).
"""

import numpy as np
from jaxtyping import Float, Int

LEAST_WEIGHT = 1e-30  # of the largest; edges of less say nothing
DEFINITE = 0.999  # |G₁₂| of a tensor that edges show, at most so much of √(G₁₁ G₂₂)
LEAST_SHARE = 1e-8  # G₁₁ of G₂₂, or G₂₂ of G₁₁: short steps are ten thousand long then
MOST_REDUCTIONS = 32
# Of the two shortest steps, as (1, 0) and (0, 1) are between neighbours:
STEPS = ((1, 0), (0, 1), (1, 1), (1, -1), (2, 1), (2, -1), (1, 2), (1, -2))


def along_valleys(
    place: Int[np.ndarray, "node axis"],
    edges: Int[np.ndarray, "edge 2"],
    weights: Float[np.ndarray, " edge"],
    least: int,
    most: int,
) -> Int[np.ndarray, "along 2"]:
    """Edges from each node along its short steps, forwards and backwards, each edge once.

    Args:
        place: of the nodes in a grid of two dimensions, in steps of one.
        edges: between neighbours, numbers of nodes.
        weights: of the edges.
        least: steps to one side that an edge takes at least, so that it is none of those between neighbours.
        most: steps to one side that it takes at most.
    """
    size = place.max() + 1
    number = np.full((size, size), -1)
    number[tuple(place.T)] = np.arange(len(place))
    tensor, known = fitted(place, edges, weights)
    found = [np.zeros(0, dtype=np.int64)]
    for step in short_steps(tensor[known]):
        far = np.abs(step).max(1)
        wanted = (least <= far) & (far <= most)
        first = known[wanted]
        for way in (step[wanted], -step[wanted]):
            to = place[first] + way
            inside = ((to >= 0) & (to < size)).all(1)
            second = np.full(len(to), -1)
            second[inside] = number[tuple(to[inside].T)]
            one, two = first[second >= 0], second[second >= 0]
            found.append(np.minimum(one, two) * len(place) + np.maximum(one, two))
    return np.stack(np.divmod(np.unique(np.concatenate(found)), len(place)), axis=1)


def fitted(
    place: Int[np.ndarray, "node axis"], edges: Int[np.ndarray, "edge 2"], weights: Float[np.ndarray, " edge"]
) -> tuple[Float[np.ndarray, "node entry"], Int[np.ndarray, " known"]]:
    """Each node's metric tensor as its edges show it, argmin_G Σ (dᵀG d / w² − 1)²; and the nodes that have one.

    Args:
        place: of the nodes, in steps of one; d are differences.
        edges: numbers of nodes.
        weights: w of each edge; those that are not finite, or zero, say nothing.

    Returns:
        G₁₁, G₁₂, G₂₂, in the unit of the largest weight.
    """
    # In a unit of their own, so that no square overflows.
    weights = np.where(np.isfinite(weights), weights, 0)
    weights = weights / max(weights.max(initial=0), np.finfo(np.float64).tiny)
    edges, weights = edges[usable := weights > LEAST_WEIGHT], weights[usable]
    x, y = (place[edges[:, 1]] - place[edges[:, 0]]).T / weights
    terms, count = np.stack([x * x, 2 * x * y, y * y]), len(place)

    def of_nodes(values: np.ndarray) -> np.ndarray:
        return np.bincount(edges.T.ravel(), np.tile(values, 2), minlength=count)

    matrix = np.stack([[of_nodes(one * two) for one in terms] for two in terms]).transpose(2, 0, 1)
    right = np.stack([of_nodes(one) for one in terms], axis=1)
    scale = np.trace(matrix, axis1=1, axis2=2)
    # Edges along two lines alone leave a tensor open: the least that fits is taken.
    matrix = matrix + (np.finfo(np.float64).eps ** 0.75 * np.where(scale > 0, scale, 1))[:, None, None] * np.eye(3)
    tensor = np.linalg.solve(matrix, right[:, :, None])[..., 0]
    return tensor, np.flatnonzero((tensor[:, 0] > 0) & (tensor[:, 2] > 0))


def short_steps(tensor: Float[np.ndarray, "node entry"]) -> list[Int[np.ndarray, "node axis"]]:
    """Steps that the metric finds short on the lattice of whole numbers: the neighbours in its reduced basis.

    The two shortest that span the lattice, by Lagrange's reduction, and their sums and differences as in `STEPS`: what
    (±1, 0), (0, ±1), (±1, ±1), (±2, ±1) and (±1, ±2) are where it is the Euclidean metric.

    Args:
        tensor: G₁₁, G₁₂, G₂₂, the first and last positive; where it is not positive definite, of the nearest that is.
    """
    a, b, c = tensor.T
    a, c = np.maximum(a, LEAST_SHARE * c), np.maximum(c, LEAST_SHARE * a)
    most = DEFINITE * np.sqrt(a * c)
    b = np.clip(b, -most, most)

    def product(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return (
            a * one[:, 0] * two[:, 0] + b * (one[:, 0] * two[:, 1] + one[:, 1] * two[:, 0]) + c * one[:, 1] * two[:, 1]
        )

    short, long = (np.tile(step, (len(tensor), 1)) for step in ([1, 0], [0, 1]))
    for _ in range(MOST_REDUCTIONS):
        swap = (product(short, short) > product(long, long))[:, None]
        short, long = np.where(swap, long, short), np.where(swap, short, long)
        times = np.round(product(short, long) / product(short, short)).astype(np.int64)[:, None]
        if not times.any():
            break
        long = long - times * short
    return [one * short + two * long for one, two in STEPS]
