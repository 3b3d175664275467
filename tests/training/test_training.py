"""Training: retrainings are independent of each other, reproducible, resumable, and fail alone."""

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from probgeo.likelihoods import Bernoulli, Gaussian, HeteroscedasticGaussian, Poisson
from probgeo.models.decoders.bayesian import BayesianDecoder
from probgeo.models.decoders.ensemble import EnsembleDecoder, RandomMember, SplitBatch
from probgeo.models.decoders.gp import GPDecoder
from probgeo.models.decoders.rbf import RBFDecoder
from probgeo.models.decoders.single import Decoder
from probgeo.models.shared.spec import SharedLatentVAE
from probgeo.models.shared.views import View
from probgeo.models.vae import VAE, Warmup
from probgeo.nn import MLP, Stacked, check_network
from probgeo.seeds import stream
from probgeo.training import stacks, storage
from probgeo.training.fit import Training, TrainingDiverged, UnsuitableData, checked_seeds, fit
from probgeo.training.objective import _GivenNoise
from tests.fitted import NET, QUICK, SPECS, counted_epochs, data, interrupted_after, same, trained

EVERY = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


# --- independence and reproducibility ---


@EVERY
def test_a_retraining_equals_the_one_trained_alone(spec):
    x = data(dtype=torch.float64)
    together = trained(spec, x, seeds=(3, 1, 2))
    for seed, model in zip((3, 1, 2), together, strict=True):
        (alone,) = trained(spec, x, seeds=(seed,))
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-8, atol=1e-10)
        for name, values in alone.history.items():
            np.testing.assert_allclose(model.history[name], values, rtol=1e-8)
        assert model.history.attrs["seed"] == seed


def test_training_needs_gradients_whatever_the_caller_does():
    with torch.no_grad():
        without = trained()[0]
    same(without, trained()[0])


def test_different_seeds_give_different_models():
    first, second = trained(seeds=(0, 1))
    assert not torch.equal(first.encoder[0].weight, second.encoder[0].weight)


def test_stacks_of_any_size_give_the_same_models():
    x = data(dtype=torch.float64)
    for first, second in zip(trained(x=x, seeds=range(3), stack=2), trained(x=x, seeds=range(3)), strict=True):
        for name, value in first.state_dict().items():
            torch.testing.assert_close(value, second.state_dict()[name], rtol=1e-8, atol=1e-10)


@EVERY
def test_the_same_seed_gives_the_same_result_and_nothing_global_changes(spec):
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    (first,) = trained(spec)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002
    assert not list(pyro.get_param_store().keys())
    assert pyro.settings.get("module_local_params") is False
    assert torch.get_default_dtype() == torch.float32
    torch.rand(5)
    pyro.set_rng_seed(7)
    (second,) = trained(spec)
    same(first, second)


@EVERY
@pytest.mark.parametrize("likelihood", [None, HeteroscedasticGaussian(), Poisson()], ids=["own", "widths", "counts"])
def test_a_recorded_step_is_that_of_the_pyro_model_row_by_row(spec, likelihood):
    if likelihood is not None:
        if spec is SPECS["rbf"]:
            pytest.skip("an RBF decoder is a Gaussian's")
        spec = dataclasses.replace(spec, likelihood=likelihood)
    x = data(dtype=torch.float64)
    x = (9 * x).round() if isinstance(likelihood, Poisson) else x
    stack = stacks.Stack(spec, x, None, (0, 1), 16)
    parameters = stack.trained(stack.phases[0])
    step = stack.backward(parameters)
    for minibatch in stack.minibatches(0, 1):
        with stacks.pyro_settings():
            terms = step(minibatch).clone()
        for index in range(2):
            model = stack.member(index).requires_grad_()
            noise = {name: value[index] for name, value in minibatch.noise.items()}
            with _GivenNoise(noise):
                guide = poutine.trace(model.guide).get_trace(minibatch.x[index], len(x), minibatch.beta[index])
            joint = poutine.trace(poutine.replay(model.model, guide))
            trace = joint.get_trace(minibatch.x[index], len(x), minibatch.beta[index])
            trace.compute_log_prob()
            log_likelihood = trace.nodes["x"]["log_prob_sum"] / len(x)
            divergence = torch.distributions.kl_divergence(guide.nodes["z"]["fn"], trace.nodes["z"]["fn"])
            loss = (minibatch.beta[index] * divergence).sum() / 16 - log_likelihood
            torch.testing.assert_close(terms[:2, index], torch.stack([loss, log_likelihood]))
            for name, expected in zip(
                parameters,
                torch.autograd.grad(loss, [model.get_parameter(n) for n in parameters], allow_unused=True),
                strict=True,
            ):
                found = parameters[name].grad
                if expected is not None:
                    torch.testing.assert_close(found[index], expected, rtol=1e-9, atol=1e-12)
                else:
                    assert found is None or not found.any()
        with torch.no_grad():
            for parameter in parameters.values():
                parameter += 0.01


