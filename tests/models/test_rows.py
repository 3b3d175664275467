"""Rows and points as they come, arrays and tables too, mean to every model what a tensor of the same numbers means."""

import numpy as np
import pandas as pd
import pytest
import torch

import probgeo as pg
from probgeo.nn import MLP

NET = MLP((8,))
X = torch.rand(24, 6, generator=torch.Generator().manual_seed(0))


def shared() -> pg.LatentModel:
    views = {name: pg.View(3, NET, pg.Decoder(NET)) for name in ("left", "right")}
    return pg.SharedLatentVAE(views, latent=2).build(6, seed=0)


def process() -> pg.LatentModel:
    training = pg.Training(epochs=1, batch_size=12)
    return pg.fit(pg.GPLVM(2, num_inducing=6), X, training=training, progress=False)[0]


MODELS = {
    "vae": lambda: pg.VAE(2, pg.EnsembleDecoder(2, NET), encoder=NET).build(6, seed=0),
    "conditional": lambda: pg.ConditionalVAE(2, pg.Decoder(NET), encoder=NET).build(6, seed=0),
    "given": lambda: pg.ConditionalVAE(2, pg.Decoder(NET), encoder=NET).build(6, seed=0).given_values({0: 0.5}),
    "shared": shared,
    "view": lambda: shared().view("left"),
    "process": process,
}
FORMS = {
    "array": lambda x: x.numpy(),
    "array in double precision": lambda x: x.double().numpy(),
    "table": lambda x: pd.DataFrame(x.numpy()),
    "array that may not be written to": lambda x: np.broadcast_to(x.numpy(), x.shape),
    "every second column": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
}


@pytest.mark.parametrize("name", MODELS)
def test_every_form_of_rows_and_points_means_the_same(name):
    model = MODELS[name]()
    x = X[:, : model.num_features]
    z = model.encode(x).mean.detach()
    for form in FORMS.values():
        if name != "process":  # whose rows are known by their exact values
            torch.testing.assert_close(model.encode(form(x)).mean, z, rtol=1e-5, atol=1e-6)
        for function in (model.decode, model.uncertainty, model.metric().tensor):
            found = function(form(z))
            torch.testing.assert_close(found, function(z), rtol=1e-4, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("name", MODELS)
def test_points_of_another_kind_are_refused_by_name(name):
    model = MODELS[name]()
    for points, error in ((torch.zeros(3, 2).long(), TypeError), (torch.zeros(3, 3), ValueError)):
        for function in (model.decode, model.uncertainty):
            with pytest.raises(error, match=r"^z: expected"):
                function(points)
    if name != "process":
        with pytest.raises(TypeError, match=r"x: expected .*; got torch.float64. Use x.to\(torch.float32\)"):
            model.encode(X[:, : model.num_features].double())
