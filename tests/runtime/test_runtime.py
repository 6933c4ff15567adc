"""Training loop, checkpoints, devices, progress."""

import dataclasses
import errno
import math
import os
import platform
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from gvbsm.config.load import load_row
from gvbsm.config.students import HardTraining
from gvbsm.errors import Interrupted, UserError
from gvbsm.method.parts import split_batches, split_parts
from gvbsm.pipeline.stage import part as part_of
from gvbsm.runtime import arithmetic as rounding
from gvbsm.runtime import checkpoints
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import choose_device, job_device
from gvbsm.runtime.progress import Progress
from gvbsm.store.files import save_tensors
from gvbsm.store.job import Job
from gvbsm.store.spec import Spec
from gvbsm.training import fit as training
from gvbsm.training.fit import Recipe, fit, learning_rate, make_optimizer
from gvbsm.training.precision import autocast

RECIPE = Recipe(epochs=3, optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.01, schedule="cosine", seed=0)


def test_cosine_per_epoch_and_constant():
    steps = [learning_rate(RECIPE, epoch) for epoch in range(3)]
    assert steps == pytest.approx([0.05 * (1 + math.cos(math.pi * e / 3)) for e in range(3)])
    constant = Recipe(3, "sgd", 0.1, None, 0.0, "constant", 0)
    assert [learning_rate(constant, epoch) for epoch in range(3)] == [0.1] * 3


def test_a_stretched_cosine_ends_before_zero():
    stretched = dataclasses.replace(RECIPE, stretch=2.0)
    steps = [learning_rate(stretched, epoch) for epoch in range(3)]
    assert steps == pytest.approx([0.05 * (1 + math.cos(math.pi * e / 6)) for e in range(3)])


@pytest.mark.parametrize("epochs", [3, 20, 1000])
def test_a_step_size_falls_at_every_milestone(epochs):
    recipe = dataclasses.replace(RECIPE, schedule="step", epochs=epochs, milestones=(0.8, 0.9, 0.95), gamma=0.5)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, [round(0.8 * epochs), round(0.9 * epochs), round(0.95 * epochs)], 0.5
    )
    for epoch in range(epochs):
        assert learning_rate(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"]), epoch
        optimizer.step()
        schedule.step()
    if epochs == 1000:  # EDC's CIFAR-10 script
        sizes = [learning_rate(recipe, epoch) for epoch in (0, 799, 800, 899, 900, 949, 950, 999)]
        assert sizes == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125])


def test_squeeze_and_evaluate_hand_their_milestones_to_the_training(workspace, edit_row):
    step = {"schedule": "step", "milestones": [0.5], "gamma": 0.1}
    edit_row({"squeeze": step, "evaluate": step})
    row = load_row("tiny")
    student = row.evaluate.students[0].evaluate
    for settings in (row.backbones[0].squeeze, student, part_of(HardTraining, student)):
        recipe = Recipe.from_settings(settings, 0)
        assert (recipe.schedule, recipe.milestones, recipe.gamma) == ("step", (0.5,), 0.1)
        assert learning_rate(recipe, settings.epochs - 1) == pytest.approx(settings.lr / 10)


@pytest.mark.parametrize("largest", [0.3, 0.99])  # reached within the six steps, or not
def test_the_average_of_weights_is_measured_and_survives_a_stop(tmp_path, largest):
    recipe = dataclasses.replace(RECIPE, ema=largest)
    seen: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []

    def losses(model, batch):
        weights.append(model.weight.detach().clone())
        yield model(torch.ones(1, 3)).sum()

    def train(checkpoint):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        fit(
            model, recipe, lambda e, f: [0, 1][f:], losses, checkpoint, "test", lambda m, e: seen.append(m.weight.clone()) or {}
        )
        return model

    model = train(Checkpoint(None, 1e9))
    average = weights[1]  # after the first step the average is the weights themselves
    for steps, after_step in enumerate((*weights[2:], model.weight.detach()), 1):
        decay = min(largest, (1 + steps) / (10 + steps))
        average = decay * average + (1 - decay) * after_step
    torch.testing.assert_close(seen[-1], average)
    uninterrupted = seen[-1]
    checkpoint = Checkpoint(tmp_path / "c", 1e9)
    checkpoints._received.append(15)
    with pytest.raises(Interrupted):
        train(checkpoint)
    checkpoints._received.clear()
    train(checkpoint)
    assert torch.equal(seen[-1], uninterrupted)


