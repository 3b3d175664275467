"""Models that plain PyTorch trained, as a course has them, and nothing of this package in their code: are they stable?

Convolutions, batch normalisation, a decoder that returns a distribution; several trainings, audited by ten lines.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

import probgeo as pg
from experiments.common.maps import some_rows
from experiments.common.options import check_retrainings, parsed
from experiments.common.results import carried_out, load_result, run, save_result


@dataclass(frozen=True)
class Config:
    """Audit VAEs of plain PyTorch on 8 × 8 digits: which distances between images survive retraining?"""

    latent: int = 2
    """Dimension of the latent space; the map is drawn of two dimensions only."""
    retrainings: int = 5
    """Trainings, with seeds 0, 1, 2, ..."""
    pairs: int = 50
    """Random pairs of images whose distances are measured."""
    epochs: int = 40
    """Passes over the data per training."""
    segments: int = 256
    """Segments of a geodesic."""
    out: Path | None = None
    """Output folder; default runs/own_models."""
    result: Path | None = None
    """Compute nothing: print the table and draw the figures of this result file (own_models.nc)."""
    quick: bool = False
    """A tiny version, in a minute on two cores."""

    def __post_init__(self) -> None:
        check_retrainings(self.retrainings)


QUICK = {"retrainings": 3, "pairs": 12, "epochs": 5, "segments": 64}


# --- as a course writes it --------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Images to q(z | x)."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.mean = nn.Linear(128, latent)
        self.log_variance = nn.Linear(128, latent)

    def forward(self, x: Tensor) -> Normal:
        hidden = self.convolutions(x)
        return Normal(self.mean(hidden), torch.exp(self.log_variance(hidden) / 2))


class Decoder(nn.Module):
    """z to p(x | z)."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent, 128),
            nn.ReLU(),
            nn.Unflatten(1, (32, 2, 2)),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor) -> Independent:
        return Independent(Bernoulli(logits=self.layers(z), validate_args=False), 3)


def trained(images: Tensor, latent: int, epochs: int, seed: int) -> tuple[Encoder, Decoder]:
    """A variational autoencoder, trained from one seed."""
    torch.manual_seed(seed)
    encoder, decoder = Encoder(latent), Decoder(latent)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    data = torch.utils.data.TensorDataset(images)
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    for _ in range(epochs):
        for (x,) in loader:
            q = encoder(x)
            z = q.rsample()
            prior = Normal(torch.zeros_like(z), torch.ones_like(z))
            loss = (kl_divergence(q, prior).sum(1) - decoder(z).log_prob(x)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return encoder.eval(), decoder.eval()


# --- the audit --------------------------------------------------------------------------------------------------------


def compute(config: Config, folder: Path) -> None:
    """Everything that takes time, to `own_models.nc`."""
    digits = pg.datasets.digits()
    images = digits.x.view(-1, 1, 8, 8)
    pairs = pg.sample_pairs(digits.labels, num_pairs=config.pairs, seed=0)
    with torch.random.fork_rng():
        trainings = [trained(images, config.latent, config.epochs, seed) for seed in range(config.retrainings)]
    models = [pg.adapters.from_torch(encode=encoder, decode=decoder) for encoder, decoder in trainings]
    solver = pg.GaussNewton(config.segments)
    measures = {
        "geodesic": pg.Geodesic(solver=solver),
        "fisher-rao": pg.Geodesic(pg.study.fisher_rao_metric, solver),
        "straight": pg.StraightLine(num_segments=config.segments),
    }
    dataset = pg.measure({"plain VAE": models}, images, pairs, measures)
    groups = {"distances": dataset}
    if config.latent == 2:
        codes = models[0].encode(images).mean
        rows = some_rows(len(codes), 800)
        start, stop = codes[pairs[:12].T]
        paths = measures["geodesic"].paths(models[0], start, stop, codes).path[:, ::4].numpy()
        view = xr.Dataset(
            {"codes": (("row", "dimension"), codes[rows].numpy()), "path": (("line", "node", "dimension"), paths)}
        )
        view = view.assign(label=("row", digits.labels[rows].numpy()))
        groups["latent"] = view.assign_attrs(label_names=list(digits.label_names))
    save_result(groups, config, folder / "own_models.nc")


def report(result: Path, folder: Path) -> None:
    """Table and figures of a result file; computes nothing."""
    groups = load_result(result)
    dataset = groups["distances"]
    summary = pg.identifiability.summary(pg.study.with_ambient_distances(dataset))
    print(summary)
    solved = dataset.status.sel(measure=["geodesic", "fisher-rao"])
    failed, measured = int((solved > pg.Status.CONVERGED).sum()), int((solved >= 0).sum())
    print(f"geodesics that did not converge: {failed} of {measured}")
    figures = {"cv": pg.plots.cv_histogram(dataset.distance)}
    if "latent" in groups:
        view = groups["latent"]
        names = tuple(np.atleast_1d(view.attrs["label_names"]))
        figures["latent"] = pg.plots.latent(view.codes.values, view.label.values, names, paths=view.path.values)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{result.stem}-table.csv"]
    summary.to_csv(written[0])
    for name, figure in figures.items():
        written += [folder / f"{result.stem}-{name}.png"]
        figure.savefig(written[-1], dpi=150)
    print("wrote", *written)


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, print the table, draw the figures, say where they are."""
    config = parsed(Config, {}, QUICK, arguments)
    if folder := carried_out("own_models", config, compute, report):
        print(f"distances: {folder / 'own_models.nc'}")


if __name__ == "__main__":
    run(main)
