"""Tables of genes × cells whose names say nothing: a warning by their totals, and what files give away."""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from probgeo.datasets import branching_counts, count_table
from probgeo.datasets.files.annotated import check_totals
from probgeo.rows import SparseRows

REAL = os.environ.get("PROBGEO_DATA")
TABLES = ("counts/paul15_counts.npz", "multiview/patchseq_m1_phystemp_counts_ephys.npz")


def unselected(num_cells: int = 200, num_genes: int = 900) -> np.ndarray:
    """Counts of genes whose rates differ by e^±2, in cells whose sizes differ by e^±½."""
    rng = np.random.default_rng(0)
    rates, sizes = np.exp(2 * rng.normal(size=num_genes)), np.exp(0.5 * rng.normal(size=(num_cells, 1)))
    return rng.poisson(2 * sizes * rates / rates.mean()).astype(np.float32)


def is_doubted(counts: np.ndarray | SparseRows) -> bool:
    """Whether a table of these counts, with numbers for names, is warned of."""
    x = torch.from_numpy(np.ascontiguousarray(counts)) if isinstance(counts, np.ndarray) else counts
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_totals("cells", range(len(x)), range(x.shape[1]), x)
    assert all("are its rows genes?" in str(each.message) for each in said)
    return bool(said)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.skipif(not REAL, reason="needs PROBGEO_DATA")
def test_a_real_table_is_doubted_when_it_is_turned_and_not_as_it_is(name):
    counts = np.load(Path(REAL or "") / name)["counts"].astype(np.float32)
    assert not is_doubted(counts) and is_doubted(counts.T)


@pytest.mark.parametrize(
    "counts", [unselected(), branching_counts(300, 200, seed=1).x.numpy()], ids=["all genes", "some"]
)
def test_a_turned_table_is_doubted_dense_and_sparse_and_from_a_sample_of_it(counts):
    for x, expected in ((counts, False), (counts.T, True)):
        assert is_doubted(x) is expected
        assert is_doubted(SparseRows.of_matrix(csr_matrix(x))) is expected
        assert is_doubted(np.tile(x, (5000 // len(x), 1))) is expected  # of rows, a sample


def test_numbers_that_do_not_tell_are_not_doubted():
    even = np.random.default_rng(0).poisson(3.0, (80, 30)).astype(np.float32)
    for x in (even, even.T, np.zeros((5, 7), np.float32), unselected().T - 5, np.ones((1, 1), np.float32)):
        assert not is_doubted(x)
    missing = unselected().T
    missing[0, 0] = np.nan
    assert not is_doubted(missing)


def test_names_and_columns_of_cells_outweigh_totals(tmp_path):
    x = torch.from_numpy(unselected().T.copy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_totals("cells", [f"cell {index}" for index in range(len(x))], range(x.shape[1]), x)
        np.savez(tmp_path / "cells.npz", counts=x.numpy()[x.sum(1) > 0], kind=np.arange(int((x.sum(1) > 0).sum())) % 2)
        count_table(tmp_path / "cells.npz", "kind")
    with pytest.warns(UserWarning, match=r"cells.npz: are its rows genes\? Totals of the \d+ rows vary by \d\.\d"):
        count_table(tmp_path / "cells.npz")


def test_names_of_as_many_cells_as_there_are_columns_tell_that_an_array_is_turned(tmp_path):
    counts = unselected(6, 4)
    for names in (
        {"cells": np.arange(6)},
        {"genes": np.array(list("abcd"))},
        {"cells": np.arange(6), "genes": np.arange(4)},
    ):
        np.savez(tmp_path / "cells.npz", counts=counts.T, **names)
        with pytest.raises(ValueError, match=r"as .*cells.npz names them; got shape .4, 6.. Turn it: counts\.T"):
            count_table(tmp_path / "cells.npz")
        np.savez(tmp_path / "cells.npz", counts=counts, **names)
        assert count_table(tmp_path / "cells.npz").x.shape == (6, 4)


def test_a_first_line_of_counts_is_not_taken_for_names(tmp_path):
    frame = pd.DataFrame([[0, 3, 0], [1, 2, 5], [4, 4, 4]])
    frame.to_csv(tmp_path / "cells.csv", index=False, header=False)
    with pytest.raises(ValueError, match=r"expected names of the columns in the first line of .*cells.csv; got counts"):
        count_table(tmp_path / "cells.csv")
    frame.to_csv(tmp_path / "cells.csv", index=False)
    assert count_table(tmp_path / "cells.csv").x.tolist() == frame.to_numpy().tolist()
    frame.set_axis([7157, 672, 675], axis=1).to_csv(tmp_path / "cells.csv", index=False)  # numbers of genes
    assert count_table(tmp_path / "cells.csv").feature_names == ("7157", "672", "675")


def test_a_matrix_market_file_is_refused_with_what_reads_it(tmp_path):
    (tmp_path / "matrix.mtx").touch()
    with pytest.raises(ValueError, match=r"got matrix\.mtx\. scanpy\.read_10x_mtx"):
        count_table(tmp_path / "matrix.mtx")
