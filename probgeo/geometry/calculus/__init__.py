"""Calculus on the discrete energy: exponential, logarithm, transport, angles, volumes, means, curvature."""

from probgeo.geometry.calculus.curvature import sectional_curvature
from probgeo.geometry.calculus.means import FrechetMean, frechet_mean
from probgeo.geometry.calculus.projections import Projection, projection
from probgeo.geometry.calculus.shooting import (
    Angles,
    Logarithms,
    Shots,
    angle,
    exponential,
    logarithm,
    parallel_transport,
)
from probgeo.geometry.calculus.volumes import Volume, convex_hull, volume, volume_density
from probgeo.geometry.jacobians import smallest_singular_value

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
