"""Reconstructions: the log likelihood against closed forms, what is shown, and reports that compute nothing."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import MultivariateNormal

import probgeo as pg
from experiments import reconstructions as experiment
from experiments.common.results import load_result

TINY = ["--members", "2", "--images", "5", "--epochs", "1", "--width", "8", "--segments", "16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("reconstructions")
    experiment.main([*TINY, "--out", str(path)])
    return path


def linear_model(std: float = 0.5) -> tuple[pg.models.vae.FittedVAE, MultivariateNormal]:
    """x = W z + b + noise with orthogonal columns of W, its encoder the exact posterior; and the law of x."""
    linear = pg.nn.MLP(hidden=())
    model = pg.VAE(2, pg.Decoder(linear), pg.Gaussian(std), encoder=linear).build(5, seed=0).double()
    W = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    W = W * torch.tensor([2.0, 0.7], dtype=torch.float64)
    b = torch.linspace(-1, 1, 5, dtype=torch.float64)
    variance = 1 / (1 + W.square().sum(0) / std**2)
    to_mean = variance[:, None] * W.T / std**2
    with torch.no_grad():
        model.decoder.network[0].weight.copy_(W)
        model.decoder.network[0].bias.copy_(b)
        model.encoder[0].weight.copy_(torch.cat([to_mean, torch.zeros_like(to_mean)]))
        model.encoder[0].bias.copy_(torch.cat([-to_mean @ b, variance.log() / 2]))
    return model, MultivariateNormal(b, W @ W.T + std**2 * torch.eye(5, dtype=torch.float64))


def test_log_likelihood_is_exact_where_the_encoder_is_the_posterior():
    model, law = linear_model()
    x = law.sample((7,))
    found = experiment.log_likelihoods(model, x, num_draws=1, num_samples=1)
    torch.testing.assert_close(found, law.log_prob(x), rtol=1e-9, atol=1e-9)


def test_log_likelihood_is_a_lower_bound_that_more_samples_tighten():
    model, law = linear_model()
    x = law.sample((40,))
    with torch.no_grad():
        model.encoder[0].bias[2:] += 0.3  # a wider proposal than the posterior
    few, many = (experiment.log_likelihoods(model, x, num_draws=1, num_samples=num).mean() for num in (1, 200))
    assert few < many < law.log_prob(x).mean() + 0.02
    assert many > law.log_prob(x).mean() - 0.05


def test_log_likelihood_depends_on_its_seed_alone_and_leaves_the_random_state():
    model, law = linear_model()
    with torch.no_grad():
        model.encoder[0].bias[2:] += 0.3
    x = law.sample((5,))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = experiment.log_likelihoods(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(experiment.log_likelihoods(model, x), first)
    assert not torch.equal(experiment.log_likelihoods(model, x, seed=1), first)


def test_mean_image_is_scored_by_the_variance_and_the_entropy_of_its_own_data():
    x = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = experiment.mean_image_scores(x, x)
    variance = x.var(0, correction=0).mean()
    assert scores["squared_error"] == pytest.approx(variance.item())
    entropy = 4 * 0.5 * (1 + torch.log(2 * torch.pi * variance))
    assert scores["log_likelihood"] == pytest.approx(-entropy.item())


def test_shown_rows_take_the_classes_in_turn():
    labels = torch.tensor([3, 3, 1, 7, 3, 1, 7])
    assert labels[experiment.shown_rows(labels, 6)].tolist() == [1, 3, 7, 1, 3, 7]
    assert experiment.shown_rows(labels, 7)[-1] == 4


@pytest.mark.slow
def test_stored_images_and_scores_are_those_of_the_fitted_models(folder):
    groups = load_result(folder / "reconstructions.nc")
    images, scores = groups["images"], groups["scores"]
    _, held_out = pg.datasets.digits().split(0.9)
    shown = held_out.x[experiment.shown_rows(held_out.labels, 5)]
    assert scores.model.values.tolist() == ["mean image", "single", "rbf", "ensemble"]
    assert len(held_out) == scores.attrs["num_rows"] == 180
    np.testing.assert_allclose(images.shown, shown * 255, atol=0.5)
    for name in ("single", "rbf", "ensemble"):
        model = pg.load(folder / "trainings" / name / "seed-0")
        with torch.no_grad():
            error = (held_out.x - model.reconstruct(held_out.x)).square().mean()
            mean = model.reconstruct(shown).clamp(0, 1)
            std = model.decoder.variance(model.encode(shown).mean, torch.nn.Identity()).sqrt()
        assert float(scores.squared_error.sel(model=name)) == pytest.approx(error.item(), rel=1e-4)
        stored = images.sel(model=name)
        np.testing.assert_allclose(stored.images.sel(row="mean"), mean * 255, atol=0.51)
        np.testing.assert_allclose(stored.images.sel(row="std") / 255 * stored.largest_std, std, atol=0.003)
        for way in ("line", "geodesic"):  # both join the first two images
            ends = stored.images.sel(row=way)[[0, -1]].astype(int)
            np.testing.assert_allclose(ends, stored.images.sel(row="mean")[:2].astype(int), atol=1)


@pytest.mark.slow
def test_a_report_computes_nothing_and_prints_the_same(folder, tmp_path, capsys):
    table = pd.read_csv(folder / "reconstructions-table.csv")
    trained = {path: path.stat().st_mtime_ns for path in folder.rglob("weights.safetensors")}
    experiment.main(["--result", str(folder / "reconstructions.nc"), "--out", str(tmp_path)])
    reported = capsys.readouterr().out
    experiment.main([*TINY, "--out", str(folder)])
    assert reported.split("wrote")[0] in capsys.readouterr().out
    assert len(trained) == 3 and all(path.stat().st_mtime_ns == time for path, time in trained.items())
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "reconstructions-table.csv"), table)
    assert not (tmp_path / "trainings").exists()
    assert (tmp_path / "reconstructions.png").stat().st_size > 0


def test_data_that_are_no_images_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="expected images; the rows of 'two_moons' are vectors"):
        experiment.main([*TINY, "--dataset", "two_moons", "--out", str(tmp_path)])
