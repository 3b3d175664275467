"""Symmetric block-tridiagonal systems, one per path of a batch: the Newton systems of discrete path energies."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import get_lapack_funcs
from torch import Tensor

COPIED_BYTES = 2**25
COPIES = 9  # of H's diagonal blocks, in float64: both kinds of blocks, both side by side, the band and LAPACK's own


def block_tridiagonal_product(
    diagonal: Float[Tensor, "batch block size size"],
    off_diagonal: Float[Tensor, "batch link size size"],
    vector: Float[Tensor, "batch block size"],
) -> Float[Tensor, "batch block size"]:
    """H x of the symmetric block-tridiagonal H with blocks H_ii and H_{i,i+1}.

    Args:
        diagonal: H_ii, symmetric.
        off_diagonal: H_{i,i+1}, one fewer than the diagonal blocks.
        vector: x.

    Returns:
        H x.
    """
    product = torch.einsum("bikl,bil->bik", diagonal, vector)
    above = torch.einsum("bikl,bil->bik", off_diagonal, vector[:, 1:])
    below = torch.einsum("bilk,bil->bik", off_diagonal, vector[:, :-1])
    return product + torch.nn.functional.pad(above, (0, 0, 0, 1)) + torch.nn.functional.pad(below, (0, 0, 1, 0))


def block_tridiagonal_solution(
    diagonal: Float[Tensor, "batch block size size"],
    off_diagonal: Float[Tensor, "batch link size size"],
    right_side: Float[Tensor, "batch block size"],
) -> Float[Tensor, "batch block size"]:
    """x of H x = b for positive definite block-tridiagonal H: banded Cholesky on the CPU, cyclic reduction elsewhere.

    Solved in float64 whatever the dtype: the condition number grows as the squared number of blocks.

    Args:
        diagonal: H_ii, symmetric.
        off_diagonal: H_{i,i+1}, one fewer than the diagonal blocks.
        right_side: b.

    Returns:
        x in the dtype of `right_side`; NaN for the systems that are not finite or not positive definite, and no other.
    """
    finite = (
        diagonal.isfinite().flatten(1).all(1)
        & off_diagonal.isfinite().flatten(1).all(1)
        & right_side.isfinite().flatten(1).all(1)
    )
    solve = banded_solution if right_side.device.type == "cpu" else cyclic_reduction_solution
    solution = torch.full_like(right_side, torch.nan)
    # The float64 copies of few systems at a time: with many latent dimensions they are what takes most memory.
    each = 8 * COPIES * right_side.shape[1] * right_side.shape[2] ** 2
    together = max(1, COPIED_BYTES // max(1, each))
    for rows in finite.nonzero()[:, 0].split(together):
        systems = (diagonal[rows].double(), off_diagonal[rows].double(), right_side[rows].double())
        solution[rows] = solve(*systems).to(right_side.dtype)
    return solution


def banded_solution(
    diagonal: Float[Tensor, "batch block size size"],
    off_diagonal: Float[Tensor, "batch link size size"],
    right_side: Float[Tensor, "batch block size"],
) -> Float[Tensor, "batch block size"]:
    """x of H x = b by LAPACK's banded Cholesky, all systems as one long band; NaN where H is not positive definite.

    Args:
        diagonal: H_ii, symmetric and finite.
        off_diagonal: H_{i,i+1}, finite.
        right_side: b, finite.

    Returns:
        x.
    """
    batch, blocks, size, _ = diagonal.shape
    # LAPACK's lower band keeps of each column the 2·size entries from the diagonal down: of H_ii above H_{i,i+1}ᵀ.
    columns = torch.cat([diagonal, torch.nn.functional.pad(off_diagonal.mT, (0, 0, 0, 0, 0, 1))], dim=2)
    band = columns.new_zeros(batch, blocks, size, 2 * size)
    for column in range(size):
        band[:, :, column, : 2 * size - column] = columns[:, :, column:, column]
    width, band_rows = blocks * size, band.reshape(batch * blocks * size, 2 * size).numpy()
    right_rows = right_side.reshape(-1).numpy()
    solution = np.full_like(right_rows, np.nan)
    (solve,) = get_lapack_funcs(("pbsv",), (band_rows, right_rows))
    start = 0
    while start < batch:
        # A system that is not positive definite stops the factorisation at its own rows: the ones before it are
        # solved on their own, and the sweep goes on behind it.
        _, found, info = solve(band_rows[start * width :].T, right_rows[start * width :], lower=1)
        stop = batch if info == 0 else start + (info - 1) // width
        if info != 0 and stop > start:
            _, found, _ = solve(
                band_rows[start * width : stop * width].T, right_rows[start * width : stop * width], lower=1
            )
        solution[start * width : stop * width] = found.reshape(-1)[: (stop - start) * width]
        start = stop + (info != 0)
    return torch.from_numpy(solution).view(batch, blocks, size)


def cyclic_reduction_solution(
    diagonal: Float[Tensor, "batch block size size"],
    off_diagonal: Float[Tensor, "batch link size size"],
    right_side: Float[Tensor, "batch block size"],
) -> Float[Tensor, "batch block size"]:
    """x of H x = b by block cyclic reduction, log2(block) batched sweeps; NaN where H is not positive definite.

    Args:
        diagonal: H_ii, symmetric and finite.
        off_diagonal: H_{i,i+1}, finite.
        right_side: b, finite.

    Returns:
        x.

    References:
        Golub and Van Loan, Matrix Computations, 4th edition (2013), section 4.5.4.
    """
    blocks, size = right_side.shape[1:]
    if blocks == 1:
        return _dense_solution(diagonal, right_side[..., None])[..., 0]
    if (
        blocks % 2 == 0
    ):  # one uncoupled identity block makes the count odd: then every even block has kept neighbours only
        identity = torch.eye(size, dtype=diagonal.dtype, device=diagonal.device).expand(len(diagonal), 1, size, size)
        diagonal = torch.cat([diagonal, identity], dim=1)
        off_diagonal = torch.nn.functional.pad(off_diagonal, (0, 0, 0, 0, 0, 1))
        right_side = torch.nn.functional.pad(right_side, (0, 0, 0, 1))
        return cyclic_reduction_solution(diagonal, off_diagonal, right_side)[:, :blocks]
    # Blocks 0, 2, 4, … are eliminated, 1, 3, … stay. `left` couples a kept block to the eliminated one before it.
    left, right = off_diagonal[:, 0::2].mT, off_diagonal[:, 1::2]
    sides = torch.cat(
        [
            torch.nn.functional.pad(left.mT, (0, 0, 0, 0, 0, 1)),  # H_{e, e+1}
            torch.nn.functional.pad(right.mT, (0, 0, 0, 0, 1, 0)),  # H_{e, e-1}
            right_side[:, 0::2, :, None],
        ],
        dim=-1,
    )
    to_next, to_previous, constant = _dense_solution(diagonal[:, 0::2], sides).split([size, size, 1], dim=-1)
    kept_diagonal = diagonal[:, 1::2] - left @ to_next[:, :-1] - right @ to_previous[:, 1:]
    kept_off_diagonal = -(right @ to_next[:, 1:])[:, :-1]
    kept_right_side = right_side[:, 1::2] - (left @ constant[:, :-1] + right @ constant[:, 1:])[..., 0]
    kept = cyclic_reduction_solution(kept_diagonal, kept_off_diagonal, kept_right_side)
    after, before = (torch.nn.functional.pad(kept, edge)[..., None] for edge in ((0, 0, 0, 1), (0, 0, 1, 0)))
    eliminated = (constant - to_next @ after - to_previous @ before)[..., 0]
    return _interleaved(eliminated, kept)


def _interleaved(
    even: Float[Tensor, "batch half_up size"], odd: Float[Tensor, "batch half_down size"]
) -> Float[Tensor, "batch block size"]:
    blocks = even.new_empty(even.shape[0], even.shape[1] + odd.shape[1], even.shape[2])
    blocks[:, 0::2], blocks[:, 1::2] = even, odd
    return blocks


def _dense_solution(
    matrix: Float[Tensor, "*batch size size"], right_side: Float[Tensor, "*batch size column"]
) -> Float[Tensor, "*batch size column"]:
    """x of A x = b by Cholesky; NaN where A is not positive definite (and from there through its whole system)."""
    root, failed = torch.linalg.cholesky_ex(matrix)
    root = torch.where((failed != 0)[..., None, None], torch.nan, root)
    return torch.cholesky_solve(right_side, root)
