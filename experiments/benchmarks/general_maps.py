"""Geodesics of decoders that no fused kernel knows, in floors: their cost beside one evaluation of all nodes.

Each decoder is solved between the same random pairs, once with the trials that the first use of a metric brings and
then again and again. Where a decoder is a perceptron there is its fused kernel to compare with.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import xarray as xr
from torch import Tensor, nn

import probgeo as pg
from experiments.benchmarks.alone import run
from experiments.benchmarks.held_out import floor_seconds, processor_seconds
from experiments.common.options import Output
from experiments.common.results import Groups

Maker = Callable[[int], Sequence[Any]]

SPREAD = 3**0.5  # by which initial weights are multiplied, so that the maps bend


class Attention(nn.Module):
    """Four tokens that attend to each other."""

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.tokens, self.mixed, self.out = nn.Linear(latent, 64), nn.Linear(16, 48), nn.Linear(64, 50)

    def forward(self, z: Tensor) -> Tensor:
        """Outputs of points."""
        tokens = self.tokens(z).unflatten(-1, (4, 16))
        query, key, value = self.mixed(tokens).chunk(3, dim=-1)
        weights = torch.softmax(query @ key.mT / 4, dim=-1)
        return self.out((tokens + weights @ value).flatten(-2))


class Isometry(nn.Module):
    """2√p of probabilities."""

    def forward(self, p: Tensor) -> Tensor:
        """Of each."""
        return 2 * p.clamp_min(1e-12).sqrt()


def perceptron(latent: int, width: int, norm: bool = False) -> nn.Module:
    """Two hidden layers, with layer norms or without."""
    norms = [[nn.LayerNorm(width)] if norm else [] for _ in range(2)]
    first = [nn.Linear(latent, width), *norms[0], nn.SiLU(), nn.Linear(width, width), *norms[1], nn.SiLU()]
    return nn.Sequential(*first, nn.Linear(width, 50))


def convolutions(latent: int, width: int) -> nn.Module:
    """Two transposed convolutions to 16 × 16 pixels."""
    return nn.Sequential(
        nn.Linear(latent, 128),
        nn.ReLU(),
        nn.Unflatten(1, (8, 4, 4)),
        nn.ConvTranspose2d(8, 8, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 4, 2, 1),
        nn.Sigmoid(),
        nn.Flatten(),
    )


def proportions(latent: int, width: int) -> nn.Module:
    """Batch norm and a softmax of 1 000 outputs, as single-cell models have them, under their isometry."""
    return nn.Sequential(
        nn.Linear(latent, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 1000), nn.Softmax(-1), Isometry()
    )


def members(make: Callable[..., nn.Module], count: int, latent: int, **options: bool) -> Maker:
    """So many decoders, of any width."""
    return lambda width: [make(latent, width, **options) for _ in range(count)]


def functions(make: Maker) -> Maker:
    """The same as functions, of which nothing is known."""
    return lambda width: [partial(nn.Module.__call__, decoder) for decoder in make(width)]


class Case(NamedTuple):
    """Decoders, and between how many points they are solved."""

    decoders: Maker
    latent: int = 2
    segments: int = 256
    pairs: int = 45


CASES = {
    "perceptrons × 5, fused": Case(members(perceptron, 5, 2)),
    "perceptrons × 5, functions": Case(functions(members(perceptron, 5, 2))),
    "layer norm": Case(members(perceptron, 1, 2, norm=True)),
    "layer norms × 5": Case(members(perceptron, 5, 2, norm=True)),
    "convolutions × 2": Case(members(convolutions, 2, 2)),
    "attention": Case(members(Attention, 1, 2)),
    "proportions": Case(members(proportions, 1, 2)),
    "proportions, 4-D": Case(members(proportions, 1, 4), 4, 128),
    "proportions, 10-D": Case(members(proportions, 1, 10), 10, 64, 40),
}


@dataclass(frozen=True)
class Config(Output):
    """Time geodesics of decoders of any kind, in floors: evaluations of JᵀJ at all nodes, in the same process."""

    decoders: tuple[str, ...] = tuple(CASES)
    """Which of them."""
    width: int = 128
    """Units of the hidden layers of perceptrons and proportions."""
    pairs: int = 45
    """Random pairs, at most."""
    segments: int = 256
    """Segments of a geodesic, at most."""
    repeats: int = 5
    """Solutions after the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.decoders if name not in CASES]
        if unknown or not self.decoders:
            raise ValueError(f"decoders: expected some of {', '.join(CASES)}; got {', '.join(unknown) or 'none'}.")


