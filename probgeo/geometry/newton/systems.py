"""Either kind of Newton system: which suits an energy, and parts of its models."""

from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from probgeo.geometry.metrics import Energy, Linearization, Metric
from probgeo.geometry.newton.blocks import BlockTridiagonal
from probgeo.geometry.newton.matrix_free import MatrixFree, Products

MATRIX_FREE_DIMENSIONS = 20

Model = Linearization | Products
System = type[BlockTridiagonal] | type[MatrixFree]
AnyModel = TypeVar("AnyModel", Linearization, Products)


def default_system(energy: Energy, latent: int) -> System:
    """The system that suits an energy on a latent space of so many dimensions.

    Args:
        energy: a metric or another energy; only metrics have matrix-free systems.
        latent: number of latent dimensions.
    """
    return MatrixFree if latent >= MATRIX_FREE_DIMENSIONS and isinstance(energy, Metric) else BlockTridiagonal


def finite(model: Model) -> Bool[Tensor, " batch"]:
    """Which models have finite entries only."""
    return torch.stack([part.isfinite().flatten(1).all(1) for part in (model[0][:, None], *model[1:])]).all(0)


def rows(model: AnyModel, which: Bool[Tensor, " batch"]) -> AnyModel:
    """The models of some pairs."""
    return model if which.all() else type(model)(*(part[which] for part in model))


def chosen(which: Bool[Tensor, " batch"], first: AnyModel, second: AnyModel) -> AnyModel:
    """First's models where true, second's elsewhere."""
    pairs = zip(first, second, strict=True)
    return type(first)(*(torch.where(which.view(-1, *(1,) * (x.ndim - 1)), x, y) for x, y in pairs))
