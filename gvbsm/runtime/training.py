"""The one training loop that squeeze and evaluate share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gvbsm.errors import UserError
from gvbsm.keys import derive_seed
from gvbsm.runtime.checkpoints import Checkpoint, to_device
from gvbsm.runtime.parallel import ranks, synchronised
from gvbsm.runtime.progress import Progress

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Recipe:
    """How long and with what step sizes a network is trained; the field names are the settings'."""

    epochs: int
    optimizer: str  # "sgd" or "adamw"
    lr: float
    momentum: float | None
    weight_decay: float
    schedule: str  # "constant" or "cosine"
    seed: int
    stop_after: int | None = None  # epochs, if fewer than the schedule's are trained
    stretch: float = 1.0  # cosine: where it reaches 0, in numbers of `epochs`
    ema: float | None = None  # largest decay per step of the average of weights that is measured; None: the weights are

    @staticmethod
    def from_settings(settings: dict[str, Any], seed: int, stop_after: int | None = None) -> Recipe:
        """The entries of a spec's settings that a training loop needs."""
        names = ("epochs", "optimizer", "lr", "weight_decay", "schedule")
        named = {name: settings[name] for name in names}
        return Recipe(
            **named,
            momentum=settings.get("momentum"),
            seed=seed,
            stop_after=stop_after,
            stretch=settings.get("stretch") or 1.0,
            ema=settings.get("ema"),
        )


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Step size of an epoch; cosine is lr / 2 (1 + cos(pi e / (stretch E)))."""
    if recipe.schedule == "constant":
        return recipe.lr
    return recipe.lr / 2 * (1 + math.cos(math.pi * epoch / (recipe.stretch * recipe.epochs)))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW, without weight decay on biases and one-dimensional weights."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum or 0.0)


def moving_average(largest: float, averaged: list[Tensor], weights: list[Tensor], steps: Tensor) -> None:
    """m <- d m + (1 - d) w in place, d = min(largest, (1 + t) / (10 + t)) after t steps.

    So a training of few steps forgets its beginning too: until d is at its largest, the last tenth of the steps has more than
    half of the weight (the schedule of tf.train.ExponentialMovingAverage).
    """
    share = 1 - ((1 + steps) / (10 + steps)).clamp(max=largest)  # stays on the device: no step waits for it
    for mean, weight in zip(averaged, weights, strict=True):
        mean.lerp_(weight, share.to(mean.dtype))


def split_batches(indices: Tensor, size: int) -> list[Tensor]:
    """`indices` in batches of `size`, the ragged last one kept; if that is a single image, it joins the batch before.

    BatchNorm cannot train on one value per channel.
    """
    batches = list(indices.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def fit(
    model: nn.Module,
    recipe: Recipe,
    batches: Callable[[int, int], Iterable[Batch]],
    losses: Callable[[nn.Module, Batch], Iterable[Tensor]],
    checkpoint: Checkpoint,
    title: str,
    after_epoch: Callable[[nn.Module, int], dict[str, Any]] = lambda model, epoch: {},
) -> list[dict[str, Any]]:
    """Train `model` in place and return one row per epoch: epoch, loss, and what `after_epoch` measured in eval mode, of the
    model or, if the recipe says so, of the moving average of its weights, with its own buffers.

    `batches(epoch, first)` are the epoch's batches from its `first` on, in any process the same; `losses(model, batch)`
    yields the losses whose gradients one step sums. Where several processes train together, the losses are those of the whole
    batch on every rank, whose gradients each has a share of.
    torch's global generator is seeded anew for every step, so a resumed training draws what an uninterrupted one does.

    Raises:
        Interrupted: after a signal, the state saved.
        UserError: if the loss of an epoch is not finite.
    """
    model = synchronised(model, next(model.parameters()).device)
    optimizer = make_optimizer(model, recipe)
    # BatchNorm's statistics are averages already; averaged again they lag behind the weights (benchmarks/RESULTS.md).
    averaged = AveragedModel(model, multi_avg_fn=partial(moving_average, recipe.ema)) if recipe.ema else None
    together = ranks()
    state = to_device(checkpoint.load(), next(model.parameters()).device) or {"epoch": 0, "step": 0, "history": []}
    if "model" in state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if averaged:
            averaged.load_state_dict(state["averaged"])
    history: list[dict[str, Any]] = state["history"]
    total = torch.as_tensor(state.get("loss", 0.0), dtype=torch.float32, device=next(model.parameters()).device)
    epochs, first_step = recipe.stop_after or recipe.epochs, state["step"]

    def saved(epoch: int, step: int) -> dict[str, Any]:
        moving = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loss": total}
        if averaged:
            moving["averaged"] = averaged.state_dict()
        return {"epoch": epoch, "step": step, "history": history, **moving}

    progress = Progress(title, epochs, state["epoch"])
    for epoch in range(state["epoch"], epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        model.train()
        steps = first_step
        for steps, batch in enumerate(batches(epoch, first_step), first_step + 1):
            # Rank 0 draws what a single process would; the others' dropout is theirs.
            torch.manual_seed(derive_seed(recipe.seed, "step", epoch, steps - 1, *([together.rank] if together.rank else [])))
            optimizer.zero_grad(set_to_none=True)
            for loss in losses(model, batch):
                loss.backward()  # type: ignore[no-untyped-call]
                total = total + loss.detach()
            together.add([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
            optimizer.step()
            if averaged:
                averaged.update_parameters(model)
            checkpoint.tick(lambda epoch=epoch, steps=steps: saved(epoch, steps))  # type: ignore[misc]
        model.eval()
        mean_loss = total.item() / steps
        if not math.isfinite(mean_loss):
            raise UserError(f"{title}: epoch {epoch + 1}: expected a finite loss, got {mean_loss}; lower lr ({recipe.lr})")
        measured = averaged.module.eval() if averaged else model
        history.append({"epoch": epoch + 1, "loss": mean_loss, **after_epoch(measured, epoch)})
        total, first_step = torch.zeros_like(total), 0
        progress.step(**{name: value for name, value in history[-1].items() if isinstance(value, float)})
    if state["epoch"] < epochs:
        checkpoint.save(saved(epochs, 0))  # an artifact may hold several trainings: this one is not done again
    return history
