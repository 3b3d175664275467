"""Fisher-Rao geometry of likelihoods: isometries and informations against the Hessian of the KL divergence."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import kl_divergence
from torch.func import hessian, jacfwd, jvp

from probgeo import PullbackMetric, length
from probgeo.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    HeteroscedasticGaussian,
    Laplace,
    LibraryColumn,
    Likelihood,
    Mixed,
    NegativeBinomial,
    OneHotCategorical,
    Perceptual,
    Poisson,
    RowTotal,
    ZeroInflatedNegativeBinomial,
)
from probgeo.nn import MLP

COUNTS = torch.arange(3000, dtype=torch.float64)
NODES, WEIGHTS = (torch.from_numpy(rule) for rule in np.polynomial.legendre.leggauss(200))
QUADRATURE = {ContinuousBernoulli: ((NODES + 1) / 2, WEIGHTS / 2)}  # others: sums over counts
quick = settings(deadline=None, max_examples=20)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def summed_divergence(likelihood: Likelihood, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL of one observation, by a sum over its support or a quadrature rule on it."""
    x, weights = QUADRATURE.get(type(likelihood), (COUNTS, torch.ones_like(COUNTS)))
    p, q = (likelihood.distribution(output, {}).log_prob(x[:, None])[:, 0] for output in (first, second))
    return (weights * p.exp() * (p - q)).sum()


def information(likelihood: Likelihood, output: torch.Tensor, closed: bool) -> torch.Tensor:
    """Hessian of the KL divergence at its minimum."""

    def divergence(other: torch.Tensor) -> torch.Tensor:
        if closed:
            return kl_divergence(likelihood.distribution(output, {}), likelihood.distribution(other, {})).sum()
        return summed_divergence(likelihood, output, other)

    return hessian(divergence)(output)


def pulled_back(likelihood: Likelihood, output: torch.Tensor) -> torch.Tensor:
    jacobian = jacfwd(likelihood.isometry({}))(output)
    return jacobian.mT @ jacobian


# --- isometries ---


@pytest.mark.parametrize(
    ("likelihood", "closed", "low", "high"),
    [
        (Gaussian(0.3), True, -5, 5),
        (Bernoulli(), True, -8, 8),
        (Poisson(), True, -5, 6),
        (Poisson(), False, -5, 6),
        (NegativeBinomial(total_count=0.7), False, -5, 3),
        (NegativeBinomial(total_count=12.0), False, -5, 5),
        (ContinuousBernoulli(), False, -40, 40),
    ],
    ids=str,
)
def test_squared_slope_of_an_isometry_is_the_hessian_of_the_divergence(likelihood, closed, low, high):
    @quick
    @given(st.floats(low, high))
    def holds(parameter: float) -> None:
        output = vector(parameter)
        found, expected = pulled_back(likelihood, output), information(likelihood, output, closed)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)

    holds()


@quick
@given(st.lists(st.floats(-6, 6), min_size=6, max_size=6))
def test_isometry_of_categories_is_the_hessian_of_the_divergence_for_every_block(logits):
    output = vector(*logits)
    expected = information(Categorical(3), output, closed=True)
    torch.testing.assert_close(pulled_back(Categorical(3), output), expected, rtol=1e-8, atol=1e-12)
    whole = information(Categorical(6), output, closed=True)
    torch.testing.assert_close(pulled_back(OneHotCategorical(), output), whole, rtol=1e-8, atol=1e-12)


