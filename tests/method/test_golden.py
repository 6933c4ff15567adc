"""The maths against figures that the published implementation printed, to 1e-6 relative in float64."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.one_pass import one_pass
from gvbsm.method.densification import densification_loss
from gvbsm.method.matching import Matching, StatisticsMatcher
from gvbsm.method.measuring import Measuring, Segment
from gvbsm.method.moments import Accumulator, Moments, moments, with_squares

GOLDEN = Path(os.environ.get("GVBSM_GOLDEN") or Path(__file__).parents[1] / "data" / "golden")
LAYERS = sorted(GOLDEN.glob("*/layer_*.npz"))
ODD = [path for path in LAYERS if path.stem in ("layer_5x9", "layer_7x7")]  # the others take long in Triton's interpreter
DENSIFICATIONS = sorted(GOLDEN.glob("*/densification_*.npz"))
NETWORKS = sorted(GOLDEN.glob("*/network.npz"))
RELATIVE = 1e-6
BOTH = ("channel", "patch")
NIGHTLY = pytest.mark.nightly("compile")


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def load(path: Path) -> dict:
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) if arrays[name].dtype.kind in "fi" else arrays[name] for name in arrays}


def agree(got: torch.Tensor, expected: torch.Tensor, relative: float = RELATIVE) -> None:
    """By norm: the figures' own rounding makes single entries of a gradient near 0 meaningless."""
    difference = torch.linalg.vector_norm((got - expected).flatten()).item()
    assert difference <= relative * torch.linalg.vector_norm(expected.flatten()).item() + 1e-15


def test_the_folder_holds_every_kind_of_figure():
    assert {path.parent.name for path in LAYERS} >= {"patch4", "patch16"}, f"no golden layers in {GOLDEN}"
    assert DENSIFICATIONS and NETWORKS, f"no golden figures in {GOLDEN}"


def statistics_over(batches: list[dict[str, torch.Tensor]], golden: dict) -> dict[str, Moments]:
    """layer -> its statistics over batches of inputs by layer."""
    patch = int(golden["patch_size"])
    sizes = [(layer, kind, moments(x, BOTH, patch)[f"{kind}_mean"]) for layer, x in batches[0].items() for kind in BOTH]
    measuring = Measuring([Segment(layer, kind, len(mean)) for layer, kind, mean in sizes], patch)
    accumulator = Accumulator("mean_of_batches")
    for inputs in batches:
        accumulator.add(with_squares(measuring(inputs, lambda layer: False)), len(next(iter(inputs.values()))))
    return measuring.by_layer(accumulator.result())


@pytest.mark.parametrize("path", LAYERS, ids=name_of)
def test_statistics_over_uneven_batches(path):
    golden = load(path)
    (got,) = statistics_over([{"layer": golden[f"statistics_batch_{i}"]} for i in range(3)], golden).values()
    for kind, value in got.items():
        agree(value, golden[kind])


class OneLayer(nn.Module):
    """A network of which only the input of one layer matters."""

    def __init__(self, golden: dict, kind: str) -> None:
        super().__init__()
        channels = golden["input_0"].shape[1]
        self.layer = nn.Conv2d(channels, 1, 1) if kind == "conv" else nn.BatchNorm2d(channels)
        if kind == "bn":
            self.layer.running_mean.data = golden["bn_running_mean"]
            self.layer.running_var.data = golden["bn_running_var"]
        self.double().eval()

    def forward(self, x):
        return self.layer(x).flatten(1)


def three_steps(path: Path, kind: str, dtype: torch.dtype, device: torch.device, relative: float) -> None:
    golden = load(path)
    matching = Matching(int(golden["patch_size"]), float(golden["momentum"]), 1.0, "zero", "skip")
    targets = {"layer": {name: golden[name] for name in ("channel_mean", "channel_var", "patch_mean", "patch_var")}}
    with StatisticsMatcher(OneLayer(golden, kind).to(device, dtype), targets, matching) as matcher:
        for step in range(3):
            x = golden[f"input_{step}"].to(device, dtype).requires_grad_()
            _, loss = one_pass(matcher, x)
            loss.backward()
            agree(loss.detach().cpu().double(), golden[f"{kind}_loss_{step}"], relative)
            agree(x.grad.cpu().double(), golden[f"{kind}_grad_{step}"], relative)


