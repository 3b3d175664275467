"""Bayesian decoders: the objective of their weights against a linear model in closed form, and what their draws are."""

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.func import jacfwd, vmap

from probgeo.geometry.geodesics import GaussNewton
from probgeo.geometry.jacobians import Maps
from probgeo.likelihoods import Bernoulli, Gaussian
from probgeo.models.decoders.bayesian import BayesianDecoder, LowRank, MeanField
from probgeo.models.decoders.dropout import DropoutDecoder
from probgeo.models.decoders.ensemble import EnsembleDecoder
from probgeo.models.decoders.last_layer.gaussian import Conjugate, LaplaceApproximation
from probgeo.models.decoders.last_layer.sampled import NUTS, Autoguide
from probgeo.models.vae import VAE, FittedVAE
from probgeo.nn import MLP, Stacked
from probgeo.specs import from_config, to_config
from probgeo.study import Geodesic, Study
from probgeo.training import storage
from probgeo.training.fit import Training, fit
from probgeo.training.objective import ELBO, noise_shapes, random_noise
from tests.fitted import close, points, uniform, untrained

EPS = torch.finfo(torch.float64).eps
NET = MLP((5, 4))
DECODERS = {
    "mean-field": BayesianDecoder(NET, draws=6),
    "mean-field last": BayesianDecoder(NET, guide=MeanField(1), draws=6),
    "low-rank": BayesianDecoder(NET, guide=LowRank(2), draws=6),
    "low-rank all": BayesianDecoder(NET, guide=LowRank(2, None), draws=6),
    "laplace": BayesianDecoder(NET, guide=LaplaceApproximation(), draws=6),
    "conjugate": BayesianDecoder(NET, guide=Conjugate(), draws=6),
    "nuts": BayesianDecoder(NET, guide=NUTS(num_draws=12, warmup=5), draws=6),
    "autoguide": BayesianDecoder(NET, guide=Autoguide(num_steps=5, num_draws=12), draws=6),
    "dropout": DropoutDecoder(NET, rate=0.3, draws=6),
}
EVERY = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
QUICK = Training(epochs=2, batch_size=16, learning_rate=1e-2)


def fitted(decoder, likelihood=None) -> FittedVAE:
    """A model with its posterior at untrained weights."""
    return untrained(VAE(2, decoder, likelihood or Gaussian(0.3), encoder=NET), uniform(30, 3))


# --- the objective: a linear decoder of known codes, whose posterior and evidence are known ---

STD, PRIOR = 0.4, 1.5
GUIDES = {"mean-field": MeanField(), "low-rank": LowRank(3)}


def linear(guide) -> FittedVAE:
    """x = W z + b + noise, codes z = encoder(x) without noise; their divergence has weight 0."""
    decoder = BayesianDecoder(MLP(()), PRIOR, guide)
    model = VAE(2, decoder, Gaussian(STD), encoder=MLP(()), beta=0.0).build(3, seed=0).double()
    with torch.no_grad():
        model.encoder[0].weight[2:], model.encoder[0].bias[2:] = 0, -80
    return model


def exact(model: FittedVAE) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Posterior mean (output, feature), covariance of each row, and log evidence, by dense formulas."""
    x = uniform(30, 3)
    phi = torch.cat([model.encode(x).mean, torch.ones(len(x), 1, dtype=x.dtype)], dim=1).detach()
    prior = torch.diag(model.decoder.posteriors["0"].std[0] ** 2)
    covariance = (phi.T @ phi / STD**2 + prior.inverse()).inverse()
    marginal = STD**2 * torch.eye(len(x), dtype=x.dtype) + phi @ prior @ phi.T
    evidence = torch.distributions.MultivariateNormal(torch.zeros_like(x.T), marginal).log_prob(x.T).sum()
    return (covariance @ phi.T @ x / STD**2).T, covariance, evidence


def dense(model: FittedVAE) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (output, feature) and covariances (output, feature, feature) of the variational posterior."""
    posterior = model.decoder.posterior()["0"].base_dist
    if isinstance(posterior, torch.distributions.Normal):
        return posterior.loc.detach(), posterior.scale.detach().square().diag_embed()
    return posterior.loc.detach(), posterior.covariance_matrix.detach()


