"""Immersions as callables: copies of their own weights, their outputs and derivatives, computed plainly."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

Held = TypeVar("Held")  # a callable; or what a partial one holds, a tensor or a number


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
    try:
        with _Detached(), torch.inference_mode(False):
            copied = copy.deepcopy(owner).requires_grad_(False)
    except Exception as error:
        raise TypeError(
            f"decoder: a metric keeps a copy of a module's weights, and {type(owner).__name__} cannot be copied "
            f"({type(error).__name__}: {error}). Pass a function instead, `lambda z: decoder(z)`, which is called as "
            "it is."
        ) from error
    return copied if owner is function else MethodType(function.__func__, copied)  # type: ignore[attr-defined, return-value]


class _Detached(TorchFunctionMode):
    """Inside, results of computations, which modules may hold, are copied as the tensors that they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and (not args[0].is_leaf or args[0].is_inference()):
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def plainly(z: Tensor) -> Iterator[None]:
    """Inside, torch computes in the dtype of z, and by operations that it can differentiate in forward mode."""
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
        self._lacking: list[str] = []  # what forward mode could not do
        self._alone: list[str] = []  # what could not be done for all directions at once

    def __call__(self, z: Float[Tensor, "point latent"], v: Float[Tensor, "point latent"]) -> tuple[Tensor, Tensor]:
        """f(z) and J(z)v.

        Raises:
            NoDerivativeError: torch can do neither, the operation named.
        """
        if not self._lacking:
            try:
                value, tangent, *_ = jvp(self._function, (z,), (v,))
                return value, tangent
            except (NotImplementedError, RuntimeError) as error:
                if not _is_lacking(error):
                    raise
                if not is_wrapped(z):
                    self._lacking.append(str(error))
        try:
            value, pull, *_ = vjp(self._function, z)
            return value, vjp(lambda u: pull(u)[0], torch.zeros_like(value))[1](v)[0]
        except (NotImplementedError, RuntimeError) as error:
            if not _is_lacking(error):
                raise
            reasons = " ".join(str(error).split())[:300]
            raise NoDerivativeError(
                f"decoder: torch cannot differentiate one of its operations, neither in forward mode nor twice in "
                f"reverse mode: {reasons} Write this operation with elementary ones; for attention, use "
                "torch.nn.functional.scaled_dot_product_attention, which is computed by them here."
            ) from error

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
            except (NotImplementedError, RuntimeError) as error:
                if not is_wrapped(z):
                    self._alone.append(str(error))
        values, tangents = self(z.repeat(latent, 1), axes.repeat_interleave(points, 0))
        return values[:, :points], tangents.unflatten(1, (latent, points)).movedim(1, 0)


def _is_lacking(error: Exception) -> bool:
    words = ("forward AD", "forward-mode", "forward mode", "not implemented", "not differentiable", "double backward")
    return isinstance(error, NotImplementedError) or any(word in str(error) for word in words)


def first_line(error: Exception) -> str:
    """What an error says, in one sentence of at most 300 characters."""
    words = " ".join(str(error).split("\n")[0].split())[:300]
    return words if words.endswith(".") else words + "."


def checked_output(output: object, z: Tensor, num_maps: int) -> Tensor:
    """The maps' outputs in the dtype of z, once they are real numbers (member, point, observation)."""
    output = _real_numbers(output)
    if output.ndim != 3 or output.shape[:2] != (num_maps, z.shape[0]):
        raise ValueError(
            f"immersion: expected outputs (point, observation) for every point and member, here "
            f"({num_maps}, {z.shape[0]}, observation); got {tuple(output.shape)}. Flatten images to one last axis; a "
            "decoder is called with any number of points."
        )
    return output.to(z.dtype)


def single_output(output: object, z: Tensor) -> Tensor:
    """One map's output, once it is (point, observation)."""
    output = _real_numbers(output)
    if output.ndim != 2 or output.shape[0] != z.shape[0]:
        checked_output(output[None], z, 1)
    return output


def _real_numbers(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"decoder: expected a tensor (point, observation) as its output; got {type(output).__name__}. Pass a "
            "function that picks the tensor, `lambda z: decoder(z)[0]`; of a distribution its mean."
        )
    if output.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"decoder: expected outputs in float32 or float64, whose differences are real numbers; got {output.dtype}. "
            "Convert the model, .float(), or its outputs before anything is rounded."
        )
    return output
