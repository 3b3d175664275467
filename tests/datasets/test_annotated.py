"""AnnData in: the same cells from memory and from files, sparse until they are needed, with what is known of them."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import probgeo as pg
from probgeo.adapters import from_anndata
from probgeo.datasets import count_table
from probgeo.rows import SparseRows, StoredRows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what it imports
    anndata = pytest.importorskip("anndata", reason="needs anndata")
    from scipy.sparse import csc_matrix, csr_matrix

pytestmark = pytest.mark.filterwarnings("default")  # of anndata and zarr, which are not ours
COUNTS = np.random.default_rng(0).poisson(0.7, (40, 12)).astype(np.float32)
COUNTS[:, 0] += 1


def table(matrix=csr_matrix):
    names = ["AAACCTGAGCATC" + "".join("ACGT"[index // base % 4] for base in (16, 4, 1)) for index in range(40)]
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(["T", "B", None, "NK"] * 10, categories=["T", "NK", "B"]),
            "donor": ["2", "1"] * 20,
            "depth": np.arange(1.0, 41.0),
            "mito": np.linspace(0, 1, 40),
        },
        index=[f"{name}-1" for name in names],
    )
    found = anndata.AnnData(matrix(np.log1p(COUNTS)), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(12)]))
    found.raw = anndata.AnnData(csr_matrix(COUNTS), obs=obs, var=found.var.rename(lambda name: f"raw {name}"))
    found.layers["counts"] = matrix(COUNTS)
    found.uns["type_colors"] = np.array(["#111111", "#222222", "#333333"])
    return found


@pytest.mark.parametrize("matrix", [csr_matrix, csc_matrix, np.asarray])
def test_rows_are_those_of_the_matrix_in_any_order_and_all_that_is_known_stays_with_them(matrix):
    data = from_anndata(table(matrix), layer="counts", labels="type", batch="donor", library_size="depth")
    assert isinstance(data.x, StoredRows) is (matrix is not np.asarray)
    index = torch.tensor([5, 3, 3, 39])
    assert torch.equal(data.x[index], torch.from_numpy(COUNTS[[5, 3, 3, 39]]))
    assert torch.equal(data.x[2:9], torch.from_numpy(COUNTS[2:9]))
    chosen = data.rows(index)
    assert isinstance(chosen.x, StoredRows) is isinstance(data.x, StoredRows)
    assert torch.equal(chosen.x[torch.tensor([3, 0])], torch.from_numpy(COUNTS[[39, 5]]))
    assert chosen.library_size.tolist() == [6, 4, 4, 40] and chosen.obs["mito"].iloc[3] == 1
    assert chosen.row_names.tolist() == table().obs_names[[5, 3, 3, 39]].tolist()
    first, rest = data.split(0.5)
    assert torch.equal(torch.cat([first.x[:], rest.x[:]]).sort(0).values, torch.from_numpy(COUNTS).sort(0).values)
    assert torch.equal(data.in_memory().x, torch.from_numpy(COUNTS))
    assert data.feature_names == tuple(f"G{index}" for index in range(12))
    assert data.obs["donor"].dtype == "category"


def test_cells_without_a_type_are_unlabelled_and_colours_are_those_of_scanpy():
    data = from_anndata(table(), labels="type")
    assert data.label_names == ("B", "NK", "T") and data.labels[:4].tolist() == [2, 0, -1, 1]
    assert data.colours == ("#333333", "#222222", "#111111")
    assert data.class_counts() == {"B": 10, "NK": 10, "T": 10}


def test_an_object_and_its_files_are_the_same_data(tmp_path):
    found = table()
    found.write_h5ad(tmp_path / "cells.h5ad")
    found.write_zarr(tmp_path / "cells.zarr")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for source in (found, tmp_path / "cells.h5ad", str(tmp_path / "cells.zarr"), backed):
        for options, expected in (
            ({}, np.log1p(COUNTS)), ({"layer": "counts"}, COUNTS), ({"raw": True}, COUNTS)
        ):  # fmt: skip
            data = from_anndata(source, labels="type", **options)
            assert isinstance(data.x, SparseRows)
            index = torch.tensor([7, 0, 7])
            assert torch.equal(data.x[index], torch.from_numpy(expected[[7, 0, 7]]))
            assert torch.equal(data.x[1:3], torch.from_numpy(expected[1:3]))
            assert data.labels[2] == -1 and data.feature_names[0] == ("raw G0" if options.get("raw") else "G0")
        counted = count_table(source, "type", counts="counts", library_size="depth")
        assert torch.equal(counted.x, torch.from_numpy(COUNTS)) and counted.labels[2] == -1
        assert torch.equal(count_table(source, raw=True).x, counted.x)
    assert isinstance(from_anndata(backed).x.matrix, anndata.abc.CSRDataset)  # still in the file
    backed.file.close()


def test_a_model_of_sparse_counts_is_that_of_the_same_counts_in_memory():
    data = from_anndata(table(), layer="counts")
    spec = pg.VAE(latent=2, likelihood=pg.likelihoods.NegativeBinomial(pg.likelihoods.RowTotal(10.0)))
    training = pg.Training(epochs=1, batch_size=16)
    [sparse], [dense] = (pg.fit(spec, x, training=training, progress=False) for x in (data, data.in_memory().x))
    assert torch.equal(sparse.encode(data.x[:4]).mean, dense.encode(data.x[:4]).mean)
    pairs = [[0, 1], [2, 3]]
    measures = {"straight": pg.StraightLine()}
    found, expected = (pg.measure({"vae": [sparse]}, x, pairs, measures) for x in (data, data.in_memory().x))
    assert found.identical(expected.assign_coords(found.coords).assign(seconds=found.seconds))
    assert pg.specs.digest(data.x) != pg.specs.digest(from_anndata(table()).x)
    with pytest.raises(ValueError, match=r"expected counts, which are integers"):
        pg.fit(spec, from_anndata(table()), training=training, progress=False)


def test_the_script_of_the_page_trains_on_batches_and_library_sizes(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "README.md").read_text()
    script = re.search(r"```python\n(import probgeo as pg\n\ndata = pg.adapters.from_anndata.*?)```", page, re.DOTALL)[
        1
    ]
    script = script.replace("seeds=range(10)", "training=pg.Training(epochs=1, batch_size=16), progress=False")
    found = table()
    found.obs["cell_type"] = found.obs["type"]
    found.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    made: dict = {}
    exec(compile(script, "README.md", "exec"), made)
    assert made["models"][0].covariates == [12, 13] and made["cells"].feature_names[12:] == ("donor=1", "donor=2")
    assert torch.equal(made["cells"].x[:3][:, 12:], torch.tensor([[0.0, 1], [1, 0], [0, 1]]))
    with pytest.raises(ValueError, match=r"keys: expected a value of every row; 10 have no 'type'"):
        pg.datasets.with_obs(made["data"], "type")
    with pytest.raises(ValueError, match=r"keys: obs has no column 'lane'; it has type, donor"):
        pg.datasets.with_obs(made["data"], "lane")


def test_what_is_not_there_is_named_with_what_is(tmp_path):
    found = table()
    with pytest.raises(ValueError, match=r"layer: there is no layer 'raw'; it has \['counts'\]"):
        from_anndata(found, layer="raw")
    with pytest.raises(ValueError, match=r"labels: obs has no column 'kind'; it has type, donor"):
        from_anndata(found, labels="kind")
    with pytest.raises(ValueError, match=r"raw: expected either raw or a layer"):
        from_anndata(found, layer="counts", raw=True)
    with pytest.raises(TypeError, match=r"adata: expected an AnnData, or the path of an .h5ad or .zarr; got int"):
        from_anndata(3)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        from_anndata(tmp_path / "cells.h5ad")
    found.obs.loc[found.obs_names[0], "donor"] = None
    with pytest.raises(ValueError, match=r"batch: expected a batch of every cell; 1 of 40 have none in 'donor'"):
        from_anndata(found, batch="donor")
    del found.raw
    with pytest.raises(ValueError, match=r"raw: the AnnData has none"):
        from_anndata(found, raw=True)
    with pytest.raises(TypeError, match=r"x: expected all rows in memory; got SparseRows.40 rows of 12.. Use"):
        from_anndata(found).normalised()


def test_a_table_of_genes_by_cells_is_refused_and_not_twelve_cells_of_forty(tmp_path):
    turned = table().T
    with pytest.raises(ValueError, match=r"expected cells as rows.* the 12 rows are named G0, G1, G2, ….* adata\.T"):
        from_anndata(turned)
    with pytest.raises(ValueError, match=r"It is a column of var: are genes the rows\? Give adata.T"):
        from_anndata(anndata.AnnData(COUNTS.T, var=pd.DataFrame({"type": ["T"] * 40})), labels="type")
    frame = pd.DataFrame(
        COUNTS.T.astype(int), index=[f"Actb{i}" for i in range(12)], columns=[f"c{i}" for i in range(40)]
    )
    frame.to_csv(tmp_path / "cells.csv", index_label="gene")
    with pytest.raises(ValueError, match=r"cells.csv: expected cells as rows.*the 12 rows are named Actb0, Actb1"):
        count_table(tmp_path / "cells.csv")
    frame.rename(columns=lambda name: f"cell_{name}").to_csv(tmp_path / "cells.tsv", sep="\t")
    with pytest.raises(ValueError, match=r"the 40 columns cell_c0, cell_c1"):
        count_table(tmp_path / "cells.tsv")
    frame.T.to_csv(tmp_path / "cells.csv", index_label="cell")
    assert count_table(tmp_path / "cells.csv").x.shape == (40, 12)


def test_neither_package_is_imported_before_it_is_needed():
    code = "import sys, probgeo as pg; pg.adapters.from_anndata, pg.adapters.from_scvi; "
    code += "sys.exit(any(name in sys.modules for name in ('anndata', 'scvi', 'scanpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("matrix", [csr_matrix, csc_matrix, np.asarray])
def test_a_turned_table_whose_names_are_numbers_is_told_by_its_totals(matrix, tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.exp(rng.normal(size=90) * 1.5), (40, 90)).astype(np.float32)
    turned = anndata.AnnData(matrix(counts.T))
    turned.write_h5ad(tmp_path / "cells.h5ad")
    for source in (turned, tmp_path / "cells.h5ad", anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")):
        with pytest.warns(UserWarning, match=r"are its rows genes\? Totals of the 90 rows.*turn it: adata\.T"):
            assert from_anndata(source).x.shape == (90, 40)  # as it stands
        with pytest.warns(UserWarning, match="are its rows genes"):
            count_table(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        from_anndata(anndata.AnnData(matrix(counts)))
        turned.obs["type"] = ["T", "B"] * 45
        from_anndata(turned, labels="type")  # who has types, is a cell


def test_a_missing_type_that_was_made_a_text_is_missing_and_numbers_of_each_cell_are_no_types():
    found = table()
    found.obs["text"] = found.obs["type"].astype(object).where(found.obs["type"].notna(), "nan")
    for read in (from_anndata, count_table):
        options = {} if read is from_anndata else {"counts": "counts"}
        with pytest.warns(UserWarning, match=r"labels: 10 cells named 'nan' are taken for unlabelled"):
            data = read(found, labels="text", **options)
        assert data.label_names == ("B", "NK", "T") and data.labels[2] == -1
        with pytest.raises(
            ValueError, match=r"labels: expected types of cells, names or whole numbers; got .* in 'mito'"
        ):
            read(found, labels="mito", **options)
    found.obs.columns = ["type", "type", "depth", "mito", "text"]
    with pytest.raises(ValueError, match=r"labels: obs has 2 columns 'type'; rename them"):
        from_anndata(found, labels="type")


def test_chunks_of_dask_are_read_as_they_are_needed():
    dask = pytest.importorskip("dask.array", reason="needs dask")
    found = table()
    found.X = dask.from_array(COUNTS, chunks=(7, 12))
    data = from_anndata(found)
    assert torch.equal(data.x[torch.tensor([30, 2])], torch.from_numpy(COUNTS[[30, 2]]))
    assert torch.equal(count_table(found).x, torch.from_numpy(COUNTS))


def test_a_model_of_counts_measures_no_other_numbers():
    data = from_anndata(table(), layer="counts")
    spec = pg.VAE(latent=2, likelihood=pg.likelihoods.NegativeBinomial())
    model = spec.build(num_features=12, seed=0)
    measures = {"straight": pg.StraightLine()}
    assert pg.measure({"m": [model]}, data, [[0, 1]], measures).distance.notnull().all()
    with pytest.raises(ValueError, match=r"x: expected counts, which are integers; got"):
        pg.measure({"m": [model]}, table(), [[0, 1]], measures)  # X, the logarithms
    without = table()
    without.X = None
    with pytest.raises(ValueError, match=r"x: the AnnData has no X; name a layer"):
        pg.measure({"m": [model]}, without, [[0, 1]], measures)
