"""Cubic splines between two points, by an orthonormal basis of those that vanish at both ends."""

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor


def spline_basis(num_pieces: int) -> Float[Tensor, "coefficient parameter"]:
    """Orthonormal basis of cubic splines on [0, 1] with two continuous derivatives that vanish at both ends.

    Args:
        num_pieces: polynomials, on intervals of equal length.

    Returns:
        Coefficients of 1, s, s², s³ of each piece, s in [0, 1] its own time.
    """
    powers = np.arange(4)
    # Values of a piece's derivatives 0, 1, 2 at s = 0 and s = 1, from its coefficients.
    at_start = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]])
    at_stop = np.array([powers**0, powers, powers * (powers - 1)])
    rows = [
        np.pad(at_start[:1], ((0, 0), (0, 4 * num_pieces - 4))),
        np.pad(at_stop[:1], ((0, 0), (4 * num_pieces - 4, 0))),
    ]
    for piece in range(num_pieces - 1):
        join = np.concatenate([at_stop, -at_start], axis=1)
        rows.append(np.pad(join, ((0, 0), (4 * piece, 4 * (num_pieces - piece - 2)))))
    return torch.from_numpy(scipy.linalg.null_space(np.concatenate(rows)))


def spline(
    start: Float[Tensor, "pair latent"],
    stop: Float[Tensor, "pair latent"],
    basis: Float[Tensor, "coefficient parameter"],
    parameters: Float[Tensor, "pair parameter latent"],
    num_times: int,
) -> Float[Tensor, "pair time latent"]:
    """(1 − t) start + t stop + spline(t) at uniform times.

    Args:
        start: first points.
        stop: last points.
        basis: of the splines, as `spline_basis` gives it.
        parameters: coordinates in that basis.
        num_times: times on [0, 1].
    """
    num_pieces = len(basis) // 4
    t = torch.linspace(0, 1, num_times, dtype=start.dtype)
    piece = (t * num_pieces).long().clamp_max(num_pieces - 1)
    powers = (t * num_pieces - piece)[:, None] ** torch.arange(4)
    values = torch.einsum("tp,tpk->tk", powers, basis.to(start).unflatten(0, (num_pieces, 4))[piece])
    return torch.lerp(start[:, None], stop[:, None], t[:, None]) + values @ parameters
