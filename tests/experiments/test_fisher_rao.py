"""The pseudotime experiment: one command computes, resumes, and correlates what it says it does."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr

from experiments import fisher_rao
from experiments.common.options import parsed

TINY = [
    *("--members", "2", "--retrainings", "2", "--cells", "6", "--epochs", "1", "--width", "8", "--segments", "8"),
    *("--batch-size", "200"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run on simulated counts."""
    path = tmp_path_factory.mktemp("fisher_rao")
    fisher_rao.main([*TINY, "--out", str(path)])
    return path


def test_run_again_resumes_and_prints_the_same_tables(folder, capsys):
    table = pd.read_csv(folder / "fisher_rao-table.csv")
    trained = {path: path.stat().st_mtime_ns for path in folder.glob("trainings/*/*/weights.safetensors")}
    fisher_rao.main([*TINY, "--out", str(folder)])
    printed = capsys.readouterr().out
    assert "500 cells, 6 of them measured; 2 retrainings of 2 decoders" in printed
    assert "geodesics that did not converge" in printed
    pd.testing.assert_frame_equal(pd.read_csv(folder / "fisher_rao-table.csv"), table)
    assert len(trained) == 2 and all(path.stat().st_mtime_ns == time for path, time in trained.items())
    assert (folder / "fisher_rao.png").stat().st_size > 0


def test_a_result_is_reported_without_computing(folder, tmp_path):
    fisher_rao.main(["--result", str(folder / "fisher_rao.nc"), "--out", str(tmp_path)])
    again, first = (pd.read_csv(path / "fisher_rao-table.csv") for path in (tmp_path, folder))
    pd.testing.assert_frame_equal(again, first)
    assert not (tmp_path / "trainings").exists()
    distances = xr.load_dataset(folder / "fisher_rao.nc", group="distances", engine="h5netcdf")
    assert json.loads(distances.attrs["config"])["members"] == 2
    assert (distances.start == distances.start[0]).all()  # all from the root


def test_other_counts_are_read_from_a_file_with_their_pseudotime(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "cells.npz", counts=rng.poisson(3, (40, 5)), age=np.arange(40.0)[::-1])
    options = ["--counts", str(tmp_path / "cells.npz"), "--pseudotime", "age", "--out", str(tmp_path / "run")]
    fisher_rao.main([*TINY, *options])
    table = pd.read_csv(tmp_path / "run" / "fisher_rao-table.csv")
    assert list(table["cells"].unique()) == ["all"]
    distances = xr.load_dataset(tmp_path / "run" / "fisher_rao.nc", group="distances", engine="h5netcdf")
    assert int(distances.start[0]) == 39  # the youngest


def toy(num_retrainings: int = 4) -> xr.Dataset:
    rng = np.random.default_rng(0)
    time = np.array([[0.1, 0.2], [0.3, np.nan], [0.6, np.nan], [np.nan, 0.4], [np.nan, 0.9], [0.8, np.nan]])
    distance = np.nanmean(time, axis=1) + rng.normal(0, 0.2, (2, num_retrainings, 6))
    return xr.Dataset(
        {"distance": (("measure", "retraining", "pair"), distance), "pseudotime": (("pair", "lineage"), time)},
        coords={"measure": ["geodesic", "euclidean"]},
    )


def test_correlations_are_scipys_over_the_cells_of_each_lineage():
    data = toy()
    rho = fisher_rao.correlations(data)
    assert list(rho.lineage.values) == ["all", "lineage 1", "lineage 2"]
    second = data.distance.sel(measure="euclidean")[2]
    expected = scipy.stats.spearmanr(second[[0, 1, 2, 5]], data.pseudotime[[0, 1, 2, 5], 0]).statistic
    assert abs(float(rho.sel(measure="euclidean", lineage="lineage 1")[2]) - expected) < 1e-12
    expected = scipy.stats.spearmanr(second, data.pseudotime.mean("lineage")).statistic
    assert abs(float(rho.sel(measure="euclidean", lineage="all")[2]) - expected) < 1e-12


def test_table_holds_means_with_t_intervals_and_paired_tests_against_the_latent_distance():
    rho = fisher_rao.correlations(toy(8))
    row = fisher_rao.correlation_table(rho).loc[("lineage 1", "geodesic")]
    values, reference = (rho.sel(measure=name, lineage="lineage 1").values for name in ("geodesic", "euclidean"))
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    np.testing.assert_allclose(row[["rho", "lower", "upper"]].astype(float), [values.mean(), *interval])
    test = scipy.stats.ttest_rel(values, reference)
    np.testing.assert_allclose(row[["t", "p"]].astype(float), [test.statistic, test.pvalue])


def test_too_few_retrainings_or_cells_are_refused_before_anything_is_trained(tmp_path, capsys):
    with pytest.raises(SystemExit):
        fisher_rao.main(["--retrainings", "1", "--out", str(tmp_path / "run")])
    assert "retrainings: expected at least 2, as intervals need" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_options_override_quick_which_overrides_the_preset():
    def config(*arguments):
        return parsed(fisher_rao.Config, fisher_rao.QUICK, fisher_rao.PRESETS, arguments)

    assert config() == fisher_rao.Config()
    preset = config("--preset", "haematopoiesis", "--quick", "--cells", "7")
    assert preset.pseudotime == ("slingshot_pseudotime",)
    assert (preset.retrainings, preset.cells) == (fisher_rao.QUICK["retrainings"], 7)
