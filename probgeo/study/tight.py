"""Distances searched far beyond what a study spends, on a sample of its pairs: what its own are to be held against."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probgeo import paths
from probgeo.geometry.geodesics import GaussNewton, Geodesics, geodesic
from probgeo.geometry.metrics import Energy
from probgeo.models.base import LatentModel, ModelSpec
from probgeo.specs import check_numbers
from probgeo.study.asked import checked
from probgeo.study.measure import checked_data, measure
from probgeo.study.measures import Geodesic, Measure, expected_metric

TIGHT = 1e-4  # relative tolerance, on every level
SEGMENTS = 64  # of a bent line

# As they come: of numbers of any kind, from torch, NumPy or pandas.
Rows = Any


def tightened(solver: GaussNewton) -> GaussNewton:
    """The solver with as many segments, a tolerance of at most 1e-4 on every level, and at least 100 steps."""
    tolerances = {name: min(getattr(solver, name), TIGHT) for name in ("tolerance", "coarse_tolerance")}
    return replace(solver, **tolerances, max_steps=max(solver.max_steps, 100))


def bent(start: Tensor, stop: Tensor, index: int) -> Tensor:
    """Lines bent to a side by .2 to 1 of their own length: z(t) = (1 − t) start + t stop + h ‖stop − start‖ sin(kπt) a.

    The side a and the height h are random, by the index, and the same for all pairs, so that a pair's line does not
    depend on its batch; k = 2, to both sides, for every third index, else 1.

    Args:
        start, stop: ends, (batch, latent).
        index: which of the lines.

    Returns:
        Nodes of 64 segments, (batch, node, latent).
    """
    generator = torch.Generator().manual_seed(index)
    aside = torch.randn(start.shape[1], generator=generator, dtype=torch.float64)
    height = 0.2 + 0.8 * torch.rand(1, generator=generator, dtype=torch.float64)
    times = torch.linspace(0, 1, SEGMENTS + 1, dtype=torch.float64)
    shape = torch.sin(torch.pi * (2 if index % 3 == 2 else 1) * times)[1:-1, None] * height * aside / aside.norm()
    line = paths.Straight(SEGMENTS)(start, stop)
    # The ends are left as they are, to the last digit.
    shape = torch.nn.functional.pad(shape, (0, 0, 1, 1)).to(start)
    return line + (stop - start).norm(dim=1)[:, None, None] * shape


@dataclass(frozen=True)
class ManyStarts(Measure):
    """The shortest path found from the graph's routes, the straight line and many bent lines, each to the end.

    A reference for `Geodesic`, at many times its cost: see `tight_distances`. Its `rivals` are −1: the paths that its
    starts end in are not compared.

    Args:
        metric: fitted model -> metric or energy.
        solver: how it is minimised; None for 256 segments to a relative tolerance of 1e-4.
        num_bends: how many bent lines, besides the starts of `Geodesic`.
        needs_draws: whether the metric exists for ensembles only.

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.VAE(latent=2, decoder=pg.EnsembleDecoder(members=3)).build(num_features=5, seed=0)
        >>> x = torch.rand(20, 5, generator=torch.Generator().manual_seed(0))
        >>> solver = pg.GaussNewton(num_segments=16)
        >>> measures = {"geodesic": pg.Geodesic(solver=solver), "many": pg.study.ManyStarts(solver=solver, num_bends=2)}
        >>> distance = pg.measure({"ensemble": [model]}, x, torch.tensor([[0, 1], [2, 3]]), measures).distance
        >>> bool((distance.sel(measure="many") <= 1.001 * distance.sel(measure="geodesic")).all())
        True
    """

    metric: Callable[[LatentModel], Energy] = expected_metric
    solver: GaussNewton | None = None
    num_bends: int = 18
    needs_draws: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.num_bends < 0:
            raise ValueError(f"num_bends: expected at least 0; got {self.num_bends}.")

    def applies_to(self, model: LatentModel | ModelSpec) -> bool:
        return Geodesic(self.metric, needs_draws=self.needs_draws).applies_to(model)

    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        metric, solver = self.metric(model), self.solver or tightened(GaussNewton())
        found = [geodesic(metric, start, stop, init=paths.Graph(metric, codes), solver=solver)]
        for index in range(self.num_bends):
            found.append(geodesic(metric, start, stop, init=bent(start, stop, index), solver=solver))
        best = torch.stack([each.length for each in found]).nan_to_num(nan=torch.inf).argmin(0)
        rows = torch.arange(len(start), device=best.device)
        shortest = Geodesics(*(torch.stack(values)[best, rows] for values in zip(*found, strict=True)))
        unsearched = torch.full_like(shortest.rivals, -1), torch.full_like(shortest.gap, torch.nan)
        return shortest._replace(rivals=unsearched[0], gap=unsearched[1])


def tight_distances(
    models: Mapping[str, Sequence[LatentModel]],
    x: Rows,
    pairs: Rows,
    measures: Mapping[str, Measure] | None = None,
    *,
    num_pairs: int = 20,
    num_bends: int = 18,
    seed: int = 0,
    points: Rows | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """Distances of a random sample of the pairs by `ManyStarts`: the reference that tells the solver's own share.

    A geodesic that is a local optimum in some trainings varies over them, and looks like one that does not survive
    retraining. `identifiability.solver_excess` and `identifiability.summary` hold the distances of `measure`, or of a
    study, against these.

    Args:
        models, x, pairs, points, executor, progress: as for `measure`, and the same as the distances were measured by.
        measures: by name, the geodesics that are to be held against these; None for the default one, `geodesic`. Their
            metric and segments are kept.
        num_pairs: size of the sample, the same pairs in every training; all pairs where there are fewer.
        num_bends: bent lines that each pair is solved from, besides the straight line and the graph's routes.
        seed: of the sample.

    Returns:
        Distances, dims (model, measure, retraining, pair), labelled as those of `measure`; `pair` holds the sample's
        positions among the pairs, in ascending order.

    Raises:
        TypeError: a measure that is no `Geodesic`: others have no shortest path to search for.
        ValueError: `num_pairs` below 1, `num_bends` below 0, or as `measure`.

    Example:
        >>> import torch, probgeo as pg
        >>> spec = pg.VAE(latent=2, decoder=pg.EnsembleDecoder(members=2))
        >>> models = {"ensemble": [spec.build(num_features=5, seed=seed) for seed in (0, 1)]}
        >>> x = torch.rand(20, 5, generator=torch.Generator().manual_seed(0))
        >>> pairs, measures = torch.arange(20).view(10, 2), {"geodesic": pg.Geodesic(solver=pg.GaussNewton(16))}
        >>> distance = pg.measure(models, x, pairs, measures).distance
        >>> tight = pg.study.tight_distances(models, x, pairs, measures, num_pairs=3, num_bends=2)
        >>> dict(tight.sizes)
        {'model': 1, 'measure': 1, 'retraining': 2, 'pair': 3}
        >>> bool((pg.identifiability.solver_excess(distance, tight).maximum < 0.05).all())
        True
    """
    x, points = checked_data("x", x, points)
    asked = checked(pairs, None, None, len(points), {}).pairs
    tight, chosen = tight_measures(measures, num_bends), sampled(len(asked), num_pairs, seed)
    found = measure(models, x, asked[chosen], tight, points=points, executor=executor, progress=progress)
    return found.distance.sel(measure=list(tight)).assign_coords(pair=chosen)


def tight_measures(measures: Mapping[str, Measure] | None, num_bends: int) -> dict[str, Measure]:
    """`ManyStarts` of the same metrics and segments, by the same names; None for that of the default geodesic.

    Raises:
        TypeError: a measure that is no `Geodesic`.
        ValueError: `num_bends` below 0.
    """
    tight: dict[str, Measure] = {}
    for name, how in ({"geodesic": Geodesic()} if measures is None else measures).items():
        if not isinstance(how, Geodesic):
            raise TypeError(f"measures: expected geodesics, whose paths can be searched for; got {how!r} for {name!r}.")
        tight[name] = ManyStarts(how.metric, tightened(how.solver), num_bends, how.needs_draws)
    return tight


def sampled(num: int, num_sampled: int, seed: int) -> list[int]:
    """Numbers of a random sample of the pairs, ascending; all of them where there are fewer.

    Raises:
        ValueError: a sample of less than one.
    """
    if num_sampled < 1:
        raise ValueError(f"num_pairs: expected at least 1; got {num_sampled}.")
    return sorted(np.random.default_rng(seed).choice(num, min(num_sampled, num), replace=False).tolist())
