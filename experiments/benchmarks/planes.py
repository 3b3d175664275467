"""Geodesics whose length is known: straight lines of planes in coordinates that hide that they are planes.

A plane is mapped onto itself by shears, and laid into more dimensions by a rotation. Its geodesics are the straight
lines, one between any two points, and no path but these has a gradient of zero. How far the coordinates are sheared is
how rough the metric is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import pandas as pd
import torch
import xarray as xr
from torch import Tensor

import probgeo as pg
from experiments.benchmarks.alone import run
from experiments.common.options import Output
from experiments.common.results import Groups


class Shears(NamedTuple):
    """Of how many kinds x_i += Σ_j a_ij sin(b_ij x_j + c_ij), how high and how many waves for a length of 2π."""

    latent: int
    layers: int
    height: float
    waves: float


CASES = {
    "gentle, 2-D": Shears(2, 2, 0.5, 2),
    "rough, 2-D": Shears(2, 3, 0.5, 4),
    "rougher, 2-D": Shears(2, 2, 1, 4),
    "gentle, 3-D": Shears(3, 2, 0.5, 2),
    "rough, 3-D": Shears(3, 3, 0.5, 2),
    "gentle, 8-D": Shears(8, 2, 0.2, 1),
    "rough, 8-D": Shears(8, 2, 0.2, 2),
}


@dataclass(frozen=True)
class Config(Output):
    """Hold geodesics that say that they have converged against the straight lines that they should be."""

    planes: tuple[str, ...] = tuple(CASES)
    """Which of them."""
    draws: int = 4
    """Planes of each kind."""
    points: int = 10
    """Points of each, of which all pairs are sought."""
    codes: int = 600
    """Points of each that the graph is laid around."""
    segments: int = 256
    """Segments of a geodesic."""

    least: ClassVar[Mapping[str, tuple[int, str]]] = {
        "draws": (1, "planes of a kind"),
        "segments": (2, "of a geodesic"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.planes if name not in CASES]
        if unknown or not self.planes:
            raise ValueError(f"planes: expected some of {', '.join(CASES)}; got {', '.join(unknown) or 'none'}.")
        if not 2 <= self.points <= self.codes:
            raise ValueError(f"points: expected 2 to {self.codes}, the codes; got {self.points}.")


QUICK = {"planes": ("rough, 2-D", "rough, 8-D"), "draws": 1, "points": 3, "codes": 60, "segments": 32}


def sheared(shears: Shears, seed: int) -> Callable[[Tensor], Tensor]:
    """A map of the plane onto itself, of random shears, one coordinate at a time."""
    generator = torch.Generator().manual_seed(seed)
    shape = (shears.layers, shears.latent, shears.latent)
    heights = shears.height * torch.randn(shape, generator=generator, dtype=torch.float64)
    frequencies = shears.waves * (0.5 + torch.rand(shape, generator=generator, dtype=torch.float64))
    phases = 6 * torch.rand(shape, generator=generator, dtype=torch.float64)

    def mapped(z: Tensor) -> Tensor:
        x = list(z.unbind(-1))
        for a, b, c in zip(heights.to(z), frequencies.to(z), phases.to(z), strict=True):
            for i in range(len(x)):
                others = (j for j in range(len(x)) if j != i)
                x[i] = x[i] + sum(a[i, j] * torch.sin(b[i, j] * x[j] + c[i, j]) for j in others)
        return torch.stack(x, dim=-1)

    return mapped


def laid(plane: Callable[[Tensor], Tensor], latent: int, seed: int) -> Callable[[Tensor], Tensor]:
    """The plane in two dimensions more, by orthonormal columns."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.linalg.qr(torch.randn(latent + 2, latent, generator=generator, dtype=torch.float64))[0]
    return lambda z: plane(z) @ columns.mT.to(z)


def longer(shears: Shears, config: Config, seed: int) -> tuple[Tensor, Tensor]:
    """How much longer each geodesic is than the straight line, 1 where it is that, and its status."""
    plane = sheared(shears, seed)
    metric = pg.PullbackMetric(laid(plane, shears.latent, seed))
    codes = torch.randn(config.codes, shears.latent, generator=torch.Generator().manual_seed(seed))
    first, second = torch.combinations(torch.arange(config.points)).unbind(1)
    start, stop = codes[first], codes[second]
    graph, solver = pg.paths.Graph(metric, codes), pg.GaussNewton(config.segments)
    found = pg.geodesic(metric, start, stop, init=graph, solver=solver)
    return found.length / (plane(stop.double()) - plane(start.double())).norm(dim=1), found.status


def compute(config: Config) -> Groups:
    """Of every plane and every pair."""
    found = {}
    for name in config.planes:
        draws = [longer(CASES[name], config, seed) for seed in range(config.draws)]
        lengths, status = (("geodesic", torch.cat(part).numpy()) for part in zip(*draws, strict=True))
        found[name] = xr.Dataset({"longer": lengths, "status": status})
    return {"planes": xr.concat(list(found.values()), pd.Index(list(found), name="plane"))}


def report(groups: Groups) -> None:
    """The table of a result file."""
    found = groups["planes"]
    converged, right = found.status == pg.Status.CONVERGED, found.longer <= 1.01
    columns = {
        "geodesics": found.longer.count("geodesic"),
        "converged": converged.sum("geodesic"),
        "of these over 1 %": (converged & ~right).sum("geodesic"),
        "worst of these": found.longer.where(converged).max("geodesic"),
        "others over 1 %": (~converged & ~right).sum("geodesic"),
        "MAX_STEPS": (found.status == pg.Status.MAX_STEPS).sum("geodesic"),
        "COARSE": (found.status == pg.Status.COARSE).sum("geodesic"),
    }
    table = pd.DataFrame({name: values.values for name, values in columns.items()}, index=found.plane.values)
    print(table.to_string(formatters={"worst of these": "{:.4f}".format}))
    print("longer than the straight line, which is the geodesic; over 1 %: by more than that.")


def main(arguments: list[str] | None = None) -> None:
    """Compute, print the table, say where it is."""
    run(Config, compute, report, QUICK, arguments)


if __name__ == "__main__":
    main()
