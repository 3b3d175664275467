"""Do the codes of counts keep types of cells together: is the training to blame, or the model?

Trains the library's own autoencoder of counts, one factor at a time changed from a base, and asks of every cell whether
most of its 15 nearest by code are of its type; beside it, nearest by the mean counts that its code is decoded to, and
by as many principal components. Levels that do better than the base on the first data set, by more than two standard
errors, are taken together; these, and they alone, are held against the base on the others. Types are never trained on.
Run again, it takes up what it has.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.figure import Figure
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

import probgeo as pg
from experiments.common.atlas import accuracy, codes_of, principal_neighbours
from experiments.common.cells import blood, neurons
from experiments.common.options import Output
from experiments.common.results import Groups, Shown, config_of, run
from probgeo.datasets import Dataset, branching_counts, cache_folder, count_table
from probgeo.disk import whole_file
from probgeo.plots.style import new_figure

BASE, CHOSEN = "base", "chosen"


@dataclass(frozen=True)
class Setting:
    """One way to train."""

    epochs: int = 100
    learning_rate: float = 2e-3
    batch_size: int = 128
    width: int = 128
    beta: float = 1.0
    warmup: int = 0
    """Epochs over which β rises from 0."""
    input: Literal["logs of rates", "logs of counts", "rates"] = "logs of rates"
    """What the encoder reads; of counts as they are, the decoder knows no library size either."""
    likelihood: Literal["negative binomial", "poisson", "zero-inflated", "gaussian of logs"] = "negative binomial"


def some(cells: Dataset, rows: int) -> Dataset:
    """At most so many of the cells, at random."""
    return cells.rows(torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))[:rows])


DATA: Mapping[str, Any] = {
    "simulated": lambda rows: branching_counts(rows),
    "simulated again": lambda rows: branching_counts(rows, num_genes=200, library=300.0, seed=1),
    "haematopoiesis": lambda rows: some(count_table(cache_folder() / "counts/paul15_counts.npz", "label"), rows),
    "blood": lambda rows: some(blood(), rows),
    "neurons": lambda rows: some(neurons(), rows),
}


@dataclass(frozen=True)
class Config(Output):
    """Training or model: accuracy of the nearest neighbours of codes."""

    preset: Literal["real"] | None = None
    """Choose on haematopoietic cells (counts/paul15_counts.npz of $PROBGEO_DATA), report on blood cells (of scanpy) and
    neurons ($PROBGEO_DATA)."""
    data: tuple[str, ...] = ("simulated", "simulated again")
    """Chosen on the first, reported on the others; of simulated, simulated again, haematopoiesis, blood, neurons."""
    latents: tuple[int, ...] = (2, 10)
    """Dimensions of the latent space."""
    retrainings: int = 3
    """Retrainings of each, with seeds 0, 1, 2, ..."""
    neighbours: int = 15
    """Nearest cells that vote."""
    epochs: tuple[int, ...] = (40, 200, 400)
    learning_rates: tuple[float, ...] = (5e-3,)
    batch_sizes: tuple[int, ...] = ()
    widths: tuple[int, ...] = (256,)
    betas: tuple[float, ...] = (0.5, 0.1)
    warmups: tuple[int, ...] = (50,)
    inputs: tuple[str, ...] = ("logs of counts", "rates")
    likelihoods: tuple[str, ...] = ("poisson", "gaussian of logs")
    rows: int = 1000
    """Cells at most, of each data set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.data if name not in DATA]:
            raise ValueError(f"data: expected some of {', '.join(DATA)}; got {', '.join(unknown)}.")
        if not self.data:
            raise ValueError(f"data: expected at least one of {', '.join(DATA)}; got none.")

    least: ClassVar = {"retrainings": (2, "as a standard error needs")}


QUICK: dict[str, Any] = {
    "retrainings": 2, "rows": 120, "epochs": (3,), "learning_rates": (), "batch_sizes": (), "widths": (8,),
    "betas": (0.1,), "warmups": (), "inputs": ("rates",), "likelihoods": ("gaussian of logs",), "latents": (2,),
}  # fmt: skip
PRESETS = {"real": Config(preset="real", data=("haematopoiesis", "blood", "neurons"))}


# --- settings ---------------------------------------------------------------------------------------------------------


def settings(config: Config, base: Setting) -> dict[str, Setting]:
    """The base, and each level of each factor instead of the base's, by name."""
    levels: dict[str, Sequence[Any]] = {
        "epochs": config.epochs,
        "learning_rate": config.learning_rates,
        "batch_size": config.batch_sizes,
        "width": config.widths,
        "beta": config.betas,
        "warmup": config.warmups,
        "input": config.inputs,
        "likelihood": config.likelihoods,
    }
    found = {BASE: base}
    for factor, values in levels.items():
        for value in values:
            shown = value if isinstance(value, str) else f"{value:g}"
            found[f"{factor.replace('_', ' ')}: {shown}"] = dataclasses.replace(base, **{factor: value})
    return found


