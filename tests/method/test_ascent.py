"""Teachers whose weights are moved: DWA's formula by torch's own SGD, and nothing is left of it afterwards."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.one_pass import one_pass
from gvbsm.method.ascent import perturbed
from gvbsm.method.matching import Matching, StatisticsMatcher

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


class Network(nn.Module):
    """With a layer that the pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.layers(x)


def network() -> Network:
    torch.manual_seed(0)
    model = Network()
    model.layers[1].running_mean.normal_()
    return model.eval().requires_grad_(False)


def climbed(steps: int, rho: float) -> Network:
    """Every step by SGD on minus the cross-entropy, with the step size that makes it rho / steps long."""
    model = network().requires_grad_()
    for _ in range(steps):
        model.zero_grad()
        (-F.cross_entropy(model(X), LABELS)).backward()
        used = [parameter for parameter in model.parameters() if parameter.grad is not None]
        length = torch.cat([parameter.grad.flatten() for parameter in used]).norm().item()
        torch.optim.SGD(used, lr=rho / steps / length).step()
    return model


@pytest.mark.parametrize(("steps", "rho"), [(1, 0.5), (12, 0.015), (3, 2.0)])
def test_weights_climb_as_sgd_would_and_come_back_to_the_bit(steps, rho):
    model, expected = network(), climbed(steps, rho)
    before = copy.deepcopy(model.state_dict())
    with perturbed(model, model, X, LABELS, steps, rho):
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)
        moved = sum((value - before[name]).square().sum() for name, value in model.state_dict().items()).sqrt()
        assert 0 < moved <= rho * 1.0001
        assert F.cross_entropy(model(X), LABELS) > F.cross_entropy(network()(X), LABELS)
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_come_back_after_an_error():
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt), perturbed(model, model, X, LABELS, 2, 0.5):
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_matcher_measures_nothing_while_its_teacher_climbs():
    matching = Matching(1, 0.8, 10.0, "first", "update", layers=("batchnorm",))
    with StatisticsMatcher(network(), {}, matching) as matcher:
        with perturbed(matcher.model, matcher.logits, X, LABELS, 2, 0.5):
            assert not matcher.started[0] and not matcher.average_N.any() and not matcher._inputs
            logits, _ = one_pass(matcher, X)
        assert not torch.allclose(logits, network()(X))
