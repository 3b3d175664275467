"""Finding manifolds: the stored table holds what is claimed of the check, a tiny run carries itself out."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from experiments import finding_manifolds
from experiments.common.results import load_result
from probgeo.identifiability import trust

RESULTS = Path(finding_manifolds.__file__).parent / "results"


def test_what_the_stored_check_trusts_is_right_and_what_it_doubts_is_wrong_but_for_the_misses_that_are_told():
    checks = load_result(RESULTS / "finding_manifolds.nc")["checks"]
    found = finding_manifolds.judged(checks)
    table = finding_manifolds.hits(found)
    assert table.loc["all", "trusted"].tolist() == [79, 1] and table.loc["all", "doubted"].tolist() == [15, 313]
    missed = found[(found["said"] == "doubted") == (found["rho"] > finding_manifolds.RIGHT)]
    assert (missed.loc[missed["said"] != "unknown", "rho"] - finding_manifolds.RIGHT).abs().max() < 0.01
    # Layers that a graph jumps between are not trusted, although all distances agree with it.
    folded = found[found["data"] == "folded_sheet"]
    assert (folded["graph"] > 0.98).all() and (folded["rho"] < 0.6).all() and (folded["said"] == "unknown").all()


def test_of_the_roll_it_is_said_that_all_distances_are_stable_and_wrong():
    checks = load_result(RESULTS / "finding_manifolds.nc")["checks"]
    table = trust(checks.sel(data="swiss_roll, 0.02", drop=True).sel(model=["0.1/128/200"]))
    text = " ".join(str(table).split())
    assert "Stable, and wrong by this check: geodesic, straight, euclidean, reconstructed" in text


def made_up() -> xr.Dataset:
    """Two cells of one training whose geodesics are right and whose codes are in a random order."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 9, 40)
    right = truth * np.exp(0.01 * rng.normal(size=(2, 1, 40)))
    wrong = rng.uniform(1, 9, (2, 1, 40))
    rows = [right, right, wrong, right]
    good = ("model", "retraining"), np.ones((2, 1))
    check = xr.Dataset(
        {
            "distance": (("model", "measure", "retraining", "pair"), np.stack(rows, axis=1)),
            "truth": ("pair", truth),
            "graph": (("neighbours", "pair"), np.stack([truth, truth])),
            "ambient": ("pair", np.sin(truth) + 2),
            "noise": ("model", [1.0, 1.0]),
            "radius": 2.0,
            "residual": good,
            "trustworthiness": good,
            "continuity": good,
        },
        {"model": ["1/32/50", "0.1/32/50"], "measure": finding_manifolds.OF_MODELS, "neighbours": [5, 10]},
    )
    other = check.isel(model=[1]).assign(ambient=("pair", truth**2))
    return finding_manifolds.joined({"s_curve, 0.1": check, "sphere, 0.1": other})


def test_hits_and_misses_are_counted_by_what_is_right_and_what_is_said():
    table = finding_manifolds.hits(finding_manifolds.judged(made_up()))
    assert table.loc["s_curve"].to_dict() == {
        ("trusted", "right"): 6, ("trusted", "wrong"): 0, ("doubted", "right"): 0, ("doubted", "wrong"): 2,
        ("unknown", "right"): 0, ("unknown", "wrong"): 0,
    }  # fmt: skip
    assert table.loc["sphere", "unknown"].tolist() == [3, 1]  # a graph that says no more than chords
    assert "Of 6 trusted distances 6 are right, of 2 doubted ones 2 are wrong; of 4 nothing" in finding_manifolds.said(
        table
    )


def test_cells_are_labelled_by_their_factors():
    table = finding_manifolds.cells(finding_manifolds.judged(made_up()))
    assert table.index.tolist() == [
        ("s_curve", 1.0, 0.1, 32.0, 50.0), ("s_curve", 0.1, 0.1, 32.0, 50.0), ("sphere", 0.1, 0.1, 32.0, 50.0)
    ]  # fmt: skip
    assert (table["geodesic"] > 0.99).all() and (table["euclidean"] < 0.5).all()
    assert table["said"].tolist() == ["1 trusted", "1 trusted", "1 unknown"]


def test_what_is_not_known_by_name_is_refused():
    with pytest.raises(ValueError, match=r"data, others: expected some of surface, .*; got moon"):
        finding_manifolds.Config(data=("moon",))


def test_a_tiny_run_prints_all_tables_and_is_reported_again_without_computing(tmp_path, capsys):
    tiny = ["--quick", "--epochs", "1", "2", "--noises", "0.1", "--rows", "40", "--pairs", "5"]
    finding_manifolds.main([*tiny, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "s_curve" in printed and "doubted" in printed
    finding_manifolds.main(["--result", str(tmp_path / "finding_manifolds.nc"), "--out", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[:12] == printed.splitlines()[:12]
    assert (tmp_path / "finding_manifolds.png").stat().st_size > 0
