"""Values stand in pages, tables and messages as a row would have them, not as Python writes them."""

import re
from pathlib import Path

import pytest
import yaml

from gvbsm import cli
from gvbsm.config.messages import as_in_a_row, short
from gvbsm.report.page import report
from gvbsm.share.card import _student

RUN = Path("results/tiny/ipc4")
PYTHON = re.compile(r"\b(None|True|False)\b|[\[{(]'|'[\]})]|<class |\bnan\b")
VALUES = [None, True, 3, 0.5, 1e-5, [0.5, None, "a"], {"a": {"b": False}}, [], {}, float("inf")]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_reads_as_in_a_row(value):
    assert yaml.safe_load(short(value)) == value
    assert as_in_a_row(value) == ("off" if value is None else short(value))
    assert not PYTHON.search(short(value))


def test_texts_are_quoted_in_messages_alone():
    assert short("true") == "'true'" and short(True) == "true" and as_in_a_row("a b") == "a b"
    assert len(short(["x" * 9] * 99)) == 60 and short(object).startswith("<class")


def test_tables_and_pages_of_a_run_hold_no_python(published_run, edit_row, capsys):
    edit_row({"recover": {"compile": True, "betas": [0.6, 0.9], "layers": ["conv"]}})
    for command in (["explain"], ["status"], ["row"], ["estimate"], ["compare", "--all", str(RUN)], ["networks"], ["recipes"]):
        assert cli.main([*command, *([] if command[0] in ("networks", "recipes") else [str(RUN)])]) == 0
        assert not PYTHON.search(capsys.readouterr().out), command
    report(RUN)
    text = re.sub(r"<(pre|style)\b.*?</\1>|<[^>]*>", "", (RUN / "report.html").read_text(), flags=re.DOTALL)
    assert "ema" in text and "off" in text and not PYTHON.search(text)


def test_a_card_tells_of_a_students_settings_as_its_row_does():
    network = {"name": "wrn16_2", "options": {"wide": True, "kernel": [3, 3]}}
    student = _student("s", {"network": network, "settings": {"milestones": [0.5], "average": False}, "seeds": [0, 1]})
    assert student.network == ("wrn16_2", "wide true", "kernel [3, 3]") and student.seeds == "0, 1"
    assert student.settings == ("milestones [0.5]", "average false")
