"""Tables of counts: the same from every kind of file, refused where they are no counts, and simulated ones."""

import numpy as np
import pandas as pd
import pytest
import torch

from probgeo.datasets import branching_counts, count_table, earliest_row

COUNTS = np.array([[0, 3, 1], [2, 0, 5], [1, 1, 1], [7, 0, 0]])
TYPES = ["stem", "blood", "blood", "nerve"]
TIME = np.array([[0.1, 0.2], [0.5, 9.0], [0.7, 9.0], [9.0, 0.9]])
WEIGHT = np.array([[1.0, 0.6], [1, 0], [0.9, 0.5], [0, 1]])


def text_file(folder, suffix: str):
    table = pd.DataFrame(COUNTS, columns=["a", "b", "c"], index=["w", "x", "y", "z"])
    table = table.assign(type=TYPES, t1=TIME[:, 0], t2=TIME[:, 1], w1=WEIGHT[:, 0], w2=WEIGHT[:, 1])
    table.to_csv(folder / f"cells{suffix}", sep="\t" if suffix.startswith(".tsv") else ",")
    return count_table(folder / f"cells{suffix}", "type", ("t1", "t2"), ("w1", "w2"))


def array_file(folder, suffix: str):
    names, codes = np.unique(TYPES, return_inverse=True)
    arrays = {"type": codes, "type_names": names, "time": TIME, "weight": WEIGHT, "genes": np.array(["a", "b", "c"])}
    np.savez(folder / "cells.npz", counts=COUNTS, **arrays)
    return count_table(folder / "cells.npz", "type", ("time",), ("weight",))


def annotated_file(folder, suffix: str):
    anndata = pytest.importorskip("anndata", reason="needs anndata, which reads such files")
    scipy_sparse = pytest.importorskip("scipy.sparse")
    table = anndata.AnnData(
        scipy_sparse.csr_matrix(COUNTS.astype(np.float32)),
        obs=pd.DataFrame({"type": pd.Categorical(TYPES), "t1": TIME[:, 0], "t2": TIME[:, 1]}, index=list("wxyz")),
        var=pd.DataFrame(index=["a", "b", "c"]),
        obsm={"weight": WEIGHT},
        layers={"raw": COUNTS},
    )
    table.write_h5ad(folder / "cells.h5ad")
    layer = "raw" if suffix == "layer" else None
    return count_table(folder / "cells.h5ad", "type", ("t1", "t2"), ("weight",), counts=layer)


@pytest.mark.parametrize(
    ("read", "suffix"),
    [
        (text_file, ".csv"),
        (text_file, ".csv.gz"),
        (text_file, ".tsv"),
        (array_file, ".npz"),
        (annotated_file, ""),
        (annotated_file, "layer"),
    ],
)
def test_every_kind_of_file_gives_the_same_table(read, suffix, tmp_path):
    table = read(tmp_path, suffix)
    assert torch.equal(table.x, torch.from_numpy(COUNTS).float())
    assert table.feature_names == ("a", "b", "c")
    assert [table.label_names[code] for code in table.labels] == TYPES
    expected = torch.tensor([[0.1, 0.2], [0.5, torch.nan], [0.7, torch.nan], [torch.nan, 0.9]])
    torch.testing.assert_close(table.pseudotime, expected, equal_nan=True)
    assert earliest_row(table.pseudotime) == 0 and table.name == "cells"
    torch.testing.assert_close(table.pseudotime.nanmean(1), torch.tensor([0.15, 0.5, 0.7, 0.9]))


def test_what_else_a_file_says_of_its_cells_stays_with_them(tmp_path):
    frame = pd.DataFrame(COUNTS, columns=["a", "b", "c"], index=["w", "x", "y", "z"])
    frame.assign(type=TYPES, depth=[10, 20, 30, 40]).to_csv(tmp_path / "cells.csv")
    cells = count_table(tmp_path / "cells.csv", "type", library_size="depth")
    assert torch.equal(cells.library_size, torch.tensor([10.0, 20, 30, 40])) and cells.feature_names == ("a", "b", "c")
    chosen = cells.subset(["blood"])
    assert chosen.row_names.tolist() == ["x", "y"] and chosen.library_size.tolist() == [20, 30]
    assert chosen.obs["type"].tolist() == ["blood", "blood"] and chosen.obs["depth"].tolist() == [20, 30]
    arrays = {"counts": COUNTS, "cells": np.array(list("wxyz")), "depth": np.arange(4), "pc": np.zeros((4, 2))}
    np.savez(tmp_path / "cells.npz", **arrays)
    found = count_table(tmp_path / "cells.npz", library_size="depth")
    assert found.row_names.tolist() == list("wxyz") and "pc" not in found.obs and len(found.obs) == 4


