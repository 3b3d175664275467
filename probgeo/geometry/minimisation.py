"""Paths minimised with one number of segments: damped Gauss–Newton steps, each path until its own end."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probgeo.geometry.metrics import Energy
from probgeo.geometry.newton import chosen, corrected_step, finite, learnt, no_secants, rows
from probgeo.geometry.solver import Status

LEAST_CONTRACTION = 0.1  # of one step; a smaller one is no promise that slower modes go as fast
MORE = 0.1  # of what a last step promised, from which it tells that the model was wrong
ROUNDING = 10.0  # decrements of so many eps of the energy are none


class Level(NamedTuple):
    """How paths of one number of segments are minimised."""

    tolerance: float  #: share of the energy that may be left
    max_steps: int  #: at most
    measured: Callable[[Energy, Tensor], tuple[Tensor, Tensor, Tensor]]  #: energy, durations, length with segments cut
    surely: float  #: share of the energy that may be left by the covariant blocks


class Descents(NamedTuple):
    """Paths on their way down, several for a pair."""

    path: Float[Tensor, "start node latent"]
    pair: Int[Tensor, " start"]
    energy: Float[Tensor, " start"]
    durations: Float[Tensor, "start segment"]
    steps: Int[Tensor, " start"]
    status: Int[Tensor, " start"]
    contraction: Float[Tensor, " start"]  #: the last step's decrement over that of the one before, as last measured
    left: Float[Tensor, " start"]  #: of the energy above its least in the valley, as estimated; infinite where unknown
    cut_length: Float[Tensor, " start"]  #: its length with each segment cut in two; NaN where unknown

    def those(self, which: Tensor) -> "Descents":
        """Some of them, by a mask or by their numbers."""
        return Descents(*(values[which] for values in self))


def minimised(metric: Energy, newton: Any, descents: Descents, level: Level) -> Descents:
    """Paths solved on one level; what an inexact system does not solve, an exact one goes on with."""
    if not len(descents.path):
        return descents
    found = _stepped(metric, newton, descents, level)
    if newton.exact is None:
        return found
    over = (found.status == Status.MAX_STEPS) | (found.status == Status.STALLED)
    return joined(over, minimised(metric, newton.exact, found.those(over), level), found.those(~over))


def _stepped(metric: Energy, newton: Any, descents: Descents, level: Level) -> Descents:
    """Damped Gauss–Newton steps, corrected by a secant, on one level, each path until its own end.

    A trial is linearised at once, as nearly all are accepted. Only a path's last step, which leaves less than the
    tolerance, is not: its energy is compared at the end, for all paths together; a tiny step is not taken at all.
    What it leaves is estimated from how fast steps become shorter; and held against the covariant blocks, by which a
    path is far from solved that Gauss–Newton's steps, too short where the metric changes much, only seem to end.
    """
    path, steps, contraction = descents.path, descents.steps.clone(), descents.contraction.clone()
    status = torch.full_like(steps, Status.MAX_STEPS)
    path, proposed = path.clone(), path.clone()
    model = newton.linearized(path)
    energies, durations = model.energy.clone(), model.durations.clone()
    damping, before = torch.zeros_like(energies), torch.full_like(energies, torch.nan)
    above = torch.full_like(energies, torch.inf)
    left_over, hoped = above.clone(), above.clone()
    active = finite(model) & (descents.status != Status.NONFINITE)
    status[~active] = Status.NONFINITE
    active, model, damping, before = active.nonzero()[:, 0], rows(model, active), damping[active], before[active]
    secants = no_secants(model.gradient)
    for _ in range(level.max_steps):
        if not len(active):
            break
        step, promised = corrected_step(newton, model, damping, secants)
        steps[active] += 1
        trial = path[active]
        trial[:, 1:-1] += step
        trusted = damping <= newton.trusted_damping
        # Without its damping a step would promise more: 1 + λ times as much of what moves single nodes. It damps slow
        # modes much more; how much is left of these the covariant blocks tell.
        decrement = (1 + damping) * promised
        measured = (decrement / before).clamp_min(LEAST_CONTRACTION)
        contraction[active] = torch.where(before.isnan(), contraction[active], measured)
        excess, left = _excesses(decrement, contraction[active])
        noise = ROUNDING * torch.finfo(promised.dtype).eps
        none = decrement <= noise * model.energy
        little = trusted & ((left <= level.tolerance * model.energy) | none)
        little = little & (none | _few_left(newton, model, path[active], promised, little, level.surely))
        status[active[little]] = Status.CONVERGED
        taken = little & (excess > level.tolerance / 2 * model.energy)
        proposed[active[taken]] = trial[taken]
        above[active[little]] = torch.where(none, decrement, excess)[little]
        left_over[active[taken]], hoped[active[taken]] = left[taken], promised[taken]
        active, damping, trial, step, promised = (x[~little] for x in (active, damping, trial, step, promised))
        before, decrement = before[~little], decrement[~little]
        model, secants = rows(model, ~little), secants.those(~little)
        if not len(active):
            break
        new = newton.updated(model, trial)
        gain = model.energy - new.energy
        accepted = (gain > 0) & finite(new)
        good = accepted & (gain > promised / 2)
        secants = learnt(secants, step, new.gradient - model.gradient, promised)
        model = chosen(accepted, new, model)
        path[active] = proposed[active] = torch.where(accepted[:, None, None], trial, path[active])
        energies[active], durations[active] = model.energy, model.durations
        before = torch.where(accepted, decrement, before)
        damping = torch.where(accepted, torch.where(good, damping / 8, damping), (6 * damping).clamp_min(1e-2))
        # Damping does not shorten what a secant adds: after a second refusal in a row it is let go.
        secants = secants.where(damping <= newton.trusted_damping)
        left = damping <= newton.most_damping
        status[active[~left]] = Status.STALLED
        active, model, damping, before = active[left], rows(model, left), damping[left], before[left]
        secants = secants.those(left)
    unknown = torch.full_like(energies, torch.nan)
    found = Descents(path, descents.pair, energies, durations, steps, status, contraction, above, unknown)
    return _with_last_steps(metric, found, proposed, hoped, left_over, level)


def _few_left(
    newton: Any,
    model: Any,
    path: Float[Tensor, "active node latent"],
    promised: Float[Tensor, " active"],
    little: Bool[Tensor, " active"],
    share: float,
) -> Bool[Tensor, " active"]:
    """Which of the paths that look solved are so by the covariant blocks too, once their last step is taken.

    Args:
        newton: knows these.
        model: around the paths.
        path: nodes.
        promised: by the last step.
        little: where they look so.
        share: of the energy that may be left.
    """
    if not little.any():
        return little
    left = newton.excess(rows(model, little), path[little]) - promised[little]
    return little.masked_scatter(little, left <= share * model.energy[little])


def _with_last_steps(
    metric: Energy,
    descents: Descents,
    proposed: Float[Tensor, "start node latent"],
    hoped: Float[Tensor, " start"],
    left: Float[Tensor, " start"],
    level: Level,
) -> Descents:
    """The last steps of all paths taken, where they do not add energy.

    Args:
        metric: gives E.
        descents: before them.
        proposed: paths after them.
        hoped: what they promised to bring; where they bring more by `MORE`, what is left is unknown.
        left: of the energy above its least after them, as estimated.
        level: measures them.
    """
    moved = (proposed != descents.path).flatten(1).any(1).nonzero()[:, 0]
    if not len(moved):
        return descents
    energy, durations, cut_length = level.measured(metric, proposed[moved])
    gain = descents.energy[moved] - energy
    better, more = gain >= 0, gain > (1 + MORE) * hoped[moved]
    descents.left[moved[better]] = torch.where(more, torch.inf, left[moved])[better]
    moved = moved[better]
    descents.path[moved] = proposed[moved]
    descents.energy[moved], descents.durations[moved] = energy[better], durations[better]
    descents.cut_length[moved] = cut_length[better]
    return descents


def _excesses(decrement: Float[Tensor, " start"], contraction: Float[Tensor, " start"]) -> tuple[Tensor, Tensor]:
    """How far the energy is above its least in the valley, as estimated, p / (1 − √q), and what a step leaves: q times.

    Where steps act as on a quadratic, a mode that they shorten by 1 − σ has the excess p / σ, p its decrement, and the
    next decrement is q = (1 − σ)² of this one.

    Args:
        decrement: p.
        contraction: q, this decrement over the last; from 1 on there is no end in sight.
    """
    excess = decrement / (1 - contraction.sqrt()).clamp_min(0)
    return excess, torch.where(contraction < 1, contraction * excess, torch.inf)


def joined(which: Bool[Tensor, " start"], first: Descents, second: Descents) -> Descents:
    """Those of the first where true, in their order, and of the second elsewhere."""
    if not which.any():
        return second
    order = torch.cat([which.nonzero()[:, 0], (~which).nonzero()[:, 0]]).argsort()
    return Descents(*(torch.cat(pair)[order] for pair in zip(first, second, strict=True)))


def measured_alone(metric: Energy, path: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Energy and durations; no length with segments cut in two."""
    energy, durations = metric.measure(path)
    return energy, durations, torch.full_like(energy, torch.nan)
