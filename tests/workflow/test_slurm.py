"""The digits row through a real SLURM with two pretended GPUs: devices apart, a cancelled job resumed."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from gvbsm.store.code import PACKAGE

pytestmark = pytest.mark.nightly("slurm")


def test_the_digits_row_on_slurm(cluster, tmp_path, running_stages):
    for part in ("gvbsm", "snakemake_logger_plugin_gvbsm", "workflow", "config"):
        shutil.copytree(PACKAGE.parent / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "workflow/profiles/slurm", "--slurm-no-account"]
    command += ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"]
    environment = {name: value for name, value in os.environ.items() if name not in ("GVBSM_DEVICE", "CUDA_VISIBLE_DEVICES")}
    with (tmp_path / "output.txt").open("w") as output:
        controller = subprocess.Popen(
            command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(tmp_path)}, stdout=output, stderr=subprocess.STDOUT
        )
    cancelled, saved, shared, at_once = None, [], [], 0
    while controller.poll() is None:
        now = running_stages(tmp_path)
        devices = [running.devices for running in now if running.stage not in ("prepare", "publish")]
        shared += [now] if len(set(devices)) < len(devices) else []
        at_once = max(at_once, len(set(devices)))
        recovering = [running.job for running in now if running.stage == "recover"]
        logs = (tmp_path / "results/logs/recover").glob("*.log")
        if not cancelled and recovering and any(log.stat().st_size for log in logs):
            (cancelled, *_) = recovering
            subprocess.run(["scancel", cancelled], check=True)
            while cancelled in [running.job for running in running_stages(tmp_path)]:
                time.sleep(0.3)
            saved = list((tmp_path / "results/.checkpoints").glob("*/state.safetensors"))
        time.sleep(0.3)
    text = (tmp_path / "output.txt").read_text()
    assert controller.returncode == 0, text
    assert not shared, f"jobs that shared a device: {shared}"
    assert at_once == 2, "two jobs at once, each on a device of its own"
    assert cancelled and re.search("gvbsm: recover digits-class.* is tried again", text)
    assert saved, "the cancelled job saved nothing, and none runs long enough to save unasked"
    accuracies = json.loads((tmp_path / "results/digits/ipc10/acc.json").read_text())
    assert min(student["top1"]["mean"] for student in accuracies["students"].values()) >= 93
