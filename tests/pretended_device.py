"""A device that is not there: tensors that say they are elsewhere, and what a GPU would refuse or wait for.

Their memory is the CPU's; which memory is elsewhere is written down beside it. Every operation is looked at below
autograd and vmap, so that a computation goes as it would on a GPU, at whatever place the library asks for it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# A kind of device that torch knows on every machine, whose own tensors have no values; here they have.
ELSEWHERE = torch.device("meta")
_aten = torch.ops.aten
_TRANSFERS = (_aten._to_copy.default, _aten.copy_.default)
_READS = (_aten._local_scalar_dense.default, _aten.equal.default, _aten.nonzero.default, _aten.masked_select.default)
_ALIKE = (_aten._to_copy, _aten.new_zeros, _aten.new_empty, _aten.new_full)
_INDEXING = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)

# What torch composes in C++ of operations that ask for memory where a tensor really is. There are more, such as
# tangents that C++ fills with zeros (an RBF decoder under jvp): those are refused here, though a GPU takes them.
_WHOLE = ("quantile",)


class Device(TorchDispatchMode):
    """The pretended device; it exists inside `with device:`.

    Attributes:
        reads: operations at which the CPU waited for a value from elsewhere.
        sends: those at which it waited until a value had got there, as one of memory that is not pinned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.sends: list[str] = []
        self._moving = False  # asked for in Python; what C++ asks for is where it thinks that a tensor is
        self._pinned: dict[int, torch.UntypedStorage] = {}
        self._storages: dict[int, torch.UntypedStorage] = {}  # held, so that no other takes the place of one
        self._patches = contextlib.ExitStack()

    # --- where a tensor is ---

    def has(self, value: Tensor) -> bool:
        """Whether a tensor is elsewhere."""
        while is_functorch_wrapped_tensor(value):
            value = get_unwrapped(value)
        return value.untyped_storage()._cdata in self._storages

    def _is_pinned(self, value: Tensor) -> bool:
        return value.untyped_storage()._cdata in self._pinned

    def _put(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            self._storages[storage._cdata] = storage
        return value

    # --- what torch is told ---

    def __enter__(self) -> "Device":
        super().__enter__()
        base, device = torch.Tensor, self

        def to(value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            given = [*args, *kwargs.values()]
            like = next((item for item in given if isinstance(item, Tensor)), None)
            here = ELSEWHERE if device.has(value) else torch.device("cpu")
            where = next((torch.device(item) for item in given if isinstance(item, (str, torch.device))), here)
            dtype = next((item for item in given if isinstance(item, torch.dtype)), value.dtype)
            if like is not None:
                where, dtype = like.device, like.dtype
            if where != here:
                device._moving = True
                try:
                    early = kwargs.get("non_blocking", False)
                    return _aten._to_copy(value, device=where, dtype=dtype, non_blocking=early)
                finally:
                    device._moving = False
            return original_to(value, dtype)

        def read(name: str) -> Any:
            method = getattr(base, name)

            def reading(value: Tensor, *args: Any, **kwargs: Any) -> Any:
                if device.has(value):
                    raise TypeError(f"can't convert a tensor that is elsewhere by {name}(); use .cpu() first")
                return method(value, *args, **kwargs)

            return reading

        def listed(value: Tensor) -> Any:
            if device.has(value):
                device.reads.append("tolist")
            return original_tolist(value)

        def module_to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
            if args and isinstance(args[0], Tensor):
                args = (args[0].device, args[0].dtype)
            return original_module_to(module, *args, **kwargs)

        def whole(name: str) -> Any:
            method = getattr(base, name)

            def computed(value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                num_reads, found = len(device.reads), method(to(value, "cpu"), *args, **kwargs)
                del device.reads[num_reads:]
                return to(found, value.device)

            return computed

        def made_by(function: Any) -> Any:
            def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
                found = function(data, *args, **kwargs)
                return found if device is None else to(found, device)

            return made

        def pin_memory(value: Tensor) -> Tensor:
            storage = value.untyped_storage() if device._is_pinned(value) else value.clone().untyped_storage()
            device._pinned[storage._cdata] = storage
            return torch.empty(0, dtype=value.dtype).set_(storage, 0, value.size(), value.stride())

        original_module_to = nn.Module.to
        original_to, original_tolist, original_new = base.to, base.tolist, base.new_tensor
        replaced: dict[str, Any] = {
            "device": property(lambda value: ELSEWHERE if device.has(value) else torch.device("cpu")),
            "is_cpu": property(lambda value: not device.has(value)),
            "to": to,
            "cpu": lambda value, *args: to(value, "cpu"),
            "numpy": read("numpy"),
            "__array__": read("__array__"),
            "tolist": listed,
            "pin_memory": pin_memory,
            "new_tensor": lambda value, data, **kwargs: to(original_new(value, data, **kwargs), value.device),
        }
        replaced |= {name: whole(name) for name in _WHOLE}
        for name, instead in replaced.items():
            self._patches.enter_context(mock.patch.object(base, name, instead))
        self._patches.enter_context(mock.patch.object(nn.Module, "to", module_to))
        autocast = torch.autocast
        instead = lambda kind, **options: autocast("cpu" if kind == ELSEWHERE.type else kind, **options)  # noqa: E731
        self._patches.enter_context(mock.patch.object(torch, "autocast", instead))
        for name in ("tensor", "as_tensor"):
            self._patches.enter_context(mock.patch.object(torch, name, made_by(getattr(torch, name))))
        return self

    def __exit__(self, *error: Any) -> None:
        self._patches.close()
        super().__exit__(*error)

    # --- operations ---

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        there = [value for value in tensors if self.has(value)]
        asked = kwargs.get("device")
        if there and asked is not None and operation.overloadpacket in _ALIKE and not self._moving:
            asked = None
            kwargs["device"] = torch.device("cpu")
        goes = bool(there) if asked is None else torch.device(asked) == ELSEWHERE
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        if kwargs.get("generator") is not None and goes:
            raise RuntimeError(f"{operation}: expected a generator that is elsewhere; got one of the CPU")
        if operation in _TRANSFERS:
            source = args[0] if operation is _aten._to_copy.default else args[1]
            back = not goes if operation is _aten._to_copy.default else not self.has(args[0])
            if isinstance(source, Tensor) and self.has(source) and back:
                self.reads.append(str(operation))
            at_once = kwargs.get("non_blocking") and self._is_pinned(source)
            if isinstance(source, Tensor) and not self.has(source) and not back and not at_once:
                self.sends.append(str(operation))
        else:
            self._check(operation, args, tensors, there)
            if there and (operation in _READS or self._has_mask(operation, args)):
                self.reads.append(str(operation))
            if operation.overloadpacket in _INDEXING and self.has(args[0]):
                indices = [value for value in tree_leaves(args[1]) if isinstance(value, Tensor)]
                self.sends += [str(operation)] * any(not self.has(value) for value in indices)
        results = operation(*args, **kwargs)
        if operation is _aten._to_copy.default and any(results is value for value in tensors):
            results = results.clone()
        places = {value.untyped_storage()._cdata for value in tensors}
        if operation is _aten.copy_.default or not goes:
            return results
        new = lambda value: isinstance(value, Tensor) and value.untyped_storage()._cdata not in places  # noqa: E731
        return tree_map(lambda value: self._put(value) if new(value) else value, results)

    def _check(self, operation: Any, args: Any, tensors: list[Tensor], there: list[Tensor]) -> None:
        """Refuse operations on tensors of both places; numbers, and indices of what is elsewhere, may be here."""
        here = [value for value in tensors if not self.has(value) and value.ndim > 0]
        if operation.overloadpacket in _INDEXING and self.has(args[0]):
            indices = {id(value) for value in tree_leaves(args[1]) if isinstance(value, Tensor)}
            here = [value for value in here if id(value) not in indices]
        if there and here:
            shapes = [tuple(value.shape) for value in here]
            raise RuntimeError(f"{operation}: expected all tensors to be elsewhere; those of shapes {shapes} are here")

    def _has_mask(self, operation: Any, args: Any) -> bool:
        """Whether the shape of a result depends on values that are elsewhere."""
        masks = tree_leaves(args[1]) if operation.overloadpacket in _INDEXING else []
        return any(isinstance(value, Tensor) and value.dtype is torch.bool and self.has(value) for value in masks)


@contextlib.contextmanager
def pretended() -> Iterator[Device]:
    """The pretended device, while it exists; nothing that is elsewhere may be used after it."""
    with Device() as device:
        yield device
