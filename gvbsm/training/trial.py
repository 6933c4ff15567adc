"""One pass of a network before it costs hours: some can be built and cannot run at an image size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gvbsm.config.shapes import NetworkShape
from gvbsm.errors import UserError, first_line
from gvbsm.training.networks import build

_NOISE = 0.02  # deviation; added to fresh weights, since layers that begin at zero would hide the image from the logits


def try_network(shape: NetworkShape, trained_with: int | None, device: torch.device) -> int:
    """Pass two random images forward and backward in eval mode, and `trained_with` in training mode unless it is None.

    Returns the network's number of parameters.

    Raises:
        UserError: if the network cannot be built or run, gives other outputs than logits, or does not look at the whole image.
    """
    model, size = build(shape, 0, device), shape.image_size
    where = f"network {shape.name} at {size} x {size} px"
    try:
        dead = _unseen(model, shape, device)
        if trained_with:
            _train_once(model.train(), shape, trained_with, device)
    except Exception as error:  # of code by others, which may raise anything
        kind = type(error).__name__
        reason = f"{kind}: {first_line(error)}" if str(error).strip() else kind
        raise UserError(
            f"{where}: expected a pass forward and backward, got {reason}; choose another network or image_size"
        ) from None
    if dead:
        raise UserError(
            f"{where}: expected logits that depend on the whole image, got {dead} of {size} rows or columns without effect; "
            f"choose an image_size that its patches divide, perhaps {size - dead}, or another network or patch size"
        )
    return sum(parameter.numel() for parameter in model.parameters())


def _images(shape: NetworkShape, count: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, shape.channels, shape.image_size, shape.image_size, generator=generator).to(device)


def _unseen(model: nn.Module, shape: NetworkShape, device: torch.device) -> int:
    """Rows, or columns if there are more, that have no effect on the logits."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(_NOISE * torch.randn_like(parameter))
    x_BCHW = _images(shape, 2, device).requires_grad_()
    logits_BK = model.eval()(x_BCHW)
    if not isinstance(logits_BK, Tensor) or logits_BK.shape != (2, shape.classes):
        got = tuple(logits_BK.shape) if isinstance(logits_BK, Tensor) else type(logits_BK).__name__
        raise ValueError(f"logits of shape {got} instead of {(2, shape.classes)}")
    (gradient_BCHW,) = torch.autograd.grad(logits_BK.square().sum(), x_BCHW)
    has_effect_HW = (gradient_BCHW != 0).any(0).any(0)
    return max(int((~has_effect_HW.any(axis)).sum()) for axis in (0, 1))


def _train_once(model: nn.Module, shape: NetworkShape, count: int, device: torch.device) -> None:
    F.cross_entropy(model(_images(shape, count, device)), torch.zeros(count, dtype=torch.int64, device=device)).backward()
