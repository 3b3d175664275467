"""Metrics and energies of latent spaces."""

from probgeo.geometry.metrics import (
    ConformalMetric,
    DecorrelatedEnergy,
    Energy,
    ExpectedMetric,
    Linearization,
    Measure,
    Metric,
    PullbackMetric,
    SumMetric,
    TensorMetric,
)

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
