"""Greedy choice of conditions: which features tell the most of a row."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.models.conditional.spec import FittedConditionalVAE


class GreedyConditions(NamedTuple):
    """Features in the order in which they were given, and what each is worth: what `greedy_conditions` returns.

    Attributes:
        columns: features, best first.
        elbo: mean ELBO in nats before the first and after each, one number more than columns.

    Example:
        >>> import torch, probgeo as pg
        >>> model = pg.ConditionalVAE(latent=2).build(num_features=4, seed=0)
        >>> found = pg.masks.greedy_conditions(model, torch.randn(10, 4), num=2)
        >>> len(found.columns), len(found.elbo)
        (2, 3)
    """

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

    Returns:
        Features and bounds.

    Raises:
        ValueError: missing values, or as many conditions as features or more.

    Example:
        >>> import torch, probgeo as pg
        >>> z = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        >>> x = torch.cat([z, z, z, 0 * z], dim=1)  # one of the first three tells the others; the last tells nothing
        >>> training = pg.Training(epochs=3, batch_size=20, learning_rate=0.01)
        >>> [model] = pg.fit(pg.ConditionalVAE(latent=1), x, training=training, progress=False)
        >>> pg.masks.greedy_conditions(model, x, num=1).columns[0] != 3
        True

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
