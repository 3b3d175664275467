"""Sums along paths, evaluated chunk by chunk under a memory budget, and the Gauss–Newton blocks made of them."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probgeo.geometry.immersions import is_wrapped, plainly
from probgeo.geometry.jacobians import Maps
from probgeo.geometry.metrics.memory import chunk_points
from probgeo.geometry.metrics.metric import FROZEN_SHARE, Linearization


def chunk_size(maps: Maps, points: Float[Tensor, "*batch latent"], memory: int | None, order: int) -> int:
    """How many points' values (order 1) or jets (order 1 + latent) fit the memory budget."""
    points = points.reshape(-1, points.shape[-1])
    return chunk_points(points, memory, order * maps.num_floats(points), fused=maps.fused)


def point_chunks(
    maps: Maps, points: Float[Tensor, "point latent"], memory: int | None, order: int
) -> tuple[Tensor, ...]:
    """The points in chunks that fit the memory budget."""
    return points.split(chunk_size(maps, points, memory, order))


def over_chunks(
    pieces: Callable[[Tensor], tuple[Tensor, ...]],
    path: Float[Tensor, "batch node latent"],
    size: int,
    reach: int = 1,
) -> tuple[Tensor, ...]:
    """`pieces` of the points of all paths, each (batch, node, …), evaluated chunk by chunk.

    All nodes of all paths form one sequence, in chunks that overlap by `reach` points; a piece has one entry per point,
    or one per pair of points up to so far apart (then the last entries of each path, which link it to the next path,
    mean nothing).

    Args:
        pieces: of some points.
        path: nodes, with whatever else belongs to each.
        size: points of a chunk.
        reach: how far apart points may be of which a piece is.
    """
    if not len(path):  # of no paths there is nothing, whatever it is
        nothing = pieces(path.new_zeros(1 + reach, path.shape[2]))
        return tuple(piece[:0].unflatten(0, (0, path.shape[1])) for piece in nothing)
    points = path.flatten(0, 1)
    size = max(1 + reach, size)
    shape, starts = path.shape[:2], range(0, len(points) - reach, size - reach)
    if is_wrapped(path) or path.requires_grad:  # neither likes what is written in place
        found = [pieces(points[start : start + size]) for start in starts]
        cut = [tuple(piece[: size - reach] for piece in chunk) for chunk in found[:-1]]
        joined = (torch.cat(parts) for parts in zip(*cut, found[-1], strict=True))
        return tuple(_padded(piece, len(points)).unflatten(0, shape) for piece in joined)
    whole: list[Tensor] = []
    for start in starts:
        chunk = pieces(points[start : start + size])
        # All in one place from the first chunk on: small pieces kept between the large tensors of one chunk and of the
        # next leave holes that none fits in, and the memory of some hundred chunks is taken.
        whole = whole or [piece.new_zeros(len(points), *piece.shape[1:]) for piece in chunk]
        for total, piece in zip(whole, chunk, strict=True):
            total[start : start + len(piece)] = piece
    return tuple(total.unflatten(0, shape) for total in whole)


def _padded(piece: Tensor, length: int) -> Tensor:
    missing = length - len(piece)
    return torch.cat([piece, piece.new_zeros(missing, *piece.shape[1:])]) if missing else piece


def grams(jets: Float[Tensor, "point order observation"]) -> tuple[Tensor, Tensor]:
    """Gram matrices of Y_i = [r_i; J_iᵀ] with itself and with Y_{i+1}; the last point's first row means nothing."""
    rows = jets.contiguous()
    rows[:-1, 0] = rows[1:, 0] - rows[:-1, 0]
    return rows @ rows.mT, rows[:-1] @ rows[1:].mT


def from_grams(
    own: Float[Tensor, "batch node order order"], link: Float[Tensor, "batch node order order"]
) -> Linearization:
    """The linearisation of E = ½ N Σ ‖r_i‖² from `grams` of every node and of neighbours."""
    segments = own.shape[1] - 1
    tensors = own[..., 1:, 1:]
    starts, turned, stops = tensors[:, :-1], link[:, :segments, 1:, 1:], tensors[:, 1:]
    between = (stops + starts) / 2
    frozen = between[:, 1:] + between[:, :-1]
    return Linearization(
        segments / 2 * own[:, :-1, 0, 0].sum(1),
        own[:, :-1, 0, 0].sqrt(),
        segments * (link[:, : segments - 1, 0, 1:] - own[:, 1:-1, 0, 1:]),
        segments * torch.lerp(2 * tensors[:, 1:-1], frozen, FROZEN_SHARE),
        -segments * torch.lerp(turned[:, 1:-1], between[:, 1:-1], FROZEN_SHARE),
        torch.cat([torch.cat([starts, -turned], dim=3), torch.cat([-turned.mT, stops], dim=3)], dim=2),
    )


