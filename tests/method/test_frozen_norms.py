"""BatchNorm layers with a gradient for their input alone, against torch's own."""

import contextlib
import copy
import math

import pytest
import torch
from torch import Tensor, nn

from benchmarks.one_pass import one_pass
from gvbsm.backbones.build import build
from gvbsm.method import measuring
from gvbsm.method.ascent import perturbed
from gvbsm.method.frozen_norms import freeze_norms, thaw_norms
from gvbsm.method.matching import Matching, StatisticsMatcher

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def norm(affine: bool = True, dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(6, eps=0.02, affine=affine)
    for tensor in (*layer.parameters(), layer.running_mean, layer.running_var):
        tensor.data = torch.rand(6) + 0.5
    return layer.to(dtype).eval().requires_grad_(False)


def passed(layer: nn.Module, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and a gradient of the input that is another for every value."""
    x_BCHW = x_BCHW.clone().requires_grad_()
    y_BCHW = layer(x_BCHW)
    weights_BCHW = torch.empty_like(y_BCHW).copy_(torch.arange(y_BCHW.numel()).view(y_BCHW.shape).sin())
    return y_BCHW.detach(), torch.autograd.grad(y_BCHW, x_BCHW, weights_BCHW)[0]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
def test_output_and_gradient_are_torchs(affine, layout):
    layer = norm(affine)
    x_BCHW = torch.randn(3, 6, 5, 4, dtype=torch.float64).contiguous(memory_format=layout)
    expected = passed(copy.deepcopy(layer), x_BCHW)
    assert freeze_norms(layer) == [layer]
    got = passed(layer, x_BCHW)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert got[1].is_contiguous(memory_format=layout)


def test_bfloat16_maps_with_float32_moments():
    """As teachers have them in bfloat16: rounded once."""
    layer, x_BCHW = norm(dtype=torch.float32), torch.randn(3, 6, 8, 8).bfloat16()
    exact = passed(copy.deepcopy(layer).double(), x_BCHW.double())
    freeze_norms(layer)
    got = passed(layer, x_BCHW)
    for values, expected in zip(got, exact, strict=True):
        assert values.dtype == torch.bfloat16
        torch.testing.assert_close(values.double(), expected, rtol=2**-7, atol=2**-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: its kernels are others")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_as_torchs(dtype, layout):
    layer = norm(dtype=torch.float32).cuda()
    x_BCHW = torch.randn(3, 6, 16, 16, device="cuda").to(dtype).contiguous(memory_format=layout)
    expected = passed(copy.deepcopy(layer), x_BCHW)
    freeze_norms(layer)
    got = passed(layer, x_BCHW)
    torch.testing.assert_close(got, expected, rtol=2**-7, atol=1e-5)
    assert all(values.is_contiguous(memory_format=layout) for values in got)


def test_weights_that_move_later_count():
    """The gradient is that of the weights as they are."""
    layer, x_BCHW = norm(), torch.randn(2, 6, 3, 3, dtype=torch.float64)
    freeze_norms(layer)
    layer.weight.data += 1
    moved = copy.deepcopy(layer)
    thaw_norms([moved])
    torch.testing.assert_close(passed(layer, x_BCHW), passed(moved, x_BCHW))


def test_weights_that_want_a_gradient_for_a_while_get_one():
    """As those of a matcher's teacher do when `perturbed` moves them."""
    model = nn.Sequential(norm(), nn.Flatten(), nn.Linear(54, 3).double()).requires_grad_(False)
    x_BCHW, labels_B = torch.randn(4, 6, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    reached = []
    for freezes in (False, True):
        moved = copy.deepcopy(model)
        matching = Matching(3, 0.8, 10.0, "first", "update", layers=("batchnorm",))
        with contextlib.ExitStack() as stack:
            logits_of = stack.enter_context(StatisticsMatcher(moved, {}, matching)).logits if freezes else moved
            stack.enter_context(perturbed(moved, logits_of, x_BCHW, labels_B, 3, 0.5))
            reached.append([weight.clone() for weight in moved.parameters()])
    torch.testing.assert_close(*reached)
    assert (reached[1][0] - model[0].weight).abs().max() > 0.01


def test_other_layers_stay_as_they_are():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    training, wanted, measuring = norm().train(), norm().requires_grad_(), norm()
    measuring.running_mean = measuring.running_var = None
    layers = nn.ModuleList([training, wanted, measuring, Own(6).eval().requires_grad_(False), nn.GroupNorm(2, 6)])
    assert freeze_norms(layers) == []
    assert not any("forward" in layer.__dict__ for layer in layers)


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "timm:resnet10t", "torchvision:shufflenet_v2_x0_5"])
def test_networks_of_libraries(name):
    torch.manual_seed(0)
    model = build(name, classes=5, image_size=64, channels=3).eval().requires_grad_(False).double()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in norms:
        layer.running_mean.normal_(0, 0.1)
        layer.running_var.uniform_(0.5, 1.5)
    x_BCHW = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = passed(model, x_BCHW)
    assert freeze_norms(model) == norms and norms
    torch.testing.assert_close(passed(model, x_BCHW), expected)


def test_a_matcher_freezes_its_teacher_and_gives_it_back():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), norm(dtype=torch.float32), nn.Flatten(), nn.LazyLinear(2))
    x_BCHW = torch.randn(4, 3, 6, 6)
    model(x_BCHW)
    model.eval().requires_grad_(False)
    plain, layer = model(x_BCHW), model[1]
    with StatisticsMatcher(model, {}, Matching(4, 0.8, 10.0, "first", "update", layers=("batchnorm",))) as matcher:
        assert freeze_norms(model) == []  # by the matcher already
        x_BCHW.requires_grad_()
        logits_BK, loss = one_pass(matcher, x_BCHW)
        assert "_Frozen" in str(operations(logits_BK))
        loss.backward()
    assert "forward" not in layer.__dict__
    torch.testing.assert_close(logits_BK, plain)


