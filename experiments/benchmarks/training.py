"""Training timed in one process: probgeo, plain models one by one, a stack written by hand, and its products alone."""

import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

import probgeo as pg
from experiments.benchmarks.alone import run
from experiments.benchmarks.sources import SOURCES, WIDTH, Layers, code, normal_nll, rows_of
from experiments.common.options import Output
from experiments.common.results import Groups
from probgeo.training.budget import bytes_of_retraining

METHODS = ("probgeo", "plain models", "stack by hand", "products alone")


@dataclass(frozen=True)
class Config(Output):
    """Time a step of all retrainings at once, in milliseconds: medians of interleaved runs in one process."""

    features: tuple[int, ...] = (64, 64, 784, 784)
    """Numbers of a row, one for each case."""
    batch_sizes: tuple[int, ...] = (128, 128, 256, 256)
    """Rows of a minibatch."""
    decoders: tuple[int, ...] = (1, 10, 1, 10)
    """Decoders that share an encoder."""
    retrainings: int = 10
    """Retrainings that are trained at once."""
    steps: int = 8
    """Steps of an epoch."""
    repeats: int = 5
    """Runs of each method."""
    stacks: tuple[int, ...] = (1, 5, 10)
    """Stacks whose peak memory is measured, in processes of their own, at the last case."""
    sources: tuple[str, ...] = tuple(SOURCES)
    """Sources of uncertainty that are timed too, at the sizes of the first case, one decoder."""


QUICK = {
    "features": (16,),
    "batch_sizes": (32,),
    "decoders": (3,),
    "retrainings": 3,
    "repeats": 2,
    "stacks": (1, 3),
    "sources": ("single", "dropout"),
}


