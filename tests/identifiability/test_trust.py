"""A check without a truth: what it trusts, doubts, and cannot tell."""

import numpy as np
import pytest
import xarray as xr

from probgeo.identifiability import summary, trust, trust_of_trainings

WAYS = np.random.default_rng(0).uniform(1, 9, 30)
NOISE = np.random.default_rng(1).normal(size=(2, 6, 30))


def check(**changes) -> xr.Dataset:
    """One model of six trainings, whose geodesic follows the graph of rolled-up data, and whose chord does not."""
    distance = np.stack([WAYS * np.exp(0.05 * NOISE[0]), WAYS[::-1] * np.exp(0.05 * NOISE[1])])[None]
    of_training = (("model", "retraining"), np.ones((1, 6)))
    found = xr.Dataset(
        {
            "distance": (("model", "measure", "retraining", "pair"), distance),
            "graph": (("neighbours", "pair"), np.stack([WAYS, WAYS])),
            "ambient": ("pair", np.sin(WAYS) + 2),
            "noise": ("model", [0.5]),
            "radius": 2.0,
            "residual": of_training,
            "trustworthiness": of_training,
            "continuity": of_training,
        },
        {"model": ["vae"], "measure": ["geodesic", "chord"], "neighbours": [5, 10]},
    )
    for name, value in changes.items():
        found[name] = xr.full_like(found[name], value) if np.isscalar(value) else (found[name].dims, value)
    return found


def told(found: xr.Dataset) -> list:
    """By measure, the trainings that are trusted, doubted, unknown."""
    table = trust(found)
    ones = trust_of_trainings(found).isel(model=0)
    counts = [[int((ones == 1)[m].sum()), int((ones == 0)[m].sum())] for m in range(2)]
    assert table[["trusted", "doubted"]].values.tolist() == counts
    return table[["trusted", "doubted", "unknown"]].values.tolist()


def test_what_follows_the_graph_is_trusted_and_what_does_not_is_doubted():
    assert told(check()) == [[6, 0, 0], [0, 6, 0]]
    text = " ".join(str(trust(check())).split())
    assert "vae, geodesic: trusted in 6 of 6 trainings." in text
    assert "vae, chord: doubted in 6 of 6 trainings (it does not follow the data's graph, ρ below .9)." in text
    assert "WARNING" not in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trustworthiness": 0.8}, "codes are folded"),
        ({"continuity": 0.8}, "codes are torn"),
        ({"residual": 7.0}, "reconstructions are off by more than 3 radii"),
    ],
)
def test_codes_that_are_folded_or_torn_and_poor_reconstructions_are_doubted_whatever_the_graph_says(changes, reason):
    assert told(check(**changes)) == [[0, 6, 0], [0, 6, 0]]
    assert reason in " ".join(str(trust(check(**changes))).split())
    assert told(check(**changes, ambient=WAYS)) == [[0, 6, 0], [0, 6, 0]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"graph": np.stack([WAYS[::-1], WAYS])}, "depends on the number of neighbours"),
        (
            {"graph": np.stack([WAYS, np.where(np.arange(30) < 20, WAYS, np.nan)])},
            "depends on the number of neighbours",
        ),
        ({"ambient": WAYS**2}, "says no more than the distances of the data themselves"),
    ],
)
def test_a_graph_that_is_not_to_be_trusted_leaves_it_unknown_for_and_against(changes, reason):
    assert told(check(**changes)) == [[0, 0, 6], [0, 0, 6]]
    text = " ".join(str(trust(check(**changes))).split())
    assert reason in text and "does not follow" not in text and "WARNING" not in text


def test_pairs_and_trainings_without_a_distance_are_left_out_and_a_constant_is_unknown():
    found = check()
    found.distance[0, 0, 0, :20] = np.nan  # geodesics that failed
    found.distance[0, :, 5] = np.nan  # a training that was lost
    found.distance[0, 0, 1] = 1.0
    assert told(found) == [[4, 0, 1], [0, 5, 0]]
    assert trust(found)["trainings"].tolist() == [5, 5]
    with pytest.raises(ValueError, match="check: expected distances of at least one training"):
        trust(check(distance=np.nan))


def test_all_distances_stable_and_wrong_is_warned_of_in_words():
    found = check()
    found["distance"] = found.distance.isel(measure=[1, 1]).assign_coords(measure=["geodesic", "chord"])
    text = " ".join(str(trust(found)).split())
    assert "WARNING: no distance of vae is to be trusted: it seems not to have found its data's manifold." in text
    assert "Stable, and wrong by this check: geodesic, chord vary little over trainings (CV at most .2)." in text
    found["distance"] = found.distance * np.exp(np.arange(6))[:, None].reshape(1, 1, 6, 1)
    assert "WARNING" in str(trust(found)) and "Stable, and wrong" not in str(trust(found))


def test_that_the_distances_of_the_data_are_right_is_no_merit_of_a_model():
    found = check()
    found["distance"] = found.distance.copy(data=np.stack([found.distance[0, 1], np.tile(WAYS, (6, 1))])[None])
    assert trust(found)["trusted"].tolist() == [0, 6]
    assert "WARNING: no distance of vae is to be trusted" in str(trust(found))


def test_a_summary_tells_beside_its_verdict_what_the_check_says_of_the_same_rows():
    found = check()
    table = summary(found.distance, num_resamples=50, trust=trust(found))
    text = " ".join(str(table).split())
    assert "vae, geodesic: survives: yes; tells apart: yes; right: unknown, by the check trusted in 6 of 6" in text
    assert "right: unknown, by the check doubted in 6 of 6 trainings (it does not follow" in text
    assert "by the check" not in str(summary(found.distance, num_resamples=50))
    one = summary(found.distance.sel(model="vae"), num_resamples=50, trust=trust(found))  # rows by measure alone
    assert "right: unknown, by the check trusted in 6 of 6" in " ".join(str(one).split())
    found["distance"] = found.distance.isel(measure=[1, 1]).assign_coords(measure=["geodesic", "chord"])
    assert "WARNING" in str(summary(found.distance, num_resamples=50, trust=trust(found)))
    other = found.distance.assign_coords(measure=["a", "b"])
    with pytest.raises(ValueError, match="trust: expected models and measures of the summary"):
        summary(other, num_resamples=50, trust=trust(found))


def test_a_notebook_shows_what_is_printed():
    table = trust(check())
    page = table._repr_html_()
    assert page.count("<p>") == 3 and "<table" in page
    assert "error/noise" in page and "2.00" in page and "2.00" in str(table)  # 1 / .5


def test_a_dataset_that_is_no_check_is_refused():
    with pytest.raises(ValueError, match=r"check: .* without \['ambient', 'graph'\]"):
        trust(check().drop_vars(["ambient", "graph"]))
