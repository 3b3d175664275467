"""Codes as they come: with a history of gradients, from NumPy, in any layout, give what their plain copies give."""

import numpy as np
import pytest
import torch
from torch import Tensor

import probgeo as pg
from probgeo.geometry.metrics import PullbackMetric
from probgeo.geometry.points import latent_points


def hill(z: Tensor) -> Tensor:
    return torch.cat([z, 3 * (-2 * z.square().sum(-1, keepdim=True)).exp()], dim=-1)


METRIC, SOLVER = PullbackMetric(hill), pg.GaussNewton(32)
CODES = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
FORMS = {
    "with gradients": lambda z: 1 * z.clone().requires_grad_(),
    "a parameter": lambda z: torch.nn.Parameter(z.clone()),
    "of NumPy": lambda z: z.numpy(),
    "of NumPy, by columns": lambda z: np.asfortranarray(z.numpy()),
    "transposed": lambda z: z.T.contiguous().T,
    "every second column": lambda z: z.repeat_interleave(2, dim=1)[:, ::2],
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_codes_gives_the_same_distances(name):
    codes = FORMS[name](CODES)
    graph, plain = pg.paths.Graph(METRIC, codes, num_nodes=400), pg.paths.Graph(METRIC, CODES, num_nodes=400)
    found = pg.geodesic(METRIC, codes[:4], codes[4:8], init=graph, solver=SOLVER)
    expected = pg.geodesic(METRIC, CODES[:4], CODES[4:8], init=plain, solver=SOLVER)
    assert torch.equal(found.length, expected.length)
    some, same = codes[:5], CODES[:5]
    matrices = [pg.distance_matrix(METRIC, z, solver=SOLVER).values for z in (some, same)]
    assert np.array_equal(*matrices)
    graphs = [pg.graph_distances(METRIC, z, z[:3], num_checked=5, solver=SOLVER).values for z in (codes, CODES)]
    assert np.array_equal(*graphs)


@pytest.mark.parametrize("values", [torch.zeros(2, 2).long(), torch.zeros(2, 2).half(), np.zeros((2, 2), dtype=int)])
def test_other_numbers_are_refused_by_the_name_of_the_argument(values):
    with pytest.raises(TypeError, match="codes: expected a floating-point tensor or array of float32 or float64"):
        latent_points("codes", values)
