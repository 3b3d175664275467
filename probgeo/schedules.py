"""Schedules of learning rates."""

from probgeo.training.schedules import (
    Cosine,
    LinearWarmup,
    Piecewise,
    Schedule,
)

__all__ = [
    "Cosine",
    "LinearWarmup",
    "Piecewise",
    "Schedule",
]
