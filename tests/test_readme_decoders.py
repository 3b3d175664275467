"""What the README says of every kind of decoder is what happens, in the words that it says."""

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from gpytorch.likelihoods import GaussianLikelihood
from torch import Tensor, nn
from torch.nn.utils import prune

import probgeo as pg
from experiments import own_models
from probgeo.adapters import from_torch
from probgeo.geometry.metrics import ExpectedMetric, PullbackMetric
from tests.geometry.test_immersions import (
    ALTERATIONS,
    Attention,
    Branching,
    Exponential,
    Once,
    Process,
    batch_normalised,
    detached_hill,
    drawn,
    hill,
    moved,
    net,
    points,
    rounded,
    through_numpy,
)

README = (Path(__file__).parents[1] / "README.md").read_text()
START, STOP = torch.tensor([[-1.5, 0.05]], dtype=torch.float64), torch.tensor([[1.5, 0.05]], dtype=torch.float64)
X = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
Decoder = Callable[[Tensor], Any]


def rows() -> Iterator[tuple[str, str]]:
    table = README[README.index("| decoder | what happens |") :].split("\n\n")[0]
    for line in table.splitlines()[2:]:
        decoder, happens = line.strip("| ").split(" | ")
        yield decoder, happens


ROWS = dict(rows())


def seeded(*layers: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(layer() for layer in layers)).double()


def gru() -> Decoder:
    cell = seeded(lambda: nn.GRU(2, 5, batch_first=True))[0]
    return lambda z: cell(z[:, None].expand(-1, 3, -1))[0].flatten(1)


def unrolled() -> Decoder:
    cell = seeded(lambda: nn.LSTMCell(2, 2))[0]

    def states(z: Tensor) -> Tensor:
        hidden, memory, found = z, torch.zeros_like(z), []
        for _ in range(3):
            hidden, memory = cell(z, (hidden, memory))
            found.append(hidden)
        return torch.cat(found, dim=1)

    return states


def nearest(z: Tensor) -> Tensor:
    """Of a codebook, with the gradient passed straight through."""
    codes = points(16, seed=2)
    return hill(z + (codes[torch.cdist(z, codes).argmin(1)] - z).detach())


def altered() -> Iterator[nn.Module]:
    for alteration in ALTERATIONS:
        member = net(activation=nn.LeakyReLU)
        alteration(member)
        yield member


def process() -> Decoder:
    place, likelihood = points(9, seed=1), GaussianLikelihood().double()
    found = Process(place, torch.sin(place[:, 0]), likelihood).double().eval()
    return lambda z: torch.cat([z, found(z).mean[:, None]], dim=-1)


def kept() -> Decoder:
    """The values of the first points of their number."""
    values: dict[int, Tensor] = {}
    return lambda z: values.setdefault(len(z), hill(z))


def asserted(z: Tensor) -> Tensor:
    assert len(z) == 64
    return hill(z)


def data(z: Tensor) -> Tensor:
    return torch.cat([z, hill(z).data[..., 2:]], dim=-1)


