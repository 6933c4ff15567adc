"""Settings of recover that change something over the iterations: each makes other images, and the same ones after any kill."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from gvbsm.config.load import load_row
from gvbsm.config.messages import SettingsError
from gvbsm.errors import UserError
from gvbsm.method.recovery import Recovery
from gvbsm.method.rounds import join_rounds
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import STAGES
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.stages import recover
from gvbsm.store.files import file_hash, load_tensors
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt

NIGHTLY = pytest.mark.nightly("stages")
CHANGES = {
    "residual": {"residual": {"segments": 4, "share": 0.5}},
    "crops": {"crops": {"first": 1.0, "last": 0.08}},
    "perturb": {"perturb": {"steps": 3, "rho": 2.0}},
    "early_late": {"early_late": {"rounds": 3}},
    "views and early_late": {"views": "relabel", "early_late": {"rounds": 2}},
    "variance_weight": {"variance_weight": 11.0},
}
ALL = {name: value for change in list(CHANGES.values())[:4] for name, value in change.items()}
REAL = {"choose": "random", "candidates": 1, "crops": 1, "scale": [1.0, 1.0], "cells": 1, "seed": 0}
REAL |= {"threads": 1, "precision": "float32"}


class Killed(Exception):
    """Stands for kill -9."""


def recovered(planned) -> list:
    return [artifact for artifact in planned if artifact.stage == "recover"]


def images_of(planned) -> torch.Tensor:
    return torch.cat([load_tensors(STORE / artifact.path)[0]["images"] for artifact in recovered(planned)])


def job_of(artifact) -> Job:
    folder = Path("results/.checkpoints") / artifact.key
    return Job(
        spec=artifact.spec, out=STORE / artifact.path, store=STORE, device="cpu", checkpoints=folder, checkpoint_seconds=0
    )


def killed_after_every_iteration(artifact, monkeypatch) -> int:
    """Make an artifact anew by processes that each end after one iteration more; return how many there were."""
    (STORE / artifact.path).unlink()
    tick, kills = Checkpoint.tick, 0

    def stopping(self, state):
        tick(self, state)
        raise Killed

    monkeypatch.setattr(Checkpoint, "tick", stopping)
    while True:
        try:
            recover.run(job_of(artifact))
            break
        except Killed:
            kills += 1
            assert kills < 100
    monkeypatch.setattr(Checkpoint, "tick", tick)
    return kills


@pytest.mark.parametrize(
    "change",
    [name if name == "views and early_late" else pytest.param(name, marks=NIGHTLY) for name in CHANGES],
)
def test_each_makes_other_images_and_the_same_ones_after_kills(change, published_run, edit_row, make_up_to, monkeypatch):
    edit_row({"select": REAL, "recover": {"group": 4, "batch_size": 20}})
    before, images = {artifact.key for artifact in recovered(plan("tiny", 4))}, images_of(make_up_to("recover"))
    edit_row({"recover": CHANGES[change]})
    assert not before & {artifact.key for artifact in recovered(plan("tiny", 4))}
    planned = make_up_to("recover")
    assert not torch.equal(images_of(planned), images)
    artifact = recovered(planned)[0]
    expected = file_hash(STORE / artifact.path)
    assert killed_after_every_iteration(artifact, monkeypatch) == 6 * len(artifact.spec.batches)
    assert file_hash(STORE / artifact.path) == expected


@pytest.mark.nightly("stages")
def test_together_they_depend_neither_on_shards_nor_on_how_many_images_there_are(published_run, edit_row, make_up_to):
    """As ever: a batch's images follow from the batch alone."""
    edit_row({"select": REAL, "recover": ALL | {"shard_batches": 2}})
    two = make_up_to("recover")
    edit_row({"recover": {"shard_batches": 1}})
    one = make_up_to("recover")
    assert len(recovered(one)) == 2 * len(recovered(two)) and torch.equal(images_of(one), images_of(two))
    more = make_up_to("recover", 6)
    assert {artifact.path for artifact in recovered(one)} < {artifact.path for artifact in recovered(more)}


def test_off_is_no_part_of_a_key(published_run, edit_row):
    before = [artifact.key for artifact in published_run]
    edit_row({"recover": dict.fromkeys([*ALL, "variance_weight"])})
    assert [artifact.key for artifact in plan("tiny", 4)] == before


def test_a_receipt_and_an_estimate_count_the_iterations_that_images_take_part_in(published_run, edit_row, make_up_to):
    edit_row({"select": REAL, "recover": {"group": 4, "batch_size": 20, "early_late": {"rounds": 3}}})
    for artifact in recovered(make_up_to("recover")):
        classes = sum(len(batch) for batch in artifact.spec.batches)
        assert artifact.spec.settings.iterations == 6 and join_rounds(4, 3) == [0, 0, 1, 2]
        assert read_receipt(STORE / artifact.path)["images"] == classes * (6 + 6 + 4 + 2)
        assert STAGES["recover"].images(artifact.spec, None) == classes * (6 + 6 + 4 + 2)


def test_images_join_in_the_order_of_select(published_run, edit_row, make_up_to, monkeypatch):
    """The first of each class moves from the first iteration on, the last only in the last round."""
    edit_row({"select": REAL, "recover": {"group": 4, "batch_size": 20, "early_late": {"rounds": 3}, "lr": 0.5}})
    artifact = recovered(make_up_to("recover"))[0]
    start = load_tensors(STORE / artifact.spec.inputs.start)[0]["images"][:20]
    moved, run = [], recover.Recovery.run

    def watched(self, until):
        losses = run(self, until)
        if self.iteration in (2, 4, 6):
            bytes_now = recover.Pixels(artifact.spec.pixels, torch.device("cpu")).to_bytes(self.x_BCHW.detach(), "round")
            moved.append((bytes_now != start).flatten(1).any(1).view(5, 4).tolist())
        return losses

    monkeypatch.setattr(recover.Recovery, "run", watched)
    (STORE / artifact.path).unlink()
    importlib.import_module("gvbsm.stages.recover").run(job_of(artifact))
    assert moved[:3] == [5 * [[True, True, False, False]], 5 * [[True, True, True, False]], 5 * [4 * [True]]]


