"""Models of plain PyTorch have the geometry that the same functions have when written out."""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributions as td
import xarray as xr
from torch import Tensor, nn

import probgeo as pg
from probgeo.adapters import from_torch
from probgeo.geometry.metrics import ExpectedMetric, PullbackMetric
from probgeo.nn import mlp
from probgeo.study import study as studies
from probgeo.study.identity import model_key

X = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
SOLVER = pg.GaussNewton(32)


def seeded(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp((2, 24, 16))


class Encoder(nn.Module):
    """Images to a distribution, with a layer that acts otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.mean, self.log_variance = nn.Linear(64, 2), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> td.Normal:
        hidden = self.body(x)
        return td.Normal(self.mean(hidden), (self.log_variance(hidden) / 2).exp())


def encoder() -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Encoder().eval()


def images(net: nn.Module):
    return lambda z: net(z).unflatten(-1, (1, 4, 4))


NET = seeded(0)
SHAPES = {
    "a module": (NET, {}, NET),
    "images": (images(NET), {}, NET),
    "a tuple": (lambda z: (z, images(NET)(z)), {"output": 1}, NET),
    "a dict": (lambda z: {"image": images(NET)(z)}, {"output": "image"}, NET),
    "an object": (lambda z: td.Normal(images(NET)(z), 1.0), {"output": "mean"}, NET),
    "picked by a function": (lambda z: [images(NET)(z)], {"output": lambda found: found[0]}, NET),
    "a distribution": (
        lambda z: td.Independent(td.Bernoulli(logits=images(NET)(z)), 3),
        {},
        lambda z: NET(z).sigmoid(),
    ),
    "logits": (images(NET), {"likelihood": pg.likelihoods.Bernoulli()}, lambda z: NET(z).sigmoid()),
    "probabilities": (
        lambda z: NET(z).sigmoid(),
        {"likelihood": pg.likelihoods.Bernoulli(), "returns_means": True},
        lambda z: NET(z).sigmoid(),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_metric_is_that_of_the_mean_written_out(name):
    decode, options, mean = SHAPES[name]
    model = from_torch(encode=encoder(), decode=decode, **options)
    z = model.encode(X).mean
    assert (model.latent, model.num_features, z.shape) == (2, 16, (60, 2))
    assert torch.allclose(model.metric().tensor(z), PullbackMetric(lambda z: mean(z)).tensor(z), rtol=1e-4, atol=1e-6)
    assert torch.allclose(model.decode(z), mean(z), rtol=1e-5, atol=1e-6)
    assert model.decode(z.view(6, 10, 2)).shape == (6, 10, 16) and model.decode(z[0]).shape == (16,)


def test_encoding_is_the_distributions_mean_and_deviation():
    net = encoder()
    model = from_torch(encode=net, decode=NET)
    mean, std = model.encode(X)
    assert torch.allclose(mean, net(X).mean, atol=1e-6) and torch.allclose(std, net(X).stddev, atol=1e-6)
    codes = from_torch(encode=lambda x: net(x).mean, decode=NET).encode(X)
    assert torch.equal(codes.mean, mean) and not codes.std.any()
    pair = from_torch(encode=lambda x: pg.Encoding(net(x).mean, net(x).stddev), decode=NET).encode(X)
    assert torch.equal(pair.std, std)


def test_a_list_of_decoders_is_an_ensemble():
    members = [seeded(seed) for seed in range(3)]
    for decode in (members, nn.ModuleList(members), [images(member) for member in members]):
        model = from_torch(encode=encoder(), decode=decode)
        z = model.encode(X).mean[:9]
        assert torch.allclose(model.metric().tensor(z), ExpectedMetric(members).tensor(z), rtol=1e-4)
        values = torch.stack([member(z) for member in members])
        assert torch.allclose(model.decode(z), values.mean(0), atol=1e-6)
        assert torch.allclose(model.uncertainty(z), values.var(0, correction=0).mean(-1).sqrt(), atol=1e-6)
        assert torch.allclose(model.draws(2)(z), values[:2], atol=1e-6)
        assert model.num_members == 3


def test_codes_that_are_no_vectors_keep_their_shape_for_the_decoder():
    decode = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Tanh(), nn.Flatten()).eval()
    model = from_torch(encode=lambda x: torch.cat([x, x.square()], 1), decode=decode, latent_shape=(2, 4, 4))
    z = model.encode(X).mean
    assert model.latent == 32 and z.shape == (60, 32)
    expected = PullbackMetric(lambda z: decode(z.unflatten(-1, (2, 4, 4)))).tensor(z[:4])
    assert torch.allclose(model.metric().tensor(z[:4]), expected, rtol=1e-5)


def divergence(make, z: Tensor, direction: Tensor) -> Tensor:
    """2 KL / ε² between the distributions at z ± ε/2 δ: δᵀ G δ of Fisher and Rao."""
    step = 1e-3 * direction
    first, second = make(z + step / 2), make(z - step / 2)
    return 2 * td.kl_divergence(first, second).flatten(1).sum(1) / 1e-6


FAMILIES = {
    "normal": lambda net: lambda z: td.Normal(net(z)[..., :8], (net(z)[..., 8:] / 4).exp()),
    "bernoulli": lambda net: lambda z: td.Bernoulli(logits=net(z)),
    "poisson": lambda net: lambda z: td.Poisson(net(z).exp()),
    "categorical": lambda net: lambda z: td.Categorical(logits=net(z).unflatten(-1, (4, 4))),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_fisher_rao_metric_of_a_distribution_is_the_limit_of_its_divergence(name):
    net = seeded(1).double()
    make = FAMILIES[name](net)
    model = from_torch(encode=lambda x: x.flatten(1)[:, :2].double(), decode=make)
    z = model.encode(X).mean[:6]
    direction = torch.ones_like(z)
    tensor = model.fisher_rao_metric().tensor(z)
    found = torch.einsum("bi,bij,bj->b", direction, tensor, direction)
    assert torch.allclose(found, divergence(make, z, direction), rtol=1e-3)


def test_a_likelihood_on_logits_or_on_means_has_one_fisher_rao_metric():
    codes = lambda x: x.flatten(1)[:, :2]  # noqa: E731
    z = codes(X)[:6]
    for likelihood, mean in ((pg.likelihoods.Bernoulli(), torch.sigmoid), (pg.Gaussian(std=0.5), lambda x: x)):
        of_output = from_torch(encode=codes, decode=NET, likelihood=likelihood)
        of_mean = from_torch(
            encode=codes, decode=lambda z, m=mean: m(NET(z)), likelihood=likelihood, returns_means=True
        )
        tensors = []
        for model in (of_output, of_mean):
            model.encode(X)
            tensors.append(model.fisher_rao_metric().tensor(z))
        assert torch.allclose(*tensors, rtol=1e-3)


def test_trainings_of_plain_models_are_measured_together():
    models = [
        from_torch(encode=lambda x: x.flatten(1)[:, :2], decode=nn.Sequential(seeded(seed), nn.Sigmoid()))
        for seed in range(3)
    ]
    dataset = pg.measure({"mine": models}, X.flatten(1), torch.tensor([[0, 1], [2, 3]]))
    assert dict(dataset.distance.sizes) == {"model": 1, "measure": 3, "retraining": 3, "pair": 2}
    assert dataset.distance.notnull().all()
    z = models[1].encode(X.flatten(1)).mean
    alone = pg.geodesic(models[1].metric(), z[[0, 2]], z[[1, 3]], init=pg.paths.Graph(models[1].metric(), z))
    found = dataset.distance.sel(model="mine", measure="geodesic", retraining=1)
    assert torch.allclose(torch.from_numpy(found.values).float(), alone.length, rtol=1e-4)


REFUSED = {
    "an encoder that samples": (
        {"encode": lambda x: encoder()(x).rsample(), "decode": NET},
        ValueError,
        "encode: called twice .* it samples",
    ),
    "an encoder in training mode": (
        {"encode": Encoder(), "decode": NET},
        ValueError,
        r"training mode, where BatchNorm2d .* Call \.eval\(\)",
    ),
    "a pair": (
        {"encode": lambda x: (x, x), "decode": NET},
        TypeError,
        "standard deviation or a log-variance. Say which",
    ),
    "codes of a shape": ({"encode": lambda x: x, "decode": NET}, ValueError, r"latent_shape=\(1, 4, 4\)"),
    "probabilities called logits": (
        {"encode": encoder(), "decode": nn.Sequential(NET, nn.Sigmoid()), "likelihood": pg.likelihoods.Bernoulli()},
        ValueError,
        r"all its outputs lie in \[0, 1\].* returns_means=True",
    ),
    "parameters that are missing": (
        {"encode": encoder(), "decode": NET, "likelihood": pg.Gaussian()},
        ValueError,
        "Gaussian needs log_std by name",
    ),
    "means and log-variances": (
        {"encode": lambda x: pg.Encoding(x.flatten(1)[:, :2], -1 - x.flatten(1)[:, :2]), "decode": NET},
        ValueError,
        r"expected standard deviations; got negative ones, as log-variances are",
    ),
    "an encoder that reads its neighbours": (
        {"encode": lambda x: x.flatten(1)[:, :2] / x.std(), "decode": NET},
        ValueError,
        "a row's code depends on the other rows",
    ),
    "codes in half precision": (
        {"encode": lambda x: x.flatten(1)[:, :2].half(), "decode": NET},
        TypeError,
        r"codes in float32 or float64; got torch.float16. Convert the encoder, \.float\(\)",
    ),
    "rows that do not fit": (
        {"encode": nn.Linear(7, 2), "decode": NET},
        ValueError,
        r"encode: it cannot be called with rows \(60, 1, 4, 4\) of torch.float32",
    ),
    "parameters of another shape": (
        {
            "encode": encoder(),
            "decode": NET,
            "likelihood": pg.likelihoods.NegativeBinomial(),
            "parameters": {"log_total_count": torch.zeros(5)},
        },
        ValueError,
        "log_total_count as a tensor of 16 numbers",
    ),
    "parameters that it has not": (
        {"encode": encoder(), "decode": NET, "likelihood": pg.Gaussian(std=1.0), "parameters": {"scale": X[0, 0, 0]}},
        ValueError,
        "parameters: Gaussian has no scale",
    ),
    "no decoders": ({"encode": encoder(), "decode": []}, ValueError, "decode: expected at least one"),
    "no function": ({"encode": encoder(), "decode": [3]}, TypeError, "decode"),
    "means of nothing": (
        {"encode": encoder(), "decode": NET, "returns_means": True},
        ValueError,
        "likelihood: expected",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_refused_in_words(name):
    options, error, message = REFUSED[name]
    with pytest.raises(error, match=rf"(?s){message}"):
        model = from_torch(**options)
        with pytest.raises(error, match=rf"(?s){message}"):
            model.encode(X)
        model.encode(X)  # and refused again


def test_what_a_model_lacks_is_refused_where_it_is_asked_for():
    model = from_torch(encode=encoder(), decode=NET)
    with pytest.raises(AttributeError, match="latent: from_torch knows it from its first encoding"):
        _ = model.latent
    model.encode(X)
    with pytest.raises(TypeError, match=r"fisher_rao_metric: the decoder says nothing .* likelihood="):
        model.fisher_rao_metric().tensor(torch.zeros(3, 2))
    with pytest.raises(TypeError, match="uncertainty"):
        model.uncertainty(torch.zeros(3, 2))


PICKED = {
    "a tuple": (lambda z: (NET(z), z), None, r"got a tuple of 2. Say which part with output="),
    "a dict": (lambda z: {"x": NET(z)}, None, r"got a dict of x. Say which"),
    "no such key": (lambda z: {"x": NET(z)}, "y", r"output: the decoder returns a dict of x, which has no 'y'"),
    "no such place": (lambda z: (NET(z),), 3, r"output: the decoder returns a tuple of 1, which has no 3"),
    "no such attribute": (NET, "weights", r"output: the decoder returns a Tensor, which has no 'weights'"),
    "points of another space": (
        nn.Linear(3, 16),
        None,
        r"(decoder: it|z: the model) cannot be called with points \(\d, 2\)",
    ),
}


@pytest.mark.parametrize("name", PICKED)
def test_outputs_that_are_not_picked_and_points_that_do_not_fit_are_refused_in_words(name):
    decode, output, message = PICKED[name]
    model = from_torch(encode=encoder(), decode=decode, output=output)
    z = model.encode(X).mean
    for call in (lambda: pg.geodesic(model.metric(), z[:2], z[2:4]), lambda: model.decode(z)):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


def test_rows_and_points_come_as_arrays_and_tables_too():
    rows, model = X.flatten(1), from_torch(encode=nn.Linear(16, 2).requires_grad_(False), decode=[NET, seeded(1)])
    z = model.encode(rows).mean
    for form in (lambda x: x.numpy(), lambda x: pd.DataFrame(x.numpy()), lambda x: x.numpy().astype(">f4")):
        assert torch.allclose(model.encode(form(rows)).mean, z, atol=1e-6)
        for function in (model.decode, model.uncertainty, model.metric().tensor):
            assert torch.allclose(function(form(z)), function(z), atol=1e-6)


@pytest.mark.parametrize(
    "decode",
    [
        lambda z: td.Normal(NET(z), 1.0),
        lambda z: td.Independent(td.Bernoulli(logits=NET(z)), 1),
        lambda z: td.MultivariateNormal(NET(z)[:, :2], torch.eye(2)),
    ],
)
def test_a_distribution_that_is_no_number_at_one_point_harms_no_other(decode):
    model = from_torch(encode=coder, decode=decode)
    z = model.encode(X).mean[:6].clone()
    alone = pg.geodesic(model.metric(), z[1:3], z[4:6], solver=SOLVER).length
    z[0] = torch.nan
    together = pg.geodesic(model.metric(), z[:3], z[3:6], solver=SOLVER)
    assert together.status.tolist() == [pg.Status.NONFINITE, pg.Status.CONVERGED, pg.Status.CONVERGED]
    torch.testing.assert_close(together.length[1:], alone)
    assert model.decode(z)[0].isnan().all() and model.decode(z)[1:].isfinite().all()
    assert td.Distribution._validate_args


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (lambda z: td.Normal(NET(z), -torch.ones(16)), "decode: Normal cannot have such scale"),
        (lambda z: td.Cauchy(NET(z), 1.0), "decode: Cauchy has no mean"),
        (lambda z: NET(z)[:, 0], r"decode: expected outputs .* write \[:, None\]"),
        (lambda z, _: NET(z), "cannot be called with points"),
    ],
)
def test_decoders_that_say_nothing_of_a_mean_are_refused_in_words(decode, message):
    model = from_torch(encode=coder, decode=decode)
    z = model.encode(X).mean
    for call in (model.decode, model.draws(), model.metric().tensor):
        with pytest.raises((ValueError, TypeError), match=message):
            call(z)


def test_layers_that_have_not_seen_their_input_are_refused_before_they_draw_weights():
    for options, name in (
        ({"encode": nn.LazyLinear(2), "decode": NET}, "encode"),
        ({"encode": coder, "decode": nn.LazyLinear(2)}, "decode"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: its weights weight are not there yet.* Call the model once"):
            from_torch(**options)
    inside = nn.LazyLinear(2)
    with pytest.raises(ValueError, match=r"^encode: weights of its LazyLinear are not there yet"):
        from_torch(encode=lambda x: inside(x.flatten(1)), decode=NET).encode(X)


NO_FUNCTIONS = {
    "a draw": (lambda z: NET(z) + torch.randn(16), "called twice"),
    "normalised by the first point": (lambda z: NET(z / z[:1].norm()), "depend on the other points"),
    "training mode": (nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16)), "training mode"),
    "half precision": (lambda z: NET(z).half(), "outputs in float32 or float64"),
}


@pytest.mark.parametrize("name", NO_FUNCTIONS)
def test_reconstructions_that_are_no_function_of_the_code_are_refused_too(name):
    decode, message = NO_FUNCTIONS[name]
    model = from_torch(encode=coder, decode=decode)
    for call in (lambda: model.decode(coder(X)), lambda: pg.measure({"mine": [model]}, X, PAIRS, EUCLIDEAN)):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


def test_what_works_in_place_works_on_its_own_copy():
    rows, means = X.clone(), 0.5

    def encode(x: Tensor) -> Tensor:
        x -= means
        return coder(x)

    def decode(z: Tensor) -> Tensor:
        z -= means
        return NET(z)

    model = from_torch(encode=encode, decode=[decode, decode])
    z = model.encode(rows).mean
    before = z.clone()
    assert torch.equal(rows, X) and torch.allclose(z, coder(X) - means)
    assert torch.allclose(model.decode(z), NET(before - means), atol=1e-6) and torch.equal(z, before)
    with pytest.raises(ValueError, match="changes its argument in place"):
        model.metric().tensor(z)
    assert torch.equal(z, before)


# --- in a study -------------------------------------------------------------------------------------------------------

PAIRS = torch.tensor([[0, 1], [2, 3]])
LINE, EUCLIDEAN = {"straight": pg.StraightLine(num_segments=8)}, {"euclidean": pg.Euclidean()}
NETS = [seeded(seed) for seed in range(3)]


def coder(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :2]


def test_a_study_of_plain_models_resumes_has_one_file_and_says_their_names(tmp_path, monkeypatch):
    done, measure = [], studies.measure_into
    monkeypatch.setattr(studies, "measure_into", lambda *job: (done.append(1), measure(*job)))

    def run(count: int):
        models = [from_torch(encode=coder, decode=NETS[i], name=f"course {i}") for i in range(count)]
        study = pg.Study(tmp_path, X, PAIRS, {"mine": models}, measures=LINE, regions={"all": torch.arange(9)})
        return study.run(progress=False)

    first = run(2)
    assert len(done) == 2 and first.volume.sel(measure="euclidean").notnull().all()
    assert run(2).identical(first) and len(done) == 2
    assert run(3).distance.isel(retraining=[0, 1]).identical(first.distance) and len(done) == 3
    with xr.open_dataset(tmp_path / "study.nc", engine="h5netcdf") as stored:
        assert stored.sizes["retraining"] == 3 and stored.distance.notnull().all()
        assert json.loads(stored.attrs["models"])["mine"] == ["course 0", "course 1", "course 2"]


ANOTHER: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": lambda: {},
    "other weights": lambda: {"decode": NETS[1]},
    "another function of the same weights": lambda: {"decode": lambda z: NETS[0](z).sigmoid()},
    "and another": lambda: {"decode": lambda z: NETS[0](z).tanh()},
    "other weights, read from the module around": lambda: {"decode": lambda z: NETS[1](z).tanh()},
    "another encoder": lambda: {"encode": lambda x: coder(x) * 2},
    "another likelihood": lambda: {"likelihood": pg.likelihoods.Bernoulli()},
    "and yet another": lambda: {"likelihood": pg.Gaussian(std=0.5)},
    "with another setting": lambda: {"likelihood": pg.Gaussian(std=0.7)},
    "another name": lambda: {"name": "second"},
    "a hook": lambda: {"decode": hooked()},
    "a part of it": lambda: {"decode": partial(torch.mul, 2.0)},
}


def hooked() -> nn.Module:
    net = seeded(0)
    net.register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


def test_what_differs_in_a_model_is_in_its_key_and_what_it_learns_of_itself_is_not():
    keys = {}
    for name, options in ANOTHER.items():
        first, second = (from_torch(**{"encode": coder, "decode": NETS[0], **options()}) for _ in range(2))
        keys[name] = model_key(first, "mine", 0)
        second.encode(X)
        assert model_key(second, "mine", 0) == keys[name], name
    assert len(set(keys.values())) == len(keys)


def test_functions_that_cannot_be_sent_to_other_processes_are_refused_in_words():
    models = {"mine": [from_torch(encode=lambda x: x.flatten(1)[:, :2], decode=NET)]}
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor,
        pytest.raises(TypeError, match=r"executor: models and measures are sent .* in a module, or measure here"),
    ):
        pg.measure(models, X, PAIRS, LINE, executor=executor)


def test_draws_take_arrays_and_tables_in_the_dtype_of_the_model():
    decode = [torch.nn.Linear(2, 6), torch.nn.Linear(2, 6)]
    plain = pg.adapters.from_torch(encode=lambda x: x[:, :2], decode=decode)
    gp = pg.VAE(decoder=pg.GPDecoder(num_inducing=4)).build(6, seed=0)
    given = pg.ConditionalVAE(decoder=pg.EnsembleDecoder(2)).build(6, seed=0)
    models = [plain, gp, given, pg.VAE(decoder=pg.EnsembleDecoder(2)).build(6, seed=0)]
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    for model in models:
        draws = model.draws(2)
        for same in (z.numpy(), z.numpy().astype("float64"), pd.DataFrame(z.numpy())):
            torch.testing.assert_close(draws(same).float(), draws(z))
        with pytest.raises(TypeError, match=r"^z: expected a floating-point tensor or array"):
            draws(z.int().numpy())
