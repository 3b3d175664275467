"""The calibration experiment: computes once, reports without computing, and refuses what has no error bar."""

import json

import pandas as pd
import pytest

from experiments import calibration
from experiments.common.options import parsed
from experiments.common.results import load_result

TINY = [
    *("--models", "ensemble", "--draws", "4", "--retrainings", "4", "--pairs", "8", "--epochs", "1"),
    *("--width", "8", "--segments", "16"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("calibration")
    calibration.main([*TINY, "--out", str(path)])
    return path


@pytest.mark.slow
def test_run_again_resumes_and_the_result_alone_gives_the_same_table(folder, tmp_path, capsys):
    trained = {path: path.stat().st_mtime_ns for path in folder.glob("trainings/*/*/weights.safetensors")}
    assert len(trained) == 4
    outputs = []
    for arguments in (
        [*TINY, "--out", str(folder)],
        ["--result", str(folder / "calibration.nc"), "--out", str(tmp_path)],
    ):
        calibration.main(arguments)
        outputs.append(capsys.readouterr().out.partition("wrote")[0])
    assert outputs[0] == outputs[1]
    assert all(path.stat().st_mtime_ns == time for path, time in trained.items())
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "calibration-table.csv"), pd.read_csv(folder / "calibration-table.csv")
    )
    for name in ("coverage", "ratios", "forest-ensemble"):
        assert (tmp_path / f"calibration-{name}.png").stat().st_size > 0


@pytest.mark.slow
def test_table_is_narrow_and_has_a_line_per_interval(folder, tmp_path, capsys):
    calibration.main(["--result", str(folder / "calibration.nc"), "--out", str(tmp_path)])
    lines = capsys.readouterr().out.partition("wrote")[0].splitlines()
    assert max(map(len, lines)) <= 100
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("Share of"))]
    for name in (
        "normal  ",
        "normal, exchangeable",
        "student",
        "recalibrated",
        "conformal",
        "own draws, left out",
    ):
        assert sum(name in line for line in table) == 1


@pytest.mark.slow
def test_result_carries_lengths_and_configuration(folder):
    lengths = load_result(folder / "calibration.nc")["lengths"]
    assert lengths.draw_length.dims == ("model", "retraining", "draw", "pair")
    assert dict(lengths.sizes) == {"model": 1, "retraining": 4, "draw": 4, "pair": 8}
    assert {"start", "stop", "seed"} <= set(lengths.coords)
    assert json.loads(lengths.attrs["config"])["draws"] == 4


def test_a_source_without_draws_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(SystemExit, match="error: models: 'rbf' has no decoder draws"):
        calibration.main([*TINY, "--models", "rbf", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        calibration.main([*TINY, "--models", "other", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "message"), [("--retrainings", "at least 4, two to"), ("--draws", "at least 4, as")]
)
def test_too_few_are_refused_with_the_reason(option, message, capsys):
    with pytest.raises(SystemExit):
        calibration.main([option, "3"])
    assert message in " ".join(capsys.readouterr().err.split())


def test_presets_are_of_the_published_data():
    config = parsed(calibration.Config, calibration.QUICK, calibration.PRESETS, ["--preset", "mnist-3"])
    assert (config.dataset, config.classes, config.pairs) == ("mnist", (0, 5, 7), 100)
    quick = parsed(calibration.Config, calibration.QUICK, calibration.PRESETS, ["--preset", "mnist-3", "--quick"])
    assert (quick.classes, quick.retrainings) == ((0, 5, 7), 4)
