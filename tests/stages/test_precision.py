"""The precision of recover's passes, one for all teachers or one for each."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.recover import RecoverSpec
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.specs import read_spec
from gvbsm.pipeline.stage import Artifact
from gvbsm.runtime import arithmetic
from gvbsm.runtime.arithmetic import precision_on
from gvbsm.store.files import file_hash, load_tensors
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt
from gvbsm.training.precision import autocast, hold_weights
from tests.tiny import ONE_STUDENT


@pytest.fixture
def bfloat16_on_this_cpu(monkeypatch):
    """As on a CPU with instructions for it."""
    monkeypatch.setattr(arithmetic, "cpu_has_bfloat16", lambda: True)


@pytest.fixture
def backbones(workspace, edit_row):
    """Write tiny's backbones anew, the first with settings of its own for recover."""

    def write(recover: dict) -> None:
        row = [{"name": "convnet", "options": {"width": 4}, **recover}, {"name": "resnet10", "options": {"width": 8}}]
        edit_row({"backbones": row})

    return write


def recovered(planned: list[Artifact]) -> list[Artifact]:
    return [artifact for artifact in planned if artifact.stage == "recover"]


def test_a_teachers_own_precision_on_a_cpu_changes_the_images_alone(backbones):
    backbones({})
    before = {artifact.path for artifact in plan("tiny", 4)}
    backbones({"recover": {"cpu_precision": "float32"}})  # as the row's
    assert {artifact.stage for artifact in plan("tiny", 4) if artifact.path not in before} == {"publish"}, "settings.yaml alone"
    backbones({"recover": {"cpu_precision": "bfloat16"}})
    after = plan("tiny", 4)
    for artifact in recovered(after):
        assert artifact.spec.precisions("cpu") == ["bfloat16", "float32"]
        assert artifact.spec.precisions("cuda") == ["float32", "float32"]
    changed = {artifact.stage for artifact in after if artifact.path not in before}
    assert {"prepare", "squeeze", "statistics"}.isdisjoint(changed) and "recover" in changed


def test_networks_are_trained_on_a_cpu_in_a_precision_of_their_own(published_run, edit_row, make_up_to, bfloat16_on_this_cpu):
    """To the byte as with that precision everywhere; on another device the row's holds."""
    edit_row(ONE_STUDENT | {"backbones": [{"name": "convnet", "options": {"width": 4}}]})
    made = {}
    for way, settings in (
        ("float32", {"precision": "float32"}),
        ("own", {"precision": "bfloat16", "cpu_precision": "float32"}),
        ("bfloat16", {"precision": "bfloat16", "cpu_precision": None}),
    ):
        edit_row({"squeeze": settings, "evaluate": settings})
        planned = make_up_to("evaluate")
        (teacher,), (student,) = (
            [artifact for artifact in planned if artifact.stage == stage] for stage in ("squeeze", "evaluate")
        )
        tensors, _ = load_tensors(STORE / teacher.path)
        made[way] = [*tensors.values()], (STORE / student.path).read_text()
        for artifact in (teacher, student):
            assert artifact.spec.settings.precision_for("cuda") == settings["precision"]
    assert all(torch.equal(a, b) for a, b in zip(made["own"][0], made["float32"][0], strict=True))
    assert made["own"][1] == made["float32"][1]
    assert any(not torch.equal(a, b) for a, b in zip(made["bfloat16"][0], made["float32"][0], strict=True))


def test_images_are_computed_in_the_precisions_of_the_spec(published_run, make_artifact, bfloat16_on_this_cpu):
    """Mixed precisions give other images than any one precision; after so few iterations they differ little."""
    artifact = recovered(published_run)[0]

    def images(precisions: list[str]) -> torch.Tensor:
        spec = RecoverSpec.model_validate(artifact.spec.json_object | {"cpu_precisions": precisions})
        return load_tensors(make_artifact(Artifact(artifact.name, spec)))[0]["images"].float()

    high, low = (load_tensors(STORE / artifact.path)[0]["images"].float(), images(["bfloat16"] * 3))
    mixed = images(["bfloat16", "float32", "float32"])
    assert torch.equal(images(["float32"] * 3), high)
    assert 0 < (mixed - high).abs().mean() < 10
    assert 0 < (mixed - low).abs().mean() < 10


