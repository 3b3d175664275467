"""Immersions as callables: copies of their own weights, their outputs and derivatives, computed plainly."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import MethodType
from typing import Any, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from probgeo.geometry.points import first_line

Held = TypeVar("Held")  # a callable; or what a partial one holds, a tensor or a number


_UNCHANGED: contextlib.AbstractContextManager[None] = contextlib.nullcontext()


class NoDerivativeError(TypeError, NotImplementedError):
    """Torch cannot differentiate an operation of the decoder as often as it is needed."""


def snapshot(function: Held) -> Held:
    """The function with weights of its own: a copy of a module, or of the module whose method it is; else itself.

    Args:
        function: any callable; what holds no weights stays as it is.

    Returns:
        What gives the same values now, and later, whatever becomes of the module's weights.

    Raises:
        TypeError: a module that cannot be copied.
    """
    if isinstance(function, partial):
        keywords = {name: snapshot(value) for name, value in function.keywords.items()}
        return partial(snapshot(function.func), *map(snapshot, function.args), **keywords)  # type: ignore[return-value]
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    if not isinstance(owner, nn.Module):
        return function
    check_weights(owner)
    try:
        with _Detached(), torch.inference_mode(False), torch.no_grad():
            copied = copy.deepcopy(owner)
            for weights in copied.parameters():  # one by one, as scripted modules have no method for it
                weights.requires_grad_(False)
    except Exception as error:
        raise TypeError(
            f"decoder: a metric keeps a copy of a module's weights, and {type(owner).__name__} cannot be copied "
            f"({type(error).__name__}: {error}). Pass a function instead, `lambda z: decoder(z)`, which is called as "
            "it is."
        ) from error
    return copied if owner is function else MethodType(function.__func__, copied)  # type: ignore[attr-defined, return-value]


def check_weights(module: nn.Module) -> None:
    """Refuses a module whose weights are not there.

    Args:
        module: with parameters and buffers, or none.

    Raises:
        ValueError: a layer that has not seen its input yet, or weights on the device "meta".
    """
    for name, weights in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(weights):
            raise ValueError(NOT_THERE.format(f"its weights {name}"))
        if weights.is_meta:
            raise ValueError(
                f'decoder: its weights {name} are on the device "meta", which has no values. Load them: '
                'model.to_empty(device="cpu"), then model.load_state_dict(...).'
            )


NOT_THERE = (
    "decoder: {} are not there yet, as a lazy layer has not seen its input. Call the model once on its data, and then "
    "train it or load its weights."
)


class _Detached(TorchFunctionMode):
    """Inside, results of computations, which modules may hold, are copied as the tensors that they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            # What a transformation has left behind, as old hooks for weight normalisation keep it.
            plain = torch._C._functorch.unwrap_if_dead(tensor)
            if plain is not tensor or not tensor.is_leaf or tensor.is_inference():
                return memo.setdefault(id(tensor), plain.detach().clone())
        return func(*args, **(kwargs or {}))


class Elementary(TorchFunctionMode):
    """Inside, normalisations are composed of sums and products: torch's own have a second derivative that is wrong.

    The first is right. Where one forward derivative is taken of another, as for a field of tensors JᵀJ that is itself
    differentiated, torch 2.13 takes the mean and variance of `layer_norm` and `instance_norm` for constants.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _COMPOSED.get(func, func)(*args, **(kwargs or {}))


def _layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    found = _normalised(x, tuple(range(-len(normalized_shape), 0)), eps)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return functional.instance_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    found = _normalised(x, tuple(range(2, x.ndim)), eps)
    channel = (-1, *[1] * (x.ndim - 2))
    found = found if weight is None else found * weight.reshape(channel)
    return found if bias is None else found + bias.reshape(channel)


def _normalised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt()


_COMPOSED: dict[Any, Callable[..., Tensor]] = {
    functional.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    functional.instance_norm: _instance_norm,
}


def plainly(z: Tensor) -> contextlib.AbstractContextManager[None]:
    """Inside, torch computes in the dtype of z, and by operations that it can differentiate in forward mode."""
    # Where one such evaluation is part of another, switches would be most of a small one.
    return _UNCHANGED if _is_plain(z) else _made_plain(z)


@contextlib.contextmanager
def _made_plain(z: Tensor) -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext(),
            torch.autocast(z.device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def called(name: str) -> Iterator[None]:
    """Inside, what is refused is called by the name of the argument that it came as, and not a decoder."""
    try:
        yield
    except (ValueError, TypeError) as error:
        said = str(error)
        if name == "decoder" or not said.startswith("decoder: "):
            raise
        raise type(error)(name + said.removeprefix("decoder")) from error


def _is_plain(z: Tensor) -> bool:
    """Whether torch computes so already."""
    return not (
        torch.backends.mha.get_fastpath_enabled()
        or torch.is_inference_mode_enabled()
        or (torch.amp.is_autocast_available(z.device.type) and torch.is_autocast_enabled(z.device.type))
        or torch.backends.cuda.flash_sdp_enabled()
        or torch.backends.cuda.mem_efficient_sdp_enabled()
        or torch.backends.cuda.cudnn_sdp_enabled()
    )


def is_wrapped(z: Tensor) -> bool:
    """Whether z stands for a tensor inside a transformation of torch.func, so that its values decide nothing."""
    return torch._C._functorch.is_functorch_wrapped_tensor(z)


@final
class Derivative:
    """f(z) and J(z)v, by forward mode; by reverse mode, twice, where torch has no forward derivative of an operation.

    Args:
        function: z (point, latent) -> f(z) (member, point, observation), the points independent.

    References:
        Christianson (1992), on J v as the derivative of u ↦ Jᵀu.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._lacking: list[str] = []  # what forward mode, then reverse mode of torch.func, could not do
        self._alone: list[str] = []  # what could not be done for all directions at once

    def __call__(self, z: Float[Tensor, "point latent"], v: Float[Tensor, "point latent"]) -> tuple[Tensor, Tensor]:
        """f(z) and J(z)v.

        Raises:
            NoDerivativeError: torch can do neither, the operation named.
        """
        # Inside a transformation the graph of autograd is out of reach.
        ways = (_pushed, _pulled_twice) if is_wrapped(z) else (_pushed, _pulled_twice, _by_graph)
        reasons = list(self._lacking)
        for way in ways[len(reasons) :]:
            try:
                return way(self._function, z, v)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reasons.append(first_line(error))
                if not is_wrapped(z):
                    self._lacking = reasons[:2]
        raise NoDerivativeError(
            "decoder: torch cannot differentiate one of its operations, neither in forward mode nor twice in reverse "
            f"mode: {reasons[-1]} Write this operation with elementary ones; for attention, use "
            "torch.nn.functional.scaled_dot_product_attention, which is computed by them here."
        )

    def along_axes(self, z: Float[Tensor, "point latent"]) -> tuple[Tensor, Tensor]:
        """f(z) and ∂_1 f(z), …, ∂_d f(z) along a new first axis.

        The values are computed once for all directions; where torch cannot do that, as with control flow that depends
        on values, once for each, all directions side by side along the points.

        Raises:
            NoDerivativeError: torch can do neither, the operation named.
        """
        points, latent = z.shape
        axes = torch.eye(latent, dtype=z.dtype, device=z.device)

        def pushed(axis: Tensor) -> tuple[Tensor, Tensor]:
            value, tangent, *_ = jvp(self._function, (z.contiguous(),), (axis.expand_as(z).contiguous(),))
            return value, tangent

        if not self._lacking and not self._alone:
            try:
                values, tangents = vmap(pushed, randomness="same")(axes)
                return values[0], tangents
            except RuntimeError as error:
                if not is_wrapped(z):
                    self._alone.append(str(error))
        values, tangents = self(z.repeat(latent, 1), axes.repeat_interleave(points, 0))
        return values[:, :points], tangents.unflatten(1, (latent, points)).movedim(1, 0)