class Case(NamedTuple):
    """Sizes of what is trained."""

    num_features: int
    batch_size: int
    num_decoders: int
    num_retrainings: int
    num_steps: int

    @property
    def x(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(self.num_steps * self.batch_size, self.num_features, generator=generator)


class Cost(NamedTuple):
    """Of one step of all retrainings, in milliseconds."""

    wall: float
    user: float
    system: float


def clocks() -> np.ndarray:
    """Wall, user and system time, in milliseconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return 1e3 * np.array([time.perf_counter(), usage.ru_utime, usage.ru_stime])


def cost_of(work: Callable[[], object], num_steps: int) -> Cost:
    """What the work costs per step."""
    before = clocks()
    work()
    return Cost(*((clocks() - before) / num_steps).tolist())


# --- the methods -----------------------------------------------------------------------------------------------------


def library_cost(case: Case) -> Cost:
    """`fit`, from its second epoch on: the first one finds out what a step is."""
    return fit_cost(spec_of(case), case.x, case)


def spec_of(case: Case) -> pg.VAE:
    """What the library trains."""
    return pg.VAE(2, pg.Decoder() if case.num_decoders == 1 else pg.EnsembleDecoder(case.num_decoders), pg.Gaussian())


def fit_cost(spec: pg.ModelSpec, x: Tensor, case: Case, last_phase: bool = False) -> Cost:
    """That of two epochs of a spec, of its first phase or, where it is half as long, of its last."""
    seeds, epochs = range(case.num_retrainings), 6 if last_phase else 3
    training = pg.Training(epochs=epochs, batch_size=case.batch_size, validation=0.0)
    times: list[np.ndarray] = []

    def report(seed: int, epoch: int, terms: dict[str, float]) -> None:
        if seed == seeds[-1]:
            times.append(clocks())

    pg.fit(spec, x, seeds, training=training, stack=len(seeds), progress=False, report=report)
    took = times[-1] - times[-3] if last_phase else times[2] - times[0]
    return Cost(*(took / (2 * case.num_steps)).tolist())


class PlainModel(nn.Module):
    """One retraining as one would write it: the same networks, likelihood and share of the rows for each decoder."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        sizes = (2, WIDTH, WIDTH, case.num_features)
        self.encoder = pg.nn.mlp((case.num_features, WIDTH, WIDTH, 4))
        self.decoders = nn.ModuleList(pg.nn.mlp(sizes) for _ in range(case.num_decoders))
        self.log_std = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_std = self.encoder(x).chunk(2, -1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        kl = (0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std).sum()
        y = torch.cat([decoder(rows) for decoder, rows in zip(self.decoders, z.chunk(len(self.decoders)), strict=True)])
        constant = self.log_std + 0.5 * math.log(2 * math.pi)
        return (kl + (0.5 * ((x - y) / self.log_std.exp()) ** 2 + constant).sum()) / len(x)


class HandStack(nn.Module):
    """All retrainings as one would stack them by hand: `baddbmm` on weights (retraining · decoder, input, output)."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, num = case, case.num_retrainings
        self.encoder = Layers(num, case.num_features, 4)
        self.decoders = Layers(num * case.num_decoders, 2, case.num_features)
        self.log_std = nn.Parameter(torch.zeros(num, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        z, kl = code(self.encoder(x))
        num, batch, _ = z.shape
        padding = -batch % self.case.num_decoders
        z = functional.pad(z, (0, 0, 0, padding)) if padding else z
        y = self.decoders(z.view(num * self.case.num_decoders, -1, 2))
        y = y.reshape(num, batch + padding, -1)[:, :batch]
        return ((kl + normal_nll(x, y, self.log_std)) / batch).sum()


def epochs_of(model: nn.Module, case: Case, num_orders: int, x: Tensor) -> Callable[[], None]:
    """An epoch of Adam(fused=True) on rows (order, row), or (row) for one model."""
    moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(moved, 1e-3, fused=True)

    def epoch() -> None:
        orders = torch.stack([torch.randperm(len(x)) for _ in range(num_orders)])
        for rows in orders.split(case.batch_size, dim=1):
            optimizer.zero_grad()
            model(x[rows if num_orders > 1 else rows[0]]).backward()
            optimizer.step()

    return epoch


def products_of(case: Case) -> Callable[[], None]:
    """The matrix products of a step of all retrainings, forward and backward."""
    model = HandStack(case)
    weights = [weight.detach() for weight in (*model.encoder.weights, *model.decoders.weights)]
    rows = -(-case.batch_size // case.num_decoders)
    inputs = [torch.randn(w.shape[0], rows if i > 2 else case.batch_size, w.shape[1]) for i, w in enumerate(weights)]

    def epoch() -> None:
        for _ in range(case.num_steps):
            for index, (h, weight) in enumerate(zip(inputs, weights, strict=True)):
                y = torch.bmm(h, weight)
                torch.bmm(h.mT, y)
                if index:
                    torch.bmm(y, weight.mT)

    return epoch


# --- the table -------------------------------------------------------------------------------------------------------


def costs(case: Case, repeats: int) -> np.ndarray:
    """Costs (method, kind) of a step of all retrainings: medians of interleaved runs."""
    torch.manual_seed(0)
    plain = epochs_of(PlainModel(case), case, 1, case.x)
    stack = epochs_of(HandStack(case), case, case.num_retrainings, case.x)
    products = products_of(case)
    runs: dict[str, Callable[[], Cost]] = {
        "probgeo": lambda: library_cost(case),
        "plain models": lambda: Cost(*(case.num_retrainings * each for each in cost_of(plain, case.num_steps))),
        "stack by hand": lambda: cost_of(stack, case.num_steps),
        "products alone": lambda: cost_of(products, case.num_steps),
    }
    for epoch in (plain, stack, products):
        epoch()
    return np.median([[runs[method]() for method in METHODS] for _ in range(repeats)], axis=0)


def costs_by_source(name: str, case: Case, repeats: int) -> np.ndarray:
    """Costs (method, kind) of a step of all retrainings of a source of uncertainty: by `fit`, and stacked by hand."""
    torch.manual_seed(0)
    source, x = SOURCES[name], rows_of(name, case.num_steps * case.batch_size, case.num_features)
    model = source.by_hand(case.num_retrainings, case.num_features, len(x))
    stack = epochs_of(model, case, case.num_retrainings, x)
    stack()
    runs = [(fit_cost(source.spec, x, case, source.last_phase), cost_of(stack, case.num_steps)) for _ in range(repeats)]
    return np.median(runs, axis=0)


def peak_memory(case: Case, stack: int) -> float:
    """Peak of a process that trains so many at once, in MB."""
    script = (
        "from pathlib import Path\n"
        "from experiments.benchmarks.training import Case, library_cost\n"
        f"library_cost(Case{(*case[:3], stack, case.num_steps)})\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024


def compute(config: Config) -> Groups:
    """All costs."""
    sizes = zip(config.features, config.batch_sizes, config.decoders, strict=True)
    cases = [Case(*size, config.retrainings, config.steps) for size in sizes]
    names = [f"{case.num_features}, {case.batch_size}, {case.num_decoders}" for case in cases]
    values = np.array([costs(case, config.repeats) for case in cases])
    of_sources = np.array([costs_by_source(name, cases[0], config.repeats) for name in config.sources])
    memory = [peak_memory(cases[-1], stack) for stack in config.stacks]
    last = cases[-1]
    modelled = bytes_of_retraining(spec_of(last), last.x, None, 0, last.batch_size) / 2**20
    dataset = xr.Dataset(
        {
            "milliseconds": (("case", "method", "kind"), values),
            "source_milliseconds": (("source", "by", "kind"), of_sources),
            "peak_memory": ("stack", memory),
        },
        coords={
            "case": names,
            "method": list(METHODS),
            "kind": list(Cost._fields),
            "source": list(config.sources),
            "by": list(METHODS[::2]),
            "stack": list(config.stacks),
        },
        attrs={"threads": torch.get_num_threads(), "retrainings": config.retrainings, "modelled_memory": modelled},
    )
    return {"training": dataset}


def report(groups: Groups) -> None:
    """The table of a result file."""
    found = groups["training"]
    sizes = found.attrs
    print(f"Milliseconds per step of {sizes['retrainings']} retrainings, {sizes['threads']} threads (user + system).")
    table = found.milliseconds.sel({"kind": "wall"}).to_pandas()
    table["/ by hand"] = table["probgeo"] / table["stack by hand"]
    table["plain /"] = table["plain models"] / table["probgeo"]
    table["/ products"] = table["probgeo"] / table["products alone"]
    shares = found.milliseconds.sel({"method": "probgeo"}).to_pandas()
    table["user + system"] = [f"{user:.1f} + {system:.1f}" for user, system in shares[["user", "system"]].to_numpy()]
    print(table.rename_axis("features, batch, decoders").to_string(float_format="{:.2f}".format))
    print("Other sources, at the sizes of the first row, one decoder:")
    table = found.source_milliseconds.sel({"kind": "wall"}).to_pandas()
    table["/ by hand"] = table["probgeo"] / table["stack by hand"]
    spent = found.source_milliseconds.sel({"kind": ["user", "system"]}).sum("kind").to_pandas()
    table["user + system, / by hand"] = spent["probgeo"] / spent["stack by hand"]
    print(table.to_string(float_format="{:.2f}".format))
    memory = ", ".join(f"{int(stack)}: {peak:.0f} MB" for stack, peak in found.peak_memory.to_series().items())
    print(
        f"Peak memory of the process by retrainings at once, last case: {memory}; "
        f"modelled: {sizes['modelled_memory']:.0f} MB each."
    )


def main(arguments: list[str] | None = None) -> None:
    """Compute, print the table, say where it is."""
    run(Config, compute, report, QUICK, arguments)
