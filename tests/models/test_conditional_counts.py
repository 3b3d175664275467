"""Counts of cells in batches, at library sizes of their own: batches are given, sizes known, neither modelled."""

import pyro
import pytest
import torch
from pyro.distributions import NegativeBinomial

import probgeo as pg

NET = pg.nn.MLP((8,))
REFERENCE, TOTAL, BATCHES, GENES = 20.0, 3.0, 2, 5
LIBRARIES = {
    "total": pg.likelihoods.RowTotal(REFERENCE),
    "column": pg.likelihoods.LibraryColumn(-1, REFERENCE),
}
EACH = pytest.mark.parametrize("name", LIBRARIES)


def rows(name: str, num: int = 60) -> torch.Tensor:
    """[batch; counts], or [batch; counts; library sizes], which are not the totals."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.empty(num, 1).uniform_(10, 40, generator=generator)
    counts = torch.poisson(sizes / 8 * torch.rand(num, GENES, generator=generator), generator=generator) + 1
    batch = torch.nn.functional.one_hot(torch.arange(num) % BATCHES, BATCHES).float()
    return torch.cat([batch, counts, *([sizes] if name == "column" else [])], dim=1)


def spec(name: str) -> pg.ConditionalVAE:
    return pg.ConditionalVAE(
        2,
        pg.Decoder(NET),
        pg.likelihoods.NegativeBinomial(LIBRARIES[name], total_count=TOTAL),
        NET,
        mask=pg.masks.NoMask(),
        covariates=(0, 1),
    )


def built(name: str):
    return spec(name).build(rows(name).shape[1], seed=0).requires_grad_(False)


def sizes(name: str, x: torch.Tensor) -> torch.Tensor:
    return x[:, -1:] if name == "column" else x[:, 2:].sum(1, keepdim=True)


def expected_log_prob(name: str, model, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Written out: of counts alone, mean library / reference · exp(decoder of [z; batch])."""
    log_rate = model.decoder(torch.cat([z, x[:, :2]], 1), {})[0]
    mean = sizes(name, x) / REFERENCE * log_rate.exp()
    return NegativeBinomial(TOTAL, probs=mean / (mean + TOTAL)).log_prob(x[:, 2 : 2 + GENES])


@EACH
def test_the_model_is_of_the_counts_at_each_row_s_library_size_given_its_batch(name):
    model, x = built(name), rows(name)
    z = torch.randn(len(x), 2, generator=torch.Generator().manual_seed(1))
    conditioned = pyro.poutine.condition(model.model, data={"z": z})
    site = pyro.poutine.trace(conditioned).get_trace(x).nodes["x"]
    assert site["value"].shape == (len(x), GENES)
    torch.testing.assert_close(site["fn"].log_prob(site["value"]), expected_log_prob(name, model, x, z))
    distortion = model.distortion(x)
    assert distortion[:, 2 : 2 + GENES].isfinite().all()
    assert distortion[:, [0, 1, *range(2 + GENES, x.shape[1])]].isnan().all()
    assert model.elbo(x).isfinite().all() and model.log_likelihood(x[:3]).isfinite().all()


@EACH
def test_the_geometry_of_a_batch_is_that_at_the_reference(name):
    model, x = built(name), rows(name)
    given = model.given_values({0: 0.0, 1: 1.0})
    z = torch.randn(3, 2)
    log_rate = lambda point: model.decoder(torch.cat([point, x[1, :2]])[None], {})[0][0]  # noqa: E731
    torch.testing.assert_close(given.decode(z), torch.stack([log_rate(point).exp() for point in z]))
    torch.testing.assert_close(model.reconstruct(x[1:2]), given.decode(model.encode(x[1:2]).mean))
    isometric = lambda point: 2 * TOTAL**0.5 * torch.asinh((log_rate(point).exp() / TOTAL).sqrt())  # noqa: E731
    jacobians = torch.stack([torch.func.jacrev(isometric)(point) for point in z])
    torch.testing.assert_close(given.fisher_rao_metric().tensor(z), jacobians.mT @ jacobians, rtol=1e-4, atol=1e-5)
    other = model.given_values({0: 1.0, 1: 0.0}).fisher_rao_metric().tensor(z)
    assert not torch.allclose(other, jacobians.mT @ jacobians, rtol=1e-2)


def test_samples_grow_with_the_library_size_which_they_keep():
    model, x = built("column"), rows("column")[:2].clone()
    x[1] = x[0]
    x[1, -1] = 10 * x[0, -1]
    drawn = model.sample(x, num=3000)
    assert torch.equal(drawn[:, :, [0, 1, -1]], x[:, [0, 1, -1]].expand(3000, -1, -1))
    small, large = drawn[..., 2:-1].mean((0, 2))
    assert abs(float(large / small) - 10) < 1
    assert model.impute(x).shape == x.shape and torch.equal(model.impute(x)[:, -1], x[:, -1])


@EACH
def test_the_encoder_reads_rates_so_that_depth_alone_moves_no_code(name):
    model, x = built(name), rows(name)
    deeper = x.clone()
    deeper[:, 2:] *= 3
    torch.testing.assert_close(model.encode(deeper).mean, model.encode(x).mean)


@EACH
def test_such_a_model_is_trained_and_measured(name):
    x = rows(name)
    training = pg.Training(epochs=3, batch_size=20)
    models = pg.fit(spec(name), x, seeds=range(2), training=training, progress=False)
    measures = {"given": pg.study.Given({0: 1.0, 1: 0.0}, pg.StraightLine())}
    found = pg.measure({"batches": models}, x, [[0, 1]], measures)
    assert found.distance.notnull().all()


def test_counts_that_are_missing_leave_no_library_size():
    x = rows("total")
    x[3, 4] = torch.nan
    with pytest.raises(
        ValueError, match=r"x: expected every count, where a row's counts are parts of its library size"
    ):
        spec("total").check(x)
    with pytest.raises(ValueError, match=r"x: expected every count, where"):
        built("total").encode(x)
    masked = pg.ConditionalVAE(likelihood=pg.likelihoods.Poisson(LIBRARIES["total"]), covariates=(0,))
    with pytest.raises(ValueError, match=r"with one where covariates alone are given, mask=NoMask\(\)"):
        masked.build(5, seed=0)
