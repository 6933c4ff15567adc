"""A training's steps, recorded and replayed: the training gives the same as without, and as a plain loop of torch's."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gvbsm.backbones.build import build
from gvbsm.method import replays
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.training import fit as training
from gvbsm.training import graphs
from gvbsm.training.fit import Recipe, fit, learning_rate
from gvbsm.training.graphs import Recorded, form_of, tensors_of, with_tensors
from gvbsm.training.precision import autocast

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="records CUDA graphs, and no GPU is here")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SGD = Recipe(epochs=3, optimizer="sgd", lr=0.05, momentum=0.9, weight_decay=0.01, schedule="cosine", seed=0, ema=0.9)
RECIPES = {
    "sgd": SGD,
    "adamw": dataclasses.replace(SGD, optimizer="adamw", lr=0.002),
    "plain": dataclasses.replace(SGD, momentum=0.0, ema=None),
}


class Batch(NamedTuple):
    """As students' batches: a number and parts."""

    views: int
    parts: tuple[tuple[Tensor, Tensor, None], ...]


def network(device: torch.device = CPU) -> nn.Module:
    torch.manual_seed(0)
    model = build("resnet10", classes=10, image_size=16, channels=1, width=8)
    return model.to(device, memory_format=torch.channels_last)


def batches_of(device: torch.device, parts: int = 1) -> list[Batch]:
    """Of 8, 8 and 5 images."""
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(21, 1, 16, 16, generator=generator).to(device), torch.arange(21, device=device) % 10
    x = x.contiguous(memory_format=torch.channels_last)
    pairs = zip(x.split(8), labels.split(8), strict=True)
    return [Batch(len(y), tuple(zip(b.chunk(parts), y.chunk(parts), parts * [None], strict=True))) for b, y in pairs]


def losses_in(precision: str, device: torch.device) -> Callable[[nn.Module, Batch], Iterator[Tensor]]:
    def losses(model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        for x, labels, _ in batch.parts:
            with autocast(device, precision):
                logits = model(x)
            yield len(labels) / batch.views * F.cross_entropy(logits.float(), labels)

    return losses


def trained(
    model: nn.Module,
    recipe: Recipe,
    precision: str = "float32",
    parts: int = 1,
    checkpoint: Checkpoint | None = None,
    passes: list[str] | None = None,
) -> dict[str, Tensor]:
    """Weights, buffers, losses, and what the tested network says after each epoch."""
    device = next(model.parameters()).device
    batches = batches_of(device, parts)
    seen: dict[str, Tensor] = {}

    def after_epoch(model: nn.Module, epoch: int) -> dict[str, float]:
        with torch.no_grad():
            seen[f"logits {epoch}"] = model(batches[0].parts[0][0]).clone()
        return {}

    checkpoint = checkpoint or Checkpoint(None, float("inf"))
    losses = losses_in(precision, device)
    history = fit(
        model, recipe, lambda epoch, first: iter(batches[first:]), losses, checkpoint, "test", after_epoch, passes=passes
    )
    return {**model.state_dict(), **seen, "losses": torch.tensor([row["loss"] for row in history])}


def by_torch_alone(model: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """The same training as a plain loop: step sizes and decays are numbers, and no step is fused."""
    device = next(model.parameters()).device
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum or 0.0)
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr, foreach=False, fused=False)
    averaged, steps, seen, means = copy.deepcopy(model), 0, {}, []
    batches, losses = batches_of(device), losses_in("float32", device)
    for epoch in range(recipe.epochs):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        total = 0.0
        for batch in batches:
            optimizer.zero_grad()
            for loss in losses(model, batch):
                loss.backward()
                total += loss.item()
            optimizer.step()
            decay = min(recipe.ema or 0.0, (1 + steps) / (10 + steps)) if steps else 0.0
            with torch.no_grad():
                for mean, weight in zip(averaged.parameters(), model.parameters(), strict=True):
                    mean.copy_(decay * mean + (1 - decay) * weight)
                for mean, buffer in zip(averaged.buffers(), model.buffers(), strict=True):
                    mean.copy_(buffer)
            steps += 1
        means.append(total / len(batches))
        with torch.no_grad():
            seen[f"logits {epoch}"] = averaged.eval()(batches[0].parts[0][0]).clone()
    return {**model.state_dict(), **seen, "losses": torch.tensor(means)}


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], close: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=close, atol=close, msg=lambda text, name=name: f"{name}: {text}")


