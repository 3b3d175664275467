"""The grid experiment: the published energy grows with N, lengths do not; it resumes, reports without computing."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import probgeo as pg
from experiments import grid_dependence
from experiments.common.options import parsed
from experiments.common.results import load_result

TINY = [
    *("--members", "2", "--retrainings", "2", "--pairs", "4", "--grid", "8", "16", "32", "--epochs", "1"),
    *("--width", "8"),
]
CODES = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 4 - 2


class Curved:
    """A fitted model of two smooth members, f(z) = (z, ± sin z): their difference is known."""

    def draws(self):
        return [lambda z, s=sign: torch.cat([z, s * z.sin()], dim=-1) for sign in (1, -1)]

    def metric(self):
        return pg.ExpectedMetric(self.draws())


@pytest.fixture(scope="module")
def curves():
    """Curves of the known model between a few of its codes."""
    return grid_dependence.curves_of(Curved(), CODES[:4], CODES[4:8], CODES, (16, 32, 64, 128))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("grid_dependence")
    grid_dependence.main([*TINY, "--out", str(path)])
    return path


def test_lengths_converge_and_the_published_energy_grows_with_the_number_of_segments(curves):
    own = curves.distance.sel(path="expected", measured="length")
    assert (abs(own.sel(segments=128) / own.sel(segments=64) - 1) < 0.01).all()
    # The variance term, of weight N² in E, outgrows all others: √E doubles with N.
    line = curves.distance.sel(path="straight", measured="root energy")
    growth = line.sel(segments=128) / line.sel(segments=64)
    assert (abs(growth - 2) < 0.05).all()
    decorrelated = curves.distance.sel(path="decorrelated", measured="root energy")
    assert (decorrelated.sel(segments=128) > 1.3 * decorrelated.sel(segments=32)).all()


def test_each_path_is_the_shortest_by_its_own_measure(curves):
    for own, measured in (("expected", "length"), ("decorrelated", "root energy")):
        distance = curves.distance.sel(measured=measured)
        assert (distance.sel(path=own) <= distance.min("path") * (1 + 5e-3)).all()


def test_root_energy_is_the_published_sum_times_the_root_of_the_number_of_segments(curves):
    path = pg.paths.Straight(32)(CODES[:4], CODES[4:8])
    first, second = (member(path) for member in Curved().draws())
    mean, variance = (first + second) / 2, ((first - second) / 2).square().sum(-1)
    plain = mean.diff(dim=1).square().sum((1, 2)) + (variance[:, :-1] + variance[:, 1:]).sum(1)
    found = curves.distance.sel(path="straight", measured="root energy", segments=32)
    np.testing.assert_allclose(found, (32 * plain).sqrt(), rtol=1e-4)


def test_euclidean_distances_belong_to_the_straight_line_alone(curves):
    euclidean = curves.distance.sel(measured="euclidean")
    assert euclidean.sel(path=["expected", "decorrelated"]).isnull().all()
    expected = (CODES[:4] - CODES[4:8]).norm(dim=1).numpy()
    np.testing.assert_allclose(euclidean.sel(path="straight", segments=16), expected, rtol=1e-6)
    assert ((curves.inside >= 0) & (curves.inside <= 1)).all()


@pytest.mark.slow
def test_run_again_resumes_and_the_result_alone_gives_the_same_tables(folder, tmp_path, capsys):
    files = [*folder.glob("trainings/*/weights.safetensors"), *folder.glob("curves/*.nc")]
    times = {file: file.stat().st_mtime_ns for file in files}
    assert len(times) == 4
    outputs = []
    for arguments in (
        [*TINY, "--out", str(folder)],
        ["--result", str(folder / "grid_dependence.nc"), "--out", str(tmp_path)],
    ):
        grid_dependence.main(arguments)
        outputs.append(capsys.readouterr().out.partition("wrote")[0])
    assert outputs[0] == outputs[1]
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())
    for name in ("grid_dependence-table.csv", "grid_dependence-combinations.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / name), pd.read_csv(folder / name))
    assert (tmp_path / "grid_dependence.png").stat().st_size > 0


@pytest.mark.slow
def test_tables_have_a_row_for_every_number_and_for_every_combination(folder):
    curves = load_result(folder / "grid_dependence.nc")["curves"]
    assert json.loads(curves.attrs["config"])["grid"] == [8, 16, 32]
    frame = grid_dependence.grid_table(curves)
    # Paths that all wait at one place cost the same: the published energy may have no ranks.
    assert frame.shape == (9, 6) and frame.drop(columns="rank").notnull().all(axis=None)
    assert frame["rank"].iloc[3:].notnull().all()
    assert (frame.xs(8, level="segments")["growth"] == 1).all()
    summary = grid_dependence.combinations(curves)
    assert len(summary) == 7  # three paths by two measures, and the Euclidean distance
    assert np.isnan(summary.loc[("expected", "length"), "t_expected geodesic"])  # it is the reference


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--grid", "32"), "grid: expected two or more ascending"),
        (("--grid", "32", "16"), "grid: expected two or more ascending"),
        (("--members", "1"), "members: expected at least 2, as variations need"),
    ],
)
def test_what_has_no_variation_is_refused_with_the_reason(arguments, message, capsys):
    with pytest.raises(SystemExit):
        grid_dependence.main(list(arguments))
    assert message in " ".join(capsys.readouterr().err.split())


def test_preset_is_of_the_published_data():
    config = parsed(
        grid_dependence.Config, grid_dependence.QUICK, grid_dependence.PRESETS, ["--preset", "mnist-3", "--quick"]
    )
    assert (config.dataset, config.classes, config.retrainings) == ("mnist", (0, 5, 7), 3)
