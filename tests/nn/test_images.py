"""Residual, dense and convolutional networks: what they compute, that they stack, the geometry of their ensembles."""

import pytest
import torch
from torch import nn

import probgeo as pg
from probgeo.geometry.jacobians import Maps
from probgeo.nn import Convolutional, DenseNet, Residual, ResizeConvolutional, Stacked
from probgeo.specs import from_config, to_config
from tests.fitted import close

EPS = torch.finfo(torch.float64).eps
SMALL = (
    Residual(width=6, blocks=2),
    DenseNet(growth=5, layers=2),
    Convolutional((4, 8), channels=(3, 2), activation=nn.Tanh),
    ResizeConvolutional((4, 8), channels=(3, 2), activation=nn.Tanh),
)
IMAGES = (Convolutional, ResizeConvolutional)
small = pytest.mark.parametrize("spec", SMALL, ids=lambda spec: type(spec).__name__)
images = pytest.mark.parametrize("kind", IMAGES)


def built(spec: pg.nn.Network, num_inputs: int = 2, num_outputs: int = 32, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return spec.build(num_inputs, num_outputs).double()


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_residual_network_adds_what_its_blocks_compute():
    net, z, act = built(Residual(width=6, blocks=2)), rows(5, 2), nn.functional.silu
    first, *blocks, _, last = net
    x = first(z)
    for block in blocks:
        inner, outer = (part for part in block.network if isinstance(part, nn.Linear))
        x = x + outer(act(inner(act(x))))
    close(net(z), last(act(x)))


def test_dense_network_keeps_what_every_layer_computed():
    net, z = built(DenseNet(growth=5, layers=2)), rows(7, 2)
    first, second = (layer.network[0] for layer in net[:2])
    x = torch.cat([z, nn.functional.silu(first(z))], dim=1)
    x = torch.cat([x, nn.functional.silu(second(x))], dim=1)
    close(net(z), net[2](x))


@pytest.mark.parametrize("image, channels", [((28, 28), (4, 4)), ((32, 32, 3), (4, 4, 4)), ((64, 64, 3), (2, 3, 4, 5))])
@images
def test_image_networks_map_images_to_codes_and_codes_to_images(kind, image, channels):
    spec, size = kind(image, channels), torch.Size(image).numel()
    x = torch.rand(3, size)
    code = spec.build(size, 4)(x)
    assert code.shape == (3, 4)
    assert spec.build(4, size)(code).shape == x.shape


@images
def test_images_are_read_and_written_channel_last(kind):
    spec = kind((4, 8, 3), channels=(5,))
    encoder, decoder, x, z = built(spec, 96, 2), built(spec, 2, 96), rows(6, 96), rows(6, 2)
    planes = x.reshape(6, 4, 8, 3).permute(0, 3, 1, 2)
    close(encoder(x), encoder.network[1:](planes))
    close(decoder(z).reshape(6, 4, 8, 3).permute(0, 3, 1, 2), decoder.network[:-1](z))


@images
def test_the_second_parameter_of_an_observation_follows_the_first(kind):
    decoder, z = built(kind((4, 8, 3), channels=(5,)), 2, 192), rows(6, 2)
    planes = decoder.network[:-1](z)
    for index, half in enumerate(decoder(z).chunk(2, dim=1)):
        close(half.reshape(6, 4, 8, 3).permute(0, 3, 1, 2), planes[:, 3 * index : 3 * index + 3])


@images
def test_convolutions_commute_with_shifts_of_the_image(kind):
    hidden = built(kind((16, 16), channels=(3,)), 256, 2).network[:3]
    x = nn.functional.pad(rows(2, 8, 8), (4, 4, 4, 4))
    # By two pixels, one after stride two; far from the border, where nothing is cut off.
    shifted = hidden(x.roll((2, 2), dims=(1, 2)).flatten(1)) - hidden(0 * x.flatten(1))
    close(shifted, (hidden(x.flatten(1)) - hidden(0 * x.flatten(1))).roll((1, 1), dims=(2, 3)))


@small
def test_rows_do_not_see_each_other_and_come_in_any_arrangement(spec):
    net, z = built(spec), rows(2, 3, 2)
    close(net(z).flatten(0, 1), torch.cat([net(row) for row in z.flatten(0, 1).split(1)]))
    close(net(z)[0, 0], net(z[0, 0]))
    assert net(z[:0]).shape == (0, 3, 32)


@small
def test_stacked_networks_equal_the_separate_ones_and_so_do_their_gradients(spec):
    modules, z = [built(spec, seed=seed) for seed in range(3)], rows(3, 5, 2)
    stacked = Stacked(modules)
    values = [module(row) for module, row in zip(modules, z, strict=True)]
    close(stacked.each(z), torch.stack(values))
    close(stacked(z[0]), torch.stack([module(z[0]) for module in modules]))
    stacked.each(z).square().sum().backward()
    sum(value.square().sum() for value in values).backward()
    for name, parameter in stacked.template.named_parameters():
        close(parameter.grad, torch.stack([module.get_parameter(name).grad for module in modules]))


@small
def test_jets_are_values_and_jacobians(spec):
    modules, z = [built(spec, seed=seed).requires_grad_(False) for seed in range(2)], rows(4, 2)
    jets = Maps(Stacked(modules)).jets(z)
    for index, module in enumerate(modules):
        jacobian = torch.stack([torch.autograd.functional.jacobian(module, point) for point in z])
        close(jets[:, 0, index], module(z))
        close(jets[:, 1:, index], jacobian.mT)


@small
def test_geodesics_of_an_ensemble_agree_in_single_and_double_precision(spec):
    members = Stacked([built(spec, seed=seed) for seed in range(3)]).requires_grad_(False)
    start, stop, solver = 2 * rows(3, 2), -2 * rows(3, 2).flip(0), pg.GaussNewton(num_segments=16)
    double = pg.geodesic(pg.ExpectedMetric(members), start, stop, solver=solver)
    alone = pg.geodesic(pg.ExpectedMetric(members), start[:1], stop[:1], solver=solver)
    single = pg.geodesic(pg.ExpectedMetric(members.float()), start.float(), stop.float(), solver=solver)
    assert (double.status == pg.Status.CONVERGED).all() and (single.status == pg.Status.CONVERGED).all()
    torch.testing.assert_close(single.length.double(), double.length, rtol=1e-3, atol=0)
    torch.testing.assert_close(alone.length, double.length[:1], rtol=1e-6, atol=0)
    straight = torch.lerp(start[:, None], stop[:, None], torch.linspace(0, 1, 17, dtype=torch.float64)[:, None])
    assert (double.energy <= pg.energy(pg.ExpectedMetric(members.double()), straight) * (1 + 1e-6)).all()


@small
def test_retrainings_stacked_equal_those_trained_alone(spec):
    x = rows(40, 32).float()
    model = pg.VAE(2, pg.EnsembleDecoder(2, spec), pg.Gaussian(), encoder=spec)
    training = pg.Training(epochs=2, batch_size=20, validation=0.0)
    together = pg.fit(model, x, seeds=(0, 1), training=training, progress=False)
    alone = pg.fit(model, x, seeds=(1,), training=training, progress=False)
    torch.testing.assert_close(together[1].encode(x).mean, alone[0].encode(x).mean, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(together[1].reconstruct(x), alone[0].reconstruct(x), rtol=1e-3, atol=1e-5)


@small
def test_a_spec_survives_json(spec):
    assert from_config(to_config(spec)) == spec
    assert hash(from_config(to_config(spec))) == hash(spec)


@pytest.mark.parametrize("spec", SMALL[:2], ids=lambda spec: type(spec).__name__)
def test_last_layers_of_residual_and_dense_networks_can_be_bayesian(spec):
    x = rows(60, 8).float()
    model = pg.VAE(2, pg.BayesianDecoder(spec, guide=pg.posteriors.Conjugate()), pg.Gaussian())
    fitted = pg.fit(model, x, training=pg.Training(epochs=1, batch_size=30, validation=0.0), progress=False)[0]
    assert (fitted.uncertainty(fitted.encode(x).mean) > 0).all()


def test_an_rbf_decoder_takes_any_network():
    x = rows(60, 32).float()
    model = pg.VAE(2, pg.RBFDecoder(SMALL[2], num_centers=4), pg.Gaussian())
    fitted = pg.fit(model, x, training=pg.Training(epochs=2, batch_size=30, validation=0.0), progress=False)[0]
    assert pg.length(fitted.metric(), rows(1, 9, 2).float()).isfinite().all()


@images
def test_networks_without_a_last_linear_layer_are_refused_where_one_is_needed(kind):
    network = kind((4, 8))
    with pytest.raises(TypeError, match=r"network: expected one that ends in a linear layer.*EnsembleDecoder"):
        pg.BayesianDecoder(network).build(2, 32, pg.Gaussian())
    with pytest.raises(TypeError, match=r"network: expected MLP"):
        pg.DropoutDecoder(network)


@images
def test_images_of_another_size_are_refused(kind):
    spec = kind((28, 28))
    with pytest.raises(ValueError, match=r"num_outputs: expected 784 = 28·28.*got 1024"):
        spec.build(2, 1024)
    with pytest.raises(ValueError, match=r"num_inputs: expected 784 = 28·28.*got 3072"):
        spec.build(3072, 4)
    with pytest.raises(
        ValueError, match=r"x: this model was built for 784 observations per row; got shape \(3, 1024\)"
    ):
        pg.VAE(2, pg.Decoder(spec), encoder=spec).build(784, seed=0).encode(torch.rand(3, 1024))


@pytest.mark.parametrize("image", [(28,), (30, 28), (28, 28, 0), (1, 1, 28, 28)])
@images
def test_images_that_cannot_be_halved_are_refused(kind, image):
    with pytest.raises(ValueError, match=r"image: expected \(height, width\).*multiples of 4"):
        kind(image)


def test_impossible_fields_are_refused():
    for kind in IMAGES:
        with pytest.raises(ValueError, match="channels: expected at least one layer"):
            kind((28, 28), channels=())
    with pytest.raises(ValueError, match="width, blocks: expected at least 1"):
        Residual(blocks=0)
    with pytest.raises(ValueError, match="growth, layers: expected at least 1"):
        DenseNet(growth=0)
    for kind in (Residual, DenseNet, *IMAGES):
        with pytest.raises(TypeError, match="activation"):
            kind(activation=torch.tanh)


def test_conditional_networks_read_numbers_and_images_and_give_images_or_codes():
    spec, size = pg.nn.ConditionalConvolutional((8, 8, 3), (4, 5)), 192
    numbers, planes = rows(3, 7), rows(3, 2 * size)
    torch.manual_seed(0)
    decoder, encoder = spec.build(7 + 2 * size, size).double(), spec.build(7 + 2 * size, 6).double()
    alone = spec.build(7, 2 * size).double()
    x = torch.cat([numbers, planes], dim=1)
    assert decoder(x).shape == (3, size) and encoder(x).shape == (3, 6) and alone(numbers).shape == (3, 2 * size)
    assert decoder(x.view(3, 1, -1).expand(3, 4, -1)).shape == (3, 4, size)
    for network in (decoder, encoder):
        for changed in (torch.cat([numbers + 1, planes], 1), torch.cat([numbers, planes + 1], 1)):
            assert not torch.allclose(network(changed), network(x))
    assert from_config(to_config(spec)) == spec
    with pytest.raises(ValueError, match="num_inputs: expected at least the 192 numbers of an image"):
        spec.build(7, 6)
    with pytest.raises(ValueError, match="multiples of 4"):
        pg.nn.ConditionalConvolutional((6, 8), (4, 5))


def test_an_ensemble_of_conditional_networks_completes_images():
    image = pg.nn.ConditionalConvolutional((4, 4), (3,))
    spec = pg.ConditionalVAE(2, pg.EnsembleDecoder(2, image), pg.likelihoods.Bernoulli(), image, covariates=(16, 17))
    x = torch.rand(40, 18, generator=torch.Generator().manual_seed(0))
    (model,) = pg.fit(spec, x, training=pg.Training(epochs=2, batch_size=8), progress=False)
    mask = torch.arange(18) < 8
    model.requires_grad_(False)
    assert torch.equal(model.impute(x, mask, num_samples=3)[:, :8], x[:, :8])
    given, z = model.given(x[0], mask), rows(3, 2).float()
    draws = given.draws()
    jacobian = torch.func.vmap(torch.func.jacfwd(lambda z: draws(z[None])[:, 0]))(z)
    expected = torch.einsum("bsok,bsol->bkl", jacobian, jacobian) / 2
    torch.testing.assert_close(given.metric().tensor(z), expected, rtol=1e-4, atol=1e-6)
