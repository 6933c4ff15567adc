"""Exported runs: read back by three libraries and by gvbsm.load, whole or not there at all, whatever classes are called."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.datasets import ImageFolder

import gvbsm
from gvbsm import cli
from gvbsm.backbones.build import build
from gvbsm.config.students import Training
from gvbsm.errors import UserError
from gvbsm.method.losses import REST, hard_loss, soft_loss
from gvbsm.share import export
from gvbsm.share.card import training_program
from gvbsm.share.folder import list_classes, unique_names
from gvbsm.share.forms import FORMS
from gvbsm.share.licences import source_of
from gvbsm.share.markdown import environment
from gvbsm.stages import publish
from gvbsm.store.files import file_hash
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE
from gvbsm.training.fit import Recipe, learning_rate, make_optimizer
from tests.tiny import ONE_STUDENT

RUN, OUT = Path("results/tiny/ipc4"), Path("shared/tiny")
# Ten, as tiny has. Two are the same, and so are two folders on a disk that takes upper for lower case.
ODD_NAMES = [
    "a/b",
    "..",
    ".hidden",
    "crane",
    "crane",
    "CRANE",
    "鶴 \u202e\u0301é",
    "<b>|`x`*\n---\n[y](z)",
    "",
    'yes: "no" # {1}',
]


@pytest.fixture
def exported(published_run) -> Callable[..., Path]:
    """A folder that the command has written."""

    def run(form: str, *arguments: str, out: Path = OUT) -> Path:
        assert cli.main(["export", str(RUN), "--to", form, "--out", str(out), *arguments]) == 0
        return out

    return run


@pytest.fixture
def odd_names(monkeypatch):
    """The classes of every run that is exported are called as none should be."""
    read = export.read_run
    monkeypatch.setattr(export, "read_run", lambda path: replace(read(path), class_names=ODD_NAMES))


def failed(capsys, *arguments: str) -> str:
    """What the command says of a mistake, in one line."""
    capsys.readouterr()
    assert cli.main(["export", *arguments]) == 2
    *progress, message = capsys.readouterr().err.splitlines()
    assert message.startswith("gvbsm: ") and all(line.startswith("export: ") for line in progress)
    return message


def as_arrays(images: torch.Tensor) -> list[np.ndarray]:
    return list(images[:, 0].numpy())


@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_back_is_what_the_run_has(form, exported):
    folder = exported(form)
    moved = folder.rename("elsewhere")  # nothing in it says where it was
    run, copy = gvbsm.load(RUN), gvbsm.load(moved)
    assert torch.equal(copy.images, run.images) and torch.equal(copy.labels, run.labels) and len(copy) == len(run) == 160
    assert copy.classes == run.classes and copy.class_names == run.class_names and copy.epochs == run.epochs == 4
    for got, expected in zip(copy.__getitems__(range(160)), run.__getitems__(range(160)), strict=True):
        assert all(torch.equal(value, reference) for value, reference in zip(got, expected, strict=True))
    assert not list(Path("shared").iterdir())  # and nothing else was left where it was written


def test_by_torchvision(exported, odd_names):
    folder = exported("imagefolder")
    images, run = ImageFolder(folder / "train"), gvbsm.load(RUN)
    assert images.targets == run.labels.tolist()
    for (image, _), expected in zip(images, as_arrays(run.images), strict=True):
        assert np.array_equal(np.asarray(image)[:, :, 0], expected)
    listed = json.loads((folder / "classes.json").read_text())
    assert [entry["name"] for entry in listed] == ODD_NAMES == gvbsm.load(folder).class_names
    assert [entry["folder"] for entry in listed] == images.classes and [entry["label"] for entry in listed] == list(range(10))
    assert [entry["identity"] for entry in listed] == run.classes


def test_by_webdataset(exported, monkeypatch):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    monkeypatch.setattr(export, "SHARD", 15)
    folder, run = exported("webdataset"), gvbsm.load(RUN)
    files = sorted(map(str, folder.glob("train-*.tar")))
    assert [Path(file).name for file in files] == [f"train-00000{number}.tar" for number in range(3)]
    read = list(webdataset.WebDataset(files, shardshuffle=False).decode("pil").to_tuple("png", "cls"))
    assert [label for _, label in read] == run.labels.tolist()
    for (image, _), expected in zip(read, as_arrays(run.images), strict=True):
        assert np.array_equal(np.asarray(image.convert("L")), expected)
    assert torch.equal(gvbsm.load(folder).images, run.images)


BY_DATASETS = """
import json, sys
import numpy as np
from datasets import ClassLabel, load_dataset
train = load_dataset(sys.argv[1])["train"]
label = train.features["label"]
assert isinstance(label, ClassLabel)
images = [np.asarray(image).tolist() for image in train["image"]]
print(json.dumps({"names": label.names, "labels": list(train["label"]), "images": images}))
"""


def test_by_datasets(exported, odd_names, tmp_path):
    pytest.importorskip("datasets", reason="datasets is not installed")
    folder, run = exported("huggingface"), gvbsm.load(RUN)
    # Its own process: the library reads these when it is imported.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", BY_DATASETS, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["labels"] == run.labels.tolist() and np.array_equal(read["images"], run.images[:, 0].numpy())
    assert read["names"] == unique_names(list_classes(run.classes, ODD_NAMES))
    assert ImageFolder(folder / "train").targets == read["labels"]


def test_names_of_classes_make_safe_folders_in_the_order_of_labels():
    listed = list_classes([f"n{number}" for number in range(10)], ODD_NAMES)
    folders = [entry.folder for entry in listed]
    assert folders == sorted(folders) and len({folder.lower() for folder in folders}) == 10
    assert all(re.fullmatch(r"[0-9]{4}(_[A-Za-z0-9_]+)?", folder) for folder in folders)
    assert folders[0] == "0000_a_b" and folders[1] == "0001" and folders[6] == "0006_e"
    many = [entry.folder for entry in list_classes([""] * 10001, ["x" * 300] * 10001)]
    assert many == sorted(many) and max(map(len, many)) < 60
    names = unique_names(listed)
    assert names[3] == "crane (n3)" and names[4] == "crane (n4)" and names[5] == "CRANE"
    same = unique_names(list_classes(["", ""], ["x", "x"]))
    assert same == ["0: x ()", "1: x ()"]


def test_the_card_says_what_it_is_and_no_name_breaks_it(exported, odd_names):
    card = (exported("huggingface") / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert front.isascii()
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-4.0" and front["size_categories"] == ["n<1K"]
    names = front["configs"][0]["features"][1]["dtype"]["class_label"]["names"]
    assert len(names) == 10 and names["0"] == "a/b" and names["9"] == ODD_NAMES[9]
    assert "<b>" not in body and "\u202e" not in body and "[y]" not in body and "\n---\n" not in body
    assert "&#60;b&#62;&#124;&#96;x&#96;&#42; --- &#91;y&#93;(z)" in body
    acc = json.loads((RUN / "acc.json").read_text())
    for kind in (acc["students"], *acc["baselines"].values()):
        top1 = kind["convnet"]["top1"]
        assert f"{top1['mean']:.2f} ± {top1['std']:.2f}" in body
    assert f"{acc['soft_labels']['bytes']:,} bytes" in body and "on 4 epochs of views" in body and "Alpaydin" in body
    assert "Shao, Shitong" in body and "lr 0.003" in body


@pytest.mark.parametrize(
    ("kind", "licence", "identifier", "words"),
    [
        ("cifar10", None, "unknown", "not stated"),
        ("imagenet", None, "other", "non-commercial research"),
        ("tiny_imagenet", None, "other", "non-commercial research"),
        ("imagefolder", None, "unknown", "not stated"),
        ("imagefolder", "CC BY 4.0", "cc-by-4.0", "CC BY 4.0"),
        ("imagefolder", "ask me first", "other", "ask me first"),
    ],
)
def test_terms_of_the_sources(kind, licence, identifier, words):
    source = source_of(kind, licence)
    assert source.identifier == identifier and words in source.licence


def test_terms_that_are_given_are_in_the_card(exported):
    card = (exported("imagefolder", "--licence", "my <terms>") / "README.md").read_text()
    assert "license: other\n" in card and "my &#60;terms&#62;" in card


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_card_steps_as_evaluate_does(name, decay):
    momentum = 0.9 if name == "sgd" else None
    settings = {"optimizer": name, "lr": 0.5, "weight_decay": decay, "momentum": momentum, "schedule": "constant", "epochs": 2}
    settings |= {"loss": "mse", "hard_weight": 0.1, "accumulate": 1, "hard_label": "mixed", "test_every": 1}
    settings |= {"threads": 1, "precision": "float32"}
    network = {"name": "convnet", "classes": 10, "image_size": 8, "channels": 1, "options": {"width": 4}}
    program = training_program({"network": network, "settings": settings})
    code = environment().get_template("training.py.j2").render(program=program)
    student = build("convnet", classes=10, image_size=8, channels=1, width=4)
    text = code.partition("optimizer = ")[2].partition("\nschedule = ")[0]
    written = eval(text, {"torch": torch, "student": student})
    expected = make_optimizer(student, Recipe.from_settings(Training.model_validate(settings), 0))
    assert type(written) is type(expected)

    def steps(optimizer):
        groups = [{part: group.get(part) for part in ("lr", "weight_decay", "momentum")} for group in optimizer.param_groups]
        return {
            id(weight): options
            for options, group in zip(groups, optimizer.param_groups, strict=True)
            for weight in group["params"]
        }

    assert steps(written) == steps(expected) and len(steps(written)) == len(list(student.parameters()))


TRAINED = {"optimizer": "sgd", "lr": 0.5, "weight_decay": 0.0, "momentum": 0.0, "epochs": 20, "hard_weight": 0.1}
TRAINED |= {"accumulate": 1, "hard_label": "mixed", "test_every": 1, "threads": 1, "precision": "float32"}


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "gift", "schedule": "step", "milestones": [0.5, 0.75], "gamma": 0.1},
        {"loss": "mse", "schedule": "cosine", "stretch": 2.0},
        {"loss": "kl", "temperature": 4.0, "schedule": "constant"},
        {"loss": "dist", "schedule": "cosine"},
    ],
    ids=lambda settings: settings["loss"],
)
def test_the_program_of_the_card_has_the_step_sizes_and_the_loss_of_evaluate(settings):
    settings = TRAINED | settings
    network = {"name": "convnet", "classes": 10, "image_size": 8, "channels": 1, "options": {"width": 4}}
    program = training_program({"network": network, "settings": settings})
    code = environment().get_template("training.py.j2").render(program=program)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    written = code.partition("\nschedule = ")[2].partition("\nfor epoch")[0]
    schedule = eval(written, {"torch": torch, "optimizer": optimizer})
    recipe = Recipe.from_settings(Training.model_validate(settings), 0)
    for epoch in range(settings["epochs"]):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(learning_rate(recipe, epoch)), epoch
        optimizer.step()
        schedule.step()
    z, t, y = torch.randn(3, 5, 10, generator=torch.Generator().manual_seed(0)).unbind()
    names = {"soft_loss": soft_loss, "hard_loss": hard_loss, "logits": z, "soft_label": t, "hard_label": y.softmax(1)}
    loss = eval(code.partition(" loss = ")[2].partition("\n")[0], names)
    expected = soft_loss(z, t, settings["loss"], settings.get("temperature"), y.softmax(1)) + 0.1 * hard_loss(z, y.softmax(1))
    torch.testing.assert_close(loss, expected)
    assert ('rest="mass"' in code) == (REST[settings["loss"]] == "mass")


@pytest.mark.nightly("pages")
@pytest.mark.parametrize("form", FORMS)
def test_the_programs_of_the_card_run(form, exported, tmp_path):
    """The last trains with the epochs, the loss and the network of the first student."""
    library = {"webdataset": "webdataset", "huggingface": "datasets"}.get(form, "torchvision")
    pytest.importorskip(library, reason=f"{library} is not installed")
    folder = exported(form)
    reading, training = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    program = f"{reading}\nassert label == 0"
    if form == "imagefolder":  # it is the same for all
        program += f"\n{training}\nassert torch.isfinite(loss) and epoch == 3"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", program.replace("DIR", str(folder))], check=True, env=environment)


@pytest.mark.parametrize("form", FORMS)
def test_equal_runs_make_equal_folders(form, exported):
    folders = [exported(form), exported(form, out=Path("shared/again"))]
    first, second = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()} for folder in folders
    )
    assert first == second


def test_a_killed_export_is_not_taken_for_a_whole_one(exported, tmp_path):
    program = (
        "import os, signal; from gvbsm import cli; from gvbsm.share import export; "
        "export.card = lambda *parts: os.kill(os.getpid(), signal.SIGKILL); "
        f"cli.main(['export', '{RUN}', '--to', 'imagefolder', '--out', '{OUT}'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not OUT.exists() and all(left.name.startswith(".tiny.") for left in OUT.parent.iterdir())
    assert len(gvbsm.load(exported("imagefolder"))) == 160


def test_a_failed_export_leaves_nothing(exported, monkeypatch, capsys):
    def full(*parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "card", full)
    message = failed(capsys, str(RUN), "--to", "webdataset", "--out", str(OUT))
    assert "shared/tiny: cannot be written: No space left on device" in message
    assert not list(OUT.parent.iterdir())


def test_mistakes(published_run, capsys):
    OUT.mkdir(parents=True)
    arguments = ("--to", "imagefolder", "--out", str(OUT))
    (OUT / "mine").touch()
    assert "shared/tiny: expected no such folder, or an empty one" in failed(capsys, str(RUN), *arguments)
    (OUT / "mine").unlink()
    assert "results/none/acc.json: cannot be read" in failed(capsys, "results/none", *arguments)
    assert "--to: invalid choice" in failed(capsys, str(RUN), "--to", "zip", "--out", str(OUT))
    Path("file").touch()
    assert "file: expected no such folder" in failed(capsys, str(RUN), "--to", "imagefolder", "--out", "file")
    assert "file/x: cannot be" in failed(capsys, str(RUN), "--to", "imagefolder", "--out", "file/x")
    assert cli.main(["export", str(RUN / "acc.json"), *arguments]) == 0  # into the empty folder


def test_damaged_and_changed_inputs_are_refused(published_run, capsys):
    arguments = (str(RUN), "--to", "imagefolder", "--out", str(OUT))
    spec = json.loads((RUN / "acc.json").read_text())
    (RUN / "acc.json").write_text(json.dumps(spec | {"key": "0" * 10}))
    assert "expected what publish writes, got something else" in failed(capsys, *arguments)
    images = spec["provenance"]["spec"]["inputs"]["images"][0]
    spec["provenance"]["artifacts"][images] = "0" * 64
    (RUN / "acc.json").write_text(json.dumps(spec))
    message = failed(capsys, *arguments)
    assert "as it was published, got one made anew since" in message
    assert re.search(r"publish again with: (cd \S+ && )?rm -f (\S+) && snakemake --cores all \2$", message.strip())
    file = STORE / images
    file.chmod(0o600)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert f"{images}: damaged" in failed(capsys, *arguments)
    assert not OUT.exists()


def test_without_stored_labels_images_alone_are_written(published_run, edit_row, make_up_to):
    edit_row({"relabel": {"online": True}} | ONE_STUDENT)
    planned = make_up_to("evaluate")
    publish.run(Job(spec=planned[-1].spec, out=RUN / "acc.json", store=STORE))
    assert cli.main(["export", str(RUN), "--to", "imagefolder", "--out", str(OUT)]) == 0
    card = (OUT / "README.md").read_text()
    assert "Soft labels: none" in card and "relabel.online" in card and "gvbsm.load" not in card
    assert not (OUT / "labels").exists() and len(ImageFolder(OUT / "train")) == 40
    for path in (RUN, OUT):
        with pytest.raises(UserError, match=r"expected stored soft labels, got none \(relabel.online\)"):
            gvbsm.load(path)
        assert len(gvbsm.load(path, split="images")) == 40


def altered_image(folder: Path) -> None:
    file = folder / "train" / "0003_3" / "00001.png"
    array = np.array(Image.open(file))
    array[0, 0] ^= 1
    Image.fromarray(array).save(file)


def of_another_size(folder: Path) -> None:
    Image.new("L", (9, 9)).save(folder / "train" / "0003_3" / "00001.png")


def swapped_classes(folder: Path) -> None:
    (folder / "train" / "0003_3").rename(folder / "train" / "x")
    (folder / "train" / "0004_4").rename(folder / "train" / "0003_3")
    (folder / "train" / "x").rename(folder / "train" / "0004_4")


def edited(name: str, change: Callable[..., object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


DAMAGE = {
    "damaged: its images are not those": altered_image,
    "expected an image of 1x8x8, got 1x9x9": of_another_size,
    "damaged: its images": swapped_classes,
    "expected 40 images, got 39": lambda folder: (folder / "train" / "0003_3" / "00001.png").unlink(),
    "expected 40 images, got more": lambda folder: Image.new("L", (8, 8)).save(folder / "train" / "0003_3" / "x.png"),
    "expected an image, got": lambda folder: (folder / "train" / "0003_3" / "00001.png").write_bytes(b"\x89PNG"),
    "damaged: its content is not what gvbsm.json says": lambda folder: (
        folder / "labels" / "labels-00000.safetensors"
    ).write_bytes(b"x"),
    "labels-00002.safetensors: cannot be read": lambda folder: (folder / "labels" / "labels-00002.safetensors").unlink(),
    "expected JSON, got something else": lambda folder: (folder / "gvbsm.json").write_text("{"),
    "gvbsm.json: labels[0].file: expected": edited(
        "gvbsm.json", lambda content: content["labels"][0].update(file="labels/../../x.safetensors")
    ),
    "gvbsm.json: format: expected": edited("gvbsm.json", lambda content: content.update(format=2)),
    "expected 1 values in mean and std, got 2 and 1": edited("gvbsm.json", lambda content: content.update(mean=[0.1, 0.2])),
    "classes.json: [0].folder: expected": edited("classes.json", lambda content: content[0].update(folder="..")),
    "expected labels from 0 on": edited("classes.json", lambda content: content.reverse()),
    "classes.json: cannot be read": lambda folder: (folder / "classes.json").unlink(),
    "expected class 0 to be 'other', got '0'": edited("classes.json", lambda content: content[0].update(identity="other")),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_folder_is_refused(message, exported):
    folder = exported("imagefolder")
    DAMAGE[message](folder)
    with pytest.raises(UserError) as refused:
        gvbsm.load(folder)
    assert message in str(refused.value)


def test_a_damaged_archive_is_refused(exported):
    folder = exported("webdataset")
    file = folder / "train-000000.tar"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"train-000000.tar: damaged archive|expected 40 images, got"):
        gvbsm.load(folder)
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"got an empty file|expected 40 images, got 0"):
        gvbsm.load(folder)


def test_an_export_has_no_test_images(exported):
    folder = exported("webdataset")
    with pytest.raises(UserError, match="expected a run, whose test images are known, got an exported folder"):
        gvbsm.load(folder, split="test")
    assert len(gvbsm.load(folder, split="images")) == 40


def test_a_file_without_labels_is_refused_although_its_hash_is_right(exported):
    folder = exported("imagefolder")
    file = folder / "labels" / "labels-00000.safetensors"
    for content in (b"no labels at all", file.read_bytes().replace(b"digests", b"digestz")):
        file.write_bytes(content)
        edited("gvbsm.json", lambda manifest: manifest["labels"][0].update(sha256=file_hash(file)))(folder)
        with pytest.raises(UserError, match=r"labels-00000.safetensors: expected soft labels, got"):
            gvbsm.load(folder)
