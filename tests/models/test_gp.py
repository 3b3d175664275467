"""Gaussian processes: the posterior is the dense formulas', the expected metric that of the functions drawn from it."""

import math

import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence
from torch.func import jacfwd, jacrev, jvp, vmap

from probgeo.geometry.geodesics import energy
from probgeo.geometry.metrics import ExpectedMetric
from probgeo.likelihoods import Bernoulli, Gaussian
from probgeo.models.decoders.gp import GPDecoder
from probgeo.models.gp.roots import JITTER, cholesky_root, unseen_root
from probgeo.models.gp.sparse import SparseGP
from probgeo.models.vae import VAE
from probgeo.nn import MLP
from probgeo.training import storage
from probgeo.training.fit import Training, fit

NOISE = 0.05


def data(num_rows: int = 40, num_features: int = 3) -> tuple[Tensor, Tensor]:
    """Codes in the plane and smooth functions of them, with noise."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(num_rows, 2, generator=generator, dtype=torch.float64)
    waves = torch.randn(2, num_features, generator=generator, dtype=torch.float64)
    return z, 3 + 2 * (z @ waves).sin() + 0.1 * torch.randn(num_rows, num_features, generator=generator).double()


def process(num_inducing: int = 12, num_rows: int = 40, dtype: torch.dtype = torch.float64) -> SparseGP:
    z, x = (value.to(dtype) for value in data(num_rows))
    gp = SparseGP(x.shape[1], 2, num_inducing).to(dtype)
    gp.place(z, lambda: [x], seed=0)
    gp.kernel.outputscale = 1.3
    gp.kernel.base_kernel.lengthscale = torch.tensor([0.7, 1.1], dtype=dtype)
    gp.likelihood.noise = NOISE
    gp.condition([(z, x)])
    return gp.requires_grad_(False)


def points(num_points: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num_points, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


def kernel(first: Tensor, second: Tensor) -> Tensor:
    """Written out; differentiable in both arguments."""
    apart = (first[..., :, None, :] - second[..., None, :, :]) / first.new_tensor([0.7, 1.1])
    return 1.3 * (-0.5 * apart.square().sum(-1)).exp()


def covariance(gp: SparseGP, first: Tensor, second: Tensor) -> Tensor:
    """Of one output, at two points, from the dense K_uu and the covariance of q(u)."""
    inducing = gp.inducing
    prior = kernel(inducing, inducing) + JITTER * 1.3 * torch.eye(len(inducing))
    root = torch.linalg.cholesky(prior)
    posterior = root @ gp.root.tril() @ gp.root.tril().T @ root.T
    inverse = torch.linalg.inv(prior)
    left, right = kernel(first[None], inducing), kernel(inducing, second[None])
    return (kernel(first[None], second[None]) - left @ inverse @ (prior - posterior) @ inverse @ right)[0, 0]


# --- the posterior ---


def test_kernel_is_gpytorchs():
    gp = process()
    theirs = ScaleKernel(RBFKernel(ard_num_dims=2)).double()
    theirs.load_state_dict(gp.kernel.state_dict())
    torch.testing.assert_close(gp._kernel(points()), theirs(points(), gp.inducing).to_dense().detach())


def test_with_an_inducing_point_at_every_row_the_posterior_is_the_exact_one():
    z, x = data()
    gp = process(num_inducing=len(z))
    gp.inducing.copy_(z)
    gp.condition([(z, x)])
    offset, scale = x.mean(0), (x - x.mean(0)).square().mean().sqrt()
    gram = kernel(z, z) + NOISE * torch.eye(len(z))
    at = points()
    weights = torch.linalg.solve(gram, kernel(z, at)).T
    mean = offset + weights @ (x - offset)
    variance = scale**2 * (1.3 - (weights * kernel(at, z)).sum(1))
    torch.testing.assert_close(gp.mean(at), mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gp.variance(at), variance[:, None].expand_as(mean), rtol=1e-4, atol=1e-4)
    evidence = MultivariateNormal(torch.zeros(len(z)).double(), gram).log_prob(((x - offset) / scale).T).sum()
    torch.testing.assert_close(gp.evidence_bound(z, x), evidence, rtol=1e-4, atol=1e-4)


def test_sparse_posterior_is_the_dense_formula():
    z, x = data()
    gp, at = process(), points()
    y = (x - gp.offset) / gp.scale
    prior = kernel(gp.inducing, gp.inducing) + JITTER * 1.3 * torch.eye(12)
    cross = kernel(gp.inducing, z)
    middle = torch.linalg.inv(prior + cross @ cross.T / NOISE)
    mean = gp.offset + gp.scale * (kernel(at, gp.inducing) @ middle @ cross @ y / NOISE)
    torch.testing.assert_close(gp.mean(at), mean)
    variance = gp.scale**2 * torch.stack([covariance(gp, point, point) for point in at])
    torch.testing.assert_close(gp.variance(at)[:, 0], variance)


def test_evidence_bound_lies_below_the_evidence_and_rises_when_hyperparameters_are_fitted():
    z, x = data()
    gp = process()
    gram = kernel(z, z) + NOISE * torch.eye(len(z))
    evidence = MultivariateNormal(torch.zeros(len(z)).double(), gram).log_prob(((x - gp.offset) / gp.scale).T).sum()
    before = gp.evidence_bound(z, x)
    assert before < evidence
    gp.fit_hyperparameters(z, x, max_steps=20)
    assert gp.evidence_bound(z, x) > before + 1


def test_conditioning_maximises_the_bound_over_the_inducing_values():
    z, x = data()
    gp = process()
    y = (x - gp.offset) / gp.scale

    def bound(process: SparseGP) -> Tensor:
        mean, variance = process.predictions(z)
        squares = (x - mean).square().sum() / gp.scale**2 + x.shape[1] * variance.sum() / gp.scale**2
        return -0.5 * (squares / NOISE + y.numel() * math.log(2 * math.pi * NOISE)) - process.kl()

    torch.testing.assert_close(bound(gp), gp.evidence_bound(z, x))
    gp.mean_weights.requires_grad_()
    gp.root.requires_grad_()
    for gradient in torch.autograd.grad(bound(gp), [gp.mean_weights, gp.root]):
        assert gradient.abs().max() < 1e-6


def test_kl_is_that_of_the_inducing_values():
    gp = process()
    root = cholesky_root(kernel(gp.inducing, gp.inducing))
    prior = MultivariateNormal(torch.zeros(12).double(), scale_tril=root)
    covariance_of_values = root @ gp.root.tril() @ gp.root.tril().T @ root.T
    posteriors = [MultivariateNormal(root @ mean, covariance_of_values) for mean in gp.mean_weights.T]
    torch.testing.assert_close(
        gp.kl(), sum(kl_divergence(posterior, prior) for posterior in posteriors), rtol=1e-5, atol=0
    )


def test_single_precision_storage_keeps_the_posterior():
    gp, single, at = process(), process().float(), points(50)
    std = gp.variance(at).sqrt()
    assert ((single.mean(at) - gp.mean(at)).abs() < 1e-3 * std).all()
    torch.testing.assert_close(single.variance(at).sqrt(), std, rtol=1e-3, atol=0)


# --- the expected metric ---


def test_expected_metric_is_that_of_the_dense_kernels_derivatives():
    gp, at = process(), points()
    jacobian = vmap(jacfwd(gp.mean))(at)
    spread = torch.stack([jacfwd(jacrev(lambda y, z: covariance(gp, y, z), 0), 1)(point, point) for point in at])
    expected = jacobian.mT @ jacobian + 3 * gp.scale**2 * spread
    torch.testing.assert_close(gp.expected_metric().tensor(at), expected, rtol=1e-7, atol=1e-7)


def test_expected_metric_is_the_mean_over_ten_thousand_draws():
    gp, at = process(), torch.cat([points(2), torch.full((1, 2), 4.0, dtype=torch.float64)])
    tensors = []
    for seed in range(5):
        draws = gp.draws(2000, seed)
        slopes = torch.stack([jvp(draws, (at,), (step.expand_as(at),))[1] for step in torch.eye(2).double()], -1)
        tensors.append(slopes.mT @ slopes)  # (member, point, latent, latent)
    sample = torch.cat(tensors)
    error = sample.std(0) / 1e2
    assert ((sample.mean(0) - gp.expected_metric().tensor(at)).abs() < 4 * error).all()


def test_draws_have_the_mean_and_variance_of_the_posterior():
    gp, at = process(), points()
    values = gp.draws(4000)(at)
    error = values.std(0) / 4000**0.5
    assert ((values.mean(0) - gp.mean(at)).abs() < 4.5 * error).all()
    ratio = values.var(0) / gp.variance(at)
    assert ((ratio - 1).abs() < 5 * (2 / 4000) ** 0.5).all()


def test_far_from_the_codes_the_metric_is_the_priors():
    gp = process()
    prior = 3 * gp.scale**2 * 1.3 * torch.tensor([0.7, 1.1]).double().pow(-2).diag()
    far = torch.tensor([[30.0, 0.0], [-20.0, 25.0]]).double()
    torch.testing.assert_close(gp.expected_metric().tensor(far), prior.expand(2, 2, 2))
    torch.testing.assert_close(gp.variance(far), (1.3 * gp.scale**2).expand(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_metric_is_positive_definite_where_inducing_points_coincide(dtype):
    z, x = (value.to(dtype) for value in data())
    gp = process(num_inducing=20, dtype=dtype)
    gp.inducing[10:] = gp.inducing[:10]
    gp.likelihood.noise = 2e-4
    gp.condition([(z, x)])
    at = torch.cat([z, gp.inducing, gp.inducing + 1e-4])
    assert (torch.linalg.eigvalsh(gp.expected_metric().tensor(at)) > 0).all()
    assert (gp.variance(at) > 0).all()


def test_metric_in_another_unit_is_divided_by_its_square():
    gp, at = process(), points()
    torch.testing.assert_close(gp.expected_metric(unit=2.0).tensor(at), gp.expected_metric().tensor(at) / 4)
    torch.testing.assert_close(gp.draws(3, 1, unit=2.0)(at), gp.draws(3, 1)(at) / 2)


def test_metric_can_be_linearised_by_the_solver():
    metric = process().expected_metric()
    path = torch.stack([points(9), points(9).flip(0)]).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(metric, path).sum(), path)
    model = metric.linearize(path.detach())
    torch.testing.assert_close(model.gradient, gradient[:, 1:-1])


# --- draws ---


def test_draws_are_nested_fixed_and_stacked():
    gp, at = process(), points()
    state = torch.get_rng_state()
    draws = gp.draws(5, seed=3)
    assert draws.num_members == 5
    assert draws(at).shape == (5, 5, 3)
    assert torch.equal(draws(at), gp.draws(5, seed=3)(at))
    torch.testing.assert_close(gp.draws(2, seed=3)(at), draws(at)[:2])
    assert not torch.allclose(gp.draws(5, seed=4)(at), draws(at))
    torch.testing.assert_close(draws(at.reshape(5, 1, 2))[:, :, 0], draws(at))
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.linalg.eigvalsh(ExpectedMetric(draws).tensor(at)) > 0).all()
    with pytest.raises(ValueError, match="num_draws: expected at least 1; got 0"):
        gp.draws(0)


# --- what goes wrong ---


def test_fewer_rows_than_inducing_points_are_refused():
    z, x = data(10)
    with pytest.raises(ValueError, match=r"num_inducing: .* rows of x \(10\); got 12"):
        SparseGP(3, 2, 12).double().place(z, lambda: [x], seed=0)


def test_jitter_is_raised_with_a_warning_of_the_amount_and_then_an_error():
    matrix = torch.ones(4, 4).double() - 5e-5 * torch.eye(4).double()
    with pytest.warns(NumericalWarning, match=r"added jitter of 1\.0e-0[45]"):
        root = cholesky_root(matrix)
    torch.testing.assert_close(root @ root.T, matrix, atol=2e-4, rtol=0)
    with pytest.warns(NumericalWarning), pytest.raises(ArithmeticError, match=r"jitter up to 0\.001 of its diagonal"):
        cholesky_root(torch.ones(4, 4).double() - 0.1 * torch.eye(4).double())
    with pytest.raises(ArithmeticError, match="NaN"):
        cholesky_root(torch.full((4, 4), torch.nan).double())


def test_the_root_that_nobody_waits_for_is_the_root_with_as_much_jitter_as_it_takes_or_nan():
    easy, hard = kernel(points(), points()), torch.ones(4, 4).double() - 5e-5 * torch.eye(4).double()
    torch.testing.assert_close(unseen_root(easy), cholesky_root(easy))
    with pytest.warns(NumericalWarning):
        torch.testing.assert_close(unseen_root(hard), cholesky_root(hard))
    assert unseen_root(torch.ones(4, 4).double() - 0.1 * torch.eye(4).double()).isnan().all()
    assert unseen_root(torch.full((4, 4), torch.nan).double()).isnan().all()
    found, expected = (easy.clone().requires_grad_() for _ in range(2))
    for root, matrix in ((unseen_root(found), found), (cholesky_root(expected), expected)):
        root.diagonal().log().sum().backward(inputs=[matrix])
    torch.testing.assert_close(found.grad, expected.grad)


# --- the decoder ---

SPEC = VAE(2, GPDecoder(MLP((8,)), num_inducing=10, num_steps=5), encoder=MLP((8,)))
QUICK = Training(epochs=3, batch_size=16, learning_rate=1e-2)


def trained(spec=SPEC, seeds=(0,), dtype=torch.float32, **options):
    return fit(spec, data(60, 6)[1].to(dtype), seeds, training=QUICK, progress=False, **options)


def test_decoder_is_the_posterior_given_the_codes_of_the_data():
    x = data(60, 6)[1]
    (model,) = fit(SPEC, x, training=Training(epochs=3, batch_size=16, validation=0.0), progress=False)
    model.requires_grad_(False)
    z = model.encode(x).mean
    gp = SparseGP(6, 2, 10).double()
    gp.load_state_dict(model.decoder.process.state_dict())
    gp.condition([(z[:30], x[:30])])
    assert not torch.allclose(gp.mean(z), model.decode(z), atol=1e-3)
    gp.condition([(z, x)])
    torch.testing.assert_close(gp.mean(z), model.decode(z))
    assert (model.reconstruct(x) - x).square().mean() < (x - x.mean(0)).square().mean()
    assert (model.uncertainty(z + 20) > 2 * model.uncertainty(z)).all()


def test_decoders_metrics_and_draws_are_those_of_its_process():
    (model,) = trained(dtype=torch.float64)
    z = points()
    tensor = model.decoder.process.expected_metric().tensor(z)
    torch.testing.assert_close(model.metric().tensor(z), tensor)
    std = model.parameters_of_likelihood()["log_std"].exp()
    torch.testing.assert_close(model.fisher_rao_metric().tensor(z), tensor / std**2)
    assert model.draws(4, seed=1)(z).shape == (4, 5, 6)
    assert torch.equal(model.draws(4, seed=1)(z), model.decoder.process.draws(4, 1)(z))


def test_retrainings_of_the_decoder_are_those_trained_alone_and_are_kept_on_disk(tmp_path):
    state = torch.get_rng_state()
    together, alone = trained(seeds=(3, 4), folder=tmp_path)[1], trained(seeds=(4,))[0]
    assert torch.equal(torch.get_rng_state(), state)
    z = points(dtype=torch.float32)
    torch.testing.assert_close(together.metric().tensor(z), alone.metric().tensor(z), rtol=1e-2, atol=1e-3)
    loaded = storage.load(tmp_path / "seed-4")
    assert torch.equal(loaded.metric().tensor(z), together.metric().tensor(z))
    assert torch.equal(loaded.draws(3)(z), together.draws(3)(z))
    assert torch.equal(loaded.decode(z), together.decode(z))


def test_decoder_needs_a_gaussian_likelihood_and_positive_numbers():
    with pytest.raises(ValueError, match=r"GPDecoder expects Gaussian\(\)"):
        VAE(2, GPDecoder(), Bernoulli()).build(6, seed=0)
    with pytest.raises(ValueError, match="num_inducing, num_rows, num_steps: expected at least 1"):
        GPDecoder(num_inducing=0)
    assert VAE(2, GPDecoder(), Gaussian(std=0.1)).num_members == 1
