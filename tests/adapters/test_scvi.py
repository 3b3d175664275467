"""Models of scvi-tools: their metrics against pull-backs written out, and cells as they come.

Run in an environment of its own, as .ci/run does: pip install -e '.[scvi,test]'.
"""

import copy
import logging
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import probgeo as pg
from probgeo.adapters import from_scvi, negative_binomial_metric, saved_scvi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what it imports
    scvi = pytest.importorskip("scvi", reason="scvi-tools is not installed: pip install -e '.[scvi,test]'")
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

pytestmark = pytest.mark.filterwarnings("default")  # of scvi-tools, lightning and anndata, which are not ours
scvi.settings.verbosity = logging.ERROR
CELLS, GENES = 60, 7
LIBRARY = 20.0


def cells(seed: int = 0) -> Any:
    """Counts in a layer, other numbers in X; batches, donors, types and a share of each cell."""
    rng = np.random.default_rng(seed)
    adata = anndata.AnnData(rng.random((CELLS, GENES)).astype(np.float32))
    adata.var_names = [f"gene {index}" for index in range(GENES)]
    counts = rng.poisson(rng.gamma(1, 3, (CELLS, GENES)))
    counts[:, 0] += 1  # no cell is empty
    adata.layers["counts"] = csr_matrix(counts.astype(np.float32))
    adata.obs["batch"] = pd.Categorical(rng.choice(["b", "a", "c"], CELLS))
    adata.obs["donor"] = rng.choice(["x", "y"], CELLS)
    adata.obs["type"] = pd.Categorical(rng.choice(["T", "B"], CELLS))
    adata.obs["mito"] = rng.random(CELLS)
    adata.obs["size"] = rng.uniform(1, 3, CELLS)
    return adata.copy()


def model_of(adata: Any, kind: str = "SCVI", setup: dict | None = None, **options: Any) -> Any:
    """A model whose batch normalisation has seen the cells, as after training; weights as they were drawn."""
    chosen = getattr(scvi.model, kind)
    torch.manual_seed(0)
    chosen.setup_anndata(adata, layer="counts", **(setup or {}))
    model = chosen(adata, n_hidden=8, n_latent=2, **options)
    model.module.train()
    for tensors in [next(iter(model._make_data_loader(adata, batch_size=CELLS)))] * 20:
        model.module(tensors, compute_loss=False)
    model.is_trained = True
    return model


def generated(model: Any, z: Tensor, batch: int, size: float = LIBRARY, **covariates: Any) -> Any:
    """The distribution of counts that the module itself gives."""
    module = copy.deepcopy(model.module).eval()
    column = torch.full((len(z), 1), float(np.log(size)))
    known: dict[str, Any] = {"y": torch.zeros(len(z), 1, dtype=torch.long), **covariates}
    return module.generative(z, column, torch.full((len(z), 1), batch), size_factor=column, **known)["px"]


def pulled_back(model: Any, z: Tensor, information: Any, batch: int, **known: Any) -> Tensor:
    """Jᵀ I J at a point, J by reverse mode through the module, I of each gene in its parameters (parameter,)."""

    def parameters(point: Tensor) -> Tensor:
        px = generated(model, point[None], batch, **known)
        rate = px.mu if hasattr(px, "mu") else px.rate if hasattr(px, "rate") else px.loc
        return torch.stack([rate[0], px.zi_logits[0]]) if model.module.gene_likelihood == "zinb" else rate

    found = []
    for point in z:
        jacobian = torch.autograd.functional.jacobian(parameters, point)  # (parameter, gene, latent)
        blocks = information(generated(model, point[None], batch, **known))  # (gene, parameter, parameter)
        found.append(torch.einsum("pgi,gpq,qgj->ij", jacobian, blocks, jacobian))
    return torch.stack(found)


def of_negative_binomial(px: Any) -> Tensor:
    """1 / (μ + μ² / r)."""
    return (1 / (px.mu + px.mu**2 / px.theta))[0, :, None, None]


