"""Conditional variational autoencoders: any subset of the features, or covariates, are conditions."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points
from probgeo.likelihoods import Gaussian, Likelihood
from probgeo.models.base import Encoding, FittedModel, block_by_block, suited
from probgeo.models.conditional.given import GivenVAE, MeanColumns
from probgeo.models.conditional.masks import Mask, NoMask, RandomMask, Target, Unobserved
from probgeo.models.conditional.model import ConditionalModel, checked_num, filled, groups_of_samples
from probgeo.models.decoders.decoder import DecoderSpec
from probgeo.models.decoders.last_layer.sampled import random_state_of
from probgeo.models.decoders.single import Decoder
from probgeo.models.networks import check_parts
from probgeo.models.vae import LatentSpec, Warmup
from probgeo.nn import MLP, Network

_ROWS = 500


@dataclass(frozen=True)
class ConditionalVAE(LatentSpec):
    """Spec of p(x_u | c) = ∫ p(x_u | z, c) N(z; 0, I) dz, with c = [x⊙m, m], m a mask of conditions, and covariates.

    Missing values of x are NaN: they are left out of the likelihood, and the encoder is told which they are. A zero is
    a zero. The encoder reads x and c, the decoder z and c.

    Args:
        latent: dimension d of z.
        decoder: spec of the decoder of [z; c], with its source of uncertainty. Decoders that are fitted to the codes
            after training (RBF, a Gaussian process, posteriors of the last layer) need `mask=NoMask()`.
        likelihood: distribution of the modelled features given the decoder's output, one distribution per feature.
            Counts with a library size need `mask=NoMask()`: the total of the modelled columns, or one of these columns,
            counted without the covariates. Batch and library size: `covariates` are the batch's one-hot columns.
        encoder: spec of the network [x; c] -> mean and log standard deviation of q(z | x, c), the latter within [-20,
            log 10], see `VAE`.
        beta: weight of KL(q ‖ N(0, I)) in the objective: a number, one number per latent dimension, or a `Warmup`.
        mask: how masks are drawn in training: `RandomMask(p)`, `RandomShare()`, or `NoMask()` for covariates alone.
        covariates: columns of x (labels, measured covariates) that are always conditions, and not modelled.
        target: the features that the likelihood is of: `Unobserved()` ones, or `Everything()`.

    Raises:
        ValueError: as `VAE`; a repeated covariate; neither a mask nor covariates to condition on.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
        >>> x[0, 1] = torch.nan  # missing
        >>> training = pg.Training(epochs=1, batch_size=20)
        >>> [model] = pg.fit(pg.ConditionalVAE(latent=2), x, training=training, progress=False)
        >>> given = model.given_values({0: 0.5, 3: 0.1})  # p(x_1, x_2 | x_0, x_3), a model with a geometry of its own
        >>> z = torch.zeros(1, 2)
        >>> given.decode(z)[0, [0, 3]]
        tensor([0.5000, 0.1000], grad_fn=<IndexBackward0>)
        >>> given.metric().tensor(z).shape
        torch.Size([1, 2, 2])

    References:
        Sohn, Lee & Yan (2015), Learning structured output representation using deep conditional generative models;
        Ivanov, Figurnov & Vetrov (2019), Variational autoencoder with arbitrary conditioning.
    """

    latent: int = 2
    decoder: DecoderSpec = Decoder()
    likelihood: Likelihood = Gaussian()
    encoder: Network = MLP()
    beta: float | tuple[float, ...] | Warmup = 1.0
    mask: Mask = RandomMask()
    covariates: tuple[int, ...] = ()
    target: Target = Unobserved()
    has_conditions = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parts(self)
        object.__setattr__(self, "covariates", tuple(int(column) for column in self.covariates))
        if len(set(self.covariates)) < len(self.covariates):
            raise ValueError(f"covariates: expected different columns; got {self.covariates}.")
        if isinstance(self.mask, NoMask) and not self.covariates:
            raise ValueError("mask, covariates: expected something to condition on; got neither. Use VAE(...).")

    @property
    def num_members(self) -> int:
        return self.decoder.num_members

    def columns(self, num_features: int) -> tuple[list[int], list[int]]:
        """The modelled columns of x, and the covariates, of so many in all.

        Raises:
            ValueError: a covariate is no column of x, or none is left to model.
        """
        outside = [column for column in self.covariates if not -num_features <= column < num_features]
        if outside:
            raise ValueError(f"covariates: expected columns of the {num_features} of x; got {outside}.")
        covariates = [column % num_features for column in self.covariates]
        if len(set(covariates)) < len(covariates):
            raise ValueError(f"covariates: expected different columns of {num_features}; got {self.covariates}.")
        modelled = [column for column in range(num_features) if column not in set(covariates)]
        if not modelled:
            raise ValueError(f"covariates: all {num_features} columns of x are covariates; leave some to model.")
        return modelled, covariates

    def _check_values(self, x: Float[Tensor, "row feature"]) -> None:
        """Covariates are there, and values in the likelihood's support; NaN is a missing value."""
        modelled, covariates = self.columns(x.shape[1])
        bad = ~x[:, covariates].isfinite()
        if bad.any():
            row, number = bad.nonzero()[0].tolist()
            raise ValueError(
                f"x: expected finite covariates, which are never missing; got {x[row, covariates[number]].item():g} at "
                f"row {row}, column {covariates[number]} ({int(bad.sum())} such values). Impute them, or model them."
            )
        if x[:, modelled].isnan().any() and self.likelihood.known(filled(x[:1, modelled])):
            raise ValueError(
                "x: expected every count, where a row's counts are parts of its library size; got missing ones (NaN). "
                "Remove these rows or columns."
            )
        try:
            # Zero is in the support of every likelihood of separate features.
            self.likelihood.check(filled(x[:, modelled]))
        except ValueError as error:
            if not covariates:
                raise
            raise ValueError(f"{error} (Columns are counted without the covariates.)") from error

    def _built(self, num_features: int, history: xr.Dataset | None) -> "FittedConditionalVAE":
        return FittedConditionalVAE(self, num_features, history)


