"""Studies: labelled distances that resume, extend, and do not depend on who computes them."""

import json
import multiprocessing
import pickle
import shutil
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
import xarray as xr

from probgeo.geometry import descents
from probgeo.geometry.geodesics import GaussNewton, Status, length
from probgeo.geometry.metrics import PullbackMetric
from probgeo.geometry.paths import Straight
from probgeo.likelihoods import Bernoulli
from probgeo.models.decoders.ensemble import EnsembleDecoder
from probgeo.models.decoders.single import Decoder
from probgeo.models.vae import VAE
from probgeo.nn import MLP
from probgeo.study import (
    DrawnGeodesic,
    Geodesic,
    RetrainingLost,
    StraightLine,
    Study,
    decorrelated_energy,
    fisher_rao_metric,
)
from probgeo.study import study as studies
from probgeo.training import stacks
from probgeo.training.fit import Training, fit

NET = MLP((8,))
MODELS = {
    "single": VAE(3, Decoder(NET), encoder=NET),
    "ensemble": VAE(3, EnsembleDecoder(2, NET), encoder=NET),
}
SOLVER = GaussNewton(num_segments=32)
MEASURES = {
    "geodesic": Geodesic(solver=SOLVER),
    "straight": StraightLine(num_segments=16),
    "decorrelated": Geodesic(decorrelated_energy, SOLVER, needs_draws=True),
}
TRAINING = Training(epochs=2, batch_size=16, learning_rate=1e-2)
PAIRS = torch.tensor([[0, 1], [2, 30], [5, 5]])


def data() -> torch.Tensor:
    return torch.rand(60, 8, generator=torch.Generator().manual_seed(0))


def study(folder, **changes) -> Study:
    options = {"data": data(), "pairs": PAIRS, "models": MODELS, "seeds": (0, 1), "measures": MEASURES}
    return Study(folder, **{"training": TRAINING, **options, **changes})


def run(folder, **changes) -> xr.Dataset:
    return study(folder, **changes).run(progress=False)


def timeless(dataset: xr.Dataset) -> xr.Dataset:
    """Without the times that it took."""
    return dataset.drop_vars(["seconds", "training_seconds"])


def work_done(monkeypatch) -> list[tuple]:
    """What is trained and measured from now on."""
    done = []
    start, measure = stacks.Stack.__init__, studies.measure_into

    def training(self, spec, train, held_out, seeds, *rest):
        done.append(("train", *seeds))
        start(self, spec, train, held_out, seeds, *rest)

    def measuring(model, *rest):
        done.append(("measure", model.name))
        measure(model, *rest)

    monkeypatch.setattr(stacks.Stack, "__init__", training)
    monkeypatch.setattr(studies, "measure_into", measuring)
    return done


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted study: its folder (to be copied, not changed) and its dataset."""
    folder = tmp_path_factory.mktemp("study") / "whole"
    return folder, run(folder)


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of the uninterrupted study's folder."""
    return shutil.copytree(whole[0], tmp_path / "copied")


# --- what the dataset says ---


def test_dims_coordinates_and_configuration(whole):
    dataset = whole[1]
    assert dataset.distance.dims == dataset.status.dims == ("model", "measure", "retraining", "pair")
    assert dataset.distance.shape == (2, 4, 2, 3)
    assert dataset.model.values.tolist() == ["single", "ensemble"]
    assert dataset.measure.values.tolist() == ["geodesic", "straight", "decorrelated", "euclidean"]
    assert dataset.seed.values.tolist() == [0, 1]
    assert dataset.num_members.values.tolist() == [1, 2]
    assert np.array_equal(np.stack([dataset.start, dataset.stop], axis=1), PAIRS)
    assert dataset.euclidean_latent.dims == dataset.euclidean_reconstructed.dims == ("model", "retraining", "pair")
    assert dataset.euclidean_ambient.dims == ("pair",)
    assert json.loads(dataset.attrs["models"])["ensemble"]["decoder"]["members"] == 2
    assert json.loads(dataset.attrs["training"])["epochs"] == 2
    assert set(json.loads(dataset.attrs["measures"])) == {*MEASURES, "euclidean"}
    assert {"probgeo", "data"} <= set(dataset.attrs)


