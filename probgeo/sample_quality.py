"""How good samples are: Fréchet distance in a feature space, and blur."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import laplace
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

FeatureMap = Callable[[Tensor], Tensor]


def frechet_distance(
    first: Float[Tensor, "row feature"], second: Float[Tensor, "other _"], features: FeatureMap | None = None
) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½), of Gaussians with the moments of two sets of rows.

    It is biased upwards for few rows: compare only distances of equally many.

    Args:
        first: rows, at least two.
        second: rows, at least two.
        features: map (row, feature) -> (row, number) whose values are compared, such as `classifier_features`; None:
            the rows themselves, which suits tables.

    Returns:
        The squared 2-Wasserstein distance of the Gaussians, in squared units of the features; 0 for equal moments.

    Raises:
        ValueError: fewer than two rows, different features, or values that are not finite.

    Example:
        >>> import torch, probgeo as pg
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
        >>> round(pg.sample_quality.frechet_distance(x, x + torch.tensor([3.0, 4.0])), 3)  # 3² + 4², of the means alone
        25.0

    References:
        Dowson & Landau (1982), The Fréchet distance between multivariate normal distributions, eq. 4; Heusel et al.
        (2017), GANs trained by a two time-scale update rule.
    """
    with torch.no_grad():
        u, v = ((each if features is None else features(each)).double() for each in (first, second))
    if u.ndim != 2 or v.ndim != 2 or u.shape[1] != v.shape[1] or min(len(u), len(v)) < 2:
        raise ValueError(
            "first, second: expected at least two rows each, of the same features; got shapes "
            f"{tuple(u.shape)} and {tuple(v.shape)}."
        )
    if not (u.isfinite().all() and v.isfinite().all()):
        raise ValueError("first, second: expected finite values; got others. Impute or remove missing values.")
    a, b = (torch.atleast_2d(each.T.cov()) for each in (u, v))
    # tr (A^½ B A^½)^½ is the sum of the singular values of A^½ B^½: no root of what rounding may have made negative.
    cross = torch.linalg.svdvals(_root(a) @ _root(b)).sum()
    distance = (u.mean(0) - v.mean(0)).square().sum() + a.trace() + b.trace() - 2 * cross
    return float(distance.clamp(min=0))


def _root(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def classifier_features(
    x: Float[Tensor, "row feature"], labels: Int[Tensor, " row"], hidden: Sequence[int] = (128, 32), seed: int = 0
) -> nn.Sequential:
    """The last hidden layer of a perceptron that scikit-learn trains to tell the labels of x apart.

    Args:
        x: rows, e.g. the training images.
        labels: class of each row, at least two different ones.
        hidden: widths of the hidden layers; the last is the number of features.
        seed: of the training.

    Returns:
        A feature map (row, feature) -> (row, number) for `frechet_distance`.

    Raises:
        ValueError: labels of one class, or no hidden layers.

    Example:
        >>> import torch, probgeo as pg
        >>> digits = pg.datasets.digits()
        >>> features = pg.sample_quality.classifier_features(digits.x[:200], digits.labels[:200], hidden=(16, 4))
        >>> features(digits.x[:3]).shape
        torch.Size([3, 4])
    """
    if len(labels.unique()) < 2 or not hidden:
        raise ValueError(
            f"labels, hidden: expected at least two classes and one layer; got {len(labels.unique())} and {hidden}."
        )
    network = MLPClassifier(tuple(hidden), early_stopping=True, max_iter=100, random_state=seed)
    network.fit(x.detach().cpu().numpy(), labels.cpu().numpy())
    layers: list[nn.Module] = []
    for weight, bias in zip(network.coefs_[:-1], network.intercepts_[:-1], strict=True):
        layer = nn.Linear(*weight.shape)
        layer.weight.data, layer.bias.data = torch.from_numpy(weight.T), torch.from_numpy(bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers).to(x).requires_grad_(False)


def blur(images: Float[Tensor, "row feature"], shape: tuple[int, ...]) -> Float[Tensor, " row"]:
    """Variance over the pixels of the Laplacian of each image, the mean over its colours: low for blurred images.

    Args:
        images: flat rows.
        shape: of one image, (height, width) or (height, width, colour).

    Returns:
        One number per image, in squared units of the pixels, double precision.

    Raises:
        ValueError: rows that are not of this shape.

    Example:
        >>> import torch, probgeo as pg
        >>> sharp = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(3, 3)  # a chequerboard
        >>> images = torch.stack([sharp, torch.full_like(sharp, 0.5)])
        >>> of_sharp, of_grey = pg.sample_quality.blur(images.flatten(1), shape=(6, 6)).tolist()
        >>> of_sharp > 1, of_grey
        (True, 0.0)

    References:
        Pech-Pacheco, Cristóbal, Chamorro-Martínez & Fernández-Valdivia (2000), Diatom autofocusing in brightfield
        microscopy.
    """
    if len(shape) not in (2, 3) or images.ndim != 2 or images.shape[1] != np.prod(shape):
        raise ValueError(f"images: expected rows of {shape}; got shape {tuple(images.shape)}.")
    height, width, *colours = shape
    planes = images.detach().cpu().double().reshape(len(images), height, width, *(colours or [1])).movedim(-1, 1)
    variances = [[laplace(plane).var() for plane in image] for image in planes.numpy()]
    return torch.tensor(variances, dtype=torch.float64).mean(1)
