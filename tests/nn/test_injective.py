"""Injective decoders: their layers are bijections, their metric never degenerates, observations can be projected."""

import copy
import itertools

import pytest
import torch

import probgeo as pg
from probgeo.nn import Stacked, flows
from probgeo.nn.flows import Bijection, Layer
from probgeo.nn.injective import InjectiveMap

EPS = torch.finfo(torch.float64).eps
LAYERS = (
    flows.AffineCoupling((6,)),
    flows.SplineCoupling((6,), bins=4),
    flows.Autoregressive((6,)),
    flows.MaskedAutoregressive((6,)),
    flows.NeuralAutoregressive((6,), units=3),
    flows.Planar(),
)
layers = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)


def wilder(module: torch.nn.Module) -> torch.nn.Module:
    """With weights three times as large: far from the identity that flows start near."""
    with torch.no_grad():
        for parameter in module.double().requires_grad_(False).parameters():
            parameter.mul_(3)
    return module


def bijection(layer: Layer, width: int = 5) -> Bijection:
    torch.manual_seed(0)
    return wilder(layer.build(width))


def immersion(*parts: Layer, latent: int = 2, seed: int = 0) -> InjectiveMap:
    torch.manual_seed(seed)
    return wilder(pg.nn.Injective(width=5, layers=parts or (LAYERS[0],)).build(latent, 7))


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def jacobians(function, z: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.autograd.functional.jacobian(function, point) for point in z])


@layers
def test_every_layer_is_a_bijection(layer):
    transform, x = bijection(layer), 2 * rows(20, 5)
    for there, back in ((transform, transform.inverse), (transform.inverse, transform)):
        torch.testing.assert_close(back(there(x)), x, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(transform(x), x, atol=0.1)


@layers
def test_every_layer_preserves_orientation(layer):
    assert (torch.linalg.det(jacobians(bijection(layer), 2 * rows(20, 5))) > 0).all()


@pytest.mark.parametrize("layer", LAYERS[2:5], ids=lambda layer: type(layer).__name__)
def test_autoregressive_layers_have_triangular_jacobians(layer):
    jacobian = jacobians(bijection(layer), rows(10, 5))
    assert (jacobian.triu(1) == 0).all() and (jacobian.diagonal(dim1=1, dim2=2) > 0).all()
    assert (jacobian.tril(-1) != 0).any()


@pytest.mark.parametrize("layer", LAYERS[:2], ids=lambda layer: type(layer).__name__)
def test_couplings_keep_the_first_half(layer):
    x = rows(10, 5)
    assert torch.equal(bijection(layer)(x)[:, :2], x[:, :2])


def test_spline_passes_through_its_knots_and_joins_the_identity():
    transform, kept = bijection(flows.SplineCoupling((6,), bins=4, bound=2.0), 3), rows(6, 1)
    left, bottom, _, _, slopes = transform._knots(kept)
    for knot in range(4):
        x = torch.cat([kept, left[..., knot]], dim=1)
        torch.testing.assert_close(transform(x)[:, 1:], bottom[..., knot], rtol=1e3 * EPS, atol=1e3 * EPS)
        # The slope at a knot is that of both its pieces.
        for side in (-1, 1):
            near = torch.cat([kept, left[..., knot] + side * 1e-7], dim=1)
            slope = jacobians(transform, near)[:, 1:, 1:].diagonal(dim1=1, dim2=2)
            torch.testing.assert_close(slope, slopes[..., knot], rtol=0, atol=1e-4)
    outside = torch.cat([kept, torch.full((6, 2), 2.5, dtype=torch.float64)], dim=1)
    assert torch.equal(transform(outside), outside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@layers
def test_the_inverse_of_an_injective_decoder_recovers_codes(layer, dtype):
    decoder, z = immersion(layer, layer).to(dtype), rows(50, 2).to(dtype)
    torch.testing.assert_close(decoder.inverse(decoder(z)), z, rtol=0, atol=1e5 * torch.finfo(dtype).eps)


@layers
def test_the_metric_of_an_injective_decoder_never_degenerates(layer):
    decoder, z = immersion(layer, layer), 3 * rows(500, 2)
    assert (pg.calculus.smallest_singular_value([decoder], z) > 1e-6).all()


def test_a_network_that_folds_has_smallest_singular_value_zero():
    z = rows(10, 2)
    value = pg.calculus.smallest_singular_value([lambda z: z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3)], z)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=100 * EPS)


def test_smallest_singular_value_is_that_of_the_jacobian_and_of_the_expected_metric():
    decoders, z = [immersion(seed=seed) for seed in range(3)], rows(4, 5, 2)
    one = pg.calculus.smallest_singular_value(decoders[:1], z)
    expected = torch.linalg.svdvals(jacobians(decoders[0], z.flatten(0, 1)))[:, -1].reshape(4, 5)
    torch.testing.assert_close(one, expected, rtol=1e-10, atol=0)
    tensor = pg.ExpectedMetric(Stacked(decoders)).tensor(z)
    many = pg.calculus.smallest_singular_value(Stacked(decoders), z)
    torch.testing.assert_close(many, torch.linalg.eigvalsh(tensor)[..., 0].sqrt(), rtol=1e-8, atol=0)


def test_the_last_map_has_orthonormal_columns():
    basis = immersion()._orthonormal()
    torch.testing.assert_close(basis.mT @ basis, torch.eye(5, dtype=torch.float64), rtol=0, atol=100 * EPS)


