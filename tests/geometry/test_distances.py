"""Distance matrices: closed forms, metric axioms, resuming; graph distances and their reported error."""

import json
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from torch import Tensor

from probgeo.geometry import distances
from probgeo.geometry.distances import distance_matrix, graph_distances
from probgeo.geometry.geodesics import GaussNewton, Status, geodesic
from probgeo.geometry.graph import Graph
from probgeo.geometry.metrics import DecorrelatedEnergy, ExpectedMetric, PullbackMetric
from probgeo.geometry.paths import Straight
from probgeo.jobs import TaskLost
from probgeo.nn import mlp
from tests.damage import damages
from tests.manifolds import globe
from tests.study.test_measure import Weighing
from tests.study.test_study import Elsewhere

SOLVER = GaussNewton(32)


def points(count: int = 9) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2


def ensemble() -> ExpectedMetric:
    torch.manual_seed(0)
    return ExpectedMetric([mlp([2, 16, 12]).double() for _ in range(3)])


def test_matrix_holds_the_distances_on_the_sphere():
    z = points()
    found = distance_matrix(PullbackMetric(globe), z)
    exact = 2 * (torch.cdist(globe(z), globe(z)) / 2).asin()
    assert found.dims == ("start", "stop")
    assert (found.status == Status.CONVERGED).all()
    assert np.allclose(found, exact, rtol=1e-3, atol=1e-12)


def test_matrix_is_a_metric_up_to_the_solver():
    found = distance_matrix(ensemble(), points(), solver=SOLVER).to_numpy()
    assert np.array_equal(found, found.T)
    assert (np.diag(found) == 0).all()
    through = found[:, :, None] + found[None, :, :]
    assert (found[:, None, :] <= through * (1 + 5e-3)).all()


@pytest.mark.parametrize("num_pairs", [1, 7, 1000])
def test_matrix_does_not_depend_on_the_tiles(num_pairs):
    metric, z = ensemble(), points()
    graph = Graph(metric, points(100))
    expected = distance_matrix(metric, z, init=graph, solver=SOLVER)
    found = distance_matrix(metric, z, init=graph, solver=SOLVER, num_pairs=num_pairs)
    assert np.allclose(found, expected, rtol=1e-9)
    assert found[2, 5] == pytest.approx(geodesic(metric, z[2:3], z[5:6], init=graph, solver=SOLVER).length.item())