def test_a_retraining_is_the_same_to_1e_4_whatever_trains_beside_it():
    one = Training(epochs=1, batch_size=16)
    (alone,) = trained(SPECS["ensemble"], seeds=(4,), training=one)
    for seeds in ((4, 1), (0, 1, 2, 3, 4, 5, 6)):
        beside = trained(SPECS["ensemble"], seeds=seeds, training=one)[seeds.index(4)]
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(beside.state_dict()[name], value, rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class WithLayer:
    """A network with a layer of the user's own."""

    layer: type[nn.Module]

    def build(self, num_inputs: int, num_outputs: int) -> nn.Module:
        own = nn.Dropout(0.5) if self.layer is nn.Dropout else self.layer(6)
        return nn.Sequential(nn.Linear(num_inputs, 6), own, nn.Linear(6, num_outputs))


@pytest.mark.parametrize("layer", [nn.Dropout, nn.BatchNorm1d])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_networks_whose_outputs_a_seed_does_not_decide_are_refused(layer, part):
    change = {"encoder": WithLayer(layer)} if part == "encoder" else {"decoder": Decoder(WithLayer(layer))}
    with pytest.raises(ValueError, match="network: expected one whose output follows from its input and weights alone"):
        trained(dataclasses.replace(SPECS["single"], **change))


def test_layers_without_statistics_of_their_batches_are_trained():
    trained(dataclasses.replace(SPECS["single"], encoder=WithLayer(nn.LayerNorm)))


@pytest.mark.parametrize("validates", [True, False])
def test_what_distributions_check_by_default_is_as_before(validates):
    before = torch.distributions.Distribution._validate_args
    try:
        torch.distributions.Distribution.set_default_validate_args(validates)
        trained()
        assert torch.distributions.Distribution._validate_args is validates
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def test_threads_take_turns():
    x = data()
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(trained, x=x, seeds=(seed,)) for seed in range(3)]
        found = [future.result()[0] for future in futures]
    for seed, model in enumerate(found):
        same(model, trained(x=x, seeds=(seed,))[0])


@EVERY
def test_training_follows_the_dtype_of_the_data(spec):
    (model,) = trained(spec, data(dtype=torch.float64))
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float64}
    assert model.reconstruct(data(dtype=torch.float64)).dtype == torch.float64


# --- what is learned, and what is kept ---


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_the_objective_falls(optimizer):
    training = Training(epochs=8, batch_size=16, learning_rate=3e-3, optimizer=optimizer)
    (model,) = trained(training=training)
    history = model.history
    assert history.loss[-1] < history.loss[0]
    assert history.validation_loss.min() < history.validation_loss[0]
    np.testing.assert_allclose(history.loss, history.kl - history.log_likelihood, rtol=1e-5)
    assert (history.gradient_norm > 0).all()
    assert (history.parameter_norm > 0).all()


