"""Triton kernels for the moments of feature maps on CUDA devices: a map is read once forward and once backward.

Forward, `map_sums` gives the sums of a map from which all of its moments follow, and `linear` turns the sums of all maps of a
teacher into means and mean squares. Both are custom operators with a gradient, so autograd, CUDA graphs and torch.compile treat
them as they treat torch's own. Without a GPU they run in Triton's interpreter (TRITON_INTERPRET=1, set before this module is
imported).

Letters: B images, C channels, H x W positions, P = H W. N rows, M columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

# Which sums are wanted besides those of every channel: none; at each position x and x^2; and the products of neighbours.
CHANNELS, POSITIONS, NEIGHBOURS = 0, 2, 5  # their number at each position
_TILE = 1024  # values of an image that a program holds at once
_PROGRAMS = 512  # at least, where there is work for so many: a few for each processor of a large GPU


@triton.jit
def _sums_kernel(
    x, channels, positions, batch, share, channel_count, height, width, stride_b, stride_c, stride_h, stride_w,
    KINDS: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """Sums of a tile of positions over `share` images: channels (tiles x shares, 2, C), positions (shares, KINDS, P)."""
    tile, part = tl.program_id(0), tl.program_id(1)
    at = tile * TILE_P + tl.arange(0, TILE_P)
    row, column = at // width, at % width
    inside = at < height * width
    first = x + row[:, None].to(tl.int64) * stride_h + column[:, None].to(tl.int64) * stride_w
    begin, end = part * share, tl.minimum((part + 1) * share, batch)
    total = tl.zeros([TILE_P], tl.float32)
    own, right, down, diagonal = total, total, total, total
    for start in range(0, channel_count, TILE_C):
        channel = start + tl.arange(0, TILE_C)
        there = inside[:, None] & (channel < channel_count)[None, :]
        sums = tl.zeros([TILE_P, TILE_C], tl.float32)
        squares, rights, downs, diagonals = sums, sums, sums, sums
        for image in range(begin, end):
            here = first + tl.cast(image, tl.int64) * stride_b + channel[None, :] * stride_c
            value = tl.load(here, there, 0.0).to(tl.float32)
            sums += value
            squares += value * value
            if KINDS == 5:
                has_right = there & (column + 1 < width)[:, None]
                has_below = there & (row + 1 < height)[:, None]
                beside = tl.load(here + stride_w, has_right, 0.0).to(tl.float32)
                below = tl.load(here + stride_h, has_below, 0.0).to(tl.float32)
                across = tl.load(here + stride_h + stride_w, has_right & has_below, 0.0).to(tl.float32)
                rights += value * beside
                downs += value * below
                diagonals += value * across + beside * below
        out = channels + (part * tl.num_programs(0) + tile) * 2 * channel_count + channel
        tl.store(out, tl.sum(sums, 0), channel < channel_count)
        tl.store(out + channel_count, tl.sum(squares, 0), channel < channel_count)
        if KINDS > 0:
            total += tl.sum(sums, 1)
            own += tl.sum(squares, 1)
        if KINDS == 5:
            right += tl.sum(rights, 1)
            down += tl.sum(downs, 1)
            diagonal += tl.sum(diagonals, 1)
    if KINDS > 0:
        count = height * width
        out = positions + part * KINDS * count + at
        tl.store(out, total, inside)
        tl.store(out + count, own, inside)
        if KINDS == 5:
            tl.store(out + 2 * count, right, inside)
            tl.store(out + 3 * count, down, inside)
            tl.store(out + 4 * count, diagonal, inside)


@triton.jit
def _gradient_kernel(
    x, gradient, channels, positions, channel_count, height, width, stride_b, stride_c, stride_h, stride_w,
    out_stride_b, out_stride_c, out_stride_h, out_stride_w, KINDS: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of positions of one image, from those of channels (2, C) and positions (KINDS, P)."""
    at = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P)
    row, column = at // width, at % width
    count = height * width
    inside = at < count
    image = tl.program_id(1).to(tl.int64)
    rows_64, columns_64 = row[:, None].to(tl.int64), column[:, None].to(tl.int64)
    first = x + image * stride_b + rows_64 * stride_h + columns_64 * stride_w
    first_out = gradient + image * out_stride_b + rows_64 * out_stride_h + columns_64 * out_stride_w
    if KINDS > 0:
        total = tl.load(positions + at, inside, 0.0)
        own = 2 * tl.load(positions + count + at, inside, 0.0)
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
    for start in range(0, channel_count, TILE_C):
        channel = start + tl.arange(0, TILE_C)
        known = channel < channel_count
        there = inside[:, None] & known[None, :]
        here = first + channel[None, :] * stride_c
        value = tl.load(here, there, 0.0).to(tl.float32)
        of_sum = tl.load(channels + channel, known, 0.0)[None, :]
        of_square = 2 * tl.load(channels + channel_count + channel, known, 0.0)[None, :]
        if KINDS > 0:
            of_sum = of_sum + total[:, None]
            of_square = of_square + own[:, None]
        result = of_sum + of_square * value
        if KINDS == 5:
            left, right, above, below = has_left[:, None], has_right[:, None], has_above[:, None], has_below[:, None]
            result += to_right[:, None] * tl.load(here + stride_w, there & right, 0.0).to(tl.float32)
            result += to_left[:, None] * tl.load(here - stride_w, there & left, 0.0).to(tl.float32)
            result += to_below[:, None] * tl.load(here + stride_h, there & below, 0.0).to(tl.float32)
            result += to_above[:, None] * tl.load(here - stride_h, there & above, 0.0).to(tl.float32)
            result += to_below_right[:, None] * tl.load(here + stride_h + stride_w, there & below & right, 0.0).to(tl.float32)
            result += to_below_left[:, None] * tl.load(here + stride_h - stride_w, there & below & left, 0.0).to(tl.float32)
            result += to_above_right[:, None] * tl.load(here - stride_h + stride_w, there & above & right, 0.0).to(tl.float32)
            result += to_above_left[:, None] * tl.load(here - stride_h - stride_w, there & above & left, 0.0).to(tl.float32)
        tl.store(first_out + channel[None, :] * out_stride_c, result.to(gradient.dtype.element_ty), there)


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


