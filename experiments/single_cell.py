"""What of a map of single cells survives retraining: distances, neighbours, clusters, an order, types?

Trains a model of counts several times, the library's own or, with the extra, scVI; measures distances between the same
cells by Fisher-Rao geodesics, straight lines, geodesics in the space of mean counts and in the latent space; compares
neighbour graphs, clusters, the order from a root and distances between types. Run again, it uses the trainings there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr
from matplotlib.figure import Figure

import probgeo as pg
from experiments.common.atlas import (
    MEASURES,
    accuracy,
    codes_of,
    neighbour_graphs,
    principal_neighbours,
    spectral,
    structure,
)
from experiments.common.batches import batch_means, batch_table, told_models
from experiments.common.cells import alike, blood, others_warnings, scvi_models, typed_neurons
from experiments.common.lost import undiverged
from experiments.common.maps import some_rows
from experiments.common.options import Perceptrons
from experiments.common.results import Groups, Shown, config_of, convergence, run
from probgeo import identifiability
from probgeo.datasets import Dataset, branching_counts, cache_folder, count_table, earliest_row
from probgeo.plots.style import distinct_colours, new_figure


@dataclass(frozen=True)
class Config(Perceptrons):
    """Audit a map of single cells over retrainings."""

    preset: Literal["haematopoiesis", "neurons", "blood", "alike", "batches"] | None = None
    """By scVI: haematopoiesis, 2 660 myeloid progenitors × 240 genes (Paul et al. 2015), counts/paul15_counts.npz of
    $PROBGEO_DATA; neurons, blood and alike, the data sets of these names. batches: simulated counts of two batches, by
    the library's own models that are told of them and not."""
    adata: Path | None = None
    """A .h5ad, .npz, .csv or .tsv file (cells are rows), here or in $PROBGEO_DATA; none for a data set by its name."""
    dataset: Literal["simulated", "neurons", "blood", "alike"] = "simulated"
    """Simulated differentiation; 171 neurons × 500 genes (Scala et al. 2020; $PROBGEO_DATA); 700 cells of blood × 765
    genes (10x Genomics 2017, of scanpy); 400 cells of scvi-tools that are all of one distribution."""
    labels: str | None = None
    """Column or array of the file with the types of the cells."""
    batch: str | None = None
    """Column or array with the batches: the model is told of them (the library's own is conditional then, beside one
    that is not); distances within and across them are compared."""
    batches: int = 1
    """Batches of simulated counts, their column `batch`."""
    pseudotime: tuple[str, ...] = ()
    """Columns or arrays with pseudotimes, which give the root and are compared with the order from it."""
    weights: tuple[str, ...] = ()
    """Columns or arrays with the weight of each lineage: a cell is on those above one half."""
    scvi: bool = False
    """Train scVI (extra `scvi`), with one hidden layer, instead of the library's own autoencoder of counts."""
    latent: int = 10
    """Dimension of the latent space."""
    retrainings: int = 10
    """Retrainings, with seeds 0, 1, 2, ..."""
    pairs: int = 50
    """Random pairs of cells whose distances are measured."""
    epochs: int = 100
    batch_size: int = 128
    """Cells per minibatch."""
    width: int = 128
    """Units in each hidden layer."""
    segments: int = 32
    """Segments of a geodesic."""
    neighbours: int = 15
    """Nearest cells of each."""

    least: ClassVar = {"retrainings": (2, "as a variation over retrainings needs"), "pairs": (2, "as a spread needs")}


QUICK = {"retrainings": 3, "pairs": 12, "epochs": 8, "width": 32, "latent": 3, "segments": 16, "batch_size": 64}
PRESETS = {
    "haematopoiesis": Config(
        preset="haematopoiesis",
        adata=Path("counts/paul15_counts.npz"),
        labels="label",
        pseudotime=("slingshot_pseudotime",),
        weights=("slingshot_weight",),
        scvi=True,
        learning_rate=1e-3,
        epochs=400,
    ),
    "neurons": Config(preset="neurons", dataset="neurons", scvi=True, learning_rate=1e-3, epochs=400, batch_size=32),
    "blood": Config(preset="blood", dataset="blood", scvi=True, learning_rate=1e-3, epochs=400),
    "alike": Config(preset="alike", dataset="alike", scvi=True, learning_rate=1e-3, epochs=400),
    "batches": Config(
        preset="batches", batch="batch", batches=2, latent=5, retrainings=5, pairs=100, epochs=60, batch_size=64
    ),
}


def cells_of(config: Config) -> Dataset:
    """The counts that a configuration names; a file that is not here is sought among the data."""
    if config.adata is None and config.dataset != "simulated":
        return {"neurons": typed_neurons, "blood": blood, "alike": alike}[config.dataset]()
    if config.adata is None:
        return branching_counts(num_cells=300 if config.quick else 1000, num_batches=config.batches)
    path = config.adata if config.adata.exists() else cache_folder() / config.adata
    return count_table(path, config.labels, config.pseudotime, config.weights)


