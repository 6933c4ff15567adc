"""Jobs of one snakemake, each on a device of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.nightly("processes"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes through Linux's /proc"),
]


def test_two_jobs_at_once_on_different_devices(published_run, tmp_path, running_stages, monkeypatch):
    """Two pretended devices, and more cores than jobs may run."""
    monkeypatch.setenv("GVBSM_LEASES", str(tmp_path / "leases"))
    monkeypatch.delenv("GVBSM_JOBS_PER_GPU", raising=False)
    environment = {name: value for name, value in os.environ.items() if name != "GVBSM_DEVICE"}
    environment |= {"CUDA_VISIBLE_DEVICES": "0,1", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "snakemake", "--cores", "8", "--forceall", "--resources", "gpu=2"]
    command += ["--", "results/tiny/ipc4/acc.json"]
    pairs, wrong = set(), []
    with (tmp_path / "output.txt").open("w+") as output:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            devices = sorted(
                running.devices for running in running_stages(tmp_path) if running.stage not in ("prepare", "publish")
            )
            pairs.add(tuple(devices))
            wrong += [devices] if len(set(devices)) < len(devices) or not set(devices) <= {"0", "1"} else []
            time.sleep(0.05)
        output.seek(0)
        assert process.returncode == 0, output.read()
    assert not wrong
    assert ("0", "1") in pairs
