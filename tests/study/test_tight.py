"""Tight searches on a sample of pairs: no longer than the default's, labelled alike, right where the truth is known."""

import numpy as np
import pytest
import torch

import probgeo as pg
from probgeo.study.tight import bent


class Sphere(pg.LatentModel):
    """Latitude and longitude on the unit sphere, whose geodesics are arcs of great circles."""

    latent, num_features = 2, 3

    def encode(self, x: torch.Tensor) -> pg.Encoding:
        mean = torch.stack([x[:, 2].clamp(-1, 1).arcsin(), torch.atan2(x[:, 1], x[:, 0])], dim=1)
        return pg.Encoding(mean, torch.zeros_like(mean))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        latitude, longitude = z.unbind(-1)
        return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=-1)


def points() -> torch.Tensor:
    z = torch.rand(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    return Sphere().decode(z)


MEASURES = {"arc": pg.Geodesic(solver=pg.GaussNewton(32))}
PAIRS = torch.arange(60).view(30, 2)


def test_bent_lines_keep_their_ends_and_do_not_depend_on_the_batch():
    start, stop = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for index in range(4):
        path = bent(start, stop, index)
        assert torch.equal(path[:, 0], start)
        assert torch.equal(path[:, -1], stop)
        assert torch.equal(bent(start[3:], stop[3:], index), path[3:])
        height = (path - pg.paths.Straight(64)(start, stop)).norm(dim=2).max(1).values / (stop - start).norm(dim=1)
        assert ((height > 0.19) & (height <= 1)).all()


def test_the_sample_is_of_the_pairs_and_its_distances_are_great_circles():
    x = points()
    tight = pg.study.tight_distances({"sphere": [Sphere()] * 2}, x, PAIRS, MEASURES, num_pairs=6, num_bends=3)
    assert tight.dims == ("model", "measure", "retraining", "pair")
    assert tight.sizes["pair"] == 6
    first, second = x[PAIRS[tight.pair.values.tolist()]].unbind(1)
    arcs = (first * second).sum(1).arccos()
    np.testing.assert_allclose(tight.sel(model="sphere", measure="arc", retraining=1), arcs, rtol=1e-3)
    assert tight.start.values.tolist() == PAIRS[tight.pair.values.tolist(), 0].tolist()


def test_the_excess_over_the_sample_is_that_of_the_measured_distances():
    x, models = points(), {"sphere": [Sphere()] * 2}
    distance = pg.measure(models, x, PAIRS, MEASURES).distance
    tight = pg.study.tight_distances(models, x, PAIRS, MEASURES, num_pairs=6, num_bends=1, seed=3)
    excess = pg.identifiability.solver_excess(1.1 * distance, tight)
    assert excess.measure.values.tolist() == ["arc"]
    assert float(excess.quantile_95.squeeze()) == pytest.approx(0.1, abs=2e-3)


def test_another_seed_is_another_sample_and_few_pairs_are_all_taken():
    models, x = {"sphere": [Sphere()]}, points()
    samples = [
        pg.study.tight_distances(models, x, PAIRS, MEASURES, num_pairs=5, num_bends=0, seed=seed).pair.values.tolist()
        for seed in (0, 0, 1)
    ]
    assert samples[0] == samples[1] != samples[2]
    few = pg.study.tight_distances(models, x, PAIRS[:3], MEASURES, num_bends=0)
    assert few.pair.values.tolist() == [0, 1, 2]


def test_what_has_no_path_to_search_for_is_refused_in_words():
    models, x = {"sphere": [Sphere()]}, points()
    with pytest.raises(TypeError, match="measures: expected geodesics"):
        pg.study.tight_distances(models, x, PAIRS, {"line": pg.StraightLine()})
    with pytest.raises(ValueError, match="num_pairs"):
        pg.study.tight_distances(models, x, PAIRS, num_pairs=0)
