"""Shared latent spaces: fusions against closed forms, missing views without effect, one metric for each view."""

import dataclasses
import json

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy.stats import spearmanr
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence
from torch.func import jacfwd

import probgeo as pg
from probgeo.geometry.metrics import ExpectedMetric
from probgeo.identifiability import rank_correlation
from probgeo.models.shared.spec import FittedSharedLatentVAE
from probgeo.specs import digest, from_config, to_config
from probgeo.study import expected_metric, fisher_rao_metric
from probgeo.training import storage
from probgeo.training.objective import ELBO, noise_shapes, random_noise
from tests.fitted import close

EPS = torch.finfo(torch.float64).eps
NET = pg.nn.MLP((8,))
LINEAR = pg.nn.MLP(())
FUSIONS = {
    "product": pg.views.ProductOfExperts(),
    "mixture": pg.views.Mixture(),
    "average": pg.views.Average(),
    "shared layers": pg.views.Average(NET, width=6),
}
DECODERS = {
    "single": pg.Decoder(NET),
    "split": pg.EnsembleDecoder(3, NET),
    "random": pg.EnsembleDecoder(3, NET, pg.RandomMember()),
    "rbf": pg.RBFDecoder(NET, num_centres=4),
    "dropout": pg.DropoutDecoder(NET, draws=3),
    "mean field": pg.BayesianDecoder(NET, draws=3),
    "exact": pg.BayesianDecoder(NET, guide=pg.posteriors.Conjugate(), draws=3),
    "process": pg.GPDecoder(NET, num_inducing=4),
}
QUICK = pg.Training(epochs=1, batch_size=32, learning_rate=1e-2)


def spec(fusion=FUSIONS["product"], decoder=DECODERS["single"], **options) -> pg.SharedLatentVAE:
    """Two views of four and three columns."""
    views = {"left": pg.View(4, NET, decoder), "right": pg.View(3, NET, decoder)}
    return pg.SharedLatentVAE(views, fusion=fusion, **options)


def data(num_rows: int = 48, missing: bool = True, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Seven columns from two coordinates; every fourth row lacks the left view, every sixth the right one."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(num_rows, 2, generator=generator, dtype=torch.float64)
    x = z @ torch.randn(2, 7, generator=generator, dtype=torch.float64)
    x = x + 0.1 * torch.randn(num_rows, 7, generator=generator, dtype=torch.float64)
    if missing:
        x[::4, :4] = torch.nan
        x[1::6, 4:] = torch.nan
    return x.to(dtype)


def built(model: pg.SharedLatentVAE, x: torch.Tensor | None = None) -> FittedSharedLatentVAE:
    """With first weights, and what phases do before their epochs."""
    fitted = model.build(sum(view.num_features for _, view in model.pairs), seed=0).double()
    for phase in fitted.phases:
        if phase.start:
            phase.start(fitted, data() if x is None else x, 0)
    return fitted.requires_grad_(False)


def with_value(x: torch.Tensor, row: int, column: int, value: float) -> torch.Tensor:
    x = x.clone()
    x[row, column] = value
    return x


def terms(model: FittedSharedLatentVAE, x: torch.Tensor, num_draws: int = 1, num_rows: int | None = None) -> dict:
    """Our ELBO terms, over draws of noise, each (draw,), of all rows together."""
    objective = pg.nn.Stacked([ELBO(model, num_rows or len(x))])
    noise = random_noise([0], num_draws, noise_shapes(model, x), "draws")
    beta = model.spec.final_beta()[None]
    with pyro.validation_enabled(False):
        found = [objective.each(x[None], {k: v[:, i].to(x) for k, v in noise.items()}, beta) for i in range(num_draws)]
    return {name: (num_rows or len(x)) * torch.cat([draw[name] for draw in found]) for name in found[0]}


def linear_model(
    fusion=pg.views.ProductOfExperts(), std: float = 0.5
) -> tuple[FittedSharedLatentVAE, list[torch.Tensor]]:
    """x_v = W_v z + noise, columns of W_v orthogonal, every encoder the view's own likelihood of z, exactly."""
    views = {name: pg.View(n, LINEAR, pg.Decoder(LINEAR), pg.Gaussian(std)) for name, n in (("left", 4), ("right", 3))}
    model = pg.SharedLatentVAE(views, fusion=fusion).build(7, seed=0).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    weights = []
    for view, scale in zip(model.views, ([2.0, 0.7], [0.3, 1.5]), strict=True):
        W = torch.linalg.qr(torch.randn(view.num_features, 2, dtype=torch.float64, generator=generator))[0]
        W = W * torch.tensor(scale, dtype=torch.float64)
        square = W.square().sum(0)
        view.decoder.network[0].weight.copy_(W)
        view.decoder.network[0].bias.zero_()
        view.encoder[0].weight.copy_(torch.cat([W.T / square[:, None], torch.zeros_like(W.T)]))
        view.encoder[0].bias.copy_(torch.cat([torch.zeros(2), (std / square.sqrt()).log()]))
        weights.append(W)
    return model, weights


# --- fusions ---


@pytest.mark.parametrize("given", [("left",), ("right",), ("left", "right")], ids=" ".join)
def test_a_product_of_experts_is_the_posterior_of_a_linear_gaussian_model_given_any_views(given):
    model, weights = linear_model()
    x = data(missing=False)
    W = torch.cat([w if name in given else 0 * w for name, w in zip(("left", "right"), weights, strict=True)])
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + W.T @ W / 0.25)
    mean = x @ W @ covariance / 0.25
    for name in {"left", "right"} - set(given):
        x[:, model.spec.columns(name)] = torch.nan
    found = model.encode(x)
    close(found.mean, mean)
    close(found.std, covariance.diagonal().sqrt().expand_as(mean))


