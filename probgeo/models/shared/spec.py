"""The shared latent variable model: several views of an observation, one latent space, a metric of each view on it."""

import functools
import itertools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from jaxtyping import Bool, Float
from pyro import poutine
from pyro.contrib.autoname import scope
from torch import Tensor, nn

from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points
from probgeo.models.base import Encoding, FittedModel, block_by_block, suited
from probgeo.models.phase import Epochs, Phase
from probgeo.models.shared.fusion import Fusion, ProductOfExperts
from probgeo.models.shared.views import (
    Alternation,
    DrawsSideBySide,
    FittedView,
    SharedView,
    View,
    phases_of,
    present,
    together,
)
from probgeo.models.vae import LatentSpec, Warmup, data_plate, positive
from probgeo.seeds import stream


@dataclass(frozen=True)
class SharedLatentVAE(LatentSpec):
    """Spec of a variational autoencoder of several views: z ~ N(0, I), x_v ~ likelihood_v(decoder_v(z)), independent.

    Data are one tensor x (row, feature), the views' columns side by side in the order of `views`; a view that is
    missing in a row, in training or later, is NaN in all its columns: it is left out of posterior and likelihood.

    Args:
        views: by name, in the order of their columns; kept as pairs (name, view).
        latent: dimension d of z.
        fusion: how the views make one posterior q(z | x): `ProductOfExperts()`, `Mixture()` or `Average()`.
        beta: weight of KL(q ‖ p) in the objective: a number, one number per latent dimension, or a `Warmup`.
        alternation: what follows the joint training; None: nothing.

    Raises:
        ValueError: no views, a name that is empty or there twice, latent below one, a negative β, or as many β as
            there are not latent dimensions.

    Example:
        >>> import torch, probgeo as pg
        >>> spec = pg.SharedLatentVAE({"left": pg.View(3), "right": pg.View(2)}, latent=2)
        >>> model = spec.build(num_features=5, seed=0)
        >>> x = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
        >>> x[0, 3:] = torch.nan  # the right view is missing
        >>> model.encode(x).mean.isfinite().all().item()
        True
        >>> model.translate(x[:, :3], source="left", target="right").shape
        torch.Size([4, 2])

    References:
        Wu & Goodman (2018), Multimodal generative models for scalable weakly-supervised learning.
    """

    views: Mapping[str, View] | tuple[tuple[str, View], ...]
    latent: int = 2
    fusion: Fusion = ProductOfExperts()
    beta: float | tuple[float, ...] | Warmup = 1.0
    alternation: Alternation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = self.views.items() if isinstance(self.views, Mapping) else self.views
        object.__setattr__(self, "views", tuple((name, view) for name, view in pairs))
        if not self.names or not all(self.names) or len(set(self.names)) < len(self.names):
            raise ValueError(f"views: expected at least one, each with a name of its own; got names {self.names}.")

    @property
    def pairs(self) -> tuple[tuple[str, View], ...]:
        """Names and views, in the order of the columns."""
        return self.views  # type: ignore[return-value]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.pairs)

    @property
    def view_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.names

    @property
    def num_members(self) -> int:
        return min(view.decoder.num_members for _, view in self.pairs)

    def index(self, name: str) -> int:
        """Place of a view among all.

        Raises:
            ValueError: there is none of this name.
        """
        if name not in self.names:
            raise ValueError(f"view: expected one of {', '.join(map(repr, self.names))}; got {name!r}.")
        return self.names.index(name)

    def columns(self, name: str) -> slice:
        """The columns of a view in x.

        Raises:
            ValueError: there is no view of this name.
        """
        ends = list(itertools.accumulate(view.num_features for _, view in self.pairs))
        index = self.index(name)
        return slice(ends[index] - self.pairs[index][1].num_features, ends[index])

    def _check_values(self, x: Float[Tensor, "row feature"]) -> None:
        """The columns of the views, each missing in all its columns or in none, in its likelihood's support."""
        self.check_views(x)
        for name, view in self.pairs:
            block = x[:, self.columns(name)]
            there = present(block)
            if there.any():
                # Rows keep their numbers in what the likelihood says: a missing one is filled with one that is there.
                filled = block if there.all() else torch.where(there[:, None], block, block[there][0])
                try:
                    view.likelihood.check(filled)
                except ValueError as error:
                    raise ValueError(f"view {name!r}, columns counted from its first: {error}") from error

    def check_views(self, x: Float[Tensor, "row feature"]) -> None:
        """Raise if x has not the columns of the views, or a row without any view or with only a part of one.

        Raises:
            ValueError: as said.
        """
        total = sum(view.num_features for _, view in self.pairs)
        if x.shape[1] != total:
            widths = ", ".join(f"{name!r} {view.num_features}" for name, view in self.pairs)
            raise ValueError(f"x: expected the {total} columns of the views side by side ({widths}); got {x.shape[1]}.")
        for name in self.names:
            missing = x[:, self.columns(name)].isnan()
            partly = (missing.any(1) & ~missing.all(1)).nonzero().flatten().tolist()
            if partly:
                raise ValueError(
                    f"x: expected a view to be NaN in all its columns or in none; view {name!r} is in part at row "
                    f"{partly[0]} ({len(partly)} such rows). Impute, or leave out columns, or the view in these rows."
                )
        empty = x.isnan().all(1).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"x: expected at least one view in every row; row {empty[0]} has none ({len(empty)} such rows). "
                "Remove them: nothing tells where they lie."
            )

    def _built(self, num_features: int, history: xr.Dataset | None) -> "FittedSharedLatentVAE":
        return FittedSharedLatentVAE(self, num_features, history)


