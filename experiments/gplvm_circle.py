"""Do geodesics under a Gaussian process's expected metric follow the data, where straight lines cross the hole?

A noisy circle in many dimensions, a GPLVM with two latent dimensions, geodesics between pairs of its points; once with
the length scale that the evidence chooses, once with a shorter one. Prints one table and draws one figure.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

import probgeo as pg
from experiments.common.maps import field
from experiments.common.options import OnDevice
from experiments.common.results import Groups, Shown, run
from probgeo.models.gp.gplvm import FittedGPLVM


@dataclass(frozen=True)
class Config(OnDevice):
    """Geodesics of a GPLVM on a circle: share of nodes within the data's annulus, lengths, energies."""

    preset: None = None
    """There is none."""
    points: int = 400
    """Points on the circle."""
    noise: float = 0.05
    """Standard deviation of the noise, in radii of the circle."""
    ambient: int = 10
    """Dimension of the space that the circle lies in."""
    inducing: int = 96
    """Inducing points of the Gaussian process."""
    lengthscale: float = 0.2
    """The shorter length scale, in standard deviations of the codes' prior."""
    pairs: int = 50
    """Pairs of points, 60 to 160 degrees apart."""
    epochs: int = 300
    """Passes over the data."""
    segments: int = 256
    """Segments of a geodesic."""
    seed: int = 0
    """Of data, pairs and training."""

    least: ClassVar = {"pairs": (2, "as a variation over pairs needs")}


QUICK = {"pairs": 12, "epochs": 150, "segments": 128}
NUM_DRAWN = 6
GRID = 80


def pairs_of(angle: Tensor, num_pairs: int, seed: int) -> Tensor:
    """Rows (pair, 2) of points 60 to 160 degrees apart, drawn at random."""
    candidates = torch.randint(len(angle), (200 * num_pairs, 2), generator=torch.Generator().manual_seed(seed))
    apart = (angle[candidates[:, 0]] - angle[candidates[:, 1]]).abs()
    apart = torch.minimum(apart, 2 * math.pi - apart).rad2deg()
    return candidates[(apart > 60) & (apart < 160)][:num_pairs]


def share_near_circle(model: FittedGPLVM, path: Tensor, ring: Tensor, tolerance: float) -> Tensor:
    """Share of each path's nodes whose decoded mean lies within `tolerance` of the true circle, points `ring`."""
    decoded = model.decode(path)
    return (torch.cdist(decoded.flatten(0, 1), ring).amin(1).view(path.shape[:2]) <= tolerance).float().mean(1)


def share_between_codes(path: Tensor, codes: Tensor, num_neighbours: int = 30) -> Tensor:
    """Share of each path's nodes, seen from the codes' centre, no nearer and no farther than the codes beside them."""
    centre = codes.mean(0)
    radius, node_radius = (codes - centre).norm(dim=1), (path - centre).norm(dim=2)
    direction, node_direction = (codes - centre) / radius[:, None], (path - centre) / node_radius[..., None]
    beside = radius[(node_direction @ direction.T).topk(num_neighbours).indices]
    return ((node_radius >= beside.amin(2)) & (node_radius <= beside.amax(2))).float().mean(1)


