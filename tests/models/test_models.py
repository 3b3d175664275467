"""Variational autoencoders: Pyro's objective is ours, and every decoder has the metric of its uncertainty."""

import math

import pyro
import pytest
import torch
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch.func import functional_call, jacfwd

from probgeo.geometry.geodesics import GaussNewton, geodesic
from probgeo.geometry.metrics import ExpectedMetric, PullbackMetric
from probgeo.likelihoods import Bernoulli, Gaussian
from probgeo.models.decoders.ensemble import EnsembleDecoder, RandomMember, SplitBatch
from probgeo.models.decoders.rbf import RBFDecoder
from probgeo.models.decoders.single import Decoder
from probgeo.models.gp.sparse import RBFPrecision
from probgeo.models.vae import VAE, FittedVAE, Warmup
from probgeo.nn import MLP, Stacked
from probgeo.training.objective import ELBO, noise_shapes, random_noise, random_rows
from tests.fitted import close, points, uniform, untrained

EPS = torch.finfo(torch.float64).eps
NET = MLP((8,))
DECODERS = {
    "single": Decoder(NET),
    "split": EnsembleDecoder(3, NET),
    "random": EnsembleDecoder(3, NET, RandomMember()),
    "rbf": RBFDecoder(NET, num_centres=5),
}


def fitted(decoder=DECODERS["single"], likelihood=None, **options) -> FittedVAE:
    return untrained(VAE(2, decoder, likelihood or Gaussian(), encoder=NET, **options), uniform(24, 6))


def terms(model: FittedVAE, x: torch.Tensor, num_rows: int, num_draws: int, beta=None) -> dict[str, torch.Tensor]:
    """Our ELBO terms over many draws of noise, each (draw,), times the number of rows."""
    objective = Stacked([ELBO(model, num_rows)])
    beta = model.spec.final_beta() if beta is None else beta
    noise = random_noise([0], num_draws, noise_shapes(model, x), "draws")
    with torch.no_grad(), pyro.validation_enabled(False):
        found = [
            objective.each(x[None], {k: v[:, i].to(x) for k, v in noise.items()}, beta[None]) for i in range(num_draws)
        ]
    return {name: num_rows * torch.cat([draw[name] for draw in found]) for name in found[0]}


# --- the objective ---


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
def test_pyros_own_objective_agrees_in_expectation(decoder, kind):
    model, x = fitted(decoder, beta=(0.5, 2.0)), uniform(24, 6)
    pyro.set_rng_seed(0)
    with torch.no_grad():
        theirs = torch.tensor([kind().loss(model.model, model.guide, x) for _ in range(60)], dtype=torch.float64)
    ours = terms(model, x, len(x), 60)["loss"]
    error = (theirs.var() / 60 + ours.var() / 60).sqrt()
    assert (theirs.mean() - ours.mean()).abs() < 4 * error


