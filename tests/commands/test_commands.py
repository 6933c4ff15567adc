"""The command line where nothing is wrong."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import filelock
import pytest

from gvbsm import cli
from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import STAGES, write_plans
from gvbsm.store.files import load_tensors
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt


def gvbsm(*arguments: str) -> str:
    """stdout of gvbsm in the working folder, with the package that lies there."""
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    return subprocess.run(
        [sys.executable, "-m", "gvbsm", *arguments], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_spec_as_json_text_and_by_hand(workspace):
    spec = {"stage": "prepare", "source": {"kind": "digits", "seed": 3, "test_fraction": 0.5}, "classes": 10}
    spec |= {"image_size": 9, "channels": 1, "resize": 9, "storage": "packed"}
    assert cli.main(["prepare", "--spec", json.dumps(spec), "--out", "here/digits.safetensors"]) == 0
    tensors, metadata = load_tensors(Path("here/digits.safetensors"))
    assert tensors["train_images"].shape[1:] == (1, 9, 9)
    assert metadata["class_names"] == list("0123456789")
    receipt = read_receipt(Path("here/digits.safetensors"))
    assert "gvbsm.stages.prepare" in receipt["spec"]["code"], "the code is in the spec of a job by hand, too"


def test_explain_names_modules_and_what_was_never_made(published_run, copied_clone):
    target = "results/tiny/ipc4/acc.json"
    assert gvbsm("explain", target).endswith(f"{len(published_run)} present, 0 stale, damaged or missing\n")
    module = Path("gvbsm/method/densification.py")
    module.write_text(module.read_text().replace("POOLED = 32", "POOLED = 16"))
    output = gvbsm("explain", target)
    assert output.count("because module gvbsm.method.densification changed") == 2
    assert (
        "because input recover/digits-class0000-image0000 changed; input recover/digits-class0000-image0002 changed" in output
    )
    never = gvbsm("explain", "results/digits/ipc7/acc.json")
    assert never.count("never made") >= 5
    assert "present  prepare" not in never


def test_explain_names_what_was_added_and_deleted(published_run, edit_row, capsys):
    (Path("results/store") / published_run[0].path).unlink()
    networks = [{"name": "convnet", "options": {"width": 4}}, {"name": "wrn16_2", "options": {"widen": 1, "depth": 10}}]
    networks.append({"name": "mobilenet_v2"})
    edit_row({"backbones": networks})
    assert cli.main(["explain", "results/tiny/ipc4/acc.json"]) == 0
    output = capsys.readouterr().out
    assert "its file is missing; when it is needed, both are made again" in output
    assert "input squeeze/digits-mobilenet_v2 added" in output
    assert "input squeeze/digits-resnet10 removed" in output


def test_explain_compares_with_what_differs_least(published_run, edit_row, make_up_to, capsys):
    """Not with the artifact that was made last. It is silent on artifacts that are there."""
    edit_row({"recover": {"iterations": 7}})
    make_up_to("recover", 6)
    edit_row({"recover": {"lr": 0.1, "roll": 2, "conv_drop": 0.1, "statistics_weight": 0.2}})
    make_up_to("recover", 6)
    edit_row({"recover": {"lr": 0.25, "roll": 1, "conv_drop": 0.4, "statistics_weight": 0.1, "iterations": 8}})
    assert cli.main(["explain", "results/tiny/ipc6/acc.json"]) == 0
    output = capsys.readouterr().out
    assert (
        re.search(r"made for this run; against digits-class\S+: setting iterations changed from \d to 8\n", output)
        and "lr changed" not in output
    )


def test_what_was_never_made_for_a_run_is_compared_with_the_rows_own_runs_first(published_run, edit_row, make_up_to, capsys):
    """A recipe that never ran is unlike the row's run in what it changes, and the line says which run that is."""
    recover = next(artifact for artifact in published_run if artifact.stage == "recover")
    edit_row({"recover": {"iterations": 7}})
    make_up_to("recover")  # nearer, but of no run of this row
    Path("config/recipes").mkdir(exist_ok=True)
    Path("config/recipes/mine.yaml").write_text("recover: {lr: 0.1, iterations: 7}\n")
    assert cli.main(["explain", "results/tiny/ipc4-mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("missing  recover"))
    assert lines[at + 1].startswith(f"{' ' * 9}never made for this run; against {Path(recover.path).stem} of tiny/ipc4: ")
    assert "setting iterations changed from 6 to 7; setting lr changed from 0.25 to 0.1" in lines[at + 1]
    assert not any(line.startswith("stale") for line in lines) and lines[0].startswith("present  prepare")


def test_a_second_process_waits_and_does_not_make_the_artifact_again(published_run, edit_row):
    edit_row({"squeeze": {"epochs": 3}})
    planned = plan("tiny", 4)
    write_plans(planned, Path("results/tiny/ipc4/acc.json"))
    squeeze = next(artifact for artifact in planned if artifact.stage == "squeeze")
    out = Path("results/store") / squeeze.path
    command = [sys.executable, "-m", "gvbsm", "squeeze", "--spec", f"results/.plan/{squeeze.key}.json", "--out", str(out)]
    with filelock.FileLock(f"results/.checkpoints/{squeeze.key}.lock"):
        second = subprocess.Popen([*command, "--device", "cpu"], stderr=subprocess.PIPE, text=True)
        assert second.stderr.readline().startswith(f"waiting for another process that makes {out.name}")
        importlib.import_module("gvbsm.stages.squeeze").run(Job(spec=squeeze.spec, out=out, store=STORE, device="cpu"))
        made_at = out.stat().st_mtime_ns
    assert second.wait(60) == 0
    second.stderr.close()
    assert out.stat().st_mtime_ns == made_at


def test_receipts_name_the_device(published_run):
    devices = json.loads(Path("results/tiny/ipc4/acc.json").read_text())["provenance"]["devices"]
    assert len(devices) == 1 and devices[0].startswith("cpu: ") and len(devices[0]) > 5


def test_help_and_version(capsys):
    for arguments, expected in (
        (["--version"], "gvbsm 0."),
        ([], "explain"),
        (["--help"], "explain"),
        (["recover", "--help"], "--checkpoint-seconds"),
    ):
        try:
            cli.main(arguments)
        except SystemExit as stop:
            assert stop.code == 0
        assert expected in capsys.readouterr().out


def test_help_lists_every_command_once_and_stages_last(capsys):
    assert cli.main([]) == 0
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", capsys.readouterr().out, re.MULTILINE)
    users = listed[: -len(STAGES)]
    assert listed[-len(STAGES) :] == list(STAGES) and not set(users) & set(STAGES)
    for name in listed:
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0 and f"usage: gvbsm {name} " in capsys.readouterr().out
    with pytest.raises(UserError, match="invalid choice") as error:
        cli.parser().parse_args(["nothing"])
    for name in listed:
        assert f"'{name}'" in str(error.value)


def test_planning_imagenet_reads_nothing(workspace):
    """There is no data here, and the images of IPC 10 are part of those of IPC 50."""
    few, many = plan("imagenet", 10), plan("imagenet", 50)
    counts = Counter(artifact.stage for artifact in many)
    assert counts["recover"] == 160 and counts["relabel"] == 76 and sum(counts.values()) == 265
    shards = [{artifact.path for artifact in planned if artifact.stage == "recover"} for planned in (few, many)]
    assert len(shards[0]) == 32 and shards[0] < shards[1]
    assert sum(len(batch) for artifact in many if artifact.stage == "recover" for batch in artifact.spec.batches) == 5000
    assert not Path("results").exists()


def test_prepare_can_be_interrupted(workspace, monkeypatch, capsys):
    write_plans(plan("tiny", 4), Path("results/tiny/ipc4/acc.json"))
    prepare = plan("tiny", 4)[0]

    def interrupt(job):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(importlib.import_module("gvbsm.stages.prepare"), "run", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        plan_file = f"results/.plan/{prepare.key}.json"
        assert cli.main(["prepare", "--spec", plan_file, "--out", str(STORE / prepare.path)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "gvbsm: interrupted; run the same command to begin anew\n"


def test_a_teacher_with_given_weights_stops_at_once(published_run, edit_row, command_of, monkeypatch):
    """It is only tested: there is no state that a signal should wait for."""
    trained = next(artifact for artifact in published_run if artifact.stage == "squeeze")
    Path("data").mkdir(exist_ok=True)
    Path("data/teacher.safetensors").write_bytes((STORE / trained.path).read_bytes())
    edit_row(
        {"backbones": [{"name": "convnet", "options": {"width": 4}, "weights": "teacher.safetensors", "trust_weights": True}]}
    )
    write_plans(plan("tiny", 4), Path("results/tiny/ipc4/acc.json"))
    given = next(artifact for artifact in plan("tiny", 4) if artifact.stage == "squeeze")
    asked = []
    monkeypatch.setattr("gvbsm.runtime.checkpoints.install_signal_handlers", lambda: asked.append(1))
    assert cli.main(command_of(given)) == 0 and not asked
    write_plans(published_run, Path("results/tiny/ipc4/acc.json"))
    (STORE / trained.path).unlink()
    assert cli.main(command_of(trained)) == 0 and asked


@pytest.mark.parametrize(
    "command",
    [
        ["explain", "results/digits/ipc10"],
        ["estimate", "results/digits/ipc10/acc.json"],
        ["status"],
        ["status", "results/digits/ipc10"],
        ["gc"],
        ["compare", "results/digits/ipc10", "results/digits/ipc1"],
        ["report", "results/digits/ipc10"],
        ["export", "results/digits/ipc10", "--to", "imagefolder", "--out", "out"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_folder_that_is_no_working_folder_is_named(command, tmp_path, monkeypatch, capsys):
    """There every run would look as if it had never been made."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"gvbsm: {tmp_path}: expected a working folder, with results/ or config/config.yaml, got neither; ")
    assert line.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("entry", ["results/store", "config/datasets"])
def test_a_working_folder_in_which_nothing_was_made_is_one(entry, tmp_path, monkeypatch, capsys):
    (tmp_path / entry).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", "results/digits/ipc10"]) == 0
    assert "never made" in capsys.readouterr().out
