"""Every likelihood in a model: it trains, has its metrics, and says what is wrong with data."""

import math

import pytest
import torch
from torch.func import jacfwd

from probgeo import VAE, Decoder, EnsembleDecoder, RBFDecoder, Training, fit, load
from probgeo.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    HeteroscedasticGaussian,
    Laplace,
    LibraryColumn,
    Mixed,
    NegativeBinomial,
    OneHotCategorical,
    Perceptual,
    Poisson,
    RowTotal,
    TwoParameterLikelihood,
    ZeroInflatedNegativeBinomial,
)
from probgeo.nn import MLP
from probgeo.specs import from_config, to_config

NET = MLP((8,))


class Features(torch.nn.Module):
    """A tiny extractor, defined in a module as a user's is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).tanh()


def real() -> torch.Tensor:
    return torch.randn(30, 4, generator=torch.Generator().manual_seed(0))


def counts() -> torch.Tensor:
    return torch.poisson(torch.full((30, 4), 3.0), generator=torch.Generator().manual_seed(0)) + 1


def labels(num_classes: int = 3) -> torch.Tensor:
    return torch.randint(num_classes, (30, 4), generator=torch.Generator().manual_seed(0)).float()


def one_hot() -> torch.Tensor:
    return torch.nn.functional.one_hot(labels(4)[:, 0].long(), 4).float()


def with_library() -> torch.Tensor:
    return torch.cat([counts(), counts().sum(1, keepdim=True)], dim=1)


MIXED = Mixed(
    (
        (Bernoulli(), 4),
        (Gaussian(), 4),
        (Categorical(3), 4),
        (OneHotCategorical(), 4),
        (NegativeBinomial(RowTotal(10.0)), 4),
        (Poisson(LibraryColumn(-1, 10.0)), 5),
    )
)
CASES = {
    "gaussian": (Gaussian(), real()),
    "heteroscedastic": (HeteroscedasticGaussian(), real()),
    "laplace": (Laplace(), real()),
    "continuous": (ContinuousBernoulli(), real().sigmoid()),
    "bernoulli": (Bernoulli(), (real() > 0).float()),
    "categorical": (Categorical(3), labels()),
    "one-hot": (OneHotCategorical(), one_hot()),
    "poisson": (Poisson(), counts()),
    "negative": (NegativeBinomial(RowTotal(10.0)), counts()),
    "column": (NegativeBinomial(LibraryColumn(4, 10.0)), with_library()),
    "inflated": (ZeroInflatedNegativeBinomial(RowTotal(10.0)), counts()),
    "inflated column": (ZeroInflatedNegativeBinomial(LibraryColumn(-1, 10.0), total_count=2.0), with_library()),
    "perceptual": (Perceptual(Features), real()),
    "mixed": (MIXED, torch.cat([(real() > 0).float(), real(), labels(), one_hot(), counts(), with_library()], dim=1)),
}


@pytest.mark.parametrize(("likelihood", "x"), CASES.values(), ids=CASES)
def test_it_trains_stacked_and_is_restored_with_its_means_and_metrics(likelihood, x, tmp_path):
    spec = VAE(2, EnsembleDecoder(2, NET), likelihood, encoder=NET)
    training = Training(epochs=2, batch_size=10, validation=0.2)
    first, second = fit(spec, x, seeds=(0, 1), training=training, folder=tmp_path, progress=False)
    for model in (first, second):
        assert all(bool(model.history[name].notnull().all()) for name in ("loss", "validation_loss", "log_likelihood"))
    z = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    mean, head = first.decode(z), likelihood.mean()
    outputs = torch.stack([first.decoder.members.member(index)(z) for index in range(2)])
    torch.testing.assert_close(mean, head(outputs).mean(0))
    tensors = [first.metric().tensor(z), first.fisher_rao_metric().tensor(z)]

    for tensor in tensors:
        assert tensor.shape == (7, 2, 2) and tensor.isfinite().all()
        assert (torch.linalg.eigvalsh(tensor)[:, 1] > 0).all()
    assert first.reconstruct(x).shape == (30, mean.shape[1]) and first.uncertainty(z).isfinite().all()
    assert from_config(to_config(likelihood)) == likelihood
    assert torch.equal(load(tmp_path / "seed-0").decode(z), mean)


@pytest.mark.parametrize("decoder", [Decoder(NET), EnsembleDecoder(3, NET)], ids=["single", "ensemble"])
@pytest.mark.parametrize("name", ["heteroscedastic", "inflated"])
def test_fisher_rao_metric_of_two_parameters_is_the_mean_of_the_pulled_back_information(decoder, name):
    likelihood = CASES[name][0]
    model = VAE(2, decoder, likelihood, encoder=NET).build(4, seed=0).double()
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if isinstance(decoder, Decoder):
        networks = [model.decoder.network]
    else:
        networks = [model.decoder.members.member(index) for index in range(3)]

    def tensor(network: torch.nn.Module, point: torch.Tensor) -> torch.Tensor:
        jacobian = jacfwd(network)(point)
        blocks = likelihood.information(network(point), model.parameters_of_likelihood())
        dense = torch.zeros(8, 8, dtype=torch.float64)
        for observation in range(4):
            rows = torch.tensor([observation, 4 + observation])
            dense[rows[:, None], rows] = blocks[observation]
        return jacobian.mT @ dense @ jacobian

    expected = torch.stack([torch.stack([tensor(network, point) for point in z]) for network in networks]).mean(0)
    metric = model.fisher_rao_metric()
    torch.testing.assert_close(metric.tensor(z), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(metric.tensor(z[None])[0], metric.tensor(z))
    linear = metric.linearize(torch.stack([z, z + 0.1]))
    assert all(part.isfinite().all() for part in linear)


ONE_PARAMETER = [name for name, (likelihood, _) in CASES.items() if not isinstance(likelihood, TwoParameterLikelihood)]


@pytest.mark.parametrize("name", ONE_PARAMETER)
def test_metrics_of_one_parameter_are_the_means_of_the_members_pull_backs(name):
    likelihood, x = CASES[name]
    model = VAE(2, EnsembleDecoder(3, NET), likelihood, encoder=NET).build(x.shape[1], seed=0).double()
    for start in model.phases:
        start.start(model, x.double(), 0)
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    heads = {
        "metric": likelihood.mean(),
        "fisher_rao_metric": likelihood.isometry(model.parameters_of_likelihood()),
    }
    for metric, head in heads.items():
        members = [torch.nn.Sequential(model.decoder.members.member(index), head) for index in range(3)]
        jacobians = [torch.stack([jacfwd(member)(point) for point in z]) for member in members]
        expected = torch.stack([jacobian.mT @ jacobian for jacobian in jacobians]).mean(0)
        torch.testing.assert_close(getattr(model, metric)().tensor(z), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["laplace", "continuous", "bernoulli", "poisson", "negative"])
def test_elementwise_heads_are_said_to_be_and_are_so(name):
    likelihood, x = CASES[name]
    head = likelihood.isometry(likelihood.initial_parameters(4, x))
    assert head.elementwise and not list(head.parameters())
    jacobian = jacfwd(head)(torch.linspace(-2, 2, 4))
    assert torch.equal(jacobian, jacobian.diagonal().diag())


def test_mixed_columns_are_independent_with_the_densities_of_their_parts():
    likelihood, x = CASES["mixed"]
    parameters = {**likelihood.initial_parameters(x.shape[1], x), **likelihood.known(x)}
    output = torch.randn(30, likelihood.num_outputs(x.shape[1]), generator=torch.Generator().manual_seed(2))
    observed = likelihood.observed(x)
    found = likelihood.distribution(output, parameters)
    blocks = output.split([part.num_outputs(width) for part, width in likelihood.parts], dim=-1)
    columns = x.split([width for _, width in likelihood.parts], dim=-1)
    expected = []
    for (part, width), block, own in zip(likelihood.parts, blocks, columns, strict=True):
        known = {**part.initial_parameters(width, own), **part.known(own)}
        expected.append(part.distribution(block, known).log_prob(part.observed(own)))
    torch.testing.assert_close(found.log_prob(observed), torch.cat(expected, dim=-1))
    assert found.sample().shape == observed.shape == found.mean.shape == found.batch_shape


def test_a_learned_total_count_starts_at_the_moments_of_the_data():
    generator = torch.Generator().manual_seed(0)
    rates = torch._standard_gamma(torch.full((20000, 1), 2.0), generator=generator) / 2 * 30
    x = torch.poisson(rates, generator=generator)
    assert abs(NegativeBinomial().initial_parameters(1, x)["log_total_count"].exp() - 2) < 0.2
    assert NegativeBinomial().initial_parameters(1, torch.ones(5, 1))["log_total_count"].isfinite().all()
    assert NegativeBinomial(LibraryColumn(0, 1.0)).initial_parameters(5)["log_total_count"].shape == (4,)


@pytest.mark.parametrize("name", ["heteroscedastic", "poisson", "laplace"])
def test_an_rbf_decoder_is_refused_for_other_likelihoods(name):
    with pytest.raises(ValueError, match="RBFDecoder learns the variance of Gaussian"):
        VAE(2, RBFDecoder(NET), CASES[name][0]).build(4, seed=0)


# --- bad data ---


def changed(x: torch.Tensor, value: float, row: int = 5, column: int = 2) -> torch.Tensor:
    x = x.clone()
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("likelihood", "x", "complaint"),
    [
        (Laplace(), changed(real(), math.nan), "x: expected finite values; got nan at row 5, column 2"),
        (ContinuousBernoulli(), changed(real().sigmoid(), 1.5), r"in \[0, 1\], as a continuous Bernoulli .* got 1.5"),
        (Poisson(), changed(counts(), -1.0), r"expected counts, which are not negative; got -1 at row 5, column 2"),
        (Poisson(), changed(counts(), 0.5), "expected counts, which are integers; got 0.5 at row 5, column 2.*raw"),
        (NegativeBinomial(RowTotal(10.0)), counts() * (torch.arange(30) != 7)[:, None], "at least one count.*at row 7"),
        (
            NegativeBinomial(LibraryColumn(4, 10.0)),
            changed(with_library(), 0.0, 3, 4),
            "expected positive library sizes; got 0 at row 3, column 4",
        ),
        (NegativeBinomial(LibraryColumn(4, 10.0)), counts(), "library size in column 4 .* got 4 columns. Append"),
        (Categorical(3), changed(labels(), 3.0), "expected labels 0, …, 2; got 3 at row 5, column 2"),
        (Categorical(3), changed(labels(), 0.5), "expected labels 0, …, 2; got 0.5"),
        (OneHotCategorical(), changed(one_hot(), 0.3), "expected one-hot columns of 0 and 1; got 0.3"),
        (OneHotCategorical(), torch.ones(3, 4), "one-hot rows with a single 1"),
        (MIXED, real(), "x: expected the 25 columns of the parts of Mixed; got 4"),
        (MIXED, changed(CASES["mixed"][1], 7.0, 2, 9), "expected labels 0, …, 2; got 7 at row 2, column 9"),
        (MIXED, changed(CASES["mixed"][1], 0.0, 2, 24), "positive library sizes; got 0 at row 2, column 24"),
    ],
)
def test_data_outside_the_support_are_refused_with_their_place(likelihood, x, complaint):
    with pytest.raises(ValueError, match=complaint):
        VAE(likelihood=likelihood).check(x)


@pytest.mark.parametrize(
    ("build", "kind", "complaint"),
    [
        (lambda: Laplace(0.0), ValueError, "scale: expected a positive number"),
        (lambda: HeteroscedasticGaussian(0.0), ValueError, "floor: expected a positive"),
        (lambda: Perceptual(Features()), TypeError, "features"),
        (lambda: Perceptual(Features, -1.0), ValueError, "std: expected a positive"),
        (lambda: Categorical(1), ValueError, "num_classes: expected at least 2"),
        (lambda: RowTotal(0.0), ValueError, "reference: expected a positive library size"),
        (lambda: LibraryColumn(0, math.inf), ValueError, "reference: expected a positive library size"),
        (lambda: NegativeBinomial(total_count=0.0), ValueError, "total_count: expected a positive"),
        (lambda: Mixed(()), ValueError, "parts: expected likelihoods"),
        (lambda: Mixed(((Bernoulli(), 0),)), ValueError, "each with at least one column"),
    ],
)
def test_impossible_likelihoods_are_refused(build, kind, complaint):
    with pytest.raises(kind, match=complaint):
        build()
