"""BatchNorm layers of a frozen network in eval mode, whose only gradient is that of their input.

Such a layer is y = w (x - mean) / sqrt(var + eps) + b, so its gradient is the same layer without mean and b. torch has a kernel
of its own for that gradient, which is slower: on a GPU it most likely was a quarter of an iteration of ResNet18 at 224 px
(benchmarks/speed/gpu.md). On CUDA both are one launch of `kernels.normalised`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from gvbsm.method import measuring

# What classes of libraries do after the norm, each by its name; all others with a forward pass of their own stay as they are.
_AFTER = {"BatchNormAct2d": ("drop", "act")}  # timm


class _Frozen(torch.autograd.Function):
    """The layer (moments, parameters, eps) of an input."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        weight_C: Tensor | None,
        bias_C: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(var_C, weight_C)
        ctx.eps = eps
        return _normalised(x, mean_C, var_C, weight_C, bias_C, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        var_C, weight_C = ctx.saved_tensors
        return _normalised(gradients[0], None, var_C, weight_C, None, ctx.eps), *[None] * 5


def _normalised(
    x: Tensor, mean_C: Tensor | None, var_C: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float
) -> Tensor:
    """The layer; without a mean, without mean and bias."""
    kernels = None if x.dtype == torch.float64 or x.ndim != 4 else measuring.kernels_for(x.device)
    if kernels:
        return kernels.normalised(x, mean_C, var_C, weight_C, bias_C, eps)
    if mean_C is None:
        mean_C = torch.zeros_like(var_C)
        bias_C = None if weight_C is None else mean_C
    return F.batch_norm(x, mean_C, var_C, weight_C, bias_C, False, 0.0, eps)


def freeze_norms(model: nn.Module) -> list[nn.Module]:
    """Give the BatchNorm layers of a network in eval mode, whose parameters want no gradient, that cheaper gradient.

    Returns those layers, which stay on their device and in their dtype until `thaw_norms` takes it back. Layers that measure
    their batch, and classes with a forward pass of their own but for timm's, stay as they are.
    """
    frozen: list[nn.Module] = []
    for module in model.modules():
        if _can_freeze(module):
            module.__dict__["forward"] = partial(_forward, module)
            frozen.append(module)
    return frozen


def thaw_norms(frozen: list[nn.Module]) -> None:
    """Give layers the forward pass of their class again."""
    for module in frozen:
        module.__dict__.pop("forward")


def _can_freeze(module: nn.Module) -> bool:
    of_timm = type(module).__module__.startswith("timm.") and type(module).__name__ in _AFTER
    is_known = type(module).forward is _BatchNorm.forward or of_timm
    if not is_known or "forward" in module.__dict__:
        return False
    return not module.training and not _wants_gradient(module) and module.running_var is not None


def _wants_gradient(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _forward(module: Any, x: Tensor) -> Tensor:
    if _wants_gradient(module):  # for a while, as when weights are moved
        return type(module).forward(module, x)
    x = _Frozen.apply(x, module.running_mean, module.running_var, module.weight, module.bias, module.eps)
    for name in _AFTER.get(type(module).__name__, ()):
        x = getattr(module, name)(x)
    return x
