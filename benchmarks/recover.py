"""One iteration of recover on every backbone of a row: forward, backward, statistics and densification."""

from __future__ import annotations

import contextlib
import copy
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import plain
from benchmarks.one_pass import one_pass
from benchmarks.timing import Timing, added, compare, precisions_on, report
from gvbsm.backbones.build import build
from gvbsm.method.densification import densification_loss
from gvbsm.method.matching import Matching, StatisticsMatcher
from gvbsm.training.precision import autocast

ALPHA, FIRST, R, TAU = 0.8, 10.0, 0.01, 4.0
Losses = Callable[[Tensor], Tensor]


class Setting(NamedTuple):
    """A row's sizes."""

    backbones: tuple[str, ...]
    classes: int
    size: int  # px
    patch: int  # px
    batch: int  # images on the CPU; the row's own on a GPU
    gpu_batch: int
    resized_crop: tuple[float, float] | None = None  # shares of the area; None: padded and cut


SETTINGS = {
    "cifar": Setting(("resnet18", "convnet", "mobilenet_v2", "wrn16_2", "shufflenet_v2"), 10, 32, 4, 100, 100),
    "imagenet": Setting(
        tuple(f"torchvision:{name}" for name in ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5")),
        1000, 224, 16, 8, 80, (0.08, 1.0),
    ),
}  # fmt: skip


class Problem:
    """A backbone, targets measured in it, and a batch."""

    def __init__(self, setting: Setting, name: str, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        network = build(name, classes=setting.classes, image_size=setting.size).eval().requires_grad_(False)
        # Plain PyTorch keeps its default layout, in which the published code ran.
        self.plain_network: nn.Module = copy.deepcopy(network).to(device, dtype)
        self.network: nn.Module = network.to(device, dtype, memory_format=torch.channels_last)
        self.patch = setting.patch
        self.x_BCHW = torch.randn(batch, 3, setting.size, setting.size, device=device, dtype=dtype)
        self.labels_B = torch.arange(batch, device=device) // min(10, batch // 2)
        # Of few images: memory is measured from here on.
        self.targets = plain.measure(network, torch.randn_like(self.x_BCHW[:8]), self.patch)

    def bare(self, x_BCHW: Tensor) -> Tensor:
        """Cross-entropy alone."""
        return F.cross_entropy(self.plain_network(x_BCHW).float(), self.labels_B)

    def plainly(self, hooks: plain.Hooks, x_BCHW: Tensor) -> Tensor:
        logits_BK, statistics = hooks(x_BCHW)
        loss = F.cross_entropy(logits_BK, self.labels_B) + R * statistics
        return loss + plain.densification(x_BCHW, self.labels_B, TAU)

    def ours(self, matcher: StatisticsMatcher, precision: str, x_BCHW: Tensor) -> Tensor:
        with autocast(x_BCHW.device, precision):
            logits_BK, statistics = one_pass(matcher, x_BCHW.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits_BK.to(x_BCHW.dtype), self.labels_B) + R * statistics
        return loss + densification_loss(x_BCHW, self.labels_B, TAU, "mean")

    def hooks(self) -> plain.Hooks:
        return plain.Hooks(self.plain_network, self.targets, self.patch, ALPHA, FIRST)

    def matcher(self, compiled: bool) -> StatisticsMatcher:
        matching = Matching(self.patch, ALPHA, FIRST, "first", "update")
        return StatisticsMatcher(self.network, self.targets, matching, compiled)

    def gradient(self, loss: Losses) -> Tensor:
        x_BCHW = self.x_BCHW.clone().requires_grad_()
        return torch.autograd.grad(loss(x_BCHW), x_BCHW)[0]


def check(setting: Setting, name: str, compiled: bool) -> float:
    """Median over images of the relative distance between our gradient and the plain one, in float64 on the CPU."""
    problem = Problem(setting, name, 4, torch.device("cpu"), torch.float64)
    hooks = problem.hooks()
    expected = problem.gradient(lambda x: problem.plainly(hooks, x))
    hooks.remove()
    with problem.matcher(compiled) as matcher:
        got = problem.gradient(lambda x: problem.ours(matcher, "float32", x))
    return float(((got - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).median())


def run(which: str, device: torch.device, options: Namespace) -> None:
    """Compare on every backbone of a setting, then over the whole cycle."""
    setting, repeats, compiled = SETTINGS[which], options.repeats, options.compile
    batch = options.batch or (setting.gpu_batch if device.type == "cuda" else setting.batch)
    cycle: list[dict[str, Timing]] = []
    for name in chosen(setting, options):
        error = check(setting, name, compiled=False)
        assert error < 1e-6, f"{name}: expected the plain gradient, got another by {error:.2g}"
        problem = Problem(setting, name, batch, device, torch.float32)
        with contextlib.ExitStack() as stack:
            timings = _timings(problem, stack, device, repeats, compiled)
        cycle.append(timings)
        report(
            f"recover, {which}: {name}, batch {batch}, gradient as plain within {error:.1g}", timings, "plain hooks, float32"
        )
    report(f"recover, {which}: one iteration on each of {len(cycle)} backbones", added(cycle), "plain hooks, float32")


def chosen(setting: Setting, options: Namespace) -> list[str]:
    """The backbones of a setting that were asked for."""
    return [name for name in setting.backbones if options.backbone in name]


def _timings(
    problem: Problem, stack: contextlib.ExitStack, device: torch.device, repeats: int, compiled: bool
) -> dict[str, Timing]:
    def bare(precision: str, x_BCHW: Tensor) -> Tensor:
        with autocast(device, precision):
            return problem.bare(x_BCHW)

    precisions = precisions_on(device)
    # Hooks stay on the network, so every alternative has its own turn with its own hooks alone.
    alone = {f"no statistics, {p}": lambda p=p: problem.gradient(lambda x: bare(p, x)) for p in precisions}
    timings = compare(alone, repeats, device)
    hooks = problem.hooks()
    timings |= compare({"plain hooks, float32": lambda: problem.gradient(lambda x: problem.plainly(hooks, x))}, repeats, device)
    hooks.remove()
    for how in ("ours", "ours, compiled") if compiled else ("ours",):
        for precision in precisions:
            with problem.matcher(compiled=how != "ours") as matcher:
                run = {f"{how}, {precision}": lambda m=matcher, p=precision: problem.gradient(lambda x: problem.ours(m, p, x))}
                timings |= compare(run, repeats, device)
                if how != "ours" and not matcher.compiled:
                    timings.pop(f"{how}, {precision}")
    faster = min((timings[name] for name in timings if name.startswith(how)), key=lambda timing: timing.median, default=None)
    return timings | ({f"{how}, the faster precision": faster} if faster else {})
