"""On a device that is not the CPU: training, solver and study find their tensors where they are, and rarely wait."""

import numpy as np
import pytest
import torch

import probgeo as pg
from probgeo.datasets.mapped import as_rows
from probgeo.rows import FileRows
from probgeo.training.minibatches import rows_in_turn
from probgeo.training.retrainings import Optimisation
from tests.pretended_device import ELSEWHERE, pretended

X = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
COUNTS = torch.poisson(5 * X, generator=torch.Generator().manual_seed(1))
NETWORK = pg.nn.MLP((8, 8))
SPECS = {
    "single": pg.VAE(2, pg.Decoder(NETWORK), encoder=NETWORK),
    "ensemble": pg.VAE(2, pg.EnsembleDecoder(3, NETWORK), encoder=NETWORK),
    "rbf": pg.VAE(2, pg.RBFDecoder(NETWORK, num_centres=5), encoder=NETWORK),
    "dropout": pg.VAE(2, pg.DropoutDecoder(NETWORK, draws=3), encoder=NETWORK),
    "mean field": pg.VAE(2, pg.BayesianDecoder(NETWORK, draws=3), encoder=NETWORK),
    "random member": pg.VAE(2, pg.EnsembleDecoder(3, NETWORK, pg.RandomMember()), encoder=NETWORK),
    "low rank": pg.VAE(2, pg.BayesianDecoder(NETWORK, guide=pg.posteriors.LowRank(2), draws=3), encoder=NETWORK),
    "counts": pg.VAE(2, pg.Decoder(NETWORK), pg.likelihoods.NegativeBinomial(), encoder=NETWORK),
    "conditional": pg.ConditionalVAE(2, pg.Decoder(NETWORK), encoder=NETWORK),
}
OTHERS = {
    "laplace": pg.VAE(
        2, pg.BayesianDecoder(NETWORK, guide=pg.posteriors.LaplaceApproximation(), draws=3), encoder=NETWORK
    ),
    "gp": pg.VAE(2, pg.GPDecoder(NETWORK, num_inducing=5, num_steps=3), encoder=NETWORK),
    "views": pg.SharedLatentVAE(
        {
            "a": pg.View(4, encoder=NETWORK, decoder=pg.EnsembleDecoder(3, NETWORK), noise=0.1),
            "b": pg.View(2, encoder=NETWORK, decoder=pg.RBFDecoder(NETWORK, num_centres=5)),
        },
        fusion=pg.views.Mixture(),
    ),
    "covariates": pg.ConditionalVAE(
        2, pg.RBFDecoder(NETWORK, num_centres=5), encoder=NETWORK, mask=pg.masks.NoMask(), covariates=(1, 4)
    ),
    "gplvm": pg.GPLVM(2, num_inducing=5),
}


def rows(name):
    return COUNTS if name == "counts" else X


def trained(name, x, epochs):
    # One form of the optimiser, so that both places compute the same.
    training = pg.Training(epochs, 16, optimizer_options={"foreach": True}, max_gradient_norm=1.0)
    return pg.fit(SPECS[name], x, range(2), training=training, progress=False)


def test_what_a_gpu_refuses_is_refused_and_what_it_waits_for_is_counted():
    with pretended() as device:
        x = X.to(ELSEWHERE)
        assert x.device == (x + 1).device == torch.zeros(2, device=x.device).device == ELSEWHERE
        assert torch.vmap(lambda row: row * torch.ones(6, device=row.device))(x).device == ELSEWHERE
        assert x[torch.arange(3)].device == x[:, 0].device == torch.tensor([1.0], device=x.device).device == ELSEWHERE
        assert x.cpu().device == X.device != ELSEWHERE
        device.reads.clear()
        for refused in (lambda: x + X, lambda: X @ x.mT, lambda: X[x[0].long()], lambda: torch.cat([x, X])):
            with pytest.raises(RuntimeError, match="expected all tensors to be elsewhere"):
                refused()
        with pytest.raises(TypeError, match=r"use \.cpu\(\) first"):
            x.numpy()
        with pytest.raises(RuntimeError, match="expected a generator that is elsewhere"):
            torch.rand(2, generator=torch.Generator(), device=ELSEWHERE)
        assert not device.reads
        for waited in (lambda: x.cpu(), lambda: float(x[0, 0]), lambda: x.tolist(), lambda: x[x > 0.5]):
            device.reads.clear()
            waited()
            assert len(device.reads) == 1


