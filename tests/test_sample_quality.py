"""Sample quality: the Fréchet distance in closed forms, features that tell classes apart, blur."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter

import probgeo as pg


def rows(num: int, features: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator, dtype=torch.float64)
    return torch.randn(num, features, generator=generator, dtype=torch.float64) @ mixing + seed


def test_frechet_distance_is_that_of_gaussians_in_closed_form():
    x, y = rows(60, 4, 1), rows(80, 4, 2)
    a, b = np.cov(x.T.numpy()), np.cov(y.T.numpy())
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert pg.sample_quality.frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    one, other = x[:, :1], y[:, :1]
    expected = (one.mean() - other.mean()) ** 2 + (one.std() - other.std()) ** 2
    assert pg.sample_quality.frechet_distance(one, other) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_vanishes_for_equal_moments_and_does_not_see_rotations():
    x, y = rows(50, 3, 1), rows(50, 3, 2)
    turn = torch.linalg.qr(rows(3, 3, 3))[0]
    assert pg.sample_quality.frechet_distance(x, x[torch.randperm(50)]) == pytest.approx(0, abs=1e-6)
    assert pg.sample_quality.frechet_distance(x, y) == pytest.approx(pg.sample_quality.frechet_distance(y, x), rel=1e-9)
    assert pg.sample_quality.frechet_distance(x, y, lambda z: z @ turn) == pytest.approx(
        pg.sample_quality.frechet_distance(x, y), rel=1e-6
    )
    assert pg.sample_quality.frechet_distance(x, x + 2) == pytest.approx(12, rel=1e-6)


def test_more_features_than_rows_are_no_harm():
    x, y = rows(6, 20, 1), rows(5, 20, 2)
    assert np.isfinite(pg.sample_quality.frechet_distance(x, y))


def test_frechet_distance_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="expected at least two rows each, of the same features"):
        pg.sample_quality.frechet_distance(rows(5, 3, 1), rows(5, 4, 1))
    with pytest.raises(ValueError, match="expected at least two rows"):
        pg.sample_quality.frechet_distance(rows(1, 3, 1), rows(5, 3, 1))
    with pytest.raises(ValueError, match="expected finite values"):
        pg.sample_quality.frechet_distance(rows(5, 3, 1).log(), rows(5, 3, 1))


def test_features_of_a_classifier_tell_its_classes_apart():
    digits = pg.datasets.digits()
    features = pg.sample_quality.classifier_features(digits.x, digits.labels, hidden=(32, 8))
    assert features(digits.x[:5]).shape == (5, 8)
    again = pg.sample_quality.classifier_features(digits.x, digits.labels, hidden=(32, 8))
    assert torch.equal(features(digits.x), again(digits.x))
    zeros, ones = (digits.subset([code]).x for code in (0, 1))
    half = len(zeros) // 2
    same = pg.sample_quality.frechet_distance(zeros[:half], zeros[half:], features)
    assert pg.sample_quality.frechet_distance(zeros, ones, features) > 10 * same
    with pytest.raises(ValueError, match="expected at least two classes"):
        pg.sample_quality.classifier_features(zeros, torch.zeros(len(zeros), dtype=torch.long))


def test_blur_is_zero_without_edges_and_falls_when_images_are_smoothed():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(3, 8, 8))
    smooth = np.stack([gaussian_filter(image, 1.0) for image in images])
    sharp, blurred = (pg.sample_quality.blur(torch.from_numpy(each).flatten(1), (8, 8)) for each in (images, smooth))
    assert (blurred < 0.2 * sharp).all()
    assert (pg.sample_quality.blur(torch.full((2, 64), 0.3), (8, 8)) == 0).all()


def test_blur_is_the_variance_of_the_laplacian_in_each_colour():
    board = (torch.arange(6)[:, None] + torch.arange(6)) % 2
    # Inside a chequerboard the Laplacian is ±4; reflected at the edges it is ±3, in the corners ±2: mean zero.
    expected = (16 * 16 + 16 * 9 + 4 * 4) / 36
    assert pg.sample_quality.blur(board.double().flatten()[None], (6, 6)).item() == pytest.approx(expected)
    coloured = torch.stack([board, 2 * board, 0 * board], dim=-1).double().flatten()[None]
    assert pg.sample_quality.blur(coloured, (6, 6, 3)).item() == pytest.approx(expected * (1 + 4) / 3)
    with pytest.raises(ValueError, match=r"images: expected rows of \(5, 5\)"):
        pg.sample_quality.blur(torch.zeros(2, 36), (5, 5))
