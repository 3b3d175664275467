"""Do geodesic distances from the root cell follow pseudotime, and which geometry follows it best?

Trains ensembles of negative binomial decoders on counts, several times; measures distances from the earliest cell to
others by Fisher-Rao geodesics, by geodesics in the space of mean counts, and in the latent space itself; correlates
them with a pseudotime that the models have not seen. Run again, it resumes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import scipy.stats
import seaborn as sns
import torch
import xarray as xr
from matplotlib.figure import Figure

import probgeo as pg
from experiments.common.lost import first_fitted, tell_lost
from experiments.common.maps import some_rows
from experiments.common.options import Ensemble, OnWorkers, Perceptrons
from experiments.common.results import Groups, Shown, config_of, convergence, run
from probgeo.datasets import Dataset, branching_counts, cache_folder, count_table, earliest_row
from probgeo.study import fisher_rao_metric

REFERENCE = "euclidean"  # the distance of the codes


@dataclass(frozen=True)
class Config(Perceptrons, Ensemble, OnWorkers):
    """Correlate distances from the root cell with pseudotime, over retrainings."""

    preset: Literal["haematopoiesis"] | None = None
    """2 660 myeloid progenitors × 240 genes (Paul et al. 2015), pseudotime by Slingshot: counts/paul15_counts.npz."""
    counts: Path | None = None
    """A .h5ad, .npz, .csv or .tsv file (cells are rows), here or in $PROBGEO_DATA; none for simulated counts."""
    labels: str | None = None
    """Column or array of the file with the types of the cells."""
    pseudotime: tuple[str, ...] = ()
    """Columns or arrays with the pseudotime of each lineage."""
    weights: tuple[str, ...] = ()
    """Columns or arrays with the weight of each lineage: a cell is on those above one half."""
    root: int | None = None
    """Row of the root cell; none for the cell of least pseudotime among those on the most lineages."""
    cells: int = 300
    """Random cells whose distances from the root are measured."""
    latent: int = 2
    """Dimension of the latent space."""
    retrainings: int = 10
    """Retrainings, with seeds 0, 1, 2, ..."""
    epochs: int = 100
    batch_size: int = 128
    """Cells per minibatch."""
    width: int = 64
    segments: int = 64
    """Segments of a geodesic."""

    least: ClassVar = {"retrainings": (2, "as intervals need"), "cells": (3, "as correlations need")}


QUICK = {"members": 3, "retrainings": 3, "cells": 60, "batch_size": 32, "width": 32, "segments": 32}
PRESETS = {
    "haematopoiesis": Config(
        preset="haematopoiesis",
        counts=Path("counts/paul15_counts.npz"),
        labels="label",
        pseudotime=("slingshot_pseudotime",),
        weights=("slingshot_weight",),
    )
}


def table_of(config: Config) -> Dataset:
    """The counts that a configuration names; a file that is not here is sought among the data."""
    if config.counts is None:
        return branching_counts()
    path = config.counts if config.counts.exists() else cache_folder() / config.counts
    return count_table(path, config.labels, config.pseudotime, config.weights)


def pseudotime_of(table: Dataset) -> torch.Tensor:
    """Of each cell in each lineage, (row, lineage)."""
    assert table.pseudotime is not None, "all counts have lineages, be they none"
    return table.pseudotime


def study_of(config: Config, folder: Path, table: Dataset) -> pg.Study:
    """The study that a configuration describes: pairs of the root and other cells."""
    root = earliest_row(pseudotime_of(table)) if config.root is None else config.root
    known = pseudotime_of(table).isfinite().any(1)
    known[root] = False
    cells = known.nonzero().flatten()
    if len(cells) < 3:
        raise ValueError(f"pseudotime: expected at least 3 cells with one, beside the root; got {len(cells)}.")
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))
    chosen = cells[order[: config.cells]].sort().values
    network = config.perceptron()
    solver = pg.GaussNewton(num_segments=config.segments)
    library = table.x.sum(1).median().item()
    likelihood = pg.likelihoods.NegativeBinomial(pg.likelihoods.RowTotal(library))
    return pg.Study(
        folder,
        data=table.x.to(config.device),
        pairs=torch.stack([torch.full_like(chosen, root), chosen], dim=1),
        models={
            "ensemble": pg.VAE(config.latent, pg.EnsembleDecoder(config.members, network), likelihood, encoder=network)
        },
        seeds=range(config.retrainings),
        measures={
            "Fisher-Rao geodesic": pg.Geodesic(fisher_rao_metric, solver=solver),
            "Fisher-Rao straight line": pg.StraightLine(fisher_rao_metric, num_segments=config.segments),
            "output geodesic": pg.Geodesic(solver=solver),
            "output straight line": pg.StraightLine(num_segments=config.segments),
        },
        training=config.training(),
    )


@torch.no_grad()
def latent_view(
    study: pg.Study, lost: xr.DataArray, table: Dataset, num_paths: int = 12, num_codes: int = 800
) -> xr.Dataset:
    """What the map shows of the first retraining: codes, pseudotime, Fisher-Rao geodesics from the root."""
    model = first_fitted(study, lost, "ensemble")
    codes = model.encode(study.data).mean
    # Cells spread evenly over the pseudotimes.
    time = pseudotime_of(table).nanmean(1)[study.pairs[:, 1].cpu()]
    spread = time.argsort()[torch.linspace(0, len(time) - 1, num_paths).long()]
    start, stop = codes[study.pairs[spread]].unbind(1)
    found = study.measures["Fisher-Rao geodesic"].paths(model, start, stop, codes)
    rows = some_rows(len(codes), num_codes)
    return xr.Dataset(
        {
            "codes": (("row", "latent"), codes[rows.to(codes.device)].cpu().numpy()),
            "pseudotime": ("row", pseudotime_of(table).nanmean(1)[rows].numpy()),
            "path": (("path", "node", "latent"), found.path.cpu().numpy()),
        }
    )


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: distances, pseudotimes, and a map."""
    table = table_of(config)
    study = study_of(config, folder, table)
    found = config.run(study)
    distances = found.drop_vars(["energy", "euclidean_latent"]).squeeze("model", drop=True)
    time = pseudotime_of(table)[study.pairs[:, 1].cpu()].numpy()
    distances = distances.assign(pseudotime=(("pair", "lineage"), time))
    groups = {"distances": distances.assign_attrs(name=table.name, num_cells=len(table))}
    return groups | ({"latent": latent_view(study, found.lost, table)} if config.latent == 2 else {})


