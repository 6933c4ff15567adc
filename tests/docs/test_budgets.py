"""Pages stay short: at most 800 words, no line that is hard to review, and a first sentence that says what the page is for."""

import re

import pytest

from gvbsm.store.code import PACKAGE

PAGES = sorted((PACKAGE.parent / "docs").glob("*.md"))
MOST_WORDS, LONGEST_LINE = 800, 200


def faults(text: str) -> list[str]:
    """What is wrong with a page."""
    found = []
    if (words := len(text.split())) > MOST_WORDS:  # code, tables and their bars count too, as `wc -w` counts
        found.append(f"expected at most {MOST_WORDS} words, got {words}; shorten the page, or move a part to another one")
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LONGEST_LINE:
            found.append(f"line {number}: expected at most {LONGEST_LINE} characters, got {len(line)}; break it")
    title, _, rest = text.partition("\n")
    if not title.startswith("# "):
        found.append(f"expected a heading in the first line, got {title!r}")
    first = re.match(r"\n([^\n#|<`!>*-].*?)(?:\n\n|\Z)", rest, re.DOTALL)  # a paragraph, no list, table, picture or block
    sentence = re.match(r"(.*?[.:])(?:\s|$)", first[1], re.DOTALL) if first else None
    if sentence is None or not 5 <= len(sentence[1].split()) <= 40:
        found.append("expected a sentence of 5 to 40 words after the heading: what this page is for")
    elif not sentence[1].startswith("This page "):
        found.append(f"expected a first sentence that begins with 'This page', got {sentence[1]!r}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_keeps_its_budgets(page):
    assert faults(page.read_text(encoding="utf-8")) == []


GOOD = "# A page\n\nThis page says what the test reads.\n\nMore.\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD, None),
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
