"""Trains one model and leaves a folder that `probgeo.load` turns back into it.

Prints the evidence lower bound, its terms and the reconstruction error on training and held-out rows; draws the
training curves and, for images, reconstructions. Run again, it resumes.
"""

import dataclasses
import importlib
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pandas as pd
import seaborn as sns
import torch
import xarray as xr
from matplotlib.figure import Figure

import probgeo as pg
from experiments.common.data import observations
from experiments.common.decoders import Source, decoders
from experiments.common.images import in_bytes, panels
from experiments.common.options import Trained
from experiments.common.results import Groups, Shown, run
from probgeo.datasets import Dataset
from probgeo.training.objective import ELBO, noise_shapes, random_noise
from probgeo.training.options import Report

LIKELIHOODS = {
    "gaussian": pg.Gaussian,
    "heteroscedastic-gaussian": pg.HeteroscedasticGaussian,
    "laplace": pg.likelihoods.Laplace,
    "bernoulli": pg.likelihoods.Bernoulli,
    "continuous-bernoulli": pg.likelihoods.ContinuousBernoulli,
}
OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


@dataclass(frozen=True)
class Config(Trained):
    """Train one model: its folder, a table on held-out rows, the training curves."""

    preset: Literal["cifar10", "celeba"] | None = None
    """Settings for a data set; other options still override it."""
    dataset: str = "digits"
    """digits (bundled), mnist, fashion_mnist, cifar10, cifar100, svhn, celeba, imagenette, tasic, a synthetic set such
    as two_moons, or the path of a folder of images."""
    size: int = 64
    """Height and width to which celeba, imagenette and folders of images are resized."""
    classes: tuple[int, ...] = ()
    """Class codes to keep; none for all."""
    per_class: int | None = None
    """Rows drawn from each class, for a balanced subset; all by default."""
    normalise: bool = False
    """Normalise x, per channel of an image or per feature; pictures are shown as they were."""
    latent: int = 2
    """Dimension of the latent space."""
    decoder: Source = "single"
    """Source of the decoder's uncertainty."""
    members: int = 10
    """Decoders of an ensemble, or draws of a sampled decoder."""
    network: Literal["mlp", "residual", "dense-net", "convolutional", "resize-convolutional"] = "mlp"
    """Kind of encoder and decoders; convolutional ones are for images."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers, all equal in residual networks and dense nets; channels of convolutional ones, from
    the image inwards."""
    likelihood: Literal["gaussian", "heteroscedastic-gaussian", "laplace", "bernoulli", "continuous-bernoulli"] = (
        "gaussian"
    )
    """Distribution of an observation given the decoder's output."""
    beta: float = 1.0
    """Weight of the divergence KL(q ‖ p) in the objective."""
    beta_warmup: int = 0
    """Epochs over which beta rises from 0."""
    optimizer: Literal["adam", "adamw", "adamax", "sgd", "rmsprop"] = "adam"
    """The optimiser."""
    learning_rate: float = 2e-3
    """Its step size."""
    weight_decay: float = 0.0
    """Its weight decay."""
    schedule: Literal["constant", "cosine", "piecewise"] = "constant"
    """The learning rate over the epochs; piecewise: a tenth after half of them, a hundredth after three quarters."""
    warmup: int = 0
    """Epochs over which the learning rate rises before the schedule begins."""
    max_gradient_norm: float | None = None
    """Longer gradients are scaled down to this norm; never by default."""
    epochs: int = 100
    """Passes over the data."""
    validation: float = 0.1
    """Share of the training rows that chooses the best epoch; 0: the last epoch is kept, and x is not copied."""
    patience: int | None = None
    """Stop after this many epochs that are not better on the validation rows; never by default."""
    seed: int = 0
    """Of weights, order of the data, and noise."""
    log: Literal["none", "tensorboard", "wandb"] = "none"
    """Where every epoch is logged to as well; tensorboard or wandb must be installed."""


QUICK = {"epochs": 20}
_IMAGES = Config(
    network="resize-convolutional",
    hidden=(32, 64, 128),
    latent=32,
    optimizer="adamw",
    learning_rate=1e-3,
    schedule="cosine",
    warmup=2,
    batch_size=128,
    epochs=50,
)
PRESETS = {name: dataclasses.replace(_IMAGES, preset=name, dataset=name) for name in ("cifar10", "celeba")}