def test_statistics_of_batchnorm_are_not_averaged_again():
    model, measured = nn.BatchNorm1d(3), []
    noise = torch.randn(3, 2, 8, 3, generator=torch.Generator().manual_seed(0)) + 5

    def losses(model, batch):
        yield model(noise[batch]).square().sum()

    def after(model, epoch):
        measured.append({name: value.clone() for name, value in model.state_dict().items()})
        return {}

    recipe = dataclasses.replace(RECIPE, ema=0.9)
    fit(model, recipe, lambda e, f: [(e, 0), (e, 1)][f:], losses, Checkpoint(None, 1e9), "test", after)
    assert all(torch.equal(measured[-1][name], value) for name, value in model.named_buffers())
    assert not torch.equal(measured[-1]["weight"], model.weight)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_no_decay_on_biases_and_one_dimensional_weights(name):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    optimizer = make_optimizer(model, Recipe(3, name, 0.1, None, 0.01, "constant", 0))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decay[id(p)] == (0.01 if p.ndim > 1 else 0.0) for p in model.parameters())
    assert len(decay) == len(list(model.parameters()))


def linear_fit(checkpoint: Checkpoint, recipe: Recipe = RECIPE) -> tuple[nn.Module, list]:
    """A linear model on noise: batches of two, one of them in two accumulated parts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    x = torch.randn(8, 3)

    def losses(model, batch):
        for part in batch.split(1):
            yield model(x[part]).square().mean() / len(batch)

    history = fit(
        model,
        recipe,
        lambda epoch, first: torch.arange(8).split(2)[first:],
        losses,
        checkpoint,
        "test",
        lambda m, e: {"top1": 1.0},
    )
    return model, history


def test_fit_reports_every_epoch_and_stops_after_the_one_asked_for():
    _, history = linear_fit(Checkpoint(None, 1e9))
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert all(row["top1"] == 1.0 and row["loss"] > 0 for row in history)
    short = Recipe(3, "sgd", 0.1, 0.9, 0.01, "cosine", 0, stop_after=1)
    assert linear_fit(Checkpoint(None, 1e9), short)[1] == history[:1]


def test_a_finished_training_is_not_done_again(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c", 1e9)
    model, history = linear_fit(checkpoint)
    again, same = linear_fit(checkpoint)
    assert same == history
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_checkpoints_keep_every_kind_of_value(tmp_path):
    state = {
        "tensor": torch.randn(2, 3),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "none": None,
        "list": [1, 2.5, float("inf"), -0.0, "text", True, {"deep": torch.zeros(0)}],
        3: "a number as a name",
    }
    checkpoint = Checkpoint(tmp_path / "c", 1e9)
    checkpoint.save(state)
    loaded = checkpoint.load()
    assert torch.equal(loaded["tensor"], state["tensor"]) and torch.equal(loaded["bytes"], state["bytes"])
    assert loaded["none"] is None and loaded[3] == "a number as a name"
    assert loaded["list"][:6] == state["list"][:6] and math.copysign(1, loaded["list"][3]) == -1
    assert isinstance(loaded["list"][5], bool) and loaded["list"][6]["deep"].shape == (0,)
    checkpoint.clear()
    assert checkpoint.load() is None and not (tmp_path / "c").exists()


def test_checkpoints_by_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "c", 10)
    saved = []
    for second in range(25):
        now[0] = float(second)
        checkpoint.tick(lambda: saved.append(now[0]) or {"second": now[0]})
    assert saved == [10.0, 20.0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_save_and_stop(number, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_received", [])
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        checkpoints.install_signal_handlers()
        checkpoint = Checkpoint(tmp_path / "c", 1e9)
        checkpoint.tick(lambda: {"x": 1})
        assert checkpoint.load() is None
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=signal.Signals(number).name):
            checkpoint.tick(lambda: {"x": 2})
        assert checkpoint.load() == {"x": 2}
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def test_devices(arithmetic, monkeypatch):
    before = torch.get_num_threads()
    assert choose_device("cpu", 1) == torch.device("cpu")
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert choose_device("auto", before) == torch.device("cuda")
    assert choose_device("cuda:1", before) == torch.device("cuda:1")
    with pytest.raises(UserError, match="got 'cuda:2'"):
        choose_device("cuda:2", before)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"expected one of auto, .*got 'cuda'"):
        choose_device("cuda", before)


@pytest.mark.parametrize("asked", ["cpu:0", "mps:0"])
def test_a_device_without_a_number_may_be_given_one(asked, arithmetic, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    kind, threads = asked.partition(":")[0], torch.get_num_threads()
    assert choose_device(asked, threads) == torch.device(kind)
    job = Job(spec=Spec(stage="squeeze"), out=tmp_path / "a.csv", store=tmp_path, device=asked)
    assert job_device(job, threads) == torch.device(kind) and job.device.startswith(f"{kind}: ")
    with pytest.raises(UserError, match=f"got '{kind}:1'"):
        choose_device(f"{kind}:1", threads)


@pytest.mark.parametrize(("asked", "current"), [("cuda:1", [torch.device("cuda:1")]), ("cuda", []), ("cpu", []), ("cpu:0", [])])
def test_a_gpu_that_is_named_is_the_current_one(asked, current, arithmetic, monkeypatch, tmp_path):
    """Seeds, kernels and peaks of memory are those of the current device: in jobs, and in benchmarks, which have none."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    job = Job(spec=Spec(stage="squeeze"), out=tmp_path / "a.csv", store=tmp_path, device=asked)
    job_device(job, torch.get_num_threads())
    assert chosen == current
    choose_device(asked, torch.get_num_threads())
    assert chosen == 2 * current


