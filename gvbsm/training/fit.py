"""The training loop of teachers and students."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from gvbsm.backbones.weights import load_own
from gvbsm.config.students import HardTraining
from gvbsm.config.teachers import Squeeze
from gvbsm.errors import UserError
from gvbsm.method.draws import seed_torch
from gvbsm.method.ranks import ranks
from gvbsm.runtime.checkpoints import Checkpoint, State, to_device
from gvbsm.runtime.progress import Progress
from gvbsm.store.keys import derive_seed
from gvbsm.training.averages import MovingAverage
from gvbsm.training.graphs import how_steps_ran, recorded
from gvbsm.training.synchronised import synchronised

Batch = TypeVar("Batch")

_FETCH_SECONDS = 1.0  # between two fetches of losses, each of which waits for the device


class Measured(TypedDict, total=False):
    """What is measured after an epoch, in percent of the test images; nothing where it is not tested."""

    top1: float
    top5: float
    by_class: list[float]  # top-1 of every class


class EpochRow(TypedDict):
    """An epoch of a training: its number from 1, the mean loss of its steps, and what was measured after it."""

    epoch: int
    loss: float
    top1: NotRequired[float]
    top5: NotRequired[float]
    by_class: NotRequired[list[float]]


@dataclass(frozen=True)
class Recipe:
    """Length, optimiser and step sizes of a training; the field names are the settings'."""

    epochs: int
    optimizer: str  # "sgd" or "adamw"
    lr: float
    momentum: float | None
    weight_decay: float
    schedule: str  # "constant", "cosine" or "step"
    seed: int
    stop_after: int | None = None  # epochs to train, if fewer than the schedule has
    stretch: float = 1.0  # cosine: the epoch where it reaches 0, divided by `epochs`
    milestones: Sequence[float] = ()  # step: the shares of `epochs` after which the step size is multiplied by `gamma`
    gamma: float = 1.0
    ema: float | None = None  # largest decay per step of the weights' moving average, which is tested; None: no average

    @staticmethod
    def from_settings(settings: Squeeze | HardTraining, seed: int, stop_after: int | None = None) -> Recipe:
        """The entries of a spec's settings that a training loop needs."""
        names = ("epochs", "optimizer", "lr", "momentum", "weight_decay", "schedule")
        shared: dict[str, Any] = {name: getattr(settings, name) for name in names}
        shared |= {"milestones": tuple(settings.milestones or ()), "gamma": settings.gamma or 1.0}
        if isinstance(settings, HardTraining):
            shared |= {"stretch": settings.stretch or 1.0, "ema": settings.ema}
        return Recipe(**shared, seed=seed, stop_after=stop_after)


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Step size of epoch e of E: for cosine lr / 2 (1 + cos(pi e / (stretch E))), for step lr gamma^(milestones passed)."""
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "step":
        return recipe.lr * recipe.gamma ** sum(epoch >= end for end in milestone_epochs(recipe.milestones, recipe.epochs))
    return recipe.lr / 2 * (1 + math.cos(math.pi * epoch / (recipe.stretch * recipe.epochs)))


def milestone_epochs(shares: Iterable[float], epochs: int) -> list[int]:
    """The epochs, counted from 0, that are the first after each milestone."""
    return [round(share * epochs) for share in shares]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW, without weight decay on biases and one-dimensional weights."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum or 0.0, fused=True)


def set_step_size(optimizer: torch.optim.Optimizer, size: float) -> None:
    """Write the step size into a tensor of each group, from which a recorded step reads it (on MPS, into a number)."""
    device = next(weight.device for group in optimizer.param_groups for weight in group["params"])
    for group in optimizer.param_groups:
        if device.type == "mps":
            group["lr"] = size
        elif isinstance(group["lr"], Tensor):
            group["lr"].fill_(size)
        else:
            group["lr"] = torch.tensor(size, device=device)


def _restore(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Load the state of an optimizer with its averages in the weights' memory layout, which the fused step needs."""
    optimizer.load_state_dict(state)
    for weight, averages in optimizer.state.items():
        for name, value in averages.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                averages[name] = torch.empty_like(weight).copy_(value)