def test_translation_is_the_conditional_expectation_in_a_linear_gaussian_model():
    model, (W, V) = linear_model()
    x = data(missing=False)
    expected = x[:, :4] @ torch.linalg.inv(W @ W.T + 0.25 * torch.eye(4, dtype=torch.float64)) @ W @ V.T
    close(model.translate(x[:, :4], "left", "right"), expected)
    found = model.cycle(x[:, :4], "left", "right")
    close(found.there, expected)
    close(found.back, model.translate(expected, "right", "left"))
    close(found.difference, (found.back - x[:, :4]).square().mean(1).sqrt())


def test_a_product_of_no_experts_is_the_prior():
    outputs = torch.randn(5, 2, 4, dtype=torch.float64)
    mean, std = pg.views.ProductOfExperts().build(2)(outputs, torch.zeros(5, 2, dtype=torch.bool))
    assert (mean == 0).all() and (std == 1).all()


def test_codes_of_a_mixture_have_its_mean_and_standard_deviation():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)
    given = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1], [1, 1, 0]]).bool()
    means, log_stds = outputs.movedim(1, -1).chunk(2, dim=1)
    weights = Categorical(given[:, None].expand(-1, 2, -1).double())
    law = MixtureSameFamily(weights, Normal(means, log_stds.exp()))
    found = pg.views.Mixture().build(2)(outputs, given)
    close(found.mean, law.mean)
    close(found.std, law.stddev)


def test_an_average_is_that_of_what_the_encoders_of_the_views_that_are_there_give():
    model, x = built(spec(pg.views.Average())), data()
    left, right = model.views[0].encoder(x[:, :4].nan_to_num()), model.views[1].encoder(x[:, 4:].nan_to_num())
    both = (left + right) / 2
    expected = torch.where(x[:, :1].isnan(), right, torch.where(x[:, 4:5].isnan(), left, both))
    mean, log_std = expected.chunk(2, dim=1)
    close(model.encode(x).mean, mean)
    close(model.encode(x).std, log_std.exp())


