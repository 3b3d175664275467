"""Nearest neighbours under a metric: a sparse graph over many codes, by lengths of short lines."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from torch import Tensor
from tqdm import tqdm

from probgeo.geometry.lines import line_lengths
from probgeo.geometry.metrics import Energy, Metric
from probgeo.geometry.metrics.metric import check_energy
from probgeo.geometry.points import Points, latent_points

NUM_SAMPLED = 200  # points whose lists say whether there are candidates enough
SETTLED = 0.99  # share of their neighbours that so many times as many candidates leave
MORE = 4
NUM_TENSORS = 256  # points whose metric tensors are averaged
FLOOR = 1e-3  # of the mean tensor's mean eigenvalue, so that a direction without any length still counts a little
ROWS = 4096  # whose candidates are held at a time
SPARE = 2  # times as many as wanted are measured in full


def neighbours(
    metric: Energy,
    codes: Points,
    num_neighbours: int = 15,
    *,
    num_candidates: int | None = None,
    num_segments: int = 4,
    progress: bool = False,
) -> csr_array:
    """The k nearest codes of each code, by the length Σ_i ‖r_i‖ of straight lines of few segments under the metric.

    Candidates are the codes that are nearest in the mean Ḡ of the metric's tensors, ‖z_i − z_j‖²_Ḡ. Of them those with
    the shortest chords ‖r‖ are kept, a chord being no longer than any line of more segments, and of these the k with
    the shortest lines. The lines are near to geodesics where the codes are dense; no path is sought.

    A line is as long in one direction as in the other, and measured once. A code's row holds its own k nearest
    however, so that the graph is directed: `graph.maximum(graph.T)` has an edge where either is a neighbour of the
    other, `graph.minimum(graph.T)` where both are.

    Args:
        metric: a metric; no other energy, which has no lengths.
        codes: latent points, (point, latent).
        num_neighbours: k.
        num_candidates: per code, k at least; None for as many as are needed: 3k, doubled until four times as many
            would change less than one in a hundred neighbours of a sample of codes.
        num_segments: of each line.
        progress: show progress bars.

    Returns:
        Lengths (point, point), k of them in each row, sorted by column; none is the code itself. Lengths of zero, of
        equal codes, are stored.

    Raises:
        TypeError: no metric, or no codes.
        ValueError: codes that are not finite, a number out of its range, or a code that fewer than k finite lines
            lead to.

    Example:
        >>> import torch, probgeo as pg
        >>> stretched = pg.PullbackMetric(lambda z: z * torch.tensor([1.0, 5.0]))
        >>> codes = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [4.0, 1.0]])
        >>> pg.neighbours(stretched, codes, num_neighbours=1).toarray().round(3)
        array([[0., 2., 0., 0.],
               [2., 0., 0., 0.],
               [0., 0., 0., 4.],
               [0., 0., 4., 0.]])
    """
    check_energy(metric)
    if not isinstance(metric, Metric):
        raise TypeError(f"metric: expected a metric, which has lengths; got {type(metric).__name__}.")
    codes = latent_points("codes", codes, "point latent")
    k, most = num_neighbours, len(codes) - 1
    if not codes.isfinite().all():
        raise ValueError(f"codes: expected finite ones; got {int((~codes.isfinite()).any(1).sum())} that are not.")
    if not 1 <= k <= most:
        raise ValueError(f"num_neighbours: expected 1 to {most}, below the {len(codes)} codes; got {k}.")
    if num_candidates is not None and not k <= num_candidates <= most:
        raise ValueError(f"num_candidates: expected {k} to {most}; got {num_candidates}.")
    if num_segments < 1:
        raise ValueError(f"num_segments: expected at least 1; got {num_segments}.")
    # Codes that are near to each other are numbered in a row: the ends of a block's lines are few then.
    places = _flattened(metric, codes)
    order = cKDTree(places).indices
    codes, places = codes[torch.from_numpy(order).to(codes.device)], places[order]
    tree = cKDTree(places)
    if num_candidates is None:
        num_candidates = _enough(metric, codes, tree, k, num_segments)
    every = np.arange(len(codes))
    near = _shortlist(metric, codes, tree, every, num_candidates, SPARE * k, progress)
    lengths, near = _nearest(metric, codes, every, near, k, num_segments, progress)
    lost = ~np.isfinite(lengths).all(1)
    if lost.any():
        raise ValueError(
            f"codes: expected {k} neighbours at finite lengths for each; {int(lost.sum())} have fewer, the first in "
            f"row {order[lost].min()}: the decoder is not finite on lines from there."
        )
    start, stop = np.repeat(order, k), order[near.ravel()]
    by_row = np.lexsort([stop, start])
    return csr_array((lengths.ravel()[by_row], stop[by_row], k * np.arange(len(codes) + 1)), shape=(len(codes),) * 2)


def _flattened(metric: Metric, codes: Float[Tensor, "point latent"]) -> Float[np.ndarray, "point latent"]:
    """R z for the mean Ḡ = RᵀR of the metric's tensors at some codes, where ‖z_i − z_j‖_Ḡ is Euclidean."""
    some = torch.linspace(0, len(codes) - 1, min(NUM_TENSORS, len(codes))).round().long().to(codes.device)
    with torch.no_grad():
        tensors = metric.tensor(codes[some]).double()
    tensors = tensors[tensors.isfinite().flatten(1).all(1)]
    identity = torch.eye(codes.shape[1], dtype=torch.float64, device=codes.device)
    mean = tensors.mean(0) if len(tensors) else identity
    floor = (FLOOR * mean.trace() / len(mean)).clamp_min(torch.finfo(torch.float64).tiny)
    root = torch.linalg.cholesky((mean + mean.mT) / 2 + floor * identity)
    return (codes.double() @ root).cpu().numpy()