def loss(model: FittedVAE, noise: torch.Tensor, x: torch.Tensor, num_rows: int) -> dict[str, torch.Tensor]:
    given = {"weights 0": noise, "z": torch.zeros(len(x), 2, dtype=x.dtype)}
    with pyro.validation_enabled(False):
        return ELBO(model, num_rows)(x, given, model.spec.final_beta())


def axes_of_noise(model: FittedVAE) -> torch.Tensor:
    """±√n along each axis of the weights' noise: the mean over these of anything quadratic is its expectation."""
    shape = noise_shapes(model, uniform(30, 3))["weights 0"]
    axes = shape.numel() ** 0.5 * torch.eye(shape.numel(), dtype=torch.float64)
    return torch.cat([axes, -axes]).reshape(-1, *shape)


@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
@pytest.mark.parametrize("batch_size", [30, 6])
def test_objective_is_the_evidence_minus_the_divergence_from_the_exact_posterior(guide, batch_size):
    model = linear(guide)
    with torch.no_grad():
        found = torch.stack(
            [
                -30 * loss(model, noise, rows, 30)["loss"]
                for noise in axes_of_noise(model)
                for rows in uniform(30, 3).split(batch_size)
            ]
        )
    mean, covariance, evidence = exact(model)
    posterior = torch.distributions.MultivariateNormal(mean, covariance)
    divergence = torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(*dense(model)), posterior)
    close(found.mean(), evidence - divergence.sum())
    assert divergence.sum() > 1


@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
def test_minibatches_count_the_divergence_of_the_weights_once_per_data_set(guide):
    model = linear(guide)
    noise = torch.randn(
        noise_shapes(model, uniform(30, 3))["weights 0"], generator=torch.Generator().manual_seed(0)
    ).double()
    prior = torch.distributions.MultivariateNormal(
        torch.zeros(3, 3).double(), (model.decoder.posteriors["0"].std ** 2).diag_embed()
    )
    own = torch.distributions.MultivariateNormal(*dense(model))
    expected = torch.distributions.kl_divergence(own, prior).sum()
    with torch.no_grad():
        terms = [loss(model, noise, rows, 30) for rows in uniform(30, 3).split(5)]
        whole = loss(model, noise, uniform(30, 3), 30)
    for term in terms:
        close(30 * (term["loss"] + term["log_likelihood"]), expected)
    close(torch.stack([term["loss"] for term in terms]).mean(), whole["loss"])


