"""When does a VAE find the manifold of its data, and does a check that knows no truth tell?

On a grid of four factors (weight of the divergence, noise, width of the networks, epochs) and on manifolds whose true
distances are known, every distance of every training is held against the truth, Spearman's ρ over pairs, and judged by
`identifiability.trust`, which sees the data and the model alone. A hit is a trusted distance with ρ above .9, or a
doubted one below. Run again, it resumes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

import probgeo as pg
from experiments.common.checks import COLOURS, RIGHT, SAID
from experiments.common.lost import fitted, told_of_lost
from experiments.common.options import OnDevice, OnWorkers
from experiments.common.results import Groups, Shown, run
from experiments.common.truths import MANIFOLDS, Known, known
from probgeo.identifiability import rank_correlation, trust_of_trainings

FACTORS = ("beta", "noise", "width", "epochs")
OF_MODELS = ["geodesic", "straight", "euclidean", "reconstructed"]


@dataclass(frozen=True)
class Config(OnDevice, OnWorkers):
    """Four factors on manifolds, and the check's hits and misses."""

    data: tuple[str, ...] = ("swiss_roll", "s_curve")
    """Manifolds of the whole grid."""
    others: tuple[str, ...] = ("surface", "folded_sheet", "plane_with_hole", "sphere", "torus")
    """Manifolds on which the check is tried further, with the last of every factor's levels and each noise."""
    betas: tuple[float, ...] = (1.0, 0.1)
    """Weights of the divergence from the prior."""
    noises: tuple[float, ...] = (0.1, 0.02)
    """Standard deviations of the noise on the features, over that of the manifold's points."""
    widths: tuple[int, ...] = (32, 128)
    """Units in each of the two hidden layers of encoder and decoder."""
    epochs: tuple[int, ...] = (50, 200)
    """Passes over the data."""
    rows: int = 1000
    """Observations of a manifold."""
    ambient: int = 10
    """Dimensions that it is turned into."""
    retrainings: int = 3
    """Retrainings of each cell, with seeds 0, 1, 2, ..."""
    pairs: int = 60
    """Pairs of observations whose distances are measured."""
    segments: int = 32
    """Segments of a geodesic."""
    neighbours: int = 10
    """Nearest rows that the check joins each row with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in (*self.data, *self.others) if name not in MANIFOLDS]:
            raise ValueError(f"data, others: expected some of {', '.join(MANIFOLDS)}; got {', '.join(unknown)}.")


QUICK: dict[str, Any] = {
    "data": ("s_curve",), "others": (), "betas": (1.0,), "widths": (32,), "epochs": (2, 5), "rows": 100,
    "retrainings": 2, "pairs": 12, "segments": 8, "neighbours": 8,
}  # fmt: skip


def specs(config: Config, latent: int, whole: bool) -> dict[str, pg.VAE]:
    """By name, a single decoder with Gaussian noise at each weight and width; not whole: at the last of them."""
    last = slice(None) if whole else slice(-1, None)
    found = {}
    for beta, width in product(config.betas[last], config.widths[last]):
        network = pg.nn.MLP(hidden=(width, width))
        found[f"{beta:g}/{width}"] = pg.VAE(latent, pg.Decoder(network), encoder=network, beta=beta)
    return found


def checked(config: Config, data: Known, folder: Path, whole: bool) -> xr.Dataset:
    """What the check finds of all cells of one data set, as `manifold_check`, and the true distances `truth`."""
    x = data.x.to(config.device)
    models: dict[str, list[pg.LatentModel]] = {}
    distances = []
    for epochs in config.epochs if whole else config.epochs[-1:]:
        study = pg.Study(
            folder / f"epochs-{epochs}",
            data=x,
            pairs=data.pairs,
            models=specs(config, data.latent, whole),
            seeds=range(config.retrainings),
            training=pg.Training(epochs=epochs, batch_size=64, learning_rate=2e-3),
            measures={"geodesic": pg.Geodesic(solver=pg.GaussNewton(config.segments)), "straight": pg.StraightLine()},
        )
        found = pg.study.with_ambient_distances(config.run(study))
        names = [f"{name}/{epochs}" for name in study.models]
        distances.append(found.assign_coords(model=names))
        models |= {new: fitted(study, found.lost, name) for name, new in zip(study.models, names, strict=True)}
    distance = xr.concat(distances, "model")
    check = pg.study.manifold_check(models, x, distance, num_neighbours=config.neighbours)
    return check.assign(truth=("pair", data.reference))


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: one dataset, a data set and its noise along `data`, cells that it lacks missing."""
    found = {}
    for name, noise in product((*config.data, *config.others), config.noises):
        data = known(name, config.rows, config.pairs, config.ambient, noise, latent=2)
        check = checked(config, data, folder / f"{name}-{noise:g}", whole=name in config.data)
        # The data's own distances are there as `ambient`.
        told = "\n".join(told_of_lost(check.lost))
        kept = check.sel(measure=OF_MODELS).drop_vars(["start", "stop", "seed", "num_members", "training", "lost"])
        kept = kept.assign(told=told)
        found[f"{name}, {noise:g}"] = kept
    return {"checks": joined(found)}


