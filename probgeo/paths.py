"""Initial paths: straight lines, shortest paths in a graph."""

from probgeo.geometry.paths import (
    Graph,
    Straight,
    resampled,
)

__all__ = [
    "Graph",
    "Straight",
    "resampled",
]
