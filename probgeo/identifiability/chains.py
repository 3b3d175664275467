"""Retrainings as chains and decoder draws as draws: ArviZ's diagnostics of how far trainings agree."""

from collections.abc import Callable
from typing import Any

import xarray as xr

from probgeo.identifiability.statistics import checked


def inference_data(draw_length: xr.DataArray) -> Any:
    """ArviZ InferenceData whose chains are the retrainings and whose draws are the decoder draws, group `posterior`.

    Args:
        draw_length: lengths under each draw, dims (retraining, draw, ...).

    Returns:
        For any tool of ArviZ, with one variable, named as `draw_length` or "length".

    Raises:
        ValueError: a dim is missing or has fewer than two entries.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> draws = xr.DataArray([[9.0, 10.0, 11.0], [10.0, 11.0, 12.0]], dims=["retraining", "draw"])
        >>> dict(pg.identifiability.inference_data(draws).posterior.sizes)
        {'chain': 2, 'draw': 3}
    """
    import arviz as az

    return az.convert_to_inference_data(_chains(draw_length))


def rhat(draw_length: xr.DataArray) -> xr.DataArray:
    """R̂ = √((S − 1)/S + B/W): 1 if retrainings differ no more than S draws of one decoder would make them differ.

    B is the variance over retrainings of the mean length, W the mean variance over draws. Chains are not split, since
    decoder draws have no order.

    Args:
        draw_length: lengths under each draw, dims (retraining, draw, ...), at least four draws.

    Returns:
        Dims without retraining and draw; missing where a length is, or below four draws.

    Raises:
        ValueError: a dim is missing or has fewer than two entries.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> draws = xr.DataArray([[9.0, 10.0, 10.0, 11.0], [10.0, 11.0, 11.0, 12.0]], dims=["retraining", "draw"])
        >>> round(pg.identifiability.rhat(draws).item(), 4)  # B = 1/2, W = 2/3: √(3/4 + 3/4)
        1.2247

    References:
        Gelman & Rubin (1992), Inference from iterative simulation using multiple sequences, Statistical Science 7.
    """
    import arviz as az

    return _diagnostic(az.rhat, draw_length)


def ess(draw_length: xr.DataArray) -> xr.DataArray:
    """Effective number of draws: how many independent ones would tell the mean length as well as all of these.

    With retrainings that disagree it falls towards their number, however many draws each has.

    Args:
        draw_length: lengths under each draw, dims (retraining, draw, ...), at least four draws.

    Returns:
        Dims without retraining and draw; missing where a length is, or below four draws.

    Raises:
        ValueError: a dim is missing or has fewer than two entries.

    Example:
        >>> import numpy as np, xarray as xr, probgeo as pg
        >>> draws = xr.DataArray(np.random.default_rng(0).normal(size=(4, 50)), dims=["retraining", "draw"])
        >>> apart = draws + 100 * xr.DataArray(np.arange(4.0), dims="retraining")
        >>> pg.identifiability.ess(draws).item() > 100  # of 200 draws
        True
        >>> pg.identifiability.ess(apart).item() < 10  # of 4 trainings
        True

    References:
        Vehtari et al. (2021), Rank-normalization, folding, and localization: an improved R̂, equation 10.
    """
    import arviz as az

    return _diagnostic(az.ess, draw_length)


def _chains(draw_length: xr.DataArray) -> xr.Dataset:
    d = checked(draw_length, "retraining", "draw").reset_coords(drop=True)
    d = d.rename(retraining="chain").transpose("chain", "draw", ...)
    return d.to_dataset(name=d.name or "length")


def _diagnostic(diagnostic: Callable[..., Any], draw_length: xr.DataArray) -> xr.DataArray:
    found = diagnostic(_chains(draw_length), method="identity")
    return next(iter(found.data_vars.values())).rename(diagnostic.__name__)
