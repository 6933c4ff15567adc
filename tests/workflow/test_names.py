"""Names that others choose, of files, folders, classes and labels: none leaves the results folder or is executed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gvbsm import cli
from gvbsm.config.messages import SettingsError
from gvbsm.config.project import load_config
from gvbsm.data.image_set import ImageSet
from gvbsm.errors import UserError
from gvbsm.pictures.figures import save
from gvbsm.pictures.grid import draw_grid
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import write_plans
from gvbsm.store.code import PACKAGE
from gvbsm.store.files import load_tensors
from gvbsm.store.plans import STORE, plan_file

# Each would touch the file `pwned`, leave its folder, or begin another line.
NAMES = [
    "a b'$(touch pwned)",
    'a"; touch pwned; "',
    "`touch pwned`",
    "a\ntouch pwned\n",
    "'; touch pwned #",
    "a && touch pwned",
    "{checked.__globals__}",
    "..",
    ".hidden",
    "-rf",
    "~",
    "a\\b",
    "*",
    "a\x1b[31m",
]


def one_line(capsys, *arguments: str) -> str:
    """What a command that fails says on stderr."""
    assert cli.main(list(arguments)) == 2
    line = capsys.readouterr().err
    assert line.startswith("gvbsm: ") and line.count("\n") == 1 and line[:-1].isprintable(), line
    return line


def snakemake(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Snakemake with the project's workflow in the working folder."""
    command = [sys.executable, "-m", "snakemake", "-s", str(PACKAGE.parent / "workflow" / "Snakefile"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "GVBSM_DEVICE": "cpu"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_file_of_an_odd_name_is_refused(name, workspace, capsys):
    shutil.copy("config/datasets/tiny.yaml", f"config/datasets/{name}.yaml")
    line = one_line(capsys, "explain", f"results/{name}/ipc4/acc.json")
    assert "expected letters, digits, '_', '.' and '-'" in line or "expected results/<dataset>/ipc<N>" in line
    with pytest.raises(SettingsError, match=r"data set .*: expected letters, digits"):
        plan(name, 4)
    assert sorted(path.name for path in Path().iterdir()) == ["config"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_or_a_row_to_extend_of_an_odd_name_is_refused(name, workspace, edit_row, capsys):
    shutil.copy("config/recipes/sre2l.yaml", f"config/recipes/{name}.yaml")
    assert "expected ipc<N> or ipc<N>-<recipe>" in one_line(capsys, "explain", f"results/tiny/ipc4-{name}/acc.json")
    with pytest.raises(SettingsError, match=r"recipe .*: expected letters, digits"):
        plan("tiny", 4, name)
    edit_row({"extends": name})
    line = one_line(capsys, "explain", "results/tiny/ipc4/acc.json")
    assert re.search(r"tiny\.yaml: extends: data set .*: expected letters, digits", line)


@pytest.mark.parametrize("name", [*NAMES, "a/b", "a-b", "", "a" * 61])
def test_a_label_of_odd_letters_is_refused(name, workspace, edit_row, capsys):
    network = {"name": "convnet", "label": name}
    edit_row({"backbones": [network]})
    assert "backbones[0].label: expected" in one_line(capsys, "explain", "results/tiny/ipc4/acc.json")
    edit_row({"backbones": ["convnet"], "evaluate": {"students": [network]}})
    assert "evaluate.students[0].label: expected" in one_line(capsys, "explain", "results/tiny/ipc4/acc.json")


@pytest.mark.parametrize(
    "target", ["results/../x/ipc10/acc.json", "../results/tiny/ipc4/acc.json", "results/{x}/ipc4/acc.json"]
)
def test_targets_outside_the_results_folder_are_refused(target, workspace, capsys):
    one_line(capsys, "explain", target)
    with pytest.raises(SettingsError, match=r"targets\[0\]: .* expected"):
        load_config({"targets": [target], "data_root": "data"})


@pytest.mark.parametrize("name", [*NAMES, "/", "/a/b/..", "é", "a" * 100])
def test_folders_of_any_name_make_artifacts_of_harmless_ones(name, workspace, edit_row):
    edit_row({"source": {"kind": "imagefolder", "path": name}})
    planned = plan("tiny", 4)
    for artifact in planned:
        assert re.fullmatch(rf"{artifact.stage}/[A-Za-z0-9_.-]+-{artifact.key}\.(safetensors|csv|json)", artifact.path)
    assert planned[0].spec.source.path == name
    write_plans(planned, Path("results/tiny/ipc4/acc.json"))
    assert {path.parts[:2] for path in Path().rglob("*.json") if path.parts[0] != "config"} == {("results", ".plan")}


def test_a_name_with_nul_is_refused(workspace, edit_row, capsys):
    edit_row({"source": {"kind": "imagefolder", "path": "a\0b"}})
    assert "source.path: expected a path without NUL, got" in one_line(capsys, "explain", "results/tiny/ipc4/acc.json")
    with pytest.raises(SettingsError, match="data_root: expected a path without NUL"):
        load_config({"targets": ["results/tiny/ipc4/acc.json"], "data_root": "a\0b"})


CLASSES = ["a b", "it's", '"q"', "$(touch pwned)", "$\\frac$", "new\nline", "-rf", "{x}", "back\\slash", "{{", "`x`", "é日本"]


def image_folder(root: Path, classes: list[str]) -> None:
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for index in range(2):
                pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"$(touch pwned) {index}'\n.png")


@pytest.mark.parametrize("storage", ["packed", "files"])
def test_images_and_classes_of_any_name(storage, workspace, edit_row, make_artifact):
    folder = "my 'im\nages' $(touch pwned)"
    image_folder(Path("data") / folder, CLASSES)
    own = {"source": {"kind": "imagefolder", "path": folder}, "classes": len(CLASSES), "storage": storage}
    edit_row(own | {"mean": [0.5] * 3, "std": [0.5] * 3, "backbones": [{"name": "convnet", "options": {"width": 2}}]})
    data, teacher = plan("tiny", 2)[:2]
    tensors, metadata = load_tensors(make_artifact(data))
    assert metadata["classes"] == metadata["class_names"] == sorted(CLASSES)
    assert len(tensors["train_labels"]) == 2 * len(CLASSES)
    assert make_artifact(teacher).exists(), "the images are found again"
    assert not list(Path().rglob("pwned"))


def test_class_names_are_drawn_as_they_are():
    """Between dollar signs matplotlib would see formulas, and fail on most."""
    images = torch.zeros(len(CLASSES), 3, 8, 8, dtype=torch.uint8)
    image_set = ImageSet([images], torch.arange(len(CLASSES)), torch.arange(len(CLASSES)))
    figure = draw_grid(image_set, image_set, ["$x$", "$\\frac$", *CLASSES[2:]], "$\\x$")
    assert save(figure, "png").startswith(b"\x89PNG") and save(figure, "pdf").startswith(b"%PDF")


def test_a_class_that_is_no_text_is_refused(workspace, capsys):
    for split in (b"train", b"test"):
        for name in (b"caf\xe9", b"tea"):
            os.makedirs(b"data/mine/" + split + b"/" + name)  # noqa: PTH103 (a path of bytes)
            Image.new("RGB", (8, 8)).save(os.fsdecode(b"data/mine/" + split + b"/" + name + b"/x.png"))
    form = {"classes": 2, "image_size": 8, "channels": 3, "resize": 8, "storage": "packed"}
    spec = {"stage": "prepare", "source": {"kind": "imagefolder", "path": "mine"}, **form}
    line = one_line(capsys, "prepare", "--spec", json.dumps(spec), "--out", "results/x.safetensors")
    assert r"expected class names in UTF-8, got 'caf\udce9'; rename the folder" in line


def test_an_error_is_one_line_whatever_the_name_in_it():
    error = UserError("data/a\nb\x1b[2J\u2028\udce9: expected é日本 {x}, got 'a b'")
    assert str(error) == r"data/a\nb\x1b[2J\u2028\udce9: expected é日本 {x}, got 'a b'"


def test_the_command_that_rebuilds_an_artifact_is_quoted(tmp_path, capsys):
    out = tmp_path / "a b'$(touch pwned)" / "x.safetensors"
    spec = {"stage": "statistics", "inputs": {"data": "d.safetensors", "teacher": "t.safetensors"}}
    spec |= {"pixels": {"image_size": 8, "mean": [0.5], "std": [0.5]}, "augment": {"flip": False}}
    settings = {"patch_size": 4, "batch_size": 4, "variance": "pooled", "seed": 0, "threads": 1, "precision": "float32"}
    folder = ["--store", str(out.parent), "--checkpoints", str(tmp_path / "c"), "--device", "cpu"]
    line = one_line(capsys, "statistics", "--spec", json.dumps(spec | {"settings": settings}), "--out", str(out), *folder)
    command = line.partition("rebuild it with: ")[2].replace("snakemake", "echo").replace("rm -f", "echo")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "$(touch pwned)" in done.stdout and not (tmp_path / "pwned").exists()


@pytest.mark.nightly("snakemake")
def test_a_data_root_of_any_name_runs_and_nothing_in_it_does(workspace, edit_row):
    """Through Snakemake and its shell: quotes, a command, a line break, and braces, which Snakemake evaluates."""
    root = "da ta'\"$(touch pwned)`touch pwned`\n{config} {{x}}; touch pwned #"
    image_folder(Path(root) / "mine", ["cat", "dog"])
    edit_row({"source": {"kind": "imagefolder", "path": "mine"}, "classes": 2, "mean": [0.5] * 3, "std": [0.5] * 3})
    Path("config/config.yaml").write_text(json.dumps({"targets": ["results/tiny/ipc2/acc.json"], "data_root": root}))
    planned = plan("tiny", 2)
    write_plans(planned, Path("results/tiny/ipc2/acc.json"))
    done = snakemake("--cores", "1", str(STORE / planned[0].path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_tensors(STORE / planned[0].path)[1]["classes"] == ["cat", "dog"]
    assert not list(Path().rglob("pwned"))


@pytest.mark.nightly("snakemake")
def test_a_target_of_an_odd_name_runs_nothing(workspace):
    """The file of the data set is there, and Snakemake itself is asked."""
    name = "a b'$(touch pwned)"
    shutil.copy("config/datasets/tiny.yaml", f"config/datasets/{name}.yaml")
    done = snakemake("-n", f"results/{name}/ipc10/acc.json")
    text = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in text
    assert [line for line in text.splitlines() if line.startswith("gvbsm: ")] == [
        f"gvbsm: data set {name!r}: expected letters, digits, '_', '.' and '-', a letter or digit first; correct the name"
    ]
    assert not list(Path().rglob("pwned")) and not plan_file("x").parent.exists()


@pytest.mark.nightly("snakemake")
@pytest.mark.parametrize("name", ["it's (a) $HOME & more; ü %s"])
def test_a_clone_in_a_folder_of_any_name_runs(name, tmp_path):
    """From the clone, as `published_clone` does in every run of the tests, and from another folder, where its path is named."""
    clone, other = tmp_path / name / "clone", tmp_path / "other"
    other.mkdir()
    for part in ("gvbsm", "workflow", "config"):
        shutil.copytree(PACKAGE.parent / part, clone / part, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(clone), str(PACKAGE.parent)]), "GVBSM_DEVICE": "cpu"}
    command = [sys.executable, "-m", "snakemake"]
    from_other = ["-s", f"{clone}/workflow/Snakefile", "--workflow-profile", f"{clone}/workflow/profiles/default", "-n"]
    for folder, more in ((clone, ["--cores", "1", "--until", "prepare"]), (other, from_other)):
        asked = [*command, *more, "--", "results/digits/ipc1/acc.json"]
        done = subprocess.run(asked, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(clone.glob("results/store/prepare/*.safetensors"))) == 1


@pytest.mark.nightly("snakemake")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("with a blank", "gvbsm.sif: expected a path without blanks for --sdm apptainer"),
        ("{a}", "expected a path without braces"),
    ],
)
def test_a_clone_where_snakemake_cannot_use_it_is_refused(name, message, tmp_path):
    clone = tmp_path / name / "clone"
    shutil.copytree(PACKAGE.parent / "workflow", clone / "workflow")
    shutil.copytree(PACKAGE, clone / "gvbsm", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "snakemake", "-s", f"{clone}/workflow/Snakefile", "--sdm", "apptainer", "-n"]
    environment = os.environ | {"PYTHONPATH": str(clone)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr, done.stderr
