"""What do the models make of observations that they have not seen, and what do they dream up?

Images: held-out observations, their reconstructions E[x | z] and the decoder's standard deviation, samples from the
prior, and the way from one observation to another along a straight latent line and along a geodesic. Numbers: squared
error and log likelihood of the held-out observations, against the mean image of the training data.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from pyro import poutine
from torch import Tensor

import probgeo as pg
from experiments.common.decoders import Source, decoders
from experiments.common.images import in_bytes, panels
from experiments.common.options import Ensemble, Observed, Perceptrons
from experiments.common.results import Groups, Shown, run


@dataclass(frozen=True)
class Config(Perceptrons, Ensemble, Observed):
    """Reconstructions, prior samples and ways between observations, with error and log likelihood on held-out rows."""

    preset: Literal["mnist"] | None = None
    """Settings for a data set; other options still override it."""
    dataset: str = "digits"
    """Images: digits (bundled), mnist, fashion_mnist. A tenth of digits is held out; the others have a test set."""
    latent: int = 2
    """Dimension of the latent space."""
    models: tuple[Source, ...] = ("single", "rbf", "ensemble")
    """Sources of uncertainty to compare. Log likelihoods of nuts and gp are of the network they start from."""
    images: int = 12
    """Images per row of the figure."""
    epochs: int = 100
    segments: int = 128
    """Segments of the geodesic."""
    seed: int = 0
    """Of the training."""

    least: ClassVar = {"images": (2, "between which a way leads")}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models:
            raise ValueError("models: expected at least one; got none.")


QUICK = {"members": 3, "epochs": 20, "segments": 64}
PRESETS = {"mnist": Config(preset="mnist", dataset="mnist", epochs=20, batch_size=256)}
ROWS = ("mean", "std", "prior", "line", "geodesic")


@torch.no_grad()
def log_likelihoods(
    model: Any, x: Float[Tensor, "row feature"], num_draws: int = 10, num_samples: int = 10, seed: int = 0
) -> Float[Tensor, " row"]:
    """log p(x) ≈ log mean of p(x | z, decoder) p(z) / q(z | x) per row, nats; a lower bound in expectation.

    Args:
        model: fitted model.
        x: observations.
        num_draws: draws of the decoder.
        num_samples: samples z ~ q(z | x) per draw; an ensemble's members take turns over them.
        seed: of all draws.

    References:
        Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, eq. 8.
    """
    found = []
    beta = torch.ones(model.spec.latent, dtype=x.dtype, device=x.device)
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for chunk in x.split(500):
            copies, weights = chunk.repeat_interleave(num_samples, 0), []
            for _ in range(num_draws):
                guide = poutine.trace(model.guide).get_trace(copies, beta=beta)
                joint = poutine.trace(poutine.replay(model.model, guide)).get_trace(copies, beta=beta)
                guide.compute_log_prob()
                joint.compute_log_prob()
                log_prob = (joint.nodes[name]["log_prob"].sum(1) for name in ("x", "z"))
                weights.append(sum(log_prob) - guide.nodes["z"]["log_prob"].sum(1))
            weight = torch.stack(weights).unflatten(1, (len(chunk), num_samples))
            found.append(weight.logsumexp((0, 2)) - math.log(num_draws * num_samples))
    return torch.cat(found)


def mean_image_scores(x: Tensor, held_out: Tensor) -> dict[str, float]:
    """Squared error and log likelihood of the mean image of x, under one Gaussian noise for all its pixels."""
    mean = x.mean(0)
    std = (x - mean).square().mean().sqrt()
    log_likelihood = dist.Normal(mean, std).log_prob(held_out).sum(1).mean()
    return {
        "squared_error": float((held_out - mean).square().mean()),
        "log_likelihood": float(log_likelihood),
    }


@torch.no_grad()
def images_of(model: Any, x: Tensor, shown: Tensor, segments: int) -> dict[str, Tensor]:
    """The rows of the figure for one model, (image, feature) each; `line` and `geodesic` join the first two shown."""
    z, num = model.encode(shown).mean, len(shown)
    noise = torch.randn(num, z.shape[1], generator=torch.Generator().manual_seed(0)).to(z)
    solver = pg.GaussNewton(num_segments=segments)
    found = pg.Geodesic(solver=solver).paths(model, z[:1], z[1:2], model.encode(x).mean)
    way = pg.paths.resampled(found.path, torch.ones_like(found.path[:, 1:, 0]), num - 1)[0]
    places = {"mean": z, "prior": noise, "line": pg.paths.Straight(num - 1)(z[:1], z[1:2])[0], "geodesic": way}
    images = {name: model.decode(place) for name, place in places.items()}
    return images | {"std": model.decoder.variance(z, model.spec.likelihood.mean()).sqrt()}


def shown_rows(labels: Tensor, num: int) -> Tensor:
    """Rows to show: the first of each class in turn, then the second of each, ..."""
    turn = torch.stack([(labels[: index + 1] == label).sum() for index, label in enumerate(labels)])
    return torch.argsort(turn * (labels.max() + 1) + labels)[:num]


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: scores, and images as bytes."""
    data, held_out = config.observations()
    if held_out is data:
        data, held_out = data.split(0.9)
    if len(data.shape) < 2:
        raise ValueError(f"dataset: expected images; the rows of {data.name!r} are vectors. Choose digits or mnist.")
    x, unseen = data.x.to(config.device), held_out.x.to(config.device)
    shown = unseen[shown_rows(held_out.labels, config.images)]
    network, training = config.perceptron(), config.training()
    scores, images, largest = {"mean image": mean_image_scores(x, unseen)}, [], []
    for name in config.models:
        spec = pg.VAE(config.latent, decoders(network, config.members)[name], pg.Gaussian(), encoder=network)
        (model,) = pg.fit(spec, x, [config.seed], training=training, folder=folder / "trainings" / name)
        model.requires_grad_(False)
        scores[name] = {
            "squared_error": float((unseen - model.reconstruct(unseen)).square().mean()),
            "log_likelihood": float(log_likelihoods(model, unseen).mean()),
        }
        rows = images_of(model, x, shown, config.segments)
        largest.append(float(rows["std"].max()))
        rows["std"] = rows["std"] / max(largest[-1], torch.finfo(x.dtype).tiny)
        images.append(torch.stack([rows[row] for row in ROWS]))
    frame = pd.DataFrame(scores).T
    found = {
        "scores": xr.Dataset({name: ("model", frame[name].values) for name in frame}, {"model": list(frame.index)}),
        "images": xr.Dataset(
            {
                "shown": (("image", "feature"), in_bytes(shown)),
                "images": (("model", "row", "image", "feature"), in_bytes(torch.stack(images))),
                "largest_std": ("model", largest),
            },
            {"model": list(config.models), "row": list(ROWS)},
            {"shape": list(data.shape)},
        ),
    }
    found["scores"].attrs["num_rows"] = len(unseen)
    return found