def test_shared_layers_come_after_the_average():
    model, x = built(spec(FUSIONS["shared layers"])), data(missing=False)
    average = torch.stack([model.views[0].encoder(x[:, :4]), model.views[1].encoder(x[:, 4:])]).mean(0)
    assert average.shape == (48, 6)
    close(model.encode(x).mean, model.fusion.network(average)[:, :2])


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
def test_what_stands_in_a_missing_view_has_no_effect_and_its_parts_no_gradient(fusion):
    x = data(8, missing=False)
    x[:, 4:] = torch.nan
    model = built(spec(fusion)).requires_grad_()
    objective = ELBO(model, 8)
    noise = {name: value[0, 0].double() for name, value in random_noise([0], 1, noise_shapes(model, x), "a").items()}
    with pyro.validation_enabled(False):
        loss = objective(x, noise, model.spec.final_beta())["loss"]
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
        if name.startswith("views.1."):
            assert parameter.grad is None or (parameter.grad == 0).all()
    assert model.views[0].encoder[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "likelihood",
    [
        pg.likelihoods.Bernoulli(),
        pg.likelihoods.Categorical(3),
        pg.likelihoods.ContinuousBernoulli(),
        pg.HeteroscedasticGaussian(),
        pg.likelihoods.Laplace(),
        pg.likelihoods.Mixed(((pg.likelihoods.Bernoulli(), 1), (pg.Gaussian(), 2))),
        pg.likelihoods.NegativeBinomial(pg.likelihoods.RowTotal(3.0)),
        pg.likelihoods.OneHotCategorical(),
        pg.likelihoods.Poisson(pg.likelihoods.LibraryColumn(0, 3.0)),
        pg.likelihoods.ZeroInflatedNegativeBinomial(pg.likelihoods.RowTotal(3.0)),
    ],
    ids=lambda likelihood: type(likelihood).__name__,
)
def test_a_missing_view_leaves_every_gradient_finite_whatever_its_likelihood(likelihood):
    views = {"left": pg.View(4, NET), "right": pg.View(3, NET, likelihood=likelihood)}
    x = data(8, missing=False)
    x[:, 4:] = torch.tensor([1.0, 0, 0])
    x[:4, 4:] = torch.nan
    model = built(pg.SharedLatentVAE(views), x).requires_grad_()
    noise = {name: value[0, 0].double() for name, value in random_noise([0], 1, noise_shapes(model, x), "a").items()}
    with pyro.validation_enabled(False):
        loss = ELBO(model, 8)(x, noise, model.spec.final_beta())["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_objective_of_rows_with_one_view_is_that_of_a_model_of_this_view():
    model, x = built(spec(pg.views.ProductOfExperts(alone=0.0))), data(missing=False)
    one = pg.SharedLatentVAE({"left": model.spec.pairs[0][1]}, fusion=pg.views.ProductOfExperts(alone=0.0))
    single = one.build(4, seed=0).double()
    single.views[0].load_state_dict(model.views[0].state_dict())
    expected = terms(single, x[:, :4])
    x[:, 4:] = torch.nan
    for name, value in terms(model, x).items():
        close(value, expected[name])


@pytest.mark.parametrize(
    "fusion", [pg.views.ProductOfExperts(alone=1.0), pg.views.Mixture(), pg.views.Average(alone=1.0)]
)
def test_a_row_encoded_alone_is_encoded_from_one_of_its_views_each_as_often(fusion):
    model, x = built(spec(fusion)), data(4000)
    pyro.set_rng_seed(0)
    found = poutine.trace(model.guide).get_trace(x).nodes["z"]["fn"].loc
    alone = {}
    for name, other in (("left", "right"), ("right", "left")):
        only = x.clone()
        only[:, model.spec.columns(other)] = torch.nan
        there = ~only.isnan().all(1)
        codes = torch.full((len(x), 2), torch.nan, dtype=x.dtype)
        codes[there] = model.encode(only[there]).mean
        alone[name] = (found - codes).abs().amax(1) < 1e-9
    both = ~x.isnan().any(1)
    assert (alone["left"] ^ alone["right"]).all()
    assert (alone["right"] | ~x[:, 0].isnan()).all() and (alone["left"] | ~x[:, 4].isnan()).all()
    assert abs(alone["left"][both].double().mean() - 0.5) < 4 * 0.5 / both.sum() ** 0.5


def test_the_mixtures_divergence_is_the_mean_over_views_and_above_its_own():
    model, x = built(spec(pg.views.Mixture())), data(missing=False)
    outputs = torch.stack([model.views[0].encoder(x[:, :4]), model.views[1].encoder(x[:, 4:])], dim=1)
    means, log_stds = outputs.chunk(2, dim=-1)
    prior = Normal(torch.zeros(2, dtype=x.dtype), torch.ones(2, dtype=x.dtype))
    expected = kl_divergence(Normal(means, log_stds.exp()), prior).sum() / 2
    found = terms(model, x, 200)["kl"]
    assert (found.mean() - expected).abs() < 4 * found.std() / 200**0.5
    law = MixtureSameFamily(Categorical(torch.ones(len(x), 2)), Independent(Normal(means, log_stds.exp()), 1))
    pyro.set_rng_seed(0)
    z = law.sample((1000,))
    own = (law.log_prob(z) - prior.log_prob(z).sum(-1)).sum(1)
    assert own.mean() + 4 * own.std() / 1000**0.5 < expected


# --- the objective ---


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
def test_pyros_own_objective_agrees_in_expectation(fusion, kind):
    noisy = dataclasses.replace(spec(fusion).pairs[0][1], noise=0.3)
    views = {"left": noisy, "right": spec().pairs[1][1]}
    model = built(dataclasses.replace(spec(fusion, beta=(0.5, 2.0)), views=views))
    x = data()
    pyro.set_rng_seed(0)
    theirs = torch.tensor([kind().loss(model.model, model.guide, x) for _ in range(60)], dtype=torch.float64)
    ours = terms(model, x, 60)["loss"]
    error = (theirs.var() / 60 + ours.var() / 60).sqrt()
    assert (theirs.mean() - ours.mean()).abs() < 4 * error


@pytest.mark.parametrize("decoder", ["split", "random", "dropout", "mean field"])
def test_pyros_own_objective_agrees_with_decoders_that_have_sites_of_their_own(decoder):
    model, x = built(spec(decoder=DECODERS[decoder])), data()
    pyro.set_rng_seed(0)
    theirs = torch.tensor([Trace_ELBO().loss(model.model, model.guide, x) for _ in range(60)], dtype=torch.float64)
    ours = terms(model, x, 60)["loss"]
    error = (theirs.var() / 60 + ours.var() / 60).sqrt()
    assert (theirs.mean() - ours.mean()).abs() < 4 * error


def test_sites_of_a_view_stand_in_a_scope_of_its_name():
    trace = poutine.trace(built(spec(decoder=DECODERS["random"])).model).get_trace(data())
    sites = {name for name, site in trace.nodes.items() if site["type"] == "sample" and "/" in name}
    assert {"left/member", "right/member", "left/x", "right/x"} <= sites


def test_noise_is_on_the_encoders_input_alone_and_each_view_has_its_own():
    view = pg.View(3, NET, pg.Decoder(NET), noise=0.5)
    model = built(pg.SharedLatentVAE({"left": view, "right": view}), data(missing=False)[:, :6])
    x = data(missing=False)[:, :6]
    pyro.set_rng_seed(0)
    guide = poutine.trace(model.guide).get_trace(x)
    joint = poutine.trace(poutine.replay(model.model, guide)).get_trace(x)
    noise = [guide.nodes[f"{name}/noise"]["value"] for name in ("left", "right")]
    assert not torch.equal(*noise)
    assert all(abs(value.std() - 0.5) < 0.1 for value in noise)
    close(joint.nodes["left/x"]["value"], x[:, :3])  # what is decoded has none
    shapes = noise_shapes(model, x)
    drawn = random_noise([3], 1, shapes, "noise", 0, 0)
    assert not torch.equal(drawn["left/noise"], drawn["right/noise"])
    assert torch.equal(model.encode(x).mean, model.encode(x).mean)  # later there is none


def test_noise_adds_no_divergence():
    x, quiet = data(missing=False), spec(pg.views.ProductOfExperts(alone=0.0))
    noisy = {name: dataclasses.replace(view, noise=1e-12) for name, view in quiet.pairs}
    model, same = built(quiet), built(dataclasses.replace(quiet, views=noisy))
    torch.testing.assert_close(terms(model, x)["kl"], terms(same, x)["kl"], rtol=1e-9, atol=1e-9)


# --- training ---


@pytest.mark.parametrize("name", DECODERS)
def test_a_retraining_equals_the_one_trained_alone_and_survives_storage(name, tmp_path):
    chosen = spec(decoder=DECODERS[name], fusion=FUSIONS["shared layers"], alternation=pg.views.Alternation(1))
    x = data(40)
    together = pg.fit(chosen, x, (3, 1), training=QUICK, progress=False, folder=tmp_path)
    (alone,) = pg.fit(chosen, x, (1,), training=QUICK, progress=False)
    for path, value in alone.state_dict().items():
        torch.testing.assert_close(together[1].state_dict()[path], value, rtol=1e-6, atol=1e-8)
    loaded = storage.load(tmp_path / "seed-1")
    assert loaded.spec == chosen
    assert torch.equal(loaded.reconstruct(x), together[1].reconstruct(x))
    z = loaded.encode(x).mean
    assert torch.equal(loaded.metric().tensor(z), together[1].metric().tensor(z))
    assert loaded.uncertainty(z).isfinite().all()


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
def test_the_objective_falls_with_missing_views(fusion):
    training = pg.Training(epochs=5, batch_size=16, learning_rate=2e-2)
    (model,) = pg.fit(spec(fusion), data(256), training=training, progress=False)
    assert model.history.loss[-1] < model.history.loss[0] - 0.2
    assert model.history.validation_loss.notnull().all()


def test_a_round_of_alternation_trains_one_part_at_a_time():
    model = spec(FUSIONS["shared layers"], alternation=pg.views.Alternation(2, 0.5)).build(7, seed=0)
    names = [name for name, _ in model.named_parameters()]
    trained = {phase.name: {name for name in names if phase.trains(name)} for phase in model.phases}
    order = ["joint", *(f"{part}, round {i}" for i in (1, 2) for part in ("shared layers", "left: fit", "right: fit"))]
    assert list(trained) == order
    assert trained["joint"] == set(names)
    parts = [trained[f"{part}, round 1"] for part in ("shared layers", "left: fit", "right: fit")]
    assert set.union(*parts) == set(names) and sum(map(len, parts)) == len(names)
    assert {name.split(".")[0] for name in parts[0]} == {"fusion"}
    assert all(name.startswith("views.0.") for name in parts[1])


def test_rounds_go_on_from_the_joint_training_and_move_every_part():
    chosen = spec(alternation=pg.views.Alternation(1, 1.0))
    x, one = data(60), pg.Training(epochs=1, batch_size=16, learning_rate=1e-2)
    (joint,), (after,) = (pg.fit(each, x, training=one, progress=False) for each in (spec(), chosen))
    assert list(after.history.phase.values) == ["joint", "left: fit, round 1", "right: fit, round 1"]
    assert all(not torch.equal(value, after.state_dict()[name]) for name, value in joint.named_parameters())


def test_decoders_that_are_fitted_to_codes_get_those_of_all_views_of_rows_that_have_theirs():
    x = data(60)
    model = built(spec(decoder=DECODERS["rbf"]), x)
    codes = model.encode(x).mean
    for name, view in zip(("left", "right"), model.views, strict=True):
        there = ~x[:, model.spec.columns(name)][:, 0].isnan()
        expected = pg.RBFDecoder(NET, num_centres=4).build(2, view.num_features, pg.Gaussian()).precision.double()
        expected.place(codes[there], torch.tensor(1.0, dtype=x.dtype), 0)
        close(view.decoder.precision.centers, expected.centers)


def test_a_view_that_no_row_to_train_on_has_is_reported():
    x = data()
    x[:, 4:], x[:, :4] = torch.nan, 1.0
    with pytest.raises(ValueError, match="expected view 'right' in some of the rows to train on; it is missing in all"):
        pg.fit(spec(), x, training=QUICK, progress=False)


# --- what a model is asked ---


def test_missing_views_are_filled_in_from_those_that_are_there():
    model, _ = linear_model()
    x = data()
    whole = model.reconstruct(x)
    assert whole.shape == x.shape and whole.isfinite().all()
    lacks_right = x[:, 4].isnan()
    close(whole[lacks_right, 4:], model.translate(x[lacks_right, :4], "left", "right"))


def test_means_are_at_codes_of_the_prior_or_of_the_box_of_the_codes_and_from_their_seed_alone():
    views = {"left": pg.View(2, LINEAR, pg.Decoder(LINEAR)), "right": pg.View(2, LINEAR, pg.Decoder(LINEAR))}
    model = pg.SharedLatentVAE(views).build(4, seed=0).double().requires_grad_(False)
    for view in model.views:  # E[x_v | z] = z
        view.decoder.network[0].weight.copy_(torch.eye(2))
        view.decoder.network[0].bias.zero_()
    state = torch.get_rng_state()
    z = model.means(4000, seed=1)
    close(z[:, :2], z[:, 2:])
    assert z[:, :2].mean(0).abs().max() < 0.08 and (z[:, :2].std(0) - 1).abs().max() < 0.05
    assert torch.equal(model.means(4000, seed=1), z) and not torch.equal(model.means(4000, seed=2), z)
    x = data(missing=False)[:, :4]
    codes, box = model.encode(x).mean, model.means_in_box(x, 4000)[:, :2]
    low, high = codes.amin(0), codes.amax(0)
    assert ((box >= low) & (box <= high)).all()
    torch.testing.assert_close(box.mean(0), (low + high) / 2, rtol=0, atol=0.05 * float((high - low).max()))
    assert torch.equal(torch.get_rng_state(), state)


# --- geometry ---


@pytest.mark.parametrize("name", DECODERS)
def test_the_joint_metric_is_the_sum_of_the_views(name):
    model, z = built(spec(decoder=DECODERS[name])), torch.randn(6, 2, dtype=torch.float64)
    left, right = model.view("left").metric(), model.view("right").metric()
    close(model.metric().tensor(z), left.tensor(z) + right.tensor(z))
    assert not torch.allclose(left.tensor(z), right.tensor(z))


def test_the_joint_metric_is_the_pull_back_of_the_views_side_by_side():
    model, z = built(spec()), torch.randn(6, 2, dtype=torch.float64)
    J = torch.stack([jacfwd(model.decode)(point) for point in z])
    close(model.metric().tensor(z), J.mT @ J)
    close(model.view("right").metric().tensor(z), J[:, 4:].mT @ J[:, 4:])


@pytest.mark.parametrize("name", ["split", "dropout", "mean field"])
def test_draws_stand_side_by_side_and_give_the_joint_metric(name):
    model, z = built(spec(decoder=DECODERS[name])), torch.randn(6, 2, dtype=torch.float64)
    draws = model.draws()
    assert draws.num_members == model.spec.num_members == 3
    assert draws(z).shape == (3, 6, 7)
    close(draws(z)[..., 4:], model.view("right").draws()(z))
    close(ExpectedMetric(draws).tensor(z), model.metric().tensor(z))
    close(draws(z).mean(0), model.decode(z))
    variance = draws(z).var(0, correction=0)
    close(model.uncertainty(z), variance.mean(-1).sqrt())


def test_processes_draw_as_many_functions_as_each_alone():
    model, z = built(spec(decoder=DECODERS["process"])), torch.randn(6, 2, dtype=torch.float64)
    draws, right = model.draws(), model.view("right").draws()
    assert draws.num_members == right.num_members > 1
    close(draws(z)[..., 4:], right(z))
    close(model.draws(2)(z), draws(z)[:2])


def test_fisher_rao_metrics_add_up_whatever_the_likelihoods():
    views = {
        "left": pg.View(4, NET, likelihood=pg.likelihoods.Bernoulli()),
        "right": pg.View(3, NET, likelihood=pg.Gaussian(0.5)),
    }
    model = pg.SharedLatentVAE(views).build(7, seed=0).double().requires_grad_(False)
    z = torch.randn(6, 2, dtype=torch.float64)
    J = torch.stack([jacfwd(model.views[0].decoder.network)(point) for point in z])
    p = model.view("left").decode(z)
    information = (J.mT * (p * (1 - p))[:, None]) @ J  # of a Bernoulli with respect to its logit
    gaussian = model.view("right").metric().tensor(z) / 0.25
    close(model.fisher_rao_metric().tensor(z), information + gaussian)
    close(pg.study.ViewMetric("left", fisher_rao_metric)(model).tensor(z), information)


def test_distances_of_views_and_of_all_go_through_a_study(tmp_path):
    model = spec(decoder=pg.Decoder(LINEAR))
    x = data(60)
    study = pg.Study(
        tmp_path,
        data=x,
        pairs=torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7]]),
        models={"shared": model},
        seeds=range(2),
        measures={
            "joint": pg.StraightLine(num_segments=16),
            "left": pg.StraightLine(pg.study.ViewMetric("left"), num_segments=16),
            "right": pg.Geodesic(pg.study.ViewMetric("right"), solver=pg.GaussNewton(num_segments=16)),
        },
        training=QUICK,
    )
    distance = study.run(progress=False).distance.sel(model="shared")
    left, right, joint = (distance.sel(measure=name) for name in ("left", "right", "joint"))
    np.testing.assert_allclose(np.hypot(left, right), joint, rtol=1e-6)  # flat: lines are geodesics, squares add up
    agreement = rank_correlation(left, right)
    assert agreement.dims == ("retraining",) and (abs(agreement) <= 1).all()
    xr_keys = json.loads(study.run(progress=False).attrs["measures"])
    assert xr_keys["left"]["metric"]["view"] == "left"


