"""Path energies that are sums of squares, and the metrics behind them."""

from probgeo.geometry.metrics.chords import ExpectedMetric, PullbackMetric
from probgeo.geometry.metrics.decorrelated import DecorrelatedEnergy
from probgeo.geometry.metrics.fields import ConformalMetric, TensorMetric
from probgeo.geometry.metrics.metric import Energy, Evaluation, Linearization, Metric, SumMetric

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
