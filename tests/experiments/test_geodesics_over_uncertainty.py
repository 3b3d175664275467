"""Geodesics over uncertainty: what counts as inside the data, what the table says, and reports that compute nothing."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import probgeo as pg
from experiments import geodesics_over_uncertainty as experiment
from experiments.common.maps import field, grid_over, inside_data
from experiments.common.results import load_result

TINY = [
    *("--members", "2", "--retrainings", "2", "--pairs", "4", "--epochs", "1", "--width", "8", "--segments", "16"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("geodesics")
    experiment.main([*TINY, "--out", str(path)])
    return path


def circle(num: int = 400) -> torch.Tensor:
    angle = torch.linspace(0, 2 * torch.pi, num + 1, dtype=torch.float64)[:-1]
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_the_stated_share_of_the_codes_is_inside_the_data():
    codes = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for share in (0.5, 0.95):
        assert inside_data(codes, codes, num_neighbours=11, share=share).double().mean() >= share
        # A code is its own nearest: counted from a point beside it, neighbours are one further off.
        assert inside_data(codes, codes, share=share).double().mean() == pytest.approx(share, abs=0.06)


def test_the_hole_of_a_circle_is_outside_the_data_and_the_circle_is_inside():
    codes = circle()
    assert inside_data(circle(77), codes, share=1.0).all()
    away = torch.tensor([[[0.0, 0.0], [0.7, 0.0]], [[3.0, 1.0], [torch.nan, 0.0]]], dtype=torch.float64)
    assert not inside_data(away, codes, share=1.0).any()


def test_a_stored_field_is_the_field_on_its_grid_and_constant_beyond():
    grid, corner = grid_over(circle(), 9)
    values = (grid[:, 0] - 2 * grid[:, 1]).reshape(9, 9)
    view = xr.Dataset({"height": (("first", "second"), values.numpy()), "corner": (("side", "latent"), corner.numpy())})
    height = field(view, "height")
    np.testing.assert_allclose(height(grid.numpy()), values.flatten(), atol=1e-12)
    np.testing.assert_allclose(height(np.array([[0.3, 0.4], [50.0, 0.0]])), [-0.5, 1.4], atol=1e-12)


def test_table_compares_both_curves_of_the_same_pairs():
    values = {"geodesic": (0.9, 1.0, 0.2), "straight": (0.5, 1.5, 0.8)}
    names = ("inside", "length", "uncertainty_passed")
    shape = (1, 3, 5)
    curves = xr.Dataset(
        {
            name: xr.concat(
                [
                    xr.DataArray(np.full(shape, value[index]), dims=("model", "retraining", "pair"))
                    for value in values.values()
                ],
                "curve",
            )
            for index, name in enumerate(names)
        },
        {"model": ["ensemble"], "curve": list(values)},
    ).assign(status=(("model", "retraining", "pair"), np.array([[[0, 0, 0, 0, 1]] * 3])))
    row = experiment.table(curves).loc["ensemble"]
    assert row.values.tolist() == pytest.approx([0.9, 0.5, 1.0, 1.5, 0.75, 3])
    assert "90.0%" in experiment.printed(experiment.table(curves), curves)
    assert "3 of 15" in experiment.printed(experiment.table(curves), curves)


@pytest.mark.slow
def test_stored_curves_are_those_of_the_fitted_models(folder):
    curves = load_result(folder / "geodesics_over_uncertainty.nc")["curves"]
    assert dict(curves.sizes) == {"model": 2, "retraining": 2, "curve": 2, "pair": 4}
    model = pg.load(folder / "trainings" / "ensemble" / "seed-1")
    data = pg.datasets.digits().subset(classes=(0, 5, 7))
    pairs = pg.sample_pairs(data.labels, num_pairs=4, seed=0, across_classes=True)
    with torch.no_grad():
        start, stop = model.encode(data.x[pairs.T.flatten()]).mean.chunk(2)
        lengths = pg.length(model.metric(), pg.paths.Straight(16)(start, stop))
    stored = curves.sel(model="ensemble", curve="straight").isel(retraining=1)
    np.testing.assert_allclose(stored.length, lengths, rtol=1e-5)
    shortest = curves.length.sel(curve="geodesic") <= curves.length.sel(curve="straight") * (1 + 1e-4)
    assert shortest.all()


@pytest.mark.slow
def test_a_report_computes_nothing_and_prints_the_same(folder, tmp_path, capsys):
    table = pd.read_csv(folder / "geodesics_over_uncertainty-table.csv")
    trained = {path: path.stat().st_mtime_ns for path in folder.rglob("weights.safetensors")}
    experiment.main(["--result", str(folder / "geodesics_over_uncertainty.nc"), "--out", str(tmp_path)])
    reported = capsys.readouterr().out
    experiment.main([*TINY, "--out", str(folder)])
    assert reported.split("wrote")[0] in capsys.readouterr().out
    assert len(trained) == 4 and all(path.stat().st_mtime_ns == time for path, time in trained.items())
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "geodesics_over_uncertainty-table.csv"), table)
    assert not (tmp_path / "trainings").exists()
    for name in ("", "-retrainings"):
        assert (tmp_path / f"geodesics_over_uncertainty{name}.png").stat().st_size > 0


def test_more_latent_dimensions_have_a_table_but_no_map(tmp_path, capsys):
    tiny = ["--latent", "3", "--models", "ensemble", "single", "--out", str(tmp_path)]
    experiment.main([*TINY, *tiny])
    assert "inside" in capsys.readouterr().out
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.slow
def test_another_configuration_in_the_folder_is_refused(folder):
    with pytest.raises(SystemExit, match="holds a retraining of another training"):
        experiment.main([*TINY, "--epochs", "2", "--out", str(folder)])


def test_no_retraining_is_refused_before_anything_is_trained(tmp_path, capsys):
    with pytest.raises(SystemExit):
        experiment.main(["--retrainings", "0", "--out", str(tmp_path / "run")])
    assert "retrainings: expected at least 1, as means need; got 0" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
