"""Newton systems of path energies: quadratic models around paths, and their damped steps."""

from probgeo.geometry.newton.blocks import BlockTridiagonal
from probgeo.geometry.newton.interpolated import Interpolated
from probgeo.geometry.newton.matrix_free import MatrixFree
from probgeo.geometry.newton.secants import Secants, corrected_step, learnt, no_secants
from probgeo.geometry.newton.systems import System, chosen, default_system, finite, rows

__all__ = [
    "BlockTridiagonal",
    "Interpolated",
    "MatrixFree",
    "Secants",
    "System",
    "chosen",
    "corrected_step",
    "default_system",
    "finite",
    "learnt",
    "no_secants",
    "rows",
]