def tried(run: Callable[[], None], state: list[Tensor]) -> Callable[[], None]:
    """In place of a recording: one trial that is undone, then the step itself over its fixed tensors."""
    before = [tensor.clone() for tensor in state]
    with torch.random.fork_rng([]):
        run()
    with torch.no_grad():
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
    return run


@pytest.fixture
def recorders(monkeypatch) -> list[Recorded]:
    """The steps of trainings on the CPU, which are `tried` instead of recorded."""
    made: list[Recorded] = []

    def recorded(step: Any, state: Any, optimizer: Any, device: Any) -> Recorded:
        made.append(Recorded(step, state, tried))
        return made[-1]

    monkeypatch.setattr(training, "recorded", recorded)
    return made


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_is_that_of_a_plain_loop(recipe):
    assert_close(trained(network(), RECIPES[recipe]), by_torch_alone(network(), RECIPES[recipe]), 2e-5)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("recipe", RECIPES)
def test_steps_over_fixed_tensors_are_the_same(recipe, parts, recorders, monkeypatch):
    """The trial leaves no trace: the tensors that a step is said to change are all that it changes."""
    got = trained(network(), RECIPES[recipe], parts=parts)
    assert [len(recorder.graphs) for recorder in recorders] == [2], "batches of 8 and of 5"
    monkeypatch.setattr(training, "recorded", lambda step, state, optimizer, device: step)
    expected = trained(network(), RECIPES[recipe], parts=parts)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_over_fixed_tensors_resumes_to_the_same_bytes(recipe, recorders, tmp_path, monkeypatch):
    expected = trained(network(), RECIPES[recipe])
    tick, ticks = Checkpoint.tick, 0

    def stopping(self: Checkpoint, state: Callable[[], Any]) -> None:
        nonlocal ticks
        ticks += 1
        tick(self, state)
        if ticks == 5:  # in the second epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "tick", stopping)
    with pytest.raises(KeyboardInterrupt):
        trained(network(), RECIPES[recipe], checkpoint=Checkpoint(tmp_path / "c", 0))
    got = trained(network(), RECIPES[recipe], checkpoint=Checkpoint(tmp_path / "c", 0))
    assert ticks > 5 and "logits 0" not in got
    for name in got:
        assert torch.equal(got[name], expected[name]), name


