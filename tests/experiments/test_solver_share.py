"""The solver's share: the stored table holds what is claimed, a tiny run carries itself out."""

from pathlib import Path

from experiments import solver_share
from experiments.common.results import load_result

STORED = Path(solver_share.__file__).parent / "results" / "solver_share.nc"


def test_no_search_is_beaten_by_the_tight_one_by_more_than_the_excess_said():
    found = load_result(STORED)["distances"]
    table = solver_share.table_of(found)
    assert table.loc["many tight", "maximum"] <= table.loc["rivals", "maximum"] + 1e-3
    assert table.loc["rivals", "quantile_95"] < 0.01
    assert abs(table.loc["rivals", "cv"] - table.loc["many tight", "cv"]) < 0.01


def test_a_tiny_run_prints_every_search_and_is_reported_again_without_computing(tmp_path, capsys):
    solver_share.main(["--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for search in ("line", "one path", "rivals", "many tight"):
        assert search in printed
    solver_share.main(["--result", str(tmp_path / "solver_share.nc"), "--out", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[:4] == printed.splitlines()[:4]
