"""The study itself: what is stored where, what is missing, and the dataset of all."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probgeo import storage
from probgeo.geodesics import Status
from probgeo.specs import digest, to_config
from probgeo.storage import Fitted, Spec
from probgeo.study.jobs import carry_out, groups
from probgeo.study.measures import DEFAULT_MEASURES, Measure
from probgeo.study.quantities import ANGLES, DISTANCES, VOLUMES, Quantity
from probgeo.training import Training, fit

EUCLIDEAN = "euclidean"
MAX_HULL = 5


class Study:
    """Distances of the same pairs of observations in many retrainings of several models; angles and volumes too.

    Args:
        folder: where everything is kept: `trainings/<key>/seed-<seed>` (models), `distances/<key>.nc`, the same for
            `angles` and `volumes`, `study.nc`. Keys are hashes of content, so a run that was killed, or asks for more
            seeds, other pairs or other measures, computes what is missing and nothing else.
        data: observations (row, feature) that the models are trained on, floating point; everything runs on its device.
        pairs: rows of `points` (pair, 2) whose distances are measured.
        models: specs by name.
        seeds: one retraining per seed.
        measures: by name; default: the geodesic distance and the straight latent line, under each model's metric.
        training: options of `fit`.
        points: observations (row, feature) that `pairs` refers to, e.g. a test set; None for `data`.
        triples: rows of `points` (triple, 3): the angle at the first between the ways to the other two; None for none.
        regions: by name, rows of `points` (row,), more than latent dimensions: the volume of the convex hull of their
            codes, for at most 5 latent dimensions. A hull is as wide as its outermost code: leave outliers out.

    Raises:
        ValueError: no models, no seeds, pairs or triples of another shape, a row index outside `points`, or regions of
            too few rows or in too many dimensions.
        FileExistsError: the folder holds a study of other data, training or models under the same names.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        data: Tensor,
        pairs: Tensor,
        models: Mapping[str, Spec],
        seeds: Sequence[int],
        measures: Mapping[str, Measure] = DEFAULT_MEASURES,
        training: Training = Training(),
        points: Tensor | None = None,
        triples: Tensor | None = None,
        regions: Mapping[str, Tensor] | None = None,
    ) -> None:
        points = data if points is None else points.to(data)
        if points.shape[1:] != data.shape[1:]:
            raise ValueError(
                f"points: expected the {data.shape[-1]} features of data; got shape {tuple(points.shape)}."
            )
        _check(models, seeds, measures)
        _check_rows("pairs", pairs, 2, len(points))
        if triples is not None:
            _check_rows("triples", triples, 3, len(points))
        _check_regions(regions or {}, models, len(points))
        self.folder = Path(folder)
        self.data, self.points, self.pairs, self.training = data, points, pairs.to(data.device), training
        self.models, self.seeds, self.measures = dict(models), [int(seed) for seed in seeds], dict(measures)
        self.triples = None if triples is None else triples.to(data.device)
        self.regions = {name: rows.to(data.device) for name, rows in (regions or {}).items()}
        asked = {DISTANCES: [self.pairs], VOLUMES: list(self.regions.values())}
        asked |= {} if self.triples is None else {ANGLES: [self.triples]}
        self._rows = {quantity: rows for quantity, rows in asked.items() if rows}
        for spec in self.models.values():
            spec.check(data)
            spec.check(points)
        self._claim()

    def run(self, executor: Executor | None = None, progress: bool = True) -> xr.Dataset:
        """Train what is not trained, measure what is not measured, and return the dataset (also in `study.nc`).

        Args:
            executor: any `concurrent.futures.Executor` whose workers see the folder (process pool, Dask, MPI);
                None runs here, retrainings stacked.
            progress: show bars with the remaining time.

        Returns:
            Dataset with dims (model, measure, retraining, pair): `distance` (the measures, and `euclidean`, the
            Euclidean distance of the codes), `energy`, `status`, `euclidean_latent`, `euclidean_reconstructed` (model,
            retraining, pair), `euclidean_ambient` (pair), with a `DrawnGeodesic` also `draw_length` (model, measure,
            retraining, draw, pair); times taken, `seconds` (model, measure, retraining; all pairs) and
            `training_seconds` (model, retraining; its share where stacked); with triples, `angle` and `angle_status`
            (model, measure, retraining, triple), in radians; with regions, `volume` and the estimated error of its
            quadrature `volume_error` (model, measure, retraining, region), an area in two latent dimensions, whose CV
            is about twice that of lengths; `euclidean` again in the space of the codes. Coordinates `seed`,
            `num_members`, `start` and `stop`, `corner`, `first` and `second` (rows of the points), `region`; the
            configuration in attrs.

        Raises:
            TrainingDiverged: an objective became NaN; whatever had finished is kept.
        """
        missing = [(name, seed) for name in self.models for seed in self.seeds if self._unmeasured(name, seed)]
        jobs = [
            (name, group)
            for name in self.models
            for group in groups([seed for model, seed in missing if model == name], 1 if executor else 10)
        ]
        carry_out(self._train, [(*job, progress and not executor) for job in jobs], executor, "training", progress)
        carry_out(self._measure, missing, executor, "measuring distances", progress)
        dataset = self._assemble()
        partial = self.folder / "study.nc.partial"
        dataset.to_netcdf(partial, engine="h5netcdf")
        os.replace(partial, self.folder / "study.nc")
        return dataset

    def fitted(self, name: str, seed: int) -> Fitted:
        """The fitted model of a name and seed, trained now if it is not yet."""
        folder = self._training_folder(name)
        return fit(self.models[name], self.data, [seed], training=self.training, folder=folder, progress=False)[0]

    # --- where things are ---

    def _training_folder(self, name: str) -> Path:
        return self.folder / "trainings" / digest(self.models[name], self.training, self.data)

    def _file(self, quantity: Quantity, name: str, seed: int, measure: str) -> Path:
        observed = [self.points[rows] for rows in self._rows[quantity]]
        how = self.measures.get(measure, EUCLIDEAN)
        key = digest(self.models[name], self.training, self.data, seed, *observed, how)
        return self.folder / quantity.folder / f"{key}.nc"

    def _applicable(self, name: str) -> list[str]:
        return [measure for measure, how in self.measures.items() if how.applies_to(self.models[name])]

    def _unmeasured(self, name: str, seed: int) -> bool:
        measures = [*self._applicable(name), EUCLIDEAN]
        return not all(self._file(quantity, name, seed, how).exists() for quantity in self._rows for how in measures)

    def _claim(self) -> None:
        """Note in the folder whose study it is; refuse another's."""
        config = {
            "data": digest(self.data),
            "training": to_config(self.training),
            "models": {name: to_config(spec) for name, spec in self.models.items()},
        }
        path = self.folder / "study.json"
        if path.exists():
            found = json.loads(path.read_text())
            different = [key for key in ("data", "training") if found[key] != config[key]]
            shared = found["models"].keys() & config["models"].keys()
            different += [f"model {name!r}" for name in shared if found["models"][name] != config["models"][name]]
            if different:
                raise FileExistsError(
                    f"folder: {self.folder} holds a study of other {', '.join(different)}. Choose another folder."
                )
            config["models"] = found["models"] | config["models"]
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(config, indent=2))
        os.replace(partial, path)

    # --- the work; called by the workers of an executor ---

    def _train(self, name: str, seeds: list[int], progress: bool) -> None:
        folder = self._training_folder(name)
        fit(self.models[name], self.data, seeds, training=self.training, folder=folder, progress=progress)

    def _measure(self, name: str, seed: int) -> None:
        model = self.fitted(name, seed).requires_grad_(False)
        # Each row once, so that equal ends have equal codes to the last digit.
        rows = torch.cat([part.flatten() for parts in self._rows.values() for part in parts]).unique()
        for measure in [*self._applicable(name), EUCLIDEAN]:
            files = {quantity: self._file(quantity, name, seed, measure) for quantity in self._rows}
            files = {quantity: file for quantity, file in files.items() if not file.exists()}
            if not files:
                continue
            how = self.measures.get(measure)
            subject = how.subject(model) if how else model
            codes, at_rows = subject.encode(self.data).mean, subject.encode(self.points[rows]).mean
            for quantity, file in files.items():
                at = [at_rows[torch.searchsorted(rows, part)] for part in self._rows[quantity]]
                values = quantity.measured(how, subject, at, codes) if how else quantity.euclidean(subject, at)
                _write(file, quantity.dim, values)

    # --- the dataset ---

    def _assemble(self) -> xr.Dataset:
        rows = []
        for name in self.models:
            found = [
                xr.concat([self._read(name, seed, m) for m in [*self.measures, EUCLIDEAN]], "measure", join="outer")
                for seed in self.seeds
            ]
            rows.append(xr.concat(found, "retraining", join="outer"))
        # Copies: a tensor that is sent to another process moves, and its views would show what then lies there.
        start, stop = self.pairs.cpu().numpy().copy().T
        # Models may have different numbers of draws: the shorter ones are filled up with NaN.
        order = ("model", "measure", "retraining", "draw", "pair", "triple", "region")
        dataset = (
            xr.concat(rows, "model", join="outer")
            .transpose(*order, missing_dims="ignore")
            .assign_coords(
                model=list(self.models),
                measure=[*self.measures, EUCLIDEAN],
                retraining=range(len(self.seeds)),
                pair=range(len(self.pairs)),
                seed=("retraining", self.seeds),
                num_members=("model", [spec.num_members for spec in self.models.values()]),
                start=("pair", start),
                stop=("pair", stop),
            )
        )
        if self.triples is not None:
            columns = zip(("corner", "first", "second"), self.triples.cpu().numpy().copy().T, strict=True)
            dataset = dataset.assign_coords({name: ("triple", column) for name, column in columns})
        if self.regions:
            dataset = dataset.assign_coords(region=list(self.regions))
        for variable in ("euclidean_latent", "euclidean_reconstructed", "training_seconds"):
            dataset[variable] = dataset[variable].sel(measure=EUCLIDEAN, drop=True)
        ends = self.points[self.pairs]
        dataset["euclidean_ambient"] = ("pair", ends.diff(dim=1).norm(dim=(1, 2)).cpu().numpy())
        meaning = str({int(status): status.name for status in Status})
        for variable in {"status", "angle_status"} & set(dataset):
            dataset[variable] = dataset[variable].drop_encoding().assign_attrs(meaning=meaning)
        if "rivals" in dataset:  # an integer where it was measured, and NaN elsewhere
            dataset["rivals"] = dataset.rivals.drop_encoding()
        dataset.attrs = {
            "probgeo": version("probgeo"),
            "data": digest(self.data),
            "models": json.dumps({name: to_config(spec) for name, spec in self.models.items()}),
            "measures": json.dumps({name: to_config(measure) for name, measure in self.measures.items()}),
            "training": json.dumps(to_config(self.training)),
        }
        return dataset

    def _read(self, name: str, seed: int, measure: str) -> xr.Dataset:
        if measure not in [*self._applicable(name), EUCLIDEAN]:
            absent = ("pair", np.full(len(self.pairs), np.nan))
            return xr.Dataset({"distance": absent, "energy": absent, "status": absent, "seconds": np.nan})
        dataset = xr.Dataset()
        for quantity in self._rows:
            with xr.open_dataset(self._file(quantity, name, seed, measure), engine="h5netcdf") as stored:
                dataset = dataset.merge(stored.load())
        if measure == EUCLIDEAN:
            trained = storage.read_config(self._training_folder(name) / f"seed-{seed}")["extra"]
            seconds = trained.get("seconds", np.nan)
            dataset = dataset.assign(distance=dataset.euclidean_latent, training_seconds=seconds)
        return dataset


