"""Validity: what is known of the data, the table and the words, on distances that are made up; a tiny run."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import probgeo as pg
from experiments import validity
from experiments.common.results import load_result
from experiments.common.truths import MANIFOLDS, gain, known, neighbours_that_join, rightness
from probgeo.identifiability import coefficient_of_variation, rank_correlation

RESULT = Path(validity.__file__).parent / "results" / "validity.nc"
needs_data = pytest.mark.skipif("PROBGEO_DATA" not in os.environ, reason="the data are not here")


def made_up(kind="truth", retrainings=6, pairs=40):
    """Distances of one data set: a right geodesic, a right but unstable straight line, stable and wrong codes."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 3, pairs) if kind == "truth" else np.repeat([0.0, 1.0], pairs // 2)
    shape = (retrainings, pairs)
    geodesic = (1 + truth) * np.exp(0.01 * rng.normal(size=shape))
    straight = (1 + truth) * np.exp(0.3 * rng.normal(size=(retrainings, 1)) + 0.01 * rng.normal(size=shape))
    wrong = rng.uniform(1, 3, pairs) * np.exp(0.01 * rng.normal(size=shape))
    found = xr.Dataset(
        {
            "distance": (("model", "measure", "retraining", "pair"), [[geodesic, straight, wrong]]),
            "euclidean_reconstructed": (("model", "retraining", "pair"), [2 * wrong]),
            "euclidean_ambient": ("pair", wrong[0]),
            "isomap": ("pair", truth + 0.1),
            "reference": ("pair", truth),
            "ends": (("pair", "end"), np.arange(2 * pairs).reshape(pairs, 2)),
            "status": (("model", "retraining", "pair"), np.zeros((1, *shape), dtype=np.int8)),
            "seconds": (("model", "measure", "retraining"), np.full((1, 3, retrainings), 0.4)),
            "tight": (("model", "retraining", "sample"), [geodesic[:, [1, 3]] / [1.0, 1.02]]),
            "sampled": ("sample", [1, 3]),
            "kind": kind,
            "num_neighbours": 10,
            "num_rows": 100,
            "dimension": 2,
        },
        coords={"model": ["ensemble"], "measure": ["geodesic", "straight", "euclidean"]},
    )
    return {"distances": xr.concat([found], "data").assign_coords(data=["made up"])}


def test_the_stored_distances_are_as_the_pages_say():
    groups = load_result(RESULT, validity.Config)
    right, cv = {}, {}
    for name, found in validity.sets_of(groups):
        rows, reference = validity.rows_of(found)
        for (model, measure), row in rows.items():
            if found.kind != "triples":
                right[name, model, measure] = float(rank_correlation(row, reference).mean())
            cv[name, model, measure] = float(coefficient_of_variation(row).mean())
    for model in ("rbf", "ensemble"):
        assert right["surface", model, "geodesic"] > 0.998 > 0.94 > right["surface", model, "reconstructed"]
        surface = groups["distances"].sel(data="surface")
        ratio = surface.distance.sel(model=model, measure="geodesic") / surface.reference
        assert float(ratio.median()) == pytest.approx(1, abs=0.02)
        for name in ("swiss_roll", "folded_sheet"):
            of_model = ("geodesic", "straight", "euclidean", "reconstructed")
            assert all(right[name, model, measure] < 0.53 and cv[name, model, measure] < 0.06 for measure in of_model)
        for name in ("sphere", "torus", "plane_with_hole", "haematopoiesis", "tasic_markers"):
            assert abs(right[name, model, "geodesic"] - right[name, model, "reconstructed"]) < 0.008
    assert (
        all(right[name, "data", "isomap"] > 0.99 for name in validity.MANIFOLDS if name != "folded_sheet")
        and right["haematopoiesis", "data", "isomap"] < 0.6
    )


def test_a_lost_training_is_left_out():
    groups = made_up()
    groups["distances"].distance[0, 0, :, 2] = np.nan
    groups["distances"].euclidean_reconstructed[0, 0, 2] = np.nan
    [(_, found)] = validity.sets_of(groups)
    rows, reference = validity.rows_of(found)
    assert reference.sizes["pair"] == 40 and rows["ensemble", "geodesic"].sizes["retraining"] == 5


def test_the_table_tells_right_from_stable():
    groups = made_up()
    [(name, found)] = validity.sets_of(groups)
    table = validity.table_of(name, found).loc[name]
    assert table.loc[("ensemble", "geodesic"), "right"] > 0.99
    assert table.loc[("ensemble", "straight"), "right"] > 0.99 and table.loc[("ensemble", "straight"), "cv"] > 0.2
    assert table.loc[("ensemble", "euclidean"), "right"] < 0.4 and table.loc[("ensemble", "euclidean"), "cv"] < 0.02
    isomap = table.loc[(validity.WITHOUT_MODEL, "isomap")]
    assert isomap.right == pytest.approx(1) and isomap.cv == 0
    assert table.loc[("ensemble", "geodesic"), "excess"] == pytest.approx(0.02, rel=0.1)  # of half of the sample
    assert table.loc[("ensemble", "geodesic"), "ms"] == pytest.approx(10)
    words = validity.stable_and_wrong(validity.table_of(name, found), groups)
    assert "2 of 3 stable rows: made up ensemble euclidean, made up ensemble reconstructed" in " ".join(words.split())