def of_negative_binomial_part(px: Any) -> Tensor:
    return of_negative_binomial(px) * torch.diag(torch.tensor([1.0, 0.0]))


def of_zero_inflated(px: Any) -> Tensor:
    """E[s sᵀ] of the scores by μ and the logit of π, summed over counts, by scvi-tools' own log-probabilities."""
    rate, gate = (value.detach().double().requires_grad_() for value in (px.mu[0], px.zi_logits[0]))
    theta = (px.theta[0] if px.theta.ndim == 2 else px.theta).detach().double()
    total = torch.zeros(GENES, 2, 2, dtype=torch.float64)
    mass = torch.zeros(GENES, dtype=torch.float64)
    for count in range(600):
        own = scvi.distributions.ZeroInflatedNegativeBinomial(mu=rate, theta=theta, zi_logits=gate)
        log_prob = own.log_prob(torch.full((GENES,), float(count), dtype=torch.float64))
        scores = torch.stack(torch.autograd.grad(log_prob.sum(), (rate, gate)), dim=-1)
        chance = log_prob.detach().reshape(GENES).exp()
        total += chance[:, None, None] * scores[:, :, None] * scores[:, None, :]
        mass += chance
    assert (mass > 1 - 1e-6).all()
    return total.float()


Z = torch.tensor([[0.3, -0.8], [-1.2, 0.5]])
SETUPS: dict[str, dict] = {"one batch": {}, "batches": {"batch_key": "batch"}}


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("kind", ["nb", "zinb"])
def test_the_metric_is_the_pull_back_of_the_module_s_distribution(kind, setup, dispersion):
    model = model_of(cells(), setup=SETUPS[setup], gene_likelihood=kind, dispersion=dispersion)
    batches = ["a", "b", "c"] if setup == "batches" else [0]
    full = of_negative_binomial if kind == "nb" else of_zero_inflated
    part = of_negative_binomial if kind == "nb" else of_negative_binomial_part
    by_batch = [pulled_back(model, Z, full, code) for code in range(len(batches))]
    for code, batch in enumerate(batches):
        found = from_scvi(model, batch=batch, library_size=LIBRARY)
        torch.testing.assert_close(found.fisher_rao_metric().tensor(Z), by_batch[code], rtol=2e-3, atol=1e-5)
        torch.testing.assert_close(
            negative_binomial_metric(found).tensor(Z), pulled_back(model, Z, part, code), rtol=2e-3, atol=1e-5
        )
    of_all = from_scvi(model, library_size=LIBRARY)
    assert of_all.num_members == len(batches)
    mean = torch.stack(by_batch).mean(0)
    torch.testing.assert_close(of_all.fisher_rao_metric().tensor(Z), mean, rtol=2e-3, atol=1e-5)
    two = from_scvi(model, batch=batches[-2:], library_size=LIBRARY)
    torch.testing.assert_close(
        two.fisher_rao_metric().tensor(Z), torch.stack(by_batch[-2:]).mean(0), rtol=2e-3, atol=1e-5
    )