@layers
def test_points_on_the_manifold_are_their_own_projections(layer):
    decoder, z = immersion(layer), rows(20, 2)
    found = pg.calculus.projection(decoder, decoder(z))
    torch.testing.assert_close(found.z, z, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.x, decoder(z), rtol=0, atol=1e-7)
    assert (found.distance < 1e-7).all()


@layers
def test_projection_decreases_the_distance_until_the_error_is_normal_to_the_manifold(layer):
    decoder = immersion(layer)
    x = decoder(rows(20, 2)) + 0.1 * rows(20, 7)
    distance = [pg.calculus.projection(decoder, x, num_steps).distance for num_steps in (0, 1, 3, 200)]
    assert all((later <= sooner).all() for sooner, later in itertools.pairwise(distance))
    assert (distance[-1] < distance[0]).all()
    found = pg.calculus.projection(decoder, x, 200)
    torch.testing.assert_close(found.distance, (decoder(found.z) - x).norm(dim=-1), rtol=1e-10, atol=0)
    columns = jacobians(decoder, found.z)
    cosine = (
        torch.einsum("nop,no->np", columns / columns.norm(dim=1, keepdim=True), x - found.x) / distance[-1][:, None]
    )
    assert cosine.abs().max() < 1e-4


def test_projection_starts_where_it_is_told():
    decoder, z = immersion(), rows(20, 2)
    x = decoder(z) + 0.1 * rows(20, 7)
    torch.testing.assert_close(pg.calculus.projection(decoder, x, 0, start=z).z, z, rtol=0, atol=0)
    assert (pg.calculus.projection(decoder, x, 50, start=z).distance <= (decoder(z) - x).norm(dim=-1)).all()


def test_projection_onto_a_flat_manifold_is_the_orthogonal_one():
    torch.manual_seed(0)
    flat, x = InjectiveMap(2, 5, 7, []).double().requires_grad_(False), rows(20, 7)
    plane = flat._orthonormal()[:, :2]
    torch.testing.assert_close(pg.calculus.projection(flat, x).x, x @ plane @ plane.mT, rtol=0, atol=1e3 * EPS)


@layers
def test_retrainings_stacked_equal_those_trained_alone_and_survive_copies_and_files(layer, tmp_path):
    x = rows(40, 7).float()
    decoder = pg.Decoder(pg.nn.Injective(5, (layer, layer)))
    spec, training = pg.VAE(2, decoder), pg.Training(epochs=2, batch_size=20, validation=0.0)
    together = pg.fit(spec, x, seeds=(0, 1), training=training, folder=tmp_path, progress=False)
    alone = pg.fit(spec, x, seeds=(1,), training=training, progress=False)[0]
    expected = together[1].reconstruct(x)
    torch.testing.assert_close(alone.reconstruct(x), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(copy.deepcopy(together[1]).reconstruct(x), expected)
    assert torch.equal(pg.load(tmp_path / "seed-1").reconstruct(x), expected)
    network = together[1].decoder.network
    z = together[1].encode(x).mean.detach()
    torch.testing.assert_close(network.inverse(network(z)), z, rtol=0, atol=1e-3)


@layers
def test_geodesics_of_an_ensemble_of_injective_decoders(layer):
    members = Stacked([immersion(layer, seed=seed) for seed in range(2)])
    start, stop, metric = rows(2, 2), rows(2, 2).flip(0) + 0.5, pg.ExpectedMetric(members)
    found = pg.geodesic(metric, start, stop, solver=pg.GaussNewton(num_segments=64, max_steps=60))
    assert (found.status == pg.Status.CONVERGED).all()
    assert (found.energy <= pg.energy(metric, pg.paths.Straight(64)(start, stop))).all()


def test_a_spec_is_comparable_and_states_its_defaults():
    assert pg.Decoder(pg.nn.Injective()) == pg.Decoder(pg.nn.Injective())
    assert hash(flows.AffineCoupling([8])) == hash(flows.AffineCoupling((8,)))
    assert pg.EnsembleDecoder(2, pg.nn.Injective(width=4)).build(2, 7, pg.Gaussian()).members.num_members == 2


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match=r"width: expected 2 to 7, between .* got 16"):
        pg.Decoder(pg.nn.Injective()).build(2, 7, pg.Gaussian())
    with pytest.raises(ValueError, match=r"width: expected 9 to 20"):
        pg.nn.Injective(width=8).build(9, 20)
    with pytest.raises(ValueError, match="width: expected at least 2"):
        pg.nn.Injective(width=1)
    with pytest.raises(ValueError, match="layers: expected at least one bijection"):
        pg.nn.Injective(layers=())
    with pytest.raises(ValueError, match="hidden: expected at least one layer"):
        flows.AffineCoupling(())
    with pytest.raises(ValueError, match=r"hidden: expected layers of at least 16 units.* got \(8,\)"):
        flows.Autoregressive((8,)).build(16)
    with pytest.raises(ValueError, match="bins, bound"):
        flows.SplineCoupling(bound=0.0)
    with pytest.raises(ValueError, match="units: expected at least 1"):
        flows.NeuralAutoregressive(units=0)
    with pytest.raises(ValueError, match="num_steps: expected at least 0"):
        pg.calculus.projection(immersion(), rows(2, 7), -1)
