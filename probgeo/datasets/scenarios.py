"""Data for conditional models: Gaussians of known covariance, images in known colours, columns of conditions."""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from probgeo.datasets.dataset import Dataset
from probgeo.datasets.published.images import mnist

# Saturated, far apart from each other, and about equally bright.
COLOURS = {
    "red": (1.0, 0.25, 0.25),
    "green": (0.2, 0.85, 0.3),
    "blue": (0.35, 0.5, 1.0),
    "yellow": (0.95, 0.85, 0.2),
    "magenta": (0.95, 0.35, 0.95),
    "cyan": (0.2, 0.9, 0.9),
}


def gaussian_covariance(dimension: int, correlated: float) -> Float[Tensor, "dimension dimension"]:
    """Σ_ij = ρ^|i−j|, double precision: neighbours have the correlation ρ = `correlated`, and variances are 1.

    Args:
        dimension: rows and columns of Σ.
        correlated: ρ, in (−1, 1).

    Returns:
        Σ, positive definite.

    Raises:
        ValueError: a dimension below one, or a correlation outside (−1, 1).

    Example:
        >>> import probgeo as pg
        >>> pg.datasets.gaussian_covariance(3, correlated=0.5)
        tensor([[1.0000, 0.5000, 0.2500],
                [0.5000, 1.0000, 0.5000],
                [0.2500, 0.5000, 1.0000]], dtype=torch.float64)
    """
    if dimension < 1:
        raise ValueError(f"dimension: expected at least 1; got {dimension}.")
    if not -1 < correlated < 1:
        raise ValueError(f"correlated: expected a correlation strictly between -1 and 1; got {correlated}.")
    places = torch.arange(dimension)
    return torch.tensor(correlated, dtype=torch.float64) ** (places[:, None] - places).abs()


def gaussians(
    num_points: int = 2000,
    dimension: int = 10,
    correlated: float = 0.0,
    project_to: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    projection_seed: int = 0,
) -> Dataset:
    """z ~ N(0, Σ), Σ_ij = ρ^|i−j|, independent for ρ = 0; x = A z with orthonormal columns of A where it is projected.

    Args:
        num_points: rows.
        dimension: of z.
        correlated: ρ, see `gaussian_covariance`.
        project_to: dimension of x, at least that of z; None: x = z.
        noise: standard deviation of isotropic Gaussian noise on x.
        seed: of z and the noise.
        projection_seed: of A, which is the same for test data of another seed.

    Returns:
        a data set with latent (row, dimension) = z, immersion z -> A z, and Euclidean distance.

    Raises:
        ValueError: num_points or dimension below one, a correlation outside (−1, 1), a negative noise, or project_to
            below the dimension.

    Example:
        >>> import torch, probgeo as pg
        >>> data = pg.datasets.gaussians(num_points=50, dimension=3, project_to=10)
        >>> data.x.shape, data.latent.shape
        (torch.Size([50, 10]), torch.Size([50, 3]))
        >>> torch.allclose(data.x.norm(dim=1), data.latent.norm(dim=1), atol=1e-5)  # orthonormal columns
        True
    """
    if num_points < 1 or noise < 0:
        raise ValueError(f"num_points, noise: expected at least 1 and at least 0; got {num_points} and {noise}.")
    covariance, rng = gaussian_covariance(dimension, correlated), np.random.default_rng(seed)
    z = torch.from_numpy(rng.standard_normal((num_points, dimension))) @ torch.linalg.cholesky(covariance).T
    frame = projection(dimension, project_to or dimension, projection_seed)
    x = _projected(z, frame) + noise * torch.from_numpy(rng.standard_normal((num_points, len(frame))))
    return Dataset(
        name="gaussians",
        x=x.float(),
        labels=torch.zeros(num_points, dtype=torch.int64),
        label_names=("gaussians",),
        shape=(len(frame),),
        latent=z.float(),
        immersion=partial(_projected, frame=frame),
        distance=_euclidean,
    )


def projection(dimension: int, ambient: int, seed: int) -> Float[Tensor, "ambient dimension"]:
    """A with orthonormal columns, uniformly random, double precision; the identity where there is nothing to turn into.

    Raises:
        ValueError: an ambient dimension below the other.
    """
    if ambient < dimension:
        raise ValueError(f"project_to: expected at least the {dimension} dimensions of z; got {ambient}.")
    if ambient == dimension:
        return torch.eye(dimension, dtype=torch.float64)
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).standard_normal((ambient, dimension)))[0])


def _projected(
    z: Float[Tensor, "*batch dimension"], frame: Float[Tensor, "ambient dimension"]
) -> Float[Tensor, "*batch ambient"]:
    return z @ frame.T.to(z)


def _euclidean(a: Float[Tensor, "*#batch dimension"], b: Float[Tensor, "*#batch dimension"]) -> Float[Tensor, "*batch"]:
    return torch.linalg.vector_norm(a - b, dim=-1)