def test_a_rank_correlation_of_a_monotone_function_is_one_and_of_its_reverse_minus_one():
    d = xr.DataArray(np.random.default_rng(0).random((3, 20)), dims=("retraining", "pair"))
    np.testing.assert_allclose(rank_correlation(d, d**3), 1)
    np.testing.assert_allclose(rank_correlation(d, -d), -1)
    other = d.roll(pair=3).round(1)  # with ties
    expected = [spearmanr(first, second).statistic for first, second in zip(d.values, other.values, strict=True)]
    np.testing.assert_allclose(rank_correlation(d, other), expected)


def test_a_view_metric_of_a_model_without_views_is_refused():
    model = pg.VAE(2, pg.Decoder(NET), encoder=NET).build(7, seed=0)
    with pytest.raises(TypeError, match="view: FittedVAE has no views; use a SharedLatentVAE"):
        pg.study.ViewMetric("left")(model)


# --- specs, and what is refused ---


def test_a_spec_survives_json_and_is_a_key():
    chosen = spec(pg.views.Average(NET, width=6), alternation=pg.views.Alternation())
    again = from_config(json.loads(json.dumps(to_config(chosen))))
    assert again == chosen and hash(again) == hash(chosen)
    left, right = chosen.pairs
    assert pg.SharedLatentVAE(dict(chosen.pairs)) == pg.SharedLatentVAE(chosen.pairs)
    assert digest(pg.SharedLatentVAE((left, right))) != digest(pg.SharedLatentVAE((right, left)))


