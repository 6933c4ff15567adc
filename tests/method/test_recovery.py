"""The optimisation of a batch: against the method written out plainly, resumed, and as it is recorded for a GPU."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import plain
from gvbsm.method import recovery, replays
from gvbsm.method.batch_views import draw_positions, view
from gvbsm.method.matching import Matching, StatisticsMatcher
from gvbsm.method.recovery import Recovery, RecoverySettings, SharedViews
from gvbsm.method.schedule import Schedule

LIMITS = torch.full((1, 2, 1, 1), -1.5), torch.full((1, 2, 1, 1), 1.5)
LABELS = torch.tensor([0, 0, 1, 2])
POSITIONS = draw_positions(3, 12, 8, pad=1, resized_crop=None, flip=True, roll=4)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 3)).eval().requires_grad_(False)


class Again(nn.Module):
    """Calls a layer twice, and another one never."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.never = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.again(self.again(self.first(x))).mean((2, 3)))


def again(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Again().eval().requires_grad_(False)


def settings(**changes) -> RecoverySettings:
    values = {
        "iterations": 12, "lr": 0.1, "betas": (0.5, 0.9), "statistics_weight": 0.3, "densification_weight": 0.0, "tau": 4.0,
        "normalise": "mean", "conv_drop": 0.0, "backbone_order": "round_robin",
    }  # fmt: skip
    return RecoverySettings(**(values | changes))


def targets_of(model: nn.Module) -> dict:
    return plain.measure(model, torch.randn(8, 2, 8, 8, generator=torch.Generator().manual_seed(9)), 4)


def started(matching: Matching, key: int = 5, joins: list[int] | None = None, build=network, **changes) -> Recovery:
    models = [build(seed) for seed in range(2)]
    x_BCHW = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    views = SharedViews(POSITIONS, LIMITS[0])
    matchers = [StatisticsMatcher(model, targets_of(model), matching) for model in models]
    return Recovery(x_BCHW, LABELS, matchers, settings(**changes), views=views, limits=LIMITS, key=key, joins=joins)


def record(recovered: Recovery) -> None:
    """As on CUDA."""
    recovered._record()


def finished(recovered: Recovery) -> torch.Tensor:
    while recovered.iteration < 12:
        recovered.run(12)
    return recovered.x_BCHW.detach()


def test_the_method_written_out_plainly_gives_the_same_images():
    """Round robin, one view for the batch, plain hooks, Adam by its formula, a cosine, clamped."""
    models = [network(seed) for seed in range(2)]
    hooks = [plain.Hooks(model, targets_of(model), 4, 0.8, 10.0) for model in models]
    x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for t in range(12):
        x.requires_grad_()
        logits, statistics = hooks[t % 2](view(x, POSITIONS[t], LIMITS[0]))
        loss = F.cross_entropy(logits, LABELS) + 0.3 * statistics
        (gradient,) = torch.autograd.grad(loss, x)
        mean, square = 0.5 * mean + 0.5 * gradient, 0.9 * square + 0.1 * gradient.square()
        rate = 0.05 * (1 + math.cos(math.pi * t / 12))
        step = rate * (mean / (1 - 0.5 ** (t + 1))) / ((square / (1 - 0.9 ** (t + 1))).sqrt() + 1e-8)
        x = (x.detach() - step).clamp(-1.5, 1.5)
    recovered = started(Matching(4, 0.8, 10.0, "first", "update"))
    torch.testing.assert_close(finished(recovered), x, rtol=1e-3, atol=1e-3)
    assert recovered.modes == ["not compiled", "not compiled"]


@pytest.mark.parametrize("order", ["round_robin", "random"])
@pytest.mark.parametrize(("start", "dropped"), [("first", "update"), ("zero", "skip"), ("first", "skip")])
def test_resumed_after_any_iteration_the_images_are_the_same_to_the_bit(start, dropped, order):
    changes = {"conv_drop": 0.5, "backbone_order": order}
    matching = Matching(4, 0.8, 10.0, start, dropped)
    expected = finished(started(matching, **changes))
    for stop in (1, 5):
        first, second = started(matching, **changes), started(matching, **changes)
        for _ in range(stop):
            first.run(12)
        second.restore(first.state())
        assert torch.equal(finished(second), expected)
    assert not torch.equal(finished(started(matching, key=6, **changes)), expected)


# FADRM's segments and DELT's rounds, of lengths that do not divide the 12 iterations too; images that join in any order.
CHANGES = {
    "segments": {"segments": 3, "residual": 0.5},
    "uneven segments": {"segments": 5, "residual": 0.3},
    "rounds": {"rounds": 3, "joins": [0, 1, 0, 2]},
    "uneven rounds": {"rounds": 5, "joins": [0, 2, 2, 0]},
    "both": {"segments": 4, "residual": 1.0, "rounds": 3, "joins": [1, 0, 2, 0]},
}
MATCHING = Matching(4, 0.8, 10.0, "first", "update")
SECONDS = [-1.0, 1e9]  # between fetches of losses: ever fewer iterations come in between, or ever more


def plainly(segments: int = 1, residual: float = 0.0, rounds: int = 1, joins: tuple[int, ...] = (0, 0, 0, 0)) -> torch.Tensor:
    """Only images that have joined are in a batch; the others wait with a gradient of 0."""
    hooks = [plain.Hooks(model, targets_of(model), 4, 0.8, 10.0) for model in map(network, range(2))]
    start = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    x, mean, square, steps = start, torch.zeros_like(start), torch.zeros_like(start), 0
    for t in range(12):
        if t and t * segments // 12 > (t - 1) * segments // 12:
            x, mean, square, steps = (1 - residual) * x + residual * start, 0 * mean, 0 * square, 0
        there = [b for b, joined in enumerate(joins) if joined <= t * rounds // 12]
        part = x[there].requires_grad_()
        logits, statistics = hooks[t % 2](view(part, POSITIONS[t], LIMITS[0]))
        (of_part,) = torch.autograd.grad(F.cross_entropy(logits, LABELS[there]) + 0.3 * statistics, part)
        gradient, steps = torch.zeros_like(x), steps + 1
        gradient[there] = of_part
        mean, square = 0.5 * mean + 0.5 * gradient, 0.9 * square + 0.1 * gradient.square()
        step = 0.05 * (1 + math.cos(math.pi * t / 12)) * (mean / (1 - 0.5**steps)) / ((square / (1 - 0.9**steps)).sqrt() + 1e-8)
        x = (x - step).clamp(-1.5, 1.5).detach()
    return x


@pytest.mark.parametrize("change", CHANGES)
def test_segments_and_rounds_are_those_written_out_plainly(change):
    got = finished(started(MATCHING, **CHANGES[change]))
    torch.testing.assert_close(got, plainly(**CHANGES[change]), rtol=1e-3, atol=1e-3)
    assert (got - plainly()).abs().max() > 0.1


@pytest.mark.parametrize("change", CHANGES)
def test_resumed_between_any_two_iterations_segments_and_rounds_are_the_same_to_the_bit(change):
    first = started(MATCHING, **CHANGES[change])
    expected = finished(started(MATCHING, **CHANGES[change]))
    while first.iteration < 11:
        first.run(12)
        second = started(MATCHING, **CHANGES[change])
        second.restore(copy.deepcopy(first.state()))
        assert torch.equal(finished(second), expected), first.iteration


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("change", CHANGES)
def test_recorded_segments_and_rounds_give_the_same_images(change, seconds, monkeypatch):
    monkeypatch.setattr(replays, "Replays", Frozen)
    monkeypatch.setattr(recovery, "_FETCH_SECONDS", seconds)
    got = started(MATCHING, **CHANGES[change])
    record(got)
    torch.testing.assert_close(finished(got), plainly(**CHANGES[change]), rtol=1e-3, atol=1e-3)
    assert all(how.startswith("not compiled, ") for how in got.modes)


def test_an_image_that_waits_stays_as_it_is():
    recovered = started(MATCHING, rounds=4, joins=[0, 3, 0, 3])
    before = recovered.x_BCHW.detach().clamp(*LIMITS)
    while recovered.iteration < 9:
        recovered.run(9)
    moved = (recovered.x_BCHW.detach() - before).flatten(1).abs().amax(1) > 0
    assert moved.tolist() == [True, False, True, False]
    finished(recovered)
    assert ((recovered.x_BCHW.detach() - before).flatten(1).abs().amax(1) > 0).all()


class Unrecorded:
    """Stands for `Replays` where there is no GPU: a step is run instead of replayed."""

    recorded = 0

    def __init__(self, device):
        pass

    def run(self, step):
        step()

    def record(self, step):
        Unrecorded.recorded += 1
        return step


class Frozen(Unrecorded):
    """Like it, but a replay is of the images that took part when it was recorded, as that of a graph is."""

    def record(self, step):
        recovered = step.__closure__[0].cell_contents
        recorded_round = recovered._round

        def replay():
            assert recovered._round is recorded_round
            step()

        return replay


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("build", [network, again])
@pytest.mark.parametrize(("start", "dropped"), [("first", "update"), ("zero", "skip"), ("first", "skip")])
def test_what_is_recorded_gives_the_same_images(start, dropped, build, seconds, monkeypatch):
    """Its operations are the same in every iteration: numbers from a table, dropped layers measured and weighted with 0."""
    monkeypatch.setattr(replays, "Replays", Unrecorded)
    monkeypatch.setattr(recovery, "_FETCH_SECONDS", seconds)
    monkeypatch.setattr(Unrecorded, "recorded", 0)
    matching = Matching(4, 0.8, 10.0, start, dropped)
    expected, got = (started(matching, build=build, conv_drop=0.5, backbone_order="random") for _ in range(2))
    record(got)
    stops = []
    while got.iteration < 12:
        last = got.run(7 if got.iteration < 7 else 12)
        stops.append(got.iteration)
    torch.testing.assert_close(got.x_BCHW.detach(), finished(expected), rtol=1e-4, atol=1e-5)
    assert 7 in stops and len(stops) < 12 and stops[-1] == 12
    assert Unrecorded.recorded == 2 and got.modes == ["not compiled, recorded"] * 2
    got.close()
    assert got._recorded is None  # with it goes the memory of the recordings
    assert last.keys() == {"loss", "ce", "statistics"} and all(map(math.isfinite, last.values()))
    for ours, theirs in zip(got.matchers, expected.matchers, strict=True):
        torch.testing.assert_close(ours.average_N, theirs.average_N, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalise", ["none", "mean", "rows"])
@pytest.mark.parametrize("joins", [[0, 0, 0, 0], [0, 1, 1, 0]])
def test_recorded_with_the_densification_loss(joins, normalise, monkeypatch):
    """Its matrices are decomposed before an iteration, and in other groups when images have joined."""
    monkeypatch.setattr(replays, "Replays", Frozen)
    changes = {"densification_weight": 5.0, "normalise": normalise, "rounds": 2, "joins": joins, "conv_drop": 0.5}
    expected, got = (started(MATCHING, **changes) for _ in range(2))
    without = finished(started(MATCHING, **{**changes, "densification_weight": 0.0}))
    record(got)
    torch.testing.assert_close(finished(got), finished(expected), rtol=1e-4, atol=1e-5)
    assert normalise == "none" or (expected.x_BCHW - without).abs().max() > 0.01
    assert got.modes == ["not compiled, recorded"] * 2


def test_with_views_of_their_own_images_are_not_recorded_and_spectra_are_exact(monkeypatch):
    monkeypatch.setattr(replays, "Replays", Unrecorded)

    def begun() -> Recovery:
        matchers = [StatisticsMatcher(network(seed), targets_of(network(seed)), MATCHING) for seed in range(2)]
        x_BCHW = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
        chosen = settings(densification_weight=5.0)
        return Recovery(
            x_BCHW, LABELS, matchers, chosen, views=lambda x, labels, t: (x.roll(t, 3), labels), limits=LIMITS, key=5
        )

    expected, got = begun(), begun()
    record(got)
    torch.testing.assert_close(finished(got), finished(expected), rtol=1e-4, atol=1e-5)
    assert got.modes == ["not compiled, not recorded (every image has a view of its own)"] * 2


@pytest.mark.parametrize("stop", [3, 7, 9])
def test_recorded_with_the_densification_loss_and_resumed(stop, monkeypatch):
    monkeypatch.setattr(replays, "Replays", Frozen)
    changes = {"densification_weight": 5.0, "rounds": 2, "joins": [0, 1, 1, 0]}
    first, second = (started(MATCHING, **changes) for _ in range(2))
    record(first)
    while first.iteration < stop:
        first.run(stop)
    second.restore(copy.deepcopy(first.state()))
    record(second)
    torch.testing.assert_close(finished(second), finished(first), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("start", "dropped"), [("first", "update"), ("zero", "skip"), ("first", "skip")])
def test_recorded_and_resumed_after_any_iteration_the_images_are_the_same_to_the_bit(start, dropped, monkeypatch):
    """Numbers of later iterations are ready by then; the state is that of those which are made."""
    monkeypatch.setattr(replays, "Replays", Frozen)
    changes = {"conv_drop": 0.7, "backbone_order": "random", "rounds": 2, "joins": [0, 1, 1, 0], "segments": 3, "residual": 0.5}
    expected = started(Matching(4, 0.8, 10.0, start, dropped), **changes)
    record(expected)
    finished(expected)
    first = started(Matching(4, 0.8, 10.0, start, dropped), **changes)
    record(first)
    for stop in range(1, 12):
        first.run(stop)
        assert first.iteration == stop
        second = started(Matching(4, 0.8, 10.0, start, dropped), **changes)
        record(second)
        second.restore(copy.deepcopy(first.state()))
        assert torch.equal(finished(second), expected.x_BCHW.detach()), stop


def test_the_numbers_of_all_iterations_are_on_the_device_before_the_first(monkeypatch):
    """A GPU that has fetched losses goes on at once."""
    monkeypatch.setattr(replays, "Replays", Frozen)
    monkeypatch.setattr(recovery, "_FETCH_SECONDS", -1.0)
    got, made, fetches = started(MATCHING, conv_drop=0.5), [], 0
    record(got)
    rows = Schedule._rows
    monkeypatch.setattr(Schedule, "_rows", lambda self, at: (made.append(at), rows(self, at))[1])
    while got.iteration < 12:
        got.run(12)
        fetches += 1
    assert made == [0] and fetches > 4


def test_what_cannot_be_recorded_runs_and_says_why(monkeypatch):
    def fail(self, step):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(replays, "Replays", Unrecorded)
    monkeypatch.setattr(Unrecorded, "record", fail)
    matching = Matching(4, 0.8, 10.0, "first", "update")
    expected = finished(started(matching))
    got = started(matching)
    record(got)
    with pytest.warns(
        UserWarning, match="^recover runs without CUDA graphs: operation not permitted when stream is capturing$"
    ):
        torch.testing.assert_close(finished(got), expected, rtol=1e-4, atol=1e-5)
    reason = "not recorded (operation not permitted when stream is capturing)"
    assert got.modes == [f"not compiled, {reason}"] * 2


CHANGES_ON_A_GPU = CHANGES | {
    "densification": {"densification_weight": 5.0},
    "both of these": {"densification_weight": 5.0, "rounds": 3, "joins": [0, 1, 0, 2]},
    "a layer called twice": {"build": again},
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a recording is replayed")
@pytest.mark.parametrize("change", [None, *CHANGES_ON_A_GPU])
def test_recorded_on_a_gpu_the_images_are_those_of_the_cpu(change):
    changes = {"conv_drop": 0.5} | CHANGES_ON_A_GPU.get(change, {})
    expected, device = started(MATCHING, **changes), torch.device("cuda")
    build = changes.pop("build", network)
    matchers = [StatisticsMatcher(build(seed).to(device), targets_of(build(seed)), MATCHING) for seed in range(2)]
    x_BCHW = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1)).to(device)
    limits = LIMITS[0].to(device), LIMITS[1].to(device)
    views, joins = SharedViews(POSITIONS, limits[0]), changes.pop("joins", None)
    labels_B = LABELS.to(device)
    got = Recovery(x_BCHW, labels_B, matchers, settings(**changes), views=views, limits=limits, key=5, joins=joins)
    torch.testing.assert_close(finished(got).cpu(), finished(expected), rtol=1e-3, atol=1e-3)
    if "rounds" not in changes:  # those of four iterations are too short
        assert got.modes == ["not compiled, recorded"] * 2