@pytest.mark.parametrize(
    ("epochs", "most", "expected"),
    [
        (3, graphs._MOST, ["not compiled, recorded"]),
        (1, 0, ["not compiled, not recorded (large batches)"]),
        (1, graphs._MOST, ["not compiled, recorded"]),  # two batches of 8
        (3, 5 * 16 * 16, ["not compiled, recorded", "not compiled, not recorded (large batches)"]),  # those of 5 are not large
    ],
)
def test_how_steps_ran_is_said(epochs, most, expected, recorders, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST", most)
    ran = []
    trained(network(), dataclasses.replace(SGD, epochs=epochs), passes=ran)
    assert ran == expected


def test_how_steps_ran_without_graphs_and_in_earlier_processes_is_said(tmp_path, monkeypatch):
    checkpoint, ran = Checkpoint(tmp_path / "c", 0), []
    trained(network(), dataclasses.replace(SGD, stop_after=1), checkpoint=checkpoint, passes=ran)
    assert ran == ["not compiled"]
    monkeypatch.setattr(training, "how_steps_ran", lambda step, device: ["not compiled, recorded"])
    trained(network(), SGD, checkpoint=checkpoint, passes=ran)
    assert ran == ["not compiled", "not compiled, recorded"]
    again = []
    trained(network(), SGD, checkpoint=checkpoint, passes=again)  # no step is left
    assert again == ran
    assert graphs.how_steps_ran(Recorded(print, list, tried), CUDA) == ["not compiled, not recorded (few steps)"]
    assert graphs.how_steps_ran(print, CUDA) == ["not compiled, not recorded (several processes)"]


def test_a_step_that_cannot_be_recorded_is_made_as_it_is(monkeypatch):
    def fails(run: Callable[[], None], state: list[Tensor]) -> Callable[[], None]:
        raise RuntimeError("called a synchronizing CUDA operation\nand more")

    expected, ran = trained(network(), SGD), []
    monkeypatch.setattr(training, "recorded", lambda step, state, optimizer, device: Recorded(step, state, fails))
    with pytest.warns(UserWarning, match="trained without CUDA graphs: called a synchronizing CUDA operation$") as warned:
        got = trained(network(), SGD, passes=ran)
    assert ran == ["not compiled, not recorded (called a synchronizing CUDA operation)"]
    assert len(warned) == 1 and all(torch.equal(got[name], expected[name]) for name in expected)


def test_large_batches_are_not_recorded(recorders, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST", 5 * 16**2)
    trained(network(), SGD)
    assert [len(recorder.graphs) for recorder in recorders] == [1], "batches of 5"


def test_batches_are_taken_apart_and_put_together():
    batch = batches_of(CPU, 2)[0]
    tensors = list(tensors_of(batch))
    other = with_tensors(batch, iter([2 * tensor for tensor in tensors]))
    assert isinstance(other, Batch) and other.views == 8 and len(tensors) == 4
    assert torch.equal(other.parts[1][0], 2 * batch.parts[1][0]) and other.parts[1][2] is None
    assert form_of(other) == form_of(batch) != form_of(other._replace(views=9))
    assert form_of(batch) != form_of(batches_of(CPU, 2)[2])


def test_all_recordings_on_a_gpu_share_a_stream(monkeypatch):
    """cuBLAS keeps memory for each stream, and a batch, a round or a training is recorded anew."""
    made: list[int] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or object())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(replays, "_stream_of", functools.cache(replays._stream_of.__wrapped__))
    devices = [torch.device(name) for name in ("cuda", "cuda:1", "cuda:0", "cuda")]
    streams = [replays.Replays(device)._stream for device in devices]
    assert made == [1, 0] and streams[0] is streams[1] is streams[3] and streams[0] is not streams[2]


def cudnn() -> contextlib.AbstractContextManager[None]:
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


@needs_cuda
@pytest.mark.parametrize(("precision", "parts", "close"), [("float32", 1, 1e-3), ("bfloat16", 1, 5e-2), ("float32", 2, 1e-3)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_replayed_training_is_the_same(recipe, precision, parts, close, monkeypatch):
    """Step sizes and decays are those of each step, not of the recording."""
    made: list[Recorded] = []
    record = graphs.recorded
    monkeypatch.setattr(training, "recorded", lambda *arguments: made.append(record(*arguments)) or made[-1])
    with cudnn():
        replayed = trained(network(CUDA), RECIPES[recipe], precision, parts)
        monkeypatch.setattr(training, "recorded", lambda step, *arguments: step)
        expected = trained(network(CUDA), RECIPES[recipe], precision, parts)
    assert len(made[0].graphs) == 2, "batches of 8 and of 5"
    assert_close(replayed, expected, close)


class Dropping(nn.Module):
    """Random in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(256, 10), nn.BatchNorm1d(10), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(self.linear(x.flatten(1))))


class ValueDependent(Dropping):
    """Cannot be recorded: its launches depend on values."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if x.sum().item() > 1e9 else 2 * x


@needs_cuda
@pytest.mark.parametrize("kind", [Dropping, ValueDependent])
def test_random_numbers_are_those_of_each_steps_seed(kind, monkeypatch):
    def after() -> dict[str, Tensor]:
        torch.manual_seed(0)
        return trained(kind().to(CUDA), SGD)

    warns = pytest.warns(UserWarning, match="trained without CUDA graphs: .*synchroniz")
    with warns if kind is ValueDependent else contextlib.nullcontext():
        replayed = after()
    monkeypatch.setattr(training, "recorded", lambda step, *arguments: step)
    assert_close(replayed, after(), 1e-4)


@needs_cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_another_device_than_the_current_one(monkeypatch):
    device = torch.device("cuda:1")
    with cudnn():
        replayed = trained(network(device), SGD)
        monkeypatch.setattr(training, "recorded", lambda step, *arguments: step)
        assert_close(replayed, trained(network(device), SGD), 1e-3)
