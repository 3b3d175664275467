"""Greedy choice of conditions: which features tell the most of a row."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.models.conditional.spec import FittedConditionalVAE


class GreedyConditions(NamedTuple):
    """Features in the order in which they were given, and the mean ELBO (nats) before the first and after each."""

    columns: tuple[int, ...]
    elbo: tuple[float, ...]


@torch.no_grad()
def greedy_conditions(
    model: FittedConditionalVAE, x: Float[Tensor, "row feature"], num: int, num_samples: int = 10, seed: int = 0
) -> GreedyConditions:
    """Conditions chosen one by one, each the feature that raises the mean ELBO of what is then left the most.

    The bound is of log p(x_u | x_S): giving a feature takes its own uncertainty away, and what it tells of the others.
    For features in different units that is a statement about these units.

    Args:
        model: a fitted `ConditionalVAE` with random masks.
        x: complete rows to judge by.
        num: how many to choose, fewer than modelled features.
        num_samples: samples z ~ q(z | x, c) per row.
        seed: of the samples, the same for all candidates.

    Raises:
        ValueError: missing values, or as many conditions as features or more.

    References:
        Shewry & Wynn (1987), Maximum entropy sampling.
    """
    if not 0 < num < len(model.modelled):
        raise ValueError(f"num: expected 1 to {len(model.modelled) - 1} of the features; got {num}.")
    if x.isnan().any():
        raise ValueError("x: expected rows without missing values, so that all features can be given; remove others.")

    def mean_elbo(columns: list[int]) -> float:
        mask = x.new_zeros(x.shape[1], dtype=torch.bool)
        mask[columns] = True
        return float(model.elbo(x, mask, num_samples, seed).mean())

    chosen: list[int] = []
    found = [mean_elbo(chosen)]
    for _ in range(num):
        scores = {column: mean_elbo([*chosen, column]) for column in model.modelled if column not in chosen}
        best = max(scores, key=lambda column: scores[column])
        chosen.append(best)
        found.append(scores[best])
    return GreedyConditions(tuple(chosen), tuple(found))
