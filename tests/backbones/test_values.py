"""The networks compute what torchvision's, torch's layers or a second way of writing them compute."""

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional as F

from gvbsm import backbones
from gvbsm.backbones.build import build
from gvbsm.backbones.shufflenet_v2 import channel_shuffle
from gvbsm.backbones.weights import load_by_order

NAMES = tuple(name for name in backbones.BACKBONES if name not in ("resnet50", "resnet101"))  # the quick ones


def small(name: str) -> nn.Module:
    """A 16 px network for running, with non-trivial norm parameters and running statistics, in eval mode."""
    torch.manual_seed(0)
    net = build(name, classes=5, image_size=16)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.uniform_(-0.5, 0.5)
                module.get_buffer("running_var").uniform_(0.5, 1.5)
    return net.eval()


@torch.no_grad()
def test_resnet_is_torchvisions_with_another_stem() -> None:
    with torch.device("meta"):
        meta = build("resnet50", classes=1000, image_size=32)
    reference = torchvision.models.resnet18(num_classes=5)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    assert list(meta.state_dict()) == list(torchvision.models.resnet50().state_dict())
    net, x_BCHW = small("resnet18"), torch.randn(2, 3, 16, 16)
    reference.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x_BCHW), reference.eval()(x_BCHW))


@torch.no_grad()
def test_shufflenet_is_torchvisions_with_another_stem() -> None:
    reference = torchvision.models.shufflenet_v2_x0_5(num_classes=5)
    reference.conv1[0] = nn.Conv2d(3, 24, 1, bias=False)
    reference.maxpool = nn.Identity()
    net, x_BCHW = small("shufflenet_v2"), torch.randn(2, 3, 16, 16)
    load_by_order(reference, net.state_dict())
    torch.testing.assert_close(net(x_BCHW), reference.eval()(x_BCHW))


@torch.no_grad()
def test_instance_norm_is_torchs() -> None:
    net, x_BCHW = small("convnet"), torch.randn(2, 3, 16, 16)
    reference = nn.Sequential()
    for inside in (3, 128, 128):
        reference.extend([nn.Conv2d(inside, 128, 3, padding=1), nn.InstanceNorm2d(128, affine=True)])
        reference.extend([nn.ReLU(), nn.AvgPool2d(2)])
    reference.extend([nn.Flatten(), nn.Linear(512, 5)])
    load_by_order(reference, net.state_dict())
    torch.testing.assert_close(net(x_BCHW), reference(x_BCHW))


@torch.no_grad()
def test_wide_resnet_projects_the_activated_input() -> None:
    net, x_BCHW = small("wrn16_2"), torch.randn(2, 3, 16, 16)
    values = iter(net.state_dict().values())

    def activate(x_BCHW: Tensor) -> Tensor:
        weight, bias, mean, variance, _ = (next(values) for _ in range(5))
        return F.batch_norm(x_BCHW, mean, variance, weight, bias).relu()

    y_BCHW = F.conv2d(x_BCHW, next(values), padding=1)
    for stride in (1, 2, 2):
        a_BCHW = activate(y_BCHW)
        inner_BCHW = activate(F.conv2d(a_BCHW, next(values), stride=stride, padding=1))
        inner_BCHW = F.conv2d(inner_BCHW, next(values), padding=1)
        y_BCHW = inner_BCHW + F.conv2d(a_BCHW, next(values), stride=stride)
        inner_BCHW = activate(F.conv2d(activate(y_BCHW), next(values), padding=1))
        y_BCHW = y_BCHW + F.conv2d(inner_BCHW, next(values), padding=1)
    expected = F.linear(activate(y_BCHW).mean((2, 3)), next(values), next(values))
    torch.testing.assert_close(net(x_BCHW), expected)


@torch.no_grad()
def test_mobilenet_adds_its_input_ten_times_and_has_plain_relus() -> None:
    net = small("mobilenet_v2")
    blocks = list(net.get_submodule("blocks").children())
    shortcuts = [block for block in blocks if block.residual]
    assert (len(blocks), len(shortcuts)) == (17, 10)
    assert not any(isinstance(module, nn.ReLU6) for module in net.modules())
    x_BCHW = torch.randn(2, 12, 4, 4)
    block = blocks[2]
    torch.testing.assert_close(block(x_BCHW), x_BCHW + block.get_submodule("branch")(x_BCHW))


@pytest.mark.parametrize("name", NAMES)
def test_inputs_read_by_hooks_are_never_changed_and_carry_gradients(name: str) -> None:
    net, read = small(name), []
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_pre_hook(lambda _module, args: read.append((args[0], args[0]._version)))
    x_BCHW = torch.randn(2, 3, 16, 16, requires_grad=True)
    net(x_BCHW)
    assert all(tensor._version == version for tensor, version in read)
    sum(tensor.var() for tensor, _ in read).backward()
    assert x_BCHW.grad is not None
    assert bool(x_BCHW.grad.isfinite().all())
    assert bool(x_BCHW.grad.any())


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_channels_last_gives_the_same_values(name: str) -> None:
    net, x_BCHW = small(name), torch.randn(2, 3, 16, 16)
    expected = net(x_BCHW)
    got = net.to(memory_format=torch.channels_last)(x_BCHW.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (2, 6, 1, 1), (1, 6, 4, 4)])
@pytest.mark.parametrize("groups", [2, 3])
def test_channel_shuffle_is_torchs_in_both_memory_formats(shape: tuple[int, ...], groups: int) -> None:
    x_BCHW = torch.randn(shape)
    expected = F.channel_shuffle(x_BCHW, groups)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        got = channel_shuffle(x_BCHW.contiguous(memory_format=memory_format), groups)
        assert torch.equal(got, expected)
        assert got.is_contiguous(memory_format=memory_format)
