"""What is written into an AnnData: neighbours of the mean over trainings, and what scanpy's tools make of them."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import probgeo as pg
from probgeo.adapters.anndata import connectivities
from probgeo.geometry.lines import line_lengths

anndata = pytest.importorskip("anndata", reason="anndata is not installed")

K = 6


class Stretched(pg.LatentModel):
    """Codes that are the first two features, stretched, with noise; the decoder takes the stretch back."""

    latent, num_features, name = 2, 3, "stretched"

    def __init__(self, scale: float, noise: float = 0.0) -> None:
        self.scale, self.noise = scale, noise

    def encode(self, x):
        moved = x[:, :2] + self.noise * torch.sin(17 * self.scale * x[:, [1, 0]])
        return pg.Encoding(self.scale * moved, torch.zeros_like(moved))

    def decode(self, z):
        z = z / self.scale
        return torch.cat([z, z.square().sum(-1, keepdim=True) / 4], dim=-1)

    def fisher_rao_metric(self):
        return pg.PullbackMetric(self.decode)


def cells(count: int = 80) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(0))


def written(models, x=None, **options):
    x = cells() if x is None else x
    adata = anndata.AnnData(x.numpy())
    pg.adapters.to_anndata(adata, x, models, num_neighbours=K, **options)
    return adata


MODELS = [Stretched(1.0), Stretched(5.0, 0.02), Stretched(0.3, 0.05)]


def test_distances_are_means_over_trainings_of_the_nearest_in_the_mean():
    x, adata = cells(), written(MODELS)
    pairs = np.stack(np.triu_indices(80, 1), axis=1)
    lengths = [line_lengths(m.fisher_rao_metric(), m.encode(x).mean, pairs, 4) for m in MODELS]
    mean = np.full((80, 80), np.inf)
    mean[tuple(pairs.T)] = mean.T[tuple(pairs.T)] = np.mean(lengths, axis=0)
    found = adata.obsp["distances"]
    for row in range(80):
        own = found[row]
        assert own.nnz == K and np.allclose(own.data, mean[row, own.indices], rtol=1e-5)
        assert len(set(own.indices) & set(np.argsort(mean[row])[:K])) >= K - 1  # among neighbours of some training


def test_reliability_is_the_share_of_trainings_that_have_the_edge():
    x, adata = cells(), written(MODELS)
    single = [pg.neighbours(m.fisher_rao_metric(), m.encode(x).mean, K) for m in MODELS]
    found = adata.obsp["reliability"]
    assert (found.indices == adata.obsp["distances"].indices).all()
    start, stop = found.nonzero()
    for a, b in list(zip(start, stop, strict=True))[::17]:
        assert found[a, b] == pytest.approx(np.mean([graph[a, b] > 0 for graph in single]))
    assert np.allclose(adata.obs["reliability"], np.asarray(found.sum(1)).ravel() / K)


def test_one_training_agrees_with_itself_and_a_change_of_coordinates_changes_nothing():
    one, two = written([Stretched(1.0)]), written([Stretched(1.0), Stretched(7.0)])
    for adata in (one, two):
        assert (adata.obsp["reliability"].data == 1).all()
    assert abs(one.obsp["distances"] - two.obsp["distances"]).max() < 1e-5
    assert np.allclose(two.obsm["X_probgeo_1"], 7 * two.obsm["X_probgeo"])


def test_connectivities_are_symmetric_weights_whose_rows_have_the_entropy_of_umap():
    rng = np.random.default_rng(0)
    d = np.sort(rng.random((50, K)) + 0.1, axis=1)
    indices = np.stack([rng.choice([j for j in range(50) if j != i], K, replace=False) for i in range(50)])
    graph = csr_array((d.ravel(), indices.ravel(), K * np.arange(51)), shape=(50, 50))
    found = connectivities(graph)
    assert abs(found - found.T).max() < 1e-12 and found.max() <= 1 and found.diagonal().sum() == 0
    umap = pytest.importorskip("umap.umap_", reason="umap-learn is not installed")
    own = np.arange(50)[:, None]
    expected = umap.fuzzy_simplicial_set(
        np.zeros((50, 1)),
        K + 1,
        np.random.RandomState(0),
        "euclidean",
        knn_indices=np.hstack([own, indices]).astype(np.int32),
        knn_dists=np.hstack([0 * own, d]).astype(np.float32),
    )[0]
    assert abs(found - csr_array(expected)).max() < 1e-3


def test_a_file_holds_all_of_it(tmp_path):
    adata = written(MODELS)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert abs(back.obsp["distances"] - adata.obsp["distances"]).max() == 0
    assert back.uns["neighbors"]["probgeo"]["trainings"] == 3
    assert back.uns["neighbors"]["probgeo"]["metric"] == "fisher_rao_metric"


def test_measured_distances_leave_their_statistics():
    x = cells()
    found = pg.measure({"m": MODELS}, x, torch.tensor([[0, 1], [2, 3], [4, 5]]), {"line": pg.StraightLine()})
    adata = anndata.AnnData(x.numpy())
    pg.adapters.to_anndata(adata, found, {"m": MODELS}, num_neighbours=K)
    cv = pg.identifiability.coefficient_of_variation(found.distance).mean("pair")
    kept = adata.uns["probgeo_summary"]["m line"]
    assert kept["cv"] == pytest.approx(cv.sel(model="m", measure="line").item())


def test_names_of_others_are_left_alone():
    adata = anndata.AnnData(cells().numpy())
    adata.uns["neighbors"] = {"params": {"n_neighbors": 15}}
    with pytest.raises(ValueError, match="were not made here; give key='probgeo'"):
        pg.adapters.to_anndata(adata, cells(), MODELS, num_neighbours=K)
    pg.adapters.to_anndata(adata, cells(), MODELS, num_neighbours=K, key="probgeo")
    assert adata.uns["neighbors"] == {"params": {"n_neighbors": 15}}
    assert adata.uns["probgeo"]["distances_key"] in adata.obsp
    pg.adapters.to_anndata(adata, cells(), MODELS[:1], num_neighbours=K, key="probgeo")  # its own are replaced
    assert adata.uns["probgeo"]["probgeo"]["trainings"] == 1


def test_what_does_not_fit_is_a_named_error():
    adata = anndata.AnnData(cells(70).numpy())
    with pytest.raises(ValueError, match="dataset: expected the 70 cells"):
        pg.adapters.to_anndata(adata, cells(), MODELS)
    with pytest.raises(ValueError, match="expected trainings of one model; got 'a', 'b'"):
        pg.adapters.to_anndata(adata, cells(70), {"a": MODELS, "b": MODELS})
    with pytest.raises(ValueError, match="at least one training"):
        pg.adapters.to_anndata(adata, cells(70), [])


def test_cells_in_another_order_are_refused_and_those_of_a_view_are_its_own():
    x = cells()
    adata = anndata.AnnData(x.numpy())
    with pytest.raises(
        ValueError, match=r"dataset: expected the cells of adata in their order; cell 0 is '79', there '0'"
    ):
        pg.adapters.to_anndata(adata, adata[::-1].copy(), MODELS, num_neighbours=K)
    data = pg.adapters.from_anndata(adata)
    with pytest.raises(ValueError, match="in their order"):
        pg.adapters.to_anndata(adata, data.rows(torch.arange(79, -1, -1)), MODELS, num_neighbours=K)
    pg.adapters.to_anndata(adata, data, MODELS, num_neighbours=K)
    half = anndata.AnnData(x.numpy())[:40].copy()
    pg.adapters.to_anndata(half, adata[:40], MODELS, num_neighbours=K)
    assert half.obsp["distances"].shape == (40, 40)


def test_columns_of_others_keys_and_what_is_no_anndata_are_refused_in_words():
    x = cells()
    adata = anndata.AnnData(x.numpy())
    adata.obs["reliability"] = "mine"
    with pytest.raises(ValueError, match="obs has a column 'reliability', not made here; rename it, or give a key"):
        pg.adapters.to_anndata(adata, x, MODELS, num_neighbours=K)
    for key in ("", "a/b"):
        with pytest.raises(ValueError, match="key: expected a name without '/'"):
            pg.adapters.to_anndata(adata, x, MODELS, num_neighbours=K, key=key)
    with pytest.raises(TypeError, match="adata: expected an AnnData, to write into; got Tensor"):
        pg.adapters.to_anndata(x, x, MODELS)


@pytest.mark.filterwarnings("ignore")  # scanpy's and its dependencies' own
def test_tools_of_scanpy_run_on_it_as_they_are():
    sc = pytest.importorskip("scanpy", reason="scanpy is not installed")
    adata = written(MODELS, cells(150))
    sc.tl.umap(adata)
    assert np.isfinite(adata.obsm["X_umap"]).all() and adata.obsm["X_umap"].shape == (150, 2)
    adata.uns["iroot"] = 0
    sc.tl.diffmap(adata, n_comps=5)
    sc.tl.dpt(adata, n_dcs=5)
    assert np.isfinite(adata.obs["dpt_pseudotime"]).all() and adata.obs["dpt_pseudotime"].iloc[0] == 0
    adata.obs["half"] = np.where(adata.X[:, 0] < 0.5, "low", "high")
    adata.obs["half"] = adata.obs["half"].astype("category")
    pytest.importorskip("igraph", reason="igraph, which paga and leiden need, is not installed")
    sc.tl.paga(adata, groups="half")
    assert adata.uns["paga"]["connectivities"].shape == (2, 2)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2)
    assert adata.obs["leiden"].nunique() > 1


@pytest.mark.filterwarnings("ignore")
def test_tools_of_scanpy_find_it_under_another_key():
    sc = pytest.importorskip("scanpy", reason="scanpy is not installed")
    adata = written(MODELS, key="geodesic")
    sc.tl.umap(adata, neighbors_key="geodesic")
    assert adata.obsm["X_umap"].shape == (80, 2)
