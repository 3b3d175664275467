"""Small specs, the data that they are trained on, and what is asked of fitted models in many tests."""

import pytest
import torch
from torch import Tensor

from probgeo.likelihoods import Bernoulli
from probgeo.models.base import FittedModel, ModelSpec
from probgeo.models.decoders.ensemble import EnsembleDecoder, RandomMember
from probgeo.models.decoders.rbf import RBFDecoder
from probgeo.models.decoders.single import Decoder
from probgeo.models.vae import VAE, Warmup
from probgeo.nn import MLP
from probgeo.training import storage
from probgeo.training.fit import Training, fit
from probgeo.training.retrainings import Optimisation
from probgeo.training.state import State

NET = MLP((8,))
SPECS = {
    "single": VAE(2, Decoder(NET), encoder=NET),
    "ensemble": VAE(2, EnsembleDecoder(3, NET), Bernoulli(), encoder=NET, beta=(0.5, 2.0)),
    "random": VAE(2, EnsembleDecoder(2, NET, RandomMember()), encoder=NET, beta=Warmup(2)),
    "rbf": VAE(2, RBFDecoder(NET, num_centers=4), encoder=NET),
}
QUICK = Training(epochs=3, batch_size=16, learning_rate=1e-2)


def data(num_rows: int = 60, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Points near a plane in eight dimensions, in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(num_rows, 2, generator=generator, dtype=torch.float64)
    mixing = torch.rand(2, 8, generator=generator, dtype=torch.float64) / 2
    return (z @ mixing + 0.01 * torch.rand(num_rows, 8, generator=generator, dtype=torch.float64)).to(dtype).clamp(0, 1)


def trained(spec=SPECS["single"], x=None, seeds=(0,), training=QUICK, **options):
    return fit(spec, data() if x is None else x, seeds, training=training, progress=False, **options)


def same(first, second) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert first.history.identical(second.history)


def interrupted_after(monkeypatch, num_checkpoints: int, run) -> None:
    """Run until that many checkpoints are written, then die."""
    write, calls = storage.write_tensors, []

    def dying(path, tensors) -> None:
        write(path, tensors)
        calls.append(path)
        if len(calls) == num_checkpoints:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, "write_tensors", dying)
        run()


def counted_epochs(monkeypatch) -> list[int]:
    """The epochs that are trained from now on."""
    epochs, one = [], Optimisation.epoch

    def counted(self, state: State) -> State:
        epochs.append(state.epoch)
        return one(self, state)

    monkeypatch.setattr(Optimisation, "epoch", counted)
    return epochs


def untrained(spec: ModelSpec, x: Tensor) -> FittedModel:
    """In double precision, every phase begun and none trained: what holds of it holds of any weights."""
    model = spec.build(x.shape[1], seed=0).double()
    for phase in model.phases:
        if phase.start:
            phase.start(model, x, 0)
    return model


def uniform(num_rows: int, num_features: int) -> Tensor:
    """Rows in [0, 1]."""
    return torch.rand(num_rows, num_features, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def points(num_points: int, seed: int = 2) -> Tensor:
    """Codes in the plane."""
    return torch.randn(num_points, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(first: Tensor, second: Tensor, factor: float = 1e3) -> None:
    """Equal to that many units of rounding in double precision."""
    tolerance = factor * torch.finfo(torch.float64).eps
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)
