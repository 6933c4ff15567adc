"""The benchmark of whole iterations: both sides do the same, and it says so where they do not."""

import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks import ceilings, recover, step
from benchmarks.__main__ import BENCHMARKS
from gvbsm.method.batch_views import view

CPU = torch.device("cpu")


def test_the_list_of_timings_names_every_benchmark_and_every_page():
    folder = Path(recover.__file__).parent
    index = (folder / "SPEED.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in index.splitlines() if line.startswith("| `") and "python -m" not in line]
    assert sorted(name for row in rows for name in re.findall(r"`([\w-]+)`", row)) == sorted(BENCHMARKS)
    assert sorted(re.findall(r"\(speed/([\w-]+)\.md\)", index)) == sorted(page.stem for page in folder.glob("speed/*.md"))


@pytest.mark.parametrize("name", recover.SETTINGS)
def test_both_sides_see_the_same_views(name):
    setting = recover.SETTINGS[name]._replace(size=24)
    torch.manual_seed(0)
    x_BCHW = torch.randn(2, 3, 24, 24)
    for _ in range(8):
        draw = step.Draw.of(setting)
        got = view(x_BCHW, draw.positions(setting), torch.zeros(1, 3, 1, 1))
        torch.testing.assert_close(got, draw.view(x_BCHW, setting), rtol=1e-4, atol=1e-4)


@pytest.fixture
def small(monkeypatch):
    """Two small teachers, timed in two iterations each."""
    settings = {
        "cifar": recover.SETTINGS["cifar"]._replace(backbones=("convnet", "wrn16_2"), size=16, batch=2),
        "imagenet": recover.SETTINGS["imagenet"]._replace(backbones=("convnet",), classes=10, size=16, patch=4, batch=2),
    }
    monkeypatch.setattr(step, "SETTINGS", settings)
    return Namespace(setting=None, backbone="", precision="", batch=None, repeats=1, compile=False)


@pytest.mark.nightly("stages")
def test_it_times_every_teacher_and_the_cycle(small, capsys):
    step.run(CPU, small)
    printed = capsys.readouterr().out
    assert printed.count("ours, float32 ") == 3 + 4 and printed.count("plain hooks, float32") == 4
    assert printed.count("ms a cycle") == 2 and printed.count("images/s") == 8
    assert printed.count("not compiled (1 of 1)") == 3 and printed.count("not compiled (2 of 2)") == 1


def test_a_profile_names_operations(small, capsys):
    small.setting, small.backbone = "cifar", "convnet"
    step.profile(CPU, small)
    printed = capsys.readouterr().out
    assert printed.count("ms an iteration under the profiler") == 1 and "aten::convolution_backward" in printed


def test_another_gradient_is_a_failure_after_all_timings(small, capsys, monkeypatch):
    right = step.Way.matcher

    def wrong(way, problem):
        matcher = right(way, problem)
        next(matcher.model.parameters()).mul_(2)
        return matcher

    monkeypatch.setattr(step.Way, "matcher", wrong)
    small.setting, small.backbone = "cifar", "wrn16_2"
    with pytest.raises(SystemExit, match=r"^step: wrn16_2, ours, float32: expected gradients and steps .* within 0.05, got 1"):
        step.run(CPU, small)
    assert capsys.readouterr().out.count("images/s") == 2


def test_a_teacher_that_fails_does_not_stop_the_others(small, capsys, monkeypatch):
    right = step.Problem

    def fails(setting, name, *rest):
        if name == "convnet":
            raise torch.OutOfMemoryError("out of memory")
        return right(setting, name, *rest)

    monkeypatch.setattr(step, "Problem", fails)
    small.setting = "cifar"
    with pytest.raises(SystemExit, match=r"^step: convnet: expected timings, got OutOfMemoryError: out of memory$"):
        step.run(CPU, small)
    assert capsys.readouterr().out.count("images/s") == 2


def test_ceilings_are_printed(capsys):
    ceilings.run(CPU, 1)
    printed = capsys.readouterr().out
    assert printed.count("GB/s") == 1 and printed.count("TFLOP/s") == 2
