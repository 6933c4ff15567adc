"""The published code's faults (docs/deviations.md) as settings: both values of each, in the stage that has it.

The other faults: 1 in test_densification, 2 (start, dropped), 3 and 4 (variance) in tests/method, 8 in tests/workflow.
"""

import json

import pytest
import torch

from gvbsm.backbones.build import build
from gvbsm.config.shapes import PixelForm
from gvbsm.data.pixels import Pixels, jpeg_round_trip
from gvbsm.errors import UserError
from gvbsm.method.coding import Coding
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.shards import image_batches
from gvbsm.pipeline.stage import Artifact
from gvbsm.stages.relabel import _encode_finite
from gvbsm.store.files import load_tensors
from gvbsm.store.keys import key
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt
from tests.tiny import ONE_STUDENT


def planned(stage: str, recipe: str | None = None) -> list[Artifact]:
    return [artifact for artifact in plan("tiny", 4, recipe) if artifact.stage == stage]


def test_2_averages_carried_from_batch_to_batch_and_reset(published_run, edit_row, make_up_to):
    """Reset: a batch's images do not depend on those before it. Never: they do, so all batches are one job."""

    def last_image():
        shard = planned("recover")[-1]
        return load_tensors(STORE / shard.path)[0]["images"][-1]

    after_another = last_image()
    edit_row({"recover": {"shard_batches": 1}})
    make_up_to("recover")
    alone = last_image()
    assert torch.equal(after_another, alone)
    edit_row({"recover": {"shard_batches": 1, "ema": {"reset": "never"}}})
    assert len(planned("recover")) == 1
    make_up_to("recover")
    assert not torch.equal(last_image(), alone)


def test_4_quantisation_truncated_and_rounded():
    pixels = Pixels(PixelForm(image_size=2, mean=[0.5], std=[0.25]), torch.device("cpu"))
    x = pixels.from_levels(torch.tensor([0.0, 99.4, 99.6, 255.0]).view(1, 1, 2, 2))
    assert pixels.to_bytes(x, "truncate").flatten().tolist() == [0, 99, 99, 255]
    assert pixels.to_bytes(x, "round").flatten().tolist() == [0, 99, 100, 255]


def test_4_jpeg_and_lossless(published_run, edit_row, make_up_to):
    lossless = load_tensors(STORE / planned("recover")[0].path)[0]["images"]
    edit_row({"recover": {"encoding": "jpeg"}})
    make_up_to("recover")
    jpeg = load_tensors(STORE / planned("recover")[0].path)[0]["images"]
    assert torch.equal(jpeg, jpeg_round_trip(lossless))
    assert not torch.equal(jpeg, lossless)


def test_5_normalisation_is_the_rows_and_instance_norm_is_named(published_run, edit_row):
    """Published CIFAR-10 rows carry CIFAR-100's mean and std; the "ResNet18" student with instance norm is resnet18_in."""
    edit_row({"mean": [0.5]})
    assert {artifact.spec.pixels.mean[0] for artifact in planned("squeeze")} == {0.5}
    norms = {
        name: {type(m).__name__ for m in build(name, classes=2, image_size=16).modules() if "Norm" in type(m).__name__}
        for name in ("resnet18", "resnet18_in", "resnet18_gn")
    }
    assert norms["resnet18"] == {"BatchNorm2d"}
    assert "BatchNorm2d" not in norms["resnet18_in"] | norms["resnet18_gn"]


@pytest.mark.nightly("stages")
def test_6_the_kept_epoch(published_run, edit_row, make_up_to):
    """Published teachers are those of an early epoch of the full schedule; corrected ones are of the last."""
    edit_row({"squeeze": {"keep_epoch": 1, "epochs": 2}})
    make_up_to("squeeze")
    early = planned("squeeze")[0]
    edit_row({"squeeze": {"keep_epoch": None, "epochs": 2}})
    late = planned("squeeze")[0]
    assert read_receipt(STORE / early.path)["summary"]["epochs"] == 1
    assert read_receipt(STORE / late.path)["summary"]["epochs"] == 2
    first, last = (load_tensors(STORE / artifact.path)[0] for artifact in (early, late))
    assert any(not torch.equal(first[name], last[name]) for name in first)


@pytest.mark.nightly("stages")
def test_7_statistics_of_the_teacher_itself_and_of_a_retrained_one(published_run, edit_row, make_up_to):
    own = {artifact.spec.inputs.teacher for artifact in planned("statistics")}
    assert own == {artifact.path for artifact in planned("squeeze")}
    edit_row({"statistics": {"measured_in": "twin"}})
    make_up_to("statistics")
    twins = {artifact.spec.inputs.teacher for artifact in planned("statistics")}
    teachers = set(planned("recover")[0].spec.inputs.teachers)
    assert teachers == own
    assert not twins & own
    for artifact in planned("squeeze"):
        assert artifact.spec.settings.seed == (1 if artifact.path in twins else 0)
    assert twins <= set(planned("publish")[0].spec.input_paths()), "their cost counts, too"


