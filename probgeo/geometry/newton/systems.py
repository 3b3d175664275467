"""Either kind of Newton system: which suits an energy, and parts of its models."""

from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probgeo.geometry.metrics import Energy, Linearization, Metric
from probgeo.geometry.newton.blocks import BlockTridiagonal
from probgeo.geometry.newton.interpolated import Interpolated, Interpolation
from probgeo.geometry.newton.matrix_free import MatrixFree, Products
from probgeo.geometry.newton.reverse import has_reverse_mode

# From so many latent dimensions on
INTERPOLATED_DIMENSIONS = 6
MATRIX_FREE_DIMENSIONS = 20

Model = Linearization | Interpolation | Products
System = type[BlockTridiagonal] | type[Interpolated] | type[MatrixFree]
AnyModel = TypeVar("AnyModel", Linearization, Interpolation, Products)


def default_system(energy: Energy, points: Float[Tensor, "point latent"]) -> System:
    """The system that suits an energy on a latent space.

    Args:
        energy: a metric or another energy; only metrics have other systems than blocks of Gauss–Newton.
        points: some of the space, two or more.
    """
    latent = points.shape[1]
    if latent < INTERPOLATED_DIMENSIONS or not isinstance(energy, Metric):
        return BlockTridiagonal
    if latent >= MATRIX_FREE_DIMENSIONS:
        return MatrixFree
    return Interpolated if has_reverse_mode(energy, points) else BlockTridiagonal


def finite(model: Model) -> Bool[Tensor, " batch"]:
    """Which models have finite entries only."""
    parts = (part for part in (model[0][:, None], *model[1:]) if part is not None)
    return torch.stack([part.isfinite().flatten(1).all(1) for part in parts]).all(0)


def rows(model: AnyModel, which: Bool[Tensor, " batch"]) -> AnyModel:
    """The models of some pairs."""

    def some(part: Any) -> Any:
        return None if part is None else part[which]

    return model if which.all() else type(model)(*map(some, model))


def chosen(which: Bool[Tensor, " batch"], first: AnyModel, second: AnyModel) -> AnyModel:
    """First's models where true, second's elsewhere."""

    def either(x: Any, y: Any) -> Any:
        return None if x is None else torch.where(which.view(-1, *(1,) * (x.ndim - 1)), x, y)

    return type(first)(*map(either, first, second))
