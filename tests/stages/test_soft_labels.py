"""Soft labels as others read them: the example's reader, which imports nothing of ours, sees what evaluate does."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from gvbsm.data.image_set import load_image_set
from gvbsm.data.labels import load_labels
from gvbsm.method.views import mixed_hard_labels, render
from gvbsm.store.code import PACKAGE
from gvbsm.store.job import Reader
from gvbsm.store.plans import STORE
from tests.tiny import ONE_STUDENT

READER = PACKAGE.parent / "examples" / "read_soft_labels.py"
CODINGS = [("float16", None), ("float32", None), ("int8", None), ("int4", None), ("float16", 3), ("int8", 4), ("int4", 3)]


@pytest.fixture
def reader():
    spec = importlib.util.spec_from_file_location("read_soft_labels", READER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["read_soft_labels"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["read_soft_labels"]


# Codings and mixing have nothing to do with each other: each is tried with one of the other.
@pytest.mark.parametrize(
    ("values", "top", "mix"),
    [(*coding, "cutmix") for coding in CODINGS] + [("float16", None, mix) for mix in ("mixup", "none")],
)
def test_the_reader_sees_what_evaluate_does(values, top, mix, published_run, edit_row, make_up_to, reader):
    edit_row({"relabel": {"coding": {"values": values, "top": top}, "mix": mix, "mix_alpha": 0.4 if mix == "mixup" else 1.0}})
    planned = make_up_to("relabel")
    evaluate = next(artifact for artifact in planned if artifact.stage == "evaluate" and "distilled" in artifact.name)
    store = Reader(store=STORE)
    images = load_image_set(store, evaluate.spec.inputs.images)
    labels = load_labels(store, evaluate.spec.inputs.labels, images.shape[0], images.shape[-1])
    pixels, files = images.resident(torch.device("cpu")), [STORE / path for path in evaluate.spec.inputs.labels]
    for rest in ("mean", "mass"):
        read = DataLoader(reader.SoftLabels(pixels, images.labels, files, rest), batch_size=7)
        views, soft, hard = (torch.cat(parts) for parts in zip(*read, strict=True))
        at = torch.arange(images.shape[0])
        epochs = [labels.epoch(number) for number in range(len(labels))]
        torch.testing.assert_close(views, torch.cat([render(pixels, epoch.views, at) for epoch in epochs]), rtol=0, atol=1e-6)
        assert torch.equal(soft, torch.cat([epoch.logits(at, 10, rest) for epoch in epochs]))
        expected = torch.cat([mixed_hard_labels(images.labels, epoch.views, at, 10, mixed=True) for epoch in epochs])
        torch.testing.assert_close(hard, expected)


def test_the_reader_is_short_and_needs_numpy_and_torch_alone():
    text = READER.read_text()
    assert sum(bool(line.strip()) for line in text.splitlines()) < 100
    program = "import sys; sys.modules['gvbsm'] = sys.modules['safetensors'] = None; import runpy; runpy.run_path(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(READER)], check=True)


@pytest.mark.parametrize(
    "views",
    [
        pytest.param({"rescale_logits": True}, id="cutmix, rescaled"),
        pytest.param({"mix": "mixup", "mixup_labels": "unmixed"}, id="mixup, unmixed", marks=pytest.mark.nightly("stages")),
    ],
)
def test_labels_made_online_are_those_that_would_be_stored(views, published_run, edit_row, make_up_to):
    """Students of labels that lose nothing and of none that are stored are the same, to the byte of their tables."""
    edit_row({"relabel": {"coding": {"values": "float32"}, **views}} | ONE_STUDENT)
    edit_row({"evaluate": {"baselines": ["random_soft", "random_hard"]}})
    stored = make_up_to("evaluate")
    edit_row({"relabel": {"online": True}})
    online = make_up_to("evaluate")
    assert any(artifact.stage == "relabel" for artifact in stored) and not any(
        artifact.stage == "relabel" for artifact in online
    )
    pairs = [(a, b) for a, b in zip(*([x for x in run if x.stage == "evaluate"] for run in (stored, online)), strict=True)]
    assert len(pairs) == 3
    for stored_run, online_run in pairs:
        assert (stored_run.path == online_run.path) == ("random_hard" in stored_run.name)
        assert (STORE / stored_run.path).read_text() == (STORE / online_run.path).read_text()
