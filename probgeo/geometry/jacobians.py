"""Values and Jacobians of maps out of a latent space, several at once: fused for perceptrons, general for any other."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgeo.geometry.immersions import (
    Derivative,
    check_weights,
    checked_output,
    is_wrapped,
    plainly,
    single_output,
    snapshot,
)
from probgeo.geometry.perceptrons import Affine, Layer, is_elementwise, is_known, perceptron_jets, perceptron_layers
from probgeo.geometry.points import Points, check_latent, is_said, points_of
from probgeo.geometry.trials import Trial, check_call
from probgeo.nn import Stacked
from probgeo.nn.sameness import difference, is_altered

Immersion = Callable[[Tensor], Tensor]
Members = Sequence[Immersion] | Immersion

# Modules that do what their class says and run as one with others of it; exactly these, no classes made of them.
_STACKABLE = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Flatten,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.Linear,
    nn.LogSoftmax,
    nn.PixelShuffle,
    nn.Sequential,
    nn.Softmax,
    nn.Unflatten,
    nn.Upsample,
)


class Maps:
    """Maps f_1, …, f_S of one latent space, together: values f_s(z), jets [f_s(z), ∂_1 f_s(z), …, ∂_d f_s(z)].

    A perceptron (an `nn.Sequential`, nested or not, of `nn.Linear` and elementwise modules) or a `Stacked` one is read
    here, once, and evaluated by a fused forward-mode kernel, in the dtype and on the device of z. Elementwise are
    torch's own activations and any module without parameters whose attribute `elementwise` is true. Every other
    callable is differentiated by `torch.func.jvp`.

    The weights of every module, of a module's methods too, are read here, once: what is trained or changed afterwards
    leaves the maps as they are. A function is called as it is, with the weights that the modules inside it then have.

    Args:
        members: a sequence of callables (*batch, latent) -> (*batch, observation), or one callable with an attribute
            `num_members`: (*batch, latent) -> (member, *batch, observation). They are called with any number of points.

    Raises:
        ValueError: no members; at the first evaluation, maps that are no functions of the point alone, or whose
            derivative does not belong to their values.
        TypeError: something that is not callable, or a module that cannot be copied.
    """

    def __init__(self, members: Members) -> None:
        with torch.inference_mode(False):  # inside it copies could not be differentiated later
            self._call, self.num_maps = _batched(members)
            self._layers = perceptron_layers(self._call)
            if self._layers is None and self.num_maps == 1 and type(self._call) is Stacked:
                self._call = _each([self._call.member(0)])  # alone it needs no stack, which takes time
        self._prepare()

    def _prepare(self) -> None:
        self._derivative = Derivative(self._evaluated)
        self._known = self._layers is not None and is_known(self._layers)
        self._trial = Trial(self._values, self._pushed)
        self._fitting: set[object] = set()  # kinds of points that the maps could be called with

    @property
    def fused(self) -> bool:
        """Whether the maps are perceptrons, evaluated by the fused kernel."""
        return self._layers is not None

    def compressed(self) -> "Maps":
        """Maps with the same differences f_s(y) − f_s(z), up to a rotation of each map's outputs, and few outputs.

        Where the maps end in linear layers W_s with more outputs than inputs, W_s = R_s Q_s, R_s square and Q_s with
        orthonormal rows, is replaced by R_s.
        """
        if self._layers is None or not isinstance(self._layers[-1], Affine):
            return self
        last = self._layers[-1]
        if last.weight.shape[2] <= last.weight.shape[1]:
            return self
        root = torch.linalg.qr(last.weight.double().mT, mode="r").R.mT.to(last.weight.dtype)
        return self._with_last_layer(Affine(root, root.new_zeros(root.shape[0], root.shape[2])))

    def jointly_compressed(self) -> "Maps":
        """Maps with the same differences f_s(y) − f_t(z), s ≠ t included, up to one rotation of the outputs for all."""
        if self._layers is None or not isinstance(self._layers[-1], Affine):
            return self
        last = self._layers[-1]
        rows = torch.cat([last.weight, last.bias[:, None]], dim=1)
        if rows.shape[2] <= rows.shape[0] * rows.shape[1]:
            return self
        root = torch.linalg.qr(rows.flatten(0, 1).double().mT, mode="r").R.mT.to(rows.dtype)
        root = root.unflatten(0, rows.shape[:2])
        return self._with_last_layer(Affine(root[:, :-1], root[:, -1]))

    def after(self, embedding: nn.Linear) -> "Maps":
        """The maps z -> f_s(W z + b) of the embedding's inputs; its weights are read here, once."""
        weight, bias = embedding.weight.detach().mT, embedding.bias.detach()
        call, layers = self._call, self._layers
        if layers is not None:
            first = Affine(weight.expand(self.num_maps, *weight.shape), bias.expand(self.num_maps, -1))
            layers = [first, *layers]
            if isinstance(layers[1], Affine):
                next_weight, next_bias = layers[1].weight.to(weight), layers[1].bias.to(weight)
                merged = Affine(weight @ next_weight, bias @ next_weight + next_bias)
                layers = [merged, *layers[2:]]
        return self._with(lambda z: call(z @ weight.to(z) + bias.to(z)), layers)

    def _with_last_layer(self, last: Affine) -> "Maps":
        return self._with(self._call, [*(self._layers or [])[:-1], last])

    def _with(self, call: Immersion, layers: "list[Layer] | None") -> "Maps":
        maps = object.__new__(Maps)
        maps._call, maps.num_maps, maps._layers = call, self.num_maps, layers
        maps._prepare()
        return maps

    def values(self, z: Float[Tensor, "point latent"]) -> Float[Tensor, "point member observation"]:
        """f_s(z).

        Args:
            z: latent points.

        Returns:
            Every map at every point.

        Raises:
            ValueError: maps whose output is not (member, point, observation).
        """
        self._try(z)
        with plainly(z):
            return self._values(z).transpose(0, 1)

    def jets(self, z: Float[Tensor, "point latent"]) -> Float[Tensor, "point order member observation"]:
        """[f_s(z), ∂_1 f_s(z), …, ∂_d f_s(z)] along the second axis, by forward mode.

        Args:
            z: latent points.

        Returns:
            Value and d partial derivatives of every map at every point, contiguous, a new tensor.

        Raises:
            ValueError: maps whose output is not (member, point, observation).
        """
        self._try(z)
        with plainly(z):
            if self._layers is not None:
                return perceptron_jets(self._layers, z, self.num_maps)
            values, tangents = self._derivative.along_axes(z)
            # Joined as they are to lie, so that they are copied once.
            return torch.cat([values.transpose(0, 1)[:, None], tangents.permute(2, 0, 1, 3)], dim=1).contiguous()

    def pushed(
        self, z: Float[Tensor, "point latent"], v: Float[Tensor, "point latent"]
    ) -> tuple[Float[Tensor, "member point observation"], Float[Tensor, "member point observation"]]:
        """f_s(z) and J_s(z)v, one direction at each point.

        Args:
            z: latent points.
            v: directions.
        """
        self._try(z)
        with plainly(z):
            return self._pushed(z, v)

    def rounding(self, z: Float[Tensor, "point latent"]) -> float:
        """The relative error of the values at points like these: eps of z, or more where a map computes in less."""
        self._try(z)
        return max(torch.finfo(z.dtype).eps, self._trial.rounding)

    def _try(self, z: Tensor) -> None:
        """Evaluations at which the maps are tried, unless all of what they do is known."""
        kind = (z.shape[1:], z.dtype, z.device)
        new = kind not in self._fitting and not is_wrapped(z) and len(z) > 0
        if new:
            points_of("points", z, "point latent")
        if new and (self._layers is not None or self._trial.begun):
            self._check_fit(z)
        if not self._known:
            try:
                with plainly(z):
                    self._trial(z)
            except Exception as error:
                if new and not is_said(error):
                    self._check_fit(z)
                raise
        if new:
            self._fitting.add(kind)

    def _check_fit(self, z: Tensor) -> None:
        """Refuses points that the maps cannot be called with, of another latent space or dtype, in words."""
        first = None if self._layers is None else self._layers[0]
        if isinstance(first, Affine):
            check_latent("codes", z, first.weight.shape[1])
        elif self._layers is None:
            for count in (1, 3):  # any number of points
                check_call(self._call, z[:1].repeat(count, 1))

    def _values(self, z: Float[Tensor, "point latent"]) -> Float[Tensor, "member point observation"]:
        if self._layers is None:
            return self._evaluated(z)
        x = z.expand(self.num_maps, *z.shape)
        for layer in self._layers:
            if isinstance(layer, Affine):
                x = torch.baddbmm(layer.bias.to(z)[:, None], x, layer.weight.to(z))
            else:
                x = layer(x)
        return x

    def _evaluated(self, z: Float[Tensor, "point latent"]) -> Float[Tensor, "member point observation"]:
        return checked_output(self._call(z), z, self.num_maps)

    def _pushed(self, z: Float[Tensor, "point latent"], v: Float[Tensor, "point latent"]) -> tuple[Tensor, Tensor]:
        """f_s(z) and J_s(z)v."""
        if self._layers is None:
            return self._derivative(z, v)
        jets = perceptron_jets(self._layers, z, self.num_maps).permute(1, 2, 0, 3)
        return jets[0], torch.einsum("kspo,pk->spo", jets[1:], v)

    def num_floats(self, z: Float[Tensor, "point latent"]) -> int:
        """How many floats the evaluation of one point's values holds at once, roughly.

        Args:
            z: any points of the latent space.

        Returns:
            The widest layer of all maps together; for general maps a multiple of the widest tensor that was seen on the
            way, or of their outputs.
        """
        if self._layers is None:
            self._try(z)
            if not len(z):
                return 1
            if self._trial.width:
                return 3 * self._trial.width
            with torch.no_grad(), plainly(z):
                return 8 * self._evaluated(z[:1].clone()).numel()
        widths = [width for layer in self._layers if isinstance(layer, Affine) for width in layer.weight.shape[1:]]
        return self.num_maps * max(widths)


