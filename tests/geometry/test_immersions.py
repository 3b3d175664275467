"""A decoder gives the right distance or is refused in words: each fault beside the same function without it."""

import contextlib
from collections.abc import Callable

import gpytorch
import pytest
import torch
from torch import Tensor, nn

import probgeo as pg
from probgeo.geometry.jacobians import Maps
from probgeo.geometry.metrics import ExpectedMetric, PullbackMetric
from probgeo.nn import Stacked, mlp
from tests.manifolds import hill

START, STOP = torch.tensor([[-1.5, 0.05]]), torch.tensor([[1.5, 0.05]])


def points(count: int = 40, latent: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(count, latent, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def net(seed: int = 0, *sizes: int, activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp(sizes or (2, 16, 12), activation).double()


def detached_hill(z: Tensor) -> Tensor:
    return torch.cat([z, hill(z)[..., 2:].detach()], dim=-1)


def half_hill(z: Tensor) -> Tensor:
    return torch.cat([z, hill(z)[..., 2:] / 2 + hill(z)[..., 2:].detach() / 2], dim=-1)


def rounded(z: Tensor) -> Tensor:
    return (hill(z) * 255).round() / 255


def straight_through(z: Tensor) -> Tensor:
    return hill(z) + (rounded(z) - hill(z)).detach()


def through_numpy(z: Tensor) -> Tensor:
    return torch.cat([z, torch.from_numpy(hill(z).detach().numpy())[..., 2:]], dim=-1)


def moved(z: Tensor) -> Tensor:
    z -= 0.3
    return hill(z)


def batch_normalised(z: Tensor) -> Tensor:
    return hill(z / z.abs().max())


def drawn(z: Tensor) -> Tensor:
    return torch.distributions.Normal(hill(z), 0.01).rsample()


class Once:
    """Under no_grad by a decorator; forward mode does not mind, reverse mode does."""

    @torch.inference_mode()
    def __call__(self, z: Tensor) -> Tensor:
        return hill(z)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a detached output": (detached_hill, "derivative does not belong to its values.*of member 0.*detach"),
    "a gradient that is scaled": (half_hill, "derivative does not belong to its values.* 0.50 of"),
    "NumPy inside": (through_numpy, "derivative does not belong to its values.*NumPy"),
    "rounded to 1/255": (rounded, "derivative does not belong to its values"),
    "inference mode inside": (Once(), "derivative does not belong to its values"),
    "eight bits": (lambda z: (hill(z) * 50).to(torch.uint8), "outputs in float32 or float64.*uint8"),
    "half precision": (lambda z: hill(z).half(), "outputs in float32 or float64.*float16"),
    "complex numbers": (lambda z: hill(z) + 0j, "outputs in float32 or float64.*complex"),
    "a tuple": (lambda z: (hill(z), z), "expected a tensor.*got tuple"),
    "a distribution": (lambda z: torch.distributions.Normal(hill(z), 1), "expected a tensor.*got Normal"),
    "in place": (moved, "changes its argument in place"),
    "normalised by the batch": (batch_normalised, "depend on the other points"),
    "a draw": (drawn, "called twice"),
    "dropout": (lambda z: nn.functional.dropout(hill(z), 0.1), r"training mode.*Call \.eval\(\)"),
    "one point only": (lambda z: hill(z)[0], "expected outputs"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", REFUSED)
def test_a_decoder_whose_geodesics_would_be_wrong_is_refused_in_words(name, dtype):
    decoder, message = REFUSED[name]
    start, stop = START.to(dtype), STOP.to(dtype)
    before = start.clone()
    with pytest.raises((ValueError, TypeError), match=rf"(?s){message}"):
        pg.geodesic(PullbackMetric(decoder), start, stop)
    assert torch.equal(start, before)


def test_one_detached_member_of_ten_is_named():
    members = [net(seed) for seed in range(10)]
    broken = [*members[:7], lambda z: members[7](z.detach()), *members[8:]]
    with pytest.raises(ValueError, match=r"derivative does not belong .* of member 7"):
        ExpectedMetric(broken).tensor(points())
    ExpectedMetric([*members[:7], lambda z: members[7](z), *members[8:]]).tensor(points())


SOUND: dict[str, Callable[[Tensor], Tensor]] = {
    "hill": hill,
    "constant outputs": lambda z: torch.cat([hill(z), torch.ones_like(z), 0 * z], dim=-1),
    "a large offset": lambda z: hill(z) + 1e5,
    "steep walls": lambda z: (200 * z).tanh(),
    "narrow bumps": lambda z: torch.cat([z, (-2e4 * z.square().sum(-1, keepdim=True)).exp()], dim=-1),
    "fast waves": lambda z: (60 * z).sin(),
    "clamped": lambda z: hill(z).clamp(0.1, 0.9),
    "float32 inside": lambda z: hill(z.float()),
    "not a number in places": lambda z: torch.where(z[..., :1] > 0.5, torch.nan, hill(z)),
    "absolute values": lambda z: hill(z).abs().sqrt(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SOUND)
def test_sound_decoders_are_not_refused(name, dtype):
    for count in (1, 3, 500):
        Maps([SOUND[name]]).jets(points(count, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("width", "depth", "latent"), [(256, 3, 2), (64, 12, 2), (1024, 2, 24), (32, 6, 8)])
def test_kinks_are_not_taken_for_wrong_derivatives(width, depth, latent, dtype):
    nets = [net(seed, latent, *[width] * depth, 60, activation=nn.ReLU).to(dtype) for seed in range(4)]
    for scale in (1e-3, 1.0, 30.0):
        Maps([lambda z, one=one: one(z) for one in nets]).jets(scale * points(64, latent, dtype))


def test_a_trial_leaves_the_random_state_as_it_was():
    before = torch.get_rng_state()
    with contextlib.suppress(ValueError):
        PullbackMetric(drawn).tensor(points())
    PullbackMetric(hill).tensor(points())
    assert torch.equal(torch.get_rng_state(), before)


def test_spectral_normalisation_in_training_mode_is_refused():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 5)).double()
    with pytest.raises(ValueError, match=r"training mode.*_SpectralNorm.*Call \.eval\(\)"):
        PullbackMetric(nn.Sequential(layer, nn.Tanh())).tensor(points())
    weight, z = layer.eval().weight.detach(), points()
    assert torch.allclose(PullbackMetric(layer).tensor(z), (weight.T @ weight).expand(len(z), 2, 2))


@pytest.mark.parametrize("how", ["module", "method", "function"])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d(16), nn.Dropout(0.2)], ids=["BatchNorm", "Dropout"])
def test_a_module_in_training_mode_is_refused_and_its_statistics_stay(layer, how):
    module = nn.Sequential(nn.Linear(2, 16), layer, nn.ReLU(), nn.Linear(16, 5)).double().train()
    decoder = {"module": module, "method": module.forward, "function": lambda z: module(z)}[how]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"training mode.*Call \.eval\(\)"):
        PullbackMetric(decoder).tensor(points())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    module.eval()
    tensor = PullbackMetric(decoder).tensor(points())
    jacobian = torch.func.vmap(torch.func.jacfwd(lambda z: module(z[None])[0]))(points())
    assert torch.allclose(tensor, jacobian.mT @ jacobian, rtol=1e-10)


# --- modules that do more than their class says -----------------------------------------------------------------------


def tripled(module: nn.Module) -> None:
    module[-1].register_forward_hook(lambda part, inputs, output: 3 * output)


def shifted(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda part, inputs: (inputs[0] + 1,))


def patched(module: nn.Module) -> None:
    plain = module[1].forward
    module[1].forward = lambda x: 2 * plain(x)


def parametrised(module: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(module[0])
    with torch.no_grad():
        module[0].parametrizations.weight.original0.mul_(2)


def old_weight_norm(module: nn.Module) -> None:
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(module[0])
    with torch.no_grad():
        module[0].weight_g.mul_(2)


def slope(module: nn.Module) -> None:
    module[1] = nn.LeakyReLU(0.5)


class Scaled(nn.Module):
    """A user's layer, whose setting is in no text."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(12, 12).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.linear(x)


def scaled(module: nn.Module) -> None:
    module.append(Scaled(3.0))


class Twice(nn.Linear):
    """A class made of torch's own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def subclassed(module: nn.Module) -> None:
    other = Twice(16, 12).double()
    other.load_state_dict(module[2].state_dict())
    module[2] = other


ALTERATIONS = (tripled, shifted, patched, parametrised, old_weight_norm, slope, scaled, subclassed)


@pytest.mark.parametrize("alteration", ALTERATIONS)
@pytest.mark.parametrize("altered", ["one", "all"])
def test_what_a_module_does_beyond_its_class_is_in_its_metric(alteration, altered):
    members = [net(seed, activation=nn.LeakyReLU) for seed in range(3)]
    for member in members if altered == "all" else members[1:2]:
        alteration(member)
    z = points()
    both, one = ExpectedMetric(members).tensor(z), PullbackMetric(members[1]).tensor(z)
    jacobians = [torch.func.vmap(torch.func.jacfwd(lambda z, m=m: m(z[None])[0]))(z) for m in members]
    expected = torch.stack([jacobian.mT @ jacobian for jacobian in jacobians])
    assert torch.allclose(both, expected.mean(0), rtol=1e-9)
    assert torch.allclose(one, expected[1], rtol=1e-9)


def test_what_torch_calls_around_every_module_is_in_the_metric():
    members, z = [net(seed) for seed in range(2)], points()
    expected = 4 * ExpectedMetric([nn.Sequential(*member[:2], Doubled(), member[2]) for member in members]).tensor(z)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: 2 * output if type(module) in (nn.SiLU, nn.Sequential) else None
    )
    try:
        found = ExpectedMetric(members).tensor(z)
    finally:
        handle.remove()
    assert torch.allclose(found, expected, rtol=1e-10)


class Doubled(nn.Module):
    """2 x."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_module_can_be_copied_after_it_was_differentiated_as_a_function():
    module, z = net(), points()
    old_weight_norm(module)
    outside = PullbackMetric(lambda z: module(z)).tensor(z)  # leaves what it was computed with in the module
    assert torch.allclose(PullbackMetric(module).tensor(z), outside, rtol=1e-10)


@pytest.mark.parametrize("alteration", [tripled, shifted, patched, slope, scaled, subclassed])
def test_modules_that_compute_different_functions_are_not_stacked(alteration):
    members = [net(seed, activation=nn.LeakyReLU) for seed in range(3)]
    Stacked(members)
    alteration(members[2])
    with pytest.raises(ValueError, match="module 2 differs from module 0 in"):
        Stacked(members)


def test_a_setting_that_is_in_no_text_keeps_modules_apart():
    first, second = Scaled(1.0), Scaled(2.0)
    assert repr(first) == repr(second)
    with pytest.raises(ValueError, match="module 1 differs from module 0 in scale"):
        Stacked([first, second])
    Stacked([Scaled(2.0), Scaled(2.0)])


# --- derivatives that torch does not have everywhere ------------------------------------------------------------------


def fitted(likelihood: pg.likelihoods.Likelihood) -> pg.LatentModel:
    x = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))
    training = pg.Training(epochs=2, batch_size=32)
    spec = pg.VAE(2, pg.Decoder(), likelihood)
    return pg.fit(
        spec, x.round() if "Count" in type(likelihood).__name__ else x, [0], training=training, progress=False
    )[0]


def test_fisher_rao_geodesics_of_two_parameters_need_no_second_derivative_in_forward_mode():
    model = fitted(pg.HeteroscedasticGaussian())
    metric, (start, stop) = model.fisher_rao_metric(), points(6, dtype=torch.float32).chunk(2)
    found = pg.geodesic(metric, start, stop, solver=pg.GaussNewton(64))
    assert (found.status == pg.Status.CONVERGED).all()
    line = pg.paths.Straight(64)(start, stop)
    assert (found.energy <= pg.energy(metric, line) * (1 + 1e-3)).all()
    # The gradient by forward mode, of finite differences of the energy by hand.
    path, shift = line.double().requires_grad_(), torch.zeros(3, 65, 2, dtype=torch.float64)
    model.double()
    metric = model.fisher_rao_metric()
    gradient = metric.linearize(path.detach()).gradient[:, 30, 0]
    shift[:, 31, 0] = 1e-5
    difference = (pg.energy(metric, path + shift) - pg.energy(metric, path - shift)) / 2e-5
    assert torch.allclose(gradient, difference, rtol=1e-5, atol=1e-7)


def test_in_many_dimensions_they_need_none_either():
    x = torch.rand(64, 30, generator=torch.Generator().manual_seed(0))
    training = pg.Training(epochs=1, batch_size=32)
    spec = pg.VAE(24, pg.Decoder(pg.nn.MLP((40,))), pg.HeteroscedasticGaussian())
    model = pg.fit(spec, x, [0], training=training, progress=False)[0]
    start, stop = points(4, 24, torch.float32).chunk(2)
    by_products = pg.geodesic(model.fisher_rao_metric(), start, stop, solver=pg.GaussNewton(16))
    matrices = pg.GaussNewton(16, system=pg.BlockTridiagonal)
    by_matrices = pg.geodesic(model.fisher_rao_metric(), start, stop, solver=matrices)
    assert torch.allclose(by_products.length, by_matrices.length, rtol=1e-3)


class Exponential(torch.autograd.Function):
    """exp, as packages write operations that no transformation of torch.func takes."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0].exp()


@pytest.mark.parametrize(("latent", "segments"), [(2, 64), (24, 16)])
def test_operations_with_a_backward_of_their_own_are_differentiated_by_the_graph(latent, segments):
    start, stop, solver = points(3, latent), points(3, latent, seed=1), pg.GaussNewton(segments)
    found = pg.geodesic(PullbackMetric(lambda z: Exponential.apply(hill(z))), start, stop, solver=solver)
    expected = pg.geodesic(PullbackMetric(lambda z: hill(z).exp()), start, stop, solver=solver)
    assert torch.allclose(found.length, expected.length, rtol=1e-8)
    assert torch.equal(found.status, expected.status)


def test_the_mean_of_a_process_of_gpytorch_has_the_metric_of_its_formula():
    z, place = points(6), points(20, seed=1)
    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    process = Process(place, torch.sin(2 * place[:, 0]), likelihood).double().eval()
    kernel, noise = process.covar_module, likelihood.noise.detach()

    def mean(z: Tensor) -> Tensor:
        def covariance(a: Tensor, b: Tensor) -> Tensor:
            return (-0.5 * ((a[:, None] - b) / kernel.lengthscale.detach()).square().sum(-1)).exp()

        weights = torch.linalg.solve(covariance(place, place) + noise * torch.eye(20), torch.sin(2 * place[:, 0]))
        return torch.cat([z, (covariance(z, place) @ weights)[:, None]], dim=-1)

    found = PullbackMetric(lambda z: torch.cat([z, process(z).mean[:, None]], dim=-1)).tensor(z)
    assert torch.allclose(found, PullbackMetric(mean).tensor(z), rtol=1e-8)


class Process(gpytorch.models.ExactGP):
    """A Gaussian process as GPyTorch's guide has it."""

    def __init__(self, x: Tensor, y: Tensor, likelihood: gpytorch.likelihoods.Likelihood) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), gpytorch.kernels.RBFKernel()

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


