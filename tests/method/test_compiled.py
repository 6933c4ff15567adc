"""The compiled pass gives what plain hooks and the uncompiled pass give. Without a compiler the uncompiled pass runs."""

import shutil

import pytest
import torch
from torch import nn

from benchmarks import plain, recover
from benchmarks.one_pass import one_pass
from gvbsm.method.matching import Matching, StatisticsMatcher
from gvbsm.runtime.compiler import set_up_compiler


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * 49, 3)).eval().requires_grad_(False)


def targets(model: nn.Module) -> dict:
    return plain.measure(model, torch.randn(8, 1, 7, 7, generator=torch.Generator().manual_seed(1)), 4)


def steps(matcher: StatisticsMatcher) -> list[torch.Tensor]:
    """Losses and gradients of four batches, layers dropped in the second and third."""
    values = []
    for number, dropped in enumerate([(), ("3",), ("0", "3"), ()]):
        x = torch.randn(4, 1, 7, 7, generator=torch.Generator().manual_seed(number)).requires_grad_()
        logits, loss = one_pass(matcher, x, frozenset(dropped))
        (loss + logits.square().sum()).backward()
        values += [loss.detach(), x.grad]
    return values


@pytest.mark.nightly("compile")
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(("start", "dropped"), [("first", "update"), ("zero", "skip")])
def test_compiled_or_not_is_the_same(start, dropped, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, matching = network(), Matching(4, 0.8, 10.0, start, dropped)
    wanted = targets(model)
    with StatisticsMatcher(model, wanted, matching) as matcher:
        expected, averages = steps(matcher), matcher.averages
    with StatisticsMatcher(model, wanted, matching, compiled=True) as matcher:
        got = steps(matcher)
        assert matcher.compiled
        for result, reference in zip(got, expected, strict=True):
            torch.testing.assert_close(result, reference, rtol=1e-4, atol=1e-5)
        assert matcher.averages.keys() == averages.keys()
        for layer, kinds in averages.items():
            for kind, value in kinds.items():
                torch.testing.assert_close(matcher.averages[layer][kind], value, rtol=1e-4, atol=1e-5)


def test_without_a_compiler_the_uncompiled_pass_runs(monkeypatch):
    def no_compiler(function, **options):
        def fail(*arguments):
            raise RuntimeError("no C++ compiler\nat great length")

        return fail

    model, matching = network(), Matching(4, 0.8, 10.0, "first", "update")
    with StatisticsMatcher(model, targets(model), matching) as matcher:
        expected = steps(matcher)
    monkeypatch.setattr(torch, "compile", no_compiler)
    with StatisticsMatcher(model, targets(model), matching, compiled=True) as matcher:
        with pytest.warns(UserWarning, match="^not compiled: no C\\+\\+ compiler$"):
            got = steps(matcher)
        assert not matcher.compiled
    assert all(torch.equal(result, reference) for result, reference in zip(got, expected, strict=True))


def test_more_graphs_than_allowed_are_an_error(monkeypatch, tmp_path):
    """torch would go on uncompiled, as slow as without `compile`, and say nothing."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiler(function, backend="eager", **options))
    torch._dynamo.reset()
    model, matching = network(), Matching(4, 0.8, 10.0, "first", "update")
    config = torch._dynamo.config  # monkeypatch cannot restore its values
    with (
        config.patch(recompile_limit=1, fail_on_recompile_limit_hit=False),
        StatisticsMatcher(model, targets(model), matching, compiled=True) as matcher,
    ):
        set_up_compiler(tmp_path, 1)
        one_pass(matcher, torch.randn(4, 1, 7, 7).requires_grad_())
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            one_pass(matcher, torch.randn(5, 1, 7, 7).requires_grad_())
    torch._dynamo.reset()


def test_targets_of_another_size_are_refused_compiled_too(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    model = network()
    wanted = targets(model)
    wanted["3"]["patch_mean"] = torch.zeros(9)
    with (
        StatisticsMatcher(model, wanted, Matching(4, 0.8, 1.0, "first", "update"), compiled=True) as matcher,
        pytest.raises(ValueError, match=r"expected 9 as in the statistics, got 4; make the statistics at this"),
    ):
        one_pass(matcher, torch.randn(4, 1, 7, 7).requires_grad_())


@pytest.mark.parametrize("name", ["resnet18", "convnet", "mobilenet_v2", "wrn16_2", "shufflenet_v2"])
def test_every_backbone_gives_the_plain_gradient(name):
    setting = recover.SETTINGS["cifar"]._replace(batch=2)
    assert recover.check(setting, name, compiled=False) < 1e-8


@pytest.mark.parametrize(
    "name",
    ["torchvision:shufflenet_v2_x0_5", pytest.param("torchvision:efficientnet_b0", marks=pytest.mark.nightly("compile"))],
)
def test_sizes_that_patches_do_not_divide_give_the_plain_gradient(name):
    setting = recover.SETTINGS["imagenet"]._replace(size=72, classes=10)
    assert recover.check(setting, name, compiled=False) < 1e-8
