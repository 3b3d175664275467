"""A model of a user's own, through everything that stands above the hinge."""

import pickle
from inspect import unwrap

import numpy as np
import pytest
import scipy.sparse
import torch
import xarray as xr
from torch import nn

import probgeo as pg
from probgeo.study import study as studies
from tests.study.test_study import Elsewhere


class Own(pg.LatentModel):
    """A plain encoder and a plain decoder, as somebody trained them."""

    def __init__(self, seed: int, latent: int = 2, num_features: int = 6) -> None:
        self.latent, self.num_features = latent, num_features
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(nn.Linear(num_features, 8), nn.Tanh(), nn.Linear(8, latent))
            self.decoder = nn.Sequential(nn.Linear(latent, 8), nn.Tanh(), nn.Linear(8, num_features))

    def encode(self, x: torch.Tensor) -> pg.Encoding:
        mean = self.encoder(x)
        return pg.Encoding(mean, torch.zeros_like(mean))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(z)


X = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
PAIRS = torch.tensor([[0, 1], [2, 30], [5, 5]])
MEASURES = {"geodesic": pg.Geodesic(solver=pg.GaussNewton(32)), "straight": pg.StraightLine(num_segments=16)}


def spec(decoder=None) -> pg.VAE:
    net = pg.nn.MLP((8,))
    return pg.VAE(2, decoder or pg.Decoder(net), encoder=net)


TRAINING = pg.Training(epochs=1, batch_size=25)


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    return pg.measure({"mine": [Own(0), Own(1), Own(2)], "two": [Own(3), Own(4)]}, X, PAIRS, MEASURES)


def test_a_users_model_is_measured_as_its_own_functions_say(dataset):
    model = Own(1)
    with torch.no_grad():
        start, stop = model.encoder(X[PAIRS]).unbind(1)
        share = torch.linspace(0, 1, 17)[:, None, None]
        line = model.decoder(start + share * (stop - start)).diff(dim=0).norm(dim=-1).sum(0)
        ends = (model.decoder(start) - model.decoder(stop)).norm(dim=-1)
    found = dataset.sel(model="mine", retraining=1)
    np.testing.assert_allclose(found.distance.sel(measure="straight"), line, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.distance.sel(measure="euclidean"), (start - stop).norm(dim=1), rtol=1e-5)
    np.testing.assert_allclose(found.euclidean_latent, (start - stop).norm(dim=1), rtol=1e-5)
    np.testing.assert_allclose(found.euclidean_reconstructed, ends, rtol=1e-4, atol=1e-7)
    assert (found.distance.sel(measure="geodesic") <= line.numpy() * (1 + 1e-3)).all()


def test_lists_of_unequal_lengths_leave_gaps_that_are_named(dataset):
    assert dataset.sizes["retraining"] == 3
    assert dataset.distance.sel(model="two", retraining=2).isnull().all()
    assert dataset.distance.sel(model="two", retraining=[0, 1]).notnull().all()
    assert dataset.lost.sel(model="two").values.tolist() == ["", "", "there is none"]


def test_the_same_training_under_two_names_is_recorded_as_one():
    shared, other = Own(0), Own(0)
    other.decoder = Own(9).decoder
    found = pg.measure({"a": [shared, Own(1)], "b": [Own(1), other]}, X, PAIRS, MEASURES).training
    assert found.values.tolist() == [["a/0", "a/1"], ["a/1", "a/0"]]


def test_an_executor_says_the_same(dataset):
    found = pg.measure(
        {"mine": [Own(0), Own(1), Own(2)], "two": [Own(3), Own(4)]}, X, PAIRS, MEASURES, executor=Elsewhere()
    )
    xr.testing.assert_identical(found.drop_vars("seconds"), dataset.drop_vars("seconds"))


def test_summary_and_figures_take_what_a_users_model_gives(dataset):
    assert "geodesic" in str(pg.identifiability.summary(dataset.distance.sel(model="mine")))
    codes = Own(0).encode(X).mean.detach()
    axes = pg.plots.latent(codes.numpy(), np.arange(50) % 3, ("a", "b", "c"))
    assert axes is not None


def test_the_footer_of_the_table_names_what_is_lost():
    lost = Own(1)
    nn.init.zeros_(lost.encoder[-1].weight)
    with pytest.warns(pg.study.RetrainingLost):
        found = pg.measure({"mine": [Own(0), lost, Own(2)], "two": [Own(3), Own(4)]}, X, PAIRS, MEASURES)
    table = pg.identifiability.summary(found.distance)
    assert "Lost, and left out: model mine, retraining 1 (all codes are equal)." in " ".join(str(table).split())
    assert table.retrainings.tolist() == [2] * 6


