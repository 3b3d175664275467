"""Path energies that are sums of squares, and the metrics behind them."""

from probgeo.geometry.metrics.energy import Energy, Evaluation, Linearization, Metric, SumMetric
from probgeo.geometry.metrics.fields import ConformalMetric, TensorMetric
from probgeo.geometry.metrics.pullback import DecorrelatedEnergy, ExpectedMetric, PullbackMetric

__all__ = [
    "ConformalMetric",
    "DecorrelatedEnergy",
    "Energy",
    "Evaluation",
    "ExpectedMetric",
    "Linearization",
    "Metric",
    "PullbackMetric",
    "SumMetric",
    "TensorMetric",
]
