"""The experiments: one command computes, resumes, prints the same table again, and says what is wrong."""

import json

import pytest
import xarray as xr

from experiments import identifiability
from experiments.common import parsed

TINY = [
    *("--models", "rbf", "ensemble", "--members", "2", "--retrainings", "2", "--pairs", "4", "--epochs", "1"),
    *("--width", "8", "--segments", "16"),
]


def test_identifiability_resumes_and_prints_the_same_table(tmp_path, capsys):
    identifiability.main([*TINY, "--out", str(tmp_path)])
    first = capsys.readouterr().out
    for name in ("identifiability.nc", "latent.nc", "table.csv", "cv_histogram.png", "latent.png"):
        assert (tmp_path / name).stat().st_size > 0
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trainings/*/*/weights.safetensors")}
    identifiability.main([*TINY, "--out", str(tmp_path)])
    assert capsys.readouterr().out == first
    assert len(written) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())


def test_result_carries_its_configuration_and_is_reported_without_computing(tmp_path, capsys):
    identifiability.main([*TINY, "--out", str(tmp_path / "run")])
    first = capsys.readouterr().out.splitlines()
    result = tmp_path / "run" / "identifiability.nc"
    config = json.loads(xr.load_dataset(result, engine="h5netcdf").attrs["config"])
    assert config["epochs"] == 1 and config["models"] == ["rbf", "ensemble"]
    identifiability.main(["--result", str(result), "--out", str(tmp_path / "again")])
    again = capsys.readouterr().out.splitlines()
    assert [line for line in first if not line.startswith(("wrote", "distances:"))] == again[:-1]
    assert not (tmp_path / "again" / "trainings").exists()


def test_another_configuration_in_the_folder_is_refused(tmp_path, capsys):
    identifiability.main([*TINY, "--out", str(tmp_path)])
    with pytest.raises(FileExistsError, match=r"folder: .* holds a study of other training"):
        identifiability.main([*TINY, "--epochs", "2", "--out", str(tmp_path)])


def test_unknown_data_set_names_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"unknown data set 'digit'; choose from digits, mnist"):
        identifiability.main(["--dataset", "digit", "--out", str(tmp_path)])


def test_options_override_quick_which_overrides_the_preset():
    def config(*arguments):
        return parsed(identifiability.Config, identifiability.PRESETS, identifiability.QUICK, arguments)

    assert config() == identifiability.Config()
    assert config("--preset", "mnist-50").latent == 50
    assert config("--preset", "mnist-3", "--quick").retrainings == identifiability.QUICK["retrainings"]
    assert config("--preset", "mnist-3", "--quick").classes == (0, 5, 7)
    assert config("--preset", "mnist-3", "--quick", "--retrainings", "4").retrainings == 4


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        identifiability.main(["--help"])
    text = capsys.readouterr().out
    for name in identifiability.Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    assert "Decoders in the ensemble." in text
