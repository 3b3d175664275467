"""Typed command lines: the options that experiments inherit, and how presets, `--quick` and given ones add up."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import tyro
import xarray as xr

import probgeo as pg
from experiments.common.cluster import LOCAL, QUEUES, is_address, workers
from experiments.common.data import observations


@dataclass(frozen=True)
class Output:
    """Options of every experiment."""

    out: Path | None = None
    """Output folder; default runs/NAME of the experiment, runs/NAME-PRESET for a preset."""
    result: Path | None = None
    """Compute nothing: print the tables and draw the figures of this result file (NAME.nc)."""
    quick: bool = False
    """A tiny version, in under two minutes on two cores."""

    least: ClassVar[Mapping[str, tuple[int, str]]] = {}
    """Smallest values of options, and why."""

    def __post_init__(self) -> None:
        """ValueError for what could not be computed or shown, before anything is."""
        for name, (least, why) in self.least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, {why}; got {getattr(self, name)}.")


@dataclass(frozen=True)
class OnDevice(Output):
    """Options of an experiment that computes on a device."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0].rstrip(".")
            raise ValueError(f"device: expected one that is here, as cpu is; got {self.device!r} ({why}).") from error


@dataclass(frozen=True)
class OnWorkers(Output):
    """Options of an experiment whose study other processes may carry out."""

    cluster: str | None = None
    """Workers of dask.distributed that train and measure: local, slurm, pbs, or a scheduler's address,
    tcp://...; default: this process."""
    workers: int = 2
    """Processes of a local cluster, jobs of slurm or pbs."""
    stack: int | None = None
    """Retrainings trained at once, as one task; default: 10 here, on a cluster as many as give each worker a task."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cluster is not None and self.cluster not in (LOCAL, *QUEUES) and not is_address(self.cluster):
            raise ValueError(
                "cluster: expected local, slurm, pbs, or a scheduler's address, as tcp://host:8786; got "
                f"{self.cluster!r}."
            )
        if self.workers < 1 or (self.stack is not None and self.stack < 1):
            raise ValueError(f"workers, stack: expected at least 1; got {self.workers} and {self.stack}.")

    def run(self, study: pg.Study) -> xr.Dataset:
        """The study's dataset, by this process or by others."""
        with workers(self.cluster, self.workers, study.folder) as executor:
            return study.run(executor, stack=self.stack)


@dataclass(frozen=True)
class Trained(OnDevice):
    """Options of a training in minibatches."""

    epochs: int = 60
    """Passes over the data per retraining."""
    batch_size: int = 64
    """Observations per minibatch."""
    learning_rate: float = 2e-3
    """Step size of Adam."""

    def training(self, **more: Any) -> pg.Training:
        """How it is trained; `more` goes to `Training`."""
        return pg.Training(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate, **more)


@dataclass(frozen=True)
class Perceptrons(Trained):
    """Options of a training of perceptrons."""

    width: int = 128
    """Units in each of the two hidden layers of encoder and decoders."""

    def perceptron(self) -> pg.nn.MLP:
        """The network of encoder and decoders."""
        return pg.nn.MLP(hidden=(self.width, self.width))


@dataclass(frozen=True)
class Retrained(Perceptrons):
    """Options of distances of the same pairs in several retrainings."""

    latent: int = 2
    """Dimension of the latent space; maps are drawn of two dimensions only."""
    retrainings: int = 10
    """Retrainings of each model, with seeds 0, 1, 2, ..."""
    pairs: int = 50
    """Random pairs of observations whose distances are measured."""
    segments: int = 256
    """Segments of a geodesic."""

    least: ClassVar[Mapping[str, tuple[int, str]]] = {
        "retrainings": (2, "as a variation over retrainings needs"),
        "pairs": (2, "as a spread over pairs needs"),
    }

    def solver(self) -> pg.GaussNewton:
        """How geodesics are found."""
        return pg.GaussNewton(num_segments=self.segments)

    def vae(self, decoder: Any, noise: float | None = None) -> pg.VAE:
        """A decoder with an encoder of the same perceptron, and Gaussian noise; None for a learned one."""
        return pg.VAE(self.latent, decoder, pg.Gaussian(noise), encoder=self.perceptron())

    def study(
        self,
        folder: Path,
        data: Any,
        points: Any,
        models: Mapping[Any, Any],
        measures: Mapping[str, pg.study.Measure],
        **more: Any,
    ) -> pg.Study:
        """Distances of the same pairs in all retrainings.

        Args:
            folder: of trainings and distances.
            data: data set to train on.
            points: data set of the observations between which distances are measured: random pairs.
            models, measures: see `Study`, and so is `more`.
        """
        options: dict[str, Any] = {
            "pairs": pg.sample_pairs(points.labels, num_pairs=self.pairs, seed=0),
            "training": self.training(),
        }
        x, seeds = data.x.to(self.device), range(self.retrainings)
        return pg.Study(
            folder, data=x, points=points.x, models=models, seeds=seeds, measures=measures, **options | more
        )


@dataclass(frozen=True)
class Ensemble(Output):
    """The option of an ensemble."""

    members: int = 10
    """Decoders in the ensemble."""


@dataclass(frozen=True)
class Observed(Output):
    """Options of a data set by name."""

    dataset: str = "digits"
    """digits (bundled), mnist, fashion_mnist, tasic, or a synthetic set such as two_moons."""
    classes: tuple[int, ...] = ()
    """Class codes to keep; none for all."""

    def observations(self) -> tuple[pg.datasets.Dataset, pg.datasets.Dataset]:
        """The data to train on, and those that pairs are taken from, see `data.observations`."""
        return observations(self.dataset, self.classes)


Config = TypeVar("Config", bound=Output)


def name_of(kind: type) -> str:
    """Name of the experiment whose configurations are of this class: of its file, or of its folder."""
    return _module_of(kind).removesuffix(".__main__").rpartition(".")[2]


def _module_of(kind: type) -> str:
    module = sys.modules[kind.__module__].__spec__  # run with -m, the module is called __main__
    return module.name if module else kind.__module__


def parsed(
    kind: type[Config], quick: Mapping[str, Any], presets: Mapping[str, Config], arguments: Sequence[str] | None = None
) -> Config:
    """The configuration of a command line: the preset's values, then those of `--quick`, then the options given.

    Args:
        kind: class of configurations, see `Output`; every field is an option, its docstring the help.
        quick: fields that `--quick` sets.
        presets: configurations by the name that a field `preset` has.
        arguments: the command line; None for that of the process.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--quick", action="store_true")
    known, _ = first.parse_known_args(arguments)
    default = presets[known.preset] if known.preset in presets else kind()
    if known.quick:
        default = dataclasses.replace(default, **quick)
    prog = f"python -m {_module_of(kind)}"
    return tyro.cli(kind, prog=prog, args=arguments, default=default, config=(tyro.conf.FlagCreatePairsOff,))