def test_the_mean_of_the_batches_metrics_is_not_the_metric_of_the_mean_decoder():
    model = model_of(cells(), setup={"batch_key": "batch"}, gene_likelihood="nb")
    found = from_scvi(model, library_size=LIBRARY)
    mean = lambda point: torch.stack([generated(model, point[None], code).mu[0] for code in range(3)])  # noqa: E731
    jacobians = torch.stack([torch.autograd.functional.jacobian(mean, point) for point in Z])  # (point, batch, gene, 2)
    expected = (jacobians.mT @ jacobians).mean(1)
    torch.testing.assert_close(found.metric().tensor(Z), expected, rtol=1e-3, atol=1e-5)
    of_mean = jacobians.mean(1)
    assert not torch.allclose(of_mean.mT @ of_mean, expected, rtol=0.05)
    torch.testing.assert_close(found.decode(Z), torch.stack([mean(point).mean(0) for point in Z]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", ["a", None])
def test_lengths_of_zero_inflated_counts_are_those_of_the_field_as_paths_are_refined(batch):
    model = from_scvi(model_of(cells(), setup={"batch_key": "batch"}, gene_likelihood="zinb"), batch=batch)
    metric = model.fisher_rao_metric()
    start, stop = torch.tensor([[-2.0, 1.0]]), torch.tensor([[1.5, 2.0]])
    exact = pg.length(pg.TensorMetric(metric.tensor), pg.paths.Straight(1024)(start, stop))
    errors = [abs(float(pg.length(metric, pg.paths.Straight(n)(start, stop)) / exact - 1)) for n in (8, 16, 256)]
    assert errors[2] < errors[1] < errors[0] and errors[2] < 2e-3  # slowly: rectifiers have kinks
    found = pg.geodesic(metric, start, stop, solver=pg.GaussNewton(num_segments=64))
    assert found.status == pg.Status.CONVERGED and float(found.length) <= float(exact) * 1.001
    of_field = pg.geodesic(pg.TensorMetric(metric.tensor), start, stop, solver=pg.GaussNewton(num_segments=64))
    assert abs(float(found.length / of_field.length) - 1) < 0.01


@pytest.mark.parametrize("kind", ["nb", "zinb"])
@pytest.mark.parametrize("name", ["SCANVI", "LinearSCVI"])
def test_other_models_of_the_family_have_their_own_decoders(name, kind):
    setup = {"labels_key": "type", "unlabeled_category": "unknown"} if name == "SCANVI" else {}
    model = model_of(cells(), name, {"batch_key": "batch", **setup}, gene_likelihood=kind)
    full = of_negative_binomial if kind == "nb" else of_zero_inflated
    found = from_scvi(model, batch="b", library_size=LIBRARY).fisher_rao_metric().tensor(Z)
    torch.testing.assert_close(found, pulled_back(model, Z, full, 1), rtol=2e-3, atol=1e-5)


def test_poisson_normal_and_size_factors_are_pulled_back_too():
    poisson = model_of(cells(), gene_likelihood="poisson")
    expected = pulled_back(poisson, Z, lambda px: (1 / px.rate)[0, :, None, None], 0)
    found = from_scvi(poisson, library_size=LIBRARY).fisher_rao_metric().tensor(Z)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    normal = model_of(cells(), gene_likelihood="normal")
    expected = pulled_back(normal, Z, lambda px: (1 / px.scale**2).expand_as(px.loc)[0, :, None, None], 0)
    found = from_scvi(normal, library_size=LIBRARY).fisher_rao_metric().tensor(Z)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    adata = cells()
    sized = model_of(adata, setup={"size_factor_key": "size"}, gene_likelihood="nb")
    model = from_scvi(sized)
    assert model.library_size == pytest.approx(np.median(adata.obs["size"]))
    expected = pulled_back(sized, Z, of_negative_binomial, 0, size=model.library_size)
    torch.testing.assert_close(model.fisher_rao_metric().tensor(Z), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["nb", "zinb"])
def test_layers_that_are_normalised_within_a_cell_are_pulled_back_and_differentiated_twice(kind):
    model = model_of(cells(), gene_likelihood=kind, use_layer_norm="both", use_batch_norm="none")
    metric = from_scvi(model, library_size=LIBRARY).fisher_rao_metric()
    full = of_negative_binomial if kind == "nb" else of_zero_inflated
    torch.testing.assert_close(metric.tensor(Z), pulled_back(model, Z, full, 0), rtol=2e-3, atol=1e-5)
    field = pg.TensorMetric(metric.tensor)  # its derivative is tried
    assert pg.energy(field, pg.paths.Straight(8)(Z[:1], Z[1:])).isfinite().all()


def test_a_label_has_a_dispersion_of_its_own():
    model = model_of(cells(), setup={"labels_key": "type"}, gene_likelihood="nb", dispersion="gene-label")
    for code, label in enumerate(["B", "T"]):
        found = from_scvi(model, label=label, library_size=LIBRARY).fisher_rao_metric().tensor(Z)
        expected = pulled_back(model, Z, of_negative_binomial, 0, y=torch.tensor([[code]]))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_dispersions_that_a_code_does_not_determine_are_refused_and_means_are_not():
    by_cell = from_scvi(model_of(cells(), dispersion="gene-cell"))
    by_label = from_scvi(model_of(cells(), setup={"labels_key": "type"}, dispersion="gene-label"))
    with pytest.raises(TypeError, match=r"varies with z"):
        from_scvi(model_of(cells(), gene_likelihood="normal", dispersion="gene-cell")).fisher_rao_metric()
    for model, words in ((by_cell, "varies with z.*no closed form"), (by_label, "a code has no label.*label=")):
        assert model.metric().tensor(Z).isfinite().all()
        with pytest.raises(TypeError, match=words):
            model.fisher_rao_metric()
        with pytest.raises(TypeError, match=words):
            model.negative_binomial_metric()
    with pytest.raises(TypeError, match=r"negative_binomial_metric.*gene_likelihood='poisson'"):
        negative_binomial_metric(from_scvi(model_of(cells(), gene_likelihood="poisson")))
    with pytest.raises(TypeError, match=r"expected what from_scvi returns; got FittedVAE"):
        negative_binomial_metric(pg.VAE(latent=2).build(num_features=5, seed=0))


# --- cells ------------------------------------------------------------------------------------------------------------


def representation(model: Any, adata: Any) -> tuple[Tensor, Tensor]:
    """What scvi-tools itself says of the cells, as it says it in evaluation mode."""
    model.module.eval()
    mean, variance = model.get_latent_representation(adata, return_dist=True)
    return torch.from_numpy(mean), torch.from_numpy(variance).sqrt()


COVARIATES: dict = {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["mito"]}


@pytest.mark.parametrize("representing", ["one-hot", "embedding"])
def test_each_cell_s_batch_and_covariates_reach_the_encoder(representing):
    adata, values = cells(), {"donor": "y", "mito": 0.2}
    setup = {"batch_key": "batch", **COVARIATES}
    model = model_of(
        adata, setup=setup, encode_covariates=True, batch_representation=representing, gene_likelihood="nb", n_layers=2
    )
    found = from_scvi(model, covariates=values, batch="c", library_size=LIBRARY)
    given = {"cat_covs": torch.tensor([[1]]), "cont_covs": torch.tensor([[0.2]])}
    torch.testing.assert_close(
        found.fisher_rao_metric().tensor(Z),
        pulled_back(model, Z, of_negative_binomial, 2, **given),
        rtol=1e-3,
        atol=1e-5,
    )
    mean, std = representation(model, adata)
    torch.testing.assert_close(found.encode(adata).mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.encode(adata).std, std, rtol=1e-4, atol=1e-5)
    other = adata.copy()
    other.obs["batch"] = pd.Categorical(np.roll(adata.obs["batch"].to_numpy(), 1))
    assert not torch.allclose(found.encode(other).mean, mean, atol=1e-3)
    chosen = adata[[5, 3, 40]]
    torch.testing.assert_close(found.encode(chosen).mean, mean[[5, 3, 40]], rtol=1e-4, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"of 7 genes, and of batch and covariates; got shape .60, 7.. Give the AnnData"
    ):
        found.encode(adata.layers["counts"].toarray())
    other.obs["batch"] = "new"
    with pytest.raises(ValueError, match=r"the model knows a, b, c of 'batch'; got 'new' .60 such cells"):
        found.encode(other)
    with pytest.raises(
        ValueError, match=r"covariates: the model decodes codes at values of .'donor', 'mito'.; got none"
    ):
        from_scvi(model)


def test_a_model_in_training_mode_is_evaluated_and_stays_as_it_was():
    adata = cells()
    model = model_of(adata, gene_likelihood="nb")
    before = copy.deepcopy(model.module.state_dict())
    assert model.module.training
    found = from_scvi(model, library_size=LIBRARY)
    codes, tensor = found.encode(adata).mean, found.fisher_rao_metric().tensor(Z)
    assert model.module.training
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())
    torch.testing.assert_close(codes, representation(model, adata)[0], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model.module.decoder.px_scale_decoder[0].weight.zero_()
    torch.testing.assert_close(found.fisher_rao_metric().tensor(Z), tensor)


def test_the_library_size_is_the_median_of_the_layer_and_can_be_given():
    adata = cells()
    model = model_of(adata, gene_likelihood="nb")
    median = float(np.median(adata.layers["counts"].toarray().sum(1)))
    assert from_scvi(model).library_size == median
    plain, double = (from_scvi(model, library_size=size).decode(Z) for size in (LIBRARY, 2 * LIBRARY))
    torch.testing.assert_close(double, 2 * plain)
    with pytest.raises(ValueError, match=r"library_size: expected a positive number; got 0"):
        from_scvi(model, library_size=0.0)


def test_a_minified_model_has_its_codes_and_its_metric():
    adata = cells()
    model = model_of(adata, gene_likelihood="zinb")
    whole = from_scvi(model)
    codes, tensor = whole.encode(adata), whole.fisher_rao_metric().tensor(Z)
    mean, std = representation(model, adata)
    adata.obsm["mean"], adata.obsm["variance"] = mean.numpy(), std.square().numpy()
    model.minify_adata(use_latent_qzm_key="mean", use_latent_qzv_key="variance")
    assert model.adata.layers["counts"].nnz == 0
    found = from_scvi(model)
    assert found.library_size == whole.library_size
    torch.testing.assert_close(found.encode(model.adata).mean, codes.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.encode(model.adata).std, codes.std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.fisher_rao_metric().tensor(Z), tensor)
    with pytest.raises(ValueError, match=r"codes, as the model was minified"):
        found.encode(torch.ones(3, GENES))
    with pytest.raises(ValueError, match=r"reads codes from obsm.'scvi_latent_qzm'"):
        found.encode(cells())
    dataset = pg.measure({"minified": [found]}, model.adata, [[0, 1]], {"straight": pg.StraightLine()})
    assert dataset.distance.notnull().all() and dataset.euclidean_ambient.isnull().all()


@pytest.mark.parametrize("with_data", [True, False])
def test_saved_models_are_opened_with_and_without_data(tmp_path, with_data):
    adata = cells()
    for name, kind in (("0", "SCVI"), ("1", "LinearSCVI")):
        model_of(adata, kind, gene_likelihood="nb").save(str(tmp_path / name), save_anndata=with_data)
    first, second = saved_scvi(tmp_path, None if with_data else adata, batch=0)
    assert (first.name, second.name) == ("0", "1")
    expected = from_scvi(model_of(adata, gene_likelihood="nb"))
    assert first.library_size == expected.library_size
    torch.testing.assert_close(first.fisher_rao_metric().tensor(Z), expected.fisher_rao_metric().tensor(Z))
    torch.testing.assert_close(first.encode(adata).mean, expected.encode(adata).mean)
    if not with_data:
        with pytest.raises(ValueError, match=r"library_size: expected a number, or adata"):
            from_scvi(tmp_path / "0")
        assert from_scvi(tmp_path / "0", library_size=5.0).library_size == 5.0
    with pytest.raises(ValueError, match=r"folder: expected folders of saved models"):
        saved_scvi(tmp_path / "0")


def test_other_models_genes_layers_and_batches_are_refused_in_words():
    adata = cells()
    model = model_of(adata, setup={"batch_key": "batch"})
    found = from_scvi(model)
    with pytest.raises(TypeError, match=r"expected SCVI, SCANVI or LinearSCVI of scvi.model.*got Linear"):
        from_scvi(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"codes on a simplex"):
        from_scvi(model_of(adata, latent_distribution="ln"))
    with pytest.raises(ValueError, match=r"batch: 'batch' has a, b, c; got 'd'"):
        from_scvi(model, batch="d")
    with pytest.raises(ValueError, match=r"batch: expected a batch, several, or None"):
        from_scvi(model, batch=[])
    with pytest.raises(ValueError, match=r"trained on 7 genes; got 3"):
        found.encode(adata[:, :3])
    with pytest.raises(ValueError, match=r"in their order; gene 0 is 'gene 6', there 'gene 0'"):
        found.encode(adata[:, ::-1])
    without = adata.copy()
    del without.layers["counts"]
    with pytest.raises(ValueError, match=r"trained on the layer 'counts'; got the layers .."):
        found.encode(without)


def test_what_is_given_wrongly_is_named(tmp_path):
    model = model_of(cells(), setup={"batch_key": "batch", **COVARIATES})
    good = {"donor": "x", "mito": 0.1}
    for options, words in (
        ({"batch": ["a", "a"]}, "batch: expected each batch once"),
        ({"label": "x"}, "label: the model has dispersion='gene', the same for every label"),
        ({"covariates": {**good, "mito": "much"}}, "covariates: expected a finite number of 'mito'; got 'much'"),
        ({"covariates": {**good, "mito": np.nan}}, "covariates: expected a finite number of 'mito'; got nan"),
        ({"covariates": {**good, "donor": "z"}}, "covariates: 'donor' has x, y; got 'z'"),
    ):
        with pytest.raises(ValueError, match=words):
            from_scvi(model, **{"covariates": good, **options})
    (tmp_path / "model.pt").touch()
    with pytest.raises(ValueError, match=r"model.pt is a file: give its folder"):
        from_scvi(tmp_path / "model.pt")
    for several in (np.array(["a", "c"]), pd.Index(["a", "c"]), ("a", "c")):
        assert from_scvi(model, covariates=good, batch=several).num_members == 2


def test_numbers_that_are_no_counts_are_said():
    adata = cells()
    found = from_scvi(model_of(adata))
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"x: expected counts, which are finite and not negative"):
            found.encode(np.full((3, GENES), wrong, np.float32))
    with pytest.warns(
        UserWarning, match=r"x: expected counts, as SCVI reads; got .* from_anndata.adata, layer='counts'"
    ):
        found.encode(pg.adapters.from_anndata(adata))  # X, which the model has not seen
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        codes = found.encode(pg.adapters.from_anndata(adata, layer="counts")).mean
    assert torch.equal(codes, found.encode(adata).mean)
    assert found.encode(np.ones((0, GENES), np.float32)).mean.shape == (0, 2)


def test_numbers_of_another_kind_than_a_model_was_trained_on_are_said(tmp_path):
    adata, logged = cells(), cells()
    logged.layers["counts"] = logged.layers["counts"].log1p()
    of_counts, of_logs = model_of(adata), model_of(logged)
    of_logs.save(str(tmp_path / "logs"))
    rows = torch.from_numpy(adata.layers["counts"].toarray())
    with pytest.warns(UserWarning, match=r"x: expected counts, as SCVI reads; got 0\.69"):
        from_scvi(of_counts).encode(logged)
    for counts in (adata, rows):
        with pytest.warns(UserWarning, match=r"as SCVI was trained on, which are no integers; got counts"):
            from_scvi(of_logs).encode(counts)
    unknown = from_scvi(tmp_path / "logs", library_size=LIBRARY)
    with pytest.warns(UserWarning, match=r"x: expected counts"):
        unknown.encode(rows.log1p())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        same = torch.from_numpy(logged.layers["counts"].toarray())
        codes = from_scvi(of_logs).encode(logged).mean  # a model of such numbers reads them
        assert torch.equal(codes, from_scvi(of_logs).encode(same).mean)
        assert torch.equal(codes, unknown.encode(logged).mean)
    with pytest.raises(ValueError, match=r"got nan"):
        from_scvi(model_of(cells(), gene_likelihood="normal")).encode(rows * torch.nan)


def test_trainings_are_measured_on_the_cells_as_they_come():
    adata = cells()
    scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="batch")
    models = []
    for seed in range(2):
        scvi.settings.seed = seed
        model = scvi.model.SCVI(adata, n_hidden=8, n_latent=2, encode_covariates=True)
        model.train(
            max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
        )
        models.append(from_scvi(model))
    measures = {
        "zero-inflated": pg.Geodesic(pg.study.fisher_rao_metric, solver=pg.GaussNewton(num_segments=8)),
        "negative binomial": pg.Geodesic(negative_binomial_metric, solver=pg.GaussNewton(num_segments=8)),
    }
    dataset = pg.measure({"scVI": models}, adata, [[0, 1], [2, 3]], measures)
    assert dict(dataset.distance.sizes) == {"model": 1, "measure": 3, "retraining": 2, "pair": 2}
    straight = pg.paths.Straight(64)
    start, stop = models[1].encode(adata).mean[[0, 2]], models[1].encode(adata).mean[[1, 3]]
    bound = pg.length(models[1].fisher_rao_metric(), straight(start, stop)).numpy()
    found = dataset.distance.sel(measure="zero-inflated", retraining=1).values[0]
    assert (found <= bound * 1.01).all() and (found > 0.5 * bound).all()
    chosen = pg.measure({"scVI": models}, adata, [[0, 1]], measures, points=adata[2:4].copy())
    np.testing.assert_allclose(chosen.distance.values[..., 0], dataset.distance.values[..., 1], rtol=1e-3)