def test_labels_and_pseudotimes_need_not_be_there(tmp_path):
    np.savez(tmp_path / "cells.npz", X=COUNTS)
    table = count_table(tmp_path / "cells.npz", counts="X")
    assert table.pseudotime.shape == (4, 0) and table.label_names == ("cell",)
    with pytest.raises(ValueError, match=r"at least one cell with a pseudotime; got none\. Choose the root"):
        earliest_row(table.pseudotime)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [(-1, "got -1 at row 2, column 1"), (0.5, "got 0.5 at row 2, column 1"), (np.nan, "got nan at row 2, column 1")],
)
def test_values_that_are_no_counts_are_refused_with_their_place(value, complaint, tmp_path):
    counts = COUNTS.astype(float)
    counts[2, 1] = value
    np.savez(tmp_path / "cells.npz", counts=counts)
    with pytest.raises(ValueError, match=complaint):
        count_table(tmp_path / "cells.npz")


def test_what_a_file_lacks_is_named_with_what_it_has(tmp_path):
    np.savez(tmp_path / "cells.npz", counts=COUNTS, time=TIME, genes=np.array(["a", "b", "c"]))
    with pytest.raises(ValueError, match=r"no 'age' with one entry per row; it has time"):
        count_table(tmp_path / "cells.npz", pseudotime=("age",))
    with pytest.raises(ValueError, match=r"no 'genes' with one entry per row; it has time"):
        count_table(tmp_path / "cells.npz", labels="genes")
    with pytest.raises(ValueError, match=r"no array 'X'; it has \['counts', 'genes', 'time'\]"):
        count_table(tmp_path / "cells.npz", counts="X")
    with pytest.raises(ValueError, match="weights: expected one per pseudotime"):
        count_table(tmp_path / "cells.npz", weights=("time",))
    with pytest.raises(
        ValueError, match=r"expected an AnnData, or a .h5ad, .zarr, .npz, .csv or .tsv file; got cells.txt"
    ):
        (tmp_path / "cells.txt").touch()
        count_table(tmp_path / "cells.txt")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        count_table(tmp_path / "cells.csv")
    pd.DataFrame({"a": [1, 2], "type": ["x", "y"]}).to_csv(tmp_path / "cells.csv", index=False)
    with pytest.raises(ValueError, match=r"expected numbers in the columns .* got text in \['type'\]"):
        count_table(tmp_path / "cells.csv")


def test_an_archive_that_is_far_larger_unpacked_is_refused_before_it_is(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "cells.npz", counts=np.zeros((2000, 2000), np.int64))
    assert len(count_table(tmp_path / "cells.npz")) == 2000
    monkeypatch.setattr("probgeo.datasets.files.arrays.UNPACKED", 2**20)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it is unpacked"))
    with pytest.raises(ValueError, match=r"cells.npz has [\d,]+ bytes, and 32,000,\d+ unpacked. If you trust it"):
        count_table(tmp_path / "cells.npz")
    (tmp_path / "cells.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"expected an npz file; .*cells.npz is none"):
        count_table(tmp_path / "cells.npz")


# --- simulated counts ---


def test_simulated_cells_of_the_trunk_are_on_both_lineages_and_others_on_theirs():
    table = branching_counts(num_cells=300, num_genes=20, seed=1)
    on = table.pseudotime.isfinite()
    expected = torch.tensor([[True, True], [True, False], [False, True]])[table.labels]
    assert torch.equal(on, expected)
    assert ((table.pseudotime.nanmean(1) < 0.35) == (table.labels == 0)).all()
    assert int(table.pseudotime.nanmean(1).argmin()) == earliest_row(table.pseudotime)
    assert table.x.shape == (300, 20) and (table.x.sum(1) > 0).all()


def test_simulated_counts_are_overdispersed_by_the_total_count():
    # Mean and variance over cells of one state, at library sizes known up to the noise: (v - m) / m² = 1 / r + e^¼ - 1.
    table = branching_counts(num_cells=20_000, num_genes=40, total_count=2.0, library=4000.0, seed=0)
    early = table.x[table.pseudotime.nanmean(1) < 0.05]
    mean, variance = early.mean(0), early.var(0)
    excess = (variance - mean) / mean.square()
    expected = (1 + 1 / 2) * float(np.exp(0.25)) - 1
    assert abs(float(excess.median()) / expected - 1) < 0.2  # of most genes, which are not just being switched


def test_simulation_depends_on_the_seed_alone_and_refuses_what_is_not_positive():
    first, again, other = (branching_counts(50, 10, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.x, again.x) and not torch.equal(first.x, other.x)
    with pytest.raises(ValueError, match="expected positive numbers"):
        branching_counts(num_cells=0)


def test_simulated_batches_scale_genes_of_the_same_cells():
    plain, batched = branching_counts(4000, 8), branching_counts(4000, 8, num_batches=2, batch_effect=0.8)
    assert plain.obs is None and torch.equal(plain.labels, batched.labels)
    second = torch.tensor((batched.obs["batch"] == "batch 2").to_numpy())
    shares = [[data.x[rows].sum(0) / data.x[rows].sum() for rows in (~second, second)] for data in (plain, batched)]
    assert (shares[0][0] / shares[0][1]).log().abs().max() < 0.15
    assert (shares[1][0] / shares[1][1]).log().std() > 0.4
