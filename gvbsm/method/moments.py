"""Channel and patch moments of a feature map, and their targets over a training set.

Every moment follows from two maps (C,H,W): the sums of x and x^2 over the batch. So all four statistics read a tensor once
in the forward pass and once in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Moments = dict[str, Tensor]  # channel_mean (C,), channel_var (C,), patch_mean (P,), patch_var (P,)
KINDS = ("channel", "patch")  # of moments of a Conv layer's input; every kind has a mean and a variance
# Values of an image's map from which a CPU adds up map by map: the sums stay in its cache, and each map is read once. On one
# core that takes 1/2 (16 x 16 x 64) to 1/7 (112 x 112 x 32) of the time; below, calls cost more than they save.
_MAP_BY_MAP = 2**13


class _BatchSums(torch.autograd.Function):
    """(B,C,H,W) -> sum over the batch of x and of x^2, each (C,H,W), in at least float32."""

    @staticmethod
    def forward(ctx, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ctx.save_for_backward(x_BCHW)
        if not _is_channels_last(x_BCHW):
            return _sums(x_BCHW)
        # In the order of memory; over the strided view the CPU is 20 times slower.
        total_HWC, square_HWC = _sums(x_BCHW.permute(0, 2, 3, 1))
        return total_HWC.permute(2, 0, 1), square_HWC.permute(2, 0, 1)

    @staticmethod
    def backward(ctx, grad_sum_CHW: Tensor, grad_square_CHW: Tensor) -> Tensor:  # type: ignore[override]
        (x_BCHW,) = ctx.saved_tensors
        if _is_channels_last(x_BCHW):
            # In the map's own layout: after a gradient in another one, every step of the backward pass is slower.
            grad_sum_CHW, grad_square_CHW = (_laid_out_last(grad) for grad in (grad_sum_CHW, grad_square_CHW))
        return torch.addcmul(grad_sum_CHW, x_BCHW, grad_square_CHW, value=2).to(x_BCHW.dtype)


def _sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """`_plain_sums`, in the way that is fastest on the device."""
    if x.device.type != "cpu" or x[0].numel() < _MAP_BY_MAP:
        return _plain_sums(x)
    wide = torch.promote_types(x.dtype, torch.float32)
    total, square = (torch.zeros(x.shape[1:], dtype=wide) for _ in range(2))
    for map_of_image in x:
        values = map_of_image.to(wide)
        total.add_(values)
        square.addcmul_(values, values)
    return total, square


def _plain_sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the first dimension of x and of x^2, in at least float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide.sum(0), wide.square().sum(0)


def _is_channels_last(x_BCHW: Tensor) -> bool:
    return x_BCHW.is_contiguous(memory_format=torch.channels_last) and not x_BCHW.is_contiguous()


def _laid_out_last(map_CHW: Tensor) -> Tensor:
    """The same values with the channels of a pixel side by side in memory."""
    return map_CHW.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def batch_sums(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the batch of x and x^2, each (C,H,W); half precision is accumulated in float32. Differentiable once."""
    if torch.compiler.is_compiling():  # it makes one pass of these by itself, and caches no function of autograd
        return _plain_sums(x_BCHW)
    return _BatchSums.apply(x_BCHW)


