"""Data that no training mends are refused or warned of in words, before anything is trained."""

import pytest
import torch

import probgeo as pg
from probgeo.training.fit import UnsuitableData


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            torch.rand(20, 3).half(),
            TypeError,
            "expected a floating-point tensor; got torch.float16. Use x.float",
        ),
        (torch.rand(20, 3).bfloat16(), TypeError, "got torch.bfloat16"),
        (torch.full((20, 3), 1e18), ValueError, r"expected values up to 4e\+09.*; got 1e\+18 at row 0, column 0"),
    ],
)
def test_numbers_that_nothing_can_be_computed_from_are_refused_before_training(x, error, message):
    with pytest.raises(error, match=message):
        pg.fit(pg.VAE(), x, progress=False)


def test_equal_rows_and_values_far_from_one_are_warned_of_before_training(monkeypatch):
    class Began(Exception):
        pass

    def begin(*arguments, **options):
        raise Began

    monkeypatch.setattr("probgeo.training.fit.Stack", begin)
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UnsuitableData, match="all rows are equal"), pytest.raises(Began):
        pg.fit(pg.VAE(), x[:1].expand(20, -1), progress=False)
    with pytest.warns(UnsuitableData, match=r"values reach 25\d.*images in \[0, 1\]"), pytest.raises(Began):
        pg.fit(pg.VAE(), 255 * x, progress=False)
    with pytest.raises(Began):  # what else is raised is an error of the test: warnings are
        pg.fit(pg.VAE(likelihood=pg.likelihoods.Poisson()), (255 * x).round(), progress=False)
    x[:, 0] = 0.0  # as a margin of images is
    with pytest.raises(Began):
        pg.fit(pg.VAE(), x, progress=False)
