"""Data of conditional models: known covariances and colours, columns of conditions, tables of several kinds."""

import numpy as np
import pandas as pd
import pytest
import torch

import probgeo as pg
from probgeo.datasets import COLOURS

sets = pg.datasets


def test_gaussians_have_the_covariance_that_they_say():
    for correlated in (0.0, 0.7):
        x = sets.gaussians(20_000, 5, correlated).x
        covariance = sets.gaussian_covariance(5, correlated)
        torch.testing.assert_close(x.T.cov().double(), covariance, rtol=0, atol=0.04)
        assert covariance[0, 2] == correlated**2


def test_a_projection_is_an_isometry_and_the_same_for_test_data():
    train, test = (sets.gaussians(50, 4, 0.5, project_to=9, seed=seed) for seed in (0, 1))
    assert train.x.shape == (50, 9) and not torch.equal(train.latent, test.latent)
    for data in (train, test):
        torch.testing.assert_close(train.immersion(data.latent), data.x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.pdist(train.x), torch.pdist(train.latent), rtol=1e-4, atol=1e-4)
    other = sets.gaussians(50, 4, 0.5, project_to=9, projection_seed=1)
    assert torch.equal(other.latent, train.latent) and not torch.allclose(other.x, train.x)


def test_noise_is_added_to_x_alone():
    quiet, noisy = (sets.gaussians(4000, 3, noise=noise) for noise in (0.0, 0.2))
    assert torch.equal(quiet.latent, noisy.latent)
    assert abs((noisy.x - quiet.x).std() - 0.2) < 0.01


def test_any_set_may_be_projected_with_its_immersion():
    roll = sets.swiss_roll(40)
    found = sets.projected(roll, 8, seed=3)
    torch.testing.assert_close(found.immersion(roll.latent), found.x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.pdist(found.x), torch.pdist(roll.x), rtol=1e-4, atol=1e-3)
    assert found.distance is roll.distance
    assert torch.equal(sets.projected(roll, 8, seed=3).x, found.x)


def test_columns_of_conditions_stand_behind_x():
    digits = sets.digits().subset(per_class=2)
    labelled = sets.with_labels(digits)
    assert torch.equal(labelled.x[:, :64], digits.x)
    assert torch.equal(labelled.x[:, 64:].argmax(1), digits.labels) and (labelled.x[:, 64:].sum(1) == 1).all()
    roll = sets.swiss_roll(30)
    torch.testing.assert_close(sets.with_radius(roll).x[:, 3], roll.latent[:, 0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"columns: expected shape \(30, column\); got \(29, 1\)"):
        sets.with_columns(roll, torch.zeros(29, 1))
    with pytest.raises(ValueError, match="data: expected a swiss roll"):
        sets.with_radius(digits)


def test_coloured_images_have_the_colour_of_their_condition():
    grey = sets.digits().subset(per_class=3)
    images, colours = sets.coloured(grey, seed=2)
    assert images.shape == (8, 8, 3) and colours.shape == (30, len(COLOURS))
    rgb = colours @ torch.tensor(list(COLOURS.values()))
    found = images.x.unflatten(1, (64, 3))
    torch.testing.assert_close(found, grey.x[:, :, None] * rgb[:, None])
    assert (images.x >= 0).all() and (images.x <= 1).all()
    assert torch.equal(images.labels, grey.labels)
    assert (colours.sum(0) > 0).all()
    with pytest.raises(ValueError, match="data: expected grey images"):
        sets.coloured(images)


FRAME = pd.DataFrame(
    {
        "age": [30.5, 40.0, np.nan, 50.5, 20.25],
        "kind": ["oak", "ash", "elm", None, "oak"],
        "visits": [3, 0, 7, 1, 2],
        "smoker": ["no", "yes", "no", None, "no"],
        "site": ["a", "a", "b", "b", "a"],
        "grade": [1, 2, 10, 2, 1],
    }
)


def test_a_table_reads_its_kinds_and_its_missing_values(tmp_path):
    FRAME.to_csv(tmp_path / "patients.csv", index=False)
    found = sets.table(tmp_path / "patients.csv", labels="site", kinds={"grade": "categorical"})
    assert [column.name for column in found.columns] == ["kind", "grade", "age", "smoker", "visits"]
    assert [column.kind for column in found.columns] == ["categorical", "categorical", "real", "binary", "count"]
    assert found.columns[1].categories == ("1", "2", "10")
    assert found.x[:, 1].tolist() == [0, 1, 2, 1, 0]
    assert found.labels.tolist() == [0, 0, 1, 1, 0]
    assert found.x.isnan().sum(0).tolist() == [1, 0, 1, 1, 0]
    assert float(found.x[:, 2].nanmean()) == pytest.approx(0, abs=1e-6)
    back = found.frame(found.x)
    np.testing.assert_allclose(back["age"], FRAME["age"], rtol=1e-6)
    assert back["kind"].tolist() == FRAME["kind"].tolist() and back["smoker"].tolist() == FRAME["smoker"].tolist()


def test_the_likelihood_of_a_table_has_a_part_for_each_kind(tmp_path):
    FRAME.to_csv(tmp_path / "patients.csv", index=False)
    found = sets.table(tmp_path / "patients.csv", labels="site", kinds={"grade": "categorical"})
    likelihood = pg.likelihoods.table_likelihood(found.columns)
    expected = (
        (pg.likelihoods.Categorical(3), 2),
        (pg.Gaussian(), 1),
        (pg.likelihoods.Bernoulli(), 1),
        (pg.likelihoods.NegativeBinomial(), 1),
    )
    assert likelihood == pg.likelihoods.Mixed(expected)
    assert likelihood.num_means(5) == (3, 3, 1, 1, 1)
    pg.ConditionalVAE(2, likelihood=likelihood).check(found.x)


def test_tables_that_cannot_be_read_are_refused(tmp_path):
    path = tmp_path / "patients.csv"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        sets.table(path)
    FRAME.assign(constant=1).to_csv(path, index=False)
    with pytest.raises(ValueError, match="column 'constant': expected at least two different values"):
        sets.table(path)
    FRAME.to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"has no column 'sex'; it has age, kind"):
        sets.table(path, labels="sex")
    with pytest.raises(ValueError, match="kinds: expected categorical, real, binary, count; got 'colour'"):
        sets.table(path, kinds={"age": "colour"})
    with pytest.raises(ValueError, match="column 'age': expected non-negative integers, as it is count"):
        sets.table(path, kinds={"age": "count"})
    with pytest.raises(ValueError, match="column 'kind': expected two different values"):
        sets.table(path, kinds={"kind": "binary"})


def test_arguments_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="correlated: expected a correlation strictly between -1 and 1"):
        sets.gaussians(correlated=1.0)
    with pytest.raises(ValueError, match="project_to: expected at least the 10 dimensions of z; got 3"):
        sets.gaussians(project_to=3)
    with pytest.raises(ValueError, match="num_points, noise"):
        sets.gaussians(0)
    with pytest.raises(ValueError, match="dimension: expected at least 1"):
        sets.gaussian_covariance(0, 0.5)
