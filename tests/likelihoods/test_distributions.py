"""Likelihoods: densities against SciPy, and isometries whose pull-back is the Fisher information."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jacfwd

from probgeo.likelihoods import Bernoulli, Gaussian

EPS = torch.finfo(torch.float64).eps
LOGITS = torch.linspace(-30, 30, 121, dtype=torch.float64)
STDS = [Gaussian(0.3), Gaussian()]


def parameters(likelihood: Gaussian, std: float = 0.3) -> dict[str, torch.Tensor]:
    log_std = torch.tensor(math.log(std), dtype=torch.float64)
    return {"log_std": log_std} if likelihood.std is None else {}


def slopes(function, points: torch.Tensor) -> torch.Tensor:
    return torch.stack([jacfwd(function)(point) for point in points])


@pytest.mark.parametrize("likelihood", STDS)
def test_gaussian_density_is_scipys(likelihood):
    torch.manual_seed(0)
    output, x = torch.randn(2, 5, 3, dtype=torch.float64)
    density = likelihood.distribution(output, parameters(likelihood)).log_prob(x)
    expected = scipy.stats.norm(output.numpy(), 0.3).logpdf(x.numpy())
    torch.testing.assert_close(density, torch.from_numpy(expected), rtol=100 * EPS, atol=100 * EPS)


def test_bernoulli_probability_is_scipys():
    x = torch.tensor([0.0, 1.0], dtype=torch.float64)
    output = LOGITS[::10, None].expand(-1, 2)
    mass = Bernoulli().distribution(output, {}).log_prob(x)
    p = torch.sigmoid(output)
    expected = scipy.stats.bernoulli.logpmf(x.numpy(), p.numpy())
    # SciPy's log(1 - p) loses the digits that logits keep, so large logits are compared loosely.
    torch.testing.assert_close(mass, torch.from_numpy(expected), rtol=1e-2, atol=1e-9)
    torch.testing.assert_close(mass.exp().sum(1), torch.ones(len(p), dtype=torch.float64), rtol=8 * EPS, atol=0)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(-20, 20))
def test_bernoulli_of_a_grey_value_is_the_cross_entropy(grey, logit):
    x, output = torch.tensor([[grey]], dtype=torch.float64), torch.tensor([[logit]], dtype=torch.float64)
    p = torch.sigmoid(output)
    expected = x * p.log() + (1 - x) * torch.sigmoid(-output).log()
    found = Bernoulli().distribution(output, {}).log_prob(x)
    torch.testing.assert_close(found, expected, rtol=100 * EPS, atol=100 * EPS)


def test_bernoulli_isometry_is_twice_the_arcsine_of_the_root_of_p():
    isometry = Bernoulli().isometry({})
    p = torch.linspace(1e-3, 1 - 1e-3, 101, dtype=torch.float64)
    torch.testing.assert_close(isometry(p.logit()), 2 * p.sqrt().asin(), rtol=100 * EPS, atol=100 * EPS)


def test_bernoulli_pull_back_is_the_fisher_information():
    p = torch.sigmoid(LOGITS)
    information = p * torch.sigmoid(-LOGITS)  # of a Bernoulli with respect to its logit
    found = slopes(Bernoulli().isometry({}), LOGITS).square()
    # 1 - tanh²(ℓ/4) cancels: the information is exact relative to its largest value.
    torch.testing.assert_close(found, information, rtol=1e-6, atol=10 * EPS)


@pytest.mark.parametrize("likelihood", STDS)
def test_gaussian_pull_back_is_the_fisher_information(likelihood):
    found = slopes(likelihood.isometry(parameters(likelihood)), LOGITS).square()
    torch.testing.assert_close(found, torch.full_like(found, 1 / 0.3**2), rtol=100 * EPS, atol=0)


def test_fisher_information_is_the_mean_squared_score():
    # E over x of (∂ log p(x | output) / ∂output)², exactly for a Bernoulli: an independent route to the isometry.
    for logit in (-3.0, 0.0, 1.5):
        ell = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
        information = torch.zeros(1, dtype=torch.float64)
        for x in (0.0, 1.0):
            log_mass = Bernoulli().distribution(ell, {}).log_prob(torch.tensor([x], dtype=torch.float64))
            (score,) = torch.autograd.grad(log_mass.sum(), ell)
            information += log_mass.exp().detach() * score**2
        slope = jacfwd(Bernoulli().isometry({}))(ell.detach())[0]
        torch.testing.assert_close(slope**2, information, rtol=100 * EPS, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_extreme_logits(dtype):
    logits = torch.tensor([-500.0, -90.0, 0.0, 90.0, 500.0], dtype=dtype, requires_grad=True)
    angle = Bernoulli().isometry({})(logits)
    (gradient,) = torch.autograd.grad(angle.sum(), logits)
    assert gradient.isfinite().all()
    torch.testing.assert_close(angle[[0, -1]], torch.tensor([0.0, torch.pi], dtype=dtype), atol=1e-6, rtol=0)
    for x in (0.0, 0.3, 1.0):
        density = Bernoulli().distribution(logits, {}).log_prob(torch.full_like(logits, x))
        (gradient,) = torch.autograd.grad(density.sum(), logits)
        assert density.isfinite().all()
        assert gradient.isfinite().all()


def test_isometries_keep_the_dtype():
    assert Gaussian(0.1).isometry({})(torch.ones(2)).dtype == torch.float32
    assert torch.equal(
        Gaussian(0.1).isometry({})(torch.ones(2, dtype=torch.float64)), torch.full((2,), 1 / 0.1, dtype=torch.float64)
    )


def test_mean_is_the_mean_of_the_distribution():
    output = LOGITS[::10]
    for likelihood in (Gaussian(0.3), Bernoulli()):
        torch.testing.assert_close(likelihood.mean()(output), likelihood.distribution(output, {}).mean)


def test_learned_standard_deviation_starts_at_that_of_the_data():
    torch.manual_seed(0)
    x = 3 * torch.randn(2000, 2)
    assert abs(Gaussian().initial_parameters(2, x)["log_std"].exp() - 3) < 0.2
    assert Gaussian().initial_parameters(2)["log_std"] == 0
    assert Gaussian(1.0).initial_parameters(2, x) == Bernoulli().initial_parameters(2, x) == {}
    assert Gaussian().initial_parameters(2, torch.ones(4, 2))["log_std"].isfinite()


@pytest.mark.parametrize("likelihood", [Gaussian(), Gaussian(1.0), Bernoulli()])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_data_that_are_not_finite_are_refused_with_their_place(likelihood, value):
    x = torch.rand(4, 3)
    likelihood.check(x)
    x[2, 1] = value
    with pytest.raises(ValueError, match=rf"x: expected finite values; got {value} at row 2, column 1 \(1 such"):
        likelihood.check(x)


@pytest.mark.parametrize("value", [-0.25, 1.5])
def test_bernoulli_data_outside_the_unit_interval_are_refused_with_their_place(value):
    x = torch.rand(4, 3)
    x[3, 0] = value
    complaint = rf"expected values in \[0, 1\], as a Bernoulli likelihood needs; got {value} at row 3, column 0"
    with pytest.raises(ValueError, match=complaint):
        Bernoulli().check(x)
    Gaussian().check(x)


@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan])
def test_a_standard_deviation_that_is_not_positive_is_refused(std):
    with pytest.raises(ValueError, match=r"std: expected a (positive )?number"):
        Gaussian(std)


def test_a_value_far_down_in_the_data_is_refused_with_its_place():
    x = torch.zeros(9000, 2)
    x[5000, 1] = x[5001, 0] = x[8999, 0] = torch.nan
    with pytest.raises(ValueError, match=r"got nan at row 5000, column 1 \(2 such values so far\)"):
        Gaussian().check(x)
    with pytest.raises(ValueError, match=r"got nan at row 3999, column 0 \(1 such values\)"):
        Gaussian().check(x[5000:].where(torch.arange(5000, 9000)[:, None] > 5001, 0.0))
