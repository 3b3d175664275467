"""Cholesky factors of kernel matrices, which are singular but for rounding where inducing points nearly coincide."""

import torch
from jaxtyping import Float
from linear_operator.utils.cholesky import psd_safe_cholesky
from linear_operator.utils.errors import NanError, NotPSDError
from torch import Tensor

JITTER = 1e-6


def cholesky_root(matrix: Float[Tensor, "n n"], relative_jitter: float = JITTER) -> Float[Tensor, "n n"]:
    """L with L Lᵀ = matrix + jitter I, lower triangular; jitter is that share of the mean of the diagonal.

    Where that does not do, ten, a hundred and a thousand times as much is tried, each with a warning of the amount.

    Raises:
        ArithmeticError: the matrix is still not positive definite, or is not finite.
    """
    mean = matrix.detach().diagonal().mean()
    jittered = matrix + relative_jitter * mean * identity_like(matrix)
    try:
        return psd_safe_cholesky(jittered, jitter=10 * JITTER * float(mean))
    except (NotPSDError, NanError) as error:
        raise ArithmeticError(
            f"kernel matrix: expected a positive definite matrix; got one that is not, with jitter up to "
            f"{1000 * JITTER:g} of its diagonal ({error}). Look for codes that are not finite, or lower learning_rate."
        ) from error


def unseen_root(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """`cholesky_root` of a matrix on a GPU, which nobody waits for: without a warning, NaN instead of an error."""
    unit = JITTER * matrix.detach().diagonal().mean() * identity_like(matrix)
    share = torch.full_like(matrix[0, 0].detach(), 1001.0)
    for less in (101.0, 11.0, 1.0):
        failed = torch.linalg.cholesky_ex(matrix.detach() + less * unit).info
        share = torch.where(failed == 0, less, share)
    root, failed = torch.linalg.cholesky_ex(matrix + share * unit)
    return torch.where(failed == 0, root, torch.nan)


def identity_like(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """I of the size, kind of numbers and device of a matrix."""
    return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