def test_distances_are_those_of_the_fitted_models(whole):
    dataset, x = whole[1], data()
    start, stop = x[PAIRS].unbind(1)
    np.testing.assert_allclose(dataset.euclidean_ambient, (start - stop).norm(dim=1), rtol=1e-6)
    for name, spec in MODELS.items():
        (model,) = fit(spec, x, (1,), training=TRAINING, progress=False)
        found = dataset.sel(model=name).isel(retraining=1)
        with torch.no_grad():
            first, second = model.encode(start).mean, model.encode(stop).mean
            line = length(model.metric(), Straight(16)(first, second))
            difference = model.reconstruct(start) - model.reconstruct(stop)
        # Trained alone here, together there: equal up to rounding.
        np.testing.assert_allclose(found.euclidean_latent, (first - second).norm(dim=1), rtol=1e-4)
        np.testing.assert_allclose(found.distance.sel(measure="euclidean"), found.euclidean_latent)
        np.testing.assert_allclose(found.distance.sel(measure="straight"), line, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.euclidean_reconstructed, difference.norm(dim=1), rtol=1e-4, atol=1e-7)


def test_no_geodesic_is_longer_than_the_straight_line(whole):
    distance = whole[1].distance
    assert (distance.sel(measure="geodesic") <= distance.sel(measure="straight") * (1 + 1e-3)).all()


def test_equal_ends_have_distance_zero(whole):
    metrics = whole[1].sel(measure=["geodesic", "straight", "euclidean"])
    assert (metrics.distance.isel(pair=2) == 0).all()
    assert (metrics.euclidean_reconstructed.isel(pair=2) == 0).all()
    assert (metrics.distance.isel(pair=[0, 1]) > 0).all()
    assert (whole[1].status.sel(measure="geodesic") == Status.CONVERGED).all()


def test_draw_lengths_are_those_of_the_geodesic_under_each_member_and_on_average_no_longer_than_it(tmp_path):
    models = {"ensemble": MODELS["ensemble"], "three": VAE(3, EnsembleDecoder(3, NET), encoder=NET)}
    measures = {"geodesic": DrawnGeodesic(SOLVER), "straight": StraightLine(num_segments=16)}
    drawn = study(tmp_path, models=models, measures=measures)
    dataset = drawn.run(progress=False)
    lengths = dataset.draw_length.sel(measure="geodesic")
    assert lengths.dims == ("model", "retraining", "draw", "pair")
    assert dataset.draw_length.sel(measure=["straight", "euclidean"]).isnull().all()
    assert lengths.sel(model="ensemble").count("draw").max() == 2  # the shorter one is filled up
    found = lengths.sel(model="three", retraining=1)
    model = drawn.fitted("three", 1).requires_grad_(False)
    start, stop = model.encode(data()[PAIRS].flatten(0, 1)).mean.reshape(3, 2, 3).unbind(1)
    path = measures["geodesic"].paths(model, start, stop, model.encode(data()).mean).path
    members = [model.draws().member(index) for index in range(3)]
    expected = torch.stack([length(PullbackMetric(member), path) for member in members])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # Jensen: Σ √(mean of squares) is at least the mean of Σ √squares.
    assert (lengths.mean("draw") <= dataset.distance.sel(measure="geodesic") * (1 + 1e-5)).all()
    again = run(tmp_path, models=models, measures=measures)
    xr.testing.assert_identical(again, dataset)


def test_a_measure_of_ensembles_is_missing_for_a_single_decoder(whole):
    decorrelated = whole[1].sel(measure="decorrelated")
    for variable in ("distance", "energy", "status"):
        assert decorrelated[variable].sel(model="single").isnull().all()
        assert decorrelated[variable].sel(model="ensemble").isel(pair=[0, 1]).notnull().all()


