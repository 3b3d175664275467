"""What the conditional experiment needs: scenarios of data, conditions to look at, scores and images of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

import probgeo as pg
from experiments.common.images import in_bytes
from experiments.common.lost import first_fitted
from probgeo.datasets import Dataset
from probgeo.likelihoods import Likelihood

sets = pg.datasets
Scene = Literal[
    "gaussians",
    "swiss-roll",
    "s-curve",
    "circles",
    "two-moons",
    "blobs",
    "digits",
    "mnist",
    "coloured-digits",
    "coloured-mnist",
    "table",
]
_SHAPES = {
    "swiss-roll": sets.swiss_roll,
    "s-curve": sets.s_curve,
    "circles": sets.circles,
    "two-moons": sets.two_moons,
    "blobs": sets.blobs,
}
_IMAGES = ("digits", "mnist", "coloured-digits", "coloured-mnist")


@dataclass(frozen=True, eq=False)
class Scenario:
    """Data with their likelihood, and what is known of them.

    Args:
        train: rows to train on, covariates in the last columns.
        test: rows to judge by.
        likelihood: of the modelled features.
        num_covariates: how many of the last columns are covariates.
        names: of the columns.
        image: shape of the modelled features, where they are images.
        covariance: of the features, where they are Gaussian with mean zero.
    """

    train: Dataset
    test: Dataset
    likelihood: Likelihood
    num_covariates: int
    names: tuple[str, ...]
    image: tuple[int, ...] | None = None
    covariance: Float[Tensor, "feature feature"] | None = None

    @property
    def num_modelled(self) -> int:
        return self.train.x.shape[1] - self.num_covariates


def scenario_of(config: Any) -> Scenario:
    """The scenario that a configuration describes."""
    if config.scenario == "gaussians":
        return _gaussians(config)
    if config.scenario in _IMAGES:
        return _images(config)
    if config.scenario == "table":
        return _table(config)
    data = _SHAPES[config.scenario](config.points, seed=0)
    if config.project_to:
        data = sets.projected(data, config.project_to)
    elif config.scenario == "swiss-roll":
        data = sets.with_radius(data)
    names = [f"x{column + 1}" for column in range(data.x.shape[1])]
    return _split(config, data, pg.Gaussian(config.std), names, normalised=True)


def _gaussians(config: Any) -> Scenario:
    options = {"dimension": config.dimension, "correlated": config.correlated, "project_to": config.project_to}
    train, test = (sets.gaussians(points, seed=seed, **options) for seed, points in enumerate((config.points, 1000)))
    covariance = sets.gaussian_covariance(config.dimension, config.correlated)
    assert train.immersion is not None
    projected = train.immersion(torch.eye(config.dimension, dtype=torch.float64))
    return Scenario(
        train=train,
        test=test,
        likelihood=pg.Gaussian(config.std),
        num_covariates=0,
        names=tuple(f"x{column + 1}" for column in range(train.x.shape[1])),
        covariance=projected.T @ covariance @ projected,
    )


def _images(config: Any) -> Scenario:
    coloured = config.scenario.startswith("coloured-")
    if config.scenario.endswith("mnist"):
        whole = sets.mnist()
        parts = [whole.rows(torch.arange(min(config.points, len(whole)))), sets.mnist(train=False)]
    else:
        parts = list(sets.digits().split(0.8))
    shape, columns = parts[0].shape, []
    for number, part in enumerate(parts):
        if coloured:
            parts[number], colours = sets.coloured(part, seed=number)
            shape = parts[number].shape
            columns.append(colours)
        elif config.labels:
            columns.append(torch.nn.functional.one_hot(part.labels, len(part.label_names)).float())
    names = list(sets.COLOURS) if coloured else list(parts[0].label_names) if config.labels else []
    wholes = [sets.with_columns(part, more) for part, more in zip(parts, columns, strict=True)] if columns else parts
    num_pixels = parts[0].x.shape[1]
    return Scenario(
        train=wholes[0],
        test=wholes[1],
        likelihood=pg.likelihoods.Bernoulli(),
        num_covariates=len(names),
        names=(*(f"pixel {number}" for number in range(num_pixels)), *names),
        image=shape,
    )


def _table(config: Any) -> Scenario:
    if config.path is None:
        raise ValueError("path: expected a .csv or .tsv file for the scenario 'table'; got none.")
    found = sets.table(config.path, labels=config.label_column)
    columns = found.columns or ()
    names = [column.name for column in columns]
    return _split(config, found, pg.likelihoods.table_likelihood(columns), names, normalised=False)


def _split(config: Any, data: Dataset, likelihood: Likelihood, names: Sequence[str], normalised: bool) -> Scenario:
    train, test = data.split(0.8)
    if normalised:
        train = train.normalised()
        test = test.normalised(train.normalisation)
    if config.labels:
        train, test, names = sets.with_labels(train), sets.with_labels(test), (*names, *data.label_names)
    return Scenario(train, test, likelihood, len(data.label_names) if config.labels else 0, tuple(names))


def numbers_of_conditions(num_modelled: int, masked: bool) -> list[int]:
    """How many conditions are looked at: all numbers of few features, seven steps of many, none without masks."""
    if not masked:
        return [0]
    if num_modelled <= 10:
        return list(range(num_modelled + 1))
    return [round(share * num_modelled / 6) for share in range(7)]


def masks(scenario: Scenario, x: Float[Tensor, "row column"], num: int) -> Bool[Tensor, "row column"]:
    """Masks of so many random conditions per row, fewer where values are missing; covariates are no part of it."""
    mask = torch.zeros(x.shape, dtype=torch.bool)
    mask[:, : scenario.num_modelled] = pg.masks.random_conditions(len(x), scenario.num_modelled, num, seed=0)
    return mask & ~x.isnan()


def given_conditions(scenario: Scenario, masked: bool) -> dict[str, dict[int, float]]:
    """Conditions under which distances are measured, by name: values by column."""
    x, first = scenario.train.x, scenario.num_modelled
    if scenario.num_covariates:
        columns = range(first, x.shape[1])
        return {
            f"given {scenario.names[one]}": {column: float(column == one) for column in columns}
            for one in list(columns)[:3]
        }
    if not masked:
        return {}
    if scenario.image:
        rows = [int((scenario.test.labels == label).nonzero()[0]) for label in (0, 1)]
        half = range(first // 2)
        return {
            f"given half a {scenario.test.label_names[label]}": {
                column: float(scenario.test.x[row, column]) for column in half
            }
            for label, row in enumerate(rows)
        }
    values = x[:, 0][~x[:, 0].isnan()]
    low, middle, high = (float(values.quantile(q)) for q in (0.1, 0.5, 0.9))
    found = {f"given {scenario.names[0]} = {value:.2g}": {0: value} for value in (low, middle, high)}
    if first > 2:
        known = x[:, 1][~x[:, 1].isnan()]
        found["given two"] = {0: middle, 1: float(known.quantile(0.5))}
    return found


def oracle(scenario: Scenario, x: Tensor, mask: Tensor) -> Tensor | None:
    """E[x_u | x_o] of a Gaussian of known covariance C: C_uo C_oo⁺ x_o, row by row; None where it is not known."""
    if scenario.covariance is None:
        return None
    found, C = x.double().clone(), scenario.covariance
    for row, given in enumerate(mask):
        weights = C[~given][:, given] @ torch.linalg.pinv(C[given][:, given], hermitian=True)
        found[row, ~given] = weights @ x[row, given].double()
    return found.to(x)


@torch.no_grad()
def scores(
    model: Any, scenario: Scenario, x: Tensor, labels: Tensor, num: int, features: Any, samples: int
) -> dict[str, Any]:
    """What one model makes of rows given `num` random conditions each: everything per row, where not said otherwise.

    Args:
        model: fitted `ConditionalVAE`.
        scenario: of the data.
        x: test rows.
        labels: their classes.
        num: conditions per row.
        features: map of `frechet_distance`; None for the features themselves.
        samples: importance samples.
    """
    mask, modelled = masks(scenario, x, num), slice(scenario.num_modelled)
    rate, distortion = model.rate(x, mask), model.distortion(x, mask, samples // 10 or 1)
    hidden = (~mask & ~x.isnan())[:, modelled]
    completed = model.impute(x, mask, samples)
    drawn = model.means(x, mask)[0] if scenario.image else model.sample(x, mask)[0, :, modelled]
    complete = ~x[:, modelled].isnan().any(1)
    found: dict[str, Any] = {
        "rate": rate.mean(0).sort(descending=True).values,
        "rate_by_row": rate.sort(1, descending=True).values.mean(0),
        "distortion": distortion.nansum(1).mean(),
        "distortion_per_feature": distortion[:, modelled].nanmean(0),
        "log_likelihood": model.log_likelihood(x, mask, samples).mean(),
        "frechet": pg.sample_quality.frechet_distance(drawn[complete], x[complete, modelled], features),
    }
    found["elbo"] = -found["distortion"] - found["rate"].sum()
    guesses = {
        "imputed": completed,
        "mean": scenario.train.x.nanmean(0).expand_as(x),
        "oracle": oracle(scenario, x, mask),
    }
    for name, guess in guesses.items():
        if guess is not None and hidden.any():
            found[f"error_{name}"] = (guess - x)[:, modelled][hidden].square().mean()
    if scenario.image:
        sharpness = pg.sample_quality.blur(drawn, scenario.image)
        found["blur"] = sharpness.mean()
        classes = labels.unique()
        found["blur_by_class"] = torch.stack([sharpness[labels == label].mean() for label in classes])
        found["frechet_by_class"] = torch.tensor(
            [
                pg.sample_quality.frechet_distance(drawn[labels == label], x[labels == label][:, modelled], features)
                for label in classes
            ]
        )
    return found


def as_dataset(found: Mapping[str, Any]) -> xr.Dataset:
    """The scores of one model and number of conditions, labelled."""
    dims = {"rate": "latent", "rate_by_row": "latent", "distortion_per_feature": "feature"}
    dims |= {"blur_by_class": "class", "frechet_by_class": "class"}
    return xr.Dataset(
        {name: ((dims[name],), value.cpu().numpy()) if name in dims else float(value) for name, value in found.items()}
    )


@torch.no_grad()
def completions(config: Any, scenario: Scenario, study: pg.Study, lost: xr.DataArray, num: int = 10) -> xr.Dataset:
    """Images of test rows, what is given of them, and samples of the rest, of each model's first retraining."""
    assert scenario.image is not None
    rows = torch.stack([(scenario.test.labels == label).nonzero()[0, 0] for label in range(num)])
    x = scenario.test.x[rows].to(config.device)
    numbers = numbers_of_conditions(scenario.num_modelled, config.mask != "none")
    kept = [numbers[1], numbers[3]] if len(numbers) > 1 else [0]
    columns, found = slice(scenario.num_modelled), []
    for name in study.models:
        model = first_fitted(study, lost, name).requires_grad_(False)
        for number in kept:
            mask = masks(scenario, x, number)
            shown = torch.where(mask, x, 0.5)[None, :, columns] if number else x[None, :0, columns]
            found.append(torch.cat([shown, model.means(x, mask, 3)]) if number else model.means(x, mask, 4))
    images = torch.stack(found).unflatten(0, (len(study.models), len(kept)))
    values = in_bytes(torch.cat([x[None, :, columns], images.flatten(0, 2)]))
    per_condition = ["given", "sample", "sample", "sample"] if len(numbers) > 1 else ["sample"] * 4
    names = [f"{model} {text}" for model in study.models for _ in kept for text in per_condition]
    return xr.Dataset(
        {"images": (("line", "image", "feature"), values)}, {"line": ["data", *names]}, {"shape": list(scenario.image)}
    )
