"""`gvbsm settings`, `networks`, `recipes` and `datasets`: what they print, and what they say of mistakes."""

import json
import re
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


def refresh(capsys):
    return output(capsys, "settings", "--refresh", "config").splitlines()


def test_tables_and_schemas_are_written_anew(workspace, capsys):
    pages = {path: path.read_text() for path in (Path("config/README.md"), *sorted(Path("config/settings").glob("*.md")))}
    for path, text in pages.items():
        path.write_text(re.sub(r"^\|.*\| .*\n", "", text, flags=re.MULTILINE))
    source = "config/settings/source.md"  # has a table of its own before the one that is made
    Path(source).write_text(pages[Path(source)].replace("Seed of the split by class.", "What stood here before."))
    shutil.rmtree("config/schema")
    assert refresh(capsys) == [f"{path}: written" for path in [*pages, *(f"config/schema/{name}.json" for name in SCHEMAS)]]
    assert {path: path.read_text() for path in pages} == pages
    assert refresh(capsys) == ["config: nothing has changed"]


def test_settings_that_a_mark_names_are_in_no_other_table(workspace, capsys):
    page = Path("config/settings/labels.md")
    page.write_text(page.read_text().replace("<!-- settings:relabel -->", "<!-- settings:relabel scale coding -->"))
    students = Path("config/settings/students.md")
    students.write_text(f"{students.read_text()}\n<!-- settings:relabel -->\n<!-- /settings -->\n")
    assert refresh(capsys) == [f"{path}: written" for path in ("config/README.md", page, students)]
    assert re.findall(r"^\| `(\S+)` \|", page.read_text(), re.MULTILINE) == ["scale", "coding", "coding.values", "coding.top"]
    rest = students.read_text().partition("<!-- settings:relabel -->")[2]
    assert (
        "| `ratio` |" in rest and "| `rand_augment.magnitude` |" in rest and "`coding" not in rest and "| `scale` |" not in rest
    )
    index = Path("config/README.md").read_text()
    assert "(settings/labels.md) | `relabel` (scale, coding) |" in index
    assert "(settings/students.md) | `evaluate`; `relabel` |" in index


PAGE_MISTAKES = {
    "unknown section": (
        "<!-- settings:recovr -->",
        "config/settings/more.md: unknown section 'recovr'; did you mean 'recover'? ",
    ),
    "unknown setting": (
        "<!-- settings:squeeze lr epoch -->",
        "config/settings/more.md: unknown setting 'epoch' of squeeze; did you mean 'epochs'? choose from optimizer, ",
    ),
    "section twice": (
        "<!-- settings:augment -->",
        "config/settings: expected one table with augment.pad, got 2; take one of the marks <!-- settings:augment --> away",
    ),
    "setting twice": ("<!-- settings:recover ema -->", "config/settings: expected one table with recover.ema, got 2; "),
    "section by another name": ("<!-- settings:judge -->", "config/settings: expected one table with backbones.name, got 2; "),
    "none": (None, "config/settings: expected one table with evaluate.optimizer, got 0; add <!-- settings:evaluate --> and "),
}


@pytest.mark.parametrize("mistake", PAGE_MISTAKES)
def test_mistakes_of_a_page(mistake, workspace, capsys):
    mark, expected = PAGE_MISTAKES[mistake]
    if mark:
        Path("config/settings/more.md").write_text(f"# More\n\n{mark}\n<!-- /settings -->\n")
    else:
        Path("config/settings/students.md").unlink()
    assert cli.main(["settings", "--refresh", "config"]) == 2
    assert capsys.readouterr().err.startswith(f"gvbsm: {expected}")


def test_networks(capsys):
    lines = output(capsys, "networks").splitlines()
    assert [line.split()[0] for line in lines] == [*sorted(BACKBONES), "timm:<name>", "torchvision:<name>"]
    assert lines[0].endswith("ConvNet teacher and student. Options: width (128), depth (3), norm (instance).")
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


def test_rows_that_cannot_be_read(workspace, capsys):
    Path("config/datasets/.#mine.yaml").symlink_to("me@here.123")  # as Emacs has it beside a file that is changed
    assert "#mine" not in output(capsys, "datasets")
    Path("config/datasets/mine.yaml").write_bytes("# Café.\nextends: digits\n".encode("latin-1"))
    assert cli.main(["datasets"]) == 2
    assert capsys.readouterr().err.startswith("gvbsm: config/datasets/mine.yaml:1: expected text in UTF-8, got the byte 0xe9; ")
    Path("config/datasets/mine.yaml").unlink()
    Path("config/datasets/mine.yaml").symlink_to("nowhere.yaml")
    assert cli.main(["datasets"]) == 2
    assert capsys.readouterr().err.startswith("gvbsm: config/datasets/mine.yaml: cannot be read: No such file or directory; ")


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


def test_the_row_of_a_target_with_the_place_of_each_setting(workspace, capsys):
    """What holds before anything runs: the row's own settings, and those of the recipe laid over it."""
    Path("config/recipes/mine.yaml").write_text("recover:\n  iterations: 3\n  lr: 0.5   # faster\n")
    assert cli.main(["row", "results/tiny/ipc4-mine/acc.json"]) == 0
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert lines["recover.lr"].split() == ["0.5", "config/recipes/mine.yaml:3"]
    assert lines["recover.iterations"].split() == ["3", "config/recipes/mine.yaml:2"]
    kind = re.fullmatch(r"digits +config/datasets/digits\.yaml:(\d+)", lines["source.kind"])
    assert "kind: digits" in (PACKAGE.parent / "config/datasets/digits.yaml").read_text().splitlines()[int(kind[1]) - 1]
    Path("config/recipes/mine.yaml").write_text("recover: {lr: fast}\n")
    assert cli.main(["row", "results/tiny/ipc4-mine"]) == 2
    assert "config/recipes/mine.yaml: recover.lr: expected a valid number, got 'fast'" in capsys.readouterr().err