@pytest.mark.parametrize("kind", ["conv", "bn"])
@pytest.mark.parametrize("path", LAYERS, ids=name_of)
def test_matching_loss_over_three_steps(path, kind):
    three_steps(path, kind, torch.float64, torch.device("cpu"), RELATIVE)


@pytest.mark.parametrize("kind", ["conv", "bn"])
@pytest.mark.parametrize("path", [path if path in ODD else pytest.param(path, marks=NIGHTLY) for path in LAYERS], ids=name_of)
@pytest.mark.usefixtures("kernels")
def test_matching_loss_over_three_steps_by_the_kernels(path, kind):
    """In float32, which is what the kernels sum in."""
    three_steps(path, kind, torch.float32, torch.device("cuda" if torch.cuda.is_available() else "cpu"), 1e-4)


@pytest.mark.parametrize("path", DENSIFICATIONS, ids=name_of)
def test_densification(path):
    golden = load(path)
    x = golden["images"].requires_grad_()
    loss = densification_loss(x, golden["targets"], float(golden["tau"]), "none")
    loss.backward()
    agree(loss.detach(), golden["loss"])
    agree(x.grad, golden["grad"])


class Network(nn.Module):
    """The network of the golden README."""

    def __init__(self, golden: dict) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.conv3 = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.fc = nn.Linear(12, 4)
        self.double().eval()
        self.load_state_dict({n.removeprefix("weights."): v for n, v in golden.items() if n.startswith("weights.")})

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(F.relu(self.conv3(x)).mean((2, 3)))


@pytest.mark.parametrize("path", NETWORKS, ids=name_of)
def test_whole_network_over_three_steps(path):
    golden = load(path)
    network = Network(golden)
    targets = {
        layer: {n.rpartition(".")[2]: v for n, v in golden.items() if n.startswith(f"statistics.{layer}.")}
        for layer in ("conv1", "conv2", "conv3")
    }
    matching = Matching(int(golden["patch_size"]), float(golden["momentum"]), float(golden["first_multiplier"]), "zero", "skip")
    with StatisticsMatcher(network, targets, matching) as matcher:
        assert list(matcher.layers) == golden["layer_order"].tolist()
        for step in range(3):
            x = golden[f"images_{step}"].requires_grad_()
            targets_B = golden[f"targets_{step}"] if f"targets_{step}" in golden else golden["targets"]
            logits, statistics = one_pass(matcher, x)
            cross_entropy = F.cross_entropy(logits, targets_B)
            densification = densification_loss(x, targets_B, float(golden["tau"]), "none")
            total = cross_entropy + float(golden["r_loss"]) * statistics + float(golden["nuc_norm"]) * densification
            total.backward()
            agree(logits.detach(), golden[f"logits_{step}"])
            agree(cross_entropy.detach(), golden[f"cross_entropy_{step}"])
            agree(statistics.detach(), golden[f"statistics_loss_{step}"])
            agree(densification.detach(), golden[f"densification_loss_{step}"])
            agree(total.detach(), golden[f"total_loss_{step}"])
            agree(x.grad, golden[f"image_grad_{step}"])


@pytest.mark.parametrize("path", NETWORKS, ids=name_of)
def test_statistics_of_a_whole_network(path):
    golden = load(path)
    network = Network(golden)
    inputs: dict[str, torch.Tensor] = {}
    for name in ("conv1", "conv2", "conv3"):
        getattr(network, name).register_forward_pre_hook(lambda _, x, name=name: inputs.update({name: x[0]}))
    batches = []
    for i in range(2):
        network(golden[f"training_batch_{i}"])
        batches.append(dict(inputs))
    got = statistics_over(batches, golden)
    assert len(got) == 3
    for name, of_layer in got.items():
        for kind, value in of_layer.items():
            agree(value, golden[f"statistics.{name}.{kind}"])