def with_ambient_distances(dataset: xr.Dataset) -> xr.DataArray:
    """Distances of all measures, and as two more those of the reconstructions and of the data, ‖x_i − x_j‖.

    The last are the same in every retraining: their CV is 0 and their ICC is 1, although no model was needed.

    Args:
        dataset: what `Study.run` returned.

    Returns:
        Dims (model, measure, retraining, pair), with the measures `reconstructed` and `ambient` behind the others.
    """
    distance = dataset.distance
    more = {"reconstructed": dataset.euclidean_reconstructed, "ambient": dataset.euclidean_ambient}
    rows = [row.broadcast_like(distance.isel(measure=0, drop=True)) for row in more.values()]
    ambient = xr.concat(rows, "measure").assign_coords(measure=list(more))
    return xr.concat([distance, ambient.transpose(*distance.dims)], "measure")


def _check(models: Mapping, seeds: Sequence[int], measures: Mapping) -> None:
    if not models or not measures:
        raise ValueError(f"models, measures: expected at least one each; got {len(models)} and {len(measures)}.")
    if EUCLIDEAN in measures:
        raise ValueError("measures: 'euclidean' is there already, the distance of the codes; choose another name.")
    if len(seeds) == 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected at least one, none repeated; got {list(seeds)}.")


