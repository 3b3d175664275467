"""Two views of the same observations, one latent space: is one view told from the other, and do their distances agree?

Trains shared latent variable models several times on pairs of views. On observations that were held out it translates
each view into the other and compares the squared error with predicting the mean, with a linear map, and with the
model's own reconstruction; it measures distances under each view's own metric and under their sum.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.figure import Figure
from sklearn.linear_model import RidgeCV
from torch import Tensor

import probgeo as pg
from experiments.common.images import in_bytes, panels
from experiments.common.lost import fitted, tell_lost
from experiments.common.maps import label_names, labelled
from experiments.common.options import OnWorkers, Retrained
from experiments.common.results import Groups, Shown, convergence, run
from probgeo.datasets import Dataset
from probgeo.seeds import stream

Name: TypeAlias = Literal[
    "digits-inverse",
    "digits-halves",
    "mnist-inverse",
    "mnist-halves",
    "neurons-morphology",
    "neurons-expression",
    "hands",
]


@dataclass(frozen=True)
class Config(Retrained, OnWorkers):
    """Translate between two views by one latent space, and compare the distances that each view gives it."""

    preset: Literal["mnist-inverse", "mnist-halves", "neurons-morphology", "neurons-expression"] | None = None
    """Settings for a data set; other options still override it."""
    dataset: Name = "digits-inverse"
    """Digits (bundled) and MNIST with their inverse or cut in halves; neurons; hands of a local copy of ICVL."""
    folder: Path | None = None
    """Folder of ICVL, for --dataset hands."""
    rows: int | None = None
    """Observations to train on at most, the first ones; none for all."""
    latent: int = 8
    """Dimension of the latent space."""
    fusion: Literal["product", "mixture", "average"] = "product"
    """How the views make one posterior: product of experts, mixture of experts, average (as published)."""
    alone: float = 0.5
    """Probability that a row is encoded from one view in training (of a mixture it always is)."""
    rounds: int = 0
    """Rounds of alternating training, each view's networks alone, after the joint one."""
    noise: float = 0.0
    """Standard deviation of noise on what the encoders read in training."""
    members: int = 5
    """Decoders in each view's ensemble; 1 for a single decoder."""
    retrainings: int = 5
    pairs: int = 50
    """Random pairs of held-out observations whose distances are measured."""
    epochs: int = 100
    learning_rate: float = 2e-3
    """Step size of Adam; it falls to a twentieth along half a wave."""
    segments: int = 64
    images: int = 8
    """Images per row of the figure."""

    least: ClassVar = {**Retrained.least, "members": (1, "a single decoder")}


QUICK = {"members": 2, "retrainings": 2, "pairs": 10, "epochs": 40, "batch_size": 32, "segments": 32, "rows": 2000}
_MNIST = Config(
    latent=16, members=3, width=256, epochs=15, batch_size=100, learning_rate=1e-3, retrainings=3, rows=20_000
)
_NEURONS = Config(latent=5, width=64, epochs=200, batch_size=32, learning_rate=1e-3)
PRESETS = {
    "mnist-inverse": replace(
        _MNIST,
        preset="mnist-inverse",
        dataset="mnist-inverse",
        rows=10_000,
        retrainings=2,
        epochs=20,
        learning_rate=2e-3,
    ),
    "mnist-halves": replace(_MNIST, preset="mnist-halves", dataset="mnist-halves"),
    "neurons-morphology": replace(_NEURONS, preset="neurons-morphology", dataset="neurons-morphology"),
    "neurons-expression": replace(_NEURONS, preset="neurons-expression", dataset="neurons-expression"),
}
PREDICTORS = ("mean", "linear", "translation", "own view", "all views")


def observations(config: Config) -> tuple[Dataset, Dataset]:
    """The data to train on, and those held out: the test set where one is published, else a fifth."""
    sets = pg.datasets
    make: Callable[[], Dataset]
    if config.dataset in ("mnist-inverse", "mnist-halves"):
        views = sets.image_and_inverse if config.dataset == "mnist-inverse" else sets.image_halves
        train, test = views(sets.mnist()), views(sets.mnist(train=False))
    elif config.dataset == "hands":
        if config.folder is None:
            raise ValueError("folder: expected the folder of ICVL for --dataset hands; got none.")
        train, test = (sets.hand_poses(config.folder, train=part) for part in (True, False))
    else:
        make = {
            "digits-inverse": lambda: sets.image_and_inverse(sets.digits()),
            "digits-halves": lambda: sets.image_halves(sets.digits()),
            "neurons-morphology": sets.neurons_morphology,
            "neurons-expression": sets.neurons_expression,
        }[config.dataset]
        train, test = make().split(0.8)
    train = train.rows(torch.arange(min(len(train), config.rows or len(train))))
    if config.dataset.startswith("neurons"):
        train = train.normalised()
        test = test.normalised(train.normalisation)
    return train, test.rows(test.complete().nonzero().flatten())  # errors and distances need both views


