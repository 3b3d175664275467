"""Distances between types of cells: orders of matrices, their agreement, and one run that is whole and resumes."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import probgeo as pg
from experiments import tasic_distances
from experiments.common.results import load_result
from probgeo import identifiability

TINY = [
    *("--dataset", "simulated", "--members", "1", "2", "--retrainings", "2", "--epochs", "2", "--batch-size", "64"),
    *("--width", "8", "--segments", "16"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("tasic_distances")
    tasic_distances.main([*TINY, "--out", str(path)])
    return path


def on_a_line(num: int, num_retrainings: int = 3) -> xr.DataArray:
    """Distances (retraining, pair) of points 0, 1, ..., twice as far in each further retraining."""
    pairs = pg.all_pairs(num).numpy()
    values = 2.0 ** np.arange(num_retrainings)[:, None] * np.diff(pairs)[:, 0]
    ends = {"start": ("pair", pairs[:, 0]), "stop": ("pair", pairs[:, 1])}
    return xr.DataArray(values, ends, ("retraining", "pair"))


def test_types_of_a_family_stay_together_and_lie_in_the_order_of_a_line():
    places = np.random.default_rng(0).permutation(30)
    families = np.array(list("bcadfe"))[places // 5]
    matrix = np.abs(places[:, None] - places).astype(float)
    found = places[tasic_distances.type_order(matrix, families)] // 5
    assert sorted(places[tasic_distances.type_order(matrix, families)]) == list(range(30))
    assert (np.abs(np.diff(found)) <= 1).all()  # each family once, beside its neighbours


def test_upper_half_in_the_order_of_all_pairs_is_the_matrix():
    distance = on_a_line(6)
    matrix = identifiability.matrix_of_pairs(distance).isel(retraining=1).values
    np.testing.assert_array_equal(tasic_distances.full(distance.isel(retraining=1).values), matrix)


def test_matrices_that_differ_by_their_scale_agree_in_all_but_their_norm():
    stored = tasic_distances.agreement(on_a_line(26, 2))
    found = stored["value"].to_series()
    assert found["procrustes"] == pytest.approx(0, abs=1e-9)
    assert found["neighbours"] == 1 and stored.attrs["num_neighbours"] == 2
    assert found["mantel_r"] == pytest.approx(1) and found["mantel_p"] == 1 / 200
    assert found["frobenius"] == pytest.approx(1 / 2.5**0.5)  # ‖A − 2A‖ over the rms of ‖A‖ and ‖2A‖


def test_simulated_types_lie_in_families():
    data = tasic_distances.simulated()
    means = np.stack([data.x[data.labels == code].mean(0).numpy() for code in range(len(data.label_names))])
    apart = np.linalg.norm(means[:, None] - means, axis=2)
    families = np.array([name.split()[0] for name in data.label_names])
    same = families[:, None] == families
    assert apart[same].max() < apart[~same].min()


def test_tables_have_every_distance_and_its_variation(folder):
    raw = pd.read_csv(folder / "tasic_distances-raw.csv")
    num_pairs = 12 * 11 // 2
    assert len(raw) == 2 * 3 * 2 * num_pairs  # sizes, measures, retrainings
    ends = raw[["start_type", "stop_type"]].drop_duplicates()
    assert len(ends) == num_pairs and (ends.start_type != ends.stop_type).all()
    keys = ["latent", "members", "measure", "pair"]
    cv = raw.groupby(keys).distance.agg(lambda values: values.std() / values.mean())
    stored = pd.read_csv(folder / "tasic_distances-cv.csv").set_index(keys)["cv"]
    np.testing.assert_allclose(stored.loc[cv.index], cv, rtol=1e-4)
    means = tasic_distances.summary_of(load_result(folder / "tasic_distances.nc")["summary"])["cv"]
    np.testing.assert_allclose(means, cv.groupby(keys[:-1]).mean().loc[means.index], rtol=1e-4)


def test_run_again_resumes_and_the_result_alone_gives_the_same_tables(folder, tmp_path, capsys):
    before = {
        path: path.stat().st_mtime_ns for kind in ("trainings/*/*/*", "distances/*") for path in folder.glob(kind)
    }
    assert len(before) > 0
    outputs = []
    for arguments in (
        [*TINY, "--out", str(folder)],
        ["--result", str(folder / "tasic_distances.nc"), "--out", str(tmp_path)],
    ):
        tasic_distances.main(arguments)
        outputs.append(capsys.readouterr().out.partition("wrote")[0])
    said, _, tables = outputs[0].partition("study.nc\n")
    assert said.startswith("all distances: ") and tables == outputs[1]
    assert "12 types" in outputs[0] and "mantel" in outputs[0]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    for name in ("matrices", "names", "latent"):
        assert (tmp_path / f"tasic_distances-{name}.png").stat().st_size > 0
    assert not (tmp_path / "trainings").exists()


def test_density_behind_the_map_is_that_of_each_member(folder):
    view = load_result(folder / "tasic_distances.nc")["latent"]
    assert view.attrs["name"] == "2-2" and view.sizes["member"] == 2
    model = pg.load(next(path for path in folder.glob("trainings/*/seed-0") if pg.load(path).spec.num_members == 2))
    low, high = view.corner.values
    corner = model.draws()(model.encode(tasic_distances.simulated().x).mean.new_tensor(low[None])).detach()
    assert corner.shape[0] == 2
    for index in range(2):
        metric = pg.PullbackMetric(model.draws().member(index))
        density = pg.calculus.volume_density(metric, corner.new_tensor(np.stack([low, high]))).log10()
        np.testing.assert_allclose(view.density[index].values[[0, -1], [0, -1]], density.detach(), rtol=1e-3, atol=1e-4)


def test_some_types_are_spread_over_all(tmp_path):
    data = tasic_distances.simulated()
    study = tasic_distances.study_of(tasic_distances.Config(dataset="simulated", types=5), tmp_path, data)
    assert data.labels[study.pairs.unique()].sort().values.tolist() == [0, 3, 6, 8, 11] and len(study.pairs) == 10
    with pytest.raises(ValueError, match="types: expected 5 to 12, or 0 for all; got 13"):
        tasic_distances.study_of(tasic_distances.Config(types=13), tmp_path, data)


def test_one_retraining_is_refused():
    with pytest.raises(ValueError, match="retrainings: expected at least 2, as agreement"):
        tasic_distances.Config(retrainings=1)
