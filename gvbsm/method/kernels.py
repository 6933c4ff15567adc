"""Triton kernels for the moments of feature maps on CUDA devices: a map is read once forward and once backward.

Forward, `map_sums` gives the sums of a teacher's maps from which all of their moments follow, and `linear` turns them into
means and mean squares. Both are custom operators with a gradient, so autograd, CUDA graphs and torch.compile treat them as they
treat torch's own. Without a GPU they run in Triton's interpreter (TRITON_INTERPRET=1, set before this module is imported).

Letters: B images, C channels, H x W positions, P = H W. N rows, M columns; M is also the number of all sums.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from gvbsm.method.reasons import first_line

# Which sums are wanted besides those of every channel: none; at each position x and x^2; and the products of neighbours.
CHANNELS, POSITIONS, NEIGHBOURS = 0, 2, 5  # their number at each position
_TILE = 1024  # values of an image that a program holds at once
_PROGRAMS = 2048  # at least, where there is work for so many: a dozen for each processor of a large GPU
_SUMS, _PARTS = 128, 32  # sums that a program adds up, and parts of each at once: a load waits for the one before


@cache
def can_be_launched() -> bool:
    """Whether Triton has what it needs to launch a kernel on this machine's GPU; warns if not.

    It builds its driver with a C compiler at the first launch: inside an iteration, where plain operations cannot step in.
    """
    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # Triton's, the compiler's or the loader's
        warnings.warn(f"without Triton's kernels, so slower: {first_line(error)}", stacklevel=2)
        return False
    return True


# Numbers on which no kernel is built anew; on others loads of several values at once depend.
_PLAIN = ["channels_at", "positions_at", "height", "width"]


@triton.jit(do_not_specialize=[*_PLAIN, "batch", "share"])
def _sums_kernel(
    x, parts, channels_at, positions_at, batch, share, channel_count, height, width, stride_b, stride_c, stride_h, stride_w,
    KINDS: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Sums of a tile of positions and one of channels over `share` images. The grid counts tiles of positions, tiles of
    channels, and shares. The parts: of channels (tiles x shares, 2, C), of positions (tiles of channels x shares, KINDS, P)."""
    tile, block, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = tile * TILE_P + tl.arange(0, TILE_P)
    channel = block * TILE_C + tl.arange(0, TILE_C)
    row, column = at // width, at % width
    inside, known = at < height * width, channel < channel_count
    there = inside[:, None] & known[None, :]
    first = x + row[:, None].to(tl.int64) * stride_h + column[:, None].to(tl.int64) * stride_w + channel[None, :] * stride_c
    sums = tl.zeros([TILE_P, TILE_C], tl.float32)
    squares, rights, downs, diagonals = sums, sums, sums, sums
    nothing = tl.zeros([1, 1], tl.int32)  # Triton's interpreter wants a mask made of tiles
    end = tl.minimum((part + 1) * share, batch)
    for start in range(part * share, end, AT_ONCE):
        for ahead in tl.static_range(AT_ONCE):  # their loads do not wait for one another
            image = start + ahead
            seen = there & (nothing < end - image)
            here = first + tl.cast(image, tl.int64) * stride_b
            value = tl.load(here, seen, 0.0).to(tl.float32)
            sums += value
            squares += value * value
            if KINDS == 5:
                has_right = seen & (column + 1 < width)[:, None]
                has_below = seen & (row + 1 < height)[:, None]
                beside = tl.load(here + stride_w, has_right, 0.0).to(tl.float32)
                below = tl.load(here + stride_h, has_below, 0.0).to(tl.float32)
                across = tl.load(here + stride_h + stride_w, has_right & has_below, 0.0).to(tl.float32)
                rights += value * beside
                downs += value * below
                diagonals += value * across + beside * below
    out = parts + channels_at + (part * tl.num_programs(0) + tile) * 2 * channel_count + channel
    tl.store(out, tl.sum(sums, 0), known)
    tl.store(out + channel_count, tl.sum(squares, 0), known)
    if KINDS > 0:
        count = height * width
        out = parts + positions_at + (part * tl.num_programs(1) + block) * KINDS * count + at
        tl.store(out, tl.sum(sums, 1), inside)
        tl.store(out + count, tl.sum(squares, 1), inside)
        if KINDS == 5:
            tl.store(out + 2 * count, tl.sum(rights, 1), inside)
            tl.store(out + 3 * count, tl.sum(downs, 1), inside)
            tl.store(out + 4 * count, tl.sum(diagonals, 1), inside)