def test_a_cpu_without_bfloat16_computes_in_float32_and_the_receipt_says_so(published_run, make_artifact, monkeypatch):
    monkeypatch.setattr(arithmetic, "cpu_has_bfloat16", lambda: False)
    artifact = recovered(published_run)[0]
    expected = file_hash(STORE / artifact.path)
    assert "precision" not in read_receipt(STORE / artifact.path)["summary"]
    raw = artifact.spec.json_object
    spec = RecoverSpec.model_validate(raw | {"settings": raw["settings"] | {"precision": "bfloat16"}})
    made = make_artifact(Artifact(artifact.name, spec))
    assert file_hash(made) == expected
    assert read_receipt(made)["summary"]["precision"] == "float32, float32, float32"


def test_the_receipt_says_where_teachers_have_precisions_of_their_own(published_run, make_artifact, bfloat16_on_this_cpu):
    artifact = recovered(published_run)[0]
    own = RecoverSpec.model_validate(artifact.spec.json_object | {"cpu_precisions": ["bfloat16", "float32", "float32"]})
    made = make_artifact(Artifact(artifact.name, own))
    assert read_receipt(made)["summary"]["precision"] == "bfloat16, float32, float32"


@pytest.mark.parametrize(
    ("kind", "has", "computed"), [("cpu", True, "bfloat16"), ("cpu", False, "float32"), ("cuda", False, "bfloat16")]
)
def test_only_a_cpu_without_bfloat16_gives_another_precision_than_asked_for(kind, has, computed, monkeypatch):
    monkeypatch.setattr(arithmetic, "cpu_has_bfloat16", lambda: has)
    assert precision_on(torch.device(kind), "bfloat16") == computed
    assert precision_on(torch.device(kind), "float32") == "float32"
    if kind == "cuda":
        return
    with autocast(torch.device(kind), "bfloat16"):
        assert torch.is_autocast_enabled(kind) == (computed == "bfloat16")


def test_a_cpus_instructions_are_read_from_linux(monkeypatch):
    lines = {
        "flags : fpu avx2 avx512f": False,
        "flags : fpu avx512f avx512_bf16": True,
        "Features : fp asimd bf16 i8mm": True,
    }
    for line, expected in lines.items():
        monkeypatch.setattr(Path, "read_text", lambda path, line=line: line)
        assert arithmetic.cpu_has_bfloat16.__wrapped__() == expected


def test_precisions_are_one_for_each_teacher_or_none(published_run):
    spec = recovered(published_run)[0].spec.json_object | {"cpu_precisions": ["bfloat16"]}
    with pytest.raises(UserError, match=r"cpu_precisions: expected one per teacher \(3\), got 1"):
        read_spec(STAGES["recover"], json.dumps(spec))


def test_held_weights_give_the_logits_of_weights_that_are_cast_in_every_pass(bfloat16_on_this_cpu):
    torch.manual_seed(0)

    class Standardised(nn.Conv2d):
        """Computes with its weights, in float32, before they are cast."""

        def forward(self, x):
            return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Standardised(8, 4, 3), nn.Flatten(), nn.Linear(64, 5)]
    model, device, x_BCHW = nn.Sequential(*layers).eval(), torch.device("cpu"), torch.randn(2, 3, 8, 8)
    with autocast(device, "bfloat16"), torch.no_grad():
        expected = model(x_BCHW)
        hold_weights(model, device, "bfloat16")
        assert torch.equal(model(x_BCHW), expected)
    held = [next(layer.parameters()).dtype == torch.bfloat16 for layer in (model[0], model[1], model[3], model[5])]
    assert held == [True, False, False, True]


def test_in_float32_no_weight_is_changed():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    hold_weights(model, torch.device("cpu"), "float32")
    assert model[0].weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("has_kernels", "expected"),
    [
        (False, "not compiled"),
        (True, "not compiled (4 iterations take less time than compiling)"),
    ],
)
def test_the_receipt_says_how_each_teachers_passes_ran(has_kernels, expected, published_run, edit_row, make_up_to, monkeypatch):
    """On CUDA, with the kernels, teachers of few iterations are not compiled, and the receipt says so."""
    stage = importlib.import_module("gvbsm.stages.recover")
    monkeypatch.setattr(stage, "kernels_for", lambda device: object() if has_kernels else None)
    edit_row({"recover": {"compile": has_kernels, "seed": 11}})
    artifact = recovered(make_up_to("recover"))[0]
    passes = read_receipt(STORE / artifact.path)["summary"]["passes"]
    assert passes == {Path(path).stem: expected for path in artifact.spec.inputs.teachers}


def test_the_receipt_says_how_the_steps_of_a_training_ran(published_run):
    """As recover's does: on the CPU no training is compiled, and nothing is recorded."""
    for artifact in published_run:
        if artifact.stage in ("squeeze", "evaluate"):
            assert read_receipt(STORE / artifact.path)["summary"]["passes"] == {Path(artifact.path).stem: "not compiled"}