def images_figure(dataset: xr.Dataset) -> Figure:
    """Blocks of images: held-out observations with means and standard deviations; prior samples; ways."""
    certain = [str(name) for name in dataset.model.values[dataset.largest_std.values == 0]]
    blocks = [[("mean", ""), ("std", " std")], [("prior", " prior")], [("line", " line"), ("geodesic", " geodesic")]]
    rows, names = [dataset.shown.values], ["held out"]
    for block in blocks:
        for name in map(str, dataset.model.values):
            kinds = [(kind, text) for kind, text in block if not (kind == "std" and name in certain)]
            rows += [dataset.images.sel(model=name, row=kind).values for kind, _ in kinds]
            names += [name + text for _, text in kinds]
    return panels(np.stack(rows), dataset.attrs["shape"], dataset.sizes["image"], names)


def report(groups: Groups) -> Shown:
    """A row per model; the images."""
    scores, images = groups["scores"], groups["images"]
    frame = scores.to_dataframe()
    print(frame.to_string(formatters={"squared_error": "{:.4f}".format, "log_likelihood": "{:.2f}".format}))
    print(
        f"Means over {scores.attrs['num_rows']} held-out rows. squared_error: per pixel, of E[x | z] at the posterior "
        "mean.\nlog_likelihood: nats per row, by importance sampling (100 samples); the mean image's with one Gaussian "
        "noise."
    )
    largest = zip(images.model.values, images.largest_std.values, strict=True)
    print("In the figure, white is a standard deviation of", ", ".join(f"{std:.3g} ({name})" for name, std in largest))
    return {"table": frame}, {"": images_figure(images)}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