def fit(
    model: nn.Module,
    recipe: Recipe,
    batches: Callable[[int, int], Iterable[Batch]],
    losses: Callable[[nn.Module, Batch], Iterable[Tensor]],
    checkpoint: Checkpoint,
    title: str,
    test: Callable[[nn.Module, int], Measured] | None = None,
    test_every: int = 1,
    passes: list[str] | None = None,
) -> list[EpochRow]:
    """Train `model` in place and return one row per epoch: epoch, loss, and in tested epochs the results of `test`.

    `test(model, epoch)` follows every `test_every`-th epoch and the last one. It gets the model in eval mode, or with
    `recipe.ema` the moving average of its weights. Afterwards the model is in eval mode.
    `batches(epoch, first)`: the epoch's batches from number `first` on, equal in every process. A batch is nested tuples of
    tensors on the model's device and of constants. Without CUDA, where no step is replayed, it may hold iterators too.
    `losses(model, batch)` yields the losses whose gradients one step sums, from the batch and what never changes: on CUDA the
    whole step is recorded and replayed (`gvbsm.training.graphs`). If several processes train together, each rank computes the
    losses of the whole batch and has a share of their gradients.
    torch's global generator is seeded for every step, so a resumed training draws the same random numbers.
    `passes` receives how steps ran here and in earlier processes, as recover says it: "not compiled, recorded".

    Raises:
        Interrupted: after a signal, the state saved.
        UserError: if the loss of an epoch is not finite; losses are looked at about once a second, and before each test.
    """
    training = _Training(model, recipe, losses, checkpoint, title)
    history = training.run(batches, test, test_every)
    if passes is not None:
        passes[:] = dict.fromkeys([*passes, *training.passes()])
    return history


