"""What is stale after every kind of change: exactly that, and nothing else.

An artifact is made anew when its path is another: of most changes the plans before and after are compared. Four go through
`snakemake -n`, which must show as much: one that every stage follows from, one that concerns nothing in the store, one of the
code, and one of code that planning itself executes.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from gvbsm import cli
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import stored
from gvbsm.store.code import PACKAGE
from gvbsm.store.plans import STORE

B, R, L, S = 3, 2, 2, 2  # backbones, recover shards, label shards, students of the row tiny
TEACHERS = [
    {"name": "convnet", "options": {"width": 4}},
    {"name": "wrn16_2", "options": {"widen": 1, "depth": 10}},
    {"name": "resnet10", "options": {"width": 8}},
]
# Of a student's three runs, the one on random images with hard labels knows no teacher.
FROM_TEACHERS = {"relabel": 2 * L, "evaluate": 2 * S, "publish": 1}
FROM_IMAGES = {"relabel": L, "evaluate": S, "publish": 1}


def with_teacher(index: int, changes: dict) -> dict:
    return {"backbones": [teacher | changes if i == index else teacher for i, teacher in enumerate(TEACHERS)]}


NIGHTLY = pytest.mark.nightly("snakemake")
Planned = set[tuple[str, str]]  # the stage and path of every artifact of a run


def planned() -> Planned:
    return {(artifact.stage, artifact.path) for artifact in plan("tiny", 4)}


def new(before: Planned, after: Planned) -> dict[str, int]:
    """Jobs that the second plan adds to the first: {stage: jobs}."""
    return dict(Counter(stage for stage, _ in after - before))


def test_the_store_has_what_is_planned_and_nothing_else(published_run):
    """So what a plan adds to it is what would run. That Snakemake then runs nothing is in test_survival.py."""
    there = set(stored(STORE))
    assert there == {path for stage, path in planned() if stage != "publish"}


ROW_CHANGES = {
    "a backbone's learning rate": (
        with_teacher(1, {"squeeze": {"lr": 0.01}}),
        {"squeeze": 1, "statistics": 1, "recover": R} | FROM_TEACHERS,
    ),
    "a backbone added": (
        {"backbones": [*TEACHERS, {"name": "mobilenet_v2"}]},
        {"check": 1, "squeeze": 1, "statistics": 1, "recover": R} | FROM_TEACHERS,
    ),
    "a backbone removed": ({"backbones": TEACHERS[:2]}, {"check": 1, "recover": R} | FROM_TEACHERS),
    "every teacher's epochs": ({"squeeze": {"epochs": 3}}, {"squeeze": B, "statistics": B, "recover": R} | FROM_TEACHERS),
    "a setting of statistics": ({"statistics": {"variance": "mean_of_batches"}}, {"statistics": B, "recover": R} | FROM_IMAGES),
    "recover's iterations": ({"recover": {"iterations": 7}}, {"recover": R} | FROM_IMAGES),
    "how recover is cut": ({"recover": {"shard_batches": 1}}, {"recover": 4} | FROM_IMAGES),
    "views": ({"relabel": {"scale": [0.3, 1.0]}}, {"relabel": 2 * L, "evaluate": 3 * S, "publish": 1}),
    "stored labels": ({"relabel": {"coding": {"values": "float32"}}}, FROM_TEACHERS),
    "every student's learning rate": ({"evaluate": {"lr": 0.01}}, {"evaluate": 3 * S, "publish": 1}),
    "weight of hard beside soft labels": ({"evaluate": {"hard_weight": 0.5}}, {"evaluate": 2 * S, "publish": 1}),
    "one student's learning rate": (
        {"evaluate": {"students": [TEACHERS[0], TEACHERS[1] | {"evaluate": {"lr": 0.01}}]}},
        {"evaluate": 3, "publish": 1},
    ),
    "a student removed": ({"evaluate": {"students": [TEACHERS[0]]}}, {"publish": 1}),
    "which accuracy is the headline": ({"evaluate": {"headline": "best"}}, {"publish": 1}),
    "the split": (
        {"source": {"seed": 1}},
        {
            "prepare": 1,
            "check": 1,
            "squeeze": B,
            "statistics": B,
            "recover": R,
            "relabel": 2 * L,
            "evaluate": 3 * S,
            "publish": 1,
        },
    ),
}


@pytest.mark.parametrize("change", ROW_CHANGES)
def test_changes_of_settings(change, workspace, edit_row):
    changes, expected = ROW_CHANGES[change]
    before = planned()
    edit_row(changes)
    assert new(before, planned()) == expected


@pytest.mark.parametrize("change", ["a backbone's learning rate", pytest.param("a student removed", marks=NIGHTLY)])
def test_changes_of_settings_through_snakemake(change, edit_row, stale):
    changes, expected = ROW_CHANGES[change]
    edit_row(changes)
    assert stale() == expected


def test_order_and_comments_of_the_row_change_nothing(workspace):
    before = planned()
    path = Path("config/datasets/tiny.yaml")
    row = yaml.safe_load(path.read_text())
    backwards = yaml.safe_dump(dict(reversed(row.items())), sort_keys=False)
    path.write_text("# another remark\n" + backwards)
    assert planned() == before


CODE_CHANGES = {
    "comment": ("gvbsm/method/matching.py", "from gvbsm.method.moments", "# why\nfrom gvbsm.method.moments", {}),
    "docstring": ("gvbsm/stages/squeeze.py", "train one teacher", "train a single teacher", {}),
    "the loss of recover": ("gvbsm/method/densification.py", "POOLED = 32", "POOLED = 16", {"recover": R} | FROM_IMAGES),
    "the moments": (
        "gvbsm/method/moments.py",
        "total_of_squares / count - mean",
        "total_of_squares / (count - 1) - mean",
        {"statistics": B, "recover": R} | FROM_IMAGES,
    ),
    "the student's loss": (
        "gvbsm/method/losses.py",
        "beta: float = 2.0",
        "beta: float = 3.0",
        {"evaluate": 3 * S, "publish": 1},
    ),
    "one teacher's network": (
        "gvbsm/backbones/resnet.py",
        "channels: int = 3",
        "channels: int = 1",
        {"check": 1, "squeeze": 1, "statistics": 1, "recover": R} | FROM_TEACHERS,
    ),
    "another network": ("gvbsm/backbones/shufflenet_v2.py", "width: float = 0.5", "width: float = 1.0", {}),
    "a new network": ("gvbsm/backbones/__init__.py", "BACKBONES = {", 'BACKBONES = {"new": "gvbsm.backbones.wrn:wrn16_2",', {}),
    "a new setting": (
        "gvbsm/config/sources.py",
        "    seed: Seed = Field(",
        "    x: int | None = None\n    seed: Seed = Field(",
        {},
    ),
    "the command line": ("gvbsm/cli/__init__.py", "return 2", "return 3", {}),
}


def edit_code(change: str) -> dict[str, int]:
    """Change the package in the working folder. Returns what is stale then."""
    file, before, after, expected = CODE_CHANGES[change]
    text = Path(file).read_text()
    assert before in text
    Path(file).write_text(text.replace(before, after, 1))
    return expected


def planned_by_clone() -> Planned:
    """What the package in the working folder plans, in a process that has imported no other."""
    program = (
        "import json; from gvbsm.pipeline.graph import plan; from gvbsm.store.code import PACKAGE; "
        "print(json.dumps([str(PACKAGE), [(a.stage, a.path) for a in plan('tiny', 4)]]))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    package, artifacts = json.loads(done.stdout)
    assert Path(package) == Path("gvbsm").resolve()
    return {(stage, path) for stage, path in artifacts}


# Fingerprints after an edit are also in test_keys.py, in one process.
IN_PLAIN_RUN = ("comment", "one teacher's network", "a new network", "a new setting")


@pytest.mark.parametrize(
    "change", [name if name in IN_PLAIN_RUN else pytest.param(name, marks=NIGHTLY) for name in CODE_CHANGES]
)
def test_changes_of_code(change, workspace):
    shutil.copytree(PACKAGE, "gvbsm", ignore=shutil.ignore_patterns("__pycache__"))
    before = planned()  # by the package that the clone is a copy of
    expected = edit_code(change)
    assert new(before, planned_by_clone()) == expected


@pytest.mark.parametrize("change", ["the loss of recover", pytest.param("a new setting", marks=NIGHTLY)])
def test_changes_of_code_through_snakemake(change, stale):
    expected = edit_code(change)
    assert stale() == expected


def test_more_images_per_class_make_only_the_new_shards(workspace):
    before = planned()
    after = {(artifact.stage, artifact.path) for artifact in plan("tiny", 8)}
    assert new(before, after) == {"check": 1, "recover": 2, "relabel": 2 * L, "evaluate": 3 * S, "publish": 1}


@NIGHTLY
def test_a_change_and_its_revert(edit_row, stale, run_snakemake, capsys):
    """After a change is run and reverted, publish alone is stale, also when Snakemake's memory is lost; explain agrees."""
    path = Path("config/datasets/tiny.yaml")
    before = path.read_text()
    changes, _ = ROW_CHANGES["one student's learning rate"]
    edit_row(changes)
    target = ["explain", "results/tiny/ipc4/acc.json"]
    assert cli.main(target) == 0
    output = capsys.readouterr().out
    assert output.count("because setting lr changed from 0.003 to 0.01") == 3
    assert "input evaluate/digits-wrn16_2-random_soft changed" in output
    assert output.endswith("4 stale, damaged or missing\n")
    done = run_snakemake("--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stale() == {}
    key = json.loads(Path(target[1]).read_text())["key"]
    path.write_text(before)
    assert stale() == {"publish": 1}
    assert stale() == {"publish": 1}, "planning twice hides it"
    shutil.rmtree(".snakemake")
    assert stale() == {"publish": 1}
    assert cli.main(target) == 0
    output = capsys.readouterr().out
    assert output.count("stale    ") == 1 and output.endswith(" 1 stale, damaged or missing\n")
    done = run_snakemake("--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(Path(target[1]).read_text())["key"] != key
    assert stale() == {}


@NIGHTLY
def test_lost_metadata_and_lost_plans(edit_row, stale):
    shutil.rmtree(".snakemake")
    assert stale() == {}
    shutil.rmtree("results/.plan")
    assert stale() == {}
    edit_row({"recover": {"iterations": 7}})
    assert stale() == {"recover": R} | FROM_IMAGES


def test_a_deleted_artifact_is_made_again_only_if_something_needs_it(published_run, stale):
    """With what follows it: Snakemake runs whatever reads the output of a job that runs."""
    labels = next(artifact for artifact in published_run if artifact.stage == "relabel")
    (Path("results/store") / labels.path).unlink()
    assert stale() == {}
    Path("results/tiny/ipc4/acc.json").unlink()
    assert stale() == {"relabel": 1, "evaluate": S, "publish": 1}


@NIGHTLY
def test_a_missing_receipt_of_what_publish_does_not_read_is_noticed(published_run, edit_row, stale):
    """Else statistics would refuse the twin, and only the user could mend it."""
    edit_row({"statistics": {"measured_in": "twin"}})
    known = {artifact.path for artifact in published_run}
    twins = [artifact for artifact in plan("tiny", 4) if artifact.stage == "squeeze" and artifact.path not in known]
    assert twins
    for twin in twins:
        (Path("results/store") / twin.path).touch()
    assert stale()["squeeze"] == len(twins)


@NIGHTLY
def test_a_missing_receipt_is_noticed(published_run, stale):
    """Publish asks for all receipts. What was made from the artifact is not made again."""
    labels = next(artifact for artifact in published_run if artifact.stage == "relabel")
    (Path("results/store") / labels.path).with_suffix(".json").unlink()
    Path("results/tiny/ipc4/acc.json").unlink()
    assert stale() == {"relabel": 1, "publish": 1}
