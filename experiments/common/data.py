"""Data sets by name."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import probgeo as pg


def observations(name: str, classes: Sequence[int] = ()) -> tuple[pg.datasets.Dataset, pg.datasets.Dataset]:
    """The data to train on, and those that pairs are taken from: the test set where one is published, else the same."""
    sets = pg.datasets
    published = (sets.mnist, sets.fashion_mnist, sets.cifar10, sets.cifar100, sets.svhn, sets.celeba, sets.imagenette)
    test_sets = {function.__name__: function for function in published}
    data = sets.load(name)
    points = test_sets[name](train=False) if name in test_sets else data
    return (data.subset(classes=classes), points.subset(classes=classes)) if classes else (data, points)


def cells(table: Path | None) -> pg.datasets.Dataset:
    """`datasets.tasic(table)` in units of its overall standard deviation, which leaves the ratios of distances."""
    data = pg.datasets.tasic(table)
    return dataclasses.replace(data, x=data.x / data.x.std())
