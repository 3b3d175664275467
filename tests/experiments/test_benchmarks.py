"""The benchmarks: exact scores, the published spline and energy, and every method above the best known energy."""

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probgeo as pg
from experiments.benchmarks import __main__ as benchmarks
from experiments.benchmarks import comparison, growth, held_out, methods, others, training
from experiments.benchmarks.growth import slope
from experiments.benchmarks.measures import decorrelated_energy, expected_energy, floor, timing
from experiments.benchmarks.problems import Problem, frozen, stored_ensemble
from experiments.benchmarks.published import adam_on_spline, sampled_energy
from experiments.benchmarks.splines import spline, spline_basis

EPS = torch.finfo(torch.float64).eps
BUDGET = comparison.Budget(
    segments=32,
    repeats=1,
    patience=0.0,
    bends=2,
    lbfgs_iterations=30,
    geomstats_pairs=0,
    published_pairs=2,
    published_steps=5,
    published_times=65,
)
TINY = [
    *("--members", "2", "--width", "8", "--epochs", "1", "--pairs", "3", "--segments", "16", "--repeats", "1"),
    *("--bends", "1", "--lbfgs-iterations", "5", "--geomstats-pairs", "0", "--published-steps", "2"),
    *("--published-times", "33", "--growth-pairs", "2", "4", "--growth-segments", "8", "16"),
    *("--growth-members", "1", "2", "--growth-latent", "2", "3"),
]


