"""A computation recorded once and replayed: a list of operations on tensors that stay where they are.

A step of training is the same few hundred operations every time. Replaying them skips what finds out which these are
(Python, Pyro's handlers, vmap, autograd), views cost nothing, what does not change is computed once, and memory is
neither asked for nor given back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class NotRecordable(RuntimeError):
    """A computation that is not the same operations every time, or that changes what it was not given."""


class _Step(NamedTuple):
    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: Any


class _Tape(TorchDispatchMode):
    """Writes down every operation, below autograd and vmap; holds all tensors, so that each memory has one meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Step] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch would wrap the method below in a function whose first call imports its compiler: seconds, for nothing.
        return False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.aten._linalg_check_errors.default:
            return self._marked(args[0])
        return self._taken(operation, *args, **(kwargs or {}))

    def _taken(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        results = operation(*args, **kwargs)
        self.steps.append(_Step(operation, args, kwargs, results))
        return results

    def _marked(self, info: Tensor) -> None:
        """NaN where a factorisation fails, instead of an error, which would end what is computed beside it too."""
        made = next(step.results for step in reversed(self.steps) if _places(info) <= _places(step.results))
        failed = self._taken(torch.ops.aten.ne.Scalar, info, 0)
        for value in _tensors(made):
            if value.is_floating_point():
                mask = failed.reshape(*failed.shape, *[1] * (value.ndim - failed.ndim))
                self._taken(torch.ops.aten.masked_fill_.Scalar, value, mask, torch.nan)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _places(tree: Any) -> set[int]:
    """The memories of the tensors in a tree."""
    return {tensor.untyped_storage()._cdata for tensor in _tensors(tree)}


def _written(step: _Step) -> set[int]:
    """The memories that an operation changes."""
    schema = step.operation._schema.arguments
    values = [*step.args, *(step.kwargs.get(argument.name) for argument in schema[len(step.args) :])]
    changed = [
        value
        for argument, value in zip(schema, values, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return _places(changed)


class Recording:
    """outputs = function(*inputs), recorded.

    Args:
        function: of tensors; the same operations whatever their values.
        inputs: examples, copied; others must have their shapes.
        state: other tensors whose values may differ from one call to the next, such as parameters; they must stay where
            they are. Everything else that the function reads is taken to be constant.

    Raises:
        NotRecordable: a function that looks at values, draws random numbers, or changes the state.
    """

    def __init__(
        self, function: Callable[..., Sequence[Tensor | None]], inputs: Sequence[Tensor], state: Sequence[Tensor]
    ) -> None:
        self.inputs = tuple(value.detach().clone(memory_format=torch.contiguous_format) for value in inputs)
        tape = _Tape()
        with tape:
            outputs = function(*self.inputs)
        for step in tape.steps:
            if torch.Tag.nondeterministic_seeded in step.operation.tags:
                raise NotRecordable(f"it draws random numbers, by {step.operation}")
            if _written(step) & _places(list(state)):
                raise NotRecordable(f"it changes what it is given, by {step.operation}")
        kept = _needed(_changing(tape.steps, _places((self.inputs, list(state)))), _places(list(outputs)))
        moved = _moved(kept, _places(list(outputs)))
        self.outputs = tuple(moved(value) for value in outputs)
        self._calls = [_call(_Step(*tree_map(moved, tuple(step)))) for step in kept]

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> tuple[Any, ...]:
        """The outputs, in memory that the next call overwrites."""
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        for operation, args, kwargs in self._calls:
            operation(*args, **kwargs)
        return self.outputs


def _changing(steps: Sequence[_Step], varying: set[int]) -> list[_Step]:
    """The steps that have to be done again when the varying memories have changed: views and constants have not."""
    ever_written = set().union(*(_written(step) for step in steps))
    varying, kept = set(varying), []
    for step in steps:
        read, made, written = _places((step.args, step.kwargs)), _places(step.results), _written(step)
        if step.operation is torch.ops.aten._local_scalar_dense.default and read & varying:
            raise NotRecordable("it looks at the value of a tensor, by which it may do something else another time")
        if made <= read and not written:
            continue  # a view
        if read & varying or (made | written) & ever_written:
            varying |= made | written
            kept.append(step)
    return kept


def _needed(steps: Sequence[_Step], lasting: set[int]) -> list[_Step]:
    """The steps on which what lasts depends: those that make or change memories that a later one reads."""
    needed, kept = set(lasting), []
    for step in reversed(steps):
        if (_places(step.results) | _written(step)) & needed:
            needed |= _places((step.args, step.kwargs))
            kept.append(step)
    return kept[::-1]


def _call(step: _Step) -> tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
    """What replays a step: its operation in place, or into its result, or what copies its results there."""
    operation, args, kwargs, results = step
    if _written(step):
        return operation, args, kwargs
    found = _into(operation) if isinstance(results, Tensor) else None
    if found is not None:
        variant, name = found
        return variant, args, {**kwargs, name: results}
    places = list(tree_leaves(results))

    def copied() -> None:
        for place, value in zip(places, tree_leaves(operation(*args, **kwargs)), strict=True):
            if isinstance(place, Tensor):
                place.copy_(value)

    return copied, (), {}


def _into(operation: Any) -> tuple[Any, str] | None:
    """The form of an operation that writes into a tensor given, and the name of that argument."""
    own = [(argument.name, str(argument.type)) for argument in operation._schema.arguments]
    for overload in operation.overloadpacket.overloads():
        variant = getattr(operation.overloadpacket, overload)
        places = [a for a in variant._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        others = [(a.name, str(a.type)) for a in variant._schema.arguments if a not in places]
        if len(places) == 1 and places[0].kwarg_only and others == own:
            return variant, places[0].name
    return None


def _moved(steps: Sequence[_Step], lasting: set[int]) -> Callable[[Any], Any]:
    """Where tensors that the steps make are moved to, so that memory that has been read for the last time is reused.

    Args:
        steps: in order.
        lasting: memories that are read after the last step.

    Returns:
        A function of a tensor, which gives others back where they are, outside autograd's graph.
    """
    last_use = {place: index for index, step in enumerate(steps) for place in _places(tuple(step))}
    homes: dict[int, torch.UntypedStorage] = {}  # by memory that the steps make
    free: dict[int, torch.UntypedStorage] = {}
    given: set[int] = set()
    for index, step in enumerate(steps):
        given |= _places((step.args, step.kwargs)) - homes.keys()
        ended = {place for place in _places(tuple(step)) - lasting if last_use[place] == index}
        if torch.Tag.pointwise in step.operation.tags and not _written(step):
            free |= {id(homes[place]): homes[place] for place in _replaceable(step) & ended & homes.keys()}
        for tensor in _tensors(step.results):
            storage = tensor.untyped_storage()
            if storage._cdata not in homes.keys() | given:
                size = storage.nbytes()
                fitting = [home for home in free.values() if size <= home.nbytes() <= 2 * size]
                home = min(fitting, key=torch.UntypedStorage.nbytes, default=storage)
                homes[storage._cdata] = free.pop(id(home), home)
        in_use = {id(homes[place]) for place in homes.keys() & _places(step.results) - ended}
        free |= {id(homes[place]): homes[place] for place in ended & homes.keys() if id(homes[place]) not in in_use}

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        home = homes.get(value.untyped_storage()._cdata)
        if home is None:
            return value.detach()
        empty = torch.empty(0, dtype=value.dtype, device=value.device)
        return empty.set_(home, value.storage_offset(), value.size(), value.stride())

    return moved


def _replaceable(step: _Step) -> set[int]:
    """Memories of arguments laid out as the result of an elementwise operation, which may take their place."""
    (result,) = _tensors(step.results)
    arguments = list(_tensors((step.args, step.kwargs)))
    alike = [
        value
        for value in arguments
        if (value.dtype, value.shape, value.stride()) == (result.dtype, result.shape, result.stride())
        and value.untyped_storage().nbytes() == result.untyped_storage().nbytes()
    ]
    others = _places([value for value in arguments if not any(value is other for other in alike)])
    return _places(alike) - others
