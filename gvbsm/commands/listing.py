"""Lists of the names that rows and targets may use: networks, data sets and recipes. Imports no torch."""

from __future__ import annotations

import ast
import re

from gvbsm.backbones import BACKBONES, LIBRARIES
from gvbsm.config.messages import as_in_a_row
from gvbsm.config.networks import GIVEN
from gvbsm.config.origins import legend
from gvbsm.config.yaml_files import read_text, row_files
from gvbsm.store.code import builder_about, builder_options


def networks() -> str:
    """The networks of this package with their options and default values, and the prefixes of libraries' networks."""
    lines = {}
    for name, builder in sorted(BACKBONES.items()):
        defaults = {option: value for option, value in builder_options(builder).items() if option not in GIVEN}
        options = [f"{option} ({as_in_a_row(ast.literal_eval(value or 'None'))})" for option, value in defaults.items()]
        lines[name] = _sentence(builder_about(builder)) + (f" Options: {', '.join(options)}." if options else "")
    for prefix, builder in LIBRARIES.items():
        lines[f"{prefix}:<name>"] = f"{_sentence(builder_about(builder))} Options: those that {prefix} has for it."
    return _columns(lines)


def rows(folder: str) -> str:
    """The files of `config/<folder>/`, here or beside the package, with the first sentence of its leading comment."""
    return _columns({name: _sentence(legend(read_text(files[0]))) for name, files in sorted(row_files(folder).items())})


def _sentence(text: str) -> str:
    """The first sentence of a text, in one line."""
    match = re.match(r".*?\.(?=\s|$)", text, re.DOTALL)
    return " ".join((match[0] if match else text).split())


def _columns(lines: dict[str, str]) -> str:
    width = max(map(len, lines), default=0)
    return "".join(f"{name:<{width}}  {about}".rstrip() + "\n" for name, about in lines.items())