def test_a_study_takes_the_rows_that_the_models_read_and_tells_trainings_and_batches_apart(tmp_path):
    adata = cells()
    model = model_of(adata, setup={"batch_key": "batch"}, encode_covariates=True, gene_likelihood="nb")
    first, fixed = from_scvi(model), from_scvi(model, batch="a")
    with torch.no_grad():
        model.module.decoder.px_scale_decoder[0].weight.mul_(0.5)
    second = from_scvi(model)
    common = {"pairs": [[0, 1], [2, 3]], "measures": {"straight": pg.StraightLine(pg.study.fisher_rao_metric)}}
    study = pg.Study(tmp_path, data=first.rows(adata), models={"all": [first, second], "a": [fixed]}, **common)
    found = study.run(progress=False)
    assert len({key for keys in study._trainings.values() for key in keys}) == 3
    expected = pg.measure({"all": [first, second], "a": [fixed]}, adata, **common)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-5)
    assert len(np.unique(found.distance.sel(measure="straight", pair=0).values.round(6))) == 4  # three, and NaN
    with pytest.raises(TypeError, match=r"data: the models 'all' read more of a table.*data=models\[0\].rows\(data\)"):
        pg.Study(tmp_path, data=adata, models={"all": [first, second]}, **common)
    again = pickle.loads(pickle.dumps(first))  # as an executor sends it
    assert torch.equal(again.fisher_rao_metric().tensor(Z), first.fisher_rao_metric().tensor(Z))


def test_the_script_of_the_page_runs_and_prints_the_table(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "README.md").read_text()
    script = re.search(r"```python\n(import probgeo as pg, scanpy.*?)```", page, re.DOTALL).group(1)
    assert len([line for line in script.splitlines() if line.strip()]) <= 15
    for printed, tiny in {
        "range(10)": "range(2)",
        "num_pairs=50": "num_pairs=2",
        "train()": "train(max_epochs=1, accelerator='cpu', logger=False)",
    }.items():
        assert printed in script
        script = script.replace(printed, tiny)
    adata = cells()
    adata.obs["cell_type"] = adata.obs["type"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "README.md", "exec"), {})
    table = capsys.readouterr().out
    assert all(word in table for word in ("CV", "spread", "ICC", "scVI", "geodesic", "straight", "euclidean"))
