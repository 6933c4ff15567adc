"""A job refuses inputs that do not belong together, although each is whole."""

import pytest

from gvbsm.errors import UserError
from gvbsm.store.files import load_tensors
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE
from gvbsm.store.spec import Spec


def job(out) -> Job:
    return Job(spec=Spec(stage="evaluate"), out=out, store=STORE)


def write(name: str, classes: list[str], **inputs: str) -> str:
    import torch

    writer = job(STORE / name)
    for path in inputs.values():
        writer.receipt(path)
    writer.classes = classes
    writer.write_tensors({"x": torch.zeros(1)}, {}, {})
    return name


def test_inputs_of_other_classes(workspace):
    data, teacher = write("data.safetensors", ["cat", "dog"]), write("teacher.safetensors", ["cat", "doge"])
    both = job(STORE / "out.safetensors")
    both.tensors(data)
    with pytest.raises(
        UserError, match=r"teacher\.safetensors: expected class 1 to be 'dog', got 'doge'; use inputs of one data set"
    ):
        both.tensors(teacher)
    fewer = write("fewer.safetensors", ["cat"])
    with pytest.raises(UserError, match=r"fewer\.safetensors: expected class 1 to be 'dog', got None"):
        both.tensors(fewer)


def test_classes_are_passed_on(published_run):
    classes = {
        tuple(load_tensors(STORE / artifact.path)[1]["classes"])
        for artifact in published_run
        if artifact.path.endswith("safetensors")
    }
    assert classes == {tuple("0123456789")}


@pytest.mark.parametrize("also_read", [True, False])
def test_an_input_that_was_made_from_another_content(also_read, workspace):
    """Squeeze's data set is prepared anew with another content: its statistics must not be used beside the new one."""
    write("data.safetensors", ["a", "b"])
    write("teacher.safetensors", ["a", "b"], data="data.safetensors")
    write("other.safetensors", ["a", "b"], data="data.safetensors")
    write("data.safetensors", ["a", "c"])
    if not also_read:  # two inputs that were made from different ones, which are no inputs themselves
        write("other.safetensors", ["a", "b"], data="data.safetensors")
    later = job(STORE / "out.safetensors")
    later.receipt("teacher.safetensors")
    stale = "teacher" if also_read else "other"
    with pytest.raises(UserError, match=rf"store/{stale}\.safetensors: made from another \S*data\.safetensors than"):
        later.receipt("data.safetensors" if also_read else "other.safetensors")
