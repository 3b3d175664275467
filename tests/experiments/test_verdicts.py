"""Verdicts of few retrainings: the stored table holds what is claimed, a tiny run carries itself out."""

import numpy as np
import pytest

from experiments import verdicts
from experiments.common.results import load_result
from probgeo.identifiability import summary, verdict


def test_a_verdict_of_five_retrainings_or_more_hardly_ever_contradicts_that_of_thirty():
    found = load_result(verdicts.STORED / "verdicts.nc")["verdicts"]
    assert (found.wrong.sel(group=[5, 10, 15]) <= 0.05).all()


def test_the_words_are_those_of_a_summary():
    distance = load_result(verdicts.STORED / "identifiability-mnist-3.nc")["distances"].distance
    some = distance.sel(model="ensemble", measure=["geodesic", "decorrelated"]).isel(retraining=slice(12))
    table = verdict(summary(some, num_resamples=100))
    for measure, row in table.iterrows():
        one = some.sel(measure=measure[0])
        bounds = verdicts.identifiability.bootstrap(verdicts.statistics, one, num_resamples=100)
        found = verdicts.words(bounds.sel(bound="lower"), bounds.sel(bound="upper"))
        assert found["survives"] == row["survives"]
        assert row["tells_apart"] in (found["tells apart"], "no")  # which a small spread says too


@pytest.mark.parametrize(
    ("word", "true", "wrong"),
    [("yes", "roughly", True), ("roughly", "yes", False), ("no", "roughly", True), ("no", "no", False),
     ("undecided", "no", False), ("roughly", "no", True), ("yes", "yes", False)],
)  # fmt: skip
def test_a_word_contradicts_that_claims_too_much_or_nothing_where_there_is_something(word, true, wrong):
    assert verdicts.contradicts(word, true) == wrong


def test_a_tiny_run_prints_both_legs_and_is_reported_again_without_computing(tmp_path, capsys):
    verdicts.main(["--quick", "--draws", "1", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "survives" in printed and "tells apart" in printed
    verdicts.main(["--result", str(tmp_path / "verdicts.nc"), "--out", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[:6] == printed.splitlines()[:6]
    assert (tmp_path / "verdicts.png").stat().st_size > 0
    assert np.isfinite(load_result(tmp_path / "verdicts.nc")["verdicts"].said).all()