@torch.library.custom_op("gvbsm::map_sums", mutates_args=())
def map_sums(x_BCHW: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    """Sums over a map (float32, bfloat16 or float16, any layout), in float32: (2,C), x and x^2 of every channel; and
    (kinds,H,W), of all images and channels at every position: x, x^2; with `NEIGHBOURS` also x times its right neighbour, x
    times the one below, and both diagonal products of the square whose upper left corner the position is.
    """
    batch, channels, height, width = x_BCHW.shape
    tile_p, tile_c = _tiles(channels, height * width)
    tiles = triton.cdiv(height * width, tile_p)
    share = triton.cdiv(batch, min(batch, triton.cdiv(_PROGRAMS, tiles)))
    shares = triton.cdiv(batch, share)
    by_channel = x_BCHW.new_empty(shares * tiles, 2, channels, dtype=torch.float32)
    by_position = x_BCHW.new_empty(shares, kinds, height, width, dtype=torch.float32)
    _sums_kernel[tiles, shares](
        x_BCHW, by_channel, by_position, batch, share, channels, height, width, *x_BCHW.stride(), kinds, tile_p, tile_c
    )
    return by_channel.sum(0), by_position.sum(0)


@map_sums.register_fake
def _(x_BCHW: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    _, channels, height, width = x_BCHW.shape
    return (
        x_BCHW.new_empty(2, channels, dtype=torch.float32),
        x_BCHW.new_empty(kinds, height, width, dtype=torch.float32),
    )


@torch.library.custom_op("gvbsm::map_sums_gradient", mutates_args=())
def map_sums_gradient(x_BCHW: Tensor, of_channels_2C: Tensor, of_positions_KHW: Tensor, kinds: int) -> Tensor:
    """The gradient (B,C,H,W) of a map from those of its `map_sums`, in the map's type and layout."""
    _, channels, height, width = x_BCHW.shape
    gradient_BCHW = torch.empty_like(x_BCHW)
    tile_p, tile_c = _tiles(channels, height * width)
    _gradient_kernel[triton.cdiv(height * width, tile_p), len(x_BCHW)](
        x_BCHW, gradient_BCHW, of_channels_2C.contiguous(), of_positions_KHW.contiguous(), channels, height, width,
        *x_BCHW.stride(), *gradient_BCHW.stride(), kinds, tile_p, tile_c,
    )  # fmt: skip
    return gradient_BCHW


@map_sums_gradient.register_fake
def _(x_BCHW: Tensor, of_channels_2C: Tensor, of_positions_KHW: Tensor, kinds: int) -> Tensor:
    return torch.empty_like(x_BCHW)


def _save_map(ctx: Any, inputs: tuple[Tensor, int], output: Any) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.kinds = inputs[1]


def _map_backward(ctx: Any, of_channels_2C: Tensor, of_positions_KHW: Tensor) -> tuple[Tensor, None]:
    (x_BCHW,) = ctx.saved_tensors
    return map_sums_gradient(x_BCHW, of_channels_2C, of_positions_KHW, ctx.kinds), None


map_sums.register_autograd(_map_backward, setup_context=_save_map)


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


def _tiles(channels: int, positions: int) -> tuple[int, int]:
    """Positions and channels that a program holds at once, powers of two."""
    tile_c = min(64, triton.next_power_of_2(channels))
    return min(_TILE // tile_c, triton.next_power_of_2(positions)), tile_c
