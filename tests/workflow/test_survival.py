"""What a run survives as a whole: a killed controller, two of them in one folder, a clock that jumps."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gvbsm.store.files import file_hash
from gvbsm.store.plans import STORE

TARGET = "results/tiny/ipc4/acc.json"


@pytest.mark.nightly("snakemake")
def test_a_clock_that_jumps_makes_nothing_stale(stale):
    """Times of ten years to come and ten years gone, in no order."""
    chance = random.Random(0)
    for file in sorted(path for path in Path("results").rglob("*") if path.is_file()):
        then = time.time() + chance.uniform(-1, 1) * 10 * 365 * 86400
        os.utime(file, (then, then))
    assert stale() == {}


@pytest.mark.nightly("snakemake")
def test_a_killed_controller(published_run, run_snakemake):
    """A second snakemake is refused while one runs; after kill -9 of that, --unlock and the same command go on."""
    expected = {artifact.path: file_hash(STORE / artifact.path) for artifact in published_run if artifact.stage != "publish"}
    for path in expected:
        if not path.startswith("prepare"):
            (STORE / path).unlink()
            (STORE / path).with_suffix(".json").unlink()
    Path(TARGET).unlink()  # as long as that is there, nobody asks for what it was made from
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "GVBSM_DEVICE": "cpu"}
    command = [sys.executable, "-m", "snakemake", "--cores", "2", TARGET]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((STORE / "squeeze").glob("*.safetensors")):
        time.sleep(0.1)
    second = run_snakemake("--cores", "2")
    assert second.returncode != 0 and "Directory cannot be locked" in second.stdout + second.stderr
    assert first.poll() is None, "it was over before the second began"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert "--unlock" in (refused := run_snakemake("--cores", "2")).stdout + refused.stderr
    assert run_snakemake("--unlock").returncode == 0
    done = run_snakemake("--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    missing = [path for path in expected if not (STORE / path).exists()]
    assert not missing, (missing, done.stdout + done.stderr)
    assert {path: file_hash(STORE / path) for path in expected} == expected
