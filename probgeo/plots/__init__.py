"""Figures of what the library computes: each function draws and returns a matplotlib `Figure`, and the caller saves it.

Figures are made without pyplot's state and without changing its settings; no backend is chosen.
"""

from probgeo.plots.error_bars import coverage, forest, ratios
from probgeo.plots.images import distance_matrix, panels
from probgeo.plots.maps import indicatrices, latent
from probgeo.plots.searches import rival_gaps
from probgeo.plots.variation import cv_histogram

__all__ = [
    "coverage",
    "cv_histogram",
    "distance_matrix",
    "forest",
    "indicatrices",
    "latent",
    "panels",
    "ratios",
    "rival_gaps",
]
