"""BatchNorm over the parts of a batch that several processes train on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from gvbsm.errors import UserError
from gvbsm.method.ranks import ranks


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with BatchNorm over the batches of all ranks; names and shapes of its state stay.

    Raises:
        UserError: for a network that cannot be synchronised on the CPU.
    """
    if ranks().size == 1:
        return model
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm  # also knows timm's own layers

        return convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.__class__ = _SynchronisedBatchNorm
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UserError(f"--processes: {type(module).__name__} can be synchronised on CUDA alone; use --processes 1")
    return model


class _SynchronisedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over all ranks on any device; PyTorch's own needs CUDA."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        others = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() / x.shape[1] * wide.new_ones(1)
        # Two reductions: E[x^2] - E[x]^2 from a single one would lose digits.
        mean, total = _sum(torch.cat([wide.sum(others), count])).split([x.shape[1], 1])
        mean = mean / total
        centred = wide - mean.view(shape)
        var = _sum(centred.square().sum(others)) / total
        if self.track_running_stats:
            with torch.no_grad():
                assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                weight = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, float(weight))
                self.running_var.lerp_(var * total / (total - 1).clamp_min(1), float(weight))
        y = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all ranks. Each rank uses the sum, so the gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        summed = x.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone()
        distributed.all_reduce(summed)
        return summed


_sum: Callable[[Tensor], Tensor] = _Sum.apply  # type: ignore[assignment]
