"""Figures of searches: every share drawn is that of the geodesics whose rivals were looked for."""

import numpy as np
import pytest
import xarray as xr

from probgeo import plots


def dataset() -> xr.Dataset:
    """Two measures; 30 % of the first one's geodesics have a rival, the second looked for none."""
    rng = np.random.default_rng(0)
    gap = np.full((2, 4, 25), np.nan)
    has = rng.permutation(100).reshape(4, 25) < 30
    gap[0][has] = rng.uniform(0, 0.4, 30)
    rivals = np.where(np.isfinite(gap), 2, 1)
    rivals[1] = -1
    dims = ["measure", "retraining", "pair"]
    coords = {"measure": ["geodesic", "straight"]}
    return xr.Dataset({"rivals": (dims, rivals), "gap": (dims, gap)}, coords=coords)


def test_a_line_rises_to_the_share_of_geodesics_that_have_a_rival():
    d = dataset()
    figure = plots.rival_gaps(d)
    figure.draw_without_rendering()
    (line,) = figure.axes[0].lines  # none of the measure that looked for none
    x, y = line.get_xdata(), line.get_ydata()
    gap = d.gap.sel(measure="geodesic").values
    for at in (0.01, 0.1, 0.3):
        assert y[np.searchsorted(x, at, side="right") - 1] == pytest.approx((gap <= at).mean())
    assert y[-1] == pytest.approx(0.3)
    assert line.get_label() == "geodesic: 30% have a rival"


def test_geodesics_that_were_not_searched_are_left_out_of_the_share():
    d = dataset().astype(float)
    d["rivals"] = d.rivals.where(d.retraining > 1)  # of retrainings that were lost
    kept = d.sel(measure="geodesic").isel(retraining=[2, 3])
    assert plots.rival_gaps(d).axes[0].lines[0].get_ydata()[-1] == pytest.approx(float(kept.gap.notnull().mean()))


def test_without_any_rival_the_line_stays_at_zero():
    d = dataset().sel(measure="geodesic")
    figure = plots.rival_gaps(d.assign(rivals=1 + 0 * d.rivals, gap=np.nan * d.gap))
    figure.draw_without_rendering()
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0, 0]


def test_what_was_not_searched_for_rivals_is_refused_in_words():
    with pytest.raises(ValueError, match="got none of \\['gap'\\]"):
        plots.rival_gaps(dataset().drop_vars("gap"))
    with pytest.raises(ValueError, match="whose rivals were looked for"):
        plots.rival_gaps(dataset().sel(measure=["straight"]))
