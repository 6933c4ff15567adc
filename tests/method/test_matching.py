"""The matching loss beyond the golden figures: faults of the EMA, drops, choice of statistics, errors."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.one_pass import next_shares, one_pass
from gvbsm.method.layers import hooked_layers, most_important
from gvbsm.method.matching import Matching, StatisticsMatcher, matching_terms
from gvbsm.method.moments import class_moments, moments


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double().eval()


def targets_of(model: nn.Module, x: torch.Tensor) -> dict:
    targets = {}
    for name, module in hooked_layers(model, ("conv",)).items():
        module.register_forward_pre_hook(lambda _, i, name=name: targets.update({name: moments(i[0], ("channel", "patch"), 4)}))
    model(x)
    for module in model.modules():
        module._forward_pre_hooks.clear()
    return targets


def matcher_of(model: nn.Module, **changes) -> StatisticsMatcher:
    settings = {"patch_size": 4, "momentum": 0.8, "first_layer_weight": 10.0, "start": "first", "dropped": "update"}
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return StatisticsMatcher(model, targets_of(model, x), Matching(**(settings | changes)))


X = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_ema_start_zero_and_first():
    """Fault 2: the published average starts at 0, so the first batch counts a fifth; corrected, at the batch itself."""
    value = moments(X, ("channel",), 4)["channel_mean"]
    with matcher_of(network(), start="zero") as published, matcher_of(network(), start="first") as corrected:
        one_pass(published, X)
        one_pass(corrected, X)
        torch.testing.assert_close(published.averages["0"]["channel_mean"], 0.2 * value)
        torch.testing.assert_close(corrected.averages["0"]["channel_mean"], value)


def test_ema_of_a_dropped_layer_skipped_and_updated():
    """Fault 2: the published average of a dropped layer stands still; corrected, it moves."""
    with matcher_of(network(), dropped="skip") as published, matcher_of(network(), dropped="update") as corrected:
        for averaging in (published, corrected):
            one_pass(averaging, X)
            one_pass(averaging, 2 * X, dropped=frozenset({"3"}))
        first = moments(network()[:3](X), ("channel",), 4)["channel_mean"]
        second = moments(network()[:3](2 * X), ("channel",), 4)["channel_mean"]
        torch.testing.assert_close(published.averages["3"]["channel_mean"], first)
        torch.testing.assert_close(corrected.averages["3"]["channel_mean"], 0.8 * first + 0.2 * second)


class Twice(nn.Module):
    """Its second layer is called again by each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.again(self.again(self.first(x))).mean((2, 3)))


@pytest.mark.parametrize("recorded", [False, True], ids=["as it comes", "as on CUDA"])
def test_a_layer_that_is_called_again_leaves_dropped_ones_alone(recorded):
    """The average of a layer moves with each of its calls; that of a dropped layer stands still in all of them."""
    torch.manual_seed(0)
    model = Twice().double().eval()
    for dropped, others in (("first", "again"), ("again", "first")):
        with matcher_of(model, dropped="skip") as matcher:
            one_pass(matcher, X)
            before = {name: kinds["channel_mean"].clone() for name, kinds in matcher.averages.items()}
            if recorded:  # without knowing what is dropped, but for the momenta
                shares = next_shares(matcher, {dropped}, torch.device("cpu"))
                matcher.pass_through(2 * X, shares[0], shares[1])
            else:
                one_pass(matcher, 2 * X, dropped={dropped})
            after = {name: kinds["channel_mean"] for name, kinds in matcher.averages.items()}
        torch.testing.assert_close(after[dropped], before[dropped])
        assert not torch.allclose(after[others], before[others])


class FromTheHost(TorchDispatchMode):
    """Collects the tensors that are made of Python's numbers: each is a copy that a recording of CUDA refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[torch.Tensor] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.lift_fresh.default:
            self.made.append(args[0])
        return function(*args, **(kwargs or {}))


class Uncalled(nn.Module):
    """Has a layer that its pass does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.never, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.first(x).mean((2, 3)))


