"""`gvbsm settings`, `networks`, `recipes` and `datasets`: what they print, and what they say of mistakes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm import cli
from gvbsm.backbones import BACKBONES
from gvbsm.commands.settings import settings
from gvbsm.config.schema import SCHEMAS, schema
from gvbsm.store.code import PACKAGE


def output(capsys, *arguments):
    assert cli.main(arguments) == 0
    return capsys.readouterr().out


def test_a_section(capsys):
    assert settings("recover.ema", 102).splitlines()[:4] == [
        "recover.ema: Exponential moving average of the synthetic batch's statistics.",
        "setting   type    bounds        unit  meaning",
        "momentum  number  0 to 1              Weight alpha of the average so far.",
        "start     choice  zero, first         Start of the average: zero, or the first batch's own statistic.",
    ]
    assert output(capsys, "settings", "recover").count("setting ") == 8, "with those inside it"


def test_all_sections_are_as_wide_as_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "150")
    text = output(capsys, "settings")
    for section in ("row: ", "source: ", "evaluate.students: ", "config: ", "config.pictures: "):
        assert f"\n{section}" in f"\n{text}"
    assert all(len(line) <= 150 for line in text.splitlines())


MISTAKES = {
    "misspelt": (["settings", "recovr"], "unknown section 'recovr'; did you mean 'recover'? choose from row, source, "),
    "without the section it is in": (
        ["settings", "ema"],
        "unknown section 'ema'; did you mean 'recover.ema'? choose from row, ",
    ),
    "nothing near": (["settings", "xyz"], "unknown section 'xyz'; choose from row, source, augment, squeeze, backbones, "),
    "another schema": (["settings", "--json-schema", "page"], "settings: argument --json-schema: invalid choice: 'page'"),
    "no folder": (["settings", "--refresh", "nowhere"], "nowhere/README.md: cannot be read: No such file or directory; name "),
    "section and option": (["settings", "row", "--refresh", "config"], "settings: expected SECTION alone, got an option"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, workspace, capsys):
    arguments, expected = MISTAKES[mistake]
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(f"gvbsm: {expected}") and printed.err.count("\n") == 1


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema(name, capsys):
    assert json.loads(output(capsys, "settings", "--json-schema", name)) == schema(name)


def test_tables_and_schemas_are_written_anew(workspace, capsys):
    page = Path("config/README.md")
    text = page.read_text()
    page.write_text(text.replace("Step size of Adam at the start.", "What stood here before."))
    shutil.rmtree("config/schema")
    assert output(capsys, "settings", "--refresh", "config").splitlines() == [
        f"config/{name}: written" for name in ("README.md", *(f"schema/{schema}.json" for schema in SCHEMAS))
    ]
    assert page.read_text() == text
    assert output(capsys, "settings", "--refresh", "config") == "config: nothing has changed\n"
    page.write_text("<!-- settings:recovr -->\n<!-- /settings -->\n")
    assert cli.main(["settings", "--refresh", "config"]) == 2
    assert "did you mean 'recover'?" in capsys.readouterr().err


def test_networks(capsys):
    lines = output(capsys, "networks").splitlines()
    assert [line.split()[0] for line in lines] == [*sorted(BACKBONES), "timm:<name>", "torchvision:<name>"]
    assert lines[0].endswith("ConvNet teacher and student. Options: width (128), depth (3), norm ('instance').")
    assert "Options" not in next(line for line in lines if line.startswith("resnet50"))


@pytest.mark.parametrize(("name", "shown"), [("judge", "backbones"), ("backbones.squeeze", "squeeze")])
def test_a_section_with_the_settings_of_another_is_that_one(name, shown, capsys):
    assert cli.main(["settings", name]) == 0
    found = capsys.readouterr().out
    assert cli.main(["settings", shown]) == 0
    assert found == capsys.readouterr().out != ""


def test_data_sets_and_recipes_of_the_working_folder(workspace, capsys):
    Path("config/recipes/mine.yaml").write_text("# Smaller steps,\n# twice as many. More.\nextends: edc\n")
    shipped = {path.stem for path in (PACKAGE.parent / "config" / "recipes").glob("*.yaml")}
    lines = dict(line.split(maxsplit=1) for line in output(capsys, "recipes").splitlines())
    assert lines.keys() == shipped | {"mine"} and lines["mine"] == "Smaller steps, twice as many."
    listed = output(capsys, "datasets").splitlines()
    assert "tiny" in listed, "a row without a comment"
    assert any(line.startswith("digits         scikit-learn's handwritten digits: 1,797 grey images") for line in listed)


def test_another_folder_lists_what_the_package_has(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "tiny_imagenet" in output(capsys, "datasets") and "sre2l" in output(capsys, "recipes")


def test_no_listing_command_imports_torch():
    program = (
        "import sys; from gvbsm import cli;"
        "[cli.main(line.split()) for line in ('settings', 'settings --json-schema row', 'networks', 'recipes', 'datasets')];"
        "print(sorted({'torch', 'torchvision', 'timm', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.splitlines()[-1] == "[]"
