"""The solver's share of a distance."""

import numpy as np
import pytest
import xarray as xr

from probgeo.identifiability import solver_excess, summary


def distances(seed: int = 0) -> xr.DataArray:
    values = np.random.default_rng(seed).uniform(1, 5, (4, 50))
    return xr.DataArray(values, dims=("retraining", "pair"), coords={"pair": np.arange(50)})


def test_excess_has_the_quantiles_of_the_factors_that_distances_were_made_longer_by():
    tight = distances()
    factors = np.random.default_rng(1).uniform(0, 0.2, tight.shape)
    found = solver_excess(tight * (1 + factors), tight)
    assert float(found["median"]) == pytest.approx(np.median(factors))
    assert float(found.quantile_95) == pytest.approx(np.quantile(factors, 0.95))
    assert float(found.maximum) == pytest.approx(factors.max())
    assert float(found.beaten) == 0


def test_a_reference_that_is_beaten_is_no_reference_and_says_so():
    tight = distances()
    found = solver_excess(tight, tight * xr.where(tight.pair < 10, 1.05, 1.0))
    assert float(found.maximum) == 0
    assert float(found.beaten) == pytest.approx(0.2)


def test_a_sample_of_the_pairs_is_matched_by_label_and_missing_distances_are_left_out():
    tight, longer = distances(), 1.1 * distances()
    longer[:, 7] = np.nan
    found = solver_excess(longer.expand_dims(measure=["geodesic"]), tight.isel(pair=[40, 7, 3]))
    assert float(found.sel(measure="geodesic").maximum) == pytest.approx(0.1)


def test_wrong_dims_or_other_pairs_are_a_named_error():
    tight = distances()
    with pytest.raises(ValueError, match="reference: expected the dims"):
        solver_excess(tight, tight.isel(pair=0))
    with pytest.raises(ValueError, match="reference: expected some"):
        solver_excess(tight, tight.assign_coords(pair=np.arange(50) + 100))


def rows() -> xr.DataArray:
    """Two models and two measures, whose geodesics are longer than they need be by 1 % and 2 %."""
    tight = distances().assign_coords(start=("pair", np.arange(50)), stop=("pair", np.arange(50) + 50))
    models = xr.DataArray([1.01, 1.02], dims="model", coords={"model": ["single", "ensemble"]})
    measures = xr.DataArray([1.0, 3.0], dims="measure", coords={"measure": ["geodesic", "euclidean"]})
    return (tight * models * measures).transpose("model", "measure", "retraining", "pair")


def sample_of(distance: xr.DataArray) -> xr.DataArray:
    geodesics = distance.sel(measure=["geodesic"]).isel(pair=[3, 8, 20, 41])
    return geodesics / xr.DataArray([1.01, 1.02], dims="model", coords={"model": ["single", "ensemble"]})


def test_the_summary_states_the_share_of_the_rows_that_were_searched_tightly_and_changes_nothing_else():
    d = rows()
    plain, stated = summary(d, num_resamples=50), summary(d, num_resamples=50, tight=sample_of(d))
    assert stated.loc[("ensemble", "geodesic"), "excess_median"] == pytest.approx(0.02)
    assert stated.loc[("single", "geodesic"), "excess_quantile_95"] == pytest.approx(0.01)
    assert (stated["excess_pairs"].dropna() == 4).all()
    assert stated.xs("euclidean", level="measure")["excess_median"].isna().all()
    before, after = (repr(table).rpartition("\n\n")[0].splitlines() for table in (plain, stated))  # verdicts follow
    new = set(after) - set(before)
    assert set(before) <= set(after)
    assert "Solver's share, ensemble, geodesic: median excess 2.00 %, 95th percentile 2.00 %" in "\n".join(new)
    assert "\n".join(after).count("Solver's share") == stated._repr_html_().count("Solver&#x27;s share") == 2
    assert not any("Solver" in line for line in before)


def test_the_summary_says_where_the_tight_search_was_beaten():
    d = rows()
    printed = " ".join(repr(summary(d, num_resamples=50, tight=1.5 * sample_of(d))).split())
    assert "median excess .00 %" in printed
    assert "100.00 % of them longer than these" in printed


def test_one_distance_without_rows_has_its_share_stated_too():
    tight = distances()
    table = summary(1.05 * tight, num_resamples=50, tight=tight.isel(pair=slice(10)))
    assert table["excess_median"].tolist() == pytest.approx([0.05])


def test_the_summary_refuses_tight_distances_of_other_dims_rows_or_pairs():
    d = rows()
    with pytest.raises(ValueError, match="tight: expected distances of pairs"):
        summary(d, num_resamples=50, tight=sample_of(d).isel(measure=0))
    with pytest.raises(ValueError, match="tight: expected some of the rows"):
        summary(d, num_resamples=50, tight=sample_of(d).assign_coords(measure=["another"]))
    with pytest.raises(ValueError, match="other ones, by their stop"):
        summary(d, num_resamples=50, tight=sample_of(d).assign_coords(stop=("pair", [0, 1, 2, 3])))
