"""A retraining that diverges costs itself alone in every experiment, and it is told which and what is left."""

import re

import numpy as np
import pytest
import xarray as xr

from experiments import (
    calibration,
    conditional,
    finding_manifolds,
    fisher_rao,
    geodesics_over_uncertainty,
    grid_dependence,
    shared_latent,
    solver_share,
    sources,
    tasic_distances,
)
from experiments.common.lost import in_place, kept, told_of_lost
from tests.study.test_study import spoilt

SMALL = ["--retrainings", "3", "--epochs", "2", "--width", "8", "--segments", "8"]
CASES = {
    finding_manifolds: [
        "--quick", "--retrainings", "3", "--epochs", "2", "3", "--noises", "0.1", "--rows", "40", "--pairs", "5",
    ],
    conditional: [
        *SMALL, "--points", "200", "--dimension", "3", "--latent", "2", "--models", "single", "--pairs", "3", "--rows",
        "40", "--samples", "10",
    ],
    fisher_rao: [*SMALL, "--members", "2", "--cells", "6", "--batch-size", "200"],
    sources: [*SMALL, "--models", "rbf", "ensemble", "--members", "2", "--pairs", "4", "--batch-size", "400"],
    shared_latent: [
        *SMALL, "--members", "2", "--pairs", "4", "--images", "3", "--rows", "200", "--latent", "2",
    ],
    tasic_distances: [*SMALL, "--dataset", "simulated", "--members", "1", "2", "--batch-size", "64"],
    calibration: ["--quick", *SMALL, "--retrainings", "5", "--models", "ensemble", "--pairs", "6", "--draws", "4"],
    solver_share: ["--quick", *SMALL, "--pairs", "4", "--bends", "1", "--batch-size", "400"],
    grid_dependence: [*SMALL[:6], "--members", "2", "--pairs", "4", "--grid", "8", "16", "32"],
    geodesics_over_uncertainty: [*SMALL, "--members", "2", "--pairs", "4"],
}  # fmt: skip
# Of the same code as these, or longer.
NAMED = (finding_manifolds, conditional, fisher_rao)


def short(experiment) -> str:
    return experiment.__name__.rpartition(".")[2]


@pytest.mark.filterwarnings("ignore::probgeo.study.RetrainingLost")
@pytest.mark.parametrize(
    "experiment",
    [pytest.param(each, id=short(each), marks=[] if each in NAMED else [pytest.mark.slow]) for each in CASES],
)
def test_a_first_retraining_that_diverges_costs_itself_alone_and_is_told(experiment, tmp_path, monkeypatch, capsys):
    spoilt(monkeypatch, seed=0)
    experiment.main([*CASES[experiment], "--out", str(tmp_path)])
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Lost( of|, and left out|:).*?(retraining 0|seed 0)", printed)
    # Of two retrainings a resample may be one alone, without an interval; where all is given nothing is imputed.
    assert experiment is conditional or "nan" not in printed.lower().replace("[nan, nan]", "")


def lost() -> xr.DataArray:
    why = [["", "training diverged, seed 1"], ["", ""], ["a", "b"]]
    return xr.DataArray(why, {"model": ["one", "two", "three"]}, ("model", "retraining"))


def test_what_is_kept_is_what_has_no_reason_to_be_lost():
    assert kept(lost(), "one") == [0] and kept(lost(), "two") == [0, 1]
    with pytest.raises(ValueError, match="retrainings: expected at least one of 'three' that is not lost; got none"):
        kept(lost(), "three")
    first, _ = told_of_lost(lost())
    assert first == (
        "Lost of one: retraining 1 (training diverged, seed 1); what is said of it is of 1 of 2 retrainings."
    )


def test_numbers_of_a_retraining_stand_in_its_place_and_those_of_a_lost_one_are_missing():
    parts = [xr.DataArray([1.0, 2.0], dims="row"), xr.DataArray([3.0, 4.0], dims="row")]
    found = in_place(parts, [0, 2], 3).transpose("retraining", "row")
    np.testing.assert_array_equal(found, [[1, 2], [np.nan, np.nan], [3, 4]])
