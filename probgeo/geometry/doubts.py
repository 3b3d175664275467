"""What makes the length of a path doubtful, whatever the solver says of it: rounding, leaps, segments too long."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probgeo.geometry.immersions import plainly
from probgeo.geometry.metrics import Evaluation, Metric

NUM_SAMPLES = 5
# A segment this many times as long as one beside it is looked into, and longer than the mean,
STEP = 1.5
# at most so many of each path,
MOST = 4
# as is the longest, with this many times its share of the length.
LARGE = 5.0
# What rises within this share of a segment is no wall that the path could climb, but a leap, if it is so much of it,
NARROW = 1e-7
KEPT = 1 / 8
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

    Rounding: chords within 10·eps·‖f‖ could make up a tenth of the length. A leap: on halving a segment that is longer
    than those beside it again and again, one half keeps an eighth of the chord or more until it is narrower than
    `NARROW` of the segment. Each segment is compared with its neighbours alone, whatever the others are. A leap of less
    than about the chord beside it (where speed is even L/N, 0.4 % of the length at N = 256) makes its segment no longer
    than a bend would, and is not seen.

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
    looked = steps(chords) & (moves & ~rounded)[:, None]
    row, segment = looked.nonzero().unbind(1)
    leaps = row[_is_leap(metric, path[row], segment, chords[row, segment])]
    return rounded, torch.zeros_like(rounded).index_fill(0, leaps, True)


def steps(chords: Float[Tensor, "batch segment"]) -> Bool[Tensor, "batch segment"]:
    """Segments that may leap: longer than one beside them by far, or longest by far; a few of each path.

    Args:
        chords: lengths of the segments.
    """
    mean = chords.mean(1, keepdim=True)
    beside = torch.nn.functional.pad(chords, (1, 1), value=torch.inf)
    beside = torch.minimum(beside[:, :-2], beside[:, 2:]) if chords.shape[1] > 1 else chords
    ratio = chords / beside.clamp_min(torch.finfo(chords.dtype).tiny)
    stands_out = (ratio > STEP) & (chords > mean)
    largest = chords.amax(1, keepdim=True)
    far = (chords == largest) & (largest > min(0.5 * chords.shape[1], LARGE) * mean)
    order = torch.where(stands_out | far, ratio, -torch.inf) + torch.where(far, torch.inf, 0.0)
    chosen = torch.zeros_like(stands_out).scatter_(1, order.topk(min(MOST, chords.shape[1]), dim=1).indices, True)
    return chosen & (stands_out | far)


def cuts(path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch segment latent"]:
    """Where segments are cut in two: about the middle, each elsewhere, so that no ridges are as far from each other.

    Args:
        path: nodes.
    """
    share = 0.3 + 0.4 * (GOLDEN * torch.arange(1, path.shape[1], dtype=torch.float64) % 1)
    return torch.lerp(path[:, :-1], path[:, 1:], share.to(path)[:, None])


def cut(metric: Metric, path: Float[Tensor, "batch node latent"]) -> tuple[Evaluation, Float[Tensor, " batch"]]:
    """E and durations of paths, and how long they are with each segment cut in two.

    Args:
        metric: a metric.
        path: n segments each.
    """
    with plainly(path):
        squares, parts = metric.cut_residuals(path, cuts(path))
    return Evaluation((path.shape[1] - 1) / 2 * squares.sum(1), squares.sqrt()), parts.sqrt().sum((1, 2))


def too_coarse(
    path: Float[Tensor, "batch node latent"],
    length: Float[Tensor, " batch"],
    cut_length: Float[Tensor, " batch"],
    noise: Float[Tensor, " batch"],
) -> Bool[Tensor, " batch"]:
    """Which paths pass by what the decoder does within their segments: |L₂ₙ/Lₙ − 1| > `COARSE`, and above rounding.

    A chord does not see a ridge that it jumps. Least energy then seeks such chords out: a path from node to node across
    every ridge is short by its chords, and long by what lies between them.

    Args:
        path: n segments each.
        length: Lₙ of each.
        cut_length: L₂ₙ, as `cut` has it.
        noise: as `noise_of` has it.
    """
    # Lengths ε of rounding beside a chord c make it longer by ε²/c, or by ε where they are all of it.
    rounding = 2 * (path.shape[1] - 1) * noise
    rounding = rounding * (rounding / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_max(1)
    return (path[:, 0] != path[:, -1]).any(1) & ((cut_length - length).abs() > COARSE * length + rounding)


def worth_a_look(chords: Float[Tensor, "batch segment"], noise: Float[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """Paths that may have doubts: with a step in their speed, or hardly longer than their rounding.

    Args:
        chords: lengths of the segments.
        noise: as `noise_of` has it.
    """
    return steps(chords).any(1) | (chords.sum(1) <= 4 * chords.shape[1] * noise)


def noise_of(metric: Chords, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, " batch"]:
    """Lengths of segments that are no more than rounding, at two nodes.

    Args:
        metric: a metric, or chords.
        path: nodes.
    """
    return metric.resolution(path[:, [0, path.shape[1] // 2]].flatten(0, 1)).view(-1, 2).amax(1)


def _is_leap(
    metric: Chords, path: Float[Tensor, "batch node latent"], segment: Tensor, chord: Float[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Whether an eighth of the chord of a segment stays in one half of it, however short: the value at a leap may lie
    in between, as that of sign(0) does."""
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
        if not (apart[:, 0] & (kept > KEPT * chord)).any():
            break
    return kept > KEPT * chord