@pytest.mark.parametrize("name", SPECS)
def test_training_elsewhere_is_training_here_and_waits_once_an_epoch(name):
    expected = trained(name, rows(name), 2)
    with pretended() as device:
        x, reads = rows(name).to(ELSEWHERE), []
        for epochs in (4, 2):
            device.reads.clear()
            models = trained(name, x, epochs)
            reads.append(len(device.reads))
        lasts = sum(phase.epochs is not None for phase in models[0].phases[1:])
        assert reads[0] - reads[1] == 2 + lasts  # phases after the first have half as many epochs
        for model, other in zip(models, expected, strict=True):
            assert {value.device for value in model.state_dict().values()} == {ELSEWHERE}
            for value, right in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
                torch.testing.assert_close(value.cpu(), right)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", [*SPECS, *OTHERS])
def test_within_an_epoch_nothing_waits_for_the_device(name, stored, tmp_path, monkeypatch):
    if stored and name not in ("ensemble", "conditional"):
        pytest.skip("what is read from a file is the same for all")
    seen, made = [], Optimisation.__init__

    def watched(optimisation, *given):
        made(optimisation, *given)
        step, times = optimisation.backward, []

        def stepped(minibatch):
            times.append((len(device.reads), len(device.sends)))
            return step(minibatch)

        optimisation.backward = stepped
        seen.append(times)

    monkeypatch.setattr(Optimisation, "__init__", watched)
    monkeypatch.setattr("probgeo.rows.PINNED", ("cuda", ELSEWHERE.type))
    np.save(tmp_path / "x.npy", rows(name))
    training = pg.Training(1, 16, optimizer_options={"foreach": True}, max_gradient_norm=1.0)
    with pretended() as device:
        x = as_rows("x", np.load(tmp_path / "x.npy", mmap_mode="r")) if stored else rows(name)
        pg.fit((SPECS | OTHERS)[name], x.to(ELSEWHERE), training=training, progress=False)
    # The first step of a phase is recorded; the third minibatch is there when the second has been computed.
    assert seen and all(len(times) == 3 and times[1] == times[2] for times in seen)


def test_rows_of_a_file_train_elsewhere_what_they_train_here(tmp_path, monkeypatch):
    monkeypatch.setattr("probgeo.rows.PINNED", ("cuda", ELSEWHERE.type))
    np.save(tmp_path / "x.npy", X)
    expected = trained("single", X, 2)
    with pretended():
        x = as_rows("x", np.load(tmp_path / "x.npy", mmap_mode="r")).to(ELSEWHERE)
        for model, other in zip(trained("single", x, 2), expected, strict=True):
            for value, right in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
                torch.testing.assert_close(value.cpu(), right)


def test_rows_are_read_one_ahead_and_come_in_turn(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    x, asked, read = as_rows("x", np.load(tmp_path / "x.npy", mmap_mode="r")), [], FileRows.__getitem__
    monkeypatch.setattr(FileRows, "__getitem__", lambda rows, index: asked.append(index) or read(rows, index))
    with pretended():
        which = [slice(begin, begin + 10) for begin in range(0, 60, 10)]
        for number, rows in enumerate(rows_in_turn(x.to(ELSEWHERE), iter(which))):
            assert rows.device == ELSEWHERE and torch.equal(rows.cpu(), X[which[number]])
            assert len(asked) in (number + 1, number + 2)
    assert asked == which


def test_geodesics_elsewhere_are_geodesics_here():
    decoders = [NETWORK.build(2, 6) for _ in range(3)]
    start, stop = torch.randn(2, 4, 2).unbind()
    expected = pg.geodesic(pg.ExpectedMetric(decoders), start, stop, solver=pg.GaussNewton(32))
    with pretended():
        there = [decoder.to(ELSEWHERE) for decoder in decoders]
        found = pg.geodesic(
            pg.ExpectedMetric(there), start.to(ELSEWHERE), stop.to(ELSEWHERE), solver=pg.GaussNewton(32)
        )
        assert found.path.device == found.length.device == ELSEWHERE
        torch.testing.assert_close(found.length.cpu(), expected.length)
        torch.testing.assert_close(found.path.cpu(), expected.path, rtol=1e-3, atol=1e-3)


def test_a_study_elsewhere_is_a_study_here(tmp_path):
    options = {
        "pairs": torch.tensor([[0, 1], [2, 3], [4, 5]]),
        "models": {name: SPECS[name] for name in ("single", "ensemble", "dropout")},
        "seeds": range(2),
        "measures": {"geodesic": pg.Geodesic(solver=pg.GaussNewton(16)), "straight": pg.StraightLine(num_segments=16)},
        "training": pg.Training(2, 16, optimizer_options={"foreach": True}),
    }
    expected = pg.Study(tmp_path / "here", data=X, **options).run(progress=False)
    with pretended():
        found = pg.Study(tmp_path / "there", data=X.to(ELSEWHERE), **options).run(progress=False)
    assert float(abs(found.distance / expected.distance - 1).max()) < 1e-3