@pytest.fixture
def arithmetic():
    """Puts torch's settings back."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    yield lambda: (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark)
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.benchmark = before[1]


def test_float32_products_are_in_tf32_on_cuda_alone_and_never_for_statistics(arithmetic, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    threads = torch.get_num_threads()
    job = Job(spec=Spec(stage="squeeze"), out=tmp_path / "a.csv", store=tmp_path)
    for device, exact, expected in [
        ("cuda", False, ("high", False)),
        ("cuda", True, ("highest", False)),
        ("cpu", False, ("highest", False)),  # also after a job on CUDA in the same process
    ]:
        job.device = device
        job_device(job, threads, exact)
        assert arithmetic() == expected
    job.device = "cuda"
    job_device(job, threads)
    assert arithmetic() == ("high", False) and job.device == "cuda: a GPU"


def test_precision(monkeypatch):
    monkeypatch.setattr(rounding, "cpu_has_bfloat16", lambda: True)
    layer = nn.Linear(2, 2)
    for precision in ("float32", "bfloat16"):
        with autocast(torch.device("cpu"), precision):
            assert layer(torch.ones(1, 2)).dtype == getattr(torch, precision)


def test_progress_in_a_log_is_plain_lines(capsys):
    progress = Progress("title", 3)
    for _ in range(3):
        progress.step(loss=0.5)
    log = capsys.readouterr().err
    assert log.count("\n") == 1 and log.startswith("title: 3/3, ") and log.endswith("loss 0.5\n")


def test_a_loss_that_is_not_finite_is_refused():
    model = nn.Linear(1, 1)
    infinite = lambda model, batch: [model(torch.ones(1, 1)).sum() * float("inf")]  # noqa: E731
    with pytest.raises(UserError, match=r"test: epoch 1: expected a finite loss, got (nan|inf|-inf); lower lr"):
        fit(model, RECIPE, lambda epoch, first: [0], infinite, Checkpoint(None, 1e9), "test")


class Moody(nn.Linear):
    """Notes each change of its mode."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.modes: list[bool] = []

    def train(self, mode: bool = True) -> nn.Module:
        self.modes.append(mode)
        return super().train(mode)