def test_file_table_and_csv_hold_the_same_numbers(whole, tmp_path):
    folder, dataset = whole
    with xr.open_dataset(folder / "study.nc", engine="h5netcdf") as stored:
        xr.testing.assert_identical(stored.load().distance.astype(float), dataset.distance.astype(float))
        assert stored.attrs == dataset.attrs
    table = dataset.to_dataframe()
    assert len(table) == 2 * 4 * 2 * 3
    row = table.loc[("ensemble", "geodesic", 1, 1)]
    assert row["distance"] == dataset.distance.sel(model="ensemble", measure="geodesic", retraining=1, pair=1)
    assert (row["start"], row["stop"], row["seed"], row["num_members"]) == (2, 30, 1, 2)
    table.to_csv(tmp_path / "study.csv")
    assert len((tmp_path / "study.csv").read_text().splitlines()) == len(table) + 1


def test_times_taken_are_stored_with_what_took_them(whole):
    dataset = whole[1]
    assert dataset.seconds.dims == ("model", "measure", "retraining")
    assert dataset.training_seconds.dims == ("model", "retraining")
    assert (dataset.training_seconds > 0).all()
    taken = dataset.seconds.notnull()
    assert (dataset.seconds.where(taken, 1) > 0).all()
    assert (taken == dataset.energy.notnull().any("pair")).all()  # none for measures that do not apply


# --- resuming and extending ---


def test_a_study_run_again_computes_nothing_and_says_the_same(whole, copied, monkeypatch):
    done = work_done(monkeypatch)
    xr.testing.assert_identical(run(copied), whole[1])
    assert not done


def test_what_another_search_measured_is_measured_again_and_nothing_trained(whole, copied, monkeypatch):
    done = work_done(monkeypatch)
    monkeypatch.setattr(descents, "REVISION", descents.REVISION + 1)
    found = run(copied)
    assert [kind for kind, *_ in done] == ["measure"] * 4
    xr.testing.assert_identical(found.distance, whole[1].distance)


@pytest.mark.parametrize("num_measured", [0, 1, 3])
def test_a_resumed_study_equals_an_uninterrupted_one(whole, tmp_path, monkeypatch, num_measured):
    measure, calls = studies.measure_into, []

    def dying(*job):
        if len(calls) == num_measured:
            raise KeyboardInterrupt
        calls.append(job)
        measure(*job)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(studies, "measure_into", dying)
        run(tmp_path)
    done = work_done(monkeypatch)
    xr.testing.assert_identical(timeless(run(tmp_path)), timeless(whole[1]))
    assert len(done) == 4 - num_measured


def test_lost_distances_are_measured_again_and_others_are_not(whole, copied, monkeypatch):
    files = sorted((copied / "distances").glob("*.nc"))
    files[0].unlink()
    times = {file: file.stat().st_mtime_ns for file in files[1:]}
    done = work_done(monkeypatch)
    xr.testing.assert_identical(timeless(run(copied)), timeless(whole[1]))
    assert [kind for kind, *_ in done] == ["measure"]
    assert sum(file.stat().st_mtime_ns != time for file, time in times.items()) <= 1  # the Euclidean distances, cheap


def test_more_retrainings_compute_only_what_is_new(whole, copied, monkeypatch):
    done = work_done(monkeypatch)
    extended = run(copied, seeds=range(3))
    assert done == [("train", 2), ("train", 2), ("measure", "seed-2"), ("measure", "seed-2")]
    known = extended.isel(retraining=slice(2)).assign_attrs(key=whole[1].attrs["key"])  # another is asked for
    xr.testing.assert_identical(known, whole[1])
    assert extended.distance.sel(measure="geodesic").isel(retraining=2).notnull().all()


def test_other_pairs_and_other_measures_reuse_the_trainings(whole, copied, monkeypatch):
    done = work_done(monkeypatch)
    other = run(copied, pairs=torch.tensor([[7, 8], [0, 1]]), measures={"straight": MEASURES["straight"]})
    assert [kind for kind, *_ in done] == ["measure"] * 4
    np.testing.assert_allclose(
        other.distance.sel(measure="straight").isel(pair=1), whole[1].distance.sel(measure="straight").isel(pair=0),
        rtol=1e-5,
    )  # fmt: skip


