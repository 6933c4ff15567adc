"""The view of recover, one crop, flip and roll for all images, and its gradient: ours against torchvision's operations."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.recover import SETTINGS
from benchmarks.step import Draw
from benchmarks.timing import compare, report
from gvbsm.method.batch_views import view


def run(device: torch.device, options: Namespace) -> None:
    """At the sizes and batches of both settings, or of the one that was asked for."""
    for which in [options.setting] if options.setting else SETTINGS:
        setting = SETTINGS[which]
        size, batch = setting.size, options.batch or (setting.gpu_batch if device.type == "cuda" else setting.batch)
        torch.manual_seed(0)
        draw = Draw.of(setting)
        x_BCHW, gradient_BCHW = (torch.randn(batch, 3, size, size, device=device) for _ in range(2))
        last_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)  # as recover keeps its images
        positions_2S, padding_1C11 = draw.positions(setting).to(device), torch.zeros(1, 3, 1, 1, device=device)

        def both(made: Callable[[Tensor], Tensor], images_BCHW: Tensor, gradient_BCHW: Tensor = gradient_BCHW) -> Tensor:
            images_BCHW = images_BCHW.detach().requires_grad_()
            return torch.autograd.grad(made(images_BCHW), images_BCHW, gradient_BCHW)[0]

        def plain(x_BCHW: Tensor, draw: Draw = draw, setting=setting) -> Tensor:
            return draw.view(x_BCHW, setting)

        def ours(x_BCHW: Tensor, positions_2S: Tensor = positions_2S, padding_1C11: Tensor = padding_1C11) -> Tensor:
            return view(x_BCHW, positions_2S, padding_1C11)

        torch.testing.assert_close(both(ours, last_BCHW), both(plain, x_BCHW), rtol=1e-4, atol=1e-4)
        timings = compare(
            {
                "torchvision's": lambda both=both, plain=plain, x=x_BCHW: both(plain, x),
                "ours": lambda both=both, ours=ours, x=last_BCHW: both(ours, x),
            },
            options.repeats,
            device,
        )
        report(f"view of recover and its gradient, {size} px, batch {batch}", timings, "torchvision's")
