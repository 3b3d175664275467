"""What does not fit a model's latent space, or is no number, is refused by the name of the argument."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import probgeo as pg
from probgeo.adapters import from_torch

X = torch.rand(12, 6, generator=torch.Generator().manual_seed(0))


def seeded(*sizes: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(*sizes)


def pointwise(z: Tensor) -> Tensor:
    """Of points of any dimension."""
    return torch.cat([z, z.square()], dim=-1)


ENSEMBLE = pg.EnsembleDecoder(2, network=pg.nn.MLP((4,)))
MODELS = {
    "a perceptron": lambda: from_torch(encode=seeded(6, 2), decode=seeded(2, 6)),
    "a function of points of any dimension": lambda: from_torch(encode=seeded(6, 2), decode=pointwise),
    "a module without weights": lambda: from_torch(encode=seeded(6, 2), decode=nn.Tanh()),
    "two decoders": lambda: from_torch(
        encode=seeded(6, 2), decode=[seeded(2, 6), nn.Sequential(seeded(2, 6), nn.Tanh())]
    ),
    "an ensemble": lambda: pg.VAE(2, decoder=ENSEMBLE).build(6, seed=0),
    "a process": lambda: pg.VAE(2, decoder=pg.GPDecoder(num_inducing=4)).build(6, seed=0),
    "a Bayesian decoder": lambda: pg.VAE(2, decoder=pg.BayesianDecoder(network=pg.nn.MLP((4,)))).build(6, seed=0),
    "a conditional model": lambda: pg.ConditionalVAE(2, decoder=ENSEMBLE).build(6, seed=0),
    "a condition": lambda: pg.ConditionalVAE(2, decoder=ENSEMBLE).build(6, seed=0).given_values({0: 0.5}),
}

MISFITS: dict[str, Callable[[Tensor], Tensor]] = {
    "wide": lambda z: torch.cat([z, z[:, :1]], dim=1),
    "narrow": lambda z: z[:, :1],
    "without a dimension": lambda z: z[:, :0],
    "integers": lambda z: z.long(),
    "complex": lambda z: z + 0j,
    "yes and no": lambda z: z > 0,
    "in half precision": lambda z: z.half(),
    "without values": lambda z: z.to("meta"),
}


def calls(model: pg.LatentModel) -> dict[str, Callable[[Tensor], Any]]:
    """The ways of codes into a model."""
    metric, solver = model.metric(), pg.GaussNewton(8)
    return {
        "decode": model.decode,
        "draws": model.draws(1),
        "tensor": metric.tensor,
        "length": lambda z: pg.length(metric, z[None]),
        "geodesic": lambda z: pg.geodesic(metric, z[:3], z[3:6], solver=solver),
        "Graph": lambda z: pg.paths.Graph(metric, z),
        "distance_matrix": lambda z: pg.distance_matrix(metric, z[:3], solver=solver),
        "graph_distances": lambda z: pg.graph_distances(metric, z, z[:2]),
        "straight": lambda z: pg.StraightLine(num_segments=4).paths(model, z[:3], z[3:6], z),
        "volume_density": lambda z: pg.calculus.volume_density(metric, z),
    }


@pytest.mark.parametrize("kind", MODELS)
def test_codes_that_do_not_fit_are_refused_here_and_not_within_torch(kind):
    model = MODELS[kind]()
    codes = model.encode(X).mean.detach()
    for entry, call in calls(model).items():
        for misfit, made in MISFITS.items():
            with pytest.raises((ValueError, TypeError), match=r"^[a-z]+: ") as refused:
                call(made(codes))
            place = Path(refused.traceback[-1].path)
            assert "probgeo" in place.parts and "raise" in str(refused.traceback[-1].statement), (entry, misfit)


@pytest.mark.parametrize("kind", MODELS)
def test_of_no_points_there_is_nothing(kind):
    model = MODELS[kind]()
    none = model.encode(X).mean.detach()[:0]
    metric = model.metric()
    assert model.decode(none).shape == (0, model.decode(model.encode(X).mean).shape[1])
    assert model.draws(1)(none).shape[:2] == (1, 0)
    assert metric.tensor(none).shape == (0, 2, 2)
    assert pg.length(metric, none[:, None].expand(0, 5, 2)).shape == (0,)
    assert pg.geodesic(metric, none, none).length.shape == (0,)
    assert pg.StraightLine(num_segments=4).paths(model, none, none, none).length.shape == (0,)
