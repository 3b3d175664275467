"""Bayesian last layers: the posterior given the codes, against closed forms, dense Hessians and each other."""

import math

import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch.func import hessian, jacfwd

from probgeo.geometry.metrics import ExpectedMetric, PullbackMetric
from probgeo.likelihoods import Bernoulli, Gaussian, HeteroscedasticGaussian, Laplace, Poisson
from probgeo.models.decoders.bayesian import BayesianDecoder
from probgeo.models.decoders.last_layer.gaussian import Conjugate, LaplaceApproximation
from probgeo.models.decoders.last_layer.regression import Block, Regression
from probgeo.models.decoders.last_layer.sampled import NUTS, Autoguide
from probgeo.models.decoders.single import Decoder
from probgeo.models.vae import VAE, FittedVAE
from probgeo.nn import MLP
from probgeo.training.fit import Training, fit
from tests.fitted import close, points, uniform

EPS = torch.finfo(torch.float64).eps
NET = MLP((5,))


def fitted(guide, likelihood=None, prior: float = 1.0, posterior: bool = True, **options) -> FittedVAE:
    """A model with its posterior at untrained weights: what holds of it holds of any weights."""
    decoder = BayesianDecoder(NET, prior, guide, **options)
    model = VAE(2, decoder, likelihood or Gaussian(0.3), encoder=NET).build(3, seed=0).double()
    if posterior:
        model.phases[-1].start(model, uniform(40, 3), 0)
    return model


def design(model: FittedVAE, z: torch.Tensor) -> torch.Tensor:
    """Features of the last layer, and a constant 1 for its bias."""
    hidden = model.decoder.network[:-1](z)
    return torch.cat([hidden, torch.ones(len(z), 1, dtype=z.dtype)], dim=1).detach()


def exact_posterior(model: FittedVAE, std: float) -> tuple[torch.Tensor, torch.Tensor]:
    """M (output, feature) and Σ by the normal equations."""
    phi = design(model, model.encode(uniform(40, 3)).mean)
    covariance = (phi.T @ phi / std**2 + (model.decoder.std**-2).diag()).inverse()
    return (covariance @ phi.T @ uniform(40, 3) / std**2).T, covariance


def gram(function, z: torch.Tensor) -> torch.Tensor:
    jacobian = torch.stack([jacfwd(function)(point) for point in z])
    return jacobian.mT @ jacobian


# --- Gaussian likelihood: the exact posterior ---


def test_prior_is_scaled_by_the_number_of_inputs_and_the_bias_is_not():
    expected = torch.tensor([3 / 5**0.5] * 5 + [3.0]).double()
    torch.testing.assert_close(fitted(Conjugate(), prior=3.0, posterior=False).decoder.std, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("guide", [Conjugate(), LaplaceApproximation()], ids=["conjugate", "laplace"])
@pytest.mark.parametrize("prior", [0.5, 3.0])
def test_posterior_of_a_gaussian_likelihood_solves_the_normal_equations(guide, prior):
    model = fitted(guide, prior=prior)
    mean, covariance = exact_posterior(model, 0.3)
    close(model.decoder.weights, mean)
    close(model.decoder.factors @ model.decoder.factors.mT, covariance[None])


def test_a_learned_noise_level_enters_the_posterior():
    model = fitted(Conjugate(), Gaussian(), posterior=False)
    with torch.no_grad():
        model.shared["log_std"].fill_(-0.7)
    model.phases[-1].start(model, uniform(40, 3), 0)
    mean, covariance = exact_posterior(model, math.exp(-0.7))
    close(model.decoder.weights, mean)
    close(model.decoder.factors @ model.decoder.factors.mT, covariance[None])


@pytest.mark.parametrize("guide", [Conjugate(), LaplaceApproximation()], ids=["conjugate", "laplace"])
def test_expected_metric_of_a_gaussian_last_layer_is_the_formula(guide):
    model, z = fitted(guide), points(6)
    mean, covariance = exact_posterior(model, 0.3)
    moment = (mean.T @ mean + 3 * covariance)[:-1, :-1]
    jacobian = torch.stack([jacfwd(model.decoder.network[:-1])(point) for point in z])
    assert isinstance(model.metric(), PullbackMetric)
    close(model.metric().tensor(z), jacobian.mT @ moment @ jacobian)
    close(model.fisher_rao_metric().tensor(z), model.metric().tensor(z) / 0.3**2)


def test_expected_metric_and_variance_agree_with_ten_thousand_draws():
    model, z = fitted(Conjugate()), points(6)
    draws = model.draws(10_000, seed=3)
    jacobians = torch.stack([jacfwd(draws)(point) for point in z], dim=1)  # (draw, point, observation, latent)
    grams = jacobians.mT @ jacobians
    error = grams.std(0) / 100
    assert ((model.metric().tensor(z) - grams.mean(0)).abs() < 4 * error).all()
    outside = (grams.mean(0) - gram(model.decoder.network, z)).abs() / error
    assert outside.max() > 20  # while the metric of the posterior mean is told apart
    values = draws(z)
    assert ((model.decode(z) - values.mean(0)).abs() < 5 * values.std(0) / 100).all()
    torch.testing.assert_close(model.uncertainty(z) ** 2, values.var(0).mean(-1), rtol=0.05, atol=0)


def test_metric_is_computed_by_the_fused_kernel():
    assert fitted(Conjugate()).metric()._maps._layers is not None


def test_before_the_posterior_is_found_the_decoder_is_a_single_one():
    model, z = fitted(Conjugate(), posterior=False), points(6)
    close(model.metric().tensor(z), gram(model.decoder.network, z), factor=1e6)
    assert torch.equal(model.uncertainty(z), torch.zeros(6, dtype=torch.float64))


def test_uncertainty_grows_without_bound_along_a_ray_of_growing_features():
    model = fitted(Conjugate())
    ray = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)[:, None] * points(1)
    assert (model.uncertainty(ray).diff() > 0).all()