@pytest.mark.parametrize("kind", [Twice, Uncalled])
def test_a_pass_as_on_cuda_takes_nothing_from_the_host(kind):
    torch.manual_seed(0)
    model = kind().double().eval()
    targets = targets_of(model, X)
    targets |= {name: targets["first"] for name in ("never",) if kind is Uncalled}
    with StatisticsMatcher(model, targets, Matching(4, 0.8, 10.0, "first", "update")) as matcher:
        one_pass(matcher, X)
        shares = next_shares(matcher, set(), torch.device("cpu"))
        with FromTheHost() as host:
            matcher.pass_through(2 * X, shares[0], shares[1])
        assert host.made == []
        values = [moments(x, ("channel",), 4)["channel_mean"] for x in (X, 2 * X)]
        torch.testing.assert_close(matcher.averages["first"]["channel_mean"], 0.8 * values[0] + 0.2 * values[1])
        if kind is Uncalled:
            assert not matcher.averages["never"]["channel_mean"].any()


def test_dropped_layers_add_nothing_and_the_first_keeps_its_weight():
    with matcher_of(network()) as matcher:
        _, full = one_pass(matcher, X)
    with matcher_of(network()) as matcher:
        _, without_first = one_pass(matcher, X, dropped=frozenset({"0"}))
    with matcher_of(network(), first_layer_weight=1.0) as matcher:
        _, plain = one_pass(matcher, X)
    first = (full - plain) / 9
    torch.testing.assert_close(without_first, plain - first)


def test_layers_and_statistics_are_chosen():
    """SRe2L is the special case of BatchNorm alone."""
    with matcher_of(network(), layers=("batchnorm",)) as matcher:
        assert list(matcher.layers) == ["1"]
        assert matcher.conv_layers == []
        assert one_pass(matcher, X)[1] > 0
    with matcher_of(network(), conv_statistics=("channel",)) as matcher:
        one_pass(matcher, X)
        assert set(matcher.averages["0"]) == {"channel_var", "channel_mean"}


def test_the_gradient_of_a_norm_at_zero_is_zero():
    value = torch.tensor([1.0, 1.0, 1.0, 4.0], requires_grad=True)
    terms = matching_terms(torch.ones(4), torch.tensor([1.0, 1.0, 1.0, 4.0]), value, [3, 1], torch.tensor([0, 3, 4]))
    terms.sum().backward()
    torch.testing.assert_close(terms.detach(), torch.tensor([0.0, 3.0]))
    assert value.grad.tolist() == [0, 0, 0, 1]


def test_hooks_are_gone_afterwards():
    model = network()
    with matcher_of(model):
        pass
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_missing_and_misshapen_statistics_are_refused():
    settings = Matching(4, 0.8, 10.0, "first", "update")
    with pytest.raises(ValueError, match=r"statistics of layer '0'.*remake"):
        StatisticsMatcher(network(), {}, settings)
    with (
        matcher_of(network()) as matcher,
        pytest.raises(ValueError, match=r"patch moments of layer '0': expected 4 .*got 9;"),
    ):
        one_pass(matcher, torch.randn(2, 1, 12, 12, dtype=torch.float64))


