"""The built site as a headless browser shows it: every page, wide and on a phone."""

import os
import subprocess
import sys

import pytest

from gvbsm.store.code import PACKAGE

pytestmark = pytest.mark.nightly("browser")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("mkdocs", reason='no MkDocs here: pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PACKAGE.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_pages_fit_their_window_and_ask_only_for_the_sites_files(built, browser):
    pages = sorted(page for page in built.rglob("*.html") if page.name != "404.html")  # which names its files from the root
    assert len(pages) > 25
    for page in pages:
        for width in (1280, 390):
            browser.visit(page, width)
            where = f"{page.relative_to(built)} at {width} px"
            assert [one for one in browser.requests if not one.startswith(built.as_uri())] == [], where
            assert browser.ask("document.documentElement.scrollWidth <= innerWidth"), where
            assert browser.ask("[...document.images].every(image => image.naturalWidth > 0)"), where
