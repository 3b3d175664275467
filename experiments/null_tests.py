"""How often does each test reject where nothing differs?

Retrainings of one model are split at random into two groups, which differ in nothing; every test on offer compares
them at a two-sided 5 %. The swap test, for two measures of the same trainings, is tried on simulated distances whose
variation is known, with heavy tails and pairs that share ends; so are the intervals of both tests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from experiments.common.options import Output
from experiments.common.results import Groups, Shown, load_result, run
from probgeo import identifiability

STORED = Path(__file__).parent / "results"
LEVEL = 0.05
TAILS = {"normal": np.inf, "t5": 5.0, "t3": 3.0}
SHARES = (0.2, 0.8)  # of the variance that a training has in common


@dataclass(frozen=True)
class Config(Output):
    """Rejections under a null that holds, of every test on offer, and coverage of the intervals."""

    stored: tuple[str, ...] = ("mnist-3", "mnist", "fashion-mnist")
    """Stored results of the experiment `identifiability` whose retrainings are split."""
    measure: str = "geodesic"
    """The measure whose distances are split."""
    groups: tuple[int, ...] = (5, 10, 15)
    """Retrainings of each group."""
    splits: int = 200
    """Random splits of each model's retrainings."""
    simulations: int = 100
    """Simulated studies of each kind, of which there are six."""
    permutations: int = 199
    """Permutations of each test."""
    resamples: int = 200
    """Resamples of each bootstrap interval."""
    seed: int = 0
    """Of splits, simulations, permutations and resamples."""


QUICK = {"stored": ("mnist-3",), "groups": (5, 10), "splits": 20, "simulations": 10, "permutations": 99}


def mean_cv(distance: xr.DataArray) -> xr.DataArray:
    """The statistic that all compare."""
    return identifiability.coefficient_of_variation(distance).mean("pair")


