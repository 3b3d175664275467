"""Block-tridiagonal solutions against dense ones."""

import pytest
import torch
from torch import Tensor

from probgeo.geometry import linalg
from probgeo.geometry.linalg import (
    banded_solution,
    block_tridiagonal_product,
    block_tridiagonal_solution,
    cyclic_reduction_solution,
)

SOLVERS = [banded_solution, cyclic_reduction_solution, block_tridiagonal_solution]


def system(blocks: int, size: int, batch: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gauss–Newton blocks of random Jacobians, as of a path, with the dense matrix they stand for."""
    generator = torch.Generator().manual_seed(blocks * 10 + size)
    jacobian = torch.randn(batch, blocks, size, size + 2, generator=generator, dtype=torch.float64)
    diagonal = 2 * jacobian @ jacobian.mT
    off_diagonal = -jacobian[:, :-1] @ jacobian[:, 1:].mT
    right_side = torch.randn(batch, blocks, size, generator=generator, dtype=torch.float64)
    dense = torch.zeros(batch, blocks, size, blocks, size, dtype=torch.float64)
    for i in range(blocks):
        dense[:, i, :, i] = diagonal[:, i]
    for i in range(blocks - 1):
        dense[:, i, :, i + 1] = off_diagonal[:, i]
        dense[:, i + 1, :, i] = off_diagonal[:, i].mT
    return diagonal, off_diagonal, right_side, dense.reshape(batch, blocks * size, blocks * size)


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7, 12, 31])
def test_solution_equals_the_dense_one(solve, blocks, size):
    diagonal, off_diagonal, right_side, dense = system(blocks, size)
    expected = torch.linalg.solve(dense, right_side.flatten(1)).view_as(right_side)
    found = solve(diagonal, off_diagonal, right_side)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_product_equals_the_dense_one():
    diagonal, off_diagonal, vector, dense = system(6, 3)
    expected = (dense @ vector.flatten(1)[..., None]).view_as(vector)
    assert torch.allclose(block_tridiagonal_product(diagonal, off_diagonal, vector), expected, rtol=1e-13)


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("failing", [[0], [4], [1, 2], [0, 2, 4], [0, 1, 2, 3, 4]])
def test_indefinite_system_fails_alone(solve, failing):
    diagonal, off_diagonal, right_side, dense = system(7, 2)
    diagonal[failing, 3] *= -1
    expected = torch.linalg.solve(dense, right_side.flatten(1)).view_as(right_side)
    found = solve(diagonal, off_diagonal, right_side)
    healthy = [i for i in range(5) if i not in failing]
    assert found[failing].isnan().flatten(1).any(1).all()
    assert torch.allclose(found[healthy], expected[healthy], rtol=1e-9)


def test_nonfinite_system_fails_alone():
    diagonal, off_diagonal, right_side, _ = system(7, 2)
    expected = block_tridiagonal_solution(diagonal, off_diagonal, right_side)
    right_side[1, 0, 0], diagonal[3, 2, 1, 1] = torch.nan, torch.inf
    found = block_tridiagonal_solution(diagonal, off_diagonal, right_side)
    assert found[[1, 3]].isnan().all()
    assert torch.equal(found[[0, 2, 4]], expected[[0, 2, 4]])


def test_systems_solved_in_turns_equal_those_solved_together(monkeypatch):
    diagonal, off_diagonal, right_side, _ = system(7, 2)
    expected = block_tridiagonal_solution(diagonal, off_diagonal, right_side)
    monkeypatch.setattr(linalg, "COPIED_BYTES", 2000)
    assert torch.equal(block_tridiagonal_solution(diagonal, off_diagonal, right_side), expected)


def test_dtype_is_kept():
    diagonal, off_diagonal, right_side, _ = system(7, 2)
    assert block_tridiagonal_solution(diagonal.float(), off_diagonal.float(), right_side.float()).dtype == torch.float32