def problem_of(activation=nn.Tanh, num_members=3, num_pairs=4):
    """A random ensemble between random points."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        members = [pg.nn.mlp((2, 16, 5), activation) for _ in range(num_members)]
        for parameter in (p for member in members for p in member.parameters()):
            parameter.data.mul_(3)
        points = torch.randn(40, 2)
    return Problem(frozen(members), points[:num_pairs], points[num_pairs : 2 * num_pairs], points)


@pytest.fixture(scope="module")
def compared():
    return comparison.comparison(problem_of(), BUDGET)


@pytest.fixture
def without_other_libraries(monkeypatch):
    monkeypatch.setattr(others, "installed", lambda library: False)


# Scores


def test_expected_energy_of_straight_lines_under_linear_members_is_half_the_mean_squared_distance():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        members = [nn.Sequential(nn.Linear(2, 5)) for _ in range(3)]
        start, stop = torch.randn(2, 4, 2)
    problem = Problem(frozen(members), start, stop, start)
    images = torch.stack([(stop.double() - start.double()) @ member[0].weight.double().T for member in members])
    found = expected_energy(problem, methods.straight_line(problem), 16)
    torch.testing.assert_close(found, images.square().sum(2).mean(0) / 2, rtol=1e4 * EPS, atol=0)


def test_expected_energy_does_not_depend_on_the_parametrisation():
    problem = problem_of()
    t = torch.linspace(0, 1, 1025, dtype=torch.float64)[:, None]

    def curve(t):
        line = torch.lerp(problem.start.double()[:, None], problem.stop.double()[:, None], t)
        return line + 0.3 * torch.sin(torch.pi * t)

    first, second = (expected_energy(problem, curve(times), 64) for times in (t, t**2))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=0)


def test_expected_energy_is_that_of_the_library_on_a_geodesic():
    problem = problem_of()
    solver = pg.GaussNewton(num_segments=128, tolerance=1e-6)
    double = copy.deepcopy(problem.members).double()
    found = pg.geodesic(pg.ExpectedMetric(double), problem.start.double(), problem.stop.double(), solver=solver)
    torch.testing.assert_close(expected_energy(problem, found.path, 128), found.energy, rtol=1e-3, atol=0)


def test_energies_count_the_ends_of_the_pair_whatever_the_path_says():
    problem = problem_of()
    path = methods.straight_line(problem)
    elsewhere = path.clone()
    elsewhere[:, -1] = path[:, 0]
    for energy in (expected_energy, decorrelated_energy):
        assert torch.equal(energy(problem, path, 16), energy(problem, elsewhere, 16))


def test_decorrelated_energy_is_two_over_the_number_of_segments_times_that_of_the_library():
    problem = problem_of()
    path = torch.lerp(problem.start[:, None], problem.stop[:, None], torch.linspace(0, 1, 33)[:, None]).double()
    library = pg.energy(pg.DecorrelatedEnergy(copy.deepcopy(problem.members).double(), segments=32), path)
    torch.testing.assert_close(decorrelated_energy(problem, path, 32), 2 / 32 * library, rtol=1e5 * EPS, atol=0)


def test_decorrelated_energy_is_the_mean_of_the_sampled_one():
    problem = problem_of()
    path = torch.lerp(problem.start[:, None], problem.stop[:, None], torch.linspace(0, 1, 33)[:, None])
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([sampled_energy(problem.members(path), generator) for _ in range(500)])
    error = draws.mean(0) - decorrelated_energy(problem, path, 32)
    assert (error.abs() < 5 * draws.std(0) / len(draws) ** 0.5).all()


# The published curve and optimiser


def test_spline_basis_is_orthonormal_vanishes_at_the_ends_and_has_two_continuous_derivatives():
    basis = spline_basis(4)
    assert basis.shape == (16, 5)
    torch.testing.assert_close(basis.T @ basis, torch.eye(5, dtype=torch.float64), rtol=0, atol=100 * EPS)
    coefficients = basis.unflatten(0, (4, 4))
    s_start = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]], dtype=torch.float64)
    s_stop = torch.tensor([[1.0, 1, 1, 1], [0, 1, 2, 3], [0, 0, 2, 6]], dtype=torch.float64)
    torch.testing.assert_close(s_stop @ coefficients[:-1], s_start @ coefficients[1:], rtol=0, atol=100 * EPS)
    zero = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(coefficients[0, 0], zero, rtol=0, atol=100 * EPS)
    torch.testing.assert_close(coefficients[-1].sum(0), zero, rtol=0, atol=100 * EPS)


def test_spline_without_parameters_is_the_straight_line():
    start, stop = torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    basis = spline_basis(4)
    path = spline(start, stop, basis, torch.zeros(3, 5, 2, dtype=torch.float64), 9)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(path, torch.lerp(start[:, None], stop[:, None], t))


def test_published_optimiser_lowers_the_published_energy_and_leaves_the_random_state():
    problem = problem_of()
    state = torch.get_rng_state()
    path = adam_on_spline(problem, num_steps=100, num_times=65)()
    assert torch.equal(torch.get_rng_state(), state)
    straight = methods.straight_line(problem)
    assert decorrelated_energy(problem, path, 64).sum() < decorrelated_energy(problem, straight, 64).sum()


# The comparison


@pytest.mark.parametrize("objective", [comparison.EXPECTED, comparison.DECORRELATED])
def test_no_method_is_below_the_best_known_energy(compared, objective):
    dataset = compared[objective]
    ratio = (dataset.energy / dataset.best).values
    assert np.nanmin(ratio) >= 1 - 1e-12
    assert np.isfinite(ratio).sum(axis=1).tolist() == dataset.pairs.values.tolist()


def test_our_solver_is_near_the_best_known_energy_and_not_above_the_straight_line(compared):
    dataset = compared[comparison.EXPECTED]
    energy = dataset.energy.sum("pair")
    for name in ("probgeo, straight start", "probgeo, graph start", "probgeo, graph built and start"):
        assert energy.sel(solver=name) <= energy.sel(solver=comparison.STRAIGHT) * (1 + 1e-3)
    within = (dataset.energy.sel(solver="probgeo, graph start") / dataset.best <= 1.01).mean()
    assert within == 1


def test_timed_methods_have_times_and_solved_pairs_are_counted(compared):
    for dataset in compared.values():
        timed = dataset.floors.notnull().any("repeat")
        assert not timed.sel(solver=comparison.STRAIGHT)
        assert timed.sum() == dataset.sizes["solver"] - 1
    published = compared[comparison.DECORRELATED].sel(solver=comparison.PUBLISHED)
    assert published.pairs == BUDGET.published_pairs


def test_table_has_the_ratios_of_the_energies():
    energy = xr.DataArray([[1.0, 2.0], [1.1, 2.0], [3.0, np.nan]], dims=("solver", "pair"))
    floors = xr.DataArray([[2.0, 4.0, 3.0], [1.0, 1.0, np.nan], [9.0, np.nan, np.nan]], dims=("solver", "repeat"))
    pairs = xr.DataArray([2, 2, 1], dims="solver")
    dataset = xr.Dataset({"energy": energy, "floors": floors, "seconds": floors, "pairs": pairs})
    dataset = dataset.assign(best=("pair", [1.0, 2.0])).assign_coords(solver=["a", "b", "c"])
    frame = comparison.table(dataset)
    assert frame.index.tolist() == ["b", "a", "c"]
    assert frame["floors"].tolist() == [1, 3, 9]
    np.testing.assert_allclose(frame["energy/best"], [3.1 / 3, 1, 3])
    np.testing.assert_allclose(frame["within 1 %"], [0.5, 1, 0])


def test_bent_starts_keep_the_ends():
    problem = problem_of()
    for index in range(4):
        path = methods._bent(problem, 8, index)
        assert torch.equal(path[:, 0], problem.start) and torch.equal(path[:, -1], problem.stop)


def test_timing_runs_once_when_patience_is_short_and_as_told_when_it_is_long():
    problem = problem_of()
    unit = floor(problem, 8)
    counted = {patience: timing(lambda: problem.start, unit, 3, patience) for patience in (0.0, 1e9)}
    assert [len(found.seconds) for found in counted.values()] == [1, 3]
    assert all(len(found.floors) == len(found.seconds) for found in counted.values())


@pytest.mark.parametrize("exponent", [1.0, 2.5])
def test_slope_of_a_power_law_is_its_exponent(exponent):
    sizes = np.array([2.0, 8.0, 64.0])
    assert slope(sizes, 3 * sizes**exponent) == pytest.approx(exponent)


# Other libraries


def test_libraries_that_are_not_installed_are_left_out_and_said_so(without_other_libraries, capsys):
    budget = comparison.Budget(**{**vars(BUDGET), "geomstats_pairs": 1})
    names = comparison.expected_methods(budget)
    assert not any(name.startswith(("stochman", "geomstats")) for name in names)
    text = capsys.readouterr().out
    assert "stochman: left out, not installed" in text and "geomstats: left out, not installed" in text


@pytest.mark.skipif(not others.installed("stochman"), reason="stochman is not installed")
@pytest.mark.parametrize("solver", [others.stochman_spline, others.stochman_discrete])
def test_stochman_lowers_the_energy(solver):
    problem = problem_of()
    path = solver(problem)()
    assert expected_energy(problem, path, 64).sum() < expected_energy(problem, methods.straight_line(problem), 64).sum()


@pytest.mark.skipif(not others.installed("geomstats"), reason="geomstats is not installed")
def test_geomstats_lowers_the_energy_and_leaves_the_default_dtype():
    problem = problem_of(num_pairs=1)
    path = others.geomstats_straightening(problem, num_nodes=12)()
    assert torch.get_default_dtype() == torch.float32
    assert problem.members(problem.start).dtype == torch.float32
    assert expected_energy(problem, path, 64).sum() < expected_energy(problem, methods.straight_line(problem), 64).sum()


# Files and the command


def arrays_of(problem):
    members = [problem.members.member(index) for index in range(problem.members.num_members)]
    arrays = {
        f"decoder.{i}.decoder_net.{name}": value.numpy()
        for i, member in enumerate(members)
        for name, value in member.state_dict().items()
    }
    ends = {"a": problem.start.numpy(), "b": problem.stop.numpy(), "encodings": problem.encodings.numpy()}
    return {**arrays, **ends}


def test_stored_ensemble_is_read_from_the_data_folder(tmp_path, monkeypatch):
    problem = problem_of(nn.ReLU)
    basis, omega = spline_basis(4), torch.zeros(4, 5, 2)
    np.savez(tmp_path / "e.npz", **arrays_of(problem), basis=basis, euclidean_omega_optimized=omega)
    monkeypatch.setenv("PROBGEO_DATA", str(tmp_path))
    found = stored_ensemble(benchmarks.Path("e.npz"))
    assert torch.equal(found.members(found.start), problem.members(problem.start))
    assert torch.equal(found.stop, problem.stop) and torch.equal(found.encodings, problem.encodings)
    assert found.published is not None and found.first(2).published.shape == (2, 2000, 2)
    torch.testing.assert_close(found.published[:, -1], problem.stop.double())


def test_ensemble_file_that_is_missing_or_incomplete_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("PROBGEO_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"--ensemble: no file .*e\.npz \(PROBGEO_DATA is not set\)"):
        stored_ensemble(tmp_path / "e.npz")
    arrays = arrays_of(problem_of(nn.ReLU))
    np.savez(tmp_path / "e.npz", **{name: value for name, value in arrays.items() if name != "b"})
    with pytest.raises(ValueError, match=r"lacks the floating-point arrays b\."):
        stored_ensemble(tmp_path / "e.npz")
    np.savez(tmp_path / "e.npz", a=arrays["a"], b=arrays["b"], encodings=arrays["encodings"])
    with pytest.raises(ValueError, match=r"lacks the floating-point arrays decoder\.I\.decoder_net\.K\.weight\."):
        stored_ensemble(tmp_path / "e.npz")


def test_command_writes_tables_and_figures_and_draws_them_again_from_the_result(
    tmp_path, capsys, without_other_libraries
):
    benchmarks.main([*TINY, "--out", str(tmp_path / "run")])
    first = capsys.readouterr().out
    names = ("benchmarks.nc", "expected.csv", "decorrelated.csv", "energy_against_time.png", "growth.png")
    assert all((tmp_path / "run" / name).stat().st_size > 0 for name in names)
    benchmarks.main(["--result", str(tmp_path / "run" / "benchmarks.nc"), "--out", str(tmp_path / "again")])
    again = capsys.readouterr().out
    assert again.split("wrote")[0] in first
    assert (tmp_path / "again" / "growth.png").stat().st_size > 0


# --- decoders held out ---


@pytest.mark.slow
def test_held_out_decoders_are_kept_and_their_tables_are_printed_again_from_the_result(tmp_path, capsys):
    few = ("--decoders", "counts, rbf", "--decorrelated", "moons, ensemble", "--points", "3", "--segments", "16")
    less = ("--epochs", "1", "--published-times", "20", "--published-steps", "2")
    for _ in range(2):
        benchmarks.main(["held-out", "--quick", *few, *less, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("expected: counts, rbf") == 1 and printed.count("probgeo/published") == 2
    found = xr.load_dataset(tmp_path / "held_out.nc", group="expected", engine="h5netcdf")
    assert (found.best <= found.energy).all() and (found.best > 0).all()
    benchmarks.main(["held-out", "--result", str(tmp_path / "held_out.nc"), "--out", str(tmp_path)])
    assert capsys.readouterr().out.partition("wrote")[0] in printed


def test_the_bar_is_met_by_all_four_figures_or_not_at_all_and_only_reported_beyond_two_dimensions():
    names = ["digits, rbf", "circles, rbf", "counts, rbf", "digits, 3-D ensemble"]
    energy = xr.DataArray(np.ones((4, 100)), dims=("decoder", "pair"), coords={"decoder": names})
    energy[1, :2], energy[2, 0], energy[3] = 1.02, 1.04, 2.0
    floors = xr.DataArray([2.0, 2.0, 2.0, 2.0], dims="decoder")
    latent = xr.DataArray([2, 2, 2, 3], dims="decoder")
    values = {"energy": energy, "best": xr.ones_like(energy), "status": xr.zeros_like(energy, dtype=int)}
    values["latent"] = latent
    dataset = xr.Dataset(values | {"floors_of_graph": floors, "floors_of_solver": floors})
    assert held_out.table_of(dataset)["bar"].tolist() == ["met", "met", "not met", "–"]
    dataset["floors_of_solver"] = floors + 2
    assert held_out.table_of(dataset)["bar"].tolist() == ["not met", "not met", "not met", "–"]


def test_energy_of_a_polygon_does_not_depend_on_the_speed_along_it():
    metric, line = pg.PullbackMetric(lambda z: 2 * z), torch.linspace(0, 1, 33)[:, None]
    path = torch.stack([line * torch.tensor([3.0, 4.0]), line**2 * torch.tensor([3.0, 4.0])])
    torch.testing.assert_close(held_out.energy_of(metric, path), torch.full((2,), 50.0, dtype=torch.float64))


# --- maps that no fused kernel knows ---


@pytest.mark.slow
def test_the_benchmark_of_general_maps_prints_its_table_and_prints_it_again_from_the_result(tmp_path, capsys):
    few = ("--decoders", "proportions, 10-D", "--pairs", "2", "--segments", "8")
    benchmarks.main(["general-maps", "--quick", *few, "--out", str(tmp_path)])
    first = capsys.readouterr().out.splitlines()
    found = xr.load_dataset(tmp_path / "general_maps.nc", group="general_maps", engine="h5netcdf")
    assert 1 - 1e-6 < found.above < 1.01 and found.later > 0
    benchmarks.main(["general-maps", "--result", str(tmp_path / "general_maps.nc")])
    assert capsys.readouterr().out.splitlines() == first[:-1]


# --- planes whose geodesics are known ---


@pytest.mark.slow
def test_geodesics_of_sheared_planes_are_held_against_straight_lines_and_printed_again_from_the_result(
    tmp_path, capsys
):
    benchmarks.main(["planes", "--quick", "--planes", "rough, 2-D", "--out", str(tmp_path)])
    first = capsys.readouterr().out.splitlines()
    found = xr.load_dataset(tmp_path / "planes.nc", group="planes", engine="h5netcdf")
    assert (found.longer > 1 - 1e-4).all()
    benchmarks.main(["planes", "--result", str(tmp_path / "planes.nc")])
    assert capsys.readouterr().out.splitlines() == first[:-1]


# --- all pairs ---


@pytest.mark.slow
def test_all_pairs_are_solved_to_the_same_bits_by_any_number_of_processes(tmp_path, capsys):
    benchmarks.main(["all-pairs", "--quick", "--out", str(tmp_path)])
    first = capsys.readouterr().out.splitlines()
    found = xr.load_dataset(tmp_path / "all_pairs.nc", group="all_pairs", engine="h5netcdf")
    assert found.sizes == {"processes": 2, "pair": 28} and bool(found.equal)
    assert (found.busiest <= found.spent).all() and (found.spent > 0).all()
    benchmarks.main(["all-pairs", "--result", str(tmp_path / "all_pairs.nc")])
    assert capsys.readouterr().out.splitlines() == first[:-1]


@pytest.mark.parametrize(("option", "value"), [("--points", "2"), ("--tile", "0"), ("--processes", "0")])
def test_wrong_sizes_of_all_pairs_are_a_named_error(option, value, capsys):
    with pytest.raises(SystemExit):
        benchmarks.main(["all-pairs", option, value])
    assert f"{option[2:]}: expected" in capsys.readouterr().err


# --- training ---


@pytest.mark.slow
def test_the_training_benchmark_prints_its_table_and_prints_it_again_from_the_result(tmp_path, capsys):
    tiny = ("--features", "4", "--batch-sizes", "8", "--decoders", "2", "--retrainings", "2", "--repeats", "1")
    options = ("--steps", "2", "--stacks", "1", "--sources", "dropout", "--out", str(tmp_path))
    benchmarks.main(["training", *tiny, *options])
    first = capsys.readouterr().out.splitlines()
    assert all(method in first[1] for method in training.METHODS)
    benchmarks.main(["training", "--result", str(tmp_path / "training.nc")])
    assert capsys.readouterr().out.splitlines() == first[:-1]


def test_the_stack_by_hand_is_the_plain_models_objective():
    case = training.Case(5, 6, 2, 3, 1)
    stack, plain = training.HandStack(case), [training.PlainModel(case) for _ in range(3)]
    layers = [[model.encoder[i] for i in (0, 2, 4)] for model in plain]
    decoders = [[[decoder[i] for i in (0, 2, 4)] for decoder in model.decoders] for model in plain]
    with torch.no_grad():
        for index in range(3):
            for retraining in range(3):
                stack.encoder.weights[index][retraining] = layers[retraining][index].weight.T
                stack.encoder.biases[index][retraining] = layers[retraining][index].bias
                for member in range(2):
                    place = 2 * retraining + member
                    stack.decoders.weights[index][place] = decoders[retraining][member][index].weight.T
                    stack.decoders.biases[index][place] = decoders[retraining][member][index].bias
        noise = torch.randn(3, 6, 2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn_like", lambda mean: noise if mean.ndim == 3 else noise[patch.row])
            found = stack(case.x.expand(3, -1, -1))
            total = 0.0
            for patch.row, model in enumerate(plain):
                total = total + model(case.x)
    torch.testing.assert_close(found, total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", training.SOURCES)
def test_a_source_by_hand_moves_as_many_numbers_as_the_library_and_its_objective_is_finite(name):
    source, x = training.SOURCES[name], training.rows_of(name, 8, 5)
    by_hand = source.by_hand(3, 5, len(x))
    model = source.spec.build(5, seed=0)
    phase = model.phases[-1 if source.last_phase else 0]
    moved = sum(value.numel() for path, value in model.named_parameters() if phase.trains(path))
    assert 3 * moved == sum(value.numel() for value in by_hand.parameters() if value.requires_grad)
    assert by_hand(x.expand(3, -1, -1)).isfinite()


# --- growth of training ---


@pytest.mark.slow
def test_memory_of_training_on_a_file_does_not_grow_with_its_rows():
    config = growth.Config(batch_size=4096, epochs=2)
    small, large = (growth.cost(growth.Case(rows, 50, 1, 1), config) for rows in (100_000, 500_000))
    added = 400_000 * 50 * 4 / 2**20
    assert large.peak - large.before < small.peak - small.before + added / 3
    assert 0 < large.epoch < large.start
