"""Angles at triples and volumes of regions: sampled, measured in a study, resumed, summarised as distances are."""

from math import comb, pi

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial import ConvexHull

import probgeo as pg
from probgeo.geometry import calculus
from probgeo.study import decorrelated_energy, with_ambient_distances
from probgeo.study import study as studies

NET, LINEAR = pg.nn.MLP((8,)), pg.nn.MLP(())
MODELS = {"ensemble": pg.VAE(2, pg.EnsembleDecoder(2, NET), encoder=NET)}
SOLVER = pg.GaussNewton(num_segments=16)
MEASURES = {
    "geodesic": pg.Geodesic(solver=SOLVER),
    "straight": pg.StraightLine(num_segments=16),
    "decorrelated": pg.Geodesic(decorrelated_energy, SOLVER, needs_draws=True),
}
TRAINING = pg.Training(epochs=1, batch_size=32)
PAIRS = torch.tensor([[0, 1], [2, 30]])
TRIPLES = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1], [5, 9, 40]])
REGIONS = {"first": torch.arange(20), "second": torch.arange(20, 60)}


def data() -> torch.Tensor:
    return torch.rand(60, 8, generator=torch.Generator().manual_seed(0))


def study(folder, **changes) -> pg.Study:
    options = {"data": data(), "pairs": PAIRS, "models": MODELS, "seeds": (0, 1), "measures": MEASURES}
    return pg.Study(folder, **{"training": TRAINING, "triples": TRIPLES, "regions": REGIONS, **options, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of all three: first of distances alone, then of angles and volumes too, with its files' times between."""
    folder = tmp_path_factory.mktemp("angles")
    distances = study(folder, triples=None, regions=None).run(progress=False)
    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*/*.nc")}
    return study(folder), distances, times, study(folder).run(progress=False)


@pytest.fixture(scope="module")
def model(whole):
    """One of its retrainings, with the codes of all rows."""
    fitted = whole[0].fitted("ensemble", 1).requires_grad_(False)
    return fitted, fitted.encode(data()).mean


# --- rows ---


def test_all_triples_are_drawn_once_each_when_all_are_asked_for():
    triples = pg.sample_triples(torch.zeros(6, dtype=torch.long), 6 * comb(5, 2)).tolist()
    assert len({(corner, first, second) for corner, first, second in triples}) == 60
    assert all(first < second and corner not in (first, second) for corner, first, second in triples)
    assert {row for triple in triples for row in triple} == set(range(6))


def test_triples_depend_on_the_seed_alone_and_are_uniform():
    labels = torch.zeros(10, dtype=torch.long)
    triples = pg.sample_triples(labels, 300, seed=1)
    assert torch.equal(triples, pg.sample_triples(labels, 300, seed=1))
    assert not torch.equal(triples, pg.sample_triples(labels, 300, seed=2))
    # Of 360 triples 300: each corner has 36, so a count of 30 on average, within four standard deviations.
    counts = triples[:, 0].bincount(minlength=10)
    assert counts.sum() == 300 and (counts - 30).abs().max() <= 4 * (36 * 5 / 6 * 1 / 6) ** 0.5


@pytest.mark.parametrize(("rows", "num"), [(2, 1), (4, 13), (5, 0)])
def test_more_triples_than_there_are_are_refused(rows, num):
    with pytest.raises(ValueError, match="num_triples: "):
        pg.sample_triples(torch.zeros(rows, dtype=torch.long), num)


def test_regions_are_the_rows_of_a_class_without_its_outliers():
    x = torch.tensor([0.0, 1, 2, 3, 100, 5, 6, 7, 8, -50])[:, None]
    labels = torch.tensor([0, 0, 0, 0, 0, 4, 4, 4, 4, 4])
    regions = pg.class_regions(x, labels, share=0.8)
    assert {name: rows.tolist() for name, rows in regions.items()} == {"0": [0, 1, 2, 3], "4": [5, 6, 7, 8]}
    assert pg.class_regions(x, labels, share=1.0)["4"].tolist() == [5, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="share: expected"):
        pg.class_regions(x, labels, share=0.0)


# --- values ---


def test_dims_and_coordinates(whole):
    dataset = whole[3]
    assert dataset.angle.dims == dataset.angle_status.dims == ("model", "measure", "retraining", "triple")
    assert dataset.volume.dims == dataset.volume_error.dims == ("model", "measure", "retraining", "region")
    assert dataset.region.values.tolist() == ["first", "second"]
    assert np.array_equal(np.stack([dataset.corner, dataset.first, dataset.second], axis=1), TRIPLES)
    # The published energy has no metric tensor, a straight line no volume.
    assert dataset.angle.sel(measure="decorrelated").isnull().all()
    assert dataset.volume.sel(measure=["decorrelated", "straight"]).isnull().all()
    assert dataset.angle.drop_sel(measure="decorrelated").notnull().all()
    assert dataset.volume.sel(measure=["geodesic", "euclidean"]).notnull().all()


def test_angles_and_volumes_are_those_of_the_fitted_models(whole, model):
    fitted, codes = model
    found = whole[3].sel(model="ensemble", retraining=1)
    metric = fitted.metric()
    angles = calculus.angle(metric, *codes[TRIPLES].unbind(1), init=pg.paths.Graph(metric, codes)).angle
    np.testing.assert_allclose(found.angle.sel(measure="geodesic"), angles, atol=0.02)  # of 256 segments, not 16
    for name, rows in REGIONS.items():
        volume = found.sel(measure="geodesic", region=name)
        reference = calculus.volume(metric, calculus.convex_hull(codes[rows]), 1e-3).volume.item()
        assert abs(volume.volume - reference) <= 1.1e-2 * reference
        assert 0 <= volume.volume_error <= 1e-2 * reference


def test_euclidean_angles_and_areas_have_their_closed_forms(whole, model):
    codes = model[1].double()
    found = whole[3].sel(model="ensemble", retraining=1, measure="euclidean")
    u, v = (codes[TRIPLES[:, end]] - codes[TRIPLES[:, 0]] for end in (1, 2))
    np.testing.assert_allclose(found.angle, torch.nn.functional.cosine_similarity(u, v).acos(), atol=1e-4)
    np.testing.assert_allclose(found.angle[:3].sum(), pi, rtol=1e-5)  # the corners of one triangle
    areas = [ConvexHull(codes[rows].numpy()).volume for rows in REGIONS.values()]
    np.testing.assert_allclose(found.volume, areas, rtol=1e-4)


def test_under_a_linear_decoder_triangles_are_flat_and_areas_scale_by_the_determinant(tmp_path):
    models = {"linear": pg.VAE(2, pg.Decoder(LINEAR), encoder=NET)}
    flat = study(tmp_path, models=models, seeds=(0,))
    dataset = flat.run(progress=False).sel(model="linear", retraining=0)
    geodesic, straight = dataset.angle.sel(measure="geodesic"), dataset.angle.sel(measure="straight")
    np.testing.assert_allclose(geodesic, straight, atol=1e-3)
    np.testing.assert_allclose(straight[:3].sum(), pi, rtol=1e-5)
    fitted = flat.fitted("linear", 0).requires_grad_(False)
    factor = fitted.metric().tensor(torch.zeros(1, 2)).det().sqrt().item()
    volume = dataset.volume
    np.testing.assert_allclose(volume.sel(measure="geodesic"), factor * volume.sel(measure="euclidean"), rtol=1e-3)


def test_a_drawn_geodesic_has_the_angles_and_volumes_of_the_geodesic(tmp_path, whole, model):
    fitted, codes = model
    drawn, usual = pg.study.DrawnGeodesic(SOLVER), MEASURES["geodesic"]
    ends = codes[TRIPLES].unbind(1)
    torch.testing.assert_close(drawn.angles(fitted, *ends, codes), usual.angles(fitted, *ends, codes))
    region = calculus.convex_hull(codes[:20])
    torch.testing.assert_close(drawn.volume(fitted, region), usual.volume(fitted, region))


# --- resuming ---


def test_angles_and_volumes_join_a_study_whose_distances_stay(whole):
    ours, distances, times, dataset = whole
    new = {file for file in ours.folder.rglob("*/*.nc")} - set(times)
    assert {file.parent.name for file in new} == {"angles", "volumes"}
    assert len(new) == 2 * 4 * 2  # quantities, measures with the Euclidean, retrainings
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())
    xr.testing.assert_identical(dataset.distance, distances.distance)


def test_a_study_run_again_computes_nothing_and_says_the_same(whole, monkeypatch):
    done = []
    monkeypatch.setattr(studies, "measure_into", lambda *job: done.append(job))
    xr.testing.assert_identical(study(whole[0].folder).run(progress=False), whole[3])
    assert not done


def test_other_triples_leave_distances_and_volumes(whole):
    ours = study(whole[0].folder, triples=TRIPLES[2:])
    before = set(ours.folder.rglob("*/*.nc"))
    again = ours.run(progress=False)
    assert {file.parent.name for file in set(ours.folder.rglob("*/*.nc")) - before} == {"angles"}
    np.testing.assert_allclose(again.angle, whole[3].angle[..., 2:], atol=1e-4)
    xr.testing.assert_identical(again.volume, whole[3].volume)


# --- statistics ---


@pytest.mark.parametrize(("variable", "unit"), [("angle", "triple"), ("volume", "region")])
def test_the_summary_of_other_quantities_is_that_of_the_same_numbers_as_distances(whole, variable, unit):
    values = whole[3][variable]
    table = pg.identifiability.summary(values, num_resamples=10)
    as_pairs = values.drop_vars(["corner", "first", "second", "region"], errors="ignore").rename({unit: "pair"})
    same = pg.identifiability.summary(as_pairs, num_resamples=10)
    assert table.equals(same)
    assert f"of {values.sizes[unit]} {unit}s" in " ".join(str(table).split())
    assert "pair" not in str(table).replace("paired", "")
    assert "CV" in str(table) and "euclidean" in str(table)


def test_ambient_distances_stand_beside_the_others_and_agree_in_all_retrainings(whole):
    dataset = whole[3]
    distance = with_ambient_distances(dataset)
    assert distance.measure.values.tolist() == [*MEASURES, "euclidean", "reconstructed", "ambient"]
    xr.testing.assert_equal(distance.sel(measure=dataset.measure), dataset.distance)
    start, stop = data()[PAIRS].unbind(1)
    for retraining in distance.sel(model="ensemble", measure="ambient"):
        np.testing.assert_allclose(retraining, (start - stop).norm(dim=1), rtol=1e-6)
    reconstructed = distance.sel(measure="reconstructed", drop=True)
    np.testing.assert_allclose(reconstructed, dataset.euclidean_reconstructed)
    table = pg.identifiability.summary(distance, num_resamples=10)
    assert table.loc[("ensemble", "ambient"), "cv"] == 0
    assert table.loc[("ensemble", "ambient"), "icc"] == 1


# --- refusals ---


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"triples": torch.zeros(2, 2, dtype=torch.long)}, r"triples: expected integers of shape \(triple, 3\)"),
        ({"triples": torch.tensor([[0, 1, 60]])}, r"from 0 to 59; triple 0 is \[0, 1, 60\] \(1 such triples\)"),
        (
            {"regions": {"small": torch.arange(2)}},
            "at least 3 different rows, for 2 latent dimensions .* got 2 for 'small'",
        ),
        ({"regions": {"far": torch.tensor([0, 1, 2, 60])}}, "regions: expected row indices"),
        ({"models": {"deep": pg.VAE(6, pg.Decoder(NET), encoder=NET)}}, "more than 5 dimensions; model 'deep' has 6"),
    ],
)
def test_what_has_no_angle_or_volume_is_refused(tmp_path, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        study(tmp_path, **changes)
    assert not list(tmp_path.iterdir())
