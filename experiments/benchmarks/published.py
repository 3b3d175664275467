"""The published optimiser of decoder-ensemble geodesics: Adam on a cubic spline, Monte-Carlo decorrelated energy.

Written from its description (arXiv 2408.07507, section 4, and its authors' settings): a spline of 4 cubic pieces with
two continuous derivatives, at 2000 uniform times; each end of each of the 1999 segments is decoded by a member drawn
for it, 2 draws per step; 1000 steps of Adam at rate 1e-3.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.benchmarks.problems import Problem
from experiments.benchmarks.splines import spline, spline_basis

PIECES = 4
STEPS = 1000
RATE = 1e-3
DRAWS = 2
PAIRS_AT_ONCE = 10  # Pairs do not interact; few at once fit a processor's caches and a small memory.


def sampled_energy(
    values: Float[Tensor, "member pair time observation"], generator: torch.Generator, num_draws: int = DRAWS
) -> Float[Tensor, " pair"]:
    """Σ ‖f_s(z_{i+1}) − f_t(z_i)‖², members s and t drawn anew for every segment, mean over the draws.

    Args:
        values: every member along every path.
        generator: source of the draws.
        num_draws: draws per segment.
    """
    members, pairs, times, _ = values.shape
    pair, segment = torch.arange(pairs)[:, None], torch.arange(times - 1)
    total = values.new_zeros(pairs)
    for _ in range(num_draws):
        first, second = torch.randint(members, (2, pairs, times - 1), generator=generator)
        step = values[second, pair, segment + 1] - values[first, pair, segment]
        total = total + step.square().sum((1, 2)) / num_draws
    return total


def adam_on_spline(problem: Problem, num_steps: int, num_times: int) -> Callable[[], Tensor]:
    """The published optimiser, ready to run, from straight lines.

    Args:
        problem: pairs and ensemble.
        num_steps: steps of Adam.
        num_times: times at which the energy is sampled.

    Returns:
        A function without arguments that gives the paths at these times, (pair, time, latent).
    """
    basis = spline_basis(PIECES)

    def solve() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        found = []
        for start, stop in zip(problem.start.split(PAIRS_AT_ONCE), problem.stop.split(PAIRS_AT_ONCE), strict=True):
            parameters = start.new_zeros(len(start), basis.shape[1], start.shape[1], requires_grad=True)
            optimizer = torch.optim.Adam([parameters], lr=RATE)
            for _ in range(num_steps):
                optimizer.zero_grad()
                path = spline(start, stop, basis, parameters, num_times)
                sampled_energy(problem.members(path), generator).sum().backward()
                optimizer.step()
            found.append(spline(start, stop, basis, parameters.detach(), num_times))
        return torch.cat(found)

    return solve
