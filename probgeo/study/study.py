"""The study itself: specs are trained, models are measured, each once; what is missing is computed."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from probgeo.disk import whole_file
from probgeo.models.base import FittedModel, LatentModel, ModelSpec
from probgeo.specs import digest, to_config
from probgeo.study.asked import checked
from probgeo.study.identity import model_key
from probgeo.study.jobs import carried_out, groups
from probgeo.study.measure import (
    Row,
    Rows,
    acquaint,
    applicable,
    assembled,
    checked_data,
    measured,
    with_euclidean,
)
from probgeo.study.measures import DEFAULT_MEASURES, Geodesic, Measure
from probgeo.study.quantities import Quantity
from probgeo.study.store import Held, Inputs, Mapped, measurement_key, read_rows, write_dataset, write_rows
from probgeo.study.tight import sampled, tight_measures
from probgeo.training import storage
from probgeo.training.fit import Training, TrainingDiverged, checked_seeds, fit

FIRST_VERSION = "0.1.0"  # whose studies did not say which version wrote them


class Study:
    """Distances of the same pairs of observations in many retrainings of several models; angles and volumes too.

    Args:
        folder: where everything is kept: `trainings/<key>/seed-<seed>` (models), `distances/<key>.nc`, the same for
            `angles` and `volumes`, `study.nc`; `inputs` for the workers of an executor. Keys are hashes of content, so
            a run that was killed, or asks for more seeds, other pairs or other measures, computes what is missing and
            nothing else. A function or class of the user's own is part of a key by its source.
        data: observations (row, feature) that the models are trained on, floating point; everything runs on its device.
            What is mapped from a file stays there, as in `fit`.
        pairs: rows of `points` (pair, 2) whose distances are measured.
        models: by name, specs to train, or lists of models that were trained elsewhere, one per training.
        seeds: one retraining of every spec per seed; none where there are no specs.
        measures: by name; default: the geodesic distance and the straight latent line, under each model's metric.
        training: options of `fit`.
        points: observations (row, feature) that `pairs` refers to, e.g. a test set; None for `data`.
        triples: rows of `points` (triple, 3): the angle at the first between the ways to the other two; None for none.
        regions: by name, rows of `points` (row,), more than latent dimensions: the volume of the convex hull of their
            codes, for at most 5 latent dimensions. A hull is as wide as its outermost code: leave outliers out.

    Raises:
        TypeError: a measure, metric or network of the user's own that no source identifies, or that is no spec.
        ValueError: no models, no seeds, pairs or triples of another shape, a row index outside `points`, or regions of
            too few rows or in too many dimensions.
        FileExistsError: the folder holds a study of other data, training or models under the same names, or of a
            version whose studies this one does not continue.

    Example:
        >>> import tempfile, torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     study = pg.Study(
        ...         folder,
        ...         data=x,
        ...         pairs=torch.tensor([[0, 1], [2, 3]]),
        ...         models={"single": pg.VAE(latent=2, decoder=pg.Decoder(pg.nn.MLP((8,))))},
        ...         seeds=range(2),
        ...         measures={"straight": pg.StraightLine()},
        ...         training=pg.Training(epochs=1, batch_size=16),
        ...     )
        ...     first = study.run(progress=False)
        ...     again = study.run(progress=False)  # everything is there already
        >>> dict(first.distance.sizes), first.distance.equals(again.distance)
        ({'model': 1, 'measure': 2, 'retraining': 2, 'pair': 2}, True)
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        data: Rows,
        pairs: Rows,
        models: Mapping[str, ModelSpec | Sequence[LatentModel]],
        seeds: Sequence[int] = (),
        measures: Mapping[str, Measure] = DEFAULT_MEASURES,
        training: Training = Training(),
        points: Rows | None = None,
        triples: Rows | None = None,
        regions: Mapping[str, Rows] | None = None,
    ) -> None:
        self.folder, self.training = Path(folder), training
        self.models, self.seeds = dict(models), checked_seeds(seeds)
        _check(self.models, self.seeds)
        self.measures = with_euclidean(measures)
        self.data: Any
        self.points: Any
        self.data, self.points = checked_data("data", data, points)
        described = {name: self._described(name) for name in self.models}
        acquaint(described.values(), self.data)
        self.asked = checked(pairs, triples, regions, len(self.points), described)
        self.pairs = self.asked.pairs.to(self.data.device)
        for model in self.models.values():
            if isinstance(model, ModelSpec):
                model.check(self.data)
                model.check(self.points)
        self._data_digest = digest(self.data)
        self._points_digest = self._data_digest if points is None else digest(self.points)
        # Every key once, before anything is trained: what cannot be named is refused here.
        self._trainings = {name: self._training_keys(name) for name in self.models}
        digest(*self.measures.values())
        self._claim()

    def run(self, executor: Executor | None = None, progress: bool = True) -> xr.Dataset:
        """Train what is not trained, measure what is not measured, and return the dataset (also in `study.nc`).

        Args:
            executor: any `concurrent.futures.Executor` whose workers see the folder (process pool, Dask, MPI);
                None runs here, retrainings stacked.
            progress: show bars with the remaining time.

        Returns:
            What `probgeo.measure` returns of the fitted models, with the coordinate `seed`, the variable
            `training_seconds` (model, retraining), of a stack its share, and the configuration in attrs.

        Warns:
            RetrainingLost: a training diverged, or its codes collapsed: its rows are NaN.
        """
        return self._completed("study.nc", executor, progress)

    def tight_distances(
        self,
        num_pairs: int = 20,
        num_bends: int = 18,
        seed: int = 0,
        executor: Executor | None = None,
        progress: bool = True,
    ) -> xr.DataArray:
        """Distances of a sample of the pairs by `ManyStarts`, in all trainings: for `summary(distance, tight=...)`.

        As `probgeo.study.tight_distances` gives them, of all measures that are `Geodesic`s; kept in the folder, so that
        a run that was killed computes what is missing (also in `tight.nc`).

        Args:
            num_pairs, num_bends, seed: of the sample and the search, see there.
            executor, progress: of `run`.

        Raises:
            TypeError: no measure is a `Geodesic`.
            ValueError: `num_pairs` below 1, `num_bends` below 0.
        """
        geodesics = {name: measure for name, measure in self.measures.items() if isinstance(measure, Geodesic)}
        if not geodesics:
            raise TypeError(
                f"measures: expected some Geodesic, whose paths can be searched for; got {[*self.measures]}."
            )
        measures, chosen = tight_measures(geodesics, num_bends), sampled(len(self.pairs), num_pairs, seed)
        own = None if self.points is self.data else self.points
        study = Study(self.folder, self.data, self.pairs[chosen], self.models, self.seeds, measures, self.training, own)
        found = study._completed("tight.nc", executor, progress)
        return found.distance.sel(measure=list(measures)).assign_coords(pair=chosen)

    def _completed(self, file: str, executor: Executor | None, progress: bool) -> xr.Dataset:
        """What `run` returns, kept in a file of the folder."""
        files = {
            (name, index, measure): self._files(key, self.measures[measure])
            for name, keys in self._trainings.items()
            for index, key in enumerate(keys)
            for measure in applicable(self.measures, self._described(name))
        }
        missing = {
            place: {quantity: path for quantity, path in paths.items() if not path.exists()}
            for place, paths in files.items()
        }
        missing = {place: paths for place, paths in missing.items() if paths}
        key = digest(
            [
                [name, index, measure, *sorted(path.stem for path in paths.values())]
                for (name, index, measure), paths in files.items()
            ]
        )
        if not missing and (known := self._known(file, key)) is not None:
            return known
        held = Held(self.data, self.points, self.asked)
        inputs: Inputs = held
        if executor and missing:
            inputs = Mapped.written(held, self.folder.resolve() / "inputs", self._data_digest, self._points_digest)
        self._train(missing, inputs, executor, progress)
        lost = self._lost()
        jobs = []
        for name, index in dict.fromkeys((name, index) for name, index, _ in missing):
            if (name, index) not in lost:
                own = {m: (self.measures[m], paths) for (n, i, m), paths in missing.items() if (n, i) == (name, index)}
                jobs.append((self._model_or_folder(name, index), inputs, own))
        carried_out(measure_into, jobs, executor, "measuring distances", progress)
        dataset = self._assembled(files, lost)
        dataset.attrs["key"] = key
        write_dataset(self.folder / file, dataset)
        return dataset

    def fitted(self, name: str, seed: int) -> FittedModel:
        """The fitted model of a spec's name and seed, trained now if it is not yet.

        Raises:
            TypeError: the models of this name were trained elsewhere.
        """
        spec = self.models[name]
        if not isinstance(spec, ModelSpec):
            raise TypeError(f"fitted: the models {name!r} were trained elsewhere; they are in `models`.")
        folder = self._training_folder(name)
        return fit(
            spec,
            self.data,
            [seed],
            training=self.training,
            folder=folder,
            progress=False,
            data_digest=self._data_digest,
        )[0]

    # --- where things are ---

    def _described(self, name: str) -> LatentModel | ModelSpec:
        """What tells a model's dimensions and abilities."""
        model = self.models[name]
        return model if isinstance(model, ModelSpec) else model[0]

    def _training_folder(self, name: str) -> Path:
        return self.folder / "trainings" / digest(self.models[name], self.training, self._data_digest)

    def _training_keys(self, name: str) -> list[str]:
        """What identifies each retraining of a model."""
        model = self.models[name]
        if isinstance(model, ModelSpec):
            folder = self._training_folder(name).name
            return [digest(folder, seed) for seed in self.seeds]
        return [model_key(each, name, index) for index, each in enumerate(model)]

    def _files(self, training: str, how: Measure) -> dict[Quantity, Path]:
        return {
            quantity: self.folder
            / quantity.folder
            / f"{measurement_key(training, self.asked, quantity, self._points_digest, how)}.nc"
            for quantity in self.asked.rows()
        }

    def _model_or_folder(self, name: str, index: int) -> LatentModel | Path:
        model = self.models[name]
        if isinstance(model, ModelSpec):
            return (self._training_folder(name) / f"seed-{self.seeds[index]}").resolve()
        return model[index]

    def _known(self, file: str, key: str) -> xr.Dataset | None:
        """The dataset of a study that was finished, if nothing else is asked for now."""
        try:
            with xr.open_dataset(self.folder / file, engine="h5netcdf") as stored:
                return stored.load() if stored.attrs.get("key") == key else None
        except (OSError, ValueError):
            return None

    def _claim(self) -> None:
        """Note in the folder whose study it is; refuse another's."""
        config = {
            "probgeo": version("probgeo"),
            "data": self._data_digest,
            "training": to_config(self.training),
            "models": {
                name: to_config(model) if isinstance(model, ModelSpec) else "trained elsewhere"
                for name, model in self.models.items()
            },
        }
        path = self.folder / "study.json"
        if path.exists():
            found = json.loads(path.read_text())
            if "probgeo" not in found:
                raise FileExistsError(
                    f"folder: {self.folder} holds a study of probgeo {FIRST_VERSION}, whose keys and distances are not "
                    f"those of {version('probgeo')}: choose another folder; its models can be loaded and measured."
                )
            different = [key for key in ("data", "training") if found[key] != config[key]]
            shared = found["models"].keys() & config["models"].keys()
            different += [f"model {name!r}" for name in shared if found["models"][name] != config["models"][name]]
            if different:
                raise FileExistsError(
                    f"folder: {self.folder} holds a study of other {', '.join(different)}. Choose another folder."
                )
            config["models"] = found["models"] | config["models"]
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(config, indent=2))

    # --- the work ---

    def _train(self, missing: Mapping, inputs: Inputs, executor: Executor | None, progress: bool) -> None:
        """Every spec's seeds that a measurement is missing of; equal specs once."""
        wanted: dict[Path, tuple[ModelSpec, list[int]]] = {}
        for name, model in self.models.items():
            if isinstance(model, ModelSpec):
                seeds = [self.seeds[index] for index in dict.fromkeys(i for n, i, _ in missing if n == name)]
                _, known = wanted.setdefault(self._training_folder(name).resolve(), (model, []))
                known += [seed for seed in seeds if seed not in known]
        jobs = [
            (spec, inputs, group, self.training, folder, self._data_digest, progress and not executor)
            for folder, (spec, seeds) in wanted.items()
            for group in groups(seeds, 1 if executor else 10)
        ]
        carried_out(train_into, jobs, executor, "training", progress)

    def _lost(self) -> dict[tuple[str, int], str]:
        """Why there is nothing to measure, by model and retraining."""
        lost = {}
        for name, model in self.models.items():
            for index, seed in enumerate(self.seeds if isinstance(model, ModelSpec) else ()):
                diverged = storage.read_config(self._training_folder(name) / f"seed-{seed}")["extra"]["diverged"]
                if diverged:
                    lost[name, index] = f"training diverged, {diverged}"
        return lost

    # --- the dataset ---

    def _assembled(self, files: Mapping, lost: Mapping[tuple[str, int], str]) -> xr.Dataset:
        found: dict[str, list[Row]] = {}
        for name, keys in self._trainings.items():
            rows: list[Row] = []
            for index in range(len(keys)):
                read = {
                    m: read_rows(paths)
                    for (n, i, m), paths in files.items()
                    if (n, i) == (name, index) and (n, i) not in lost
                }
                texts = [part for part in read.values() if isinstance(part, str)]
                kept = {measure: part for measure, part in read.items() if not isinstance(part, str)}
                rows.append(lost.get((name, index)) or (texts[0] if texts else kept))
            found[name] = rows
        dataset = assembled(found, self.measures, self.asked, self.points)
        num = dataset.sizes["retraining"]
        dataset = dataset.assign_coords(
            num_members=("model", [self._described(name).num_members for name in self.models])
        )
        if self.seeds:  # of the specs; there may be more trainings of models that were trained elsewhere
            dataset = dataset.assign_coords(seed=("retraining", [*self.seeds, *[-1] * (num - len(self.seeds))]))
        dataset["training_seconds"] = (("model", "retraining"), [self._seconds(name, num) for name in self.models])
        dataset.attrs = {
            "probgeo": version("probgeo"),
            "data": self._data_digest,
            "models": json.dumps(
                {
                    name: to_config(m) if isinstance(m, ModelSpec) else [each.name for each in m]
                    for name, m in self.models.items()
                }
            ),
            "measures": json.dumps({name: to_config(measure) for name, measure in self.measures.items()}),
            "training": json.dumps(to_config(self.training)),
        }
        return dataset

    def _seconds(self, name: str, num: int) -> list[float]:
        seconds = np.full(num, np.nan)
        if isinstance(self.models[name], ModelSpec):
            for index, seed in enumerate(self.seeds):
                extra = storage.read_config(self._training_folder(name) / f"seed-{seed}")["extra"]
                seconds[index] = extra.get("seconds", np.nan)
        return seconds.tolist()


