"""Checks of arguments that all of the calculus shares."""

from probgeo.geometry.metrics import Metric


def check_metric(metric: object) -> None:
    """Refuses what has no metric tensor.

    Args:
        metric: anything.

    Raises:
        TypeError: it is no `Metric`, such as an energy that depends on a path's speed.
    """
    if not isinstance(metric, Metric):
        raise TypeError(
            f"metric: expected a Metric, such as ExpectedMetric(members); got {type(metric).__name__}, "
            "which has no metric tensor, so no angles, volumes or exponential map."
        )
