"""Geodesics: paths of least discrete energy between pairs of latent points, by one batched Gauss–Newton solver."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probgeo.geometry.descents import UNKNOWN_CONTRACTION, descended
from probgeo.geometry.doubts import Chords, cut, doubts, noise_of, too_coarse, worth_a_look
from probgeo.geometry.immersions import plainly
from probgeo.geometry.metrics import DecorrelatedEnergy, Energy, Evaluation, Metric
from probgeo.geometry.metrics.metric import check_energy
from probgeo.geometry.minimisation import Descents
from probgeo.geometry.newton import default_system
from probgeo.geometry.paths import Straight
from probgeo.geometry.points import Points, check_alike, latent_points, nodes_of
from probgeo.geometry.routes import Search, Starts, firsts, split
from probgeo.geometry.solver import GaussNewton, Status

Start = Callable[[Tensor, Tensor], Tensor]

AMBIGUITY = 1e-3  # gaps below are no more than what lengths are accurate to


class Geodesics(NamedTuple):
    """Solutions for a batch of pairs: what `geodesic` returns.

    Attributes:
        path: nodes at uniform times, ends included, (batch, node, latent).
        energy: E of the path, (batch).
        length: L of the path, (batch); √(2E) for an energy that is no metric.
        steps: Gauss–Newton steps tried, over all levels, (batch).
        status: a `Status` each, (batch).
        rivals: distinct locally shortest paths that were found, (batch); −1 where none were looked for.
        gap: L₂/L₁ − 1 of the second shortest of them, (batch); NaN where there is none. Of a path that was left before
            it was solved, as it came no nearer, L₂ is what it had then.

    Example:
        >>> import torch, probgeo as pg
        >>> found = pg.geodesic(pg.PullbackMetric(lambda z: z), torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        >>> found.length, found.energy  # 5, and ½ · 5² at constant speed
        (tensor([5.]), tensor([12.5000]))
        >>> found.path[0, 128], found.rivals  # halfway; one start alone was tried
        (tensor([1.5000, 2.0000]), tensor([-1]))
    """

    path: Float[Tensor, "batch node latent"]
    energy: Float[Tensor, " batch"]
    length: Float[Tensor, " batch"]
    steps: Int[Tensor, " batch"]
    status: Int[Tensor, " batch"]
    rivals: Int[Tensor, " batch"]
    gap: Float[Tensor, " batch"]


def energy(metric: Energy, path: Points) -> Float[Tensor, " batch"]:
    """Discrete energy of each path; ½ N Σ ‖r_i‖² for a metric.

    Args:
        metric: a metric or another energy.
        path: nodes at uniform times, ends included, (batch, node, latent).

    Returns:
        E of each path, differentiable in the path.

    Raises:
        TypeError, ValueError: the type, shape or dtype of an argument does not fit.

    Example:
        >>> import torch, probgeo as pg
        >>> plane = pg.PullbackMetric(lambda z: z)
        >>> path = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]])
        >>> pg.energy(plane, path)  # ½ · 2 · (1² + 2²)
        tensor([5.])
        >>> pg.length(plane, path) ** 2 <= 2 * pg.energy(plane, path)  # equal at constant speed alone
        tensor([True])
    """
    check_energy(metric)
    return metric.measure(nodes_of("path", path)).energy


def length(metric: Metric, path: Points) -> Float[Tensor, " batch"]:
    """Discrete length L = Σ ‖r_i‖ of each path.

    Args:
        metric: a metric.
        path: nodes, ends included, (batch, node, latent).

    Returns:
        L of each path, differentiable in the path.

    Raises:
        TypeError: `metric` is an energy that belongs to no metric, such as `DecorrelatedEnergy`; or the path is no
            floating-point tensor or array.
        ValueError: its shape does not fit.

    Example:
        >>> import torch, probgeo as pg
        >>> plane = pg.PullbackMetric(lambda z: z)
        >>> corner = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]])
        >>> pg.length(plane, corner)  # 3 + 4, whereas the geodesic is 5 long
        tensor([7.])
    """
    check_energy(metric)
    if not isinstance(metric, Metric):
        raise TypeError(
            f"metric: expected a Metric; got {type(metric).__name__}, which depends on a path's speed and has "
            "no length. Use `energy`, or √(2E) to compare with published numbers."
        )
    return metric.squared_residuals(nodes_of("path", path)).sqrt().sum(1)


def geodesic(
    metric: Energy,
    start: Points,
    stop: Points,
    *,
    init: Points | Start | Search | None = None,
    solver: GaussNewton | None = None,
    throw: bool = False,
) -> Geodesics:
    """Paths of least energy E between the pairs (start, stop); each pair is solved as if it were alone.

    Args:
        metric: a metric or another energy.
        start: first points, (batch, latent).
        stop: last points, (batch, latent).
        init: None for the straight line; paths (batch, node, latent); a callable (start, stop) -> paths; or what gives
            a pair several starts beside the line, such as `paths.Graph(metric, encodings)`, so that the best of all is
            found. Their number of segments is that of the first level: two or more; of those that a search gives,
            half as many where they are more than half of the solver's.
        solver: by default `GaussNewton(num_segments=256)`.
        throw: raise an error if any pair does not converge.

    Returns:
        Paths, energies, lengths, steps, status, and where several starts were tried `rivals` and `gap`: how many
        valleys they led to, and how much longer the second shortest path is. One alone is no proof that there are no
        others; from the straight line alone a path may end beside a saddle, which looks like a minimum; a small gap
        says that a little change of the metric, as by retraining, may swap the two. At equal ends the path is constant,
        energy and length are 0. Where the energy is not finite the status is NONFINITE, energy and length NaN, and
        there are no rivals. Nothing that happens to one pair touches another.

    Raises:
        TypeError, ValueError: an argument's type, shape, dtype or device does not fit.
        RuntimeError: with `throw`, some pair did not converge.

    Example:
        >>> import torch, probgeo as pg
        >>> def sphere(z):  # z: polar angle and azimuth
        ...     polar, azimuth = z.unbind(-1)
        ...     around = polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin()
        ...     return torch.stack([*around, polar.cos()], dim=-1)
        >>> start, stop = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[1.0, 2.0]]).double()
        >>> found = pg.geodesic(pg.PullbackMetric(sphere), start, stop)
        >>> round(found.length.item(), 3)
        1.574
        >>> great_circle = (sphere(start) * sphere(stop)).sum().arccos()
        >>> round(great_circle.item(), 3)
        1.574
        >>> pg.Status(found.status.item()).name, found.path.shape
        ('CONVERGED', torch.Size([1, 257, 2]))
    """
    check_solver(solver)
    solver = GaussNewton() if solver is None else solver
    start, stop = _checked(metric, start, stop)
    with torch.no_grad(), plainly(start):
        starts = _initial(init, start, stop, min(metric.line_segments, solver.num_segments))
        searched = isinstance(init, Search)
        if searched:
            starts = _at_most(max(metric.graph_segments, solver.num_segments // 2), starts)
        between = torch.stack([start, torch.lerp(start, stop, 0.5), stop], dim=1).flatten(0, 1)
        newton: Any = (solver.system or default_system(metric, between))(metric)
        num_floats = newton.num_floats(solver.num_segments, start.shape[1])
        count = max(1, solver.memory // (num_floats * start.element_size()))
        solved = [_solved(metric, newton, some, searched, solver) for some in split(starts, count)]
        parts = [part for part, _, _ in solved]
        solution = parts[0] if len(parts) == 1 else Geodesics(*map(torch.cat, zip(*parts, strict=True)))
        if isinstance(metric, Metric | DecorrelatedEnergy):
            chords = torch.cat([durations for _, durations, _ in solved])
            cut_lengths = torch.cat([cut_length for _, _, cut_length in solved])
            solution = solution._replace(status=_doubted(metric, solution, chords, cut_lengths))
    if throw and (solution.status != Status.CONVERGED).any():
        pairs = (solution.status != Status.CONVERGED).nonzero()[:, 0].tolist()
        names = ", ".join(f"{pair}: {Status(int(solution.status[pair])).name}" for pair in pairs[:10])
        raise RuntimeError(f"geodesic: {len(pairs)} of {len(start)} pairs did not converge ({names}).")
    return solution


def _doubted(
    metric: Metric | DecorrelatedEnergy,
    found: Geodesics,
    chords: Float[Tensor, "batch segment"],
    cut_lengths: Float[Tensor, " batch"],
) -> Int[Tensor, " batch"]:
    """The status, once coarse segments are looked for, and rounding and jumps where chords leave room for them.

    Args:
        metric: what the paths are of.
        found: their solution.
        chords: durations of their segments, which are a metric's chords.
        cut_lengths: with each segment cut in two; NaN where they are not known yet.
    """
    status = found.status.clone()
    pairs = (status != Status.NONFINITE).nonzero()[:, 0]
    if len(pairs) and isinstance(metric, Metric):  # of another energy its chords alone tell
        missing = pairs[cut_lengths[pairs].isnan()]
        if len(missing):
            cut_lengths = cut_lengths.index_copy(0, missing, cut(metric, found.path[missing])[1])
        path, noise = found.path[pairs], noise_of(metric, found.path[pairs])
        status[pairs] = _unless_coarse(path, found.length[pairs], cut_lengths[pairs], noise, status[pairs])
        pairs = pairs[worth_a_look(chords[pairs], noise)]
    if len(pairs):
        path = found.path[pairs]
        chords = chords[pairs] if isinstance(metric, Metric) else metric.squared_residuals(path).sqrt()
        status[pairs] = _unless_torn(metric, path, chords, status[pairs])
    return status


def with_doubts(
    metric: Metric,
    path: Float[Tensor, "batch node latent"],
    chords: Float[Tensor, "batch segment"],
    cut_lengths: Float[Tensor, " batch"],
    status: Int[Tensor, " batch"],
) -> Int[Tensor, " batch"]:
    """The status of paths, ROUNDING, JUMP or COARSE where their length is not to be trusted; NONFINITE stays.

    Args:
        metric: a metric.
        path: nodes.
        chords: lengths of the segments.
        cut_lengths: of the paths with each segment cut in two, as `doubts.cut` has them.
        status: what is known otherwise.
    """
    status = _unless_coarse(path, chords.sum(1), cut_lengths, noise_of(metric, path), status)
    return _unless_torn(metric, path, chords, status)


def _unless_coarse(
    path: Tensor, length: Tensor, cut_length: Tensor, noise: Tensor, status: Tensor
) -> Int[Tensor, " batch"]:
    coarse = too_coarse(path, length, cut_length, noise) & (status != Status.NONFINITE)
    return torch.where(coarse, int(Status.COARSE), status)


def _unless_torn(metric: Chords, path: Tensor, chords: Tensor, status: Tensor) -> Int[Tensor, " batch"]:
    rounded, leaps = doubts(metric, path, chords)
    doubted = torch.where(rounded, int(Status.ROUNDING), torch.where(leaps, int(Status.JUMP), status))
    return torch.where(status == Status.NONFINITE, status, doubted)


def worse(first: Int[Tensor, "*batch"], second: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """Of two `Status` the one that says less of a result: NONFINITE, where there is none; else the higher number."""
    lost = (first == Status.NONFINITE) | (second == Status.NONFINITE)
    return torch.where(lost, int(Status.NONFINITE), torch.maximum(first, second))


def check_solver(solver: Any) -> None:
    """Refuse what is no solver.

    Raises:
        TypeError: something else; None is the default.
    """
    if solver is not None and not isinstance(solver, GaussNewton):
        raise TypeError(f"solver: expected GaussNewton(...), or None; got {solver!r}.")


def _checked(metric: Energy, start: Points, stop: Points) -> tuple[Tensor, Tensor]:
    check_energy(metric)
    start, stop = latent_points("start", start, "batch latent"), latent_points("stop", stop, "batch latent")
    check_alike("stop start", start, stop)
    return start, stop


def _initial(init: Points | Start | Search | None, start: Tensor, stop: Tensor, line_segments: int) -> Starts:
    """Initial paths with ends exactly start and stop; constant at equal ends, and then one alone."""
    pair = torch.arange(len(start), device=start.device)
    if init is None:
        return Starts(Straight(line_segments)(start, stop), pair)
    if isinstance(init, Search):
        path, pair = init.starts(start, stop)
    else:
        if not callable(init) and not isinstance(init, Points):
            raise TypeError(
                f"init: expected paths (batch, node, latent), a callable (start, stop) -> paths, or a graph; got "
                f"{type(init).__name__}."
            )
        path = latent_points("init", init if isinstance(init, Points) else init(start, stop))
    if path.ndim != 3 or path.shape[0] != len(pair) or path.shape[1] < 3 or path.shape[2] != start.shape[1]:
        raise ValueError(
            f"init: expected paths (batch, node, latent) = ({len(pair)}, at least 3, {start.shape[1]}); "
            f"got {tuple(path.shape)}."
        )
    if path.dtype != start.dtype or path.device != start.device:
        raise ValueError(
            f"init: expected the dtype and device of start, {start.dtype} on {start.device}; "
            f"got {path.dtype} on {path.device}."
        )
    path = torch.cat([start[pair, None], path[:, 1:-1], stop[pair, None]], dim=1)
    equal = (start == stop).all(1)[pair]
    path = torch.where(equal[:, None, None], path[:, :1], path)
    needed = firsts(pair) | ~equal
    return Starts(path[needed], pair[needed])


def _at_most(num_segments: int, starts: Starts) -> Starts:
    """Every second node of starts that have more segments, again as long as they have."""
    path = starts.path
    while path.shape[1] - 1 > num_segments and path.shape[1] % 2:
        path = path[:, ::2]
    return starts._replace(path=path)


def _solved(
    metric: Energy, newton: Any, starts: Starts, searched: bool, solver: GaussNewton
) -> tuple[Geodesics, Float[Tensor, "batch segment"], Float[Tensor, " batch"]]:
    """The lowest of each pair's descents, and how close another one came; durations; lengths with segments cut."""
    first = firsts(starts.pair)
    path, pair = starts.path, first.cumsum(0) - 1
    start, stop = path[first, 0], path[first, -1]
    found = Straight(solver.num_segments)(start, stop)
    durations = path.new_zeros(len(start), solver.num_segments)
    energies = path.new_full((len(start),), torch.nan)
    lengths, gap, cut_lengths = energies.clone(), energies.clone(), energies.clone()
    steps = torch.zeros(len(start), dtype=torch.int64, device=path.device)
    status, rivals = torch.full_like(steps, Status.CONVERGED), torch.full_like(steps, -1)

    # At equal ends the constant path is the answer, unless the metric has no value there.
    equal = (start == stop).all(1)
    if equal.any():
        energies[equal] = lengths[equal] = 0 * metric.measure(found[equal]).energy
        status[equal & energies.isnan()] = Status.NONFINITE

    if not equal.all():
        path, pair = path[~equal[pair]], pair[~equal[pair]]
        # Only starts that are compared with each other are measured before their first level does so.
        unknown = Evaluation(path.new_full((len(path),), torch.nan), torch.ones_like(path[:, 1:, 0]))
        measured = metric.measure(path) if searched else unknown
        unknown_yet = (torch.full_like(measured.energy, value) for value in (UNKNOWN_CONTRACTION, torch.inf, torch.nan))
        begun = Descents(path, pair, *measured, torch.zeros_like(pair), torch.zeros_like(pair), *unknown_yet)
        descents, beaten = descended(metric, newton, begun, searched, solver)
        steps[descents.pair], status[descents.pair] = descents.steps, descents.status
        best = descents.those(descents.status != Status.NONFINITE)
        found[best.pair], energies[best.pair], durations[best.pair] = best.path, best.energy, best.durations
        cut_lengths[best.pair] = best.cut_length
        lengths[best.pair] = best.durations.sum(1) if isinstance(metric, Metric) else (2 * best.energy).sqrt()
        if searched:
            rivals[descents.pair] = 0
            rivals[best.pair] = 1 + torch.bincount(beaten.pair, minlength=len(start))[best.pair]
            gap = torch.full_like(gap, torch.inf).scatter_reduce(0, beaten.pair, beaten.excess, "amin")
            gap[~((rivals > 1) & gap.isfinite())] = torch.nan
    return Geodesics(found, energies, lengths, steps, status, rivals, gap), durations, cut_lengths
