"""What an immersion must be: a differentiable function of the point alone. It is tried, and refused in words if not."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from probgeo.geometry.immersions import NOT_THERE, is_wrapped, plainly
from probgeo.geometry.points import first_line, is_said

NUM_POINTS = 32
NUM_BLOCKS = 32
NUM_NODES = 64


class _Watch(TorchFunctionMode):
    """Inside, layers that act otherwise in training are refused before they act."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _TRAINING:
            index, default, rate = _TRAINING[name]
            training = kwargs.get("training", args[index] if len(args) > index else default)
            p = kwargs.get("p", args[1] if rate and len(args) > 1 else 0.5) if rate else 1.0
            if training and p > 0:
                raise ValueError(_TRAINING_MODE.format(name))
        return func(*args, **kwargs)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Inside, a module in training mode whose layers act otherwise then is refused before they do; and without weights.

    Raises:
        ValueError: such a layer is called.
    """

    def refused(module: nn.Module, inputs: Any) -> None:
        norm = isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.utils.parametrizations._SpectralNorm))
        # Of an instance it takes the mean in either mode, unless it keeps statistics for later, as eval mode uses them.
        norm |= isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats
        lazy = isinstance(module, nn.modules.lazy.LazyModuleMixin)
        if lazy and module.has_uninitialized_params():  # type: ignore[operator]
            raise ValueError(NOT_THERE.format(f"weights of its {type(module).__name__}"))
        if getattr(module, "training", False) and (
            norm or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        ):
            raise ValueError(_TRAINING_MODE.format(type(module).__name__))

    handle = nn.modules.module.register_module_forward_pre_hook(refused)
    try:
        with _Watch():
            yield
    finally:
        handle.remove()


_TRAINING_MODE = (
    "decoder: it is in training mode, where {} makes its values depend on chance, on the other points or on earlier "
    "calls. Call .eval() on the model first."
)
# Functions of torch.nn.functional: place of the argument `training`, its default, whether they have a rate p.
_TRAINING = {
    functional.batch_norm.__name__: (5, False, False),
    functional.dropout.__name__: (2, True, True),
    functional.dropout1d.__name__: (2, True, True),
    functional.dropout2d.__name__: (2, True, True),
    functional.dropout3d.__name__: (2, True, True),
    functional.alpha_dropout.__name__: (2, False, True),
    functional.feature_alpha_dropout.__name__: (2, False, True),
    functional.rrelu.__name__: (3, False, False),
}


class _Traced(TorchFunctionMode):
    """Inside, it is noted what anything computed from z takes on the way: dtypes of fewer bits, and how much room.

    Args:
        z: what the rest is computed from; other tensors, such as weights, may be kept in any dtype.
    """

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.halves: list[torch.dtype] = []
        self.numel = 0  # of the largest tensor
        self._held = {id(z): z}  # held, so that no other tensor is given the same identity

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(id(x) in self._held for x in _tensors((args, kwargs))):
            for x in _tensors(found):
                self._held[id(x)] = x
                self.numel = max(self.numel, _whole(x).numel())
                if x.dtype in _HALVES:
                    self.halves.append(x.dtype)
        return found


_HALVES = (torch.float16, torch.bfloat16)


def _whole(x: Tensor) -> Tensor:
    """Of one of the tensors that vmap computes at once all of them."""
    while is_wrapped(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def _tensors(held: Any) -> Iterator[Tensor]:
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, (tuple, list, dict)):
        for part in held.values() if isinstance(held, dict) else held:
            yield from _tensors(part)


def check_call(function: Callable[[Tensor], Any], z: Float[Tensor, "point latent"]) -> None:
    """Calls a decoder once, and says in words what torch says of points that do not fit it.

    Args:
        function: of points (point, latent).
        z: such points.

    Raises:
        ValueError: points of another latent dimension, dtype or device than the decoder's, or its layers are in
            training mode.
    """
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), plainly(z), watched():
            function(z.detach().clone())
    except Exception as error:  # of any kind: what a decoder is made of may say it in its own way
        if is_said(error):
            raise
        raise ValueError(
            f"decoder: it cannot be called with points {tuple(z.shape)} of {z.dtype} on {z.device}: "
            f"{first_line(error)} It takes points (point, latent), any number of them; convert codes or model to one "
            "dtype and device."
        ) from error


def check_values(values: Callable[[Tensor], Tensor], z: Float[Tensor, "point latent"]) -> None:
    """Refuses what is no function of the point alone.

    Args:
        values: z (point, latent) -> (member, point, observation).
        z: points of the latent space.

    Raises:
        ValueError: values that change when called again or among others, or an argument changed in place.
    """
    if len(z) and not is_wrapped(z):
        with torch.no_grad(), torch.random.fork_rng(devices=[]), plainly(z):
            _tried_values(values, *_spread(z.detach()))


def _tried_values(
    values: Callable[[Tensor], Tensor], points: Float[Tensor, "point latent"], scale: float
) -> tuple[float, int]:
    """Of values that are a function of the point alone, the relative error, and the widest tensor's floats a point."""
    every = NUM_POINTS // 8
    few = points[::every].clone()
    traced = _Traced(few)
    with watched(), traced:
        first = values(few)
    if traced.halves:
        raise ValueError(
            f"decoder: it computes in {traced.halves[0]} inside, too coarsely for chords, and returns "
            f"{first.dtype}. Compute in float32 throughout: convert the model, .float(), and leave out .half() and "
            "autocast."
        )
    if not torch.equal(few, points[::every]):
        raise ValueError(
            "decoder: it changes its argument in place; write `z = z - mean` instead of `z -= mean`, or clone z."
        )
    if _differ(first, values(few), 1e3 * _eps(first)):
        raise ValueError(
            "decoder: called twice at one point it gives different values: it draws random numbers, or counts its "
            "calls. Use its mean, or one fixed draw; call .eval() on a model."
        )
    step = 2 * scale * torch.finfo(points.dtype).eps ** 0.5 * _directions(points, seed=3)
    together = values(torch.cat([points + step, points, points - step]))
    # Far ends alone, as a decision made of all points at once falls otherwise for one of them, and the first may be the
    # one by which all are normalised; both of one shape, as what is kept of earlier calls is kept by shape.
    apart = [values(few[:1]), values(few[1:-1]), values(few[-1:])]
    if len({x.shape[2] for x in (first, together, *apart)}) > 1:
        raise ValueError(
            "decoder: its outputs have another size at other points. Return as many observations of each, whatever the "
            "other points are."
        )
    ahead, here, behind = together.chunk(3, dim=1)
    rounding = _rounding(ahead, here, behind)
    limit = max(1e3 * _eps(first), 30 * rounding)
    if _differ(first, torch.cat(apart, dim=1), limit) or _differ(first, here[:, ::every], limit):
        raise ValueError(
            "decoder: a point's values depend on the other points that it is called with, as where it normalises "
            "by its whole batch, or on those before. Normalise by constants; call .eval() on a model."
        )
    return rounding, -(-traced.numel // len(few))


class _Blocks(NamedTuple):
    """What the trial sees of maps along directions, in blocks of their outputs; (member, block, point) each."""

    agreement: Float[Tensor, "member block point"]  #: ⟨J v, D⟩ / ⟨D, D⟩, D the two-sided difference quotient
    decided: Bool[Tensor, "member block point"]  #: whether J v or D is above rounding


@final
class Trial:
    """Evaluations in which maps are tried, at the first points that they are asked for.

    They are to be functions of the point alone: the same when called twice, alone or with others; they leave their
    argument as it is. Their derivative is to be that of their values: J·δ against f(z + δ) − f(z − δ), δ about eps^⅓ of
    the points' scale, by the median over points of each member and block of outputs, which kinks do not move. Blocks
    in which both are below rounding are tried again, at the second, fourth, eighth … evaluation.

    Args:
        values: z (point, latent) -> (member, point, observation).
        derivative: (z, v) -> the same, and J v.
    """

    def __init__(
        self, values: Callable[[Tensor], Tensor], derivative: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> None:
        self._values = values
        self._derivative = derivative
        self._state: dict[str, Any] = {"evaluations": 0, "pending": None, "rounding": 0.0, "width": 0}

    @property
    def begun(self) -> bool:
        """Whether the maps were tried."""
        return self._state["evaluations"] > 0

    @property
    def rounding(self) -> float:
        """The relative error of a value, as measured; 0 before the trial."""
        return self._state["rounding"]

    @property
    def width(self) -> int:
        """Floats that the widest tensor on the way has for a point, as seen; 0 before the trial."""
        return self._state["width"]

    def __call__(self, z: Float[Tensor, "point latent"]) -> None:
        """Tries the maps, if it is time to.

        Raises:
            ValueError, TypeError: maps that are no differentiable functions of the point alone, in words.
        """
        state = self._state
        if is_wrapped(z) or not len(z) or state["evaluations"] > 64:
            return
        if state["evaluations"] and state["pending"] is None:
            return
        count = state["evaluations"] + 1
        if not count & (count - 1):  # a power of two
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                points, scale = _spread(z.detach())
                if count == 1:
                    state["rounding"], state["width"] = _tried_values(self._values, points, scale)
                self._try_derivative(points, scale)
        state["evaluations"] = count  # only now: what was refused is tried, and refused, again

    def _try_derivative(self, points: Float[Tensor, "point latent"], scale: float) -> None:
        state = self._state
        first = self._along_directions(points, scale, seed=0)
        enough = first.decided.sum(2) >= NUM_POINTS // 2
        wrong = _is_wrong(first) & enough
        if wrong.any():  # seen once more, at other directions, before it is said
            second = self._along_directions(points, scale, seed=1)
            wrong &= _is_wrong(second) & (second.decided.sum(2) >= NUM_POINTS // 2)
        if wrong.any():
            self._refuse(wrong, first.agreement.masked_fill(~first.decided, torch.nan).nanmedian(2).values)
        pending = ~enough if state["pending"] is None else state["pending"] & ~enough
        state["pending"] = pending if pending.any() else None
        if state["pending"] is not None:
            flat = pending & self._jumps(points)
            if flat.any():
                self._refuse(flat, torch.zeros_like(flat, dtype=torch.float32))

    def _along_directions(self, points: Float[Tensor, "point latent"], scale: float, seed: int) -> _Blocks:
        eps = torch.finfo(points.dtype).eps
        step = scale * eps ** (1 / 3) * _directions(points, seed)
        batch = torch.cat([points + step, points - step, points + step / 2, points - step / 2])
        ahead, behind, ahead_half, behind_half = self._values(batch).chunk(4, dim=1)
        moved, moved_half = (batch.chunk(4)[i] - batch.chunk(4)[i + 1] for i in (0, 2))
        _, pushed = self._derivative(points, moved / 2)
        # Richardson's extrapolation, exact for the chords that were really taken.
        length = moved.norm(dim=1) / moved_half.norm(dim=1).clamp_min(torch.finfo(moved.dtype).tiny)
        whole, half = (ahead - behind) / 2, (ahead_half - behind_half) / 2 * length[:, None]
        difference = (4 * half - whole) / 3
        size = _norms(torch.maximum(ahead.abs(), behind.abs()))
        noise = 20 * max(_eps(ahead), eps) * size
        larger = torch.maximum(_norms(pushed), _norms(difference))
        # Beside a leap half the step brings the same difference: a quotient twice as large.
        change = _norms(half - whole)
        unsteady = (change > torch.maximum(_norms(half), _norms(whole)) / 4) & (change > noise)
        decided = (larger > noise) & ~unsteady & larger.isfinite()
        product = sum_blocks(pushed * difference)
        agreement = product / sum_blocks(difference.square()).clamp_min(torch.finfo(product.dtype).tiny)
        return _Blocks(agreement.nan_to_num(0.0, 10.0, -10.0).clamp(-10, 10), decided)

    def _jumps(self, points: Float[Tensor, "point latent"]) -> Bool[Tensor, "member block"]:
        """Blocks whose derivative vanishes everywhere along long segments, but whose values change again and again."""
        ends = points[: len(points) // 4 * 2].view(2, -1, points.shape[1])
        times = ((torch.arange(NUM_NODES) + 0.5) / NUM_NODES).to(points)
        nodes = torch.lerp(ends[0][:, None], ends[1][:, None], times[:, None]).flatten(0, 1)
        along = (ends[1] - ends[0]).repeat_interleave(NUM_NODES, 0)
        value, pushed = self._derivative(nodes, along)
        eps = max(_eps(value), torch.finfo(points.dtype).eps)
        flat = _norms(pushed) <= 20 * eps * _norms(value)
        value = value.unflatten(1, (-1, NUM_NODES))
        size = _norms(value.abs().amax(2)).amax(2)
        change = _norms(value.diff(dim=2).flatten(1, 2)).unflatten(2, (-1, NUM_NODES - 1))
        # A decoder with a step or two is torn there, which is for the solution to say; a rounded one has many.
        steps = (change > 1e3 * eps * size[..., None, None]).sum(3)
        return flat.all(2) & (steps.amax(2) >= 4) & (steps.sum(2) >= 8)

    def _refuse(self, wrong: Bool[Tensor, "member block"], agreement: Float[Tensor, "member block"]) -> None:
        member, block = wrong.nonzero()[0].tolist()
        share = float(agreement[member, block])
        raise ValueError(
            f"decoder: its derivative does not belong to its values: in {int(wrong.sum())} of {wrong.numel()} blocks "
            f"of outputs, first of member {member}, J·δ is {share:.2f} of f(z + δ) − f(z − δ) in the median. It has "
            "something detached, rounded, or computed without gradients (detach, .data, no_grad, inference_mode, "
            "round, NumPy); compute it with differentiable operations throughout."
        )


def _differ(first: Tensor, second: Tensor, limit: float) -> bool:
    size = torch.maximum(first.abs(), second.abs()).nan_to_num(0.0, 0.0, 0.0).amax()
    return bool(((first - second).abs() > limit * size).any())


def _is_wrong(seen: _Blocks) -> Bool[Tensor, "member block"]:
    """Whether the median agreement is not 1, by far more than chance: six standard errors of a median, and a tenth."""
    agreement = seen.agreement.masked_fill(~seen.decided, torch.nan)
    median = agreement.nanmedian(2).values
    spread = 1.48 * (agreement - median[..., None]).abs().nanmedian(2).values
    error = 1.25 * spread / seen.decided.sum(2).clamp_min(1).sqrt()
    return (median - 1).abs() > torch.maximum(6 * error, torch.full_like(error, 0.1))


def sum_blocks(x: Float[Tensor, "member point observation"]) -> Float[Tensor, "member block point"]:
    """Sums over blocks of neighbouring outputs."""
    return torch.stack([part.sum(2) for part in x.tensor_split(min(NUM_BLOCKS, x.shape[2]), dim=2)], dim=1)


def _norms(x: Float[Tensor, "member point observation"]) -> Float[Tensor, "member block point"]:
    return sum_blocks(x.square()).sqrt()


def _eps(values: Tensor) -> float:
    return torch.finfo(values.dtype).eps


def _directions(points: Float[Tensor, "point latent"], seed: int) -> Float[Tensor, "point latent"]:
    """Unit vectors, from no random state but their own."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    return (found / found.norm(dim=1, keepdim=True)).to(points)


def _spread(z: Float[Tensor, "point latent"]) -> tuple[Float[Tensor, "tried latent"], float]:
    """Points to try at, evenly from those asked for, and their scale; where they are few, points beside them too."""
    z = z[z.isfinite().all(1)] if z.isfinite().any() else torch.zeros_like(z[:1])
    z = z if len(z) else torch.zeros(1, z.shape[1], dtype=z.dtype, device=z.device)
    size = float(z.abs().amax()) or 1.0
    scale = float(z.std(0).max()) if len(z) > 1 else size
    scale = max(scale, torch.finfo(z.dtype).eps ** (1 / 3) * size)
    index = torch.linspace(0, len(z) - 1, min(NUM_POINTS, len(z)), dtype=torch.float64).round().long()
    some = z[index.to(z.device)]
    copies = -(-NUM_POINTS // len(some))
    points = some.repeat(copies, 1)[:NUM_POINTS]
    beside = torch.arange(NUM_POINTS, device=z.device)[:, None] >= len(some)
    return points + beside * 0.1 * scale * _directions(points, seed=2), scale


def _rounding(ahead: Tensor, here: Tensor, behind: Tensor) -> float:
    """‖f(z + δ) − 2 f(z) + f(z − δ)‖ / 2‖f‖ at δ = 2√eps of the scale, where no curvature is seen: its 0.9 quantile."""
    size = here.norm(dim=2)
    error = (ahead - 2 * here + behind).norm(dim=2) / (2 * size.clamp_min(torch.finfo(size.dtype).tiny))
    error = error.amax(0)
    error = error[error.isfinite()]
    # Of coarse roundings most points see none, of steps in a decoder few points see one.
    return max(_eps(here), float(error.quantile(0.9))) if len(error) else _eps(here)
