"""Geodesic solvers compared in one process: ratios of time and energy, growth with size; a table and two figures."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import xarray as xr

from experiments.benchmarks import all_pairs, general_maps, held_out, planes, training
from experiments.benchmarks.comparison import DECORRELATED, EXPECTED, Budget, comparison, table
from experiments.benchmarks.figures import comparison_figure, growth_figure
from experiments.benchmarks.growth import growth, slope
from experiments.benchmarks.problems import PUBLISHED_TIMES, Problem, stored_ensemble, trained_ensemble
from experiments.benchmarks.published import STEPS
from experiments.common.options import Output, parsed
from experiments.common.results import Groups, config_of, folder_of, load_result, save_result, told


@dataclass(frozen=True)
class Config(Output):
    """Compare geodesic solvers: time in floors (evaluations of all members and Jacobians), energy over best known."""

    ensemble: Path | None = None
    """npz file of a trained ReLU ensemble with pairs a, b, also below $PROBGEO_DATA; default: one is trained."""
    dataset: str = "digits"
    """What it is trained on: digits, mnist, fashion_mnist, or a synthetic set such as two_moons."""
    latent: int = 2
    """Dimension of its latent space."""
    members: int = 10
    """Decoders of that ensemble."""
    width: int = 128
    """Units in each of the two hidden layers of its networks."""
    epochs: int = 60
    """Passes over the data of its training."""
    pairs: int = 45
    """Its pairs; a file brings its own, of which at most this many are used."""
    segments: int = 256
    """Segments of a geodesic, of the floor, and of the energy by which all methods are scored."""
    repeats: int = 5
    """Runs of each method, at most; the table shows medians."""
    patience: float = 20.0
    """Seconds after which a method is not run again."""
    bends: int = 12
    """Bent starts among the tight solves that give the best known energies."""
    lbfgs_iterations: int = 500
    """Iterations of SciPy's L-BFGS, at most."""
    geomstats_pairs: int = 2
    """Pairs that geomstats solves, one by one (its time is scaled to all pairs); 0 leaves it out."""
    published_pairs: int = 10
    """Pairs that the published optimiser solves (its time is scaled to all pairs)."""
    published_steps: int = STEPS
    """Steps of the published optimiser, each of about 13 floors."""
    published_times: int = PUBLISHED_TIMES
    """Times at which the published energy is a sum."""
    growth_pairs: tuple[int, ...] = (64, 256, 1024, 4096)
    """Numbers of pairs whose solution is timed."""
    growth_segments: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Numbers of segments."""
    growth_members: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of members, at most those of the ensemble."""
    growth_latent: tuple[int, ...] = (2, 4, 8, 16)
    """Latent dimensions; an ensemble is trained for each."""


QUICK = {
    "members": 3,
    "width": 32,
    "epochs": 15,
    "pairs": 6,
    "segments": 64,
    "repeats": 3,
    "patience": 2.0,
    "bends": 4,
    "lbfgs_iterations": 200,
    "geomstats_pairs": 1,
    "published_steps": 20,
    "growth_pairs": (16, 64, 256),
    "growth_segments": (32, 64, 128),
    "growth_members": (1, 3),
    "growth_latent": (2, 4),
}


def problem_of(config: Config, folder: Path, latent: int | None = None) -> Problem:
    """The stored ensemble, or one trained on the dataset (always where `latent` is given), with its pairs."""
    if config.ensemble and latent is None:
        return stored_ensemble(config.ensemble).first(config.pairs)
    sizes = config.members, config.width, config.epochs, config.pairs
    return trained_ensemble(config.dataset, folder / "trainings", latent or config.latent, *sizes)


def growth_of(config: Config, folder: Path, problem: Problem) -> xr.Dataset:
    """Seconds against pairs, segments, members and latent dimensions."""
    N = config.segments
    members = [size for size in config.growth_members if size <= problem.members.num_members]
    cases = {
        "pairs": {size: (problem.with_random_pairs(size), N) for size in config.growth_pairs},
        "segments": {size: (problem, size) for size in config.growth_segments},
        "members": {size: (problem.with_members(size), N) for size in members},
        "latent_dimensions": {size: (problem_of(config, folder, size), N) for size in config.growth_latent},
    }
    return growth(cases, config.repeats, config.patience)


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time."""
    problem = problem_of(config, folder)
    budget = Budget(**{name: getattr(config, name) for name in Budget.__dataclass_fields__})
    sizes = {
        "threads": torch.get_num_threads(),
        "num_members": problem.members.num_members,
        "latent_dimensions": problem.start.shape[1],
    }
    groups = {name: dataset.assign_attrs(sizes) for name, dataset in comparison(problem, budget).items()}
    return groups | {"growth": growth_of(config, folder, problem)}


def report(groups: Groups, folder: Path) -> None:
    """Tables and figures of a result file; computes nothing."""
    first = groups[EXPECTED]
    config, sizes = config_of(first), first.attrs
    print(
        f"{first.sizes['pair']} pairs, {sizes['num_members']} members, latent dimension {sizes['latent_dimensions']}, "
        f"N = {config['segments']}, {sizes['threads']} threads. One floor, all members and their Jacobians at all "
        f"nodes: {float((first.seconds / first.floors).median()) * 1e3:.3g} ms. "
        "Where fewer pairs were solved, the time is scaled to all."
    )
    folder.mkdir(parents=True, exist_ok=True)
    published = f"{config['published_times']} times, {config['published_steps']} steps of the published optimiser"
    titles = {EXPECTED: "Expected energy", DECORRELATED: f"Decorrelated energy, {published}"}
    for objective, title in titles.items():
        frame = table(groups[objective])
        frame.to_csv(folder / f"{objective}.csv")
        print(f"\n{title}\n{frame.to_string(float_format='{:.5g}'.format, na_rep='-')}")
    print("\nGrowth of the solver's time from straight lines, exponents:")
    for seconds in groups["growth"].data_vars.values():
        name = str(seconds.dims[0])
        grown = seconds[name].values
        per_size = ", ".join(f"{s}: {t:.3g} s" for s, t in zip(grown, seconds.values, strict=True))
        print(f"  {name.replace('_', ' ')}: {slope(grown, seconds.values):.2f} ({per_size})")
    figures = {"energy_against_time.png": comparison_figure(groups), "growth.png": growth_figure(groups["growth"])}
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=200)
    print("wrote", *(str(folder / name) for name in (*(f"{kind}.csv" for kind in titles), *figures)))


def main(arguments: list[str] | None = None) -> None:
    """Compute, print the tables, draw the figures, say where they are; those named first do theirs instead."""
    arguments = sys.argv[1:] if arguments is None else arguments
    others = {
        "training": training.main,
        "held-out": held_out.main,
        "general-maps": general_maps.main,
        "planes": planes.main,
        "all-pairs": all_pairs.main,
    }
    with told():
        if arguments and arguments[0] in others:
            others[arguments[0]](arguments[1:])
            return
        config = parsed(Config, QUICK, {}, arguments)
        folder = folder_of(config, "benchmarks")
        file = config.result or folder / "benchmarks.nc"
        if not config.result:
            save_result(compute(config, folder), config, file)
        report(load_result(file, Config), folder)
        if not config.result:
            print(f"results: {file}")


if __name__ == "__main__":
    main()
