"""Models that plain PyTorch trained, as a course has them, and nothing of this package in their code: are they stable?

Convolutions, batch normalisation, a decoder that returns a distribution; several trainings, audited by ten lines.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import xarray as xr
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

import probgeo as pg
from experiments.common.maps import label_names, labelled, some_rows
from experiments.common.options import Output, Retrained
from experiments.common.results import Groups, Shown, convergence, run


@dataclass(frozen=True)
class Config(Output):
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

    least: ClassVar = Retrained.least


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


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time."""
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
        groups["latent"] = labelled(view, digits.labels[rows], digits.label_names)
    return groups


def report(groups: Groups) -> Shown:
    """The table of the audit; a histogram and the map."""
    dataset = groups["distances"]
    summary = pg.identifiability.summary(pg.study.with_ambient_distances(dataset))
    print(summary)
    print(convergence(dataset.status.sel(measure=["geodesic", "fisher-rao"])))
    figures = {"cv": pg.plots.cv_histogram(dataset.distance)}
    if "latent" in groups:
        view = groups["latent"]
        paths, names = view.path.values, label_names(view)
        figures["latent"] = pg.plots.latent(view.codes.values, view.label.values, names, paths=paths)
    return {"table": summary}, figures


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, arguments=arguments)


if __name__ == "__main__":
    main()
