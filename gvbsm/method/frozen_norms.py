"""BatchNorm layers of a frozen network in eval mode, whose only gradient is that of their input.

Such a layer is y = w (x - mean) / sqrt(var + eps) + b, so its gradient is the same layer without mean and b. torch has a kernel
of its own for that gradient, which is slower: on a GPU it most likely was a quarter of an iteration of ResNet18 at 224 px
(benchmarks/speed/gpu.md). On CUDA `norm_kernels` has both, and gives the sums of the input on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from gvbsm.method import measuring

Keep = Callable[[Tensor, Tensor], None]
# What classes of libraries do after the norm, each by its name; all others with a forward pass of their own stay as they are.
_AFTER = {"BatchNormAct2d": ("drop", "act")}  # timm


class _Frozen(torch.autograd.Function):
    """The layer (moments, parameters, eps) of an input; `zero_C` stands for the mean and the bias that the gradient lacks."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        weight_C: Tensor | None,
        bias_C: Tensor | None,
        zero_C: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(var_C, weight_C, zero_C)
        ctx.eps = eps
        return F.batch_norm(x, mean_C, var_C, weight_C, bias_C, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        var_C, weight_C, zero_C = ctx.saved_tensors
        bias_C = None if weight_C is None else zero_C
        return F.batch_norm(gradients[0], zero_C, var_C, weight_C, bias_C, False, 0.0, ctx.eps), *[None] * 6


def freeze_norms(model: nn.Module, measured: Mapping[nn.Module, Keep] = MappingProxyType({})) -> list[nn.Module]:
    """Give the BatchNorm layers of a network in eval mode, whose parameters want no gradient, that cheaper gradient.

    A layer in `measured` calls its function with its input and the parts of that input's sums (`norm_kernels.norm`), where the
    pass computes them.
    Returns those layers, which stay on their device and in their dtype until `thaw_norms` takes it back. Layers that measure
    their batch, and classes with a forward pass of their own but for timm's, stay as they are.
    """
    frozen: list[nn.Module] = []
    for module in model.modules():
        if _can_freeze(module):
            zero_C = torch.zeros_like(cast(Tensor, module.running_var))
            module.__dict__["forward"] = partial(_forward, module, zero_C, measured.get(module))
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


def _forward(module: Any, zero_C: Tensor, keep: Keep | None, x: Tensor) -> Tensor:
    if _wants_gradient(module):  # for a while, as when weights are moved
        return type(module).forward(module, x)
    layer = module.running_mean, module.running_var, module.weight, module.bias
    if x.ndim == 4 and x.dtype != torch.float64 and measuring.kernels_for(x.device):
        from gvbsm.method.norm_kernels import FrozenNorm

        own_input = x
        x, parts = FrozenNorm.apply(own_input, *layer, module.eps, keep is not None)
        if keep:
            keep(own_input, parts)
    else:
        x = _Frozen.apply(x, *layer, zero_C, module.eps)
    for name in _AFTER.get(type(module).__name__, ()):
        x = getattr(module, name)(x)
    return x