def test_the_kept_epoch_is_the_best_on_the_rows_held_out(tmp_path):
    training = Training(epochs=3, batch_size=16, learning_rate=0.1)  # too large: the objective goes up and down
    (model,) = trained(training=training, folder=tmp_path)
    best = int(model.history.validation_loss.argmin("epoch"))
    assert best < 2
    (until_then,) = trained(training=Training(epochs=best + 1, batch_size=16, learning_rate=0.1))
    for name, value in model.state_dict().items():
        assert torch.equal(value, until_then.state_dict()[name])
    last = storage.read_tensors(tmp_path / "seed-0" / "last.safetensors")
    assert set(last) == set(dict(model.named_parameters()))
    assert not torch.equal(last["encoder.0.weight"], model.encoder[0].weight)


def test_without_validation_the_last_epoch_is_kept(tmp_path):
    training = Training(epochs=4, batch_size=16, learning_rate=0.3, validation=0.0)
    (model,) = trained(training=training, folder=tmp_path)
    last = storage.read_tensors(tmp_path / "seed-0" / "last.safetensors")
    assert all(torch.equal(last[name], value) for name, value in model.named_parameters())
    assert model.history.validation_loss.isnull().all()


def test_rows_held_out_do_not_influence_the_gradient():
    x = data()
    order = torch.randperm(60, generator=stream("validation", 60))
    changed = x.clone()
    changed[order[:6]] = 0.5
    training = Training(epochs=1, batch_size=16, learning_rate=1e-2, validation=0.1)
    (first,), (second,) = trained(x=x, training=training), trained(x=changed, training=training)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert first.history.validation_loss != second.history.validation_loss


def test_more_rows_held_out_than_trained_on_are_possible():
    (model,) = trained(training=Training(epochs=2, batch_size=8, validation=0.8))
    assert model.history.validation_loss.notnull().all()


@pytest.mark.filterwarnings("ignore:x. all rows are equal")
def test_validation_is_the_objective_per_row_of_the_rows_held_out():
    # A step size of 1e-300 leaves the weights where they start.
    x = torch.zeros(40, 3, dtype=torch.float64)
    (model,) = trained(
        VAE(2, Decoder(NET), Bernoulli(), encoder=NET), x, training=Training(epochs=1, learning_rate=1e-300)
    )
    with torch.no_grad():
        mean, std = model.encode(x)
        kl = ((mean**2 + std**2 - 1) / 2 - std.log()).sum(1).mean()
    np.testing.assert_allclose(model.history.kl, kl.item(), rtol=1e-9)
    np.testing.assert_allclose(model.history.validation_kl, kl.item(), rtol=1e-9)


def test_early_stopping_waits_for_patience_epochs_and_each_retraining_stops_alone():
    x = data(dtype=torch.float64)
    training = Training(epochs=30, batch_size=16, learning_rate=0.2, patience=2)
    together = trained(x=x, seeds=range(4), training=training)
    lengths = [model.history.sizes["epoch"] for model in together]
    assert len(set(lengths)) > 1
    for seed, (model, length) in enumerate(zip(together, lengths, strict=True)):
        assert length == 30 or length == int(model.history.validation_loss.argmin("epoch")) + 3
        (alone,) = trained(x=x, seeds=(seed,), training=training)
        assert alone.history.sizes["epoch"] == length
        np.testing.assert_allclose(alone.history.loss, model.history.loss, rtol=1e-6)
        torch.testing.assert_close(alone.encoder[0].weight, model.encoder[0].weight, rtol=1e-6, atol=1e-8)


def test_gradients_are_clipped_per_retraining():
    spec = VAE(2, Decoder(NET), Bernoulli(), encoder=NET)
    training = Training(
        epochs=1, batch_size=60, learning_rate=1.0, optimizer=torch.optim.SGD, max_gradient_norm=0.1, validation=0.0
    )
    for seed, model in enumerate(trained(spec, data(), range(3), training)):
        before = dict(spec.build(8, seed).named_parameters())
        step = sum((value - before[name]).square().sum() for name, value in model.named_parameters()).sqrt()
        torch.testing.assert_close(step, torch.tensor(0.1), rtol=1e-4, atol=0)
        np.testing.assert_allclose(model.history.gradient_norm, 0.1, rtol=1e-4)


