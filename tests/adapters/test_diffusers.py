"""A component as others publish it: an AutoencoderKL of diffusers, small, trained on the digits in half a minute.

Run in an environment of its own, as .ci/run does: pip install -e '.[diffusers,test]'.
"""

import warnings

import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn

import probgeo as pg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what it imports
    diffusers = pytest.importorskip(
        "diffusers", reason="diffusers is not installed: pip install -e '.[diffusers,test]'"
    )

IMAGES = 2 * pg.datasets.digits().x.view(-1, 1, 8, 8) - 1
SHAPE = (4, 4, 4)
SEGMENTS = 16


@pytest.fixture(scope="module")
def autoencoder() -> nn.Module:
    """An 8 × 8 image to codes (4, 4, 4) and back: convolutions, group normalisation, attention."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = diffusers.AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=8,
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(250):
            x = IMAGES[torch.randint(len(IMAGES), (64,))]
            q = net.encode(x).latent_dist
            loss = (net.decode(q.sample()).sample - x).square().sum((1, 2, 3)).mean() + 0.01 * q.kl().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def model(autoencoder) -> pg.LatentModel:
    def encode(x: Tensor) -> pg.Encoding:
        q = autoencoder.encode(x).latent_dist
        return pg.Encoding(q.mean, q.std)

    return pg.adapters.from_torch(
        encode=encode, decode=autoencoder.decode, output="sample", latent_shape=SHAPE, name="AutoencoderKL"
    )


def test_its_metric_is_that_of_its_own_decoder(autoencoder, model):
    z = model.encode(IMAGES).mean[:2]
    assert (model.latent, model.num_features, z.shape) == (64, 64, (2, 64))
    with torch.no_grad():
        decoded = autoencoder.decode(z.view(2, *SHAPE)).sample.flatten(1)
        assert torch.allclose(model.reconstruct(IMAGES[:2]), decoded, atol=1e-5)
        assert (model.reconstruct(IMAGES[:99]) - IMAGES[:99].flatten(1)).square().mean() < 0.15  # black: 1.1
    decode = lambda row: autoencoder.decode(row.view(1, *SHAPE)).sample.flatten()  # noqa: E731
    jacobian = torch.stack([torch.autograd.functional.jacobian(decode, row) for row in z])
    expected = jacobian.mT @ jacobian
    assert torch.allclose(model.metric().tensor(z), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def named(lengths: list[float]) -> list[tuple[str, float]]:
    return list(zip(("geodesic", "straight"), lengths, strict=True))


def test_its_geodesics_are_shorter_than_straight_lines_and_decode_to_strips(autoencoder, model, tmp_path):
    labels = pg.datasets.digits().labels
    rows = [int((labels == digit).nonzero()[0]) for digit in (0, 1, 3, 4, 7, 9)]
    start, stop = model.encode(IMAGES[rows]).mean.view(3, 2, 64).unbind(1)
    found = pg.geodesic(model.metric(), start, stop, solver=pg.GaussNewton(SEGMENTS))
    line = pg.paths.Straight(SEGMENTS)(start, stop)
    # In 64 dimensions more than the tolerance may be left after the default's thirty steps, and is said to be.
    assert ((found.status == pg.Status.CONVERGED) | (found.status == pg.Status.MAX_STEPS)).all()
    with torch.no_grad():
        paths = torch.stack([found.path, line])
        strips = autoencoder.decode(paths.reshape(-1, *SHAPE)).sample.view(2, 3, SEGMENTS + 1, 64)
        lengths = strips.diff(dim=2).norm(dim=3).sum(2)  # written out
    assert torch.allclose(found.length, lengths[0], rtol=1e-3)
    assert (lengths[0] < lengths[1]).all()
    names = [f"{kind}, {length:.1f}" for pair in lengths.T.tolist() for kind, length in named(pair)]
    shown = strips[:, :, ::2].transpose(0, 1).reshape(-1, 64)
    figure = pg.plots.panels((shown + 1) / 2, (8, 8), SEGMENTS // 2 + 1, names)
    figure.savefig(tmp_path / "strips.png")
    assert imread(tmp_path / "strips.png").std() > 0.05