def test_the_overview_has_a_line_per_model_with_what_needed_none_beside_it():
    [(name, found)] = validity.sets_of(made_up())
    table = validity.table_of(name, found)
    header, _, line = validity.overview(table).splitlines()
    assert header.split() == ["geodesic", "straight", "euclidean", "reconstructed", "ambient", "isomap", "solver"]
    geodesic = table.loc[(name, "ensemble", "geodesic")]
    assert line.split()[3:6] == [validity.number(geodesic.right), ".01", "1.00"]
    assert line.split()[-2:] == ["1.000", validity.number(geodesic.excess, 4)]


def test_words_say_where_a_geodesic_is_worth_its_price():
    words = " ".join("\n".join(validity.said(made_up())).split())
    chord, line, graph = words.split("geodesic against")[1:]
    assert "nearer: made up ensemble +" in chord and "farther: nowhere" in chord
    assert "no difference found: made up ensemble" in line and " nearer: nowhere" in line
    assert "nearer: nowhere" in graph


def test_a_pair_that_one_row_lacks_is_left_out_of_all_and_of_triples_with_its_partner():
    for kind, left in (("truth", 39), ("triples", 38)):
        groups = made_up(kind)
        groups["distances"].distance[0, 0, 1, 2, 5] = np.nan
        [(_, found)] = validity.sets_of(groups)
        rows, reference = validity.rows_of(found)
        assert reference.sizes["pair"] == left
        assert all(row.sizes["pair"] == left and np.isfinite(row).all() for row in rows.values())


def test_rightness_of_triples_is_their_share_and_a_gain_has_its_sign():
    [(_, found)] = validity.sets_of(made_up("triples"))
    rows, reference = validity.rows_of(found)
    right, wrong = rows["ensemble", "geodesic"], rows["ensemble", "euclidean"]
    assert float(rightness(right, reference, "triples")["mean"]) == 1
    assert float(rightness(wrong, reference, "triples")["mean"]) < 0.8
    estimate, lower, upper = gain(right, wrong, reference, "triples")
    assert 0 < lower < estimate < upper
    assert gain(wrong, right, reference, "triples")[0] == pytest.approx(-estimate)
    assert gain(right, right, reference, "triples") == (0, 0, 0)


@pytest.mark.parametrize("name", ["surface", "swiss_roll", "sphere"])
def test_truth_is_in_the_units_of_the_observations(name):
    data = known(name, rows=800, pairs=30, ambient=6, noise=0.02, latent=2)
    assert data.x.shape == (800, 6) and data.kind == "truth" and data.latent == (3 if name == "sphere" else 2)
    assert float(data.x.std()) == pytest.approx(1, abs=0.01)
    graph, number = neighbours_that_join(data.x, data.pairs)
    # Steps through noise are a little too long; a chord would be too short.
    assert number == 10 and float(np.median(graph / data.reference)) == pytest.approx(1.07, abs=0.07)


def test_every_manifold_has_noise_of_the_share_that_is_asked_for():
    for name, manifold in MANIFOLDS.items():
        clean, noisy = (known(name, 150, 4, 5, noise, 2).x for noise in (0.0, 0.1))
        assert float((clean - noisy).std()) == pytest.approx(0.1, rel=0.2), manifold


def test_pairs_of_digits_are_triples_of_an_anchor():
    data, labels = known("digits", 1797, 20, 0, 0.0, 2), pg.datasets.digits().labels
    near, far = data.pairs.chunk(2)
    assert torch.equal(near[:, 0], far[:, 0])
    assert (labels[near[:, 0]] == labels[near[:, 1]]).all() and (labels[far[:, 0]] != labels[far[:, 1]]).all()


@needs_data
def test_levels_of_the_taxonomy_are_as_many_of_each_and_pseudotimes_differ_within_a_lineage():
    cells = known("tasic_markers", 1000, 40, 0, 0.0, 2)
    assert np.bincount(cells.reference.astype(int)).tolist() == [10] * 4
    blood = known("haematopoiesis", 1000, 40, 0, 0.0, 2)
    assert np.isfinite(blood.reference).all() and (blood.reference >= 0).all() and blood.x.std() == pytest.approx(1)


def test_what_cannot_be_measured_is_refused_before_anything_is():
    for options, match in (
        ({"data": ("cheese",)}, "data: expected some of surface"),
        ({"pairs": 81}, "pairs: expected an even number"),
        ({"tight": 1}, "tight: expected 2 to 80"),
    ):
        with pytest.raises(ValueError, match=match):
            validity.Config(**options)


@pytest.mark.slow
def test_a_tiny_run_resumes_and_is_reported_again_without_computing(tmp_path, capsys):
    validity.main(["--quick", "--data", "surface", "digits", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    validity.main(["--result", str(tmp_path / "validity.nc"), "--out", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[:20] == printed.splitlines()[:20]
