"""What a model of latent codes is: all that measures, studies and plots ask for; and what a spec of one is."""

import abc
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, final

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.datasets.mapped import as_rows, is_anndata, is_table
from probgeo.geometry.immersions import is_wrapped
from probgeo.geometry.metrics import Metric, PullbackMetric
from probgeo.geometry.points import points_of, rows_of
from probgeo.likelihoods import LibraryColumn
from probgeo.rows import FileRows, StoredRows, beside, in_memory, row_blocks
from probgeo.seeds import check_seed


class Encoding(NamedTuple):
    """What the encoder says of rows x: a diagonal Gaussian q(z | x).

    Attributes:
        mean: of q(z | x), the code, (row, latent).
        std: standard deviation of q(z | x), (row, latent); 0 for an encoder that is certain.

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.VAE(latent=2).build(num_features=5, seed=0)
        >>> mean, std = model.encode(torch.zeros(3, 5))
        >>> mean.shape, bool((std > 0).all())
        (torch.Size([3, 2]), True)
    """

    mean: Float[Tensor, "row latent"]
    std: Float[Tensor, "row latent"]


class LatentModel(abc.ABC):
    """Anything with codes and a decoder: what distances, angles and volumes are measured in.

    A subclass has `encode` and `decode`, and sets `latent` and `num_features`; the rest is derived, or refused by name
    where it is asked for. Models that probgeo fits are of this class, those trained elsewhere may be.

    Attributes:
        latent: dimension d of z.
        num_features: numbers in a row of x.
        num_members: functions that `metric` averages over; 1 where it needs no draws.
        view_names: views that x consists of; empty for a model of one.
        has_conditions: whether it is conditional, so that `given_values` has a meaning.
        name: what errors and saved results call it.

    Example:
        >>> import torch, probgeo as pg
        >>> class Paraboloid(pg.LatentModel):
        ...     latent, num_features = 2, 3
        ...     def encode(self, x):
        ...         return pg.Encoding(x[:, :2], torch.zeros_like(x[:, :2]))
        ...     def decode(self, z):
        ...         return torch.cat([z, z.square().sum(-1, keepdim=True)], dim=-1)
        >>> start, stop = torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> length = pg.geodesic(Paraboloid().metric(), start, stop).length
        >>> round(length.item(), 2)
        2.96
    """

    latent: int
    num_features: int
    num_members: int = 1
    view_names: tuple[str, ...] = ()
    has_conditions: bool = False
    name: str = ""

    @abc.abstractmethod
    def encode(self, x: Float[Tensor, "row feature"]) -> Encoding:
        """Mean and standard deviation of q(z | x), each (row, latent)."""

    @abc.abstractmethod
    def decode(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch observation"]:
        """E[x | z], averaged over what the decoder is uncertain of; differentiable in z."""

    def rows(self, x: Any) -> Tensor | StoredRows:
        """The rows of x as `encode` reads them: by default its numbers, those of a `Dataset` or an AnnData too."""
        return as_rows("x", x)

    def reconstruct(self, x: Float[Tensor, " row *feature"]) -> Float[Tensor, "row observation"]:
        """E[x | z] at the mean of q(z | x)."""
        return self.decode(self.encode(x).mean)

    def metric(self) -> Metric:
        """The metric of the decoder's uncertainty in the space of E[x | z], by default JᵀJ of `decode`."""
        return PullbackMetric(self.decode)

    def fisher_rao_metric(self) -> Metric:
        """The Fisher-Rao metric of the observation, under the decoder's uncertainty: nats^½ per unit of z.

        Raises:
            TypeError: the model has none.
        """
        raise TypeError(self._without("fisher_rao_metric", "says nothing of the distribution of x given z", "metric()"))

    def uncertainty(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch"]:
        """Root mean square, over the observations, of the decoder's standard deviation at z; units of x.

        Raises:
            TypeError: the model has none.
        """
        raise TypeError(self._without("uncertainty", "has no uncertainty of its decoder", "an ensemble"))

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Any:
        """Fixed decoder functions z (*batch, latent) -> E[x | z] (member, *batch, observation), as one callable.

        Args:
            num_draws: how many; by default as many as the decoder's metric averages over.
            seed: the same seed gives the same functions, and the first k of n are the k.

        Raises:
            TypeError: the model has none.
        """
        raise TypeError(self._without("draws", "has no draws of its decoder", "an ensemble"))

    def given_values(self, values: Mapping[int, float]) -> "LatentModel":
        """The model given values by column of x.

        Raises:
            TypeError: the model has no conditions.
        """
        raise TypeError(self._without("given_values", "has no conditions", "a ConditionalVAE"))

    def view(self, name: str) -> "LatentModel":
        """The model of one view's columns alone, in the latent space that all share.

        Raises:
            TypeError: the model has no views.
        """
        raise TypeError(self._without("view", "has no views", "a SharedLatentVAE"))

    def identity(self) -> Any:
        """What tells the model from others of its class, of which its key in a study is made: all that it holds."""
        return self

    def _without(self, asked: str, lack: str, remedy: str) -> str:
        return f"{asked}: {type(self).__name__} {lack}; use {remedy}."


@torch.no_grad()
def codes_of(model: LatentModel, rows: Tensor | StoredRows) -> Float[Tensor, "row latent"]:
    """Means of q(z | x) of rows as the model reads them, block by block.

    Raises:
        ValueError: rows that are no data of the model.
    """
    found = []
    for begin, block in row_blocks(rows):
        with counted_from(begin):
            found.append(model.encode(block).mean.detach())
    return torch.cat(found)


@contextmanager
def counted_from(begin: int) -> Iterator[None]:
    """An error about a block of rows says where the block begins."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error} (Rows are counted from row {begin}.)" if begin else str(error)) from error


def block_by_block(encode: Callable[..., Encoding]) -> Callable[..., Encoding]:
    """A model's `encode`, of which rows of a file are given one block at a time, outside autograd's graph."""

    @functools.wraps(encode)
    def encoded(model: Any, x: Any, *given: Any, **named: Any) -> Encoding:
        mapped = FileRows.of_array(x) if isinstance(x, np.ndarray) else None
        rows: Any = model.rows(x) if is_table(x) else x if mapped is None else mapped
        if not isinstance(rows, StoredRows) or given or named:
            return encode(model, x, *given, **named)
        with torch.no_grad():
            like = next(model.parameters())
            parts = []
            for begin, block in row_blocks(rows.to(like.device)):
                with counted_from(begin):
                    parts.append(encode(model, block.to(like.dtype) if mapped else block))
            return Encoding(*(torch.cat(part) for part in zip(*parts, strict=True)))

    return encoded


def suited(name: str, values: Any, model: nn.Module, axes: str, width: int | None = None) -> Tensor:
    """Rows or points as a model with weights takes them; arrays and tables in the dtype that it has.

    Args:
        name: of the argument.
        values: a tensor, array or table; a `Dataset` or an AnnData, as the model reads it.
        model: a module with parameters.
        axes: names of the axes, as for `points_of`.
        width: of the last axis; None for any.

    Raises:
        TypeError: no floating-point numbers, or a tensor of another dtype than the model's.
        ValueError: another shape.
    """
    if is_table(values) and isinstance(model, LatentModel):
        values = in_memory(model.rows(values))
    found, weights = points_of(name, values, axes), next(model.parameters())
    if width is not None and found.shape[-1] != width:
        raise ValueError(f"{name}: expected {width} {axes.split()[-1]} numbers; got shape {tuple(found.shape)}.")
    if isinstance(values, Tensor) and found.dtype != weights.dtype:
        raise TypeError(
            f"{name}: expected the dtype of the model, {weights.dtype}; got {found.dtype}. Use {name}.to("
            f"{weights.dtype}), or convert the model."
        )
    return found if isinstance(values, Tensor) else found.to(weights)


class FittedModel(nn.Module, LatentModel):
    """A model that a spec built: a module with weights, which can be saved.

    Attributes:
        spec: what built it.
        history: terms of the objective by epoch; None where it was not fitted.
    """

    spec: Any
    history: xr.Dataset | None

    def rows(self, x: Any) -> Tensor | StoredRows:
        """The rows of x as `encode` reads them, library sizes in a last column where the likelihood reads these."""
        return self.spec.rows(x)


class ModelSpec(abc.ABC):
    """How a model is made: a frozen dataclass, comparable, hashable and JSON-able, without weights.

    Attributes:
        latent: dimension d of z.
        num_members: functions that the model's metric averages over, as tables state it.
        view_names: views that x consists of; empty for a model of one.
        has_conditions: whether its models are conditional.

    Example:
        >>> import probgeo as pg
        >>> spec = pg.VAE(latent=2, decoder=pg.EnsembleDecoder(members=10))
        >>> isinstance(spec, pg.ModelSpec), spec.num_members
        (True, 10)
        >>> spec == pg.VAE(latent=2, decoder=pg.EnsembleDecoder(members=10)), spec == pg.VAE(latent=3)
        (True, False)
        >>> spec.build(num_features=5, seed=0).latent  # with weights, untrained
        2
    """

    latent: int
    view_names: tuple[str, ...] = ()
    has_conditions: bool = False

    @property
    @abc.abstractmethod
    def num_members(self) -> int:
        """Functions that the model's metric averages over; 1 where it needs no draws."""

    @final
    def check(self, x: Tensor | StoredRows) -> None:
        """Raise if x cannot be data of this model; rows of a file are read block by block.

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: x is not (row, feature), is empty, or has values that the model has no place for.
        """
        if not isinstance(x, Tensor | StoredRows) or x.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"x: expected a floating-point tensor; got {getattr(x, 'dtype', type(x).__name__)}. Use x.float(), or "
                "x.double()."
            )
        if x.ndim != 2 or 0 in x.shape:
            raise ValueError(f"x: expected shape (row, feature), neither empty; got {tuple(x.shape)}.")
        for begin, block in row_blocks(x) if isinstance(x, StoredRows) else [(0, x)]:
            with counted_from(begin):
                self._check_values(block)

    @final
    def check_encoded(self, x: Float[Tensor, "row feature"]) -> None:
        """Raise if rows cannot be data of this model: their codes would be those of other rows.

        Raises:
            ValueError: values that the model has no place for. Within a transformation of torch.func values decide
                nothing, and none is refused.
        """
        if not is_wrapped(x):
            self._check_values(x)

    @final
    def rows(self, x: Any) -> Tensor | StoredRows:
        """Rows as its models read them: where the likelihood reads library sizes from a last column, with that column.

        Args:
            x: numbers; a `Dataset`, whose library sizes are meant; an AnnData.

        Raises:
            ValueError: sizes that are not one of each row, or a likelihood that reads another column.
        """
        found, sizes = as_rows("x", x), getattr(x, "library_size", None) if is_table(x) else None
        library = getattr(getattr(self, "likelihood", None), "library", None)
        if sizes is None or not isinstance(library, LibraryColumn):
            if is_anndata(x) and isinstance(library, LibraryColumn):
                raise ValueError(
                    "library_size: the likelihood reads library sizes; name their column in obs, "
                    "from_anndata(adata, library_size=...), or give them: library_size=."
                )
            return found
        if library.column != -1:
            raise ValueError(
                f"library_size: it stands after the counts, in the last column; the likelihood reads column "
                f"{library.column}. Use LibraryColumn(-1, reference={library.reference})."
            )
        column = rows_of("library_size", np.asarray(sizes) if isinstance(sizes, (list, tuple)) else sizes)
        if column.shape != (len(found),):
            raise ValueError(f"library_size: expected one of each of the {len(found)} rows; got {tuple(column.shape)}.")
        return beside(found, column[:, None].to(found.device, found.dtype))

    @final
    def build(self, num_features: int, seed: int, history: xr.Dataset | None = None) -> Any:  # of the spec's own kind
        """The model with weights drawn from `seed`; torch's global random state is left as found.

        Raises:
            TypeError, ValueError: a seed that is no whole number, or of more than 64 bits.
        """
        check_seed("seed", seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))
            return self._built(num_features, history)

    @abc.abstractmethod
    def _check_values(self, x: Float[Tensor, "row feature"]) -> None:
        """Raise ValueError if a table of numbers cannot be data of this model."""

    @abc.abstractmethod
    def _built(self, num_features: int, history: xr.Dataset | None) -> FittedModel:
        """The model with weights drawn from torch's random state."""
