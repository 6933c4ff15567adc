"""Networks from their specs, teachers from their artifacts, and the accuracy of either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gvbsm import backbones
from gvbsm.errors import UserError
from gvbsm.keys import derive_seed
from gvbsm.runtime.devices import autocast


def build(network: dict[str, Any], seed: int, device: torch.device) -> nn.Module:
    """A fresh network of a spec's `network` entry, its weights drawn from `seed`, in channels-last layout.

    Raises:
        UserError: if the network cannot have those options or that image size.
    """
    torch.manual_seed(derive_seed(seed, "weights"))
    shape = {name: network[name] for name in ("classes", "image_size", "channels")}
    try:
        model = backbones.build(network["name"], **shape, **network["options"])
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"network {network['name']} with options {network['options']}: {reason}; correct the row") from None
    return model.to(device).to(memory_format=torch.channels_last)


def load_teacher(tensors: dict[str, Tensor], metadata: dict[str, Any], device: torch.device) -> nn.Module:
    """A teacher from squeeze's artifact: eval mode, no gradients to its weights."""
    model = build(metadata["network"], 0, device)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def accuracy(
    model: nn.Module, images_NCHW: Tensor, labels_N: Tensor, prepare: Callable[[Tensor], Tensor], precision: str
) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent of a model in eval mode, on uint8 images made network inputs by `prepare`."""
    device = next(model.parameters()).device
    right1 = right5 = 0
    for images_BCHW, labels_B in zip(images_NCHW.split(500), labels_N.split(500), strict=True):
        x_BCHW = prepare(images_BCHW.to(device)).contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            logits_BK = model(x_BCHW).float()
        best_B5 = logits_BK.topk(min(5, logits_BK.shape[1])).indices.cpu()
        hits_B5 = best_B5 == labels_B.cpu().unsqueeze(1)
        right1, right5 = right1 + int(hits_B5[:, 0].sum()), right5 + int(hits_B5.sum())
    return {"top1": 100 * right1 / len(labels_N), "top5": 100 * right5 / len(labels_N)}