@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
def test_the_best_objective_over_minibatches_is_at_the_posterior_of_the_linear_model(guide):
    model, axes = linear(guide), axes_of_noise(linear(guide))
    optimizer = torch.optim.LBFGS(model.decoder.parameters(), lr=1, max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        batches = [
            vmap(lambda noise, rows=rows: loss(model, noise, rows, 30)["loss"])(axes)
            for rows in uniform(30, 3).split(6)
        ]
        value = 30 * torch.stack(batches).mean()
        value.backward()
        return value

    optimizer.step(objective)
    found_mean, found_covariance = dense(model)
    mean, covariance, evidence = exact(model)
    torch.testing.assert_close(found_mean, mean, rtol=1e-3, atol=1e-3)
    if isinstance(guide, MeanField):  # the best factorised covariance is the inverse of the precision's diagonal
        covariance = covariance.inverse().diagonal().reciprocal().diag()
    else:  # three ranks hold the whole covariance, and the bound is tight
        torch.testing.assert_close(-objective().detach(), evidence, rtol=0, atol=1e-3)
    torch.testing.assert_close(found_covariance, covariance.expand(3, 3, 3), rtol=5e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mean-field", "low-rank all", "dropout"])
def test_pyros_own_objective_agrees_in_expectation(name):
    model, x = fitted(DECODERS[name]), uniform(30, 3)
    pyro.set_rng_seed(0)
    objective, beta = Stacked([ELBO(model, 30)]), model.spec.final_beta()
    noise = random_noise([0], 100, noise_shapes(model, x), "draws")
    with torch.no_grad():
        theirs = torch.tensor([Trace_ELBO().loss(model.model, model.guide, x) for _ in range(100)]).double()
        with pyro.validation_enabled(False):
            draws = [{key: value[:, i].double() for key, value in noise.items()} for i in range(100)]
            ours = 30 * torch.cat([objective.each(x[None], draw, beta[None])["loss"] for draw in draws])
    error = (theirs.var() / 100 + ours.var() / 100).sqrt()
    assert (theirs.mean() - ours.mean()).abs() < 4 * error


# --- draws ---


@EVERY
def test_draws_are_fixed_and_the_first_of_more_are_the_fewer(decoder):
    model, z = fitted(decoder), points(6)
    assert isinstance(model.draws(), Stacked)
    assert model.draws().num_members == 6
    assert torch.equal(model.draws(3)(z), model.draws(3)(z))
    close(model.draws(5)(z)[:3], model.draws(3)(z))
    close(model.draws(3)(z[2:4]), model.draws(3)(z)[:, 2:4])
    assert (model.draws(3, seed=0)(z) - model.draws(3, seed=1)(z)).abs().max() > 1e-3
    assert (model.draws(2)(z).diff(dim=0)).abs().max() > 1e-3


@EVERY
@pytest.mark.parametrize("likelihood", [Gaussian(0.3), Bernoulli()], ids=["gaussian", "bernoulli"])
def test_draws_are_perceptrons_whose_derivatives_are_right(decoder, likelihood):
    if decoder == DECODERS["conjugate"] and isinstance(likelihood, Bernoulli):
        return
    model, z = fitted(decoder, likelihood), points(6)
    draws = model.draws(4)
    maps = Maps(draws)
    assert maps._layers is not None
    jets = maps.jets(z)
    close(jets[:, 0], draws(z).transpose(0, 1))
    close(jets[:, 1:], torch.stack([jacfwd(draws)(point) for point in z]).permute(0, 3, 1, 2))


@EVERY
def test_draws_own_their_weights(decoder):
    model, z = fitted(decoder), points(6)
    draws = model.draws(3)
    before = draws(z)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert torch.equal(draws(z), before)
    assert not any(value.requires_grad for value in draws.parameters())
    assert {value.dtype for value in draws.to(torch.float32).parameters()} == {torch.float32}


@EVERY
def test_what_decoders_say_of_themselves_agrees_with_their_draws(decoder):
    model, z = fitted(decoder), points(6)
    draws = model.draws(12 if decoder in (DECODERS["nuts"], DECODERS["autoguide"]) else 2000)(z)
    error = draws.std(0) / len(draws) ** 0.5
    few = 6 if decoder not in (DECODERS["laplace"], DECODERS["conjugate"]) else math.inf
    assert ((model.decode(z) - draws.mean(0)).abs() < 5 * error + 5 * draws.std(0) / few**0.5).all()
    ratio = model.uncertainty(z) ** 2 / draws.var(0).mean(-1)
    assert ((ratio > 0.1) & (ratio < 4)).all()
    assert torch.linalg.eigvalsh(model.metric().tensor(z)).min() > 0


@pytest.mark.parametrize("guide", [MeanField(), LowRank(2)], ids=["mean-field", "low-rank"])
def test_weights_of_draws_have_the_posteriors_moments(guide):
    model = linear(guide)
    (layer,) = model.decoder.draws(10_000).template
    weights = torch.cat([layer.weight, layer.bias[..., None]], dim=-1)
    mean, covariance = dense(model)
    std = covariance.diagonal(dim1=1, dim2=2).sqrt()
    white = (weights - mean) / std
    assert white.mean(0).abs().max() < 5 / 100
    correlation = covariance / (std[..., None] * std[:, None])
    found = torch.einsum("soi,soj->oij", white, white) / 10_000
    assert (found - correlation).abs().max() < 5 * (2 / 10_000) ** 0.5


# --- dropout ---


def test_a_draw_of_dropout_is_the_network_with_one_mask_for_every_point():
    model, z = fitted(DECODERS["dropout"]), points(6)
    network = model.decoder.network
    for index in range(4):
        draw = model.draws(4).member(index)
        masks = []
        for place in (2, 4):
            ratio = draw[place].weight / network[place].weight
            masks.append(ratio[0])
            close(ratio, ratio[:1].expand_as(ratio))  # of the layer's inputs, the same for all its outputs
            close(ratio[0] * (ratio[0] - 1 / 0.7), torch.zeros_like(ratio[0]))  # 0 or 1 / (1 - rate)
        hidden = network[1](network[0](z)) * masks[0]
        expected = network[4](network[3](network[2](hidden)) * masks[1])
        close(model.draws(4)(z)[index], expected)


def test_units_are_dropped_at_the_rate():
    model = VAE(2, DropoutDecoder(MLP((50,)), rate=0.2), Gaussian(0.3)).build(3, seed=0)
    dropped = (model.draws(400).template[2].weight[:, 0] == 0).double()
    assert (dropped.mean() - 0.2).abs() < 5 * (0.2 * 0.8 / 20_000) ** 0.5


def test_masks_in_training_are_fresh_for_each_row_and_leave_the_mean():
    model = VAE(2, DropoutDecoder(MLP((5,)), rate=0.4), Gaussian(0.3)).build(3, seed=0).double()
    z = points(1).expand(20_000, 2)
    pyro.set_rng_seed(0)
    output = model.decoder(z, {})[0].detach()
    expected = model.decoder.network(z[0])  # the output is linear in the masks of one hidden layer
    assert output.std(0).min() > 0.01
    assert ((output.mean(0) - expected).abs() < 5 * output.std(0) / 20_000**0.5).all()
    assert len(output.unique(dim=0)) == 2**5


# --- training, disk, studies ---


@EVERY
def test_a_retraining_equals_the_one_trained_alone_and_nothing_global_changes(decoder):
    spec, before = VAE(2, decoder, encoder=NET), torch.get_rng_state()
    together = fit(spec, uniform(30, 3), (3, 1), training=QUICK, progress=False)
    assert torch.equal(before, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())
    torch.rand(5)
    for seed, model in zip((3, 1), together, strict=True):
        (alone,) = fit(spec, uniform(30, 3), (seed,), training=QUICK, progress=False)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-8, atol=1e-10)
        close(model.draws(3)(points(6)), alone.draws(3)(points(6)), factor=1e7)


@EVERY
def test_a_loaded_model_has_the_same_draws_and_metric(decoder, tmp_path):
    spec, z = VAE(2, decoder, encoder=NET), points(6)
    (model,) = fit(spec, uniform(30, 3), training=QUICK, progress=False, folder=tmp_path)
    loaded = storage.load(tmp_path / "seed-0")
    assert loaded.spec == spec
    assert torch.equal(loaded.draws(3, seed=5)(z), model.draws(3, seed=5)(z))
    assert torch.equal(loaded.metric().tensor(z), model.metric().tensor(z))
    assert torch.equal(loaded.uncertainty(z), model.uncertainty(z))


@EVERY
def test_specs_come_back_from_their_description(decoder):
    assert from_config(to_config(decoder)) == decoder


def test_noise_drawn_in_parts_is_each_retrainings_own(monkeypatch):
    spec, training = VAE(2, DECODERS["mean-field"], encoder=NET), Training(epochs=1, batch_size=4)
    (whole,) = fit(spec, uniform(30, 3), (1,), training=training, progress=False)
    monkeypatch.setattr("probgeo.training.stacks.MAX_NOISE", 150)  # two minibatches
    together = fit(spec, uniform(30, 3), (0, 1), training=training, progress=False)[1]
    (alone,) = fit(spec, uniform(30, 3), (1,), training=training, progress=False)
    for name, value in alone.named_parameters():
        torch.testing.assert_close(together.get_parameter(name), value, rtol=1e-8, atol=1e-10)
    assert not torch.equal(alone.encoder[0].weight, whole.encoder[0].weight)  # other streams from the second part on


@pytest.mark.slow
def test_every_decoder_is_a_source_of_a_study(tmp_path):
    models = {name.replace(" ", "-"): VAE(2, decoder, encoder=NET) for name, decoder in DECODERS.items()}
    pairs = torch.tensor([[0, 1], [2, 3], [4, 5]])
    geodesics = {"geodesic": Geodesic(solver=GaussNewton(num_segments=16))}
    study = Study(
        tmp_path, data=uniform(30, 3).float(), pairs=pairs, models=models, seeds=[0], measures=geodesics, training=QUICK
    )
    distance = study.run(progress=False).distance.sel(measure="geodesic")
    assert distance.sizes["model"] == len(DECODERS)
    assert (distance > 0).all()
    assert study.run(progress=False).num_members.values.tolist() == [6] * len(DECODERS)


def test_a_low_rank_posterior_of_a_hundred_thousand_weights_fits_in_memory():
    # 784 outputs of 128 features: ten ranks take 4 MB, a dense covariance would take 40 GB.
    model = VAE(2, BayesianDecoder(guide=LowRank(10))).build(784, seed=0)
    x = torch.zeros(4, 784)
    noise = {name: value[:, 0][0] for name, value in random_noise([0], 1, noise_shapes(model, x), "once").items()}
    with pyro.validation_enabled(False):
        ELBO(model, 4)(x, noise, model.spec.final_beta().float())["loss"].backward()
    assert model.decoder.posteriors["4"].factor.grad.isfinite().all()


# --- bad input ---


@EVERY
def test_fewer_than_one_draw_is_refused(decoder):
    with pytest.raises(ValueError, match=r"num_draws: expected .*1.*; got 0"):
        fitted(decoder).draws(0)


class NotPyros:
    """A guide of somebody else's."""


@pytest.mark.parametrize("guide", [NotPyros(), NotPyros, None, "AutoNormal", EnsembleDecoder()])
def test_a_guide_that_is_not_pyros_is_refused(guide):
    with pytest.raises(TypeError, match="guide"):
        BayesianDecoder(guide=guide)


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: BayesianDecoder(prior=0.0), "prior: expected a positive standard deviation; got 0.0"),
        (lambda: BayesianDecoder(draws=0), "draws: expected at least 1; got 0"),
        (lambda: LowRank(0), "rank: expected at least 1; got 0"),
        (lambda: VAE(2, BayesianDecoder(NET, guide=MeanField(4))).build(3, 0), "layers: expected 1 to 3"),
        (lambda: VAE(2, BayesianDecoder(NET, guide=MeanField(0))).build(3, 0), "layers: expected 1 to 3"),
        (lambda: DropoutDecoder(rate=0.0), "rate: expected a probability between 0 and 1; got 0.0"),
        (lambda: DropoutDecoder(rate=1.0), "rate: expected a probability"),
        (lambda: DropoutDecoder(MLP(())), "network: expected a hidden layer"),
        (lambda: DropoutDecoder(draws=0), "draws: expected at least 1"),
    ],
)
def test_impossible_specs_are_refused(build, complaint):
    with pytest.raises(ValueError, match=complaint):
        build()