class Attention(nn.Module):
    """A decoder with a transformer's layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 32), nn.Linear(32, 12)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(self.layer(self.first(z).unflatten(-1, (4, 8))).flatten(-2))


class Branching(nn.Module):
    """Control flow that depends on values, and in-place arithmetic inside."""

    def forward(self, z: Tensor) -> Tensor:
        out = torch.zeros(len(z), 3, dtype=z.dtype)
        out[:, :2] = z
        out[:, 2] = z.square().sum(-1) if bool((z.sum() > -1e9).item()) else 0 * z[:, 0]
        return out


@pytest.mark.parametrize("decoder", [Attention(), Branching()], ids=["attention", "branches"])
def test_decoders_that_one_mode_of_differentiation_refuses_are_differentiated_by_another(decoder):
    decoder, z = decoder.double().eval(), points(9)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        rows = [torch.autograd.functional.jacobian(lambda z: decoder(z[None])[0], row) for row in z]
    jacobian = torch.stack(rows)
    for context in (contextlib.nullcontext(), torch.no_grad(), torch.inference_mode()):
        with context:
            tensor = PullbackMetric(decoder).tensor(z)
        assert torch.allclose(tensor, jacobian.mT @ jacobian, rtol=1e-8)


@pytest.mark.parametrize("kind", ["perceptron", "general"])
def test_autocast_and_inference_mode_outside_change_nothing(kind):
    module = nn.Sequential(net(), nn.Tanh() if kind == "perceptron" else nn.Softmax(-1)).float()
    start, stop = points(4, dtype=torch.float32).chunk(2)
    expected = pg.geodesic(PullbackMetric(module), start, stop)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pg.geodesic(PullbackMetric(module), start, stop)
        tensor = PullbackMetric(module).tensor(start)
    assert torch.equal(found.length, expected.length)
    assert torch.equal(tensor, PullbackMetric(module).tensor(start))
    with torch.inference_mode():
        start, stop = points(4, dtype=torch.float32).chunk(2)
        inside = pg.geodesic(PullbackMetric(module), start, stop).length
    assert torch.allclose(inside, expected.length, rtol=10 * torch.finfo(torch.float32).eps)