TRAINED_BY = ("batch", "latent", "width", "epochs", "batch_size", "learning_rate")


# --- trainings --------------------------------------------------------------------------------------------------------


def trained_by(config: Config, cells: Dataset) -> str:
    """The folder of trainings on these cells by these options: others are not taken for them."""
    of_cells = batches(cells, config).tolist() if config.batch else []
    return pg.specs.digest(cells.x, repr([*(getattr(config, name) for name in TRAINED_BY), of_cells]))


def own_spec(config: Config, cells: Dataset) -> pg.VAE:
    """The library's negative binomial autoencoder."""
    network = config.perceptron()
    library = pg.likelihoods.RowTotal(cells.x.sum(1).median().item())
    return pg.VAE(config.latent, pg.Decoder(network), pg.likelihoods.NegativeBinomial(library), encoder=network)


def own_models(config: Config, cells: Dataset, folder: Path) -> list[pg.LatentModel]:
    """One training of it per seed; those in the folder are read."""
    places = [folder / f"vae-{seed}" for seed in range(config.retrainings)]
    missing = [seed for seed, place in enumerate(places) if not place.exists()]
    if missing:
        fitted = undiverged(own_spec(config, cells), cells.x, missing, training=config.training())
        for place, model in fitted.items():
            pg.save(model, places[missing[place]])
    return [pg.load(place) for place in places if place.exists()]


def annotated(cells: Dataset, config: Config) -> Any:
    """The cells as an AnnData, with their types and batches."""
    import anndata

    obs = pd.DataFrame(index=cells.row_names.astype(str))
    obs["type"] = pd.Categorical(np.array(cells.label_names)[cells.labels.numpy()])
    if config.batch:
        obs[config.batch] = pd.Categorical(batches(cells, config))
    adata = anndata.AnnData(cells.x.numpy(), obs=obs)
    if cells.feature_names:
        adata.var_names = list(cells.feature_names)
    return adata


def batches(cells: Dataset, config: Config) -> np.ndarray:
    """The batch of each cell, as text."""
    if cells.obs is None or config.batch not in cells.obs:
        there = [] if cells.obs is None else list(cells.obs)
        raise ValueError(f"batch: expected a column of the cells; got {config.batch!r}, and there are {there}.")
    return cells.obs[config.batch].astype(str).to_numpy()


