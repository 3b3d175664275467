"""Figures of error bars: every number drawn is that of the statistics, at its own label."""

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.legend import Legend

from probgeo import plots
from probgeo.identifiability import calibration, rhat


def draws(num_retrainings: int = 6, num_draws: int = 8, num_pairs: int = 20, between: float = 2.0) -> xr.DataArray:
    rng = np.random.default_rng(0)
    centre = 10 + np.arange(num_pairs) + between * rng.normal(size=(num_retrainings, 1, num_pairs))
    values = centre + rng.normal(size=(num_retrainings, num_draws, num_pairs))
    return xr.DataArray(values, dims=["retraining", "draw", "pair"], coords={"pair": range(num_pairs)})


def calibrations(*names: str) -> xr.Dataset:
    d = draws()
    found = calibration(d, d.mean("draw"), num_splits=4, num_resamples=20)
    return xr.concat([found] * len(names), "model").assign_coords(model=list(names))


def test_coverage_has_a_panel_per_model_and_a_line_per_interval():
    c = calibrations("ensemble", "gp")
    figure = plots.coverage(c)
    figure.draw_without_rendering()
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["ensemble", "gp"]
    labels = [text.get_text() for legend in figure.findobj(Legend) for text in legend.get_texts()]
    assert len(labels) == 5
    for ax in figure.axes:
        lines = [container.lines[0].get_ydata() for container in ax.containers]
        np.testing.assert_array_equal(lines, c.coverage[0].sel(interval=["student", "recalibrated", "conformal"]).T)


def test_coverage_of_one_source_needs_no_dim_model():
    figure = plots.coverage(calibrations("ensemble").isel(model=0))
    assert len(figure.axes) == 1
    with pytest.raises(ValueError, match=r"calibration: expected the result of .*; got none of \['coverage'"):
        plots.coverage(xr.Dataset())


def test_ratios_show_every_pair_and_the_median_of_each_source():
    c = calibrations("ensemble", "gp")
    figure = plots.ratios(c)
    figure.draw_without_rendering()
    for ax, variable in zip(figure.axes, ("ratio", "rhat"), strict=True):
        assert [len(dots.get_offsets()) for dots in ax.collections] == [20, 20]
        medians = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(medians, c[variable].median("pair"))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ensemble", "gp"]


def test_forest_shows_each_pair_at_its_label_with_its_own_rhat():
    d, pairs = draws(), [7, 0, 19]
    before = dict(matplotlib.rcParams)
    figure = plots.forest(d, pairs)
    figure.draw_without_rendering()
    lengths, convergence = figure.axes
    ticks = dict(zip([t.get_text() for t in lengths.get_yticklabels()], lengths.get_yticks(), strict=True))
    assert set(ticks) == {"pair 7", "pair 0", "pair 19"}
    assert ticks["pair 7"] > ticks["pair 0"] > ticks["pair 19"]  # from the top, as given
    shown = dict(zip(*convergence.lines[0].get_data()[::-1], strict=True))
    for pair in pairs:
        assert shown[ticks[f"pair {pair}"]] == pytest.approx(float(rhat(d.isel(pair=pair))))
        medians = [
            line.get_xdata()[0]
            for line in lengths.lines
            if line.get_marker() == "o" and abs(line.get_ydata()[0] - ticks[f"pair {pair}"]) < 0.4
        ]
        np.testing.assert_allclose(sorted(medians), np.sort(d.isel(pair=pair).median("draw")))
    assert dict(matplotlib.rcParams) == before
