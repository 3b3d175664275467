"""The experiment that trains one model: its folder is the model, its table the bound, its loggers optional."""

import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import probgeo as pg
from experiments import train
from experiments.common.options import parsed

TINY = ["--epochs", "2", "--hidden", "8", "--per-class", "30"]


def run(folder, *arguments: str) -> None:
    train.main([*TINY, "--out", str(folder), *arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished tiny run, with everything that can be scheduled."""
    path = tmp_path_factory.mktemp("train") / "model"
    run(path, "--optimizer", "adamw", "--schedule", "cosine", "--warmup", "1", "--beta-warmup", "2", "--normalise")
    return path


def test_the_folder_is_the_model(folder):
    model = pg.load(folder)
    assert isinstance(model.spec.decoder, pg.Decoder)
    assert (model.spec.encoder.hidden, model.spec.beta) == ((8,), pg.Warmup(2))
    table = pd.read_csv(folder / "train-table.csv", index_col=0)
    assert list(table.index) == ["training", "held out"]
    data, held_out = pg.datasets.digits().subset(per_class=30).split(0.9)
    data = data.normalised()
    held_out = held_out.normalised(data.normalisation)
    # In grey values, though the model was trained on normalised ones.
    error = data.original(held_out.x) - data.original(model.reconstruct(held_out.x))
    np.testing.assert_allclose(table.squared_error["held out"], error.square().mean().item(), rtol=1e-5)
    np.testing.assert_allclose(table.elbo, table.log_likelihood - table.kl, rtol=1e-5)
    with torch.no_grad():
        mean, std = model.encode(held_out.x)
    kl = ((mean**2 + std**2 - 1) / 2 - std.log()).sum(1).mean()
    np.testing.assert_allclose(table.kl["held out"], kl.item(), rtol=1e-5)
    for name in ("train-curves.png", "train-images.png"):
        assert (folder / name).stat().st_size > 0


def test_run_again_it_trains_nothing_and_prints_the_same(folder, monkeypatch, capsys):
    options = ("--optimizer", "adamw", "--schedule", "cosine", "--warmup", "1", "--beta-warmup", "2", "--normalise")
    outputs = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("probgeo.training.fit.train", None)
            run(folder, *options)
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "elbo" in outputs[0] and f"probgeo.load({str(folder)!r})" in outputs[0]


def test_another_configuration_in_the_folder_is_refused(folder):
    with pytest.raises(SystemExit, match="holds a retraining of another"):
        run(folder, "--epochs", "3")


def test_a_result_is_reported_without_computing(folder, tmp_path, capsys):
    train.main(["--result", str(folder / "train.nc"), "--out", str(tmp_path)])
    assert "held-out rows" in capsys.readouterr().out
    first, again = (pd.read_csv(path / "train-table.csv") for path in (folder, tmp_path))
    pd.testing.assert_frame_equal(first, again)
    assert not (tmp_path / "training").exists()


def test_options_become_specs():
    def config(*arguments: str) -> train.Config:
        return parsed(train.Config, train.QUICK, train.PRESETS, arguments)

    spec = train.spec_of(config("--decoder", "ensemble", "--members", "3", "--beta", "0.5"), (64,))
    assert spec == pg.VAE(2, pg.EnsembleDecoder(3), pg.Gaussian(), beta=0.5)
    spec = train.spec_of(config("--preset", "cifar10"), (32, 32, 3))
    assert spec.encoder == pg.nn.ResizeConvolutional((32, 32, 3), (32, 64, 128))
    training = train.training_of(config("--schedule", "piecewise", "--optimizer", "sgd", "--epochs", "40"))
    assert training.schedule == pg.schedules.Piecewise((20, 30), (0.1, 0.01))
    assert training.optimizer is torch.optim.SGD
    assert train.training_of(config("--warmup", "3")).schedule == pg.schedules.LinearWarmup(3)
    assert train.training_of(config("--schedule", "piecewise", "--epochs", "1")).schedule.epochs == (1, 2)
    assert config("--quick").epochs == 20 and config("--quick", "--epochs", "4").epochs == 4
    with pytest.raises(ValueError, match="network: convolutional networks are for images"):
        train.spec_of(config("--network", "convolutional"), (64,))
    with pytest.raises(ValueError, match="dropout and dense-net do not go together; network: expected MLP"):
        train.spec_of(config("--decoder", "dropout", "--network", "dense-net"), (64,))


def test_a_folder_of_coloured_images_trains_a_convolutional_model(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBGEO_DATA", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for index in range(20):
        path = tmp_path / "images" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)).save(path)
    options = ("--dataset", str(tmp_path / "images"), "--per-class", "10", "--size", "8", "--network", "convolutional")
    run(tmp_path / "out", *options, "--hidden", "4", "--likelihood", "continuous-bernoulli", "--batch-size", "8")
    model = pg.load(tmp_path / "out")
    assert model.num_features == 192
    assert (tmp_path / "out" / "train-images.png").exists()


@pytest.mark.parametrize("decoder", ["rbf", "ensemble", "dropout", "mean-field", "laplace", "exact", "gp"])
def test_every_source_of_uncertainty_is_scored(tmp_path, decoder):
    run(tmp_path, "--dataset", "blobs", "--decoder", decoder, "--members", "3", "--epochs", "1")
    table = pd.read_csv(tmp_path / "train-table.csv", index_col=0)
    assert np.isfinite(table.to_numpy()).all() and (table.kl > 0).all()


# --- loggers ---


class Writer:
    """Stands in for TensorBoard's writer and for a run of Weights & Biases."""

    def __init__(self, *args, **options) -> None:
        self.values, self.closed = [], False

    def add_scalar(self, name: str, value: float, epoch: int) -> None:
        self.values.append((name, value, epoch))

    def log(self, terms: dict[str, float], step: int) -> None:
        self.values += [(name, value, step) for name, value in terms.items()]

    def close(self) -> None:
        self.closed = True

    finish = close


@pytest.mark.parametrize("log", ["tensorboard", "wandb"])
def test_every_epoch_is_logged_and_the_log_is_closed(tmp_path, monkeypatch, log):
    writer = Writer()
    module = ModuleType(log)
    module.SummaryWriter = module.init = lambda *args, **options: writer
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}[log], module)
    run(tmp_path, "--log", log, "--dataset", "two_moons")
    history = pg.load(tmp_path).history
    logged = [(value, epoch) for name, value, epoch in writer.values if name == "validation_loss"]
    assert [epoch for _, epoch in logged] == [0, 1]
    np.testing.assert_allclose([value for value, _ in logged], history.validation_loss, rtol=1e-6)
    assert writer.closed


@pytest.mark.parametrize("log", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_is_named_before_anything_is_trained(tmp_path, monkeypatch, log):
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}[log], None)
    with pytest.raises(SystemExit, match=f"error: log: {log} is not installed; pip install {log}, or leave --log out"):
        run(tmp_path / "out", "--log", log)
    assert not (tmp_path / "out").exists()


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = capsys.readouterr().out
    for name in train.Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
