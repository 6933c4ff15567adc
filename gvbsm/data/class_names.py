"""Names of class folders that are hard to tell apart, for messages."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable

from gvbsm.errors import UserError


def loosely(name: str) -> str:
    """A name in one Unicode form, one case and with single blanks: equal for names that look alike."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def look_alike(name: str, others: Iterable[str]) -> str:
    """In words, which of the other names looks like this one, and in what they differ; "" if none does."""
    other = next((other for other in others if other != name and loosely(other) == loosely(name)), None)
    if other is None:
        return ""
    if _composed(name) == _composed(other):
        difference = "Unicode form"
    elif _composed(name).casefold() == _composed(other).casefold():
        difference = "upper and lower case"
    else:
        difference = "blanks"
    return f"{name!a} and {other!a}, which differ in {difference} alone"


def check_forms(what: str, names: Collection[str]) -> None:
    """Raise UserError if two names differ in their Unicode form alone: a class that was copied from two systems."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        other = seen.setdefault(_composed(name), name)
        if other != name:
            raise UserError(f"{what}: expected a folder for each class, got {look_alike(name, [other])}; put them together")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