def projected(data: Dataset, ambient: int, seed: int = 0) -> Dataset:
    """x -> A x with orthonormal columns of A in R^ambient: distances stay, and features are no coordinates any more.

    Args:
        data: any data set, such as a swiss roll.
        ambient: dimension of the new x.
        seed: of A, which is the same for training and test data.

    Returns:
        the data set, its immersion composed with A.

    Raises:
        ValueError: an ambient dimension below that of x.

    Example:
        >>> import torch, probgeo as pg
        >>> data = pg.datasets.circle(num_points=50)
        >>> wide = pg.datasets.projected(data, ambient=10)
        >>> wide.x.shape, torch.allclose(wide.x.norm(dim=1), torch.ones(50), atol=1e-5)
        (torch.Size([50, 10]), True)
    """
    frame, immersion = projection(data.x.shape[1], ambient, seed), data.immersion
    return dataclasses.replace(
        data.with_x(_projected(data.x, frame), (ambient,)),
        immersion=None if immersion is None else partial(_after, immersion=immersion, frame=frame),
        distance=data.distance,
    )


def _after(z: Tensor, immersion: Callable[[Tensor], Tensor], frame: Tensor) -> Tensor:
    return _projected(immersion(z), frame)


def with_columns(data: Dataset, columns: Float[Tensor, "row column"]) -> Dataset:
    """The data set with more columns behind those of x, e.g. covariates; immersion and distance are left out.

    Args:
        data: any data set.
        columns: one row for each of data.

    Returns:
        the data set, x (row, feature + column).

    Raises:
        ValueError: another number of rows, or no columns.

    Example:
        >>> import torch, probgeo as pg
        >>> data = pg.datasets.circle(num_points=50)
        >>> pg.datasets.with_columns(data, torch.arange(50.0)[:, None]).x[3]
        tensor([-0.9946, -0.1037,  3.0000])
    """
    if columns.ndim != 2 or len(columns) != len(data) or not columns.shape[1]:
        raise ValueError(f"columns: expected shape ({len(data)}, column); got {tuple(columns.shape)}.")
    x = torch.cat([data.x, columns.to(data.x)], dim=1)
    return data.with_x(x, (x.shape[1],))


def with_labels(data: Dataset) -> Dataset:
    """The data set with its labels as one-hot columns behind those of x, one for each of its label names.

    Args:
        data: any data set whose rows are labelled.

    Returns:
        the data set, x (row, feature + class).

    Raises:
        ValueError: some rows are unlabelled.

    Example:
        >>> import torch, probgeo as pg
        >>> data = pg.datasets.two_moons(num_points=50)
        >>> wide = pg.datasets.with_labels(data)
        >>> torch.equal(wide.x[:, 2:].argmax(dim=1), data.labels)
        True
    """
    if (data.labels < 0).any():
        raise ValueError("data: expected a label of every row; some are unlabelled. Use data.subset(data.label_names).")
    return with_columns(data, one_hot(data.labels, len(data.label_names)).to(data.x))


def with_radius(data: Dataset) -> Dataset:
    """A swiss roll with the radius of its spiral, √(x_1² + x_3²), as one more column.

    Args:
        data: from `swiss_roll`.

    Returns:
        the data set, x (row, 4).

    Raises:
        ValueError: rows that have not three features.

    Example:
        >>> import torch, probgeo as pg
        >>> roll = pg.datasets.swiss_roll(num_points=50)
        >>> radius = pg.datasets.with_radius(roll).x[:, 3]
        >>> torch.allclose(radius, roll.latent[:, 0], atol=1e-4)  # t of (t cos t, h, t sin t)
        True
    """
    if data.x.shape[1] != 3:
        raise ValueError(f"data: expected a swiss roll, of three features; got {data!r}.")
    return with_columns(data, data.x[:, [0, 2]].norm(dim=1, keepdim=True))


def coloured(data: Dataset, seed: int = 0) -> tuple[Dataset, Float[Tensor, "row colour"]]:
    """Grey images as colour images, each in one of six colours at random; and the colours, one-hot: their condition.

    Args:
        data: images (height, width) with values in [0, 1].
        seed: of the colours.

    Returns:
        images (height, width, 3) with the labels of data, and the condition vectors in the order of `COLOURS`;
        `with_columns(images, colours)` puts them side by side.

    Raises:
        ValueError: rows that are no grey images.

    Example:
        >>> import torch, probgeo as pg
        >>> images, colours = pg.datasets.coloured(pg.datasets.digits())
        >>> images.shape, colours.sum(dim=1).unique()
        ((8, 8, 3), tensor([1.]))
    """
    if len(data.shape) != 2:
        raise ValueError(f"data: expected grey images (height, width); got rows of shape {data.shape}.")
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, len(COLOURS), len(data)))
    rgb = torch.tensor(list(COLOURS.values()))[codes]
    x = (data.x[:, :, None] * rgb[:, None]).flatten(1)
    images = dataclasses.replace(data.with_x(x, (*data.shape, 3)), name=f"coloured_{data.name}")
    return images, one_hot(codes, len(COLOURS)).float()


def coloured_mnist(train: bool = True, seed: int = 0) -> tuple[Dataset, Float[Tensor, "row colour"]]:
    """MNIST in six colours, and the colour of each image as its condition vector: `coloured(mnist(train), seed)`.

    Args:
        train: the training images, else the test images.
        seed: of the colours.

    Returns:
        images (28, 28, 3), and one-hot colours (row, 6).

    Raises:
        OSError, ValueError: as `mnist`.

    Example:
        >>> import probgeo as pg
        >>> images, colours = pg.datasets.coloured_mnist()  # doctest: +SKIP
    """
    return coloured(mnist(train), seed)
