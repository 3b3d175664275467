"""Initial paths between latent points, and paths resampled to another number of segments."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from probgeo.geometry.points import Points, check_alike, points_of
from probgeo.specs import check_numbers


@final
@dataclass(frozen=True)
class Straight:
    """Straight lines (1 − t) start + t stop at num_segments + 1 uniform times.

    Args:
        num_segments: number of segments, which is also the solver's first level.

    Example:
        >>> import torch, probgeo as pg
        >>> pg.paths.Straight(num_segments=4)(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]))
        tensor([[[0.0000, 0.0000],
                 [0.2500, 0.5000],
                 [0.5000, 1.0000],
                 [0.7500, 1.5000],
                 [1.0000, 2.0000]]])
    """

    num_segments: int = 16

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.num_segments < 1:
            raise ValueError(f"num_segments: expected at least 1; got {self.num_segments}.")

    def __call__(self, start: Points, stop: Points) -> Float[Tensor, "batch node latent"]:
        """Lines from start to stop.

        Args:
            start: first points, (batch, latent).
            stop: last points, (batch, latent).

        Returns:
            Paths whose ends are exactly `start` and `stop`, differentiable in them.

        Raises:
            TypeError, ValueError: an argument's type, shape, dtype or device does not fit.
        """
        start, stop = points_of("start", start, "batch latent"), points_of("stop", stop, "batch latent")
        check_alike("stop start", start, stop)
        times = torch.linspace(0, 1, self.num_segments + 1, dtype=start.dtype, device=start.device)[:, None]
        return torch.lerp(start[:, None], stop[:, None], times)


def resampled(
    path: Float[Tensor, "batch node latent"], durations: Float[Tensor, "batch segment"], num_segments: int
) -> Float[Tensor, "batch new_node latent"]:
    """The path at num_segments + 1 uniform times, when its segments take `durations`; cubic Hermite in between.

    Args:
        path: nodes, (batch, node, latent).
        durations: time each segment takes, up to a factor; not negative, (batch, segment).
        num_segments: new number of segments.

    Returns:
        New nodes; the ends are kept exactly.

    Example:
        >>> import torch, probgeo as pg
        >>> path = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]])
        >>> durations = pg.PullbackMetric(lambda z: z).measure(path).durations  # 1 and 2
        >>> pg.paths.resampled(path, durations, num_segments=3)[0, :, 0]  # at constant speed
        tensor([0.0000, 1.0000, 2.0000, 3.0000])
    """
    segments = path.shape[1] - 1
    # No segment is given less than a thousandth of its share, so that slopes stay finite where a metric vanishes.
    share = durations / durations.sum(1, keepdim=True).clamp_min(torch.finfo(path.dtype).tiny)
    step = share.clamp_min(1e-3 / segments)
    step = step / step.sum(1, keepdim=True)
    slope = _slopes(path, step)
    times = torch.nn.functional.pad(step.cumsum(1), (1, 0))
    wanted = torch.linspace(0, 1, num_segments + 1, dtype=path.dtype, device=path.device).repeat(len(path), 1)
    segment = (torch.searchsorted(times, wanted, right=True) - 1).clamp(0, segments - 1)

    def at(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))

    width = step.gather(1, segment)[..., None]
    t = ((wanted - times.gather(1, segment))[..., None] / width).clamp(0, 1)
    left, right = at(path, segment), at(path, segment + 1)
    bend_left = width * at(slope, segment) - (right - left)
    bend_right = (right - left) - width * at(slope, segment + 1)
    new = torch.lerp(left, right, t) + t * (1 - t) * ((1 - t) * bend_left + t * bend_right)
    return torch.cat([path[:, :1], new[:, 1:-1], path[:, -1:]], dim=1)


def _slopes(
    path: Float[Tensor, "batch node latent"], step: Float[Tensor, "batch segment"]
) -> Float[Tensor, "batch node latent"]:
    """dz/dt at the nodes: of the parabola through three neighbours, at most twice the slower neighbouring chord."""
    width = step[..., None]
    chord = path.diff(dim=1) / width
    if chord.shape[1] == 1:
        return chord.expand(-1, 2, -1)
    before, after = width[:, :-1], width[:, 1:]
    inner = (after * chord[:, :-1] + before * chord[:, 1:]) / (before + after)
    first = chord[:, :1] + width[:, :1] * (chord[:, :1] - chord[:, 1:2]) / (width[:, :1] + width[:, 1:2])
    last = chord[:, -1:] + width[:, -1:] * (chord[:, -1:] - chord[:, -2:-1]) / (width[:, -1:] + width[:, -2:-1])
    slope = torch.cat([first, inner, last], dim=1)
    speed = chord.norm(dim=2, keepdim=True)
    slower = torch.minimum(torch.cat([speed[:, :1], speed], dim=1), torch.cat([speed, speed[:, -1:]], dim=1))
    return slope * (2 * slower / slope.norm(dim=2, keepdim=True).clamp_min(torch.finfo(path.dtype).tiny)).clamp_max(1)