class _Training(Generic[Batch]):
    """A training that can be saved after any step."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        losses: Callable[[nn.Module, Batch], Iterable[Tensor]],
        checkpoint: Checkpoint,
        title: str,
    ) -> None:
        self._recipe, self._losses, self._checkpoint, self._title = recipe, losses, checkpoint, title
        device = next(model.parameters()).device
        self._ranks = ranks()
        self._model = synchronised(model, device)
        self._optimizer = make_optimizer(self._model, recipe)
        self._averaged = MovingAverage(self._model, recipe.ema) if recipe.ema else None
        state = to_device(checkpoint.load(), device) or {"epoch": 0, "step": 0, "history": [], "passes": []}
        if "model" in state:
            self._restore(state)
        self._history: list[EpochRow] = state["history"]
        self._passes: list[str] = state["passes"]  # of earlier processes
        self._has_stepped = False
        self._loss = torch.as_tensor(state.get("loss", 0.0), dtype=torch.float32, device=device)  # summed over an epoch
        self._pending: list[tuple[Tensor, int]] = []  # of epochs without a row: sum of the losses on the device, and steps
        self._update: Callable[[Batch], None] = self._change
        if self._ranks.size == 1:
            self._update = recorded(self._change, self._changed, self._optimizer, device)
        self._begin = state["epoch"], state["step"]
        self._epochs = recipe.stop_after or recipe.epochs
        self._progress = Progress(title, self._epochs, state["epoch"])
        self._fetched = time.monotonic()

    def run(
        self,
        batches: Callable[[int, int], Iterable[Batch]],
        test: Callable[[nn.Module, int], Measured] | None,
        test_every: int,
    ) -> list[EpochRow]:
        """Train from the checkpoint to the end; one row per epoch."""
        first_epoch, first_step = self._begin
        self._model.train()
        for epoch in range(first_epoch, self._epochs):
            self._train_epoch(epoch, first_step, batches(epoch, first_step))
            first_step = 0
            if test and ((epoch + 1) % test_every == 0 or epoch + 1 == self._epochs):
                self._complete_rows()  # first, so that weights after a loss that is not finite are not tested
                self._history[-1] = {**self._history[-1], **self._measure(test, epoch)}
            elif self._ranks.size > 1 or time.monotonic() - self._fetched >= _FETCH_SECONDS:  # ranks fail at the same epoch
                self._complete_rows()
            self._show()
        if first_epoch < self._epochs:
            self._checkpoint.save(self._state(self._epochs, 0))  # a resumed job with several trainings does not repeat this one
        # Also where no epoch was left to train: in training mode, a test would change BatchNorm's statistics.
        self._model.eval()
        return self._history

    def _train_epoch(self, epoch: int, first_step: int, batches: Iterable[Batch]) -> None:
        """An epoch's steps; their losses stay on the device."""
        set_step_size(self._optimizer, learning_rate(self._recipe, epoch))
        steps = first_step
        for steps, batch in enumerate(batches, first_step + 1):
            self._step(batch, epoch, steps - 1)
            self._checkpoint.tick(lambda steps=steps: self._state(epoch, steps))  # type: ignore[misc]
        self._pending.append((self._loss.clone(), steps))
        self._loss.zero_()

    def _complete_rows(self) -> None:
        """Give every epoch so far its row, with the mean loss of its steps. Waits for the device."""
        sums = torch.stack([loss for loss, _ in self._pending]).tolist() if self._pending else []
        for loss, (_, steps) in zip(sums, self._pending, strict=True):
            row: EpochRow = {"epoch": len(self._history) + 1, "loss": loss / steps}
            if not math.isfinite(row["loss"]):
                remedy = f"lower lr ({self._recipe.lr})"
                raise UserError(f"{self._title}: epoch {row['epoch']}: expected a finite loss, got {row['loss']}; {remedy}")
            self._history.append(row)
        self._pending.clear()
        self._fetched = time.monotonic()

    def _measure(self, test: Callable[[nn.Module, int], Measured], epoch: int) -> Measured:
        if self._averaged:
            return test(self._averaged.module().eval(), epoch)
        self._model.eval()
        measured = test(self._model, epoch)
        self._model.train()
        return measured

    def _show(self) -> None:
        """Show the progress of epochs that have rows."""
        for row in self._history[self._progress.done :]:
            self._progress.step(**{name: value for name, value in row.items() if isinstance(value, float)})

    def _step(self, batch: Batch, epoch: int, number: int) -> None:
        rank = self._ranks.rank
        # Rank 0 draws the numbers of a single process; every other rank has its own dropout.
        seed_torch(derive_seed(self._recipe.seed, "step", epoch, number, *([rank] if rank else [])), self._loss.device)
        if self._averaged:
            self._averaged.advance()
        self._update(batch)
        self._has_stepped = True

    def passes(self) -> list[str]:
        """How steps ran in this process and in earlier ones; each way once."""
        now = how_steps_ran(self._update, self._loss.device) if self._has_stepped else []
        return list(dict.fromkeys([*self._passes, *now]))

    def _change(self, batch: Batch) -> None:
        """A step: nothing in it depends on a value in Python that changes from step to step."""
        self._optimizer.zero_grad(set_to_none=True)
        for loss in self._losses(self._model, batch):
            loss.backward()  # type: ignore[no-untyped-call]
            self._loss.add_(loss.detach())
        gradients = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        self._ranks.add(gradients)
        self._optimizer.step()
        if self._averaged:
            self._averaged.add()

    def _changed(self) -> list[Tensor]:
        """The tensors that a step changes."""
        averages = [value for entry in self._optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
        averaged = self._averaged.tensors() if self._averaged else []
        return [*self._model.state_dict().values(), *averages, *averaged, self._loss]

    def _state(self, epoch: int, step: int) -> State:
        self._complete_rows()
        self._show()  # a process that goes on from here shows later epochs alone
        state = {"epoch": epoch, "step": step, "history": self._history, "passes": self.passes(), "loss": self._loss}
        state |= {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
        return state | ({"averaged": self._averaged.state()} if self._averaged else {})

    def _restore(self, state: State) -> None:
        load_own(self._model, state["model"])
        _restore(self._optimizer, state["optimizer"])
        if self._averaged:
            self._averaged.restore(state["averaged"])