def smallest_singular_value(members: Members, z: Points) -> Float[Tensor, "*batch"]:
    """σ_min of J = [J_1; …; J_S]/√S at every point: zero where the expected metric E[JᵀJ] degenerates.

    Args:
        members: as for `ExpectedMetric`; `[decoder]` for one.
        z: latent points, (*batch, latent).

    Returns:
        √λ_min of the expected metric without the loss of digits that forming it costs; units of x per unit of z.

    Raises:
        ValueError: no members, or `z` has no axis.
        TypeError: members that are not callable, or `z` is no floating-point tensor or array.

    Example:
        >>> import torch, probgeo as pg
        >>> members = [lambda z: z * torch.tensor([3.0, 0.0]), lambda z: z * torch.tensor([0.0, 2.0])]
        >>> value = pg.calculus.smallest_singular_value(members, torch.zeros(1, 2))
        >>> value.round(decimals=4)  # of E[JᵀJ] = diag(9, 4) / 2: √2, though each member is flat in one direction
        tensor([1.4142])
    """
    maps, z = Maps(members), points_of("z", z, "*batch latent")
    columns = maps.jets(z.reshape(-1, z.shape[-1]))[:, 1:].flatten(2) / maps.num_maps**0.5
    return torch.linalg.svdvals(columns)[..., -1].reshape(z.shape[:-1])


