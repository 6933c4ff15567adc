"""Teachers whose weights are moved a little for a batch of images, so that batches are optimised against different teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def perturbed(
    model: nn.Module, logits_of: Callable[[Tensor], Tensor], x_BCHW: Tensor, labels_B: Tensor, steps: int, rho: float
) -> Iterator[None]:
    """During the block, weights that `steps` steps of gradient ascent have reached (DWA, Du et al., NeurIPS 2024).

    With g the gradient of the cross-entropy of `logits_of(x)`, over all weights w of the model:

        w <- w + (rho / steps) g / (||g|| + 1e-12)

    So they are at most `rho` from where they were. They follow from the images alone: the same after a resume.
    """
    weights = list(model.parameters())
    before = [weight.detach().clone() for weight in weights]
    try:
        for _ in range(steps):
            _ascend(weights, logits_of, x_BCHW, labels_B, rho / steps)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)


def _ascend(
    weights: list[nn.Parameter], logits_of: Callable[[Tensor], Tensor], x_BCHW: Tensor, labels_B: Tensor, length: float
) -> None:
    """One step of this length."""
    for weight in weights:
        weight.requires_grad_()
    loss = F.cross_entropy(logits_of(x_BCHW).float(), labels_B)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)  # no class of a network need use all its weights
    for weight in weights:
        weight.requires_grad_(False)
    used = [(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None]
    norm = torch.stack([torch.linalg.vector_norm(gradient) for _, gradient in used]).square().sum().sqrt()
    scale = length / (norm + 1e-12)
    with torch.no_grad():
        for weight, gradient in used:
            weight.add_(gradient * scale)
