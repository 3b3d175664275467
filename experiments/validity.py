"""Does a distance survive retraining, does it tell pairs apart, and is it right?

On manifolds whose true distances are known independently of the library, and on real data where another source says
something of the same rows, the same pairs are measured in every retraining: by the codes, by straight lines and
geodesics of each source of uncertainty, by reconstructions, by the data themselves and through their neighbours. One
table with all three legs, the solver's share, and what a check says that knows no truth. Run again, it resumes.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from torch import Tensor

import probgeo as pg
from experiments.common import checks
from experiments.common.decoders import Source, decoders
from experiments.common.lost import fitted, told_of_lost
from experiments.common.options import Ensemble, Retrained
from experiments.common.results import Groups, Shown, run
from experiments.common.truths import KNOWN, REAL, Known, gain, known, neighbours_that_join, rightness
from experiments.common.validity_figure import MEASURES, OF_DATA, WITHOUT_MODEL, figure_of
from probgeo.identifiability import (
    coefficient_of_variation,
    icc,
    rank_agreement,
    relative_error,
    solver_excess,
    spread,
)
from probgeo.identifiability.verdicts import RIGHT as ACCEPTED
from probgeo.identifiability.verdicts import SURVIVES
from probgeo.study.tight import tightened

DIMS = ("model", "measure", "neighbours")  # whose labels are kept
OF_MODELS = [measure for measure in MEASURES if measure not in OF_DATA]
OF_CHECK = ["graph", "radius", "noise", "residual", "trustworthiness", "continuity"]
AGAINST = {
    "reconstructed": "the distance of reconstructions",
    "straight": "the straight line under the same metric",
    "isomap": "the shortest path through neighbours, without a model",
}
MATTERS = 0.01  # of ρ, or of the share of triples: less is no reason for anything
STABLE, RIGHT = SURVIVES[1], ACCEPTED[1]  # what a verdict calls no more than roughly so
IN_SHORT = "each cell: right, CV, ICC; of ambient and isomap, which need no model, right alone (CV 0, ICC 1)."
CHECK_IN_SHORT = (
    "check: what is said of the geodesic without a truth, in how many trainings; a/b: in a of b it is so.\n"
)
NOTE = """CV, spread, ICC, rank: as in the table of digits. right: Spearman's ρ with the true distance on
manifolds, one of which are the rotations of a digit; with differences of pseudotime (haematopoiesis) and
levels of the taxonomy (tasic_markers), which is agreement and not truth; for digits and fashion_mnist the
share of triples whose two of a class are nearer, half by chance; means over retrainings [95 % bootstrap
over retrainings and end points].
error: median relative error of the distance, after the best scale; scale: median of distance over true
distance, 1 is right (euclidean: of any unit). solver: 95th percentile of how much longer a geodesic is
than that of a tight search from many starts. ms: per pair, on a machine shared with other work."""
CHECK = """What the check (study.manifold_check, identifiability.trust) says of each distance, which knows no truth,
and in how many trainings; a/b: in b, and in a of them it is so, ρ with the truth above .9 where it is
trusted and not above where it is doubted. why: what is found against one of them in most trainings."""


@dataclass(frozen=True)
class Config(Retrained, Ensemble):
    """Variation, discrimination and rightness of distances, on data whose distances are known."""

    preset: Literal["whole"] | None = None
    """whole: all manifolds and five real sets at 10 retrainings, which needs their files."""
    data: tuple[str, ...] = (*KNOWN, "digits")
    """Manifolds, and of real data rotated_digit (a digit turned by all angles) and digits, which are bundled,
    fashion_mnist, haematopoiesis, tasic_markers."""
    models: tuple[Source, ...] = ("rbf", "ensemble")
    """Sources of uncertainty."""
    rows: int = 2000
    """Observations of a manifold, and at most of real data."""
    ambient: int = 10
    """Dimensions that a manifold is turned into."""
    noise: float = 0.05
    """Standard deviation of the noise on a manifold's features, over that of its points."""
    members: int = 5
    """Decoders in the ensemble."""
    retrainings: int = 5
    """Retrainings of each model, with seeds 0, 1, 2, ..."""
    pairs: int = 80
    """Pairs of observations whose distances are measured."""
    segments: int = 128
    """Segments of a geodesic."""
    epochs: int = 60
    tight: int = 6
    """Pairs that are solved again, tightly and from many starts, for the solver's share."""
    bends: int = 4
    """Bent lines that those start from, besides the straight line and the graph's routes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.data if name not in (*KNOWN, *REAL)]
        if unknown or not self.data:
            raise ValueError(
                f"data: expected some of {', '.join([*KNOWN, *REAL])}; got {', '.join(unknown) or 'none'}."
            )
        if self.tight < 2 or self.tight > self.pairs:
            raise ValueError(f"tight: expected 2 to {self.pairs}, the pairs; got {self.tight}.")
        if self.pairs < 4 or self.pairs % 2:
            raise ValueError(f"pairs: expected an even number of at least 4, for triples of classes; got {self.pairs}.")


QUICK = {
    "data": ("surface", "digits"),
    "rows": 300,
    "members": 2,
    "retrainings": 3,
    "pairs": 16,
    "segments": 32,
    "epochs": 20,
    "tight": 4,
    "bends": 1,
}
PRESETS = {"whole": Config(preset="whole", data=(*KNOWN, *REAL), retrainings=10, segments=256)}


def measured(config: Config, folder: Path, name: str, data: Known) -> xr.Dataset:
    """All distances of the pairs of one data set, what is known of them, and the tight ones of a sample."""
    network = config.perceptron()
    sources = decoders(network, config.members)
    models: dict[str, Any] = {
        each: pg.VAE(data.latent, sources[each], pg.Gaussian(), encoder=network) for each in config.models
    }
    solver = config.solver()
    measures: dict[str, pg.study.Measure] = {
        "geodesic": pg.Geodesic(solver=solver),
        "straight": pg.StraightLine(num_segments=config.segments),
    }
    many: dict[str, pg.study.Measure] = {
        "geodesic": pg.study.ManyStarts(solver=tightened(solver), num_bends=config.bends)
    }
    some = np.sort(np.random.default_rng(0).choice(len(data.pairs), config.tight, replace=False))

    def study_of(pairs: Tensor, measures: Mapping[str, pg.study.Measure]) -> pg.Study:
        return pg.Study(
            folder / name,
            data=data.x.to(config.device),
            pairs=pairs,
            models=models,
            seeds=range(config.retrainings),
            measures=measures,
            training=config.training(),
        )

    study = study_of(data.pairs, measures)
    found = study.run()
    lost = found.lost
    trainings = {each: fitted(study, lost, each) for each in models}
    check = pg.study.manifold_check(trainings, study.data, pg.study.with_ambient_distances(found))
    tight = study_of(data.pairs[some], many).run().distance.sel(measure="geodesic", drop=True)
    graph, num_neighbours = neighbours_that_join(data.x, data.pairs)
    # Pairs and retrainings by position alone: data sets of the same sizes are stacked.
    found, tight, check = (
        each.drop_vars([name for name in each.coords if name not in DIMS]) for each in (found, tight, check)
    )
    kept = {each: few_digits(found[each]) for each in ("distance", "euclidean_reconstructed", "euclidean_ambient")}
    kept |= {
        "isomap": ("pair", few_digits(graph)),
        "reference": ("pair", data.reference),
        "ends": (("pair", "end"), data.pairs.numpy().astype(np.int32)),
        "status": found.status.sel(measure="geodesic", drop=True).fillna(-1).astype(np.int8),
        "seconds": found.seconds,
        "tight": tight.rename(pair="sample"),
        "less_tight": found.distance.sel(measure="geodesic", drop=True)[..., some].rename(pair="sample"),
        "sampled": ("sample", some),
        "lost": "\n".join(told_of_lost(lost)),
    }
    kept |= {each: few_digits(check[each]) for each in OF_CHECK}
    whole = {"kind": data.kind, "num_neighbours": num_neighbours, "num_rows": len(data.x), "dimension": data.latent}
    return xr.Dataset(kept).assign(whole)


def few_digits(values: Any) -> Any:
    """Rounded to a relative error of 1e-3: the file is small."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2**10) / 2**10, exponent)


