"""The conditional experiment: scores of fitted models, oracles, reports that compute nothing, comparison of runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import probgeo as pg
from experiments import conditional as experiment
from experiments.common.conditions import given_conditions, masks, numbers_of_conditions, oracle, scenario_of
from experiments.common.results import load_result

TINY = [
    *("--points", "200", "--dimension", "4", "--latent", "2", "--models", "ensemble", "--members", "2"),
    *("--retrainings", "2", "--pairs", "3", "--segments", "8", "--rows", "40", "--samples", "10", "--epochs", "1"),
    *("--width", "8"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run with two weights of the rate."""
    path = tmp_path_factory.mktemp("conditional") / "gaussians"
    experiment.main([*TINY, "--betas", "0.5", "2", "--out", str(path)])
    return path


def test_scores_are_those_of_the_fitted_models(folder):
    found = load_result(folder / "conditional.nc")["curves"]
    assert found.sizes["model"] == 2 and found.sizes["retraining"] == 2
    assert found.beta.values.tolist() == [0.5, 2.0]
    assert found.conditions.values.tolist() == [0, 1, 2, 3, 4]
    config = experiment.Config(points=200, dimension=4)
    scenario = scenario_of(config)
    x = scenario.test.x[:40]
    mask = masks(scenario, x, 3)
    assert (mask.sum(1) == 3).all()
    models = [pg.load(path) for path in sorted(folder.glob("trainings/*/seed-0"))]
    rates = [model.rate(x, mask).mean(0).sort(descending=True).values.detach().numpy() for model in models]
    stored = found.rate.sel(conditions=3, retraining=0).values
    order = [0, 1] if models[0].spec.beta == 0.5 else [1, 0]
    np.testing.assert_allclose(stored, np.stack(rates)[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.elbo, -found.distortion - found.rate.sum("latent"), rtol=1e-5, atol=1e-5)
    assert (found.rate.sel(conditions=4) >= 0).all() and (found.distortion.sel(conditions=4) == 0).all()


@pytest.mark.slow
def test_run_again_resumes_and_a_report_computes_nothing(folder, tmp_path, capsys):
    table = pd.read_csv(folder / "conditional-table.csv")
    trained = {path: path.stat().st_mtime_ns for path in folder.rglob("weights.safetensors")}
    experiment.main([*TINY, "--betas", "0.5", "2", "--out", str(folder)])
    again = capsys.readouterr().out
    assert len(trained) == 4 and all(path.stat().st_mtime_ns == time for path, time in trained.items())
    experiment.main(["--result", str(folder / "conditional.nc"), "--out", str(tmp_path)])
    assert capsys.readouterr().out.split("wrote")[0] == again.split("wrote")[0]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "conditional-table.csv"), table)
    assert not (tmp_path / "trainings").exists()
    for name in ("curves", "codes"):
        assert (tmp_path / f"conditional-{name}.png").stat().st_size > 0
    assert "greedy conditions" in again and "given x1" in again


def test_runs_are_compared_in_one_table(folder, tmp_path, capsys):
    experiment.main(["--compare", str(folder), str(folder), "--out", str(tmp_path)])
    assert "gaussians" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "conditional-compare.csv")
    assert len(found) == 4 and set(found.model) == {"ensemble β=0.5", "ensemble β=2"}
    stored = load_result(folder / "conditional.nc")["curves"]
    expected = float(stored.distortion.sel(model="ensemble β=2").mean())
    assert found[found.model == "ensemble β=2"].distortion.iloc[0] == pytest.approx(expected, rel=1e-5)
    assert (tmp_path / "conditional-compare.png").stat().st_size > 0


def test_the_oracle_is_the_conditional_mean_of_the_gaussian():
    scenario = scenario_of(experiment.Config(points=50, dimension=3, correlated=0.8))
    x = scenario.test.x[:1]
    found = oracle(scenario, x, torch.tensor([[True, False, False]]))
    # An autoregressive process: E[x_2 | x_1] = ρ x_1, E[x_3 | x_1] = ρ² x_1.
    torch.testing.assert_close(found, x[:, :1] * torch.tensor([1, 0.8, 0.64]), rtol=1e-5, atol=1e-6)
    turned = scenario_of(experiment.Config(points=50, dimension=2, project_to=4))
    x = turned.test.x[:5]
    # Two of four coordinates of a plane give the other two.
    found = oracle(turned, x, torch.tensor([True, True, False, False]).expand(5, 4))
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", experiment.PRESETS)
def test_every_preset_has_data_models_and_conditions(name):
    if "mnist" in name and not (pg.datasets.cache_folder() / "mnist").exists():
        pytest.skip("needs MNIST in PROBGEO_DATA")
    config = replace(experiment.PRESETS[name], points=500)
    scenario = scenario_of(config)
    for spec in experiment.specs_of(config, scenario).values():
        spec.check(scenario.train.x)
        spec.check(scenario.test.x[:500])
        model = spec.build(scenario.train.x.shape[1], seed=0)
        for values in given_conditions(scenario, config.mask != "none").values():
            assert model.given_values(values).decode(torch.zeros(1, config.latent)).isfinite().all()
    numbers = numbers_of_conditions(scenario.num_modelled, config.mask != "none")
    assert numbers[0] == 0 and numbers[-1] == (scenario.num_modelled if config.mask != "none" else 0)


@pytest.mark.slow
def test_images_and_labels_go_through_too(tmp_path, capsys):
    arguments = [*TINY[6:], "--rows", "200", "--scenario", "digits", "--labels", "--mask", "none"]
    experiment.main([*arguments, "--network", "convolutional", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "frechet_by_class" in printed and "given 2" in printed
    assert (tmp_path / "conditional-images.png").stat().st_size > 0


@pytest.mark.slow
def test_a_table_with_missing_values_goes_through(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=150), "kind": rng.choice(list("abc"), 150)})
    frame["weight"], frame["site"] = frame["size"] + rng.normal(size=150), rng.choice(["x", "y"], 150)
    frame.loc[::7, "size"], frame.loc[3::9, "kind"] = np.nan, None
    frame.to_csv(tmp_path / "plants.csv", index=False)
    arguments = [*TINY[4:], "--rows", "25", "--scenario", "table", "--path", str(tmp_path / "plants.csv")]
    experiment.main([*arguments, "--label-column", "site", "--out", str(tmp_path / "run")])
    found = load_result(tmp_path / "run" / "conditional.nc")["curves"]
    assert found.conditions.values.tolist() == [0, 1, 2, 3]
    assert found.distortion.notnull().all()
    with pytest.raises(SystemExit, match=r"path: expected a .csv or .tsv file"):
        experiment.main(["--scenario", "table", "--out", str(tmp_path / "none")])


def test_options_that_make_no_sense_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        experiment.main(["--retrainings", "1", "--out", str(tmp_path / "run")])
    assert "retrainings, models, betas: expected at least 2, 1 and 1" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
