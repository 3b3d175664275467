"""Data of two views: keys decide which rows belong together, missing views are NaN, images keep their pixels."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import probgeo as pg
from probgeo.datasets import two_views

DATA = Path(os.environ["PROBGEO_DATA"]) / "multiview" if os.environ.get("PROBGEO_DATA") else None
needs_neurons = pytest.mark.skipif(
    DATA is None or not DATA.is_dir(), reason="needs the neurons: set PROBGEO_DATA to a folder with multiview/"
)


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    left = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4, 5, 6]}, index=["x", "y", "z"])
    right = pd.DataFrame({"c": [7.0, 8.0, 9.0]}, index=["z", "w", "x"])
    return left, right


# --- keys and missing views ---


def test_rows_of_tables_are_matched_by_their_index_and_others_lack_a_view():
    found = two_views(*tables())
    nan = np.nan
    expected = [[1, 4, 9], [2, 5, nan], [3, 6, 7], [nan, nan, 8]]  # x, y, z as in left, then w
    np.testing.assert_array_equal(found.x, expected)
    assert found.present("left").tolist() == [True, True, True, False]
    assert found.present("right").tolist() == [True, False, True, True]
    assert found.complete().tolist() == [True, False, True, False]
    assert dict(found.views) == {"left": (2,), "right": (1,)}


def test_arrays_are_matched_by_number_or_by_given_keys():
    left, right = torch.arange(6.0).view(3, 2), np.arange(3.0)[:, None]
    assert torch.equal(two_views(left, right).x, torch.cat([left, torch.from_numpy(right).float()], dim=1))
    found = two_views(left, right, keys=([10, 20, 30], [30, 40, 10]), names=("p", "q"))
    np.testing.assert_array_equal(found.view("q")[:, 0], [2, np.nan, 0, 1])
    assert found.present("p").tolist() == [True, True, True, False]


def test_the_order_of_the_right_rows_does_not_matter():
    left, right = tables()
    first, second = two_views(left, right), two_views(left, right.iloc[[2, 0, 1]])
    np.testing.assert_array_equal(first.x, second.x)


def test_labels_follow_the_keys():
    left, right = tables()
    labels = pd.Series({"w": "cat", "x": "dog", "y": "cat", "z": "ant"})
    found = two_views(left, right, labels=labels)
    assert [found.label_names[code] for code in found.labels] == ["dog", "cat", "ant", "cat"]
    in_order = two_views(left, right.loc[["z", "x"]], labels=["dog", "cat", "ant"])
    assert [in_order.label_names[code] for code in in_order.labels] == ["dog", "cat", "ant"]
    with pytest.raises(ValueError, match=r"labels: expected one for every key; 'w' has none \(1 such keys\)"):
        two_views(left, right, labels=labels.drop("w"))


def test_a_row_of_nothing_is_a_missing_view_and_a_part_is_refused():
    left, right = tables()
    left.loc["y"] = np.nan
    with pytest.raises(ValueError, match=r"row 'y' has neither view \(1 such rows\); remove it"):
        two_views(left, right)
    right.loc["y"] = 1.0
    assert two_views(left, right).present("left").tolist() == [True, False, True, False]
    left.loc["z", "b"] = np.nan
    with pytest.raises(ValueError, match=r"left: .* row 'z' has some \(1 such rows, 1 columns\). Impute"):
        two_views(left, right)


def test_keys_that_are_there_twice_words_and_other_shapes_are_refused():
    left, right = tables()
    with pytest.raises(ValueError, match="right: expected a key for each row; 'x' is there more than once"):
        two_views(left, pd.concat([right, right.loc[["x"]]]))
    with pytest.raises(TypeError, match="left: expected columns of numbers; got name"):
        two_views(left.assign(name=["p", "q", "r"]), right)
    with pytest.raises(TypeError, match=r"left: expected numbers \(row, feature\); got float64, shape \(3,\)"):
        two_views(np.zeros(3), right)


# --- the set ---


def test_a_model_takes_the_set_as_it_is():
    found = two_views(*tables())
    views = {name: pg.View(int(np.prod(shape))) for name, shape in found.views.items()}
    model = pg.SharedLatentVAE(views)
    model.check(found.x)
    assert all(model.columns(name) == found.place(name) for name in found.views)


def test_parts_are_disjoint_and_hold_every_row_in_its_order():
    data = pg.datasets.image_halves(pg.datasets.digits())
    first, second = data.split(0.8, seed=1)
    assert (len(first), len(second)) == (1438, 359)
    together = torch.cat([first.x, second.x])
    assert torch.equal(together[together.sum(1).argsort()].sum(1), data.x.sum(1).sort().values)
    plain = pg.datasets.digits().split(0.8, seed=1)
    assert torch.equal(first.x, plain[0].x) and torch.equal(second.labels, plain[1].labels)
    with pytest.raises(ValueError, match=r"fraction: 1\.0 of 1797 rows leaves one part empty"):
        data.split(1.0)


def test_normalised_columns_have_mean_zero_and_variance_one_over_the_rows_that_have_the_view():
    generator = torch.Generator().manual_seed(0)
    left, right = 3 + 2 * torch.randn(50, 2, generator=generator), torch.randn(30, 2, generator=generator)
    right[:, 1] = 5.0
    data = two_views(left, right)
    found = data.normalised()
    torch.testing.assert_close(found.x.nanmean(0), torch.zeros(4), rtol=0, atol=1e-6)
    expected = torch.tensor([1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(found.x.square().nanmean(0), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.x.isnan(), data.x.isnan())
    torch.testing.assert_close(found.original(found.view("left"), "left"), left)
    torch.testing.assert_close(found.original(found.view("right")[:30], "right"), right)
    again = data.normalised(found.normalisation)
    torch.testing.assert_close(again.x, found.x, equal_nan=True)
    with pytest.raises(ValueError, match="is normalised already"):
        found.normalised()


def test_unknown_views_are_refused():
    with pytest.raises(ValueError, match="view: expected one of 'left', 'right'; got 'top'"):
        two_views(*tables()).view("top")


# --- images ---


def test_the_inverse_is_the_image_with_black_and_white_exchanged():
    data = pg.datasets.image_and_inverse(pg.datasets.digits())
    assert data.view("image").shape == data.view("inverse").shape == (1797, 64)
    torch.testing.assert_close(data.view("image") + data.view("inverse"), torch.ones(1797, 64))
    assert data.views["inverse"] == (8, 8)
    assert repr(data) == "Dataset('digits_inverse': 1797 rows of image 1797×(8, 8), inverse 1797×(8, 8), 10 classes)"


def test_halves_stacked_are_the_image():
    digits = pg.datasets.digits()
    data = pg.datasets.image_halves(digits)
    assert data.views == {"upper": (4, 8), "lower": (4, 8)}
    upper, lower = (data.view(name).view(-1, 4, 8) for name in ("upper", "lower"))
    assert torch.equal(torch.cat([upper, lower], dim=1), digits.x.view(-1, 8, 8))
    with pytest.raises(ValueError, match="expected images of even height"):
        pg.datasets.image_halves(pg.datasets.two_moons())


# --- neurons ---


@needs_neurons
def test_neurons_have_physiology_and_where_it_is_there_morphology_or_expression():
    morphology = pg.datasets.neurons_morphology()
    assert dict(morphology.views) == {"physiology": (29,), "morphology": (22,)}
    assert (len(morphology), int(morphology.complete().sum())) == (817, 369)
    assert morphology.label_names == ("Lamp5", "Pvalb", "Sncg", "Sst", "Vip")
    expression = pg.datasets.neurons_expression()
    assert dict(expression.views) == {"physiology": (29,), "expression": (100,)}
    assert expression.complete().all() and len(expression) == 174
    fewer = pg.datasets.neurons_expression(num_genes=10)
    assert fewer.view("expression").var(0).min() > expression.view("expression").var(0).median()


def test_neurons_are_read_from_any_file_of_such_arrays(tmp_path):
    ephys = np.arange(12.0).reshape(4, 3)
    ephys[1, 0] = np.nan  # incomplete
    morph = np.array([[1.0, np.nan], [2, 2], [3, 3], [np.nan, np.nan]])
    has = np.array([True, True, True, False])
    family, names = np.array([0, 0, 1, 0]), np.array(["Sst", "Pvalb", "IT"])
    arrays = {"ephys": ephys, "morph": morph, "has_morph": has, "rna_family": family, "rna_family_names": names}
    np.savez(tmp_path / "neurons.npz", **arrays)
    found = pg.datasets.neurons_morphology(tmp_path / "neurons.npz")
    np.testing.assert_array_equal(found.x, [[0, 1, 2, 1], [6, 7, 8, 3], [9, 10, 11, np.nan]])
    with pytest.raises(FileNotFoundError, match=r"there is no such file.* made from the tables of"):
        pg.datasets.neurons_expression(tmp_path / "none.npz")


# --- hands ---


def hand(folder: Path, part: str, listing: str, file: str, depth: np.ndarray, joints: np.ndarray) -> None:
    """One more image of a copy of ICVL."""
    path = folder / part / "Depth" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(depth.astype(np.uint16)).save(path)
    with (folder / part / listing).open("a") as lines:
        lines.write(" ".join([file, *(f"{value:.3f}" for value in joints.ravel())]) + " \n\n")


@pytest.fixture
def hands(tmp_path):
    """Two training images of a plane at 400 and 300 mm with a nearer spot at the mean joint, and a test image."""
    generator = np.random.default_rng(0)
    for number, distance in enumerate((400.0, 300.0)):
        joints = np.array([150.0, 110, distance]) + generator.normal(scale=10, size=(16, 3))
        centre = joints.mean(0)
        depth = np.full((240, 320), centre[2] + 30)
        row, column = np.rint(centre[1::-1]).astype(int)
        depth[row - 8 : row + 9, column - 8 : column + 9] = centre[2] - 60
        depth[:, : column - 40] = 0  # nothing was measured there
        hand(tmp_path, "Training", "labels.txt", f"seq{number}/image_0000.png", depth, joints)
    hand(tmp_path, "Testing", "test_seq_1.txt", "test_seq_1/image_0000.png", depth, joints)
    return tmp_path


def test_hands_are_centred_and_depths_rise_towards_the_camera(hands):
    data = pg.datasets.hand_poses(hands, size=16, reach=120.0)
    assert data.views == {"depth": (16, 16), "joints": (48,)}
    assert data.label_names == ("seq0", "seq1") and data.labels.tolist() == [0, 1]
    joints = data.view("joints").view(-1, 16, 3)
    torch.testing.assert_close(joints.mean(1), torch.zeros(2, 3), rtol=0, atol=1e-5)
    depth = data.view("depth").view(-1, 16, 16)
    spot, plane = (120 + 60) / 240, (120 - 30) / 240  # PNG holds whole millimetres
    for image in depth:
        assert abs(image[7:9, 7:9].mean() - spot) < 0.01
        assert abs(image[8, 14] - plane) < 0.01
        assert (image[:, 0] == 0).all()
    assert len(pg.datasets.hand_poses(hands, train=False)) == 1
    assert len(pg.datasets.hand_poses(hands, max_rows=1)) == 1


def test_a_hand_that_moves_away_and_grows_alike_looks_the_same(tmp_path):
    offsets = np.random.default_rng(0).uniform(-20, 20, size=(16, 3))
    offsets -= offsets.mean(0)
    for number, distance in enumerate((300.0, 600.0)):
        scale = np.array([300 / distance, 300 / distance, 1.0])  # pixels shrink with the distance
        hand(tmp_path, "Training", "labels.txt", f"s/{number}.png", np.full((240, 320), distance), [160, 120, distance] + offsets * scale)  # fmt: skip # noqa: E501
    found = pg.datasets.hand_poses(tmp_path, size=8)
    torch.testing.assert_close(found.x[0], found.x[1], rtol=0, atol=1e-4)


def test_hands_that_are_not_there_and_other_lines_are_refused(hands, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"labels.txt; there is none. Unpack ICVL"):
        pg.datasets.hand_poses(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="size, reach, max_rows: expected positive numbers"):
        pg.datasets.hand_poses(hands, size=0)
    (hands / "Training" / "Depth" / "seq1" / "image_0000.png").unlink()
    with pytest.raises(FileNotFoundError, match="the image is listed, but there is no such file"):
        pg.datasets.hand_poses(hands)
    (hands / "Training" / "labels.txt").write_text("seq0/image_0000.png 1 2 3\n")
    with pytest.raises(ValueError, match="expected 16 joints of three numbers; got 3 numbers"):
        pg.datasets.hand_poses(hands)
