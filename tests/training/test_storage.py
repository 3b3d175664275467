"""Fitted models on disk: what comes back is what went in, and nothing damaged comes back unnoticed."""

import json

import h5py
import pytest
import torch

from probgeo import disk
from probgeo.likelihoods import Bernoulli
from probgeo.models.decoders.ensemble import EnsembleDecoder
from probgeo.models.decoders.rbf import RBFDecoder
from probgeo.models.decoders.single import Decoder
from probgeo.models.vae import VAE, FittedVAE
from probgeo.nn import MLP
from probgeo.specs import digest
from probgeo.training import storage
from probgeo.training.fit import Training, fit

NET = MLP((8,))
SPECS = {
    "single": VAE(2, Decoder(NET), Bernoulli(), encoder=NET),
    "ensemble": VAE(2, EnsembleDecoder(3, NET), encoder=NET, beta=(0.5, 2.0)),
    "rbf": VAE(2, RBFDecoder(NET, num_centres=4), encoder=NET),
}


def data() -> torch.Tensor:
    return torch.rand(30, 6, generator=torch.Generator().manual_seed(0))


def trained(spec=SPECS["single"], x=None) -> FittedVAE:
    return fit(spec, data() if x is None else x, training=Training(epochs=1), progress=False)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_loaded_model_is_the_saved_one(tmp_path, spec, dtype):
    x, before = data().to(dtype), torch.get_rng_state()
    model = trained(spec, x)
    storage.save(model, tmp_path / "a" / "model", {"note": "first"})
    loaded = storage.load(tmp_path / "a" / "model")
    assert loaded.spec == spec
    assert loaded.history.identical(model.history)
    assert not loaded.training
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
    z = loaded.encode(x).mean
    assert torch.equal(loaded.uncertainty(z), model.uncertainty(z))
    assert torch.equal(loaded.metric().tensor(z), model.metric().tensor(z))
    assert torch.equal(torch.get_rng_state(), before)
    config = storage.read_config(tmp_path / "a" / "model")
    assert config["extra"] == {"note": "first"}
    assert {"probgeo", "digest", "model", "num_features"} <= set(config)


def test_a_model_without_history_is_saved_too(tmp_path):
    model = SPECS["single"].build(6, seed=3)
    storage.save(model, tmp_path / "model")
    loaded = storage.load(tmp_path / "model")
    assert loaded.history is None
    assert torch.equal(loaded.encode(data()).mean, model.encode(data()).mean)


def test_saving_again_replaces_the_model_and_leaves_nothing_else(tmp_path):
    for seed in (0, 1):
        model = SPECS["single"].build(6, seed=seed)
        storage.save(model, tmp_path / "model")
    assert torch.equal(storage.load(tmp_path / "model").encoder[0].weight, model.encoder[0].weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kept", [0, 4, 300, -1])
def test_truncated_weights_are_reported(tmp_path, kept):
    storage.save(SPECS["single"].build(6, seed=0), tmp_path / "model")
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"weights.safetensors is missing, truncated or corrupt .* Delete"):
        storage.load(tmp_path / "model")


def test_missing_weights_are_reported(tmp_path):
    storage.save(SPECS["single"].build(6, seed=0), tmp_path / "model")
    (tmp_path / "model" / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match="missing, truncated or corrupt"):
        storage.load(tmp_path / "model")


def test_weights_of_another_model_are_reported(tmp_path):
    for name in ("single", "ensemble"):
        storage.save(SPECS[name].build(6, seed=0), tmp_path / name)
    weights = tmp_path / "ensemble" / "weights.safetensors"
    weights.write_bytes((tmp_path / "single" / "weights.safetensors").read_bytes())
    with pytest.raises(ValueError, match="it belongs to another training, and was renamed or copied here"):
        storage.load(tmp_path / "ensemble")
    storage.write_tensors(weights, storage.read_tensors(weights))  # as older versions did, which did not say whose
    with pytest.raises(ValueError, match=r"the weights in .* do not fit its config.json"):
        storage.load(tmp_path / "ensemble")


@pytest.mark.parametrize(
    ("key", "value"), [("num_features", 7), ("model", {"spec": "os.system"}), ("extra", {"seed": 3})]
)
def test_an_edited_configuration_is_reported(tmp_path, key, value):
    storage.save(SPECS["single"].build(6, seed=0), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match="does not match its own hash: it was edited"):
        storage.load(tmp_path / "model")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 1}'])
def test_a_damaged_configuration_is_reported(tmp_path, text):
    storage.save(SPECS["single"].build(6, seed=0), tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is not a configuration"):
        storage.load(tmp_path / "model")


def test_a_folder_without_a_model_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a saved model"):
        storage.load(tmp_path)


def test_tensors_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "tensors.safetensors"
    matrix = torch.arange(6.0).reshape(2, 3)
    storage.write_tensors(path, {"matrix": matrix, "transposed": matrix.T, "again": matrix, "empty": torch.zeros(0)})
    found = storage.read_tensors(path)
    assert torch.equal(found["transposed"], matrix.T)
    assert torch.equal(found["again"], matrix)

    def dying(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(disk.os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        storage.write_tensors(path, {"matrix": torch.zeros(1)})
    assert torch.equal(storage.read_tensors(path)["matrix"], matrix)


def written(folder, config) -> None:
    """A configuration that is what its hash says, and weights that are said to be its, whatever else is wrong."""
    weights = folder / "weights.safetensors"
    storage.write_tensors(weights, storage.read_tensors(weights), digest(config))
    (folder / "config.json").write_text(json.dumps({"probgeo": "0.2.0", "digest": digest(config), **config}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model": {"latent": 2_000_000_000}}, "of far more numbers than its weights"),
        ({"model": {"encoder": {"spec": "probgeo.nn.MLP", "hidden": [1] * 10_000}}}, "of far more numbers than"),
        ({"num_features": 10**13}, "of far more numbers than its weights"),
        ({"num_features": "many"}, "num_features is 'many'"),
    ],
)
def test_a_configuration_of_far_more_than_its_weights_is_refused_before_it_is_built(tmp_path, change, complaint):
    storage.save(SPECS["single"].build(6, seed=0), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    content = {name: config[name] for name in ("model", "num_features", "extra")}
    model = {**content["model"], **change.pop("model", {})}
    written(tmp_path, {**content, **change, "model": model})
    with pytest.raises(ValueError, match=complaint):
        storage.load(tmp_path)


def test_deep_and_huge_configurations_are_refused(tmp_path):
    storage.save(SPECS["single"].build(6, seed=0), tmp_path)
    for text in ("[" * 100_000 + "]" * 100_000, '{"model": ' + "[" * 900 + "]" * 900 + "}", " " * (2**24 + 1)):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config.json is not a configuration .*Delete the folder"):
            storage.load(tmp_path)


def test_a_history_that_leads_to_another_file_is_not_read(tmp_path):
    storage.save(trained(), tmp_path / "model")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(8))
    with h5py.File(tmp_path / "model" / "history.nc", "w") as file:
        file.create_dataset("loss", (1,), "f8", external=[(str(secret), 0, 8)])
    with pytest.raises(ValueError, match="leads to another file, by its 'loss', so that it is not read"):
        storage.load(tmp_path / "model")