def test_any_number_of_views_has_columns_in_their_order():
    views = {name: pg.View(n, NET) for name, n in (("a", 2), ("b", 1), ("c", 4))}
    model = pg.SharedLatentVAE(views)
    assert [model.columns(name) for name in "abc"] == [slice(0, 2), slice(2, 3), slice(3, 7)]
    fitted = built(model, data(missing=False))
    assert fitted.translate(data(missing=False)[:, 2:3], "b", "c").shape == (48, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :6], r"expected the 7 columns of the views side by side \('left' 4, 'right' 3\); got 6"),
        (lambda x: x.index_fill(0, torch.tensor([5]), torch.nan), "at least one view in every row; row 5 has none"),
        (lambda x: with_value(x, 3, 5, torch.nan), "view 'right' is in part at row 3"),
        (lambda x: with_value(x, 3, 5, torch.inf), "view 'right'.* got inf at row 3, column 1"),
        (lambda x: x[:0], r"expected shape \(row, feature\), neither empty"),
    ],
)
def test_data_of_another_kind_are_refused(change, message):
    x = data(12, missing=False)
    x[0, 4:] = torch.nan
    with pytest.raises(ValueError, match=message):
        spec().check(change(x))


def test_integers_are_refused():
    with pytest.raises(TypeError, match=r"expected a floating-point tensor; got torch.int64. Use x.float\(\)"):
        spec().check(torch.ones(3, 7, dtype=torch.long))


