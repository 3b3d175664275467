"""The study itself: specs are trained, models are measured, each once; what is missing is computed."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from probgeo.datasets.mapped import sized
from probgeo.disk import is_read_only, path_of
from probgeo.jobs import TaskLost, carried_out, check_executor, groups, num_workers
from probgeo.models.base import FittedModel, LatentModel, ModelSpec
from probgeo.netcdf import read_netcdf, write_netcdf
from probgeo.specs import check_whole, digest, to_config
from probgeo.study.asked import check_models, check_named, checked
from probgeo.study.claim import claim
from probgeo.study.identity import model_key
from probgeo.study.measure import (
    Row,
    acquaint,
    applicable,
    assembled,
    checked_data,
    listed,
    with_euclidean,
)
from probgeo.study.measures import DEFAULT_MEASURES, Measure
from probgeo.study.own import OwnRows, Rows, rows_by_name
from probgeo.study.probe import check_seen
from probgeo.study.quantities import Quantity
from probgeo.study.store import Held, Inputs, Mapped, measurement_key, read_rows
from probgeo.study.tasks import (
    Owner,
    Tile,
    encode_into,
    encoding_of,
    jobs_of,
    join_tiles,
    lost_of,
    measure_into,
    tiles_of,
    train_into,
)
from probgeo.training import storage
from probgeo.training.fit import Training, checked_seeds, fit

STACK = 10  # retrainings that are trained at once, at most
TILE = 2048  # pairs that are measured at once
CODES = "codes"  # the folder of what tiles of one model share while they are measured


class Study:
    """Distances of the same pairs of observations in many retrainings of several models; angles and volumes too.

    Args:
        folder: where everything is kept: `trainings/<key>/seed-<seed>` (models), `distances/<key>.nc`, the same for
            `angles` and `volumes`, `study.nc`; `inputs` for the workers of an executor. Keys are hashes of content, so
            a run that was killed, or asks for more seeds, other pairs or other measures, computes what is missing and
            nothing else. A function or class of the user's own is part of a key by its source.
        data: observations (row, feature) that the models are trained on, floating point; everything runs on its device.
            What is mapped from a file, or sparse, stays there, as in `fit`. Of a `Dataset` its `x`.
        pairs: rows of `points` (pair, 2) whose distances are measured.
        models: by name, specs to train, or lists of models that were trained elsewhere, one per training.
        seeds: one retraining of every spec per seed; none where there are no specs.
        measures: by name; default: the geodesic distance and the straight latent line, under each model's metric.
        training: options of `fit`.
        points: observations (row, feature) that `pairs` refers to, e.g. a test set; None for `data`.
        triples: rows of `points` (triple, 3): the angle at the first between the ways to the other two; None for none.
        regions: by name, rows of `points` (row,), more than latent dimensions: the volume of the convex hull of their
            codes, for at most 5 latent dimensions. A hull is as wide as its outermost code: leave outliers out.
        library_size: of each row of data, for the specs whose likelihood reads it, as in `fit`, where data is no
            `Dataset`, which has its own.

    Raises:
        TypeError: a measure, metric or network of the user's own that no source identifies, or that is no spec.
        ValueError: no models, no seeds, pairs or triples of another shape, a row index outside `points`, or regions of
            too few rows or in too many dimensions.
        FileExistsError: the folder holds a study of other data, training or models under the same names, or of a
            version whose studies this one does not continue.
        OSError: the disk is full, or may not be written to; a finished study can be read all the same.

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
        library_size: Rows | None = None,
    ) -> None:
        check_named("models", models, "specs or lists of LatentModels")
        self.folder, self.training = path_of("folder", folder).absolute(), training  # for workers elsewhere too
        self.models, self.seeds = {name: listed(model) for name, model in models.items()}, checked_seeds(seeds)
        check_models(self.models, self.seeds)
        self.measures = with_euclidean(measures)
        self.data: Any
        self.points: Any
        given = sized(data, library_size)
        self.data, self.points = checked_data("data", given, points)
        described = {name: self._described(name) for name in self.models}
        acquaint(described.values(), self.data)
        self.asked = checked(pairs, triples, regions, len(self.points), described)
        self.pairs = self.asked.pairs.to(self.data.device)
        self._data_digest = digest(self.data)
        points_digest = self._data_digest if points is None else digest(self.points)
        numbers = OwnRows(self.data, self.points, self._data_digest, points_digest)
        self._own = rows_by_name(self.models, given, points, numbers)
        if library_size is not None and all(own.x.shape == self.data.shape for own in self._own.values()):
            raise ValueError(
                "library_size: none of the models reads it. Use a likelihood of counts with library=likelihoods."
                "LibraryColumn(-1, reference=...)."
            )
        # Every key once, before anything is trained: what cannot be named is refused here.
        self._trainings = {name: self._training_keys(name) for name in self.models}
        digest(*self.measures.values())
        self._claim()

    def run(
        self,
        executor: Executor | None = None,
        progress: bool = True,
        *,
        stack: int | None = None,
        num_pairs: int = TILE,
    ) -> xr.Dataset:
        """Train what is not trained, measure what is not measured, and return the dataset (also in `study.nc`).

        Args:
            executor: any `concurrent.futures.Executor` whose workers see the folder (process pool, `Workers` of Dask,
                MPI); None runs here. Where its workers have several GPUs, each takes one of its own. Workers of a
                process pool end where the driver dies, and on Ctrl-C.
            progress: show bars with the remaining time.
            stack: retrainings that are trained at once, as one task, at most; fewer, where that is all that fits in
                half of the memory. None: 10 here; on an executor as many as give every worker a task. The numbers
                depend on it in their last digits, and not on who trains: at an equal stack and as many threads they are
                equal, bit for bit.
            num_pairs: pairs that are measured at once, as one task, at most.

        Returns:
            What `probgeo.measure` returns of the fitted models, with the coordinate `seed`, the variable
            `training_seconds` (model, retraining), of a stack its share, and the configuration in attrs.

        Raises:
            BrokenExecutor: a worker of a process pool died, and the pool with it: at which job. Run it again to resume.
            ValueError: a file in the folder is damaged: which, and what to delete.
            OSError: the disk is full, or may not be written to.

        Warns:
            RetrainingLost: a training diverged, its codes collapsed, or it took its workers with it: its rows are NaN.
        """
        check_executor(executor)
        check_whole("num_pairs", num_pairs)
        if stack is not None:
            check_whole("stack", stack)
        if num_pairs < 1 or (stack is not None and stack < 1):
            raise ValueError(f"stack, num_pairs: expected at least 1; got {stack} and {num_pairs}.")
        files = {
            (name, index, measure): self._files(name, key, self.measures[measure])
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
        if not missing and (known := self._known(key)) is not None:
            return known
        executor = executor if missing else None
        inputs = self._inputs(executor)
        lost = self._train(missing, inputs, executor, progress, stack)
        tiles = tiles_of(len(self.pairs), num_pairs)
        jobs = [job for job in self._jobs(missing, inputs, tiles) if job[0] not in lost]
        shared = {owner: args for owner, args in jobs if args[-1]}  # by tiles: encoded once for all of them
        encodings = [(owner, encoding_of(args)) for owner, args in shared.items()]
        lost |= lost_of(encode_into, encodings, executor, "encoding", progress, self.folder)
        jobs = [job for job in jobs if job[0] not in lost]
        lost |= lost_of(measure_into, jobs, executor, "measuring distances", progress, self.folder)
        for paths in missing.values():
            join_tiles(paths, tiles)
        shutil.rmtree(self.folder / CODES, ignore_errors=True)
        dataset = self._assembled(files, lost)
        dataset.attrs["key"] = key
        try:
            write_netcdf(self.folder / "study.nc", dataset)
        except OSError as error:
            if missing or not is_read_only(error):  # of what is there already it is no more than a copy
                raise
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
            self._own[name].x,
            [seed],
            training=self.training,
            folder=folder,
            progress=False,
            data_digest=self._own[name].x_digest,
        )[0]

    # --- where things are ---

    def _described(self, name: str) -> LatentModel | ModelSpec:
        """What tells a model's dimensions and abilities."""
        model = self.models[name]
        return model if isinstance(model, ModelSpec) else model[0]

    def _training_folder(self, name: str) -> Path:
        return self.folder / "trainings" / digest(self.models[name], self.training, self._own[name].x_digest)

    def _training_keys(self, name: str) -> list[str]:
        """What identifies each retraining of a model."""
        model = self.models[name]
        if isinstance(model, ModelSpec):
            folder = self._training_folder(name).name
            return [digest(folder, seed) for seed in self.seeds]
        return [model_key(each, name, index) for index, each in enumerate(model)]

    def _files(self, name: str, training: str, how: Measure) -> dict[Quantity, Path]:
        return {
            quantity: self.folder
            / quantity.folder
            / f"{measurement_key(training, self.asked, quantity, self._own[name].points_digest, how)}.nc"
            for quantity in self.asked.rows()
        }

    def _model_or_folder(self, name: str, index: int) -> LatentModel | Path:
        model = self.models[name]
        if isinstance(model, ModelSpec):
            return self._training_folder(name) / f"seed-{self.seeds[index]}"
        return model[index]

    def _known(self, key: str) -> xr.Dataset | None:
        """The dataset of a study that was finished, if nothing else is asked for now."""
        try:
            stored = read_netcdf(self.folder / "study.nc", "")
        except (OSError, ValueError):  # it is made anew of the measurements
            return None
        return stored if stored.attrs.get("key") == key else None

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
        claim(self.folder / "study.json", config)

    # --- the work ---

    def _inputs(self, executor: Executor | None) -> dict[str, Inputs]:
        """What is trained on and measured, by model: in memory, or in files that workers of an executor see."""
        found: dict[str, Inputs] = {}
        for name, own in self._own.items():
            held = Held(own.x, own.points, self.asked)
            same = next((other for other in found if self._own[other][2:] == own[2:]), None)
            if executor and not same:
                found[name] = mapped = Mapped.written(held, self.folder / "inputs", own.x_digest, own.points_digest)
                check_seen(executor, self.folder, mapped.paths)
            else:
                found[name] = found[same] if same else held
        return found

    def _jobs(self, missing: Mapping, inputs: Mapping[str, Inputs], tiles: list[Tile]) -> Iterator[tuple[Owner, tuple]]:
        """What is to be measured: of which model and retraining, and the arguments of `measure_into`."""
        for name, index in dict.fromkeys((name, index) for name, index, _ in missing):
            own = {m: (self.measures[m], paths) for (n, i, m), paths in missing.items() if (n, i) == (name, index)}
            codes = self.folder / CODES / digest(self._trainings[name][index], self._own[name].x_digest)
            for job in jobs_of(self._model_or_folder(name, index), inputs[name], own, tiles, codes):
                yield (name, index), job

    def _train(
        self,
        missing: Mapping,
        inputs: Mapping[str, Inputs],
        executor: Executor | None,
        progress: bool,
        stack: int | None,
    ) -> dict[Owner, str]:
        """Train every spec's seeds that a measurement is missing of, equal specs once; why some cannot be measured."""
        wanted: dict[Path, tuple[str, list[int]]] = {}
        for name, model in self.models.items():
            if isinstance(model, ModelSpec):
                folder = self._training_folder(name)
                unmeasured = {self.seeds[index] for n, index, _ in missing if n == name}
                # Of a training that was deleted the distances may be there still.
                seeds = [s for s in self.seeds if s in unmeasured or not (folder / f"seed-{s}").exists()]
                _, known = wanted.setdefault(folder, (name, []))
                known += [seed for seed in seeds if seed not in known]
        wanted = {folder: (name, seeds) for folder, (name, seeds) in wanted.items() if seeds}
        workers = 1 if executor is None else num_workers(executor)
        each = -(-sum(len(seeds) for _, seeds in wanted.values()) // workers) if workers else 1
        size, bar = stack or min(STACK, max(1, each)), progress and not executor
        jobs = [
            (self.models[name], inputs[name], group, self.training, folder, self._own[name].x_digest, bar)
            for folder, (name, seeds) in wanted.items()
            for group in groups(seeds, size)
        ]
        names = [f"{type(spec).__name__}, seeds {', '.join(map(str, seeds))}" for spec, _, seeds, *_ in jobs]
        found = carried_out(train_into, jobs, executor, "training", progress, names=names, folder=self.folder)
        killed = {
            (folder, seed): f"training failed, {result}"
            for (_, _, group, _, folder, *_), result in zip(jobs, found, strict=True)
            for seed in group
            if isinstance(result, TaskLost)
        }
        lost = {}
        for name, model in self.models.items():
            for index, seed in enumerate(self.seeds if isinstance(model, ModelSpec) else ()):
                folder = self._training_folder(name)
                if not (folder / f"seed-{seed}").exists() and (folder, seed) in killed:
                    lost[name, index] = killed[folder, seed]
                elif diverged := storage.read_config(folder / f"seed-{seed}")["extra"]["diverged"]:
                    lost[name, index] = f"training diverged, {diverged}"
        return lost

    # --- the dataset ---

    def _assembled(self, files: Mapping, lost: Mapping[Owner, str]) -> xr.Dataset:
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
                folder = self._training_folder(name) / f"seed-{seed}"
                if folder.exists():  # not of one that took its workers with it
                    seconds[index] = storage.read_config(folder)["extra"].get("seconds", np.nan)
        return seconds.tolist()
