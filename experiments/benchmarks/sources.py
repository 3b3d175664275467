"""Other sources of uncertainty and likelihoods, each stacked by hand as one would: what `fit` is timed against."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import probgeo as pg

WIDTH = 128  # of both hidden layers of all networks
RANK = 10
NUM_CENTERS = 64
LATENT = 2


class Layers(nn.Module):
    """Perceptrons (network, row, input) -> (network, row, output), one `baddbmm` a layer."""

    def __init__(self, num: int, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        sizes = [(num_inputs, WIDTH), (WIDTH, WIDTH), (WIDTH, num_outputs)]
        self.weights = nn.ParameterList(torch.randn(num, *size) / math.sqrt(size[0]) for size in sizes)
        self.biases = nn.ParameterList(torch.zeros(num, 1, output) for _, output in sizes)

    def forward(self, h: Tensor) -> Tensor:
        return network(h, self.weights, self.biases)


def network(h: Tensor, weights: nn.ParameterList | list[Tensor], biases: nn.ParameterList | list[Tensor]) -> Tensor:
    """A perceptron of SiLUs, linear at the end."""
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        h = torch.baddbmm(bias, functional.silu(h) if layer else h, weight)
    return h


def code(output: Tensor) -> tuple[Tensor, Tensor]:
    """z ~ q(z | x), and KL(q ‖ N(0, I)) of each retraining, of an encoder's output."""
    mean, log_std = output.chunk(2, -1)
    z = mean + log_std.exp() * torch.randn_like(mean)
    return z, (0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std).sum((1, 2))