# --- computed ---------------------------------------------------------------------------------------------------------


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: trainings, distances, structure, maps, and an AnnData where anndata is installed."""
    cells = cells_of(config)
    given_batches = batches(cells, config) if config.batch else None
    try:
        adata = annotated(cells, config)
    except ImportError:
        adata = None
    trainings = folder / "trainings" / trained_by(config, cells)
    if config.scvi:
        if adata is None:
            raise ValueError("scvi: anndata is not installed; pip install 'probgeo[scvi]'.")
        options = {name: getattr(config, name) for name in TRAINED_BY}
        models = scvi_models(adata, range(config.retrainings), trainings, **options)
        given, name = adata, "scVI"
    elif config.batch:
        (models, given), name = (
            told_models(
                own_spec(config, cells), cells, config.batch, range(config.retrainings), config.training(), trainings
            ),
            "told",
        )
    else:
        models, given, name = own_models(config, cells, trainings), cells, "VAE"
    solver = pg.GaussNewton(num_segments=config.segments)
    pairs = pg.sample_pairs(cells.labels, num_pairs=config.pairs, seed=0)
    measures: dict[str, Any] = {
        "geodesic": pg.Geodesic(pg.fisher_rao_metric, solver),
        "straight": pg.StraightLine(pg.fisher_rao_metric, config.segments),
        "of the mean": pg.Geodesic(solver=solver),
    }
    found = pg.measure({name: models}, given, pairs, measures, progress=True)
    graphs = neighbour_graphs(models, codes_of(models, given), config.neighbours)
    root = earliest_row(cells.pseudotime) if cells.pseudotime is not None and cells.pseudotime.isfinite().any() else 0
    made = structure(graphs, cells.labels, root, int(cells.labels.max()) + 1)
    table = identifiability.survival(made["neighbours"], made["clusters"], made["order"], made["groups"])
    groups = {
        "distances": found.drop_vars(["energy", "euclidean_latent"]).assign_attrs(
            data=cells.name, num_cells=len(cells)
        ),
        "survival": xr.Dataset(
            {"value": (("row", "column"), table.to_numpy())},
            coords={
                "what": ("row", [what for what, _ in table.index]),
                "measure": ("row", [measure for _, measure in table.index]),
                "column": list(table.columns),
            },
        ),
        "map": mapped(cells, models, given, adata, graphs, made, config, folder),
    }
    if given_batches is not None:
        distance = found.distance
        if not config.scvi:
            untold = pg.measure({"not told": own_models(config, cells, trainings)}, cells, pairs, measures)
            distance = xr.concat(
                [distance, untold.distance], "model", coords="minimal", compat="override", join="inner"
            )
        groups["batches"] = batch_means(distance, given_batches, (found["start"], found["stop"]))
    return groups


def mapped(
    cells: Dataset,
    models: Sequence[pg.LatentModel],
    given: Any,
    adata: Any,
    graphs: dict[str, list],
    made: dict[str, xr.DataArray],
    config: Config,
    folder: Path,
) -> xr.Dataset:
    """A map of the cells by either measure, their types and how reliable their neighbours are."""
    reliability = identifiability.neighbour_reliability(made["neighbours"])
    places = {measure: spectral(graphs[measure][0], 3)[:, 1:] for measure in MEASURES}
    kind = "leading eigenvectors"
    if adata is not None:
        pg.adapters.to_anndata(adata, given, models, num_neighbours=config.neighbours)
        kind, places = umaps(adata, config, kind, places)
        adata.write_h5ad(folder / "single_cell.h5ad")
    rows = some_rows(len(cells), 3000)
    time = np.full(2, np.nan)
    if cells.pseudotime is not None and cells.pseudotime.isfinite().any():
        known = cells.pseudotime.nanmean(1).numpy()
        order = made["order"].mean("retraining")
        time = np.array(
            [scipy.stats.spearmanr(order.sel(measure=m), known, nan_policy="omit").statistic for m in MEASURES]
        )
    return xr.Dataset(
        {
            "place": (("measure", "cell", "axis"), np.stack([places[m][rows] for m in MEASURES])),
            "reliability": (("measure", "cell"), reliability.sel(measure=list(MEASURES)).values[:, rows]),
            "type": ("cell", cells.labels[rows].numpy()),
            "pseudotime_correlation": ("measure", time),
            "accuracy": (
                ("measure", "retraining"),
                [[accuracy(own, cells.labels) for own in made["neighbours"].sel(measure=m).values] for m in MEASURES],
            ),
            "principal_accuracy": accuracy(
                principal_neighbours(cells.x, config.latent, config.neighbours), cells.labels
            ),
        },
        coords={"measure": list(MEASURES)},
        attrs={"kind": kind, "types": list(cells.label_names)},
    )


def umaps(adata: Any, config: Config, kind: str, places: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """UMAP of geodesic neighbours beside the usual one of the first training's codes, in adata too, by scanpy."""
    try:
        with others_warnings():
            import scanpy
    except ImportError:
        return kind, places
    with others_warnings():
        scanpy.pp.neighbors(
            adata, n_neighbors=config.neighbours + 1, use_rep="X_probgeo", key_added="euclidean_neighbors"
        )
        scanpy.tl.umap(adata, neighbors_key="euclidean_neighbors")
        adata.obsm["X_umap_euclidean"] = adata.obsm["X_umap"]
        scanpy.tl.umap(adata)
    return "UMAP", {"geodesic": adata.obsm["X_umap"], "euclidean": adata.obsm["X_umap_euclidean"]}


# --- shown ------------------------------------------------------------------------------------------------------------


def survival_table(stored: xr.Dataset) -> pd.DataFrame:
    """The table of `identifiability.survival` that was stored."""
    index = pd.MultiIndex.from_arrays([stored.what.values, stored.measure.values], names=["what", "measure"])
    return pd.DataFrame(stored["value"].values, index=index, columns=stored.column.values)


def shown(table: pd.DataFrame) -> str:
    """Rounded, with intervals in brackets."""

    def cell(row: pd.Series, name: str, prefix: str) -> str:
        value, lower, upper = row[name], row[f"{prefix}lower"], row[f"{prefix}upper"]
        return "–" if np.isnan(value) else f"{value:.3f} [{lower:.3f}, {upper:.3f}]"

    columns = {
        "agreement": [cell(row, "value", "") for _, row in table.iterrows()],
        "less the Euclidean": [cell(row, "difference", "difference_") for _, row in table.iterrows()],
        "by chance": [f"{value:.3f}" for value in table["by_chance"]],
    }
    return pd.DataFrame(columns, index=table.index).to_string()


