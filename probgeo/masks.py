"""Masks of a `ConditionalVAE`: how conditions are drawn in training, what the likelihood is of, and which to choose."""

from probgeo.models.conditional.greedy import GreedyConditions, greedy_conditions
from probgeo.models.conditional.masks import Everything, NoMask, RandomMask, RandomShare, Unobserved, random_conditions

__all__ = [
    "Everything",
    "GreedyConditions",
    "NoMask",
    "RandomMask",
    "RandomShare",
    "Unobserved",
    "greedy_conditions",
    "random_conditions",
]