def correlations(distances: xr.Dataset) -> xr.DataArray:
    """Spearman's ρ of distance from the root and pseudotime, dims (measure, lineage, retraining).

    Lineage `all` holds all cells, by their mean pseudotime over the lineages that they are on. Retrainings without
    distances are left out.
    """
    distances = distances.dropna("retraining", how="all", subset=["distance"])
    time = distances.pseudotime.assign_coords(
        lineage=[f"lineage {number + 1}" for number in range(distances.sizes["lineage"])]
    )
    every = time.mean("lineage").expand_dims(lineage=["all"])
    time = xr.concat([every, time] if time.sizes["lineage"] > 1 else [every], "lineage")
    return xr.apply_ufunc(
        lambda d, t: scipy.stats.spearmanr(d, t, nan_policy="omit").statistic,
        distances.distance,
        time,
        input_core_dims=[["pair"], ["pair"]],
        vectorize=True,
    ).transpose("measure", "lineage", "retraining")


def correlation_table(rho: xr.DataArray) -> pd.DataFrame:
    """Mean over retrainings with its 95 % interval, and the paired difference from the latent distance's."""
    records = []
    for lineage in rho.lineage.values:
        reference = rho.sel(measure=REFERENCE, lineage=lineage).values
        for measure in rho.measure.values:
            values = rho.sel(measure=measure, lineage=lineage).values
            half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
            test = scipy.stats.ttest_rel(values, reference) if measure != REFERENCE else None
            records.append(
                {
                    "cells": lineage,
                    "measure": measure,
                    "rho": values.mean(),
                    "lower": values.mean() - half,
                    "upper": values.mean() + half,
                    "difference": (values - reference).mean() if test else np.nan,
                    "t": test.statistic if test else np.nan,
                    "p": test.pvalue if test else np.nan,
                }
            )
    return pd.DataFrame(records).set_index(["cells", "measure"])


def correlation_figure(rho: xr.DataArray, view: xr.Dataset | None) -> Figure:
    """The latent map by pseudotime with geodesics from the root, and each retraining's correlation per measure."""
    figure = Figure(figsize=(10 if view is not None else 5, 4.4), layout="constrained")
    panels = figure.subplots(1, 2 if view is not None else 1, squeeze=False)[0]
    if view is not None:
        shown = np.isfinite(view.pseudotime.values)
        points = panels[0].scatter(
            *view.codes.values[shown].T, c=view.pseudotime.values[shown], s=9, cmap="viridis", linewidth=0
        )
        for path in view.path.values:
            panels[0].plot(*path.T, color="white", linewidth=2.4)
            panels[0].plot(*path.T, color="black", linewidth=1.1)
        panels[0].plot(*view.path.values[0, 0], marker="*", color="crimson", markersize=13, markeredgecolor="white")
        panels[0].set(xlabel="$z_1$", ylabel="$z_2$", title="Fisher-Rao geodesics from the root", aspect="equal")
        figure.colorbar(points, ax=panels[0], label="pseudotime", fraction=0.045)
    frame = rho.rename("rho").to_dataframe().reset_index()
    sns.stripplot(
        frame, x="rho", y="measure", hue="lineage", dodge=True, size=4, alpha=0.7, palette="colorblind", ax=panels[-1]
    )
    panels[-1].set(xlabel="Spearman ρ with pseudotime", ylabel="", title="one dot per retraining")
    sns.despine(figure)
    return figure


def report(groups: Groups) -> Shown:
    """Tables of correlations and of variation; the map, and every retraining's correlation."""
    distances = groups["distances"]
    rho = correlations(distances)
    table = correlation_table(rho)
    tell_lost(distances)
    print(
        f"{distances.attrs['name']}: {distances.attrs['num_cells']} cells, {distances.sizes['pair']} of them measured; "
        f"{rho.sizes['retraining']} retrainings of {config_of(distances)['members']} decoders"
    )
    p_values = {"p": lambda p: "–" if np.isnan(p) else f"{p:.1g}"}
    print(table.to_string(na_rep="–", float_format="{:.3f}".format, formatters=p_values))
    print(
        "rho = Spearman's correlation of the distance from the root with pseudotime: mean over retrainings, 95 % "
        "t-interval.\ndifference, t, p: from the latent Euclidean distance's, paired by retraining (two-sided).\n"
    )
    # The root is given, only the other cells are a sample: intervals resample those.
    print(pg.identifiability.summary(distances.distance.drop_vars(["start", "stop"])))
    geodesics = [name for name in distances.measure.values if "geodesic" in str(name)]
    print(convergence(distances.status.sel(measure=geodesics)))
    return {"table": table}, {"": correlation_figure(rho, groups.get("latent"))}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