@torch.no_grad()
def view_of(model: FittedGPLVM, data: pg.datasets.Dataset, pairs: Tensor, config: Config) -> xr.Dataset:
    """Codes, uncertainty on a grid, geodesics and straight lines of a fitted model, and their numbers."""
    codes, metric = model.encode(data.x).mean, model.metric()
    start, stop = codes[pairs].unbind(1)
    solver = pg.GaussNewton(num_segments=config.segments)
    found = pg.geodesic(metric, start, stop, init=pg.paths.Graph(metric, codes), solver=solver)
    straight = pg.paths.Straight(config.segments)(start, stop)
    assert data.immersion is not None
    angles = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.float64)[:, None]
    ring = data.immersion(angles).to(codes)
    numbers: dict[str, list[Tensor]] = {"energy": [], "length": [], "near_circle": [], "between_codes": []}
    for path in (found.path, straight):
        numbers["energy"].append(pg.energy(metric, path))
        numbers["length"].append(pg.length(metric, path))
        numbers["near_circle"].append(share_near_circle(model, path, ring, 3 * config.noise))
        numbers["between_codes"].append(share_between_codes(path, codes))
    low, high = codes.min(0).values, codes.max(0).values
    low, high = low - 0.25 * (high - low), high + 0.25 * (high - low)
    fraction = torch.linspace(0, 1, GRID).to(codes)
    grid = low + torch.cartesian_prod(fraction, fraction) * (high - low)
    process = model.process
    return xr.Dataset(
        {
            **{name: (("line", "pair"), torch.stack(values).cpu().numpy()) for name, values in numbers.items()},
            "status": ("pair", found.status.cpu().numpy()),
            "codes": (("row", "latent"), codes.cpu().numpy()),
            "path": (("drawn", "node", "latent"), found.path[:NUM_DRAWN, ::2].cpu().numpy()),
            "uncertainty": (("first", "second"), model.uncertainty(grid).reshape(GRID, GRID).cpu().numpy()),
            "at_codes": ("row", model.uncertainty(codes).cpu().numpy()),
            "at_centre": model.uncertainty(codes.mean(0)).item(),
            "corner": (("side", "latent"), torch.stack([low, high]).cpu().numpy()),
            "lengthscale": ("latent", process.kernel.base_kernel.lengthscale.detach().flatten().cpu().numpy()),
            "bound": -float(model.history.loss[-10:].mean()) if model.history is not None else math.nan,
        },
        coords={"line": ["geodesic", "straight"]},
    )


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time."""
    data = pg.datasets.circle(config.points, config.noise, config.seed, config.ambient)
    data = replace(data, x=data.x.to(config.device))
    assert data.latent is not None and data.distance is not None
    angle = data.latent[:, 0]
    pairs = pairs_of(angle, config.pairs, config.seed)
    training = pg.Training(epochs=config.epochs, batch_size=100, validation=0.0)
    views = []
    for name, lengthscale in (("learned", None), ("short", config.lengthscale)):
        spec = pg.GPLVM(num_inducing=config.inducing, lengthscale=lengthscale)
        (model,) = pg.fit(spec, data.x, [config.seed], training=training, folder=folder / "trainings" / name)
        assert isinstance(model, FittedGPLVM)
        views.append(view_of(model, data, pairs.to(data.x.device), config))
    dataset = xr.concat(views, "model").assign_coords(model=["learned", "short"])
    distance = data.distance(data.latent[pairs[:, 0]], data.latent[pairs[:, 1]])
    found = dataset.assign(angle=("row", angle.numpy()), true_distance=("pair", distance.cpu().numpy()))
    return {"circle": found}


def table_of(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per length scale and kind of line, means over pairs."""
    means = dataset[["near_circle", "between_codes", "energy", "length"]].mean("pair")
    ratio = dataset.length / dataset.true_distance
    means["ratio"], means["variation"] = ratio.mean("pair"), ratio.std("pair", ddof=1) / ratio.mean("pair")
    names = {
        "near_circle": "nodes near circle",
        "between_codes": "nodes among codes",
        "energy": "energy",
        "length": "length",
        "ratio": "length/arc",
        "variation": "CV of it",
    }
    return (
        means.drop_vars([name for name in means.coords if name not in means.dims])
        .to_dataframe()[list(names)]
        .rename(columns=names)
    )


def figure_of(dataset: xr.Dataset) -> Figure:
    """One panel per length scale: codes coloured by angle over the process's uncertainty, geodesics, straight lines."""
    figure = Figure(figsize=(9.8, 5.0), layout="constrained")
    sectors = (np.floor((dataset.angle.values + np.pi) / (2 * np.pi) * 24)).astype(int).clip(0, 23)
    panels = figure.subplots(1, dataset.sizes["model"])
    for axes, name in zip(panels, dataset.model.values, strict=True):
        view = dataset.sel(model=name)
        pg.plots.latent(
            view.codes.values,
            sectors,
            background=field(view, "uncertainty"),
            background_label="standard deviation of the process",
            paths=view.path.values,
            ax=axes,
        )
        scales = " and ".join(f"{value:.2f}" for value in dict.fromkeys(view.lengthscale.values.tolist()))
        how = "by the evidence" if name == "learned" else "given"
        axes.set_title(f"length scale {how}: {scales}", fontsize=9)
    return figure


def report(groups: Groups) -> Shown:
    """A row per length scale and kind of line; the latent maps."""
    dataset = groups["circle"]
    table = table_of(dataset)
    print(table.to_string(float_format="{:.3f}".format))
    print(
        "nodes near circle: share of nodes whose decoded mean lies within 3 standard deviations of the noise from\n"
        "the true circle (data space). nodes among codes: share no nearer to and no farther from the codes' centre\n"
        "than the 30 codes beside them (latent space). length/arc: length over the true distance along the circle."
    )
    for name in dataset.model.values:
        view = dataset.sel(model=name)
        print(
            f"{name}: length scales {', '.join(f'{value:.2f}' for value in view.lengthscale.values)}; bound per row "
            f"{float(view.bound):.2f}; standard deviation of the process {float(view.at_codes.mean()):.3f} at the "
            f"codes, {float(view.at_centre):.3f} in the hole; {int((view.status > 0).sum())} of {view.sizes['pair']} "
            "geodesics did not converge"
        )
    return {"table": table}, {"": figure_of(dataset)}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, arguments=arguments)


if __name__ == "__main__":
    main()
