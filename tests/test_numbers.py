"""A spec takes whole numbers where it counts, and numbers where it measures; the rest is refused by the name."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import get_args, get_origin

import numpy as np
import pytest
import torch

import probgeo as pg
from probgeo.specs import PUBLIC

GIVEN = {
    pg.View: {"num_features": 3},
    pg.Warmup: {"epochs": 3},
    pg.likelihoods.Categorical: {"num_classes": 3},
    pg.likelihoods.LibraryColumn: {"column": 0, "reference": 1.0},
    pg.likelihoods.Perceptual: {"features": torch.nn.Identity},
    pg.likelihoods.RowTotal: {"reference": 1.0},
    pg.schedules.LinearWarmup: {"epochs": 3},
    pg.schedules.Piecewise: {"epochs": (1, 2), "factors": (0.5, 0.1)},
    pg.ConditionalVAE: {"covariates": (0,)},
}
ELSEWHERE = {pg.datasets.Column, pg.datasets.Dataset, pg.SharedLatentVAE}  # what is read, and what needs views


def fields() -> list:
    found = []
    for place in (place for place in PUBLIC if place.startswith("probgeo")):
        module = importlib.import_module(place)
        for name in dir(module):
            kind = getattr(module, name)
            if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in ELSEWHERE:
                for field in dataclasses.fields(kind):
                    types = [field.type, *get_args(field.type)]
                    several = get_origin(field.type) in (tuple, Sequence)
                    if field.init and (int in types or float in types) and not name.startswith("_"):
                        found.append(pytest.param(kind, field, several, id=f"{name}.{field.name}"))
    return found


@pytest.mark.parametrize(("kind", "field", "several"), fields())
def test_a_field_that_counts_or_measures_refuses_all_else_by_its_name(kind, field, several):
    options = GIVEN.get(kind, {})
    kind(**options)  # is right
    whole = int in (field.type, *get_args(field.type))
    for wrong in ("3", True, 2.5 if whole else float("nan"), torch.ones(1)):
        values = (wrong,) if several else wrong
        with pytest.raises((TypeError, ValueError), match=field.name):
            kind(**{**options, field.name: values})


@pytest.mark.parametrize("seed", [2**64, 2**70, -(2**70), 0.5, "1", True, None])
def test_a_seed_is_a_whole_number_of_at_most_sixty_four_bits(seed, tmp_path):
    x = torch.rand(20, 3)
    with pytest.raises((TypeError, ValueError), match="seed"):
        pg.fit(pg.VAE(2), x, [seed], folder=tmp_path)
    with pytest.raises((TypeError, ValueError), match="seed"):
        pg.VAE(2).build(3, seed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("stack", lambda x: pg.fit(pg.VAE(2), x, stack=1.5)),
        ("checkpoint_seconds", lambda x: pg.fit(pg.VAE(2), x, checkpoint_seconds="soon")),
        ("num_pairs", lambda x: pg.sample_pairs(np.arange(10), num_pairs=2.5, seed=0)),
        ("seed", lambda x: pg.sample_pairs(np.arange(10), num_pairs=2, seed=0.5)),
        ("num_pairs", lambda x: pg.distance_matrix(pg.PullbackMetric(lambda z: z), x, num_pairs=2.5)),
        ("num_nodes", lambda x: pg.paths.Graph(pg.PullbackMetric(lambda z: z), x, num_nodes=100.5)),
    ],
)
def test_an_argument_that_counts_refuses_a_fraction_by_its_name(name, call):
    with pytest.raises(TypeError, match=name):
        call(torch.rand(20, 3))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.uint16, np.int32, np.uint32, np.uint64])
def test_rows_may_be_numbered_by_integers_of_any_kind(kind, tmp_path):
    class Plane(pg.LatentModel):
        latent, num_features = 2, 2

        def encode(self, x):
            return pg.Encoding(x, torch.zeros_like(x))

        def decode(self, z):
            return z

    x = torch.rand(2, 2, requires_grad=True)  # as many rows as a mask of their numbers would have
    pairs, triples = np.array([[0, 1], [1, 1]]), np.array([[0, 1, 1]])
    straight = {"s": pg.StraightLine(num_segments=2)}
    known = pg.measure({"m": [Plane()]}, x, pairs, straight, triples=triples)
    found = pg.measure({"m": [Plane()]}, x, pairs.astype(kind), straight, triples=triples.astype(kind))
    assert found.drop_vars("seconds").identical(known.drop_vars("seconds"))
    if kind is np.uint64:
        with pytest.raises(ValueError, match="pairs: expected row indices; got 9223372036854775809"):
            pg.measure({"m": [Plane()]}, x, np.array([[0, 2**63 + 1]], kind), straight)


def test_codes_that_are_not_finite_have_no_distance():
    z, sources = torch.rand(20, 2), torch.tensor([[0.5, 0.5], [0.5, np.nan]])
    found = pg.graph_distances(pg.PullbackMetric(lambda z: z), z, sources, num_checked=2)
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()