def test_a_row_unlike_all_others_does_not_cost_the_training():
    x = data().clone()
    x[7] = torch.tensor([400.0, -400.0]).repeat(4)  # its log standard deviation is read far from where it was trained
    spec = VAE(2, Decoder(NET), Gaussian(), encoder=NET)
    training = Training(epochs=3, batch_size=16, learning_rate=1e-2, validation=0.0)
    with pytest.warns(UnsuitableData, match="x: values reach 400"):
        models = trained(spec, x, range(3), training)
    for model in models:
        assert np.isfinite(model.history.kl).all()
        assert model.history.kl.max() < 1e5  # not e^(2 · 20)


def test_warm_up_starts_without_the_divergence():
    spec = VAE(2, Decoder(NET), encoder=NET, beta=Warmup(2))
    history = trained(spec)[0].history
    np.testing.assert_allclose(history.loss[0], -history.log_likelihood[0], rtol=1e-6)
    np.testing.assert_allclose(history.loss[1], 0.5 * history.kl[1] - history.log_likelihood[1], rtol=1e-5)
    np.testing.assert_allclose(
        history.validation_loss, history.validation_kl - history.validation_log_likelihood, rtol=1e-5
    )


def test_rbf_training_has_two_phases_and_the_second_moves_the_precision_alone():
    first_only = trained(VAE(2, Decoder(NET), encoder=NET))[0]
    model = trained(SPECS["rbf"])[0]
    assert model.history.phase.values.tolist() == ["mean"] * 3 + ["precision"] * 2
    assert model.decoder.precision.placed
    assert torch.equal(model.encoder[0].weight, first_only.encoder[0].weight)
    assert torch.equal(model.decoder.network[0].weight, first_only.decoder.network[0].weight)
    assert (model.decoder.precision.log_weights.std(0) > 0).all()


# --- resuming ---