def compute(config: Config, folder: Path) -> Groups:
    """Everything that takes time: trainings and distances, of one data set after the other."""
    sizes = config.rows, config.pairs, config.ambient, config.noise, config.latent
    sets = {name: known(name, *sizes) for name in config.data}  # a file that is missing is said before any training
    found = [measured(config, folder, name, data) for name, data in sets.items()]
    return {"distances": xr.concat(found, "data").assign_coords(data=list(config.data))}


def sets_of(groups: Groups) -> Iterator[tuple[str, xr.Dataset]]:
    """Data sets by name."""
    for name in groups["distances"].data.values:
        found = groups["distances"].sel(data=name)
        if "less_tight" not in found:  # of a result that was stored before the check was there
            own = found.distance.sel(measure="geodesic", drop=True).isel(pair=found.sampled.values)
            found = found.assign(less_tight=own.rename(pair="sample"), lost="")
        yield str(name), found


# --- the table -------------------------------------------------------------------------------------------------------


def rows_of(found: xr.Dataset) -> tuple[dict[tuple[str, str], xr.DataArray], xr.DataArray]:
    """Distances (retraining, pair) by model and measure, on the pairs that all have, and what is known of these."""
    rows = {}
    for model in map(str, found.model.values):
        for measure in map(str, found.measure.values):
            rows[model, measure] = found.distance.sel(model=model, measure=measure, drop=True)
        rows[model, "reconstructed"] = found.euclidean_reconstructed.sel(model=model, drop=True)
    first = next(iter(rows.values()))
    for name in OF_DATA:
        values = found.euclidean_ambient if name == "ambient" else found.isomap
        rows[WITHOUT_MODEL, name] = values.broadcast_like(first).transpose(*first.dims)
    rows = {name: row.dropna("retraining", how="all") for name, row in rows.items()}  # a training may be lost
    rows = {name: row for name, row in rows.items() if row.sizes["retraining"] > 1}  # of one alone there is no CV
    kept = np.all([np.isfinite(row).all("retraining") for row in rows.values()], axis=0)
    if found.kind == "triples":
        kept = np.tile(kept.reshape(2, -1).all(0), 2)
    ends = {"start": found.ends[:, 0], "stop": found.ends[:, 1]}  # pairs that share an end are resampled together
    rows = {name: row.drop_vars("data").assign_coords(ends)[:, kept] for name, row in rows.items()}
    return rows, found.reference[kept].drop_vars("data")


