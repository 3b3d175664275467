"""The experiment on ensemble sizes: the first members of an ensemble are an ensemble, and the largest is itself."""

import numpy as np
import pandas as pd
import pytest
import torch

import probgeo as pg
from experiments import ensemble_size
from experiments.common.members import OfFirst, StraightEnergy, energy_of_1999_segments, first_members
from experiments.common.options import parsed
from experiments.common.results import load_result

NET = pg.nn.MLP((8,))
TINY = [
    *("--members", "1", "2", "--retrainings", "2", "--pairs", "4", "--epochs", "1", "--width", "8"),
    *("--segments", "16"),
]


def config(*arguments: str) -> ensemble_size.Config:
    return parsed(ensemble_size.Config, ensemble_size.QUICK, ensemble_size.PRESETS, [*TINY, *arguments])


@pytest.fixture(scope="module")
def model():
    spec = pg.VAE(2, pg.EnsembleDecoder(4, NET), encoder=NET)
    return spec.build(6, seed=0).double().requires_grad_(False)


@pytest.fixture(scope="module")
def ends():
    return torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("ensemble_size")
    ensemble_size.main([*TINY, "--out", str(path)])
    return path


def test_first_members_are_a_model_of_the_first_draws_with_the_same_encoder(model, ends):
    part = first_members(model, 3)
    assert part.spec == pg.VAE(2, pg.EnsembleDecoder(3, NET), encoder=NET)
    assert torch.equal(part.draws()(ends), model.draws()(ends)[:3])
    x = torch.randn(5, 6, dtype=torch.float64)
    assert torch.equal(part.encode(x).mean, model.encode(x).mean)
    expected = torch.stack([pg.PullbackMetric(model.draws().member(i)).tensor(ends) for i in range(3)]).mean(0)
    torch.testing.assert_close(part.metric().tensor(ends), expected)


def test_all_members_of_an_ensemble_measure_what_the_ensemble_does(model, ends):
    measure = pg.Geodesic(solver=pg.GaussNewton(num_segments=16))
    alone, all_of_them = measure.paths(model, *ends, ends[0]), OfFirst(4, measure).paths(model, *ends, ends[0])
    torch.testing.assert_close(alone.length, all_of_them.length)


def test_one_decoders_energy_of_1999_segments_is_that_of_its_metric(model, ends):
    one = first_members(model, 1)
    line = pg.paths.Straight(64)(*ends)
    torch.testing.assert_close(pg.energy(energy_of_1999_segments(one), line), pg.energy(one.metric(), line))
    found = OfFirst(1, StraightEnergy(64)).paths(model, *ends, ends[0])
    assert (found.length >= pg.length(one.metric(), line)).all()  # L² <= 2E


def test_the_second_decoder_adds_the_published_variance_of_all_points(model, ends):
    two = first_members(model, 2)
    line = pg.paths.Straight(1999)(*ends)
    images = two.draws()(line)
    mean, variance = images.mean(0), images.var(0, correction=0).sum(-1)
    published = mean.diff(dim=1).square().sum((1, 2)) + (variance[:, 1:] + variance[:, :-1]).sum(1)
    found = StraightEnergy(1999).paths(two, *ends, ends[0])
    torch.testing.assert_close(found.length, (1999 * published).sqrt())


@pytest.mark.slow
def test_ensembles_of_the_largest_size_are_the_same_whether_or_not_each_is_trained(folder, tmp_path):
    first = load_result(folder / "ensemble_size.nc")["distances"].distance
    each = ensemble_size.measured(config("--each-trained"), tmp_path).distance.transpose(*first.dims)
    np.testing.assert_allclose(first.sel(members=2), each.sel(members=2), rtol=1e-4)
    assert not np.allclose(first.sel(members=1, measure="geodesic"), each.sel(members=1, measure="geodesic"), rtol=1e-2)


@pytest.mark.slow
def test_run_again_resumes_and_the_result_alone_gives_the_same_table(folder, tmp_path, capsys):
    measured = {path: path.stat().st_mtime_ns for path in folder.glob("distances/*.nc")}
    assert len(measured) == 2 * (2 * 4 + 1)  # retrainings × (sizes × measures, and Euclidean)
    outputs = []
    for arguments in (
        [*TINY, "--out", str(folder)],
        ["--result", str(folder / "ensemble_size.nc"), "--out", str(tmp_path)],
    ):
        ensemble_size.main(arguments)
        outputs.append(capsys.readouterr().out.partition("wrote")[0])
    assert outputs[0] == outputs[1]
    assert "published" in outputs[0]
    assert all(path.stat().st_mtime_ns == time for path, time in measured.items())
    table = pd.read_csv(tmp_path / "ensemble_size-table.csv", index_col=[0, 1])
    assert {"cv", "icc", "spread", "rank_agreement"} <= set(table.columns)  # a variation never stands alone
    euclidean = table.loc["euclidean", "cv"]
    assert euclidean.nunique() == 1  # the encoder is the same for all sizes
    assert (tmp_path / "ensemble_size.png").stat().st_size > 0


def test_representatives_are_nearest_to_the_means_of_their_classes():
    digits = pg.datasets.digits()
    pairs = ensemble_size.pairs_of(ensemble_size.Config(representatives=3), digits)
    assert pairs.shape == (3, 2) and digits.labels[pairs.unique()].sort().values.tolist() == [0, 4, 9]
    for row in pairs.unique():
        same = digits.x[digits.labels == digits.labels[row]]
        assert (same - same.mean(0)).norm(dim=1).min() == (digits.x[row] - same.mean(0)).norm()


@pytest.mark.parametrize("number", [1, 2, 11])
def test_representatives_of_one_pair_alone_or_of_more_than_all_classes_are_refused(number):
    with pytest.raises(ValueError, match="representatives: expected 3 to 10, the number of classes"):
        ensemble_size.pairs_of(ensemble_size.Config(representatives=number), pg.datasets.digits())


def test_preset_is_the_published_study_of_cells():
    found = parsed(ensemble_size.Config, ensemble_size.QUICK, ensemble_size.PRESETS, ["--preset", "tasic"])
    assert (found.dataset, found.retrainings, found.members) == ("tasic", 6, tuple(range(1, 11)))
    assert found.representatives * (found.representatives - 1) / 2 == 105  # pairs
    assert len(ensemble_size.PUBLISHED_CV) == len(found.members)


def test_sizes_that_do_not_ascend_are_refused():
    with pytest.raises(ValueError, match="members: expected ascending numbers from 1"):
        ensemble_size.Config(members=(2, 2))
