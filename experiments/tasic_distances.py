"""Do the distances between 133 types of cells agree over retrainings?

Ensembles trained several times; all pairs of the types' representatives, by geodesic and by Euclidean distance; how
much the matrices of the retrainings differ; heat maps with the types in families; latent maps over the volume density
of the ensemble and of each member. Run again, it resumes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

import probgeo as pg
from experiments.common.data import cells
from experiments.common.lost import first_fitted
from experiments.common.maps import field, grid_over, some_rows
from experiments.common.options import OnWorkers, Perceptrons
from experiments.common.results import Groups, Shown, run
from probgeo import identifiability
from probgeo.plots.style import new_figure

ROWS = ("latent", "members", "measure")


@dataclass(frozen=True)
class Config(Perceptrons, OnWorkers):
    """Matrices of distances between types of cells, and their agreement over retrainings."""

    dataset: Literal["tasic", "simulated"] = "tasic"
    """tasic: 133 types of cells of the mouse cortex (downloaded); simulated: 12 types in 4 families."""
    table: Path | None = None
    """A local npz file to read instead of the download (see `datasets.tasic`)."""
    types: int = 0
    """Types whose distances are measured, evenly spread over their codes; 0 for all. All cells are trained on."""
    latent: tuple[int, ...] = (2,)
    """Dimensions of the latent space."""
    members: tuple[int, ...] = (1, 10)
    """Numbers of decoders; ensembles of each are trained, in each latent dimension."""
    retrainings: int = 5
    """Retrainings of each model, with seeds 0, 1, 2, ..."""
    noise: float = 0.5
    """Standard deviation of an observation given its code, over that of the data."""
    epochs: int = 40
    batch_size: int = 256
    segments: int = 32
    """Segments of a geodesic."""

    least: ClassVar = {"retrainings": (2, "as agreement between retrainings needs")}


QUICK = {
    "dataset": "simulated",
    "latent": (2, 3),
    "members": (1, 3),
    "retrainings": 3,
    "epochs": 60,
    "batch_size": 64,
    "width": 32,
}


def simulated(
    num_families: int = 4, types_each: int = 3, cells_each: int = 60, features: int = 20
) -> pg.datasets.Dataset:
    """Cells spread 0.5 around means of types, these 1.5 around means of families, these 4 around 0, per feature."""
    rng = np.random.default_rng(0)
    families = 4 * rng.normal(size=(num_families, 1, 1, features))
    types = families + 1.5 * rng.normal(size=(num_families, types_each, 1, features))
    x = types + 0.5 * rng.normal(size=(num_families, types_each, cells_each, features))
    names = [f"{family} {number + 1}" for family in "ABCDEFGHIJ"[:num_families] for number in range(types_each)]
    return pg.datasets.Dataset(
        name="simulated",
        x=torch.from_numpy((x / x.std()).reshape(-1, features)).float(),
        labels=torch.arange(len(names)).repeat_interleave(cells_each),
        label_names=tuple(names),
        shape=(features,),
    )


def study_of(config: Config, folder: Path, data: pg.datasets.Dataset) -> pg.Study:
    """All pairs of representatives in every model; the rows of the data nearest to the mean of their type."""
    network = config.perceptron()
    representatives = pg.class_representatives(data.x, data.labels)
    if config.types:
        if not 5 <= config.types <= len(representatives):
            raise ValueError(f"types: expected 5 to {len(representatives)}, or 0 for all; got {config.types}.")
        representatives = representatives[torch.linspace(0, len(representatives) - 1, config.types).round().long()]
    return pg.Study(
        folder,
        data=data.x.to(config.device),
        pairs=representatives[pg.all_pairs(len(representatives))],
        models={
            f"{latent}-{size}": pg.VAE(
                latent, pg.EnsembleDecoder(size, network), pg.Gaussian(config.noise), encoder=network
            )
            for latent in config.latent
            for size in config.members
        },
        seeds=range(config.retrainings),
        measures={
            "geodesic": pg.Geodesic(solver=pg.GaussNewton(num_segments=config.segments)),
            "straight": pg.StraightLine(num_segments=config.segments),
        },
        training=config.training(),
    )


def over_kept(how: Callable[[xr.DataArray], Any], distance: xr.DataArray) -> Any:
    """A statistic of each model's retrainings that are not lost."""
    parts = [
        xr.concat(
            [
                how(distance.sel(latent=[latent], members=[members]).dropna("retraining", how="all"))
                for members in distance.members.values
            ],
            "members",
        )
        for latent in distance.latent.values
    ]
    return xr.concat(parts, "latent")