# --- other likelihoods: Laplace ---


def test_laplace_is_the_mode_and_the_dense_hessian_of_the_log_joint():
    model, x = fitted(LaplaceApproximation(), Bernoulli()), uniform(40, 3)
    phi, mode = design(model, model.encode(x).mean), model.decoder.weights.flatten().requires_grad_()

    def log_joint(weights: torch.Tensor) -> torch.Tensor:
        weights = weights.reshape(3, 6)
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(phi @ weights.T, x, reduction="sum")
        return -cross_entropy - (weights / model.decoder.std).square().sum() / 2

    (gradient,) = torch.autograd.grad(log_joint(mode), mode)
    assert gradient.abs().max() < 1e-4
    dense = -hessian(log_joint)(mode.detach())
    factors = model.decoder.factors
    torch.testing.assert_close(dense.inverse(), torch.block_diag(*(factors @ factors.mT)), rtol=1e-4, atol=1e-6)


def test_laplace_of_counts_is_the_mode_and_its_curvature():
    model = VAE(2, BayesianDecoder(NET, guide=LaplaceApproximation()), Poisson(), encoder=NET).build(3, seed=0).double()
    counts = (5 * uniform(40, 3)).round()
    model.phases[-1].start(model, counts, 0)
    phi, weights = design(model, model.encode(counts).mean), model.decoder.weights.requires_grad_()
    distribution = model.spec.likelihood.distribution(phi @ weights.T, model.spec.likelihood.known(counts))
    log_joint = distribution.log_prob(counts).sum() - (weights / model.decoder.std).square().sum() / 2
    (gradient,) = torch.autograd.grad(log_joint, weights)
    assert gradient.abs().max() < 1e-4


def test_newtons_method_finds_the_mode_from_afar():
    model = fitted(LaplaceApproximation(), Bernoulli(), posterior=False)
    expected = fitted(LaplaceApproximation(), Bernoulli()).decoder.weights
    with torch.no_grad():
        model.decoder.network[-1].weight.mul_(100)  # logits in the hundreds
    model.phases[-1].start(model, uniform(40, 3), 0)
    torch.testing.assert_close(model.decoder.weights, expected, rtol=1e-4, atol=1e-4)


def test_laplace_stays_finite_where_the_data_are_separable():
    phi = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None] * 30
    block = Block(phi, (phi > 0).double(), lambda logits: torch.distributions.Bernoulli(logits=logits))
    regression = Regression((block,))
    mode, roots = regression.mode(torch.zeros(1, 1, dtype=torch.float64), 1)
    assert mode.isfinite().all()
    assert mode > 0
    assert roots.isfinite().all()


def test_metric_after_a_nonlinear_head_is_that_of_the_draws():
    model, z = fitted(LaplaceApproximation(), Bernoulli(), draws=7), points(6)
    assert isinstance(model.metric(), ExpectedMetric)
    draws = model.draws()
    expected = torch.stack([gram(draws.member(index), z) for index in range(7)]).mean(0)
    close(model.metric().tensor(z), expected)
    close(model.decode(z), draws(z).mean(0))
    close(model.uncertainty(z), draws(z).var(0, correction=0).mean(-1).sqrt())


# --- NUTS ---


def test_nuts_agrees_with_the_exact_posterior():
    num_draws = 400
    model = fitted(NUTS(num_draws=num_draws, warmup=50))
    mean, covariance = exact_posterior(model, 0.3)
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, (model.decoder.samples - mean).mT, upper=False).reshape(num_draws, -1)
    # Standard normal if the samples are right. Tolerances are five standard errors, a third of the samples effective.
    assert white.mean(0).abs().max() < 5 * (3 / num_draws) ** 0.5
    moments = white.T @ white / num_draws
    assert (moments.diagonal().mean() - 1).abs() < 5 * (2 * 3 / num_draws / 18) ** 0.5
    assert (moments - moments.diagonal().diag()).abs().max() < 5 * (3 / num_draws) ** 0.5


