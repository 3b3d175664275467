"""`Dataset`: observations, and what is known of their rows, classes, features and true geometry."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from probgeo.rows import StoredRows


@dataclasses.dataclass(frozen=True, eq=False)
class Normalisation:
    """x -> (x − mean) / std, per channel of an image or per feature of a vector, and back.

    Args:
        mean: of each channel; feature i of a row belongs to channel i mod C, as the last axis of an image does.
        std: of each channel, in the units of x.

    Raises:
        ValueError: a standard deviation that is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> normalisation = pg.datasets.Normalisation(torch.tensor([1.0, 10.0]), torch.tensor([2.0, 5.0]))
        >>> normalised = normalisation.normalised(torch.tensor([[3.0, 0.0]]))
        >>> normalised, normalisation.original(normalised)
        (tensor([[ 1., -2.]]), tensor([[3., 0.]]))
    """

    mean: Float[Tensor, " channel"]
    std: Float[Tensor, " channel"]

    def __post_init__(self) -> None:
        if not (self.std > 0).all():
            raise ValueError(f"std: expected positive numbers; got {self.std.tolist()}.")

    def normalised(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """(x − mean) / std."""
        return ((self._by_channel(x) - self.mean.to(x)) / self.std.to(x)).flatten(-2)

    def original(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """mean + std · x, the inverse."""
        return (self._by_channel(x) * self.std.to(x) + self.mean.to(x)).flatten(-2)

    def _by_channel(self, x: Tensor) -> Tensor:
        if x.shape[-1] % len(self.mean):
            raise ValueError(
                f"x: expected a multiple of {len(self.mean)} features, the channels of the normalisation; got "
                f"{x.shape[-1]}."
            )
        return x.unflatten(-1, (-1, len(self.mean)))


@dataclasses.dataclass(frozen=True)
class Column:
    """What a feature of a table is.

    Args:
        name: in the file.
        kind: categorical (codes 0 … K − 1 of `categories`), real (standardised), binary (0, 1), or count.
        categories: names of the codes of a categorical column, and of 0 and 1 of a binary one.
        mean: of a real column before it was standardised, in its own unit.
        std: its standard deviation.

    Example:
        >>> import pathlib, tempfile, pandas as pd, probgeo as pg
        >>> people = pd.DataFrame({"colour": ["red", "blue", "green"], "weight": [1.5, 2.5, 3.5]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     people.to_csv(pathlib.Path(folder) / "people.csv", index=False)
        ...     colour, weight = pg.datasets.table(pathlib.Path(folder) / "people.csv").columns
        >>> colour
        Column(name='colour', kind='categorical', categories=('blue', 'green', 'red'), mean=0.0, std=1.0)
        >>> weight.kind, weight.mean
        ('real', 2.5)
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    def shown(self, values: Float[np.ndarray, " row"]) -> list[str | None] | np.ndarray:
        """Values of x in the units of the file: names of categories, None where missing, or numbers."""
        if not self.categories:
            return values * self.std + self.mean
        codes = pd.array(np.round(values), dtype="Float64").astype("Int64")
        return [None if code is pd.NA else self.categories[code] for code in codes]


_OF_ROWS = ("labels", "latent", "pseudotime", "library_size", "test")  # beside x and obs: tensors, one entry per row
_OF_FEATURES = ("feature_names", "columns")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Observations x_1 … x_n, one flat row each, and what else is known of rows, classes and features.

    Args:
        name: what to call the set in tables and figures.
        x: observations, float32 (row, feature); NaN where a value, or a view in all its columns, is missing. Rows of
            a sparse matrix or a file may stay there: x gives those that it is asked for, by number or slice.
        labels: class code of each row, an index into `label_names`, −1 where it is unlabelled; int64 (row,).
        label_names: name of each class; none where no row is labelled.
        shape: how one observation is displayed: (height, width) or (height, width, channel) for an image; (feature,)
            for a vector.
        colours: a colour for each class, "#rrggbb", in the order of `label_names`.
        latent: true coordinates of each row on a synthetic manifold, float32 (row, latent).
        immersion: the manifold itself, coordinates (*batch, latent) -> (*batch, feature), differentiable, noise-free.
        distance: geodesic distance, in closed form or as precise as its set says, coordinates (*batch, latent) twice
            -> (*batch,), in the units of x; `intrinsic_distances` for pairs of rows.
        normalisation: what x was normalised by; None: x is in its own units.
        feature_names: of the columns of x.
        columns: what each column of x is, where they are of different kinds, those of one kind side by side.
        views: how each of several views is displayed, by its name: (height, width) for an image, (feature,) for a
            vector; their columns stand side by side in x, in this order.
        obs: what else is known of each row, a column for each thing; its index are the names of the rows.
        library_size: what the counts of each row are a part of, float32 (row,).
        pseudotime: how far each row has come in each lineage, in any unit, float32; NaN where it is not on a lineage,
            no lineages where nothing is known.
        test: which rows are published as the test part, for `split`.

    Raises:
        ValueError: parts that do not belong together.

    Example:
        >>> import torch, probgeo as pg
        >>> data = pg.datasets.Dataset("two", torch.eye(2), torch.tensor([0, 1]), ("first", "second"), (2,))
        >>> data.rows(torch.tensor([1])).x, data.class_counts()
        (tensor([[0., 1.]]), {'first': 1, 'second': 1})
    """

    name: str
    x: Any  # Float32[Tensor, "row feature"] or StoredRows
    labels: Int64[Tensor, " row"]
    label_names: tuple[str, ...]
    shape: tuple[int, ...]
    colours: tuple[str, ...] | None = None
    latent: Float[Tensor, "row latent"] | None = None
    immersion: Callable[[Tensor], Tensor] | None = None
    distance: Callable[[Tensor, Tensor], Tensor] | None = None
    normalisation: Normalisation | None = None
    feature_names: tuple[str, ...] | None = None
    columns: tuple[Column, ...] | None = None
    views: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    obs: pd.DataFrame | None = None
    library_size: Float32[Tensor, " row"] | None = None
    pseudotime: Float32[Tensor, "row lineage"] | None = None
    test: Bool[Tensor, " row"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.x, (Tensor, StoredRows)) or self.x.ndim != 2 or self.x.dtype != torch.float32:
            got = f"{self.x.dtype} {tuple(self.x.shape)}" if hasattr(self.x, "dtype") else type(self.x).__name__
            raise TypeError(f"x: expected float32 (row, feature), a tensor or stored rows; got {got}.")
        (num_rows, num_features), num_classes = self.x.shape, len(self.label_names)
        for part in (*_OF_ROWS, "obs"):
            if (found := getattr(self, part)) is not None and len(found) != num_rows:
                raise ValueError(f"{part}: expected one entry for each of the {num_rows} rows of x; got {len(found)}.")
        for part in _OF_FEATURES:
            if (found := getattr(self, part)) is not None and len(found) != num_features:
                raise ValueError(f"{part}: expected {num_features}, one per feature; got {len(found)}.")
        if num_rows and not -1 <= int(self.labels.min()) <= int(self.labels.max()) < num_classes:
            raise ValueError(
                f"labels: expected codes 0 … {num_classes - 1}, one for each of label_names, or -1 for unlabelled; "
                f"got {int(self.labels.min())} … {int(self.labels.max())}."
            )
        if math.prod(self.shape) != num_features:
            raise ValueError(f"shape: expected a product of {num_features}, the features of x; got {self.shape}.")
        if self.views and (found := sum(map(math.prod, self.views.values()))) != num_features:
            raise ValueError(f"views: expected products that add up to the {num_features} features; got {found}.")
        if self.colours is not None and len(self.colours) != num_classes:
            raise ValueError(f"colours: expected one for each of the {num_classes} classes; got {len(self.colours)}.")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        size = "×".join(str(extent) for extent in self.shape)
        if self.views:
            size = ", ".join(f"{name} {int(self.present(name).sum())}×{shape}" for name, shape in self.views.items())
        num_classes = self.labels[self.labels >= 0].unique().numel()
        classes = "1 class" if num_classes == 1 else f"{num_classes} classes"
        return f"Dataset({self.name!r}: {len(self)} rows of {size}, {classes})"

    @property
    def row_names(self) -> pd.Index:
        """Names of the rows, those of `obs`; their numbers where they have none."""
        return pd.RangeIndex(len(self)) if self.obs is None else self.obs.index

    # --- rows ---

    def rows(self, index: Int64[Tensor, " selected"]) -> "Dataset":
        """The rows x_i, i in index, in that order, with all that is known of them; the rest stays."""
        found = {name: getattr(self, name) for name in ("x", *_OF_ROWS)}
        chosen = {name: _rows(value, index) for name, value in found.items() if value is not None}
        obs = None if self.obs is None else self.obs.iloc[index.cpu().numpy()]
        return dataclasses.replace(self, **chosen, obs=obs)

    def in_memory(self) -> "Dataset":
        """The same with all rows of x in memory, as one tensor."""
        return dataclasses.replace(self, x=self.x[:])

    def _values(self) -> Tensor:
        if isinstance(self.x, StoredRows):
            raise TypeError(f"x: expected all rows in memory; got {self.x}. Use data.in_memory() first.")
        return self.x

    def subset(
        self, classes: Sequence[int | str] | None = None, per_class: int | None = None, seed: int = 0
    ) -> "Dataset":
        """Rows of some classes, at most so many of each, in their order here; labels keep their codes and names.

        The rows drawn from a class depend on the seed and on that class alone, not on the other classes asked for.

        Args:
            classes: codes or names of the classes to keep; all by default.
            per_class: number of rows drawn without replacement from each class; all by default.
            seed: of the draw.

        Returns:
            the smaller data set.

        Raises:
            ValueError: no class, an unknown or empty class, per_class below one or above the size of a class.
        """
        return self.rows(subset_rows(self.name, self.labels, self.label_names, classes, per_class, seed))

    def class_counts(self) -> dict[str, int]:
        """Number of rows of each class that has any, by name."""
        counts = self.labels[self.labels >= 0].bincount(minlength=len(self.label_names)).tolist()
        return {name: count for name, count in zip(self.label_names, counts, strict=True) if count}

    def split(self, fraction: float | None = None, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """Two disjoint parts (train, test) that together hold every row, rows in their order here.

        Args:
            fraction: share of the rows that goes into the first part, strictly between 0 and 1, drawn at random;
                default: the published parts where `test` says them, else 0.9.
            seed: of the draw.

        Returns:
            the first part, of round(fraction · n) rows, and the rest.

        Raises:
            ValueError: a fraction that leaves either part empty.
        """
        if fraction is None and self.test is not None:
            return self.rows((~self.test).nonzero().flatten()), self.rows(self.test.nonzero().flatten())
        fraction = 0.9 if fraction is None else fraction
        num_first = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < num_first < len(self):
            raise ValueError(f"fraction: {fraction} of {len(self)} rows leaves one part empty; choose one in (0, 1).")
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self)))
        return self.rows(order[:num_first].sort().values), self.rows(order[num_first:].sort().values)

    # --- views ---

    def place(self, view: str) -> slice:
        """The columns of a view in x.

        Raises:
            ValueError: there is no view of this name.
        """
        if view not in self.views:
            raise ValueError(f"view: expected one of {', '.join(map(repr, self.views))}; got {view!r}.")
        names, ends = list(self.views), np.cumsum([0, *map(math.prod, self.views.values())]).tolist()
        return slice(ends[names.index(view)], ends[names.index(view) + 1])

    def view(self, name: str) -> Float32[Tensor, "row view"]:
        """The columns of a view, NaN in rows without it.

        Raises:
            ValueError: there is no view of this name.
        """
        return self._values()[:, self.place(name)]

    def present(self, name: str) -> Bool[Tensor, " row"]:
        """Which rows have the view.

        Raises:
            ValueError: there is no view of this name.
        """
        return ~self.view(name).isnan().any(1)

    def complete(self) -> Bool[Tensor, " row"]:
        """Which rows lack nothing."""
        return ~self._values().isnan().any(1)

    # --- features ---

    def with_x(self, x: Float32[Tensor, "row feature"] | StoredRows, shape: tuple[int, ...]) -> "Dataset":
        """The same rows with other features: what is known of the features is left out, immersion and distance too."""
        unknown: dict[str, Any] = dict.fromkeys(("immersion", "distance", "normalisation", *_OF_FEATURES))
        return dataclasses.replace(self, x=x, shape=shape, views={}, **unknown)

    def normalised(self, normalisation: Normalisation | None = None) -> "Dataset":
        """(x − mean) / std: per channel of an image (one for a grey image), per feature of a vector or of views.

        Coordinates stay; immersion and distance are left out, since they are in the units that x had.

        Args:
            normalisation: that of the training data, for test data; default: mean and standard deviation of these rows,
                of a view of those that have it (one where a channel is constant).

        Returns:
            the data set, normalised, with what it was normalised by; `original` leads back.

        Raises:
            ValueError: it is normalised already.
        """
        if self.normalisation is not None:
            raise ValueError(f"normalised: {self.name!r} is normalised already.")
        if normalisation is None:
            if self.views:
                mean = self._values().nanmean(0)
                std = (self.x - mean).square().nanmean(0).sqrt()
            else:
                num_channels = 1 if len(self.shape) == 2 else self.shape[-1]
                std, mean = torch.std_mean(self._values().unflatten(1, (-1, num_channels)), dim=(0, 1), correction=0)
            normalisation = Normalisation(mean, torch.where(std > 0, std, 1.0))
        x = normalisation.normalised(self._values())
        return dataclasses.replace(self, x=x, normalisation=normalisation, immersion=None, distance=None)

    def original(self, x: Float[Tensor, "*batch feature"], view: str | None = None) -> Float[Tensor, "*batch feature"]:
        """Rows like those of this set, or of one view of it, in the units before normalisation: for display.

        Args:
            x: such as reconstructions, or translations into a view.
            view: whose columns x has; None for all.
        """
        if self.normalisation is None:
            return x
        if view is None:
            return self.normalisation.original(x)
        columns = self.place(view)
        return Normalisation(self.normalisation.mean[columns], self.normalisation.std[columns]).original(x)

    def frame(self, x: Float[Tensor, "row feature"]) -> pd.DataFrame:
        """Rows like those of this set, e.g. imputed ones, with names and in the units of the file."""
        values = self.original(x).detach().cpu().double().numpy().T
        if self.columns is None:
            return pd.DataFrame(dict(zip(self.feature_names or map(str, range(len(values))), values, strict=True)))
        return pd.DataFrame(
            {column.name: column.shown(found) for column, found in zip(self.columns, values, strict=True)}
        )


def _rows(values: Any, index: Tensor) -> Any:
    """Some rows of a tensor, or of what is stored, which is not read."""
    return values.rows(index) if isinstance(values, StoredRows) else values[index]


def subset_rows(
    name: str,
    labels: Int64[Tensor, " row"],
    label_names: Sequence[str],
    classes: Sequence[int | str] | None = None,
    per_class: int | None = None,
    seed: int = 0,
) -> Int64[Tensor, " selected"]:
    """Rows of `Dataset.subset`, in increasing order, of labels alone; unlabelled ones stay where nothing is chosen."""
    present = sorted(set(labels[labels >= 0].tolist()))
    if classes is None and per_class is None:
        return torch.arange(len(labels))
    codes = sorted(present if classes is None else {_code(name, item, present, label_names) for item in classes})
    if not codes:
        raise ValueError("classes: expected at least one class; got none.")
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class: expected at least 1; got {per_class}.")
    kept = []
    for code in codes:
        members = np.flatnonzero((labels == code).cpu().numpy())
        if per_class is not None:
            if per_class > len(members):
                raise ValueError(
                    f"per_class: expected at most {len(members)}, "
                    f"the rows of class {label_names[code]!r}; got {per_class}."
                )
            members = np.random.default_rng([seed, code]).choice(members, per_class, replace=False)
        kept.append(members)
    return torch.from_numpy(np.sort(np.concatenate(kept)))


def _code(name: str, item: int | str, present: Sequence[int], label_names: Sequence[str]) -> int:
    """Code of a class given by code or by name; the class must have rows."""
    known = {label_names[code]: code for code in present}
    code = known.get(item, -1) if isinstance(item, str) else item
    if code not in present:
        choices = ", ".join(f"{code} ({name})" for name, code in known.items())
        raise ValueError(f"classes: {item!r} is not among the classes of {name!r}: {choices}.")
    return code