def test_crops_replace_the_rows_own_crop_in_recover_alone(published_run, edit_row):
    edit_row({"recover": CHANGES["crops"]})
    keys = [artifact.key for artifact in recovered(plan("tiny", 4))]
    teachers = [artifact.key for artifact in plan("tiny", 4) if artifact.stage == "squeeze"]
    assert teachers == [artifact.key for artifact in published_run if artifact.stage == "squeeze"]
    job = job_of(recovered(plan("tiny", 4))[0])
    pixels = recover.Pixels(job.spec.pixels, torch.device("cpu"))
    batch = job.spec.batches[0]
    own = recover._views(job, batch, pixels).positions_T2S
    edit_row({"augment": {"pad": None}})
    job = job_of(recovered(plan("tiny", 4))[0])
    assert torch.equal(recover._views(job, batch, pixels).positions_T2S, own) and job.spec.key not in keys


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        pytest.param("fadrm", {"residual"}, marks=NIGHTLY),
        pytest.param("cda", {"crops"}, marks=NIGHTLY),
        ("dwa", {"perturb"}),
        pytest.param("delt", {"early_late", "crops"}, marks=NIGHTLY),
    ],
)
def test_recipes_with_these_settings_run_to_the_end(recipe, settings, published_run, make_up_to, make_artifact):
    """On digits of 8 px, with one narrow teacher and few iterations."""
    Path("config/recipes/brief.yaml").write_text(
        f"extends: {recipe}\n"
        "backbones: [resnet10]\n"
        "recover: {iterations: 8, batch_size: 20, group: 2}\n"
        "evaluate: {epochs: 2, seeds: [0]}\n"
    )
    planned = make_up_to("evaluate", recipe="brief")
    assert all(getattr(artifact.spec.settings, name) for artifact in recovered(planned) for name in settings)
    accuracies = json.loads(make_artifact(planned[-1]).read_text())
    assert accuracies["recipe"] == "brief" and len(images_of(planned)) == 40
    students = [student["top1"]["mean"] for student in accuracies["students"].values()]
    assert students and all(0 <= top1 <= 100 for top1 in students)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residual": {"segments": 7, "share": 0.5}}, r"recover: residual.segments: expected at most iterations \(6\), got 7"),
        ({"early_late": {"rounds": 9}}, r"recover: early_late.rounds: expected at most iterations \(6\), got 9; lower it"),
        ({"residual": {"segments": 1, "share": 0.5}}, r"recover.residual.segments: expected greater than or equal to 2, got 1"),
        ({"residual": {"segments": 2, "share": 0.0}}, r"recover.residual.share: expected greater than 0, got 0.0"),
        ({"crops": {"first": 1.0, "last": 0.0}}, r"recover.crops.last: expected greater than 0, got 0.0"),
        (
            {"crops": {"first": 1.0, "last": 0.1}, "views": "relabel"},
            r"recover: crops: expected off with views: relabel, which",
        ),
        ({"early_late": {"rounds": 2}, "group": 1}, r"recover: early_late: expected off with group: 1, where a batch has one"),
        (CHANGES["perturb"] | {"precision": "bfloat16"}, r"recover: precision: expected float32 with perturb, whose small"),
    ],
)
def test_contradictions_are_refused(changes, message, workspace, edit_row):
    edit_row({"recover": changes})
    with pytest.raises(SettingsError, match=message):
        load_row("tiny")


def test_a_teacher_of_lower_precision_cannot_be_moved(workspace, edit_row):
    edit_row({"backbones": ["convnet", {"name": "resnet10", "recover": {"cpu_precision": "bfloat16"}}]})
    load_row("tiny")
    edit_row({"recover": CHANGES["perturb"]})
    with pytest.raises(SettingsError, match=r"backbones\[1\].recover.cpu_precision: expected float32 with recover.perturb"):
        load_row("tiny")


NOISE = r"recover.residual: expected off without select, since images then start from noise, .*; set it to null, or add select"


def test_noise_is_not_mixed_in_again(workspace, edit_row):
    edit_row({"recover": CHANGES["residual"]})
    with pytest.raises(SettingsError, match=NOISE):
        load_row("tiny")
    Path("config/recipes/from_noise.yaml").write_text("extends: fadrm\nselect: null\n")
    with pytest.raises(SettingsError, match=NOISE):
        load_row("digits", "from_noise")
    edit_row({"select": REAL})
    assert load_row("tiny").recover.residual.share == 0.5
    edit_row({"select": None, "distilled": {"images": "theirs"}})
    load_row("tiny")  # recover does not run


def test_images_that_are_not_finite_end_the_job_before_a_checkpoint(workspace, edit_row, make_up_to, monkeypatch):
    """At the second iteration of fifty; the state of the first is still there."""
    edit_row({"recover": {"iterations": 50}})
    planned = make_up_to("statistics")
    run = Recovery.run

    def broken(recovery, until):
        last = run(recovery, until)
        if recovery.iteration == 2:
            recovery.x_BCHW.data.fill_(torch.nan)
        return last

    monkeypatch.setattr(Recovery, "run", broken)
    job = job_of(recovered(planned)[0])
    with pytest.raises(UserError, match=r"expected finite images, got a loss of .*; lower recover\.lr"):
        recover.run(job)
    assert Checkpoint.of(job).load()["recovery"]["iteration"] == 1
