"""Are the distances of a summary right: their agreement with what is known, and what a check without a truth says."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from probgeo.identifiability.agreements import rho_and_bounds
from probgeo.identifiability.trust import Trust, sentences, warnings_of

Label = tuple[Hashable, ...]


def known_by_row(known: xr.DataArray, distance: xr.DataArray, unit: str) -> xr.DataArray:
    """What is known, (row, pair), with the rows of distances (..., retraining, pair).

    Raises:
        ValueError: dims or labels that the distances lack, other pairs, or fewer than three that are known.
    """
    named = known.rename({unit: "pair"}) if unit in known.dims else known
    like = distance.isel(retraining=0, drop=True)
    try:
        if "pair" not in named.dims or not set(named.dims) <= set(like.dims):
            raise ValueError("no pairs" if "pair" not in named.dims else "further dims")
        for end in {"start", "stop"} & set(named.coords) & set(like.coords):
            if not np.array_equal(named[end], like[end]):
                raise ValueError("other ends")
        xr.align(named, like, join="exact")
        found = xr.broadcast(named.reset_coords(drop=True), like)[0].transpose(*like.dims)
    except ValueError as error:
        raise ValueError(
            f"known: expected the {unit}s of `distance`, and no dims or labels that it lacks, {dict(like.sizes)}; got "
            f"{dict(known.sizes)} ({error})."
        ) from error
    found = found.where(np.isfinite(found)).stack(row=[dim for dim in like.dims if dim != "pair"])
    if int(found.notnull().sum("pair").min()) < 3:
        raise ValueError(f"known: expected at least 3 {unit}s that are known; got fewer.")
    return found.transpose("row", "pair")


def rightness(row: xr.DataArray, known: xr.DataArray, options: dict[str, Any]) -> dict[str, float]:
    """The `agreement` of a row with what is known of its pairs, as columns of a summary; ρ is 0 for a constant.

    Args:
        row: distances (retraining, pair).
        known: of the same pairs (pair,), missing where unknown.
        options: of `bootstrap`.
    """
    has = known.notnull().values
    points = options["points"]
    options = options | {"points": None if points is None else points[has]}
    rho, bounds = rho_and_bounds(row[:, has], known[has], options, of_constant=0.0)
    lower, upper = bounds.values.tolist()
    return {"right": float(rho.mean("retraining")), "right_lower": lower, "right_upper": upper}


def said_by(trust: Trust, index: pd.MultiIndex) -> dict[str, Any]:
    """What a check says of the rows of a summary, by label, and its warnings, as attributes of the table.

    Raises:
        ValueError: no row of the summary is one of the check.
    """
    told = dict(zip(trust.index, sentences(trust), strict=True))
    names = [name for name in ("model", "measure") if name in index.names]
    found = {}
    for label in index:
        of = dict(zip(index.names, label, strict=True))
        matching = [text for row, text in told.items() if all(row[trust.index.names.index(n)] == of[n] for n in names)]
        if len(matching) == 1:
            found[label] = matching[0]
    if not found:
        raise ValueError(
            f"trust: expected models and measures of the summary, {list(index)}; got {list(trust.index)}, none of them."
        )
    return {"trust": found, "warnings": warnings_of(trust)}