@pytest.mark.parametrize(
    ("name", "optimizer", "options", "num_checkpoints"),
    [
        ("single", torch.optim.Adam, None, 1),
        ("single", torch.optim.SGD, {"momentum": 0.9}, 2),
        ("single", torch.optim.SGD, None, 2),
        ("ensemble", torch.optim.AdamW, {"weight_decay": 0.1}, 3),
        ("random", torch.optim.RMSprop, None, 2),
        ("rbf", torch.optim.Adam, None, 2),
        ("rbf", torch.optim.Adam, None, 3),
        ("rbf", torch.optim.Adam, None, 4),
        ("rbf", torch.optim.Adam, None, 5),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch, name, optimizer, options, num_checkpoints):
    training = Training(epochs=3, batch_size=16, learning_rate=1e-2, optimizer=optimizer, optimizer_options=options)

    def run(folder):
        return trained(SPECS[name], seeds=(0, 1), training=training, folder=tmp_path / folder, checkpoint_seconds=0.0)

    expected = run("whole")
    interrupted_after(monkeypatch, num_checkpoints, lambda: run("resumed"))
    epochs = counted_epochs(monkeypatch)
    for first, second in zip(expected, run("resumed"), strict=True):
        same(first, second)
    assert len(epochs) == (5 if name == "rbf" else 3) - num_checkpoints
    assert {path.name for path in (tmp_path / "resumed").iterdir()} == {"seed-0", "seed-1"}


def test_a_run_resumed_again_and_again_stops_as_early_as_an_uninterrupted_one(tmp_path, monkeypatch):
    training = Training(epochs=8, batch_size=16, learning_rate=0.2, patience=2)

    def run(folder):
        return trained(
            SPECS["rbf"], training=training, folder=tmp_path / folder, checkpoint_seconds=0.0, seeds=range(3)
        )

    expected = run("whole")
    lengths = [model.history.sizes["epoch"] for model in expected]
    assert len(set(lengths)) > 1
    for _ in range(max(lengths) - 1):  # one epoch per life
        interrupted_after(monkeypatch, 1, lambda: run("resumed"))
    for first, second in zip(expected, run("resumed"), strict=True):
        same(first, second)


def test_a_resumed_run_remembers_which_epochs_each_phase_had(tmp_path, monkeypatch):
    # The second of three phases stops early.
    views = {"a": View(4, NET, RBFDecoder(NET, num_centres=4)), "b": View(4, NET, RBFDecoder(NET, num_centres=4))}
    training = Training(epochs=16, batch_size=16, learning_rate=0.2, patience=1)

    def run(folder):
        spec = SharedLatentVAE(views)
        return trained(spec, training=training, folder=tmp_path / folder, checkpoint_seconds=0.0)

    (expected,) = run("whole")
    lengths = {name: int((expected.history.phase == name).sum()) for name in expected.history.phase.values}
    assert len(lengths) == 3 and lengths["a: precision"] < 8
    interrupted_after(monkeypatch, expected.history.sizes["epoch"] - 1, lambda: run("resumed"))
    same(expected, run("resumed")[0])


def test_finished_retrainings_are_loaded_and_more_seeds_train_alone(tmp_path, monkeypatch):
    first = trained(seeds=(0, 1), folder=tmp_path)
    started = []
    start = stacks.Stack.__init__
    monkeypatch.setattr(stacks.Stack, "__init__", lambda self, *args: (started.append(args[3]), start(self, *args))[1])
    again = trained(seeds=(0, 1), folder=tmp_path)
    assert not started
    more = trained(seeds=(2, 0), folder=tmp_path)
    assert started == [[2]]
    same(first[0], again[0])
    same(first[1], again[1])
    same(first[0], more[1])


def killed_while_saving(monkeypatch, num_saved: int, run) -> None:
    """Run until that many models are saved, then die."""
    save, calls = storage.save, []

    def dying(*args, **options) -> None:
        if len(calls) == num_saved:
            raise KeyboardInterrupt
        save(*args, **options)
        calls.append(args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, "save", dying)
        run()


@pytest.mark.parametrize("num_saved", [0, 1, 2])
def test_a_kill_while_a_stack_is_saved_costs_no_epoch_and_leaves_no_file(tmp_path, monkeypatch, num_saved):
    def run(folder):
        return trained(seeds=range(5), folder=tmp_path / folder, stack=3, checkpoint_seconds=0.0)

    expected = run("whole")
    killed_while_saving(monkeypatch, num_saved, lambda: run("resumed"))
    saved = {path: path.stat().st_mtime_ns for path in (tmp_path / "resumed").glob("seed-*/weights.safetensors")}
    assert len(saved) == num_saved
    epochs = counted_epochs(monkeypatch)
    for first, second in zip(expected, run("resumed"), strict=True):
        same(first, second)
    assert len(epochs) == 3  # of the second stack
    assert {path.name for path in (tmp_path / "resumed").iterdir()} == {f"seed-{seed}" for seed in range(5)}
    assert all(path.stat().st_mtime_ns == time for path, time in saved.items())


@pytest.mark.parametrize("spec", ["single", "rbf"])
def test_a_kill_while_a_short_training_is_saved_changes_no_bit(tmp_path, monkeypatch, spec):
    def run(folder):
        return trained(SPECS[spec], seeds=range(3), folder=folder)

    expected = run(tmp_path / "whole")
    killed_while_saving(monkeypatch, 1, lambda: run(tmp_path / "resumed"))
    epochs = counted_epochs(monkeypatch)
    for first, second in zip(expected, run(tmp_path / "resumed"), strict=True):
        same(first, second)
    assert not epochs
    assert {path.name for path in (tmp_path / "resumed").iterdir()} == {"seed-0", "seed-1", "seed-2"}


def test_the_finished_retrainings_are_usable_without_the_one_that_was_lost(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        diverging(patch, seed=1, epoch=1)
        with pytest.raises(TrainingDiverged, match="or leave these seeds out") as caught:
            trained(seeds=range(3), folder=tmp_path)
    epochs = counted_epochs(monkeypatch)
    for model, index in zip(trained(seeds=(0, 2), folder=tmp_path), (0, 2), strict=True):
        same(model, caught.value.models[index])
    assert not epochs


@pytest.mark.parametrize("name", ["single", "rbf"])
def test_every_epoch_of_every_retraining_is_reported_once(tmp_path, monkeypatch, name):
    told = []

    def run():
        return trained(
            SPECS[name],
            seeds=(0, 1),
            folder=tmp_path,
            checkpoint_seconds=0.0,
            training=Training(epochs=8, batch_size=16, learning_rate=0.2, patience=2),
            report=lambda seed, epoch, terms: told.append((seed, epoch, terms)),
        )

    interrupted_after(monkeypatch, 2, run)
    for seed, model in enumerate(run()):
        own = [(epoch, terms) for reported, epoch, terms in told if reported == seed]
        # An epoch in which only the other retraining still runs is counted, but not reported.
        assert [epoch for epoch, _ in own] == sorted({epoch for epoch, _ in own})
        for term, values in model.history.items():
            np.testing.assert_allclose([terms[term] for _, terms in own], values, rtol=1e-6)


def test_progress_is_shown_only_when_asked(capsys):
    fit(SPECS["single"], data(), (0, 1), training=Training(epochs=2), progress=True)
    assert "training Decoder, seeds 0 to 1: 100%" in capsys.readouterr().err
    trained()
    assert capsys.readouterr().err == ""


# --- failures ---


def diverging(monkeypatch, seed: int, epoch: int, phase_index: int = 0) -> None:
    """The noise of one seed is NaN in one epoch."""
    usual = stacks.random_noise

    def noise(seeds, steps, shapes, *purpose):
        found = usual(seeds, steps, shapes, *purpose)
        if purpose == ("noise", phase_index, epoch) and seed in seeds:
            found["z"][list(seeds).index(seed)] = torch.nan
        return found

    monkeypatch.setattr(stacks, "random_noise", noise)


@pytest.mark.parametrize("name", ["single", "rbf"])
def test_a_lost_objective_stops_one_retraining_which_keeps_its_last_good_epoch(tmp_path, monkeypatch, name):
    spec, training = SPECS[name], Training(epochs=4, batch_size=16, learning_rate=1e-2, validation=0.0)
    expected = trained(spec, seeds=range(3), training=training)
    with monkeypatch.context() as patch:
        diverging(patch, seed=1, epoch=2)
        with pytest.raises(TrainingDiverged, match="seed 1 at epoch 2 of phase") as caught:
            trained(spec, seeds=range(3), training=training, folder=tmp_path)
    assert "seed 0" not in str(caught.value)
    for index in (0, 2):
        same(expected[index], caught.value.models[index])
    lost = caught.value.models[1]
    good = trained(spec, seeds=range(3), training=Training(2, 16, 1e-2, validation=0.0))[1]
    for part in ("encoder", "shared"):
        for key, value in getattr(good, part).state_dict().items():
            assert torch.equal(getattr(lost, part).state_dict()[key], value)
    assert lost.reconstruct(data()).isfinite().all()
    assert lost.history.sizes["epoch"] == 3
    last = storage.read_tensors(tmp_path / "seed-1" / "last.safetensors")
    assert all(torch.equal(value, lost.get_parameter(key)) for key, value in last.items())

    # Asked again, the folder gives the same answer without training anything.
    epochs = counted_epochs(monkeypatch)
    with pytest.raises(TrainingDiverged) as again:
        trained(spec, seeds=range(3), training=training, folder=tmp_path)
    assert str(again.value) == str(caught.value)
    assert not epochs
    same(again.value.models[1], lost)
    assert storage.load(tmp_path / "seed-1").history.attrs["diverged"].startswith("seed 1 at epoch 2")


def test_a_retraining_lost_in_the_second_phase_keeps_the_first(monkeypatch):
    diverging(monkeypatch, seed=0, epoch=0, phase_index=1)
    with pytest.raises(TrainingDiverged, match="seed 0 at epoch 0 of phase 'precision'") as caught:
        trained(SPECS["rbf"], seeds=(0, 1))
    assert caught.value.models[0].decoder.precision(torch.zeros(1, 2)).isfinite().all()


def test_a_lost_objective_survives_a_kill(tmp_path, monkeypatch):
    def run():
        return trained(seeds=(0, 1), training=Training(epochs=4), folder=tmp_path, checkpoint_seconds=0.0)

    with monkeypatch.context() as patch:
        diverging(patch, seed=1, epoch=1)
        interrupted_after(patch, 3, run)
    with pytest.raises(TrainingDiverged, match="seed 1 at epoch 1 of phase 'fit'"):
        run()


def test_a_diverged_training_travels_between_processes():
    error = TrainingDiverged("seed 3", trained())
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "seed 3"
    same(copy.models[0], error.models[0])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"spec": VAE(3, Decoder(NET), encoder=NET)}, "another model"),
        ({"training": Training(epochs=2, batch_size=16, learning_rate=1e-2)}, "another training"),
        ({"x": data() / 2}, "another data"),
    ],
)
def test_a_folder_of_another_configuration_is_refused(tmp_path, change, complaint):
    trained(folder=tmp_path)
    with pytest.raises(FileExistsError, match=f"seed-0 holds a retraining of {complaint}. Choose another folder"):
        trained(**change, folder=tmp_path)


