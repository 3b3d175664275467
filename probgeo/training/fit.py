"""Training: models fitted by variational inference, in folders where a run resumes."""

import operator
import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from probgeo.datasets.mapped import sized
from probgeo.disk import path_of
from probgeo.likelihoods import LibraryColumn, Likelihood
from probgeo.models.base import FittedModel, ModelSpec
from probgeo.models.gp.gplvm import GPLVM
from probgeo.models.vae import LatentSpec
from probgeo.rows import StoredRows, row_blocks
from probgeo.seeds import check_seed, stream
from probgeo.specs import check_real, check_whole, current_config, digest, to_config
from probgeo.training import storage
from probgeo.training.budget import num_at_once
from probgeo.training.gplvm import SingleGPLVM, all_rows
from probgeo.training.options import Report, Training, num_epochs
from probgeo.training.retrainings import Group, results, train
from probgeo.training.stacks import Stack

# Part of a checkpoint's name: one of another format, whose numbers differ, is left alone.
CHECKPOINT_FORMAT = 2

# Pyro's stack of handlers and torch's random state belong to the process: threads take turns.
_TURN = threading.RLock()


LARGEST_INPUT = 100.0  # beyond which a network's initial weights do not suit what it reads


class UnsuitableData(UserWarning):
    """Data that a model can be trained on, but hardly to any use."""


class TrainingDiverged(ArithmeticError):
    """The objective of some retrainings became NaN or infinite; each keeps its weights of the last good epoch.

    Args:
        message: which seeds, and when.
        models: all retrainings, in the order of the seeds.

    Attributes:
        models: all retrainings, in the order of the seeds.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> reckless = pg.Training(epochs=5, batch_size=20, learning_rate=1e30, optimizer=torch.optim.SGD)
        >>> try:
        ...     pg.fit(pg.VAE(latent=2), x, seeds=range(2), training=reckless, progress=False)
        ... except pg.TrainingDiverged as error:
        ...     models = error.models
        >>> len(models), all(weights.isfinite().all().item() for weights in models[0].parameters())
        (2, True)
    """

    def __init__(self, message: str, models: list[FittedModel]) -> None:
        super().__init__(message)
        self.models = models

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is rebuilt from its message alone, unless told otherwise: workers of an executor send it home.
        return TrainingDiverged, (str(self), self.models)


