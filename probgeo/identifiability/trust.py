"""Is a distance to be trusted? What a check without a truth says of every distance of every training, in words."""

import html
import math
import textwrap
from collections.abc import Hashable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from probgeo.identifiability.rounding import short
from probgeo.identifiability.statistics import coefficient_of_variation

# Chosen on trial trainings of the s-curve, the surface and the roll; tried in experiments/finding_manifolds.py.
AGREES = 0.9  # Spearman's ρ with the distances of the data's graph
STABLE = 0.95  # ρ between the graph and one of half as many neighbours
JOINED = 0.9  # share of the pairs that a graph joins, at least
BENT = 0.95  # ρ between the graph and the distances of the data themselves, at most
NEAR = 0.95  # trustworthiness and continuity
FAR = 3.0  # radii of a neighbourhood, of a reconstruction's error
SURVIVES = 0.2  # CV over retrainings of what is called stable


class Trust(pd.DataFrame):
    """A `pandas.DataFrame` of unrounded numbers, from `trust`, shown rounded, with a sentence for every row.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> ways = [1.0, 2.0, 3.0, 4.0, 5.0]
        >>> check = xr.Dataset(
        ...     {
        ...         "graph": (("neighbours", "pair"), [ways, ways]),
        ...         "ambient": ("pair", [1.0, 2.0, 2.5, 1.5, 0.5]),  # the data are rolled up
        ...         "distance": (("model", "measure", "retraining", "pair"), [[[ways], [ways[::-1]]]]),
        ...     },
        ...     coords={"model": ["vae"], "measure": ["geodesic", "euclidean"]},
        ... )
        >>> for name in ("residual", "trustworthiness", "continuity"):
        ...     check[name] = (("model", "retraining"), [[1.0]])
        >>> print(pg.identifiability.trust(check.assign(noise=("model", [1.0]), radius=2.0)))
                        graph ρ error/noise error/radius trustworthiness continuity
        model measure
        vae   geodesic     1.00        1.00          .50            1.00       1.00
              euclidean   -1.00        1.00          .50            1.00       1.00
        vae, geodesic: trusted in 1 of 1 training.
        vae, euclidean: doubted in 1 of 1 training (it does not follow the data's graph, ρ below .9).
        ...
    """

    def __repr__(self) -> str:
        shown, *notes = _parts(self)
        return "\n".join([shown.to_string(), *(textwrap.fill(note, 98) for note in notes)])

    def _repr_html_(self) -> str:
        shown, *notes = _parts(self)
        return "\n".join([shown.to_html(border=0), *(f"<p>{html.escape(note)}</p>" for note in notes)])


def trust_of_trainings(check: xr.Dataset) -> xr.DataArray:
    """Of every training's distance, whether the check trusts it, 1, doubts it, 0, or cannot tell, NaN.

    The rules are those of `trust`.

    Args:
        check: from `study.manifold_check`.

    Returns:
        Dims (model, measure, retraining); NaN, too, where a training is lost or lacks the measure.

    Raises:
        ValueError: `check` lacks what a check has.

    Example:
        >>> import xarray as xr, probgeo as pg
        >>> ways = [1.0, 2.0, 3.0, 4.0, 5.0]
        >>> check = xr.Dataset(
        ...     {
        ...         "graph": (("neighbours", "pair"), [ways, ways]),
        ...         "ambient": ("pair", [1.0, 2.0, 2.5, 1.5, 0.5]),
        ...         "distance": (("model", "measure", "retraining", "pair"), [[[ways, ways[::-1]]]]),
        ...         "noise": ("model", [1.0]),
        ...         "radius": 2.0,
        ...     }
        ... )
        >>> for name in ("residual", "trustworthiness", "continuity"):
        ...     check[name] = (("model", "retraining"), [[1.0, 1.0]])
        >>> pg.identifiability.trust_of_trainings(check).values.ravel()  # the second has it the wrong way round
        array([1., 0.])
    """
    return _told(_findings(check), _present(check))