def test_unknown_views_and_wrong_widths_are_refused():
    model = built(spec())
    with pytest.raises(ValueError, match="view: expected one of 'left', 'right'; got 'top'"):
        model.translate(data()[:, :4], "left", "top")
    with pytest.raises(ValueError, match="expected one of 'left', 'right'; got 'top'"):
        model.view("top").metric()
    with pytest.raises(ValueError, match=r"expected the 4 columns of view 'left'; got shape \(48, 3\)"):
        model.translate(data()[:, 4:], "left", "right")
    with pytest.raises(ValueError, match="at least one view in every row; row 2 has none"):
        model.encode(data(missing=False).index_fill(0, torch.tensor([2]), torch.nan))


def test_a_cycle_through_probabilities_of_labels_is_refused():
    views = {"left": pg.View(2, NET, likelihood=pg.likelihoods.Categorical(2)), "right": pg.View(3, NET)}
    model = pg.SharedLatentVAE(views).build(5, seed=0)
    with pytest.raises(ValueError, match=r"cycle: expected E\[x \| z\] of 'left' to have the columns of x"):
        model.cycle(torch.ones(4, 2), "left", "right")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pg.SharedLatentVAE({}), "views: expected at least one"),
        (lambda: pg.SharedLatentVAE((("a", pg.View(2)), ("a", pg.View(2)))), "each with a name of its own"),
        (lambda: pg.SharedLatentVAE({"a": pg.View(2)}, latent=0), "latent: expected at least one dimension"),
        (lambda: pg.SharedLatentVAE({"a": pg.View(2)}, beta=(1.0,)), "beta: expected 2 non-negative numbers"),
        (lambda: pg.View(0), "num_features: expected at least one column"),
        (lambda: pg.View(2, noise=-1.0), "noise: expected a standard deviation"),
        (lambda: pg.views.ProductOfExperts(1.5), r"alone: expected a probability in \[0, 1\]"),
        (lambda: pg.views.Average(width=0), "width: expected at least 1"),
        (lambda: pg.views.Alternation(0), "rounds, share: expected at least 1 and above 0"),
    ],
)
def test_specs_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_expected_metric_is_that_of_the_model_and_of_a_view():
    model, z = built(spec()), torch.zeros(1, 2, dtype=torch.float64)
    assert torch.equal(expected_metric(model).tensor(z), model.metric().tensor(z))
    assert torch.equal(pg.study.ViewMetric("left")(model).tensor(z), model.view("left").metric().tensor(z))
