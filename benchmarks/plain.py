"""The method's maths written out plainly, one step after another, as hooks usually are: what ours is measured against.

The tests use it as well: whatever is done for speed must give what this gives.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F


def channel_moments(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel."""
    rows = x_BCHW.permute(1, 0, 2, 3).contiguous().view(x_BCHW.shape[1], -1)
    return rows.mean(1), rows.var(1, unbiased=False)


def patch_moments(x_BCHW: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every patch, after a bilinear resize to a multiple of its size."""
    batch, channels, height, width = x_BCHW.shape
    down, across = -(-height // patch), -(-width // patch)
    x_BCHW = F.interpolate(x_BCHW, (down * patch, across * patch), mode="bilinear", align_corners=False)
    patches = x_BCHW.view(batch, channels, down, patch, across, patch).permute(2, 4, 0, 1, 3, 5).contiguous()
    rows = patches.view(down * across, -1)
    return rows.mean(1), rows.var(1, unbiased=False)


def all_moments(module: nn.Module, x_BCHW: Tensor, patch: int) -> dict[str, Tensor]:
    """What is matched of a layer's input."""
    mean, var = channel_moments(x_BCHW)
    result = {"channel_mean": mean, "channel_var": var}
    if isinstance(module, nn.Conv2d):
        result["patch_mean"], result["patch_var"] = patch_moments(x_BCHW, patch)
    return result


def measure(model: nn.Module, x_BCHW: Tensor, patch: int) -> dict[str, dict[str, Tensor]]:
    """Targets: what is matched of every layer's input, of one batch."""
    result: dict[str, dict[str, Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda m, i, name=name: result.update({name: all_moments(m, i[0], patch)}))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    with torch.no_grad():
        model(x_BCHW)
    for hook in hooks:
        hook.remove()
    return result


class Hooks:
    """The matching loss collected by one hook per layer; averages start at their first value, every layer is kept."""

    def __init__(self, model: nn.Module, targets: dict[str, dict[str, Tensor]], patch: int, alpha: float, first: float) -> None:
        self.model, self.patch, self.alpha = model, patch, alpha
        self.averages: dict[tuple[str, str], Tensor] = {}
        self.losses: list[Tensor] = []
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
        self.handles = []
        for number, (name, module) in enumerate(layers):
            target = targets[name]
            if isinstance(module, nn.BatchNorm2d):
                target = {"channel_mean": module.running_mean, "channel_var": module.running_var}
            self.handles.append(module.register_forward_hook(self._hook(name, target, 1.0 if number else first)))

    def _hook(self, name: str, target: dict[str, Tensor], weight: float) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, _output: Any) -> None:
            for kind, value in all_moments(module, inputs[0], self.patch).items():
                before = self.averages.get((name, kind), value.detach())
                average = self.alpha * before + (1 - self.alpha) * value.detach()
                self.averages[name, kind] = average
                self.losses.append(weight * torch.norm(target[kind] - (average + value - value.detach())))

        return hook

    def __call__(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        self.losses = []
        return self.model(x_BCHW), sum(self.losses[1:], self.losses[0])

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def densification(x_BCHW: Tensor, labels_B: Tensor, tau: float) -> Tensor:
    """L_DD class by class, of eigenvalues of a general matrix divided by their mean."""
    rows = F.adaptive_avg_pool2d(x_BCHW, 32).flatten(1)
    loss = rows.new_zeros(())
    for label in labels_B.unique():
        of_class = rows[labels_B == label]
        values = torch.linalg.eigvals(of_class @ of_class.T).real.sort().values
        values = values / values.mean()
        loss = loss + F.kl_div(F.log_softmax(values, 0), F.softmax(values.detach() / tau, 0), reduction="sum")
    return loss


def image_by_image(images_NCHW: Tensor, mean: list[float], std: list[float]) -> Callable[[Tensor], Tensor]:
    """The usual pipeline of views: each image decoded from its JPEG, cropped and flipped by PIL, stacked; then CutMix."""
    from torchvision import transforms

    size, files = images_NCHW.shape[-1], []
    for image in images_NCHW:
        files.append(io.BytesIO())
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(files[-1], "JPEG")
    steps = [transforms.RandomResizedCrop(size, (0.08, 1.0)), transforms.RandomHorizontalFlip()]
    view = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def batch(index_B: Tensor) -> Tensor:
        x_BCHW = torch.stack([view(Image.open(files[i]).convert("RGB")) for i in index_B.tolist()])
        side, at = size // 2, torch.randint(size // 2, (2,)).tolist()
        box = (slice(None), slice(None), slice(at[0], at[0] + side), slice(at[1], at[1] + side))
        x_BCHW[box] = x_BCHW[torch.randperm(len(x_BCHW))][box]
        return x_BCHW

    return batch