def operations(value: Tensor) -> set[str]:
    """The names of the operations that a value comes from."""
    names, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        names.add(type(node).__name__)
        todo += [before for before, _ in node.next_functions if before is not None]
    return names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("shape", "programs"), [((5, 6, 5, 3), 1), ((2, 70, 1, 1), 2048), ((2, 2, 33, 33), 2048)])
def test_the_kernel_gives_what_torch_does(kernels, monkeypatch, shape, programs, affine, layout, dtype):
    """Any shape and layout; also of a gradient that is one number seen at every position."""
    monkeypatch.setattr(kernels, "_PROGRAMS", programs)
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(shape[1], eps=0.02, affine=affine).eval().requires_grad_(False).to(DEVICE)
    for tensor in (*layer.parameters(), layer.running_mean, layer.running_var):
        tensor.data = torch.rand(shape[1], device=DEVICE) + 0.5
    exact = copy.deepcopy(layer).double()
    x_BCHW = torch.randn(shape).to(DEVICE, dtype).contiguous(memory_format=layout)
    freeze_norms(layer)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    for got, expected in zip(passed(layer, x_BCHW), passed(exact, x_BCHW.double()), strict=True):
        assert got.dtype == dtype and got.is_contiguous(memory_format=layout)
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    x_BCHW.requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x_BCHW).sum(), x_BCHW)
    weight_C = torch.ones(shape[1], device=DEVICE) if layer.weight is None else layer.weight
    expected_C = weight_C / (layer.running_var + layer.eps).sqrt()
    expected = expected_C.view(-1, 1, 1).expand(shape)
    torch.testing.assert_close(gradient.float(), expected, rtol=tolerance, atol=tolerance)


def test_the_kernel_adds_no_bias_where_there_is_none(kernels):
    layer = nn.BatchNorm2d(3).eval().requires_grad_(False).to(DEVICE)
    layer.bias = None  # as BatchNorm2d(bias=False) of torch 2.15
    layer.running_var.fill_(4.0)
    x_BCHW = torch.randn(2, 3, 4, 4, device=DEVICE)
    freeze_norms(layer)
    torch.testing.assert_close(layer(x_BCHW), x_BCHW / (4 + layer.eps) ** 0.5)