def test_kl_is_the_closed_form_and_the_likelihood_is_that_of_the_decoded_sample():
    model, x, beta = fitted(beta=(0.5, 2.0)), uniform(24, 6), torch.tensor([0.5, 2.0], dtype=torch.float64)
    noise = random_noise([3], 1, noise_shapes(model, x), "noise")["z"][0, 0].double()
    with torch.no_grad(), pyro.validation_enabled(False):
        found = ELBO(model, len(x))(x, {"z": noise}, beta)
        mean, std = model.encode(x)
        kl = (mean**2 + std**2 - 1) / 2 - std.log()
        log_std = model.parameters_of_likelihood()["log_std"]
        error = x - model.decoder.network(mean + std * noise)
        log_likelihood = -0.5 * (error / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    close(found["kl"], kl.sum() / len(x))
    close(found["log_likelihood"], log_likelihood.sum() / len(x))
    close(found["loss"], (kl * beta).sum() / len(x) - log_likelihood.sum() / len(x))


def test_a_posterior_is_at_most_ten_times_as_wide_as_the_prior_and_as_the_encoder_says_below():
    model = fitted()
    directions = uniform(24, 6) - 0.5
    for scale in (1.0, 1e3, 1e6):
        x = scale * directions
        log_std = model.encoder(x)[:, 2:].detach()
        expected = log_std.clamp(-20, math.log(10)).exp()
        assert torch.equal(model.encode(x).std, expected)
    assert (log_std > math.log(10)).any() and (log_std < -20).any()


@pytest.mark.parametrize("decoder", [DECODERS["single"], DECODERS["rbf"]], ids=["single", "rbf"])
def test_minibatch_objective_is_unbiased(decoder):
    model, x = fitted(decoder), uniform(12, 6)
    shapes = noise_shapes(model, x)
    noise = random_noise([0], 1, shapes, "noise")["z"][0, 0].double()
    beta = model.spec.final_beta()
    with torch.no_grad(), pyro.validation_enabled(False):
        whole = ELBO(model, 12)(x, {"z": noise}, beta)
        batches = [ELBO(model, 12)(x[rows], {"z": noise[rows]}, beta) for rows in torch.arange(12).split(4)]
    for name, value in whole.items():
        close(torch.stack([batch[name] for batch in batches]).mean(), value)


def test_warm_up_rises_linearly_and_stays():
    spec = VAE(latent=3, beta=Warmup(epochs=4, start=0.2, stop=1.0))
    found = torch.stack([spec.beta_at(epoch) for epoch in (0, 1, 2, 4, 100)])
    expected = torch.tensor([0.2, 0.4, 0.6, 1.0, 1.0], dtype=torch.float64)[:, None].expand(-1, 3)
    close(found, expected)
    close(spec.final_beta(), expected[-1])
    close(VAE(beta=(0.1, 2.0)).beta_at(7), torch.tensor([0.1, 2.0], dtype=torch.float64))
    close(VAE(beta=0.1).final_beta(), torch.full((2,), 0.1, dtype=torch.float64))


def test_a_beta_of_zero_leaves_only_the_likelihood():
    found = terms(fitted(beta=0.0), uniform(24, 6), 24, 3)
    close(found["loss"], -found["log_likelihood"])


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_prior_predictive_samples_have_the_shape_of_data(decoder):
    model, x = fitted(decoder), uniform(24, 6)
    pyro.set_rng_seed(0)
    samples = Predictive(pyro.poutine.uncondition(model.model), num_samples=3)(x)
    assert samples["x"].shape == (3, 24, 6)
    assert samples["z"].shape == (3, 24, 2)
    assert samples["x"].isfinite().all()


def test_seeded_noise_and_rows_do_not_depend_on_the_other_seeds():
    shapes = {"z": torch.Size([4, 2])}
    assert torch.equal(random_noise([5], 3, shapes, "p")["z"][0], random_noise([1, 5], 3, shapes, "p")["z"][1])
    rows = random_rows([1, 5], 3, 4, 13, "p")
    assert torch.equal(random_rows([5], 3, 4, 13, "p")[0], rows[1])
    assert rows.shape == (2, 3, 4)
    assert all(len(set(order.flatten().tolist())) == 12 for order in rows)


# --- encoder, decoder, draws ---


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli()])
def test_shapes_of_codes_and_reconstructions(likelihood):
    model, x = fitted(DECODERS["split"], likelihood), uniform(5, 6)
    mean, std = model.encode(x)
    assert mean.shape == std.shape == (5, 2)
    assert (std > 0).all()
    assert model.reconstruct(x).shape == (5, 6)
    assert model.decode(torch.zeros(3, 4, 2).double()).shape == (3, 4, 6)
    assert model.uncertainty(torch.zeros(3, 4, 2).double()).shape == (3, 4)
    assert model.draws()(torch.zeros(3, 4, 2).double()).shape == (3, 3, 4, 6)
    close(model.reconstruct(x), model.draws()(mean).mean(0))


