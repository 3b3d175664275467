"""The solver's share of a distance."""

import numpy as np
import pytest
import xarray as xr

from probgeo.identifiability import solver_excess


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