def test_a_share_is_matched_class_by_class():
    """L_l = (1 - c) global terms + c class terms, of BatchNorm layers too; only the batch's classes count."""
    model, labels = network(), torch.tensor([0, 2, 2, 0, 2])
    generator = torch.Generator().manual_seed(3)
    targets = targets_of(model, X + 1)
    for name, channels in (("0", 1), ("1", 4), ("3", 4)):
        drawn = {
            kind: torch.randn(4, channels, dtype=torch.float64, generator=generator) for kind in ("class_mean", "class_var")
        }
        targets[name] = targets.get(name, {}) | drawn
    share = Matching(4, 0.0, 1.0, "first", "update", class_statistics=0.25)
    plain = Matching(4, 0.0, 1.0, "first", "update")
    with StatisticsMatcher(model, targets, plain) as matcher:
        global_terms = one_pass(matcher, X)[1]
    with StatisticsMatcher(model, targets, share) as matcher:
        got = one_pass(matcher, X, labels_B=labels)[1]
        with pytest.raises(ValueError, match="labels: expected those of the batch"):
            one_pass(matcher, X)
    members = torch.stack([labels == 0, labels == 2]).double()
    inputs = {"0": X, "1": model[:1](X), "3": model[:3](X)}
    by_class = 0.0
    for name, x in inputs.items():
        for kind, value in zip(("class_mean", "class_var"), class_moments(x, members), strict=True):
            by_class += (targets[name][kind][[0, 2]] - value).square().sum(1).mean().sqrt()
    torch.testing.assert_close(got, 0.75 * global_terms + 0.25 * by_class)
    del targets["1"]
    with pytest.raises(ValueError, match=r"statistics of layer '1': expected class_var, class_mean, got none"):
        StatisticsMatcher(model, targets, share)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_variances_have_a_weight_of_their_own(share):
    """sum_l w_l (1 - c) (||mean - its target|| + v ||variance - its target||) + c (the same of each class), w_0 = 10."""
    model, labels = network(), torch.tensor([0, 1, 1, 0, 1])
    generator = torch.Generator().manual_seed(3)
    by_class = {
        name: {kind: torch.randn(2, channels, dtype=torch.float64, generator=generator) for kind in ("class_mean", "class_var")}
        for name, channels in (("0", 1), ("1", 4), ("3", 4))
    }
    targets = {name: kinds | by_class[name] for name, kinds in (targets_of(model, X + 1) | {"1": {}}).items()} if share else {}
    targets = targets or targets_of(model, X + 1)
    got = {}
    for weight in (1.0, 11.0):
        matching = Matching(4, 0.0, 10.0, "first", "update", class_statistics=share, variance_weight=weight)
        with StatisticsMatcher(model, targets, matching) as matcher:
            got[weight] = one_pass(matcher, X, labels_B=labels)[1]
            if not share:  # the path that is recorded as a CUDA graph
                shares = next_shares(matcher, (), torch.device("cpu"))
                torch.testing.assert_close(matcher.pass_through(X, shares[0], shares[1])[1], got[weight])
    norm, means, variances = torch.linalg.vector_norm, 0.0, 0.0
    for name, x in {"0": X, "1": model[:1](X), "3": model[:3](X)}.items():
        w = 10.0 if name == "0" else 1.0
        batchnorm = {"channel_mean": model[1].running_mean, "channel_var": model[1].running_var}
        target = batchnorm if name == "1" else targets[name]
        for kind, value in moments(x, ("channel",) if name == "1" else ("channel", "patch"), 4).items():
            term = (1 - share) * w * norm(target[kind] - value)
            means, variances = (means + term, variances) if kind.endswith("mean") else (means, variances + term)
        if share:
            mean_KC, var_KC = (torch.stack([of_class(x[labels == k]) for k in range(2)]) for of_class in (_mean, _variance))
            means += share * w * (by_class[name]["class_mean"] - mean_KC).square().sum(1).mean().sqrt()
            variances += share * w * (by_class[name]["class_var"] - var_KC).square().sum(1).mean().sqrt()
    torch.testing.assert_close(got[1.0], means + variances)
    torch.testing.assert_close(got[11.0], means + 11 * variances)


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean((0, 2, 3))


def _variance(x: torch.Tensor) -> torch.Tensor:
    return x.var((0, 2, 3), unbiased=False)


def test_only_the_statistics_that_are_kept_are_matched():
    """Each term is what it is alone. A first layer that is matched keeps its weight; no other layer gets it."""
    alone = {}
    for layer, kind in (("0", "patch"), ("1", "channel"), ("3", "channel")):
        with matcher_of(network(), selected_statistics=frozenset({(layer, kind)})) as matcher:
            alone[layer] = one_pass(matcher, X)[1]
            assert list(matcher.layers) == [layer] and set(matcher.averages[layer]) == {f"{kind}_var", f"{kind}_mean"}
    with matcher_of(network(), selected_statistics=frozenset({("0", "patch"), ("1", "channel"), ("3", "channel")})) as matcher:
        torch.testing.assert_close(one_pass(matcher, X)[1], sum(alone.values()))
        assert matcher.conv_layers == ["0", "3"]
    with matcher_of(network(), selected_statistics=frozenset({("0", "patch")}), first_layer_weight=1.0) as matcher:
        torch.testing.assert_close(one_pass(matcher, X)[1] * 10, alone["0"])


def test_the_most_important_statistics_of_a_share():
    importance = {"a": {"channel": 3.0, "patch": 1.0}, "b": {"channel": 2.0}, "c": {"channel": 0.5}}
    assert most_important(importance, 0.5) == {("a", "channel"), ("b", "channel")}
    assert most_important(importance, 0.01) == {("a", "channel")}
    assert len(most_important(importance, 1.0)) == 4
