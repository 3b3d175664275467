"""Plain PyTorch models are audited from a command line, and a stored result is reported without training."""

import pytest
import torch

import probgeo as pg
from experiments import own_models
from experiments.common.results import load_result


@pytest.mark.slow
def test_a_tiny_audit_has_every_measure_and_reports_again_without_training(tmp_path, monkeypatch, capsys):
    options = ["--retrainings", "2", "--pairs", "4", "--epochs", "1", "--segments", "16", "--out", str(tmp_path)]
    state = torch.get_rng_state()
    own_models.main(options)
    assert torch.equal(torch.get_rng_state(), state)
    printed = capsys.readouterr().out
    dataset = load_result(tmp_path / "own_models.nc")["distances"]
    assert list(dataset.measure.values) == ["geodesic", "fisher-rao", "straight", "euclidean"]
    assert dataset.distance.notnull().all() and dataset.sizes["retraining"] == 2
    assert (dataset.distance.sel(measure="geodesic") <= dataset.distance.sel(measure="straight") * 1.01).all()
    monkeypatch.setattr(own_models, "trained", None)
    own_models.main(["--result", str(tmp_path / "own_models.nc"), "--out", str(tmp_path / "again")])
    assert printed.split("wrote")[0] == capsys.readouterr().out.split("wrote")[0]


def test_the_modules_of_the_example_are_measured_as_they_are():
    x = pg.datasets.digits().x[:128].view(-1, 1, 8, 8)
    with torch.random.fork_rng():
        encoder, decoder = own_models.trained(x, latent=2, epochs=1, seed=0)
    model = pg.adapters.from_torch(encode=encoder, decode=decoder)
    z = model.encode(x).mean[:5]
    rows = [torch.autograd.functional.jacobian(lambda z: decoder.layers(z[None]).sigmoid().flatten(), row) for row in z]
    jacobian = torch.stack(rows)
    assert torch.allclose(model.metric().tensor(z), jacobian.mT @ jacobian, rtol=1e-4)
