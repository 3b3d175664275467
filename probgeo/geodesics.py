"""Geodesics: paths of least discrete energy between pairs of latent points, by one batched Gauss–Newton solver."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probgeo.doubts import doubts, worth_a_look
from probgeo.metrics import Energy, Metric
from probgeo.newton import BlockTridiagonal, MatrixFree, System, chosen, default_system, finite, rows
from probgeo.paths import Straight, resampled
from probgeo.specs import ADDED_LATER

Start = Callable[[Tensor, Tensor], Tensor]

MAX_DAMPING = 1e3


class Status(IntEnum):
    """How the solution of one pair ended."""

    CONVERGED = 0  #: the last step promised, or brought, less than the tolerance
    MAX_STEPS = 1  #: the steps were used up before
    STALLED = 2  #: no step found that lowers the energy
    NONFINITE = 3  #: the energy along the path is not finite; energy and length are NaN
    ROUNDING = 4  #: chords within 10·eps·‖f‖, so that the length is not to be trusted
    JUMP = 5  #: the decoder jumps within a segment, so that the length is that of a leap and no curve's


class Geodesics(NamedTuple):
    """Solutions for a batch of pairs."""

    path: Float[Tensor, "batch node latent"]  #: nodes at uniform times, ends included
    energy: Float[Tensor, "batch"]  #: E of the path
    length: Float[Tensor, "batch"]  #: L of the path; √(2E) for an energy that is no metric
    steps: Int[Tensor, "batch"]  #: Gauss–Newton steps tried, over all levels
    status: Int[Tensor, "batch"]  #: a `Status` each


@dataclass(frozen=True)
class GaussNewton:
    """Coarse-to-fine Gauss–Newton: solve with few segments, resample at constant speed, solve with more.

    Args:
        num_segments: N of the result.
        tolerance: relative decrease of the energy below which a pair is finished at N.
        coarse_tolerance: the same, on the coarser levels.
        max_steps: steps tried at N, at most; on each coarser level a fifth as many.
        memory: bytes that the Newton systems of the pairs solved together may take, roughly; more pairs are solved in
            turns. What one chunk of decoder outputs takes is a choice of the metric.
        system: class of the linear systems, `newton.BlockTridiagonal` or `newton.MatrixFree`; None for matrix-free ones
            from 20 latent dimensions on, where the energy is a metric.
    """

    num_segments: int = 256
    tolerance: float = 1e-2
    coarse_tolerance: float = 5e-3
    max_steps: int = 30
    memory: int = 2**30
    system: System | None = field(default=None, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        if self.num_segments < 2:
            raise ValueError(f"num_segments: expected at least 2; got {self.num_segments}.")
        if self.max_steps < 1:
            raise ValueError(f"max_steps: expected at least 1; got {self.max_steps}.")
        if self.memory < 1:
            raise ValueError(f"memory: expected at least 1; got {self.memory}.")
        if not (self.tolerance > 0 and self.coarse_tolerance > 0):
            raise ValueError(f"tolerance: expected positive tolerances; got {self.tolerance}, {self.coarse_tolerance}.")
        if self.system not in (None, BlockTridiagonal, MatrixFree):
            raise TypeError(
                f"system: expected newton.BlockTridiagonal, newton.MatrixFree or None; got {self.system!r}."
            )


def energy(metric: Energy, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch"]:
    """Discrete energy of each path; ½ N Σ ‖r_i‖² for a metric.

    Args:
        metric: a metric or another energy.
        path: nodes at uniform times, ends included.

    Returns:
        E of each path, differentiable in the path.
    """
    return metric.measure(path).energy


def length(metric: Metric, path: Float[Tensor, "batch node latent"]) -> Float[Tensor, "batch"]:
    """Discrete length L = Σ ‖r_i‖ of each path.

    Args:
        metric: a metric.
        path: nodes, ends included.

    Returns:
        L of each path.

    Raises:
        TypeError: `metric` is an energy that belongs to no metric, such as `DecorrelatedEnergy`.
    """
    if not isinstance(metric, Metric):
        raise TypeError(
            f"metric: expected a Metric; got {type(metric).__name__}, which depends on a path's speed and has "
            "no length. Use `energy`, or √(2E) to compare with published numbers."
        )
    return metric.squared_residuals(path).sqrt().sum(1)


def geodesic(
    metric: Energy,
    start: Tensor,
    stop: Tensor,
    *,
    init: Tensor | Start | None = None,
    solver: GaussNewton | None = None,
    throw: bool = False,
) -> Geodesics:
    """Paths of least energy E between the pairs (start, stop); each pair is solved as if it were alone.

    Args:
        metric: a metric or another energy.
        start: first points, (batch, latent).
        stop: last points, (batch, latent).
        init: None for the straight line; paths (batch, node, latent); or a callable (start, stop) -> paths, such as
            `paths.Graph(metric, encodings)`. Their number of segments is that of the first level: two or more.
        solver: by default `GaussNewton(num_segments=256)`.
        throw: raise an error if any pair does not converge.

    Returns:
        Paths, energies, lengths, steps and status. At equal ends the path is constant, energy and length are 0. Where
        the energy is not finite the status is NONFINITE, energy and length NaN. Nothing that happens to one pair
        touches another.

    Raises:
        TypeError, ValueError: an argument's type, shape, dtype or device does not fit.
        RuntimeError: with `throw`, some pair did not converge.
    """
    solver = GaussNewton() if solver is None else solver
    _check(metric, start, stop)
    with torch.no_grad():
        path = _initial(init, start, stop, min(metric.line_segments, solver.num_segments))
        newton: Any = (solver.system or default_system(metric, start.shape[1]))(metric)
        bytes_per_pair = newton.num_floats(solver.num_segments, start.shape[1]) * start.element_size()
        parts = [_solved(metric, newton, some, solver) for some in path.split(max(1, solver.memory // bytes_per_pair))]
        solution = parts[0] if len(parts) == 1 else Geodesics(*map(torch.cat, zip(*parts, strict=True)))
        if isinstance(metric, Metric):
            solution = solution._replace(status=_doubted(metric, solution))
    if throw and (solution.status != Status.CONVERGED).any():
        pairs = (solution.status != Status.CONVERGED).nonzero()[:, 0].tolist()
        names = ", ".join(f"{pair}: {Status(int(solution.status[pair])).name}" for pair in pairs[:10])
        raise RuntimeError(f"geodesic: {len(pairs)} of {len(start)} pairs did not converge ({names}).")
    return solution


def _doubted(metric: Metric, found: Geodesics) -> Int[Tensor, "batch"]:
    """The status, once rounding and jumps are looked for where energy and length leave room for them."""
    status = found.status.clone()
    pairs = (status != Status.NONFINITE).nonzero()[:, 0]
    pairs = pairs[worth_a_look(metric, *(values[pairs] for values in found[:3]))]
    if len(pairs):
        chords = metric.squared_residuals(found.path[pairs]).sqrt()
        status[pairs] = with_doubts(metric, found.path[pairs], chords, status[pairs])
    return status


def with_doubts(
    metric: Metric,
    path: Float[Tensor, "batch node latent"],
    chords: Float[Tensor, "batch segment"],
    status: Int[Tensor, "batch"],
) -> Int[Tensor, "batch"]:
    """The status of paths, ROUNDING or JUMP where their length is not to be trusted; NONFINITE stays.

    Args:
        metric: a metric.
        path: nodes.
        chords: lengths of the segments.
        status: what is known otherwise.
    """
    rounded, leaps = doubts(metric, path, chords)
    doubted = torch.where(rounded, int(Status.ROUNDING), torch.where(leaps, int(Status.JUMP), status))
    return torch.where(status == Status.NONFINITE, status, doubted)


def worse(first: Int[Tensor, "*batch"], second: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Of two `Status` the one that says less of a result: NONFINITE, where there is none; else the higher number."""
    lost = (first == Status.NONFINITE) | (second == Status.NONFINITE)
    return torch.where(lost, int(Status.NONFINITE), torch.maximum(first, second))