def channel_moments(sums: tuple[Tensor, Tensor], batch: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (B,H,W), from the `batch_sums`: two tensors (C,)."""
    count = batch * sums[0].shape[1] * sums[0].shape[2]
    return _mean_var(sums[0].sum((1, 2)), sums[1].sum((1, 2)), count)


def class_moments(x_BCHW: Tensor, members_KB: Tensor) -> tuple[Tensor, Tensor]:
    """Channel mean and biased variance over the images of each class alone: two tensors (K,C).

    `members_KB` is 1 where the image is of the class, else 0; no class is empty.
    """
    wide = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
    count_K1 = members_KB.sum(1, keepdim=True) * wide.shape[2] * wide.shape[3]
    with torch.autocast(x_BCHW.device.type, enabled=False):  # E[x^2] - E[x]^2 cancels in half precision
        sums = [members_KB.to(wide.dtype) @ values.sum((2, 3)) for values in (wide, wide.square())]
    mean_KC = sums[0] / count_K1
    return mean_KC, sums[1] / count_K1 - mean_KC.square()


def patch_moments(sums: tuple[Tensor, Tensor], batch: int, patch: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (B, C, pixels of a patch): two tensors (H/p * W/p,), row-major.

    `sums` come from a map whose height and width are multiples of `patch` (see `resize_to_patches`).
    """
    channels, height, width = sums[0].shape
    count = batch * channels * patch * patch

    def per_patch(map_CHW: Tensor) -> Tensor:
        return map_CHW.sum(0).view(height // patch, patch, width // patch, patch).sum((1, 3)).flatten()

    return _mean_var(per_patch(sums[0]), per_patch(sums[1]), count)


def resize_to_patches(x_BCHW: Tensor, patch: int) -> Tensor:
    """Resize bilinearly (align_corners false) to the next multiple of `patch` in each direction; often no resize is needed."""
    height, width = (-(-side // patch) * patch for side in x_BCHW.shape[-2:])
    if (height, width) == tuple(x_BCHW.shape[-2:]):
        return x_BCHW
    return F.interpolate(x_BCHW, (height, width), mode="bilinear", align_corners=False)


def moments(x_BCHW: Tensor, kinds: tuple[str, ...], patch: int) -> Moments:
    """The named kinds (of `KINDS`) of moments of one batch."""
    sums = batch_sums(x_BCHW)
    result: Moments = {}
    if "channel" in kinds:
        result["channel_mean"], result["channel_var"] = channel_moments(sums, len(x_BCHW))
    if "patch" in kinds:
        result["patch_mean"], result["patch_var"] = _any_patch_moments(x_BCHW, sums, patch)
    return result


def _any_patch_moments(x_BCHW: Tensor, sums: tuple[Tensor, Tensor], patch: int) -> tuple[Tensor, Tensor]:
    """`patch_moments` of a map of any size, whose `batch_sums` are `sums`."""
    if torch.compiler.is_compiling() and any(side % patch for side in x_BCHW.shape[-2:]):
        return overlapping_patch_moments(x_BCHW, patch)
    resized = resize_to_patches(x_BCHW, patch)
    return patch_moments(sums if resized is x_BCHW else batch_sums(resized), len(x_BCHW), patch)


def overlapping_patch_moments(x_BCHW: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """`patch_moments` of the map resized to a multiple of `patch`, without making that map: two tensors (P,).

    The resized map is A x B^T, and a row of A or B has at most two nonzero weights, of neighbours. So the sum over a patch is
    linear in the sums of x at each position, and the sum of squares is linear in the sums of products of neighbours.
    Compiled code computes all of them in one pass; uncompiled, resizing is faster.
    """
    batch, channels, height, width = x_BCHW.shape
    x_BHWC = x_BCHW.permute(0, 2, 3, 1).to(torch.promote_types(x_BCHW.dtype, torch.float32))
    rows, rows_own, rows_next = neighbour_weights(height, patch, x_BHWC)
    columns, columns_own, columns_next = neighbour_weights(width, patch, x_BHWC)

    def products(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).sum((0, 3))

    top, bottom = x_BHWC[:, :-1], x_BHWC[:, 1:]
    left, right = x_BHWC[:, :, :-1], x_BHWC[:, :, 1:]
    diagonal = products(top[:, :, :-1], bottom[:, :, 1:]) + products(top[:, :, 1:], bottom[:, :, :-1])
    with torch.autocast(x_BCHW.device.type, enabled=False):  # a variance from half-precision sums would be noise
        total = rows @ x_BHWC.sum((0, 3)) @ columns.T
        squares = rows_own @ products(x_BHWC, x_BHWC) @ columns_own.T
        squares = squares + 2 * (rows_own @ products(left, right) @ columns_next.T)
        squares = squares + 2 * (rows_next @ products(top, bottom) @ columns_own.T)
        squares = squares + 2 * (rows_next @ diagonal @ columns_next.T)
    return _mean_var(total.flatten(), squares.flatten(), batch * channels * patch * patch)


def neighbour_weights(side: int, patch: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a bilinear resize to the next multiple of `patch`, summed over each of P patches: the weight of each pixel
    (P,side), its square (P,side), and its product with the next pixel's weight (P,side-1)."""
    patches = -(-side // patch)
    centre = (torch.arange(patches * patch, device=like.device, dtype=like.dtype) + 0.5) * (side / (patches * patch)) - 0.5
    pixel = torch.arange(side, device=like.device, dtype=like.dtype)
    weight = (1 - (centre.clamp(0, side - 1).unsqueeze(1) - pixel).abs()).clamp_min(0)

    def per_patch(values: Tensor) -> Tensor:
        return values.view(patches, patch, -1).sum(1)

    return per_patch(weight), per_patch(weight.square()), per_patch(weight[:, :-1] * weight[:, 1:])


def double(values: Tensor) -> Tensor:
    """In float64; on the CPU if the device has none (MPS)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def with_squares(moments_2N: Tensor) -> Tensor:
    """E[x] and E[x^2], from means and as many variances."""
    mean_N, var_N = moments_2N.chunk(2)
    return torch.cat([mean_N, var_N + mean_N.square()])


def with_variances(squares_2N: Tensor) -> Tensor:
    """Means and variances E[x^2] - E[x]^2, from E[x] and E[x^2]."""
    mean_N, square_N = squares_2N.chunk(2)
    return torch.cat([mean_N, square_N - mean_N.square()])


class Average:
    """The mean over samples of vectors that batches of them give, float64."""

    def __init__(self, samples: int = 0, total: Tensor | None = None) -> None:
        self.samples = samples
        self.total = total

    def add(self, value: Tensor, samples: int) -> None:
        """Add the mean over a batch."""
        self.samples += samples
        self.total = samples * value if self.total is None else self.total.add_(value, alpha=samples)

    def state(self) -> dict[str, Any]:
        """The arguments from which another average continues."""
        return {"samples": self.samples, "total": self.total}

    def mean(self) -> Tensor:
        """The mean of all; at least one batch was added."""
        assert self.total is not None
        return self.total / self.samples


class Accumulator(Average):
    """Means and variances (2N,) of a data set from E[x] and E[x^2] (2N,) of its batches.

    The mean is the sample-weighted mean of batch means. `variance` is "mean_of_batches" (published: the
    mean of the batches' variances) or "pooled" (the variance of all samples together, E[x^2] - E[x]^2).
    """

    def __init__(self, variance: str, samples: int = 0, total: Tensor | None = None) -> None:
        super().__init__(samples, total)
        self.is_pooled = variance == "pooled"

    def add(self, value: Tensor, samples: int) -> None:
        super().add(value if self.is_pooled else with_variances(value), samples)

    def result(self) -> Tensor:
        """Means, then variances."""
        return with_variances(self.mean()) if self.is_pooled else self.mean()


class Spread(Average):
    """Standard deviation of the moments of batches of real images: sqrt(E || s_b - E s ||^2) for each moment s of a layer."""

    def add(self, value: Tensor, samples: int) -> None:
        """Add E[x] and E[x^2] (2N,) of a batch."""
        moments_2N = with_variances(value)
        super().add(torch.cat([moments_2N, moments_2N.square()]), samples)

    def importance(self, noise_2N: Tensor, sizes: list[int]) -> list[float]:
        """Distance of the moments of noise, given as in `add`, from the mean, in standard deviations. Of each part of the N,
        which have these `sizes`, it is the average of the means' and the variances' distance."""
        mean_2N, square_2N = self.mean().chunk(2)
        off_2N, spread_2N = (with_variances(noise_2N) - mean_2N).square(), square_2N - mean_2N.square()
        parts = [values_2N.split(2 * sizes) for values_2N in (off_2N, spread_2N)]
        ratios = [(distance.sum() / variance.sum().clamp_min(1e-24)).sqrt() for distance, variance in zip(*parts, strict=True)]
        result: list[float] = torch.stack(ratios).view(2, -1).mean(0).tolist()
        return result


def class_sums(x_BCHW: Tensor) -> list[Tensor]:
    """Each image's sums of x and of x^2 over its pixels, each (B,C), `double`; `ClassAccumulator` adds them up by class."""
    wide = x_BCHW.detach().to(torch.promote_types(x_BCHW.dtype, torch.float32))
    return [double(values.sum((2, 3))) for values in (wide, wide.square())]


class ClassAccumulator:
    """Channel moments of each of K classes over all its images, in float64."""

    def __init__(self, classes: int, samples: Tensor | None = None, totals: list[Tensor] | None = None) -> None:
        self._classes = classes
        self.samples = samples  # number of values per channel (K,)
        self.totals = totals or []  # of x and of x^2, each (K,C)

    def add(self, sums: list[Tensor], values: int, labels_B: Tensor) -> None:
        """Add the `class_sums` of images that have `values` pixels per channel; the labels are on their device."""
        if self.samples is None:
            self.samples = sums[0].new_zeros(self._classes)
            self.totals = [sum_BC.new_zeros(self._classes, sum_BC.shape[1]) for sum_BC in sums]
        for total_KC, sum_BC in zip(self.totals, sums, strict=True):
            total_KC.index_add_(0, labels_B, sum_BC)
        self.samples.index_add_(0, labels_B, self.samples.new_full((len(labels_B),), values))

    def state(self) -> dict[str, Any]:
        """The arguments from which another accumulator continues."""
        return {"samples": self.samples, "totals": self.totals}

    def result(self) -> Moments:
        """class_mean and class_var, each (K,C)."""
        assert self.samples is not None
        mean_KC, square_KC = (total_KC / self.samples.unsqueeze(1) for total_KC in self.totals)
        return {"class_mean": mean_KC, "class_var": square_KC - mean_KC.square()}


def _mean_var(total: Tensor, total_of_squares: Tensor, count: int) -> tuple[Tensor, Tensor]:
    mean = total / count
    return mean, total_of_squares / count - mean.square()
