"""What the solvers are given: decoder ensembles, pairs of latent points, encodings."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

import probgeo as pg
from experiments.benchmarks.splines import spline
from probgeo.nn import Stacked

PUBLISHED_TIMES = 2000  # at which the published energy is a sum


@dataclass(frozen=True)
class Problem:
    """Paths of least energy between `start` and `stop` under an ensemble.

    Args:
        members: the ensemble, z (*batch, latent) -> (member, *batch, observation), its weights frozen.
        start: first points.
        stop: last points.
        encodings: latent points of data.
        published: optima of the published optimiser, at uniform times, where a file brings them.
    """

    members: Stacked
    start: Float[Tensor, "pair latent"]
    stop: Float[Tensor, "pair latent"]
    encodings: Float[Tensor, "point latent"]
    published: Float[Tensor, "pair time latent"] | None = None

    def first(self, num_pairs: int) -> "Problem":
        """The same with its first pairs only."""
        published = None if self.published is None else self.published[:num_pairs]
        return replace(self, start=self.start[:num_pairs], stop=self.stop[:num_pairs], published=published)

    def with_members(self, num_members: int) -> "Problem":
        """The same with the first members of the ensemble only."""
        return replace(self, members=frozen([self.members.member(index) for index in range(num_members)]))

    def with_random_pairs(self, num_pairs: int) -> "Problem":
        """The same between random encodings, no two of a pair equal."""
        generator = torch.Generator().manual_seed(0)
        first = torch.randint(len(self.encodings), (num_pairs,), generator=generator)
        shift = torch.randint(1, len(self.encodings), (num_pairs,), generator=generator)
        second = (first + shift) % len(self.encodings)
        return replace(self, start=self.encodings[first], stop=self.encodings[second], published=None)


def frozen(modules: Sequence[nn.Module]) -> Stacked:
    """The modules as one whose weights take no part in differentiation: solvers differentiate by the path alone."""
    return Stacked(modules).requires_grad_(False)


def trained_ensemble(
    dataset: str, folder: Path, latent: int, num_members: int, width: int, epochs: int, num_pairs: int
) -> Problem:
    """An ensemble fitted to a dataset, pairs of its codes; what `folder` holds already is not trained again.

    Args:
        dataset: as `probgeo.datasets.load` names it.
        folder: where the training is kept, one subfolder per configuration.
        latent: dimension of the latent space.
        num_members: decoders of the ensemble.
        width: units in each of the two hidden layers.
        epochs: passes over the data.
        num_pairs: random pairs of observations.
    """
    data = pg.datasets.load(dataset)
    network = pg.nn.MLP(hidden=(width, width))
    spec = pg.VAE(latent, pg.EnsembleDecoder(num_members, network), pg.Gaussian(), encoder=network)
    place = folder / f"{dataset}-latent{latent}-members{num_members}-width{width}-epochs{epochs}"
    training = pg.Training(epochs=epochs, batch_size=64, learning_rate=2e-3)
    model = pg.fit(spec, data.x, training=training, folder=place)[0]
    with torch.no_grad():
        codes = model.encode(data.x).mean
    pairs = pg.sample_pairs(data.labels, num_pairs=num_pairs, seed=0)
    return Problem(model.draws().requires_grad_(False), codes[pairs[:, 0]], codes[pairs[:, 1]], codes)


def stored_ensemble(file: Path) -> Problem:
    """The ensemble of an npz file: perceptrons with ReLU between their layers.

    Args:
        file: a path, or a path below $PROBGEO_DATA. Arrays: `decoder.I.decoder_net.K.weight` and `.bias` of member I,
            layer K; pairs `a`, `b` (pair, latent); `encodings` or `latents_surrogate` (point, latent). Optional, the
            published optimiser's result: `basis` (coefficient, parameter), `euclidean_omega_optimized`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an array is missing.
    """
    root = os.environ.get("PROBGEO_DATA")
    place = Path(root) / file if root and not file.exists() else file
    if not place.exists():
        below = f"below PROBGEO_DATA={root}" if root else "PROBGEO_DATA is not set"
        raise FileNotFoundError(f"--ensemble: no file {file} ({below}).")
    with np.load(place, allow_pickle=False) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files if stored[name].dtype.kind == "f"}
    layers = [re.fullmatch(r"decoder\.(\d+)\.decoder_net\.(\d+)\.weight", name) for name in arrays]
    places = sorted({(int(found[1]), int(found[2])) for found in layers if found})
    codes = next((name for name in ("encodings", "latents_surrogate") if name in arrays), "encodings")
    biases = [f"decoder.{i}.decoder_net.{k}.bias" for i, k in places]
    missing = [name for name in ("a", "b", codes, *biases) if name not in arrays]
    if missing or not places:
        what = ", ".join(missing) or "decoder.I.decoder_net.K.weight"
        raise ValueError(f"--ensemble: {place} lacks the floating-point arrays {what}.")
    members = [
        _perceptron(arrays, [f"decoder.{i}.decoder_net.{k}" for i, k in places if i == member])
        for member in sorted({i for i, _ in places})
    ]
    problem = Problem(frozen(members), arrays["a"], arrays["b"], arrays[codes])
    if {"basis", "euclidean_omega_optimized"} <= arrays.keys():
        ends = problem.start.double(), problem.stop.double()
        path = spline(*ends, arrays["basis"].double(), arrays["euclidean_omega_optimized"].double(), PUBLISHED_TIMES)
        problem = replace(problem, published=path)
    return problem


def _perceptron(arrays: dict[str, Tensor], names: list[str]) -> nn.Sequential:
    widths = [arrays[f"{names[0]}.weight"].shape[1], *(len(arrays[f"{name}.bias"]) for name in names)]
    network = pg.nn.mlp(widths, nn.ReLU)
    for name, layer in zip(names, (part for part in network if isinstance(part, nn.Linear)), strict=True):
        layer.load_state_dict({"weight": arrays[f"{name}.weight"], "bias": arrays[f"{name}.bias"]})
    return network