def test_what_a_users_model_lacks_is_refused_by_name():
    for measure, lack in {
        pg.Geodesic(pg.study.fisher_rao_metric): "fisher_rao_metric: Own says nothing of the distribution",
        pg.study.DrawnGeodesic(): "draws: Own has no draws of its decoder",
    }.items():
        with pytest.raises(TypeError, match=lack):
            pg.measure({"mine": [Own(0)]}, X, PAIRS, {"m": measure})
    with pytest.raises(TypeError, match="uncertainty: Own has no uncertainty"):
        Own(0).uncertainty(torch.zeros(1, 2))
    with pytest.raises(TypeError, match="given_values: Own has no conditions"):
        Own(0).given_values({})
    with pytest.raises(TypeError, match="view: Own has no views"):
        Own(0).view("left")
    with pytest.raises(TypeError, match="model: expected a model that `fit`"):
        unwrap(pg.save)(Own(0), "nowhere")
    # Measures that only other kinds of models have are missing, as for specs.
    absent = {"given": pg.study.Given({0: 1.0}), "view": pg.Geodesic(pg.study.ViewMetric("left"))}
    assert pg.measure({"mine": [Own(0)]}, X, PAIRS, absent).distance.sel(measure=["given", "view"]).isnull().all()


@pytest.mark.parametrize(
    ("models", "error", "complaint"),
    [
        ({}, ValueError, "models: expected at least one"),
        ({"a": []}, ValueError, "got 0 of 'a'"),
        ({"a": Own(0)}, TypeError, "expected a list of LatentModels, one per training; got Own for 'a'"),
        ({"a": [spec()]}, TypeError, "got VAE for 'a'"),
        ({"a": spec()}, TypeError, "got VAE for 'a'"),
    ],
)
def test_what_are_no_fitted_models_is_refused(models, error, complaint):
    with pytest.raises(error, match=complaint):
        unwrap(pg.measure)(models, X, PAIRS)  # as users call it, without the checks of types at run time


@pytest.mark.parametrize("value", [0.0, torch.nan])
@pytest.mark.parametrize("latent", [2, 3])
def test_collapsed_codes_cost_their_own_rows_alone(value, latent):
    lost = Own(1, latent)
    nn.init.constant_(lost.encoder[-1].weight, value)
    with pytest.warns(pg.study.RetrainingLost, match="model 'mine', retraining 1: (all codes are equal|codes are not)"):
        found = pg.measure({"mine": [Own(0, latent), lost]}, X, PAIRS, MEASURES)
    assert found.distance.sel(retraining=1).isnull().all() and found.distance.sel(retraining=0).notnull().all()
    assert found.lost.values[0, 0] == "" and found.lost.values[0, 1] != ""


# --- in a study ---


def test_a_study_of_models_trained_elsewhere_resumes_and_knows_other_weights(tmp_path, monkeypatch):
    done, measure = [], studies.measure_into
    monkeypatch.setattr(studies, "measure_into", lambda *job: (done.append(job), measure(*job)))
    options = {"data": X, "pairs": PAIRS, "measures": MEASURES}

    def run(models) -> xr.Dataset:
        return pg.Study(tmp_path, models=models, **options).run(progress=False)

    first = run({"mine": [Own(0), Own(1)]})
    assert len(done) == 2
    xr.testing.assert_identical(run({"mine": [Own(0), Own(1)]}), first)
    assert len(done) == 2
    more = run({"mine": [Own(0), Own(1), Own(2)]})
    assert len(done) == 3
    xr.testing.assert_identical(more.distance.isel(retraining=[0, 1]), first.distance)
    expected = pg.measure({"mine": [Own(0), Own(1), Own(2)]}, X, PAIRS, MEASURES)
    xr.testing.assert_allclose(more.distance, expected.distance)


def test_specs_and_models_trained_elsewhere_stand_in_one_study(tmp_path):
    models = {"spec": spec(), "mine": [Own(0), Own(1), Own(2)]}
    study = pg.Study(tmp_path, X, PAIRS, models, seeds=[4, 7], training=TRAINING, measures=MEASURES)
    found = study.run(progress=False)
    assert found.distance.sel(model="mine").notnull().all()
    assert found.distance.sel(model="spec", retraining=[0, 1]).notnull().all()
    assert found.seed.values.tolist() == [4, 7, -1]
    assert found.training_seconds.sel(model="mine").isnull().all()
    with pytest.raises(TypeError, match="the models 'mine' were trained elsewhere"):
        study.fitted("mine", 0)