class FittedConditionalVAE(ConditionalModel, FittedModel):
    """A conditional variational autoencoder with weights: a Pyro model/guide pair, and its geometry given a condition.

    Built by `ConditionalVAE.build`, fitted by `probgeo.fit`, restored by `probgeo.load`. Masks are True where a feature
    of x is a condition, of shape (row, feature) or (feature,), with one entry per column of x; those of covariates do
    not matter. Without a mask nothing is observed. `metric`, `decode`, `uncertainty` and `draws` of the model itself
    are those where no feature is observed and the covariates have the mean of their training values.
    """

    has_conditions = True

    def __init__(self, spec: ConditionalVAE, num_features: int, history: xr.Dataset | None = None) -> None:
        super().__init__(spec, num_features)
        self.latent = spec.latent
        self.num_members = spec.num_members
        self.history = history

    @block_by_block
    def encode(self, x: Any, mask: Tensor | None = None) -> Encoding:
        """Mean and standard deviation of q(z | x, c), each (row, latent), with the rows' own covariates."""
        x = suited("x", x, self, "row feature")
        y, covariates = self.split(x)
        self.spec.check_encoded(x)
        return self.encoding(y, self.checked_mask(x, mask), covariates)

    def encode_given(self, x: Float[Tensor, "row feature"], y: Tensor, mask: Tensor, covariates: Tensor) -> Encoding:
        """q(z | x, c) where all rows have one condition: they take its covariates, and y where the mask is True."""
        own, _ = self.split(x)
        mask, covariates = mask.expand_as(own), covariates.expand(len(x), -1)
        whole = torch.empty_like(x)
        whole[:, self.modelled], whole[:, self.covariates] = torch.where(mask, y, own), covariates
        self.spec.check_encoded(whole)
        return self.encoding(whole[:, self.modelled], mask, covariates)

    # --- geometry given a condition ---

    def given(self, x: Float[Tensor, " feature"], mask: Tensor | None = None) -> GivenVAE:
        """The model given one condition: a function of z alone, with its metric.

        Args:
            x: values of all columns: those of covariates, and where the mask is True, are used.
            mask: which features are given, (feature,); None: none, covariates alone.

        Raises:
            ValueError: another shape or type, a missing value that is given or of a covariate, or all features given.
        """
        row = x.detach()[None]
        y, covariates = self.split(row)
        mask = self.checked_mask(row, mask)
        if bool(mask.all()):
            raise ValueError("mask: every feature is given, so nothing is left that could vary. Leave one out.")
        if covariates.isnan().any():
            raise ValueError(f"x: expected values of the covariates {self.covariates}; got {covariates[0].tolist()}.")
        y, conditions = filled(y), self.conditions(y, mask, covariates)
        return GivenVAE(self, y[0], mask[0], covariates[0], conditions[0])

    def given_values(self, values: Mapping[int, float]) -> GivenVAE:
        """The model given values by column of x: of features, and of all covariates.

        Raises:
            ValueError: no such column, a covariate without a value, or all features given.
        """
        outside = [column for column in values if not 0 <= column < self.num_features]
        absent = [column for column in self.covariates if column not in values]
        if outside or absent:
            raise ValueError(
                f"values: expected columns 0 to {self.num_features - 1}, and the covariates {self.covariates} among "
                f"them; got {sorted(values)}."
            )
        x, mask = self.reference.new_zeros(self.num_features), torch.zeros(self.num_features, dtype=torch.bool)
        for column, value in values.items():
            x[column], mask[column] = value, column in self.modelled
        return self.given(x, mask)

    def given_nothing(self) -> GivenVAE:
        """The model where no feature is observed and the covariates are the mean of their training values."""
        x = self.reference.new_zeros(self.num_features)
        x[self.covariates] = self.reference
        return self.given(x)

    def decode(self, z: Points) -> Float[Tensor, "*batch observation"]:
        """E[x | z], averaged over the decoder's draws, where nothing is observed."""
        return self.given_nothing().decode(z)

    def reconstruct(
        self, x: Float[Tensor, "row feature"], mask: Tensor | None = None
    ) -> Float[Tensor, "row observation"]:
        """E[x | z, c] at the mean of q(z | x, c), each row under its own condition; what is given has its value."""
        y, covariates = self.split(x)
        mask = self.checked_mask(x, mask)
        return next(self._means([self.encoding(y, mask, covariates).mean], y, mask, covariates))

    def _means(
        self, codes: Iterable[Float[Tensor, "row latent"]], y: Tensor, mask: Tensor, covariates: Tensor
    ) -> Iterator[Float[Tensor, "row observation"]]:
        """E[x | z, c] of rows with conditions of their own, for one set of codes after the other."""
        mean = self.decoder.mean(self.spec.likelihood.mean())
        columns = MeanColumns(self.spec.likelihood, len(self.modelled))
        given, known = mask[..., columns.owner.to(mask.device)], columns.of(filled(y))
        conditions = self.conditions(y, mask, covariates)
        for z in codes:
            yield torch.where(given, known, mean(torch.cat([z, conditions], dim=-1)))

    def _prior_means(self, x: Tensor, mask: Tensor | None, num: int, seed: int) -> Iterator[Tensor]:
        """E[x | z, c] at as many z from the prior."""
        y, covariates = self.split(x)
        with random_state_of(seed, x.device):
            codes = [torch.randn(len(x), self.spec.latent).to(x) for _ in range(checked_num(num))]
        yield from self._means(codes, y, self.checked_mask(x, mask), covariates)

    def metric(self) -> Metric:
        """The metric of the decoder's uncertainty in the space of E[x | z], where nothing is observed."""
        return self.given_nothing().metric()

    def fisher_rao_metric(self) -> Metric:
        """The Fisher-Rao metric of the observation under the decoder's uncertainty, where nothing is observed."""
        return self.given_nothing().fisher_rao_metric()

    def uncertainty(self, z: Points) -> Float[Tensor, "*batch"]:
        """Root mean square of the decoder's standard deviation at z; units of x, where nothing is observed."""
        return self.given_nothing().uncertainty(z)

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Any:
        """Fixed decoder functions z -> E[x | z], as those of `FittedVAE`, where nothing is observed."""
        return self.given_nothing().draws(num_draws, seed)

    # --- what is learned of the features that are not given ---

    def rate(self, x: Float[Tensor, "row feature"], mask: Tensor | None = None) -> Float[Tensor, "row latent"]:
        """KL(q(z_k | x, c) ‖ N(0, 1)) of every latent dimension, nats.

        Args:
            x: rows; NaN where missing.
            mask: conditions, (row, feature) or (feature,); None: nothing is observed.
        """
        mean, std = self.encode(x, mask)
        return (mean.square() + std.square() - 1) / 2 - std.log()

    def distortion(
        self, x: Float[Tensor, "row feature"], mask: Tensor | None = None, num_samples: int = 10, seed: int = 0
    ) -> Float[Tensor, "row feature"]:
        """−E_q[log p(x_j | z, c)] of every feature, nats; NaN for conditions, covariates and missing values.

        Args:
            x: rows; NaN where missing.
            mask: conditions, (row, feature) or (feature,); None: nothing is observed.
            num_samples: samples z ~ q(z | x, c), and draws of the decoder, that it is the mean of.
            seed: of the samples.
        """
        given = self.checked_mask(x, mask)
        found, columns = torch.full_like(x, torch.nan), self._observed_columns()
        mean = torch.cat([likelihood.mean(1) for likelihood, _ in self._log_probs(x, mask, num_samples, seed)])
        found[:, columns] = (-mean).masked_fill(given[:, self.observed] | x[:, columns].isnan(), torch.nan)
        return found

    def elbo(
        self, x: Float[Tensor, "row feature"], mask: Tensor | None = None, num_samples: int = 10, seed: int = 0
    ) -> Float[Tensor, " row"]:
        """E_q[log p(x_u | z, c)] − KL(q(z | x, c) ‖ N(0, I)) <= log p(x_u | c), nats; arguments as `distortion`."""
        return -self.distortion(x, mask, num_samples, seed).nansum(1) - self.rate(x, mask).sum(1)

    def log_likelihood(
        self, x: Float[Tensor, "row feature"], mask: Tensor | None = None, num_samples: int = 100, seed: int = 0
    ) -> Float[Tensor, " row"]:
        """log p(x_u | c) ≈ log mean of p(x_u | z, c) p(z) / q(z | x, c), nats; a lower bound in expectation.

        Args:
            x: rows; what is missing is left out.
            mask: conditions, (row, feature) or (feature,); None: nothing is observed.
            num_samples: samples z ~ q(z | x, c); the decoder is drawn too.
            seed: of the samples.

        References:
            Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, eq. 8.
        """
        found = []
        for likelihood, prior_over_posterior in self._log_probs(x, mask, num_samples, seed):
            weight = likelihood.sum(-1) + prior_over_posterior
            found.append(weight.logsumexp(1) - math.log(weight.shape[1]))
        return torch.cat(found)

    @torch.no_grad()
    def _log_probs(
        self, x: Tensor, mask: Tensor | None, num_samples: int, seed: int
    ) -> Iterator[tuple[Float[Tensor, "row sample modelled"], Float[Tensor, "row sample"]]]:
        """log p(x_j | z, c), 0 where x_j is given or missing, and log p(z) / q(z | x, c), block of rows by block."""
        given = self.checked_mask(x, mask)
        beta = torch.ones(self.spec.latent, dtype=x.dtype, device=x.device)
        hidden = ~given[:, self.observed] & ~x[:, self._observed_columns()].isnan()
        with random_state_of(seed, x.device):
            for rows, masks, modelled in zip(x.split(_ROWS), given.split(_ROWS), hidden.split(_ROWS), strict=True):
                likelihoods, ratios = [], []
                for copies in groups_of_samples(num_samples):
                    repeated, repeated_mask = rows.repeat_interleave(copies, 0), masks.repeat_interleave(copies, 0)
                    guide = poutine.trace(self.guide).get_trace(repeated, beta=beta, mask=repeated_mask)
                    model = poutine.replay(self.model, guide)
                    joint = poutine.trace(model).get_trace(repeated, beta=beta, mask=repeated_mask)
                    guide.compute_log_prob()
                    joint.compute_log_prob()
                    ratio = joint.nodes["z"]["log_prob"] - guide.nodes["z"]["log_prob"]
                    likelihood = joint.nodes["x"]["log_prob"].unflatten(0, (len(rows), copies))
                    likelihoods.append(likelihood * modelled[:, None])
                    ratios.append(ratio.sum(1).unflatten(0, (len(rows), copies)))
                yield torch.cat(likelihoods, 1), torch.cat(ratios, 1)

    # --- samples and imputations ---

    @torch.no_grad()
    def sample(
        self, x: Float[Tensor, "row feature"], mask: Tensor | None = None, num: int = 1, seed: int = 0
    ) -> Float[Tensor, "sample row feature"]:
        """x ~ p(x_u | c), with z from the prior; what is given has its value.

        Args:
            x: rows whose given features and covariates are the conditions; the other values do not matter.
            mask: conditions, (row, feature) or (feature,); None: nothing is observed.
            num: samples per row.
            seed: of the samples.
        """
        y, covariates = self.split(x)
        mask, found = self.checked_mask(x, mask), []
        with random_state_of(seed, x.device):
            for copies in groups_of_samples(num):
                rows = [part.repeat_interleave(copies, 0) for part in (y, mask, covariates)]
                known = self.spec.likelihood.known(filled(rows[0]))
                z = torch.randn(len(rows[0]), self.spec.latent).to(x)
                inputs = torch.cat([z, self.conditions(*rows)], dim=-1)
                guide = poutine.trace(self.decoder.guide).get_trace(inputs)
                parameters = {**self.parameters_of_likelihood(), **known}
                output, parameters = poutine.replay(self.decoder, guide)(inputs, parameters)
                drawn = self.spec.likelihood.distribution(output, parameters).sample().to(x)
                found.append(drawn.unflatten(0, (len(x), copies)).movedim(1, 0))
        return self._completed(x, torch.where(mask[:, self.observed], y[:, self.observed], torch.cat(found)))

    @torch.no_grad()
    def means(
        self, x: Float[Tensor, "row feature"], mask: Tensor | None = None, num: int = 1, seed: int = 0
    ) -> Float[Tensor, "sample row observation"]:
        """E[x | z, c], averaged over the decoder's draws, at z from the prior: samples without observation noise.

        Arguments as `sample`.
        """
        return torch.stack(list(self._prior_means(x, mask, num, seed)))

    @torch.no_grad()
    def impute(
        self, x: Float[Tensor, "row feature"], mask: Tensor | None = None, num_samples: int = 100, seed: int = 0
    ) -> Float[Tensor, "row feature"]:
        """E[x_u | c], the mean over z of the prior; for classes the likeliest one. What is given has its value.

        Args:
            x: rows; NaN where missing.
            mask: conditions, (row, feature) or (feature,); None: all that is not missing is given.
            num_samples: samples z ~ N(0, I).
            seed: of the samples.
        """
        mask = ~x.isnan() if mask is None and self.num_uniforms else mask
        y, _ = self.split(x)
        mean = sum(self._prior_means(x, mask, num_samples, seed)) / num_samples
        features = MeanColumns(self.spec.likelihood, len(self.modelled)).features(torch.as_tensor(mean))
        given = self.checked_mask(x, mask)[:, self.observed]
        return self._completed(x, torch.where(given, y[:, self.observed], features))

    def _completed(self, x: Tensor, y: Float[Tensor, "*batch observed"]) -> Float[Tensor, "*batch feature"]:
        """Rows of x with the observed features y."""
        whole = x.expand(*y.shape[:-1], -1).clone()
        whole[..., self._observed_columns()] = y
        return whole

    def _observed_columns(self) -> list[int]:
        """Columns of x that the likelihood is of."""
        return [self.modelled[place] for place in self.observed]