def pulled_back(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f(z), and u ↦ J(z)ᵀu, by reverse mode.

    Args:
        function: of z.
        z: where.

    Raises:
        NoDerivativeError: torch cannot, the operation named.
    """
    try:
        value, pull, *_ = vjp(function, z)
        return value, lambda u: pull(u)[0]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = first_line(error)
    try:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            found = function(leaf)
        torch.autograd.grad(found, leaf, torch.zeros_like(found), retain_graph=True, materialize_grads=True)
    except RuntimeError as error:
        raise NoDerivativeError(
            f"decoder: torch cannot differentiate one of its operations in reverse mode: {reason} From 20 latent "
            "dimensions on, GaussNewton(system=BlockTridiagonal) does with forward mode alone."
        ) from error
    return found.detach(), lambda u: torch.autograd.grad(found, leaf, u, retain_graph=True, materialize_grads=True)[0]


def _pushed(function: Callable[[Tensor], Tensor], z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """f(z) and J v by forward mode."""
    value, tangent, *_ = jvp(function, (z,), (v,))
    return value, tangent


def _pulled_twice(function: Callable[[Tensor], Tensor], z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """f(z) and J v as the derivative of u ↦ Jᵀu."""
    value, pull, *_ = vjp(function, z)
    return value, vjp(lambda u: pull(u)[0], torch.zeros_like(value))[1](v)[0]


def _by_graph(function: Callable[[Tensor], Tensor], z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The same by autograd's graph, for operations that torch.func does not take."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        value = function(leaf)
        if not value.requires_grad:  # it has left torch, or been detached: what that means is for the trial to say
            return value, torch.zeros_like(value)
        u = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, leaf, u, create_graph=True, materialize_grads=True)
        (tangent,) = torch.autograd.grad(pulled, u, v, materialize_grads=True)
    return value.detach(), tangent


def checked_output(output: object, z: Tensor, num_maps: int) -> Tensor:
    """The maps' outputs in the dtype of z, once they are real numbers (member, point, observation)."""
    output = _real_numbers(output)
    if output.ndim != 3 or output.shape[:2] != (num_maps, z.shape[0]) or not output.shape[2]:
        raise ValueError(
            f"decoder: expected outputs (point, observation) for every point and member, here "
            f"({num_maps}, {z.shape[0]}, observation); got {tuple(output.shape)}. {_ANY_NUMBER}"
        )
    return output.to(z.dtype)


def single_output(output: object, z: Tensor) -> Tensor:
    """One map's output, once it is (point, observation)."""
    output = _real_numbers(output)
    if output.ndim != 2 or output.shape[0] != z.shape[0] or not output.shape[1]:
        raise ValueError(
            f"decoder: expected outputs (point, observation), here ({z.shape[0]}, observation); got "
            f"{tuple(output.shape)}. {_ANY_NUMBER}"
        )
    return output


_ANY_NUMBER = (
    "Flatten images to one last axis, of one number write [:, None]; a decoder is called with any number of points."
)


def _real_numbers(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"decoder: expected a tensor (point, observation) as its output; got {type(output).__name__}. Pass a "
            "function that picks the tensor, `lambda z: decoder(z)[0]`; of a distribution its mean."
        )
    if output.layout is not torch.strided:
        raise TypeError(f"decoder: expected a dense tensor; got {output.layout}. Use .to_dense().")
    if output.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"decoder: expected outputs in float32 or float64, whose differences are real numbers; got {output.dtype}. "
            "Convert the model, .float(), or its outputs before anything is rounded."
        )
    return output