def map_figure(view: xr.Dataset) -> Figure:
    """Cells by type, and by the reliability of their neighbours, under either measure."""
    figure = new_figure(10.5, 8.6)
    panels = figure.subplots(2, 2)
    names = np.atleast_1d(view.attrs["types"])
    colours = distinct_colours(len(names))
    titles = {"geodesic": f"{view.attrs['kind']} of geodesic neighbours", "euclidean": f"{view.attrs['kind']}, usual"}
    low = float(view.reliability.quantile(0.01))
    for column, measure in enumerate(MEASURES):
        place, top, bottom = view.place.sel(measure=measure).values, panels[0, column], panels[1, column]
        for code, name in enumerate(names):
            here = view["type"].values == code
            if not here.any():
                continue
            top.scatter(*place[here].T, s=4, color=colours[code], linewidth=0, label=name if column == 0 else None)
        points = bottom.scatter(
            *place.T, s=4, c=view.reliability.sel(measure=measure), vmin=low, vmax=1, cmap="viridis", linewidth=0
        )
        top.set_title(titles[measure])
        mean = float(view.reliability.sel(measure=measure).mean())
        bottom.set_title(f"neighbours in common between two retrainings, mean {mean:.2f}", fontsize=10)
        for axes in (top, bottom):
            axes.set(xticks=[], yticks=[])
    figure.colorbar(points, ax=panels[1], label="share of a cell's neighbours", fraction=0.03)
    figure.legend(loc="outside lower center", ncols=min(4, len(names)), frameon=False, markerscale=3, fontsize=9)
    return figure


def survival_figure(table: pd.DataFrame) -> Figure:
    """What survives, geodesic against Euclidean, with intervals."""
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    whats = list(dict.fromkeys(what for what, _ in table.index))
    for shift, measure, colour in zip((-0.12, 0.12), MEASURES, distinct_colours(2), strict=True):
        rows = table.xs(measure, level="measure").loc[whats]
        errors = np.nan_to_num([rows["value"] - rows["lower"], rows["upper"] - rows["value"]]).clip(0)
        axes.errorbar(
            rows["value"], np.arange(len(whats)) + shift, xerr=errors, fmt="o", color=colour, label=measure, capsize=3
        )
    axes.set_yticks(range(len(whats)), whats)
    axes.set(xlabel="agreement between two retrainings (1: in full)", ylim=(len(whats) - 0.5, -0.5))
    axes.legend(frameon=False)
    return figure


def of_the_path(distance: xr.DataArray) -> str:
    """Whether the geodesic varies less than the straight line under the same metric, over the same trainings."""
    distance = distance.isel(model=0).drop_vars("model")
    if distance.sizes["retraining"] < 6:
        return "The path: not tested against the straight line, which takes six retrainings."
    test = identifiability.swap_test(distance.sel(measure="geodesic"), distance.sel(measure="straight"))
    lower, upper = test.interval.values
    return (
        f"The path: CV of the geodesic over that of the straight line {float(test.estimate):.3f} "
        f"[{lower:.3f}, {upper:.3f}], p = {float(test.p_value):.2g}"
    )


def report(groups: Groups) -> Shown:
    """The table of distances, that of structure, and those of batches; maps and intervals."""
    distances, view = groups["distances"], groups["map"]
    config = config_of(distances)
    print(
        f"{distances.attrs['data']}: {distances.attrs['num_cells']} cells; {config['retrainings']} trainings of "
        f"{distances.model.values[0]}, d = {config['latent']}, {config['epochs']} epochs"
    )
    summary = identifiability.summary(distances.distance)
    print(f"{summary}\n")
    table = survival_table(groups["survival"])
    print(shown(table))
    print(
        "Between two retrainings, means over all couples [95 % bootstrap interval over retrainings]. neighbours: share "
        f"of the\n{config['neighbours']} nearest in common; clusters: adjusted Rand index of as many spectral clusters "
        "as there are types; order:\nSpearman's ρ of the distance along the neighbour graph from the root; groups: "
        "distances along it between types, their\nSpearman's ρ and ICC."
    )
    if view.pseudotime_correlation.notnull().all():
        by = dict(zip(view.measure.values, view.pseudotime_correlation.values, strict=True))
        print("ρ of the mean order with the known pseudotime: " + ", ".join(f"{m} {by[m]:.3f}" for m in MEASURES))
    mean, std = view.accuracy.mean("retraining").values, view.accuracy.std("retraining", ddof=1).values
    print(
        f"accuracy of the types of {config['neighbours']} neighbours, mean ± std over trainings: "
        + ", ".join(f"{m} {a:.3f} ± {b:.3f}" for m, a, b in zip(view.measure.values, mean, std, strict=True))
        + f"; of as many principal components of log counts {float(view.principal_accuracy):.3f}"
    )
    tables = {"table": summary, "survival": table}
    if "batches" in groups:
        tables["batches"] = batch_table(groups["batches"].distance)
        print(f"\n{tables['batches'].round(3).to_string()}")
        print("Mean distances of pairs within a batch and across two; their CV over retrainings, and their ratio.")
    print(of_the_path(distances.distance))
    print(convergence(distances.status.sel(measure=["geodesic", "of the mean"])))
    return tables, {"map": map_figure(view), "survival": survival_figure(table)}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
