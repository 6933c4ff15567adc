"""Several processes train what one does: the same batches, BatchNorm and loss over the whole of each."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import distributed

from gvbsm.errors import Interrupted, UserError
from gvbsm.method.ranks import Ranks, ranks
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import write_plans
from gvbsm.runtime.distributed import _Children, process_group
from gvbsm.store.files import load_tensors
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt

RUN = [sys.executable, "-m", "gvbsm"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gvbsm"]


def planned(stage: str, name: str):
    """The artifact of the row that is configured now, its plan written."""
    artifacts = plan("tiny", 4)
    write_plans(artifacts, Path("results/tiny/ipc4/acc.json"))
    return next(artifact for artifact in artifacts if artifact.stage == stage and name in artifact.name)


def command(artifact, out: str, *more: str, start=RUN) -> list[str]:
    spec = f"results/.plan/{artifact.key}.json"
    return [*start, artifact.stage, "--spec", spec, "--out", out, "--device", "cpu", "--checkpoints", f"checks-{out}", *more]


def run(*arguments, **more) -> None:
    done = subprocess.run(command(*arguments, **more), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def assert_same_teacher(alone: str, together: str, processes: int) -> None:
    """Equally good after the same number of steps. The weights differ: training enlarges rounding errors."""
    expected, got = (read_receipt(Path(file)) for file in (alone, together))
    assert (expected["processes"], got["processes"]) == (1, processes)
    assert got["summary"]["loss"] == pytest.approx(expected["summary"]["loss"], rel=0.01)
    assert got["summary"]["top1"] == pytest.approx(expected["summary"]["top1"], abs=3)
    weights = [load_tensors(Path(file))[0] for file in (alone, together)]
    assert {name: value.shape for name, value in weights[0].items()} == {name: v.shape for name, v in weights[1].items()}


def test_parts_cover_a_batch():
    for size in (1, 2, 3, 8):
        for count in (0, 1, 2, 7, 64):
            taken = [i for rank in range(size) for i in range(count)[Ranks(rank, size).part(count)]]
            assert taken == list(range(count))


def test_alone_nothing_changes():
    x = torch.randn(3, 2, requires_grad=True)
    assert Ranks().gather_rows(x, 3) is x
    assert Ranks().any(True, False) == [True, False]
    Ranks().add([x])


@pytest.mark.parametrize("error", [None, Interrupted("SIGTERM"), UserError("of one rank"), KeyboardInterrupt()])
def test_a_group_ends_before_the_other_ranks_unless_one_rank_fails(error, monkeypatch):
    """NCCL waits until all ranks end their group. Those whose first rank has failed may wait for it elsewhere."""
    ended: list[str] = []
    end_group = distributed.destroy_process_group
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: (ended.append("group"), end_group()))
    monkeypatch.setattr(_Children, "end", lambda self: ended.append("ranks"))
    try:
        with pytest.raises(type(error)) if error else contextlib.nullcontext(), process_group(1):
            assert distributed.is_initialized() and ranks() == Ranks(0, 1)
            if error:
                raise error
        together = error is None or isinstance(error, Interrupted)
        assert ended == (["group", "ranks"] if together else ["ranks"])
    finally:
        if distributed.is_initialized():
            end_group()


def test_other_ranks_end_even_if_the_group_cannot(monkeypatch):
    ended: list[str] = []
    end_group = distributed.destroy_process_group
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: (end_group(), 1 / 0))
    monkeypatch.setattr(_Children, "end", lambda self: ended.append("ranks"))
    with pytest.raises(ZeroDivisionError), process_group(1):
        pass
    assert ended == ["ranks"]


STEP = """
import sys
import torch
from torch.nn import functional as F
from gvbsm.backbones.build import build
from gvbsm.method.ranks import ranks
from gvbsm.runtime.distributed import process_group
from gvbsm.training.synchronised import synchronised

def step(batch):
    torch.manual_seed(0)
    model = build("wrn16_2", classes=10, image_size=8, depth=10, widen=1).double()
    x, labels = torch.randn(batch, 3, 8, 8).double(), torch.arange(batch) % 10
    all_ranks = ranks()
    model = synchronised(model, x.device)
    logits = all_ranks.gather_rows(model(x[all_ranks.part(batch)]), batch)
    F.cross_entropy(logits, labels).backward()
    all_ranks.add([parameter.grad for parameter in model.parameters()])
    return {"logits": logits.detach(), **dict(model.named_buffers()), **{n: p.grad for n, p in model.named_parameters()}}