def spec_of(config: Config, data: Dataset) -> pg.SharedLatentVAE:
    """The model that a configuration describes."""
    network = config.perceptron()
    decoder: Any = pg.EnsembleDecoder(config.members, network) if config.members > 1 else pg.Decoder(network)
    fusions = {
        "product": pg.views.ProductOfExperts(config.alone),
        "mixture": pg.views.Mixture(),
        "average": pg.views.Average(alone=config.alone),
    }
    return pg.SharedLatentVAE(
        {
            name: pg.View(int(np.prod(shape)), network, decoder, pg.Gaussian(), config.noise)
            for name, shape in data.views.items()
        },
        latent=config.latent,
        fusion=fusions[config.fusion],
        alternation=pg.views.Alternation(config.rounds) if config.rounds else None,
    )


def measures_of(config: Config, views: Iterable[str]) -> dict[str, pg.study.Measure]:
    """The joint metric, and each view's own."""
    solver = config.solver()
    return {
        "all views": pg.Geodesic(solver=solver),
        **{name: pg.Geodesic(pg.study.ViewMetric(name), solver=solver) for name in views},
        "straight": pg.StraightLine(num_segments=config.segments),
    }


def linear_prediction(train: Dataset, test: Dataset, source: str, target: str) -> Tensor:
    """Ridge regression of the target on the source, its penalty by leave-one-out error, on rows that have both."""
    rows = train.complete()
    ridge = RidgeCV(alphas=np.logspace(-3, 5, 17)).fit(
        train.view(source)[rows].numpy(), train.view(target)[rows].numpy()
    )
    return torch.from_numpy(ridge.predict(test.view(source).numpy())).to(test.x)


@torch.no_grad()
def predictions(model: Any, test: Dataset, source: str, target: str) -> dict[str, Tensor]:
    """What the model says of the target: from the source, from the target itself, from all views."""
    whole = model.reconstruct(test.x.to(next(model.parameters())))
    return {
        "translation": model.translate(test.view(source).to(whole), source, target).cpu(),
        "own view": model.translate(test.view(target).to(whole), target, target).cpu(),
        "all views": whole[:, test.place(target)].cpu(),
    }


def errors(models: list[Any], train: Dataset, test: Dataset) -> xr.Dataset:
    """Squared errors per column of the held-out rows, of every predictor and direction; and what a cycle changes."""
    directions = {f"{a} → {b}": (a, b) for a, b in (tuple(train.views), tuple(train.views)[::-1])}
    found, columns, cycles = [], {}, []
    for source, target in directions.values():
        truth, known = test.view(target), train.view(target)[train.present(target)]
        fixed = {"mean": known.mean(0).expand_as(truth), "linear": linear_prediction(train, test, source, target)}
        rows = [fixed | predictions(model, test, source, target) for model in models]
        squares = torch.stack(
            [torch.stack([(row[name] - truth).square().mean(0) for name in PREDICTORS]) for row in rows]
        )
        found.append(squares.mean(-1))
        dims = ("predictor", f"column of {target}")
        columns[f"error of {target}"] = xr.DataArray(squares.mean(0).numpy(), dims=dims)
        with torch.no_grad():
            cycles.append([float(model.cycle(test.view(source), source, target).difference.mean()) for model in models])
    return xr.Dataset(
        {
            "error": (("direction", "retraining", "predictor"), torch.stack(found).numpy()),
            "cycle": (("direction", "retraining"), np.array(cycles)),
            **columns,
        },
        {"direction": list(directions), "predictor": list(PREDICTORS)},
        {"num_rows": len(test), "views": list(train.views), "name": train.name},
    )


@torch.no_grad()
def images_of(model: Any, test: Dataset, num_images: int) -> xr.Dataset:
    """Images by row: held-out views, reconstructions, translations, cycles, samples, and what becomes of noise."""
    first, second = test.views
    rows = torch.linspace(0, len(test) - 1, num_images).round().long()
    shown = test.rows(rows[test.labels[rows].argsort(stable=True)])
    images: dict[str, Tensor] = {}
    whole = model.reconstruct(shown.x)
    for source, target in ((first, second), (second, first)):
        cycle = model.cycle(shown.view(source), source, target)
        images |= {
            source: shown.view(source),
            f"{source}, reconstructed": whole[:, test.place(source)],
            f"{source} → {target}": cycle.there,
            f"{source} → {target} → {source}": cycle.back,
        }
    for name, means in (("prior", model.means(num_images)), ("box", model.means_in_box(test.x, num_images))):
        images |= {f"{name}: {view}": means[:, test.place(view)] for view in (first, second)}
    noise = torch.rand(shown.view(first).shape, generator=stream("noise"))
    images |= {"noise": noise, f"noise → {second}": model.translate(noise, first, second)}
    values = ("row", "image", "feature"), in_bytes(torch.stack(list(images.values())))
    return xr.Dataset({"images": values}, {"row": list(images)}, {"shape": list(test.views[first])})


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: errors of every prediction, distances of held-out pairs, images, a map."""
    train, test = observations(config)
    training = config.training(schedule=pg.schedules.Cosine(0.05))
    specs, measures = {config.fusion: spec_of(config, train)}, measures_of(config, train.views)
    study = config.study(folder, train, test, specs, measures, training=training)
    distances = config.run(study).drop_vars(["energy", "euclidean_latent"])
    kept = fitted(study, distances.lost, config.fusion)
    models: list[Any] = [model.cpu().requires_grad_(False) for model in kept]
    groups = {"errors": errors(models, train, test), "distances": distances}
    shapes = list(test.views.values())
    if shapes[0] == shapes[1] and len(shapes[0]) == 2:
        groups["images"] = images_of(models[0], test, config.images)
    codes = xr.Dataset({"codes": (("row", "dimension"), models[0].encode(test.x[:400]).mean.numpy())})
    return groups | {"latent": labelled(codes, test.labels[:400], test.label_names)}


def error_table(found: xr.Dataset) -> pd.DataFrame:
    """Squared error per direction and predictor: mean and standard deviation over retrainings, share of the mean's."""
    records = []
    for direction in found.direction.values:
        error = found.error.sel(direction=direction)
        for predictor in found.predictor.values:
            values = error.sel(predictor=predictor)
            records.append(
                {
                    "direction": direction,
                    "predictor": predictor,
                    "error": float(values.mean()),
                    "std": float(values.std(ddof=1)),
                    "explained": float(1 - values.mean() / error.sel(predictor="mean").mean()),
                }
            )
    return pd.DataFrame(records).set_index(["direction", "predictor"])


