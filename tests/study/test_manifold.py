"""What a model's codes and reconstructions tell of the manifold of its data, against closed forms."""

import math

import numpy as np
import pytest
import torch

import probgeo as pg
from probgeo.study.manifold import graph_distances, manifold_check, noise_of


class Unrolled(pg.LatentModel):
    """The roll's own coordinates (t, h), and its immersion."""

    latent, num_features = 2, 3

    def encode(self, x):
        mean = torch.stack([x[:, [0, 2]].norm(dim=1), x[:, 1]], dim=1)
        return pg.Encoding(mean, torch.zeros_like(mean))

    def decode(self, z):
        t, h = z.unbind(-1)
        return torch.stack([t * t.cos(), h, t * t.sin()], dim=-1)


class Projected(Unrolled):
    """Codes along the roll's axis: rows of one spiral, whatever their height, fall on one code."""

    def encode(self, x):
        return pg.Encoding(x[:, [0, 2]], torch.zeros_like(x[:, :2]))

    def decode(self, z):
        return torch.stack([z[..., 0], 10 + 0 * z[..., 0], z[..., 1]], dim=-1)


class Whole(Unrolled):
    """The rows are their own codes: nothing is folded or lost, and nothing found."""

    latent = 3

    def encode(self, x):
        return pg.Encoding(x, torch.zeros_like(x))

    def decode(self, z):
        return 1 * z


class Cut(Unrolled):
    """Half of the roll is laid elsewhere: near rows have far codes at the cut alone."""

    def encode(self, x):
        mean = super().encode(x).mean
        return pg.Encoding(mean + 40 * (mean[:, 1:] > 10.5), torch.zeros_like(mean))


def checked(model, noise=0.0, num_points=1500):
    roll = pg.datasets.swiss_roll(num_points=num_points, noise=noise)
    pairs = pg.sample_pairs(roll.labels, num_pairs=40, seed=0)
    measures = {"geodesic": pg.Geodesic(solver=pg.GaussNewton(num_segments=32))}
    found = pg.measure({"model": [model]}, roll.x, pairs, measures)
    return roll, manifold_check({"model": [model]}, roll.x, pg.study.with_ambient_distances(found))


def test_a_roll_that_is_unrolled_is_trusted_and_its_chords_are_not():
    roll, check = checked(Unrolled())
    ends = np.stack([check.start.values, check.stop.values])
    truth = roll.distance(*roll.latent[torch.from_numpy(ends)]).numpy()
    np.testing.assert_allclose(check.graph[-1], truth, rtol=0.12)  # a graph's ways are polygons
    told = pg.identifiability.trust_of_trainings(check).squeeze(drop=True)
    assert told.to_series().to_dict() == {"geodesic": 1, "euclidean": 0, "reconstructed": 0, "ambient": 0}
    assert check.residual.item() < 1e-5 < check.noise.item() < 0.1 * check.radius.item()


@pytest.mark.parametrize(("model", "name"), [(Projected(), "trustworthiness"), (Cut(), "continuity")])
def test_a_map_that_is_folded_has_far_rows_at_near_codes_and_a_torn_one_far_codes_at_near_rows(model, name):
    _, check = checked(model)
    others = {"trustworthiness": "continuity", "continuity": "trustworthiness"}
    assert check[name].item() < 0.97 < check[others[name]].item()
    assert (pg.identifiability.trust_of_trainings(check) == 0).all()


def test_the_residual_is_the_root_mean_square_error_of_reconstructions():
    _, check = checked(Projected())
    heights = pg.datasets.swiss_roll(num_points=1500).x[:, 1]
    assert check.residual.item() == pytest.approx(float((heights - 10).square().mean().sqrt()), rel=1e-5)


def test_noise_that_fills_all_gaps_leaves_unknown_what_it_is_doubted_for_without():
    _, clear = checked(Whole())
    _, flooded = checked(Whole(), noise=2.0)
    assert (pg.identifiability.trust_of_trainings(clear) == 0).all()
    assert pg.identifiability.trust_of_trainings(flooded).isnull().all()


@pytest.mark.parametrize("num_neighbours", [8, 16])
@pytest.mark.parametrize("ambient", [3, 12])
def test_noise_is_that_of_a_plane_in_any_dimension_and_neighbourhood(num_neighbours, ambient):
    rng = np.random.default_rng(0)
    rows = np.zeros((1000, ambient))
    rows[:, :2] = rng.uniform(0, 1000, (1000, 2))  # far wider than the noise
    rows += 0.3 * rng.normal(size=rows.shape)
    neighbours = np.argsort(np.linalg.norm(rows[:, None] - rows, axis=-1))[:, 1 : num_neighbours + 1]
    assert noise_of(rows, neighbours, latent=2) == pytest.approx(0.3 * math.sqrt(ambient - 2), rel=0.05)
    assert math.isnan(noise_of(rows, neighbours, latent=num_neighbours))