def _check(metric: Energy, start: Tensor, stop: Tensor) -> None:
    if not isinstance(metric, Energy):
        raise TypeError(
            f"metric: expected a metric or energy, such as PullbackMetric(decoder); got {type(metric).__name__}."
        )
    for name, points in (("start", start), ("stop", stop)):
        if not isinstance(points, Tensor) or not points.is_floating_point():
            found = points.dtype if isinstance(points, Tensor) else type(points).__name__
            raise TypeError(f"{name}: expected a floating-point tensor (batch, latent); got {found}.")
        if points.ndim != 2:
            raise ValueError(
                f"{name}: expected (batch, latent); got shape {tuple(points.shape)}. Use {name}[None] for one pair."
            )
    if start.shape != stop.shape:
        raise ValueError(f"stop: expected the shape of start, {tuple(start.shape)}; got {tuple(stop.shape)}.")
    if start.dtype != stop.dtype:
        raise ValueError(f"stop: expected the dtype of start, {start.dtype}; got {stop.dtype}.")
    if start.device != stop.device:
        raise ValueError(f"stop: expected the device of start, {start.device}; got {stop.device}.")


def _initial(init: Tensor | Start | None, start: Tensor, stop: Tensor, line_segments: int) -> Tensor:
    """Initial paths with ends exactly start and stop; constant at equal ends."""
    if init is None:
        return Straight(line_segments)(start, stop)
    path = init if isinstance(init, Tensor) else init(start, stop)
    if path.ndim != 3 or path.shape[0] != len(start) or path.shape[1] < 3 or path.shape[2] != start.shape[1]:
        raise ValueError(
            f"init: expected paths (batch, node, latent) = ({len(start)}, at least 3, {start.shape[1]}); "
            f"got {tuple(path.shape)}."
        )
    if path.dtype != start.dtype or path.device != start.device:
        raise ValueError(
            f"init: expected the dtype and device of start, {start.dtype} on {start.device}; "
            f"got {path.dtype} on {path.device}."
        )
    path = torch.cat([start[:, None], path[:, 1:-1], stop[:, None]], dim=1)
    equal = (start == stop).all(1)
    return torch.where(equal[:, None, None], start[:, None], path)


