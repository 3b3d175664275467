"""Conditional autoencoders: what is given does not vary, what is missing says nothing, a condition is a slice."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.func import jacfwd

import probgeo as pg
from probgeo.models.conditional.spec import FittedConditionalVAE
from probgeo.nn import Stacked
from probgeo.training import storage
from probgeo.training.objective import ELBO, noise_shapes, random_noise
from tests.fitted import points

NET = pg.nn.MLP((8,))
DECODERS = {
    "single": pg.Decoder(NET),
    "ensemble": pg.EnsembleDecoder(3, NET),
    "random": pg.EnsembleDecoder(3, NET, pg.RandomMember()),
    "mean-field": pg.BayesianDecoder(NET, draws=4),
    "low-rank": pg.BayesianDecoder(NET, guide=pg.posteriors.LowRank(2), draws=4),
    "dropout": pg.DropoutDecoder(NET, draws=4),
}
FITTED_LATER = {
    "rbf": pg.RBFDecoder(NET, num_centres=5),
    "gp": pg.GPDecoder(NET, num_inducing=8),
    "exact": pg.BayesianDecoder(NET, guide=pg.posteriors.Conjugate(), draws=4),
    "laplace": pg.BayesianDecoder(NET, guide=pg.posteriors.LaplaceApproximation(), draws=4),
}
EVERY = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
TABLE = pg.likelihoods.Mixed(
    (
        (pg.likelihoods.Categorical(3), 1),
        (pg.Gaussian(0.5), 2),
        (pg.likelihoods.Bernoulli(), 1),
        (pg.likelihoods.Poisson(), 1),
    )
)
MASK = torch.tensor([True, False, False, True, False])


def data(num_rows: int = 40, num_features: int = 5) -> torch.Tensor:
    return torch.randn(num_rows, num_features, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def with_holes(x: torch.Tensor, share: float = 0.2) -> torch.Tensor:
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < share
    return x.masked_fill(holes, torch.nan)


def table(num_rows: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    kinds = torch.randint(3, (num_rows, 1), generator=generator).double()
    binary, counts = (torch.randint(size, (num_rows, 1), generator=generator).double() for size in (2, 9))
    return torch.cat([kinds, data(num_rows, 2) + kinds, binary, counts], dim=1)


def built(decoder=DECODERS["single"], num_features: int = 5, x: torch.Tensor | None = None, **options):
    """A model as training finds it, its decoder started."""
    options = {"likelihood": pg.Gaussian(), "encoder": NET, **options}
    model = pg.ConditionalVAE(2, decoder, **options).build(num_features, seed=0).double()
    for phase in model.phases:
        if phase.start:
            phase.start(model, data(num_features=num_features) if x is None else x, 0)
    return model.requires_grad_(False)


def close(first, second, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


# --- masks ---


def test_random_masks_are_bernoulli_and_shares_make_all_numbers_of_conditions_equally_frequent():
    uniform = torch.rand(20_000, 6, generator=torch.Generator().manual_seed(0))
    assert abs(pg.masks.RandomMask(0.3).mask(uniform).float().mean() - 0.3) < 0.01
    numbers = pg.masks.RandomShare().mask(uniform).sum(1).bincount(minlength=6) / 20_000
    torch.testing.assert_close(numbers, torch.full((6,), 1 / 6), rtol=0, atol=0.015)


def test_random_conditions_have_exactly_so_many_each_equally_often():
    mask = pg.masks.random_conditions(3000, 5, 2, seed=0)
    assert (mask.sum(1) == 2).all()
    torch.testing.assert_close(mask.float().mean(0), torch.full((5,), 0.4), rtol=0, atol=0.04)
    assert not torch.equal(mask, pg.masks.random_conditions(3000, 5, 2, seed=1))


# --- the objective ---


def our_terms(model: FittedConditionalVAE, x: torch.Tensor, num_draws: int) -> dict[str, torch.Tensor]:
    objective, beta = Stacked([ELBO(model, len(x))]), model.spec.final_beta()
    noise = random_noise([0], num_draws, noise_shapes(model, x), "draws")
    with torch.no_grad(), pyro.validation_enabled(False):
        found = [
            objective.each(x[None], {k: v[:, i].to(x) for k, v in noise.items()}, beta[None]) for i in range(num_draws)
        ]
    return {name: len(x) * torch.cat([draw[name] for draw in found]) for name in found[0]}


@EVERY
def test_pyros_own_objective_agrees_in_expectation(decoder):
    model, x = built(decoder, beta=(0.5, 2.0)), with_holes(data())
    pyro.set_rng_seed(0)
    with torch.no_grad():
        theirs = torch.tensor([Trace_ELBO().loss(model.model, model.guide, x) for _ in range(40)], dtype=torch.float64)
    ours = our_terms(model, x, 40)["loss"]
    error = ((theirs.var() + ours.var()) / 40).sqrt()
    assert (theirs.mean() - ours.mean()).abs() < 4 * error


def test_the_target_decides_whether_what_is_given_is_in_the_likelihood():
    x = data()
    for target, counted in ((pg.masks.Unobserved(), 3), (pg.masks.Everything(), 5)):
        model = built(target=target, likelihood=pg.Gaussian(1.0))
        mask = MASK.expand_as(x)
        trace = pyro.poutine.trace(model.model).get_trace(x, mask=mask)
        trace.compute_log_prob()
        assert ((trace.nodes["x"]["log_prob"] != 0).sum(1) == counted).all()


def test_rate_is_the_divergence_and_distortion_the_expected_log_likelihood():
    model, x = built(likelihood=pg.Gaussian(0.7)), data()
    mean, std = model.encode(x, MASK)
    close(model.rate(x, MASK), kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), torch.ones_like(std))))
    found = model.distortion(x, MASK, num_samples=1000)
    assert torch.equal(found.isnan(), MASK.expand_as(x))
    # At the codes' mean and to second order in their spread there is no closed form for a network: another estimate.
    noise = torch.randn(1000, *mean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = torch.where(MASK, x, 0)
    inputs = torch.cat([mean + std * noise, torch.cat([given, MASK.double().expand_as(x)], 1).expand(1000, -1, -1)], -1)
    expected = -Normal(model.decoder.network(inputs), 0.7).log_prob(x).mean(0)
    torch.testing.assert_close(found[:, ~MASK], expected[:, ~MASK], rtol=0.1, atol=0.1)
    elbo = model.elbo(x, MASK, num_samples=1000)
    close(elbo, -found.nansum(1) - model.rate(x, MASK).sum(1))


def linear_model() -> tuple[FittedConditionalVAE, torch.Tensor, torch.Tensor]:
    """x = W z + V c + noise, c a covariate in the last column, its encoder the exact posterior; W and V."""
    linear, std = pg.nn.MLP(()), 0.5
    spec = pg.ConditionalVAE(2, pg.Decoder(linear), pg.Gaussian(std), linear, mask=pg.masks.NoMask(), covariates=(-1,))
    model = spec.build(5, seed=0).double().requires_grad_(False)
    W = torch.linalg.qr(data(4, 2))[0] * torch.tensor([2.0, 0.7], dtype=torch.float64)
    V = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    variance = 1 / (1 + W.square().sum(0) / std**2)
    to_mean = variance[:, None] * W.T / std**2
    model.decoder.network[0].weight.copy_(torch.cat([W, V], 1))
    model.decoder.network[0].bias.zero_()
    rows = torch.cat([-to_mean @ V, to_mean, torch.zeros(2, 4, dtype=torch.float64)], 1)  # of [c, x, what is present]
    model.encoder[0].weight.copy_(torch.cat([rows, torch.zeros_like(rows)]))
    model.encoder[0].bias.copy_(torch.cat([torch.zeros(2), variance.log() / 2]))
    return model, W, V


def test_conditional_log_likelihood_is_exact_where_the_encoder_is_the_posterior():
    model, W, V = linear_model()
    c = data(7, 1)
    law = MultivariateNormal(c @ V.T, W @ W.T + 0.25 * torch.eye(4, dtype=torch.float64))
    y = law.sample()
    x = torch.cat([y, c], 1)
    close(model.log_likelihood(x, num_samples=1), law.log_prob(y), 1e-9)
    assert (model.elbo(x, num_samples=2000) - law.log_prob(y)).abs().max() < 0.2


def test_log_likelihood_is_above_the_bound_and_more_samples_tighten_it():
    model, x = built(), data()
    few, many = (model.log_likelihood(x, MASK, num_samples=num).mean() for num in (1, 300))
    assert model.elbo(x, MASK, num_samples=300).mean() < many
    assert few < many


def test_samples_have_the_law_of_the_model_and_keep_what_is_given():
    model, W, V = linear_model()
    x = torch.tensor([[torch.nan] * 4 + [2.0]], dtype=torch.float64)
    drawn = model.sample(x, num=5000, seed=3)[:, 0]
    assert (drawn[:, 4] == 2).all()
    torch.testing.assert_close(drawn[:, :4].mean(0), 2 * V[:, 0], rtol=0, atol=0.1)
    law = W @ W.T + 0.25 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(drawn[:, :4].T.cov(), law, rtol=0, atol=0.3)
    torch.testing.assert_close(model.impute(x, num_samples=2000)[0, :4], 2 * V[:, 0], rtol=0, atol=0.1)
    masked = built()
    drawn = masked.sample(data(), MASK, num=3)
    assert torch.equal(drawn[:, :, MASK], data()[:, MASK].expand(3, -1, -1))
    assert torch.equal(drawn, masked.sample(data(), MASK, num=3))
    assert not torch.equal(drawn, masked.sample(data(), MASK, num=3, seed=1))


# --- missing values ---


def test_what_is_missing_has_no_influence_and_a_zero_is_no_missing_value():
    model, x = built(), data()
    holes = x.clone()
    holes[:, 2] = torch.nan
    zeros = torch.nan_to_num(holes)
    assert not torch.allclose(model.encode(holes).mean, model.encode(zeros).mean)
    found = model.distortion(holes, num_samples=5)
    assert found[:, 2].isnan().all() and found[:, [0, 1, 3, 4]].isfinite().all()
    assert model.log_likelihood(holes).isfinite().all()
    assert model.encode(holes).mean.isfinite().all()


def test_what_is_not_given_does_not_reach_the_decoder():
    model, x, mask = built(), data(), MASK.expand(40, 5)
    other = torch.where(mask, x, x + 1)
    z, (y, c), (changed, _) = points(40), model.split(x), model.split(other)
    conditions, same = model.conditions(y, mask, c), model.conditions(changed, mask, c)
    assert torch.equal(conditions, same)
    assert torch.equal(model.means(x, mask, seed=1), model.means(other, mask, seed=1))
    assert len(z) == 40


def test_training_with_missing_values_is_finite_and_imputation_keeps_what_is_there():
    x = with_holes(table())
    spec = pg.ConditionalVAE(2, DECODERS["ensemble"], TABLE, NET)
    (model,) = pg.fit(spec, x, training=pg.Training(epochs=3, batch_size=16, learning_rate=1e-2), progress=False)
    assert np.isfinite(model.history.loss).all()
    found, there = model.impute(x), ~x.isnan()
    assert torch.equal(found[there], x[there])
    assert found.isfinite().all()
    classes = found[:, 0]
    assert ((classes == classes.round()) & (classes >= 0) & (classes < 3)).all()


# --- geometry given a condition ---


@EVERY
def test_metric_given_a_condition_is_that_of_the_means_of_what_is_not_given(decoder):
    model, x, z = built(decoder), data(), points(6)
    given = model.given(x[0], MASK)
    draws = given.draws() if decoder.num_members > 1 else lambda z: given.decode(z)[None]
    jacobian = torch.stack([jacfwd(draws)(each) for each in z])
    close(given.metric().tensor(z), torch.einsum("pson,psom->pnm", jacobian, jacobian) / len(jacobian[0]))
    assert (jacobian[:, :, MASK] == 0).all() and (jacobian[:, :, ~MASK] != 0).any()
    close(given.decode(z)[:, MASK], x[0][MASK].expand(6, -1))


@EVERY
def test_where_nothing_is_given_the_metric_is_the_block_of_the_joint_one(decoder):
    model, z = built(decoder), points(6)
    inputs = torch.cat([z, torch.zeros(6, 10, dtype=torch.float64)], dim=1)
    joint = model.decoder.metric(model.spec.likelihood.mean()).tensor(inputs)
    close(model.metric().tensor(z), joint[:, :2, :2])
    close(model.uncertainty(z), model.decoder.variance(inputs, torch.nn.Identity()).mean(-1).sqrt())


@pytest.mark.parametrize("decoder", FITTED_LATER.values(), ids=FITTED_LATER)
def test_decoders_that_are_fitted_after_training_work_given_covariates(decoder):
    x = torch.cat([data(), torch.arange(40)[:, None] % 2], dim=1)
    spec = pg.ConditionalVAE(2, decoder, pg.Gaussian(), NET, mask=pg.masks.NoMask(), covariates=(5,))
    training = pg.Training(epochs=3, batch_size=16, learning_rate=1e-2, validation=0.0)
    (model,) = pg.fit(spec, x, training=training, progress=False)
    model.requires_grad_(False)
    z, tensors = points(6), []
    for label in (0.0, 1.0):
        given = model.given_values({5: label})
        inputs = torch.cat([z, torch.full((6, 1), label, dtype=torch.float64)], dim=1)
        joint = model.decoder.metric(model.spec.likelihood.mean()).tensor(inputs)
        tensors.append(given.metric().tensor(z))
        close(tensors[-1], joint[:, :2, :2], 1e-8)
        assert (given.uncertainty(z) > 0).all()
    assert not torch.allclose(*tensors)
    close(model.reference, torch.tensor([0.5], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"fitted to the codes after training.*mask=NoMask\(\)"):
        pg.ConditionalVAE(2, decoder).build(5, seed=0)


def test_fisher_rao_metric_given_a_condition_is_the_information_in_what_is_not_given():
    z, x = points(6), data()
    for likelihood in (pg.Gaussian(0.5), pg.HeteroscedasticGaussian()):
        model = built(likelihood=likelihood)
        given, kept = model.given(x[0], MASK), ~MASK
        found = given.fisher_rao_metric().tensor(z)
        conditions = torch.cat([torch.where(MASK, x[0], 0), MASK.double()])

        def output(u, model=model, conditions=conditions):
            return model.decoder.network(torch.cat([u, conditions]))

        jacobian, values = torch.stack([jacfwd(output)(u) for u in z]), torch.stack([output(u) for u in z])
        if isinstance(likelihood, pg.Gaussian):
            expected = jacobian[:, kept].mT @ jacobian[:, kept] / 0.25
        else:
            pairs = jacobian.unflatten(1, (2, 5))[:, :, kept]
            blocks = likelihood.information(values, {})[:, kept]
            expected = torch.einsum("bipk,bpij,bjpl->bkl", pairs, blocks, pairs)
        close(found, expected, 1e-8)


def test_classes_that_are_given_are_one_hot_in_the_space_of_means():
    model, x, z = built(likelihood=TABLE, x=table()), table(), points(6)
    mask = torch.tensor([True, False, False, False, True])
    mean = model.given(x[0], mask).decode(z)
    assert mean.shape == (6, 7)
    close(mean[:, :3], torch.nn.functional.one_hot(x[0, 0].long(), 3).double().expand(6, -1))
    close(mean[:, 6], x[0, 4].expand(6))
    close(model.given(x[0], ~mask).decode(z)[:, :3].sum(1), torch.ones(6, dtype=torch.float64))


def test_codes_given_a_condition_are_those_of_rows_that_take_its_values():
    model, x = built(), data()
    given = model.given(x[0], MASK)
    close(given.encode(x[:1]).mean, model.encode(x[:1], MASK).mean)
    taken = torch.where(MASK, x[0], x)
    close(given.encode(x).mean, model.encode(taken, MASK).mean)


# --- training and storage ---


@pytest.mark.parametrize("mask", [pg.masks.RandomMask(), pg.masks.RandomShare()])
def test_a_retraining_equals_the_one_trained_alone_masks_included(mask):
    spec = pg.ConditionalVAE(2, DECODERS["ensemble"], pg.Gaussian(), NET, mask=mask, covariates=(4,))
    training = pg.Training(epochs=2, batch_size=8, learning_rate=1e-2)
    together = pg.fit(spec, data(), (3, 1), training=training, progress=False)
    for seed, model in zip((3, 1), together, strict=True):
        (alone,) = pg.fit(spec, data(), (seed,), training=training, progress=False)
        for name, value in alone.state_dict().items():
            close(model.state_dict()[name], value, 1e-8)
    assert not torch.allclose(together[0].encoder[0].weight, together[1].encoder[0].weight)


def test_a_loaded_model_is_the_saved_one(tmp_path):
    spec = pg.ConditionalVAE(
        2, DECODERS["ensemble"], TABLE, NET, mask=pg.masks.RandomShare(), target=pg.masks.Everything()
    )
    (model,) = pg.fit(spec, with_holes(table()), training=pg.Training(epochs=1), progress=False, folder=tmp_path)
    loaded = pg.load(tmp_path / "seed-0")
    assert loaded.spec == spec
    x = table()
    mask = torch.tensor([True, False, False, True, False])
    assert torch.equal(loaded.rate(x, mask), model.rate(x, mask))
    assert torch.equal(loaded.sample(x, mask, 2), model.sample(x, mask, 2))
    assert storage.read_config(tmp_path / "seed-0")["model"]["mask"] == {"spec": "probgeo.masks.RandomShare"}


@pytest.mark.slow
def test_conditional_distances_go_through_a_study_and_its_table(tmp_path):
    x = data(60).float()
    measures = {
        "geodesic": pg.Geodesic(solver=pg.GaussNewton(num_segments=16)),
        "given 0": pg.study.Given({0: 0.0}, pg.Geodesic(solver=pg.GaussNewton(num_segments=16))),
        "given 0, 1": pg.study.Given({0: 0.0, 1: 1.0}, pg.StraightLine(num_segments=16)),
    }
    study = pg.Study(
        tmp_path,
        data=x,
        pairs=torch.arange(20).view(10, 2),
        models={
            "conditional": pg.ConditionalVAE(2, DECODERS["ensemble"], pg.Gaussian(0.5), NET),
            "plain": pg.VAE(2, DECODERS["ensemble"], pg.Gaussian(0.5), NET),
        },
        seeds=range(3),
        measures=measures,
        training=pg.Training(epochs=20, batch_size=16, learning_rate=1e-2),
    )
    dataset = study.run(progress=False)
    distance = dataset.distance.sel(model="conditional")
    assert distance.notnull().all() and (distance > 0).all()
    assert dataset.distance.sel(model="plain", measure=["given 0", "given 0, 1"]).isnull().all()
    model = study.fitted("conditional", 0).requires_grad_(False)
    given = model.given(torch.zeros(5), torch.tensor([True, False, False, False, False]))
    rows = x[:2].clone()
    rows[:, 0] = 0
    z = model.encode(rows, torch.tensor([True, False, False, False, False])).mean
    close(given.encode(x[:2]).mean, z)
    found = distance.sel(measure="given 0", retraining=0, pair=0).item()
    codes = given.encode(x).mean
    solver = pg.GaussNewton(num_segments=16)
    expected = pg.geodesic(
        given.metric(), z[:1], z[1:], init=pg.paths.Graph(given.metric(), codes), solver=solver
    ).length
    assert found == pytest.approx(expected.item(), rel=1e-4)
    table = pg.identifiability.summary(dataset.distance)
    assert "given 0" in str(table)


# --- what is learned ---


def correlated(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    places = torch.arange(4)
    covariance = 0.8 ** (places[:, None] - places).abs().double()
    noise = torch.randn(num_rows, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise @ torch.linalg.cholesky(covariance).T, covariance


def test_imputation_beats_the_mean_and_comes_close_to_the_linear_gaussian_oracle():
    x, covariance = correlated(2400)
    net = pg.nn.MLP((32,))
    spec = pg.ConditionalVAE(4, pg.Decoder(net), pg.Gaussian(0.5), net)
    training = pg.Training(epochs=8, batch_size=32, learning_rate=1e-2)
    (model,) = pg.fit(spec, x[:2000].float(), training=training, progress=False)
    held_out, given, hidden = x[2000:], [0, 2], [1, 3]
    mask = torch.tensor([True, False, True, False])
    error = (model.impute(held_out.float(), mask) - held_out)[:, hidden].square().mean()
    weights = torch.linalg.solve(covariance[given][:, given], covariance[given][:, hidden])
    oracle = (held_out[:, given] @ weights - held_out[:, hidden]).square().mean()
    mean = (held_out[:, hidden] - x[:2000, hidden].mean(0)).square().mean()
    assert error < 1.1 * oracle < 0.5 * mean


def test_greedy_conditions_begin_with_the_features_that_are_least_known():
    x = (data(600, 4) * torch.tensor([0.5, 3.0, 0.3, 1.5], dtype=torch.float64)).float()
    net = pg.nn.MLP((32,))
    spec = pg.ConditionalVAE(4, pg.Decoder(net), pg.Gaussian(0.3), net)
    (model,) = pg.fit(spec, x, training=pg.Training(epochs=10, batch_size=32, learning_rate=5e-3), progress=False)
    found = pg.masks.greedy_conditions(model, x[:200], 2)
    assert found.columns == (1, 3)
    assert found.elbo[0] < found.elbo[1] < found.elbo[2]
    with pytest.raises(ValueError, match="num: expected 1 to 3"):
        pg.masks.greedy_conditions(model, x, 4)


@pytest.mark.slow
def test_of_n_independent_dimensions_as_many_stay_informative_as_are_not_given():
    n, std = 5, 0.3
    x = data(3000, n).float()
    net = pg.nn.MLP((64, 64))
    spec = pg.ConditionalVAE(n, pg.Decoder(net), pg.Gaussian(std), net, mask=pg.masks.RandomShare())
    (model,) = pg.fit(spec, x, training=pg.Training(epochs=40, batch_size=32, learning_rate=2e-3), progress=False)
    model.requires_grad_(False)
    per_dimension = -math.log(std)  # the rate of a dimension that is known up to `std`
    for num in range(n + 1):
        rate = (
            model.rate(x[:1000], pg.masks.random_conditions(1000, n, num, seed=0))
            .sort(1, descending=True)
            .values.mean(0)
        )
        assert int((rate > per_dimension / 4).sum()) == n - num
        assert float(rate.sum()) == pytest.approx((n - num) * per_dimension, rel=0.15, abs=0.15)


# --- what is refused ---


def test_a_mask_of_another_shape_or_type_is_refused():
    model, x = built(), data()
    for mask in (torch.ones(4, dtype=torch.bool), MASK.float(), torch.ones(3, 5, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"mask: expected booleans of shape \(40, 5\) or \(5,\)"):
            model.rate(x, mask)


def test_what_cannot_be_a_condition_is_refused():
    model, x = built(), data()
    with pytest.raises(ValueError, match="mask: every feature is given"):
        model.given(x[0], torch.ones(5, dtype=torch.bool))
    x[3, 0] = torch.nan
    with pytest.raises(ValueError, match=r"mask: row 3 is given column 0, whose value is missing"):
        model.rate(x, MASK)
    labelled = built(mask=pg.masks.NoMask(), covariates=(4,))
    with pytest.raises(ValueError, match=r"trained with NoMask\(\)"):
        labelled.rate(data(), MASK)
    with pytest.raises(ValueError, match=r"values: expected columns 0 to 4, and the covariates \[4\] among them"):
        labelled.given_values({0: 1.0})
    with pytest.raises(ValueError, match="x: expected values of the covariates"):
        labelled.given(torch.full((5,), torch.nan, dtype=torch.float64))
    with pytest.raises(ValueError, match="built for 5 features"):
        model.rate(data(num_features=4))


def test_specs_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="expected something to condition on"):
        pg.ConditionalVAE(mask=pg.masks.NoMask())
    with pytest.raises(ValueError, match="covariates: expected different columns"):
        pg.ConditionalVAE(covariates=(1, 1))
    with pytest.raises(ValueError, match="probability: expected a number between 0 and 1"):
        pg.masks.RandomMask(0.0)
    with pytest.raises(ValueError, match="latent: expected at least one"):
        pg.ConditionalVAE(0)
    with pytest.raises(ValueError, match="expected one distribution for each feature"):
        pg.ConditionalVAE(likelihood=pg.likelihoods.OneHotCategorical(), mask=pg.masks.NoMask(), covariates=(0,)).build(
            5, seed=0
        )
    for likelihood in (
        pg.likelihoods.OneHotCategorical(),
        pg.likelihoods.Poisson(pg.likelihoods.RowTotal(10.0)),
        pg.likelihoods.Poisson(pg.likelihoods.LibraryColumn(0, 10.0)),
    ):
        with pytest.raises(ValueError, match="likelihood: expected one distribution for each feature"):
            pg.ConditionalVAE(likelihood=likelihood).build(5, seed=0)


def test_data_that_do_not_fit_are_refused():
    spec = pg.ConditionalVAE(likelihood=pg.likelihoods.Bernoulli(), covariates=(0, -1))
    x = torch.rand(10, 4)
    spec.check(x)
    x[2, 3] = torch.nan
    with pytest.raises(
        ValueError, match="expected finite covariates, which are never missing; got nan at row 2, column 3"
    ):
        spec.check(x)
    x[2, 3], x[4, 1] = 0, 2
    with pytest.raises(ValueError, match=r"row 4, column 0 .*counted without the covariates"):
        spec.check(x)
    with pytest.raises(ValueError, match=r"covariates: expected columns of the 4 of x; got \[7\]"):
        pg.ConditionalVAE(covariates=(7,)).check(x)
    with pytest.raises(ValueError, match="leave some to model"):
        pg.ConditionalVAE(covariates=(0, 1, 2, 3)).check(x)
    with pytest.raises(TypeError, match="floating-point"):
        pg.ConditionalVAE().check(torch.ones(3, 3, dtype=torch.long))
    x[:, 1] = torch.nan
    with pytest.raises(ValueError, match="column 1 has no value"):
        pg.fit(spec, x, training=pg.Training(epochs=1), progress=False)


def test_given_is_for_conditional_models():
    plain = pg.VAE(2, DECODERS["single"], encoder=NET).build(5, seed=0)
    with pytest.raises(TypeError, match="given_values: FittedVAE has no conditions"):
        pg.study.Given({0: 1.0}).subject(plain)
    with pytest.raises(ValueError, match="values: expected at least one"):
        pg.study.Given({})