if __name__ == "__main__":
    with process_group(1):
        results = [step(batch) for batch in (8, 7, 2)]
    if ranks().rank == 0:
        torch.save(results, sys.argv[1])
"""


@pytest.mark.nightly("processes")
@pytest.mark.parametrize("size", [2, 3])
def test_a_step_of_several_processes_is_that_of_one(size, tmp_path):
    """Outputs, gradients and running statistics in float64. Of a batch of 2 images, one of three ranks has none."""
    file = tmp_path / "step.py"
    file.write_text(STEP)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}

    def start(name: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(file), str(tmp_path / name)], env=os.environ | environment)

    group = [start(f"{rank}", RANK=str(rank), WORLD_SIZE=str(size), **meeting) for rank in range(size)]
    for process in [start("alone"), *group]:
        assert process.wait(120) == 0
    alone, together = (torch.load(tmp_path / name, weights_only=True) for name in ("alone", "0"))
    for expected, actual in zip(alone, together, strict=True):
        assert expected.keys() == actual.keys()
        for name in expected:
            torch.testing.assert_close(
                actual[name], expected[name], rtol=1e-9, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}"
            )


@pytest.mark.nightly("processes")
def test_two_processes_train_the_same_teacher(published_run):
    artifact = planned("squeeze", "wrn16_2")
    run(artifact, "two.safetensors", "--processes", "2")
    assert_same_teacher(str(STORE / artifact.path), "two.safetensors", 2)


@pytest.mark.nightly("processes")
def test_moments_of_views_that_are_labelled_together_are_those_of_one_process(published_run, edit_row):
    labels = {"online": True, "batchnorm": "batch", "batchnorm_part": 8}
    edit_row({"relabel": labels, "evaluate": {"seeds": [0], "epochs": 1}})
    student = planned("evaluate", "wrn16_2-distilled")
    run(student, "alone.csv")
    run(student, "together.csv", "--processes", "2")
    alone, together = (pd.read_csv(file).loc[0, "loss"] for file in ("alone.csv", "together.csv"))
    assert together == pytest.approx(alone, rel=1e-3)


@pytest.mark.nightly("processes")
def test_torchrun_starts_the_processes_too(published_run):
    artifact = planned("squeeze", "wrn16_2")
    run(artifact, "two.safetensors", start=TORCHRUN)
    assert_same_teacher(str(STORE / artifact.path), "two.safetensors", 2)


@pytest.mark.nightly("processes")
def test_more_processes_than_a_ragged_batch_has_images(published_run, edit_row):
    """Batches of 38 and 2 images: one of three ranks has no image of the second. The published code hangs then."""
    edit_row({"evaluate": {"batch_size": 38, "accumulate": 1, "test_every": 1}})
    artifact = planned("evaluate", "wrn16_2-distilled")
    run(artifact, "one.csv")
    run(artifact, "three.csv", "--processes", "3")
    one, three = pd.read_csv("one.csv"), pd.read_csv("three.csv")
    pd.testing.assert_series_equal(one["loss"], three["loss"], rtol=1e-3)
    assert (one["top1"] - three["top1"]).abs().max() < 2


@pytest.fixture
def long_training(published_run, edit_row):
    """A training of two processes that has saved at least once, and its other rank."""
    edit_row({"squeeze": {"epochs": 200}})
    artifact = planned("squeeze", "wrn16_2")
    arguments = command(artifact, "long.safetensors", "--processes", "2", "--checkpoint-seconds", "0")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(Path("checks-long.safetensors").glob("*/state.safetensors")):
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs Linux's /proc")
    yield process, [int(child) for child in children.read_text().split()]
    process.kill()
    process.communicate()


@pytest.mark.nightly("processes")
def test_a_signal_stops_all_at_the_same_step(long_training):
    process, (child,) = long_training
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr.count("interrupted by SIGTERM, state saved") == 1 and "Traceback" not in stderr
    assert_gone(child)


@pytest.mark.nightly("processes")
@pytest.mark.parametrize("killed", ["the first", "the other"])
def test_a_killed_rank_takes_the_other_with_it(killed, long_training):
    process, (child,) = long_training
    os.kill(process.pid if killed == "the first" else child, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    if killed == "the other":
        assert process.returncode == 1
        assert "gvbsm: rank 1 ended with status -9; run the same command to go on" in stderr
    assert_gone(child)


def assert_gone(process: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if ") Z " in Path(f"/proc/{process}/stat").read_text():
                return
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {process} is still there")
