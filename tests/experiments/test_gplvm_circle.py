"""The circle: geodesics follow it, straight lines cross the hole; the report computes nothing."""

import math

import pandas as pd
import pytest
import torch

from experiments import gplvm_circle

TINY = [
    *("--points", "120", "--inducing", "50", "--pairs", "6", "--epochs", "80", "--segments", "64"),
    *("--ambient", "5", "--lengthscale", "0.2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("gplvm_circle")
    gplvm_circle.main([*TINY, "--out", str(path)])
    return path


def table(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "gplvm_circle-table.csv", index_col=["model", "line"])


def test_geodesics_follow_the_circle_where_straight_lines_cross_the_hole(folder):
    found = table(folder)
    assert found.loc[("short", "geodesic"), "nodes near circle"] > 0.95
    for column in ("nodes near circle", "nodes among codes"):
        assert found.loc[("short", "geodesic"), column] > found.loc[("short", "straight"), column] + 0.2
    for model in ("learned", "short"):
        assert found.loc[(model, "geodesic"), "energy"] < found.loc[(model, "straight"), "energy"]


def test_result_is_reported_without_computing(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gplvm_circle, "compute", None)
    gplvm_circle.main(["--result", str(folder / "gplvm_circle.nc"), "--out", str(tmp_path)])
    assert "0 of 6 geodesics did not converge" in capsys.readouterr().out
    pd.testing.assert_frame_equal(table(tmp_path), table(folder))
    assert (tmp_path / "gplvm_circle.png").stat().st_size > 0


def test_run_again_trains_nothing_and_finds_the_same(folder, capsys):
    trained = {path: path.stat().st_mtime_ns for path in folder.glob("trainings/*/*/weights.safetensors")}
    first = table(folder)
    gplvm_circle.main([*TINY, "--out", str(folder)])
    assert len(trained) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in trained.items())
    pd.testing.assert_frame_equal(table(folder), first)


def test_pairs_are_neither_close_nor_opposite():
    angle = torch.linspace(-math.pi, math.pi, 101)[:-1]
    pairs = gplvm_circle.pairs_of(angle, 30, seed=0)
    apart = (angle[pairs[:, 0]] - angle[pairs[:, 1]]).abs()
    apart = torch.minimum(apart, 2 * math.pi - apart).rad2deg()
    assert pairs.shape == (30, 2)
    assert (apart > 60).all() and (apart < 160).all()


def test_nodes_among_codes_are_those_on_the_ring():
    generator = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(500, generator=generator)
    codes = (1 + 0.1 * torch.rand(500, 1, generator=generator)) * torch.stack([angle.cos(), angle.sin()], 1)
    turn = torch.linspace(0, 2, 50)
    around = 1.05 * torch.stack([turn.cos(), turn.sin()], 1)
    across = torch.lerp(around[:1], around[-1:], torch.linspace(0, 1, 50)[:, None])
    share = gplvm_circle.share_between_codes(torch.stack([around, across]), codes)
    assert share[0] == 1
    # Of a chord over 2 radians at radius 1.05, the part outside radius 1: two ends of tan(1) - tan(arccos(1.05 cos 1)).
    expected = 1 - math.tan(math.acos(1.05 * math.cos(1))) / math.tan(1)
    assert abs(share[1] - expected) < 0.06
