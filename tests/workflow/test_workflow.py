"""The workflow as users meet it: what a run leaves, its errors, its linters."""

import csv
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gvbsm.config.messages import SettingsError
from gvbsm.config.project import load_config
from gvbsm.store.code import PACKAGE
from gvbsm.store.receipts import verify

ROOT = PACKAGE.parent


def test_what_a_run_leaves(published_run):
    accuracies = json.loads(Path("results/tiny/ipc4/acc.json").read_text())
    assert accuracies["dataset"] == "tiny"
    assert accuracies["ipc"] == 4
    assert accuracies["recipe"] is None
    assert accuracies["images"] == 40
    assert accuracies["key"] == published_run[-1].key
    students = {"convnet", "wrn16_2"}
    assert set(accuracies["students"]) == students
    assert set(accuracies["baselines"]) == {"random_hard", "random_soft"}
    for group in (accuracies["students"], *accuracies["baselines"].values()):
        assert set(group) == students
        for student in group.values():
            for kind in ("top1", "top5", "best_top1"):
                runs = student[kind]["runs"]
                assert len(runs) == 2 and all(0 <= run <= 100 for run in runs)
                assert student[kind]["mean"] == pytest.approx(np.mean(runs))
                assert student[kind]["std"] == pytest.approx(np.std(runs, ddof=1))
            assert student["best_top1"]["mean"] >= student["top1"]["mean"]
    assert set(accuracies["teachers"]) == {"convnet", "wrn16_2", "resnet10"}
    labels = [artifact for artifact in published_run if artifact.stage == "relabel" and "distilled" in artifact.name]
    assert accuracies["soft_labels"]["bytes"] == sum(
        (Path("results/store") / artifact.path).stat().st_size for artifact in labels
    )
    assert 0 <= accuracies["soft_labels"]["teacher_top1_on_views"] <= 100
    jobs = {"prepare": 1, "check": 1, "squeeze": 3, "statistics": 3, "recover": 2, "relabel": 4, "evaluate": 6}
    assert {stage: cost["jobs"] for stage, cost in accuracies["cost"].items()} == jobs
    assert all(cost["seconds"] > 0 for cost in accuracies["cost"].values())
    assert accuracies["provenance"]["packages"]["torch"]


def test_last_epoch_is_reported_and_the_best_stands_beside_it(published_run):
    """Fault 8: `top1` is the last epoch's, whatever was seen before it."""
    run = next(artifact for artifact in published_run if artifact.stage == "evaluate")
    with (Path("results/store") / run.path).open() as file:
        rows = [row for row in csv.DictReader(file) if row["top1"]]
    student = json.loads(Path("results/tiny/ipc4/acc.json").read_text())["students"]["convnet"]
    by_seed = {seed: [float(row["top1"]) for row in rows if row["seed"] == seed] for seed in ("0", "1")}
    assert student["top1"]["runs"] == pytest.approx([tested[-1] for tested in by_seed.values()])
    assert student["best_top1"]["runs"] == pytest.approx([max(tested) for tested in by_seed.values()])


