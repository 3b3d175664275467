"""The Gaussian process latent variable model: its bound, missing values, projection, and its place in fit and Study."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from probgeo.datasets.manifolds import circle, surface
from probgeo.geometry.geodesics import GaussNewton
from probgeo.models.gp.gplvm import GPLVM, FittedGPLVM
from probgeo.study import Geodesic, StraightLine, Study
from probgeo.training import storage
from probgeo.training.fit import Training, TrainingDiverged, fit
from probgeo.training.schedules import Cosine
from tests.fitted import counted_epochs, interrupted_after, same

TRAINING = Training(epochs=40, batch_size=50)
SPEC = GPLVM(num_inducing=20)


def data(num_rows: int = 150) -> Tensor:
    """A noisy circle, turned into six dimensions."""
    return circle(num_rows, noise=0.05, seed=1, ambient=6).x


def with_gaps(x: Tensor, share: float = 0.2) -> Tensor:
    gaps = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < share
    gaps[:, 0] = False  # every row keeps a value
    return torch.where(gaps, torch.nan, x)


def trained(spec=SPEC, x=None, seeds=(0,), training=TRAINING, **options) -> list[FittedGPLVM]:
    return fit(spec, data() if x is None else x, seeds, training=training, progress=False, **options)


@pytest.fixture(scope="module")
def model() -> FittedGPLVM:
    return trained()[0].requires_grad_(False)


def points(num_points: int = 6) -> Tensor:
    return torch.randn(num_points, 2, generator=torch.Generator().manual_seed(5))


# --- the bound ---


def test_likelihood_is_the_expectation_over_the_process_of_what_is_observed(model):
    x = with_gaps(data())[:8].double()
    mean, log_std, noise = (points(24).double() / scale for scale in (1, 10, 1))
    mean, log_std, noise = mean[:8], log_std[8:16] - 2, noise[16:]
    log_likelihood, kl = model.terms(x, mean, log_std, noise)
    z = mean + log_std.exp() * noise
    function_std, noise_std = model.process.variance(z).sqrt(), model.process.noise_variance().sqrt()
    nodes, weights = (torch.from_numpy(value) for value in np.polynomial.hermite_e.hermegauss(20))
    functions = model.process.mean(z)[..., None] + function_std[..., None] * nodes
    densities = torch.distributions.Normal(functions, noise_std).log_prob(x.nan_to_num()[..., None])
    expected = (densities * weights).sum(-1) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(log_likelihood, torch.where(x.isnan(), 0, expected).sum(1))
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, log_std.exp()), normal(torch.zeros(2), torch.ones(2)))
    torch.testing.assert_close(kl, divergence.sum(1))


def test_bound_rises_and_its_terms_add_up(model):
    history = model.history
    assert history.loss[-1] < history.loss[0] - 1
    torch.testing.assert_close(
        torch.from_numpy(history.loss.values), torch.from_numpy((history.kl - history.log_likelihood).values)
    )


def test_curved_data_are_reconstructed_better_than_by_principal_components():
    x = surface(200, noise=0.03, seed=0, ambient=8).x
    (model,) = trained(GPLVM(num_inducing=40), x, training=Training(epochs=80, batch_size=100))
    pca = PCA(2).fit(x.numpy())
    linear = torch.from_numpy(pca.inverse_transform(pca.transform(x.numpy())))
    assert (model.reconstruct(x) - x).square().mean() < 0.25 * (linear - x).square().mean()


def test_codes_have_posteriors_narrower_than_the_prior(model):
    encoding = model.encode(data())
    assert (encoding.std < 0.5).all()
    assert 0.5 < encoding.mean.square().mean() < 2


# --- missing values ---


def test_missing_values_are_imputed_better_than_by_the_columns_means():
    complete = data(200)
    x = with_gaps(complete)
    (model,) = trained(x=x)
    gaps = x.isnan()
    imputed = model.reconstruct(x)[gaps]
    by_means = x.nanmean(0).expand_as(x)[gaps]
    assert (imputed - complete[gaps]).square().mean() < 0.2 * (by_means - complete[gaps]).square().mean()


def test_who_sees_less_is_less_certain(model):
    x = data()[:20] + 1e-5
    blind = x.index_fill(1, torch.tensor([0, 2, 4]), torch.nan)
    assert (model.encode(blind).std > model.encode(x).std).all()


# --- codes of rows ---


def test_training_rows_have_the_codes_that_they_were_trained_to(model):
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))[:40]
    encoding = model.encode(data()[order])
    assert torch.equal(encoding.mean, model.code_mean[order])
    assert torch.equal(encoding.std, model.code_log_std[order].exp())


def test_projection_of_a_training_row_lands_near_its_own_code(model):
    x = data()
    projected, own = model.encode(x + 1e-6), model.encode(x)
    assert not torch.equal(projected.mean, own.mean)
    apart = ((projected.mean - own.mean) / own.std).square().mean(1).sqrt()
    assert apart.median() < 1
    assert apart.max() < 4


def test_projection_of_a_row_does_not_depend_on_the_others(model):
    x = circle(12, noise=0.05, seed=1, ambient=6).x + 0.01
    torch.testing.assert_close(model.encode(x).mean[3:5], model.encode(x[3:5]).mean, rtol=1e-3, atol=1e-3)


def test_new_rows_of_the_same_circle_are_reconstructed_to_the_noise():
    ring = circle(250, noise=0.05, seed=1, ambient=6)
    (model,) = trained(x=ring.x[:150])
    error = (model.reconstruct(ring.x[150:]) - ring.immersion(ring.latent[150:])).square().mean().sqrt()
    assert error < 0.05


# --- fit, files, studies ---


def test_retrainings_differ_and_each_is_that_trained_alone(tmp_path):
    quick, state = Training(epochs=3), torch.get_rng_state()
    first, second = trained(seeds=(0, 1), training=quick, folder=tmp_path)
    (alone,) = trained(seeds=(1,), training=quick)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert alone.history.identical(second.history)
    assert not torch.equal(first.code_mean, second.code_mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loaded_model_is_the_fitted_one_and_is_not_trained_again(tmp_path, monkeypatch, dtype):
    x, quick = with_gaps(data()).to(dtype), Training(epochs=2)
    (model,) = trained(GPLVM(num_inducing=10, lengthscale=0.5), x, training=quick, folder=tmp_path)
    monkeypatch.setattr("probgeo.training.fit.train", None)
    (again,) = trained(GPLVM(num_inducing=10, lengthscale=0.5), x, training=quick, folder=tmp_path)
    for loaded in (again, storage.load(tmp_path / "seed-0")):
        assert loaded.spec == model.spec
        z = loaded.encode(x).mean
        assert z.dtype == dtype
        assert torch.equal(z, model.encode(x).mean)
        assert torch.equal(loaded.metric().tensor(z), model.metric().tensor(z))
        assert torch.equal(loaded.draws(2, seed=1)(z), model.draws(2, seed=1)(z))
        assert torch.equal(loaded.uncertainty(z), model.uncertainty(z))
    with pytest.raises(FileExistsError, match="another model"):
        trained(GPLVM(num_inducing=11), x, training=quick, folder=tmp_path)


def test_a_given_length_scale_stays_and_makes_the_gap_uncertain(model):
    (short,) = trained(GPLVM(num_inducing=40, lengthscale=0.3))
    torch.testing.assert_close(short.process.kernel.base_kernel.lengthscale, torch.full((1, 2), 0.3))
    hole, prior = short.encode(data()).mean.mean(0, keepdim=True), torch.full((1, 2), 20.0)
    assert short.uncertainty(hole) > 0.9 * short.uncertainty(prior)
    assert model.uncertainty(hole) < 0.5 * model.uncertainty(prior)


def test_fisher_rao_metric_is_in_units_of_the_noise(model):
    z = points()
    expected = model.metric().tensor(z) / model.process.noise_variance().float()
    torch.testing.assert_close(model.fisher_rao_metric().tensor(z), expected)


def test_a_study_measures_distances_under_the_model(tmp_path):
    solver = GaussNewton(num_segments=32)
    study = Study(
        tmp_path,
        data=data(),
        pairs=torch.tensor([[0, 1], [2, 3], [4, 4]]),
        models={"gplvm": SPEC},
        seeds=(0, 1),
        measures={"geodesic": Geodesic(solver=solver), "straight": StraightLine(num_segments=32)},
        training=Training(epochs=3),
    )
    distance = study.run(progress=False).distance.sel(model="gplvm")
    assert (distance.sel(pair=[0, 1]) > 0).all()
    assert (distance.sel(pair=2) == 0).all()
    shorter = distance.sel(measure="geodesic") <= 1.001 * distance.sel(measure="straight")
    assert shorter.all()


@pytest.mark.parametrize("num_checkpoints", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch, num_checkpoints):
    training = Training(epochs=4, batch_size=50, schedule=Cosine(0.1), max_gradient_norm=5.0)

    def run(folder):
        return trained(seeds=(0, 1), training=training, folder=tmp_path / folder, checkpoint_seconds=0.0)

    expected = run("whole")
    interrupted_after(monkeypatch, num_checkpoints, lambda: run("resumed"))
    epochs = counted_epochs(monkeypatch)
    for first, second in zip(expected, run("resumed"), strict=True):
        same(first, second)
    assert epochs == [*range(num_checkpoints, 4), *range(4)]  # of the first retraining, then of the second
    assert {path.name for path in (tmp_path / "resumed").iterdir()} == {"seed-0", "seed-1"}


@pytest.mark.parametrize(("option", "value"), [("patience", 3), ("validation", 0.5)])
def test_options_that_need_rows_held_out_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"^{option}: .*holds? out|^{option}: .*held out"):
        trained(training=Training(epochs=2, **{option: value}))


def test_without_rows_held_out_the_default_share_of_them_makes_no_difference():
    for name, value in trained(training=Training(epochs=2))[0].state_dict().items():
        assert torch.equal(value, trained(training=Training(epochs=2, validation=0.0))[0].state_dict()[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_follows_the_data():
    (model,) = trained(x=data().cuda(), training=Training(epochs=2))
    z = model.encode(data().cuda() + 0.01).mean
    assert z.is_cuda
    assert model.metric().tensor(z).is_cuda
    assert model.draws(2)(z).is_cuda


# --- what goes wrong ---


@pytest.mark.filterwarnings("ignore:A not p.d.")
def test_a_diverged_training_says_so_and_keeps_good_weights():
    with pytest.raises(TrainingDiverged, match="seed 0 at epoch") as raised:
        trained(training=Training(epochs=5, optimizer=torch.optim.SGD, learning_rate=1e12))
    assert raised.value.models[0].encode(data()).mean.isfinite().all()


def test_data_that_cannot_be_fitted_are_refused():
    x = data(30)
    with pytest.raises(ValueError, match=r"num_inducing: .* rows of x \(15\); got 20"):
        trained(x=x[:15])
    with pytest.raises(ValueError, match="row 2 has none"):
        trained(x=x.index_fill(0, torch.tensor([2]), torch.nan))
    with pytest.raises(ValueError, match="column 1 has none"):
        trained(x=x.index_fill(1, torch.tensor([1]), torch.nan))
    with pytest.raises(ValueError, match="got inf at row 4, column 0"):
        trained(x=x.index_put((torch.tensor([4]), torch.tensor([0])), torch.tensor(math.inf)))
    with pytest.raises(ValueError, match="latent: expected at most as many dimensions"):
        trained(GPLVM(latent=7, num_inducing=5), x)
    with pytest.raises(TypeError, match="expected a floating-point tensor"):
        trained(x=x.long())
    with pytest.raises(ValueError, match=r"expected shape \(row, feature\)"):
        trained(x=x[0])


def test_other_observations_than_those_of_the_training_are_refused(model):
    with pytest.raises(ValueError, match="built for 6 observations per row"):
        model.encode(data()[:, :5])
    with pytest.raises(ValueError, match="row 0 has none"):
        model.encode(torch.full((1, 6), torch.nan))


@pytest.mark.parametrize(
    "options", [{"latent": 0}, {"num_inducing": 0}, {"jitter": -1.0}, {"rate": 0.0}, {"lengthscale": 0.0}]
)
def test_options_outside_their_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        GPLVM(**options)