@quick
@given(st.floats(-3, 3), st.floats(0.1, 5))
def test_isometry_of_a_laplace_is_the_curvature_of_its_divergence(location, scale):
    # The density has a kink, the divergence |δ|/b + exp(-|δ|/b) - 1 none: a difference quotient, not a derivative.
    likelihood, step = Laplace(scale), 1e-3 * scale
    first, second = (likelihood.distribution(vector(location + shift), {}) for shift in (0, step))
    curvature = 2 * kl_divergence(first, second) / step**2
    torch.testing.assert_close(pulled_back(likelihood, vector(location))[0], curvature, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_isometry_of_a_continuous_bernoulli_is_the_integral_of_the_standard_deviation(dtype):
    def std(t: float) -> float:
        return 12**-0.5 if abs(t) < 1e-3 else math.sqrt(t**-2 - 0.25 / math.sinh(t / 2) ** 2)

    isometry = ContinuousBernoulli().isometry({})
    for eta in (-300.0, -17.0, -1.6, -1e-3, 0.0, 0.4, 1.4999, 1.5001, 6.0, 80.0, 500.0):
        points = [p for p in (1e-3, 1, 10) if p < abs(eta)]
        exact, _ = scipy.integrate.quad(std, 0, eta, points=[math.copysign(p, eta) for p in points], epsabs=1e-12)
        assert abs(isometry(torch.tensor(eta, dtype=dtype)).item() - exact) < 1e-6 * max(1, abs(exact)) * (
            1 if dtype is torch.float64 else 4
        )


@pytest.mark.parametrize("shape", ["likelihood.isometry", "likelihood.mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "likelihood",
    [Categorical(5), OneHotCategorical(), ContinuousBernoulli(), Poisson(), NegativeBinomial(total_count=0.5)],
    ids=str,
)
def test_values_and_gradients_are_finite_at_extreme_outputs(likelihood, dtype, shape):
    output = torch.tensor([-500.0, -90.0, 0.0, 90.0, 500.0], dtype=dtype, requires_grad=True)
    head = likelihood.isometry({}) if shape == "likelihood.isometry" else likelihood.mean()
    value = head(output)
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert value.isfinite().all() and gradient.isfinite().all()
    assert value.dtype == dtype


@pytest.mark.parametrize(
    "likelihood",
    [
        HeteroscedasticGaussian(),
        ContinuousBernoulli(),
        Poisson(),
        NegativeBinomial(total_count=0.5),
        ZeroInflatedNegativeBinomial(total_count=2.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_densities_and_their_gradients_are_finite_at_extreme_outputs(likelihood, x):
    extremes = torch.tensor([-500.0, -90.0, 0.0, 90.0, 500.0])
    output = extremes.repeat(likelihood.num_outputs(1)).requires_grad_()
    density = likelihood.distribution(output, {}).log_prob(torch.full((5,), x))
    (gradient,) = torch.autograd.grad(density.sum(), output)
    assert density.isfinite().all() and gradient.isfinite().all()


# --- two parameters per observation ---


@quick
@given(st.floats(-3, 3), st.floats(-4, 3))
def test_information_of_a_heteroscedastic_gaussian_is_the_hessian_of_the_divergence(mean, raw):
    likelihood, output = HeteroscedasticGaussian(0.01), vector(mean, raw)
    found = likelihood.information(output, {})[0]
    torch.testing.assert_close(found, information(likelihood, output, closed=True), rtol=1e-8, atol=1e-8)


@quick
@given(st.floats(-4, 4), st.floats(-5, 5), st.floats(0.5, 20))
def test_information_of_zero_inflated_counts_is_the_hessian_of_the_divergence(log_rate, gate, total_count):
    likelihood, output = ZeroInflatedNegativeBinomial(total_count=total_count), vector(log_rate, gate)
    found = likelihood.information(output, {})[0]
    torch.testing.assert_close(found, information(likelihood, output, closed=False), rtol=1e-6, atol=1e-9)
    assert torch.linalg.eigvalsh(found)[0] > -1e-12


@pytest.mark.parametrize("likelihood", [HeteroscedasticGaussian(), ZeroInflatedNegativeBinomial(total_count=1.0)])
def test_two_parameters_have_no_isometry_and_the_error_says_what_there_is(likelihood):
    with pytest.raises(TypeError, match=r"two parameters per observation.*use model.fisher_rao_metric\(\)"):
        likelihood.isometry({})
    with pytest.raises(TypeError, match="expected parts with one parameter per observation"):
        Mixed(((Bernoulli(), 2), (likelihood, 1))).isometry({})


# --- lengths ---


@pytest.mark.parametrize(
    ("likelihood", "closed"),
    [(Bernoulli(), True), (Poisson(), True), (Categorical(3), True), (NegativeBinomial(total_count=2.0), False)],
    ids=str,
)
def test_pulled_back_length_is_that_of_the_divergence_along_the_curve(likelihood, closed):
    torch.manual_seed(0)
    decoder = MLP((8,), torch.nn.Tanh).build(2, 3).double()
    angle = torch.linspace(0, 2.5, 401, dtype=torch.float64)
    path = torch.stack([angle.cos(), angle.sin() + 0.3 * angle], dim=-1)
    # Both ends of the curve are nodes of the path and of Simpson's rule.
    velocity = torch.stack([-angle.sin(), angle.cos() + 0.3], dim=-1)
    found = length(PullbackMetric(torch.nn.Sequential(decoder, likelihood.isometry({}))), path[None])[0]
    speeds = []
    for z, direction in zip(path[::10], velocity[::10], strict=True):
        output, tangent = jvp(decoder, (z,), (direction,))
        if closed:
            hessians = information(likelihood, output, closed)
        else:  # one observation at a time
            hessians = torch.block_diag(*(information(likelihood, o[None], closed) for o in output))
        speeds.append((tangent @ hessians @ tangent).sqrt().item())
    expected = scipy.integrate.simpson(speeds, x=angle[::10].numpy())
    assert abs(found.item() / expected - 1) < 1e-4


def test_isometry_of_mixed_columns_is_that_of_each_side_by_side():
    likelihood = Mixed(((Bernoulli(), 1), (Gaussian(0.5), 2), (OneHotCategorical(), 3), (Poisson(), 1)))
    output = torch.linspace(-1, 1, 7, dtype=torch.float64)
    parts = [(Bernoulli(), output[:1]), (Gaussian(0.5), output[1:3]), (OneHotCategorical(), output[3:6])]
    expected = torch.cat([part.isometry({})(block) for part, block in [*parts, (Poisson(), output[6:])]])
    assert torch.equal(likelihood.isometry({})(output), expected)


# --- densities and means ---


def test_densities_are_scipys():
    torch.manual_seed(0)
    output, counts = torch.randn(6, dtype=torch.float64), torch.tensor([0, 1, 3, 0, 7, 20], dtype=torch.float64)
    mean, r = output.exp().numpy(), 1.7
    expected = {
        Laplace(0.4): scipy.stats.laplace(output.numpy(), 0.4).logpdf(counts.numpy()),
        Poisson(): scipy.stats.poisson(mean).logpmf(counts.numpy()),
        NegativeBinomial(total_count=r): scipy.stats.nbinom(r, r / (r + mean)).logpmf(counts.numpy()),
    }
    for likelihood, density in expected.items():
        found = likelihood.distribution(output, {}).log_prob(counts)
        torch.testing.assert_close(found, torch.from_numpy(density), rtol=1e-10, atol=1e-10)


def test_continuous_bernoulli_density_is_normalised_with_the_stated_mean():
    x, weights = QUADRATURE[ContinuousBernoulli]
    for logit in (-60.0, -3.0, -1e-4, 0.0, 1.49, 1.51, 20.0, 60.0):
        density = ContinuousBernoulli().distribution(vector(logit), {}).log_prob(x).exp()
        assert abs((weights * density).sum() - 1) < 1e-10
        assert abs((weights * density * x).sum() - ContinuousBernoulli().mean()(vector(logit))) < 1e-10


@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial(total_count=2.0)], ids=str)
def test_mean_of_counts_is_the_mean_of_the_distribution(likelihood):
    output = torch.linspace(-4, 4, 9, dtype=torch.float64)
    torch.testing.assert_close(likelihood.mean()(output), likelihood.distribution(output, {}).mean)


@pytest.mark.parametrize("likelihood", [HeteroscedasticGaussian(), ZeroInflatedNegativeBinomial(total_count=2.0)])
def test_mean_of_two_parameters_is_the_mean_of_the_distribution(likelihood):
    output = torch.linspace(-4, 4, 10, dtype=torch.float64)
    torch.testing.assert_close(likelihood.mean()(output), likelihood.distribution(output, {}).mean)


def test_mean_of_categories_are_probabilities_of_each_column_and_rows_of_one_hot_columns_have_their_density():
    logits = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Categorical(3).mean()(logits).unflatten(-1, (2, 3)).sum(-1), torch.ones(4, 2).double())
    labels = torch.tensor([[2.0, 0], [1, 1], [0, 2], [2, 2]], dtype=torch.float64)
    by_label = Categorical(3).distribution(logits, {}).log_prob(labels)
    one_hot = Categorical(3).encoder_input(labels)
    for column, block in enumerate(logits.split(3, dim=-1)):
        by_column = OneHotCategorical().distribution(block, {}).log_prob(one_hot.split(3, dim=-1)[column])
        torch.testing.assert_close(by_column.sum(-1), by_label[:, column])


# --- library size ---


@pytest.mark.parametrize("kind", [Poisson, NegativeBinomial, ZeroInflatedNegativeBinomial])
def test_mean_count_is_proportional_to_the_library_size_and_the_geometry_is_that_at_the_reference(kind):
    x = torch.tensor([[3.0, 1, 6], [10, 30, 60]], dtype=torch.float64)
    options = {} if kind is Poisson else {"total_count": 2.0}
    by_total, by_column = kind(RowTotal(50.0), **options), kind(LibraryColumn(-1, 50.0), **options)
    output = torch.zeros(2, by_total.num_outputs(3), dtype=torch.float64)
    at_reference = by_total.mean()(output)
    sizes = torch.tensor([[10.0], [100.0]], dtype=torch.float64)
    expected = at_reference * sizes / 50
    torch.testing.assert_close(by_total.distribution(output, by_total.known(x)).mean, expected)
    given_sizes = torch.cat([x, sizes], dim=-1)
    torch.testing.assert_close(by_column.distribution(output, by_column.known(given_sizes)).mean, expected)
    assert torch.equal(by_column.observed(given_sizes), x)
    torch.testing.assert_close(by_column.encoder_input(given_sizes), by_total.encoder_input(x))
    assert by_column.num_outputs(4) == by_total.num_outputs(3)


def test_rows_counted_more_deeply_are_read_alike_by_the_encoder():
    x = torch.tensor([[3.0, 1, 6], [30, 10, 60]])
    first, second = Poisson(RowTotal(100.0)).encoder_input(x)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(*Poisson().encoder_input(x))


# --- perceptual ---


class Edges(torch.nn.Module):
    """Differences of neighbours, squashed; random weights as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.diff(dim=-1, prepend=x[:, :1])).tanh()


def test_perceptual_likelihood_is_a_gaussian_of_the_features_always_the_same_ones():
    likelihood, again = Perceptual(Edges, 0.2), Perceptual(Edges, 0.2)
    x, output = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    density = likelihood.distribution(output, {}).log_prob(likelihood.observed(x))
    assert torch.equal(before, torch.get_rng_state())
    first, second = likelihood.observed(output), likelihood.observed(x)
    torch.testing.assert_close(density, torch.distributions.Normal(first, 0.2).log_prob(second))
    assert torch.equal(second, again.observed(x)) and second.shape == (5, 4)
    assert likelihood == again and hash(likelihood) == hash(again)
    torch.testing.assert_close(likelihood.isometry({})(output), first / 0.2)
    assert not list(likelihood.isometry({}).parameters())
