"""Distances between many points: all pairs by geodesics, or tens of thousands by graphs of measured error."""

import hashlib
import io
import json
import os
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from probgeo.disk import path_of, seal, unsealed, whole_file
from probgeo.geometry.descents import REVISION
from probgeo.geometry.geodesics import GaussNewton, Geodesics, Start, Status, check_solver, geodesic
from probgeo.geometry.graph import Graph
from probgeo.geometry.metrics import Energy, Metric
from probgeo.geometry.metrics.metric import check_energy
from probgeo.geometry.paths import Straight
from probgeo.geometry.points import Points, latent_points
from probgeo.geometry.routes import Search
from probgeo.jobs import all_of, carried_out, check_executor
from probgeo.specs import check_whole, digest

CHECKED_TOGETHER = 10  # geodesics of a sample, between two moves of the progress bar


def distance_matrix(
    metric: Energy,
    points: Points,
    *,
    init: Start | None = None,
    solver: GaussNewton | None = None,
    folder: str | os.PathLike | None = None,
    num_pairs: int = 2048,
    executor: Executor | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """Geodesic distances d(z_i, z_j) of all pairs of points, solved in tiles of pairs.

    Args:
        metric: a metric or another energy.
        points: latent points, (point, latent).
        init: callable (start, stop) -> paths; by default `Graph(metric, points)`. Better one over all encodings of a
            model than over few points.
        solver: by default `GaussNewton(num_segments=256)`.
        folder: where finished tiles are kept, so that a killed run resumes; None keeps nothing.
        num_pairs: pairs solved together in a tile, which bounds the memory.
        executor: any `concurrent.futures.Executor`; a tile is then a task, which maps the arrays of metric, points and
            graph, where there are many, from a folder that Python's `tempfile` chooses (`TMPDIR`), and the distances
            are equal bit for bit at as many threads. Its workers need not see `folder`. None solves them here.
        progress: show a progress bar with the remaining time.

    Returns:
        Distances with dims (start, stop), symmetric, zero on the diagonal, NaN where the energy is not finite; the
        coordinate `status` (start, stop) holds each pair's `Status`.

    Raises:
        ValueError: `points` is no matrix, `num_pairs` is below one, or the folder holds distances of other points,
            of another metric, of another solver or from another `init`; or a file in it is damaged.
        TypeError: a metric that cannot be sent to other processes.
        RuntimeError: the workers that solved a tile died each time.
        OSError: the disk is full, or may not be written to; workers do not see what they are to map.

    Example:
        >>> import torch, probgeo as pg
        >>> corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
        >>> distance = pg.distance_matrix(pg.PullbackMetric(lambda z: z), corners)
        >>> distance.dims
        ('start', 'stop')
        >>> distance.values.round(3)
        array([[0., 3., 5.],
               [3., 0., 4.],
               [5., 4., 0.]])
    """
    check_energy(metric)
    check_executor(executor)
    points = latent_points("points", points, "point latent")
    check_whole("num_pairs", num_pairs)
    num_pairs = int(num_pairs)
    if num_pairs < 1:
        raise ValueError(f"num_pairs: expected at least 1; got {num_pairs}.")
    check_solver(solver)
    solver = GaussNewton() if solver is None else solver
    # In the order of the coordinates all pairs of a tile have few distinct starts, which a graph pays for.
    order = np.lexsort(points.double().cpu().numpy().T[::-1])
    pairs = torch.from_numpy(order[np.stack(np.triu_indices(len(points), 1), axis=1)])
    store = None if folder is None else _Tiles(path_of("folder", folder), metric, points, solver, num_pairs, init)
    tiles = [tile.clone() for tile in pairs.split(num_pairs) if len(tile)]
    found: dict[int, np.ndarray] = {}
    for tile, rows in enumerate(tiles):
        if store is not None and (values := store.read(tile, len(rows))) is not None:
            found[tile] = values
    missing = [tile for tile in range(len(tiles)) if tile not in found]

    def keep(job: int, values: np.ndarray) -> None:
        found[missing[job]] = values
        if store is not None:
            store.write(missing[job], values)

    if init is None and missing:
        init = Graph(metric, points)
    jobs = [(metric, points, tiles[tile].int(), init, solver) for tile in missing]
    all_of(carried_out(solved_tile, jobs, executor, "distances", progress, keep), "tiles of pairs")
    matrix = np.zeros((len(points),) * 2)
    status = np.full(matrix.shape, int(Status.CONVERGED))
    for tile, rows in enumerate(tiles):
        first, second = rows.numpy().T
        for whole, part in zip((matrix, status), found[tile], strict=True):
            whole[first, second] = whole[second, first] = part
    return xr.DataArray(
        matrix,
        dims=("start", "stop"),
        coords={"status": (("start", "stop"), status)},
        name="distance",
        attrs={"metric": type(metric).__name__, **_settings(solver)},
    )


def solved_tile(
    metric: Energy,
    points: Tensor,
    pairs: Int[Tensor, "pair 2"],
    init: Start,
    solver: GaussNewton,
) -> np.ndarray:
    """Distances and status of some pairs, (2, pair)."""
    start, stop = points[pairs.T.long().to(points.device)]
    found: Geodesics = geodesic(metric, start, stop, init=init, solver=solver)
    return torch.stack([found.length.double(), found.status.double()]).cpu().numpy()


class _Tiles:
    """Finished tiles in a folder, each a file that appears whole or not at all, and says what it was computed from."""

    def __init__(
        self, folder: Path, metric: Energy, points: Tensor, solver: GaussNewton, num_pairs: int, init: Start | None
    ) -> None:
        self._folder = folder
        self._of: dict[str, Any] = {
            "points": hashlib.sha256(points.cpu().numpy().tobytes()).hexdigest(),
            "metric": type(metric).__name__,
            "energies": _fingerprint(metric, points),
            "num_pairs": num_pairs,
            "init": None if init is None else _paths_of(metric, points, init),
            "search": REVISION,
            **_settings(solver),
        }
        path = folder / "config.json"
        if not path.exists():
            with whole_file(path) as unfinished:
                unfinished.write_text(json.dumps({**self._of, "digest": digest(self._of)}, indent=2))
        try:
            there = dict(json.loads(path.read_text()))
            if there.pop("digest", None) not in (None, digest(there)):
                raise ValueError("it is not what was written")
        except (ValueError, TypeError, RecursionError, IsADirectoryError) as error:
            raise ValueError(
                f"folder: {path} is damaged ({str(error)[:200]}). Delete this file alone: every tile says of itself "
                "what it was computed from."
            ) from error
        self._check(there)

    def _check(self, there: dict[str, Any]) -> None:
        """Refuse what was computed from something else."""
        changed = [name for name, value in self._of.items() if not _alike(there.get(name), value)]
        if changed:
            raise ValueError(
                f"folder: {self._folder} holds distances of another "
                f"{' and '.join(sorted({'metric' if name == 'energies' else name for name in changed}))}; "
                "choose another folder."
            )

    def _path(self, tile: int) -> Path:
        return self._folder / f"tile-{tile:06d}.npy"

    def read(self, tile: int, num_pairs: int) -> np.ndarray | None:
        """Distances and status of a tile; None if it is not there."""
        path, remedy = self._path(tile), "Delete it to solve its pairs again; the other tiles stay."
        if not path.exists():
            return None
        content, there = unsealed(path, remedy)
        if there is not None:
            self._check(there)
            if there.get("tile", tile) != tile:
                raise ValueError(f"folder: {path} is the file of tile {there['tile']}, renamed. {remedy}")
        try:
            stream = io.BytesIO(content)
            values = np.load(stream, allow_pickle=False)
            if values.shape != (2, num_pairs) or stream.read():
                raise ValueError(f"it holds other than values of shape {(2, num_pairs)}")
        except Exception as error:  # of any kind, as a damaged header is evaluated
            raise ValueError(f"folder: {path} is damaged ({' '.join(str(error).split())}). {remedy}") from error
        return values

    def write(self, tile: int, values: np.ndarray) -> None:
        """Keep a tile."""
        with whole_file(self._path(tile)) as unfinished:
            with unfinished.open("wb") as file:
                np.save(file, values, allow_pickle=False)
            seal(unfinished, {**self._of, "tile": tile})


def _alike(first: Any, second: Any) -> bool:
    """Whether two descriptions are of the same; numbers in lists are computed, and equal to rounding."""
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        values, others = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
        scale = np.abs(others[np.isfinite(others)]).max(initial=0)
        return np.allclose(values, others, rtol=1e-4, atol=1e-6 * scale, equal_nan=True)
    return first == second


def _settings(solver: GaussNewton) -> dict[str, float | int | str]:
    """The solver's options that decide the result."""
    options = {name: value for name, value in vars(solver).items() if name not in ("memory", "system")}
    return options if solver.system is None else {**options, "system": solver.system.__name__}


def _fingerprint(metric: Energy, points: Tensor) -> list[float]:
    """Energies of a few straight lines between the points: what tells one metric from another."""
    some = points[: min(9, len(points))]
    with torch.no_grad():
        return metric.measure(Straight(4)(some[:-1], some[1:])).energy.tolist() if len(some) > 1 else []


def _paths_of(metric: Energy, points: Tensor, init: Start | Search) -> list[float]:
    """Where the initial paths of some pairs begin to lead, and their energies: what tells one `init` from another."""
    if len(points) < 2:
        return []
    last = np.linspace(1, len(points) - 1, min(8, len(points) - 1)).round().astype(int)
    start, stop = points[(last - 1) // 2], points[last]
    with torch.no_grad():
        path = init.starts(start, stop).path if isinstance(init, Search) else init(start, stop)
        described = [path.new_tensor(path.shape), metric.measure(path).energy, path[:, path.shape[1] // 3].flatten()]
        return torch.cat(described).double().tolist()


def graph_distances(
    metric: Metric,
    points: Points,
    sources: Points,
    *,
    graph: Graph | None = None,
    num_checked: int = 100,
    solver: GaussNewton | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """Distances from each source to every point along a graph's edges, with their error against geodesics on a sample.

    Made for tens of thousands of points, where solving each pair is too much: one search of the graph per source. The
    sample's geodesics may take longer than all searches: fewer of them say less of the error, and are sooner done.

    Args:
        metric: a metric.
        points: latent points, (point, latent).
        sources: latent points, (source, latent); for all pairs, the points themselves.
        graph: by default `Graph(metric, points, num_nodes=40_000)`.
        num_checked: pairs, evenly drawn, for which the geodesic is solved from the graph's path.
        solver: for these; by default `GaussNewton(num_segments=256)`.
        executor: any `concurrent.futures.Executor`; 64 sources are then a task, which maps the graph from a folder that
            Python's `tempfile` chooses (`TMPDIR`), and the distances are equal bit for bit. None searches here.
        progress: show progress bars with the remaining time: of the graph's edges, of its searches, of the geodesics.

    Returns:
        Distances with dims (source, point); in attrs the sample's `median_relative_error`, `median_ratio` and
        `quantile_95_relative_error` of graph distance against geodesic length, and `num_checked`.

    Raises:
        ValueError: `points` or `sources` is no matrix, or their latent dimensions differ.
        RuntimeError: the workers that searched from some sources died each time.
        OSError: workers do not see the folder of the graph.

    Example:
        >>> import torch, probgeo as pg
        >>> points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
        >>> distance = pg.graph_distances(pg.PullbackMetric(lambda z: z), points, points[:3], num_checked=20)
        >>> dict(distance.sizes)
        {'source': 3, 'point': 200}
        >>> distance.attrs["median_relative_error"] < 0.05  # the edges' detours, against straight lines
        True
    """
    check_energy(metric)
    check_executor(executor)
    check_solver(solver)
    check_whole("num_checked", num_checked)
    if num_checked < 0:
        raise ValueError(f"num_checked: expected at least 0; got {num_checked}.")
    points, sources = latent_points("points", points), latent_points("sources", sources)
    for name, given in (("points", points), ("sources", sources)):
        if given.ndim != 2 or 0 in given.shape:
            raise ValueError(f"{name}: expected ({name[:-1]}, latent), not empty; got {tuple(given.shape)}.")
    if points.shape[1] != sources.shape[1]:
        raise ValueError(
            f"sources: expected the latent dimensions of points, {points.shape[1]}; got {sources.shape[1]}."
        )
    graph = Graph(metric, points, num_nodes=40_000, progress=progress) if graph is None else graph
    matrix = graph.distances(sources, points, executor=executor, progress=progress)
    array = xr.DataArray(matrix, dims=("source", "point"), name="distance")
    # Evenly spread over the matrix by the golden ratio: no random state is drawn on.
    entry = np.unique((np.arange(num_checked) * 0.6180339887498949 % 1 * matrix.size).astype(np.int64))
    row, column = np.unravel_index(entry, matrix.shape)
    start, stop = sources[row], points[column].to(sources)
    blocks = tqdm(torch.arange(len(row)).split(CHECKED_TOGETHER), "geodesics to check", disable=not progress)
    solved = [geodesic(metric, start[some], stop[some], init=graph, solver=solver).length for some in blocks]
    exact = torch.cat([*solved, sources.new_zeros(0)]).double()
    valid = (exact > 0).cpu().numpy()
    ratio = matrix[row, column][valid] / exact.cpu().numpy()[valid]
    error = np.abs(ratio - 1)
    array.attrs = {
        "metric": type(metric).__name__,
        "num_checked": len(ratio),
        "median_relative_error": float(np.median(error)) if len(ratio) else np.nan,
        "quantile_95_relative_error": float(np.quantile(error, 0.95)) if len(ratio) else np.nan,
        "median_ratio": float(np.median(ratio)) if len(ratio) else np.nan,
    }
    return array
