"""Data: published sets (checksummed downloads, cached), folders of images, synthetic manifolds, pairs of rows."""

from probgeo.datasets.covariates import with_obs
from probgeo.datasets.dataset import Column, Dataset, Normalisation
from probgeo.datasets.files.counts import branching_counts, count_table, earliest_row
from probgeo.datasets.files.images import celeba, image_folder, imagenette
from probgeo.datasets.files.tables import table
from probgeo.datasets.immersed import intrinsic_distances
from probgeo.datasets.manifolds import blobs, circle, circles, s_curve, sphere, surface, swiss_roll, two_moons
from probgeo.datasets.neighbours import neighbour_graph_distances
from probgeo.datasets.pairs import (
    all_pairs,
    class_regions,
    class_representatives,
    neighbour_pairs,
    sample_class_triples,
    sample_pairs,
    sample_triples,
)
from probgeo.datasets.published.hands import hand_poses
from probgeo.datasets.published.images import cache_folder, digits, fashion_mnist, mnist, tasic
from probgeo.datasets.published.neurons import neurons_expression, neurons_morphology
from probgeo.datasets.published.photographs import cifar10, cifar100, svhn
from probgeo.datasets.rotations import rotated_image
from probgeo.datasets.scenarios import (
    COLOURS,
    coloured,
    coloured_mnist,
    gaussian_covariance,
    gaussians,
    projected,
    with_columns,
    with_labels,
    with_radius,
)
from probgeo.datasets.surfaces import folded_sheet, plane_with_hole, torus
from probgeo.datasets.views import (
    image_and_inverse,
    image_halves,
    mnist_inverse,
    two_views,
)

__all__ = [
    "COLOURS",
    "Column",
    "Dataset",
    "Normalisation",
    "all_pairs",
    "blobs",
    "branching_counts",
    "cache_folder",
    "celeba",
    "cifar10",
    "cifar100",
    "circle",
    "circles",
    "class_regions",
    "class_representatives",
    "coloured",
    "coloured_mnist",
    "count_table",
    "digits",
    "earliest_row",
    "fashion_mnist",
    "folded_sheet",
    "gaussian_covariance",
    "gaussians",
    "hand_poses",
    "image_and_inverse",
    "image_folder",
    "image_halves",
    "imagenette",
    "intrinsic_distances",
    "load",
    "mnist",
    "mnist_inverse",
    "neighbour_graph_distances",
    "neighbour_pairs",
    "neurons_expression",
    "neurons_morphology",
    "plane_with_hole",
    "projected",
    "rotated_image",
    "s_curve",
    "sample_class_triples",
    "sample_pairs",
    "sample_triples",
    "sphere",
    "surface",
    "svhn",
    "swiss_roll",
    "table",
    "tasic",
    "torus",
    "two_moons",
    "two_views",
    "with_columns",
    "with_labels",
    "with_obs",
    "with_radius",
]


def load(name: str) -> Dataset:
    """The data set of that name, with the defaults of its own function: load("mnist") = mnist().

    Args:
        name: digits, mnist, fashion_mnist, cifar10, cifar100, svhn, celeba, imagenette, tasic, or the name of a
            synthetic set.

    Returns:
        the data set.

    Raises:
        ValueError: no data set has that name.
        OSError: a file is neither in the cache nor can it be downloaded.

    Example:
        >>> import probgeo as pg
        >>> pg.datasets.load("digits").name, pg.datasets.load("swiss_roll").shape
        ('digits', (3,))
    """
    published = (digits, mnist, fashion_mnist, cifar10, cifar100, svhn, celeba, imagenette, tasic)
    manifolds = (circle, swiss_roll, s_curve, sphere, surface, torus, plane_with_hole, folded_sheet)
    synthetic = (*manifolds, two_moons, blobs, circles, gaussians)
    functions = {function.__name__: function for function in published + synthetic}
    if name not in functions:
        raise ValueError(f"name: unknown data set {name!r}; choose from {', '.join(functions)}.")
    return functions[name]()
