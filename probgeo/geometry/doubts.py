"""What makes the length of a path doubtful, whatever the solver says of it: rounding, leaps, segments too long."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NUM_SAMPLES = 5
# A segment with this many times its share of the length is looked into,
LARGE = 5.0
# as are paths whose speed varies by this much, 2E/L² − 1.
UNEVEN = 0.05
# What rises within this share of a segment is no wall that the path could climb, but a leap,
NARROW = 1e-7
# which so many halvings of a segment come to.
HALVINGS = 40
# Segments are too long where cutting each in two changes the path's length by more than this share.
COARSE = 0.02
GOLDEN = (5**0.5 - 1) / 2


@runtime_checkable
class Chords(Protocol):
    """What doubts are told by: a metric, or chords of the members' mean and spread, as of `DecorrelatedEnergy`."""

    def squared_residuals(self, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment"]:
        """Squared lengths of the segments."""

    def resolution(self, points: Float[Tensor, "point latent"]) -> Float[Tensor, " point"]:
        """Lengths of segments beside these points that are no more than rounding."""


def doubts(
    metric: Chords, path: Float[Tensor, "batch node latent"], chords: Float[Tensor, "batch segment"]
) -> tuple[Bool[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Which paths' lengths are rounding, and which leap.

    Rounding: chords within 10·eps·‖f‖ could make up a tenth of the length. A leap: on halving a long segment again and
    again, one half keeps the whole chord until it is narrower than `NARROW` of the segment.

    Args:
        metric: a metric, or chords.
        path: nodes.
        chords: lengths of their segments, as the metric has them.

    Returns:
        Two masks. Paths of length zero between equal ends are neither.
    """
    if not len(path):
        return (torch.zeros(0, dtype=torch.bool, device=path.device),) * 2
    nodes = torch.linspace(0, path.shape[1] - 1, min(NUM_SAMPLES, path.shape[1]), device=path.device).round().long()
    noise = metric.resolution(path[:, nodes].flatten(0, 1)).view(len(path), -1).amax(1, keepdim=True)
    length = chords.sum(1)
    moves = (path[:, 0] != path[:, -1]).any(1)
    rounded = moves & (noise[:, 0] * (chords <= noise).sum(1) > 0.1 * length)
    share = min(0.5, LARGE / chords.shape[1])
    largest, segment = chords.max(1)
    leaps = (moves & ~rounded & (largest > share * length)).nonzero()[:, 0]
    leaps = leaps[_is_leap(metric, path[leaps], segment[leaps], largest[leaps])]
    return rounded, torch.zeros_like(rounded).index_fill(0, leaps, True)


def too_coarse(
    metric: Chords, path: Float[Tensor, "batch node latent"], length: Float[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Which paths pass by what the decoder does within their segments: |L₂ₙ/Lₙ − 1| > `COARSE`, and above rounding.

    A chord does not see a ridge that it jumps. Least energy then seeks such chords out: a path from node to node across
    every ridge is short by its chords, and long by what lies between them.

    Args:
        metric: a metric.
        path: n segments each.
        length: Lₙ of each.
    """
    # Cut about the middle, each elsewhere, so that no ridges are as far from each other as the cuts.
    share = 0.3 + 0.4 * (GOLDEN * torch.arange(1, path.shape[1], dtype=torch.float64) % 1)
    cuts = torch.lerp(path[:, :-1], path[:, 1:], share.to(path)[:, None])
    finer = torch.cat([torch.stack([path[:, :-1], cuts], dim=2).flatten(1, 2), path[:, -1:]], dim=1)
    change = (metric.squared_residuals(finer).sqrt().sum(1) - length).abs()
    noise = 2 * (path.shape[1] - 1) * _noise(metric, path)
    return (path[:, 0] != path[:, -1]).any(1) & (change > COARSE * length + noise)


def worth_a_look(
    metric: Chords,
    path: Float[Tensor, "batch node latent"],
    energy: Float[Tensor, " batch"],
    length: Float[Tensor, " batch"],
) -> Bool[Tensor, " batch"]:
    """Paths that may have doubts, told without their chords: of uneven speed, or hardly longer than their rounding.

    Args:
        metric: a metric, or chords.
        path: nodes.
        energy: E of each path.
        length: L of each path.
    """
    little = length <= 4 * (path.shape[1] - 1) * _noise(metric, path)
    return (2 * energy > (1 + UNEVEN) * length.square()) | little


def _noise(metric: Chords, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, " batch"]:
    """Lengths of segments that are no more than rounding, at two nodes."""
    return metric.resolution(path[:, [0, path.shape[1] // 2]].flatten(0, 1)).view(-1, 2).amax(1)


def _is_leap(
    metric: Chords, path: Float[Tensor, "batch node latent"], segment: Tensor, chord: Float[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Whether the chord of a segment stays, for the most part, in one half of it, however short."""
    rows = torch.arange(len(path), device=path.device)
    first, last = path[rows, segment], path[rows, segment + 1]
    kept, narrow = chord, NARROW * (last - first).norm(dim=1)
    for _ in range(HALVINGS if len(path) else 0):
        middle = torch.lerp(first, last, 0.5)
        halves = metric.squared_residuals(torch.stack([first, middle, last], dim=1)).sqrt()
        # Where the decoder is not finite in between, the segment leaps over that place.
        moves = (middle != first).any(1) & (middle != last).any(1) & ((last - first).norm(dim=1) > narrow)
        apart = (moves & halves.isfinite().all(1))[:, None]
        front = (halves[:, 0] >= halves[:, 1])[:, None]
        first, last = torch.where(apart & ~front, middle, first), torch.where(apart & front, middle, last)
        kept = torch.where(apart[:, 0], halves.amax(1), kept)
        if not (apart[:, 0] & (kept > chord / 2)).any():
            break
    return kept > chord / 2
