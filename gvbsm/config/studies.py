"""Studies: rows, recipes and runs that answer one question, in one file, `benchmarks/studies/<study>/study.yaml`.

The row `short` of the study `labels` is the data set `labels.short` of runs: `results/labels.short/ipc10/acc.json`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr, ValidationError

from gvbsm.config.messages import SettingsError, Source, one_line
from gvbsm.config.yaml_files import beside_package, parse_yaml, read_text
from gvbsm.store.spec import Json, Strict


class Study(Strict):
    """One study.yaml."""

    question: str = Field(description="The question that the runs answer.")
    rows: dict[str, Json] = Field(default={}, description="Rows of this study alone, as files of `config/datasets`.")
    variants: dict[str, Json] = Field(default={}, description="Recipes of this study alone, as files of `config/recipes`.")
    runs: Annotated[list[str], Field(min_length=1)] = Field(
        description="Runs that `results/<study>/compare.csv` puts side by side: `<row>/ipc<N>[-<recipe>]`."
    )

    _text: str = PrivateAttr("")

    @property
    def text(self) -> str:
        """The file's text."""
        return self._text

    def sections(self, kind: str) -> dict[str, Json]:
        """Its rows ("datasets") or its variants ("recipes")."""
        return self.rows if kind == "datasets" else self.variants


def study_file(name: str) -> Path:
    """The file of a study of this name, whether it exists or not."""
    return _folder() / name / "study.yaml"


def study_names() -> list[str]:
    """The studies that exist."""
    return sorted(file.parent.name for file in _folder().glob("*/study.yaml"))


def _folder() -> Path:
    return beside_package(Path("benchmarks") / "studies")


def read_study(name: str) -> Study | None:
    """The study of this name; None if there is none.

    Raises:
        SettingsError: if its file is not YAML, or anything outside its rows and variants is wrong.
    """
    file = study_file(name)
    if not file.is_file():
        return None
    stat = file.stat()
    return _read(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _read(file: Path, _changed: int, _size: int) -> Study:
    """A large study is asked for its rows once per run, and would be parsed as often."""
    text = read_text(file)
    try:
        study = Study.model_validate(parse_yaml(file, text))
    except ValidationError as error:
        raise SettingsError(one_line(error, Study, {(): Source(file)})) from None
    study._text = text
    return study
