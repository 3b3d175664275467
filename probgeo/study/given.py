"""Measures of conditional models, given a condition."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from probgeo.geometry import calculus
from probgeo.geometry.geodesics import Geodesics
from probgeo.models.base import LatentModel, ModelSpec
from probgeo.study.measures import Geodesic, Measure


@dataclass(frozen=True)
class Given(Measure):
    """Another measure in the latent space of a `ConditionalVAE` given a condition, with codes under that condition.

    Given({0: 1.5, 3: -0.2}): columns 0 and 3 of x have these values. Only conditional models have such distances.

    Args:
        values: value by column of x, of features that are given and of all covariates.
        measure: what is measured there.

    Raises:
        ValueError: no values.

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.ConditionalVAE(latent=2).build(num_features=5, seed=0)
        >>> x = torch.rand(20, 5, generator=torch.Generator().manual_seed(0))
        >>> line = pg.StraightLine()
        >>> measures = {"low": pg.study.Given({0: 0.0}, line), "high": pg.study.Given({0: 1.0}, line)}
        >>> distance = pg.measure({"conditional": [model]}, x, torch.tensor([[0, 1]]), measures).distance
        >>> bool(distance.sel(measure="low") != distance.sel(measure="high"))  # another condition, another geometry
        True
        >>> pg.study.Given({0: 1.0}).applies_to(pg.VAE())
        False
    """

    values: Mapping[int, float] | tuple[tuple[int, float], ...]
    measure: Measure = Geodesic()

    def __post_init__(self) -> None:
        pairs = self.values.items() if isinstance(self.values, Mapping) else self.values
        object.__setattr__(self, "values", tuple(sorted((int(column), float(value)) for column, value in pairs)))
        if not self.values:
            raise ValueError("values: expected at least one column with its value; got none.")

    def subject(self, model: LatentModel) -> LatentModel:
        """The model given the values.

        Raises:
            TypeError: a model without conditions.
            ValueError: a column that x lacks, or a covariate without a value.
        """
        return model.given_values(dict(self.values))

    def applies_to(self, model: LatentModel | ModelSpec) -> bool:
        return model.has_conditions and self.measure.applies_to(model)

    def paths(self, model: LatentModel, start: Tensor, stop: Tensor, codes: Tensor) -> Geodesics:
        return self.measure.paths(model, start, stop, codes)

    def also(self, model: LatentModel, path: Float[Tensor, "batch node latent"]) -> Mapping[str, Tensor]:
        return self.measure.also(model, path)

    def angles(
        self, model: LatentModel, corner: Tensor, first: Tensor, second: Tensor, codes: Tensor
    ) -> calculus.Angles | None:
        return self.measure.angles(model, corner, first, second, codes)

    def volume(self, model: LatentModel, region: Float[Tensor, "simplex vertex latent"]) -> calculus.Volume | None:
        return self.measure.volume(model, region)
