"""The experiments: one command computes, resumes, prints the same table again, and says what is wrong."""

import dataclasses
import json
import shutil
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import probgeo as pg
from experiments import identifiability
from experiments.common.decoders import Source
from experiments.common.options import parsed
from experiments.common.results import load_result, save_result
from tests.study.test_study import spoilt

TINY = [
    *("--models", "rbf", "ensemble", "--members", "2", "--retrainings", "2", "--pairs", "4", "--epochs", "1"),
    *("--width", "8", "--segments", "16"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("identifiability")
    identifiability.main([*TINY, "--out", str(path)])
    return path


def test_run_again_resumes_and_prints_the_same_table(folder, capsys):
    table = pd.read_csv(folder / "identifiability-table.csv")
    trained = {path: path.stat().st_mtime_ns for path in folder.glob("trainings/*/*/weights.safetensors")}
    measured = {path: path.stat().st_mtime_ns for path in folder.glob("distances/*.nc")}
    outputs = []
    for _ in range(2):
        identifiability.main([*TINY, "--out", str(folder)])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "identifiability-table.csv"), table)
    assert (len(trained), len(measured)) == (4, 12)
    assert all(path.stat().st_mtime_ns == time for path, time in (trained | measured).items())
    for name in ("identifiability-cv.png", "identifiability-latent.png"):
        assert (folder / name).stat().st_size > 0


def test_result_carries_its_configuration_and_is_reported_without_computing(folder, tmp_path, capsys):
    result = folder / "identifiability.nc"
    config = json.loads(xr.load_dataset(result, group="distances", engine="h5netcdf").attrs["config"])
    assert config["epochs"] == 1 and config["models"] == ["rbf", "ensemble"]
    identifiability.main(["--result", str(result), "--out", str(tmp_path)])
    assert "geodesics that did not converge" in capsys.readouterr().out
    again, first = (pd.read_csv(path / "identifiability-table.csv") for path in (tmp_path, folder))
    pd.testing.assert_frame_equal(again, first)
    assert not (tmp_path / "trainings").exists()


def test_another_configuration_in_the_folder_is_refused(folder):
    with pytest.raises(SystemExit, match=r"folder: .* holds a study of other training"):
        identifiability.main([*TINY, "--epochs", "2", "--out", str(folder)])


def test_unknown_data_set_names_those_there_are(tmp_path):
    with pytest.raises(SystemExit, match=r"unknown data set 'digit'; choose from digits, mnist"):
        identifiability.main(["--dataset", "digit", "--out", str(tmp_path)])


def test_one_retraining_is_refused_before_anything_is_trained(tmp_path, capsys):
    with pytest.raises(SystemExit):
        identifiability.main(["--retrainings", "1", "--out", str(tmp_path / "run")])
    assert "retrainings: expected at least 2" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_options_override_quick_which_overrides_the_preset():
    def config(*arguments):
        return parsed(identifiability.Config, identifiability.QUICK, identifiability.PRESETS, arguments)

    assert config() == identifiability.Config()
    assert config("--preset", "mnist-50").latent == 50
    assert config("--preset", "mnist-3", "--quick").retrainings == identifiability.QUICK["retrainings"]
    assert config("--preset", "mnist-3", "--quick").classes == (0, 5, 7)
    assert config("--preset", "mnist-3", "--quick", "--retrainings", "4").retrainings == 4


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        identifiability.main(["--help"])
    text = capsys.readouterr().out
    for name in (field.name for field in dataclasses.fields(identifiability.Config)):
        assert f"--{name.replace('_', '-')}" in text
    assert "Decoders in the ensemble." in text


def test_every_name_of_a_model_has_a_spec():
    shape, num_outputs = pg.datasets.digits().shape, 64
    for name in (*get_args(Source), *get_args(identifiability.Architecture)):
        spec = identifiability.spec_of(name, identifiability.Config(), shape)
        assert spec.decoder.build(spec.latent, num_outputs, spec.likelihood)
        assert spec.encoder.build(num_outputs, 2 * spec.latent)


def test_elbo_of_the_result_is_that_of_the_best_epoch(folder, capsys):
    elbo = xr.load_dataset(folder / "identifiability.nc", group="distances", engine="h5netcdf").elbo
    models = [pg.load(path) for path in sorted(folder.glob("trainings/*/seed-*"))]
    losses = [model.history.validation_loss[-1].item() for model in models]  # one epoch in every phase
    np.testing.assert_allclose(np.sort(elbo.values.ravel()), np.sort(-np.array(losses)), rtol=1e-5)
    identifiability.main(["--result", str(folder / "identifiability.nc"), "--out", str(folder)])
    assert f"ensemble {elbo.sel(model='ensemble').mean():.1f} ±" in capsys.readouterr().out


