"""Path energies that are sums of squares, and the metrics behind them."""

from probgeo.geometry.metrics.chords import ExpectedMetric, PullbackMetric
from probgeo.geometry.metrics.decorrelated import DecorrelatedEnergy
from probgeo.geometry.metrics.fields import ConformalMetric, TensorMetric
from probgeo.geometry.metrics.metric import Energy, Linearization, Measure, Metric, SumMetric

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
