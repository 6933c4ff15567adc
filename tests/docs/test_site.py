"""The site's navigation names every page, its files are found by their links, and the check builds it."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from gvbsm.store.code import PACKAGE

ROOT = PACKAGE.parent


CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


@pytest.fixture(scope="module")
def site():
    """docs/site.py"""
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sections(text: str) -> dict[str, list[str]]:
    """The pages by reader, as docs/README.md lists them: paths from the root."""
    parts = re.split(r"^\*\*(.*?)\*\*$", text, flags=re.MULTILINE)[1:]
    links = [re.findall(r"^- \[.*?\]\((.*?)\)", part, re.MULTILINE) for part in parts[1::2]]
    pages = [[(ROOT / "docs" / link).resolve() for link in some] for some in links]
    return {name: [str(page.relative_to(ROOT)) for page in some] for name, some in zip(parts[::2], pages, strict=True)}


def test_the_navigation_is_the_list_of_pages(site):
    listed = sections((ROOT / "docs" / "README.md").read_text())
    shown = {name: site._pages(pages) for entry in CONFIG["nav"][1:] for name, pages in entry.items()}
    assert list(shown) == list(listed) == ["Use it", "Settings", "Run it at scale", "Extend it", "Understand it", "Results"]
    assert CONFIG["nav"][0] == {"Home": "README.md"}
    for name, pages in shown.items():
        elsewhere = (*site.API, "docs/README.md", "CHANGELOG.md")
        assert [page for page in pages if page not in elsewhere] == [page for page in listed[name] if page.endswith(".md")]


def test_every_page_is_in_the_navigation(site):
    named = set(site._pages(CONFIG["nav"]))
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    assert pages <= named
    assert all((ROOT / page).is_file() for page in named - site.API.keys())


def test_functions_of_the_api_are_there(site):
    for _, _, names in site.API.values():
        for name in names:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute) or importlib.util.find_spec(name), name


def test_files_are_found_by_their_links(site, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "ROOT", tmp_path)
    for name, text in {
        "README.md": '[a](docs/a.md#b) [b](docs) <img src="docs/one.png"> [web](https://x.org/y.md) [c](docs/gone.md) [d](#b)',
        "docs/a.md": "[home](../README.md) ![two](two.png) [code](../x.py)",
        "docs/not-linked.md": "",
        "docs/one.png": "",
        "docs/two.png": "",
        "x.py": "[no page](docs/not-linked.md)",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert site.linked({"README.md"}) == {"README.md", "docs/a.md", "docs/one.png", "docs/two.png", "x.py"}
    (tmp_path.parent / "outside.md").write_text("")
    (tmp_path / "docs" / "a.md").write_text("[out](../../outside.md)")
    assert site.linked({"README.md"}) == {"README.md", "docs/a.md", "docs/one.png"}


def test_what_is_for_other_readers_is_taken_away(site):
    page = "```bash no-run\nls  # no-run\n```\n```diff\n```\n| `a\\|b` | c \\| d |\n"
    assert site.on_page_markdown(page) == "```bash\nls  # no-run\n```\n```diff\n```\n| `a|b` | c \\| d |\n"


def test_the_check_and_read_the_docs_build_it():
    check = (ROOT / ".ci" / "run").read_text()
    assert re.search(
        r"^python3 \.ci/extra\.py docs > .*\n.*pip\" install .*\n.*mkdocs\" build .*--strict\b", check, re.MULTILINE
    )
    hosted = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    assert hosted["mkdocs"] == {"configuration": "mkdocs.yml", "fail_on_warning": True}
    assert ".ci/extra.py docs" in hosted["build"]["jobs"]["install"][0]


def test_the_packages_of_an_extra_are_printed():
    done = subprocess.run([sys.executable, ROOT / ".ci" / "extra.py", "docs"], capture_output=True, text=True, check=True)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert done.stdout.split() == extras["docs"] and all(">=" in package for package in extras["docs"])


def test_a_page_asks_for_no_font():
    assert CONFIG["theme"]["font"] is False and CONFIG["strict"] is True and "repo_url" not in CONFIG
    assert not [path for key in ("extra_css", "extra_javascript") for path in CONFIG.get(key, []) if "//" in path]
    assert Path(ROOT / CONFIG["extra_css"][0]).is_file()
