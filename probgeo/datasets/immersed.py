"""Points of an immersed manifold as a `Dataset`, and the true distances of its pairs."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from probgeo.datasets.dataset import Dataset

Immersion = Callable[[Tensor], Tensor]


def intrinsic_distances(data: Dataset, pairs: Int64[Tensor, "pair 2"]) -> Float[Tensor, " pair"]:
    """Geodesic distances of pairs of rows on the manifold that the data were drawn from, without its noise.

    Args:
        data: a synthetic set with true coordinates and distance, see `Dataset`.
        pairs: rows of it.

    Returns:
        distances in the units of x, double precision.

    Raises:
        ValueError: the true distance is not known.

    Example:
        >>> import torch, probgeo as pg
        >>> roll = pg.datasets.swiss_roll(num_points=50)
        >>> found = pg.datasets.intrinsic_distances(roll, torch.tensor([[0, 1], [2, 3]]))
        >>> bool((found > (roll.x[[0, 2]] - roll.x[[1, 3]]).norm(dim=1)).all())  # no chord is longer than its arc
        True
    """
    if data.latent is None or data.distance is None:
        why = "; it was left out where x was changed" if data.latent is not None else ""
        raise ValueError(f"data: expected a synthetic manifold, whose distance is known; {data.name!r} has none{why}.")
    start, stop = data.latent.double()[pairs.to(data.latent.device)].unbind(1)
    return data.distance(start, stop)


def counted(num_points: int) -> int:
    """`num_points`, if it is a number of rows."""
    if num_points < 1:
        raise ValueError(f"num_points: expected at least 1; got {num_points}.")
    return num_points


def frame(dimension: int, ambient: int, rng: np.random.Generator) -> Float[Tensor, "ambient dimension"]:
    """Orthonormal columns, uniformly random; the identity where there is nothing to turn into."""
    if ambient < dimension:
        raise ValueError(f"ambient: expected at least {dimension} dimensions; got {ambient}.")
    if ambient == dimension:
        return torch.eye(dimension, dtype=torch.float64)
    return torch.from_numpy(np.linalg.qr(rng.standard_normal((ambient, dimension)))[0])


def turned(
    z: Float[Tensor, "*batch latent"], immersion: Immersion, frame: Float[Tensor, "ambient dimension"]
) -> Float[Tensor, "*batch ambient"]:
    """The immersed point in more dimensions: a rotation keeps all lengths."""
    return immersion(z) @ frame.T.to(z)


def immersed(
    name: str,
    latent: np.ndarray,
    immersion: Immersion,
    distance: Callable[[Tensor, Tensor], Tensor],
    noise: float,
    rng: np.random.Generator,
) -> Dataset:
    """One class of points: the immersed coordinates, with noise."""
    if noise < 0:
        raise ValueError(f"noise: expected a standard deviation of at least 0; got {noise}.")
    coordinates = torch.from_numpy(latent)
    x = immersion(coordinates)
    x = x + noise * torch.from_numpy(rng.standard_normal(x.shape))
    return Dataset(
        name=name,
        x=x.float(),
        labels=torch.zeros(len(x), dtype=torch.int64),
        label_names=(name,),
        shape=(x.shape[1],),
        latent=coordinates.float(),
        immersion=immersion,
        distance=distance,
    )
