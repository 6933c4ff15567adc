"""`gvbsm lease`: run a command on GPUs of its own. Snakemake counts devices but hands out none.

A lock on a file in a node-local folder holds a device. The command inherits the open file, so the lock lasts exactly as long as
the command, however that ends. This module does not import torch: the devices must be chosen first.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from gvbsm.errors import UserError

_POLL_SECONDS = 0.1


def lease(count: int, command: Sequence[str]) -> NoReturn:
    """Wait for a place on `count` devices, then become `command` with these devices in CUDA_VISIBLE_DEVICES.

    A device has GVBSM_JOBS_PER_GPU places (default: one). If `count` is 0, or GVBSM_DEVICE is cpu, all devices are hidden. On
    a machine without devices the environment stays as it is.

    Raises:
        UserError: if there are fewer devices than asked for, or the number of places, the folder of locks or the command
            cannot be used.
    """
    pool = devices()
    if count == 0 or os.environ.get("GVBSM_DEVICE") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif pool:
        if count > len(pool):
            raise UserError(f"lease: expected at most {len(pool)} devices ({','.join(pool)}), got -n {count}; ask for fewer")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(_acquire(pool, count, lock_folder(), _places()))
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        raise UserError(f"lease: {command[0]}: {error.strerror}; name a command that can be run") from None


def devices() -> list[str]:
    """The CUDA devices of this process: those in CUDA_VISIBLE_DEVICES, or all that NVML lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        # As in CUDA, the first invalid name ends the list.
        return names[: next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))]
    import pynvml

    try:
        pynvml.nvmlInit()
        return [str(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver
        return []


def _places() -> int:
    text = os.environ.get("GVBSM_JOBS_PER_GPU") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"GVBSM_JOBS_PER_GPU: expected a number of at least 1, got {text!r}; unset it for one job at a time")
    return int(text)


def lock_folder() -> Path:
    """The folder of the locks: GVBSM_LEASES, or a folder of this user in the temporary folder; in a SLURM job, a subfolder.

    SLURM numbers the devices of every job from 0, and itself gives each job devices of its own.

    Raises:
        UserError: if the folder cannot be made, or belongs to another user.
    """
    folder = Path(os.environ.get("GVBSM_LEASES") or Path(tempfile.gettempdir()) / f"gvbsm-leases-{os.getuid()}")
    job = os.environ.get("SLURM_JOB_ID")
    inner = folder / f"slurm-{quote(job, safe='')}" if job else folder
    try:
        inner.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UserError(f"{inner}: cannot be made: {error.strerror}; name a node-local folder in GVBSM_LEASES") from None
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid():
        raise UserError(f"{folder}: expected a folder of your own, got another's; name a node-local folder in GVBSM_LEASES")
    return inner


def _acquire(pool: list[str], count: int, folder: Path, places: int) -> list[str]:
    """Wait for a place on `count` devices of the pool; this process and the command that it becomes hold their locks.

    Only the process that holds the turnstile takes places, and it keeps them while it waits for more. So processes never wait
    for each other, and requests for one device do not overtake a request for many for ever.
    """
    turnstile = _open(folder / "turnstile")
    if not _lock(turnstile):
        sys.stderr.write("gvbsm lease: waiting for a GPU\n")
        fcntl.flock(turnstile, fcntl.LOCK_EX)
    files = {
        name: [_open(folder / f"{quote(name, safe='')}{f'+{place}' if place else ''}") for place in range(places)]
        for name in pool
    }
    held: dict[str, int] = {}
    has_reported = False
    while True:
        free = {name: [file for file in files[name] if _lock(file)] for name in pool if name not in held}
        # The devices with the most free places first; equal ones in the order of the pool.
        for name in sorted(free, key=lambda name: -len(free[name])):
            if free[name] and len(held) < count:
                held[name] = free[name].pop(0)
            for file in free[name]:
                fcntl.flock(file, fcntl.LOCK_UN)
        if len(held) == count:
            break
        if not has_reported:
            sys.stderr.write(f"gvbsm lease: waiting for {count} of the GPUs {','.join(pool)}\n")
            has_reported = True
        time.sleep(_POLL_SECONDS)
    for name in pool:
        for file in files[name]:
            if held.get(name) == file:
                os.set_inheritable(file, True)
            else:
                os.close(file)
    os.close(turnstile)
    return sorted(held, key=pool.index)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened: {error.strerror}; name a node-local folder in GVBSM_LEASES") from None


def _lock(file: int) -> bool:
    """Try to lock an open file; whether this process holds the lock now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