@triton.jit
def _add_up_kernel(parts, table, out, TILE_M: tl.constexpr, TILE_K: tl.constexpr):
    """TILE_M sums or fewer from their parts, which lie `length` values apart, as a row of the table says (`places`)."""
    row = table + tl.program_id(0) * 5
    source, length, count = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    target, size = tl.load(row + 3), tl.load(row + 4)
    at = tl.arange(0, TILE_M)
    known = at < size
    total = tl.zeros([TILE_M], tl.float32)
    for done in range(0, count, TILE_K):
        part = done + tl.arange(0, TILE_K)
        there = (part < count)[:, None] & known[None, :]
        total += tl.sum(tl.load(parts + source + part[:, None] * length + at[None, :], there, 0.0), 0)
    tl.store(out + target + at, total, known)


@triton.jit(do_not_specialize=_PLAIN)
def _gradient_kernel(
    x, gradient, of_sums, channels_at, positions_at, channel_count, height, width, stride_b, stride_c, stride_h, stride_w,
    out_stride_b, out_stride_c, out_stride_h, out_stride_w, KINDS: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of positions and one of channels of one image, which the grid counts, from those of channels
    (2, C) and positions (KINDS, P)."""
    at = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P)
    channel = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    row, column = at // width, at % width
    count = height * width
    inside, known = at < count, channel < channel_count
    there = inside[:, None] & known[None, :]
    image = tl.program_id(2).to(tl.int64)
    rows_64, columns_64 = row[:, None].to(tl.int64), column[:, None].to(tl.int64)
    here = x + image * stride_b + rows_64 * stride_h + columns_64 * stride_w + channel[None, :] * stride_c
    out = gradient + image * out_stride_b + rows_64 * out_stride_h + columns_64 * out_stride_w
    value = tl.load(here, there, 0.0).to(tl.float32)
    of_sum = tl.load(of_sums + channels_at + channel, known, 0.0)[None, :]
    of_square = 2 * tl.load(of_sums + channels_at + channel_count + channel, known, 0.0)[None, :]
    positions = of_sums + positions_at
    if KINDS > 0:
        of_sum = of_sum + tl.load(positions + at, inside, 0.0)[:, None]
        of_square = of_square + 2 * tl.load(positions + count + at, inside, 0.0)[:, None]
    result = of_sum + of_square * value
    if KINDS == 5:
        # The weight of a product lies at its upper left position: of rights, downs, and both products of a square.
        has_left, has_right = inside & (column > 0), inside & (column + 1 < width)
        has_above, has_below = inside & (row > 0), inside & (row + 1 < height)
        rights, downs, squares = positions + 2 * count + at, positions + 3 * count + at, positions + 4 * count + at
        to_right, to_left = tl.load(rights, inside, 0.0), tl.load(rights - 1, has_left, 0.0)
        to_below, to_above = tl.load(downs, inside, 0.0), tl.load(downs - width, has_above, 0.0)
        to_below_right = tl.load(squares, inside, 0.0)
        to_below_left = tl.load(squares - 1, has_left, 0.0)
        to_above_right = tl.load(squares - width, has_above, 0.0)
        to_above_left = tl.load(squares - width - 1, has_left & has_above, 0.0)
        left, right, above, below = has_left[:, None], has_right[:, None], has_above[:, None], has_below[:, None]
        result += to_right[:, None] * tl.load(here + stride_w, there & right, 0.0).to(tl.float32)
        result += to_left[:, None] * tl.load(here - stride_w, there & left, 0.0).to(tl.float32)
        result += to_below[:, None] * tl.load(here + stride_h, there & below, 0.0).to(tl.float32)
        result += to_above[:, None] * tl.load(here - stride_h, there & above, 0.0).to(tl.float32)
        result += to_below_right[:, None] * tl.load(here + stride_h + stride_w, there & below & right, 0.0).to(tl.float32)
        result += to_below_left[:, None] * tl.load(here + stride_h - stride_w, there & below & left, 0.0).to(tl.float32)
        result += to_above_right[:, None] * tl.load(here - stride_h + stride_w, there & above & right, 0.0).to(tl.float32)
        result += to_above_left[:, None] * tl.load(here - stride_h - stride_w, there & above & left, 0.0).to(tl.float32)
    tl.store(out + channel[None, :] * out_stride_c, result.to(gradient.dtype.element_ty), there)


@triton.jit
def _linear_kernel(values, starts, columns, weights, out, rows, longest, TILE_N: tl.constexpr, TILE_M: tl.constexpr):
    """TILE_N rows of a sparse matrix times a vector, TILE_M entries of each at once."""
    row = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    known = row < rows
    begin, end = tl.load(starts + row, known, 0), tl.load(starts + row + 1, known, 0)
    total = tl.zeros([TILE_N], tl.float32)
    for done in range(0, longest, TILE_M):
        at = begin[:, None] + done + tl.arange(0, TILE_M)[None, :]
        there = at < end[:, None]
        column = tl.load(columns + at, there, 0)
        total += tl.sum(tl.load(weights + at, there, 0.0) * tl.load(values + column, there, 0.0), 1)
    tl.store(out + row, total, known)


class Tiling(NamedTuple):
    """How a map is split over programs."""

    tile_p: int  # positions and channels that a program holds at once, powers of two
    tile_c: int
    tiles: int  # of positions
    blocks: int  # tiles of channels
    share: int  # images of a program
    shares: int

    @staticmethod
    def of(shape: Sequence[int]) -> Tiling:
        batch, channels, height, width = shape
        tile_c = min(64, triton.next_power_of_2(channels))
        tile_p = min(_TILE // tile_c, triton.next_power_of_2(height * width))
        tiles, blocks = triton.cdiv(height * width, tile_p), triton.cdiv(channels, tile_c)
        share = triton.cdiv(batch, min(batch, triton.cdiv(_PROGRAMS, tiles * blocks)))
        return Tiling(tile_p, tile_c, tiles, blocks, share, triton.cdiv(batch, share))

    def parts(self, shape: Sequence[int], kinds: int) -> list[tuple[int, int]]:
        """Of the sums of channels, and of those of positions: how many there are, and of how many parts each."""
        _, channels, height, width = shape
        sums = (2 * channels, self.tiles * self.shares), (kinds * height * width, self.blocks * self.shares)
        return [(length, count) for length, count in sums if length]


def places(shapes: Sequence[Sequence[int]], kinds: Sequence[int], device: torch.device) -> Tensor:
    """For `map_sums`, where the parts of the sums of maps of these shapes lie: int64 (tiles of sums, 5), which are the first
    value of a tile's first part, values from a part to the next, parts, the tile's first sum, and its number of sums."""
    pairs = zip(shapes, kinds, strict=True)
    return _table([piece for shape, wanted in pairs for piece in Tiling.of(shape).parts(shape, wanted)], device)


def _table(pieces: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Of sums of which there are `length` each, one after another, in `count` parts."""
    rows, source, target = [], 0, 0
    for length, count in pieces:
        for at in range(0, length, _SUMS):
            rows.append((source + at, length, count, target + at, min(_SUMS, length - at)))
        source, target = source + length * count, target + length
    return torch.tensor(rows, device=device)


@torch.library.custom_op("gvbsm::map_sums", mutates_args=())
def map_sums(maps: list[Tensor], kinds: list[int], places_T5: Tensor) -> Tensor:
    """Sums (M,) over maps (B,C,H,W), float32, bfloat16 or float16 in any layout, in float32. Of each map, one after another:
    (2,C), x and x^2 of every channel; and (kinds,H,W), of all images and channels at every position: x, x^2; with `NEIGHBOURS`
    also x times its right neighbour, x times the one below, and both diagonal products of the square whose upper left corner
    the position is. `places_T5`: see `places`.
    """
    tilings = [Tiling.of(x_BCHW.shape) for x_BCHW in maps]
    pieces = [tiling.parts(x_BCHW.shape, wanted) for tiling, x_BCHW, wanted in zip(tilings, maps, kinds, strict=True)]
    parts = maps[0].new_empty(sum(length * count for of_map in pieces for length, count in of_map), dtype=torch.float32)
    start = 0
    for x_BCHW, wanted, tiling, of_map in zip(maps, kinds, tilings, pieces, strict=True):
        positions_at = start + of_map[0][0] * of_map[0][1]
        _sums_kernel[tiling.tiles, tiling.blocks, tiling.shares](
            x_BCHW, parts, start, positions_at, len(x_BCHW), tiling.share, *x_BCHW.shape[1:], *x_BCHW.stride(),
            wanted, tiling.tile_p, tiling.tile_c, 1 if wanted == NEIGHBOURS else 4,
        )  # fmt: skip
        start += sum(length * count for length, count in of_map)
    sums_M = parts.new_empty(sum(length for of_map in pieces for length, _ in of_map))
    _add_up_kernel[(len(places_T5),)](parts, places_T5, sums_M, _SUMS, _PARTS)
    return sums_M


@map_sums.register_fake
def _(maps: list[Tensor], kinds: list[int], places_T5: Tensor) -> Tensor:
    return maps[0].new_empty(sum(map(_count, maps, kinds)), dtype=torch.float32)


def _count(x_BCHW: Tensor, kinds: int) -> int:
    """The number of a map's sums."""
    _, channels, height, width = x_BCHW.shape
    return 2 * channels + kinds * height * width


@torch.library.custom_op("gvbsm::map_sums_gradient", mutates_args=())
def map_sums_gradient(maps: list[Tensor], of_sums_M: Tensor, kinds: list[int]) -> list[Tensor]:
    """The gradients of maps from those of their `map_sums`, each in its map's type and layout."""
    of_sums_M, start, gradients = of_sums_M.contiguous(), 0, []
    for x_BCHW, wanted in zip(maps, kinds, strict=True):
        gradient_BCHW, tiling = torch.empty_like(x_BCHW), Tiling.of(x_BCHW.shape)
        _gradient_kernel[tiling.tiles, tiling.blocks, len(x_BCHW)](
            x_BCHW, gradient_BCHW, of_sums_M, start, start + 2 * x_BCHW.shape[1], *x_BCHW.shape[1:], *x_BCHW.stride(),
            *gradient_BCHW.stride(), wanted, tiling.tile_p, tiling.tile_c,
        )  # fmt: skip
        gradients.append(gradient_BCHW)
        start += _count(x_BCHW, wanted)
    return gradients


@map_sums_gradient.register_fake
def _(maps: list[Tensor], of_sums_M: Tensor, kinds: list[int]) -> list[Tensor]:
    return [torch.empty_like(x_BCHW) for x_BCHW in maps]


def _save_maps(ctx: Any, inputs: tuple[list[Tensor], list[int], Tensor], output: Any) -> None:
    maps, ctx.kinds, _ = inputs
    ctx.save_for_backward(*maps)


def _maps_backward(ctx: Any, of_sums_M: Tensor) -> tuple[list[Tensor], None, None]:
    return map_sums_gradient(list(ctx.saved_tensors), of_sums_M, ctx.kinds), None, None


map_sums.register_autograd(_maps_backward, setup_context=_save_maps)


class AddedUp(torch.autograd.Function):
    """Sums (M,) from their parts, float32 (parts, sums) of each of several maps, one map after another.

    The gradient of each part is that of the sum, which all of its parts share.
    """

    @staticmethod
    def table(shapes: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        """What `apply` needs besides the parts, which have these shapes."""
        return _table([(length, count) for count, length in shapes], device)

    @staticmethod
    def forward(ctx: Any, table_T5: Tensor, *parts: Tensor) -> Tensor:
        ctx.shapes = [part.shape for part in parts]
        sums_M = table_T5.new_empty(sum(length for _, length in ctx.shapes), dtype=torch.float32)
        _add_up_kernel[(len(table_T5),)](torch.cat([part.flatten() for part in parts]), table_T5, sums_M, _SUMS, _PARTS)
        return sums_M

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_sums = gradients[0].split([length for _, length in ctx.shapes])
        return None, *(of_sum.expand(shape) for of_sum, shape in zip(of_sums, ctx.shapes, strict=True))


class Matrix(NamedTuple):
    """A sparse matrix, rows one after another (CSR), int32 and float32 on the device."""

    starts: Tensor  # (rows + 1,)
    columns: Tensor
    weights: Tensor
    longest: int  # entries of a row at most

    @staticmethod
    def of(rows: Tensor, columns: Tensor, weights: Tensor, count: int, device: torch.device) -> Matrix:
        """A matrix of `count` rows from its entries; entries at one place add up."""
        order, lengths = rows.argsort(stable=True), torch.bincount(rows, minlength=count)
        starts = F.pad(lengths.cumsum(0), (1, 0))
        entries = columns[order].int().to(device), weights[order].float().to(device)
        return Matrix(starts.int().to(device), *entries, int(lengths.max()))


@torch.library.custom_op("gvbsm::linear", mutates_args=())
def _linear(
    values_M: Tensor, starts: Tensor, columns: Tensor, weights: Tensor, longest: int,
    t_starts: Tensor, t_columns: Tensor, t_weights: Tensor, t_longest: int,
) -> Tensor:  # fmt: skip
    rows = len(starts) - 1
    out_N = values_M.new_empty(rows)
    # A patch has many pixels: its row has a program of its own. Of short rows a program has many.
    tile_m = min(256, triton.next_power_of_2(max(longest, 1)))
    tile_n = 256 // tile_m
    _linear_kernel[(triton.cdiv(rows, tile_n),)](
        values_M.contiguous(), starts, columns, weights, out_N, rows, longest, tile_n, tile_m
    )
    return out_N


@_linear.register_fake
def _(values_M: Tensor, starts: Tensor, *rest: Any) -> Tensor:
    return values_M.new_empty(len(starts) - 1)


def _save_matrices(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, starts, columns, weights, ctx.longest, t_starts, t_columns, t_weights, ctx.t_longest = inputs
    ctx.save_for_backward(starts, columns, weights, t_starts, t_columns, t_weights)


def _linear_backward(ctx: Any, of_out_N: Tensor) -> tuple[Tensor | None, ...]:
    starts, columns, weights, t_starts, t_columns, t_weights = ctx.saved_tensors
    matrices = (t_starts, t_columns, t_weights, ctx.t_longest, starts, columns, weights, ctx.longest)
    return _linear(of_out_N, *matrices), *[None] * 8


_linear.register_autograd(_linear_backward, setup_context=_save_matrices)


def linear(values_M: Tensor, matrix_NM: Matrix, transposed_MN: Matrix) -> Tensor:
    """A matrix times a vector: float32 (N,). Differentiable in the vector, for which the transpose is needed."""
    return _linear(values_M, *matrix_NM, *transposed_MN)