def _batched(members: Members) -> tuple[Immersion, int]:
    """One callable (*batch, latent) -> (member, *batch, observation), and how many members it has."""
    if isinstance(members, nn.ModuleList):
        members = list(members)
    if not isinstance(members, Sequence):
        if callable(members) and hasattr(members, "num_members"):
            return snapshot(members), int(members.num_members)
        raise TypeError(
            "members: expected a sequence of callables or one callable with an attribute num_members; "
            f"got {type(members).__name__}. For one decoder, pass [decoder]."
        )
    if not members:
        raise ValueError("members: expected at least one; got none.")
    for member in members:
        if not callable(member):
            raise TypeError(f"members: expected callables; got {type(member).__name__}.")
    modules = [member for member in members if isinstance(member, nn.Module)]
    for module in modules:
        check_weights(module)
    if len(modules) == len(members) and _of_one_architecture(modules):
        return Stacked(modules).requires_grad_(False), len(members)
    return _each([snapshot(member) for member in members]), len(members)


def _each(calls: Sequence[Immersion]) -> Immersion:
    """Callables one by one, as one (*batch, latent) -> (member, *batch, observation)."""

    def each(z: Tensor) -> Tensor:
        found = [single_output(call(z), z) for call in calls]
        if len({x.shape[1] for x in found}) > 1:
            raise ValueError(
                f"members: expected as many observations of each; got {sorted({x.shape[1] for x in found})}."
            )
        return found[0][None] if len(found) == 1 else torch.stack(found)

    return each


def _of_one_architecture(modules: Sequence[nn.Module]) -> bool:
    """Whether all modules are known to be the same up to their weights."""
    return (
        all(type(part) in _STACKABLE or is_elementwise(part) for part in modules[0].modules())
        and any(True for _ in modules[0].parameters())
        and not any(is_altered(part) for module in modules for part in module.modules())
        and not any(difference(modules[0], module) for module in modules[1:])
    )
