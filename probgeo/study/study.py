"""The study itself: what is stored where, what is missing, and the dataset of all."""

import json
import os
import time
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
from probgeo.training import Training, fit


class Study:
    """Distances of the same pairs of observations in many retrainings of several models.

    Args:
        folder: where everything is kept: `trainings/<key>/seed-<seed>` (models), `distances/<key>.nc`, `study.nc`.
            Keys are hashes of content, so a run that was killed, or asks for more seeds, other pairs or other measures,
            computes what is missing and nothing else.
        data: observations (row, feature) that the models are trained on, floating point; everything runs on its device.
        pairs: rows of `points` (pair, 2) whose distances are measured.
        models: specs by name.
        seeds: one retraining per seed.
        measures: by name; default: the geodesic distance and the straight latent line, under each model's metric.
        training: options of `fit`.
        points: observations (row, feature) that `pairs` refers to, e.g. a test set; None for `data`.

    Raises:
        ValueError: no models, no seeds, pairs of another shape, or a row index outside `points`.
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
    ) -> None:
        points = data if points is None else points.to(data)
        if points.shape[1:] != data.shape[1:]:
            raise ValueError(
                f"points: expected the {data.shape[-1]} features of data; got shape {tuple(points.shape)}."
            )
        _check(points, pairs, models, seeds, measures)
        self.folder = Path(folder)
        self.data, self.points, self.pairs, self.training = data, points, pairs.to(data.device), training
        self.models, self.seeds, self.measures = dict(models), [int(seed) for seed in seeds], dict(measures)
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
            `training_seconds` (model, retraining; its share where stacked); coordinates `seed`, `num_members`, `start`
            and `stop` (rows of the points); the configuration in attrs.

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

    def _distance_file(self, name: str, seed: int, measure: str) -> Path:
        key = digest(self.models[name], self.training, self.data, seed, self._ends(), self.measures[measure])
        return self.folder / "distances" / f"{key}.nc"

    def _baseline_file(self, name: str, seed: int) -> Path:
        key = digest(self.models[name], self.training, self.data, seed, self._ends(), "euclidean")
        return self.folder / "distances" / f"{key}.nc"

    def _ends(self) -> Tensor:
        """The two observations of every pair: (pair, 2, feature)."""
        return self.points[self.pairs]

    def _applicable(self, name: str) -> list[str]:
        return [measure for measure, how in self.measures.items() if how.applies_to(self.models[name])]

    def _unmeasured(self, name: str, seed: int) -> list[Path]:
        files = [self._distance_file(name, seed, measure) for measure in self._applicable(name)]
        return [file for file in [*files, self._baseline_file(name, seed)] if not file.exists()]

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
        codes = model.encode(self.data).mean
        # Each row once, so that equal ends have equal codes to the last digit.
        rows, ends = self.pairs.unique(return_inverse=True)
        at_rows = model.encode(self.points[rows]).mean
        start, stop = at_rows[ends].unbind(1)
        for measure in self._applicable(name):
            file = self._distance_file(name, seed, measure)
            if not file.exists():
                began = time.monotonic()
                found = self.measures[measure].paths(model, start, stop, codes)
                seconds = torch.tensor(time.monotonic() - began, dtype=torch.float64)
                drawn = self.measures[measure].draw_lengths(model, found.path)
                more = {"seconds": seconds} if drawn is None else {"seconds": seconds, "draw_length": drawn}
                _write(file, distance=found.length, energy=found.energy, status=found.status, **more)
        first, second = model.decode(at_rows)[ends].unbind(1)
        _write(
            self._baseline_file(name, seed),
            euclidean_latent=(start - stop).norm(dim=-1),
            euclidean_reconstructed=(first - second).norm(dim=-1),
        )

    # --- the dataset ---

    def _assemble(self) -> xr.Dataset:
        rows = []
        for name in self.models:
            measured = [
                xr.concat([self._read(name, seed, m) for m in self.measures], "measure", join="outer")
                for seed in self.seeds
            ]
            rows.append(xr.concat(measured, "retraining", join="outer"))
        # Models may have different numbers of draws: the shorter ones are filled up with NaN.
        dataset = xr.concat(rows, "model", join="outer").assign_coords(
            model=list(self.models),
            measure=list(self.measures),
            retraining=range(len(self.seeds)),
            pair=range(len(self.pairs)),
            seed=("retraining", self.seeds),
            num_members=("model", [spec.num_members for spec in self.models.values()]),
            start=("pair", self.pairs[:, 0].cpu().numpy()),
            stop=("pair", self.pairs[:, 1].cpu().numpy()),
        )
        for variable in ("euclidean_latent", "euclidean_reconstructed", "training_seconds"):
            dataset[variable] = dataset[variable].isel(measure=0, drop=True)
        dataset = dataset.reindex(measure=[*self.measures, "euclidean"])
        euclidean = dataset.euclidean_latent.expand_dims(measure=["euclidean"])
        dataset["distance"] = xr.concat([dataset.distance.drop_sel(measure="euclidean"), euclidean], "measure")
        start, stop = self._ends().unbind(1)
        dataset["euclidean_ambient"] = ("pair", (start - stop).norm(dim=-1).cpu().numpy())
        meaning = str({int(status): status.name for status in Status})
        dataset["status"] = dataset.status.drop_encoding().assign_attrs(meaning=meaning)
        dataset.attrs = {
            "probgeo": version("probgeo"),
            "data": digest(self.data),
            "models": json.dumps({name: to_config(spec) for name, spec in self.models.items()}),
            "measures": json.dumps({name: to_config(measure) for name, measure in self.measures.items()}),
            "training": json.dumps(to_config(self.training)),
        }
        order = ("model", "measure", "retraining", "draw", "pair")
        return dataset.transpose(*order, missing_dims="ignore")

    def _read(self, name: str, seed: int, measure: str) -> xr.Dataset:
        trained = storage.read_config(self._training_folder(name) / f"seed-{seed}")["extra"]
        with xr.open_dataset(self._baseline_file(name, seed), engine="h5netcdf") as baseline:
            dataset = baseline.load().assign(training_seconds=trained.get("seconds", np.nan))
        if measure in self._applicable(name):
            with xr.open_dataset(self._distance_file(name, seed, measure), engine="h5netcdf") as measured:
                return dataset.merge(measured.load())
        absent = ("pair", np.full(len(self.pairs), np.nan))
        return dataset.assign(distance=absent, energy=absent, status=absent, seconds=np.nan)


def _check(points: Tensor, pairs: Tensor, models: Mapping, seeds: Sequence[int], measures: Mapping) -> None:
    if not models or not measures:
        raise ValueError(f"models, measures: expected at least one each; got {len(models)} and {len(measures)}.")
    if "euclidean" in measures:
        raise ValueError("measures: 'euclidean' is there already, the distance of the codes; choose another name.")
    if len(seeds) == 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected at least one, none repeated; got {list(seeds)}.")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0 or pairs.is_floating_point():
        raise ValueError(f"pairs: expected integers of shape (pair, 2); got {pairs.dtype}, {tuple(pairs.shape)}.")
    outside = ((pairs < 0) | (pairs >= len(points))).any(1).nonzero().flatten()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"pairs: expected row indices from 0 to {len(points) - 1}; pair {first} is {pairs[first].tolist()} "
            f"({len(outside)} such pairs)."
        )


def _write(file: Path, **values: Tensor) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    dims = ("draw", "pair")
    dataset = xr.Dataset({name: (dims[2 - value.ndim :], value.cpu().numpy()) for name, value in values.items()})
    if "draw" in dataset.dims:
        dataset = dataset.assign_coords(draw=range(dataset.sizes["draw"]))
    dataset.to_netcdf(partial, engine="h5netcdf")
    os.replace(partial, file)
