"""Linear layers of many networks at once: one product of batches, with the bias added in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class _Affine(torch.autograd.Function):
    """y_n = x_n W_nᵀ + b_n, with gradients laid out as the parameters are."""

    @staticmethod
    def forward(
        x: Float[Tensor, "n row input"], weight: Float[Tensor, "n output input"], bias: Float[Tensor, "n output"]
    ) -> Float[Tensor, "n row output"]:
        return torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            gradient @ weight if needs_x else None,
            gradient.mT @ x if needs_weight else None,
            gradient.sum(1) if needs_bias else None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, int]:
        """More of them along n."""

        def flat(value: Tensor, place: int | None) -> Tensor:
            moved = value.movedim(place, 0) if place is not None else value.expand(info.batch_size, *value.shape)
            return moved.flatten(0, 1)

        found = _Affine.apply(*(flat(value, place) for value, place in zip((x, weight, bias), in_dims, strict=True)))
        return found.unflatten(0, (info.batch_size, -1)), 0


class _LinearAsAffine(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.linear and not kwargs and len(args) == 3 and args[2] is not None:
            x, weight, bias = args
            rows = x.reshape(1, -1, x.shape[-1])
            return _Affine.apply(rows, weight[None], bias[None]).reshape(*x.shape[:-1], weight.shape[0])
        return function(*args, **(kwargs or {}))


@contextmanager
def batched_linear_layers() -> Iterator[None]:
    """Within vmap over their weights, linear layers are one batched product each: faster than vmap's own rule."""
    with _LinearAsAffine():
        yield
