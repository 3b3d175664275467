"""Which source of decoder uncertainty gives distances that survive retraining?

Trains variational autoencoders that differ only in their uncertainty, several times each; measures the same pairs of
observations in all of them; prints one table and draws two figures. Run again, it resumes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import probgeo as pg
from experiments.common.decoders import Source, decoders
from experiments.common.maps import field, label_names, labelled, latent_map, some_rows
from experiments.common.options import Ensemble, Observed, OnWorkers, Retrained
from experiments.common.released import AsReleased, SummedAsReleased
from experiments.common.results import Groups, Shown, config_of, convergence, run
from probgeo.study import decorrelated_energy
from probgeo.study.tight import sampled, tight_measures

Architecture = Literal["conv-ensemble", "injective"]


@dataclass(frozen=True)
class Config(Retrained, Ensemble, Observed, OnWorkers):
    """Compare distances over retrainings: CV, spread over pairs, ICC, rank agreement, paired tests."""

    preset: Literal["mnist-3", "mnist", "fashion-mnist", "mnist-50"] | None = None
    """A row of the published table, at its retrainings and pairs; other options still override it."""
    models: tuple[Source | Architecture, ...] = ("single", "rbf", "ensemble")
    """Sources of uncertainty to compare, and decoders of another architecture; the paired tests are against rbf."""
    published_energy: bool = False
    """Also measure the ensemble by the published, decorrelated energy (a row `decorrelated`; slower)."""
    as_released: bool = False
    """Also measure the RBF model as the published code does, its trained precision taken for a variance: rows
    `as released`, and `released sum` by that code's length, which adds those of mean and standard deviation."""
    angles: int = 0
    """Random triples of observations whose angles are measured too, with a table of their own."""
    volumes: bool = False
    """Also measure the volume of each class's region: the hull of the codes of nine tenths of its observations."""
    tight_pairs: int = 0
    """Random pairs whose geodesics are also sought tightly, from many starts, in every training: the table then states
    the solver's own share. Some twenty times the cost of so many pairs; 0 for none."""
    bends: int = 18
    """Bent lines that the tight search starts from, besides the straight line and the graph's routes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, what in (("angles", "a spread over triples"), ("tight_pairs", "quantiles over pairs")):
            if (num := getattr(self, name)) < 0 or num == 1:
                raise ValueError(f"{name}: expected none, or at least 2, as {what} needs; got {num}.")
        if self.bends < 0:
            raise ValueError(f"bends: expected at least 0; got {self.bends}.")


QUICK = {"models": ("rbf", "ensemble"), "members": 3, "retrainings": 3, "pairs": 10, "epochs": 20, "segments": 64}

_TABLE_1 = Config(
    dataset="mnist",
    models=("rbf", "ensemble"),
    retrainings=30,
    pairs=100,
    batch_size=256,
    segments=128,
    published_energy=True,
    as_released=True,
)
PRESETS = {
    "mnist-3": replace(_TABLE_1, preset="mnist-3", classes=(0, 5, 7), epochs=30),
    "mnist": replace(_TABLE_1, preset="mnist", epochs=6),
    "fashion-mnist": replace(_TABLE_1, preset="fashion-mnist", dataset="fashion_mnist", epochs=6),
    "mnist-50": replace(_TABLE_1, preset="mnist-50", latent=50, epochs=10, segments=64),
}
PUBLISHED_T = {"mnist-3": -16.83, "mnist": -16.29, "fashion-mnist": -15.34, "mnist-50": -6.47}


def spec_of(name: str, config: Config, shape: tuple[int, ...]) -> pg.VAE:
    """The model of a name, for observations of a shape."""
    if name == "conv-ensemble":
        image = pg.nn.Convolutional(shape)
        return pg.VAE(config.latent, pg.EnsembleDecoder(config.members, image), pg.Gaussian(), encoder=image)
    injective = pg.Decoder(pg.nn.Injective())
    return config.vae(injective if name == "injective" else decoders(config.perceptron(), config.members)[name])


def measures_of(config: Config) -> dict[str, pg.study.Measure]:
    """The shortest path, the straight line, and what else is asked for."""
    solver = config.solver()
    measures: dict[str, pg.study.Measure] = {
        "geodesic": pg.Geodesic(solver=solver),
        "straight": pg.StraightLine(num_segments=config.segments),
    }
    if config.published_energy:
        measures["decorrelated"] = pg.Geodesic(decorrelated_energy, solver=solver, needs_draws=True)
    if config.as_released:
        measures |= {"as released": AsReleased(solver), "released sum": SummedAsReleased(solver)}
    return measures


def elbos(study: pg.Study, lost: xr.DataArray) -> xr.DataArray:
    """Evidence lower bound per row held out of training, in nats, of every retraining; missing of a lost one."""
    values = np.full((len(study.models), len(study.seeds)), np.nan)
    for row, name in zip(values, study.models, strict=True):
        for index in np.flatnonzero(lost.sel(model=name).values == ""):
            history: Any = study.fitted(name, study.seeds[index]).history
            row[index] = -float(history.validation_loss[history.phase == history.phase[-1]].min())
    return xr.DataArray(values, dims=("model", "retraining"))


def latent_views(
    study: pg.Study, lost: xr.DataArray, data: pg.datasets.Dataset, num_paths: int = 12, num_codes: int = 800
) -> xr.Dataset:
    """What the latent figure shows: of each model's first retraining, codes, uncertainty on a grid, geodesics."""
    rows = some_rows(len(data), num_codes)
    views = []
    for name in study.models:
        model = study.fitted(name, study.seeds[int((lost.sel(model=name).values == "").argmax())])
        codes = model.encode(study.data).mean.detach()
        start, stop = model.encode(study.points[study.pairs[:num_paths].T.flatten()]).mean.detach().chunk(2)
        measured = study.measures["geodesic"].paths(model, start, stop, codes)
        views.append(latent_map(model, codes, rows, measured.path[:, ::4].cpu().numpy()))
    views_of_all = xr.concat(views, "model").assign_coords(model=list(study.models))
    return labelled(views_of_all, data.labels[rows], data.label_names)


