"""What do conditional models learn of what is not given, and how does their geometry depend on the condition?

Trains conditional variational autoencoders, several times each; measures rate, distortion, likelihood, imputations and
samples against the number of conditions, and the same pairs' distances under several conditions in all retrainings;
prints tables and draws figures. Run again, it resumes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr

import probgeo as pg
from experiments.common.conditional_figures import codes_figure, curves_figure, images_figure, trade_off_figure
from experiments.common.conditions import (
    Scenario,
    Scene,
    as_dataset,
    completions,
    first_of,
    given_conditions,
    masks,
    numbers_of_conditions,
    scenario_of,
    scores,
)
from experiments.common.decoders import Source, decoders
from experiments.common.options import parsed
from experiments.common.results import carried_out, load_result, run, save_result

Preset = Literal[
    "gaussians",
    "correlated",
    "projected",
    "swiss-roll",
    "s-curve",
    "circles",
    "two-moons",
    "blobs",
    "digits",
    "digits-labels",
    "mnist",
    "mnist-labels",
    "coloured-mnist",
]


@dataclass(frozen=True)
class Config:
    """Rate, distortion, likelihood, imputations, samples and distances of conditional models, per condition."""

    preset: Preset | None = None
    """A published scenario; other options still override it."""
    scenario: Scene = "gaussians"
    """The data; `table` reads --path."""
    path: Path | None = None
    """A .csv or .tsv table of columns of any kind; empty cells are missing values."""
    label_column: str | None = None
    """Column of the table that labels its rows."""
    points: int = 4000
    """Rows of simulated data; training images of MNIST, at most."""
    dimension: int = 6
    """Of Gaussians."""
    correlated: float = 0.0
    """Correlation of neighbouring dimensions of Gaussians."""
    project_to: int | None = None
    """Dimension that simulated data are turned into."""
    labels: bool = False
    """Classes are covariates, as one-hot columns."""
    latent: int = 6
    """Dimension of the latent space."""
    mask: Literal["share", "half", "none"] = "share"
    """Conditions in training: any number of features, each feature with probability ½, none (covariates alone)."""
    target: Literal["unobserved", "everything"] = "unobserved"
    """What the likelihood is of: masked or unmasked loss."""
    std: float | None = 0.3
    """Standard deviation of real features given the code; None learns it."""
    models: tuple[Source, ...] = ("single", "ensemble")
    """Sources of uncertainty to compare; without masks rbf, laplace, exact, nuts and gp too."""
    betas: tuple[float, ...] = (1.0,)
    """Weights of the rate: each gives models of its own, and a point of the rate-distortion curve."""
    network: Literal["mlp", "residual", "dense-net", "convolutional"] = "mlp"
    """Encoder and decoder; convolutional for images."""
    width: int = 128
    """Units in each of the two hidden layers, or blocks, of a network; convolutions have 32 and 64 channels."""
    members: int = 5
    """Decoders in an ensemble."""
    retrainings: int = 3
    """Retrainings of each model, with seeds 0, 1, 2, ..."""
    pairs: int = 30
    """Pairs of test rows whose distances are measured."""
    segments: int = 64
    """Segments of a geodesic."""
    rows: int = 500
    """Test rows that models are judged by."""
    samples: int = 100
    """Importance samples of a log likelihood; samples of the code of an imputation."""
    epochs: int = 60
    """Passes over the data per retraining."""
    batch_size: int = 64
    """Observations per minibatch."""
    learning_rate: float = 2e-3
    """Step size of Adam."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    out: Path | None = None
    """Output folder; default runs/conditional (runs/conditional-PRESET for a preset)."""
    compare: tuple[Path, ...] = ()
    """Compute nothing: compare the results in these folders, in one table and one rate-distortion figure."""
    result: Path | None = None
    """Compute nothing: print the tables and draw the figures of this result file (conditional.nc)."""
    quick: bool = False
    """A tiny version, in under two minutes on two cores: fewer rows, two retrainings, narrow networks."""

    def __post_init__(self) -> None:
        if self.retrainings < 2 or not self.models or not self.betas:
            raise ValueError(
                "retrainings, models, betas: expected at least 2, 1 and 1; got "
                f"{self.retrainings}, {self.models}, {self.betas}."
            )


