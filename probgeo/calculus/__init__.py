"""Calculus on the discrete energy: exponential, logarithm, transport, angles, volumes, means, curvature."""

from probgeo.calculus.curvature import sectional_curvature
from probgeo.calculus.means import FrechetMean, frechet_mean
from probgeo.calculus.shooting import Angles, Logarithms, Shots, angle, exponential, logarithm, parallel_transport
from probgeo.calculus.volumes import Volume, convex_hull, volume, volume_density

__all__ = [
    "Angles",
    "FrechetMean",
    "Logarithms",
    "Shots",
    "Volume",
    "angle",
    "convex_hull",
    "exponential",
    "frechet_mean",
    "logarithm",
    "parallel_transport",
    "sectional_curvature",
    "volume",
    "volume_density",
]