def fit(
    spec: ModelSpec,
    x: Any,
    seeds: Sequence[int] = (0,),
    *,
    library_size: Any | None = None,
    training: Training = Training(),
    folder: str | os.PathLike | None = None,
    stack: int = 10,
    progress: bool = True,
    checkpoint_seconds: float = 30.0,
    report: Report | None = None,
    data_digest: str | None = None,
) -> list[FittedModel]:
    """Models fitted to x by maximising the ELBO, one per seed; each equals the one trained alone, up to rounding.

    Initial weights, order of the data and noise are drawn from streams of the seed's own.

    Args:
        spec: what to train, e.g. `VAE(...)` or `GPLVM(...)`.
        x: data (row, observation), floating point: a tensor, on whose device training runs, an array or a table. An
            array that is mapped from a file (`numpy.load(..., mmap_mode="r")`) or a store of chunks (zarr, h5py) stays
            there: no more than a block of rows is in memory, at most 65 536 of them and 256 MB, and of every row its
            number, and its code where a decoder is fitted to codes after training. So does a sparse matrix. A `GPLVM`
            reads all rows, or refuses. Of a `Dataset` its `x` is meant, with its library sizes where the likelihood
            reads these.
        library_size: of each row (row,), for likelihoods with `library=LibraryColumn(-1, reference=...)`: they are put
            after the features, and the models' rows have them as their last column.
        seeds: one retraining per seed.
        training: epochs, batch size, optimiser, learning rates, validation, early stopping.
        folder: where retraining `seed` is saved, as `folder/seed-<seed>`; finished ones are loaded instead of trained,
            and an interrupted run goes on from its last checkpoint. None: nothing is saved.
        stack: how many retrainings are trained at once, as one batched module, at most: as many as half of the memory
            of the machine or GPU holds, by a model of what each takes (weights, gradients, moments, what a step makes).
            Give less where several processes share it. A GPLVM is trained alone.
        progress: show a bar with the remaining time.
        checkpoint_seconds: how often an unfinished run is saved, at most once an epoch.
        report: called after every epoch with the seed, the epoch (counted over all phases) and the terms of the
            history by name, e.g. to log them.
        data_digest: `specs.digest(x)`, where it is known already; with a folder only.

    Returns:
        Fitted models in the order of `seeds`, at the best validation epoch of each phase (the last epoch without
        validation), each with its `history`.

    Raises:
        TypeError, ValueError: x is not data of this model; fewer than two rows to train on; seeds empty or repeated.
        FileExistsError: `folder` holds a retraining of another configuration.
        TrainingDiverged: an objective became NaN or infinite; the message names seeds and epochs, and
            its `models` are all retrainings. It is raised again for finished ones: to go on, leave these seeds out.

    Warns:
        UnsuitableData: all rows are equal, or values are far larger than networks read well.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        >>> spec, training = pg.VAE(latent=2, decoder=pg.Decoder(pg.nn.MLP((8,)))), pg.Training(epochs=1, batch_size=20)
        >>> three = pg.fit(spec, x, seeds=range(3), training=training, progress=False)
        >>> [alone] = pg.fit(spec, x, seeds=[2], training=training, progress=False)
        >>> torch.allclose(alone.encode(x).mean, three[2].encode(x).mean, atol=1e-5)  # each as if trained alone
        True
    """
    seeds = checked_seeds(seeds)
    if not isinstance(training, Training):
        raise TypeError(f"training: expected Training(...); got {training!r}.")
    if not isinstance(spec, ModelSpec):
        raise TypeError(f"spec: expected a spec, such as VAE(latent=2); got {_named(spec)}.")
    x = rows_with(spec, sized(x, library_size), library_size)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: expected at least one seed, none repeated; got {seeds}.")
    check_whole("stack", stack)
    check_real("checkpoint_seconds", checkpoint_seconds)
    if stack < 1 or checkpoint_seconds < 0:
        raise ValueError(f"stack, checkpoint_seconds: expected at least 1 and 0; got {stack} and {checkpoint_seconds}.")
    if report is not None and not callable(report):
        raise TypeError(f"report: expected a function of seed, epoch and terms, or None; got {report!r}.")
    place = path_of("folder", folder).absolute() if folder else None
    spec.check(x)
    if isinstance(spec, GPLVM):
        _check_applies(training)
        x = all_rows(x)
    parts = _split(x, training)
    identity = {"training": to_config(training), "data": data_digest or (digest(x) if folder else "")}
    with _TURN, torch.enable_grad():
        models = _finished(place, seeds, spec, identity) if place else {}
        pending = [seed for seed in seeds if seed not in models]
        if pending:
            _warn_of(spec, x)
            stack = _at_once(spec, parts, seeds[0], training.batch_size, stack)
        groups = _groups(place, seeds, pending, stack, spec, identity)
        epochs = sum(num_epochs(phase, training) for phase in spec.build(x.shape[1], seed=0).phases)
        with tqdm(total=epochs * len(groups), unit="epoch", disable=not (progress and pending)) as bar:
            for some in groups:
                source = type(getattr(spec, "decoder", spec)).__name__
                bar.set_description(f"training {source}, seeds {some[0]} to {some[-1]}")
                group: Group
                if isinstance(spec, GPLVM):
                    group = SingleGPLVM(spec, x, some[0], training.batch_size)
                else:
                    assert isinstance(spec, LatentSpec)
                    group = Stack(spec, *parts, some, training.batch_size)
                checkpoint = _checkpoint(place, identity, spec, some) if place else None
                state = train(group, training, bar, checkpoint, checkpoint_seconds, report)
                for seed, model, extra, last in results(group, state):
                    models[seed] = model
                    if place and not (place / f"seed-{seed}").exists():
                        storage.save(model, place / f"seed-{seed}", {**identity, **extra}, last=last)
                if checkpoint:
                    checkpoint.unlink(missing_ok=True)
    found = [models[seed].to(x.device) for seed in seeds]
    diverged = [text for model in found if (text := _divergence(model))]
    if diverged:
        raise TrainingDiverged(
            f"training: the objective became NaN or infinite for {'; '.join(diverged)}. Each keeps the weights of its "
            "last good epoch. Lower learning_rate or set max_gradient_norm, and train into another folder; or leave "
            "these seeds out, since the others are finished.",
            found,
        )
    return found


def rows_with(spec: ModelSpec, given: Any, library_size: Any | None) -> Any:
    """Rows as a spec reads them, library sizes among them where they are given.

    Raises:
        ValueError: they are, and the spec does not read them.
    """
    rows = spec.rows(given)
    library = getattr(getattr(spec, "likelihood", None), "library", None)
    if library_size is not None and not isinstance(library, LibraryColumn):
        raise ValueError(
            f"library_size: {type(spec).__name__} with {getattr(spec, 'likelihood', None)} does not read it. Use a "
            " likelihood of counts with library=likelihoods.LibraryColumn(-1, reference=...)."
        )
    return rows


def _at_once(
    spec: ModelSpec,
    parts: tuple[Tensor | StoredRows, Tensor | StoredRows | None],
    seed: int,
    batch_size: int,
    most: int,
) -> int:
    """How many retrainings are trained at once."""
    if isinstance(spec, GPLVM):
        return 1
    assert isinstance(spec, LatentSpec)
    return num_at_once(spec, *parts, seed, batch_size, most)


