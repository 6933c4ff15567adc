"""Errors the user can fix: shown as one line, exit status 2, never a traceback."""

import os
import re
from pathlib import Path

# Characters that start a new line or control a terminal, and bytes that could not be decoded (surrogates).
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """A mistake outside the program. Its text is one line: where, what was expected, what was found, and the remedy."""

    def __str__(self) -> str:
        # The text may quote file names, which may contain any character.
        return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], super().__str__())


class Interrupted(Exception):
    """A signal asked the stage to stop; its checkpoint is written."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unreadable(path: Path, error: OSError) -> UserError:
    """The error to raise for a file or folder that cannot be read; `error` may name a file inside it."""
    return UserError(
        f"{error.filename or path}: cannot be read: {error.strerror}; restore it, remove it or give read permission"
    )


def unwritable(path: Path, error: OSError) -> UserError:
    """The error to raise for a file or folder that cannot be written."""
    reason = error.strerror or str(error)
    text = f"{path}: cannot be written: {reason}; free space or make the folder writable"
    return file_in_the_way(path.parent) or UserError(text)


def file_in_the_way(folder: Path) -> UserError | None:
    """The error to raise if a folder, or one above it, is a file; None if it is a folder or can be made."""
    for path in (folder, *folder.parents):
        if os.path.lexists(path) and not path.is_dir():
            return UserError(f"{path}: expected a folder, got a file; move it away")
    return None
