"""What the fuzz tests change files and settings by, and the one property that they hold: success, or one line for the user."""

import contextlib
import copy
import datetime
import signal
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gvbsm.errors import UserError

SECONDS = 30  # for one example; each takes milliseconds


def fuzz(examples: int) -> settings:
    """Hypothesis' settings: the same examples in every run."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def succeeds_or_says_why(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a call succeeds. It may raise nothing but a UserError of one line, and it ends."""
    with _time_limit():
        try:
            function(*arguments)
        except UserError as error:
            assert str(error) and "\n" not in str(error)
            return False
    return True


_NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
_places = st.floats(0, 1, exclude_max=True)  # shares of the length: they shrink to the beginning


@st.composite
def changes_of_bytes(draw: st.DrawFn) -> list[tuple[str, float, Any]]:
    """A few changes, for `changed`."""
    kinds = {
        "byte": st.integers(0, 255),
        "number": st.tuples(st.sampled_from(_NUMBERS), st.sampled_from(["little", "big"]), st.sampled_from([2, 4])),
        "cut": st.integers(1, 64),
        "end": st.none(),
        "insert": st.binary(min_size=1, max_size=16),
        "repeat": st.integers(1, 64),
    }
    kind = st.sampled_from(sorted(kinds))
    return [(name := draw(kind), draw(_places), draw(kinds[name])) for _ in range(draw(st.integers(1, 5)))]


def changed(content: bytes, changes: list[tuple[str, float, Any]]) -> bytes:
    """The content after all changes."""
    for kind, place, value in changes:
        at = int(place * len(content))
        before, after = content[:at], content[at:]
        if kind == "byte":
            content = before + bytes([value]) + after[1:]
        elif kind == "number":
            number, order, length = value
            content = before + (number % 256**length).to_bytes(length, order) + after[length:]
        elif kind == "cut":
            content = before + after[value:]
        elif kind == "end":
            content = before
        elif kind == "insert":
            content = before + value + after
        else:
            content = before + after[:value] + after
    return content


_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2, 10, 2**31, 2**63]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", ".", "..", "digits", "convnet", "timm:", "\0", "\ud800", "a" * 300, "1e999", "!!python/name:x"]),
)
VALUES = st.recursive(
    _leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
YAML_VALUES = st.one_of(
    VALUES.filter(lambda value: "\ud800" not in repr(value)),
    st.dictionaries(st.one_of(st.integers(), st.none(), st.floats(), st.booleans()), st.integers(), min_size=1, max_size=2),
    st.just(datetime.date(2026, 1, 1)),
    st.binary(max_size=3),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value inside nested dicts and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield (*at, name)
        yield from places(item, (*at, name))


@st.composite
def altered(draw: st.DrawFn, originals: list[Any], values: st.SearchStrategy[Any]) -> Any:
    """One of several nested structures, with other values at one to three places, entries left out, or unknown ones added."""
    result = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        all_places = list(places(result))
        if not all_places:
            break
        *above, last = draw(st.sampled_from(all_places))
        inside = result
        for name in above:
            inside = inside[name]
        how = draw(st.sampled_from(["other", "out", "more"]))
        if how == "out":
            del inside[last]
        elif how == "more" and isinstance(inside, dict):
            inside[draw(st.text(max_size=6))] = draw(values)
        else:
            inside[last] = draw(values)
    return result
