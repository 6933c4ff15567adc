"""The precision of recover's passes, one for all teachers or one for each."""

import json

import pytest
import torch

from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.recover import RecoverSpec
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.specs import read_spec
from gvbsm.pipeline.stage import Artifact
from gvbsm.store.files import load_tensors
from gvbsm.store.plans import STORE

LOW = {"precision": "bfloat16"}


@pytest.fixture
def backbones(workspace, edit_row):
    """Write tiny's backbones anew, the first with settings of its own for recover."""

    def write(recover: dict) -> None:
        row = [{"name": "convnet", "options": {"width": 4}, **recover}, {"name": "resnet10", "options": {"width": 8}}]
        edit_row({"backbones": row})

    return write


def recovered(planned: list[Artifact]) -> list[Artifact]:
    return [artifact for artifact in planned if artifact.stage == "recover"]


def test_a_teachers_own_precision_changes_the_images_alone(backbones):
    backbones({})
    before = {artifact.path for artifact in plan("tiny", 4)}
    backbones({"recover": {"precision": "float32"}})  # as the row's
    assert {artifact.path for artifact in plan("tiny", 4)} == before
    backbones({"recover": LOW})
    after = plan("tiny", 4)
    assert all(artifact.spec.precisions == ["bfloat16", "float32"] for artifact in recovered(after))
    changed = {artifact.stage for artifact in after if artifact.path not in before}
    assert {"prepare", "squeeze", "statistics"}.isdisjoint(changed) and "recover" in changed


def test_images_are_computed_in_the_precisions_of_the_spec(published_run, make_artifact):
    """Mixed precisions give other images than any one precision; after so few iterations they differ little."""
    artifact = recovered(published_run)[0]

    def images(precisions: list[str]) -> torch.Tensor:
        spec = RecoverSpec.model_validate(artifact.spec.json_object | {"precisions": precisions})
        return load_tensors(make_artifact(Artifact(artifact.name, spec)))[0]["images"].float()

    high, low = (load_tensors(STORE / artifact.path)[0]["images"].float(), images(["bfloat16"] * 3))
    mixed = images(["bfloat16", "float32", "float32"])
    assert torch.equal(images(["float32"] * 3), high)
    assert 0 < (mixed - high).abs().mean() < 10
    assert 0 < (mixed - low).abs().mean() < 10


def test_precisions_are_one_for_each_teacher_or_none(published_run):
    spec = recovered(published_run)[0].spec.json_object | {"precisions": ["bfloat16"]}
    with pytest.raises(UserError, match=r"precisions: expected one per teacher \(3\), got 1"):
        read_spec(STAGES["recover"], json.dumps(spec))
