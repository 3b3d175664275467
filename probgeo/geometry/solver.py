"""What a user asks of the solver of geodesics, and what it answers: its options, and how a solution ended."""

import math
from dataclasses import dataclass, field
from enum import IntEnum

from probgeo.geometry.newton import BlockTridiagonal, Interpolated, MatrixFree, System
from probgeo.specs import ADDED_LATER, check_numbers


class Status(IntEnum):
    """How the solution of one pair ended.

    Example:
        >>> import torch, probgeo as pg
        >>> torn = pg.PullbackMetric(lambda z: z + (z > 0))  # a decoder that jumps at 0
        >>> start, stop = torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0], [2.0]])
        >>> [pg.Status(status).name for status in pg.geodesic(torn, start, stop).status.tolist()]
        ['JUMP', 'CONVERGED']
    """

    CONVERGED = 0  #: no more than the tolerance is left to be gained, as estimated in the valley
    MAX_STEPS = 1  #: the steps were used up before
    STALLED = 2  #: no step found that lowers the energy
    NONFINITE = 3  #: the energy along the path is not finite; energy and length are NaN
    ROUNDING = 4  #: chords within 10·eps·‖f‖, so that the length is not to be trusted
    JUMP = 5  #: the decoder jumps within a segment, so that the length is that of a leap and no curve's
    AMBIGUOUS = 6  #: of a mean or an angle: another one, by geodesics as short to `AMBIGUITY`, is as good
    COARSE = 7  #: cutting its segments in two changes its length by over 2 %: it jumps ridges; take more segments


@dataclass(frozen=True)
class GaussNewton:
    """Coarse-to-fine Gauss–Newton: solve with few segments, resample at constant speed, solve with more.

    Args:
        num_segments: N of the result.
        tolerance: a pair is finished at N when no more than this share of its energy, as estimated from the decrement
            and from how fast it falls, is left to be gained in its valley; and of a metric below twenty latent
            dimensions no more than ten times that by its covariant second variation, which is exact where the metric is
            flat.
        coarse_tolerance: the share by that estimate on the coarser levels; by the second variation it is as at N.
        max_steps: steps tried at N, at most; on coarser levels a fifth as many, or half where they are cheap beside N.
        memory: bytes that the Newton systems of the pairs solved together may take; more pairs are solved in turns.
            What one chunk of decoder outputs takes is a choice of the metric. The C library may hold a few times as
            much, in holes between tensors of many sizes; under Linux not with MALLOC_MMAP_THRESHOLD_=1048576 in the
            environment, which takes a little more time.
        system: class of the linear systems, `BlockTridiagonal`, `Interpolated` or `MatrixFree`; None for the first
            below six latent dimensions, the last from 20 on, and those between them where a metric has a derivative in
            reverse mode.

    Example:
        >>> import torch, probgeo as pg
        >>> plane = pg.PullbackMetric(lambda z: z)
        >>> solver = pg.GaussNewton(num_segments=4)
        >>> found = pg.geodesic(plane, torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), solver=solver)
        >>> found.length, found.path[0, :, 0]
        (tensor([5.]), tensor([0.0000, 0.7500, 1.5000, 2.2500, 3.0000]))
    """

    num_segments: int = 256
    tolerance: float = 1e-3
    coarse_tolerance: float = 5e-3
    max_steps: int = 30
    memory: int = 2**30
    system: System | None = field(default=None, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        check_numbers(self)
        for name, least in (("num_segments", 2), ("max_steps", 1), ("memory", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}; got {getattr(self, name)}.")
        if not (0 < self.tolerance < math.inf and 0 < self.coarse_tolerance < math.inf):
            raise ValueError(
                f"tolerance: expected positive, finite tolerances; got {self.tolerance}, {self.coarse_tolerance}."
            )
        if self.system not in (None, BlockTridiagonal, Interpolated, MatrixFree):
            raise TypeError(
                f"system: expected BlockTridiagonal, Interpolated, MatrixFree or None; got {self.system!r}."
            )
