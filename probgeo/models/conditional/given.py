"""A conditional model at one condition: functions of z alone, and their geometry."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import skip_init

from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points, points_like, taken_by
from probgeo.likelihoods import Likelihood, TwoParameterLikelihood
from probgeo.models.base import Encoding, LatentModel, suited


class MeanColumns:
    """Where the features of a row are among the columns of E[x | z]: one column each, one per class, none if given.

    Args:
        likelihood: of the rows.
        num_features: of a row.
    """

    def __init__(self, likelihood: Likelihood, num_features: int) -> None:
        widths = torch.tensor(likelihood.num_means(num_features))
        self.widths = widths
        self.owner: Int[Tensor, " column"] = torch.arange(num_features).repeat_interleave(widths)
        first = (widths.cumsum(0) - widths)[self.owner]
        self.place: Int[Tensor, " column"] = torch.arange(len(self.owner)) - first

    def of(self, y: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch column"]:
        """E[x] where x is known to be y: y itself, classes one-hot."""
        owner, place = self.owner.to(y.device), self.place.to(y.device)
        values = y[..., owner]
        single = (self.widths.to(y.device) == 1)[owner]
        return torch.where(single, values, (values == place).to(y))

    def features(self, mean: Float[Tensor, "*batch column"]) -> Float[Tensor, "*batch feature"]:
        """One value per feature that has any: its expectation, the likeliest of classes."""
        blocks = mean.split(self.widths[self.widths > 0].tolist(), dim=-1)
        values = [block[..., 0] if block.shape[-1] == 1 else block.argmax(-1).to(mean) for block in blocks]
        return torch.stack(values, dim=-1)


class Kept(nn.Module):
    """x_j where column j varies, 0 where it is given."""

    elementwise = True

    def __init__(self, varies: Bool[Tensor, " column"]) -> None:
        super().__init__()
        self.factors = tuple(varies.double().tolist())  # numbers, no buffer, so that copies for an ensemble share them

    def forward(self, x: Tensor) -> Tensor:
        return x * x.new_tensor(self.factors)


class Embedded(nn.Module):
    """Functions of [z; condition] as functions of z."""

    def __init__(self, functions: Any, embedding: nn.Linear) -> None:
        super().__init__()
        self.functions, self.embedding, self.num_members = functions, embedding, functions.num_members

    def forward(self, z: Points) -> Float[Tensor, "member *batch observation"]:
        z = points_like("z", z, self.embedding.parameters())
        with taken_by(self.embedding.parameters(), "z", z):
            return self.functions(self.embedding(z))


class GivenVAE(LatentModel):
    """A conditional model given a condition, with the interface of a fitted `VAE`: what is known does not vary.

    Built by `model.given(x, mask)`. The decoder's inputs are [z; condition]; its metric given the condition is the
    joint one, pulled back to the affine subspace of that condition, in the space of the features that are not given.

    Args:
        model: a fitted `ConditionalVAE`.
        y: the given values of the modelled features; any number where the mask is False.
        mask: which of them are given.
        covariates: values of the covariates.
        conditions: what the decoder reads beside z.
    """

    def __init__(
        self,
        model: Any,
        y: Float[Tensor, " modelled"],
        mask: Bool[Tensor, " modelled"],
        covariates: Float[Tensor, " covariate"],
        conditions: Float[Tensor, " condition"],
    ) -> None:
        self._model, self._likelihood = model, model.spec.likelihood
        self.latent, self.num_features, self.num_members = model.latent, model.num_features, model.num_members
        self._y, self._mask, self._covariates = y, mask, covariates
        columns = MeanColumns(self._likelihood, len(y))
        self._varies = ~mask[columns.owner.to(mask.device)]
        self._known = columns.of(y).masked_fill(self._varies, 0)
        latent = model.spec.latent
        self._embedding = skip_init(nn.Linear, latent, latent + len(conditions)).to(y).requires_grad_(False)
        self._embedding.weight.copy_(torch.eye(latent + len(conditions), latent))
        self._embedding.bias.copy_(torch.cat([y.new_zeros(latent), conditions]))

    def _head(self, head: nn.Module) -> nn.Module:
        # Where nothing is given the plain head stays: closed forms know it.
        return head if bool(self._varies.all()) else nn.Sequential(head, Kept(self._varies))

    def encode(self, x: Points) -> Encoding:
        """Mean and standard deviation of q(z | x, condition), each (row, latent); x takes the values that are given."""
        x = suited("x", x, self._model, "row feature")
        return self._model.encode_given(x, self._y, self._mask, self._covariates)

    def decode(self, z: Points) -> Float[Tensor, "*batch observation"]:
        """E[x | z, condition], averaged over the decoder's draws; what is given has its value."""
        mean = self._model.decoder.mean(self._head(self._likelihood.mean()))
        return mean(self._embedded(z)) + self._known

    def metric(self) -> Metric:
        """The metric of the decoder's uncertainty in the space of E[x | z, condition]: units of x per unit of z."""
        return self._model.decoder.metric(self._head(self._likelihood.mean())).pulled_back(self._embedding)

    def fisher_rao_metric(self) -> Metric:
        """The Fisher-Rao metric of what is not given, under the decoder's uncertainty: nats^½ per unit of z.

        Raises:
            TypeError: a decoder or a likelihood that has none.
        """
        decoder, likelihood = self._model.decoder, self._likelihood
        parameters = self._model.parameters_of_likelihood()
        if isinstance(likelihood, TwoParameterLikelihood):
            varies = self._varies[:, None, None]
            metric = decoder.information_metric(lambda output: likelihood.information(output, parameters) * varies)
        else:
            metric = decoder.metric(self._head(likelihood.isometry(parameters)))
        return metric.pulled_back(self._embedding)

    def uncertainty(self, z: Points) -> Float[Tensor, "*batch"]:
        """Root mean square, over what is not given, of the decoder's standard deviation at z; units of x."""
        variance = self._model.decoder.variance(self._embedded(z), self._head(self._likelihood.mean()))
        return (variance.sum(-1) / self._varies.sum()).sqrt()

    def _embedded(self, z: Points) -> Float[Tensor, "*batch _"]:
        return self._embedding(suited("z", z, self._model, "*batch latent", self.latent))

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Any:
        """Fixed functions z (*batch, latent) -> (member, *batch, observation), as one callable; 0 for what is given.

        Args:
            num_draws: how many; by default as many as the decoder's metric averages over.
            seed: the same seed gives the same functions, and the first k of n are the k.

        Raises:
            TypeError: a decoder without draws.
            ValueError: fewer than one, or more than there are.
        """
        return Embedded(
            self._model.decoder.draws(num_draws, seed, self._head(self._likelihood.mean())), self._embedding
        )
