"""Injective networks: codes padded with zeros, the bijections of a normalizing flow, an affine map of full rank.

Different codes have different images, and the Jacobian has full column rank, by construction: the metric never
degenerates, whatever the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from probgeo.nn.flows import AffineCoupling, Bijection, Layer
from probgeo.specs import check_numbers


class InjectiveMap(nn.Module):
    """f(z) = Q diag(e^s) (T_K ∘ … ∘ T_1)([z; 0]) + b, QᵀQ = I; coordinates are reversed after every T_k.

    Args:
        latent: dimension d of z.
        width: dimension of the padded code.
        num_outputs: dimension of f(z).
        layers: the bijections T_k.
    """

    def __init__(self, latent: int, width: int, num_outputs: int, layers: Sequence[Bijection]) -> None:
        super().__init__()
        self.latent = latent
        self.width = width
        self.layers = nn.ModuleList(layers)
        self.basis = nn.Parameter(nn.init.orthogonal_(torch.empty(num_outputs, width)))
        self.log_scale = nn.Parameter(torch.zeros(width))
        self.offset = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch observation"]:
        y = functional.pad(z, (0, self.width - self.latent))
        for layer in self.layers:
            y = layer(y).flip(-1)
        return y * self.log_scale.exp() @ self._orthonormal().mT + self.offset

    def inverse(self, x: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch latent"]:
        """z with f(z) = x where x = f(z); elsewhere what is left of T⁻¹ after padding and projection are undone."""
        y = (x - self.offset) @ self._orthonormal() * (-self.log_scale).exp()
        for layer in reversed(self.layers):
            assert isinstance(layer, Bijection)
            y = layer.inverse(y.flip(-1))
        return y[..., : self.latent]

    def _orthonormal(self) -> Float[Tensor, "observation width"]:
        """Q = A L⁻ᵀ with LLᵀ = AᵀA."""
        root = torch.linalg.cholesky(self.basis.mT @ self.basis)
        return torch.linalg.solve_triangular(root.mT, self.basis, upper=True, left=False)


# --- specs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Injective:
    """Spec of a network that is an injective immersion: f(z) = Q diag(e^s) T([z; 0]) + b, T a normalizing flow.

    `Decoder(Injective())` is a decoder without self-intersections or folds: its metric has full rank everywhere, also
    that of its mean where the mean is one monotone function of each output (Gaussian, Bernoulli, Poisson, ...). An
    ensemble of such decoders is `EnsembleDecoder(network=Injective())`.

    Args:
        width: dimension that z is padded to, between that of z and that of the observations.
        layers: specs of T's bijections, see `probgeo.nn.flows`; coordinates are reversed between them.

    Raises:
        ValueError: no layers, or a width below two.

    Example:
        >>> import torch, probgeo as pg
        >>> network = pg.nn.Injective(width=4).build(num_inputs=2, num_outputs=5)
        >>> z = torch.randn(4, 2)
        >>> torch.allclose(network.inverse(network(z)), z, atol=1e-4)
        True
        >>> bool((pg.calculus.smallest_singular_value([network], z) > 0).all())  # the metric never degenerates
        True

    References:
        Brehmer & Cranmer (2020), Flows for simultaneous manifold learning and density estimation.
    """

    width: int = 16
    layers: Sequence[Layer] = (AffineCoupling((128,)),) * 4

    def __post_init__(self) -> None:
        check_numbers(self)
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("layers: expected at least one bijection; got none.")
        if self.width < 2:
            raise ValueError(f"width: expected at least 2, as couplings need two halves; got {self.width}.")

    def build(self, num_inputs: int, num_outputs: int) -> InjectiveMap:
        """The network, freshly initialised from torch's random state.

        Raises:
            ValueError: a width below the latent dimension or above that of the observations.
        """
        if not num_inputs <= self.width <= num_outputs:
            raise ValueError(
                f"width: expected {num_inputs} to {num_outputs}, between the dimensions of the latent space and of the "
                f"observations; got {self.width}."
            )
        return InjectiveMap(num_inputs, self.width, num_outputs, [layer.build(self.width) for layer in self.layers])
