"""Schedules: the learning rate as a function of the epoch, in training and after a kill."""

import json

import numpy as np
import pytest
import torch

from probgeo.models.gp.gplvm import GPLVM
from probgeo.specs import digest, from_config, to_config
from probgeo.training.fit import Training, fit
from probgeo.training.retrainings import Optimisation
from probgeo.training.schedules import Cosine, LinearWarmup, Piecewise
from probgeo.training.state import State
from tests.fitted import SPECS, data, interrupted_after, same, trained

SCHEDULES = (Cosine(0.1), Piecewise((1, 3), (0.5, 0.05)), LinearWarmup(2, Cosine()), LinearWarmup(3))


def factors(schedule, num_epochs: int) -> list[float]:
    return [schedule.factor(epoch, num_epochs) for epoch in range(num_epochs)]


def test_cosine_is_half_a_wave_from_one_to_its_final_factor():
    angle = np.pi * np.arange(7) / 7
    np.testing.assert_allclose(factors(Cosine(0.2), 7), 0.6 + 0.4 * np.cos(angle))
    assert Cosine(0.2).factor(7, 7) == pytest.approx(0.2)
    assert factors(Cosine(1.0), 4) == [1.0] * 4


def test_piecewise_changes_at_its_epochs():
    assert factors(Piecewise((2, 3), (0.5, 0.1)), 5) == [1.0, 1.0, 0.5, 0.1, 0.1]


def test_a_warm_up_rises_to_one_and_what_follows_begins_there():
    assert factors(LinearWarmup(4), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert factors(LinearWarmup(2, Cosine()), 7) == [0.5, 1.0, *factors(Cosine(), 5)]
    assert factors(LinearWarmup(4), 2) == [0.25, 0.5]


def test_torch_schedulers_give_the_same_rates():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    for schedule, torch_schedule in (
        (Cosine(0.1), torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9, eta_min=0.1)),
        (Piecewise((3, 5), (0.1, 0.01)), torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])),
    ):
        rates = []
        for _ in range(9):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            torch_schedule.step()
        np.testing.assert_allclose(factors(schedule, 9), rates)
        optimizer.param_groups[0].update(lr=1.0, initial_lr=1.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_part_of_the_configuration_where_there_is_one(schedule):
    training = Training(schedule=schedule)
    assert from_config(json.loads(json.dumps(to_config(schedule)))) == schedule
    assert to_config(training)["schedule"] == to_config(schedule)
    assert digest(training) != digest(Training())
    assert "schedule" not in to_config(Training())


@pytest.mark.parametrize(
    ("kind", "arguments", "complaint"),
    [
        (Cosine, (1.5,), r"final: expected a factor in \[0, 1\]; got 1.5"),
        (Piecewise, ((1, 2), (0.1,)), "as many of each"),
        (Piecewise, ((3, 2), (0.1, 0.1)), r"epochs: expected increasing numbers of at least 1; got \(3, 2\)"),
        (Piecewise, ((0,), (0.1,)), "at least 1"),
        (Piecewise, ((1,), (0.0,)), "factors: expected positive"),
        (LinearWarmup, (0,), "epochs: expected at least 1; got 0"),
    ],
)
def test_impossible_schedules_are_refused(kind, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        kind(*arguments)


# --- in training ---


def test_steps_are_those_of_the_scheduled_rate_in_every_phase(monkeypatch):
    rates = []
    one = Optimisation.epoch

    def recorded(self, state: State) -> State:
        after = one(self, state)
        rates.append(self.optimizer.param_groups[0]["lr"])
        return after

    monkeypatch.setattr(Optimisation, "epoch", recorded)
    trained(SPECS["rbf"], training=Training(epochs=4, batch_size=16, learning_rate=1e-2, schedule=Cosine()))
    mean, precision = factors(Cosine(), 4), factors(Cosine(), 2)
    np.testing.assert_allclose(rates, [1e-2 * factor for factor in mean] + [1e-1 * factor for factor in precision])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adamax, torch.optim.AdamW])
def test_a_factor_of_one_changes_nothing_and_a_later_factor_only_what_follows(optimizer):
    def run(num_epochs: int, schedule):
        training = Training(num_epochs, 16, 1e-2, optimizer, validation=0.0, schedule=schedule)
        return trained(training=training)[0]

    same(run(3, Piecewise((9,), (0.1,))), run(3, None))
    frozen, until_then = run(3, Piecewise((2,), (1e-300,))), run(2, None)
    for name, value in until_then.named_parameters():
        torch.testing.assert_close(frozen.get_parameter(name).detach(), value.detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_run_with_a_schedule_equals_an_uninterrupted_one(tmp_path, monkeypatch, schedule):
    training = Training(4, 16, 1e-2, torch.optim.AdamW, patience=3, max_gradient_norm=5.0, schedule=schedule)

    def run(folder):
        return trained(SPECS["rbf"], seeds=(0, 1), training=training, folder=folder, checkpoint_seconds=0.0)

    expected = run(tmp_path / "whole")
    for num_checkpoints in (1, 1, 2):  # lives of one, one and two epochs, and what remains: a kill after 1, 2 and 4
        interrupted_after(monkeypatch, num_checkpoints, lambda num=num_checkpoints: run(tmp_path / "resumed"))
    for first, second in zip(expected, run(tmp_path / "resumed"), strict=True):
        same(first, second)


def test_a_latent_variable_model_of_gaussian_processes_follows_the_schedule():
    def run(num_epochs: int, schedule):
        training = Training(num_epochs, 30, 1e-2, torch.optim.SGD, schedule=schedule)
        return fit(GPLVM(num_inducing=5), data(30), training=training, progress=False)[0]

    frozen, until_then = run(3, Piecewise((2,), (1e-300,))), run(2, None)
    torch.testing.assert_close(frozen.code_mean, until_then.code_mean)
    assert not torch.equal(run(3, None).code_mean, until_then.code_mean)
