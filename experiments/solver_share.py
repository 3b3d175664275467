"""How much of the variation over retrainings is the solver's, and not the model's?

The same pairs in the same retrainings, their geodesics sought four times: from the straight line, from one path of a
graph, from the routes that the graph cannot tell from the shortest (the default), and to a tight tolerance from the
default's starts and many bent lines, the shortest of all kept. A distance that is a local optimum in some retrainings
varies over them, and would be taken for a lack of identifiability.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import xarray as xr
from torch import Tensor

import probgeo as pg
from experiments.common.lost import tell_lost
from experiments.common.options import Ensemble, Observed, OnWorkers, Retrained
from experiments.common.results import Groups, Shown, run
from probgeo.datasets import Dataset, branching_counts, cache_folder, count_table
from probgeo.identifiability import coefficient_of_variation, icc, solver_excess
from probgeo.likelihoods import NegativeBinomial, RowTotal
from probgeo.study import expected_metric, fisher_rao_metric
from probgeo.study.tight import tightened


@dataclass(frozen=True)
class Config(Retrained, Ensemble, Observed, OnWorkers):
    """The CV over retrainings by four searches of the same geodesics."""

    members: int = 5
    """Decoders in the ensemble."""
    retrainings: int = 5
    """Retrainings, with seeds 0, 1, 2, ..."""
    pairs: int = 20
    """Random pairs of observations whose distances are measured."""
    segments: int = 64
    """Segments of a geodesic."""
    bends: int = 18
    """Bent lines that the tight search starts from, besides the straight line and the graph's routes."""
    epochs: int = 60
    counts: Path | None = None
    """For --dataset cells: a table of counts, here or in $PROBGEO_DATA; none for simulated ones. Their decoders are
    negative binomial, and the metric is Fisher-Rao."""


QUICK = {"members": 2, "retrainings": 2, "pairs": 6, "segments": 32, "bends": 2, "epochs": 5}


@dataclass(frozen=True)
class FromLine(pg.study.Measure):
    """The geodesic from the straight line alone."""

    metric: Callable[[pg.LatentModel], pg.Energy]
    solver: pg.GaussNewton

    def paths(self, model: pg.LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> pg.Geodesics:
        return pg.geodesic(self.metric(model), start, stop, solver=self.solver)


@dataclass(frozen=True)
class FromOnePath(pg.study.Measure):
    """The geodesic from the shortest path of a graph alone."""

    metric: Callable[[pg.LatentModel], pg.Energy]
    solver: pg.GaussNewton

    def paths(self, model: pg.LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> pg.Geodesics:
        metric = self.metric(model)
        return pg.geodesic(metric, start, stop, init=pg.paths.Graph(metric, codes).__call__, solver=self.solver)


def cells(counts: Path | None) -> Dataset:
    """The counts of a file, or simulated ones."""
    if counts is None:
        return branching_counts()
    return count_table(counts if counts.exists() else cache_folder() / counts)


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: trainings and distances, which are kept."""
    of_cells = config.dataset == "cells"
    data, points = (cells(config.counts),) * 2 if of_cells else config.observations()
    metric = fisher_rao_metric if of_cells else expected_metric
    decoder = pg.EnsembleDecoder(config.members, config.perceptron())
    spec = config.vae(decoder)
    if of_cells:
        spec = replace(spec, likelihood=NegativeBinomial(RowTotal(data.x.sum(1).median().item())))
    default = config.solver()
    tight = tightened(default)
    measures = {
        "line": FromLine(metric, default),
        "one path": FromOnePath(metric, default),
        "rivals": pg.study.Geodesic(metric, default),
        "many tight": pg.study.ManyStarts(metric, tight, config.bends),
    }
    dataset = config.run(config.study(folder, data, points, {"ensemble": spec}, measures))
    kept = dataset[["distance", "status", "rivals", "gap"]].sel(model=["ensemble"], measure=list(measures))
    tell_lost(kept)
    return {"distances": kept.squeeze("model", drop=True).dropna("retraining", how="all", subset=["distance"])}


def table_of(found: xr.Dataset) -> pd.DataFrame:
    """A row per search: CV and ICC, and the excess over the tight search."""
    distance = found.distance
    excess = solver_excess(distance, distance.sel(measure="many tight", drop=True))
    columns = {"cv": coefficient_of_variation(distance).mean("pair"), "icc": icc(distance)}
    columns |= {str(name): excess[name] for name in excess}
    return pd.DataFrame({name: values.to_series() for name, values in columns.items()}).loc[found.measure.values]


def said(table: pd.DataFrame, gap: xr.DataArray) -> Sequence[str]:
    """What is to be read."""
    rivals = float(gap.notnull().mean())
    close = float((gap < 0.01).mean())
    return (
        table.to_string(float_format="{:.4f}".format),
        f"Excess of a length over the tight search's, where that is shorter. {rivals:.0%} of geodesics have a rival, "
        f"{close:.0%} one within 1 %.",
    )


def report(groups: Groups) -> Shown:
    """The table by search, and the distribution of rivals' gaps."""
    found = groups["distances"]
    table, gap = table_of(found), found.gap.sel(measure="rivals", drop=True)
    print(*said(table, gap), sep="\n")
    return {"table": table}, {"gaps": pg.plots.rival_gaps(found.sel(measure="rivals", drop=True))}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, arguments=arguments)


if __name__ == "__main__":
    main()