@pytest.mark.nightly("snakemake")
def test_headline_best_changes_the_table_and_not_acc_json(published_run, edit_row, run_snakemake):
    before = json.loads(Path("results/tiny/ipc4/acc.json").read_text())
    edit_row({"evaluate": {"headline": "best"}})
    done = run_snakemake("--cores", "1")
    assert done.returncode == 0, done.stderr
    after = json.loads(Path("results/tiny/ipc4/acc.json").read_text())
    assert after["students"] == before["students"]
    with Path("results/tiny/ipc4/table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["epoch"] for row in table} == {"best"}
    for row in table:
        if row["images"] == "distilled":
            assert float(row["top1"]) == pytest.approx(before["students"][row["student"]]["best_top1"]["mean"])
    assert "top-1 accuracy on the test images, %, best epoch, " in done.stderr
    assert "margin over random real" in done.stderr


def test_every_artifact_is_whole_and_its_receipt_complete(published_run):
    for artifact in published_run[:-1]:
        receipt = verify(Path("results/store") / artifact.path)
        assert receipt["spec"] == json.loads(Path(f"results/.plan/{artifact.key}.json").read_text())["spec"]
        assert {"bytes", "sha256", "inputs", "packages", "device", "seconds", "peak_memory_bytes", "git"} <= receipt.keys()
        for path, digest in receipt["inputs"].items():
            assert verify(Path("results/store") / path)["sha256"] == digest
    assert not list(Path("results").rglob("*.tmp"))


def test_the_picture_shows_every_image(published_run):
    with Image.open("results/tiny/ipc4/images.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[0] > 600 and pixels.shape[1] > 300
    assert pixels.std() > 20, "the picture is empty"


@pytest.mark.parametrize(
    ("changes", "target", "message"),
    [
        ({"squeeze": {"epohcs": 3}}, "results/tiny/ipc4/acc.json", "tiny.yaml: squeeze: unknown setting 'epohcs'"),
        pytest.param(
            {}, "results/tiny/ipc0/acc.json", "run 'ipc0': expected 1 to 100000", marks=pytest.mark.nightly("snakemake")
        ),
    ],
)
def test_snakemake_says_one_line_and_exits_with_one(changes, target, message, edit_row, run_snakemake):
    edit_row(changes)
    done = run_snakemake("-n", target=target)
    assert done.returncode == 1
    text = done.stdout + done.stderr
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith("gvbsm: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not list(Path(".snakemake/locks").iterdir()), "the folder is left locked"


@pytest.mark.nightly("snakemake")
def test_several_targets_that_were_never_planned(stale):
    """Snakemake lists folders while it plans the first, and must find the plans of the others all the same."""
    shutil.rmtree("results")
    several = stale("results/tiny/ipc4/acc.json", "results/tiny/ipc6/acc.json", "results/tiny/ipc4-published/acc.json")
    assert several["publish"] == 3


@pytest.mark.nightly("snakemake")
def test_a_mistake_in_config_yaml(run_snakemake):
    Path("config/config.yaml").write_text("targets: [results/tiny/ipc4/acc.json]\ndata_rot: data\n")
    done = run_snakemake("-n", target="")
    assert done.returncode == 1
    assert "config.yaml: unknown setting 'data_rot'; did you mean 'data_root'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    Path("config/config.yaml").write_text("targets: [results/tiny/ipc4/acc.json]\ntargets: [results/tiny/ipc6/acc.json]\n")
    done = run_snakemake("-n", target="")
    assert done.returncode == 1 and "config.yaml:2: not valid YAML: 'targets' appears twice" in done.stderr


@pytest.mark.nightly("snakemake")
def test_a_run_without_its_data_keeps_no_other_from_running(published_run, run_snakemake):
    Path("config/datasets/other.yaml").write_text("{extends: tiny, source: {kind: imagefolder, path: nowhere}}")
    teachers = [Path("results/store") / artifact.path for artifact in published_run if artifact.stage == "squeeze"]
    teachers[0].unlink()
    Path("results/tiny/ipc4/acc.json").unlink()
    others = ["--cores", "1", "--keep-going", "--", "results/other/ipc4/acc.json"]
    done = run_snakemake(*others)
    assert done.returncode == 1 and "nowhere" in done.stdout + done.stderr
    assert Path("results/tiny/ipc4/acc.json").exists() and teachers[0].exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_rot": "data"}, "unknown setting 'data_rot'; did you mean 'data_root'?"),
        ({"targets": ["results/tiny"]}, "targets[0]: target 'results/tiny': expected results/"),
        ({"tracking": "tensorbord"}, "tracking: expected 'none', 'tensorboard' or 'wandb', got 'tensorbord'"),
    ],
)
def test_mistakes_in_config_yaml(changes, message, workspace):
    with pytest.raises(SettingsError, match=re.escape(f"config.yaml: {message}")):
        load_config({"targets": ["results/tiny/ipc4/acc.json"], "data_root": "data"} | changes)


def test_jobs_on_the_longest_way_come_first():
    """Labels and students of random real images need no distilled ones; they would take the places before those are made."""
    rules = PACKAGE.parent / "workflow" / "rules"
    found = {path.stem: re.search(r"^    priority: (\d+)", path.read_text(), re.MULTILINE) for path in rules.glob("*.smk")}
    priority = {rule: int(match[1]) if match else 0 for rule, match in found.items()}
    for way in (["check", "squeeze", "statistics", "recover", "relabel", "evaluate"], ["squeeze", "select", "recover"]):
        assert all(priority[first] > priority[then] for first, then in itertools.pairwise(way))


@pytest.mark.nightly("snakemake")
def test_tracking_reaches_jobs_and_makes_nothing_stale(published_run, stale, run_snakemake):
    with Path("config/config.yaml").open("a") as file:
        file.write("tracking: tensorboard\n")
    assert stale() == {}
    teacher = next(artifact for artifact in published_run if artifact.stage == "squeeze")
    out = Path("results/store") / teacher.path
    out.unlink()
    out.with_suffix(".json").unlink()
    done = run_snakemake("--cores", "1", target=str(out))
    assert done.returncode == 0, done.stderr
    (curves,) = Path("results/tracking").rglob("events.out.tfevents.*")
    assert curves.parent == Path("results/tracking/tensorboard/squeeze") / out.stem
    assert stale() == {}


@pytest.mark.nightly("snakemake")
def test_a_failing_job_shows_its_line(published_run, run_snakemake):
    data = Path("results/store") / published_run[0].path
    data.write_bytes(data.read_bytes()[:-1])
    teacher = next(artifact for artifact in published_run if artifact.stage == "squeeze")
    (Path("results/store") / teacher.path).unlink()
    Path("results/tiny/ipc4/acc.json").unlink()
    done = run_snakemake("--cores", "1")
    assert done.returncode == 1
    text = done.stdout + done.stderr
    assert "safetensors: damaged: expected" in text and "Traceback" not in text
    assert not (Path("results/store") / teacher.path).exists()


@pytest.mark.nightly("snakemake")
def test_lint_from_another_folder(tmp_path):
    """From the clone itself, .ci/run lints."""
    command = [sys.executable, "-m", "snakemake", "--lint", "-s", str(ROOT / "workflow" / "Snakefile")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_log_benchmark_and_environment():
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        text = path.read_text()
        if path.stem not in ("common", "container", "targets", "asked"):
            assert all(f"\n    {part}:\n" in text for part in ("log", "benchmark", "conda")), path
        assert "lambda" not in text and "run:" not in text
        assert len(text.splitlines()) <= 90
    assert len((ROOT / "workflow" / "Snakefile").read_text().splitlines()) <= 45  # a page of contents