QUICK = {
    "points": 2000,
    "dimension": 4,
    "latent": 4,
    "models": ("single",),
    "members": 2,
    "retrainings": 2,
    "width": 32,
    "pairs": 6,
    "segments": 16,
    "rows": 200,
    "samples": 20,
    "epochs": 20,
    "batch_size": 32,
}

_IMAGES = Config(scenario="digits", latent=8, batch_size=32, rows=360, samples=50)
_MNIST = replace(
    _IMAGES, scenario="mnist", network="convolutional", epochs=5, batch_size=128, rows=1000, samples=20, points=60_000
)
PRESETS = {
    "gaussians": Config(preset="gaussians"),
    "correlated": Config(preset="correlated", correlated=0.8, betas=(0.3, 1.0, 3.0), points=3000, epochs=30),
    "projected": Config(preset="projected", dimension=4, project_to=10, correlated=0.5, std=0.1),
    "swiss-roll": Config(preset="swiss-roll", scenario="swiss-roll", latent=3, std=0.1),
    "s-curve": Config(preset="s-curve", scenario="s-curve", latent=3, std=0.1),
    "circles": Config(preset="circles", scenario="circles", latent=2, std=0.1),
    "two-moons": Config(preset="two-moons", scenario="two-moons", latent=2, std=0.1),
    "blobs": Config(preset="blobs", scenario="blobs", latent=2, std=0.1, labels=True),
    "digits": replace(_IMAGES, preset="digits"),
    "digits-labels": replace(_IMAGES, preset="digits-labels", labels=True, mask="none", latent=2),
    "mnist": replace(_MNIST, preset="mnist"),
    "mnist-labels": replace(_MNIST, preset="mnist-labels", labels=True, mask="none", latent=2),
    "coloured-mnist": replace(_MNIST, preset="coloured-mnist", scenario="coloured-mnist", mask="none", points=10_000),
}
MASKS: dict[str, Any] = {"share": pg.masks.RandomShare(), "half": pg.masks.RandomMask(), "none": pg.masks.NoMask()}


def specs_of(config: Config, scenario: Scenario) -> dict[str, pg.ConditionalVAE]:
    """Models by name: every source of uncertainty with every weight of the rate."""
    kinds: dict[str, Any] = {
        "mlp": lambda: pg.nn.MLP((config.width, config.width)),
        "residual": lambda: pg.nn.Residual(config.width, 2),
        "dense-net": lambda: pg.nn.DenseNet(config.width, 2),
        "convolutional": lambda: pg.nn.ConditionalConvolutional(scenario.image or (), (32, 64)),
    }
    network = kinds[config.network]()
    found = {}
    for name in config.models:
        # Some sources need perceptrons, and complain of other networks: so only the one that is asked for gets them.
        decoder = replace(decoders(pg.nn.MLP(), config.members)[name], network=network)
        for beta in config.betas:
            found[f"{name} β={beta:g}" if len(config.betas) > 1 else name] = pg.ConditionalVAE(
                config.latent,
                decoder,
                scenario.likelihood,
                network,
                beta,
                mask=MASKS[config.mask],
                covariates=tuple(range(-scenario.num_covariates, 0)),
                target=pg.masks.Unobserved() if config.target == "unobserved" else pg.masks.Everything(),
            )
    return found


def study_of(config: Config, scenario: Scenario, folder: Path) -> pg.Study:
    """Distances of the same pairs of test rows under every condition, in all retrainings."""
    solver = pg.GaussNewton(num_segments=config.segments)
    measures: dict[str, Any] = {"geodesic": pg.Geodesic(solver=solver), "straight": pg.StraightLine()}
    for name, values in given_conditions(scenario, config.mask != "none").items():
        measures[name] = pg.study.Given(values, pg.Geodesic(solver=solver))
    return pg.Study(
        folder,
        data=scenario.train.x.to(config.device),
        points=scenario.test.x,
        pairs=pg.sample_pairs(scenario.test.labels, num_pairs=config.pairs, seed=0),
        models=specs_of(config, scenario),
        seeds=range(config.retrainings),
        measures=measures,
        training=pg.Training(epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate),
    )


