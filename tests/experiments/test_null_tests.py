"""Rejections where nothing differs: the stored table holds what is claimed, a tiny run carries itself out."""

import numpy as np
import pytest

from experiments import null_tests
from experiments.common.results import load_result
from probgeo.identifiability import coefficient_of_variation
from probgeo.identifiability.tables import WORTH_OF_T

STORED = null_tests.STORED / "null_tests.nc"


def test_recommended_tests_keep_their_level_and_those_over_pairs_do_not():
    groups = load_result(STORED)
    rejected = groups["stored"].rejected
    assert rejected.sizes["cell"] == 6
    valid, t = (rejected.sel(test=test).mean("cell") for test in ("permutation test", "paired t over pairs"))
    assert float(valid.sel(group=5)) <= 0.10 and (valid.sel(group=[10, 15]) <= 0.07).all()
    assert (t > 0.35).all()
    assert (groups["simulated"].rejected.mean("cell").sel(group=[10, 15]) <= 0.07).all()
    assert (groups["simulated"].covered.mean("cell") >= 0.93).all()


def test_what_is_said_beside_every_t_is_what_the_table_holds():
    over_pairs = load_result(STORED)["stored"].rejected.sel(test=["paired t over pairs", "Wilcoxon over pairs"])
    assert f"in {float(over_pairs.min()):.0%}".rstrip("%") in WORTH_OF_T
    assert f"to {100 * float(over_pairs.max()):.0f} %" in WORTH_OF_T


@pytest.mark.parametrize("tails", [np.inf, 5.0, 3.0])
@pytest.mark.parametrize("same", [True, False])
def test_simulated_distances_vary_as_much_as_they_are_said_to(tails, same):
    rng = np.random.default_rng(0)
    sides = null_tests.simulated(rng, 40_000, [0.1, 0.15], tails, 0.8, same, times=1)
    for cv, distance in zip([0.1, 0.15], sides, strict=True):
        # With three degrees of freedom the variance of a variance is infinite: it is met within a tenth.
        found = coefficient_of_variation(distance.isel(simulation=0)).mean("pair")
        assert float(found) == pytest.approx(cv, rel=0.1 if tails == 3 else 0.02)
    a, b = (distance.isel(simulation=0, pair=0) for distance in sides)
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.8 if same else 0.0, abs=0.05)


def test_groups_of_a_split_have_no_retraining_in_common():
    distance = load_result(null_tests.STORED / "identifiability-mnist-3.nc")["distances"].distance
    one = distance.sel(model="rbf", measure="euclidean")
    a, b = null_tests.split(one, 15, 4, np.random.default_rng(0))
    assert a.sizes == b.sizes == {"split": 4, "retraining": 15, "pair": 100}
    for first, second in zip(a.values, b.values, strict=True):
        assert len(np.unique(np.concatenate([first, second])[:, 0])) == 30


def test_a_tiny_run_prints_every_test_and_is_reported_again_without_computing(tmp_path, capsys):
    tiny = ["--quick", "--groups", "5", "--splits", "2", "--simulations", "1", "--permutations", "9"]
    null_tests.main([*tiny, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for test in (*null_tests.tests_on_offer(null_tests.Config()), "swap test"):
        assert test in printed
    null_tests.main(["--result", str(tmp_path / "null_tests.nc"), "--out", str(tmp_path)])
    assert capsys.readouterr().out == printed.partition("result:")[0]
    assert (tmp_path / "null_tests.png").stat().st_size > 0