def in_lower_precision(z: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net().float()(z.float()).float()


dense, into = partial(nn.Linear, 2, 16), partial(nn.Linear, 16, 8)
RIGHT: dict[str, Callable[[], list[Decoder]]] = {
    "perceptrons, convolutions": lambda: [
        net(),
        seeded(dense, partial(nn.Unflatten, 1, (4, 2, 2)), partial(nn.ConvTranspose2d, 4, 2, 3), nn.Tanh, nn.Flatten),
        gru(),
        seeded(dense, partial(nn.BatchNorm1d, 16), nn.SiLU, partial(nn.Dropout, 0.3), into).eval(),
        seeded(
            dense, partial(nn.LayerNorm, 16), partial(nn.Unflatten, 1, (4, 4)), partial(nn.GroupNorm, 2, 4), nn.Flatten
        ),
        seeded(dense, partial(nn.Unflatten, 1, (4, 4)), partial(nn.InstanceNorm1d, 4, affine=True), nn.Flatten),
        Attention().double().eval(),
        Branching(),
    ],
    "scripted, traced": lambda: [
        torch.jit.script(net()),
        torch.jit.trace(net(), points(3)),
        torch.jit.freeze(torch.jit.script(net().eval())),
        nn.DataParallel(net()),
        nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(2, 8).double()), nn.Tanh()).eval(),
        nn.Sequential(prune.l1_unstructured(nn.Linear(2, 8).double(), "weight", amount=0.3), nn.Tanh()),
        partial(nn.functional.linear, weight=net()[0].weight),
        partial(lambda network, z: torch.utils.checkpoint.checkpoint(network, z, use_reentrant=False), net()),
    ],
    "cells unrolled": lambda: [
        unrolled(),
        lambda z: torch.fft.irfft(torch.fft.rfft(net()(z)) * torch.arange(7)),
        lambda z: net()(z).sort(dim=1).values,
        lambda z: torch.linalg.solve(3 * torch.eye(2).to(z) + net(0, 2, 4)(z).tanh().unflatten(1, (2, 2)), z),
    ],
    "forward hooks": lambda: list(altered()),
    "means of GPyTorch": lambda: [process(), lambda z: Exponential.apply(hill(z))],
    "constant outputs": lambda: [
        lambda z: torch.cat([hill(z), torch.ones_like(z)], dim=-1),
        net(0, 2, 64, 64, 64, 64, 20, activation=nn.ReLU),
    ],
}
REFUSED: dict[str, Callable[[], list[Decoder]]] = {
    "part of it detached": lambda: [
        *(detached_hill, data, through_numpy, Once(), rounded, nearest),
        lambda z: hill(z) + (hill(z).round() - hill(z)).detach(),
        lambda z: points(100)[(20 * z[:, 0] + 50).clamp(0, 99).long()],
    ],
    "training mode": lambda: [
        seeded(dense, partial(nn.BatchNorm1d, 16)),
        seeded(dense, partial(nn.Dropout, 0.3)),
        seeded(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 16))),
        seeded(
            dense, partial(nn.Unflatten, 1, (4, 4)), partial(nn.InstanceNorm1d, 4, track_running_stats=True), nn.Flatten
        ),
    ],
    "random numbers": lambda: [drawn, lambda z: hill(z) + 0.1 * torch.randn(3)],
    "layers that have not seen": lambda: [
        nn.LazyLinear(6),
        partial(nn.Sequential(nn.Linear(2, 8), nn.LazyLinear(6)).double()),
        lambda z, layer=nn.LazyLinear(6): layer(z),
    ],
    "normalised by its whole batch": lambda: [
        batch_normalised,
        lambda z: hill(z) - hill(z).mean(0),
        lambda z: hill(z) if z.sum() > 0 else 2 * hill(z),
        kept(),
    ],
    "outputs whose number": lambda: [
        lambda z: hill(z)[:, : 1 + len(z) % 2],
        lambda z: hill(z)[:, hill(z).mean(0) > 0],
    ],
    "operations that torch differentiates only once": lambda: [
        lambda z: torch.cdist(z, points(5)),
        lambda z, network=net(): torch.utils.checkpoint.checkpoint(network, z, use_reentrant=True),
    ],
    "its argument changed": lambda: [moved, lambda z: hill(nn.functional.relu(z, inplace=True))],
    "half precision inside": lambda: [in_lower_precision, lambda z: hill(z.bfloat16()).to(z)],
    "integers": lambda: [lambda z: (50 * hill(z)).int(), lambda z: hill(z).half(), lambda z: hill(z) + 0j],
    "sparse tensors": lambda: [lambda z: hill(z).to_sparse()],
    "tuples, dicts": lambda: [
        from_torch(encode=lambda x: x[:, :2], decode=decode).metric()
        for decode in (lambda z: (z, z), lambda z: {"x": z}, lambda z: [z])
    ],
    "a fixed number": lambda: [
        lambda z: hill(z).view(64, 3),
        asserted,
        lambda z: net().float()(z),
        lambda z: net(0, 3, 6)(z),
    ],
}
ENCODED: dict[str, list[dict[str, Any]]] = {
    "an encoder that samples": [{"encode": lambda x: x[:, :2] + torch.randn(len(x), 2)}],
    "an encoder that normalises": [{"encode": lambda x: x[:, :2] - x[:, :2].mean(0)}],
    "probabilities called logits": [{"decode": lambda z: z.sigmoid(), "likelihood": pg.likelihoods.Bernoulli()}],
    "(mean, log-variance)": [
        {"encode": lambda x: (x[:, :2], x[:, 2:4])},
        {"encode": lambda x: pg.Encoding(x[:, :2], -x[:, 2:4])},
    ],
}
SAID = {
    "a large offset": (pg.Status.ROUNDING, [(lambda z: hill(z) + 1e14, START, STOP), (hill, START, START + 1e-14)]),
    "a step": (
        pg.Status.JUMP,
        [
            (lambda z: torch.cat([z, (z[..., :1] > 0.2).to(z)], dim=-1), START, STOP),
            (lambda z: z / z.norm(dim=-1, keepdim=True), torch.tensor([[-1.01, 0.0]]), torch.tensor([[0.9, 0.0]])),
        ],
    ),
    "ridges narrower": (pg.Status.COARSE, [(lambda z: torch.cat([z, (2e3 * z[..., :1]).sin()], dim=-1), START, STOP)]),
}


