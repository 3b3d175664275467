"""Newton systems of path energies: quadratic models around paths, and their damped steps."""

from probgeo.geometry.newton.blocks import BlockTridiagonal
from probgeo.geometry.newton.matrix_free import MatrixFree
from probgeo.geometry.newton.systems import System, chosen, default_system, finite, rows

__all__ = [
    "BlockTridiagonal",
    "MatrixFree",
    "System",
    "chosen",
    "default_system",
    "finite",
    "rows",
]
