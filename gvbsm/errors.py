"""Errors the user can fix: shown as one line, exit status 2, never a traceback."""

import re
from pathlib import Path

# What would begin another line, or tell a terminal something: control characters, and bytes that are no text.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """Something outside the program is wrong. The text says what, where, expected, got and the remedy, in one line."""

    def __str__(self) -> str:
        # Names of files and folders are others' choice.
        return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], super().__str__())


class Interrupted(Exception):
    """A signal asked the stage to stop; its checkpoint is written."""


def unreadable(path: Path, error: OSError) -> UserError:
    """What to say of a file or folder, or of one in it, that cannot be read."""
    return UserError(f"{error.filename or path}: cannot be read: {error.strerror}; restore, remove or permit it")
