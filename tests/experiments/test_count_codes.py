"""Training or model: levels are chosen on the first data by a rule, and a tiny run goes from end to end."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from experiments import count_codes
from experiments.count_codes import BASE, Setting


def accuracies(**means: float) -> xr.DataArray:
    """Three trainings of each setting, 0.01 to either side of its mean, in two dimensions."""
    values = np.array([[[mean - 0.01, mean, mean + 0.01] for mean in means.values()]] * 2)
    names = [BASE if name == "base" else name for name in means]
    return xr.DataArray(values, dims=("latent", "setting", "retraining"), coords={"setting": names})


def test_a_level_is_better_by_more_than_two_standard_errors_and_the_best_comes_last():
    # Of three trainings of standard deviation .01, two standard errors of a difference are .0163.
    found = count_codes.better(accuracies(base=0.8, a=0.85, b=0.816, c=0.817, d=0.7))
    assert found == ["c", "a"]


def test_levels_are_taken_together_of_each_factor_the_best():
    among = {
        BASE: Setting(),
        "poisson": Setting(likelihood="poisson"),
        "fast": Setting(learning_rate=0.01),
        "logs": Setting(likelihood="gaussian of logs"),
    }
    assert count_codes.together(["logs", "fast", "poisson"], among) == Setting(likelihood="poisson", learning_rate=0.01)
    assert count_codes.together([], among) == Setting()


def test_every_level_changes_one_factor_of_the_base():
    config, base = count_codes.Config(), Setting(epochs=7)
    for name, setting in count_codes.settings(config, base).items():
        own, others = dataclasses.asdict(setting), dataclasses.asdict(base)
        assert sum(own[key] != others[key] for key in own) == (name != BASE)


def test_an_encoder_of_rates_undoes_the_logarithm_that_it_is_given():
    counts, total = torch.tensor([[3.0, 1.0], [8.0, 8.0]]), 8.0
    spec = count_codes.spec_of(Setting(input="rates", width=4), 2, total)
    encoder = spec.encoder.build(2, 4)
    rates = counts * total / counts.sum(1, keepdim=True)
    torch.testing.assert_close(encoder[0](spec.likelihood.encoder_input(counts)), rates)


def test_a_training_that_diverges_is_shown_as_lost_and_what_was_not_tried_is_empty():
    nan = np.full((1, 1, 3, 2), np.nan)
    values = nan.copy()
    values[0, 0, 0] = 0.5, 0.7
    dims = ("data", "latent", "setting", "retraining")
    coords = {"data": ["cells"], "latent": [2], "setting": [BASE, "lost", "none"]}
    found = xr.Dataset({"codes": (dims, values), "decoded": (dims, values)}, coords=coords)
    found = found.assign(lost=(dims[:3], [[[0.0, 1.0, np.nan]]]))
    assert count_codes.shown(found, ("codes", "decoded"), 3)[("cells", "d = 2")].tolist() == [
        ".600 ± .141 .600",
        "lost",
        "",
    ]


def test_a_name_that_is_no_data_set_is_refused():
    with pytest.raises(ValueError, match="data: expected some of simulated, simulated again, haematopoiesis"):
        count_codes.Config(data=("cortex",))


@pytest.mark.slow
def test_a_tiny_run_is_resumed_and_reported_without_computing(tmp_path, capsys):
    tiny = ["--quick", "--epochs", "1", "--widths", "--betas", "--inputs", "--likelihoods", "--out", str(tmp_path)]
    count_codes.main(tiny)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("settings/*.nc")}
    table = pd.read_csv(tmp_path / "count_codes-table.csv")
    count_codes.main(tiny)
    assert kept and kept == {path: path.stat().st_mtime_ns for path in tmp_path.glob("settings/*.nc")}
    count_codes.main(["--result", str(tmp_path / "count_codes.nc"), "--out", str(tmp_path / "again")])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "again" / "count_codes-table.csv"), table)
    assert "Chosen on simulated: " in capsys.readouterr().out
