"""A view of an observation: its part of a shared latent variable model, and of its training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points
from probgeo.likelihoods import Gaussian, Likelihood
from probgeo.models.base import Encoding, LatentModel
from probgeo.models.decoders.decoder import DecoderSpec
from probgeo.models.decoders.single import Decoder
from probgeo.models.networks import EncoderDecoder, check_parts
from probgeo.models.phase import Epochs, Phase, Target, inside, with_decoder
from probgeo.nn import MLP, Network
from probgeo.rows import StoredRows, rows_where, spread
from probgeo.specs import check_numbers


def present(block: Float[Tensor, "row feature"]) -> Bool[Tensor, " row"]:
    """Which rows have the view of these columns: it is missing in all its columns or in none."""
    return ~block[:, 0].isnan()


def _filled(block: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
    # What stands in for a missing view has no effect, but must have finite densities: 1 has, under every likelihood.
    return torch.where(present(block)[:, None], block, 1)


@dataclass(frozen=True)
class View:
    """Spec of one view: x_v ~ likelihood(decoder(z)), and the encoder that tells where z lies given x_v.

    Args:
        num_features: columns of the view in x.
        encoder: spec of the network x_v -> what the fusion takes.
        decoder: spec of the decoder, with its source of uncertainty.
        likelihood: distribution of x_v given the decoder's output.
        noise: standard deviation of normal noise on what the encoder reads in training, in its units; what is decoded
            has none: a denoising autoencoder.

    Raises:
        ValueError: fewer than one column, or a negative noise.

    Example:
        >>> import probgeo as pg
        >>> image = pg.View(64, encoder=pg.nn.Convolutional((8, 8)), likelihood=pg.likelihoods.Bernoulli())
        >>> spec = pg.SharedLatentVAE({"image": image, "text": pg.View(10)})
        >>> spec.columns("text")
        slice(64, 74, None)

    References:
        Im, Ahn, Memisevic & Bengio (2017), Denoising criterion for variational auto-encoding framework.
    """

    num_features: int
    encoder: Network = MLP()
    decoder: DecoderSpec = Decoder()
    likelihood: Likelihood = Gaussian()
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        check_parts(self)
        if self.num_features < 1:
            raise ValueError(f"num_features: expected at least one column; got {self.num_features}.")
        if not self.noise >= 0:
            raise ValueError(f"noise: expected a standard deviation, not negative; got {self.noise}.")


class FittedView(EncoderDecoder):
    """One view with weights: its encoder, and its decoder with the geometry that it gives the shared latent space."""

    def __init__(self, spec: View, latent: int, num_encoder_outputs: int) -> None:
        super().__init__(spec, spec.num_features, latent, num_encoder_outputs)

    def input(self, block: Float[Tensor, "row feature"]) -> Float[Tensor, "row input"]:
        """What the encoder reads."""
        return self.spec.likelihood.encoder_input(_filled(block))

    def noisy_input(self, data: pyro.plate, block: Float[Tensor, "row feature"]) -> Float[Tensor, "row input"]:
        """What it reads in training, with a Pyro sample statement of the noise."""
        read = self.input(block)
        if self.spec.noise == 0:
            return read
        zero = torch.zeros_like(read)
        with data, pyro.plate("input", read.shape[1], dim=-1):
            return read + pyro.sample("noise", dist.Normal(zero, zero + self.spec.noise))

    def observe(self, data: pyro.plate, block: Float[Tensor, "row feature"], z: Float[Tensor, "row latent"]) -> None:
        """The view's part of the model; rows without it have no part in the likelihood."""
        likelihood, filled = self.spec.likelihood, _filled(block)
        # Outside the plates: a decoder's own latent variables belong to all rows.
        output, parameters = self.decoder(z, {**self.parameters_of_likelihood(), **likelihood.known(filled)})
        observation: Any = likelihood.distribution(output, parameters)
        observed = likelihood.observed(filled)
        with data, pyro.plate("feature", observed.shape[1], dim=-1):
            pyro.sample("x", observation.mask(present(block)[:, None]), obs=observed)