def normal_nll(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-Σ log N(x; mean, std²) of each retraining."""
    constant = log_std + 0.5 * math.log(2 * math.pi)
    return (0.5 * ((x - mean) * torch.exp(-log_std)) ** 2 + constant).sum((1, 2))


class ByHand(nn.Module):
    """What all have: an encoder, a decoder, and one noise level for each retraining.

    Args:
        num: retrainings.
        num_features: of a row.
        num_rows: of the data.
        num_inputs: of the encoder; default those of a row.
        num_outputs: of the decoder; default those of a row.
        num_given: what the decoder reads beside a code.
    """

    num_rows: int

    def __init__(
        self, num: int, num_features: int, num_rows: int, num_inputs: int = 0, num_outputs: int = 0, num_given: int = 0
    ) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.encoder = Layers(num, num_inputs or num_features, 2 * LATENT)
        self.decoder = Layers(num, LATENT + num_given, num_outputs or num_features)
        self.log_std = nn.Parameter(torch.zeros(num, 1, 1))


class Single(ByHand):
    """One decoder, one noise level."""

    def forward(self, x: Tensor) -> Tensor:
        z, kl = code(self.encoder(x))
        return ((kl + normal_nll(x, self.decoder(z), self.log_std)) / x.shape[1]).sum()


class Precision(ByHand):
    """The second phase of an RBF decoder: σ⁻² = W (φ(z) + floor φ̄), of which W alone moves."""

    def __init__(self, num: int, num_features: int, num_rows: int) -> None:
        super().__init__(num, num_features, num_rows)
        self.requires_grad_(False)
        self.log_weights = nn.Parameter(torch.zeros(num, NUM_CENTERS, num_features))
        self.centers, self.scale, self.floor = torch.randn(num, NUM_CENTERS, LATENT), torch.ones(num, 1, 1), 1e-2

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z, kl = code(self.encoder(x))
            mean = self.decoder(z)
            squares = (z**2).sum(-1, keepdim=True) + (self.centers**2).sum(-1)[:, None] - 2 * z @ self.centers.mT
            basis = torch.exp(-0.5 * squares / self.scale**2) + self.floor
        log_std = -0.5 * torch.log(basis @ self.log_weights.exp())
        return ((kl + normal_nll(x, mean, log_std)) / x.shape[1]).sum()


class Dropout(ByHand):
    """Hidden units of the decoder are dropped, one in ten, in every row others."""

    def forward(self, x: Tensor) -> Tensor:
        h, kl = code(self.encoder(x))
        for layer, (weight, bias) in enumerate(zip(self.decoder.weights, self.decoder.biases, strict=True)):
            h = torch.baddbmm(bias, functional.dropout(functional.silu(h), 0.1) if layer else h, weight)
        return ((kl + normal_nll(x, h, self.log_std)) / x.shape[1]).sum()


class MeanField(ByHand):
    """All weights of the decoder are normal, w = m + s ε, drawn once a step; prior N(0, 1 / fan-in), biases N(0, 1)."""

    def __init__(self, num: int, num_features: int, num_rows: int) -> None:
        super().__init__(num, num_features, num_rows)
        means = [*self.decoder.weights, *self.decoder.biases]
        self.priors = [mean.shape[1] ** -0.5 for mean in means]  # a bias has one row
        log_stds = [math.log(0.03 * prior) for prior in self.priors]
        self.log_stds = nn.ParameterList(
            torch.full_like(mean, log_std) for mean, log_std in zip(means, log_stds, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        z, kl = code(self.encoder(x))
        drawn, of_weights = [], torch.zeros(len(x))
        means = [*self.decoder.weights, *self.decoder.biases]
        for mean, log_std, prior in zip(means, self.log_stds, self.priors, strict=True):
            std = log_std.exp()
            drawn.append(mean + std * torch.randn_like(mean))
            ratio = 0.5 * (std**2 + mean**2) / prior**2 - log_std + math.log(prior) - 0.5
            of_weights = of_weights + ratio.sum((1, 2))
        nll = normal_nll(x, network(z, drawn[:3], drawn[3:]), self.log_std)
        return ((kl + nll) / x.shape[1] + of_weights / self.num_rows).sum()


class LowRank(ByHand):
    """[W, b] of the last layer is normal, output by output: w = m + F ε + s ε', F of ten columns."""

    def __init__(self, num: int, num_features: int, num_rows: int) -> None:
        super().__init__(num, num_features, num_rows)
        prior = torch.full((WIDTH + 1, 1), WIDTH**-0.5)
        prior[-1] = 1.0
        self.prior = prior[:, 0]
        self.log_std = nn.Parameter(torch.zeros(num, 1, 1))
        self.log_stds = nn.Parameter((0.03 * self.prior).log().expand(num, num_features, WIDTH + 1).clone())
        self.factor = nn.Parameter(0.03 / RANK**0.5 * torch.randn(num, num_features, WIDTH + 1, RANK))

    def forward(self, x: Tensor) -> Tensor:
        z, kl = code(self.encoder(x))
        *weights, last = self.decoder.weights
        *biases, bias = self.decoder.biases
        mean = torch.cat([last, bias], 1).mT
        factor, variance = self.prior[:, None] * self.factor, (2 * self.log_stds).exp()
        noise = (factor @ torch.randn(*factor.shape[:2], RANK, 1))[..., 0]
        drawn = mean + noise + self.log_stds.exp() * torch.randn_like(mean)
        # log |F Fᵀ + D| = log |I + Fᵀ D⁻¹ F| + log |D|
        inner = torch.eye(RANK) + factor.mT @ (factor / variance[..., None])
        log_det = 2 * torch.linalg.cholesky(inner).diagonal(dim1=-2, dim2=-1).log().sum((1, 2))
        log_det = log_det + (2 * self.log_stds).sum((1, 2))
        trace = ((factor**2).sum(-1) + variance + mean**2) / self.prior**2 - 1
        of_weights = 0.5 * ((trace + 2 * self.prior.log()).sum((1, 2)) - log_det)
        y = torch.baddbmm(drawn[..., None, -1].mT, functional.silu(network(z, weights, biases)), drawn[..., :-1].mT)
        nll = normal_nll(x, y, self.log_std)
        return ((kl + nll) / x.shape[1] + of_weights / self.num_rows).sum()


class Counts(ByHand):
    """x ~ negative binomial of mean exp(output), with an r of each column."""

    def __init__(self, num: int, num_features: int, num_rows: int) -> None:
        super().__init__(num, num_features, num_rows)
        self.log_total = nn.Parameter(torch.zeros(num, 1, num_features))

    def forward(self, x: Tensor) -> Tensor:
        z, kl = code(self.encoder(torch.log1p(x)))
        logits, total = self.decoder(z) - self.log_total, self.log_total.exp()
        density = total * functional.logsigmoid(-logits) + x * functional.logsigmoid(logits)
        norm = torch.lgamma(total + x) - torch.lgamma(1 + x) - torch.lgamma(total)
        return ((kl - (density + norm).sum((1, 2))) / x.shape[1]).sum()


class Heteroscedastic(ByHand):
    """The decoder's output is the mean and, by softplus, the standard deviation."""

    def __init__(self, num: int, num_features: int, num_rows: int) -> None:
        super().__init__(num, num_features, num_rows, num_outputs=2 * num_features)

    def forward(self, x: Tensor) -> Tensor:
        z, kl = code(self.encoder(x))
        mean, raw = self.decoder(z).chunk(2, -1)
        return ((kl + normal_nll(x, mean, torch.log(1e-3 + functional.softplus(raw)))) / x.shape[1]).sum()


class Conditional(ByHand):
    """Half of the features are given, in every row others; the likelihood is of the rest."""

    def __init__(self, num: int, num_features: int, num_rows: int) -> None:
        super().__init__(num, num_features, num_rows, num_inputs=4 * num_features, num_given=2 * num_features)

    def forward(self, x: Tensor) -> Tensor:
        mask = (torch.rand_like(x) < 0.5).to(x)
        condition = torch.cat([x * mask, mask], -1)
        z, kl = code(self.encoder(torch.cat([x, torch.ones_like(x), condition], -1)))
        mean = self.decoder(torch.cat([z, condition], -1))
        nll = 0.5 * ((x - mean) * torch.exp(-self.log_std)) ** 2 + self.log_std + 0.5 * math.log(2 * math.pi)
        return ((kl + (nll * (1 - mask)).sum((1, 2))) / x.shape[1]).sum()


class Source(NamedTuple):
    """A source of uncertainty: what `fit` trains, and the same by hand.

    Args:
        spec: of the model.
        by_hand: (retrainings, features, rows) -> module.
        last_phase: whether the last phase is what is timed; otherwise the first.
    """

    spec: pg.ModelSpec
    by_hand: Callable[[int, int, int], nn.Module]
    last_phase: bool = False


SOURCES = {
    "single": Source(pg.VAE(LATENT), Single),
    "RBF, precision": Source(pg.VAE(LATENT, pg.RBFDecoder(num_centers=NUM_CENTERS)), Precision, last_phase=True),
    "dropout": Source(pg.VAE(LATENT, pg.DropoutDecoder()), Dropout),
    "mean field": Source(pg.VAE(LATENT, pg.BayesianDecoder(guide=pg.posteriors.MeanField())), MeanField),
    "low rank": Source(pg.VAE(LATENT, pg.BayesianDecoder(guide=pg.posteriors.LowRank(RANK))), LowRank),
    "negative binomial": Source(pg.VAE(LATENT, likelihood=pg.likelihoods.NegativeBinomial()), Counts),
    "heteroscedastic": Source(pg.VAE(LATENT, likelihood=pg.HeteroscedasticGaussian()), Heteroscedastic),
    "conditional": Source(pg.ConditionalVAE(LATENT), Conditional),
}


def rows_of(name: str, num_rows: int, num_features: int) -> Tensor:
    """Data for a source: counts, or numbers in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(num_rows, num_features, generator=generator)
    return torch.poisson(5 * x, generator=generator) if name == "negative binomial" else x
