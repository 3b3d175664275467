"""Metrics and energies of latent spaces."""

from probgeo.geometry.metrics import (
    ConformalMetric,
    DecorrelatedEnergy,
    Energy,
    Evaluation,
    ExpectedMetric,
    Linearization,
    Metric,
    PullbackMetric,
    SumMetric,
    TensorMetric,
)

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