def tests_on_offer(config: Config) -> dict[str, Callable[[xr.DataArray, xr.DataArray], xr.DataArray]]:
    """Name -> whether the test rejects, over the other dims of two groups of distances."""

    def bootstrap(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
        bounds = identifiability.bootstrap_difference(
            mean_cv, a, b, config.resamples, level=1 - LEVEL, seed=config.seed
        )
        return (bounds.sel(bound="lower") > 0) | (bounds.sel(bound="upper") < 0)

    permuted = partial(identifiability.permutation_test, num_permutations=config.permutations, seed=config.seed)
    return {
        "paired t over pairs": lambda a, b: identifiability.paired_test(a, b, "two-sided").p <= LEVEL,
        "Wilcoxon over pairs": lambda a, b: identifiability.wilcoxon_test(a, b, "two-sided").p <= LEVEL,
        "bootstrap difference": bootstrap,
        "permutation test": lambda a, b: permuted(a, b).p_value <= LEVEL,
        "jackknife t": lambda a, b: permuted(a, b, num_permutations=1).p_jackknife <= LEVEL,
    }


def split(distance: xr.DataArray, num: int, splits: int, rng: np.random.Generator) -> list[xr.DataArray]:
    """Two groups (split, retraining, pair) of `num` retrainings each, none in both."""
    rows = np.stack([rng.permutation(distance.sizes["retraining"])[: 2 * num] for _ in range(splits)])
    plain = distance.reset_coords(drop=True).drop_vars(["retraining", "pair"], errors="ignore")
    return [
        plain.isel(retraining=xr.DataArray(part, dims=("split", "retraining")))
        for part in (rows[:, :num], rows[:, num:])
    ]


def rejections(config: Config) -> xr.Dataset:
    """Share of splits in which each test rejects, dims (test, group, cell): a cell is a stored result and its model."""
    rng = np.random.default_rng(config.seed)
    found = {}
    for name in config.stored:
        distance = load_result(STORED / f"identifiability-{name}.nc")["distances"].distance.sel(measure=config.measure)
        for model in distance.model.values:
            one = distance.sel(model=model, drop=True).drop_vars(["start", "stop"])
            ends = {end: distance[end] for end in ("start", "stop")}
            for num in config.groups:
                a, b = (each.assign_coords(ends) for each in split(one, num, config.splits, rng))
                for test, rejects in tests_on_offer(config).items():
                    found[test, num, f"{name}, {model}"] = float(rejects(a, b).mean())
    index = pd.MultiIndex.from_tuples(found, names=["test", "group", "cell"])
    shares = pd.Series(found.values(), index=index, name="rejected").to_xarray().to_dataset()
    return shares.sel(test=list(dict.fromkeys(index.get_level_values("test"))))


def simulated(
    rng: np.random.Generator, num: int, cvs: Sequence[float], tails: float, share: float, same: bool, times: int
) -> list[xr.DataArray]:
    """Distances (simulation, retraining, pair) that vary by given CVs around given means, all pairs of six points.

    d_rij = m_ij (1 + CV (√share c_r + √((1 − share) / 2) (e_ri + e_rj))), effects of unit variance; c, the training's
    own, is the same under both measures of the same trainings.
    """
    ends = np.array(list(combinations(range(6), 2)))

    def effects(*shape: int) -> np.ndarray:
        if np.isinf(tails):
            return rng.normal(size=shape)
        return rng.standard_t(tails, size=shape) / np.sqrt(tails / (tails - 2))

    common = effects(times, num, 1)
    sides = []
    for cv in cvs:
        training = common if same else effects(times, num, 1)
        points = effects(times, num, 6)
        variation = np.sqrt(share) * training + np.sqrt((1 - share) / 2) * points[..., ends].sum(-1)
        values = (1 + np.arange(len(ends))) * np.abs(1 + cv * variation)
        sides.append(xr.DataArray(values, dims=("simulation", "retraining", "pair")))
    return sides


def coverage(config: Config) -> xr.Dataset:
    """Rejections at equal CVs, and coverage of a ratio of 1.5, dims (test, group, cell), of simulated studies."""
    rng = np.random.default_rng(config.seed)
    tests = {"permutation test": identifiability.permutation_test, "swap test": identifiability.swap_test}
    found = {}
    for num in config.groups:
        for tails, df in TAILS.items():
            for share in SHARES:
                for name, test in tests.items():
                    chosen = partial(test, num_permutations=config.permutations, seed=config.seed)
                    simulate = partial(simulated, rng, num, tails=df, share=share, same=name == "swap test")
                    null_a, null_b = simulate([0.1, 0.1], times=config.simulations)
                    a, b = simulate([0.15, 0.1], times=config.simulations)
                    null = chosen(null_a, null_b)
                    other = chosen(a, b).interval
                    covered = (other.sel(bound="lower") <= 1.5) & (other.sel(bound="upper") >= 1.5)
                    rejected = float((null.p_value <= LEVEL).mean())
                    found[name, num, f"{tails}, {share:.0%}"] = rejected, float(covered.mean())
    index = pd.MultiIndex.from_tuples(found, names=["test", "group", "cell"])
    return pd.DataFrame(found.values(), index=index, columns=["rejected", "covered"]).to_xarray()


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time."""
    return {
        "stored": rejections(config).assign_attrs(num=config.splits),
        "simulated": coverage(config).assign_attrs(num=config.simulations),
    }


# --- what is shown ---


def with_means(share: xr.DataArray, num: int) -> pd.DataFrame:
    """Rows by group and test, a column per cell, and their mean with its standard error."""
    share = share.transpose("group", "test", "cell")
    frame = share.to_dataframe()[share.name].unstack("cell", sort=False)
    error = (share * (1 - share) / num).sum("cell") ** 0.5 / share.sizes["cell"]
    shown = {name: frame[name].map("{:.2f}".format) for name in frame}
    mean = frame.mean(axis=1)
    shown["mean ± s.e."] = [f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error.values.ravel(), strict=True)]
    return pd.DataFrame(shown, index=frame.index)


def printed(groups: Groups) -> str:
    """All tables, and what they mean."""
    stored, simulation = groups["stored"], groups["simulated"]
    return (
        "Rejected at a two-sided 5 %: two groups of retrainings of one model, split at random; nothing differs.\n"
        f"{with_means(stored.rejected, stored.attrs['num']).to_string()}\n"
        f"{stored.attrs['num']} splits per cell; the standard error is that of the splits, of the same retrainings.\n\n"
        "Rejected at a two-sided 5 %: simulated studies of equal variation.\n"
        f"{with_means(simulation.rejected, simulation.attrs['num']).to_string()}\n\n"
        "Covered by the 95 % interval: a ratio of CVs of 1.5, simulated.\n"
        f"{with_means(simulation.covered, simulation.attrs['num']).to_string()}\n"
        f"{simulation.attrs['num']} studies per cell of 15 pairs of 6 points. Columns: tails of the effects, and the "
        "share of the variance that is\nthe training's own (common to both measures, for the swap test). permutation "
        "test: two sides trained independently;\nswap test: two measures of the same trainings. Two-sided, five swaps "
        "cannot reject at 5 %: their interval is unbounded."
    )


def figure_of(share: xr.DataArray) -> Figure:
    """Rejections of every test against the size of the groups: a dot per cell, a line through the means."""
    figure = Figure(figsize=(8.5, 3.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    places = np.arange(share.sizes["group"])
    for index, test in enumerate(share.test.values):
        values = share.sel(test=test)
        shift = places + 0.13 * (index - (share.sizes["test"] - 1) / 2)
        color = f"C{index}"
        axes.plot(shift, values.transpose("group", "cell"), "o", color=color, markersize=3.5, alpha=0.5)
        axes.plot(shift, values.mean("cell"), "_", color=color, markersize=15, markeredgewidth=2.5, label=str(test))
    axes.axhline(LEVEL, color="0.3", linewidth=0.9, linestyle="--")
    axes.annotate("5 %", (places[-1] + 0.42, LEVEL), ha="right", va="bottom", fontsize=8, color="0.3")
    axes.set_xticks(places, [f"{num} against {num}" for num in share.group.values])
    axes.set(ylabel="rejected, nothing differs", ylim=(0, None), xlim=(-0.45, places[-1] + 0.45))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def report(groups: Groups) -> Shown:
    """Tables of rejections and coverage; rejections of every test against the size of the groups."""
    print(printed(groups))
    tables = {name: group.to_dataframe() for name, group in groups.items()}
    return tables, {"": figure_of(groups["stored"].rejected)}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, arguments=arguments)


if __name__ == "__main__":
    main()
