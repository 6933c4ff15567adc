"""Triton kernels for the BatchNorm layers of a frozen network on CUDA devices: each reads its map once forward, which gives the
layer's output and the sums of its input, and once backward, with the gradients of both.

torch's own batch_norm takes three launches, two of them for a few numbers, and the moments of its input would be read and
their gradient written and added in passes of their own.

Letters: B images, C channels, H x W positions.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gvbsm.method.kernels import Tiling

_AT_ONCE = 4  # images whose loads do not wait for one another
_PLAIN = ["batch", "share", "height", "width"]  # numbers on which no kernel is built anew


@triton.jit(do_not_specialize=_PLAIN)
def _norm_kernel(
    x, out, parts, mean, var, weight, bias, eps, batch, share, channel_count, height, width, stride_b, stride_c, stride_h,
    stride_w, out_stride_b, out_stride_c, out_stride_h, out_stride_w, SCALES: tl.constexpr, SHIFTS: tl.constexpr,
    SUMS: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """A tile of positions and one of channels of `share` images, normalised.

    With SCALES times `weight`, with SHIFTS plus `bias`; with SUMS also the sums of x and x^2 of these channels. The grid counts
    tiles of positions, tiles of channels, and shares."""
    tile, part = tl.program_id(0), tl.program_id(2)
    at = tile * TILE_P + tl.arange(0, TILE_P)
    channel = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    row, column = at // width, at % width
    inside, known = at < height * width, channel < channel_count
    there = inside[:, None] & known[None, :]
    rows_64, columns_64 = row[:, None].to(tl.int64), column[:, None].to(tl.int64)
    source = x + rows_64 * stride_h + columns_64 * stride_w + channel[None, :] * stride_c
    target = out + rows_64 * out_stride_h + columns_64 * out_stride_w + channel[None, :] * out_stride_c
    moved = tl.load(mean + channel, known, 0.0).to(tl.float32)
    factor = tl.rsqrt(tl.load(var + channel, known, 1.0).to(tl.float32) + eps)
    added = tl.zeros([TILE_C], tl.float32)
    if SCALES:
        factor = factor * tl.load(weight + channel, known, 0.0).to(tl.float32)
    if SHIFTS:
        added = tl.load(bias + channel, known, 0.0).to(tl.float32)
    sums = tl.zeros([TILE_P, TILE_C], tl.float32)
    squares = sums
    nothing = tl.zeros([1, 1], tl.int32)  # Triton's interpreter wants a mask made of tiles
    end = tl.minimum((part + 1) * share, batch)
    for start in range(part * share, end, AT_ONCE):
        for ahead in tl.static_range(AT_ONCE):
            image = start + ahead
            seen, image_64 = there & (nothing < end - image), tl.cast(image, tl.int64)
            value = tl.load(source + image_64 * stride_b, seen, 0.0).to(tl.float32)
            if SUMS:
                sums += value
                squares += value * value
            value = (value - moved[None, :]) * factor[None, :] + added[None, :]
            tl.store(target + image_64 * out_stride_b, value.to(out.dtype.element_ty), seen)
    if SUMS:
        place = parts + (part * tl.num_programs(0) + tile) * 2 * channel_count + channel
        tl.store(place, tl.sum(sums, 0), known)
        tl.store(place + channel_count, tl.sum(squares, 0), known)


@triton.jit(do_not_specialize=_PLAIN)
def _norm_gradient_kernel(
    of_y, x, out, of_sums, var, weight, eps, batch, share, channel_count, height, width, stride_b, stride_c, stride_h, stride_w,
    x_stride_b, x_stride_c, x_stride_h, x_stride_w, out_stride_b, out_stride_c, out_stride_h, out_stride_w,
    SCALES: tl.constexpr, SUMS: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """The gradient of such a tile from that of the output; with SUMS also from those of the sums (2, C)."""
    at = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P)
    channel = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    row, column = at // width, at % width
    inside, known = at < height * width, channel < channel_count
    there = inside[:, None] & known[None, :]
    rows_64, columns_64 = row[:, None].to(tl.int64), column[:, None].to(tl.int64)
    source = of_y + rows_64 * stride_h + columns_64 * stride_w + channel[None, :] * stride_c
    seen_x = x + rows_64 * x_stride_h + columns_64 * x_stride_w + channel[None, :] * x_stride_c
    target = out + rows_64 * out_stride_h + columns_64 * out_stride_w + channel[None, :] * out_stride_c
    factor = tl.rsqrt(tl.load(var + channel, known, 1.0).to(tl.float32) + eps)
    if SCALES:
        factor = factor * tl.load(weight + channel, known, 0.0).to(tl.float32)
    of_sum, of_square = tl.zeros([TILE_C], tl.float32), tl.zeros([TILE_C], tl.float32)
    if SUMS:
        of_sum = tl.load(of_sums + channel, known, 0.0)
        of_square = 2 * tl.load(of_sums + channel_count + channel, known, 0.0)
    nothing = tl.zeros([1, 1], tl.int32)
    first = tl.program_id(2) * share
    end = tl.minimum(first + share, batch)
    for start in range(first, end, AT_ONCE):
        for ahead in tl.static_range(AT_ONCE):
            image = start + ahead
            seen, image_64 = there & (nothing < end - image), tl.cast(image, tl.int64)
            value = tl.load(source + image_64 * stride_b, seen, 0.0).to(tl.float32) * factor[None, :]
            if SUMS:
                own = tl.load(seen_x + image_64 * x_stride_b, seen, 0.0).to(tl.float32)
                value += of_sum[None, :] + of_square[None, :] * own
            tl.store(target + image_64 * out_stride_b, value.to(out.dtype.element_ty), seen)


def norm(
    x_BCHW: Tensor, mean_C: Tensor, var_C: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float, sums: bool
) -> tuple[Tensor, Tensor]:
    """weight (x - mean) / sqrt(var + eps) + bias of every channel, in the type and layout of x; and, with `sums`, the parts
    (parts, 2 C), float32, of the sums of x and of x^2 over images and positions, else (0, 2 C)."""
    tiling, out_BCHW = Tiling.of(x_BCHW.shape), torch.empty_like(x_BCHW)
    count = tiling.tiles * tiling.shares if sums else 0
    parts = x_BCHW.new_empty(count, 2 * x_BCHW.shape[1], dtype=torch.float32)
    _norm_kernel[tiling.tiles, tiling.blocks, tiling.shares](
        x_BCHW, out_BCHW, parts if sums else var_C, mean_C, var_C, var_C if weight_C is None else weight_C,
        var_C if bias_C is None else bias_C, eps, len(x_BCHW), tiling.share, *x_BCHW.shape[1:], *x_BCHW.stride(),
        *out_BCHW.stride(), weight_C is not None, bias_C is not None, sums, tiling.tile_p, tiling.tile_c, _AT_ONCE,
    )  # fmt: skip
    return out_BCHW, parts


def norm_gradient(
    of_y_BCHW: Tensor, x_BCHW: Tensor | None, of_sums_M: Tensor | None, var_C: Tensor, weight_C: Tensor | None, eps: float
) -> Tensor:
    """The gradient of x from that of the output and, unless they are None, from those of the sums, (2 C,)."""
    tiling = Tiling.of(of_y_BCHW.shape)
    other_BCHW = of_y_BCHW if x_BCHW is None else x_BCHW
    gradient_BCHW = torch.empty_like(other_BCHW)
    _norm_gradient_kernel[tiling.tiles, tiling.blocks, tiling.shares](
        of_y_BCHW, other_BCHW, gradient_BCHW, var_C if of_sums_M is None else of_sums_M.contiguous(), var_C,
        var_C if weight_C is None else weight_C, eps, len(of_y_BCHW), tiling.share, *of_y_BCHW.shape[1:],
        *of_y_BCHW.stride(), *other_BCHW.stride(), *gradient_BCHW.stride(), weight_C is not None, of_sums_M is not None,
        tiling.tile_p, tiling.tile_c, _AT_ONCE,
    )  # fmt: skip
    return gradient_BCHW


class FrozenNorm(torch.autograd.Function):
    """`norm` with the gradient of its input, whose sums are those of every channel that `kernels.map_sums` gives."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BCHW: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        weight_C: Tensor | None,
        bias_C: Tensor | None,
        eps: float,
        sums: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x_BCHW if sums else None, var_C, weight_C)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return norm(x_BCHW, mean_C, var_C, weight_C, bias_C, eps, sums)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x_BCHW, var_C, weight_C = ctx.saved_tensors
        of_y_BCHW, of_parts = gradients
        if of_y_BCHW is None:  # nothing but the sums is used
            if of_parts is None:
                return (None,) * 7
            of_y_BCHW = torch.zeros_like(x_BCHW)
        # All parts of a sum have its gradient.
        of_sums_M = None if of_parts is None or not len(of_parts) else of_parts[0]
        return norm_gradient(of_y_BCHW, x_BCHW, of_sums_M, var_C, weight_C, ctx.eps), *[None] * 6