def _shortlist(
    metric: Metric,
    codes: Tensor,
    tree: cKDTree,
    rows: Int[np.ndarray, " row"],
    num_candidates: int,
    kept: int,
    progress: bool = False,
) -> Int[np.ndarray, "row kept"]:
    """Of so many candidates of each row those to which the shortest chords lead, block by block of rows."""
    found = []
    blocks = np.array_split(rows, -(-len(rows) // ROWS))
    for some in tqdm(blocks, "candidates", disable=not progress):
        near = _candidates(tree, some, num_candidates)
        if kept < num_candidates:
            chords = _lengths(metric, codes, some, near, 1)
            near = np.take_along_axis(near, np.argsort(chords, axis=1, kind="stable")[:, :kept], 1)
        found.append(near)
    return np.concatenate(found)


def _candidates(tree: cKDTree, rows: Int[np.ndarray, " row"], count: int) -> Int[np.ndarray, "row candidate"]:
    """So many of each row, nearest first, not itself."""
    near = tree.query(tree.data[rows], k=[*range(1, count + 2)])[1]
    # Where more codes are equal than are asked for, the row itself need not be among them: the last goes then.
    others = near != rows[:, None]
    others[others.all(1), -1] = False
    return near[others].reshape(-1, count)


def _enough(metric: Metric, codes: Tensor, tree: cKDTree, k: int, num_segments: int) -> int:
    """Candidates of each code, several times as many as which find the same neighbours of a sample."""
    most = len(codes) - 1
    rows = np.linspace(0, most, min(NUM_SAMPLED, len(codes))).round().astype(np.int64)

    def found(count: int) -> np.ndarray:
        near = _shortlist(metric, codes, tree, rows, count, SPARE * k)
        return _nearest(metric, codes, rows, near, k, num_segments)[1]

    count = min(3 * k, most)
    while count < most and _share(found(count), found(min(MORE * count, most))) < SETTLED:
        count = min(2 * count, most)
    return count


def _share(first: np.ndarray, second: np.ndarray) -> float:
    """Of the entries of the second's rows that are in the first's."""
    return float((second[:, :, None] == first[:, None]).any(2).mean())


def _nearest(
    metric: Metric,
    codes: Tensor,
    rows: Int[np.ndarray, " row"],
    near: Int[np.ndarray, "row candidate"],
    k: int,
    num_segments: int,
    progress: bool = False,
) -> tuple[Float[np.ndarray, "row k"], Int[np.ndarray, "row k"]]:
    """The k shortest lines of each row, shortest first, and where they lead; each line is measured once."""
    lengths = _lengths(metric, codes, rows, near, num_segments, progress)
    order = np.argsort(lengths, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(lengths, order, 1), np.take_along_axis(near, order, 1)


def _lengths(
    metric: Metric, codes: Tensor, rows: np.ndarray, near: np.ndarray, num_segments: int, progress: bool = False
) -> Float[np.ndarray, "row candidate"]:
    """Lengths of the lines from each row to its candidates, each pair of codes once."""
    edges = np.stack([np.repeat(rows, near.shape[1]), near.ravel()], axis=1)
    edges.sort(axis=1)
    number, inverse = np.unique(edges[:, 0] * len(codes) + edges[:, 1], return_inverse=True)
    pairs = np.stack([number // len(codes), number % len(codes)], axis=1)
    return line_lengths(metric, codes, pairs, num_segments, progress)[inverse].reshape(near.shape)
