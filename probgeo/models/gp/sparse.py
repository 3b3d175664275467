"""Gaussian processes and radial basis functions: with `roots`, the only file that knows GPyTorch."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.kernels.kernel import sq_dist
from gpytorch.kernels.rbf_kernel import postprocess_rbf
from gpytorch.likelihoods import GaussianLikelihood
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.geometry.metrics import TensorMetric
from probgeo.geometry.points import Points, check_latent, points_of
from probgeo.models.gp.roots import cholesky_root, identity_like, unseen_root
from probgeo.rows import nanmean, row_blocks
from probgeo.seeds import stream

NUM_FREQUENCIES = 256


def _clusters(z: Float[Tensor, "row latent"], num: int, seed: int) -> Any:
    """Scikit-learn's k-means of the codes, fitted."""
    from sklearn.cluster import KMeans

    return KMeans(num, n_init=1, random_state=seed).fit(z.detach().cpu().double().numpy())


class RBFPrecision(nn.Module):
    """Precision 1/σ²(z) = W (φ(z) + floor·φ̄) with φ_k(z) = exp(-‖z - c_k‖² / 2ℓ_k²), W > 0, φ̄ the mean of φ at data.

    Away from the centres φ vanishes, so the precision falls to `floor` times its mean value at the data, and the
    variance grows by 1/floor. Centres are placed by `place`; before that they lie at the origin.

    Args:
        num_features: number of observations D, each with a precision of its own.
        latent: dimension of z.
        num_centres: number K of radial basis functions.
        floor: precision far from the data over the mean precision at the data, in (0, 1).
        curve: length scales ℓ_k in units of the mean distance of a cluster's points from its centre.

    References:
        Arvanitidis, Hansen & Hauberg (2018), Latent Space Oddity, section 4 (there with a constant offset as floor).
    """

    centers: Tensor  # as weights on disk have it
    at_data: Tensor
    placed: Tensor

    def __init__(self, num_features: int, latent: int, num_centres: int, floor: float, curve: float) -> None:
        super().__init__()
        self.floor, self.curve = floor, curve
        self.kernel = RBFKernel(batch_shape=torch.Size([num_centres])).requires_grad_(False)
        self.log_weights = nn.Parameter(torch.zeros(num_features, num_centres))
        self.register_buffer("centers", torch.zeros(num_centres, latent))
        self.register_buffer("at_data", torch.ones(num_centres))
        self.register_buffer("placed", torch.tensor(False))
        self.any_placed = False  # of several that are stacked in this module: `placed` has no one value then

    def _basis(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch centre"]:
        rows = z.reshape(-1, z.shape[-1])
        basis = postprocess_rbf(sq_dist(rows, self.centers) / self.kernel.lengthscale.flatten() ** 2)
        return basis.reshape(*z.shape[:-1], -1)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch observation"]:
        return (self._basis(z) + self.floor * self.at_data) @ self.log_weights.exp().T

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.any_placed = bool(self.placed.any())

    def check(self, num_rows: int) -> None:
        """Raise ValueError if there are fewer codes than centres."""
        if num_rows < len(self.centers):
            raise ValueError(
                f"num_centres: expected at most as many centres as codes ({num_rows}); got {len(self.centers)}."
            )

    @torch.no_grad()
    def place(self, z: Float[Tensor, "row latent"], precision: Float[Tensor, ""], seed: int) -> None:
        """Set centres and length scales by k-means on the codes z, and all precisions at the data to `precision`.

        Raises:
            ValueError: fewer codes than centres.
        """
        self.check(len(z))
        num_centres = len(self.centers)
        clusters = _clusters(z, num_centres, seed)
        self.centers.copy_(torch.as_tensor(clusters.cluster_centers_))
        labels = torch.as_tensor(clusters.labels_, dtype=torch.long, device=z.device)
        distance = (z - self.centers[labels]).norm(dim=-1)
        total = torch.zeros_like(self.at_data).index_add_(0, labels, distance)
        radius = total / torch.bincount(labels, minlength=num_centres).clamp(min=1)
        # A cluster of one point has radius 0; it takes the mean radius, so that no basis function is a spike.
        radius = torch.where(radius > 0, radius, distance.mean().clamp(min=torch.finfo(z.dtype).eps))
        self.kernel.lengthscale = self.curve * radius[:, None, None]
        self.at_data.copy_(torch.stack([self._basis(block).sum(0) for _, block in row_blocks(z)]).sum(0) / len(z))
        self.log_weights.fill_((precision / ((1 + self.floor) * self.at_data.sum())).log())
        self.placed.fill_(True)
        self.any_placed = True


class SparseGP(nn.Module):
    """Posterior of D independent Gaussian processes with one kernel: x_d(z) = offset_d + scale (f_d(z) + noise).

    f_d ~ GP(0, k), k(z, z') = s² exp(-½ Σ_k (z_k - z'_k)² / ℓ_k²). The posterior is carried by the values at M inducing
    points, u_d ~ N(L m_d, L S Lᵀ) with K_uu = L Lᵀ and S shared by the outputs, so with a(z) = L⁻¹ k(U, z)

        E f_d(z) = a(z)ᵀ m_d,    cov(f_d(z), f_d(z')) = k(z, z') - a(z)ᵀ a(z') + a(z)ᵀ S a(z').

    Everything is computed in double precision, from parameters of any; m and S are of order 1, so that they lose
    nothing when they are stored in single precision.

    Args:
        num_features: number of outputs D.
        latent: dimension of z.
        num_inducing: number M of inducing points.

    References:
        Titsias (2009), Variational learning of inducing variables in sparse Gaussian processes; Hensman, Fusi &
        Lawrence (2013), Gaussian processes for big data (the whitened form).
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, num_features: int, latent: int, num_inducing: int) -> None:
        super().__init__()
        self.kernel = ScaleKernel(RBFKernel(ard_num_dims=latent))
        self.likelihood = GaussianLikelihood()  # its noise is a variance in units of scale², at least 1e-4
        self.inducing = nn.Parameter(torch.zeros(num_inducing, latent))
        self.mean_weights = nn.Parameter(torch.zeros(num_inducing, num_features))  # m
        self.root = nn.Parameter(torch.eye(num_inducing))  # lower triangular, S = root rootᵀ
        self.register_buffer("offset", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(()))

    # --- the kernel and the inducing points ---

    def _kernel(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch inducing"]:
        """k(z, U)."""
        lengthscale = self.kernel.base_kernel.lengthscale.double()
        apart = (z.double()[..., None, :] - self.inducing.double()) / lengthscale
        return self.kernel.outputscale.double() * (-0.5 * apart.square().sum(-1)).exp()

    def _inducing_root(self) -> Float[Tensor, "inducing inducing"]:
        """L, lower triangular."""
        kernel = self._kernel(self.inducing)
        return cholesky_root(kernel) if kernel.device.type == "cpu" else unseen_root(kernel)

    def _inverse_root(self) -> Float[Tensor, "inducing inducing"]:
        """L⁻¹."""
        root = self._inducing_root()
        return torch.linalg.solve_triangular(root, identity_like(root), upper=False)

    def noise_variance(self) -> Float[Tensor, ""]:
        """Variance of the noise on x, in squared units of x."""
        return self.scale.double() ** 2 * self._noise()

    def _noise(self) -> Float[Tensor, ""]:
        return self.likelihood.noise.double().squeeze()

    # --- predictions ---

    def predictions(
        self, z: Float[Tensor, "*batch latent"]
    ) -> tuple[Float[Tensor, "*batch observation"], Float[Tensor, "*batch"]]:
        """Mean of x_d(z) and variance of its function, the same for every output, in units of x and their square."""
        features = self._kernel(z) @ self._inverse_root().T
        spread = features @ self.root.double().tril()
        variance = self.kernel.outputscale.double() - features.square().sum(-1) + spread.square().sum(-1)
        scale = self.scale.double()
        # Between inducing points that nearly coincide, rounding may leave less than nothing.
        return self.offset + scale * (features @ self.mean_weights.double()), scale**2 * variance.clamp_min(1e-12)

    def mean(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch observation"]:
        """E x(z), in units of x and the dtype of z."""
        return self.predictions(z)[0].to(z.dtype)

    def variance(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch observation"]:
        """Variance of the functions (not of the noise) at z, in squared units of x and the dtype of z."""
        mean, variance = self.predictions(z)
        return variance[..., None].expand_as(mean).to(z.dtype)

    def kl(self) -> Float[Tensor, ""]:
        """KL(q(u) ‖ p(u)), summed over the outputs: ½ Σ_d (‖m_d‖² + tr S - M - log |S|)."""
        mean, root = self.mean_weights.double(), self.root.double().tril()
        log_determinant = 2 * root.diagonal().abs().log().sum()
        return 0.5 * (mean.square().sum() + mean.shape[1] * (root.square().sum() - len(root) - log_determinant))

    # --- fitting to given codes ---

    def check(self, num_rows: int) -> None:
        """Raise ValueError if there are fewer codes than inducing points."""
        if num_rows < len(self.inducing):
            raise ValueError(
                f"num_inducing: expected at most as many inducing points as rows of x ({num_rows}); got "
                f"{len(self.inducing)}."
            )

    @torch.no_grad()
    def place(self, z: Float[Tensor, "row latent"], x: Callable[[], Iterable[Tensor]], seed: int) -> None:
        """Set inducing points by k-means on the codes z; units and first hyperparameters that suit x (NaN: missing).

        Args:
            z: codes of all rows.
            x: observations (row, observation) of one block of rows after another; called twice.
            seed: of the k-means.

        Raises:
            ValueError: fewer codes than inducing points.
        """
        self.check(len(z))
        num_inducing = len(self.inducing)
        clusters = _clusters(z, num_inducing, seed)
        self.inducing.copy_(torch.as_tensor(clusters.cluster_centers_))
        mean = nanmean(block for block in x())
        self.offset.copy_(mean)
        spread = nanmean((block - mean).square().flatten() for block in x()).sqrt()
        self.scale.copy_(spread if spread > 0 else torch.ones_like(spread))
        self.kernel.outputscale = 1.0
        self.kernel.base_kernel.lengthscale = z.std(0).clamp(min=torch.finfo(z.dtype).eps)
        self.likelihood.noise = 0.1

    def evidence_bound(self, z: Float[Tensor, "row latent"], x: Float[Tensor, "row observation"]) -> Float[Tensor, ""]:
        """log p(x | z) from below, by the best q(u) there is (Titsias 2009, eq. 9), for x in units of scale."""
        y, features = self._standardised(x), self._kernel(z) @ self._inverse_root().T
        root, projected, noise = self._best(features.T @ features, features.T @ y)
        num_rows, num_features = y.shape
        prior = self.kernel.outputscale.double()
        fit = (y.square().sum() - projected.square().sum()) / noise
        left_over = num_features * (num_rows * prior - features.square().sum()) / noise
        log_determinant = num_rows * (2 * math.pi * noise).log() + 2 * root.diagonal().log().sum()
        return -0.5 * (num_features * log_determinant + fit + left_over)

    @torch.no_grad()
    def condition(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set q(u) to its best, given codes z, data x and the hyperparameters (Titsias 2009, eq. 10).

        Args:
            blocks: z (row, latent) and x (row, observation) of one block of rows after another.
        """
        inverse_root = self._inverse_root()
        gram: Any = 0
        cross: Any = 0
        for z, x in blocks:
            features = self._kernel(z) @ inverse_root.T
            gram, cross = gram + features.T @ features, cross + features.T @ self._standardised(x)
        root, projected, noise = self._best(gram, cross)
        # root rootᵀ = S⁻¹, whose inverse root is upper triangular; the QR decomposition makes it a lower one.
        inverse = torch.linalg.solve_triangular(root, identity_like(root), upper=False)
        self.mean_weights.copy_(inverse.T @ projected / noise.sqrt())
        self.root.copy_(torch.linalg.qr(inverse, mode="r").R.T)

    def _standardised(self, x: Float[Tensor, "row observation"]) -> Float[Tensor, "row observation"]:
        return (x.double() - self.offset) / self.scale.double()

    def _best(self, gram: Tensor, cross: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """R with R Rᵀ = S⁻¹ = I + Σ a aᵀ / σ²; R⁻¹ Σ a yᵀ / σ; σ²; given Σ a aᵀ and Σ a yᵀ over the rows."""
        noise = self._noise()
        root = cholesky_root(identity_like(gram) + gram / noise, relative_jitter=0.0)
        projected = torch.linalg.solve_triangular(root, cross, upper=False) / noise.sqrt()
        return root, projected, noise

    def fit_hyperparameters(
        self, z: Float[Tensor, "row latent"], x: Float[Tensor, "row observation"], max_steps: int
    ) -> None:
        """Length scales, output scale and noise that maximise `evidence_bound` (L-BFGS, deterministic)."""
        trained = [*self.kernel.parameters(), *self.likelihood.parameters()]
        optimizer = torch.optim.LBFGS(
            [parameter.requires_grad_() for parameter in trained], max_iter=max_steps, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = -self.evidence_bound(z, x) / x.numel()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        optimizer.zero_grad()

    # --- geometry ---

    @torch.no_grad()
    def expected_metric(self, unit: float = 1.0) -> TensorMetric:
        """G = E[JᵀJ] = E[J]ᵀE[J] + D cov(J), exactly, of x / unit.

        With V = L⁻¹ ∂k(U, z): E[J]ᵀE[J] = Vᵀ Σ_d m_d m_dᵀ V and cov(J) = s² diag(1/ℓ²) - VᵀV + VᵀSV.

        References:
            Tosi, Hauberg, Vellido & Lawrence (2014), Metrics for probabilistic geometries, equation 12.
        """
        mean, inverse = self.mean_weights.double(), self._inverse_root()
        num_features, num_inducing = mean.shape[1], len(inverse)
        # P = Σ m_d m_dᵀ + D S = RᵀR, so that all of G but the prior's share of it is a sum of squares.
        stacked = torch.cat([mean.T, num_features**0.5 * self.root.double().tril().T])
        weights = torch.cat([inverse.T, inverse.T @ torch.linalg.qr(stacked, mode="r").R.T], dim=1)
        signs = torch.ones(2 * num_inducing).to(weights)
        signs[:num_inducing] = -num_features
        factor = (self.scale.double() / unit) ** 2
        lengthscale = self.kernel.base_kernel.lengthscale.double().squeeze(0)
        inducing, outputscale = self.inducing.double(), self.kernel.outputscale.double()
        prior = num_features * outputscale * lengthscale.square().reciprocal().diag()

        def tensor(z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent latent"]:
            check_latent("codes", z, inducing.shape[1])
            apart = (inducing.T - z.double()[..., None]) / lengthscale[:, None]
            kernel = outputscale * (-0.5 * apart.square().sum(-2, keepdim=True)).exp()
            slopes = kernel * apart / lengthscale[:, None] @ weights
            return (factor * (prior + (signs * slopes) @ slopes.mT)).to(z.dtype)

        return TensorMetric(tensor)

    @torch.no_grad()
    def draws(self, num_draws: int | None = None, seed: int = 0, unit: float = 1.0) -> "PathwiseDraws":
        """Fixed functions (default 20) sampled from the posterior of x / unit; the first k of n draws are the k draws.

        Raises:
            ValueError: num_draws below one.
        """
        num_draws = 20 if num_draws is None else num_draws
        if num_draws < 1:
            raise ValueError(f"num_draws: expected at least 1; got {num_draws}.")
        return PathwiseDraws(self, [stream(seed, "draws", index) for index in range(num_draws)], unit)


class PathwiseDraws(nn.Module):
    """Functions f_s sampled from a Gaussian process posterior: a prior path, corrected at the inducing points.

    f(z) = φ(z) w + a(z)ᵀ (v - L⁻¹ φ(U) w), v ~ N(m, S), w ~ N(0, I), φ random Fourier features of each draw's own, so
    that over draws mean and covariance are exactly those of the posterior.

    References:
        Wilson et al. (2020), Efficiently sampling functions from Gaussian process posteriors, equation 13.
    """

    frequencies: Tensor
    weights: Tensor
    update: Tensor
    inverse: Tensor

    def __init__(self, process: SparseGP, streams: list[torch.Generator], unit: float) -> None:
        super().__init__()
        self.num_members = len(streams)
        self.process = copy.deepcopy(process)
        self.unit = unit
        inverse, root = process._inverse_root(), process._inducing_root()
        num_inducing, num_features = process.mean_weights.shape
        latent = process.inducing.shape[1]

        def normal(*shape: int) -> Tensor:
            return torch.stack([torch.randn(shape, generator=each, dtype=torch.float64) for each in streams]).to(root)

        self.register_buffer(
            "frequencies", normal(latent, NUM_FREQUENCIES) / process.kernel.base_kernel.lengthscale.double().mT
        )
        amplitude = (process.kernel.outputscale.double() / NUM_FREQUENCIES).sqrt()
        self.register_buffer("weights", amplitude * normal(2 * NUM_FREQUENCIES, num_features))
        # The jitter belongs to the inducing values: without it their prior would not be N(0, L Lᵀ).
        jitter = (root.square().sum(1) - process.kernel.outputscale.double()).clamp_min(0).sqrt()
        prior = self._features(process.inducing.double()) @ self.weights
        prior = prior + jitter[:, None] * normal(num_inducing, num_features)
        values = process.mean_weights.double() + process.root.double().tril() @ normal(num_inducing, num_features)
        self.register_buffer("update", values - inverse @ prior)
        self.register_buffer("inverse", inverse)

    def _features(self, z: Float[Tensor, "point latent"]) -> Float[Tensor, "member point feature"]:
        angle = z @ self.frequencies
        return torch.cat([angle.cos(), angle.sin()], dim=-1)

    def forward(self, z: Points) -> Float[Tensor, "member *batch observation"]:
        z = points_of("z", z, "*batch latent") if isinstance(z, Tensor) else points_of("z", z).to(self.update.device)
        check_latent("z", z, self.process.inducing.shape[1])
        points = z.double().reshape(-1, z.shape[-1])
        process = self.process
        values = self._features(points) @ self.weights + process._kernel(points) @ self.inverse.T @ self.update
        x = (process.offset + process.scale * values) / self.unit
        return x.to(z.dtype).reshape(self.num_members, *z.shape[:-1], x.shape[-1])
