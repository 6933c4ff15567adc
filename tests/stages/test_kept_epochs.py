"""squeeze.keep_epochs: several epochs of one training, each a teacher of its own; jobs go on from one another."""

from pathlib import Path

import pytest

from gvbsm.config.load import load_row
from gvbsm.config.messages import SettingsError
from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import write_plans
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.stages import squeeze
from gvbsm.store.files import load_tensors
from gvbsm.store.job import Job
from gvbsm.store.locks import CHECKPOINTS, lock_file, taken
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt

ONE = {"backbones": [{"name": "convnet", "options": {"width": 4}}]}
EPOCHS = {"squeeze": {"epochs": 4, "keep_epochs": [1, 3, 4]}}


def teachers(*arguments) -> list:
    """The planned teachers, their plans written."""
    artifacts = plan("tiny", 4, *arguments)
    write_plans(artifacts, Path("results/tiny/ipc4/acc.json"))
    return [artifact for artifact in artifacts if artifact.stage == "squeeze"]


def train(artifact, store: Path = STORE, checkpoints: Path = CHECKPOINTS) -> Path:
    out = STORE.with_name(store.name) / artifact.path
    job = Job(spec=artifact.spec, out=out, store=STORE, device="cpu", checkpoints=checkpoints / artifact.key)
    squeeze.run(job)
    return out


@pytest.fixture
def kept(workspace, edit_row, make_up_to) -> list:
    """Three teachers of one training; the data set is made."""
    edit_row(ONE | EPOCHS)
    make_up_to("prepare")
    return teachers()


NIGHTLY = pytest.mark.nightly("stages")


@pytest.mark.parametrize(
    "order", [(2, 1, 0), *(pytest.param(order, marks=NIGHTLY) for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2)))]
)
def test_each_teacher_is_that_of_a_training_alone_whatever_order_they_are_made_in(order, kept, monkeypatch):
    alone = [train(artifact, Path("alone"), Path("nowhere")).read_bytes() for artifact in kept]
    assert len(set(alone)) == 3
    for path in Path("results/alone/squeeze").iterdir():
        path.unlink()
    for number in order:
        assert train(kept[number]).read_bytes() == alone[number]
    assert not [folder for folder in CHECKPOINTS.iterdir() if folder.is_dir()]
    receipts = [read_receipt(STORE / artifact.path) for artifact in kept]
    assert [receipt["summary"]["epochs"] for receipt in receipts] == [1, 3, 4]
    images = load_tensors(STORE / kept[0].spec.inputs.data)[0]["train_labels"].numel() if order == (0, 1, 2) else None
    if images:  # four epochs are trained in all
        assert [receipt["images"] / images for receipt in receipts] == [1, 2, 1]


def test_a_job_that_runs_already_is_left_alone_and_one_that_waits_gets_the_later_state(kept, capsys):
    first, second, third = kept
    with taken(lock_file(second.key, CHECKPOINTS)):
        train(first)
    assert not (CHECKPOINTS / second.key).exists() and epochs_in(third) == 1
    assert f"{Path(third.path).stem} goes on from epoch 1" in capsys.readouterr().err
    train(second)
    assert epochs_in(third) == 3


def epochs_in(artifact) -> int:
    return Checkpoint(CHECKPOINTS / artifact.key, 0).load()["epoch"]


def test_a_job_that_was_handed_a_state_before_is_the_one_that_hands_on(kept):
    """A job may be killed after it has handed its state on, and run again."""
    first, second, third = kept
    train(first)
    (STORE / first.path).unlink()
    train(first)
    assert epochs_in(second) == 1 and not (CHECKPOINTS / third.key).exists()


@pytest.mark.parametrize(("left_for", "kept_now"), [(3, 4), (4, 3)])
def test_a_wanted_epoch_goes_on_from_a_state_that_was_left_for_a_stale_plan(
    left_for, kept_now, workspace, edit_row, make_up_to, capsys
):
    """The row asked for other epochs, and was changed: nobody makes the teacher any more that got the state."""
    edit_row(ONE | {"squeeze": {"epochs": 4, "keep_epochs": [1, left_for]}})
    make_up_to("prepare")
    first, stale = teachers()
    train(first)
    assert epochs_in(stale) == 1
    edit_row({"squeeze": {"keep_epochs": [1, kept_now]}})
    *_, wanted = teachers()
    capsys.readouterr()
    train(wanted)
    assert f"goes on from epoch 1, which {CHECKPOINTS / stale.key} holds" in capsys.readouterr().err
    receipts = [read_receipt(STORE / artifact.path) for artifact in (first, wanted)]
    assert receipts[1]["images"] == (kept_now - 1) * receipts[0]["images"] and epochs_in(stale) == 1


def test_a_state_after_the_epoch_that_is_kept_or_of_another_training_is_of_no_use(kept, edit_row, capsys):
    first, second, third = kept
    train(second)
    assert epochs_in(third) == 3
    edit_row({"squeeze": {"seed": 9}})
    others = teachers()
    capsys.readouterr()
    for artifact in (first, others[1]):
        train(artifact)
    assert "which" not in capsys.readouterr().err
    assert read_receipt(STORE / others[1].path)["images"] == 3 * read_receipt(STORE / first.path)["images"]


def test_a_state_that_cannot_be_handed_on_fails_no_training(kept, monkeypatch, capsys):
    def full(*arguments):
        raise UserError("handed_over: cannot be written: No space left on device")

    monkeypatch.setattr(Checkpoint, "hand_over", full)
    assert train(kept[0]).exists()
    assert "not handed on: handed_over: cannot be written" in capsys.readouterr().err