def data_of(config: Config) -> tuple[Dataset, Dataset]:
    """The rows to train on and the rows held out: the published test set, or a tenth."""
    resized: dict[str, Any] = {"celeba": pg.datasets.celeba, "imagenette": pg.datasets.imagenette}
    if config.dataset in resized:
        train, held_out = (resized[config.dataset](train=part, size=config.size) for part in (True, False))
    elif Path(config.dataset).is_dir():
        train = held_out = pg.datasets.image_folder(config.dataset, config.size)
    else:
        train, held_out = observations(config.dataset)
    classes = config.classes or None
    if held_out is train:
        train, held_out = train.subset(classes, config.per_class).split(0.9)
    elif classes or config.per_class:  # else x stays as it is, perhaps mapped from a file
        train, held_out = train.subset(classes, config.per_class), held_out.subset(classes)
    if config.normalise:
        train = train.normalised()
        held_out = held_out.normalised(train.normalisation)
    return train, held_out


def spec_of(config: Config, shape: tuple[int, ...]) -> pg.VAE:
    """The model that a configuration describes, of observations of this shape."""
    width, depth = max(config.hidden, default=1), len(config.hidden)
    if config.network.endswith("convolutional") and len(shape) < 2:
        raise ValueError(f"network: convolutional networks are for images; the rows here are vectors of {shape[0]}.")
    kinds: dict[str, Any] = {
        "mlp": lambda: pg.nn.MLP(config.hidden),
        "residual": lambda: pg.nn.Residual(width, depth),
        "dense-net": lambda: pg.nn.DenseNet(width, depth),
        "convolutional": lambda: pg.nn.Convolutional(shape, config.hidden),
        "resize-convolutional": lambda: pg.nn.ResizeConvolutional(shape, config.hidden),
    }
    network = kinds[config.network]()
    beta = pg.Warmup(config.beta_warmup, stop=config.beta) if config.beta_warmup else config.beta
    # Some sources need perceptrons, and complain of other networks: so only the one that is asked for gets them.
    try:
        decoder = dataclasses.replace(decoders(pg.nn.MLP(), config.members)[config.decoder], network=network)
    except TypeError as error:
        raise ValueError(
            f"decoder, network: {config.decoder} and {config.network} do not go together; {error}"
        ) from error
    return pg.VAE(config.latent, decoder, LIKELIHOODS[config.likelihood](), encoder=network, beta=beta)