def test_killed_run_resumes_where_it_was(tmp_path, monkeypatch):
    metric, z = ensemble(), points()
    whole = distance_matrix(metric, z, solver=SOLVER, num_pairs=10)
    calls = []

    def counted(*args, **options):
        calls.append(len(args[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return geodesic(*args, **options)

    monkeypatch.setattr(distances, "geodesic", counted)
    with pytest.raises(KeyboardInterrupt):
        distance_matrix(metric, z, solver=SOLVER, num_pairs=10, folder=tmp_path)
    found = distance_matrix(metric, z, solver=SOLVER, num_pairs=10, folder=tmp_path)
    assert calls == [10, 10, 10, 10, 6]
    assert found.equals(whole)
    assert distance_matrix(metric, z, solver=SOLVER, num_pairs=10, folder=tmp_path).equals(whole)
    assert len(calls) == 5


def test_folder_of_another_computation_is_a_named_error(tmp_path):
    metric, z = ensemble(), points(4)
    distance_matrix(metric, z, solver=SOLVER, folder=tmp_path)
    others = {
        "points": (metric, z + 1, SOLVER),
        "metric": (PullbackMetric(mlp([2, 5, 12]).double()), z, SOLVER),
        "num_segments": (metric, z, GaussNewton(16)),
    }
    for name, (other, there, solver) in others.items():
        with pytest.raises(ValueError, match=f"folder: .*{name}"):
            distance_matrix(other, there, solver=solver, folder=tmp_path)


def around(start: Tensor, stop: Tensor) -> Tensor:
    path = Straight(8)(start, stop)
    return path + torch.tensor([0.0, 0.5]) * (torch.linspace(0, torch.pi, 9).sin()[:, None])


def test_tiles_from_another_init_are_not_taken(tmp_path):
    metric, z = ensemble(), points(5)
    inits = {"graph": Graph(metric, points(60)), "around": around, "line": Straight(8), "finer": Straight(16)}
    found = {
        name: distance_matrix(metric, z, init=init, solver=SOLVER, num_pairs=4, folder=tmp_path / name)
        for name, init in inits.items()
    }
    for name, init in inits.items():
        again = distance_matrix(metric, z, init=init, solver=SOLVER, num_pairs=4, folder=tmp_path / name)
        assert again.equals(found[name])
        for other in {None, *inits.values()} - {init}:
            with pytest.raises(ValueError, match=r"folder: .* holds distances of another init"):
                distance_matrix(metric, z, init=other, solver=SOLVER, num_pairs=4, folder=tmp_path / name)


def test_tiles_of_another_search_are_not_taken(tmp_path):
    metric, z = ensemble(), points(4)
    distance_matrix(metric, z, solver=SOLVER, folder=tmp_path)
    config = tmp_path / "config.json"
    noted = json.loads(config.read_text())
    config.write_text(json.dumps({name: value for name, value in noted.items() if name not in ("search", "digest")}))
    with pytest.raises(ValueError, match=r"folder: .* holds distances of another search"):  # as it was noted before
        distance_matrix(metric, z, solver=SOLVER, folder=tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tile-000001.npy"])
def test_a_damaged_matrix_says_what_to_delete_and_loses_nothing_else(tmp_path, name):
    metric, z = ensemble(), points(5)

    def matrix():
        return distance_matrix(metric, z, solver=SOLVER, num_pairs=4, folder=tmp_path)

    whole, file = matrix(), tmp_path / name
    for damage in damages():
        kept = file.read_bytes()
        file.write_bytes(damage(kept))
        with pytest.raises(ValueError, match=rf"folder: .*{name} is damaged .*Delete (it|this file alone)"):
            matrix()
        file.unlink()
        times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert matrix().equals(whole)
        assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path != file}


def test_point_without_a_value_fails_alone():
    def holed(z: Tensor) -> Tensor:
        return torch.where(z[..., :1] > 3, torch.nan, z)

    z = points(5)
    z[2, 0] = 4.0
    found = distance_matrix(PullbackMetric(holed), z, init=Straight(), solver=SOLVER)
    others = [0, 1, 3, 4]
    assert (found.status[2, others] == Status.NONFINITE).all()
    assert found[2, others].isnull().all()
    assert np.allclose(found[others, others], torch.cdist(z[others], z[others]), rtol=1e-9)


def test_matrix_of_few_points():
    for count in (0, 1):
        assert distance_matrix(ensemble(), points(count)).shape == (count, count)


def test_matrix_of_an_energy_that_is_no_metric():
    torch.manual_seed(0)
    found = distance_matrix(DecorrelatedEnergy([mlp([2, 8, 9]).double() for _ in range(3)]), points(4), solver=SOLVER)
    assert (found.to_numpy()[~np.eye(4, dtype=bool)] > 0).all()
    assert (np.diag(found) == 0).all()


def test_graph_distances_report_their_error():
    z = points(300)
    found = graph_distances(PullbackMetric(globe), z, z[:20], num_checked=200)
    exact = (2 * (torch.cdist(globe(z[:20]), globe(z)) / 2).asin()).numpy()
    assert found.dims == ("source", "point")
    error = np.abs(found.to_numpy() / np.where(exact > 0, exact, 1) - 1)[exact > 0]
    assert np.median(error) <= 0.03
    assert found.attrs["median_relative_error"] == pytest.approx(np.median(error), rel=0.3)
    assert (np.diag(found[:, :20]) <= 1e-12).all()


def test_graph_distances_do_not_depend_on_the_other_sources():
    z = points(300)
    metric = PullbackMetric(globe)
    graph = Graph(metric, z)
    whole = graph_distances(metric, z, z[:70], graph=graph)
    assert np.allclose(graph_distances(metric, z, z[66:67], graph=graph)[0], whole[66], rtol=1e-12)


def test_every_part_of_graph_distances_shows_its_progress(capsys):
    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = graph_distances(PullbackMetric(mlp([3, 8, 9]).double()), z, z[:5], num_checked=12, progress=True)
    shown = capsys.readouterr().err
    assert all(part in shown for part in ("lines", "graph", "geodesics to check")) and found.shape == (5, 40)


def test_an_executor_solves_and_searches_to_the_same_bits(tmp_path):
    torch.manual_seed(0)
    metric, z = ExpectedMetric([mlp([2, 16, 900]).double() for _ in range(2)]), points(100)  # 245 kB
    here, tasks = distance_matrix(metric, z[:9], solver=SOLVER, num_pairs=10), Weighing()
    there = distance_matrix(metric, z[:9], solver=SOLVER, num_pairs=10, executor=tasks, folder=tmp_path)
    assert there.identical(here) and len(tasks.sizes) == 4 and max(tasks.sizes) < 30_000
    assert distance_matrix(metric, z[:9], solver=SOLVER, num_pairs=10, executor=None, folder=tmp_path).identical(here)
    graph, searches = Graph(metric, z, num_nodes=10_000), Weighing()  # three MB
    here = graph_distances(metric, z, z[:70], graph=graph, num_checked=1)
    assert graph_distances(metric, z, z[:70], graph=graph, num_checked=1, executor=searches).identical(here)
    assert len(searches.sizes) == 2 and max(searches.sizes) < 20_000


def test_a_tile_in_anothers_place_is_no_other_number(tmp_path):
    distance_matrix(ensemble(), points(), solver=SOLVER, num_pairs=10, folder=tmp_path)
    (tmp_path / "tile-000001.npy").replace(tmp_path / "tile-000000.npy")
    with pytest.raises(ValueError, match=r"tile-000000.npy is the file of tile 1, renamed\. Delete it to solve"):
        distance_matrix(ensemble(), points(), solver=SOLVER, num_pairs=10, folder=tmp_path)


def test_workers_that_do_not_see_the_graph_are_told_of(tmp_path, monkeypatch):
    class Apart(Elsewhere):
        def submit(self, task, /, *args, **options):
            for file in tmp_path.glob("probgeo-*/*"):
                file.unlink()
            return super().submit(task, *args, **options)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    graph = Graph(ensemble(), points(), num_nodes=400)
    with pytest.raises(OSError, match=r"executor: a worker does not see .*probgeo-.*\. Set TMPDIR to a folder"):
        graph.distances(points(), points(), executor=Apart())
    assert not list(tmp_path.iterdir())


def test_a_tile_whose_workers_died_is_named_and_the_others_are_kept(tmp_path):
    class Deadly(Elsewhere):
        def submit(self, task, /, *args, **options):
            future = Future()
            future.set_exception(TaskLost(3))
            return future if 0 in args[3] else super().submit(task, *args, **options)

    metric, z = ensemble(), points()
    with pytest.raises(RuntimeError, match=r"executor: tiles of pairs .* could not be computed: the 3 workers"):
        distance_matrix(metric, z, solver=SOLVER, num_pairs=2, executor=Deadly(), folder=tmp_path)
    assert 0 < len(list(tmp_path.glob("tile-*"))) < 18


def test_wrong_argument_is_a_named_error():
    with pytest.raises(ValueError, match="points: expected"):
        distance_matrix(ensemble(), points()[0])
    with pytest.raises(ValueError, match="num_pairs: expected at least 1"):
        distance_matrix(ensemble(), points(), num_pairs=0)
    with pytest.raises(ValueError, match="sources: expected the latent dimensions of points"):
        graph_distances(ensemble(), points(), points()[:, :1])
    with pytest.raises(ValueError, match="num_nodes: expected at least 4"):
        Graph(ensemble(), points(), num_nodes=3)
