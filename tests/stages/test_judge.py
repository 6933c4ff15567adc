"""judge: a network that had no part in the images says what they are."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from gvbsm import cli
from gvbsm.config.load import load_row
from gvbsm.config.messages import SettingsError
from gvbsm.pipeline.graph import plan
from gvbsm.store.files import load_tensors
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt
from gvbsm.training.networks import load_teacher

JUDGE = {"name": "convnet", "label": "other", "options": {"width": 6}, "squeeze": {"epochs": 3}}
RUN = Path("results/tiny/ipc4")


def test_the_share_of_images_that_it_assigns_to_their_class(published_run, edit_row, make_up_to):
    edit_row({"judge": JUDGE})
    planned = make_up_to("judge")
    judge = next(artifact for artifact in planned if artifact.stage == "judge")
    network = load_teacher(*load_tensors(STORE / judge.spec.inputs.network), torch.device("cpu"), "float32")
    shards = [load_tensors(STORE / path)[0] for path in judge.spec.inputs.images]
    images, labels = (torch.cat([shard[name] for shard in shards]) for name in ("images", "labels"))
    row = load_row("tiny")
    x = (images / 255 - row.mean[0]) / row.std[0]
    probability = network(x).softmax(1)
    table = pd.read_csv(STORE / judge.path)
    assert table["label"].tolist() == list(range(10)) and table["images"].tolist() == [4] * 10
    for label, (assigned, mean) in enumerate(zip(table["assigned"], table["probability"], strict=True)):
        own = probability[labels == label]
        assert assigned == int((own.argmax(1) == label).sum()) and mean == pytest.approx(float(own[:, label].mean()), abs=1e-5)
    summary = read_receipt(STORE / judge.path)["summary"]
    assert summary["assigned"] == pytest.approx(100 * table["assigned"].sum() / 40)
    assert summary["top1"] == read_receipt(STORE / judge.spec.inputs.network)["summary"]["top1"]


def test_a_judge_adds_its_own_jobs_alone(published_run, edit_row):
    before = {artifact.path for artifact in published_run}
    edit_row({"judge": JUDGE})
    assert [artifact.stage for artifact in plan("tiny", 4) if artifact.path not in before] == [
        "check",
        "squeeze",
        "judge",
        "publish",
    ]
    assert {"judge", "squeeze"} <= {
        path.partition("/")[0] for path in plan("tiny", 4)[-1].spec.input_paths() if path not in before
    }


@pytest.mark.nightly("snakemake")
def test_its_verdict_is_in_what_a_run_leaves(published_run, edit_row, run_snakemake, stale, capsys):
    edit_row({"judge": JUDGE})
    assert stale() == {"check": 1, "squeeze": 1, "judge": 1, "publish": 1}
    done = run_snakemake("--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads((RUN / "acc.json").read_text())["judge"]["other"]
    column = pd.read_csv(RUN / "classes.csv")["other judge"]
    assert column.mean() == pytest.approx(verdict["assigned"])
    assert cli.main(["report", str(RUN)]) == 0
    page = (RUN / "report.html").read_text()
    assert f"assigns {verdict['assigned']:.2f} % of the distilled images to their class" in " ".join(page.split())
    assert "images that other assigns to their class" in page


def test_a_teacher_is_no_judge(workspace, edit_row):
    for judge, message in (
        (
            {"name": "convnet", "label": "other", "options": {"width": 4}},
            r"no teacher, got that of backbones\[0\]; name another",
        ),
        (
            {"name": "convnet", "label": "convnet", "options": {"width": 5}},
            r"'convnet' is the label of backbones\[0\]; give the judge another label",
        ),
    ):
        edit_row({"judge": judge})
        with pytest.raises(SettingsError, match=f"tiny.yaml: judge: .*{message}"):
            load_row("tiny")
