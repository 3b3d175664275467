"""Initial paths: straight lines, shortest paths in a graph."""

from probgeo.geometry.graph import Graph
from probgeo.geometry.paths import Straight, resampled

__all__ = [
    "Graph",
    "Straight",
    "resampled",
]
