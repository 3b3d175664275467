"""Path energies that are sums of squares, and the metrics behind them."""

from probgeo.geometry.metrics.energy import Energy, Linearization, Measure, Metric, SumMetric
from probgeo.geometry.metrics.fields import ConformalMetric, TensorMetric
from probgeo.geometry.metrics.pullback import DecorrelatedEnergy, ExpectedMetric, PullbackMetric

__all__ = [
    "ConformalMetric",
    "DecorrelatedEnergy",
    "Energy",
    "ExpectedMetric",
    "Linearization",
    "Measure",
    "Metric",
    "PullbackMetric",
    "SumMetric",
    "TensorMetric",
]