def _check(models: Mapping[str, ModelSpec | Sequence[LatentModel]], seeds: Sequence[int]) -> None:
    if not models:
        raise ValueError("models: expected at least one; got none.")
    for name, model in models.items():
        elsewhere = [] if isinstance(model, (ModelSpec, LatentModel)) else list(model)
        if not isinstance(model, ModelSpec) and not (elsewhere and all(isinstance(m, LatentModel) for m in elsewhere)):
            raise TypeError(
                f"models: expected a spec, such as VAE(...), or a list of LatentModels, one per training; got "
                f"{type(model).__name__} for {name!r}."
            )
    if any(isinstance(model, ModelSpec) for model in models.values()) and not seeds:
        raise ValueError("seeds: expected at least one, for the specs to be trained with; got none.")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected none repeated; got {list(seeds)}.")


# --- what workers of an executor call: arguments are small, whatever the data ----------------------------------------


def train_into(
    spec: ModelSpec,
    inputs: Inputs,
    seeds: list[int],
    training: Training,
    folder: Path,
    data_digest: str,
    progress: bool,
) -> None:
    """Train and save; one that diverges is saved too, and costs itself alone."""
    x, _, _ = inputs.load()
    with suppress(TrainingDiverged):  # saved with the reason, which the dataset tells
        fit(spec, x, seeds, training=training, folder=folder, progress=progress, data_digest=data_digest)


def measure_into(
    model: LatentModel | Path, inputs: Inputs, measures: Mapping[str, tuple[Measure, Mapping[Quantity, Path]]]
) -> None:
    """Measure one model, loaded from its folder where it was trained here, into files."""
    x, points, asked = inputs.load()
    if isinstance(model, Path):
        model = storage.load(model).to(x.device).requires_grad_(False)
    for name, (how, files) in measures.items():
        # Each measure is kept as soon as it is there.
        row = measured(model, x, points, asked, {name: how})
        write_rows(files, row if isinstance(row, str) else row[name])