def test_9_students_with_the_batches_of_the_labels_or_any_other(published_run, edit_row, make_up_to):
    edit_row(ONE_STUDENT)
    edit_row({"evaluate": {"batch_size": 7}})
    make_up_to("evaluate")
    run = planned("evaluate")[0]
    assert run.spec.settings.batch_size == 7
    assert read_receipt(STORE / run.path)["summary"]["top1"]["runs"]


@pytest.mark.parametrize("ipc", [1, 3])
def test_9_images_per_class_need_not_divide(ipc, published_run, make_up_to):
    shards = [load_tensors(STORE / a.path)[0] for a in make_up_to("recover", ipc=ipc) if a.stage == "recover"]
    labels = torch.cat([shard["labels"] for shard in shards])
    assert torch.bincount(labels).tolist() == [ipc] * 10


def test_batching_by_group_and_class_major():
    assert image_batches(3, 15, 10, 20, "group") == [
        [[0, 0, 10], [1, 0, 10]],
        [[2, 0, 10]],
        [[0, 10, 15], [1, 10, 15], [2, 10, 15]],
    ]
    assert image_batches(2, 15, 10, 20, "class_major") == [[[0, 0, 15], [1, 0, 5]], [[1, 5, 15]]]
    for ipc in (1, 7, 10, 50):
        for how in ("group", "class_major"):
            batches = image_batches(6, ipc, 10, 40, how)
            members = [(c, i) for batch in batches for c, first, end in batch for i in range(first, end)]
            assert sorted(members) == [(c, i) for c in range(6) for i in range(ipc)]
    assert image_batches(10, 10, 10, 100, "group") == image_batches(10, 10, 10, 100, "class_major")
    # Where there are few images of each class, batches are filled with classes.
    assert image_batches(100, 1, 10, 100, "group") == image_batches(100, 1, 10, 100, "class_major")


@pytest.mark.nightly("stages")
def test_a_run_of_the_published_recipe(published_run, make_up_to):
    """Every fault together still runs end to end."""
    artifacts = make_up_to("evaluate", recipe="published")
    spec = next(artifact for artifact in artifacts if artifact.stage == "recover").spec.settings
    assert spec.ema.model_dump() == {"momentum": 0.8, "start": "zero", "reset": "never", "dropped": "skip"}
    assert spec.densification.normalise == "none"
    assert all((STORE / artifact.path).exists() for artifact in artifacts[:-1])


def test_hard_labels_mixed_and_unmixed_train_differently(published_run, edit_row, make_up_to):
    edit_row(ONE_STUDENT)
    make_up_to("evaluate")
    corrected = (STORE / planned("evaluate")[0].path).read_text()
    edit_row({"evaluate": {"hard_label": "unmixed"}})
    make_up_to("evaluate")
    assert (STORE / planned("evaluate")[0].path).read_text() != corrected


def test_mixup_labels_of_the_mixed_and_the_unmixed_image(published_run, edit_row, make_up_to):
    logits = {}
    for how in ("unmixed", "mixed"):
        edit_row({"relabel": {"mix": "mixup", "mixup_labels": how}})
        make_up_to("relabel")
        logits[how] = load_tensors(STORE / planned("relabel")[0].path)[0]["values"]
    assert not torch.equal(logits["mixed"], logits["unmixed"])


@pytest.mark.nightly("stages")
def test_accuracy_of_teachers_on_unmixed_views_is_that_without_mixing(published_run, edit_row, make_up_to):
    """Views are of the same crops, mixed or not."""
    summaries = {}
    for mix in ("mixup", "none"):
        edit_row({"relabel": {"mix": mix, "mixup_labels": "unmixed"}})
        make_up_to("relabel")
        summaries[mix] = [
            json.loads((STORE / artifact.path).with_suffix(".json").read_text())["summary"] for artifact in planned("relabel")
        ]
    assert summaries["mixup"] == summaries["none"] and summaries["mixup"][0]["teacher_top1_on_views"] > 0


def test_keys_are_of_canonical_specs(published_run):
    for artifact in published_run:
        assert key(json.loads(json.dumps(artifact.spec.json_object))) == artifact.key


def test_logits_that_float16_cannot_hold_are_refused():
    assert _encode_finite(torch.tensor([[7e4]]), Coding("float32"))["values"].item() == 7e4
    with pytest.raises(
        UserError, match=r"expected logits that float16 can hold, got up to 7e\+04; set relabel\.coding\.values: float32"
    ):
        _encode_finite(torch.tensor([[7e4]]), Coding("float16"))