def curves(config: Config, scenario: Scenario, study: pg.Study) -> xr.Dataset:
    """Scores against the number of conditions, dims (model, retraining, conditions)."""
    x = scenario.test.x[: config.rows].to(config.device)
    labels, features = scenario.test.labels[: config.rows], None
    if scenario.image:
        pixels = scenario.train.x[:, : scenario.num_modelled]
        features = pg.sample_quality.classifier_features(pixels[:10_000], scenario.train.labels[:10_000]).to(x)
    numbers = numbers_of_conditions(scenario.num_modelled, config.mask != "none")
    models = []
    for name in study.models:
        retrainings = []
        for seed in study.seeds:
            model = study.fitted(name, seed)
            found = [as_dataset(scores(model, scenario, x, labels, num, features, config.samples)) for num in numbers]
            retrainings.append(xr.concat(found, "conditions", join="outer"))
        models.append(xr.concat(retrainings, "retraining"))
    return xr.concat(models, "model").assign_coords(
        model=list(study.models),
        source=("model", [name.split(" β=")[0] for name in study.models]),
        beta=("model", [float(name.partition(" β=")[2] or config.betas[0]) for name in study.models]),
        conditions=numbers,
        feature=list(scenario.names[: scenario.num_modelled]),
    )


@torch.no_grad()
def codes(config: Config, scenario: Scenario, study: pg.Study) -> xr.Dataset:
    """The two latent dimensions of most rate, of the first retraining of each model, for none and half given."""
    x, labels = scenario.test.x[:400].to(config.device), scenario.test.labels[:400]
    numbers = numbers_of_conditions(scenario.num_modelled, config.mask != "none")
    found = []
    for name in study.models:
        model = first_of(study, name)
        shown = []
        for num in sorted({0, numbers[len(numbers) // 2]}):
            mask = masks(scenario, x, num)
            top = model.rate(x, mask).mean(0).argsort(descending=True)[:2]
            shown.append(model.encode(x, mask).mean[:, top].cpu().numpy())
        found.append(shown)
    label = (
        labels.numpy() if len(scenario.test.label_names) > 1 else (x[:, 0] > x[:, 0].nanmedian()).int().cpu().numpy()
    )
    names = scenario.test.label_names
    return xr.Dataset(
        {"codes": (("model", "conditions", "row", "axis"), np.array(found)), "label": ("row", label)},
        {"model": list(study.models), "conditions": sorted({0, numbers[len(numbers) // 2]})},
        {"label_names": list(names if len(names) > 1 else (f"{scenario.names[0]} low", f"{scenario.names[0]} high"))},
    )


def greedy(config: Config, scenario: Scenario, study: pg.Study) -> xr.Dataset:
    """Features in the order in which they were chosen as conditions, and the ELBO after each; first retrainings."""
    x = scenario.test.x[: min(config.rows, 200)].to(config.device)
    x = x[~x.isnan().any(1)]
    found = [
        pg.masks.greedy_conditions(first_of(study, name), x, scenario.num_modelled - 1, config.samples // 10 or 1)
        for name in study.models
    ]
    order = [[scenario.names[column] for column in each.columns] for each in found]
    return xr.Dataset(
        {"feature": (("model", "step"), order), "elbo": (("model", "given"), [each.elbo for each in found])},
        {"model": list(study.models)},
    )


def compute(config: Config, folder: Path) -> None:
    """Everything that takes time, to `conditional.nc`."""
    scenario = scenario_of(config)
    study = study_of(config, scenario, folder)
    distances = study.run().drop_vars(["energy", "euclidean_latent"])
    groups = {
        "distances": distances,
        "curves": curves(config, scenario, study),
        "codes": codes(config, scenario, study),
    }
    if scenario.image:
        groups["images"] = completions(config, scenario, study)
    if config.mask != "none" and 2 < scenario.num_modelled <= 12:
        groups["greedy"] = greedy(config, scenario, study)
    save_result(groups, config, folder / "conditional.nc")


def table_of(found: xr.Dataset) -> pd.DataFrame:
    """One row per model and number of conditions, means over the retrainings."""
    means = found.mean("retraining")
    per_row: dict[Any, Any] = {
        "rate": means.rate.sum("latent"),
        # A dimension is informative where it has more than 0.1 nats of rate.
        "informative": (means.rate_by_row > 0.1).sum("latent"),
        **{name: means[name] for name in ("distortion", "elbo", "log_likelihood")},
        **{name: means[name] for name in means if str(name).startswith("error_")},
        **{name: means[name] for name in ("frechet", "blur") if name in means},
    }
    return xr.Dataset(per_row).drop_vars(["source", "beta"]).to_dataframe()


def report(result: Path, folder: Path) -> None:
    """Tables and figures of a result file; computes nothing."""
    groups = load_result(result)
    found, distances = groups["curves"], groups["distances"]
    table = table_of(found)
    print(table.to_string(float_format="{:.3f}".format))
    print(
        "Means over test rows and retrainings, nats per row. conditions: features given, at random. informative: "
        "latent dimensions\nof more than 0.1 nats, sorted in each row. error: squared, of a feature that is not given, "
        "imputed by the model, by the\ntraining mean, by the oracle. frechet: of samples and data, given features too."
    )
    if "frechet_by_class" in found:
        middle = found.isel(conditions=found.sizes["conditions"] // 2).mean("retraining")
        shown = middle[["frechet_by_class", "blur_by_class"]].drop_vars(["source", "beta"]).to_dataframe()
        print(f"\nper class, {int(middle.conditions)} conditions")
        print(shown[["frechet_by_class", "blur_by_class"]].unstack("class").to_string(float_format="{:.3f}".format))
    if "greedy" in groups:
        for model, order in groups["greedy"].groupby("model", squeeze=False):
            steps = zip(["nothing", *order.feature.values.ravel()], order.elbo.values.ravel(), strict=True)
            print(f"\ngreedy conditions, {model}, ELBO:", ", ".join(f"{name} {elbo:.2f}" for name, elbo in steps))
    lengths = distances.distance.mean(["retraining", "pair"]).to_pandas()
    print("\nmean distance under each condition")
    print(lengths.to_string(float_format="{:.3f}".format))
    print(pg.identifiability.summary(distances.distance))
    figures = {"codes": codes_figure(groups["codes"])}
    if found.sizes["conditions"] > 1:
        figures["curves"] = curves_figure(found)
    if "images" in groups:
        figures["images"] = images_figure(groups["images"])
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{result.stem}-table.csv", *(folder / f"{result.stem}-{name}.png" for name in figures)]
    table.to_csv(written[0])
    for path, figure in zip(written[1:], figures.values(), strict=True):
        figure.savefig(path, dpi=150)
    print("wrote", *written)


def compare(folders: Sequence[Path], folder: Path) -> None:
    """One table and one rate-distortion figure of several results."""
    rows, runs = [], {}
    for each in folders:
        found = load_result(each / "conditional.nc")["curves"]
        runs[each.name] = found
        config = json.loads(found.attrs["config"])
        means = table_of(found).groupby("model", sort=False).mean()
        rows.append(means.assign(run=each.name, network=config["network"], epochs=config["epochs"]).reset_index())
    table = pd.concat(rows).set_index(["run", "network", "epochs", "model"])
    print(table.drop(columns="informative").to_string(float_format="{:.3f}".format))
    print("Means over all numbers of conditions.")
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "conditional-compare.csv", folder / "conditional-compare.png"]
    table.to_csv(written[0])
    trade_off_figure(runs).savefig(written[1], dpi=150)
    print("wrote", *written)


def main(arguments: list[str] | None = None) -> None:
    """Compute what is missing, print the tables, draw the figures, say where they are."""
    config = parsed(Config, PRESETS, QUICK, arguments)
    if config.compare:
        compare(config.compare, config.out or Path("runs/conditional-compare"))
        return
    if folder := carried_out("conditional", config, compute, report):
        print(f"result: {folder / 'conditional.nc'}; models: {folder / 'trainings'}")


if __name__ == "__main__":
    run(main)
