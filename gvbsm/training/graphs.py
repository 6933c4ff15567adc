"""CUDA graphs of whole training steps on small batches, whose kernels take less time than their launches."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from gvbsm.errors import first_line
from gvbsm.method.reasons import because
from gvbsm.method.replays import Replay, Replays

Batch = TypeVar("Batch")

_MOST = 2**21  # values of a batch: for larger batches launches do not matter, and a graph keeps its memory


class Recorded(Generic[Batch]):
    """A step, recorded from the second batch of a form on, one graph per form, and replayed for later ones.

    A form is the shapes and the numbers in a batch of nested tuples. The step may change its tensors in place alone, and has to
    read what changes between batches (step size, decay) from tensors. A random branch in Python code is replayed as it was
    recorded. A step that reads values back from the device cannot be recorded; steps are then made as they are, and a warning
    gives the reason.
    """

    def __init__(
        self,
        step: Callable[[Batch], None],
        state: Callable[[], list[Tensor]],
        record: Callable[[Replay, list[Tensor]], Replay],
        once: Callable[[Replay], None] = lambda step: step(),
    ) -> None:
        """`state()` are the tensors that `step` changes. `record(run, state)` gives what repeats `run`, and leaves the state as
        it was; `once` makes a step that is not recorded. They are `tried` and `run` of `TriedReplays`."""
        self._step, self._state, self._record, self._once = step, state, record, once
        self._forms: set[Any] = set()  # of earlier batches
        self.graphs: dict[Any, tuple[Replay, list[Tensor]]] = {}  # and the tensors that they read the batch from
        self._fails = ""  # why it cannot be recorded
        self._are_large = False  # some batches

    def __call__(self, batch: Batch) -> None:
        """One step on a batch."""
        is_large = max(tensor.numel() for tensor in tensors_of(batch)) > _MOST
        self._are_large |= is_large
        if self._fails or is_large:
            return self._step(batch)
        form = form_of(batch)
        if form not in self._forms:
            self._forms.add(form)
            return self._once(lambda: self._step(batch))
        if form not in self.graphs:
            fixed = [tensor.clone() for tensor in tensors_of(batch)]
            fixed_batch = with_tensors(batch, iter(fixed))
            try:
                self.graphs[form] = self._record(lambda: self._step(fixed_batch), self._state()), fixed
            except RuntimeError as error:
                self._fails = first_line(error)
                warnings.warn(f"trained without CUDA graphs: {self._fails}", stacklevel=2)
                return self._step(batch)
        replay, fixed = self.graphs[form]
        for place, tensor in zip(fixed, tensors_of(batch), strict=True):
            place.copy_(tensor)
        return replay()

    def states(self) -> list[str]:
        """Whether steps were recorded, and why not; two entries if some were."""
        if self._fails:
            return [because("not recorded", self._fails)]
        states = [*(["recorded"] if self.graphs else []), *(["not recorded (large batches)"] if self._are_large else [])]
        return states or ["not recorded (few steps)"]


class TriedReplays(Replays):
    """Replays of an optimizer's steps, each of which is tried before it is recorded."""

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        super().__init__(device)
        self._optimizer = optimizer

    def tried(self, step: Replay, state: list[Tensor]) -> Replay:
        """`record` after a trial: an error in a recording would break random numbers. A recording computes nothing, so only the
        trial's changes of the state are undone.

        Raises:
            RuntimeError: if it cannot be recorded.
        """
        before = [tensor.clone() for tensor in state]
        with torch.random.fork_rng([self._device]):
            try:
                with _waiting_is_an_error():
                    self.run(step)
            finally:
                with torch.no_grad():
                    for tensor, value in zip(state, before, strict=True):
                        tensor.copy_(value)
            with _capturable(self._optimizer):
                return self.record(step)


def recorded(
    step: Callable[[Batch], None], state: Callable[[], list[Tensor]], optimizer: torch.optim.Optimizer, device: torch.device
) -> Callable[[Batch], None]:
    """A step that changes the tensors `state()`, recorded where the device is CUDA."""
    if device.type != "cuda":
        return step
    replays = TriedReplays(optimizer, device)
    return Recorded(step, state, replays.tried, replays.run)


def how_steps_ran(step: Callable[[Batch], None], device: torch.device) -> list[str]:
    """What receipts say of a training's steps, in recover's words; `step` may be `recorded`."""
    states = ["not recorded (several processes)"] if device.type == "cuda" else [""]
    if isinstance(step, Recorded):
        states = step.states()
    return [", ".join(filter(None, ("not compiled", state))) for state in states]


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, in their order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, tuple):
        for item in batch:
            yield from tensors_of(item)


def with_tensors(batch: Any, tensors: Iterator[Tensor]) -> Any:
    """The same nested tuples with other tensors."""
    if isinstance(batch, Tensor):
        return next(tensors)
    if not isinstance(batch, tuple):
        return batch
    items = [with_tensors(item, tensors) for item in batch]
    return type(batch)(*items) if hasattr(batch, "_fields") else tuple(items)


def form_of(batch: Any) -> Any:
    """The nested tuples with shapes, layouts and types instead of tensors."""
    if isinstance(batch, Tensor):
        return batch.shape, batch.stride(), batch.dtype
    return tuple(map(form_of, batch)) if isinstance(batch, tuple) else batch


@contextlib.contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    """Waiting for the device raises RuntimeError during the block."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextlib.contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Allow a recording of the optimizer's step: a fused one keeps its number of steps on the device already."""
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False