def agreement_table(distance: xr.DataArray, views: list[str]) -> pd.DataFrame:
    """Rank correlation of two measures' distances in each retraining: mean, lowest and highest."""
    names = [*views, "all views", "euclidean"]
    records = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            found = pg.identifiability.rank_correlation(distance.sel(measure=first), distance.sel(measure=second))
            records.append((first, second, float(found.mean()), float(found.min()), float(found.max())))
    return pd.DataFrame(records, columns=["first", "second", "ρ", "lowest", "highest"]).set_index(["first", "second"])


def overview_figure(groups: Groups) -> Figure:
    """Codes by class; a pair's distance in one view against the other; what is explained of each column."""
    found, distance = groups["errors"], groups["distances"].distance.isel(model=0)
    first, second = (str(view) for view in found.attrs["views"])
    figure = Figure(figsize=(14.5, 3.7), layout="constrained")
    maps, scatter, *columns = figure.subplots(1, 4)
    latent = groups["latent"]
    pg.plots.latent(latent.codes.values, latent.label.values, label_names(latent), ax=maps)
    x, y = (distance.sel(measure=view) for view in (first, second))
    for retraining in distance.retraining.values:
        scatter.scatter(
            x.sel(retraining=retraining), y.sel(retraining=retraining), s=8, label=f"retraining {retraining}"
        )
    rho = float(pg.identifiability.rank_correlation(x, y).mean())
    scatter.set(
        xlabel=f"geodesic distance, {first}", ylabel=f"geodesic distance, {second}", title=f"mean ρ = {rho:.2f}"
    )
    for ax, target, source in zip(columns, (second, first), (first, second), strict=True):
        error = found[f"error of {target}"]
        mean = error.sel(predictor="mean")
        explained = (1 - error / mean.where(mean > 1e-4)).dropna(f"column of {target}")
        order = np.argsort(explained.sel(predictor="linear").values)
        for predictor in ("linear", "translation", "own view"):
            ax.plot(explained.sel(predictor=predictor).values[order], label=predictor, linewidth=1)
        ax.set(xlabel=f"column of {target}, by the linear map", title=f"{source} → {target}", ylim=(-0.5, 1.05))
    columns[0].set_ylabel("variance explained, held out")
    columns[0].legend(frameon=False)
    return figure


def report(groups: Groups) -> Shown:
    """Tables of errors, of variation and of agreement; an overview, and images where the views are."""
    found, distances = groups["errors"], groups["distances"]
    views = [str(view) for view in found.attrs["views"]]
    table = error_table(found)
    print(table.to_string(formatters=dict.fromkeys(("error", "std", "explained"), "{:.4f}".format)))
    cycles = ", ".join(f"{c.direction.item()} → back {float(c.mean()):.4f}" for c in found.cycle)
    print(
        f"Squared error per column, {found.attrs['num_rows']} held-out rows of {found.attrs['name']}: mean and std "
        "over retrainings;\nexplained: share of the error of predicting the mean. own view, all views: reconstructions "
        f"of the\ntarget from itself and from everything. Root mean square that a cycle changes: {cycles}.\n"
    )
    tell_lost(distances)
    summary = pg.identifiability.summary(distances.distance)
    print(summary)
    agreement = agreement_table(distances.distance.isel(model=0), views)
    print("\nDo two measures order the pairs alike? Spearman's ρ in the same retraining, over retrainings")
    print(agreement.to_string(float_format="{:.3f}".format))
    print(convergence(distances.status.sel(measure=["all views", *views])))
    figures = {"overview": overview_figure(groups)}
    if "images" in groups:
        shown = groups["images"]
        images, shape = shown.images.values, shown.attrs["shape"]
        figures["images"] = panels(images, shape, shown.sizes["image"], shown.row.values)
    return {"errors": table, "table": summary, "agreement": agreement}, figures


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
