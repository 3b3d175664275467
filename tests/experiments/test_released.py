"""RBF distances as published: what they are, whom they are for, and that they leave other results as they are."""

import shutil

import pandas as pd
import pytest
import torch
from torch.func import jacrev, vmap

import probgeo as pg
from experiments import identifiability
from experiments.common.released import AsReleased, SummedAsReleased, released_metric

NET = pg.nn.MLP((8,))
SOLVER = pg.GaussNewton(num_segments=32)
TINY = [
    *("--models", "rbf", "ensemble", "--members", "2", "--retrainings", "2", "--pairs", "4", "--epochs", "1"),
    *("--width", "8", "--segments", "16"),
]


@pytest.fixture(scope="module")
def model():
    """An RBF model with placed centres, in double precision."""
    fitted = pg.VAE(2, pg.RBFDecoder(NET, num_centers=5), encoder=NET).build(6, seed=0).double()
    codes = torch.randn(100, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fitted.decoder.precision.place(codes, torch.tensor(4.0), seed=0)
    return fitted.requires_grad_(False)


@pytest.fixture(scope="module")
def ends():
    return torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_metric_as_released_is_that_of_the_mean_and_the_root_of_the_precision(model, ends):
    z = ends.flatten(0, 1)
    mean = vmap(jacrev(model.decoder.network))(z)
    root = vmap(jacrev(lambda point: model.decoder.precision(point).sqrt()))(z)
    expected = mean.mT @ mean + root.mT @ root
    torch.testing.assert_close(released_metric(model).tensor(z), expected)
    assert not torch.allclose(model.metric().tensor(z), expected)  # the right one is another


def test_summed_length_lies_between_the_metrics_and_root_two_times_it_on_the_same_path(model, ends):
    once = AsReleased(SOLVER).paths(model, *ends, ends[0])
    summed = SummedAsReleased(SOLVER).paths(model, *ends, ends[0])
    assert torch.equal(once.path, summed.path)
    assert (summed.length >= once.length).all() and (summed.length <= 2**0.5 * once.length * (1 + 1e-12)).all()
    mean, precision = model.decoder.network, model.decoder.precision
    parts = mean(once.path).diff(dim=1).norm(dim=2).sum(1), precision(once.path).sqrt().diff(dim=1).norm(dim=2).sum(1)
    torch.testing.assert_close(summed.length, sum(parts))


def test_a_point_is_at_no_distance_from_itself(model, ends):
    for measure in (AsReleased(SOLVER), SummedAsReleased(SOLVER)):
        assert (measure.paths(model, ends[0], ends[0], ends[1]).length == 0).all()


def test_other_models_have_no_such_distance():
    for decoder in (pg.Decoder(NET), pg.EnsembleDecoder(2, NET)):
        assert not AsReleased().applies_to(pg.VAE(2, decoder)) and not SummedAsReleased().applies_to(pg.VAE(2, decoder))


@pytest.mark.slow
def test_asked_for_later_it_leaves_what_was_trained_and_measured_before(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    identifiability.main([*TINY, "--out", str(first)])
    assert "released" not in capsys.readouterr().out
    shutil.copytree(first, second)
    before = {
        path: path.stat().st_mtime_ns for kind in ("trainings/*/*/*", "distances/*") for path in second.glob(kind)
    }
    identifiability.main([*TINY, "--as-released", "--out", str(second)])
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len(list(second.glob("distances/*"))) == len(list(first.glob("distances/*"))) + 4  # two, of two retrainings
    tables = [pd.read_csv(path / "identifiability-table.csv", index_col=[0, 1]) for path in (first, second)]
    assert set(tables[1].index) - set(tables[0].index) == {("rbf", "as released"), ("rbf", "released sum")}
    columns = ["cv", "icc", "spread", "t_rbf", "t_euclidean"]
    pd.testing.assert_frame_equal(tables[1].loc[tables[0].index, columns], tables[0][columns])
    assert "ratio to rbf released sum" in capsys.readouterr().out
