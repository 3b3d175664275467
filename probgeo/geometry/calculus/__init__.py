"""Calculus on the discrete energy: exponential, logarithm, transport, angles, volumes, means, curvature."""

from probgeo.calculus.curvature import sectional_curvature
from probgeo.calculus.means import FrechetMean, frechet_mean
from probgeo.calculus.projections import Projection, projection
from probgeo.calculus.shooting import Angles, Logarithms, Shots, angle, exponential, logarithm, parallel_transport
from probgeo.calculus.volumes import Volume, convex_hull, volume, volume_density
from probgeo.jacobians import smallest_singular_value

__all__ = [
    "Angles",
    "FrechetMean",
    "Logarithms",
    "Projection",
    "Shots",
    "Volume",
    "angle",
    "convex_hull",
    "exponential",
    "frechet_mean",
    "logarithm",
    "parallel_transport",
    "projection",
    "sectional_curvature",
    "smallest_singular_value",
    "volume",
    "volume_density",
]