def test_another_model_joins_a_study(whole, copied, monkeypatch):
    done = work_done(monkeypatch)
    spec = VAE(3, Decoder(NET), Bernoulli(), encoder=NET)
    joined = run(copied, models={**MODELS, "bernoulli": spec})
    assert done == [("train", 0, 1), ("measure", "seed-0"), ("measure", "seed-1")]
    xr.testing.assert_identical(joined.distance.isel(model=slice(2)), whole[1].distance)


def test_points_outside_the_training_data_have_their_own_codes(copied):
    points = torch.rand(5, 8, generator=torch.Generator().manual_seed(1))
    pairs = torch.tensor([[0, 4]])
    dataset = run(copied, points=points, pairs=pairs)
    model = study(copied).fitted("single", 0)
    codes = model.encode(points).mean
    np.testing.assert_allclose(
        dataset.euclidean_latent.sel(model="single")[0], (codes[:1] - codes[4:]).norm(dim=1).detach(), rtol=1e-5
    )


def test_one_model_one_seed_and_one_measure_make_a_study(tmp_path):
    dataset = run(tmp_path, models={"only": MODELS["single"]}, seeds=[4], measures={"straight": StraightLine()})
    assert dataset.distance.shape == (1, 2, 1, 3)
    assert dataset.seed.values.tolist() == [4]
    assert dataset.distance.notnull().all()


def test_fisher_rao_lengths_are_a_measure_too(tmp_path):
    spec = VAE(3, EnsembleDecoder(2, NET), Bernoulli(), encoder=NET)
    options = {"models": {"m": spec}, "seeds": [0], "measures": {"fisher": StraightLine(fisher_rao_metric, 16)}}
    found = run(tmp_path, **options).distance.sel(measure="fisher")
    model = study(tmp_path, **options).fitted("m", 0)
    start, stop = model.encode(data()[PAIRS].flatten(0, 1)).mean.unflatten(0, (-1, 2)).detach().unbind(1)
    squares = [
        length(PullbackMetric(lambda z, m=member: 2 * m(z).sigmoid().sqrt().asin()), Straight(1)(start, stop)) ** 2
        for member in (model.decoder.members.member(index) for index in range(2))
    ]
    with torch.no_grad():
        lower = (sum(squares) / 2).sqrt()  # the chord is no longer than any path
    assert (torch.from_numpy(found.values[0, 0]) >= lower * (1 - 1e-4)).all()


# --- executors ---