def test_ways_along_a_graph_are_those_of_the_curve_and_there_is_none_between_two():
    angle = np.linspace(0, np.pi, 200)
    half = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rows = np.concatenate([half, half + 100])
    ends = np.stack([rows[[0, 0]], rows[[199, 399]]], axis=1)
    found = graph_distances(rows, ends, 4)
    assert found[0] == pytest.approx(np.pi, rel=1e-3) and np.isnan(found[1])


def test_ends_that_are_no_rows_of_the_sample_are_joined_to_it_and_rows_that_repeat_count_once():
    x = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    points = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    model = Projected()
    found = pg.measure({"m": [model]}, x, [[0, 1], [2, 3]], {"straight": pg.StraightLine()}, points=points).distance
    check = manifold_check({"m": [model]}, torch.cat([x, x]), found, points=points, num_neighbours=6)
    assert (check.graph >= check.ambient - 1e-6).all()
    np.testing.assert_allclose(check.ambient, (points[[0, 2]] - points[[1, 3]]).norm(dim=1), rtol=1e-6)


def test_a_training_that_is_lost_is_missing_and_means_of_other_columns_have_no_residual():
    class Other(Projected):
        def decode(self, z):
            return torch.cat([z, z], dim=-1)

    class Lost(Projected):
        def encode(self, x):
            return pg.Encoding(x[:, :2] * torch.nan, x[:, :2])

    x = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    with pytest.warns(pg.study.RetrainingLost):
        found = pg.measure({"m": [Other(), Lost()]}, x, [[0, 1], [2, 3]], {"straight": pg.StraightLine()}).distance
    check = manifold_check({"m": [Other(), Lost()]}, x, found)
    assert check.trustworthiness.notnull().values.tolist() == [[True, False]]
    assert check.residual.isnull().all()


def test_a_training_that_is_lost_may_be_left_out_and_the_others_keep_their_places():
    class Lost(Projected):
        def encode(self, x):
            return pg.Encoding(x[:, :2] * torch.nan, x[:, :2])

    x = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    trainings = [Projected(), Lost(), Cut()]
    with pytest.warns(pg.study.RetrainingLost):
        found = pg.measure({"m": trainings}, x, [[0, 1], [2, 3], [4, 5]], {"straight": pg.StraightLine()})
    distance = pg.study.with_ambient_distances(found)
    assert distance.notnull().all("pair").any("measure").values.tolist() == [[True, False, True]]
    whole = manifold_check({"m": trainings}, x, distance)
    assert manifold_check({"m": [trainings[0], trainings[2]]}, x, distance).equals(whole)
    with pytest.raises(ValueError, match="models: expected all trainings of 'm', or the 2 that have distances; got 1"):
        manifold_check({"m": trainings[:1]}, x, distance)


def test_rows_that_stay_in_their_file_give_the_same_check(tmp_path):
    x, model = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)), Projected()
    found = pg.measure({"m": [model]}, x, [[0, 1], [2, 3]], {"straight": pg.StraightLine()}).distance
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    check, expected = (manifold_check({"m": [model]}, rows, found, num_rows=40) for rows in (mapped, x))
    assert check.equals(expected)


def test_wrong_arguments_are_named():
    x, model = torch.rand(60, 3), Projected()
    found = pg.measure({"m": [model]}, x, [[0, 1]], {"straight": pg.StraightLine()}).distance
    with pytest.raises(ValueError, match="num_neighbours, num_rows: expected at least 4"):
        manifold_check({"m": [model]}, x, found, num_neighbours=31)
    with pytest.raises(ValueError, match="distance: expected distances of the models"):
        manifold_check({"other": [model]}, x, found)
    with pytest.raises(ValueError, match="distance: expected dims"):
        manifold_check({"m": [model]}, x, found.drop_vars("start"))
    with pytest.raises(ValueError, match="distance: expected ends from 0 to 19"):
        manifold_check({"m": [model]}, x[:20], found.assign_coords(stop=("pair", [50])))
    with pytest.raises(ValueError, match="x: expected finite values"):
        manifold_check({"m": [model]}, x * torch.nan, found)
