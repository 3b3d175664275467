"""What each model reads of the data: numbers, or what stands beside them too."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from probgeo.datasets.mapped import is_table
from probgeo.models.base import FittedModel, LatentModel, ModelSpec
from probgeo.rows import StoredRows
from probgeo.specs import digest

# As they come: of numbers of any kind, from torch, NumPy or pandas.
Rows = Any


class OwnRows(NamedTuple):
    """Data and points as a model reads them, and what identifies them."""

    x: Tensor | StoredRows
    points: Tensor | StoredRows
    x_digest: str
    points_digest: str


def own_rows(
    model: LatentModel | ModelSpec,
    given: Rows,
    others: Rows | None,
    x: Tensor | StoredRows,
    points: Tensor | StoredRows,
) -> tuple[Tensor | StoredRows, Tensor | StoredRows]:
    """Data and points as a model reads them: beside the numbers x and points, it may read more of what was given."""
    own = model.rows(given) if is_table(given) else x
    if others is None:
        return own, own
    own_points = model.rows(others) if is_table(others) else points
    if own_points.shape[1] != own.shape[1]:
        name = getattr(model, "name", "") or type(model).__name__
        raise ValueError(
            f"points: {name} reads {own.shape[1]} numbers of each row of x, with what stands beside the features; got "
            f"{own_points.shape[1]}. Give points of the same kind as x, such as a "
            "Dataset with library sizes."
        )
    return own, own_points


def rows_by_name(
    models: Mapping[str, ModelSpec | Sequence[LatentModel]], given: Rows, others: Rows | None, numbers: OwnRows
) -> dict[str, OwnRows]:
    """Data and points of every model of a study, checked where it is a spec.

    Args:
        models: by name, specs or lists of models.
        given: the data as they came.
        others: the points as they came; None for the data.
        numbers: their numbers.

    Raises:
        TypeError: models that read more of a table than its numbers, which only `measure` gives them.
        ValueError: rows that are no data of a spec.
    """
    found = {}
    for name, model in models.items():
        found[name] = numbers
        if isinstance(model, ModelSpec):
            x, points = own_rows(model, given, others, numbers.x, numbers.points)
            model.check(x)
            model.check(points)
            if x is not numbers.x:
                x_digest = digest(x)
                found[name] = OwnRows(x, points, x_digest, x_digest if others is None else digest(points))
        elif (is_table(given) or is_table(others)) and not all(_reads(each, given, numbers.x) for each in model):
            raise TypeError(
                f"data: the models {name!r} read more of a table than its numbers. Give the rows that they read, "
                "data=models[0].rows(data), or measure them, probgeo.measure(models, data, pairs)."
            )
    return found


def _reads(model: LatentModel, given: Rows, numbers: Tensor | StoredRows) -> bool:
    """Whether numbers are all that a model reads of what was given."""
    if isinstance(model, FittedModel):
        return model.rows(given).shape == numbers.shape
    return type(model).rows is LatentModel.rows