def happens(beginning: str) -> str:
    (found,) = [said for decoder, said in ROWS.items() if decoder.startswith(beginning)]
    return found


def test_every_row_of_the_table_is_tried():
    tried = [*RIGHT, *REFUSED, *ENCODED, *SAID, "autocast or inference mode"]
    assert len(tried) == len(ROWS) and all(happens(beginning) for beginning in tried)


@pytest.mark.parametrize("row", RIGHT)
def test_what_is_called_right_equals_a_plain_evaluation(row):
    assert happens(row).startswith("right")
    z = points(5)
    for decoder in RIGHT[row]():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            found = torch.stack(
                [torch.autograd.functional.jacobian(lambda row, f=decoder: f(row[None])[0], row) for row in z]
            )
        assert torch.allclose(PullbackMetric(decoder).tensor(z), found.mT @ found, rtol=1e-8)


def test_what_is_outside_does_not_matter():
    assert happens("autocast or inference mode").startswith("right")
    z, inside = points(5), net().float()
    expected = PullbackMetric(inside).tensor(z.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(PullbackMetric(inside).tensor(z.float()), expected)
    with torch.inference_mode():
        assert torch.allclose(PullbackMetric(inside).tensor(points(5).float()), expected)
    assert torch.allclose(PullbackMetric(lambda z: inside(z.float())).tensor(z), expected.double(), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # torch.utils.checkpoint's own
@pytest.mark.parametrize("row", REFUSED)
def test_what_is_refused_is_refused_in_the_words_of_the_table(row):
    words = re.findall(r'"([^"]+)"', happens(row))
    for decoder in REFUSED[row]():
        with pytest.raises((ValueError, TypeError), match=re.escape(words[0])):
            pg.geodesic(decoder if isinstance(decoder, pg.Metric) else PullbackMetric(decoder), START, STOP)
    if "with the member" in happens(row):
        with pytest.raises(ValueError, match="of member 1"):
            ExpectedMetric([hill, detached_hill]).tensor(START)


@pytest.mark.parametrize("row", ENCODED)
def test_what_is_refused_at_the_first_encoding_is_so_in_the_words_of_the_table(row):
    words = re.findall(r'"([^"]+)"', happens(row))
    for options, said in zip(ENCODED[row], words, strict=True):
        with pytest.raises((ValueError, TypeError), match=re.escape(said)):
            from_torch(**{"encode": lambda x: x[:, :2], "decode": hill, **options}).encode(X)


@pytest.mark.parametrize("row", SAID)
def test_what_has_a_status_has_that_of_the_table(row):
    status, cases = SAID[row]
    assert happens(row) == f"status `{status.name}`"
    for decoder, start, stop in cases:
        assert pg.geodesic(PullbackMetric(decoder), start, stop).status.tolist() == [status]


def test_the_ten_lines_run_on_the_modules_of_a_course(tmp_path, monkeypatch, capsys):
    script = re.search(r"```python\n(import torch, probgeo as pg\nfrom my_course.*?)```", README, re.DOTALL).group(1)
    assert len([line for line in script.splitlines() if line.strip()]) == 10
    assert "num_pairs=50" in script
    digits = pg.datasets.digits()
    course = ModuleType("my_course")
    course.images, course.labels = digits.x[:200].view(-1, 1, 8, 8), digits.labels[:200]
    course.Encoder, course.Decoder = partial(own_models.Encoder, 2), partial(own_models.Decoder, 2)
    monkeypatch.setitem(sys.modules, "my_course", course)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        for seed in range(5):
            for name, module in zip(("encoder", "decoder"), own_models.trained(course.images, 2, 2, seed), strict=True):
                torch.save(module.state_dict(), f"{name}-{seed}.pt")
    names: dict[str, Any] = {}
    exec(compile(script.replace("num_pairs=50", "num_pairs=3"), "README.md", "exec"), names)
    assert dict(names["dataset"].distance.sizes) == {"model": 1, "measure": 3, "retraining": 5, "pair": 3}
    assert np.isfinite(names["dataset"].distance).all()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("mine", "geodesic", "straight", "CV", "ICC"))