def trust(check: xr.Dataset) -> Trust:
    """Which distances are to be trusted though no truth is known: one row per (model, measure), with a sentence.

    A distance that survives retraining may be wrong in every one of them: a model that has not found the manifold of
    its data is stable and wrong. The data's own graph of neighbours tells, as far as it can be trusted itself. In one
    training a distance is

    * doubted, if it does not follow the graph, Spearman's ρ over pairs below .9; or if the codes are folded or torn,
      trustworthiness or continuity below .95; or if reconstructions are farther off than 3 radii of a neighbourhood
      (the distances of the data themselves, which have no codes, by the graph alone);
    * trusted otherwise;
    * but if the graph itself is not to be trusted, since half as many neighbours give another one, ρ below .95, or
      since it says no more than the distances of the data themselves, ρ above .95, as of data without bends, or whose
      noise fills all gaps, then it is not asked, and what has no other doubt is unknown.

    These thresholds were chosen on trial trainings of the s-curve, the surface and the roll, and tried on others and on
    four more manifolds (`experiments.finding_manifolds` has hits and misses): trusted is meant to say that ρ with the
    true distances is above .9, that is, of the order of the pairs and not of the values.

    Args:
        check: from `study.manifold_check`.

    Returns:
        DataFrame with, per row, means over trainings of `graph`, ρ with the distances of the graph,
        `residual_per_noise`, `residual_per_radius`, `trustworthiness` and `continuity`; `trainings`, and how many of
        them are `trusted`, `doubted`, `unknown`; `cv` over retrainings, missing for one alone. `print` shows it, and
        says so where all distances of a model are stable and doubted. `summary` takes it as `trust`.

    Raises:
        ValueError: `check` lacks what a check has, or has no distances.

    Example:
        >>> import torch, probgeo as pg
        >>> roll = pg.datasets.swiss_roll(num_points=2000)
        >>> class Projection(pg.LatentModel):  # along the roll's axis
        ...     latent, num_features = 2, 3
        ...     def encode(self, x):
        ...         return pg.Encoding(x[:, [0, 2]], torch.zeros_like(x[:, :2]))
        ...     def decode(self, z):
        ...         return torch.stack([z[..., 0], 10 + 0 * z[..., 0], z[..., 1]], dim=-1)
        >>> models, pairs = {"projection": [Projection()]}, pg.sample_pairs(roll.labels, num_pairs=30, seed=0)
        >>> distance = pg.measure(models, roll.x, pairs, {"straight": pg.StraightLine()}).distance
        >>> table = pg.identifiability.trust(pg.study.manifold_check(models, roll.x, distance))
        >>> table[["trusted", "doubted"]].values.tolist()  # straight lines, and Euclidean distances of codes
        [[0, 1], [0, 1]]
    """
    findings, present = _findings(check), _present(check)
    told = _told(findings, present)
    by_training = {
        "graph": _agreement(check),
        "residual_per_noise": check.residual / check.noise,
        "residual_per_radius": check.residual / check.radius,
        "trustworthiness": check.trustworthiness,
        "continuity": check.continuity,
    }
    means = xr.Dataset({name: values.where(present).mean("retraining") for name, values in by_training.items()})
    counts = {"trusted": told == 1, "doubted": told == 0, "unknown": told.isnull() & present, "trainings": present}
    records, doubts = {}, {}
    for label in product(told.model.values, told.measure.values):
        at = dict(zip(("model", "measure"), label, strict=True))
        record: dict[str, float] = {name: float(means[name].sel(at)) for name in by_training}
        record |= {name: int(each.sel(at).sum()) for name, each in counts.items()}
        if record["trainings"]:
            records[label] = record | {"cv": _variation(check.distance.sel(at))}
            wrong = present.sel(at).values & (told.sel(at).values != 1)
            doubts[label] = _reasons(findings.sel(at).isel(retraining=wrong))
    if not records:
        raise ValueError("check: expected distances of at least one training; got none, all are missing.")
    table = Trust(list(records.values()), index=pd.MultiIndex.from_tuples(records, names=["model", "measure"]))
    table.attrs["doubts"] = list(doubts.values())
    return table


def _told(findings: xr.Dataset, present: xr.DataArray) -> xr.DataArray:
    """The rules: 1, 0 or NaN (model, measure, retraining)."""
    silent = findings.unstable | findings.flat | findings.unranked
    doubted = findings.folded | findings.torn | findings.far | (findings.graph & ~silent)
    told = (~doubted).astype(float).where(present & (doubted | ~silent))
    return told.transpose("model", "measure", "retraining").rename("trusted")


def _present(check: xr.Dataset) -> xr.DataArray:
    """Whether a training has distances and codes (model, measure, retraining)."""
    return check.distance.notnull().any("pair") & check.trustworthiness.notnull()


def _variation(distance: xr.DataArray) -> float:
    """Mean CV over the trainings that there are, of pairs that all have; missing for one training alone."""
    whole = distance.dropna("retraining", how="all").dropna("pair")
    return float(coefficient_of_variation(whole).mean()) if min(whole.sizes.values()) > 1 else math.nan


def _rank(first: xr.DataArray, second: xr.DataArray) -> xr.DataArray:
    """Spearman's ρ over the pairs that both have; missing below three, or where all are equal."""

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
            return math.nan
        return float(stats.spearmanr(a[both], b[both]).statistic)

    return xr.apply_ufunc(correlation, first, second, input_core_dims=[["pair"], ["pair"]], vectorize=True)


def _agreement(check: xr.Dataset) -> xr.DataArray:
    """ρ of every training's distances with those of the larger graph."""
    return _rank(check.distance, check.graph.isel(neighbours=-1, drop=True))