def _check_rows(name: str, tuples: Tensor, size: int, num_points: int) -> None:
    """Refuse what are no tuples (tuple, size) of row indices; name "pairs" or "triples"."""
    if tuples.ndim != 2 or tuples.shape[1] != size or len(tuples) == 0 or tuples.is_floating_point():
        raise ValueError(
            f"{name}: expected integers of shape ({name[:-1]}, {size}); got {tuples.dtype}, {tuple(tuples.shape)}."
        )
    outside = ((tuples < 0) | (tuples >= num_points)).any(1).nonzero().flatten()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"{name}: expected row indices from 0 to {num_points - 1}; {name[:-1]} {first} is {tuples[first].tolist()} "
            f"({len(outside)} such {name})."
        )


def _check_regions(regions: Mapping[str, Tensor], models: Mapping[str, Spec], num_points: int) -> None:
    for name, rows in regions.items():
        if rows.ndim != 1 or rows.is_floating_point() or ((rows < 0) | (rows >= num_points)).any():
            raise ValueError(
                f"regions: expected row indices (row,) from 0 to {num_points - 1}; got {rows.dtype}, "
                f"{tuple(rows.shape)} for {name!r}, or indices outside."
            )
        for model, spec in models.items():
            if spec.latent > MAX_HULL:
                raise ValueError(
                    f"regions: convex hulls have too many simplices in more than {MAX_HULL} dimensions; model "
                    f"{model!r} has {spec.latent}. Leave out the regions."
                )
            if len(rows) <= spec.latent:
                raise ValueError(
                    f"regions: expected at least {spec.latent + 1} rows, for {spec.latent} latent dimensions of model "
                    f"{model!r}; got {len(rows)} for {name!r}."
                )


def _write(file: Path, dim: str, values: Mapping[str, Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    dims = ("draw", dim)
    dataset = xr.Dataset({name: (dims[2 - value.ndim :], value.cpu().numpy()) for name, value in values.items()})
    if "draw" in dataset.dims:
        dataset = dataset.assign_coords(draw=range(dataset.sizes["draw"]))
    dataset.to_netcdf(partial, engine="h5netcdf")
    os.replace(partial, file)
