"""Networks from their specs, teachers from their artifacts, and the accuracy of either."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gvbsm import backbones
from gvbsm.errors import UserError
from gvbsm.keys import derive_seed
from gvbsm.runtime.devices import autocast


class Accuracy(NamedTuple):
    """Percent of test images."""

    top1: float  # right at the first guess
    top5: float  # right within five guesses
    by_class: list[float]  # top-1 of the images of every class


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
    model: nn.Module, images: Iterable[Tensor], labels_N: Tensor, prepare: Callable[[Tensor], Tensor], precision: str
) -> Accuracy:
    """Accuracy of a model in eval mode on batches of uint8 images (B,C,S,S), made network inputs by `prepare`."""
    device = next(model.parameters()).device
    ranked = []
    for images_BCHW in images:
        x_BCHW = prepare(images_BCHW.to(device)).contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            logits_BK = model(x_BCHW).float()
        ranked.append(logits_BK.topk(min(5, logits_BK.shape[1])).indices.cpu())
    hits_N5 = torch.cat(ranked) == labels_N.unsqueeze(1)
    images_K = torch.bincount(labels_N)
    right_K = torch.bincount(labels_N[hits_N5[:, 0]], minlength=len(images_K))
    by_class = [100 * right / count for right, count in zip(right_K.tolist(), images_K.tolist(), strict=True)]
    return Accuracy(100 * int(right_K.sum()) / len(labels_N), 100 * int(hits_N5.sum()) / len(labels_N), by_class)
