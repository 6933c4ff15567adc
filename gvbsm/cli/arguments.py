"""What a command is, and how arguments are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Argument = tuple[tuple[str, ...], dict[str, Any]]  # names and options, as argparse takes them


def argument(*names: str, **options: Any) -> Argument:
    """One argument of a command."""
    return names, options


@dataclass(frozen=True)
class Command:
    """One command: name, one line of help, what it calls, its arguments; `more` ends its own help.

    `in_folder`: it tells what was made in the working folder, so in any other folder its answer would be wrong.
    """

    name: str
    about: str
    run: Callable[[argparse.Namespace], int | None]
    arguments: tuple[Argument, ...] = ()
    exclusive: tuple[Argument, ...] = ()  # of which one may be given
    more: str = ""
    usage: str | None = None
    in_folder: bool = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Give a parser the arguments of the command."""
        for names, options in self.arguments:
            parser.add_argument(*names, **options)
        if self.exclusive:
            group = parser.add_mutually_exclusive_group()
            for names, options in self.exclusive:
                group.add_argument(*names, **options)


def count(text: str) -> int:
    """A number of things, from an argument."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {number}")
    return number


def seconds(text: str) -> float:
    """A time, from an argument."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}; put targets before it") from None
    if not 0.1 <= number <= 86400:
        raise argparse.ArgumentTypeError(f"expected 0.1 to 86400 seconds, got {text}")
    return number
