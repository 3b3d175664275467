"""The Gaussian process latent variable model: a code of its own for every row, decoded by a Gaussian process."""

from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from probgeo.geometry.metrics import Metric
from probgeo.geometry.points import Points, check_latent, points_of, rows_of
from probgeo.models.base import Encoding, FittedModel, ModelSpec, block_by_block
from probgeo.models.gp.sparse import SparseGP
from probgeo.models.phase import Epochs, Phase
from probgeo.seeds import stream
from probgeo.specs import check_numbers

PROJECTION_STEPS = 200
PROJECTED_ROWS = 1024  # at once


@dataclass(frozen=True)
class GPLVM(ModelSpec):
    """Spec of a Bayesian Gaussian process latent variable model: z ~ N(0, I), x = f(z) + noise, f a Gaussian process.

    Every row has its own posterior q(z_n), a diagonal Gaussian; the process has one kernel for all outputs and inducing
    points, whose posterior covariance the outputs share. Missing values (NaN) are left out of the likelihood. As a row
    is known by its code, no row is held out in training: `Training.validation` and `patience` do not apply.

    Args:
        latent: dimension d of z.
        num_inducing: number of inducing points.
        lengthscale: of the kernel, in every latent dimension (z has variance 1); None learns one for each. The learned
            one is the longest that suits the data, so that a gap no wider than it is bridged: little variance there,
            and geodesics that cross it. A shorter one makes the gap uncertain, and geodesics go around.
        jitter: standard deviation of the noise on the first codes, which are principal components of variance 1: what
            tells retrainings apart, beside the order of the data.
        rate: learning rate, as a multiple of `Training.learning_rate`.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
        >>> training = pg.Training(epochs=2, batch_size=30, validation=0.0)
        >>> [model] = pg.fit(pg.GPLVM(latent=2, num_inducing=5), x, training=training, progress=False)
        >>> codes = model.encode(x).mean
        >>> codes.shape, bool((model.uncertainty(codes + 1000) > model.uncertainty(codes)).all())
        (torch.Size([30, 2]), True)

    References:
        Titsias & Lawrence (2010), Bayesian Gaussian process latent variable model; Lalchand, Ravuri & Lawrence (2022),
        Generalised GPLVM with stochastic variational inference.
    """

    latent: int = 2
    num_inducing: int = 32
    lengthscale: float | None = None
    jitter: float = 0.1
    rate: float = 10.0
    num_members = 1

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.latent < 1 or self.num_inducing < 1:
            raise ValueError(f"latent, num_inducing: expected at least 1; got {self.latent}, {self.num_inducing}.")
        if self.lengthscale is not None and not self.lengthscale > 0:
            raise ValueError(f"lengthscale: expected a positive number, or None to learn it; got {self.lengthscale}.")
        if not (self.jitter >= 0 and self.rate > 0):
            raise ValueError(f"jitter, rate: expected jitter >= 0 and rate > 0; got {self.jitter}, {self.rate}.")

    def _check_values(self, x: Float[Tensor, "row observation"]) -> None:
        """No infinite value, and no row without any; NaN is a missing value."""
        if x.isinf().any():
            row, column = x.isinf().nonzero()[0].tolist()
            raise ValueError(f"x: expected finite values, NaN where missing; got inf at row {row}, column {column}.")
        empty = x.isnan().all(1).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"x: expected at least one value in every row; row {empty[0]} has none ({len(empty)} such rows). "
                "Remove them: nothing tells where they lie."
            )

    def _built(self, num_features: int, history: xr.Dataset | None) -> "FittedGPLVM":
        """The model without any rows; nothing in it is random before it is fitted."""
        return FittedGPLVM(self, num_features, history)