def checked_seeds(seeds: Any) -> list[int]:
    """Seeds as a list of whole numbers.

    Raises:
        TypeError: something else, with what was probably meant.
        ValueError: one of more than 64 bits.
    """
    advice = "expected a sequence of whole numbers, such as range(10)"
    if isinstance(seeds, Training):
        raise TypeError(f"seeds: {advice}; got {seeds!r}. Give it by name: fit(spec, x, training=...).")
    try:
        for seed in (found := seeds.tolist() if isinstance(seeds, (Tensor, np.ndarray)) else list(seeds)):
            check_seed("seeds", seed)
        return [operator.index(seed) for seed in found]
    except TypeError as error:
        name = f" Did you mean range({seeds})?" if isinstance(seeds, int) else ""
        raise TypeError(f"seeds: {advice}; got {seeds!r}.{name}") from error


def _warn_of(spec: ModelSpec, x: Tensor | StoredRows) -> None:
    """Warn of rows that are all equal, and of values that no network reads well."""
    blocks = [torch.stack(block.aminmax(dim=0)) for _, block in row_blocks(x)]
    low, high = torch.stack(blocks).amin(0)[0], torch.stack(blocks).amax(0)[1]
    if torch.equal(low, high):
        warnings.warn("x: all rows are equal, so that there is nothing to learn.", UnsuitableData, 3)
    likelihood = getattr(spec, "likelihood", None)
    as_it_is = likelihood is not None and type(likelihood).encoder_input is Likelihood.encoder_input
    largest = float(torch.stack([low, high]).abs().nan_to_num().amax())
    if as_it_is and largest > LARGEST_INPUT:
        warnings.warn(
            f"x: values reach {largest:.4g}, and networks read them as they are: training is slow then, or diverges. "
            "Give images in [0, 1], and other data in units of their standard deviation: Dataset.normalised().",
            UnsuitableData,
            3,
        )


def _named(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _check_applies(training: Training) -> None:
    """Refuse options that were set and that a GPLVM cannot follow: each of its rows has a code, so none is held out."""
    if training.patience is not None:
        raise ValueError(
            f"patience: expected None, as a GPLVM holds out no rows whose objective could stop it; got "
            f"{training.patience}. Set epochs instead."
        )
    if training.validation not in (0, Training.validation):
        raise ValueError(
            f"validation: expected 0, or the default, which has no effect then: every row of a GPLVM has a code of its "
            f"own, so that none is held out; got {training.validation}."
        )


def _divergence(model: FittedModel) -> str:
    """Seed, epoch and phase at which the objective was lost; empty if it was not."""
    return model.history.attrs["diverged"] if model.history is not None else ""


def _split(x: Tensor | StoredRows, training: Training) -> tuple[Tensor | StoredRows, Tensor | StoredRows | None]:
    """The rows to train on, and those held out; those of a file stay there."""
    num_held_out = round(training.validation * len(x))
    if len(x) - num_held_out < 2:
        raise ValueError(
            f"x: expected at least two rows to train on; got {len(x)}, {num_held_out} of them held out for validation."
        )
    if num_held_out == 0:
        if training.patience is not None:
            raise ValueError(
                f"patience: expected rows held out, by whose objective to stop; a fraction {training.validation} of "
                f"{len(x)} rows is none. Raise validation, or leave patience out."
            )
        return x, None
    order = torch.randperm(len(x), generator=stream("validation", len(x))).to(x.device)
    held_out, kept = order.split([num_held_out, len(x) - num_held_out])
    return (x.rows(kept), x.rows(held_out)) if isinstance(x, StoredRows) else (x[kept], x[held_out])


def _checkpoint(folder: Path, identity: dict[str, Any], spec: ModelSpec, seeds: list[int]) -> Path:
    return folder / f"unfinished-{digest(CHECKPOINT_FORMAT, identity, spec, seeds)}.safetensors"


def _groups(
    folder: Path | None, seeds: list[int], pending: list[int], stack: int, spec: ModelSpec, identity: dict[str, Any]
) -> list[list[int]]:
    """The seeds that are trained at once, at most `stack`; a group with a checkpoint stays together.

    A kill while a group is being saved leaves some of it finished: the checkpoint is still that of the whole group.
    """
    whole = [seeds[i : i + stack] for i in range(0, len(seeds), stack)]
    begun = [
        group
        for group in whole
        if folder and not set(pending).isdisjoint(group) and _checkpoint(folder, identity, spec, group).exists()
    ]
    rest = [seed for seed in pending if not any(seed in group for group in begun)]
    return begun + [rest[i : i + stack] for i in range(0, len(rest), stack)]


def _finished(folder: Path, seeds: list[int], spec: ModelSpec, identity: dict[str, Any]) -> dict[int, FittedModel]:
    """The models that the folder already holds, by seed."""
    models = {}
    expected = {"model": to_config(spec), **identity}
    for seed in seeds:
        place = folder / f"seed-{seed}"
        if not place.exists():
            continue
        config = storage.read_config(place)
        found = {"model": config["model"], **config["extra"]}
        found |= {key: current_config(found[key]) for key in ("model", "training") if key in found}
        different = [key for key in expected if found.get(key) != expected[key]]
        if different:
            raise FileExistsError(
                f"folder: {place} holds a retraining of another {' and '.join(different)}. Choose another folder."
            )
        models[seed] = storage.load(place)
    return models
