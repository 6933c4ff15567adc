"""Runs side by side, by the command and by the workflow."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from gvbsm import cli
from gvbsm.commands.compare import _warning
from gvbsm.commands.differences import LINES, differences
from gvbsm.config.messages import SettingsError
from gvbsm.config.project import load_config, runs_of
from gvbsm.pictures.protocols import parts_that_differ, protocol
from gvbsm.pictures.run_settings import settings_of
from gvbsm.pipeline.graph import plan
from gvbsm.store.run import Published

RUN = Path("results/tiny/ipc4")
STUDENTS = [{"name": "convnet", "options": {"width": 4}}, {"name": "wrn16_2", "options": {"widen": 1, "depth": 10}}]


def test_the_table_holds_what_acc_json_does(published_run, capsys):
    assert cli.main(["compare", str(RUN), "--csv", "both.csv"]) == 0
    output = capsys.readouterr().out
    accuracies = json.loads((RUN / "acc.json").read_text())
    table = pd.read_csv("both.csv").set_index("student")
    for student, result in accuracies["students"].items():
        row = table.loc[student]
        soft = accuracies["baselines"]["random_soft"][student]["top1"]
        assert row["distilled"] == pytest.approx(result["top1"]["mean"])
        assert row["random_soft_std"] == pytest.approx(soft["std"])
        assert row["margin"] == pytest.approx(result["top1"]["mean"] - soft["mean"])
        assert row["margin_std"] ** 2 == pytest.approx(result["top1"]["std"] ** 2 + soft["std"] ** 2)
        assert f"{row['margin']:+.2f} ± {row['margin_std']:.2f}" in output
        assert row["label_bytes"] == accuracies["soft_labels"]["bytes"] and row["weights"] == "last" and row["seeds"] == 2
        assert f"{result['top1']['mean']:.2f} ± {result['top1']['std']:.2f}" in output
    assert "settings that differ" not in output and "distilled_hard" not in output


def test_one_seed_has_no_deviation_anywhere(published_run, edit_row, make_up_to, make_artifact, capsys):
    network = {"name": "convnet", "options": {"width": 4}}
    edit_row({"backbones": [network], "evaluate": {"students": [network], "seeds": [0], "baselines": ["random_soft"]}})
    file = make_artifact(make_up_to("evaluate")[-1])
    accuracies = json.loads(file.read_text())
    distilled, soft = (kind["convnet"]["top1"] for kind in (accuracies["students"], accuracies["baselines"]["random_soft"]))
    assert distilled["std"] is None and distilled["runs"] == [distilled["mean"]]
    assert pd.read_csv(file.with_name("table.csv"))["std"].isna().all()
    capsys.readouterr()
    assert cli.main(["compare", str(file), "--csv", "one.csv", "--picture", "one.svg"]) == 0
    output = capsys.readouterr().out
    assert f"{distilled['mean']:.2f}" in output and f"{distilled['mean'] - soft['mean']:+.2f}" in output and "±" not in output
    row = pd.read_csv("one.csv").loc[0]
    assert (
        row["distilled"] == pytest.approx(distilled["mean"])
        and row[["distilled_std", "random_soft_std", "margin_std"]].isna().all()
    )
    assert cli.main(["report", str(file), "--out", "one.html"]) == 0
    page = Path("one.html").read_text()
    assert "%: one seed of the student" in page and "±" not in page.partition("Accuracies</h2>")[2].partition("<h2")[0]


@pytest.mark.nightly("snakemake")
def test_settings_that_differ_are_named(published_run, edit_row, run_snakemake, capsys):
    Path("config/recipes/longer.yaml").write_text(
        "recover: {iterations: 7}\nrelabel: {epochs: 2}\nevaluate: {baselines: [distilled_hard], ema: .5}\n"
    )
    done = run_snakemake("--cores", "2", target="results/tiny/ipc4-longer/acc.json")
    assert done.returncode == 0, done.stderr
    assert cli.main(["compare", str(RUN / "acc.json"), "results/tiny/ipc4-longer"]) == 0
    table, _, differ = capsys.readouterr().out.partition("settings that differ (tiny/ipc4 | tiny/ipc4-longer):\n")
    names = {line.split(":")[0].strip(): line.partition(": ")[2] for line in differ.splitlines()}
    assert names.pop("recover.iterations") == "6 | 7" and names.pop("relabel.epochs") == "4 | 2"
    assert names.pop("evaluate.ema") == "off | 0.5"
    assert names.pop("baselines.random_seed") == "0 | -"
    assert [*names] == ["... and 1 more, see --all"]  # what check counts
    assert "EMA 0.5" in table and "distilled_hard" in table
    longer = json.loads(Path("results/tiny/ipc4-longer/acc.json").read_text())
    assert set(longer["baselines"]) == {"distilled_hard"}
    assert "EMA 0.5" in Path("results/tiny/ipc4-longer/table.csv").read_text()


@pytest.mark.nightly("snakemake")
def test_the_workflow_compares_the_runs_of_the_configuration(published_run, run_snakemake, stale):
    path = Path("config/config.yaml")
    path.write_text(path.read_text().replace("comparisons:", "comparisons:\n  both: [tiny/ipc4]\n  tiny: [ipc4]"))
    done = run_snakemake("--cores", "1", "results/both/compare.csv", target="results/tiny/compare.csv")
    assert done.returncode == 0, done.stderr
    assert "settings" not in pd.read_csv("results/tiny/compare.csv").columns
    with Image.open("results/tiny/compare.png") as picture:
        assert picture.size[0] > 1000 and len(picture.convert("L").getcolors()) > 20
    svg = Path("results/tiny/compare.svg").read_text()
    assert all(text in svg for text in ("tiny, convnet", "random real, soft labels", "top-1 accuracy", "row's own"))
    assert Path("results/both/compare.csv").read_text() == Path("results/tiny/compare.csv").read_text()
    assert not stale("results/tiny/compare.csv")
    path.write_text(path.read_text().replace("tiny: [ipc4]", "tiny: [ipc4, ipc4]"))
    assert stale("results/tiny/compare.csv") == {"compare": 1}, "other runs than before"
    assert not stale("results/both/compare.csv")
    failed = run_snakemake("-n", target="results/none/compare.csv")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert (
        "gvbsm: results/none/compare.csv: expected the runs to compare, got none; add comparisons: {none: [ipc10,"
        in failed.stderr
    )


def settings_in_acc_json(row: str) -> dict[str, Any]:
    *artifacts, publish = plan(row, 4)
    inputs = publish.spec.inputs
    return settings_of({artifact.path: artifact.spec for artifact in artifacts}, inputs.teachers, inputs.students)


def test_acc_json_tells_of_views_that_are_labelled_online_and_of_the_draw_of_random_images(workspace, edit_row):
    stored = settings_in_acc_json("tiny")
    edit_row({"relabel": {"online": True, "scale": [0.3, 1.0], "mix": "none"}, "evaluate": {"random_seed": 7}})
    online = settings_in_acc_json("tiny")
    for name, value in {"scale": [0.3, 1.0], "mix": "none", "online": True, "mixup_labels": "mixed"}.items():
        assert online["relabel"][name] == value
    assert stored["relabel"]["mix"] == "cutmix" and stored["relabel"]["epochs"] == online["relabel"]["epochs"]
    assert stored["baselines"] == {"random_seed": 0} and online["baselines"] == {"random_seed": 7}


def run_of(row: str, recipe: str | None = None) -> Published:
    *artifacts, publish = plan(row, 4, recipe)
    inputs = publish.spec.inputs
    settings = settings_of({artifact.path: artifact.spec for artifact in artifacts}, inputs.teachers, inputs.students)
    accuracies = {"dataset": row, "ipc": 4, "recipe": recipe, "settings": settings, "students": dict.fromkeys(inputs.students)}
    name = f"ipc4-{recipe}" if recipe else "ipc4"
    return Published(Path(f"results/{row}/{name}/acc.json"), accuracies)  # type: ignore[arg-type]


def lines_of(text: str) -> dict[str, str]:
    lines = [line.strip().partition(": ") for line in text.splitlines() if line.startswith("  ") and "... and" not in line]
    return {name: values for name, _, values in lines}


@pytest.mark.parametrize("others", [("cifar10",), ("cifar100", "digits"), ("imagenet",)])
def test_across_data_sets_a_few_settings_of_the_method_are_listed(workspace, others):
    runs = [run_of(row) for row in ("tiny", *others)]
    text = differences(runs)
    lines = lines_of(text)
    assert 2 < len(lines) <= LINES
    assert next(iter(lines)) in ("students", "teachers") and "recover.iterations" in lines
    unwanted = ("pixels", "network.channels", "network.classes", "image_size", "check.", "prepare.", "threads", "mean", "std")
    assert not [name for name in lines if any(part in name for part in unwanted)]
    everything = lines_of(differences(runs, everything=True))
    assert "prepare.image_size" in everything and "recover.pixels.mean" in everything
    more = int(text.rpartition("... and ")[2].split()[0])
    assert more < len(everything) and text.endswith(f"  ... and {more} more, see --all\n")


def test_a_few_differences_are_all_listed(workspace, edit_row):
    before, select = run_of("tiny"), yaml.safe_load(Path("config/recipes/edc.yaml").read_text())["select"]
    edit_row({"recover": {"iterations": 7}, "squeeze": {"epochs": 3}, "image_size": 16, "select": select})
    text = differences([before, run_of("tiny")])
    lines = lines_of(text)
    assert lines["squeeze.epochs"] == "2 | 3" and lines["recover.iterations"] == "6 | 7"
    assert lines["select.candidates"] == "- | 10" and lines["prepare.image_size"] == "8 | 16"
    assert differences([before, before]) == "\nno setting differs\n"


def test_what_a_run_has_no_section_or_no_network_for_is_a_dash(workspace, edit_row):
    before = run_of("tiny")
    edit_row({"evaluate": {"baselines": []}, "relabel": {"online": True}, "backbones": [{"name": "convnet_bn"}]})
    text = differences([before, run_of("tiny")], everything=True)
    lines = lines_of(text)
    assert lines["baselines.random_seed"] == "0 | -" and lines["relabel.online"] == "off | true"
    assert lines["squeeze.convnet_bn.lr"].startswith("- | ") and lines["squeeze.resnet10.lr"].endswith(" | -")
    assert not re.search(r"None|True|False|null|\['|\{'", text)


def test_teachers_whose_settings_differ_are_named_one_by_one(workspace, edit_row):
    before = run_of("tiny")
    edit_row(
        {
            "backbones": [
                {"name": "convnet", "options": {"width": 8}},
                {"name": "wrn16_2", "options": {"widen": 1, "depth": 10}, "squeeze": {"lr": 0.5}},
            ]
        }
    )
    lines = lines_of(differences([before, run_of("tiny")]))
    assert lines.pop("teachers") == "convnet, wrn16_2, resnet10 | convnet, wrn16_2"
    assert lines.pop("squeeze.convnet.network.options.width") == "4 | 8"
    assert lines.pop("squeeze.wrn16_2.lr").endswith(" | 0.5")
    assert not lines


NOT_COUNTED = {
    "images": {"recover": {"iterations": 7}, "statistics": {"patch_size": 2}},
    "seeds": {"evaluate": {"seeds": [4], "random_seed": 4}, "squeeze": {"seed": 4}, "relabel": {"seed": 4}},
    "the machine": {name: {"threads": 2, "precision": "bfloat16"} for name in ("squeeze", "relabel", "evaluate")},
    "jobs and tests": {"relabel": {"shard_epochs": 1}, "evaluate": {"test_every": 1}},
}
COUNTED = {
    "a teacher's length": ({"squeeze": {"epochs": 3}}, ["labels"]),
    "a teacher's width": ({"backbones": [{"name": "convnet", "options": {"width": 8}}]}, ["labels"]),
    "the views": ({"relabel": {"scale": [0.3, 1.0]}}, ["labels"]),
    "the coding": ({"relabel": {"coding": {"values": "int8"}}}, ["labels"]),
    "batch statistics": ({"relabel": {"batchnorm": "batch"}}, ["labels"]),
    "online labels": ({"relabel": {"online": True}}, ["labels"]),
    "the loss": ({"evaluate": {"loss": "kl", "temperature": 4.0}}, ["schedule"]),
    "the step size": ({"evaluate": {"lr": 0.5}}, ["schedule"]),
    "steps": ({"evaluate": {"schedule": "step", "milestones": [0.5], "gamma": 0.1}}, ["schedule"]),
    "the average": ({"evaluate": {"ema": 0.9}}, ["schedule"]),
    "the student's length": ({"evaluate": {"epochs": 5}}, ["budget"]),
    "the student's batches": ({"evaluate": {"batch_size": 20}}, ["budget"]),
    "epochs of labels": ({"relabel": {"epochs": 2}}, ["budget"]),
    "two parts": ({"evaluate": {"lr": 0.5, "epochs": 5}}, ["schedule", "budget"]),
}


@pytest.mark.parametrize("change", NOT_COUNTED)
def test_images_seeds_and_the_machine_are_no_part_of_the_protocol(change, workspace, edit_row):
    before = run_of("tiny")
    edit_row(NOT_COUNTED[change])
    after = run_of("tiny")
    assert before.accuracies["settings"] != after.accuracies["settings"] or change == "jobs and tests"
    for student in ("convnet", "wrn16_2"):
        assert protocol(before, student) == protocol(after, student) is not None


@pytest.mark.parametrize("change", COUNTED)
def test_labels_schedule_and_budget_are_told_apart(change, workspace, edit_row):
    changes, parts = COUNTED[change]
    before = run_of("tiny")
    edit_row(changes)
    found = [protocol(run, "convnet") for run in (before, run_of("tiny"))]
    assert parts_that_differ(found) == parts
    assert _warning([before, run_of("tiny")]).startswith(
        f"warning: tiny: runs differ in protocol ({', '.join(parts)}), students "
    )
    assert _warning([before, before]) == ""


def test_a_student_of_its_own_schedule_is_warned_of_alone(workspace, edit_row):
    before = run_of("tiny")
    edit_row({"evaluate": {"students": [{"name": "convnet", "options": {"width": 4}, "evaluate": {"lr": 0.5}}, *STUDENTS[1:]]}})
    assert protocol(before, "wrn16_2") == protocol(run_of("tiny"), "wrn16_2")
    expected = "warning: tiny: runs differ in protocol (schedule), students convnet: compare margins over random real images, "
    assert _warning([before, run_of("tiny")]) == f"{expected}not accuracies\n"


def test_runs_of_several_data_sets_or_without_settings_give_no_warning(workspace):
    tiny, other = run_of("tiny"), run_of("digits")
    assert _warning([tiny, other]) == ""
    old = run_of("tiny", "short")
    assert _warning([tiny, old])
    del old.accuracies["settings"]
    assert protocol(old, "convnet") is None and _warning([tiny, old]) == ""


def test_rows_of_one_protocol_stand_together(published_run, capsys):
    """A copy of the run in which students were trained for longer lies between two of the run itself."""
    accuracies = json.loads((RUN / "acc.json").read_text())
    for student in accuracies["settings"]["evaluate"].values():
        student["epochs"] = 9
    longer = Path("results/tiny/ipc4-longer")
    longer.mkdir()
    (longer / "acc.json").write_text(json.dumps(accuracies))
    assert cli.main(["compare", str(RUN), str(longer), str(RUN), "--csv", "three.csv"]) == 0
    output = capsys.readouterr().out
    table = pd.read_csv("three.csv")
    assert list(table["run"]) == ["tiny/ipc4"] * 4 + ["tiny/ipc4-longer"] * 2 and table["protocol"].nunique() == 2
    assert (
        output.count("warning: ") == 1 and "differ in protocol (budget), students convnet, wrn16_2: compare margins" in output
    )
    assert cli.main(["report", str(RUN / "acc.json"), "--out", "page.html"]) == 0
    assert f"<p>Protocol: convnet {table['protocol'][0]}; wrn16_2 {table['protocol'][1]}. " in Path("page.html").read_text()


def test_mistakes(workspace, capsys):
    config = load_config()
    assert str(runs_of(config, "results/digits/compare.csv")[0].accuracies) == "results/digits/ipc10/acc.json"
    values = {"targets": ["results/x/compare.csv"], "comparisons": {}, "data_root": "data"}
    with pytest.raises(SettingsError, match=r"targets\[0\]: results/x/compare.csv: expected the runs to compare, got none"):
        load_config(values)
    with pytest.raises(SettingsError, match=r"comparisons.x: run 'icp10': expected ipc<N>"):
        load_config(values | {"comparisons": {"x": ["icp10"]}})
    with pytest.raises(SettingsError, match=r"comparisons: comparison '../x': expected letters"):
        load_config(values | {"targets": ["results/digits/ipc10/acc.json"], "comparisons": {"../x": ["ipc10"]}})
    assert cli.main(["compare", "results/none"]) == 2
    assert capsys.readouterr().err.startswith(
        "gvbsm: results/none/acc.json: cannot be read: No such file or directory; make it with"
    )