def better(codes: xr.DataArray) -> list[str]:
    """Settings that are better than the base by more than two standard errors, the best last.

    Args:
        codes: accuracy (latent, setting, retraining) on the data that is chosen on.
    """
    mean = codes.mean("latent")
    se2 = mean.var("retraining", ddof=1) / mean.sizes["retraining"]
    gain = mean.mean("retraining") - mean.mean("retraining").sel(setting=BASE)
    clear = gain > 2 * np.sqrt(se2 + se2.sel(setting=BASE))
    return [str(name) for name in gain[clear].sortby(gain[clear]).setting.values]


def together(names: Sequence[str], among: Mapping[str, Setting]) -> Setting:
    """The base with the levels of all these settings, of two of one factor the latter's."""
    base = dataclasses.asdict(among[BASE])
    taken: dict[str, Any] = {}
    for name in names:
        own = dataclasses.asdict(among[name])
        taken |= {factor: value for factor, value in own.items() if value != base[factor]}
    return dataclasses.replace(among[BASE], **taken)


# --- computed ---------------------------------------------------------------------------------------------------------


class Rates(nn.Module):
    """exp(x) − 1, which undoes the logarithm that an encoder of counts is given."""

    def forward(self, logs: Tensor) -> Tensor:
        return logs.expm1()


@dataclass(frozen=True)
class OfRates:
    """A network of rates, as they are.

    Args:
        network: that reads them.
    """

    network: pg.nn.MLP

    def build(self, num_inputs: int, num_outputs: int) -> nn.Sequential:
        """The network after exp(x) − 1."""
        return nn.Sequential(Rates(), *self.network.build(num_inputs, num_outputs))


def spec_of(setting: Setting, latent: int, library: float) -> pg.VAE:
    """The model of a setting, of data of this median library size."""
    size = None if setting.input == "logs of counts" else pg.likelihoods.RowTotal(library)
    likelihoods: dict[str, Any] = {
        "negative binomial": pg.likelihoods.NegativeBinomial(size),
        "poisson": pg.likelihoods.Poisson(size),
        "zero-inflated": pg.likelihoods.ZeroInflatedNegativeBinomial(size),
        "gaussian of logs": pg.Gaussian(),
    }
    network = pg.nn.MLP((setting.width, setting.width))
    encoder = OfRates(network) if setting.input == "rates" else network
    beta = pg.Warmup(setting.warmup, stop=setting.beta) if setting.warmup else setting.beta
    return pg.VAE(latent, pg.Decoder(network), likelihoods[setting.likelihood], encoder=encoder, beta=beta)


def measured(cells: Dataset, setting: Setting, latent: int, config: Config) -> xr.Dataset:
    """Accuracy by codes and by decoded counts, nats of the codes, and the bound of rows held out, per retraining."""
    total = cells.x.sum(1, keepdim=True)
    library = total.median()
    in_logs = setting.likelihood == "gaussian of logs"
    x = torch.log1p(cells.x * library / total) if in_logs else cells.x
    training = pg.Training(setting.epochs, setting.batch_size, setting.learning_rate)
    spec = spec_of(setting, latent, library.item())
    try:
        models = pg.fit(spec, x, range(config.retrainings), training=training, progress=False)
    except ArithmeticError:  # the objective became infinite
        lost = ("retraining", [np.nan] * config.retrainings)
        return xr.Dataset({"codes": lost, "decoded": lost, "kl": lost, "bound": lost, "lost": 1.0})
    found: dict[str, list[float]] = {"codes": [], "decoded": [], "kl": [], "bound": []}
    for model, codes in zip(models, codes_of(models, x), strict=True):
        decoded = model.decode(codes).detach()
        for name, points in (("codes", codes), ("decoded", decoded if in_logs else decoded.log1p())):
            found[name].append(accuracy(nearest(points, config.neighbours), cells.labels))
        history: Any = model.history
        epoch = int(history.validation_loss.values.argmin())
        kl = float(history.validation_kl[epoch])
        found["kl"].append(kl)
        found["bound"].append(float(history.validation_log_likelihood[epoch]) - kl)
    return xr.Dataset({name: ("retraining", values) for name, values in found.items()} | {"lost": 0.0})


def kept(folder: Path, cells: Dataset, setting: Setting, latent: int, config: Config) -> xr.Dataset:
    """`measured`, or what it found before."""
    of = [cells.name, setting, latent, len(cells), config.retrainings, config.neighbours]
    place = folder / f"{hashlib.sha256(repr(of).encode()).hexdigest()[:16]}.nc"
    if not place.exists():
        with whole_file(place) as unfinished:
            measured(cells, setting, latent, config).to_netcdf(unfinished, engine="h5netcdf")
    return xr.load_dataset(place, engine="h5netcdf")


