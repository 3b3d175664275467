"""The Pyro model and guide of conditional variational autoencoders: masks, missing values, how training starts."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from pyro import poutine
from torch import Tensor

from probgeo.likelihoods import Likelihood, Mixed, OneHotCategorical
from probgeo.models.base import Encoding
from probgeo.models.conditional.masks import NoMask
from probgeo.models.networks import Networks, in_range
from probgeo.models.phase import Phase, Target, inside, start_from_data, with_decoder
from probgeo.models.vae import data_plate, positive
from probgeo.rows import StoredRows, row_blocks, rows_where, spread
from probgeo.seeds import stream


def filled(y: Tensor) -> Tensor:
    """y, 0 where it is missing."""
    return y.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def columns(values: Tensor, places: list[int]) -> Tensor:
    """Some columns; their numbers are where the values are: a list would be sent there at every step."""
    if places == list(range(values.shape[-1])):
        return values
    return values[..., torch.tensor(places, dtype=torch.long, device=values.device)]


PER_DRAW = 10  # samples of z that share a draw of the decoder; members of an ensemble take turns over them


def checked_num(num: int) -> int:
    """The number of samples; ValueError below one."""
    if num < 1:
        raise ValueError(f"num: expected at least one sample; got {num}.")
    return num


def groups_of_samples(num: int) -> Iterator[int]:
    """Numbers of samples that share a draw of the decoder."""
    for begin in range(0, checked_num(num), PER_DRAW):
        yield min(PER_DRAW, num - begin)


def _check_separate(likelihood: Likelihood, num_features: int, masked: bool) -> None:
    """Refuse likelihoods in which a feature has no distribution of its own; with masks, those with a library size."""
    parts = [part for part, _ in likelihood.parts] if isinstance(likelihood, Mixed) else [likelihood]
    row = torch.ones(1, num_features)
    sized = bool(likelihood.known(row)) or likelihood.observed(row).shape != row.shape
    if any(isinstance(part, OneHotCategorical) for part in parts) or (masked and sized):
        raise ValueError(
            f"likelihood: expected one distribution for each feature, so that any may be given; got {likelihood}. Give "
            "classes as one column of labels, Categorical(num_classes), and counts without a library size, or with one "
            "where covariates alone are given, mask=NoMask()."
        )


class ConditionalModel(Networks):
    """Encoder, decoder and Pyro model/guide pair of p(x_u | c) over minibatches; plates as those of `FittedVAE`.

    Args:
        spec: a `ConditionalVAE`.
        num_features: columns of x, covariates included.

    Raises:
        ValueError: a covariate outside, a likelihood without one distribution per feature, or a decoder that needs
            `mask=NoMask()`.
    """

    reference: Tensor

    def __init__(self, spec: Any, num_features: int) -> None:
        modelled, covariates = spec.columns(num_features)
        num_modelled = len(modelled)
        _check_separate(spec.likelihood, num_modelled, masked=not isinstance(spec.mask, NoMask))
        width = spec.likelihood.encoder_input(torch.ones(1, num_modelled)).shape[1]
        num_uniforms = spec.mask.num_uniforms(num_modelled)
        num_conditions = len(covariates) + (width + num_modelled if num_uniforms else 0)
        sizes = (width + num_modelled + num_conditions, 2 * spec.latent)
        super().__init__(spec, num_modelled, sizes, spec.latent + num_conditions)
        self.num_features = num_features
        self.modelled, self.covariates, self.num_uniforms = modelled, covariates, num_uniforms
        #: Which of the modelled columns the likelihood is of: all but that of library sizes.
        self.observed = [place for place, num in enumerate(spec.likelihood.num_means(num_modelled)) if num]
        if self.num_uniforms and any(phase.start for phase in self.decoder.phases[1:]):
            raise ValueError(
                f"decoder: {type(spec.decoder).__name__} is fitted to the codes after training, when a row has one "
                "condition; with random masks use Decoder, EnsembleDecoder, DropoutDecoder or BayesianDecoder(guide="
                "MeanField() or LowRank()), or mask=NoMask() with covariates."
            )
        self.register_buffer("reference", torch.zeros(len(self.covariates)))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Everything together; then what else the decoder needs, given codes and conditions."""
        first, *later = self.decoder.phases
        closing = (inside(phase, "decoder", _target) for phase in later)
        return (dataclasses.replace(with_decoder(first), start=_start), *closing)

    # --- rows, masks and conditions ---

    def split(self, x: Float[Tensor, "row feature"]) -> tuple[Tensor, Tensor]:
        """Modelled features, and covariates."""
        if x.shape[-1] != self.num_features:
            raise ValueError(
                f"x: this model was built for {self.num_features} features per row; got shape {tuple(x.shape)}."
            )
        if not self.covariates:
            return x, x[..., :0]
        return columns(x, self.modelled), columns(x, self.covariates)

    def checked_mask(self, x: Float[Tensor, "row feature"], mask: Tensor | None) -> Bool[Tensor, "row modelled"]:
        """The mask of the modelled features, checked; nothing observed for None."""
        if mask is None:
            return x.new_zeros(len(x), len(self.modelled), dtype=torch.bool)
        if mask.dtype != torch.bool or mask.shape not in (x.shape, x.shape[1:]):
            raise ValueError(
                f"mask: expected booleans of shape {tuple(x.shape)} or {tuple(x.shape[1:])}, True for what is given; "
                f"got {mask.dtype} of shape {tuple(mask.shape)}. Use mask.bool()."
            )
        found = mask.to(x.device).expand_as(x)[:, self.modelled]
        if not self.num_uniforms and found.any():
            raise ValueError("mask: this model was trained with NoMask(), so no feature can be given; leave mask out.")
        missing = found & x[:, self.modelled].isnan()
        if missing.any():
            row, number = missing.nonzero()[0].tolist()
            raise ValueError(
                f"mask: row {row} is given column {self.modelled[number]}, whose value is missing (NaN). Use mask & "
                "~x.isnan()."
            )
        return found

    def conditions(self, y: Tensor, mask: Tensor, covariates: Tensor) -> Tensor:
        """c = [covariates, x⊙m, m]."""
        if not self.num_uniforms:
            return covariates
        given = filled(self.spec.likelihood.encoder_input(torch.where(mask, y, torch.nan)))
        return torch.cat([covariates, given, mask.to(y)], dim=-1)

    def _drawn(self, y: Tensor, mask: Tensor | None) -> Tensor:
        """The mask; where none is given the Pyro sample statement of one, the same in model and guide."""
        if mask is not None or not self.num_uniforms:
            return y.isnan() & False if mask is None else mask
        low, high = torch.tensor([0, 1], dtype=y.dtype, device=y.device)
        uniform = pyro.sample("condition", dist.Uniform(low, high).expand([len(y), self.num_uniforms]).to_event(2))
        return self.spec.mask.mask(uniform) & ~y.isnan()

    # --- the Pyro model ---

    def model(
        self, x: Tensor, num_rows: int | None = None, beta: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        """Pyro model of a minibatch x (row, feature) out of num_rows rows; mask (row, modelled), None draws one."""
        y, covariates = self.split(x)
        mask = self._drawn(y, mask)
        beta = self.spec.final_beta().to(x) if beta is None else beta
        standard = dist.Normal(torch.zeros_like(beta), torch.ones_like(beta))
        data, latent = data_plate(x, num_rows), pyro.plate("latent", self.spec.latent, dim=-1)
        with data, latent, poutine.scale(scale=positive(beta)):
            z = pyro.sample("z", standard)
        inputs = torch.cat([z, self.conditions(y, mask, covariates)], dim=-1)
        likelihood, values = self.spec.likelihood, filled(y)
        output, parameters = self.decoder(inputs, {**self.parameters_of_likelihood(), **likelihood.known(values)})
        distribution: Any = likelihood.distribution(output, parameters)
        observation = distribution.mask(columns(self.spec.target.modelled(~y.isnan(), mask), self.observed))
        with data, pyro.plate("feature", len(self.observed), dim=-1):
            pyro.sample("x", observation, obs=likelihood.observed(values))

    def guide(
        self, x: Tensor, num_rows: int | None = None, beta: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        """Pyro guide: q(z | x, c), and the decoder's own posterior if it has one."""
        y, covariates = self.split(x)
        mask = self._drawn(y, mask)
        beta = self.spec.final_beta().to(x) if beta is None else beta
        mean, std = self.encoding(y, mask, covariates)
        latent = pyro.plate("latent", self.spec.latent, dim=-1)
        with data_plate(x, num_rows), latent, poutine.scale(scale=positive(beta)):
            z = pyro.sample("z", dist.Normal(mean, std))
        self.decoder.guide(torch.cat([z, self.conditions(y, mask, covariates)], dim=-1))

    def encoding(self, y: Tensor, mask: Tensor, covariates: Tensor) -> Encoding:
        """q(z | x, c) of [x, what is present, c]; covariates come first, so that the rest are whole images."""
        conditions = self.conditions(y, mask, covariates)
        present, split = ~y.isnan(), covariates.shape[-1]
        seen = filled(self.spec.likelihood.encoder_input(y))
        inputs = [conditions[..., :split], seen, present.to(y), conditions[..., split:]]
        mean, log_std = self.encoder(torch.cat(inputs, dim=-1)).chunk(2, dim=-1)
        return Encoding(mean, in_range(log_std).exp())


# --- what training begins with ---------------------------------------------------------------------------------------


@torch.no_grad()
def _start(model: ConditionalModel, x: Tensor | StoredRows, seed: int) -> None:
    """The start of any model, on data whose missing values are drawn from those of their columns.

    The covariates' means are of all rows; what starts from data takes rows evenly spread over all, see `spread`.
    """
    totals = [model.split(rows)[1].sum(0) for _, rows in row_blocks(x)]
    model.reference.copy_(torch.stack(totals).sum(0) / len(x))
    y = model.split(spread(x))[0].clone()
    missing = y.isnan()
    for column in missing.any(0).nonzero().flatten().tolist():
        values = y[~missing[:, column], column]
        values = values if len(values) else _values(model, x, column)
        drawn = torch.randint(len(values), (int(missing[:, column].sum()),), generator=stream(seed, "missing", column))
        y[missing[:, column], column] = values[drawn.to(values.device)]
    start_from_data(model, y, seed)


def _values(model: ConditionalModel, x: Tensor | StoredRows, column: int) -> Float[Tensor, " row"]:
    """Values of a modelled column that hardly any row has: those of the first block with some."""
    for _, rows in row_blocks(x):
        values = rows[:, model.modelled[column]]
        if not values.isnan().all():
            return values[~values.isnan()]
    raise ValueError(f"x: column {model.modelled[column]} has no value in any row trained on; leave it out.")


def _target(model: ConditionalModel, x: Tensor | StoredRows) -> Target:
    """What a decoder is fitted to after training: codes and covariates [z; c] of the rows without missing values."""
    complete = rows_where(x, lambda rows: ~rows.isnan().any(1))
    if not len(complete):
        raise ValueError("x: a decoder that is fitted after training needs rows without missing values; got none.")

    def inputs(rows: Tensor) -> Tensor:
        y, covariates = model.split(rows)
        mean, _ = model.encoding(y, torch.zeros_like(y, dtype=torch.bool), covariates)
        return torch.cat([mean, covariates], dim=-1)

    return Target(model, complete, inputs, lambda rows: model.split(rows)[0])
