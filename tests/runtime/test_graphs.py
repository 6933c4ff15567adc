"""CUDA graphs of a training's passes: the training gives the same with and without them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gvbsm.backbones.build import build
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.training import fit as training
from gvbsm.training import graphs
from gvbsm.training.fit import Recipe, fit
from gvbsm.training.graphs import Replayed, passes_of
from gvbsm.training.precision import autocast

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="records CUDA graphs, and no GPU is here")
CUDA = torch.device("cuda")
RECIPE = Recipe(epochs=3, optimizer="sgd", lr=0.05, momentum=0.9, weight_decay=0.01, schedule="cosine", seed=0, ema=0.9)


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


def cudnn() -> contextlib.AbstractContextManager[None]:
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


@needs_cuda
@pytest.mark.parametrize(("precision", "parts", "close"), [("float32", 1, 1e-3), ("bfloat16", 1, 5e-2), ("float32", 2, 1e-3)])
def test_a_replayed_training_is_the_same(monkeypatch, precision, parts, close):
    models: list[Replayed] = []
    monkeypatch.setattr(training, "Replayed", lambda model: models.append(Replayed(model)) or models[0])
    with cudnn():
        replayed = trained(network(), precision, parts)
        monkeypatch.setattr(training, "Replayed", lambda model: model)
        expected = trained(network(), precision, parts)
    sizes = {8, 5} if parts == 1 else {4, 3}  # of the first part, which alone is replayed
    assert {shape[0] for shape in models[0]._graphs} == sizes
    for name, value in expected.items():
        torch.testing.assert_close(replayed[name], value, rtol=close, atol=close, msg=lambda text, name=name: f"{name}: {text}")


@needs_cuda
def test_passes_are_recorded_once_for_a_shape_that_comes_again(monkeypatch):
    recorded: list[int] = []
    record = graphs._record
    monkeypatch.setattr(graphs, "_record", lambda model, x: recorded.append(len(x)) or record(model, x))
    trained(network())
    assert recorded == [8, 5]


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_passes_are_those_of_the_network(frozen):
    """On any device: `passes_of` gives the function that is recorded, and aliases of the weights as its arguments."""
    torch.manual_seed(0)
    model, x = build("resnet10", classes=10, image_size=16, channels=1, width=4), torch.randn(5, 1, 16, 16)
    model.conv1.requires_grad_(not frozen)
    tensors = list(model.parameters())
    model(x).square().sum().backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    passes, aliases = passes_of(model)
    assert [alias.data_ptr() for alias in aliases] == [weight.data_ptr() for weight in tensors]
    assert [alias.requires_grad for alias in aliases] == [weight.requires_grad for weight in tensors]
    gradients = iter(
        torch.autograd.grad(passes(x, *aliases).square().sum(), [alias for alias in aliases if alias.requires_grad])
    )
    for weight in tensors:
        assert (weight.grad is None) == (not weight.requires_grad)
        if weight.requires_grad:
            torch.testing.assert_close(next(gradients), weight.grad)
    after = model.state_dict()
    assert all(torch.equal(after[name], state[name]) for name, _ in model.named_parameters())
    assert not torch.equal(after["bn1.running_mean"], state["bn1.running_mean"])


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_replayed_pass_reads_the_current_weights(precision):
    """And not autocast's copies of the weights at the recording."""
    model, x = Replayed(network()), torch.randn(8, 1, 16, 16, device=CUDA)
    with autocast(CUDA, precision):
        model(x), model(x)
    assert len(model._graphs) == 1
    with torch.no_grad():
        model.model.fc.weight.mul_(2)
    with autocast(CUDA, precision):
        before = model.model(x)
        torch.testing.assert_close(model(x), before, rtol=1e-2, atol=1e-2)


@needs_cuda
def test_dropout_is_drawn_anew_in_every_step():
    """From the seed, as without graphs."""
    model = Replayed(nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.5)).to(CUDA))
    x = torch.ones(4, 32, device=CUDA)

    def passed(network: nn.Module, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return network(x).detach().clone()

    eager, first, second, again = passed(model, 1), passed(model, 1), passed(model, 2), passed(model, 1)
    assert len(model._graphs) == 1
    assert not torch.equal(first, second) and torch.equal(first, again)
    assert torch.equal(eager, passed(model.model, 1)) and torch.equal(eager == 0, first == 0)


@needs_cuda
def test_large_batches_and_tests_are_not_recorded(monkeypatch):
    model, x = Replayed(network()), torch.randn(4, 1, 16, 16, device=CUDA)
    monkeypatch.setattr(graphs, "_MOST", 1000)
    for _ in range(3):
        model(x)
    monkeypatch.setattr(graphs, "_MOST", 1024)
    with torch.no_grad():
        for _ in range(3):
            model(x)
    model.eval()
    for _ in range(3):
        model(x)
    assert not model._graphs


@needs_cuda
def test_gradients_of_a_second_pass_are_added():
    """The second pass is not replayed: a replay would overwrite the gradients of the first."""
    model, generator = Replayed(network()), torch.Generator(CUDA).manual_seed(0)
    first, second = (torch.randn(4, 1, 16, 16, generator=generator, device=CUDA) for _ in range(2))

    def gradients(network: nn.Module, *batches: Tensor) -> list[Tensor]:
        for weight in network.parameters():
            weight.grad = None
        for x in batches:
            network(x).square().sum().backward()
        return [weight.grad.clone() for weight in network.parameters()]

    with cudnn():
        for _ in range(3):
            replayed = gradients(model, first, second)
        expected = gradients(model.model, first, second)
    assert len(model._graphs) == 1
    for ours, theirs in zip(replayed, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


class ValueDependent(nn.Module):
    """Cannot be recorded: its launches depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(256, 10), nn.BatchNorm1d(10), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.linear(x.flatten(1))))
        return x if x.sum().item() > 1e9 else 2 * x


@needs_cuda
def test_a_network_that_cannot_be_recorded_is_trained_without(monkeypatch):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="trained without CUDA graphs: .*synchroniz"):
        replayed = trained(ValueDependent().to(CUDA))
    monkeypatch.setattr(training, "Replayed", lambda model: model)
    torch.manual_seed(0)
    for name, value in trained(ValueDependent().to(CUDA)).items():
        torch.testing.assert_close(replayed[name], value, rtol=1e-4, atol=1e-4)


@needs_cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_another_device_than_the_current_one(monkeypatch):
    monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", None)  # which older versions keep from the first recording
    model = Replayed(network().to("cuda:1"))
    x = torch.randn(3, 4, 1, 16, 16, device="cuda:1")
    outputs = [model(batch).detach().clone() for batch in x]
    for logits, batch in zip(outputs, x, strict=True):
        torch.testing.assert_close(logits, model.model(batch), rtol=1e-2, atol=1e-2)