class Cycle(NamedTuple):
    """A view translated into another one and back."""

    there: Float[Tensor, "row target"]  #: E[x_target | z]
    back: Float[Tensor, "row source"]  #: E[x_source | z] at the code of `there`
    difference: Float[Tensor, " row"]  #: root mean square, over the columns, of `back` less the view; units of x


class FittedSharedLatentVAE(FittedModel):
    """A variational autoencoder of several views with weights: a Pyro model/guide pair, and its latent geometry.

    Built by `SharedLatentVAE.build`, fitted by `probgeo.fit`, restored by `probgeo.load`. Sites of a view stand in a
    scope of its name (`left/x`). Where a method has x, it is (row, feature) with NaN for missing views.
    """

    def __init__(self, spec: SharedLatentVAE, num_features: int, history: xr.Dataset | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.latent = spec.latent
        self.num_features = num_features
        self.num_members = spec.num_members
        self.view_names = spec.names
        self.history = history
        num_outputs = spec.fusion.num_outputs(spec.latent)
        self.views: Any = nn.ModuleList(FittedView(view, spec.latent, num_outputs) for _, view in spec.pairs)
        self.fusion = spec.fusion.build(spec.latent)

    # --- model and guide ---

    def model(self, x: Tensor, num_rows: int | None = None, beta: Tensor | None = None) -> None:
        """Pyro model of a minibatch x (row, feature) out of num_rows rows (default: x is all the data)."""
        beta = self.spec.final_beta().to(x) if beta is None else beta
        standard = dist.Normal(torch.zeros_like(beta), torch.ones_like(beta))
        data, blocks = data_plate(x, num_rows), self._blocks(x)
        self._given(data, blocks)
        self._inputs(data, blocks)
        with data, pyro.plate("latent", self.spec.latent, dim=-1), poutine.scale(scale=positive(beta)):
            z = pyro.sample("z", standard)
        for name, view, block in zip(self.spec.names, self.views, blocks, strict=True):
            with scope(prefix=name):
                view.observe(data, block, z)

    def guide(self, x: Tensor, num_rows: int | None = None, beta: Tensor | None = None) -> None:
        """Pyro guide: q(z | x), from noisy inputs and hidden views where the spec says so; the decoders' posteriors."""
        beta = self.spec.final_beta().to(x) if beta is None else beta
        data, blocks = data_plate(x, num_rows), self._blocks(x)
        given = self._given(data, blocks)
        outputs = [view.encoder(read) for view, read in zip(self.views, self._inputs(data, blocks), strict=True)]
        mean, std = self.fusion(torch.stack(outputs, dim=1), given)
        with data, pyro.plate("latent", self.spec.latent, dim=-1), poutine.scale(scale=positive(beta)):
            z = pyro.sample("z", dist.Normal(mean, std))
        for name, view in zip(self.spec.names, self.views, strict=True):
            with scope(prefix=name):
                view.decoder.guide(z)

    def _blocks(self, x: Tensor) -> list[Tensor]:
        """The columns of every view."""
        return list(x.split([view.num_features for view in self.views], dim=-1))

    @staticmethod
    def _present(blocks: list[Tensor]) -> Bool[Tensor, "row view"]:
        return torch.stack([present(block) for block in blocks], dim=1)

    def _given(self, data: pyro.plate, blocks: list[Tensor]) -> Bool[Tensor, "row view"]:
        """The views that a row is encoded from. Its Pyro sample statement is the same in model and guide."""
        there, alone = self._present(blocks), self.spec.fusion.alone
        if alone == 0:
            return there
        zero = torch.zeros(len(there), 1, dtype=blocks[0].dtype, device=there.device)
        with data:
            uniform = pyro.sample("alone", dist.Uniform(zero, zero + 1))
        # Below `alone` it is uniform again: it draws the number of one of the views that are there.
        drawn = (uniform / alone * there.sum(1, keepdim=True)).floor()
        return there & ((uniform >= alone) | (there.cumsum(1) - 1 == drawn))

    def _inputs(self, data: pyro.plate, blocks: list[Tensor]) -> list[Tensor]:
        """What the encoders read. The Pyro sample statements of its noise are the same in model and guide."""
        inputs = []
        for name, view, block in zip(self.spec.names, self.views, blocks, strict=True):
            with scope(prefix=name):
                inputs.append(view.noisy_input(data, block))
        return inputs

    # --- codes, reconstructions, translations, samples ---

    @block_by_block
    def encode(self, x: Points) -> Encoding:
        """Mean and standard deviation of q(z | x), given the views that each row has; each (row, latent).

        Raises:
            ValueError: not the columns of the views, a row without any view or with only a part of one, or values that
                a view's likelihood has no place for.
        """
        x = suited("x", x, self, "row feature")
        self.spec.check_encoded(x)
        return self._encoding(x)

    def _encoding(self, x: Tensor) -> Encoding:
        blocks = self._blocks(x)
        outputs = [view.encoder(view.input(block)) for view, block in zip(self.views, blocks, strict=True)]
        return self.fusion(torch.stack(outputs, dim=1), self._present(blocks))

    def encode_view(self, x: Points, name: str) -> Encoding:
        """Mean and standard deviation of q(z | x_v) given one view's columns alone; each (row, latent).

        Raises:
            ValueError: there is no view of this name, it has another number of columns, or values that its likelihood
                has no place for.
        """
        x = suited("x", x, self, "row feature")
        columns = self.spec.columns(name)
        width = columns.stop - columns.start
        if x.shape[1] != width:
            raise ValueError(f"x: expected the {width} columns of view {name!r}; got shape {tuple(x.shape)}.")
        return self.encode(self._alone(x, name))

    def _alone(self, block: Float[Tensor, "row column"], name: str) -> Float[Tensor, "row feature"]:
        """Whole rows that have one view's columns alone."""
        whole = block.new_full((len(block), self.num_features), torch.nan)
        whole[:, self.spec.columns(name)] = block
        return whole

    def decode(self, z: Points) -> Float[Tensor, "*batch observation"]:
        """E[x | z] of all views side by side, missing ones too, averaged over the decoders' draws."""
        return torch.cat([view.decode(z) for view in self.views], dim=-1)

    def translate(self, x: Float[Tensor, "row source"], source: str, target: str) -> Float[Tensor, "row target"]:
        """E[x_target | z] at the posterior mean of z given the source's columns alone.

        Raises:
            ValueError: there is no view of a name, or the source has another number of columns.
        """
        return self.view(target).decode(self.encode_view(x, source).mean)

    def cycle(self, x: Float[Tensor, "row source"], source: str, target: str) -> Cycle:
        """The source's columns translated into the target, and that back again.

        Raises:
            ValueError: there is no view of a name, the source has another number of columns, or E[x | z] of a view has
                not the columns of x (as of `Categorical`), so that it cannot be encoded.
        """
        there = self.translate(x, source, target)
        if there.shape[1] != self.views[self.spec.index(target)].num_features:
            raise ValueError(f"cycle: expected E[x | z] of {target!r} to have the columns of x; got {there.shape[1]}.")
        # A mean is no observation, as of counts; it is encoded as it is.
        back = self.view(source).decode(self._encoding(self._alone(there, target)).mean)
        if back.shape != x.shape:
            raise ValueError(f"cycle: expected E[x | z] of {source!r} to have the columns of x; got {back.shape[1]}.")
        return Cycle(there, back, (back - x).square().mean(1).sqrt())

    def means(self, num_samples: int, seed: int = 0) -> Float[Tensor, "sample observation"]:
        """E[x | z] of all views at z ~ N(0, I)."""
        z = torch.randn(num_samples, self.spec.latent, generator=stream(seed, "sample"))
        return self.decode(z.to(next(self.parameters())))

    def means_in_box(
        self, x: Float[Tensor, "row feature"], num_samples: int, seed: int = 0
    ) -> Float[Tensor, "sample observation"]:
        """E[x | z] of all views at z uniform in the bounding box of the codes of x."""
        codes = self.encode(x).mean
        low, high = codes.amin(0), codes.amax(0)
        share = torch.rand(num_samples, self.spec.latent, generator=stream(seed, "box"))
        return self.decode(low + (high - low) * share.to(codes))

    # --- geometry ---

    def view(self, name: str) -> SharedView:
        """The model of one view alone, with its own decoder and metric, in the space that all share.

        Raises:
            ValueError: there is no view of this name.
        """
        return SharedView(self, name)

    def metric(self) -> Metric:
        """G = Σ_v G_v, the sum of the views' metrics; their columns should be in like units."""
        return functools.reduce(operator.add, (view.metric() for view in self.views))

    def fisher_rao_metric(self) -> Metric:
        """The Fisher-Rao metric of all views together, the sum of the views': nats^½ per unit of z.

        Raises:
            TypeError: a decoder or a likelihood that has none.
        """
        return functools.reduce(operator.add, (view.fisher_rao_metric() for view in self.views))

    def uncertainty(self, z: Points) -> Float[Tensor, "*batch"]:
        """Root mean square, over all views' observations, of the decoders' standard deviation at z; units of x."""
        z = suited("z", z, self, "*batch latent", self.latent)
        variances = [view.decoder.variance(z, view.spec.likelihood.mean()) for view in self.views]
        return torch.cat(variances, dim=-1).mean(-1).sqrt()

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Any:
        """Fixed decoder functions z (*batch, latent) -> E[x | z] (member, *batch, observation), views side by side.

        Args:
            num_draws: how many; by default as many as the view with the fewest draws by default.
            seed: the same seed gives the same functions, and the first k of n are the k.

        Raises:
            TypeError: a decoder without draws.
            ValueError: fewer than one, or more than there are.
        """
        if num_draws is None:
            num_draws = min(view.draws(seed=seed).num_members for view in self.views)
        return DrawsSideBySide([view.draws(num_draws, seed) for view in self.views])

    # --- training ---

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All views together; rounds of alternation; then what else the views' decoders need, one after another."""
        shared = Phase("shared layers", Epochs(lambda name: name.startswith("fusion.")))
        own = [phases_of(name, index, self.views[index]) for index, name in enumerate(self.spec.names)]
        parts = [shared, *(phases[0] for phases in own)]
        rounds: list[Phase] = []
        if self.spec.alternation:
            rounds = self.spec.alternation.phases(parts if list(self.fusion.parameters()) else parts[1:])
        return (together("joint", parts), *rounds, *itertools.chain.from_iterable(phases[1:] for phases in own))
