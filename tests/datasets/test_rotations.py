"""An image that is turned: what it is at right angles, and the way round by the library's own length and by a mesh."""

from math import pi

import pytest
import torch

import probgeo as pg
from probgeo.datasets import digits, rotated_image


def seven():
    data = digits()
    return data.x[data.labels == 7][0].reshape(8, 8)


def test_at_right_angles_the_pixels_change_places():
    data = rotated_image(seven(), num_points=3)
    whole = data.immersion(torch.tensor([[0.0], [pi / 2], [pi]], dtype=torch.float64)).reshape(3, 8, 8)
    assert torch.allclose(whole[2], whole[0].flip(0, 1), atol=1e-12)
    turns = [torch.rot90(whole[0], number) for number in (1, 3)]
    assert min(float((whole[1] - turn).abs().max()) for turn in turns) < 1e-12


def test_blurred_little_the_image_at_angle_zero_is_the_image_itself_but_for_its_scale():
    image = seven()
    found = rotated_image(image, num_points=3, blur=0.1).immersion(torch.zeros(1, 1)).reshape(8, 8)
    assert torch.allclose(found / found.max(), image / image.max(), atol=1e-6)


def test_distance_is_the_length_of_the_shorter_way_round():
    data = rotated_image(seven(), num_points=3)
    angle = torch.tensor([-3.0, -1.0, 0.5, 3.1], dtype=torch.float64)
    start, stop = angle[[0, 0, 1, 0]], angle[[1, 2, 2, 3]]
    way = torch.where((stop - start) > pi, stop - start - 2 * pi, stop - start)
    path = start[:, None] + way[:, None] * torch.linspace(0, 1, 2001, dtype=torch.float64)
    expected = pg.length(pg.PullbackMetric(data.immersion), path[..., None])
    found = data.distance(start[:, None], stop[:, None])
    assert torch.allclose(found, expected, rtol=1e-5)
    assert torch.equal(found, data.distance(stop[:, None], start[:, None]))
    once_round = data.distance(start[:, None] + 2 * pi, stop[:, None])
    assert torch.allclose(found, once_round, rtol=1e-9)
    assert (data.distance(start[:, None], start[:, None]) == 0).all()


def test_rows_are_the_turned_image_with_noise_and_are_shown_as_images():
    clean, noisy = (rotated_image(seven(), num_points=400, noise=noise, seed=3) for noise in (0.0, 0.1))
    assert clean.shape == (8, 8) and clean.x.shape == (400, 64) and torch.equal(clean.latent, noisy.latent)
    assert torch.allclose(clean.immersion(clean.latent), clean.x, atol=1e-5)
    assert float((noisy.x - clean.x).std()) == pytest.approx(0.1, rel=0.02)
    assert not torch.equal(clean.latent, rotated_image(seven(), num_points=400, seed=4).latent)


def test_what_cannot_be_turned_is_refused():
    spot = torch.zeros(5, 5)
    spot[2, 2] = 1.0
    for image, options, match in (
        (torch.full((5, 5), torch.nan), {}, "image: expected finite numbers"),
        (spot, {}, "image: expected one that differs"),
        (torch.zeros(5, 5), {}, "image: expected one that differs"),
        (seven(), {"blur": 0.0}, "blur: expected a positive number"),
        (seven(), {"num_points": 0}, "num_points: expected at least 1"),
        (seven(), {"noise": -1.0}, "noise: expected a standard deviation"),
    ):
        with pytest.raises(ValueError, match=match):
            rotated_image(image, **options)
