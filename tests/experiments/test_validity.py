"""Validity: what is known of the data, the table and the words, on distances that are made up; a tiny run."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import probgeo as pg
from experiments import validity
from experiments.common import checks
from experiments.common.results import load_result
from experiments.common.truths import MANIFOLDS, gain, known, neighbours_that_join, rightness
from probgeo.identifiability import coefficient_of_variation, rank_correlation
from tests.study.test_study import spoilt

RESULT = Path(validity.__file__).parent / "results" / "validity.nc"
OF_CODES = ("trustworthiness", "continuity")
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
            "less_tight": (("model", "retraining", "sample"), [geodesic[:, [1, 3]]]),
            "sampled": ("sample", [1, 3]),
            "lost": "",
            "graph": (("neighbours", "pair"), [truth, truth]),
            "radius": 2.0,
            "noise": ("model", [1.0]),
            **{name: (("model", "retraining"), np.ones((1, retrainings))) for name in ("residual", *OF_CODES)},
            "kind": kind,
            "num_neighbours": 10,
            "num_rows": 100,
            "dimension": 2,
        },
        coords={"model": ["ensemble"], "measure": ["geodesic", "straight", "euclidean"], "neighbours": [5, 10]},
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
        all(right[name, "data", "isomap"] > 0.99 for name in MANIFOLDS if name != "folded_sheet")
        and right["haematopoiesis", "data", "isomap"] < 0.6
    )


def test_a_lost_training_is_left_out():
    groups = made_up()
    groups["distances"].distance[0, 0, :, 2] = np.nan
    groups["distances"].euclidean_reconstructed[0, 0, 2] = np.nan
    [(_, found)] = validity.sets_of(groups)
    rows, reference = validity.rows_of(found)
    assert reference.sizes["pair"] == 40 and rows["ensemble", "geodesic"].sizes["retraining"] == 5
    assert validity.said_of(found).loc[("ensemble", "geodesic"), "trusted"] == 5


def test_a_training_that_diverges_costs_itself_alone_and_is_told(tmp_path, monkeypatch):
    spoilt(monkeypatch)  # seed 1
    config = validity.Config(
        data=("surface",), models=("ensemble",), rows=60, ambient=4, members=2, retrainings=3, pairs=6, segments=8,
        epochs=2, tight=2, bends=1, width=8,
    )  # fmt: skip
    with pytest.warns(pg.study.RetrainingLost, match="retraining 1: training diverged"):
        [(_, found)] = validity.sets_of(validity.compute(config, tmp_path))
    words = str(found.lost.values)
    assert words.startswith("Lost of ensemble: retraining 1 (training diverged")
    assert words.endswith("what is said of it is of 2 of 3 retrainings.")
    assert found.trustworthiness.isnull().values.tolist() == [[False, True, False]]
    assert int(validity.said_of(found).loc[("ensemble", "geodesic"), list(checks.WORDS)].sum()) == 2
    rows, _ = validity.rows_of(found)
    assert rows["ensemble", "geodesic"].sizes["retraining"] == 2
    rows, _ = validity.rows_of(found.isel(retraining=[0, 1]))  # of one training there is no variation
    assert {model for model, _ in rows} == {"data"}


def test_what_a_check_says_stands_beside_the_truth_and_hits_and_misses_are_counted():
    groups = made_up()
    [(name, found)] = validity.sets_of(groups)
    table = validity.table_of(name, found)
    line = validity.checked(table).splitlines()[-1]
    assert line.split()[3:] == ["trusted", "6/6", "trusted", "6/6", "doubted", "6/6", "doubted", "6/6", "graph"]
    assert validity.overview(table).splitlines()[-1].endswith("trusted 6/6")
    assert "Of 12 trusted distances 12 are right, of 12 doubted ones 12 are wrong; of 0 " in checks.hits(table)
    assert "By the check: trusted 0, doubted 2, unknown 0" in validity.stable_and_wrong(table, groups)


def test_a_check_is_held_against_the_truth_and_not_against_itself():
    groups = made_up()
    [(_, found)] = validity.sets_of(groups)
    wrong = found.distance.sel(measure="euclidean", drop=True).isel(model=0, retraining=0, drop=True)
    # The graph is as wrong as the codes.
    found = found.assign(graph=xr.concat([wrong, wrong], "neighbours"), euclidean_ambient=found.reference[::-1])
    said = validity.said_of(found).loc["ensemble"]
    assert checks.cell(said.loc["geodesic"]) == "doubted 0/6" and checks.cell(said.loc["euclidean"]) == "trusted 0/6"


def test_where_the_truth_is_not_known_what_is_said_is_no_hit_and_no_miss():
    [(name, found)] = validity.sets_of(made_up("triples"))
    table = validity.table_of(name, found)
    assert checks.cell(table.loc[(name, "ensemble", "geodesic")]) == "doubted 6"
    assert checks.hits(table).startswith("Right: Spearman's ρ with the true distance above 0.9. Of 0 trusted")


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
    columns = ["geodesic", "straight", "euclidean", "reconstructed", "ambient", "isomap", "solver", "check"]
    assert header.split() == columns
    geodesic = table.loc[(name, "ensemble", "geodesic")]
    assert line.split()[3:6] == [validity.number(geodesic.right), ".01", "1.00"]
    assert line.split()[-4:-2] == ["1.000", validity.number(geodesic.excess, 4)]


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


def test_rotations_of_a_digit_are_right_by_the_angle_and_chords_are_not():
    data = known("rotated_digit", rows=300, pairs=30, ambient=0, noise=0.02, latent=2)
    assert data.x.shape == (300, 64) and data.kind == "truth" and float(data.x.std()) == pytest.approx(1, abs=0.01)
    angle = pg.datasets.rotated_image(torch.eye(8), 300).latent.squeeze(1)[data.pairs]  # of the same seed
    apart = pg.identifiability.circular_difference(*(xr.DataArray(each, dims="pair") for each in angle.T.numpy()))
    chord = (data.x[data.pairs[:, 0]] - data.x[data.pairs[:, 1]]).norm(dim=1)
    assert np.corrcoef(apart, data.reference)[0, 1] > 0.999 > 0.8 > np.corrcoef(chord, data.reference)[0, 1]


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
