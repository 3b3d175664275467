"""Distances through a graph of neighbouring observations, as Isomap has them: no model is needed."""

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from probgeo.geometry.points import Points, latent_points


def neighbour_graph_distances(
    x: Points, pairs: Int64[Tensor, "pair 2"], num_neighbours: int = 10
) -> Float[Tensor, " pair"]:
    """Lengths of the shortest paths through the data that step from rows to their nearest rows, ‖x_i − x_j‖ each step.

    Two rows are joined where one is among the nearest of the other. With dense data and little noise that is the
    distance on their manifold; noise makes every step longer, and a step across a gap makes a path too short.

    Args:
        x: observations, (row, feature).
        pairs: rows of them.
        num_neighbours: nearest rows that each is joined with, besides those that it is nearest to.

    Returns:
        lengths in the units of x, double precision.

    Raises:
        ValueError: num_neighbours is no number of other rows, or a pair is not joined by any path.

    Example:
        >>> import math, torch, probgeo as pg
        >>> angle = torch.linspace(0, math.pi, 200)
        >>> half = torch.stack([angle.cos(), angle.sin()], dim=1)
        >>> ends = torch.tensor([[0, 199]])
        >>> round(pg.datasets.neighbour_graph_distances(half, ends, num_neighbours=2).item(), 3)  # not 2, the chord
        3.142

    References:
        Tenenbaum, de Silva and Langford (2000), A global geometric framework for nonlinear dimensionality reduction,
        Science 290.
    """
    rows = latent_points("x", x, "row feature").detach().cpu().double().numpy()
    if not 1 <= num_neighbours < len(rows):
        raise ValueError(f"num_neighbours: expected 1 to {len(rows) - 1}, the other rows; got {num_neighbours}.")
    found = path_lengths(rows, pairs.cpu().numpy(), num_neighbours)
    if not np.isfinite(found).all():
        raise ValueError(
            f"num_neighbours: {np.isinf(found).sum()} of {len(found)} pairs are not joined by any path of "
            f"{num_neighbours} neighbours; take more."
        )
    return torch.from_numpy(found)


def path_lengths(
    rows: Float[np.ndarray, "row feature"], pairs: Int[np.ndarray, "pair 2"], num_neighbours: int
) -> Float[np.ndarray, " pair"]:
    """Lengths of the shortest paths from neighbour to neighbour, infinite where there is none."""
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(rows, num_neighbours, mode="distance")
    starts, number = np.unique(pairs[:, 0], return_inverse=True)
    return dijkstra(graph, directed=False, indices=starts)[number, pairs[:, 1]]
