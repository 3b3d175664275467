"""The solver's share: the stored table holds what is claimed, a tiny run carries itself out."""

from pathlib import Path

import pytest

from experiments import solver_share
from experiments.common.results import load_result

RESULTS = Path(solver_share.__file__).parent / "results"


@pytest.mark.parametrize("name", ["solver_share", "solver_share-mnist-3", "solver_share-cells"])
def test_the_variation_is_the_same_by_every_search_and_one_geodesic_at_most_has_a_rival(name):
    found = load_result(RESULTS / f"{name}.nc")["distances"]
    table = solver_share.table_of(found)
    assert table.loc["rivals", "maximum"] < 0.003
    assert table["cv"].max() - table["cv"].min() < 1.5e-4
    assert found.gap.notnull().sum() <= 1


def test_a_tiny_run_prints_every_search_and_is_reported_again_without_computing(tmp_path, capsys):
    solver_share.main(["--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for search in ("line", "one path", "rivals", "many tight"):
        assert search in printed
    solver_share.main(["--result", str(tmp_path / "solver_share.nc"), "--out", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[:4] == printed.splitlines()[:4]


def test_simulated_cells_are_searched_under_fisher_rao(tmp_path, capsys):
    tiny = ("--epochs", "1", "--width", "8", "--pairs", "2", "--segments", "16", "--bends", "1")
    solver_share.main(["--quick", "--dataset", "cells", *tiny, "--out", str(tmp_path)])
    assert "many tight" in capsys.readouterr().out
    assert "fisher_rao_metric" in (tmp_path / "study.nc").read_bytes().decode("latin-1")