def _levels(first: int, last: int) -> list[int]:
    """Numbers of segments from the first level to the last: doubled up to an eighth of the last, or to 32."""
    if first >= last:
        return [last]
    levels = [first]
    while 2 * levels[-1] <= max(last // 8, min(32, last // 4)):
        levels.append(2 * levels[-1])
    return [*levels, last]


def _solved(
    metric: Energy,
    newton: Any,
    path: Float[Tensor, "batch node latent"],
    solver: GaussNewton,
) -> Geodesics:
    """All levels, one after the other; pairs that turn out not to be finite drop out."""
    start, stop = path[:, 0], path[:, -1]
    found = Straight(solver.num_segments)(start, stop)
    energies = path.new_full((len(path),), torch.nan)
    lengths = energies.clone()
    steps = torch.zeros(len(path), dtype=torch.int64, device=path.device)
    status = torch.full_like(steps, Status.CONVERGED)

    # At equal ends the constant path is the answer, unless the metric has no value there.
    equal = (start == stop).all(1)
    if equal.any():
        energies[equal] = lengths[equal] = 0 * metric.measure(found[equal]).energy
        status[equal & energies.isnan()] = Status.NONFINITE

    pairs = (~equal).nonzero()[:, 0]
    path, durations = path[pairs], None
    for num_segments in _levels(path.shape[1] - 1, solver.num_segments):
        if not len(pairs):
            break
        if path.shape[1] - 1 != num_segments:
            path = resampled(path, metric.measure(path).durations if durations is None else durations, num_segments)
        if num_segments == solver.num_segments:
            level = _minimised(metric, newton, path, solver.tolerance, solver.max_steps)
        else:
            level = _minimised(metric, newton, path, solver.coarse_tolerance, -(-solver.max_steps // 5))
        steps[pairs] += level.steps
        status[pairs] = level.status
        sound = level.status != Status.NONFINITE
        pairs, path, durations = pairs[sound], level.path[sound], level.durations[sound]
        if num_segments == solver.num_segments:
            found[pairs], energies[pairs] = path, level.energy[sound]
            lengths[pairs] = durations.sum(1) if isinstance(metric, Metric) else (2 * energies[pairs]).sqrt()
    return Geodesics(found, energies, lengths, steps, status)


class _Level(NamedTuple):
    """What one level leaves to the next."""

    path: Float[Tensor, "batch node latent"]
    energy: Float[Tensor, "batch"]
    durations: Float[Tensor, "batch segment"]
    steps: Int[Tensor, "batch"]
    status: Int[Tensor, "batch"]


def _minimised(
    metric: Energy,
    newton: Any,
    path: Float[Tensor, "batch node latent"],
    tolerance: float,
    max_steps: int,
) -> _Level:
    """Damped Gauss–Newton steps on one level, each pair until its own end.

    A trial is linearised at once, as nearly all are accepted. Only a pair's last step, which promises less than the
    tolerance, is not: its energy is compared at the end, for all pairs together; a tiny step is not taken at all.
    """
    steps = torch.zeros(len(path), dtype=torch.int64, device=path.device)
    status = torch.full_like(steps, Status.MAX_STEPS)
    path, proposed = path.clone(), path.clone()
    model = newton.linearized(path)
    energies, durations = model.energy.clone(), model.durations.clone()
    damping = torch.zeros_like(energies)
    active = finite(model)
    status[~active] = Status.NONFINITE
    active, model, damping = active.nonzero()[:, 0], rows(model, active), damping[active]
    for _ in range(max_steps):
        if not len(active):
            break
        step, promised = newton.step(model, damping)
        steps[active] += 1
        trial = path[active]
        trial[:, 1:-1] += step
        trusted = damping <= newton.trusted_damping
        # Without its damping a step would promise, and bring, more: at most 1 + λ times as much.
        little = trusted & ((1 + damping) * promised <= tolerance * model.energy)
        status[active[little]] = Status.CONVERGED
        taken = little & (promised > tolerance / 25 * model.energy)
        proposed[active[taken]] = trial[taken]
        active, damping, trial, promised, trusted = (x[~little] for x in (active, damping, trial, promised, trusted))
        model = rows(model, ~little)
        if not len(active):
            break
        new = newton.linearized(trial)
        gain = model.energy - new.energy
        accepted = (gain > 0) & finite(new)
        done = accepted & trusted & ((1 + damping) * gain <= tolerance * model.energy)
        good = accepted & (gain > promised / 2)
        model = chosen(accepted, new, model)
        path[active] = proposed[active] = torch.where(accepted[:, None, None], trial, path[active])
        energies[active], durations[active] = model.energy, model.durations
        damping = torch.where(accepted, torch.where(good, damping / 8, damping), (6 * damping).clamp_min(1e-2))
        stalled = damping > MAX_DAMPING
        status[active[done]] = Status.CONVERGED
        status[active[stalled]] = Status.STALLED
        keep = ~(done | stalled)
        active, model, damping = active[keep], rows(model, keep), damping[keep]
    moved = (proposed != path).flatten(1).any(1).nonzero()[:, 0]
    if len(moved):
        measure = metric.measure(proposed[moved])
        better = measure.energy <= energies[moved]
        moved = moved[better]
        path[moved] = proposed[moved]
        energies[moved], durations[moved] = (x[better] for x in measure)
    return _Level(path, energies, durations, steps, status)
