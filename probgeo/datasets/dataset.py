"""`Dataset`: observations with labels, and the true geometry where it is known."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor


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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labelled observations x_1 … x_n, one flat row each.

    Args:
        name: what to call the set in tables and figures.
        x: observations, float32 (row, feature).
        labels: class code of each row, an index into `label_names`, −1 where it is unlabelled; int64 (row,).
        label_names: name of each class.
        shape: how one observation is displayed: (height, width) or (height, width, channel) for an image; (feature,)
            for a vector.
        colors: a colour for each class, "#rrggbb", in the order of `label_names`.
        latent: true coordinates of each row on a synthetic manifold, float32 (row, latent).
        immersion: the manifold itself, coordinates (*batch, latent) -> (*batch, feature), differentiable, noise-free.
        distance: geodesic distance in closed form, coordinates (*batch, latent) twice -> (*batch,), in the units of x.
        normalisation: what x was normalised by; None: x is in its own units.

    Raises:
        ValueError: fields that do not belong together.

    Example:
        >>> import torch, probgeo as pg
        >>> data = pg.datasets.Dataset("two", torch.eye(2), torch.tensor([0, 1]), ("first", "second"), (2,))
        >>> data.rows([1]).x, data.class_counts()
        (tensor([[0., 1.]]), {'first': 1, 'second': 1})
    """

    name: str
    x: Float32[Tensor, "row feature"]
    labels: Int64[Tensor, " row"]
    label_names: tuple[str, ...]
    shape: tuple[int, ...]
    colors: tuple[str, ...] | None = None
    latent: Float[Tensor, "row latent"] | None = None
    immersion: Callable[[Tensor], Tensor] | None = None
    distance: Callable[[Tensor, Tensor], Tensor] | None = None
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        num_rows, num_classes = self.x.shape[0], len(self.label_names)
        if self.labels.shape != (num_rows,):
            raise ValueError(
                f"labels: expected one label for each of the {num_rows} rows of x; got {tuple(self.labels.shape)}."
            )
        if num_rows and not -1 <= int(self.labels.min()) <= int(self.labels.max()) < num_classes:
            raise ValueError(
                f"labels: expected codes 0 … {num_classes - 1}, one for each of label_names, or -1 for unlabelled; "
                f"got {int(self.labels.min())} … {int(self.labels.max())}."
            )
        if math.prod(self.shape) != self.x.shape[1]:
            raise ValueError(f"shape: expected a product of {self.x.shape[1]}, the features of x; got {self.shape}.")
        if self.colors is not None and len(self.colors) != num_classes:
            raise ValueError(f"colors: expected one for each of the {num_classes} classes; got {len(self.colors)}.")
        if self.latent is not None and len(self.latent) != num_rows:
            raise ValueError(f"latent: expected one row for each of the {num_rows} rows of x; got {len(self.latent)}.")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        size = "×".join(str(extent) for extent in self.shape)
        num_classes = self.labels[self.labels >= 0].unique().numel()
        classes = "1 class" if num_classes == 1 else f"{num_classes} classes"
        return f"Dataset({self.name!r}: {len(self)} rows of {size}, {classes})"

    def rows(self, index: Int64[Tensor, " selected"]) -> "Dataset":
        """The rows x_i, i in index, in that order; names, colours and geometry stay."""
        latent = None if self.latent is None else self.latent[index]
        return dataclasses.replace(self, x=self.x[index], labels=self.labels[index], latent=latent)

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

    def normalised(self, normalisation: Normalisation | None = None) -> "Dataset":
        """(x − mean) / std: per channel of an image (one for a grey image), per feature of a vector.

        Coordinates stay; immersion and distance are left out, since they are in the units that x had.

        Args:
            normalisation: that of the training data, for test data; default: mean and standard deviation of these rows
                (one where a channel is constant).

        Returns:
            the data set, normalised, with what it was normalised by; `original` leads back.

        Raises:
            ValueError: it is normalised already.
        """
        if self.normalisation is not None:
            raise ValueError(f"normalised: {self.name!r} is normalised already.")
        if normalisation is None:
            num_channels = 1 if len(self.shape) == 2 else self.shape[-1]
            std, mean = torch.std_mean(self.x.unflatten(1, (-1, num_channels)), dim=(0, 1), correction=0)
            normalisation = Normalisation(mean, torch.where(std > 0, std, 1.0))
        x = normalisation.normalised(self.x)
        return dataclasses.replace(self, x=x, normalisation=normalisation, immersion=None, distance=None)

    def original(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """Rows like those of this set, such as reconstructions, in the units before normalisation: for display."""
        return x if self.normalisation is None else self.normalisation.original(x)

    def split(self, fraction: float = 0.9, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """Two disjoint parts (train, test) that together hold every row, drawn at random, rows in their order here.

        Args:
            fraction: share of the rows that goes into the first part, strictly between 0 and 1.
            seed: of the draw.

        Returns:
            the first part, of round(fraction · n) rows, and the rest.

        Raises:
            ValueError: a fraction that leaves either part empty.
        """
        first, second = split_rows(len(self), fraction, seed)
        return self.rows(first), self.rows(second)


def split_rows(num_rows: int, fraction: float, seed: int) -> tuple[Int64[Tensor, " first"], Int64[Tensor, " second"]]:
    """Rows of the two parts of `Dataset.split`, in increasing order."""
    num_first = round(fraction * num_rows) if 0 < fraction < 1 else 0
    if not 0 < num_first < num_rows:
        raise ValueError(f"fraction: {fraction} of {num_rows} rows leaves one part empty; choose one in (0, 1).")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(num_rows))
    return order[:num_first].sort().values, order[num_first:].sort().values


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