@pytest.mark.parametrize(
    ("num_rows", "rotation"), [(3, 0), (7, 0), (9, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
)
def test_split_batch_decodes_row_i_by_member_i_mod_s_rotated_where_there_are_fewer_rows(num_rows, rotation):
    members, z = fitted(DECODERS["split"]).decoder.members, points(num_rows)
    with pyro.poutine.condition(data={"rotation": torch.tensor((rotation + 0.5) / 3)}):
        found = SplitBatch().decode(members, z)
    expected = torch.stack([members.member((row + rotation) % 3)(z[row]) for row in range(num_rows)])
    close(found, expected)


def test_random_member_decodes_the_whole_batch_by_one_member_uniformly_chosen():
    members, z = fitted(DECODERS["random"]).decoder.members, points(7)
    pyro.set_rng_seed(0)
    each = members(z)
    chosen = []
    for _ in range(300):
        found = RandomMember().decode(members, z)
        distance = (each - found).abs().amax((1, 2))
        assert distance.min() <= 1e3 * EPS
        chosen.append(int(distance.argmin()))
    counts = torch.bincount(torch.tensor(chosen), minlength=3).double()
    assert ((counts - 100) ** 2 / 100).sum() < 13.8  # χ² with two degrees of freedom, p = 0.001


def test_draws_are_the_members_in_order():
    model, z = fitted(DECODERS["split"], Bernoulli()), points(7)
    close(model.draws(2)(z), model.decoder.members(z)[:2].sigmoid())
    close(model.decode(z), model.decoder.members(z).sigmoid().mean(0))
    close(model.uncertainty(z), model.decoder.members(z).sigmoid().var(0, correction=0).mean(-1).sqrt())


def test_building_leaves_the_random_state_and_depends_on_the_seed_alone():
    spec, before = VAE(encoder=NET, decoder=Decoder(NET)), torch.get_rng_state()
    first, again, other = (spec.build(6, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.0.weight"], other["encoder.0.weight"])


# --- metrics ---


def gram(function, z: torch.Tensor) -> torch.Tensor:
    jacobian = torch.stack([jacfwd(function)(point) for point in z])
    return jacobian.mT @ jacobian


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli()])
def test_metric_of_a_single_decoder_is_that_of_the_mean_of_the_observation(likelihood):
    model, z = fitted(likelihood=likelihood), points(7)
    mean = model.decoder.network if isinstance(likelihood, Gaussian) else lambda p: model.decoder.network(p).sigmoid()
    close(model.metric().tensor(z), gram(mean, z))


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli()])
@pytest.mark.parametrize("decoder", ["split", "random"])
def test_metric_of_an_ensemble_is_the_members_mean(decoder, likelihood):
    model, z = fitted(DECODERS[decoder], likelihood), points(7)
    head = likelihood.mean()
    members = [model.decoder.members.member(index) for index in range(3)]
    expected = torch.stack([gram(lambda p, m=member: head(m(p)), z) for member in members]).mean(0)
    assert isinstance(model.metric(), ExpectedMetric)
    close(model.metric().tensor(z), expected)


def test_metric_of_an_rbf_decoder_is_that_of_mean_and_standard_deviation_stacked():
    model, z = fitted(DECODERS["rbf"]), points(7)
    precision = model.decoder.precision
    expected = gram(model.decoder.network, z) + gram(lambda p: precision(p[None])[0].rsqrt(), z)
    close(model.metric().tensor(z), expected, factor=1e5)
    close(model.uncertainty(z), (1 / precision(z)).mean(-1).sqrt())


@pytest.mark.parametrize("decoder", ["single", "split"])
@pytest.mark.parametrize("likelihood", [Gaussian(), Gaussian(0.2), Bernoulli()])
def test_fisher_rao_metric_is_the_decoders_mean_of_the_fisher_information(decoder, likelihood):
    model, z = fitted(DECODERS[decoder], likelihood), points(7)
    networks = (
        [model.decoder.network] if decoder == "single" else [model.decoder.members.member(index) for index in range(3)]
    )

    def metric(network) -> torch.Tensor:
        jacobian = torch.stack([jacfwd(network)(point) for point in z])
        if isinstance(likelihood, Bernoulli):
            p = network(z).sigmoid()
            information = p * (1 - p)  # per unit of logit
        else:
            std = likelihood.std or model.parameters_of_likelihood()["log_std"].exp()
            information = torch.ones_like(network(z)) / std**2
        return jacobian.mT @ (information[..., None] * jacobian)

    expected = torch.stack([metric(network) for network in networks]).mean(0)
    close(model.fisher_rao_metric().tensor(z), expected, factor=1e5)


