"""The page of a run: whole in one file, escaped, and saying what acc.json and the settings' files do."""

import html.parser
import json
import math
import re
from pathlib import Path

import pytest
from PIL import Image

from gvbsm import cli
from gvbsm.pictures.run_settings import flat

RUN = Path("results/tiny/ipc4")
PAGE = RUN / "report.html"
VOID = {"img", "link", "meta", "wbr"}
CITED = {"https://arxiv.org/abs/2311.17950"}


class Page(html.parser.HTMLParser):
    """A page as tables of texts, with its links and its outline; an element that is not closed in turn is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def report_page(*arguments: str) -> Page:
    assert cli.main(["report", str(RUN), *arguments]) == 0
    return Page(PAGE.read_text())


def test_the_page_needs_no_other_file(published_run):
    page = report_page()
    addresses = {value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")}
    inside = {address for address in addresses if address.startswith(("#", "data:"))}
    assert addresses - inside == CITED
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.all("img")) and page.all("img")
    assert not {"script", "iframe", "object"} & {name for name, _ in page.tags}
    assert not re.search(r"url\(|@import", PAGE.read_text())
    assert page.all("html") == [{"lang": "en"}] and len(page.all("h1")) == 1
    named = {attributes["id"] for attributes in page.all("h2")}
    assert named == {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")}
    assert all(attributes.get("scope") for attributes in page.all("th"))


def test_accuracies_are_those_of_acc_json(published_run):
    page, accuracies = report_page(), json.loads((RUN / "acc.json").read_text())
    for student, result in accuracies["students"].items():
        first = page.rows.index([student])
        soft, hard = (accuracies["baselines"][kind][student]["top1"] for kind in ("random_soft", "random_hard"))
        distilled, random_soft, random_hard = page.rows[first + 1 : first + 4]
        top1 = result["top1"]
        assert distilled[:2] == ["distilled, soft labels", f"{top1['mean']:.2f} ± {top1['std']:.2f}"]
        deviation = math.hypot(top1["std"], soft["std"])
        assert distilled[2] == f"{top1['mean'] - soft['mean']:+.2f} ± {deviation:.2f}"
        assert random_soft[:3] == ["random real, soft labels", f"{soft['mean']:.2f} ± {soft['std']:.2f}", ""]
        best = max(top1["mean"], soft["mean"], hard["mean"])
        assert f"<strong>{best:.2f} ± " in PAGE.read_text()
        assert random_hard[0] == "random real, hard labels" and random_hard[1].startswith(f"{hard['mean']:.2f}")
        assert distilled[-1] == ", ".join(f"{value:.2f}" for value in top1["runs"])
    assert f"({accuracies['soft_labels']['bytes']:,} bytes)" in page.text
    cost = {row[0]: row for row in page.rows}
    assert cost["recover"][1] == "2" and cost["all"][1] == str(sum(stage["jobs"] for stage in accuracies["cost"].values()))
    stored = sum(path.stat().st_size for path in Path("results/store/recover").glob("*.safetensors"))
    assert accuracies["cost"]["recover"]["bytes"] == stored
    assert accuracies["key"] in page.text and f"torch=={accuracies['provenance']['packages']['torch']}" in page.text
    assert "top-5" not in page.text, "there are ten classes"
    assert "cp results/tiny/ipc4/settings.yaml config/datasets/again.yaml" in page.text
    assert "snakemake --cores all results/again/ipc4/acc.json" in page.text
    by_class = [row for row in page.rows if len(row) == 7 and row[0] in "0123456789"]
    assert len(by_class) == 10


def test_the_page_begins_with_accuracies_and_margins(published_run):
    report_page()
    summary = PAGE.read_text().partition("<h2")[0]
    accuracies = json.loads((RUN / "acc.json").read_text())
    for student, result in accuracies["students"].items():
        over = result["top1"]["mean"] - accuracies["baselines"]["random_soft"][student]["top1"]["mean"]
        assert re.search(
            rf"<dt>{student}, top-1</dt><dd>{result['top1']['mean']:.2f} ± .* %</dd><dd>{re.escape(f'{over:+.2f}')} ± .* over",
            summary,
        )


def test_settings_are_folded(published_run):
    page = report_page()
    folded = re.findall(r"<summary>(.*?)</summary>", PAGE.read_text())
    assert {"recover", "relabel"} <= {title.lower() for title in folded}, folded
    assert page.text


def test_equal_runs_give_equal_pages_at_the_path_asked_for(published_run, capsys):
    report_page()
    assert cli.main(["report", str(RUN / "acc.json"), "--out", "elsewhere.html"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "elsewhere.html"
    assert Path("elsewhere.html").read_bytes() == PAGE.read_bytes()


def test_settings_have_their_sources(published_run, edit_row):
    """Values with the comment, the file and the line that they come from, through `extends` and a row of one's own."""
    row = Path("config/datasets/tiny.yaml")
    text = row.read_text().replace("iterations: 6", "iterations: 6   # paper table 5, <shortened>")
    row.write_text(f'# What "paper" means.\n{text}')
    line = 1 + next(number for number, source_line in enumerate(row.read_text().splitlines()) if "table 5" in source_line)
    rows = {cells[0]: cells[1:] for cells in report_page().rows if len(cells) == 3}
    assert rows["recover.iterations"] == ["6", f"paper table 5, <shortened>config/datasets/tiny.yaml:{line}"]
    base = Path("config/datasets/digits.yaml").read_text().splitlines()
    line = 1 + next(number for number, source_line in enumerate(base) if "first_layer_weight" in source_line)
    assert rows["recover.first_layer_weight"] == ["10.0", f"w, paperconfig/datasets/digits.yaml:{line}"]
    page = report_page()
    assert 'What "paper" means.' in page.text and "has been changed" not in page.text
    planned = flat(json.loads((RUN / "acc.json").read_text())["settings"]["recover"])
    shown = {name.removeprefix("recover."): value for name, (value, _) in rows.items() if name.startswith("recover.")}
    for name in ("iterations", "lr", "conv_drop", "ema.momentum", "densification.tau", "seed"):
        assert float(shown[name]) == planned[name]


