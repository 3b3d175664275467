"""Fitted models in, one labelled dataset out: what every measure says of the same pairs in every retraining."""

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probgeo.arrays import sends_each_time
from probgeo.datasets.mapped import as_rows, sized
from probgeo.geometry.geodesics import Status
from probgeo.jobs import TaskLost, carried_out, check_executor
from probgeo.models.base import LatentModel, ModelSpec, codes_of
from probgeo.rows import StoredRows, num_in_block, rows_of_numbers
from probgeo.specs import digest
from probgeo.study.asked import Asked, check_named, checked
from probgeo.study.measures import DEFAULT_MEASURES, Euclidean, Measure
from probgeo.study.own import Rows, own_rows
from probgeo.study.probe import check_seen
from probgeo.study.quantities import Quantity
from probgeo.study.store import Held, Inputs, Mapped

EUCLIDEAN = "euclidean"
# Dims of the dataset, in this order.
ORDER = ("model", "measure", "retraining", "draw", "pair", "triple", "region")

# Of one retraining, by measure; or why there is nothing.
Row = Mapping[str, xr.Dataset] | str


class RetrainingLost(UserWarning):
    """A retraining diverged or its codes collapsed: its rows of the dataset are NaN, the others are not touched.

    Example:
        >>> import warnings, torch, probgeo as pg
        >>> class Collapsed(pg.LatentModel):  # all codes at the origin
        ...     latent, num_features = 2, 2
        ...     def encode(self, x):
        ...         return pg.Encoding(torch.zeros_like(x), torch.ones_like(x))
        ...     def decode(self, z):
        ...         return z
        >>> pairs, measures = torch.tensor([[0, 1]]), {"straight": pg.StraightLine()}
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     found = pg.measure({"model": [Collapsed()]}, torch.eye(2), pairs, measures)
        >>> caught[0].category is pg.study.RetrainingLost, found.distance.isnull().all().item()
        (True, True)
    """


