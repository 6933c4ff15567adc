"""Leases of devices: never two holders, nobody starves, a killed holder's device is free again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

POOL = "0,1,GPU-5ca1ab1e,3"

# Takes every device it was given for a while; a folder that is already there is a device with two holders.
JOB = """
echo "started $CUDA_VISIBLE_DEVICES" >> log
for device in $(echo "$CUDA_VISIBLE_DEVICES" | tr , ' '); do mkdir "held-$device" || echo "two holders of $device" >> log; done
sleep 0.1
for device in $(echo "$CUDA_VISIBLE_DEVICES" | tr , ' '); do rmdir "held-$device"; done
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder, four pretended devices, and locks of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GVBSM_LEASES", str(tmp_path / "leases"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", POOL)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("GVBSM_DEVICE", raising=False)
    monkeypatch.delenv("GVBSM_JOBS_PER_GPU", raising=False)
    return tmp_path


def start(count: int, *command: str, **environment: str) -> subprocess.Popen[str]:
    leased = [sys.executable, "-m", "gvbsm", "lease", "-n", str(count), "--", *command]
    return subprocess.Popen(leased, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def visible_devices(count: int, **environment: str) -> str:
    """The devices that a command sees."""
    out, error = start(
        count, sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", **environment
    ).communicate(timeout=60)
    assert not error, error
    return out.strip()


def holder(count: int) -> subprocess.Popen[str]:
    """A process that holds devices until it is killed."""
    process = start(count, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES; exec sleep 600")
    assert process.stdout
    process.names = process.stdout.readline().strip()  # type: ignore[attr-defined]
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


@pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=pytest.mark.nightly("processes"))])
def test_many_jobs_on_4_devices_never_share_one(rounds):
    counts = [1, 2, 1, 4, 1, 0, 3, 1, 1, 2] * rounds
    jobs = [start(count, "sh", "-c", JOB) for count in counts]
    for job in jobs:
        _, error = job.communicate(timeout=120)
        assert job.returncode == 0, error
    log = Path("log").read_text().splitlines()
    assert len(log) == len(counts) and all(line.startswith("started") for line in log), log
    given = [tuple(line.split()[1].split(",")) if " " in line.strip() else () for line in log]
    assert sorted(len(devices) for devices in given) == sorted(counts)
    assert {device for devices in given for device in devices} == set(POOL.split(","))


def test_a_killed_holder_frees_its_device():
    first = holder(4)
    assert first.names == POOL
    waiting = start(1, "printenv", "CUDA_VISIBLE_DEVICES")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.communicate(timeout=5)  # a busy machine takes its time to start it
    kill(first)
    out, error = waiting.communicate(timeout=60)
    assert out.strip() == "0" and "waiting for 1 of the GPUs" in error


@pytest.mark.nightly("processes")
def test_a_killed_waiter_keeps_nothing():
    first = holder(3)
    waiting = start(2, "true")  # has taken the fourth and waits for another
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.communicate(timeout=1.5)
    kill(waiting)
    assert visible_devices(1) == "3"
    kill(first)


@pytest.mark.nightly("processes")
def test_a_request_for_all_is_not_overtaken_for_ever():
    """Small jobs, one of which is always waiting, do not keep out a large one."""
    holders = [holder(1) for _ in range(4)]
    large = start(4, "touch", "large")
    time.sleep(1)
    small = [start(1, "sh", "-c", "test -e large || touch overtaken") for _ in range(4)]
    for process in holders:
        kill(process)
        time.sleep(0.2)
    assert large.wait(60) == 0
    assert all(process.wait(60) == 0 for process in small)
    assert not Path("overtaken").exists()
    for process in (large, *small):
        process.communicate()


def test_jobs_that_share_devices(monkeypatch):
    """Each takes the emptiest devices, and none twice."""
    monkeypatch.setenv("GVBSM_JOBS_PER_GPU", "2")
    holders = [holder(2), holder(4), holder(1)]
    assert [process.names for process in holders] == ["0,1", POOL, "GPU-5ca1ab1e"]
    waiting = start(2, "printenv", "CUDA_VISIBLE_DEVICES")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.communicate(timeout=1.5)
    kill(holders[2])
    out, _ = waiting.communicate(timeout=60)
    assert out.strip() == "GPU-5ca1ab1e,3"
    kill(holders[0])
    kill(holders[1])


@pytest.mark.nightly("processes")
def test_a_device_that_has_become_free_is_taken_before_half_of_another(monkeypatch):
    monkeypatch.setenv("GVBSM_JOBS_PER_GPU", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    holders = [holder(1) for _ in range(4)]
    assert [process.names for process in holders] == ["0", "1", "0", "1"]
    for number in (0, 1, 3):
        kill(holders[number])
    assert visible_devices(1) == "1"
    kill(holders[2])


@pytest.mark.parametrize("text", ["0", "two", "-1", "1.5"])
def test_a_wrong_number_of_jobs_per_device(text):
    process = start(1, "true", GVBSM_JOBS_PER_GPU=text)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error == (
        f"gvbsm: GVBSM_JOBS_PER_GPU: expected a number of at least 1, got '{text}'; unset it for one job at a time\n"
    )


def test_a_lease_of_no_device_hides_all():
    assert visible_devices(0) == ""
    assert visible_devices(2, GVBSM_DEVICE="cpu") == ""
    assert not Path("leases").exists()


def test_without_devices_the_command_runs_as_it_is():
    assert visible_devices(2, CUDA_VISIBLE_DEVICES="") == ""
    assert visible_devices(1, CUDA_VISIBLE_DEVICES="-1,0") == "-1,0"


def test_more_devices_than_there_are():
    process = start(5, "true")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error == f"gvbsm: lease: expected at most 4 devices ({POOL}), got -n 5; ask for fewer\n"


def test_slurm_jobs_do_not_wait_for_each_other():
    """SLURM numbers every job's devices from 0."""
    process = holder(4)
    assert visible_devices(1, SLURM_JOB_ID="17", CUDA_VISIBLE_DEVICES="0") == "0"
    kill(process)


def test_anothers_folder_is_not_used(folder, monkeypatch):
    link = folder / "link"
    link.symlink_to(folder)
    monkeypatch.setenv("GVBSM_LEASES", str(link))
    process = start(1, "true")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and "expected a folder of your own" in error


def test_exit_status_and_arguments_are_the_commands():
    process = start(1, "sh", "-c", 'printf "%s|" "$@"; exit 7', "sh", "-n", "two words", "--", "$(x)")
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (7, "-n|two words|--|$(x)|")