def test_distance_is_invariant_to_a_reparametrisation_of_the_latent_space():
    # φ(z) = A z + bends, a diffeomorphism with a closed inverse (a shear after a linear map).
    model = fitted(Decoder(MLP((8,), torch.nn.Tanh)))
    matrix = torch.tensor([[1.5, 0.3], [-0.2, 0.8]], dtype=torch.float64)

    def forward(z: torch.Tensor) -> torch.Tensor:
        y = z @ matrix.T
        return torch.stack([y[..., 0], y[..., 1] + 0.5 * y[..., 0].sin()], dim=-1)

    def backward(w: torch.Tensor) -> torch.Tensor:
        y = torch.stack([w[..., 0], w[..., 1] - 0.5 * w[..., 0].sin()], dim=-1)
        return y @ matrix.inverse().T

    start, stop = points(6).split(3)
    close(backward(forward(start)), start)
    solver = GaussNewton(num_segments=256, tolerance=1e-6, coarse_tolerance=1e-6)
    first = geodesic(PullbackMetric(model.decoder.network), start, stop, solver=solver)
    moved = PullbackMetric(lambda w: model.decoder.network(backward(w)))
    second = geodesic(moved, forward(start), forward(stop), solver=solver)
    torch.testing.assert_close(second.length, first.length, rtol=1e-4, atol=0)
    straight = (forward(start) - forward(stop)).norm(dim=1) / (start - stop).norm(dim=1)
    assert (straight - 1).abs().min() > 0.05  # while Euclidean distances do change


# --- the RBF precision ---


def placed(floor: float = 0.05, num_points: int = 200) -> tuple[RBFPrecision, torch.Tensor]:
    z = torch.randn(num_points, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    precision = RBFPrecision(3, 2, num_centres=10, floor=floor, curve=1.5).double()
    precision.place(z, torch.tensor(4.0, dtype=torch.float64), seed=0)
    return precision, z


def test_mean_precision_at_the_data_equals_its_start_value_after_placing():
    precision, z = placed()
    close(precision(z).mean(0), torch.full((3,), 4.0, dtype=torch.float64), factor=1e5)


def test_rbf_variance_grows_away_from_the_data_to_the_stated_floor():
    precision, z = placed(floor=0.05)
    directions = torch.tensor([[1.0, 0.0], [0.0, -1.0], [-0.6, 0.8]], dtype=torch.float64)
    radii = torch.tensor([0.0, 2.0, 4.0, 8.0, 16.0, 1e3], dtype=torch.float64)
    variance = 1 / precision(directions[:, None] * radii[:, None])
    assert (variance.diff(dim=1)[:, 1:3] > 0).all()
    assert (variance.diff(dim=1)[:, 1:] >= 0).all()
    far = torch.full_like(variance[:, -1], 1.05 / 0.05 / 4)  # precision at the data is the floor's (1 + 1/floor) times
    close(variance[:, -1], far, factor=1e5)
    assert (1 / precision(z) <= far[0] * (1 + 1e-9)).all()


def test_trained_weights_keep_the_floor_a_fraction_of_the_mean_precision_at_the_data():
    precision, z = placed(floor=0.05)
    with torch.no_grad():
        precision.log_weights += torch.randn(precision.log_weights.shape, generator=torch.Generator().manual_seed(1))
    far = precision(torch.full((1, 2), 1e3, dtype=torch.float64))[0]
    close(far / precision(z).mean(0), torch.full((3,), 0.05 / 1.05, dtype=torch.float64), factor=1e6)


def test_single_points_of_a_cluster_make_no_spike():
    z = torch.tensor([[0.0, 0], [0.1, 0], [0, 0.1], [9, 9]], dtype=torch.float64)
    precision = RBFPrecision(2, 2, num_centres=2, floor=0.1, curve=1.0).double()
    precision.place(z, torch.tensor(1.0, dtype=torch.float64), seed=0)
    assert precision(torch.cat([z, z + 0.01])).isfinite().all()
    assert (precision.kernel.lengthscale > 1e-3).all()


def test_coincident_codes_still_give_a_finite_precision():
    z = torch.zeros(6, 2, dtype=torch.float64)
    precision = RBFPrecision(2, 2, num_centres=1, floor=0.1, curve=1.0).double()
    precision.place(z, torch.tensor(2.0, dtype=torch.float64), seed=0)
    assert precision(z).isfinite().all()


def test_an_unplaced_rbf_decoder_has_the_likelihoods_own_standard_deviation():
    model = VAE(2, DECODERS["rbf"], encoder=NET).build(6, seed=0)
    log_std = model.decoder(torch.zeros(4, 2), model.parameters_of_likelihood())[1]["log_std"]
    assert torch.equal(log_std.expand(4, 6), torch.zeros(4, 6))


def test_an_rbf_decoder_runs_batched_over_retrainings():
    models = [fitted(DECODERS["rbf"]) for _ in range(2)]
    stacked, z = Stacked([model.decoder.precision for model in models]), points(7)
    close(stacked(z), torch.stack([model.decoder.precision(z) for model in models]))
    state = dict(models[0].decoder.precision.state_dict())
    close(functional_call(models[1].decoder.precision, state, (z,)), models[0].decoder.precision(z))


# --- bad input ---


def test_a_wrong_feature_count_is_refused():
    model = fitted()
    with pytest.raises(ValueError, match=r"built for 6 observations per row; got shape \(4, 5\)"):
        model.encode(torch.zeros(4, 5).double())
    with pytest.raises(ValueError, match="built for 6 observations"):
        model.model(torch.zeros(4, 5).double())


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(1.0)])
def test_an_rbf_decoder_needs_a_gaussian_of_learned_variance(likelihood):
    with pytest.raises(ValueError, match="RBFDecoder learns the variance of Gaussian"):
        VAE(2, DECODERS["rbf"], likelihood).build(6, seed=0)