def table_of(name: str, found: xr.Dataset) -> pd.DataFrame:
    """A row per model and measure of one data set."""
    rows, reference = rows_of(found)
    said = said_of(found) if "graph" in found else pd.DataFrame()
    records = {}
    for (model, measure), row in rows.items():
        right = rightness(row, reference, str(found.kind.values))
        record = {
            "cv": float(coefficient_of_variation(row).mean("pair")),
            "spread": float(spread(row)),
            "icc": float(icc(row)),
            "rank": float(rank_agreement(row)),
            "right": float(right["mean"]),
            "right_lower": float(right.lower),
            "right_upper": float(right.upper),
            "scale": np.nan,
            "error": np.nan,
            "excess": np.nan,
            "ms": np.nan,
        }
        if str(found.kind.values) == "truth":
            of_truth = relative_error(row, reference).mean("retraining")
            record |= {"scale": float(of_truth.scale), "error": float(of_truth.error)}
        if measure == "geodesic":
            own, tight = (found[each].sel(model=model).rename(sample="pair") for each in ("less_tight", "tight"))
            record["excess"] = float(solver_excess(own, tight).quantile_95)
        if measure in found.measure.values:
            seconds = found.seconds.sel(model=model, measure=measure).median("retraining")
            record["ms"] = 1000 * float(seconds) / found.sizes["pair"]
        if (model, measure) in said.index:
            record |= said.loc[(model, measure)].to_dict()
        records[name, model, measure] = record
    return pd.DataFrame.from_dict(records, orient="index").rename_axis(["data", "model", "measure"])