def moody_fit(losses_of_epochs: list[float], test_every: int, checkpoint: Checkpoint, tested: list[int]) -> tuple[Moody, list]:
    """Epochs of one step with these losses, of a single weight that stays."""
    recipe = dataclasses.replace(RECIPE, epochs=len(losses_of_epochs), lr=0.0)
    torch.manual_seed(0)
    model = Moody()

    def test(model: nn.Module, epoch: int) -> dict[str, float]:
        assert not model.training
        tested.append(epoch + 1)
        return {"top1": float(epoch)}

    def losses(model: nn.Module, loss: float) -> list[torch.Tensor]:
        assert model.training
        return [model(torch.ones(1, 1)).sum() * 0 + loss]

    batches = lambda epoch, first: losses_of_epochs[epoch : epoch + 1][first:]  # noqa: E731
    return model, fit(model, recipe, batches, losses, checkpoint, "test", test, test_every)


@pytest.mark.parametrize("seconds", [0.0, math.inf])  # between two fetches of losses
def test_rows_are_the_same_however_often_losses_are_fetched(seconds, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_FETCH_SECONDS", seconds)
    epochs, tested = [1.0, 2.0, 0.5, 3.0, 4.0, 0.25, 8.0], []
    expected = [{"epoch": at + 1, "loss": loss} | ({"top1": at} if at in (2, 5, 6) else {}) for at, loss in enumerate(epochs)]
    model, history = moody_fit(epochs, 3, Checkpoint(None, 1e9), tested)
    assert history == expected and [list(row) for row in history] == [list(row) for row in expected]
    assert tested == [3, 6, 7] and model.modes == [True, *3 * [False, True], False]
    saved: list[Checkpoint] = []

    def save(state) -> None:
        saved.append(Checkpoint(tmp_path / f"{len(saved)}", 1e9))
        saved[-1].save(state())

    checkpoint = Checkpoint(None, 1e9)
    monkeypatch.setattr(checkpoint, "tick", save)
    moody_fit(epochs, 3, checkpoint, [])
    for at, checkpoint in enumerate(saved):
        assert checkpoint.load()["history"] == expected[:at] and checkpoint.load()["epoch"] == at
        assert moody_fit(epochs, 3, checkpoint, [])[1] == expected
    assert len(saved) == len(epochs)


def test_progress_tells_of_every_epoch(monkeypatch):
    monkeypatch.setattr(training, "_FETCH_SECONDS", math.inf)
    shown: list[dict[str, float]] = []
    monkeypatch.setattr(Progress, "_log", lambda progress, step: shown.append({"done": step.done, **step.values}))
    monkeypatch.setattr("gvbsm.runtime.progress._LOG_SECONDS", 0.0)
    checkpoint, before = Checkpoint(None, 1e9), []
    moody_fit([1.0, 2.0, 3.0], 2, checkpoint, [])
    assert shown == [{"done": 1, "loss": 1.0}, {"done": 2, "loss": 2.0, "top1": 1.0}, {"done": 3, "loss": 3.0, "top1": 2.0}]
    shown.clear()
    monkeypatch.setattr(checkpoint, "tick", lambda state: (state(), before.append(len(shown))))
    moody_fit([1.0, 2.0, 3.0], 3, checkpoint, [])
    assert before == [0, 1, 2], "a saved state tells of all before it: another process may go on from there"


@pytest.mark.parametrize("seconds", [0.0, math.inf])
def test_the_first_loss_that_is_not_finite_is_named_before_a_test(seconds, monkeypatch):
    monkeypatch.setattr(training, "_FETCH_SECONDS", seconds)
    tested: list[int] = []
    with pytest.raises(UserError, match=r"test: epoch 4: expected a finite loss, got inf; lower lr"):
        moody_fit([1.0, 1.0, 1.0, math.inf, math.nan, 1.0], 3, Checkpoint(None, 1e9), tested)
    assert tested == [3]


@pytest.mark.parametrize(
    ("count", "size", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1]), (3, 100, [3]), (4, 3, [4])]
)
def test_no_batch_of_one_image_beside_others(count, size, sizes):
    batches = split_batches(torch.arange(count), size)
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), torch.arange(count))