def agreement(distance: xr.DataArray) -> xr.Dataset:
    """How much the matrices of two retrainings differ, means over all couples of retrainings."""
    matrices = identifiability.matrix_of_pairs(distance)
    num_neighbours = max(1, matrices.sizes["start"] // 13)
    statistics = {
        "frobenius": identifiability.relative_frobenius,
        "procrustes": identifiability.procrustes_disagreement,
        "neighbours": lambda a, b: identifiability.neighbour_overlap(a, b, num_neighbours),
        "mantel_r": lambda a, b: identifiability.mantel_test(a, b, 1)["r"],
        "mantel_p": lambda a, b: identifiability.mantel_test(a, b, 199)["p"],
    }
    found = {name: identifiability.mean_between_retrainings(how, matrices) for name, how in statistics.items()}
    joined = xr.Dataset(found).to_dataarray("statistic").to_dataset(name="value")
    return joined.assign_attrs(num_neighbours=num_neighbours)


@torch.no_grad()
def latent_view(study: pg.Study, lost: xr.DataArray, data: pg.datasets.Dataset, num: int = 32) -> xr.Dataset:
    """Of the first retraining of the last model of two latent dimensions: codes, geodesics, members' volume density."""
    name = [name for name, spec in study.models.items() if isinstance(spec, pg.ModelSpec) and spec.latent == 2][-1]
    model: Any = first_fitted(study, lost, name)
    codes = model.encode(study.data).mean
    rows = some_rows(len(data), 1500)
    some = torch.linspace(0, len(study.pairs) - 1, 14).long()[1:-1]
    start, stop = codes[study.pairs[some]].unbind(1)
    path = study.measures["geodesic"].paths(model, start, stop, codes).path
    grid, corner = grid_over(codes, num)
    draws = model.draws()
    members = [pg.PullbackMetric(draws.member(index)) for index in range(draws.num_members)]
    density = torch.stack([pg.calculus.volume_density(metric, grid).log10() for metric in members])
    return xr.Dataset(
        {
            "codes": (("row", "latent"), codes[rows].cpu().numpy()),
            "type": ("row", data.labels[rows].numpy()),
            "path": (("pair", "node", "latent"), path.cpu().numpy()),
            "density": (("member", "first", "second"), density.unflatten(1, (num, num)).cpu().numpy()),
            "corner": (("side", "latent"), corner.cpu().numpy()),
        },
        attrs={"colors": list(data.colours or ()), "name": name},
    )


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time; tables of all distances and of their CV are left in the folder."""
    data = simulated() if config.dataset == "simulated" else cells(config.table)
    study = study_of(config, folder, data)
    found = config.run(study)
    models = pd.MultiIndex.from_product([config.latent, config.members], names=ROWS[:2])
    by_model = found.drop_vars(["model", "num_members"]).assign_coords(
        xr.Coordinates.from_pandas_multiindex(models, "model")
    )
    distance = by_model.distance.unstack("model").transpose(*ROWS, "retraining", "pair")
    types = {end: ("pair", np.array(data.label_names)[data.labels[distance[end].values]]) for end in ("start", "stop")}
    named = distance.assign_coords({f"{end}_type": value for end, value in types.items()})
    raw = folder / "tasic_distances-raw.csv"
    named.to_dataframe().to_csv(raw)
    cv = over_kept(identifiability.coefficient_of_variation, named).rename("cv")
    cv.to_dataframe().to_csv(folder / "tasic_distances-cv.csv")
    print(f"all distances: {raw}, {folder / 'study.nc'}")
    summary = identifiability.summary(distance, num_resamples=200)
    largest = {"latent": config.latent[0], "members": config.members[-1], "measure": ["geodesic", "euclidean"]}
    shown = xr.Dataset({"mean": over_kept(lambda d: d.mean("retraining", skipna=False), distance).sel(largest)})
    shown["cv"] = cv.sel(largest | {"measure": "geodesic"}).drop_vars("measure")
    matrices = shown.map(identifiability.matrix_of_pairs)
    upper = xr.DataArray(pg.all_pairs(matrices.sizes["start"]).numpy(), dims=("pair", "end"))
    groups = {
        # One variable each: a file with many small ones is large.
        "summary": summary.to_xarray()
        .to_dataarray("statistic")
        .to_dataset(name="value")
        .assign_attrs(table=json.dumps(summary.attrs)),
        "agreement": over_kept(agreement, distance),
        # The upper halves: the other ones are the same.
        "matrices": matrices.isel(start=upper[:, 0], stop=upper[:, 1]).drop_vars(["start", "stop"]),
        "types": xr.Dataset(
            {"seconds": found.seconds.sel(measure="geodesic").sum(), "status": (found.status > 0).sum()},
            attrs={"names": [data.label_names[data.labels[row]] for row in matrices.start.values]},
        ),
    }
    if 2 in config.latent:
        groups["latent"] = latent_view(study, found.lost, data)
    return groups


# --- what is shown ---


def full(upper: np.ndarray, diagonal: float = 0.0) -> np.ndarray:
    """The symmetric matrix of an upper half, in the order of `all_pairs`."""
    matrix = squareform(upper, checks=False)
    np.fill_diagonal(matrix, diagonal)
    return matrix


def clustered(matrix: np.ndarray) -> np.ndarray:
    """An order in which neighbours are near: the leaves of average linkage, optimally turned."""
    if len(matrix) < 3:
        return np.arange(len(matrix))
    return leaves_list(linkage(squareform(matrix, checks=False), "average", optimal_ordering=True))


def type_order(matrix: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Types by family, families by their mean distances, types within a family by theirs."""
    names = np.unique(families)
    between = np.array([[matrix[np.ix_(families == a, families == b)].mean() for b in names] for a in names])
    rows = [np.flatnonzero(families == names[family]) for family in clustered(between)]
    return np.concatenate([row[clustered(matrix[np.ix_(row, row)])] for row in rows])


def _mark_families(axes: Axes, families: np.ndarray) -> None:
    """Lines between families and their names, but of those that are too small for one."""
    bounds = np.flatnonzero(families[1:] != families[:-1]) + 0.5
    for bound in bounds:
        axes.axhline(bound, color="white", linewidth=0.4)
        axes.axvline(bound, color="white", linewidth=0.4)
    edges = np.concatenate([[-0.5], bounds, [len(families) - 0.5]])
    large = np.diff(edges) >= max(1, len(families) / 40)
    middles, names = ((edges[:-1] + edges[1:]) / 2)[large], families[np.ceil(edges[:-1]).astype(int)][large]
    axes.set_xticks(middles, names, rotation=90, fontsize=7)
    axes.set_yticks(middles, names, fontsize=7)
    axes.tick_params(length=0)


def matrices_figure(matrices: xr.Dataset, names: np.ndarray) -> Figure:
    """Mean geodesic and Euclidean distances and the geodesic's CV, types in families."""
    families = np.array([name.split()[0] for name in names])
    geodesic = full(matrices["mean"].sel(measure="geodesic").values)
    order = type_order(geodesic, families)
    panels = {
        "geodesic distance, mean": geodesic,
        "Euclidean latent distance, mean": full(matrices["mean"].sel(measure="euclidean").values),
        "geodesic distance, CV over retrainings": full(matrices["cv"].values, np.nan),
    }
    figure = new_figure(14.5, 4.6)
    for axes, (title, matrix) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        pg.plots.distance_matrix(matrix[np.ix_(order, order)], label=title, ax=axes)
        _mark_families(axes, families[order])
    return figure


def names_figure(matrices: xr.Dataset, names: np.ndarray) -> Figure:
    """Mean geodesic distances with the name of every type."""
    geodesic = full(matrices["mean"].sel(measure="geodesic").values)
    order = type_order(geodesic, np.array([name.split()[0] for name in names]))
    side = max(3.0, 0.12 * len(names))
    axes = new_figure(side + 3, side + 2).subplots()
    return pg.plots.distance_matrix(geodesic[np.ix_(order, order)], list(names[order]), "mean geodesic distance", axes)


def latent_figure(view: xr.Dataset) -> Figure:
    """Codes by type over log10 √det G: the members' mean with geodesics, their maximum, and each member's own."""
    fields = {
        "mean over members": np.log10((10**view.density).mean("member")),
        "maximum over members": view.density.max("member"),
        **{f"member {1 + index}": view.density[index] for index in range(view.sizes["member"])},
    }
    low, high = np.quantile(view.density.values[np.isfinite(view.density.values)], [0.02, 0.98]).tolist()
    num_columns = min(6, len(fields))
    num_rows = -(-len(fields) // num_columns)
    figure = new_figure(2.3 * num_columns, 2.35 * num_rows + 0.3)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    colors = np.atleast_1d(view.attrs["colors"])
    shown = None if not len(colors) else [str(color) for color in colors[np.unique(view["type"].values)]]
    for index, (axes, (title, values)) in enumerate(zip(panels, fields.items(), strict=False)):
        pg.plots.latent(
            view.codes.values,
            view["type"].values,
            background=field(view.assign(shown=values), "shown"),
            background_label="",
            background_range=(low, high),
            paths=view.path.values if index == 0 else None,
            colours=shown,
            legend=False,
            ax=axes,
        )
        axes.set(xlabel="", ylabel="", xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
    for axes in panels[len(fields) :]:
        axes.remove()
    figure.supxlabel(
        f"shades: volume density, log10 √det G, from {low:.2f} (white) to {high:.2f}; colours: types; black: geodesics",
        fontsize=9,
    )
    return figure


def frame_of(values: xr.DataArray) -> pd.DataFrame:
    """Rows by latent dimension, number of decoders and measure, a column per statistic."""
    return values.to_dataset("statistic").to_dataframe(dim_order=list(ROWS))


def summary_of(stored: xr.Dataset) -> identifiability.Table:
    """The table of `identifiability.summary` that was stored."""
    frame = frame_of(stored["value"])
    if "ratio_euclidean" not in frame:  # made before the tests over retrainings, from distances that are not stored
        frame = frame.rename(columns={f"p_{name}": f"p_t_{name}" for name in ("rbf", "euclidean")})
        frame = frame.drop(columns=[name for name in frame if "holm" in name])
        tests = ("ratio_{}", "ratio_{}_lower", "ratio_{}_upper", "p_{}", "smallest_p_{}", "swapped_{}")
        frame[[name.format("euclidean") for name in tests]] = np.nan
    table = identifiability.Table(frame.astype(dict.fromkeys(["retrainings", "pairs", "pairs_missing"], int)))
    table.attrs = {"family": False} | json.loads(stored.attrs["table"])
    return table


def printed(groups: Groups) -> str:
    """All tables, and what they mean."""
    summary, types = summary_of(groups["summary"]), groups["types"]
    untested = "" if "ratio_euclidean" in groups["summary"].statistic else (
        "This result was stored without a test over retrainings, and without the distances that one needs (1 MB). Of "
        "the same\nfive trainings no two-sided one could fall below .0625.\n"
    )  # fmt: skip
    return (
        f"{summary}\n{untested}\n{frame_of(groups['agreement']['value']).round(3).to_string()}\n"
        "Between two retrainings, means over all couples. frobenius: ‖A − B‖ / rms norm; procrustes: share of\n"
        "variance that no similarity explains, after scaling to two dimensions; neighbours: share of the "
        f"{groups['agreement'].attrs['num_neighbours']}\nnearest types in common; mantel: correlation of the entries, "
        "and p of Mantel's test.\n\n"
        f"Mean CV by latent dimension and number of decoders:\n{pivoted(summary).round(3).to_string()}\n"
        f"{len(np.atleast_1d(types.attrs['names']))} types; geodesics took {float(types.seconds):.0f} s in all, "
        f"{int(types.status)} did not converge"
    )


def pivoted(summary: pd.DataFrame) -> pd.DataFrame:
    """Mean CV and ICC: rows by measure and latent dimension, columns by statistic and number of decoders."""
    return summary[["cv", "icc"]].unstack("members").reorder_levels(["measure", "latent"]).sort_index()


def report(groups: Groups) -> Shown:
    """Tables of variation and of agreement; the matrices, those with all names, and the latent map."""
    print(printed(groups))
    summary, names = summary_of(groups["summary"]), np.atleast_1d(groups["types"].attrs["names"])
    tables = {"table": summary, "pivoted": pivoted(summary), "agreement": frame_of(groups["agreement"]["value"])}
    figures = {"matrices": matrices_figure(groups["matrices"], names), "names": names_figure(groups["matrices"], names)}
    return tables, figures | ({"latent": latent_figure(groups["latent"])} if "latent" in groups else {})


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, arguments=arguments)


if __name__ == "__main__":
    main()
