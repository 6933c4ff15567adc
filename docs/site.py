"""MkDocs' hook: the site shows the README, every page that its links lead to, and the files that these pages name.

Every file keeps its path, so that there is one copy of each and links are right in the repository and on the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)|<img src=\"(?!\w+:)([^\"]+)")
MARK = re.compile(r"^(```\w+) [\w-]+$", re.MULTILINE)  # ```bash no-run: the mark is for tests/docs/test_pages.py
PIPE = re.compile(r"`[^`\n]*\\\|[^`\n]*`")  # GitHub wants the pipe of code in a table escaped, MkDocs does not
STYLE = "docs/site.css"

# Pages that mkdocstrings makes from docstrings: the program's words are the only source.
API = {
    "api/load.md": (
        "gvbsm.load",
        "`gvbsm.load` gives a run's images, views and soft labels to PyTorch.",
        ["gvbsm.load", "gvbsm.share.load.LabelledViews", "gvbsm.share.load.LabelledImages"],
    ),
    "api/method.md": (
        "gvbsm.method",
        "`gvbsm.method` holds the equations: pure functions on batches, which need torch alone.",
        ["gvbsm.method"],
    ),
    "api/backbones.md": (
        "gvbsm.backbones",
        "`gvbsm.backbones` builds networks by name, and reads published weights.",
        ["gvbsm.backbones"],
    ),
}


def on_config(config: Any, **_: Any) -> Any:
    """Make the anchors of headings as GitHub makes them, so that links to parts of pages are right in both places."""
    from pymdownx.slugs import slugify  # here, as File below: the tests of links run without MkDocs

    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Replace what lies in docs/ by what is linked."""
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    named = {page for page in _pages(config.nav) if page not in API}
    for path in sorted(linked(named) | {STYLE}):
        files.append(File(path, str(ROOT), config.site_dir, use_directory_urls=False))
    for path, (title, sentence, names) in API.items():
        blocks = "".join(f"\n::: {name}\n" for name in names)
        files.append(File.generated(config, path, content=f"# {title}\n\n{sentence}\n{blocks}"))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Take away what is for other readers: the marks of blocks that tests do not run, and GitHub's escapes."""
    return PIPE.sub(lambda code: code[0].replace("\\|", "|"), MARK.sub(r"\1", markdown))


def linked(pages: set[str]) -> set[str]:
    """These pages, every page that they lead to, and the files that all of these name."""
    found: set[str] = set()
    waiting = sorted(pages)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.endswith(".md"):
            links = ("".join(pair) for pair in LINK.findall((ROOT / path).read_text(encoding="utf-8")))
            targets = [((ROOT / path).parent / link).resolve() for link in links]
            waiting += [str(target.relative_to(ROOT)) for target in targets if target.is_file() and target.is_relative_to(ROOT)]
    return found


def _pages(nav: Any) -> list[str]:
    """The paths in a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in _pages(entry)]
