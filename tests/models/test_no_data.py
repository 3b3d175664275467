"""Rows that are no data of a model have no codes: `encode` refuses what `fit` refuses, whichever way it is reached."""

import re

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

import probgeo as pg
from probgeo.likelihoods import Bernoulli, LibraryColumn, Mixed, NegativeBinomial, Poisson, RowTotal

SMALL = {"decoder": pg.Decoder(pg.nn.MLP((4,))), "encoder": pg.nn.MLP((4,))}
COUNTS = torch.tensor([[1.0, 3.0, 2.0], [4.0, 1.0, 7.0]])


def changed(value: float) -> torch.Tensor:
    """Counts of which the last of the second row is another number."""
    rows = COUNTS.clone()
    rows[1, 2] = value
    return rows


def vae(likelihood):
    return pg.VAE(2, likelihood=likelihood, **SMALL).build(num_features=3, seed=0)


def conditional(covariates=(), **options):
    spec = pg.ConditionalVAE(2, likelihood=Poisson(), covariates=covariates, **SMALL, **options)
    return spec.build(num_features=3, seed=0)


def views():
    view = pg.View(3, pg.nn.MLP((4,)), pg.Decoder(pg.nn.MLP((4,))), Poisson())
    return pg.SharedLatentVAE({"counts": view, "others": pg.View(2)}, latent=2).build(num_features=5, seed=0)


MODELS = {
    "counts": lambda: vae(NegativeBinomial(RowTotal(5.0))),
    "library size": lambda: vae(Poisson(LibraryColumn(0, 5.0))),
    "mixed": lambda: vae(Mixed(((pg.Gaussian(), 1), (Poisson(), 2)))),
    "conditional": conditional,
    "given": lambda: conditional().given(COUNTS[0], torch.tensor([True, False, False])),
    "covariates": lambda: conditional((0,), mask=pg.masks.NoMask()).given_values({0: 0.5}),
    "view": lambda: views().view("counts"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("wrong", [-1.0, 0.7])
def test_rows_that_are_no_counts_have_no_codes(name, wrong):
    model = MODELS[name]()
    assert model.encode(COUNTS).mean.isfinite().all()
    with pytest.raises(ValueError, match=rf"expected counts, which are .*; got {wrong:g} at row 1"):
        model.encode(changed(wrong))
    with pytest.raises(ValueError, match=rf"expected counts, which are .*; got {wrong:g} at row 1"):
        model.encode(changed(wrong).numpy())


def test_images_that_were_not_scaled_and_values_that_are_missing_have_no_codes_either():
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\], as a Bernoulli likelihood needs; got 3 "):
        vae(Bernoulli()).encode(COUNTS)
    with pytest.raises(ValueError, match=r"expected finite values; got nan at row 1, column 2"):
        vae(pg.Gaussian()).reconstruct(changed(torch.nan))
    assert conditional().encode(changed(torch.nan)).mean.isfinite().all()  # there it is a missing value


def test_values_that_are_replaced_by_those_given_may_be_anything():
    model = conditional().given(COUNTS[0], torch.tensor([False, False, True]))
    expected = model.encode(COUNTS)
    assert torch.equal(model.encode(changed(-0.5)).mean, expected.mean)
    given = conditional((2,), mask=pg.masks.NoMask()).given_values({2: 0.5})
    assert torch.equal(given.encode(changed(torch.nan)).mean, given.encode(COUNTS).mean)


def test_a_row_of_a_file_is_found_by_its_number(tmp_path):
    rows = np.ones((5000, 3), np.float32)
    rows[4500, 1] = 0.5
    np.save(tmp_path / "rows.npy", rows)
    stored = np.load(tmp_path / "rows.npy", mmap_mode="r")
    with pytest.raises(ValueError, match=r"got 0\.5 at row (\d+), column 1.*") as caught:
        vae(Poisson()).encode(stored)
    place, *begin = [int(number) for number in re.findall(r"row (\d+)", str(caught.value))]
    assert place + sum(begin) == 4500


def test_means_are_translated_back_though_they_are_no_counts():
    found = views().cycle(COUNTS, "counts", "others")
    assert found.back.shape == COUNTS.shape and found.difference.isfinite().all()
    there = pg.SharedLatentVAE({"a": pg.View(3), "b": pg.View(2, likelihood=Poisson())}, latent=2)
    assert there.build(num_features=5, seed=0).cycle(torch.randn(4, 3), "a", "b").back.isfinite().all()


def test_encoders_are_differentiated_and_batched_as_before():
    model = vae(NegativeBinomial(RowTotal(5.0)))
    codes = model.encode(COUNTS).mean
    torch.testing.assert_close(vmap(lambda row: model.encode(row[None]).mean[0])(COUNTS), codes)
    assert jacrev(lambda row: model.encode(row[None]).mean[0])(COUNTS[0]).shape == (2, 3)