def test_a_truncated_checkpoint_is_reported_with_its_name(tmp_path, monkeypatch):
    def run():
        return trained(folder=tmp_path, checkpoint_seconds=0.0)

    interrupted_after(monkeypatch, 1, run)
    (checkpoint,) = tmp_path.iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"folder: .*{checkpoint.name} is missing, truncated or corrupt"):
        run()


@pytest.mark.parametrize(
    ("decoder", "complaint"),
    [
        (RBFDecoder(NET, num_centres=64), r"at most as many centres as codes \(54\); got 64"),
        (GPDecoder(NET, num_inducing=64), r"at most as many inducing points as rows of x \(54\); got 64"),
    ],
)
def test_too_few_rows_for_what_follows_are_refused_before_anything_is_trained(monkeypatch, decoder, complaint):
    epochs = counted_epochs(monkeypatch)
    for spec in (VAE(2, decoder, encoder=NET), SharedLatentVAE({"a": View(5, NET, decoder), "b": View(3, NET)})):
        with pytest.raises(ValueError, match=complaint):
            trained(spec)
    assert not epochs


@pytest.mark.parametrize("assignment", [SplitBatch(), RandomMember()])
def test_every_member_learns_though_batches_have_fewer_rows_than_members(assignment):
    spec = VAE(2, EnsembleDecoder(10, NET, assignment), encoder=NET)
    before = spec.build(8, 0).decoder.members.template[0].weight
    model = trained(spec, training=Training(epochs=4, batch_size=8, learning_rate=1e-2, validation=0.0))[0]
    moved = (model.decoder.members.template[0].weight - before).abs().amax((1, 2))
    assert (moved > 0).all()