class SharedView(LatentModel):
    """One view of a shared latent variable model, as a model of its own columns: codes given them, and its decoder.

    Args:
        model: of all views.
        name: of the view.

    Raises:
        ValueError: there is no view of this name.
    """

    def __init__(self, model: Any, name: str) -> None:
        self._model, self._name = model, name
        self._view: FittedView = model.views[model.spec.index(name)]
        self.latent = model.latent
        self.num_features = self._view.num_features
        self.num_members = self._view.spec.decoder.num_members

    def encode(self, x: Points) -> Encoding:
        """Mean and standard deviation of q(z | x_v) given this view alone, each (row, latent)."""
        return self._model.encode_view(x, self._name)

    def decode(self, z: Points) -> Float[Tensor, "*batch observation"]:
        """E[x_v | z], averaged over the decoder's draws."""
        return self._view.decode(z)

    def metric(self) -> Metric:
        """The metric that the view alone gives the shared latent space: units of x_v per unit of z."""
        return self._view.metric()

    def fisher_rao_metric(self) -> Metric:
        """The Fisher-Rao metric of the view under its decoder's uncertainty: nats^½ per unit of z.

        Raises:
            TypeError: a decoder or a likelihood that has none.
        """
        return self._view.fisher_rao_metric()

    def uncertainty(self, z: Points) -> Float[Tensor, "*batch"]:
        """Root mean square, over the view's observations, of its decoder's standard deviation at z; units of x_v."""
        return self._view.uncertainty(z)

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Any:
        """Fixed decoder functions z -> E[x_v | z] of the view, as one callable.

        Raises:
            TypeError: a decoder without draws.
            ValueError: fewer than one, or more than there are.
        """
        return self._view.draws(num_draws, seed)


class DrawsSideBySide(nn.Module):
    """Draws of several views as one: (member, *batch, observation), the views' observations side by side."""

    def __init__(self, draws: list[Any]) -> None:
        super().__init__()
        self.draws = nn.ModuleList(draws)
        self.num_members: int = draws[0].num_members

    def forward(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "member *batch observation"]:
        return torch.cat([each(z) for each in self.draws], dim=-1)


# --- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alternation:
    """Rounds of training after the joint one: in each, the shared layers alone, if any, then every view's parts alone.

    Args:
        rounds: how many.
        share: epochs of each part of a round, as a fraction of `Training.epochs`.

    Raises:
        ValueError: fewer than one round, or a share that is not positive.

    Example:
        >>> import torch, probgeo as pg
        >>> views = {"left": pg.View(3), "right": pg.View(2)}
        >>> spec = pg.SharedLatentVAE(views, alternation=pg.views.Alternation(rounds=1, share=0.5))
        >>> x = torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
        >>> [model] = pg.fit(spec, x, training=pg.Training(epochs=2, batch_size=20), progress=False)
        >>> model.history.sizes["epoch"]  # two together, and one of each view alone
        4
    """

    rounds: int = 2
    share: float = 0.25

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.rounds < 1 or not self.share > 0:
            raise ValueError(f"rounds, share: expected at least 1 and above 0; got {self.rounds} and {self.share}.")

    def phases(self, parts: Sequence[Phase]) -> list[Phase]:
        """Every part of the training alone, one after another, in every round."""
        return [
            Phase(f"{part.name}, round {number}", part.epochs and replace(part.epochs, share=self.share))
            for number in range(1, self.rounds + 1)
            for part in parts
        ]


def together(name: str, parts: Sequence[Phase]) -> Phase:
    """All parts of the training at once."""

    def start(model: Any, x: Tensor | StoredRows, seed: int) -> None:
        for part in parts:
            if part.start:
                part.start(model, x, seed)

    def check(model: Any, x: Tensor | StoredRows) -> None:
        for part in parts:
            if part.check:
                part.check(model, x)

    return Phase(name, Epochs(lambda path: any(part.trains(path) for part in parts)), start, check)


def phases_of(name: str, index: int, view: FittedView) -> list[Phase]:
    """Phases of view number `index`, as phases of a model that has it as `views.<index>`."""

    def with_view(model: Any, x: Tensor | StoredRows) -> Tensor | StoredRows:
        found = rows_where(x, lambda rows: present(rows[:, model.spec.columns(name)]))
        if not len(found):
            raise ValueError(
                f"x: expected view {name!r} in some of the rows to train on; it is missing in all of them."
            )
        return found

    def some(model: Any, x: Tensor | StoredRows) -> Float[Tensor, "row feature"]:
        """The view's columns of rows that are evenly spread over those that have it."""
        return spread(with_view(model, x))[:, model.spec.columns(name)]

    def given(model: Any, x: Tensor | StoredRows) -> Target:
        """The rows that have the view, with codes from all views of these rows."""
        columns = model.spec.columns(name)
        encoded = lambda rows: model._encoding(rows).mean  # noqa: E731
        return Target(model.views[index], with_view(model, x), encoded, lambda rows: rows[:, columns])

    path = f"views.{index}"
    first, *later = view.decoder.phases
    own = [inside(with_decoder(first), path, some)]
    own += [inside(phase, f"{path}.decoder", given) for phase in later]
    return [replace(phase, name=f"{name}: {phase.name}") for phase in own]