def test_published_settings_stand_beside_changed_ones(published_run, edit_row):
    edit_row({"recover": {"iterations": 7}, "evaluate": {"headline": "best"}})
    page = report_page()
    assert "has been changed since this run was published" in page.text
    rows = [row for row in page.rows if len(row) == 3]
    assert ["recover.iterations", "6", "7"] in rows and ["evaluate.headline", "last", "best"] in rows
    Path("config/datasets/tiny.yaml").unlink()
    page = report_page()
    assert "have no sources: unknown data set 'tiny'" in page.text and ["recover.iterations", "6"] in page.rows


def test_names_are_text(published_run):
    """Whatever classes, students and comments are called."""
    bad = '<script>alert("1")</script>&amp;\'<b>'
    accuracies = json.loads((RUN / "acc.json").read_text())
    for group in (accuracies["students"], *accuracies["baselines"].values(), accuracies["teachers"], accuracies["cost"]):
        for name in list(group):
            group[bad + name] = group.pop(name)
    accuracies["provenance"] |= {"git": bad, "packages": {bad: bad}, "machine": bad, "python": bad}
    (RUN / "acc.json").write_text(json.dumps(accuracies))
    classes = (RUN / "classes.csv").read_text().splitlines()
    doubled = bad.replace('"', '""')
    (RUN / "classes.csv").write_text(
        "\n".join([classes[0], *(re.sub(r"^(\d+),[^,]*,[^,]*", rf'\1,"{doubled}","{doubled}"', line) for line in classes[1:])])
    )
    row = Path("config/datasets/tiny.yaml")
    row.write_text(f"# {bad}\n" + row.read_text().replace("iterations: 6", f"iterations: 6  # {bad}"))
    page = report_page()
    assert not {"script", "b"} & {name for name, _ in page.tags}
    assert page.text.count(bad) > 20 and any(bad in image["alt"] for image in page.all("img"))


def test_further_pictures_are_taken_in(published_run):
    folder = RUN / "pictures"
    folder.mkdir()
    Image.new("L", (300, 200)).save(folder / "curves.png")
    (folder / "curves.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg">' + " " * 5000 + "</svg>")
    (folder / "features.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    page = report_page()
    kinds = [image["src"].partition(";")[0] for image in page.all("img")]
    assert kinds == ["data:image/png", "data:image/png", "data:image/svg+xml"]  # of curves, the smaller file
    assert "Curves" in page.text and "Features" in page.text
    for name in ("images.png", "classes.csv", "pictures/curves.png", "pictures/curves.svg", "pictures/features.svg"):
        (RUN / name).unlink()
    page = report_page()
    assert not page.all("img") and "images.png is not beside acc.json" in page.text and "classes.csv is not" in page.text


@pytest.mark.nightly("snakemake")
def test_the_workflow_makes_the_page_and_makes_it_anew_after_a_picture(published_run, edit_row, run_snakemake, stale):
    target = str(PAGE)
    assert stale(target) == {"report": 1}
    done = run_snakemake("--cores", "1", target=target)
    assert done.returncode == 0, done.stderr
    assert Page(PAGE.read_text()).all("img") and stale(target) == {}
    done = run_snakemake("--cores", "1", target=str(RUN / "pictures" / "curves.png"))
    assert done.returncode == 0, done.stderr
    assert stale(target) == {"report": 1}
    done = run_snakemake("--cores", "1", target=target)
    assert done.returncode == 0 and "Training, by epoch" in PAGE.read_text(), done.stderr
    # Pictures that the run has no longer, or whose settings are gone, stop nothing.
    for name in ("evolution", "features"):
        (RUN / "pictures" / f"{name}.png").write_bytes((RUN / "pictures" / "curves.png").read_bytes())
    edit_row({"recover": {"snapshots": None}})
    config = Path("config/config.yaml")
    config.write_text("\n".join(line for line in config.read_text().splitlines() if not line.startswith("pictures:")))
    assert stale(target)["draw"] == 1, "the curves"


def test_mistakes(published_run, capsys):
    assert cli.main(["report", "results/none/ipc1"]) == 2
    assert capsys.readouterr().err.startswith("gvbsm: results/none/ipc1/acc.json: cannot be read")
    (RUN / "classes.csv").write_text("a,b\n1,2\n")
    assert cli.main(["report", str(RUN)]) == 2
    assert "classes.csv: expected columns label, class and name, got a, b" in capsys.readouterr().err
    accuracies = json.loads((RUN / "acc.json").read_text())
    for wrong in (accuracies | {"students": []}, accuracies | {"key": "0000000000"}, [], {}):
        (RUN / "acc.json").write_text(json.dumps(wrong))
        assert cli.main(["report", str(RUN)]) == 2
        assert "acc.json: expected what publish writes, got something else" in capsys.readouterr().err