def test_an_rbf_decoder_has_no_fisher_rao_metric():
    with pytest.raises(TypeError, match=r"use model.metric\(\)"):
        fitted(DECODERS["rbf"]).fisher_rao_metric()


def test_too_few_codes_for_the_centres_are_refused():
    precision = RBFPrecision(2, 2, num_centres=5, floor=0.1, curve=1.0)
    with pytest.raises(ValueError, match=r"at most as many centres as codes \(4\); got 5"):
        precision.place(torch.zeros(4, 2), torch.tensor(1.0), seed=0)


def test_only_ensembles_have_draws():
    with pytest.raises(TypeError, match="Decoder has no draws"):
        fitted().draws()
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"num_draws: expected 1 to 3, the number of members; got {count}"):
            fitted(DECODERS["split"]).draws(count)


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: EnsembleDecoder(members=0), "members: expected at least one decoder; got 0"),
        (lambda: RBFDecoder(num_centres=0), "num_centres: expected at least one"),
        (lambda: RBFDecoder(floor=0.0), "floor: expected a fraction"),
        (lambda: RBFDecoder(floor=1.0), "floor: expected a fraction"),
        (lambda: RBFDecoder(curve=0.0), "curve: expected a positive"),
        (lambda: VAE(latent=0), "latent: expected at least one"),
        (lambda: VAE(beta=-1.0), "beta: expected a non-negative"),
        (lambda: VAE(beta=(1.0, 1.0, 1.0)), "beta: expected 2 non-negative numbers"),
        (lambda: VAE(beta=(1.0, -1.0)), "beta: expected 2 non-negative numbers"),
        (lambda: Warmup(epochs=0), "Warmup: expected epochs >= 1"),
    ],
)
def test_impossible_specs_are_refused(build, complaint):
    with pytest.raises(ValueError, match=complaint):
        build()


@pytest.mark.parametrize(
    ("x", "kind", "complaint"),
    [
        (torch.zeros(3, 4, dtype=torch.long), TypeError, "x: expected a floating-point tensor; got torch.int64"),
        (torch.zeros(3), ValueError, r"x: expected shape \(row, feature\), neither empty; got \(3,\)"),
        (torch.zeros(0, 4), ValueError, "neither empty"),
        (torch.full((3, 4), torch.nan), ValueError, "x: expected finite values; got nan at row 0, column 0"),
    ],
)
def test_what_is_no_data_is_refused(x, kind, complaint):
    with pytest.raises(kind, match=complaint):
        VAE().check(x)
