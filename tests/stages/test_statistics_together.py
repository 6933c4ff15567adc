"""statistics --ahead: one pass over the images measures several teachers, and each artifact is that of its own pass."""

import contextlib
import time
from pathlib import Path

import pytest
import torch

from gvbsm.cli import main
from gvbsm.data.splits import PackedImages
from gvbsm.pipeline.registry import planned_beside, write_plans
from gvbsm.runtime import checkpoints
from gvbsm.stages import statistics
from gvbsm.store.files import file_hash, load_tensors
from gvbsm.store.locks import CHECKPOINTS, lock_file, taken
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt, receipt_path


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs, no handler, no saving."""


class Run:
    """tiny's statistics, unmade, with what they were when each was measured by itself."""

    def __init__(self, planned, command_of, monkeypatch) -> None:
        write_plans(planned, Path("results/tiny/ipc4/acc.json"))
        self.artifacts = [artifact for artifact in planned if artifact.stage == "statistics"]
        self.alone = [file_hash(STORE / artifact.path) for artifact in self.artifacts]
        self.read = 0  # batches of images that were read and augmented
        self._command_of = command_of
        for artifact in self.artifacts:
            (STORE / artifact.path).unlink()
            receipt_path(STORE / artifact.path).unlink()
        augmented = PackedImages.augmented

        def counted(images, batches, *arguments):
            for unit in augmented(images, batches, *arguments):
                self.read += 1
                yield unit

        monkeypatch.setattr(PackedImages, "augmented", counted)

    def make(self, number: int, *options: str) -> int:
        return main([*self._command_of(self.artifacts[number]), "--ahead", *options])

    def saved(self, number: int) -> int:
        """The batches in the checkpoint of a job."""
        file = CHECKPOINTS / self.artifacts[number].key / "state.safetensors"
        return dict(load_tensors(file)[1][1])["batches"][1] if file.exists() else 0

    def made(self, number: int) -> bool:
        path = STORE / self.artifacts[number].path
        return path.exists() and file_hash(path) == self.alone[number]


@pytest.fixture
def run(published_run, command_of, monkeypatch) -> Run:
    return Run(published_run, command_of, monkeypatch)


BATCHES = 23  # 1,437 images in batches of 64


def test_each_image_is_read_once_and_the_bytes_are_those_of_a_pass_of_its_own(run, capsys):
    assert run.make(0) == 0
    assert "measures the same images for waiting jobs too: digits-wrn16_2-" in capsys.readouterr().err
    assert run.made(0) and run.read == BATCHES and [run.saved(1), run.saved(2)] == [BATCHES] * 2
    assert not (STORE / run.artifacts[1].path).exists()  # Snakemake deletes outputs of a job before it runs
    assert run.make(1) == run.make(2) == 0
    assert run.made(1) and run.made(2) and run.read == BATCHES
    assert not list(CHECKPOINTS.glob("*/*"))


def test_without_the_option_a_job_measures_only_its_own_teacher(run):
    assert main(run._command_of(run.artifacts[0])) == 0
    assert run.made(0) and run.saved(1) == run.saved(2) == 0


def test_time_is_that_of_each_teacher_and_its_share_of_the_reading(run, monkeypatch):
    """On a clock by which reading a batch takes 60 s, and its pass through the teachers 100, 200 and 300 s."""
    clock, augmented, pass_through = [time.perf_counter()], PackedImages.augmented, statistics._Pass.pass_through
    costs = {artifact.key: cost for artifact, cost in zip(run.artifacts, (100, 200, 300), strict=True)}

    def slow_read(*arguments):
        for unit in augmented(*arguments):
            clock[0] += 60
            yield unit

    def slow_pass(own, *batch):
        clock[0] += costs[own.job.spec.key]
        pass_through(own, *batch)

    with monkeypatch.context() as slow:
        slow.setattr(PackedImages, "augmented", slow_read)
        slow.setattr(statistics._Pass, "pass_through", slow_pass)
        slow.setattr("time.perf_counter", lambda: clock[0])
        assert run.make(0) == 0
    assert run.make(1) == run.make(2) == 0
    seconds = [read_receipt(STORE / artifact.path)["seconds"] for artifact in run.artifacts]
    assert seconds == pytest.approx([BATCHES * (20 + cost) for cost in (100, 200, 300)], abs=50)  # and their starts