def test_a_network_in_float64_has_torchs_own_norm(kernels, monkeypatch):
    from gvbsm.method import norm_kernels

    monkeypatch.setattr(norm_kernels, "norm", lambda *arguments: pytest.fail("asked for the kernel"))
    layer = norm()
    freeze_norms(layer)
    passed(layer, torch.randn(2, 6, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize("used", ["both", "output", "sums"])
@pytest.mark.parametrize("programs", [1, 2048])
def test_a_layer_gives_the_sums_of_its_input_and_their_gradient(kernels, monkeypatch, programs, used):
    from gvbsm.method.norm_kernels import FrozenNorm

    monkeypatch.setattr(kernels, "_PROGRAMS", programs)
    layer, x_BCHW = norm(), torch.randn(5, 6, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights_BCHW, weights_M = torch.randn_like(x_BCHW), torch.randn(12, dtype=torch.float64)

    def gradient(y_BCHW: Tensor, sums_M: Tensor, x_BCHW: Tensor) -> Tensor:
        loss = (y_BCHW * weights_BCHW.to(y_BCHW)).sum() * (used != "sums")
        if used != "output":
            loss = (loss if used == "both" else 0) + (sums_M * weights_M.to(sums_M)).sum()
        return torch.autograd.grad(loss, x_BCHW)[0]

    exact = x_BCHW.clone().requires_grad_()
    sums_M = torch.cat([exact.sum((0, 2, 3)), exact.square().sum((0, 2, 3))])
    expected = gradient(layer(exact), sums_M, exact)
    own = x_BCHW.float().to(DEVICE).requires_grad_()
    layer = layer.float().to(DEVICE)
    y_BCHW, parts = FrozenNorm.apply(own, layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps, True)
    added = kernels.AddedUp.apply(kernels.AddedUp.table([parts.shape], own.device), parts)
    torch.testing.assert_close(added.double().cpu(), sums_M, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient(y_BCHW, added, own).double().cpu(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "statistics"),
    [
        ("wrn16_2", ("channel", "patch")),
        pytest.param("wrn16_2", ("channel",), marks=pytest.mark.nightly("stages")),
        pytest.param("timm:resnet10t", ("channel",), marks=pytest.mark.nightly("stages")),
    ],
)
def test_a_matcher_reads_no_map_again_whose_layer_gave_its_sums(kernels, monkeypatch, name, statistics):
    """Layers that read the same map as a BatchNorm have its sums too, unless they need more."""
    options = {"depth": 10, "widen": 1} if name == "wrn16_2" else {}
    torch.manual_seed(0)
    model = build(name, classes=3, image_size=8, channels=3, **options).eval().requires_grad_(False).to(DEVICE)
    matching = Matching(4, 0.8, 10.0, "first", "update", conv_statistics=statistics)
    x_BCHW = torch.randn(4, 3, 8, 8).to(DEVICE)
    convs = {key: module for key, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, key=key: seen.update({key: inputs[0]}))
        for key, layer in convs.items()
    ]
    model(x_BCHW)
    for hook in hooks:
        hook.remove()
    sizes = {key: {"channel": x.shape[1], "patch": math.ceil(x.shape[2] / 4) ** 2} for key, x in seen.items()}
    targets = {
        key: {f"{kind}_{moment}": torch.rand(sizes[key][kind]) for kind in statistics for moment in ("mean", "var")}
        for key in convs
    }
    read, map_sums = [], kernels.map_sums
    monkeypatch.setattr(kernels, "map_sums", lambda maps, *others: (read.extend(maps), map_sums(maps, *others))[1])
    results = []
    for used in (True, False):
        if not used:
            monkeypatch.setattr(measuring, "kernels_for", lambda device: None)
        x_BCHW = x_BCHW.detach().clone().requires_grad_()
        with StatisticsMatcher(model, targets, matching) as matcher:
            logits_BK, loss = one_pass(matcher, x_BCHW)
            (logits_BK.sum() + loss).backward()
            results.append((loss.detach(), x_BCHW.grad, matcher.average_N))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert len(read) <= len({id(x) for x in seen.values()}), "a map that no convolution reads was read again"