def _findings(check: xr.Dataset) -> xr.Dataset:
    """What speaks against a distance, and what against the graph: each (model, measure, retraining)."""
    wanted = {"distance", "graph", "ambient", "residual", "noise", "radius", "trustworthiness", "continuity"}
    if lacking := sorted(wanted - set(check)):
        raise ValueError(f"check: expected what study.manifold_check returns; got a dataset without {lacking}.")
    agreement = _agreement(check)
    fewer, more = (check.graph.isel(neighbours=index, drop=True) for index in (0, -1))
    joined = min(float(each.notnull().mean()) for each in (fewer, more))
    modelled = (abs(check.distance - check.ambient) > 1e-4 * check.ambient).any("pair")
    found = {
        "graph": agreement < AGREES,
        "folded": modelled & (check.trustworthiness < NEAR),
        "torn": modelled & (check.continuity < NEAR),
        "far": modelled & (check.residual > FAR * check.radius),
        "unstable": xr.DataArray(joined < JOINED or not float(_rank(fewer, more)) >= STABLE),
        "flat": xr.DataArray(float(_rank(check.ambient, more)) > BENT),
        "unranked": agreement.isnull(),
    }
    return xr.Dataset({name: each.broadcast_like(agreement) for name, each in found.items()})


def _reasons(findings: xr.Dataset) -> str:
    """What was found in at least half of the trainings that are not trusted."""
    if not findings.sizes["retraining"]:
        return ""
    often = {name: float(findings[name].mean()) >= 0.5 for name in REASONS}
    often["graph"] &= not (often["unstable"] or often["flat"])
    return "; ".join(REASONS[name] for name, found in often.items() if found)


def _parts(table: pd.DataFrame) -> list[Any]:
    """The table of rounded numbers, a sentence for the measures of each model that share it, and what all mean."""
    columns = {
        "graph ρ": "graph",
        "error/noise": "residual_per_noise",
        "error/radius": "residual_per_radius",
        "trustworthiness": "trustworthiness",
        "continuity": "continuity",
    }
    shown = pd.DataFrame({title: table[name].map(_two) for title, name in columns.items()}, index=table.index)
    said: dict[tuple[Hashable, str], list[str]] = {}
    for (model, measure), sentence in zip(table.index, sentences(table), strict=True):
        said.setdefault((model, sentence), []).append(str(measure))
    lines = [f"{model}, {', '.join(measures)}: {sentence}." for (model, sentence), measures in said.items()]
    return [shown, *lines, *warnings_of(table), MEANING]


def sentences(table: pd.DataFrame) -> list[str]:
    """In how many trainings each row is trusted, doubted or neither, and why it is not."""
    found = []
    for (_, row), doubts in zip(table.iterrows(), table.attrs["doubts"], strict=True):
        words = [f"{name} in {row[name]:.0f}" for name in ("trusted", "doubted", "unknown") if row[name]]
        counted = f"{', '.join(words)} of {row['trainings']:.0f} training{'s' if row['trainings'] > 1 else ''}"
        found.append(counted + (f" ({doubts})" if doubts else ""))
    return found


def warnings_of(table: pd.DataFrame) -> list[str]:
    """Of models none of whose distances is to be trusted, and whether these survive retraining all the same."""
    found = []
    for model, rows in table[table["cv"] != 0].groupby(level="model", sort=False):  # without the data's own distances
        if (2 * rows["doubted"] > rows["trainings"]).all():
            text = f"WARNING: no distance of {model} is to be trusted: it seems not to have found its data's manifold."
            stable = [str(measure) for (_, measure), cv in rows["cv"].items() if cv <= SURVIVES]
            if stable:
                text += f" Stable, and wrong by this check: {', '.join(stable)} vary little over trainings (CV at most "
                text += f"{_dot(SURVIVES)})."
            found.append(text)
    return found


def _two(value: float) -> str:
    return short(value, 2) if value == value else "–"


def _dot(value: float) -> str:
    return f"{value:g}".removeprefix("0")


REASONS = {
    "graph": f"it does not follow the data's graph, ρ below {_dot(AGREES)}",
    "folded": f"codes are folded, near ones have far rows: trustworthiness below {_dot(NEAR)}",
    "torn": f"codes are torn, near rows have far ones: continuity below {_dot(NEAR)}",
    "far": f"reconstructions are off by more than {FAR:g} radii",
    "unstable": "the data's graph depends on the number of neighbours",
    "flat": "the data's graph says no more than the distances of the data themselves",
}
MEANING = (
    "graph ρ: Spearman's, of the distances and those along the data's graph of neighbours. error: of reconstructions, "
    "against how far the data lie from any smooth sheet (noise), and the size of a neighbourhood (radius). Means over "
    "trainings. Trusted means that the order of the pairs is likely right, not that the values are."
)