def test_models_that_differ_in_what_is_fitted_after_training_share_trainings(tmp_path):
    net = pg.nn.MLP((8,))
    models = {
        "single": spec(),
        "rbf": spec(pg.RBFDecoder(net, num_centres=4)),
        "other": spec(pg.EnsembleDecoder(2, net)),
    }
    study = pg.Study(tmp_path, X, PAIRS, models, seeds=[0, 1], training=TRAINING, measures=MEASURES)
    found = study.run(progress=False).training
    assert (found.sel(model="rbf") == found.sel(model="single")).all()
    assert (found.sel(model="other") != found.sel(model="single")).all()


def test_equal_specs_under_two_names_are_trained_once(tmp_path, monkeypatch):
    done, train = [], studies.train_into
    monkeypatch.setattr(studies, "train_into", lambda *job: (done.append(job[2]), train(*job)))
    models = {"a": spec(), "b": spec()}
    pg.Study(tmp_path, X, PAIRS, models, seeds=[0, 1], training=TRAINING, measures=MEASURES).run(progress=False)
    assert done == [[0, 1]]


class Weighing(Elsewhere):
    """Weighs what is sent to it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def submit(self, task, /, *args, **options):
        self.sizes.append(len(pickle.dumps((task, args))))
        return super().submit(task, *args, **options)


def test_a_task_carries_no_data(tmp_path):
    x = torch.rand(3000, 784, generator=torch.Generator().manual_seed(0))  # 9 MB
    executor = Weighing()
    triples, regions = torch.tensor([[0, 1, 2]]), {"all": torch.arange(3000)}
    study = pg.Study(
        tmp_path, x, PAIRS, {"m": spec()}, seeds=[0], measures={"straight": pg.StraightLine(num_segments=4)},
        training=pg.Training(epochs=1, batch_size=1000), points=x[:3000], triples=triples, regions=regions,
    )  # fmt: skip
    study.run(executor, progress=False)
    assert len(executor.sizes) == 3 and max(executor.sizes) < 10_000


def test_a_task_carries_no_sparse_counts_either(tmp_path):
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.rand(300, 2000, generator=generator) / 4, generator=generator)
    found, executor = [], Weighing()
    for name, x, run_by in (("here", counts, None), ("sent", scipy.sparse.csr_array(counts.numpy()), executor)):
        study = pg.Study(
            tmp_path / name, x, PAIRS, {"m": spec()}, seeds=[0], measures={"straight": pg.StraightLine(num_segments=4)},
            training=pg.Training(epochs=1, batch_size=100),
        )  # fmt: skip
        found.append(study.run(run_by, progress=False).distance)
    assert max(executor.sizes) < 10_000
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_measuring_sends_data_to_no_task(dataset, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    x, points = torch.rand(3000, 784), torch.rand(500, 784)  # 9 MB, 1.6 MB
    models, executor = {"mine": [Own(0, num_features=784), Own(1, num_features=784)]}, Weighing()
    here = pg.measure(models, x, PAIRS, {"straight": MEASURES["straight"]}, points=points)
    sent = pg.measure(models, x, PAIRS, {"straight": MEASURES["straight"]}, points=points, executor=executor)
    assert len(executor.sizes) == 3 and max(executor.sizes) < 20_000  # of models of 51 kB
    xr.testing.assert_identical(sent.drop_vars("seconds"), here.drop_vars("seconds"))
    assert not list(tmp_path.iterdir())


def test_workers_that_do_not_see_the_data_are_told_of_before_anything_is_measured(tmp_path, monkeypatch):
    class Apart(Elsewhere):
        def submit(self, task, /, *args, **options):
            tasks.append(task.__name__)
            with monkeypatch.context() as patch:
                patch.setattr("pathlib.Path.read_text", other_disk)
                return super().submit(task, *args, **options)

    def other_disk(path):
        raise FileNotFoundError(path)

    tasks: list[str] = []
    with pytest.raises(OSError, match=r"of 1 workers 1 do not see .*probgeo-.*\. Set TMPDIR to a folder on a disk"):
        pg.measure({"mine": [Own(0)]}, X, PAIRS, MEASURES, executor=Apart())
    assert tasks == ["look"]
