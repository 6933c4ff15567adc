"""Pages as a headless browser shows them: what is seen, asked for and complained of."""

import re
import zipfile
from pathlib import Path

import pytest

from gvbsm import cli

RUN = Path("results/tiny/ipc4")

pytestmark = pytest.mark.nightly("browser")


def test_the_browser_tells_what_is_wrong(browser, tmp_path):
    page = tmp_path / "wrong.html"
    page.write_text('<img src="http://gvbsm.invalid/x.png"><script>console.error("no"); missing()</script>')
    browser.visit(page)
    assert browser.requests == [page.as_uri(), "http://gvbsm.invalid/x.png"]
    complaints = " ".join(browser.complaints)
    assert "ERR_NAME_NOT_RESOLVED" in complaints and "'no'" in complaints and "ReferenceError" in complaints


def test_the_page_of_a_run(published_run, browser):
    assert cli.main(["report", str(RUN)]) == 0
    page = RUN / "report.html"
    browser.visit(page)
    assert browser.requests == [page.resolve().as_uri()] and browser.complaints == []
    assert browser.ask("document.title") == "tiny, 4 images per class"
    assert browser.ask("document.querySelector('section:has(#accuracies) table').checkVisibility()")
    assert "distilled, soft labels" in browser.ask("document.body.innerText")
    # Images are there, and drawn.
    assert browser.ask("[...document.images].length") == 1
    assert browser.ask("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
    # Every link of the contents leads somewhere.
    assert browser.ask("[...document.querySelectorAll('nav a')].every(link => document.querySelector(link.hash))")


def test_the_page_on_a_phone_and_in_the_dark(published_run, browser):
    assert cli.main(["report", str(RUN)]) == 0
    backs = {}
    for scheme in ("light", "dark"):
        browser.visit(RUN / "report.html", width=390, scheme=scheme)
        assert browser.complaints == []
        # Only the tables' own frames are wider than the screen, not the page.
        assert browser.ask("document.documentElement.scrollWidth") <= 390
        backs[scheme] = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert backs == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}


def test_the_report_of_snakemake(published_run, run_snakemake, browser, tmp_path):
    """Made of what was published, from what comes with Snakemake's own package."""
    page = str(RUN / "report.html")
    assert run_snakemake("--cores", "1", target=page).returncode == 0
    done = run_snakemake("--report", "report.zip", target=page)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile("report.zip") as archive:
        archive.extractall(tmp_path / "opened")
        files = {Path(name).name for name in archive.namelist()}
    assert {"report.html", "table.csv", "classes.csv", "images.png"} <= files
    browser.visit(tmp_path / "opened" / "report" / "report.html")
    # Its style sheet, which it brings along, warns of its own use on web sites.
    assert [
        complaint for complaint in browser.complaints if "cdn.tailwindcss.com should not be used in production" not in complaint
    ] == []
    assert browser.requests and all(re.match("file:|blob:", address) for address in browser.requests)
    assert browser.ask("document.title") == "Snakemake Report"
    browser.ask("[...document.querySelectorAll('#app span')].find(span => span.textContent === 'Results').click()")
    shown = browser.ask("document.querySelector('#app').innerText")
    assert all(text in shown for text in ("tiny", "Accuracies by class", "The distilled images", "The whole run on a page"))