def test_threads_give_the_same_study(whole, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        dataset = study(tmp_path).run(pool, progress=False)
    xr.testing.assert_allclose(timeless(dataset), timeless(whole[1]), rtol=1e-3)
    assert dataset.attrs == whole[1].attrs


class Elsewhere(Executor):
    """Runs a job at once, but on copies that went through pickle, as in another process."""

    def submit(self, task, /, *args, **options):
        future = Future()
        try:
            function, values = pickle.loads(pickle.dumps((task, args)))
            future.set_result(pickle.loads(pickle.dumps(function(*values, **options))))
        except Exception as error:
            future.set_exception(pickle.loads(pickle.dumps(error)))
        return future


def test_workers_that_share_nothing_but_the_folder_give_the_same_study(whole, tmp_path):
    dataset = study(tmp_path).run(Elsewhere(), progress=False)
    xr.testing.assert_allclose(timeless(dataset), timeless(whole[1]), rtol=1e-3)


@pytest.mark.slow
def test_another_process_gives_the_same_study(whole, tmp_path):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        dataset = study(tmp_path).run(pool, progress=False)
    xr.testing.assert_allclose(timeless(dataset), timeless(whole[1]), rtol=1e-3)


@pytest.mark.slow
def test_two_runs_in_one_folder_at_once_both_end_with_the_same_study(whole, tmp_path):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        first, second = (job.result() for job in [pool.submit(run, tmp_path) for _ in range(2)])
    xr.testing.assert_identical(timeless(first), timeless(second))
    xr.testing.assert_allclose(timeless(first), timeless(whole[1]), rtol=1e-3)


def test_progress_is_shown_only_when_asked(copied, tmp_path, capsys):
    study(copied).run()
    assert capsys.readouterr().err == ""  # nothing to do
    run(tmp_path / "quiet", models={"only": MODELS["single"]}, measures={"straight": StraightLine()})
    assert capsys.readouterr().err == ""
    study(tmp_path / "loud", models={"only": MODELS["single"]}, measures={"straight": StraightLine()}).run()
    text = capsys.readouterr().err
    assert "training: 100%" in text
    assert "measuring distances: 100%" in text


# --- failures ---


def spoilt(monkeypatch, seed: int = 1) -> None:
    """From now on, the training of that seed diverges at epoch 1."""
    usual = stacks.random_noise

    def noise(seeds, steps, shapes, *purpose):
        found = usual(seeds, steps, shapes, *purpose)
        if purpose == ("noise", 0, 1) and seed in seeds:
            found["z"][list(seeds).index(seed)] = torch.nan
        return found

    monkeypatch.setattr(stacks, "random_noise", noise)


@pytest.mark.parametrize("pool", [None, Elsewhere], ids=["here", "elsewhere"])
def test_a_diverged_retraining_costs_its_own_rows_alone(tmp_path, monkeypatch, pool):
    spoilt(monkeypatch)
    measures = {"straight": MEASURES["straight"]}
    for _ in range(2):  # asked again, the answer is the same
        with pytest.warns(RetrainingLost, match="retraining 1: training diverged, seed 1 at epoch 1"):
            dataset = study(tmp_path, measures=measures).run(pool and pool(), progress=False)
        assert dataset.distance.sel(retraining=1).isnull().all()
        assert dataset.distance.sel(retraining=0).notnull().all()
        assert (dataset.lost.sel(retraining=0) == "").all()
        assert dataset.lost.sel(retraining=1).str.contains("diverged").all()
    kept = run(tmp_path, measures=measures, seeds=[0])
    assert kept.distance.notnull().all()


@pytest.mark.parametrize("pair", [[0, 60], [-1, 3]])
def test_a_pair_index_out_of_range_is_refused(tmp_path, pair):
    with pytest.raises(ValueError, match=rf"row indices from 0 to 59; pair 1 is \[{pair[0]}, {pair[1]}\] \(1 such"):
        study(tmp_path, pairs=torch.tensor([[0, 1], pair]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"models": {}}, "models: expected at least one; got none"),
        ({"measures": {}}, "measures: expected at least one; got none"),
        ({"measures": {"euclidean": StraightLine()}}, "'euclidean' is the distance of the codes"),
        ({"seeds": ()}, "seeds: expected at least one"),
        ({"seeds": (1, 1)}, "none repeated"),
        ({"pairs": torch.zeros(3, dtype=torch.long)}, r"pairs: expected integers of shape \(pair, 2\)"),
        ({"pairs": torch.zeros(3, 3, dtype=torch.long)}, r"got torch.int64, \(3, 3\)"),
        ({"pairs": torch.zeros(3, 2)}, r"got torch.float32, \(3, 2\)"),
        ({"pairs": torch.zeros(0, 2, dtype=torch.long)}, r"got torch.int64, \(0, 2\)"),
        ({"data": torch.full((60, 8), torch.nan)}, "x: expected finite values"),
        ({"points": torch.full((60, 8), torch.inf)}, "x: expected finite values"),
        ({"points": torch.zeros(60, 7)}, "points: expected the 8 features of data"),
    ],
)
def test_what_cannot_be_studied_is_refused(tmp_path, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        study(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data": data() / 2}, "a study of other data"),
        ({"training": Training(epochs=3)}, "a study of other training"),
        ({"models": {"single": MODELS["ensemble"]}}, "a study of other model 'single'"),
    ],
)
def test_a_folder_of_another_configuration_is_refused(copied, changes, complaint):
    with pytest.raises(FileExistsError, match=f"{complaint}. Choose another folder"):
        study(copied, **changes)


def test_a_damaged_training_is_reported_with_its_file(copied):
    (weights, *_) = sorted((copied / "trainings").glob("*/seed-0/weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    for file in (copied / "distances").glob("*.nc"):
        file.unlink()
    with pytest.raises(ValueError, match="missing, truncated or corrupt"):
        run(copied)