def chord_residuals(maps: Maps, points: Float[Tensor, "point latent"]) -> Float[Tensor, "segment residual"]:
    """f_s(z_{i+1}) − f_s(z_i), over √S, of all maps side by side."""
    return maps.values(points).flatten(1).diff(dim=0) / maps.num_maps**0.5


def squared_chords(
    maps: Maps, path: Float[Tensor, "batch node latent"], memory: int | None
) -> Float[Tensor, "batch segment"]:
    """The maps' mean of ‖f_s(z_{i+1}) − f_s(z_i)‖²."""

    def pieces(points: Tensor) -> tuple[Tensor]:
        return (maps.values(points).diff(dim=0).square().sum((1, 2)),)

    (squares,) = over_chunks(pieces, path, chunk_size(maps, path, memory, 1))
    return squares[:, :-1] / maps.num_maps


def cut_chords(
    maps: Maps, finer: Float[Tensor, "batch finer latent"], memory: int | None
) -> tuple[Float[Tensor, "batch segment"], Float[Tensor, "batch segment 2"]]:
    """Squared chords of segments that every other node cuts in two, and of their parts."""

    def pieces(points: Tensor) -> tuple[Tensor, Tensor]:
        values = maps.values(points)
        return tuple((values[step:] - values[:-step]).square().sum((1, 2)) / maps.num_maps for step in (2, 1))  # type: ignore[return-value]

    whole, parts = over_chunks(pieces, finer, chunk_size(maps, finer, memory, 1), reach=2)
    return whole[:, :-1:2], parts[:, :-1].unflatten(1, (-1, 2))


def rounding_lengths(maps: Maps, points: Float[Tensor, "point latent"], memory: int | None) -> Float[Tensor, " point"]:
    """10·eps·‖f‖, eps as measured where the maps compute in less than the points' dtype; at least 10·eps·‖Jz‖."""
    rounding, eps = maps.rounding(points), torch.finfo(points.dtype).eps

    def lengths() -> Iterator[Tensor]:
        for chunk in point_chunks(maps, points, memory, 2):
            sizes = [x.square().sum((0, 2)).div(maps.num_maps).sqrt() for x in maps.pushed(chunk, chunk)]
            yield 10 * torch.maximum(rounding * sizes[0], eps * sizes[1])

    return torch.cat(list(lengths()))


def pullback_linearization(maps: Maps, path: Float[Tensor, "batch node latent"], memory: int | None) -> Linearization:
    """E, gradient and Gauss–Newton blocks of the maps' mean energy."""

    def pieces(points: Tensor) -> tuple[Tensor, Tensor]:
        return grams(maps.jets(points).flatten(2))

    own, link = over_chunks(pieces, path, chunk_size(maps, path, memory, 1 + path.shape[2]))
    return from_grams(own / maps.num_maps, link / maps.num_maps)


def pullback_tensor(
    maps: Maps, z: Float[Tensor, "*batch latent"], memory: int | None
) -> Float[Tensor, "*batch latent latent"]:
    """The maps' mean of J_sᵀJ_s."""
    points = z.flatten(0, -2) if z.ndim > 1 else z[None]

    def tensors() -> Iterator[Tensor]:
        for chunk in point_chunks(maps, points, memory, 1 + z.shape[-1]):
            jacobian = maps.jets(chunk)[:, 1:].flatten(2)
            yield jacobian @ jacobian.mT / maps.num_maps

    with plainly(z):
        return torch.cat(list(tensors())).reshape(*z.shape, z.shape[-1])


def chord_lengths(
    maps: Maps, nodes: Float[Tensor, "node latent"], edges: Int[Tensor, "edge 2"], memory: int | None
) -> Float[Tensor, " edge"]:
    """(mean_s ‖f_s(y) − f_s(z)‖²)^½ of every edge."""
    first, *others = point_chunks(maps, nodes, memory, 1)
    some = maps.values(first)
    # Tens of megabytes: written to one place they are not held twice.
    values = some.new_empty(len(nodes), *some.shape[1:])
    values[: len(first)] = some
    for begin, chunk in zip(range(len(first), len(nodes), len(first)), others, strict=True):
        values[begin : begin + len(chunk)] = maps.values(chunk)
    values = values.flatten(1)
    size = chunk_points(nodes, memory, values.shape[1], fused=True)  # what is done with values is
    pairs = (some.unbind(1) for some in edges.split(size))
    # Gathered into a tensor that the difference is then written to: half the time of values[first] − values[second].
    lengths = [
        torch.linalg.vector_norm(values.index_select(0, first).sub_(values.index_select(0, second)), dim=1)
        for first, second in pairs
    ]
    return torch.cat(lengths) / maps.num_maps**0.5
