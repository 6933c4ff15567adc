"""Pages stay short: at most 800 words, no line that is hard to review, and a first sentence that says what the page is for."""

import importlib.util
import re

import pytest
import yaml

from gvbsm.store.code import PACKAGE

ROOT = PACKAGE.parent
MOST_WORDS, LONGEST_LINE = 800, 200
# The front page begins with what gvbsm is, and tests/commands/test_readme.py counts its words: at most 900.
# The changelog is a history: it grows with every release, and a reader looks for one version. Its lines are as short.
OTHER_RULES = {"README.md", "CHANGELOG.md"}


def shown_pages() -> list[str]:
    """Every page that the site shows: those of the navigation, and those that their links lead to."""
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "site.py")
    assert spec and spec.loader
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    named = set(site._pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    return sorted(path for path in site.linked(named - site.API.keys()) if path.endswith(".md"))


PAGES = shown_pages()


def faults(text: str) -> list[str]:
    """What is wrong with a page."""
    found = []
    if (words := len(text.split())) > MOST_WORDS:  # code, tables and their bars count too, as `wc -w` counts
        found.append(f"expected at most {MOST_WORDS} words, got {words}; shorten the page, or move a part to another one")
    found += long_lines(text)
    title, _, rest = text.partition("\n")
    if not title.startswith("# "):
        found.append(f"expected a heading in the first line, got {title!r}")
    # A paragraph, no list, table, picture or block; of a study its question.
    first = re.match(r"\n((?:\*\*Question\.\*\* |[^\n#|<`!>*-]).*?)(?:\n\n|\Z)", rest, re.DOTALL)
    sentence = re.match(r"(?:\*\*Question\.\*\* )?(.*?[.:?])(?:\s|$)", first[1], re.DOTALL) if first else None
    if sentence is None or not 5 <= len(sentence[1].split()) <= 40:
        found.append("expected a sentence of 5 to 40 words after the heading: what this page is for")
    elif not (sentence[0].startswith("This page ") or is_question(sentence[0].strip())):
        found.append(f"expected a first sentence that begins with 'This page' or is a study's question, got {sentence[1]!r}")
    return found


def is_question(sentence: str) -> bool:
    return sentence.startswith("**Question.** ") and sentence.endswith("?")


def long_lines(text: str) -> list[str]:
    return [
        f"line {number}: expected at most {LONGEST_LINE} characters, got {len(line)}; break it"
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > LONGEST_LINE
    ]


def test_pages_of_every_room_are_held():
    """Those that the navigation names, and those that only other pages lead to."""
    for page in ("docs/running.md", "config/README.md", "config/settings/recover.md", "CONTRIBUTING.md", "SECURITY.md"):
        assert page in PAGES
    for folder in ("docs", "config/settings", "benchmarks", "benchmarks/speed", "benchmarks/studies"):
        here = {str(path.relative_to(ROOT)) for path in (ROOT / folder).glob("*.md")}
        assert here and here <= {*PAGES}, here - {*PAGES}
    assert {f"benchmarks/studies/{study}/README.md" for study in ("faults", "tiny20", "edc-cifar10")} <= {*PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_keeps_its_budgets(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert (long_lines(text) if page in OTHER_RULES else faults(text)) == []


@pytest.mark.parametrize("index", ["benchmarks/SPEED.md"])
def test_an_index_is_read_at_a_glance(index):
    assert len((ROOT / index).read_text(encoding="utf-8").split()) <= 200


GOOD = "# A page\n\nThis page says what the test reads.\n\nMore.\n"
STUDY = "# A study\n\n**Question.** Does the test read a question?\n\n**Answer: yes.**\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD, None),
        (STUDY, None),
        (STUDY.replace("**Question.** ", ""), "begins with 'This page'"),
        (STUDY.replace("?", "."), "a study's question"),
        (STUDY.replace("Question", "Answer"), "what this page is for"),
        (GOOD + "```\n" + "word\n" * 801 + "```\n", "at most 800 words"),
        (GOOD + "| " + "x" * 200 + " |\n", "line 6: expected at most 200 characters, got 204"),
        (GOOD.replace("# A page", "A page"), "a heading in the first line"),
        (GOOD.replace("This page says", "It says"), "begins with 'This page'"),
        ("# A page\n\n| a | b |\n|---|---|\n", "what this page is for"),
        ("# A page\n\n```bash\nls\n```\n\nThis page says what the test reads.\n", "what this page is for"),
        ("# A page\n\n## Part\n\nThis page says what the test reads.\n", "what this page is for"),
        ("# A page\n\nThis page has\nno end\n", "what this page is for"),
        ("# A page\n", "what this page is for"),
    ],
)
def test_the_budgets_can_be_missed(text, fault):
    found = " ".join(faults(text))
    assert (fault in found) if fault else found == ""