QUICK = {"decoders": ("layer norm", "proportions, 10-D"), "width": 16, "pairs": 4, "segments": 32, "repeats": 1}


@torch.no_grad()
def solved(case: Case, config: Config) -> dict[str, float]:
    """Floors of the first solution and of later ones, how many end converged, and what is left of their energy."""
    torch.manual_seed(0)
    decoders = case.decoders(config.width)
    for decoder in decoders:
        for weights in (decoder.args[0] if isinstance(decoder, partial) else decoder).eval().parameters():
            weights.requires_grad_(False).mul_(SPREAD if weights.ndim > 1 else 1)
    pairs, segments = min(case.pairs, config.pairs), min(case.segments, config.segments)
    start, stop = 1.5 * torch.randn(2, pairs, case.latent)
    metric, solver = pg.ExpectedMetric(decoders), pg.GaussNewton(segments)
    solve = partial(pg.geodesic, metric, start, stop, solver=solver)
    found, first = processor_seconds(solve)
    before = floor_seconds(metric, start, stop, segments)
    later = statistics.median(processor_seconds(solve)[1] for _ in range(config.repeats))
    floor = (before * floor_seconds(metric, start, stop, segments)) ** 0.5
    tight = pg.GaussNewton(segments, tolerance=1e-5, coarse_tolerance=1e-5, max_steps=100)
    best = pg.geodesic(metric, start, stop, init=found.path, solver=tight).energy.double()
    return {
        "floor_milliseconds": 1e3 * floor,
        "first": first / floor,
        "later": later / floor,
        "steps": found.steps.double().mean().item(),
        "converged": (found.status == pg.Status.CONVERGED).double().mean().item(),
        "above": (found.energy.double().sum() / best.sum()).item(),
    }


def compute(config: Config) -> Groups:
    """All of them, once torch has loaded what it differentiates by."""
    some = functions(members(perceptron, 1, 2, norm=True))(8)
    pg.geodesic(pg.ExpectedMetric(some), torch.zeros(1, 2), torch.ones(1, 2))
    rows = {name: solved(CASES[name], config) for name in config.decoders}
    values = {key: ("decoder", [row[key] for row in rows.values()]) for key in next(iter(rows.values()))}
    sizes = {"threads": torch.get_num_threads()}
    return {"general_maps": xr.Dataset(values, coords={"decoder": list(rows)}, attrs=sizes)}


def report(groups: Groups) -> None:
    """The table of a result file."""
    found = groups["general_maps"]
    frame = found.to_dataframe()
    columns = ["floor, ms", "first use", "later uses", "steps", "converged", "energy/tight"]
    print(
        f"Geodesics from straight lines by default, {found.attrs['threads']} threads, processor time in floors (JᵀJ at "
        "all nodes):"
    )
    formats = ["{:.0f}", "{:.2f}", "{:.2f}", "{:.1f}", "{:.2f}", "{:.4f}"]
    table = frame.set_axis(columns, axis=1)
    print(table.to_string(formatters={name: each.format for name, each in zip(columns, formats, strict=True)}))


def main(arguments: list[str] | None = None) -> None:
    """Compute, print the table, say where it is."""
    run(Config, compute, report, QUICK, arguments)


if __name__ == "__main__":
    main()