def measure(
    models: Mapping[str, Sequence[LatentModel]],
    x: Rows,
    pairs: Rows,
    measures: Mapping[str, Measure] = DEFAULT_MEASURES,
    *,
    library_size: Rows | None = None,
    points: Rows | None = None,
    triples: Rows | None = None,
    regions: Mapping[str, Rows] | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Distances of the same pairs in several trainings of each model; a list of trainings is the dim `retraining`.

    Args:
        models: by name, models that were trained independently, on the same data; lists may be of unequal lengths.
        x: observations (row, feature) that the models were trained on, whose codes are where paths may go; a tensor,
            an array or a table, as all rows here; what is mapped from a file stays there, as in `fit`. Of an AnnData or
            a `Dataset` each model reads what it needs beside the numbers, such as the batch of each cell.
        pairs: rows of `points` (pair, 2) whose distances are measured.
        measures: by name; `euclidean`, the distance of the codes, is always there.
        library_size: of each row of x, for models whose likelihood reads it, as in `fit`; that of points is in their
            `Dataset`.
        points: observations that `pairs` refers to, e.g. a test set; None for `x`.
        triples: rows of `points` (triple, 3): the angle at the first between the ways to the other two.
        regions: by name, rows of `points` (row,): the volume of the convex hull of their codes.
        executor: any `concurrent.futures.Executor`, which models are sent to, each once; data are written to a folder
            that Python's `tempfile` chooses (`TMPDIR`) and mapped from there, on `Workers` sent once. None measures
            here.
        progress: show a bar with the remaining time.

    Returns:
        Dataset with dims (model, measure, retraining, pair): `distance`, `energy`, `status`; `seconds` (model, measure,
        retraining), of all pairs; `euclidean_latent`, `euclidean_reconstructed` (model, retraining, pair),
        `euclidean_ambient` (pair); what else a measure keeps, such as `draw_length` (model, measure, retraining, draw,
        pair); with triples `angle`, in radians, and `angle_status` (model, measure, retraining, triple); with regions
        `volume` and the estimated error of its quadrature `volume_error` (model, measure, retraining, region).
        Coordinates: `num_members` (model); `start`, `stop`, `corner`, `first`, `second`, rows of the points; `training`
        (model, retraining), equal where two have the same codes, as models that differ in what was fitted after
        training do; `lost` (model, retraining), why rows are NaN, empty where they are not.

    Raises:
        TypeError: a model that is no `LatentModel`, or lacks what a measure asks for.
        ValueError: no models or measures, a measure of another kind named `euclidean`, or rows outside the points.
        OSError: workers do not see the folder of the data.

    Warns:
        RetrainingLost: codes of a model are all equal, or not finite.

    Example:
        >>> import torch, probgeo as pg
        >>> class Plane(pg.LatentModel):  # the same plane in every training, but for the unit of its codes
        ...     latent, num_features = 2, 2
        ...     def __init__(self, unit):
        ...         self.unit = unit
        ...     def encode(self, x):
        ...         return pg.Encoding(x / self.unit, torch.zeros_like(x))
        ...     def decode(self, z):
        ...         return self.unit * z
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0], [0.0, 4.0]])
        >>> distance = pg.measure({"plane": [Plane(1.0), Plane(10.0)]}, x, torch.tensor([[0, 1]])).distance
        >>> distance.sel(measure="geodesic").values.ravel().round(3)
        array([5., 5.], dtype=float32)
        >>> distance.sel(measure="euclidean").values.ravel().round(3)
        array([5. , 0.5], dtype=float32)
    """
    if not isinstance(models, Mapping):
        raise TypeError(
            f"models: expected lists of LatentModels by name, {{'mine': [model, ...]}}; got {type(models).__name__}."
        )
    models = {name: listed(retrainings) for name, retrainings in models.items()}
    for name, retrainings in models.items():
        for model in [retrainings] if isinstance(retrainings, (LatentModel, ModelSpec)) else retrainings:
            if not isinstance(model, LatentModel) or model is retrainings:
                raise TypeError(
                    f"models: expected a list of LatentModels, one per training; got {type(model).__name__} for "
                    f"{name!r}. Fit a spec first, or run a Study; wrap a model trained elsewhere."
                )
    if not models or not all(len(retrainings) for retrainings in models.values()):
        raise ValueError(f"models: expected at least one, each with at least one training; got {_sizes(models)}.")
    check_executor(executor)
    measures = with_euclidean(measures)
    given, others = sized(x, library_size), points
    x, points = checked_data("x", given, points)
    acquaint((found[0] for found in models.values()), x)
    asked = checked(pairs, triples, regions, len(points), {name: found[0] for name, found in models.items()})
    every = [model for found in models.values() for model in found]
    own = [Held(*own_rows(model, given, others, x, points), asked) for model in every]
    with _for_workers(own, executor) as inputs:
        jobs = [(model, read, applicable(measures, model)) for model, read in zip(every, inputs, strict=True)]
        results = carried_out(measured_of, jobs, executor, "measuring distances", progress)
    each = iter(str(result) if isinstance(result, TaskLost) else result for result in results)
    found = {name: [next(each) for _ in retrainings] for name, retrainings in models.items()}
    dataset = assembled(found, measures, asked, points)
    return dataset.assign_coords(num_members=("model", [found[0].num_members for found in models.values()]))


@contextmanager
def _for_workers(inputs: Sequence[Held], executor: Executor | None) -> Iterator[Sequence[Inputs]]:
    """What tasks read: as it is where they are done here, or where it is sent once, else in files; equal rows once."""
    same: dict[Any, Any] = {}
    one = [same.setdefault((id(each.x), id(each.points)), each) for each in inputs]
    if executor is None or not sends_each_time(executor):
        yield one
        return
    with tempfile.TemporaryDirectory(prefix="probgeo-") as folder:
        place, there = Path(folder), {}
        for each in one:
            if id(each) not in there:
                there[id(each)] = Mapped.written(each, place, digest(each.x), digest(each.points))
        paths = {path for each in there.values() for path in each.paths}
        check_seen(executor, place, sorted(paths), "Set TMPDIR to a folder")
        yield [there[id(each)] for each in one]


def measured_of(model: LatentModel, inputs: Inputs, measures: Mapping[str, Measure]) -> Row:
    """`measured`, of inputs that may be in files."""
    x, points, asked = inputs.load(own=False)
    return measured(model, x, points, asked.rows(), measures)


def listed(retrainings: Any) -> Any:
    """What may be asked for its length: an iterator as a list."""
    return list(retrainings) if isinstance(retrainings, Iterator) else retrainings


def acquaint(models: Iterable[LatentModel | ModelSpec], x: Tensor | StoredRows) -> None:
    """Models that read their dimensions off the first rows that they encode have them."""
    for model in models:
        if not hasattr(model, "latent"):
            model.encode(x[:2])  # type: ignore[union-attr]


def _sizes(models: Mapping[str, Sequence]) -> str:
    return ", ".join(f"{len(found)} of {name!r}" for name, found in models.items()) or "none"


def with_euclidean(measures: Mapping[str, Measure]) -> dict[str, Measure]:
    """The measures, and the Euclidean distance of the codes behind them.

    Raises:
        ValueError: no measures, or another one is called `euclidean`.
    """
    check_named("measures", measures, "Measures")
    if not measures:
        raise ValueError("measures: expected at least one; got none. Leave them out for the default ones.")
    for name, how in measures.items():
        if not isinstance(how, Measure):
            raise TypeError(
                f"measures: expected a Measure, such as Geodesic(metric), where metric is a function of a model; got "
                f"{how!r} for {name!r}."
            )
    if not isinstance(measures.get(EUCLIDEAN, Euclidean()), Euclidean):
        raise ValueError(
            f"measures: {EUCLIDEAN!r} is the distance of the codes, Euclidean(); choose another name for "
            f"{measures[EUCLIDEAN]}."
        )
    return {**measures, EUCLIDEAN: Euclidean()}


def checked_data(name: str, x: Rows, points: Rows | None) -> tuple[Tensor | StoredRows, Tensor | StoredRows]:
    """Data, and the points that rows are counted in: x, where there are no others; of the same kind.

    Raises:
        TypeError: neither tensors, arrays nor tables of numbers.
        ValueError: points of other features than x.
    """
    x = _rows(name, x)
    if points is None:
        return x, x
    points = _rows("points", points)
    points = points.to(x.device, x.dtype) if isinstance(points, Tensor) else points.to(x.device)
    if points.shape[1:] != x.shape[1:] or points.dtype != x.dtype:
        raise ValueError(
            f"points: expected the {x.shape[-1]} features of data, {x.dtype}; got shape {tuple(points.shape)}, "
            f"{points.dtype}."
        )
    return x, points


def _rows(name: str, given: Rows) -> Tensor | StoredRows:
    """Rows, of which there are some, without a history of gradients."""
    rows = as_rows(name, given)
    if rows.ndim < 2 or 0 in rows.shape:
        raise ValueError(f"{name}: expected shape (row, feature), neither empty; got {tuple(rows.shape)}.")
    return rows.detach() if isinstance(rows, Tensor) else rows


def applicable(measures: Mapping[str, Measure], model: LatentModel | ModelSpec) -> dict[str, Measure]:
    """The measures that a model has what it needs for."""
    return {name: how for name, how in measures.items() if how.applies_to(model)}


@torch.no_grad()
def measured(
    model: LatentModel,
    x: Tensor | StoredRows,
    points: Tensor | StoredRows,
    asked: Mapping[Quantity, Sequence[Tensor]],
    measures: Mapping[str, Measure],
    codes_by: Callable[[LatentModel, Tensor | StoredRows, Measure | None], Tensor] | None = None,
) -> Row:
    """All measures of one model, or why there is nothing to measure.

    Args:
        model: a fitted model.
        x: what it was trained on.
        points: that rows are counted in.
        asked: rows, see `Asked.rows`.
        measures: by name.
        codes_by: gives the codes of all rows of the model, or of the subject of a measure; None encodes them.
    """
    codes_by = codes_by or (lambda subject, rows, _: codes_of(subject, rows))
    # Each row once, so that equal ends have equal codes to the last digit.
    needed = torch.cat([part.flatten() for parts in asked.values() for part in parts]).unique()
    codes = codes_by(model, x, None)
    lost = _fault(codes)
    if lost:
        return lost
    row = {}
    for name, how in measures.items():
        subject = how.subject(model)
        own = codes if subject is model else codes_by(subject, x, how)
        at_rows = codes_of(subject, rows_of_numbers(points, needed))
        row[name] = xr.merge(
            _labelled(quantity, quantity.measured(how, subject, _codes_of(parts, needed, at_rows), own))
            for quantity, parts in asked.items()
        )
    return row


def _codes_of(parts: Sequence[Tensor], needed: Tensor, codes: Tensor) -> list[Tensor]:
    return [codes[torch.searchsorted(needed, part.contiguous()).to(codes.device)] for part in parts]


def _fault(codes: Tensor) -> str:
    """Why codes are nothing to measure between; empty if they are."""
    if not codes.is_floating_point():
        raise TypeError(f"encode: expected codes in float32 or float64; got {codes.dtype}.")
    if not codes.isfinite().all():
        return "codes are not finite"
    if (codes - codes[0]).abs().max() <= 8 * torch.finfo(codes.dtype).eps * codes.abs().max():
        return "all codes are equal"
    return ""


def _labelled(quantity: Quantity, values: Mapping[str, Tensor]) -> xr.Dataset:
    dims = ("draw", quantity.dim)
    arrays = {name: (dims[2 - value.ndim :], value.cpu().numpy()) for name, value in values.items()}
    dataset = xr.Dataset(arrays)
    return dataset.assign_coords(draw=range(dataset.sizes["draw"])) if "draw" in dataset.dims else dataset


# --- the dataset of all ----------------------------------------------------------------------------------------------


def assembled(
    found: Mapping[str, Sequence[Row]], measures: Mapping[str, Measure], asked: Asked, points: Tensor | StoredRows
) -> xr.Dataset:
    """One dataset of all rows, by model and retraining; warns of those that are lost."""
    length = max(len(rows) for rows in found.values())
    blank = np.full(len(asked.pairs), np.nan)
    absent = xr.Dataset({name: ("pair", blank) for name in ("distance", "energy", "status")}).assign(seconds=np.nan)
    models, lost = [], []
    for name, rows in found.items():
        texts = [row if isinstance(row, str) else "" for row in rows]
        for index, text in enumerate(texts):
            if text:
                warnings.warn(f"model {name!r}, retraining {index}: {text}; its rows are NaN.", RetrainingLost, 3)
        kept: list[Mapping[str, xr.Dataset]] = [{} if isinstance(row, str) else row for row in rows]
        kept += [{}] * (length - len(rows))
        whole = [xr.concat([row.get(each, absent) for each in measures], "measure", join="outer") for row in kept]
        models.append(xr.concat(whole, "retraining", join="outer"))
        lost.append(texts + ["there is none"] * (length - len(rows)))
    # Models may have different numbers of draws: the shorter ones are filled up with NaN.
    # Integers of single files have gaps here, and are floating point: their encoding holds no more.
    dataset = xr.concat(models, "model", join="outer").transpose(*ORDER, missing_dims="ignore").drop_encoding()
    dataset = dataset.assign_coords(
        model=list(found), measure=list(measures), retraining=range(length), lost=(("model", "retraining"), lost)
    ).assign_coords(asked.coordinates())
    euclidean = dataset.sel(measure=EUCLIDEAN, drop=True)
    dataset["euclidean_latent"] = euclidean.distance
    dataset["euclidean_reconstructed"] = euclidean.get("euclidean_reconstructed", euclidean.distance * np.nan)
    some = asked.pairs.to(points.device).split(max(1, num_in_block(points) // 2))
    ambient = [points[pairs].flatten(2).diff(dim=1).norm(dim=(1, 2)).cpu() for pairs in some]
    dataset["euclidean_ambient"] = ("pair", torch.cat(ambient).numpy())
    meaning = str({int(status): status.name for status in Status})
    for variable in {"status", "angle_status"} & set(dataset):
        dataset[variable] = dataset[variable].assign_attrs(meaning=meaning)
    return dataset.assign_coords(training=(("model", "retraining"), _trainings(dataset.euclidean_latent)))


def _trainings(latent: xr.DataArray) -> np.ndarray:
    """A name for every training, equal where all distances of the codes are: of the first model that has them."""
    values = latent.transpose("model", "retraining", "pair").values
    names = np.empty(values.shape[:2], dtype=object)
    first: list[tuple[str, np.ndarray]] = []
    for model, retraining in np.ndindex(names.shape):
        own = values[model, retraining]
        found = (name for name, other in first if np.allclose(own, other, rtol=1e-3, atol=1e-4 * other.max()))
        name = next(found, f"{latent.model.values[model]}/{retraining}")
        names[model, retraining] = name
        if np.isfinite(own).all():  # what is lost is like nothing else
            first.append((name, own))
    return names.astype(str)


def with_ambient_distances(dataset: xr.Dataset) -> xr.DataArray:
    """Distances of all measures, and as two more those of the reconstructions and of the data, ‖x_i − x_j‖.

    The last are the same in every retraining: their CV is 0 and their ICC is 1, although no model was needed. A
    training that is lost has none of them.

    Args:
        dataset: what `measure` or `Study.run` returned.

    Returns:
        Dims (model, measure, retraining, pair), with the measures `reconstructed` and `ambient` behind the others.

    Example:
        >>> import torch, probgeo as pg
        >>> class Plane(pg.LatentModel):
        ...     latent, num_features = 2, 2
        ...     def encode(self, x):
        ...         return pg.Encoding(x / 10, torch.zeros_like(x))
        ...     def decode(self, z):
        ...         return 10 * z
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> found = pg.measure({"plane": [Plane()]}, x, torch.tensor([[0, 1]]), {"straight": pg.StraightLine()})
        >>> distance = pg.study.with_ambient_distances(found)
        >>> dict(zip(distance.measure.values.tolist(), distance.values.ravel().round(3).tolist()))
        {'straight': 5.0, 'euclidean': 0.5, 'reconstructed': 5.0, 'ambient': 5.0}
    """
    distance = dataset.distance
    more = {"reconstructed": dataset.euclidean_reconstructed, "ambient": dataset.euclidean_ambient}
    rows = [row.broadcast_like(distance.isel(measure=0, drop=True)) for row in more.values()]
    ambient = xr.concat(rows, "measure").assign_coords(measure=list(more))
    ambient = ambient.where(distance.notnull().any(["measure", "pair"]))
    return xr.concat([distance, ambient.transpose(*distance.dims)], "measure")
