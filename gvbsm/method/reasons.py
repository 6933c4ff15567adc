"""Why something runs in another way than it could, in one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def because(state: str, reason: str) -> str:
    """A state such as "not recorded", and why, if there is a reason: what receipts say of passes."""
    return f"{state} ({reason})" if reason else state
