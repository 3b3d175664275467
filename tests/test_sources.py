"""Sources of uncertainty: where `away from the data` is, what grows there, and that times survive a resumed run."""

import json
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import probgeo as pg
from experiments import sources
from experiments.common import Source, decoders, load_result

SIZES = {"samples": 3, "retrainings": 2, "pairs": 4, "epochs": 1, "members": 2, "width": 4, "segments": 16}
TINY = [text for name, value in SIZES.items() for text in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run of some sources."""
    path = tmp_path_factory.mktemp("sources")
    sources.main([*TINY, "--models", "single", "ensemble", "exact", "--out", str(path)])
    return path


@pytest.mark.parametrize("latent", [2, 5])
@pytest.mark.parametrize("distance", [0.3, 1.0, 4.0])
def test_outward_points_are_at_their_distance_from_the_nearest_code(latent, distance):
    codes = torch.randn(200, latent, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 3.0
    points = sources.outward(codes, distance, num=50)
    nearest = torch.cdist(points, codes).min(1).values
    torch.testing.assert_close(nearest, torch.full_like(nearest, distance))
    beyond = codes.mean(0) + (points - codes.mean(0)) * 1.01
    assert (torch.cdist(beyond, codes).min(1).values > distance).all()  # the last such points of their rays
    assert len(points) == 50 or distance < 1


def test_uncertainty_that_is_the_distance_from_the_origin_grows_as_it_should():
    class Model:
        def uncertainty(self, z):
            return z.norm(dim=-1)

    angle = torch.linspace(0, 2 * torch.pi, 2001, dtype=torch.float64)[:-1]
    codes = torch.stack([angle.cos(), angle.sin()], dim=1)  # a unit circle; standard deviation √½ in each dimension
    growth = sources.growth_of(Model(), codes)
    expected = 1 + growth.away * 0.5**0.5
    np.testing.assert_allclose(growth.sel(quantile=0.5), expected, rtol=1e-3)
    relative = sources.relative_growth(growth.expand_dims(model=["circle"], retraining=[0]))
    np.testing.assert_allclose(relative.sel(quantile=0.5, away=2).squeeze(), 1 + 2**0.5, rtol=1e-3)


def test_a_source_without_uncertainty_has_no_growth():
    none = xr.DataArray(
        np.zeros((1, 2, len(sources.DISTANCES), 3)),
        {"model": ["single"], "away": list(sources.DISTANCES), "quantile": list(sources.QUANTILES)},
        ("model", "retraining", "away", "quantile"),
    )
    assert sources.relative_growth(none).isnull().all()


def test_every_source_has_a_decoder_of_its_name():
    names = set(get_args(Source))
    assert set(decoders(pg.nn.MLP(hidden=(4,)), 2)) == names == set(sources.Config().models)
    assert names - set(sources.PRESETS["mnist-3"].models) == {"nuts"}


def test_table_holds_stability_seconds_and_growth_of_every_source(folder):
    table = pd.read_csv(folder / "sources-table.csv", index_col="model")
    assert table.index.tolist() == ["single", "ensemble", "exact"]
    groups = load_result(folder / "sources.nc")
    distance = groups["distances"].distance.sel(measure="geodesic")
    cv = pg.identifiability.coefficient_of_variation(distance).mean("pair")
    np.testing.assert_allclose(table.cv, cv, rtol=1e-6)
    assert (table.training_seconds > 0).all() and (table.distance_seconds > 0).all()
    assert table.growth_4.isnull().tolist() == [True, False, False]
    at_data = groups["growth"].uncertainty.sel(model="exact", away=0, quantile=0.5)
    models = [pg.load(path) for path in sorted(folder.glob("trainings/*/seed-*"))]
    exact = [model for model in models if model.spec.decoder == decoders(pg.nn.MLP(hidden=(4, 4)), 2, 3)["exact"]]
    with torch.no_grad():
        x = pg.datasets.digits().x
        expected = [float(model.uncertainty(model.encode(x).mean).median()) for model in exact]
    np.testing.assert_allclose(at_data, expected, rtol=1e-3)


def test_run_again_resumes_keeps_the_times_and_prints_the_same(folder, tmp_path, capsys):
    times = load_result(folder / "sources.nc")["distances"][["seconds", "training_seconds"]]
    sources.main(["--result", str(folder / "sources.nc"), "--out", str(tmp_path)])
    reported = capsys.readouterr().out.split("wrote")[0]
    sources.main([*TINY, "--models", "single", "ensemble", "exact", "--out", str(folder)])
    assert reported in capsys.readouterr().out
    again = load_result(folder / "sources.nc")["distances"]
    xr.testing.assert_equal(again[["seconds", "training_seconds"]], times)
    assert json.loads(again.attrs["config"])["members"] == 2
    assert not (tmp_path / "trainings").exists()
    for name in ("growth", "latent"):
        assert (tmp_path / f"sources-{name}.png").stat().st_size > 0


def test_sources_draw_maps_of_two_latent_dimensions_alone(tmp_path):
    sources.main([*TINY, "--models", "exact", "ensemble", "--latent", "3", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.glob("*.png")] == ["sources-growth.png"]


@pytest.mark.slow
def test_quick_covers_every_source(tmp_path, capsys):
    sources.main(["--quick", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "sources-table.csv", index_col="model")
    assert set(table.index) == set(get_args(Source))
    # The exact posterior is what Laplace's Gaussian is for a Gaussian likelihood.
    np.testing.assert_allclose(table.growth_4["laplace"], table.growth_4["exact"], rtol=1e-2)
    assert (table.growth_4.drop("single") > 1).all()
    out = capsys.readouterr().out
    assert all(name in out for name in get_args(Source))
