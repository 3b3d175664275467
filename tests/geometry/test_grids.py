"""Grids: even where the metric is smooth, finer where an edge does not see what is between its ends."""

import numpy as np
import pytest
import torch
from torch import Tensor

from probgeo.geometry.graph import Graph
from probgeo.geometry.grids import MARGIN, grid
from probgeo.geometry.metrics import PullbackMetric
from probgeo.nn import mlp

CODES = 2 * torch.rand(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1


def walled(z: Tensor) -> Tensor:
    """A wall along y = 0, 3 high, with a gap at x = .31 that is narrower than the spacing of a grid of forty nodes."""
    x, y = z.unbind(-1)
    gap = 1 - torch.exp(-(((x - 0.31) / 0.02) ** 4))
    return torch.stack([x, y, 3 * gap * torch.exp(-((y / 0.04) ** 2))], dim=-1)


def needle(z: Tensor) -> Tensor:
    """A hill beside the origin that is not much wider than the spacing of a grid of forty nodes."""
    apart = z - torch.tensor([0.11, 0.07]).to(z)
    return torch.cat([z, torch.exp(-((apart.norm(dim=-1, keepdim=True) / 0.06) ** 2))], dim=-1)


@pytest.mark.parametrize(("latent", "num_edges"), [(1, 19), (2, 19 * 20 * 2 + 19**2 * 2 + 4 * 19 * 18)])
def test_the_grid_of_a_plane_is_even_and_its_edges_are_as_long_as_they_look(latent, num_edges):
    codes = CODES[:, :latent]
    nodes, edges, weights, _ = grid(PullbackMetric(lambda z: 3 * z), codes, 20)
    assert nodes.shape == (20**latent, latent) and edges.shape == (num_edges, 2)
    extent = (0.5 + MARGIN) * (codes.amax(0) - codes.amin(0)).amax()
    torch.testing.assert_close(nodes.amax(0) - nodes.amin(0), 2 * extent.expand(latent))
    np.testing.assert_allclose(weights, 3 * (nodes[edges[:, 0]] - nodes[edges[:, 1]]).norm(dim=1))


def test_what_is_finer_joins_the_rest_without_repeating_it():
    nodes, edges, weights, _ = grid(PullbackMetric(needle), CODES, 40)
    assert 1.1 * 40**2 < len(nodes) < 3 * 40**2
    assert len(nodes.unique(dim=0)) == len(nodes)
    assert len(np.unique(np.sort(edges, axis=1), axis=0)) == len(edges) and (edges[:, 0] != edges[:, 1]).all()
    assert (np.bincount(edges.ravel(), minlength=len(nodes)) > 0).all()
    start, stop = nodes[edges[:, 0]], nodes[edges[:, 1]]
    first, middle, second = needle(start), needle((start + stop) / 2), needle(stop)
    in_two = (middle - first).norm(dim=1) + (second - middle).norm(dim=1)
    np.testing.assert_allclose(weights, in_two, rtol=1e-9, atol=1e-12)
    spacing = (stop - start).abs().amax(1)
    assert spacing.min() < spacing.max() / 7  # halved twice, and from two steps to one


def test_a_gap_between_two_nodes_is_found():
    metric = PullbackMetric(walled)
    start, stop = torch.tensor([[[0.0, -0.8]], [[0.0, 0.8]]], dtype=torch.float64)
    through = 2 * (0.31**2 + 0.8**2) ** 0.5
    assert Graph(metric, CODES, num_nodes=1600).distances(start, stop).item() == pytest.approx(through, rel=0.05)


def test_a_network_of_few_units_needs_no_finer_grid():
    torch.manual_seed(0)
    nodes, _, _, _ = grid(PullbackMetric(mlp([2, 16, 16, 5]).double()), CODES, 30)
    assert len(nodes) == 30**2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_where_there_is_no_value_nothing_is_finer(value):
    def holed(z: Tensor) -> Tensor:
        return torch.where(z.norm(dim=-1, keepdim=True) < 0.5, value, z)

    nodes, _, weights, _ = grid(PullbackMetric(holed), CODES, 30)
    assert len(nodes) == 30**2 and not np.isfinite(weights).all()
