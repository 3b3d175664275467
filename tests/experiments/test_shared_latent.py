"""Two views, one latent space: stored errors are the models', the linear map is exact where it can be, reports compute
nothing."""

import numpy as np
import pandas as pd
import pytest
import torch

import probgeo as pg
from experiments import shared_latent as experiment
from experiments.common.results import load_result
from tests.models.test_views import hand

TINY = [
    *("--members", "2", "--retrainings", "2", "--pairs", "4", "--epochs", "1", "--width", "8", "--segments", "8"),
    *("--images", "3", "--rows", "200", "--latent", "2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("shared_latent")
    experiment.main([*TINY, "--out", str(path)])
    return path


def loaded(folder):
    """The two trained models, by seed."""
    return [pg.load(path).requires_grad_(False) for path in sorted(folder.glob("trainings/*/seed-*"))]


def test_stored_errors_are_those_of_the_fitted_models_on_rows_held_out(folder):
    found = load_result(folder / "shared_latent.nc")["errors"]
    _, test = pg.datasets.image_and_inverse(pg.datasets.digits()).split(0.8)
    assert found.attrs["num_rows"] == len(test) == 359
    for retraining, model in enumerate(loaded(folder)):
        error = found.error.sel(retraining=retraining, direction="image → inverse")
        truth = test.view("inverse")
        translated = model.translate(test.view("image"), "image", "inverse")
        assert float(error.sel(predictor="translation")) == pytest.approx(
            float((translated - truth).square().mean()), rel=1e-4
        )
        whole = model.reconstruct(test.x)[:, 64:]
        assert float(error.sel(predictor="all views")) == pytest.approx(
            float((whole - truth).square().mean()), rel=1e-4
        )
        cycle = model.cycle(test.view("image"), "image", "inverse").difference.mean()
        assert float(found.cycle.sel(direction="image → inverse")[retraining]) == pytest.approx(float(cycle), rel=1e-4)


def test_a_linear_map_is_exact_between_an_image_and_its_inverse_and_the_mean_has_the_variance(folder):
    found = load_result(folder / "shared_latent.nc")["errors"]
    # But for pixels that are black in all rows to train on.
    assert (found.error.sel(predictor="linear") < 0.01 * found.error.sel(predictor="mean")).all()
    train, test = experiment.observations(experiment.Config(rows=200))
    expected = float((test.view("inverse") - train.view("inverse").mean(0)).square().mean())
    assert float(found.error.sel(predictor="mean", direction="image → inverse")[0]) == pytest.approx(expected, rel=1e-4)
    explained = experiment.error_table(found).explained
    assert explained["image → inverse", "mean"] == 0 and explained["image → inverse", "linear"] > 0.99


def test_distances_of_views_agree_with_the_studys(folder):
    distance = load_result(folder / "shared_latent.nc")["distances"].distance.isel(model=0)
    assert distance.measure.values.tolist() == ["all views", "image", "inverse", "straight", "euclidean"]
    # A path that is shortest for the sum is no shorter than the shortest of each view.
    joint = distance.sel(measure="all views")
    assert (np.hypot(distance.sel(measure="image"), distance.sel(measure="inverse")) <= joint * (1 + 1e-3)).all()
    table = experiment.agreement_table(distance, ["image", "inverse"])
    first, second = (distance.sel(measure=name) for name in ("image", "inverse"))
    expected = pg.identifiability.rank_correlation(first, second)
    assert table.loc[("image", "inverse"), "ρ"] == pytest.approx(float(expected.mean()))


def test_shown_images_are_held_out_views_and_what_the_first_model_makes_of_them(folder):
    images = load_result(folder / "shared_latent.nc")["images"].images
    _, test = pg.datasets.image_and_inverse(pg.datasets.digits()).split(0.8)
    model = loaded(folder)[0]
    shown = torch.from_numpy(images.sel(row="image").values) / 255
    nearest = torch.cdist(shown, test.view("image")).min(1)
    assert nearest.values.max() < 0.02
    rows = test.rows(nearest.indices)
    translated = model.translate(rows.view("image"), "image", "inverse").clamp(0, 1)
    np.testing.assert_allclose(images.sel(row="image → inverse"), translated * 255, atol=0.51)
    assert images.sizes["row"] == 14


def test_a_report_computes_nothing_and_gives_the_same_tables(folder, tmp_path, capsys):
    experiment.main(["--result", str(folder / "shared_latent.nc"), "--out", str(tmp_path)])
    assert "Do two measures order the pairs alike?" in capsys.readouterr().out
    for name in ("errors.csv", "table.csv", "agreement.csv"):
        again, first = (pd.read_csv(path / f"shared_latent-{name}") for path in (tmp_path, folder))
        pd.testing.assert_frame_equal(again, first)
    assert not (tmp_path / "trainings").exists()
    for name in ("overview", "images"):
        assert (tmp_path / f"shared_latent-{name}.png").stat().st_size > 0


def test_rows_that_lack_a_view_train_the_model_but_not_the_linear_map():
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(60, 3, generator=generator)
    right = left @ torch.randn(3, 2, generator=generator)
    data = pg.datasets.two_views(left, right[:40])
    train, test = data.rows(torch.arange(20, 60)), data.rows(torch.arange(20))
    linear = experiment.linear_prediction(train, test, "left", "right")
    torch.testing.assert_close(linear, right[:20], rtol=0, atol=1e-2)
    spec = experiment.spec_of(experiment.Config(width=4, members=1), train)
    model = spec.build(5, seed=0).requires_grad_(False)
    found = experiment.errors([model, model], train, test)
    expected = (model.translate(test.view("left"), "left", "right") - test.view("right")).square().mean()
    stored = found.error.sel(direction="left → right", predictor="translation")
    np.testing.assert_allclose(stored, float(expected), rtol=1e-5)
    assert found["error of right"].sizes["column of right"] == 2


def test_hands_of_a_local_copy_are_two_views(tmp_path):
    for part, listing in (("Training", "labels.txt"), ("Testing", "test_seq_1.txt")):
        for number in range(3):
            joints = np.array([150.0, 110, 400]) + np.random.default_rng(number).normal(scale=10, size=(16, 3))
            hand(tmp_path, part, listing, f"seq/{number}.png", np.full((240, 320), 400), joints)
    config = experiment.Config(dataset="hands", folder=tmp_path, rows=2)
    train, test = experiment.observations(config)
    assert (len(train), len(test)) == (2, 3)
    experiment.spec_of(config, train).check(train.x)


def test_hands_without_a_folder_and_single_retrainings_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="error: folder: expected the folder of ICVL for --dataset hands; got none"):
        experiment.main([*TINY, "--dataset", "hands", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        experiment.main(["--retrainings", "1", "--out", str(tmp_path)])
    assert "retrainings: expected at least 2, as a variation" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_translations_of_digits_are_as_good_as_reconstructions(tmp_path):
    experiment.main(["--quick", "--out", str(tmp_path)])
    table = experiment.error_table(load_result(tmp_path / "shared_latent.nc")["errors"])
    for direction in ("image → inverse", "inverse → image"):
        translation, whole = (table.loc[(direction, name), "error"] for name in ("translation", "all views"))
        assert translation < 1.15 * whole
        assert table.loc[(direction, "translation"), "explained"] > 0.4
