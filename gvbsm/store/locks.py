"""Locks of running jobs: a job holds `<key>.lock` beside its checkpoints while it makes the artifact of that key."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from gvbsm.store.working_folder import RESULTS

CHECKPOINTS = Path(RESULTS) / ".checkpoints"


def lock_file(key: str, checkpoints: Path = CHECKPOINTS) -> Path:
    """The lock of the job that makes the artifact of a key."""
    return checkpoints / f"{key}.lock"


def is_held(file: Path) -> bool:
    """Whether a process holds a lock; a lock that cannot be opened counts as held. Works on read-only folders."""
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # A shared lock: other checks do not conflict with it, and a job that starts now waits only a moment.
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(opened)
    return False


@contextlib.contextmanager
def taken(file: Path) -> Iterator[bool]:
    """Hold a lock during the block, unless another process holds it; whether this one does. Raises OSError."""
    import filelock

    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def delete_lock(file: Path) -> None:
    """Delete a lock file, unless a process holds it. Raises OSError if that is impossible."""
    with taken(file) as is_ours:
        if is_ours:
            file.unlink(missing_ok=True)  # a waiting process notices this, and makes a new file
