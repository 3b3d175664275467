"""Perceptrons: their layers, read off a module once, and a fused forward-mode kernel for values and Jacobians."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jvp

from probgeo.nn import Stacked
from probgeo.nn.sameness import has_global_hooks, is_altered

# What acts on each number alone, by torch's own classes; no classes made of them.
ELEMENTWISE = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
)


class Affine:
    """Members' linear layers x ↦ x W_s + b_s, as plain tensors.

    Args:
        weight: W_s, (member, in, out).
        bias: b_s, (member, out).
    """

    def __init__(self, weight: Float[Tensor, " member in out"], bias: Float[Tensor, "member out"]) -> None:
        self.weight = weight
        self.bias = bias


Layer = Affine | nn.Module


def is_known(layers: Sequence[Layer]) -> bool:
    """Whether all layers do what their class says, so that nothing is left to try."""
    return all(type(layer) in (Affine, *ELEMENTWISE) for layer in layers)


def is_elementwise(part: nn.Module) -> bool:
    """Whether a module acts on each number alone: one of torch's own activations, or what is marked so."""
    marked = getattr(part, "elementwise", False) and not list(part.parameters())
    return type(part) in ELEMENTWISE or bool(marked)


def perceptron_layers(call: Callable[[Tensor], Tensor]) -> list[Layer] | None:
    """The layers of a Stacked perceptron; None where the callable is anything else."""
    if type(call) is not Stacked:
        return None
    layers: list[Layer] = []
    if has_global_hooks() or any(is_altered(part) for part in (call, *call.template.modules())):
        return None
    for part in _flattened(call.template):
        if type(part) is nn.Linear:
            weight = part.weight.detach().mT.clone(memory_format=torch.contiguous_format)
            bias = (
                weight.new_zeros(weight.shape[0], weight.shape[2]) if part.bias is None else part.bias.detach().clone()
            )
            layers.append(Affine(weight, bias))
        elif is_elementwise(part):
            layers.append(part)
        elif not (type(part) is nn.Dropout and not part.training):
            return None
    return layers if any(isinstance(layer, Affine) for layer in layers) else None


def _flattened(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential:
        return [part for child in module for part in _flattened(child)]
    return [module]


def perceptron_jets(
    layers: Sequence[Layer], z: Float[Tensor, "point latent"], num_maps: int
) -> Float[Tensor, "point order member observation"]:
    """[f_s(z), ∂_1 f_s(z), …, ∂_d f_s(z)] of perceptrons, layer by layer.

    Args:
        layers: of all maps.
        z: latent points.
        num_maps: S.
    """
    points, latent = z.shape
    x = z.new_zeros(num_maps, 1 + latent, points, latent)
    x[:, 0] = z
    for direction in range(latent):
        x[:, 1 + direction, :, direction] = 1
    for layer in layers:
        if isinstance(layer, Affine):
            x = torch.bmm(x.flatten(1, 2), layer.weight.to(z)).unflatten(1, (1 + latent, points))
            x[:, 0] += layer.bias.to(z)[:, None]
        else:
            value, slope = _value_and_slope(layer, x[:, 0])
            if x.requires_grad:  # reverse mode needs what would be overwritten
                x = torch.cat([value[:, None], x[:, 1:] * slope[:, None]], dim=1)
            else:
                x[:, 1:] *= slope[:, None]
                x[:, 0] = value
    return x.permute(2, 1, 0, 3).contiguous()


def _value_and_slope(activation: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """σ(x) and σ'(x), in closed form for the common activations."""
    if type(activation) is nn.ReLU:
        return x.clamp_min(0), x > 0
    if type(activation) is nn.Tanh:
        value = x.tanh()
        return value, 1 - value.square()
    if type(activation) is nn.Sigmoid:
        value = x.sigmoid()
        return value, value * (1 - value)
    if type(activation) is nn.SiLU:
        gate = x.sigmoid()
        value = x * gate
        return value, torch.lerp(value, x.new_ones(()), gate)  # gate + value (1 − gate), in one pass
    value, slope, *_ = jvp(activation, (x.clone(),), (torch.ones_like(x),))
    return value, slope