def nearest(points: Tensor, k: int) -> np.ndarray:
    """The k nearest of each, (row, k)."""
    return NearestNeighbors(n_neighbors=k).fit(points.numpy()).kneighbors(return_distance=False)


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time, with dims (data, latent, setting, retraining)."""
    among = settings(config, Setting(epochs=6, width=16) if config.quick else Setting())
    grids, principal = [], []
    for name in config.data:
        cells = DATA[name](config.rows)
        found = grid(cells, among, config, folder / "settings")
        if CHOSEN not in among:  # the first of the data
            names = better(found.codes)
            last = {CHOSEN: together(names, among)}
            found = xr.concat([found, grid(cells, last, config, folder / "settings")], "setting")
            among = {name: among[name] for name in among if name in (BASE, *names)} | last
        grids.append(found)
        principal.append(
            [accuracy(principal_neighbours(cells.x, d, config.neighbours), cells.labels) for d in config.latents]
        )
    whole = xr.concat([found.reindex(setting=grids[0].setting) for found in grids], "data").assign_coords(
        data=list(config.data)
    )
    return {
        "accuracy": whole.assign(principal=(("data", "latent"), principal)).assign_attrs(
            chosen=", ".join(differences(among[BASE], among[CHOSEN])) or "nothing"
        )
    }


def differences(base: Setting, other: Setting) -> Iterator[str]:
    """What another setting has otherwise, in words."""
    for field in dataclasses.fields(Setting):
        value = getattr(other, field.name)
        if value != getattr(base, field.name):
            yield f"{field.name.replace('_', ' ')} {value}"


def grid(cells: Dataset, among: Mapping[str, Setting], config: Config, folder: Path) -> xr.Dataset:
    """`measured` for all settings and latent dimensions of one data set."""
    rows = []
    for name, setting in among.items():
        rows.append(xr.concat([kept(folder, cells, setting, d, config) for d in config.latents], "latent"))
        print(f"{cells.name}, {name}: {rows[-1].codes.mean('retraining').values.round(3)}", flush=True)
    return xr.concat(rows, "setting").assign_coords(setting=list(among), latent=list(config.latents))


# --- shown ------------------------------------------------------------------------------------------------------------


def shown(accuracy: xr.Dataset, variables: Sequence[str], digits: int) -> pd.DataFrame:
    """Rows by setting, columns by data and dimension: mean ± standard deviation, and the mean of the second."""
    first, second = (accuracy[name] for name in variables)
    mean, std, other = first.mean("retraining"), first.std("retraining", ddof=1), second.mean("retraining")

    def short(value: float) -> str:
        return f"{value:.{digits}f}".removeprefix("0")

    columns = {}
    for data in accuracy.data.values:
        for latent in accuracy.latent.values:
            at = {"data": data, "latent": latent}
            cells = zip(*(values.sel(at).values for values in (mean, std, other, accuracy.lost)), strict=True)
            columns[(data, f"d = {latent}")] = [
                " ".join([short(m), "±", short(s), short(o)]) if np.isfinite(m) else "lost" if lost == 1 else ""
                for m, s, o, lost in cells
            ]
    return pd.DataFrame(columns, index=pd.Index(accuracy.setting.values, name=None))


def report(groups: Groups) -> Shown:
    """The table of accuracies, that of the bounds, and a figure of the accuracies."""
    found = groups["accuracy"]
    config = config_of(found)
    table, bounds = shown(found, ("codes", "decoded"), 3), shown(found, ("bound", "kl"), 1)
    print(table.to_string())
    print(
        f"Share of cells whose type most of their {config['neighbours']} nearest by code have: mean ± std over "
        f"{config['retrainings']} trainings; then by the\nlogarithms of the mean counts decoded from it. Of as many "
        "principal components of log counts:\n"
        + ", ".join(
            f"{data} {' and '.join(f'{value:.3f}' for value in found.principal.sel(data=data).values)}"
            for data in found.data.values
        )
        + f".\nChosen on {found.data.values[0]}: {found.attrs['chosen']}."
    )
    print(f"\n{bounds.to_string()}")
    print(
        "Nats per cell held out: evidence lower bound (β = 1), mean ± std over trainings; then KL(q ‖ p). Of logs, "
        "densities."
    )
    return {"table": table, "bounds": bounds}, {"": figure(found)}


def figure(found: xr.Dataset) -> Figure:
    """Accuracy by codes of every setting: a point per training, a line at principal components."""
    drawn = new_figure(3.4 * found.sizes["data"], 0.9 + 0.28 * found.sizes["setting"])
    panels = np.atleast_1d(drawn.subplots(1, found.sizes["data"], sharey=True))
    names = [str(name) for name in found.setting.values]
    for axes, data in zip(panels, found.data.values, strict=True):
        for shift, latent in zip(np.linspace(-0.15, 0.15, found.sizes["latent"]), found.latent.values, strict=True):
            values = found.codes.sel(data=data, latent=latent)
            rows = np.repeat(np.arange(len(names)) + shift, values.sizes["retraining"])
            points = axes.plot(
                values.transpose("setting", "retraining").values.ravel(), rows, "o", ms=3, label=f"d = {latent}"
            )
            axes.axvline(float(found.principal.sel(data=data, latent=latent)), color=points[0].get_color(), lw=0.8)
        axes.set(title=str(data), xlabel="accuracy of 15 nearest")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    handles = panels[0].get_legend_handles_labels()
    drawn.legend(
        *handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8, title="lines: principal components",
        title_fontsize=8,
    )  # fmt: skip
    return drawn


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
