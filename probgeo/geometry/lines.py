"""Lengths of straight lines between numbered points, in blocks of bounded memory."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from probgeo.geometry.metrics import Energy, Metric
from probgeo.geometry.paths import Straight

MOST_PIECES = 2**15  # of a block of lines
MEMORY = 2**27  # bytes that a block's values may take, roughly


def line_lengths(
    metric: Energy,
    points: Float[Tensor, "point latent"],
    edges: Int[np.ndarray, "edge 2"],
    num_segments: int,
    progress: bool = False,
) -> Float[np.ndarray, " edge"]:
    """Weights of lines cut into equal segments, each weighed by the metric: Σ_i ‖r_i‖ for a metric.

    Args:
        metric: what weighs them.
        points: their ends.
        edges: numbers of the ends of each.
        num_segments: of each.
        progress: show a progress bar.

    Returns:
        In double precision; infinite where not finite.
    """
    found = [np.zeros(0)]
    size = max(1, _most_pieces(metric, points) // num_segments)
    blocks = [edges[first : first + size] for first in range(0, len(edges), size)]
    with tqdm(total=len(edges), desc="lines", unit="line", disable=not progress) as bar:
        for some in blocks:
            found.append(_block(metric, points, some, num_segments))
            bar.update(len(some))
    return np.nan_to_num(np.concatenate(found), nan=np.inf)


def _most_pieces(metric: Energy, points: Tensor) -> int:
    """How many points of one block fit the memory budget, three copies of their values at a time."""
    if not isinstance(metric, Metric) or not len(points):
        return MOST_PIECES
    with torch.no_grad():
        width = metric.residuals(points[:1].repeat(2, 1)).numel()
    return min(MOST_PIECES, max(64, MEMORY // (3 * width * points.element_size())))


def _block(metric: Energy, points: Tensor, edges: np.ndarray, num_segments: int) -> np.ndarray:
    # Ends shared by edges are evaluated once.
    used, inverse = np.unique(edges, return_inverse=True)
    ends = points[torch.from_numpy(used).to(points.device)]
    number = torch.from_numpy(inverse.reshape(-1, 2)).to(points.device)
    inner = Straight(num_segments)(*ends[number.T])[:, 1:-1].flatten(0, 1)
    index = torch.arange(len(inner), device=points.device).view(len(edges), num_segments - 1) + len(ends)
    trail = torch.cat([number[:, :1], index, number[:, 1:]], dim=1)
    links = torch.stack([trail[:, :-1], trail[:, 1:]], dim=2).flatten(0, 1)
    with torch.no_grad():
        weights = metric.edge_weights(torch.cat([ends, inner]), links).view(len(edges), num_segments).sum(1)
    return weights.double().cpu().numpy()