def test_rows_of_a_small_batch_are_decoded_by_different_members_each_equally_often():
    members = Stacked([nn.Linear(1, 1, bias=False) for _ in range(4)])
    with torch.no_grad():
        members.template.weight.copy_(torch.arange(4.0)[:, None, None])
    counts = torch.zeros(3, 4)
    for share in (torch.arange(40) + 0.5) / 40:
        with _GivenNoise({"rotation": torch.special.ndtri(share)}):
            used = SplitBatch().decode(members, torch.ones(3, 1)).long().flatten()
        assert len(set(used.tolist())) == 3
        counts[torch.arange(3), used] += 1
    assert (counts == 10).all()


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_arrays_tables_and_mapped_files_are_trained_on_as_tensors_are(tmp_path, kind):
    x = data(dtype=getattr(torch, kind))
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    (expected,) = trained(x=x)
    for other in (x.numpy(), pd.DataFrame(x.numpy()), mapped):
        same(trained(x=other)[0], expected)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"seeds": ()}, "seeds: expected at least one seed"),
        ({"seeds": (1, 1)}, "none repeated"),
        ({"stack": 0}, "stack, checkpoint_seconds: expected at least 1"),
        ({"x": torch.rand(4, 2), "training": Training(patience=1, validation=0.1)}, "patience: expected rows held out"),
        ({"x": torch.full((9, 2), torch.nan)}, "x: expected finite values"),
        ({"x": torch.rand(1, 2)}, "x: expected at least two rows to train on; got 1"),
        ({"x": torch.rand(20, 2), "training": Training(validation=0.99)}, "20 of them held out"),
        ({"x": torch.full((9, 2), 2.0), "spec": SPECS["ensemble"]}, "as a Bernoulli likelihood needs"),
    ],
)
def test_what_cannot_be_trained_is_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        trained(**options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"x": "rows"}, "x: expected a tensor, an array or a table of numbers; got str"),
        ({"x": np.array([["a", "b"]])}, "x: expected a tensor, an array or a table of numbers; got ndarray of <U1"),
        ({"x": np.ones((9, 2), int)}, "x: expected a floating-point tensor; got torch.int64"),
    ],
)
def test_what_is_no_argument_of_fit_is_refused_by_name(options, complaint):
    with pytest.raises(TypeError, match=complaint):
        trained(**options)


