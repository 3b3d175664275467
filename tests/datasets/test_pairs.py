"""Pairs: which are drawn, that none comes twice, and the rows that stand for a class."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from probgeo.datasets import (
    all_pairs,
    class_regions,
    class_representatives,
    count_table,
    neighbour_pairs,
    sample_class_triples,
    sample_pairs,
    sample_triples,
    table,
)


def as_set(pairs: torch.Tensor) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in pairs}


@settings(deadline=None)
@given(codes=st.lists(st.integers(0, 4), min_size=2, max_size=20), across=st.booleans(), seed=st.integers(0, 99))
def test_drawing_as_many_pairs_as_exist_draws_each_exactly_once(codes, across, seed):
    expected = {(i, j) for i, j in itertools.combinations(range(len(codes)), 2) if not across or codes[i] != codes[j]}
    if expected:
        pairs = sample_pairs(torch.tensor(codes), len(expected), seed=seed, across_classes=across)
        assert len(pairs) == len(expected)
        assert as_set(pairs) == expected


@pytest.mark.parametrize("across, num_possible", [(False, 28), (True, 19)])
def test_every_pair_is_equally_likely(across, num_possible):
    labels = torch.tensor([0, 1, 1, 0, 2, 1, 1, 0])
    counts = torch.zeros(8, 8)
    for seed in range(1000):
        i, j = sample_pairs(labels, 3, seed=seed, across_classes=across).T
        counts[i, j] += 1
    drawn = counts[counts > 0]
    assert len(drawn) == num_possible
    assert chisquare(drawn.double().numpy()).pvalue > 1e-3


def test_pairs_of_many_rows_are_distinct_and_ordered():
    labels = torch.arange(60000) % 10
    pairs = sample_pairs(labels, 5000, seed=1, across_classes=True)
    assert pairs.dtype == torch.int64
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(as_set(pairs)) == 5000
    assert (labels[pairs[:, 0]] != labels[pairs[:, 1]]).all()
    assert torch.equal(pairs, sample_pairs(labels, 5000, seed=1, across_classes=True))
    assert not torch.equal(pairs, sample_pairs(labels, 5000, seed=2, across_classes=True))


@pytest.mark.parametrize(
    "codes, num_pairs, across, message",
    [
        ([0, 1, 2], 0, False, "num_pairs: expected at least 1; got 0"),
        ([0, 1, 2], 4, False, "num_pairs: 3 rows have 3 distinct pairs; got 4"),
        ([0, 0, 1], 3, True, "num_pairs: 3 rows have 2 pairs across classes; got 3"),
        ([], 1, False, "num_pairs: 0 rows have 0 distinct pairs; got 1"),
        ([3, 3, 3], 1, True, "across_classes: expected labels of at least two classes"),
    ],
)
def test_pairs_that_do_not_exist_are_an_error(codes, num_pairs, across, message):
    with pytest.raises(ValueError, match=message):
        sample_pairs(torch.tensor(codes, dtype=torch.int64), num_pairs, across_classes=across)


def test_neighbour_pairs_are_the_nearest_rows_of_each_centre():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((80, 3)))
    pairs = neighbour_pairs(x, num_centres=12, num_neighbours=5, seed=1)
    assert pairs.shape == (60, 2)
    assert len({frozenset(pair) for pair in as_set(pairs)}) == 60
    distance = torch.cdist(x, x)
    earlier: list[int] = []
    for group in pairs.reshape(12, 5, 2):
        centre = int(group[0, 0])
        assert (group[:, 0] == centre).all()
        earlier.append(centre)
        nearest = [row for row in distance[centre].argsort().tolist() if row not in earlier]
        assert group[:, 1].tolist() == nearest[:5]
    assert len(set(earlier)) == 12


def test_coincident_points_are_never_paired_with_themselves():
    pairs = neighbour_pairs(torch.zeros(30, 2), num_centres=20, num_neighbours=10)
    assert len({frozenset(pair) for pair in as_set(pairs)}) == 200
    assert (pairs[:, 0] != pairs[:, 1]).all()


@pytest.mark.parametrize(
    "num_centres, num_neighbours, message",
    [
        (0, 5, "num_centres: expected at least 1; got 0"),
        (5, 0, "num_neighbours: expected at least 1; got 0"),
        (6, 5, r"at most 10, the rows of x; got 6 \+ 5"),
    ],
)
def test_more_neighbours_than_rows_are_an_error(num_centres, num_neighbours, message):
    with pytest.raises(ValueError, match=message):
        neighbour_pairs(torch.randn(10, 2), num_centres, num_neighbours)


@pytest.mark.parametrize("num_points", [2, 5, 133])
def test_all_pairs_are_the_combinations_in_order(num_points):
    assert all_pairs(num_points).tolist() == [list(pair) for pair in itertools.combinations(range(num_points), 2)]


def test_all_pairs_of_one_point_is_an_error():
    with pytest.raises(ValueError, match="num_points: expected at least 2; got 1"):
        all_pairs(1)


def test_representative_is_the_row_nearest_to_its_class_centroid():
    z = torch.tensor([[9.0], [0.0], [1.0], [5.0], [7.0], [3.0]])
    labels = torch.tensor([7, 2, 2, 7, 7, 2])
    # Centroids: class 2 at 4/3, its row 2 (z = 1); class 7 at 7, its row 4 (z = 7). No rows, no representative.
    assert class_representatives(z, labels).tolist() == [2, 4]


@settings(deadline=None)
@given(codes=st.lists(st.integers(0, 5), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_representatives_belong_to_their_classes_in_order(codes, seed):
    labels = torch.tensor(codes)
    z = torch.randn(len(codes), 2, generator=torch.Generator().manual_seed(seed))
    assert labels[class_representatives(z, labels)].tolist() == sorted(set(codes))


def test_labels_of_another_length_are_an_error():
    # The shape checks that are on in the tests may see it before the function does.
    with pytest.raises((ValueError, TypeError), match="labels"):
        class_representatives(torch.zeros(4, 2), torch.zeros(5, dtype=torch.int64))


def test_unlabelled_rows_are_in_no_pair_across_classes():
    labels = torch.tensor([-1, 0, 1, -1, 0])
    assert as_set(sample_pairs(labels, 2, across_classes=True)) == {(1, 2), (2, 4)}
    with pytest.raises(ValueError, match="have 2 pairs across classes; got 3"):
        sample_pairs(labels, 3, across_classes=True)


def test_unlabelled_rows_are_not_a_class():
    with pytest.raises(ValueError, match="labels of at least two classes"):
        sample_pairs(torch.tensor([-1, 2, 2]), 1, across_classes=True)


def test_class_triples_are_uniform_over_the_rows_of_either_class():
    labels = torch.tensor([0, 0, 0, 1, 1, -1, 2])  # the last is alone in its class: no anchor, but another class
    seen = torch.cat([sample_class_triples(labels, 5, seed=seed) for seed in range(400)])
    anchor, same, other = seen.T
    assert (labels[anchor] == labels[same]).all() and (anchor != same).all()
    assert (labels[other] >= 0).all() and (labels[other] != labels[anchor]).all()
    assert anchor.bincount().tolist() == [400] * 5
    of_first = seen[anchor == 0]
    for column, expected in ((of_first[:, 1], [1, 2]), (of_first[:, 2], [3, 4, 6])):
        rows, counts = column.unique(return_counts=True)
        assert rows.tolist() == expected
        assert ((counts / 400 - 1 / len(expected)).abs() < 5 * (0.25 / 400) ** 0.5).all()
    assert torch.equal(sample_class_triples(labels, 3, seed=1), sample_class_triples(labels, 3, seed=1))


def test_class_triples_that_cannot_be_are_errors():
    with pytest.raises(ValueError, match="num_triples: 2 rows are in classes of at least two; got 3"):
        sample_class_triples(torch.tensor([0, 0, 1]), 3)
    with pytest.raises(ValueError, match="labels: expected at least two classes; got 1"):
        sample_class_triples(torch.tensor([0, 0, -1]), 1)
    with pytest.raises(ValueError, match="num_triples: expected at least 1; got 0"):
        sample_class_triples(torch.tensor([0, 0, 1]), 0)


def test_unlabelled_rows_stand_for_no_class_and_move_no_centroid():
    z = torch.tensor([[0.0], [9.0], [1.0], [2.0], [5.0]])
    labels = torch.tensor([0, -1, 0, 0, 3])
    assert class_representatives(z, labels).tolist() == [2, 4]
    regions = class_regions(z, labels, share=1.0)
    assert {name: rows.tolist() for name, rows in regions.items()} == {"0": [0, 2, 3], "3": [4]}


LABELS = [2, -1, 0, 2, -1, 0, 0]
NAMES = ["c", None, "a", "c", None, "a", "a"]
WAYS = {
    "a list": LABELS,
    "NumPy": np.array(LABELS),
    "NumPy, NaN where missing": np.array([2, np.nan, 0, 2, np.nan, 0, 0]),
    "a Series": pd.Series(LABELS, index=range(7, 0, -1)),
    "a Series, nullable": pd.Series(LABELS, dtype="Int64").where(lambda code: code >= 0),
    "a categorical": pd.Categorical(NAMES),
    "a Series of names": pd.Series(NAMES),
    "a list of names": NAMES,
    "an array of names": np.array(NAMES, dtype=object),
}


@pytest.mark.parametrize("way", WAYS)
def test_labels_of_every_kind_give_what_their_codes_give(way):
    labels, codes = WAYS[way], torch.tensor(LABELS)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    for function in (
        lambda labels: sample_pairs(labels, 5, across_classes=True),
        lambda labels: sample_triples(labels, 4),
        lambda labels: sample_class_triples(labels, 4),
        lambda labels: class_representatives(x, labels),
        lambda labels: class_representatives(x.numpy(), labels),
        lambda labels: torch.cat(list(class_regions(x.numpy(), labels).values())),
    ):
        assert torch.equal(function(labels), function(codes))
    assert list(class_regions(x, labels)) in (["0", "2"], ["a", "c"])


@pytest.mark.parametrize("labels", [np.array([0.5, 1.0]), np.array([np.inf, 1.0])])
def test_labels_that_are_no_codes_are_refused(labels):
    with pytest.raises(ValueError, match="labels: expected class codes, whole numbers, or names; got"):
        sample_pairs(labels, 1)


def test_missing_labels_of_tables_are_unlabelled_and_no_class(tmp_path):
    frame = pd.DataFrame({"g1": [1, 2, 3, 0], "g2": [0, 1, 0, 5]})
    frame.assign(type=["b", None, "a", "b"]).to_csv(tmp_path / "types.csv", index=False)
    frame.assign(day=[2, 10, None, 2]).to_csv(tmp_path / "days.csv", index=False)
    for read in (table, count_table):
        data = read(tmp_path / "types.csv", labels="type")
        assert data.labels.tolist() == [1, -1, 0, 1] and data.label_names == ("a", "b")
        assert data.class_counts() == {"a": 1, "b": 2} and repr(data).endswith("2 classes)")
        assert len(data.subset()) == 4 and data.subset(["b"]).labels.tolist() == [1, 1]
    days = count_table(tmp_path / "days.csv", labels="day")
    assert days.labels.tolist() == [1, 0, -1, 1] and days.label_names == ("10", "2")