@pytest.mark.parametrize(
    ("count", "full", "parts", "sizes"),
    [  # 100 images in batches of 16 leave four: one part, as in SRe2L++, and not two of two
        (16, 16, 2, [8, 8]),
        (4, 16, 2, [4]),
        (8, 16, 2, [8]),
        (10, 16, 2, [5, 5]),
        (2, 16, 2, [2]),
        (17, 16, 2, [9, 8]),  # a single image has joined the last batch
        (10, 10, 2, [5, 5]),
        (20, 40, 5, [7, 7, 6]),
        (5, 5, 4, [2, 3]),
        (3, 3, 3, [1, 1, 1]),
        (25, 25, 1, [25]),
    ],
)
def test_a_short_batch_has_fewer_parts(count, full, parts, sizes):
    split = split_parts(torch.arange(count), full, parts)
    assert [len(part) for part in split] == sizes
    assert torch.equal(torch.cat(split), torch.arange(count))


def test_a_growing_tensor_has_a_file_of_its_own(tmp_path):
    """It holds all that an earlier process wrote, counted or not; the saved state does not grow with it."""
    first = Checkpoint(tmp_path / "c", 1e9)
    tensor = first.tensor("kept", (1000, 3), torch.float16)
    assert tensor.eq(0).all()
    tensor[:500] = 1.5
    first.save({"done": 500})
    tensor[500] = 2  # not counted yet when the process dies
    assert first.file.stat().st_size < 1000
    again = Checkpoint(tmp_path / "c", 1e9)
    assert again.load() == {"done": 500}
    assert again.tensor("kept", (1000, 3), torch.float16)[:501].sum() == 500 * 3 * 1.5 + 6
    again.clear()
    assert not (tmp_path / "c").exists()
    assert Checkpoint(None, 1e9).tensor("kept", (2, 2), torch.uint8).tolist() == [[0, 0], [0, 0]]


def test_a_process_killed_while_it_clears_leaves_no_state_without_its_tensors(tmp_path, monkeypatch):
    """Else the next process would go on from that state with tensors of zeros."""
    checkpoint = Checkpoint(tmp_path / "c", 1e9)
    checkpoint.tensor("kept", (4,), torch.uint8)[:] = 7
    checkpoint.save({"done": 4})

    def killed(folder) -> None:
        (folder / "kept.raw").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.clear()
    again = Checkpoint(tmp_path / "c", 1e9)
    assert again.load() is None and again.tensor("kept", (4,), torch.uint8).sum() == 0
    assert [file.name for file in tmp_path.iterdir() if file.name != "c"] == [f".c.{os.getpid()}.tmp"]  # gc's to delete


def test_a_state_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch):
    """A network's file system may fail for a moment. A damaged file is none."""
    checkpoint = Checkpoint(tmp_path / "c", 1e9)
    checkpoint.save({"done": 4})

    def fails(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "load_tensors", fails)
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            checkpoint.load()
    assert checkpoint.load() == {"done": 4}
    checkpoint.file.write_bytes(checkpoint.file.read_bytes()[:-3])
    assert checkpoint.load() is None


def test_no_room_for_a_growing_tensor(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match=r"kept.raw: cannot be written: No space left on device; free space"):
        Checkpoint(tmp_path, 1e9).tensor("kept", (1000,), torch.float32)


@pytest.mark.nightly("processes")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep freed memory in their own ways")
def test_freed_memory_is_kept_for_the_next_tensor():
    """Filling 64 MiB again takes few page faults: over 16,000 of 4 KiB if the memory had been handed back.

    The last of twenty fillings counts: small blocks may lie in the way of the first ones.
    """
    program = (
        "import resource, torch\n"
        "from gvbsm.runtime.devices import choose_device, job_device\n"
        "choose_device('cpu', 1)\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20):\n"
        "    before = faults()\n"
        "    torch.ones(2**24)\n"
        "print(faults() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_the_umask_decides_who_can_read_tensors(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == mode