def test_nuts_depends_on_the_seed_alone_and_leaves_the_random_state():
    before = torch.get_rng_state()
    first = fitted(NUTS(num_draws=20, warmup=10)).decoder.samples
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, fitted(NUTS(num_draws=20, warmup=10)).decoder.samples)
    other = fitted(NUTS(num_draws=20, warmup=10), posterior=False)
    other.phases[-1].start(other, uniform(40, 3), 1)
    assert not torch.equal(first, other.decoder.samples)


def test_draws_of_nuts_are_its_samples_in_an_order_of_the_seed():
    model = fitted(NUTS(num_draws=20, warmup=10), draws=5)
    z, samples = points(6), model.decoder.samples
    every = torch.einsum("sdh,nh->snd", samples, design(model, z))
    for draw in model.draws(seed=4)(z):
        assert (every - draw).abs().amax((1, 2)).min() < 1e4 * EPS
    assert not torch.equal(model.draws(5, seed=0)(z), model.draws(5, seed=1)(z))
    close(model.draws(20)(z).sum(0), every.sum(0))


# --- Pyro's automatic guides ---


def test_pyros_automatic_guide_finds_the_best_factorised_posterior():
    model = fitted(AutoNormal)
    assert model.spec.decoder == BayesianDecoder(NET, guide=Autoguide(AutoNormal))
    mean, covariance = exact_posterior(model, 0.3)
    std = covariance.inverse().diagonal().rsqrt()  # of the nearest factorised normal
    white = ((model.decoder.samples - mean) / std).flatten(1)
    assert white.mean(0).abs().max() < 1  # of those narrow widths; the posterior's own are several times as wide
    assert ((white.std(0).log().mean()).abs() < 0.15).all()


def test_pyros_automatic_guide_leaves_the_random_state_and_parameter_store():
    before = torch.get_rng_state()
    guide = Autoguide(AutoNormal, num_steps=5, num_draws=20)
    first = fitted(guide).decoder.samples
    assert torch.equal(before, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())
    torch.rand(3)
    assert torch.equal(first, fitted(guide).decoder.samples)


# --- training ---


@pytest.mark.parametrize(
    "guide", [Conjugate(), LaplaceApproximation(), NUTS(20, 5)], ids=["conjugate", "laplace", "nuts"]
)
def test_the_closing_phase_moves_the_last_layer_alone(guide):
    training = Training(epochs=2, batch_size=16)
    (single,) = fit(VAE(2, Decoder(NET), encoder=NET), uniform(40, 3), training=training, progress=False)
    decoder = BayesianDecoder(NET, guide=guide)
    (model,) = fit(VAE(2, decoder, encoder=NET), uniform(40, 3), training=training, progress=False)
    for name, value in single.named_parameters():
        if not name.startswith("decoder.network.2"):
            assert torch.equal(value, model.get_parameter(name)), name
    assert model.history.phase.values.tolist() == ["fit"] * 2


# --- bad input ---


def test_a_conjugate_posterior_needs_a_gaussian_likelihood():
    with pytest.raises(ValueError, match=r"Conjugate\(\) has a posterior for Gaussian\(\) alone; got Bernoulli"):
        fitted(Conjugate(), Bernoulli())


@pytest.mark.parametrize("guide", [LaplaceApproximation(), NUTS()], ids=["laplace", "nuts"])
@pytest.mark.parametrize("likelihood", [HeteroscedasticGaussian(), Laplace()], ids=["two parameters", "kinked"])
def test_outputs_that_share_an_observation_are_refused(guide, likelihood):
    with pytest.raises(TypeError, match="likelihood: a posterior of the last layer needs a twice differentiable"):
        fitted(guide, likelihood)


def test_nuts_refuses_what_it_cannot_sample_in_reasonable_time():
    with pytest.raises(ValueError, match=r"max_weights: the last layer has 18 weights, above 17"):
        fitted(NUTS(max_weights=17))
    with pytest.raises(ValueError, match=r"draws: expected at most the 10 samples of NUTS.*; got 20"):
        fitted(NUTS(num_draws=10), draws=20)
    with pytest.raises(ValueError, match="num_draws, warmup: expected at least 1; got 0"):
        NUTS(num_draws=0)
    with pytest.raises(ValueError, match="num_draws: expected 1 to 20, the number of samples; got 21"):
        fitted(NUTS(num_draws=20, warmup=5)).draws(21)


def test_newtons_method_says_when_it_has_not_arrived():
    x = torch.zeros(2, 1, dtype=torch.float64)
    kinked = Regression((Block(x + 1, x, lambda output: torch.distributions.Laplace(output, 1e-3)),))
    with pytest.warns(UserWarning, match="posterior: Newton's method is still"):
        kinked.mode(x[:1] + 0.5, 1)


@pytest.mark.parametrize("guide", [Conjugate(), LaplaceApproximation()])
def test_metrics_and_draws_leave_the_random_state(guide):
    model, before = fitted(guide), torch.get_rng_state()
    model.metric().tensor(points(6))
    model.fisher_rao_metric()
    model.draws(2)
    model.uncertainty(points(6))
    assert torch.equal(torch.get_rng_state(), before)
