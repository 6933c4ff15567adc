"""The precision of recover's passes, one for all teachers or one for each."""

import json
from pathlib import Path

import pytest
import torch

from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.recover import RecoverSpec
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.specs import read_spec
from gvbsm.pipeline.stage import Artifact
from gvbsm.runtime import devices
from gvbsm.store.files import file_hash, load_tensors
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt
from gvbsm.training.precision import autocast, precision_on


@pytest.fixture
def bfloat16_on_this_cpu(monkeypatch):
    """As on a CPU with instructions for it."""
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)


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
    assert {artifact.path for artifact in plan("tiny", 4)} == before
    backbones({"recover": {"cpu_precision": "bfloat16"}})
    after = plan("tiny", 4)
    for artifact in recovered(after):
        assert artifact.spec.precisions("cpu") == ["bfloat16", "float32"]
        assert artifact.spec.precisions("cuda") == ["float32", "float32"]
    changed = {artifact.stage for artifact in after if artifact.path not in before}
    assert {"prepare", "squeeze", "statistics"}.isdisjoint(changed) and "recover" in changed


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
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
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
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: has)
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
        assert devices.cpu_has_bfloat16.__wrapped__() == expected


def test_precisions_are_one_for_each_teacher_or_none(published_run):
    spec = recovered(published_run)[0].spec.json_object | {"cpu_precisions": ["bfloat16"]}
    with pytest.raises(UserError, match=r"cpu_precisions: expected one per teacher \(3\), got 1"):
        read_spec(STAGES["recover"], json.dumps(spec))