def latent_figure(views: xr.Dataset) -> Figure:
    """One panel per model: codes by class, the decoder's uncertainty behind them, geodesics and straight lines."""
    figure = Figure(figsize=(4.9 * views.sizes["model"], 4.6), layout="constrained")
    panels = figure.subplots(1, views.sizes["model"], squeeze=False)[0]
    for axes, (name, view) in zip(panels, views.groupby("model", squeeze=False), strict=True):
        view = view.squeeze("model")
        pg.plots.latent(
            view.codes.values,
            views.label.values,
            label_names(views),
            background=field(view, "uncertainty") if view.uncertainty.max() > 0 else None,
            background_label="decoder standard deviation",
            paths=view.path.values,
            ax=axes,
        )
        axes.text(0.03, 0.97, str(name), transform=axes.transAxes, va="top", weight="bold")
    return figure


def references(distance: xr.DataArray) -> dict[str, xr.DataArray]:
    """What the rows are tested against: RBF distances, right and as published, and Euclidean ones of the same model."""
    models, measures = distance.model.values, distance.measure.values
    rows = {"rbf": "geodesic", "rbf released sum": "released sum"} if "rbf" in models else {}
    found = {name: distance.sel(model="rbf", measure=of, drop=True) for name, of in rows.items() if of in measures}
    return found | {"euclidean": distance.sel(measure="euclidean", drop=True)}


def tight_distances(config: Config, folder: Path, data: Any, points: Any, models: Mapping[str, Any]) -> xr.Dataset:
    """Distances of a sample of the pairs, sought tightly: a study of the same trainings, in the same folder."""
    geodesics = {name: how for name, how in measures_of(config).items() if isinstance(how, pg.Geodesic)}
    measures = tight_measures(geodesics, config.bends)
    pairs = pg.sample_pairs(points.labels, num_pairs=config.pairs, seed=0)
    chosen = sampled(len(pairs), config.tight_pairs, seed=0)
    found = config.run(config.study(folder, data, points, models, measures, pairs=pairs[chosen]))
    return found.distance.sel(measure=list(measures)).assign_coords(pair=chosen).to_dataset()


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: distances and, for two latent dimensions, a map."""
    data, points = config.observations()  # pairs of the test set, as published
    models: dict[str, Any] = {name: spec_of(name, config, data.shape) for name in config.models}
    tight = tight_distances(config, folder, data, points, models) if config.tight_pairs else None
    study = config.study(
        folder,
        data,
        points,
        models,
        measures=measures_of(config),
        triples=pg.sample_triples(points.labels, config.angles, seed=0) if config.angles else None,
        regions=pg.class_regions(points.x, points.labels) if config.volumes else None,
    )
    distances = config.run(study).drop_vars(["energy", "euclidean_latent"])  # in study.nc, and in `distance`
    groups = {"distances": distances.assign(elbo=elbos(study, distances.lost))}
    if tight is not None:
        groups["tight"] = tight
    return groups | ({"latent": latent_views(study, distances.lost, data)} if config.latent == 2 else {})


def report(groups: Groups) -> Shown:
    """A table of distances, of angles and volumes where they were measured; a histogram and a map."""
    dataset = groups["distances"]
    distance = pg.study.with_ambient_distances(dataset)
    tight = groups["tight"].distance if "tight" in groups else None
    summary = pg.identifiability.summary(distance, references(distance), tight=tight)
    print(summary)
    tables = {"table": summary}
    for quantity in (name for name in ("angle", "volume") if name in dataset):
        tables[f"{quantity}s"] = pg.identifiability.summary(dataset[quantity])
        print(f"\n{quantity}s:\n{tables[f'{quantity}s']}\n")
    if "elbo" in dataset:
        means, stds = dataset.elbo.mean("retraining"), dataset.elbo.std("retraining", ddof=1)
        shown = [
            f"{model} {mean:.1f} ± {std:.1f}"
            for model, mean, std in zip(means.model.values, means.values, stds.values, strict=True)
        ]
        print("ELBO per observation held out, nats (mean ± std over retrainings):", ", ".join(shown))
    if preset := config_of(dataset)["preset"]:
        print(f"published, ensemble against RBF: t = {PUBLISHED_T[preset]} (Syrota et al. 2024, Table 1)")
    print(convergence(dataset.status.sel(measure=dataset.measure.isin(["geodesic", "decorrelated", "as released"]))))
    figures = {"cv": pg.plots.cv_histogram(dataset.distance)}
    return tables, figures | ({"latent": latent_figure(groups["latent"])} if "latent" in groups else {})


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