@pytest.mark.slow
def test_the_table_states_the_solvers_share_which_is_kept_and_leaves_the_distances(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    printed, measured = [], []
    for _ in range(2):
        identifiability.main([*TINY, "--tight-pairs", "2", "--bends", "1", "--out", str(tmp_path)])
        printed.append(capsys.readouterr().out)
        measured.append({path: path.stat().st_mtime_ns for path in tmp_path.glob("distances/*.nc")})
    assert printed[0] == printed[1] and measured[0] == measured[1]
    for model in ("rbf", "ensemble"):
        assert f"Solver's share, {model}, geodesic: median excess" in printed[0]
    assert "over tight searches of 2 pairs per training" in " ".join(printed[0].split())
    first, more = (pd.read_csv(path / "identifiability-table.csv", index_col=[0, 1]) for path in (folder, tmp_path))
    pd.testing.assert_frame_equal(more[first.columns], first)
    assert more["excess_pairs"].dropna().tolist() == [2, 2] and (more["excess_median"].dropna() >= 0).all()
    identifiability.main(["--result", str(tmp_path / "identifiability.nc"), "--out", str(tmp_path / "again")])
    assert "Solver's share, rbf, geodesic" in capsys.readouterr().out


@pytest.mark.slow
def test_angles_and_volumes_have_tables_of_their_own_and_leave_the_distances(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    identifiability.main([*TINY, "--published-energy", "--angles", "5", "--volumes", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "5 of 5 triples" in printed and "10 of 10 regions" in printed
    first, more = (pd.read_csv(path / "identifiability-table.csv", index_col=[0, 1]) for path in (folder, tmp_path))
    pd.testing.assert_series_equal(more["cv"].loc[first.index], first["cv"])
    rows = {kind: pd.read_csv(tmp_path / f"identifiability-{kind}.csv").measure for kind in ("angles", "volumes")}
    assert set(rows["angles"]) == {"geodesic", "straight", "euclidean"}  # the published energy has no angles
    assert set(rows["volumes"]) == {"geodesic", "euclidean"}  # and a straight line no volume


def test_results_keep_five_digits_and_what_is_not_finite(tmp_path):
    values = np.random.default_rng(0).normal(size=4000) * 10.0 ** np.arange(-20, 20).repeat(100)
    values[:4] = np.nan, np.inf, -np.inf, 0
    dataset = xr.Dataset({"x": ("row", values, {"unit": "nat"}), "count": ("row", np.arange(4000))}, attrs={"of": "a"})
    save_result({"group": dataset}, identifiability.Config(), tmp_path / "result.nc")
    found = load_result(tmp_path / "result.nc")["group"]
    np.testing.assert_allclose(found.x, values, rtol=1e-5)
    assert found.x.attrs == {"unit": "nat"} and found.attrs["of"] == "a" and (found["count"] == dataset["count"]).all()
    assert not (found.x.values[3:].astype(np.float32).view(np.uint32) % 2**7).any()  # the rest compresses away


@pytest.mark.slow
def test_a_diverged_retraining_costs_itself_alone(tmp_path, monkeypatch, capsys):
    spoilt(monkeypatch)  # seed 1
    with pytest.warns(pg.study.RetrainingLost, match="retraining 1: training diverged"):
        identifiability.main([*TINY, "--retrainings", "3", "--epochs", "2", "--out", str(tmp_path)])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("ELBO"))
    assert "nan" not in line
    elbo = xr.load_dataset(tmp_path / "identifiability.nc", group="distances", engine="h5netcdf").elbo
    assert elbo.isnull().values.tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize(
    ("option", "value"), [("angles", "1"), ("tight-pairs", "1"), ("tight-pairs", "-1"), ("bends", "-1")]
)
def test_a_number_that_no_table_comes_of_is_refused_before_anything_is_trained(option, value, tmp_path, capsys):
    with pytest.raises(SystemExit):
        identifiability.main([*TINY, f"--{option}={value}", "--out", str(tmp_path)])
    assert f"{option.replace('-', '_')}: expected" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