def joined(checks: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """One dataset, with a dim `data`, and the cells in the order of the first."""
    models = list(dict.fromkeys(model for check in checks.values() for model in check.model.values.tolist()))
    return xr.concat([check.reindex(model=models) for check in checks.values()], "data").assign_coords(
        data=list(checks)
    )


# --- what is shown ---


def judged(checks: xr.Dataset) -> pd.DataFrame:
    """A row for each distance of each training: its factors, ρ with the truth and with the graph, and what is said."""
    frames = []
    for label in checks.data.values:
        check = checks.sel(data=label, drop=True).dropna("model", how="all", subset=["trustworthiness"])
        name, noise = label.split(", ")
        graph = check.graph.isel(neighbours=-1, drop=True)
        columns = {
            "rho": rank_correlation(check.distance, check.truth),
            "graph": rank_correlation(check.distance, graph),
            "told": trust_of_trainings(check),
            "trustworthiness": check.trustworthiness,
            "continuity": check.continuity,
            "error": check.residual / check.radius,
            "graph of truth": rank_correlation(graph, check.truth),
            "ambient of truth": rank_correlation(check.ambient, check.truth),
        }
        columns["measured"] = check.distance.notnull().any("pair")
        frame = xr.Dataset(columns).to_dataframe().reset_index()
        frame = frame[frame.pop("measured")].reset_index(drop=True)  # a training may be lost
        levels = frame.pop("model").str.split("/", expand=True).astype(float)
        levels.columns = ["beta", "width", "epochs"]
        frames.append(pd.concat([frame.assign(data=name, noise=float(noise)), levels], axis=1))
    found = pd.concat(frames, ignore_index=True)
    found["said"] = found["told"].map(lambda told: SAID.get(told, "unknown"))
    return found


def cells(found: pd.DataFrame) -> pd.DataFrame:
    """A row per data set and cell: means over trainings of ρ, and what the check says of the geodesic."""
    keys = ["data", *FACTORS]
    table = found.pivot_table(index=keys, columns="measure", values="rho", sort=False)[OF_MODELS]
    geodesic = found[found["measure"] == "geodesic"].groupby(keys, sort=False)
    data, seen = ["ambient of truth", "graph of truth"], ["graph", "trustworthiness", "continuity", "error"]
    means = geodesic[[*data, *seen]].mean()
    names = {"ambient of truth": "ambient", "graph of truth": "graph", "graph": "ρ graph", "trustworthiness": "trust."}
    means = means.rename(columns=names | {"continuity": "contin."})
    said = geodesic["said"].agg(lambda words: ", ".join(f"{n} {w}" for w, n in words.value_counts().items()))
    return table.join(means).join(said)


def factors(found: pd.DataFrame, whole: Sequence[str]) -> pd.DataFrame:
    """Mean ρ of the geodesic at either level of each factor, all else alike, on the manifolds of the whole grid."""
    geodesic = found[(found["measure"] == "geodesic") & found["data"].isin(whole)]
    parts = {factor: geodesic.groupby(["data", factor], sort=False)["rho"].mean() for factor in FACTORS}
    table = pd.concat(parts, names=["factor", "data", "level"]).rename("rho")
    return table.unstack("data", sort=False)


def hits(found: pd.DataFrame) -> pd.DataFrame:
    """By data set, trainings' distances that are right or not against what is said of them, of the models' measures."""
    table = pd.crosstab(found["data"], [found["said"], np.where(found["rho"] > RIGHT, "right", "wrong")])
    wanted = pd.MultiIndex.from_product([SAID.values(), ("right", "wrong")])
    table = table.reindex(columns=wanted, index=found["data"].unique(), fill_value=0)
    return pd.concat([table, table.sum().rename("all").to_frame().T])


def said(table: pd.DataFrame) -> str:
    """The hits and misses in a sentence."""
    total = table.loc["all"]
    trusted, doubted = (total[word].sum() for word in ("trusted", "doubted"))
    return (
        f"Right: Spearman's ρ with the true distance above {RIGHT:g}. Of {trusted} trusted distances "
        f"{total['trusted', 'right']} are right, of {doubted} doubted ones {total['doubted', 'wrong']} are wrong; of "
        f"{total['unknown'].sum()} nothing is told, {total['unknown', 'right']} of them are right."
    )


def figure_of(found: pd.DataFrame) -> Figure:
    """What the check sees, ρ with the data's graph, against ρ with the truth, by what it says."""
    names = list(dict.fromkeys(found["data"]))
    figure = Figure(figsize=(2.3 * len(names) + 0.6, 2.9), dpi=150, layout="constrained")
    row = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name in zip(row, names, strict=True):
        part = found[found["data"] == name]
        for word, colour in COLOURS.items():
            of_word = part[part["said"] == word]
            axes.plot(of_word["graph"], of_word["rho"], "o", markersize=3.5, alpha=0.6, color=colour, label=word)
        axes.axhline(RIGHT, color="0.4", linewidth=0.8, linestyle="--")
        axes.axline((0, 0), slope=1, color="0.8", linewidth=0.8, zorder=0)
        axes.set(title=name.replace("_", " "), xlim=(-0.1, 1.03), ylim=(-0.1, 1.03), aspect="equal")
    row[0].set_ylabel("ρ with the true distance")
    figure.supxlabel("ρ with the distance along the data's graph", fontsize=10)
    row[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def report(groups: Groups) -> Shown:
    """Cells, factors, hits and misses."""
    found = judged(groups["checks"])
    cells_of = found.groupby("data", sort=False)["epochs"].nunique()
    whole = list(cells_of.index[cells_of == cells_of.max()])
    lost = groups["checks"].told.to_series() if "told" in groups["checks"] else {}
    tables = {"cells": cells(found), "factors": factors(found, whole), "hits": hits(found)}
    print("Spearman's ρ with the true distance, means over trainings, and what the check says of the geodesic.")
    print(tables["cells"].to_string(float_format="{:.2f}".format))
    print("\nThe geodesic's ρ at either level of each factor, means over all others.")
    print(tables["factors"].to_string(float_format="{:.2f}".format))
    print("\nDistances of a training (geodesic, straight, euclidean, reconstructed), by what is said of them.")
    print(tables["hits"].to_string(), said(tables["hits"]), sep="\n")
    for data, told in lost.items():
        for line in told.splitlines():
            print(f"{data}: {line}")
    return tables, {"": figure_of(found)}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, arguments=arguments)


if __name__ == "__main__":
    main()