def training_of(config: Config) -> pg.Training:
    """How it is trained."""
    half = max(1, config.epochs // 2)
    schedule: Any = {
        "constant": None,
        "cosine": pg.schedules.Cosine(),
        "piecewise": pg.schedules.Piecewise((half, max(half + 1, 3 * config.epochs // 4)), (0.1, 0.01)),
    }[config.schedule]
    return config.training(
        optimizer=OPTIMIZERS[config.optimizer],
        optimizer_options={"weight_decay": config.weight_decay},
        max_gradient_norm=config.max_gradient_norm,
        validation=config.validation,
        patience=config.patience,
        schedule=pg.schedules.LinearWarmup(config.warmup, schedule) if config.warmup else schedule,
    )


@torch.no_grad()
def scores(
    model: Any, data: Dataset, num_rows: int, device: str, num_samples: int = 10, seed: int = 0
) -> dict[str, float]:
    """The evidence lower bound and its terms, nats per row, and the squared error of E[x | z] at the mean of q(z | x).

    Args:
        model: fitted model.
        data: rows to judge it by.
        num_rows: rows that it was trained on, which share the divergence of a decoder's own posterior.
        device: where the model is.
        num_samples: samples z ~ q(z | x) per row.
        seed: of the samples.
    """
    elbo, beta, totals = ELBO(model, num_rows), torch.ones(model.spec.latent, device=device), torch.zeros(3)
    for begin in range(0, len(data), 500):
        x = data.x[begin : begin + 500].to(device)
        noise = random_noise([seed], num_samples, noise_shapes(model, x), "scores", begin)
        for sample in range(num_samples):
            terms = elbo(x, {name: value[0, sample].to(x) for name, value in noise.items()}, beta)
            totals[:2] += len(x) / num_samples * torch.stack([terms["log_likelihood"], terms["kl"]]).cpu()
        totals[2] += len(x) * (data.original(x) - data.original(model.reconstruct(x))).square().mean().cpu()
    log_likelihood, kl, squared_error = (totals / len(data)).tolist()
    return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl, "squared_error": squared_error}


def _installed(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"log: {package} is not installed; pip install {package}, or leave --log out.") from error


@contextmanager
def log_of(config: Config, folder: Path) -> Iterator[Report | None]:
    """What logs every epoch to the logger that the configuration names; None for none.

    Raises:
        ValueError: the logger is not installed.
    """
    if config.log == "tensorboard":
        writer = _installed("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

        def to_tensorboard(seed: int, epoch: int, terms: dict[str, float]) -> None:
            for name, value in terms.items():
                if math.isfinite(value):
                    writer.add_scalar(name, value, epoch)

        try:
            yield to_tensorboard
        finally:
            writer.close()
    elif config.log == "wandb":
        wandb = _installed("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        options = json.loads(json.dumps(dataclasses.asdict(config), default=str))
        logged = wandb.init(project="probgeo", dir=str(folder), config=options)
        try:
            yield lambda seed, epoch, terms: logged.log(terms, step=epoch)
        finally:
            logged.finish()
    else:
        yield None


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: the model, which is left in the folder, its scores and its images."""
    data, held_out = data_of(config)
    spec, x = spec_of(config, data.shape), data.x.to(config.device)
    with log_of(config, folder) as report:
        trained = folder / "training"
        (model,) = pg.fit(spec, x, [config.seed], training=training_of(config), folder=trained, report=report)
    shutil.copytree(trained / f"seed-{config.seed}", folder, dirs_exist_ok=True)
    model.requires_grad_(False)
    rows = {"training": data, "held out": held_out}
    table = pd.DataFrame({name: scores(model, part, len(data), config.device) for name, part in rows.items()}).T
    groups: dict[str, Any] = {
        "scores": xr.Dataset.from_dataframe(table.rename_axis("rows")).assign_attrs(
            num_parameters=sum(value.numel() for value in model.parameters()), num_rows=[len(data), len(held_out)]
        ),
        "history": model.history,
    }
    if len(data.shape) > 1:
        images = held_out.x[:12].to(config.device)
        shown = in_bytes(held_out.original(torch.cat([images, model.reconstruct(images)])))
        groups["images"] = xr.Dataset({"images": (("image", "feature"), shown)}, attrs={"shape": list(data.shape)})
    print(f"model: probgeo.load({str(folder)!r})")
    return groups


def curves(history: xr.Dataset) -> Figure:
    """Evidence lower bound, its terms and the gradient's norm over the epochs; a dotted line where a phase begins."""
    figure = Figure(figsize=(10.5, 2.8), layout="constrained")
    panels = {"ELBO": "elbo", "log likelihood": "log_likelihood", "KL(q ‖ p)": "kl", "gradient norm": "gradient_norm"}
    history = history.assign(
        elbo=history.log_likelihood - history.kl,
        validation_elbo=history.validation_log_likelihood - history.validation_kl,
    )
    phases = history.phase.values
    begins = [epoch for epoch in range(1, len(phases)) if phases[epoch] != phases[epoch - 1]]
    for axes, (title, name) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for variable, label in ((name, "training"), (f"validation_{name}", "validation")):
            if variable in history and history[variable].notnull().any():
                axes.plot(history.epoch + 1, history[variable], label=label, linewidth=1.5)
        for epoch in begins:
            axes.axvline(epoch + 0.5, color="0.6", linestyle=":", linewidth=1)
        axes.set_title(title if name == "gradient_norm" else f"{title}, nats per row", fontsize=9)
        axes.set_xlabel("epoch", fontsize=9)
        axes.tick_params(labelsize=8)
        sns.despine(ax=axes)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def report(groups: Groups) -> Shown:
    """Scores of training and held-out rows; curves of the training, and images with their means."""
    table = groups["scores"].to_dataframe().loc[["training", "held out"]]
    print(table.to_string(formatters=dict.fromkeys(table, "{:.4f}".format)))
    counts = groups["scores"].attrs["num_rows"]
    print(
        f"Means over {counts[0]} training and {counts[1]} held-out rows. elbo = log_likelihood − kl, nats per row; "
        "squared_error: per feature, of E[x | z]\nat the mean of q(z | x), in the units of the data. "
        f"{groups['scores'].attrs['num_parameters']} parameters, {groups['history'].sizes['epoch']} epochs."
    )
    figures = {"curves": curves(groups["history"])}
    if "images" in groups:
        images, shape = groups["images"].images.values, groups["images"].attrs["shape"]
        figures["images"] = panels(images, shape, len(images) // 2, ["held out", "mean"])
    return {"table": table}, figures


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