def said_of(found: xr.Dataset) -> pd.DataFrame:
    """What the check says of the distances of models, see `checks.judged`."""
    rows = [found.distance, found.euclidean_reconstructed.expand_dims(measure=["reconstructed"])]
    distance = xr.concat(rows, "measure", coords="minimal").transpose(*found.distance.dims)
    check = found[OF_CHECK].assign(distance=distance, ambient=found.euclidean_ambient)
    return checks.judged(check, found.reference if found.kind == "truth" else None)


def number(value: float, digits: int = 3) -> str:
    """Without the zero in front of the point."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}".replace("0.", ".", 1)


def overview(table: pd.DataFrame) -> str:
    """A line per data set and model: how right each distance is, its CV and its ICC; what no model was needed for."""
    lines = {}
    for data, of_data in table.groupby("data", sort=False):
        free = of_data.xs(WITHOUT_MODEL, level="model").loc[data]
        for model, of_model in of_data.groupby("model", sort=False):
            if model == WITHOUT_MODEL:
                continue
            rows = of_model.loc[data, model]
            cells = {
                measure: " ".join([number(row.right), number(row.cv, 2), number(row.icc, 2)])
                for measure, row in rows.iterrows()
            }
            without = {measure: number(free.right[measure]) for measure in OF_DATA}
            cells |= without | {"solver": number(rows.excess["geodesic"], 4)}
            if "why" in rows:
                cells["check"] = checks.cell(rows.loc["geodesic"])
            lines[data, model] = cells
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(["data", "model"]).to_string()


def checked(table: pd.DataFrame) -> str:
    """A line per data set and model: what the check says of each distance, and why."""
    lines = {}
    for (data, model), rows in table[table.why.notna()].groupby(["data", "model"], sort=False):
        of_measure = rows.loc[data, model]
        cells = {measure: checks.cell(row) for measure, row in of_measure.iterrows()}
        why = dict.fromkeys(word for text in of_measure.why for word in text.split(", ") if word)
        lines[data, model] = cells | {"why": ", ".join(why)}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(["data", "model"]).to_string()


def shown(table: pd.DataFrame) -> str:
    """The table, rounded."""
    columns = {
        "CV": table.cv.map(number),
        "spread": table.spread.map(lambda value: number(value, 2)),
        "ICC": table.icc.map(number),
        "rank": table["rank"].map(number),
        "right": [
            f"{number(row.right)} [{number(row.right_lower, 2)}, {number(row.right_upper, 2)}]"
            for row in table.itertuples()
        ],
        "error": table.error.map(number),
        "scale": table.scale.map(lambda value: number(value, 2)),
        "solver": table.excess.map(lambda value: number(value, 4)),
        "ms": table.ms.map(lambda value: number(value, 1)),
    }
    return pd.DataFrame(columns, index=table.index).to_string()


# --- what it says ----------------------------------------------------------------------------------------------------


def gains(found: xr.Dataset, measure: str) -> dict[str, tuple[float, float, float]]:
    """By model, by how much the geodesic is nearer to what is known than another measure, with its interval."""
    rows, reference = rows_of(found)
    gained = {}
    for model in map(str, found.model.values):
        other = rows[WITHOUT_MODEL if measure in OF_DATA else model, measure]
        gained[model] = gain(rows[model, "geodesic"], other, reference, str(found.kind.values))
    return gained


def said(groups: Groups) -> Sequence[str]:
    """Where a geodesic is worth its price, and where not."""
    text = []
    for measure, what in AGAINST.items():
        outcome: dict[str, list[str]] = {"nearer": [], "no difference found": [], "farther": []}
        for name, found in sets_of(groups):
            for model, (estimate, lower, upper) in gains(found, measure).items():
                matters = abs(estimate) >= MATTERS
                side = "nearer" if lower > 0 else "farther" if upper < 0 else "no difference found"
                which = side if matters else "no difference found"
                interval = f"{estimate:+.3f} [{lower:+.3f}, {upper:+.3f}]"
                outcome[which].append(f"{name} {model} {interval}")
        text.append(f"geodesic against {what}, nearer to what is known by at least {MATTERS}:")
        text += [f"  {which}: {', '.join(cases) or 'nowhere'}" for which, cases in outcome.items()]
    return [textwrap.fill(line, 110, subsequent_indent="    ") for line in text]


def errors(table: pd.DataFrame) -> str:
    """Errors of geodesics, of reconstructions and of shortest paths through neighbours, where the truth is known."""
    cases = []
    for (data, model), rows in table[table.error.notna()].groupby(["data", "model"], sort=False):
        if model != WITHOUT_MODEL:
            shown = [number(rows.error[data, model, measure]) for measure in ("geodesic", "reconstructed")]
            cases.append(f"{data} {model} {', '.join([*shown, number(table.error[data, WITHOUT_MODEL, 'isomap'])])}")
    line = f"error of geodesic, reconstructed, isomap: {'; '.join(cases) or 'unknown'}"
    return textwrap.fill(line, 110, subsequent_indent="    ")


def stable_and_wrong(table: pd.DataFrame, groups: Groups) -> str:
    """Rows that survive retraining and are not right: what stability alone would have passed."""
    true = table.index.get_level_values("data").isin([name for name, found in sets_of(groups) if found.kind == "truth"])
    of_model = table.index.get_level_values("model") != WITHOUT_MODEL
    chosen = table[true & of_model & (table.cv < STABLE) & (table.right_upper < RIGHT)]
    total = int((true & of_model & (table.cv < STABLE)).sum())
    names = ", ".join(f"{data} {model} {measure}" for data, model, measure in chosen.index) or "none"
    if "why" in table:
        words = [checks.main_word(row) for _, row in chosen.iterrows()]
        names += ". By the check: " + ", ".join(f"{word} {words.count(word)}" for word in checks.WORDS)
    text = (
        f"stable and wrong (CV below {STABLE}, ρ with the truth below {RIGHT}), {len(chosen)} of {total} stable rows: "
    )
    return textwrap.fill(f"{text}{names}", 110, subsequent_indent="    ")


def report(groups: Groups) -> Shown:
    """The table of all data sets, what it says in words, and the map of variation and rightness."""
    table = pd.concat([table_of(name, found) for name, found in sets_of(groups)])
    print(overview(table), IN_SHORT, CHECK_IN_SHORT if "why" in table else "", shown(table), NOTE, sep="\n")
    if "why" in table:
        print("", checked(table), CHECK, sep="\n")
        print(textwrap.fill(checks.WHY, 110), textwrap.fill(checks.hits(table), 110), "", sep="\n")
    print(stable_and_wrong(table, groups), errors(table), sep="\n")
    print(*said(groups), sep="\n")
    for name, found in sets_of(groups):
        used = rows_of(found)[1].sizes["pair"]
        failed = int((found.status > pg.Status.CONVERGED).sum())
        print(*str(found.lost.values).splitlines(), sep="\n", end="\n" if str(found.lost.values) else "")
        print(
            f"{name}: {int(found.num_rows)} rows, {used} of {found.sizes['pair']} pairs, "
            f"{found.sizes['retraining']} retrainings, {int(found.dimension)} latent dimensions, "
            f"{int(found.num_neighbours)} neighbours; {failed} of {found.status.size} geodesics did not converge"
        )
    return {"table": table}, {"": figure_of(table)}


def main(arguments: list[str] | None = None) -> None:
    """The command line, from end to end."""
    run(Config, compute, report, QUICK, PRESETS, arguments)


if __name__ == "__main__":
    main()
