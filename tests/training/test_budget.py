"""How many retrainings are trained at once follows from memory, and changes no result beyond rounding."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import probgeo as pg
from probgeo.training import budget, fit
from probgeo.training.budget import bytes_of_retraining, memory_of, num_at_once

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
WIDE = pg.nn.MLP((256, 256))
SPEC = pg.VAE(2, pg.EnsembleDecoder(2, WIDE), encoder=WIDE)
X = torch.rand(200, 20, generator=torch.Generator().manual_seed(0))
TRAINING = pg.Training(epochs=1, batch_size=50)


def trained(**options):
    return pg.fit(SPEC, X, range(5), training=TRAINING, progress=False, **options)


def weights(models):
    return [value for model in models for value in model.state_dict().values()]


def test_a_stack_of_large_models_is_divided_and_each_retraining_is_what_it_is_beside_all_others(monkeypatch):
    whole, pairs = trained(), trained(stack=2)
    each, groups = bytes_of_retraining(SPEC, X, None, 0, TRAINING.batch_size), []
    monkeypatch.setattr(budget, "memory_of", lambda device: 2.9 * each / budget.SHARE)
    stack = fit.Stack
    monkeypatch.setattr(fit, "Stack", lambda *arguments: groups.append(arguments[3]) or stack(*arguments))
    divided = trained()
    assert groups == [[0, 1], [2, 3], [4]]
    assert all(map(torch.equal, weights(divided), weights(pairs)))
    for found, expected in zip(weights(divided), weights(whole), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_at_least_one_is_trained_however_little_there_is_and_at_most_as_many_as_are_wanted(monkeypatch):
    arguments = SPEC, X, None, 0, TRAINING.batch_size
    assert num_at_once(*arguments, 7) == 7
    monkeypatch.setattr(budget, "memory_of", lambda device: 1.0)
    assert num_at_once(*arguments, 7) == 1


@LINUX
def test_the_machine_has_the_memory_that_it_says():
    kibibytes = int(Path("/proc/meminfo").read_text().partition("MemTotal:")[2].split()[0])
    assert 0 < memory_of(torch.device("cpu")) <= 1024 * kibibytes


PEAK = """
import torch, probgeo as pg
torch.set_num_threads(1)
network = pg.nn.MLP((1024, 1024))
spec = pg.VAE(2, pg.{decoder}, encoder=network)
pg.fit(spec, torch.rand(400, 300), range({num}), training=pg.Training(1, 100), progress=False)
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["Decoder(network)", "BayesianDecoder(network)"])
def test_the_model_is_within_a_factor_of_two_of_what_a_retraining_takes(decoder):
    peaks = []
    for num in (1, 3):
        script = PEAK.format(decoder=decoder, num=num)
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        peaks.append(1024 * int(done.stdout))
    measured = (peaks[1] - peaks[0]) / 2
    network = pg.nn.MLP((1024, 1024))
    spec = pg.VAE(2, eval(f"pg.{decoder}", {"pg": pg, "network": network}), encoder=network)
    x = torch.rand(400, 300)
    assert measured / 2 <= bytes_of_retraining(spec, x[:360], x[360:], 0, 100) <= 2 * measured
