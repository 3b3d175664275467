"""Arrays in tasks' arguments: in files for the time of the tasks, and the same numbers in the same places again."""

import pickle
from pathlib import Path

import numpy as np
import torch

import probgeo as pg
from probgeo.arrays import light, with_arrays
from tests.study.test_measure import Weighing


def itself(*values):
    return values


def sent(folder: Path, *values) -> tuple[int, tuple]:
    """How much a task weighs, and what its function is called with elsewhere."""
    with light(itself, [values], Weighing(), folder) as (job,):
        written = pickle.dumps(job)
        task, *args = pickle.loads(written)
        return len(written), task(*args)


def test_numbers_lie_in_memory_as_they_did(tmp_path):
    rows = torch.rand(90, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tensors = {
        "whole": rows,
        "turned": rows.T,
        "every other": rows[3::2, ::3],
        "half": rows.half(),
        "whether": rows > 0.5,
        "complex": torch.complex(rows, -rows),
        "conjugate": torch.complex(rows, -rows).conj(),
        "learnt": torch.nn.Parameter(rows.T.float()),
        "small": rows[0, :3].clone(),
    }
    weight, (found, arrays) = sent(tmp_path, tensors, [rows.numpy(), np.asfortranarray(rows.numpy()), np.arange(3)])
    assert weight < 150_000  # of which the conjugate, which is carried, are 115 kB
    for name, tensor in tensors.items():
        again = found[name]
        assert type(again) is type(tensor) and again.requires_grad == tensor.requires_grad, name
        assert torch.equal(again, tensor) and again.dtype == tensor.dtype and again.stride() == tensor.stride(), name
    assert all(np.array_equal(array, rows.numpy()) for array in arrays[:2])
    assert [array.flags.f_contiguous for array in arrays[:2]] == [False, True]
    assert not list(tmp_path.iterdir())


def test_what_jobs_have_in_common_is_written_once_and_what_is_light_is_not_written(tmp_path):
    model = pg.VAE(2, pg.EnsembleDecoder(3, pg.nn.MLP((64,)))).build(num_features=784, seed=0)
    with light(itself, [(model, 0), ([model], 1), (torch.zeros(9), 2)], Weighing(), tmp_path) as jobs:
        assert [job[0] for job in jobs] == [with_arrays, with_arrays, itself]
        assert max(len(pickle.dumps(job)) for job in jobs) < 50_000
        held = {parameter.untyped_storage().data_ptr() for parameter in model.parameters() if parameter.nbytes > 1000}
        assert len(list(tmp_path.rglob("*.npy"))) == len(held)
    model.learnt_since = torch.zeros(1)  # the driver's model is its own as ever
    assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters())


def test_what_cannot_be_sent_is_left_to_the_executor(tmp_path):
    values = (lambda z: z, torch.zeros(9999))
    with light(itself, [(values,)], Weighing(), tmp_path) as jobs:
        assert jobs == [(itself, values)]
    with light(itself, [(values,)], None, tmp_path) as jobs:
        assert jobs == [(itself, values)]
