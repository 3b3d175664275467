"""Masks: which features of a row are conditions, at random in training, and which features are then modelled."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probgeo.seeds import stream
from probgeo.specs import check_numbers


@dataclass(frozen=True)
class RandomMask:
    """m ~ Bernoulli(p) for every row and feature, drawn anew in every step: any subset may be the condition.

    Args:
        probability: p, strictly between 0 and 1.

    Raises:
        ValueError: a probability outside.

    Example:
        >>> import torch, probgeo as pg
        >>> mask = pg.masks.RandomMask(probability=0.25).mask(torch.tensor([[0.1, 0.2, 0.3]]))
        >>> mask  # u < ¼
        tensor([[ True,  True, False]])

    References:
        Ivanov, Figurnov & Vetrov (2019), Variational autoencoder with arbitrary conditioning, section 3.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 < self.probability < 1:
            raise ValueError(
                f"probability: expected a number between 0 and 1; got {self.probability}. To condition on no feature, "
                "use NoMask()."
            )

    def num_uniforms(self, num_features: int) -> int:
        """Uniform variables that a row's mask is made of."""
        return num_features

    def mask(self, uniform: Float[Tensor, "row unit"]) -> Bool[Tensor, "row feature"]:
        """u < p."""
        return uniform < self.probability


@dataclass(frozen=True)
class RandomShare:
    """m ~ Bernoulli(p) with p ~ Uniform(0, 1) for every row: all numbers of conditions 0 … n are equally frequent.

    Example:
        >>> import torch, probgeo as pg
        >>> pg.masks.RandomShare().mask(torch.tensor([[0.1, 0.2, 0.3, 0.25]]))  # the last is p
        tensor([[ True,  True, False]])
    """

    def num_uniforms(self, num_features: int) -> int:
        """Uniform variables that a row's mask is made of: the last is p."""
        return num_features + 1

    def mask(self, uniform: Float[Tensor, "row unit"]) -> Bool[Tensor, "row feature"]:
        """u < p."""
        return uniform[..., :-1] < uniform[..., -1:]


@dataclass(frozen=True)
class NoMask:
    """No feature is a condition: covariates alone are.

    Example:
        >>> import probgeo as pg
        >>> spec = pg.ConditionalVAE(mask=pg.masks.NoMask(), covariates=(4,))  # the last of five columns is given
        >>> spec.columns(num_features=5)  # what may be a condition, and what always is
        ([0, 1, 2, 3], [4])
    """

    def num_uniforms(self, num_features: int) -> int:
        """None."""
        return 0

    def mask(self, uniform: Float[Tensor, "row unit"]) -> Bool[Tensor, "row feature"]:
        """There is none to draw."""
        raise TypeError("mask: NoMask() draws none.")


Mask = RandomMask | RandomShare | NoMask


@dataclass(frozen=True)
class Unobserved:
    """The likelihood is that of the features that are not conditions: log p(x_unobserved | x_observed).

    Example:
        >>> import torch, probgeo as pg
        >>> present, mask = torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])
        >>> pg.masks.Unobserved().modelled(present, mask)
        tensor([[False,  True, False]])
    """

    def modelled(
        self, present: Bool[Tensor, "row feature"], mask: Bool[Tensor, "row feature"]
    ) -> Bool[Tensor, "row feature"]:
        """present and not mask."""
        return present & ~mask


@dataclass(frozen=True)
class Everything:
    """The likelihood is that of all features, those that are conditions too: the decoder learns to copy them.

    Example:
        >>> import torch, probgeo as pg
        >>> present, mask = torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])
        >>> pg.masks.Everything().modelled(present, mask)
        tensor([[ True,  True, False]])
    """

    def modelled(
        self, present: Bool[Tensor, "row feature"], mask: Bool[Tensor, "row feature"]
    ) -> Bool[Tensor, "row feature"]:
        """present."""
        return present


Target = Unobserved | Everything


def random_conditions(num_rows: int, num_features: int, num: int, seed: int) -> Bool[Tensor, "row feature"]:
    """Masks with exactly `num` conditions in every row, uniformly at random.

    Args:
        num_rows: rows.
        num_features: columns.
        num: conditions in each row.
        seed: of the draw.

    Returns:
        True where a feature is a condition.

    Raises:
        ValueError: fewer conditions than none or more than features.

    Example:
        >>> import probgeo as pg
        >>> pg.masks.random_conditions(num_rows=3, num_features=5, num=2, seed=0).sum(dim=1)
        tensor([2, 2, 2])
    """
    if not 0 <= num <= num_features:
        raise ValueError(f"num: expected 0 to {num_features} conditions, the number of features; got {num}.")
    order = torch.rand(num_rows, num_features, generator=stream(seed, "conditions", num)).argsort(dim=1)
    return order < num