class FittedGPLVM(FittedModel):
    """A Gaussian process latent variable model with codes, and its latent geometry.

    Built by `GPLVM.build`, fitted by `probgeo.fit`, restored by `probgeo.load`.
    """

    keys: Tensor

    def __init__(self, spec: GPLVM, num_features: int, history: xr.Dataset | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.latent = spec.latent
        self.num_features = num_features
        self.history = history
        self.process = SparseGP(num_features, spec.latent, spec.num_inducing)
        self.code_mean = nn.Parameter(torch.zeros(0, spec.latent))
        self.code_log_std = nn.Parameter(torch.zeros(0, spec.latent))
        self.register_buffer("keys", torch.zeros(0, dtype=torch.long))  # of the rows that have codes

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # The number of rows is the data's, not the spec's.
        self._resize(len(state_dict[f"{prefix}keys"]))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _resize(self, num_rows: int) -> None:
        for parameter in (self.code_mean, self.code_log_std):
            parameter.data = parameter.new_zeros(num_rows, self.spec.latent)
        self.keys = self.keys.new_zeros(num_rows)

    # --- training ---

    @property
    def phases(self) -> tuple[Phase, ...]:
        def trains(name: str) -> bool:
            return self.spec.lengthscale is None or not name.endswith("raw_lengthscale")

        return (Phase("fit", Epochs(trains, rate=self.spec.rate), start=_start),)

    @torch.no_grad()
    def start(self, x: Float[Tensor, "row observation"], seed: int) -> None:
        """First values: codes from principal components, the process fitted to them.

        Raises:
            ValueError: fewer rows than inducing points, fewer observations than latent dimensions, or a column of x
                without any value.
        """
        from sklearn.decomposition import PCA

        empty = x.isnan().all(0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"x: expected at least one value in every column; column {empty[0]} has none. Remove it.")
        if min(x.shape) < self.spec.latent:
            raise ValueError(
                f"latent: expected at most as many dimensions as rows and columns of x; got {self.spec.latent} for "
                f"{tuple(x.shape)}."
            )
        filled = torch.where(x.isnan(), x.nanmean(0), x)
        components = PCA(self.spec.latent, whiten=True, random_state=seed)
        z = torch.as_tensor(components.fit_transform(filled.double().cpu().numpy())).to(x)
        z = z + self.spec.jitter * torch.randn(z.shape, generator=stream(seed, "codes")).to(x)
        self._resize(len(x))
        self.code_mean.copy_(z)
        self.code_log_std.fill_(-2.0)
        self.keys.copy_(_keys(x))
        self.process.place(z, lambda: [x], seed)
        if self.spec.lengthscale is not None:
            self.process.kernel.base_kernel.lengthscale = self.spec.lengthscale
        self.process.condition([(z, filled)])

    def terms(
        self,
        x: Float[Tensor, "row observation"],
        mean: Float[Tensor, "row latent"],
        log_std: Float[Tensor, "row latent"],
        noise: Float[Tensor, "row latent"],
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """E log p(x_n | u) at the sample z_n = mean + std · noise, over q(u), and KL(q(z_n) ‖ p(z_n)), of each row."""
        decoded, variance = self.process.predictions(mean + log_std.exp() * noise)
        noise_variance = self.process.noise_variance()
        squares = torch.where(x.isnan(), 0, x.nan_to_num() - decoded).square().sum(1)
        num_observed = (~x.isnan()).sum(1)
        constant = num_observed * ((2 * torch.pi * noise_variance).log() + variance / noise_variance)
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)
        return -0.5 * (squares / noise_variance + constant), kl

    # --- what a fitted model offers ---

    @block_by_block
    @torch.no_grad()
    def encode(self, x: Points) -> Encoding:
        """Mean and standard deviation of q(z | x), each (row, latent); NaN in x is missing.

        Rows of the training data have the posterior that they were trained to; that of others is fitted under the
        model as it is, starting at the code whose reconstruction is closest.

        Raises:
            TypeError, ValueError: x is not data of this model.
        """
        x = rows_of("x", x)
        self.spec.check(x)
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"x: this model was built for {self.num_features} observations per row; got shape {tuple(x.shape)}."
            )
        found, place = _found(_keys(x), self.keys)
        mean, std = self.code_mean[place], self.code_log_std[place].exp()
        unknown = (~found).nonzero().flatten()
        for first in range(0, len(unknown), PROJECTED_ROWS):
            rows = unknown[first : first + PROJECTED_ROWS]
            mean[rows], std[rows] = self._projected(x[rows])
        return Encoding(mean, std)

    def _projected(self, x: Float[Tensor, "row observation"]) -> Encoding:
        """Posteriors of rows that were not trained on, by maximising each row's bound with everything else fixed."""
        decoded = self.decode(self.code_mean)
        squares = (~x.isnan()).to(x) @ decoded.square().T - 2 * x.nan_to_num() @ decoded.T
        closest = squares.argmin(1)
        mean, log_std = self.code_mean[closest].clone(), self.code_log_std[closest].clone()
        # These 2d points have the mean and covariance of a standard normal.
        latent = mean.shape[1]
        nodes = latent**0.5 * torch.cat([torch.eye(latent), -torch.eye(latent)]).to(mean).repeat_interleave(len(x), 0)
        trained = [mean.requires_grad_(), log_std.requires_grad_()]
        optimizer = torch.optim.Adam(trained, lr=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PROJECTION_STEPS)
        with torch.enable_grad():
            for _ in range(PROJECTION_STEPS):
                repeated = [value.repeat(2 * latent, 1) for value in (x, mean, log_std)]
                log_likelihood, kl = self.terms(repeated[0], repeated[1], repeated[2], nodes)
                mean.grad, log_std.grad = torch.autograd.grad((kl - log_likelihood).sum(), trained)
                optimizer.step()
                schedule.step()
        return Encoding(mean.detach(), log_std.detach().exp())

    def decode(self, z: Points) -> Float[Tensor, "*batch observation"]:
        """E[x | z] of points (*batch, latent), the process's mean; missing values of x included."""
        return self.process.mean(self._points(z))

    def metric(self) -> Metric:
        """E[JᵀJ] of the process, exactly: units of x per unit of z."""
        return self.process.expected_metric()

    def fisher_rao_metric(self) -> Metric:
        """E[JᵀJ] of the process over the standard deviation of the noise: nats^½ per unit of z."""
        return self.process.expected_metric(unit=self.process.noise_variance().sqrt().item())

    def uncertainty(self, z: Points) -> Float[Tensor, "*batch"]:
        """The process's standard deviation at z, the same for every observation; units of x."""
        z = self._points(z)
        return self.process.predictions(z)[1].sqrt().to(z.dtype)

    def _points(self, z: Points) -> Float[Tensor, "*batch latent"]:
        points = points_of("z", z, "*batch latent")
        check_latent("z", points, self.latent)
        return points

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Any:
        """Fixed functions z (*batch, latent) -> x (member, *batch, observation) sampled from the process.

        Raises:
            ValueError: num_draws below one.
        """
        return self.process.draws(num_draws, seed)


def _start(model: FittedGPLVM, x: Tensor, seed: int) -> None:
    model.start(x, seed)


def _keys(x: Float[Tensor, "row observation"]) -> Int[Tensor, " row"]:
    """A number for every row that tells it from others by content: a hash of 64 bits."""
    bits = torch.where(x.isnan(), torch.nan, x.double() + 0.0).view(torch.int64)  # one zero and one NaN
    odd = torch.randint(2**62, (x.shape[1],), generator=stream("keys", x.shape[1])).to(x.device) * 2 + 1
    mixed = (bits ^ (bits >> 32)) * odd
    return (mixed ^ (mixed >> 29)).sum(1)


def _found(keys: Int[Tensor, " row"], among: Int[Tensor, " known"]) -> tuple[Bool[Tensor, " row"], Int[Tensor, " row"]]:
    """Which keys are among others, and where (anywhere for those that are not)."""
    ordered, order = among.sort(stable=True)
    place = torch.searchsorted(ordered, keys).clamp(max=len(among) - 1)
    return ordered[place] == keys, order[place]