def test_classes_are_no_specs():
    with pytest.raises(TypeError, match=r"encoder: expected a spec of a network, such as MLP\(\(128, 128\)\)"):
        VAE(2, encoder=WithLayer)
    with pytest.raises(TypeError, match=r"decoder: expected a spec, such as Decoder\(\); got <class"):
        VAE(2, EnsembleDecoder)


@pytest.mark.parametrize(
    ("seeds", "complaint"),
    [
        (10, r"seeds: expected a sequence of whole numbers, .* got 10. Did you mean range\(10\)"),
        (["a"], "seeds: expected a sequence of whole numbers"),
        ([0.5], "seeds: expected a sequence of whole numbers"),
        (QUICK, r"seeds: .*fit\(spec, x, training=...\)"),
    ],
)
def test_what_is_no_sequence_of_seeds_is_refused_with_what_was_meant(seeds, complaint):
    with pytest.raises(TypeError, match=complaint):
        checked_seeds(seeds)


def test_seeds_are_whole_numbers_of_any_type():
    assert checked_seeds(np.arange(3)) == checked_seeds(torch.arange(3)) == checked_seeds(range(3)) == [0, 1, 2]


@pytest.mark.parametrize("network", [nn.Linear(2, 3), nn.Linear, MLP, 5], ids=["module", "class", "spec class", "int"])
def test_modules_and_classes_are_no_specs_of_networks(network):
    with pytest.raises(TypeError, match=r"network: expected a spec of a network, such as MLP"):
        check_network("network", network)


@pytest.mark.parametrize("kind", [Decoder, EnsembleDecoder, RBFDecoder, GPDecoder, BayesianDecoder])
def test_decoders_check_their_networks(kind):
    with pytest.raises(TypeError, match=r"network: expected a spec of a network, such as MLP"):
        kind(network=MLP)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"epochs": 0}, "epochs, batch_size: expected at least 1"),
        ({"batch_size": 0}, "epochs, batch_size: expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive"),
        ({"validation": 1.0}, "validation: expected a fraction"),
        ({"patience": 0}, "patience: expected at least 1"),
        ({"patience": 3, "validation": 0.0}, "patience: expected at least 1 and validation > 0"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm: expected a positive"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer: expected an elementwise"),
    ],
)
def test_impossible_options_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Training(**options)
