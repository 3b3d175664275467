"""Figures: what is drawn, with which labels, and that drawing leaves no trace in matplotlib's settings."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from probgeo import plots
from probgeo.identifiability import coefficient_of_variation, icc

RNG = np.random.default_rng(0)


def study() -> xr.DataArray:
    values = np.exp(0.5 * RNG.normal(size=40)) * (1 + 0.05 * RNG.normal(size=(2, 3, 6, 40)))
    values[0, 2] = np.nan  # a measure that does not apply to this model
    dims = ["model", "measure", "retraining", "pair"]
    return xr.DataArray(values, dims=dims, coords={"model": ["rbf", "ensemble"], "measure": ["a", "b", "c"]})


def drawn(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure


def legends(ax) -> list[list[str]]:
    return [[text.get_text() for text in legend.get_texts()] for legend in ax.findobj(Legend)]


def test_histogram_has_a_panel_per_measure_and_shows_cv_with_icc_of_every_row():
    d = study()
    figure = drawn(plots.cv_histogram(d))
    assert [ax.get_legend().get_title().get_text() for ax in figure.axes] == ["a", "b", "c"]
    assert [len(ax.lines) for ax in figure.axes] == [2, 2, 1]  # a mean each
    assert figure.axes[0].get_xlabel() == "CV over retrainings"
    assert figure.axes[0].get_ylabel() == "pairs"
    row = d.sel(model="ensemble", measure="c")
    cv = coefficient_of_variation(row)
    assert legends(figure.axes[2]) == [[f"ensemble: CV {float(cv.mean()):.3f}, ICC {float(icc(row)):.3f}"]]
    np.testing.assert_allclose(figure.axes[2].lines[0].get_xdata(), float(cv.mean()), rtol=1e-12)


def test_histogram_counts_every_pair_once_in_shared_bins():
    figure = plots.cv_histogram(study())
    for ax in figure.axes:
        for (patch,) in ax.containers or [[patch] for patch in ax.patches]:
            x, y = patch.get_xy()[:, 0], patch.get_xy()[:, 1]
            upper = slice(1, 2 * 30, 2)
            assert y[upper].sum() == 40
            np.testing.assert_allclose(np.diff(x[upper][1:]), np.diff(x[upper])[0], rtol=1e-6)


def test_histogram_of_one_distance_is_one_panel_whatever_the_order_of_dims():
    figure = drawn(plots.cv_histogram(study()[1, 0].transpose("pair", "retraining")))
    assert len(figure.axes) == 1
    assert legends(figure.axes[0])[0][0].startswith("CV 0.0")


@pytest.mark.parametrize(
    "kind", [np.asarray, lambda values: torch.tensor(values, dtype=torch.float32, requires_grad=True)]
)
def test_latent_draws_classes_field_geodesics_and_straight_lines(kind):
    z, paths, seen = RNG.normal(size=(60, 2)), RNG.normal(size=(5, 9, 2)), []

    def field(points):
        seen.append(points)
        return (points**2).sum(-1)

    codes = torch.arange(60) % 3
    figure = drawn(plots.latent(kind(z), codes, ["zero", "one", "two"], field, "variance", kind(paths)))
    ax, bar = figure.axes
    assert type(seen[0]) is type(kind(z))
    assert seen[0].dtype == kind(z).dtype
    assert (ax.get_xlabel(), ax.get_ylabel(), bar.get_xlabel()) == ("$z_1$", "$z_2$", "variance")
    assert sorted(legends(ax)) == [["geodesic", "straight line"], ["zero", "one", "two"]]
    curves, lines = sorted((c for c in ax.collections if isinstance(c, LineCollection)), key=lambda c: -c.get_zorder())
    np.testing.assert_allclose(curves.get_segments(), paths, rtol=1e-6)
    np.testing.assert_allclose(lines.get_segments(), paths[:, [0, -1]], rtol=1e-6)
    points = [c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)]
    assert [len(p) for p in points] == [20, 20, 20, 10]
    np.testing.assert_allclose(points[1], z[1::3], rtol=1e-6)


def test_latent_contains_all_encodings_and_paths():
    z, paths = RNG.normal(size=(30, 2)), 5 * RNG.normal(size=(2, 9, 2))
    ax = drawn(plots.latent(z, paths=paths)).axes[0]
    shown = np.concatenate([z, paths.reshape(-1, 2)])
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert (shown > [left, bottom]).all()
    assert (shown < [right, top]).all()


def test_panels_of_latent_spaces_share_a_range_and_need_no_legends_of_their_own():
    figure = Figure()
    for ax, factor in zip(figure.subplots(1, 2), (1.0, 7.0), strict=True):
        plots.latent(
            RNG.normal(size=(30, 2)) * [3.0, 1.0],
            np.arange(30) % 2,
            background=lambda z, factor=factor: factor * np.linalg.norm(z, axis=1),
            background_label="",
            background_range=(0.5, 2.5),
            paths=RNG.normal(size=(2, 9, 2)),
            legend=False,
            ax=ax,
        )
        (image,) = ax.images
        assert (image.norm.vmin, image.norm.vmax) == (0.5, 2.5)
        assert legends(ax) == []
        np.testing.assert_allclose(np.diff(ax.get_xlim()), np.diff(ax.get_ylim()))  # square, so that panels align
    assert len(drawn(figure).axes) == 2  # no colour bars


def test_contours_are_drawn_where_the_field_varies():
    def contours(field):
        ax = plots.latent(RNG.normal(size=(30, 2)), background=field).axes[0]
        return [c for c in ax.collections if isinstance(c, ContourSet)]

    (lines,) = contours(lambda z: z[:, 0])
    assert len(lines.levels) == 7
    assert contours(lambda z: np.ones(len(z))) == contours(lambda z: np.full(len(z), np.nan)) == []


def test_latent_leaves_out_a_path_that_is_not_finite():
    paths = RNG.normal(size=(3, 9, 2))
    paths[1, 4] = np.nan
    ax = drawn(plots.latent(RNG.normal(size=(30, 2)), paths=paths, straight=False)).axes[0]
    (curves,) = (c for c in ax.collections if isinstance(c, LineCollection))
    np.testing.assert_allclose(curves.get_segments(), paths[[0, 2]])


def test_latent_projects_higher_dimensions_on_principal_components():
    plane = np.linalg.qr(RNG.normal(size=(7, 2)))[0]
    flat = RNG.normal(size=(40, 2)) @ np.diag([5.0, 1.0])
    z = flat @ plane.T + 3.0
    ax = drawn(plots.latent(z, paths=z.reshape(10, 4, 7))).axes[0]
    assert ax.get_xlabel() == "principal component 1"
    points = np.asarray(ax.collections[0].get_offsets())
    separation = np.linalg.norm(points[:, None] - points, axis=-1)  # a flat plane keeps its distances
    np.testing.assert_allclose(separation, np.linalg.norm(flat[:, None] - flat, axis=-1), atol=1e-12)
    assert np.ptp(points[:, 0]) > np.ptp(points[:, 1])


def test_latent_draws_into_given_axes_and_returns_their_figure():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.latent(RNG.normal(size=(30, 2)), np.array(["b", "a"] * 15), ax=right) is figure
    assert not left.has_data()
    assert legends(right) == [["a", "b"]]


def test_latent_has_no_legend_of_many_classes():
    ax = drawn(plots.latent(RNG.normal(size=(50, 2)), np.arange(50) % 25)).axes[0]
    assert legends(ax) == []
    assert len(ax.collections) == 25


def test_indicatrices_have_the_metric_length_of_the_radius_everywhere():
    points = RNG.normal(size=(6, 2))
    factors = np.eye(2) + 0.3 * RNG.normal(size=(6, 2, 2))
    tensors = factors @ factors.transpose(0, 2, 1)
    figure = drawn(plots.indicatrices(torch.tensor(points), torch.tensor(tensors), radius=0.2))
    ax, bar = figure.axes
    (ellipses,) = ax.collections
    assert bar.get_xlabel() == r"volume density $\log_{10} \sqrt{\det G}$"
    np.testing.assert_allclose(ellipses.get_array(), np.log10(np.linalg.det(tensors)) / 2, atol=1e-12)
    for center, G, path in zip(points, tensors, ellipses.get_paths(), strict=True):
        v = path.vertices - center
        np.testing.assert_allclose(np.einsum("ni,ij,nj->n", v, G, v), 0.2**2, rtol=1e-10)


def test_indicatrices_of_a_constant_metric_do_not_overlap_by_default():
    points = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), -1).reshape(-1, 2)
    (ellipses,) = plots.indicatrices(points, np.tile(100 * np.eye(2), (16, 1, 1))).axes[0].collections
    reach = np.linalg.norm(ellipses.get_paths()[0].vertices - points[0], axis=1).max()
    assert 0.3 < reach < 0.5


def test_distance_matrix_shows_values_and_names():
    values = RNG.random((4, 4))
    ax, bar = drawn(plots.distance_matrix(values, list("abcd"), "geodesic distance")).axes
    np.testing.assert_array_equal(ax.images[0].get_array(), values)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list("abcd")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list("abcd")
    assert bar.get_ylabel() == "geodesic distance"


def test_rows_side_by_side_of_one_name_are_named_once_in_their_middle():
    ax, _ = drawn(plots.distance_matrix(RNG.random((60, 60)), ["a"] * 20 + ["b"] * 39 + ["a"])).axes
    for axis, ticks in ((ax.get_xticklabels(), ax.get_xticks()), (ax.get_yticklabels(), ax.get_yticks())):
        assert [tick.get_text() for tick in axis] == ["a", "b", "a"]
        np.testing.assert_array_equal(ticks, [9.5, 39, 59])
    bounds = sorted(float(line.get_ydata()[0]) for line in ax.lines if line.get_xdata()[0] == 0)
    assert bounds == [19.5, 58.5]


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3)])
def test_panels_fill_the_grid_row_by_row(shape):
    images = RNG.random((5, int(np.prod(shape))))
    figure = drawn(plots.panels(torch.tensor(images), shape, 3, ["data", "mean"]))
    mosaic = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(mosaic[:8, :6], images[0].reshape(shape))
    np.testing.assert_array_equal(mosaic[-8:, 7:13], images[4].reshape(shape))
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["data", "mean"]


def test_drawing_leaves_matplotlib_settings_and_open_figures_as_found():
    before = dict(matplotlib.rcParams)
    plots.cv_histogram(study())
    plots.latent(RNG.normal(size=(10, 2)))
    assert dict(matplotlib.rcParams) == before
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


def test_importing_plots_chooses_no_backend():
    code = "import matplotlib, probgeo.plots; print(matplotlib.get_backend(auto_select=False))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "None"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.latent(np.zeros((5, 1))), r"codes: expected shape \(row, latent\).*got \(5, 1\)"),
        (lambda: plots.latent(np.zeros((5, 2)), np.zeros(4)), r"labels: expected shape \(5,\).*got \(4,\)"),
        (lambda: plots.latent(np.zeros((5, 2)), paths=np.zeros((4, 2))), r"paths: expected shape \(batch, node, 2\)"),
        (lambda: plots.latent(np.zeros((5, 3)), background=len), "background: expected two latent dimensions.*got 3"),
        (lambda: plots.latent(np.eye(2), background=lambda z: z), r"background: expected values of shape \(22500,\)"),
        (lambda: plots.indicatrices(np.zeros((5, 2)), np.zeros((5, 3, 3))), "points, tensors: expected shapes"),
        (lambda: plots.indicatrices(np.zeros((1, 2)), -np.eye(2)[None]), "positive definite.*Leave out the 1 points"),
        (lambda: plots.distance_matrix(np.zeros((2, 3))), r"matrix: expected shape \(row, row\); got \(2, 3\)"),
        (lambda: plots.distance_matrix(np.eye(3), ["a"]), "labels: expected 3, one per row of the matrix; got 1"),
        (lambda: plots.panels(np.zeros((4, 9)), (2, 4), 2), r"images, shape: expected shape \(image, 2 · 4\)"),
        (lambda: plots.panels(np.zeros((4, 9)), (3, 3), 0), "num_columns: expected at least 1; got 0"),
        (lambda: plots.panels(np.zeros((4, 9)), (3, 3), 2, ["a"]), "row_names: expected 2.*got 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


@pytest.mark.parametrize(
    "labels", [np.array([0, 1, -1, 1, 0, -1]), np.array(["b", "c", None, "c", "b", None], dtype=object)]
)
def test_unlabelled_points_are_grey_and_in_no_class(labels):
    z = np.random.default_rng(0).normal(size=(6, 2))
    names = ("first", "second") if labels.dtype.kind == "i" else None
    axes = plots.latent(z, labels=labels, label_names=names).axes[0]
    sizes = [len(points.get_offsets()) for points in axes.collections]
    assert sorted(sizes) == [2, 2, 2] and len(axes.get_legend().get_texts()) == 2
    grey = [points.get_offsets() for points in axes.collections if tuple(points.get_facecolor()[0][:3]) == (0.75,) * 3]
    assert np.array_equal(np.asarray(grey[0]), z[[2, 5]])


@pytest.mark.parametrize(
    "labels", [[1, None, 3, 1], pd.Series([1, None, 3, 1], dtype="Int64"), [1.0, np.nan, 3.0, 1.0]]
)
def test_whole_numbers_name_classes_as_whole_numbers_where_some_are_missing(labels):
    legend = plots.latent(np.eye(4, 2), labels=labels).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["1", "3"]
