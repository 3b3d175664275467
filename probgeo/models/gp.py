"""Gaussian processes and radial basis functions: the only file that knows GPyTorch."""

import torch
from gpytorch.kernels import RBFKernel
from gpytorch.kernels.kernel import sq_dist
from gpytorch.kernels.rbf_kernel import postprocess_rbf
from jaxtyping import Float
from sklearn.cluster import KMeans
from torch import Tensor, nn


class RBFPrecision(nn.Module):
    """Precision 1/σ²(z) = W (φ(z) + floor·φ̄) with φ_k(z) = exp(-‖z - c_k‖² / 2ℓ_k²), W > 0, φ̄ the mean of φ at data.

    Away from the centres φ vanishes, so the precision falls to `floor` times its mean value at the data, and the
    variance grows by 1/floor. Centres are placed by `place`; before that they lie at the origin.

    Args:
        num_features: number of observations D, each with a precision of its own.
        latent: dimension of z.
        num_centers: number K of radial basis functions.
        floor: precision far from the data over the mean precision at the data, in (0, 1).
        curve: length scales ℓ_k in units of the mean distance of a cluster's points from its centre.

    References:
        Arvanitidis, Hansen & Hauberg (2018), Latent Space Oddity, section 4 (there with a constant offset as floor).
    """

    centers: Tensor
    at_data: Tensor
    placed: Tensor

    def __init__(self, num_features: int, latent: int, num_centers: int, floor: float, curve: float) -> None:
        super().__init__()
        self.floor, self.curve = floor, curve
        self.kernel = RBFKernel(batch_shape=torch.Size([num_centers])).requires_grad_(False)
        self.log_weights = nn.Parameter(torch.zeros(num_features, num_centers))
        self.register_buffer("centers", torch.zeros(num_centers, latent))
        self.register_buffer("at_data", torch.ones(num_centers))
        self.register_buffer("placed", torch.tensor(False))

    def _basis(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch center"]:
        rows = z.reshape(-1, z.shape[-1])
        basis = postprocess_rbf(sq_dist(rows, self.centers) / self.kernel.lengthscale.flatten() ** 2)
        return basis.reshape(*z.shape[:-1], -1)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch observation"]:
        return (self._basis(z) + self.floor * self.at_data) @ self.log_weights.exp().T

    @torch.no_grad()
    def place(self, z: Float[Tensor, "row latent"], precision: Float[Tensor, ""], seed: int) -> None:
        """Set centres and length scales by k-means on the codes z, and all precisions at the data to `precision`.

        Raises:
            ValueError: fewer codes than centres.
        """
        num_centers = len(self.centers)
        if len(z) < num_centers:
            raise ValueError(f"num_centers: expected at most as many centres as codes ({len(z)}); got {num_centers}.")
        clusters = KMeans(num_centers, n_init=1, random_state=seed).fit(z.detach().cpu().double().numpy())
        self.centers.copy_(torch.as_tensor(clusters.cluster_centers_))
        labels = torch.as_tensor(clusters.labels_, dtype=torch.long, device=z.device)
        distance = (z - self.centers[labels]).norm(dim=-1)
        total = torch.zeros_like(self.at_data).index_add_(0, labels, distance)
        radius = total / torch.bincount(labels, minlength=num_centers).clamp(min=1)
        # A cluster of one point has radius 0; it takes the mean radius, so that no basis function is a spike.
        radius = torch.where(radius > 0, radius, distance.mean().clamp(min=torch.finfo(z.dtype).eps))
        self.kernel.lengthscale = self.curve * radius[:, None, None]
        self.at_data.copy_(self._basis(z).mean(0))
        self.log_weights.fill_((precision / ((1 + self.floor) * self.at_data.sum())).log())
        self.placed.fill_(True)
