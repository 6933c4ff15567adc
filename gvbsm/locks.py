"""Which jobs run: each holds the lock `<key>.lock` beside its checkpoints while it makes the artifact of that key."""

from __future__ import annotations

import errno
from pathlib import Path

CHECKPOINTS = Path("results/.checkpoints")


def lock_file(key: str, checkpoints: Path = CHECKPOINTS) -> Path:
    """The lock of the job that makes the artifact of a key."""
    return checkpoints / f"{key}.lock"


def is_held(file: Path) -> bool:
    """Whether a process holds a lock; one that may not be tried counts as held."""
    return file.is_file() and not _with_lock(file, delete=False)


def delete_lock(file: Path) -> None:
    """Delete a lock file, unless a process holds it. Raises OSError if that is impossible."""
    _with_lock(file, delete=True)


def _with_lock(file: Path, delete: bool) -> bool:
    """Take a lock and leave it, its file deleted in between if asked to; whether it could be taken."""
    import filelock

    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    except OSError as error:
        return error.errno == errno.EROFS  # where nothing can be written, nothing is being made
    try:
        if delete:
            file.unlink(missing_ok=True)  # a process that waits for it sees that, and makes a new one
    finally:
        lock.release()
    return True
