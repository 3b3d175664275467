"""Masks: which features of a row are conditions, at random in training, and which features are then modelled."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probgeo.seeds import stream


@dataclass(frozen=True)
class RandomMask:
    """m ~ Bernoulli(p) for every row and feature, drawn anew in every step: any subset may be the condition.

    Args:
        probability: p, strictly between 0 and 1.

    Raises:
        ValueError: a probability outside.

    References:
        Ivanov, Figurnov & Vetrov (2019), Variational autoencoder with arbitrary conditioning, section 3.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
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
    """m ~ Bernoulli(p) with p ~ Uniform(0, 1) for every row: all numbers of conditions 0 … n are equally frequent."""

    def num_uniforms(self, num_features: int) -> int:
        """Uniform variables that a row's mask is made of: the last is p."""
        return num_features + 1

    def mask(self, uniform: Float[Tensor, "row unit"]) -> Bool[Tensor, "row feature"]:
        """u < p."""
        return uniform[..., :-1] < uniform[..., -1:]


@dataclass(frozen=True)
class NoMask:
    """No feature is a condition: covariates alone are."""

    def num_uniforms(self, num_features: int) -> int:
        """None."""
        return 0

    def mask(self, uniform: Float[Tensor, "row unit"]) -> Bool[Tensor, "row feature"]:
        """There is none to draw."""
        raise TypeError("mask: NoMask() draws none.")


Mask = RandomMask | RandomShare | NoMask


@dataclass(frozen=True)
class Unobserved:
    """The likelihood is that of the features that are not conditions: log p(x_unobserved | x_observed)."""

    def modelled(
        self, present: Bool[Tensor, "row feature"], mask: Bool[Tensor, "row feature"]
    ) -> Bool[Tensor, "row feature"]:
        """present and not mask."""
        return present & ~mask


@dataclass(frozen=True)
class Everything:
    """The likelihood is that of all features, those that are conditions too: the decoder learns to copy them."""

    def modelled(
        self, present: Bool[Tensor, "row feature"], mask: Bool[Tensor, "row feature"]
    ) -> Bool[Tensor, "row feature"]:
        """present."""
        return present


Target = Unobserved | Everything


def random_conditions(num_rows: int, num_features: int, num: int, seed: int) -> Bool[Tensor, "row feature"]:
    """Masks with exactly `num` conditions in every row, uniformly at random.

    Raises:
        ValueError: fewer conditions than none or more than features.
    """
    if not 0 <= num <= num_features:
        raise ValueError(f"num: expected 0 to {num_features} conditions, the number of features; got {num}.")
    order = torch.rand(num_rows, num_features, generator=stream(seed, "conditions", num)).argsort(dim=1)
    return order < num
