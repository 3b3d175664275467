"""Initial paths: straight lines, and resampling."""

import torch
from torch import Tensor

from probgeo.geometry.paths import Straight, resampled


def test_straight_line_has_uniform_nodes_between_exact_ends():
    start, stop = torch.randn(2, 5, 3)
    path = Straight(7)(start, stop)
    assert torch.equal(path[:, 0], start)
    assert torch.equal(path[:, -1], stop)
    assert torch.allclose(path.diff(dim=1), ((stop - start) / 7)[:, None].expand(-1, 7, -1), atol=1e-6)


def test_resampling_keeps_ends_and_has_uniform_speed_on_a_line():
    times = (0.1 + torch.rand(4, 9, dtype=torch.float64)).cumsum(1)
    times = (times - times[:, :1]) / (times[:, -1:] - times[:, :1])
    direction = torch.tensor([2.0, -1.0], dtype=torch.float64)
    path = times[..., None] * direction
    new = resampled(path, times.diff(dim=1), 20)
    expected = torch.linspace(0, 1, 21, dtype=torch.float64)[:, None] * direction
    assert torch.allclose(new, expected.expand(4, -1, -1), atol=1e-12)
    assert torch.equal(new[:, 0], path[:, 0])
    assert torch.equal(new[:, -1], path[:, -1])


def test_resampling_a_smooth_curve_errs_with_the_third_power_of_the_segment():
    def curve(segments: int) -> Tensor:
        time = torch.linspace(0, 1, segments + 1, dtype=torch.float64)
        return torch.stack([(3 * time).cos(), (3 * time).sin()], dim=-1)[None]

    errors = []
    for segments in (16, 32, 64):
        new = resampled(curve(segments), torch.ones(1, segments, dtype=torch.float64), 256)
        errors.append((new - curve(256)).norm(dim=-1).max().item())
    assert errors[0] / errors[1] > 7
    assert errors[1] / errors[2] > 7


def test_resampling_survives_segments_of_no_duration():
    path = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 1.0]]])
    for durations in ([[0.0, 0.0, 0.0]], [[1.0, 0.0, 1.0]], [[0.0, 1e-30, 1.0]]):
        new = resampled(path, torch.tensor(durations), 12)
        assert new.isfinite().all()
        assert new.amin() >= -0.5 - 1e-6
        assert new.amax() <= 2.5 + 1e-6
