"""Data of which it is known, or said by another source, which rows are near and which are far."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import probgeo as pg
from probgeo.identifiability import bootstrap_difference

Kind = Literal["truth", "agreement", "triples"]
MANIFOLDS: dict[str, Callable[..., pg.datasets.Dataset]] = {
    "surface": pg.datasets.surface,
    "s_curve": pg.datasets.s_curve,
    "swiss_roll": pg.datasets.swiss_roll,
    "folded_sheet": pg.datasets.folded_sheet,
    "plane_with_hole": pg.datasets.plane_with_hole,
    "sphere": pg.datasets.sphere,
    "torus": pg.datasets.torus,
}
KNOWN = (*MANIFOLDS, "rotated_digit")  # whose true distances are known
CLOSED = ("sphere", "torus")  # without a chart of the whole: in three latent dimensions
REAL = ("digits", "fashion_mnist", "haematopoiesis", "tasic_markers")


@dataclass(frozen=True)
class Known:
    """Observations, pairs of their rows, and what is known of each pair.

    Args:
        x: observations, of standard deviation 1.
        pairs: rows of x.
        reference: of each pair: its true distance in the units of x; or what another source says; or 0 and 1 for two
            rows of one class and of two, the pairs of an anchor half of their number apart.
        kind: truth, agreement or triples.
        latent: dimensions of a latent space that can hold them.
    """

    x: Tensor
    pairs: Tensor
    reference: np.ndarray
    kind: Kind
    latent: int = 2


def known(name: str, rows: int, pairs: int, ambient: int, noise: float, latent: int) -> Known:
    """The data of a name.

    Args:
        name: one of KNOWN or REAL.
        rows: of a manifold, and at most of real data, drawn at random.
        pairs: how many.
        ambient: dimensions that a manifold is turned into.
        noise: standard deviation of the noise on a manifold's features, over that of its points.
        latent: dimensions of the latent space of what is not closed.

    Raises:
        ValueError: no data have that name.
        OSError: a file is not there.
    """
    if name == "rotated_digit":
        return replace(_rotated_digit(rows, pairs, noise), latent=latent)
    if name in MANIFOLDS:
        return _manifold(name, rows, pairs, ambient, noise, latent)
    if name not in REAL:
        raise ValueError(f"data: expected some of {', '.join([*KNOWN, *REAL])}; got {name!r}.")
    found = {"haematopoiesis": _haematopoiesis, "tasic_markers": _tasic_markers}.get(name)
    data = found(rows, pairs) if found else _triples(pg.datasets.load(name), rows, pairs)
    return replace(data, latent=latent)


def _manifold(name: str, rows: int, pairs: int, ambient: int, noise: float, latent: int) -> Known:
    std = float(MANIFOLDS[name](rows, ambient=ambient).x.std())
    data = MANIFOLDS[name](rows, ambient=ambient, noise=noise * std)
    chosen = pg.sample_pairs(data.labels, pairs)
    truth = pg.datasets.intrinsic_distances(data, chosen) / std
    return Known(data.x / std, chosen, truth.numpy(), "truth", 3 if name in CLOSED else latent)


def _rotated_digit(rows: int, pairs: int, noise: float) -> Known:
    """The first 7 of the bundled digits, turned by all angles: a circle among images of 8 × 8."""
    digits = pg.datasets.digits()
    seven = digits.x[digits.labels == 7][0].reshape(digits.shape)
    std = float(pg.datasets.rotated_image(seven, rows).x.std())
    data = pg.datasets.rotated_image(seven, rows, noise=noise * std)
    chosen = pg.sample_pairs(data.labels, pairs)
    truth = pg.datasets.intrinsic_distances(data, chosen) / std
    return Known(data.x / std, chosen, truth.numpy(), "truth")


def _some(data: pg.datasets.Dataset, rows: int) -> pg.datasets.Dataset:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:rows]
    return data.rows(order.sort().values)


def _triples(data: pg.datasets.Dataset, rows: int, pairs: int) -> Known:
    data = _some(data, rows)
    triples = pg.datasets.sample_class_triples(data.labels, pairs // 2)
    chosen = torch.cat([triples[:, [0, 1]], triples[:, [0, 2]]])
    return Known(data.x / data.x.std(), chosen, np.repeat([0.0, 1.0], len(triples)), "triples")


def _haematopoiesis(rows: int, pairs: int) -> Known:
    """Counts of genes in the same size of library, log(1 + x); by how much two cells of a lineage differ in pseudotime.

    References:
        Paul et al. (2015), Transcriptional heterogeneity and lineage commitment in myeloid progenitors; pseudotimes by
        Slingshot, Street et al. (2018).
    """
    file = pg.datasets.cache_folder() / "counts/paul15_counts.npz"
    data = pg.datasets.count_table(file, "label", ("slingshot_pseudotime",), ("slingshot_weight",))
    data = _some(data, rows)
    assert data.pseudotime is not None, "asked for by name"
    apart = (data.pseudotime[:, None] - data.pseudotime[None]).abs().nanmean(2)
    first, second = torch.triu(apart.isfinite(), 1).nonzero().T
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(0))[:pairs]
    chosen = torch.stack([first[order], second[order]], dim=1)
    total = data.x.sum(1, keepdim=True)
    x = (data.x * total.median() / total).log1p()
    return Known(x / x.std(), chosen, apart[chosen[:, 0], chosen[:, 1]].double().numpy(), "agreement")


def _tasic_markers(rows: int, pairs: int) -> Known:
    """Log counts of seven marker genes; 0 to 3 for two cells of a type, of a subclass, of a class, and of two classes.

    A subclass is what the names of its types begin with, as Sst or L5 IT.

    References:
        Tasic et al. (2018), Shared and distinct transcriptomic cell types across neocortical areas.
    """
    file: Path = pg.datasets.cache_folder() / "tasic/tasic_markers_real.npz"
    if not file.exists():
        raise FileNotFoundError(f"tasic_markers: there is no file {file}.")
    with np.load(file, allow_pickle=False) as arrays:
        x, kind, name, group = (arrays[key] for key in ("log10_cpm", "label", "label_names", "class_label"))
    words = [str(each).split() for each in name]
    layers = [each[0].startswith("L") and each[0][1].isdigit() for each in words]
    subclass = np.array([" ".join(each[: 1 + layer]) for each, layer in zip(words, layers, strict=True)])
    rng = np.random.default_rng(0)
    chosen_rows = np.sort(rng.choice(len(x), min(rows, len(x)), replace=False))
    x, kind, group = x[chosen_rows], kind[chosen_rows], group[chosen_rows]
    i, j = np.triu_indices(len(x), 1)
    level = (kind[i] != kind[j]).astype(int) + (subclass[kind[i]] != subclass[kind[j]]) + (group[i] != group[j])
    # As many pairs of each level.
    some = np.concatenate([rng.permutation(np.flatnonzero(level == each))[: -(-pairs // 4)] for each in range(4)])
    some = rng.permutation(some)[:pairs]
    chosen = torch.from_numpy(np.stack([i[some], j[some]], axis=1))
    return Known(torch.from_numpy(x / x.std()).float(), chosen, level[some].astype(float), "agreement")


def neighbours_that_join(x: Tensor, pairs: Tensor) -> tuple[np.ndarray, int]:
    """Distances through the fewest neighbours, of 10, 15, 20, ..., that join all pairs; and how many those are."""
    number = 10
    while True:
        try:
            return pg.datasets.neighbour_graph_distances(x, pairs, number).numpy(), number
        except ValueError:
            if number >= len(x) - 1:
                raise
            number = min(number + 5, len(x) - 1)


def rightness(distance: xr.DataArray, reference: xr.DataArray, kind: str) -> xr.Dataset:
    """`mean`, `lower`, `upper`: of Spearman's ρ with the reference, or of the share of triples.

    Args:
        distance: of the pairs, dims (retraining, pair).
        reference: of the same pairs, see `Known`, dims (pair,).
        kind: see `Known`.
    """
    if kind != "triples":
        return pg.identifiability.agreement(distance, reference)
    return pg.identifiability.triplet_agreement(*_halves(distance))


def gain(distance: xr.DataArray, other: xr.DataArray, reference: xr.DataArray, kind: str) -> tuple[float, float, float]:
    """By how much the first of two distances is more right, with the bounds of the bootstrap's 95 % interval."""
    if kind == "triples":
        a, b = _wins(distance), _wins(other)
    else:
        a, b = _beside(distance, reference), _beside(other, reference)
    statistic = _mean if kind == "triples" else _mean_rho
    lower, upper = bootstrap_difference(statistic, a, b).values.tolist()
    return float(statistic(a) - statistic(b)), lower, upper


def _beside(distance: xr.DataArray, reference: xr.DataArray) -> xr.DataArray:
    return xr.concat([distance, reference.reset_coords(drop=True).broadcast_like(distance)], "of")


def _wins(distance: xr.DataArray) -> xr.DataArray:
    """½ where the row of the same class is nearer, −½ where it is farther."""
    near, far = _halves(distance)
    return xr.apply_ufunc(np.sign, far - near) / 2


def _mean(right: xr.DataArray) -> xr.DataArray:
    return right.mean(["retraining", "pair"])


def _mean_rho(both: xr.DataArray) -> xr.DataArray:
    return pg.identifiability.rank_correlation(both.isel(of=0), both.isel(of=1)).mean("retraining")


def _halves(distance: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Distances of anchors to rows of their class, and to others."""
    half = distance.sizes["pair"] // 2
    near, far = distance.isel(pair=slice(half)), distance.isel(pair=slice(half, None))
    return near.reset_coords(drop=True), far.reset_coords(drop=True)