@pytest.mark.parametrize("kind", ["killed", "signalled"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_killed_pass_goes_on_for_all(run, kind, first, monkeypatch):
    """The next job to run may be another one."""
    tick, ticks = checkpoints.Checkpoint.tick, 0

    def stopping(checkpoint, state):
        nonlocal ticks
        ticks += 1
        if ticks == 9 and kind == "killed":
            raise Killed
        if ticks == 9:
            checkpoints._received.append(15)
        tick(checkpoint, state)

    monkeypatch.setattr(checkpoints.Checkpoint, "tick", stopping)
    with pytest.raises(Killed) if kind == "killed" else contextlib.nullcontext():
        assert run.make(0, "--checkpoint-seconds", "0") == 143
    checkpoints._received.clear()
    assert run.saved(0) == run.saved(1) == run.saved(2) == (8 if kind == "killed" else 9) and not run.made(0)
    for number in (first, 1 - first, 2):
        assert run.make(number) == 0
    assert all(run.made(number) for number in range(3))
    assert run.read == BATCHES + (1 if kind == "killed" else 0)


def test_killed_between_two_saves_no_pass_is_behind(run, monkeypatch):
    saved, saves = statistics._WaitingPass.saved, 0

    def stopping(other):
        nonlocal saves
        saves += 1
        if saves == 6:  # of two at every batch: the second of the third batch
            raise Killed
        return saved(other)

    monkeypatch.setattr(statistics._WaitingPass, "saved", stopping)
    with pytest.raises(Killed):
        run.make(0, "--checkpoint-seconds", "0")
    assert [run.saved(number) for number in range(3)] == [2, 3, 2]
    assert [run.make(number) for number in range(3)] == [0] * 3
    assert all(run.made(number) for number in range(3)) and run.read == 3 + BATCHES - 2


def test_a_teacher_that_fails_loses_nothing_of_the_others(run, monkeypatch, capsys):
    real, failing = statistics._Pass.pass_through, [run.artifacts[1].key]

    def fails(own, *batch):
        if own.job.spec.key in failing and own.batches == 5:
            raise torch.OutOfMemoryError("no memory for it")
        real(own, *batch)

    monkeypatch.setattr(statistics._Pass, "pass_through", fails)
    assert run.make(0) == 0 and run.made(0)
    assert "not measured before its own job runs: no memory for it" in capsys.readouterr().err
    assert run.saved(1) == 0 and run.saved(2) == BATCHES
    with pytest.raises(torch.OutOfMemoryError):  # a bug or too small a GPU, in its own job
        run.make(1)
    failing.clear()
    assert run.make(1) == run.make(2) == 0 and run.made(1) and run.made(2)


def test_a_job_that_fails_leaves_the_others_what_it_measured(run, monkeypatch):
    real = statistics._Pass.pass_through

    def fails(own, *batch):
        if own.job.spec.key == run.artifacts[0].key and own.batches == 5:
            raise RuntimeError("broken")
        real(own, *batch)

    monkeypatch.setattr(statistics._Pass, "pass_through", fails)
    with pytest.raises(RuntimeError, match="broken"):
        run.make(0)
    assert run.saved(1) == run.saved(2) == 6
    assert run.make(1) == run.make(2) == 0 and run.made(1) and run.made(2)


def test_a_damaged_teacher_is_reported_by_its_own_job(run, capsys):
    teacher = STORE / run.artifacts[1].spec.inputs.teacher
    teacher.write_bytes(teacher.read_bytes()[:-1])
    assert run.make(0) == 0 and run.made(0) and run.saved(2) == BATCHES
    assert run.make(1) == 2 and "damaged" in capsys.readouterr().err


def test_jobs_that_run_or_whose_teacher_is_still_trained_are_left_alone(run):
    (STORE / run.artifacts[2].spec.inputs.teacher).unlink()
    with taken(lock_file(run.artifacts[1].key)):
        assert run.make(0) == 0
    assert run.made(0) and run.saved(1) == run.saved(2) == 0


def test_a_job_that_starts_meanwhile_goes_on_by_itself(run, monkeypatch):
    """Its checkpoint is its own from then on."""
    running, real = contextlib.ExitStack(), statistics._Pass.measure

    def starts(own, *batch):
        if own.job.spec.key == run.artifacts[0].key and own.batches == 5:
            assert running.enter_context(taken(lock_file(run.artifacts[1].key)))
        real(own, *batch)

    monkeypatch.setattr(statistics._Pass, "measure", starts)
    with running:
        assert run.make(0, "--checkpoint-seconds", "0") == 0
        assert run.saved(1) == 5 and run.saved(2) == BATCHES
    assert run.make(1) == run.make(2) == 0 and run.made(1) and run.made(2)


def test_two_jobs_share_those_that_wait(run):
    with taken(CHECKPOINTS / run.artifacts[1].key / "ahead") as is_ours:
        assert is_ours and run.make(0) == 0
    assert run.saved(1) == 0 and run.saved(2) == BATCHES


def test_planned_beside_is_what_a_planned_job_reads_in_the_same_list(run):
    paths = [artifact.path for artifact in run.artifacts]
    assert [artifact.path for artifact in planned_beside(paths[1])] == [paths[0], paths[2]]
    assert planned_beside("statistics/digits-other-0123456789.safetensors") == []
    Path("results/.plan/0123456789.json").write_text(f'{{"{paths[1]}')  # a damaged plan
    Path(f"results/.plan/{run.artifacts[0].key}.json").unlink()
    assert [artifact.path for artifact in planned_beside(paths[1])] == [paths[2]]


@pytest.mark.parametrize(
    "change", [{"batch_size": 32}, {"seed": 1}, {"precision": "bfloat16"}, {"variance": "mean_of_batches"}]
)
def test_other_settings_are_another_pass(run, change):
    spec = run.artifacts[0].spec
    other = spec.model_copy(update={"settings": spec.settings.model_copy(update=change)})
    assert spec.shares_pass(run.artifacts[1].spec) and not spec.shares_pass(other)
    assert not spec.shares_pass(spec.model_copy(update={"augment": spec.augment.model_copy(update={"pad": 2})}))
    assert not spec.shares_pass(spec.model_copy(update={"inputs": spec.inputs.model_copy(update={"data": "prepare/b"})}))


@pytest.mark.nightly("snakemake")
def test_the_rule_asks_for_it(run, run_snakemake):
    paths = [str(STORE / artifact.path) for artifact in run.artifacts]
    done = run_snakemake("-n", "--printshellcmds", "--quiet", "reason", "--", target=paths[0])
    assert f"--out {paths[0]} --ahead " in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.nightly("snakemake")
def test_snakemake_runs_one_pass_with_teachers_made_before(run, run_snakemake):
    for artifact in run.artifacts[1:]:
        teacher = STORE / artifact.spec.inputs.teacher
        teacher.unlink()
        receipt_path(teacher).unlink()
    paths = [str(STORE / artifact.path) for artifact in run.artifacts]
    done = run_snakemake("--cores", "1", *paths[1:], target=paths[0])
    assert all(run.made(number) for number in range(3)), done.stdout + done.stderr
    output = "".join(log.read_text() for log in Path("results/logs/statistics").iterdir())
    assert output.count("waiting jobs too") == 1 and output.count("goes on from its checkpoint at 23/23") == 2, output
