"""The templates of the page and of the card: values are escaped, a name without a value is an error, and all are shipped,
as is the package's table of speeds."""

import re
import tomllib
from pathlib import Path

import jinja2
import pytest

from gvbsm.commands.rates import TABLE
from gvbsm.report import page
from gvbsm.report.results import ClassRow, ClassTable
from gvbsm.share import markdown
from gvbsm.share.card import AccuracyCell, AccuracyRow, AccuracyTable
from gvbsm.store.code import PACKAGE

ENVIRONMENTS = {"page.html.j2": page.environment, "card.md.j2": markdown.environment}
TEMPLATES = sorted(PACKAGE.glob("*/templates/*"))
BAD = "<script>x</script> & `code` | pipe \" ' [a](b)\n---\n"


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize(
    "text", ["{{ missing }}", "{{ value.missing }}", "{% if missing %}{% endif %}", "{{ missing | join }}"]
)
def test_a_name_without_a_value_is_an_error(name, text):
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        ENVIRONMENTS[name]().from_string(text).render(value={"there": 1})


@pytest.mark.parametrize("name", ["arguments", "code", "literal", "yaml"])
def test_a_filter_that_marks_values_safe_does_not_hide_a_missing_one(name):
    with pytest.raises((jinja2.UndefinedError, TypeError)):
        markdown.environment().from_string(f"{{{{ missing | {name} }}}}").render()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_page_without_its_values_is_an_error(name):
    with pytest.raises(jinja2.UndefinedError):
        ENVIRONMENTS[name]().get_template(name).render()


def test_html_is_escaped():
    table = ClassTable(columns=(BAD,), rows=(ClassRow(BAD, BAD, (1.0,)),))
    shown = page.environment().get_template("classes.html.j2").render(classes=table)
    assert "<script>" not in shown and shown.count("&lt;script&gt;x&lt;/script&gt; &amp; `code`") == 3
    template = page.environment().from_string('<a title="{{ name }}">')
    assert template.render(name='"><b>') == '<a title="&#34;&gt;&lt;b&gt;">'


@pytest.mark.parametrize("text", ["{{ name }}", "{{ names | join(', ') }}", "{% set block %}{{ name }}{% endset %}{{ block }}"])
def test_markdown_is_escaped_once(text):
    shown = markdown.environment().from_string(text).render(name=BAD, names=[BAD])
    assert shown == "&#60;script&#62;x&#60;/script&#62; &#38; &#96;code&#96; &#124; pipe \" ' &#91;a&#93;(b) --- "


def test_a_name_stays_in_its_cell_of_the_card():
    cells = "{% for cell in row.accuracies %} {{ cell.text }} |{% endfor %}"
    text = "{% for row in table.rows %}| {{ row.student }} |" + cells + "{% endfor %}"
    row = AccuracyRow("x | y\n| z", (AccuracyCell("1.00", True),), None)
    table = AccuracyTable(kinds=("a",), rows=(row,), has_margins=False, seeds="one seed", teachers=())
    shown = markdown.environment().from_string(text).render(table=table)
    assert shown == "| x &#124; y &#124; z | 1.00 |"


def test_what_stands_in_code_ends_no_block():
    environment = markdown.environment()
    template = environment.from_string("dict({{ value | literal }}{{ options | arguments }})")
    options = {"a": 1, "b c": BAD}
    shown = template.render(value={"first": "`\n```\n"}, options=options)
    assert "\n" not in shown
    assert eval(shown) == {"first": "`\n```\n", **options}
    with pytest.raises(ValueError, match="expected a name of letters"):
        environment.from_string("{{ name | code }}").render(name="a`b")


def test_what_stands_in_yaml_ends_no_front_matter():
    shown = markdown.environment().from_string("---\n{{ values | yaml }}---\n").render(values={"title": BAD, "é": "\u2028"})
    assert shown.isascii() and [line for line in shown.splitlines() if line.startswith("---")] == ["---", "---"]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_turns_escaping_off(template: Path):
    code = " ".join(re.findall(r"\{[{%].*?[%}]\}", template.read_text(), re.DOTALL))
    assert not re.search(r"\|\s*safe|autoescape|Markup", code)


def test_all_files_are_shipped_with_the_package():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]
    shipped = {path for room, globs in patterns.items() for glob in globs for path in folder_of(room).glob(glob)}
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert TEMPLATES and shipped == others == {*TEMPLATES, TABLE, PACKAGE / "py.typed"}


def folder_of(room: str) -> Path:
    return PACKAGE.parent.joinpath(*room.split("."))