def test_other_trainings_get_nothing(workspace, edit_row, make_up_to):
    edit_row(
        {
            "backbones": [
                *ONE["backbones"],
                {"name": "convnet", "label": "other", "options": {"width": 4}, "squeeze": {"seed": 9}},
            ]
        }
    )
    edit_row(EPOCHS)
    make_up_to("prepare")
    planned = teachers()
    assert len(planned) == 6
    train(planned[0])
    begun = {folder.name for folder in CHECKPOINTS.iterdir() if folder.is_dir()}
    assert begun == {planned[1].key}


def test_an_epoch_that_is_added_leaves_the_other_teachers_as_they_are(workspace, edit_row):
    edit_row({"squeeze": {"epochs": 4, "keep_epochs": [1, 4]}})
    before = {artifact.name: artifact.path for artifact in teachers()}
    edit_row({"squeeze": {"keep_epochs": [1, 3, 4]}})
    after = {artifact.name: artifact.path for artifact in teachers()}
    assert before.items() < after.items()
    assert {name.rpartition("-")[2] for name in after.keys() - before.keys()} == {"convnet_e3", "wrn16_2_e3", "resnet10_e3"}


def test_a_kept_epoch_is_the_teacher_of_keep_epoch_and_the_last_that_of_the_training(workspace, edit_row):
    edit_row(ONE | {"squeeze": {"epochs": 4}})
    (whole,) = teachers()
    edit_row({"squeeze": {"keep_epoch": 1}})
    (early,) = teachers()
    edit_row({"squeeze": {"keep_epoch": None, "keep_epochs": [1, 4]}})
    assert [artifact.key for artifact in teachers()] == [early.key, whole.key]


def test_every_stage_has_them_as_separate_teachers(workspace, edit_row):
    edit_row(
        {"backbones": [{"name": "convnet", "options": {"width": 4}}, {"name": "wrn16_2", "squeeze": {"keep_epochs": [1, 2]}}]}
    )
    row = load_row("tiny")
    assert [backbone.label for backbone in row.backbones] == ["convnet", "wrn16_2_e1", "wrn16_2_e2"]
    *artifacts, publish = plan("tiny", 4)
    paths = [artifact.path for artifact in artifacts if artifact.stage == "squeeze"]
    assert list(publish.spec.inputs.teachers) == ["convnet", "wrn16_2_e1", "wrn16_2_e2"]
    for artifact in artifacts:
        if artifact.stage in ("recover", "relabel"):
            assert artifact.spec.inputs.teachers == paths
    assert len([artifact for artifact in artifacts if artifact.stage == "statistics"]) == 3
    Path("config/recipes/one.yaml").write_text("backbones: [wrn16_2]\n")
    assert [backbone.label for backbone in load_row("tiny", "one").backbones] == ["wrn16_2_e1", "wrn16_2_e2"]


def test_a_judge_and_given_weights_are_one_network_each(workspace, edit_row):
    judge = {"name": "convnet", "label": "judge", "squeeze": {"seed": 9}}
    edit_row(EPOCHS | {"judge": judge, "backbones": [{"name": "convnet", "weights": "mine.pth"}]})
    row = load_row("tiny")
    assert [backbone.label for backbone in row.backbones] == ["convnet"]
    assert row.judge.label == "judge" and row.judge.squeeze.keep_epochs is None and row.judge.squeeze.trained_epochs == 4


@pytest.mark.nightly("snakemake")
def test_the_workflow_makes_them_one_after_the_other(published_run, edit_row, run_snakemake):
    select = {"choose": "random", "candidates": 1, "crops": 1, "scale": [1.0, 1.0], "cells": 1, "seed": 0}
    images = {"select": select | {"threads": 1, "precision": "float32"}, "recover": {"iterations": 0}}
    student = {"students": ONE["backbones"], "seeds": [0], "epochs": 1, "baselines": []}
    edit_row(ONE | EPOCHS | images | {"relabel": {"online": True}, "evaluate": student})
    done = run_snakemake("--cores", "2")
    assert done.returncode == 0, done.stderr
    receipts = [read_receipt(STORE / artifact.path) for artifact in teachers()]
    images = receipts[0]["images"]
    assert [receipt["images"] for receipt in receipts] == [images, 2 * images, images]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"squeeze": {"keep_epochs": [1, 9]}}, r"squeeze: keep_epochs: expected at most epochs \(2\), got 9; lower it"),
        ({"squeeze": {"keep_epochs": [2, 1]}}, r"squeeze: keep_epochs: expected each above the one before, got \[2, 1\]"),
        ({"squeeze": {"keep_epochs": [1, 1]}}, r"squeeze: keep_epochs: expected each above the one before, got \[1, 1\]"),
        ({"squeeze": {"keep_epochs": []}}, r"squeeze\.keep_epochs: "),
        (
            {"squeeze": {"keep_epoch": 1, "keep_epochs": [1, 2]}},
            r"squeeze: keep_epochs: expected off with keep_epoch \(1\), got \[1, 2\]; set either to null",
        ),
        (
            {"backbones": [{"name": "convnet", "squeeze": {"keep_epochs": [1]}}, {"name": "convnet", "label": "convnet_e1"}]},
            r"backbones: 'convnet_e1' appears twice; give one of them another label",
        ),
        (
            {
                "judge": {"name": "convnet", "label": "j"},
                "backbones": [{"name": "convnet", "squeeze": {"keep_epochs": [1, 2]}}],
            },
            r"judge: expected a network that is no teacher, got that of backbones\[0\]; name another",
        ),
    ],
)
def test_mistakes(change, message, workspace, edit_row):
    edit_row(change)
    with pytest.raises(SettingsError, match=message):
        load_row("tiny")
