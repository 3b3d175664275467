"""A retraining that diverged, or was lost otherwise, costs itself alone: the others are reported, and it is told."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

import probgeo as pg


def kept(lost: xr.DataArray, name: str) -> list[int]:
    """Places of a model's retrainings that are not lost.

    Args:
        lost: why each is, (model, retraining), empty where it is not: what a study's dataset has.
        name: of the model.

    Raises:
        ValueError: all are lost.
    """
    reasons = lost.sel(model=name).values
    places = np.flatnonzero(reasons == "").tolist()
    if not places:
        raise ValueError(f"retrainings: expected at least one of {name!r} that is not lost; got none ({reasons[0]}).")
    return places


def fitted(study: pg.Study, lost: xr.DataArray, name: str) -> list[Any]:
    """A model's retrainings that are not lost, in their order; see `kept`."""
    return [study.fitted(name, study.seeds[place]) for place in kept(lost, name)]


def first_fitted(study: pg.Study, lost: xr.DataArray, name: str) -> Any:
    """The first of a model's retrainings that is not lost; see `kept`."""
    return study.fitted(name, study.seeds[kept(lost, name)[0]])


def undiverged(spec: pg.ModelSpec, x: Any, seeds: Sequence[int], **options: Any) -> dict[int, Any]:
    """`fit` of every seed, without those that diverged, by their place.

    Raises:
        TrainingDiverged: all did.
    """
    try:
        return dict(enumerate(pg.fit(spec, x, seeds, **options)))
    except pg.TrainingDiverged as error:
        found = {place: model for place, model in enumerate(error.models) if not why_diverged([model])}
        if not found:
            raise
        print(f"Lost: {why_diverged(error.models)}; what is said is of {len(found)} of {len(seeds)} retrainings.")
        return found


def why_diverged(models: Sequence[Any]) -> str:
    """Which diverged, and when."""
    histories = (model.history for model in models)
    return "; ".join(text for history in histories if history is not None and (text := history.attrs["diverged"]))


def in_place(parts: Sequence[Any], places: Sequence[int], num: int) -> Any:
    """One array along `retraining`, of `num` retrainings, missing where a place is lost.

    Args:
        parts: of each retraining that is not lost.
        places: of these, see `kept`.
        num: of all.
    """
    of_kept: Any = list(parts)
    whole: Any = xr.concat(of_kept, "retraining").assign_coords(retraining=list(places))
    return whole.reindex(retraining=range(num)).drop_vars("retraining")


def tell_lost(distances: xr.Dataset) -> None:
    """Prints those sentences of a study's dataset; older results may not say what was lost."""
    for sentence in told_of_lost(distances.lost) if "lost" in distances else ():
        print(sentence)


def told_of_lost(lost: xr.DataArray) -> list[str]:
    """A sentence for each model of which a retraining is lost: which, why, and of how many is what is said."""
    sentences = []
    if "model" not in lost.dims:
        lost = lost.expand_dims(model=["the model"])
    for name in lost.model.values:
        reasons = lost.sel(model=name).values
        gone = [f"retraining {place} ({why})" for place, why in enumerate(reasons) if why]
        if gone:
            left = f"{len(reasons) - len(gone)} of {len(reasons)} retrainings"
            sentences.append(f"Lost of {name}: {', '.join(gone)}; what is said of it is of {left}.")
    return sentences
