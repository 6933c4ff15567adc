"""CUDA graphs of a training's passes: what a training gives is what it gives without them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gvbsm.backbones import build
from gvbsm.runtime import training
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import autocast
from gvbsm.runtime.graphs import Replayed
from gvbsm.runtime.training import Recipe, fit

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="records CUDA graphs, and no GPU is here")
CUDA = torch.device("cuda")
RECIPE = Recipe(epochs=3, optimizer="adamw", lr=1e-3, momentum=None, weight_decay=0.01, schedule="cosine", seed=0, ema=0.9)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = build("resnet10", classes=10, image_size=16, channels=1, width=8)  # no weight is without a gradient
    return model.to(CUDA, memory_format=torch.channels_last)


def trained(model: nn.Module, precision: str = "float32", parts: int = 1) -> dict[str, Tensor]:
    """Weights, buffers and losses after three epochs of batches of 8, 8 and 5."""
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(21, 1, 16, 16, generator=generator).to(CUDA), torch.arange(21, device=CUDA) % 10

    def losses(model: nn.Module, batch: Tensor) -> Iterator[Tensor]:
        for index in batch.chunk(parts):
            with autocast(CUDA, precision):
                logits = model(x[index])
            yield F.cross_entropy(logits.float(), labels[index]) / parts

    batches = list(torch.arange(21, device=CUDA).split(8))
    seen: dict[str, Tensor] = {}

    def after_epoch(model: nn.Module, epoch: int) -> dict[str, float]:
        with torch.no_grad():
            seen[f"logits {epoch}"] = model(x).clone()
        return {}

    checkpoint = Checkpoint(None, float("inf"))
    history = fit(model, RECIPE, lambda epoch, first: batches[first:], losses, checkpoint, "test", after_epoch)
    return {**model.state_dict(), **seen, "losses": torch.tensor([row["loss"] for row in history])}


@needs_cuda
@pytest.mark.parametrize(("precision", "parts", "close"), [("float32", 1, 1e-3), ("bfloat16", 1, 5e-2), ("float32", 2, 1e-3)])
def test_a_replayed_training_is_the_same(monkeypatch, precision, parts, close):
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        replayed = trained(network(), precision, parts)
        monkeypatch.setattr(training, "Replayed", lambda model: model)
        expected = trained(network(), precision, parts)
    for name, value in expected.items():
        torch.testing.assert_close(replayed[name], value, rtol=close, atol=close, msg=lambda text, name=name: f"{name}: {text}")


@needs_cuda
def test_passes_are_recorded_once_for_each_shape(monkeypatch):
    recorded: list[Replayed] = []

    class Watched(Replayed):
        def __init__(self, model: nn.Module) -> None:
            super().__init__(model)
            recorded.append(self)

    monkeypatch.setattr(training, "Replayed", Watched)
    trained(network())
    assert {shape[0] for shape in recorded[0]._graphs} == {8, 5}


@needs_cuda
def test_dropout_is_drawn_anew_in_every_step():
    """And from the seed, as without graphs."""
    model = Replayed(nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.5)).to(CUDA))
    x = torch.ones(4, 32, device=CUDA)

    def passed(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(x).detach().clone()

    first, second, again = passed(1), passed(2), passed(1)
    assert not torch.equal(first, second) and torch.equal(first, again)


@needs_cuda
def test_large_batches_and_tests_are_not_recorded(monkeypatch):
    model = Replayed(network())
    monkeypatch.setattr("gvbsm.runtime.graphs._MOST", 1000)
    x = torch.randn(4, 1, 16, 16, device=CUDA)
    assert model(x).requires_grad and not model._graphs
    monkeypatch.setattr("gvbsm.runtime.graphs._MOST", 1024)
    with torch.no_grad():
        model(x)
    model.eval()
    model(x)
    assert not model._graphs
    model.train()
    model(x).sum().backward()
    assert len(model._graphs) == 1
    gradients = [weight.grad.clone() for weight in model.parameters()]
    model(x).sum().backward()  # beside gradients that are there: not replayed, and added to them
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        assert not torch.equal(weight.grad, gradient)


class Asks(nn.Module):
    """Cannot be recorded: its launches depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(256, 10), nn.BatchNorm1d(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.linear(x.flatten(1)))
        return x if x.sum().item() > 1e9 else 2 * x


@needs_cuda
def test_a_network_that_cannot_be_recorded_is_trained_without(monkeypatch):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="trained without CUDA graphs: "):
        replayed = trained(Asks().to(CUDA))
    monkeypatch.setattr(training, "Replayed", lambda model: model)
    torch.manual_seed(0)
    for name, value in trained(Asks().to(CUDA)).items():
        torch.testing.assert_close(replayed[name], value, rtol=1e-4, atol=1e-4)
