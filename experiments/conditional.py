"""What do conditional models learn of what is not given, and how does their geometry depend on the condition?

Trains conditional variational autoencoders, several times each; measures rate, distortion, likelihood, imputations and
samples against the number of conditions, and the same pairs' distances under several conditions in all retrainings;
prints tables and draws figures. Run again, it resumes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr

import probgeo as pg
from experiments.common.conditional_figures import codes_figure, curves_figure, trade_off_figure
from experiments.common.conditions import (
    Scenario,
    Scene,
    as_dataset,
    completions,
    given_conditions,
    masks,
    numbers_of_conditions,
    scenario_of,
    scores,
)
from experiments.common.decoders import Source, decoders
from experiments.common.images import panels
from experiments.common.lost import first_fitted, in_place, kept, tell_lost
from experiments.common.options import OnWorkers, Retrained, parsed
from experiments.common.results import Groups, Shown, carry_out, config_of, folder_of, load_result, told, write

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
class Config(Retrained, OnWorkers):
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
    pairs: int = 30
    """Pairs of test rows whose distances are measured."""
    segments: int = 64
    rows: int = 500
    """Test rows that models are judged by."""
    samples: int = 100
    """Importance samples of a log likelihood; samples of the code of an imputation."""
    compare: tuple[Path, ...] = ()
    """Compute nothing: compare the results in these folders, in one table and one rate-distortion figure."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models or not self.betas:
            raise ValueError(f"models, betas: expected at least one each; got {self.models} and {self.betas}.")


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
        "mlp": config.perceptron,
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


def measures_of(config: Config, scenario: Scenario) -> dict[str, pg.study.Measure]:
    """The shortest path and the straight line where nothing is given, and the shortest path under every condition."""
    solver = config.solver()
    measures: dict[str, pg.study.Measure] = {"geodesic": pg.Geodesic(solver=solver), "straight": pg.StraightLine()}
    for name, values in given_conditions(scenario, config.mask != "none").items():
        measures[name] = pg.study.Given(values, pg.Geodesic(solver=solver))
    return measures


def curves(config: Config, scenario: Scenario, study: pg.Study, lost: xr.DataArray) -> xr.Dataset:
    """Scores against the number of conditions, dims (model, retraining, conditions); missing of a lost retraining."""
    x = scenario.test.x[: config.rows].to(config.device)
    labels, features = scenario.test.labels[: config.rows], None
    if scenario.image:
        pixels = scenario.train.x[:, : scenario.num_modelled]
        features = pg.sample_quality.classifier_features(pixels[:10_000], scenario.train.labels[:10_000]).to(x)
    numbers = numbers_of_conditions(scenario.num_modelled, config.mask != "none")
    models = []
    for name in study.models:
        retrainings, places = [], kept(lost, name)
        for place in places:
            model = study.fitted(name, study.seeds[place])
            found = [as_dataset(scores(model, scenario, x, labels, num, features, config.samples)) for num in numbers]
            retrainings.append(xr.concat(found, "conditions", join="outer"))
        models.append(in_place(retrainings, places, len(study.seeds)))
    return xr.concat(models, "model").assign_coords(
        model=list(study.models),
        source=("model", [name.split(" β=")[0] for name in study.models]),
        beta=("model", [float(name.partition(" β=")[2] or config.betas[0]) for name in study.models]),
        conditions=numbers,
        feature=list(scenario.names[: scenario.num_modelled]),
    )


@torch.no_grad()
def codes(config: Config, scenario: Scenario, study: pg.Study, lost: xr.DataArray) -> xr.Dataset:
    """The two latent dimensions of most rate, of the first retraining of each model, for none and half given."""
    x, labels = scenario.test.x[:400].to(config.device), scenario.test.labels[:400]
    numbers = numbers_of_conditions(scenario.num_modelled, config.mask != "none")
    found = []
    for name in study.models:
        model = first_fitted(study, lost, name).requires_grad_(False)
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


def greedy(config: Config, scenario: Scenario, study: pg.Study, lost: xr.DataArray) -> xr.Dataset:
    """Features in the order in which they were chosen as conditions, and the ELBO after each; first retrainings."""
    x = scenario.test.x[: min(config.rows, 200)].to(config.device)
    x = x[~x.isnan().any(1)]
    found = [
        pg.masks.greedy_conditions(model, x, scenario.num_modelled - 1, config.samples // 10 or 1)
        for model in (first_fitted(study, lost, name).requires_grad_(False) for name in study.models)
    ]
    order = [[scenario.names[column] for column in each.columns] for each in found]
    return xr.Dataset(
        {"feature": (("model", "step"), order), "elbo": (("model", "given"), [each.elbo for each in found])},
        {"model": list(study.models)},
    )


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: distances, scores by the number of conditions, codes, images, greedy conditions."""
    scenario = scenario_of(config)
    models, measures = specs_of(config, scenario), measures_of(config, scenario)
    study = config.study(folder, scenario.train, scenario.test, models, measures)
    distances = config.run(study).drop_vars(["energy", "euclidean_latent"])
    groups = {
        "distances": distances,
        "curves": curves(config, scenario, study, distances.lost),
        "codes": codes(config, scenario, study, distances.lost),
    }
    if scenario.image:
        groups["images"] = completions(config, scenario, study, distances.lost)
    if config.mask != "none" and 2 < scenario.num_modelled <= 12:
        groups["greedy"] = greedy(config, scenario, study, distances.lost)
    return groups


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


def report(groups: Groups) -> Shown:
    """Tables of scores, of conditions and of distances; codes, curves and images."""
    found, distances = groups["curves"], groups["distances"]
    table = table_of(found)
    print(table.to_string(float_format="{:.3f}".format))
    print(
        "Means over test rows and retrainings, nats per row. conditions: features given, at random. informative: "
        "latent dimensions\nof more than 0.1 nats, sorted in each row. error: squared, of a feature that is not given, "
        "imputed by the model, by the\ntraining mean, by the oracle. frechet: of samples and data, given features too."
    )
    tell_lost(distances)
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
        shown = groups["images"]
        images = shown.images.values
        figures["images"] = panels(images, shown.attrs["shape"], images.shape[1], shown.line.values)
    return {"table": table}, figures


def comparison(folders: Sequence[Path]) -> Shown:
    """One table and one rate-distortion figure of several results."""
    rows, runs = [], {}
    for each in folders:
        found = load_result(each / "conditional.nc", Config)["curves"]
        runs[each.name] = found
        config = config_of(found)
        means = table_of(found).groupby("model", sort=False).mean()
        rows.append(means.assign(run=each.name, network=config["network"], epochs=config["epochs"]).reset_index())
    table = pd.concat(rows).set_index(["run", "network", "epochs", "model"])
    print(table.drop(columns="informative").to_string(float_format="{:.3f}".format))
    print("Means over all numbers of conditions.")
    return {"compare": table}, {"compare": trade_off_figure(runs)}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    with told():
        config = parsed(Config, QUICK, PRESETS, arguments)
        if config.compare:
            write(*comparison(config.compare), folder_of(config, "conditional-compare"), "conditional")
        else:
            carry_out(config, compute, report)


if __name__ == "__main__":
    main()
