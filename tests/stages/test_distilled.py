"""Distilled sets by others: images and soft labels as SRe2L, G-VBSM and EDC publish them, seen as their loaders see them."""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as F

from gvbsm import cli
from gvbsm.commands.estimate import estimate
from gvbsm.commands.explain import explain
from gvbsm.data.distilled import list_images, pack
from gvbsm.data.image_set import load_image_set
from gvbsm.data.labels import load_labels
from gvbsm.errors import Interrupted, UserError
from gvbsm.method.views import mixed_hard_labels, render
from gvbsm.pipeline.adopt import check_adopted
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.specs import read_spec
from gvbsm.runtime import checkpoints
from gvbsm.store.code import PACKAGE
from gvbsm.store.files import load_tensors
from gvbsm.store.job import Job, Reader
from gvbsm.store.plans import STORE
from gvbsm.store.spec import Spec

SIZE, CLASSES, IPC, BATCH, EPOCHS = 8, 10, 4, 16, 4
IMAGES, LABELS = Path("data/theirs"), Path("data/fkd")
DISTILLED = {"images": "theirs", "labels": "fkd", "seed": 42}


class Epoch(NamedTuple):
    """What a published loader makes of an epoch."""

    views: Tensor  # 0..1, (V,1,S,S)
    soft: Tensor  # (V,K)
    own: Tensor  # label (V,) of the views' own images


def save_images(folder_name: str = "new{:03d}", shape: tuple[int, int] = (SIZE, SIZE)) -> None:
    draw = np.random.RandomState(0)
    for label in range(CLASSES):
        folder = IMAGES / folder_name.format(label, 1 + label // 2)
        folder.mkdir(parents=True)
        for number in range(IPC):
            grey = draw.randint(0, 256, (*shape, 1), np.uint8).repeat(3, 2)
            Image.fromarray(grey).save(folder / f"class{label:03d}_id{number:03d}.png")


def save_labels(mix: str | None, entries: int = 6, seed: int = 42) -> list[Epoch]:
    """Write what the published scripts write, numbers of numpy in it, and return what their loaders read."""
    torch.manual_seed(0)
    draw, images = np.random.RandomState(0), ImageFolder(str(IMAGES))
    numbers = [int(name.removeprefix("new")) for name in images.classes]
    batches = BatchSampler(RandomSampler(images, generator=torch.Generator().manual_seed(seed)), BATCH, drop_last=False)
    epochs = []
    for epoch in range(EPOCHS):
        folder, batch_parts = LABELS / f"epoch_{epoch}", []
        folder.mkdir(parents=True)
        for number, index in enumerate(batches):
            pictures = [images[i][0] for i in index]
            crops = [RandomResizedCrop.get_params(picture, [0.08, 1], [3 / 4, 4 / 3]) for picture in pictures]
            coordinates = torch.tensor(crops) / SIZE
            flipped, own = torch.rand(len(index)) < 0.5, torch.tensor([numbers[images.targets[i]] for i in index])
            logits = (torch.randn(len(index), CLASSES) + 6 * torch.eye(CLASSES)[own]).half()
            partner, share, box = None, None, None
            if mix:
                partner, share = torch.randperm(len(index)), np.float64(draw.beta(0.8, 0.8))
            if mix == "cutmix":
                half, centre = int(SIZE * np.sqrt(1 - share)) // 2, draw.randint(SIZE, size=2)
                box = [*np.clip(centre - half, 0, SIZE), *np.clip(centre + half, 0, SIZE)]
            saved = [coordinates, flipped, partner, share, box, logits]
            saved += [torch.tensor(index), torch.zeros(len(index), 2, 2, dtype=torch.int32)][: entries - 6]
            torch.save(saved, folder / f"batch_{number}.tar")
            views = torch.stack([loaded(*arguments) for arguments in zip(pictures, coordinates, flipped, strict=True)])
            if mix == "mixup":
                views = share * views + (1 - share) * views[partner]
            if mix == "cutmix":
                rows, columns = slice(box[0], box[2]), slice(box[1], box[3])
                views[:, :, rows, columns] = views[partner][:, :, rows, columns]
            batch_parts.append(Epoch(views, logits.float(), own))
        epochs.append(Epoch(*(torch.cat(parts) for parts in zip(*batch_parts, strict=True))))
    return epochs


def loaded(picture: Image.Image, coordinates: Tensor, is_flipped: Tensor) -> Tensor:
    px = [coordinate.item() * SIZE for coordinate in coordinates]
    view = F.resized_crop(picture, *px, [SIZE, SIZE], InterpolationMode.BILINEAR)
    return F.to_tensor(F.hflip(view) if is_flipped else view)[:1]


def change(place: int, value: Any, file: str = "epoch_1/batch_1.tar") -> None:
    """Save a file of labels with another entry."""
    saved = torch.load(LABELS / file, weights_only=False)
    saved[place] = value(saved[place]) if callable(value) else value
    torch.save(saved, LABELS / file)


@pytest.fixture
def reader():
    namespace: dict[str, Any] = {"__name__": "reader"}
    exec((PACKAGE.parent / "examples" / "read_soft_labels.py").read_text(), namespace)
    return namespace["SoftLabels"]


def assert_same(views: Tensor, expected: Tensor) -> None:
    """Pillow rounds to 8 bits after either direction of its resizing."""
    torch.testing.assert_close(views, expected, rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize(
    ("mix", "entries", "folder_name", "saved_seed", "coding"),
    [
        ("cutmix", 6, "new{:03d}", 42, "float16"),
        ("mixup", 7, "new{0:0{1}d}", 7, "float32"),  # sorted by name, the classes are in another order
        (None, 6, "new{0:0{1}d}", 42, "float16"),
        ("cutmix", 8, "{:05d}", 7, "float16"),
    ],
    ids=["SRe2L", "G-VBSM, mixup", "no mixing", "EDC"],
)
def test_views_are_those_of_the_published_loader(
    mix, entries, folder_name, saved_seed, coding, workspace, edit_row, make_artifact, reader
):
    """The row has seed 42; labels that name their images were saved with another, which does not matter."""
    save_images(folder_name)
    expected = save_labels(mix, entries, saved_seed)
    edit_row({"distilled": DISTILLED, "relabel": {"coding": {"values": coding}}})
    planned = plan("tiny", IPC)
    files = [make_artifact(artifact) for artifact in planned if artifact.stage in ("prepare", "adopt", "convert")]
    evaluate = next(artifact for artifact in planned if artifact.stage == "evaluate" and "distilled" in artifact.name)
    store = Reader(store=STORE)
    images = load_image_set(store, evaluate.spec.inputs.images)
    labels = load_labels(store, evaluate.spec.inputs.labels, images.shape[0], SIZE)
    pixels, at = images.resident(torch.device("cpu")), torch.arange(CLASSES * IPC)
    assert len(labels) == EPOCHS and labels.batch_size == BATCH
    theirs = reader(pixels, images.labels, files[2:])
    for number, epoch in enumerate(expected):
        ours = labels.epoch(number)
        views = render(pixels, ours.views, at)
        assert_same(views, epoch.views)
        assert torch.equal(ours.logits(at, CLASSES, "mean"), epoch.soft)
        assert torch.equal(mixed_hard_labels(images.labels, ours.views, at, CLASSES, mixed=False).argmax(1), epoch.own)
        read = [theirs[number * len(at) + i] for i in at.tolist()]
        torch.testing.assert_close(torch.stack([item[0] for item in read]), views, rtol=0, atol=1e-6)
        assert np.array_equal([item[1] for item in read], epoch.soft.numpy())
        hard = mixed_hard_labels(images.labels, ours.views, at, CLASSES, mixed=True)
        torch.testing.assert_close(torch.tensor(np.array([item[2] for item in read])), hard)


def test_an_interrupted_conversion_goes_on(workspace, edit_row, make_artifact):
    save_images()
    save_labels("cutmix")
    edit_row({"distilled": DISTILLED, "recover": {"iterations": 0}})  # nothing is recovered here
    first = {artifact.stage: artifact for artifact in reversed(plan("tiny", IPC))}
    _, _, file = (make_artifact(first[stage]) for stage in ("prepare", "adopt", "convert"))
    expected = file.read_bytes()
    file.unlink()
    checkpoints._received.append(15)
    with pytest.raises(Interrupted):
        make_artifact(first["convert"])
    checkpoints._received.clear()
    (LABELS / "epoch_0/batch_1.tar").unlink()  # is not read again
    assert make_artifact(first["convert"]).read_bytes() == expected


@pytest.mark.nightly("snakemake")
def test_under_snakemake(run_snakemake, stale, monkeypatch):
    save_images()
    save_labels("cutmix")
    Path("config/recipes/theirs.yaml").write_text(json.dumps({"distilled": DISTILLED}))
    target = f"results/tiny/ipc{IPC}-theirs/acc.json"
    assert stale(target) == {"adopt": 1, "convert": 2, "evaluate": 2, "publish": 1}
    done = run_snakemake("--cores", "2", target=target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stale(target) == {}
    image = next(IMAGES.glob("*/*.png"))
    shutil.copy(max(IMAGES.glob("*/*.png")), image)  # another try, in the same folder
    failed = run_snakemake("-n", target=target)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "gvbsm: data/theirs: changed since adopt read it: expected " in failed.stderr
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("GVBSM_DATA_ROOT", str(Path("data").resolve()))
        failed = run_snakemake("-n", "--config", "data_root=elsewhere", "--", target=target)
    assert failed.returncode == 1 and "theirs: changed since adopt read it: expected " in failed.stderr
    Path("config/recipes/theirs.yaml").write_text(json.dumps({"distilled": DISTILLED | {"version": 2}}))
    assert stale(target) == {"adopt": 1, "convert": 2, "evaluate": 2, "publish": 1}


def test_files_that_changed_since_they_were_taken_over(workspace, edit_row, make_artifact):
    save_images()
    save_labels("cutmix")
    edit_row({"distilled": DISTILLED, "recover": {"iterations": 0}})
    planned = plan("tiny", IPC)
    check_adopted(planned, Path("data"))
    for artifact in planned:
        if artifact.stage in ("prepare", "adopt", "convert"):
            make_artifact(artifact)
    image, batch = min(IMAGES.glob("*/*.png")), LABELS / "epoch_1/batch_1.tar"
    (IMAGES / "notes.txt").write_text("no image")
    (LABELS / ".hidden").write_text("")
    check_adopted(planned, Path("data"))
    for file, message in ((image, "data/theirs: changed since adopt"), (batch, "data/fkd: changed since convert")):
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(
            UserError, match=f"{message} read it: expected the same names and .*, got others; restore it, or set"
        ):
            check_adopted(planned, Path("data"))
        file.write_bytes(content)
        if file == batch:  # labels are too large to be read as a whole for this: one newer file is a change
            os.utime(file, ns=times)
        check_adopted(planned, Path("data"))
    for folder in (IMAGES, LABELS):
        shutil.copytree(folder, "copy", copy_function=shutil.copyfile)
        shutil.rmtree(folder)
        Path("copy").rename(folder)
    check_adopted(planned, Path("data"))
    batch.unlink()
    with pytest.raises(UserError, match=r"expected 12 files of \d+ bytes, got 11 files of \d+ bytes"):
        check_adopted(planned, Path("data"))
    edit_row({"distilled": {"version": 2}})
    check_adopted(plan("tiny", IPC), Path("data"))
    shutil.rmtree(LABELS)
    shutil.rmtree(IMAGES)
    check_adopted(planned, Path("data"))


@pytest.fixture
def small_row(edit_row):
    """tiny with one teacher, one student and no seed but one."""
    network = {"name": "convnet", "options": {"width": 4}}
    edit_row({"backbones": [network], "evaluate": {"students": [network], "seeds": [0], "epochs": 6}})


def test_a_run_with_images_and_labels_by_others(workspace, small_row, make_up_to, make_artifact):
    save_images()
    save_labels("cutmix")
    for recipe, distilled in (("labels", DISTILLED), ("images", {"images": "theirs"})):
        Path(f"config/recipes/{recipe}.yaml").write_text(json.dumps({"distilled": distilled}))
        target = f"results/tiny/ipc{IPC}-{recipe}/acc.json"
        estimated = estimate(target)
        planned = make_up_to("evaluate", recipe=recipe)
        accuracies = json.loads(make_artifact(planned[-1]).read_text())
        assert accuracies["images"] == CLASSES * IPC and list(accuracies["students"]) == ["convnet"]
        assert {"prepare", "check", "squeeze", "adopt", "relabel", "evaluate"} == accuracies["cost"].keys() - {"convert"}
        assert ("convert" in accuracies["cost"]) == (recipe == "labels")
        right = accuracies["soft_labels"]["teacher_top1_on_views"]
        assert 60 < right <= 100 if recipe == "labels" else right < 60
        assert "recover" not in estimated and "adopt " in estimated and "missing" not in explain(target).splitlines()[0]
        assert ("convert" in estimated) == (recipe == "labels")


def test_planning_reads_no_file_and_another_version_makes_all_anew(workspace, edit_row):
    edit_row({"distilled": DISTILLED, "statistics": {"measured_in": "twin"}})
    before = {artifact.path for artifact in plan("tiny", IPC)}
    assert all(
        read_spec(STAGES[artifact.stage], json.dumps(artifact.spec.json_object)) == artifact.spec
        for artifact in plan("tiny", IPC)
    )
    assert {path.split("/")[0] for path in before}.isdisjoint({"recover", "statistics"})
    assert sum(path.startswith("squeeze/") for path in before) == 3, "no twins: nothing is measured in them"
    edit_row({"distilled": {"version": 2}})
    new = {path.split("/")[0] for path in {artifact.path for artifact in plan("tiny", IPC)} - before}
    assert new == {"adopt", "check", "convert", "evaluate", "publish"}


def test_images_of_another_size(workspace, edit_row, make_artifact, capsys):
    save_images(shape=(2 * SIZE, 2 * SIZE))
    edit_row({"distilled": DISTILLED})
    first = {artifact.stage: artifact for artifact in reversed(plan("tiny", IPC))}
    make_artifact(first["prepare"])
    tensors, _ = load_tensors(make_artifact(first["adopt"]))
    assert tensors["images"].shape == (CLASSES * IPC, 1, SIZE, SIZE)
    assert "40 of 40 images are not 8 x 8 px" in capsys.readouterr().err
    with pytest.raises(UserError, match="expected labels of images of 8 px, got 40 that were resized"):
        make_artifact(first["convert"])


def import_fkd(seed: int = 42) -> int:
    return cli.main(["import-fkd", str(LABELS), "--images", str(IMAGES), "--out", "out", "--seed", str(seed)])


def test_labels_made_at_half_the_size_of_the_images(workspace, edit_row, make_artifact, capsys):
    """Every number in them is a possible one."""
    save_images()
    save_labels("cutmix")
    shutil.rmtree(IMAGES)
    save_images(shape=(2 * SIZE, 2 * SIZE))
    message = (
        "data/fkd/epoch_0: expected crops of images of 16 px, got crops of 8 px; use the images of 8 px that were labelled"
    )
    assert import_fkd() == 2 and message in capsys.readouterr().err
    assert not list(Path("out").glob("labels-*"))
    edit_row({"distilled": DISTILLED, "image_size": 2 * SIZE})
    first = {artifact.stage: artifact for artifact in reversed(plan("tiny", IPC))}
    make_artifact(first["prepare"])
    make_artifact(first["adopt"])
    with pytest.raises(UserError, match=message):
        make_artifact(first["convert"])


def test_views_that_differ_from_the_stored_ones_are_refused(workspace, reader):
    save_images()
    save_labels("cutmix")
    assert import_fkd() == 0
    tensors, metadata = load_tensors(Path("out/labels-00000.safetensors"))
    tensors["crop"] = tensors["crop"].clone()
    tensors["crop"][1, 7, 0] += 1
    job = Job(spec=Spec(stage="convert"), out=STORE / "convert/other.safetensors", store=STORE)
    job.write_tensors(tensors, metadata, {})
    labels = load_labels(job, ["convert/other.safetensors"], CLASSES * IPC, SIZE)
    assert len(labels.epoch(0).views) == CLASSES * IPC
    with pytest.raises(UserError, match="epoch 1: the views stored here are not those that were labelled; make it anew"):
        labels.epoch(1)
    with pytest.raises(UserError, match="expected labels of 41 images of 8 px, got 40 of 8 px"):
        load_labels(job, ["convert/other.safetensors"], 41, SIZE)
    images, _ = load_tensors(Path("out/images.safetensors"))
    read = reader(images["images"], images["labels"], [STORE / "convert/other.safetensors"])
    assert len(read[0]) == 3
    with pytest.raises(ValueError, match="epoch 1: other views"):
        read[CLASSES * IPC]


def test_import_by_hand(workspace, capsys, reader, monkeypatch):
    monkeypatch.setattr("gvbsm.share.import_fkd._EPOCHS", 3)
    save_images()
    expected = save_labels("cutmix")
    assert import_fkd() == 0
    (line,) = capsys.readouterr().out.splitlines()
    files = [Path("out/labels-00000.safetensors"), Path("out/labels-00003.safetensors")]
    size = sum(file.stat().st_size for file in files)
    assert "4 epochs of labels of 40 images of 8 px in 10 classes" in line and f"{size:,} bytes in 2 files, " in line
    assert sorted(Path("out").iterdir()) == [Path("out/images.safetensors"), *files]
    images, _ = load_tensors(Path("out/images.safetensors"))
    read = reader(images["images"], images["labels"], files)
    views, soft, _ = zip(*(read[i] for i in range(len(read))), strict=True)
    assert_same(torch.stack(views), torch.cat([epoch.views for epoch in expected]).expand(-1, 3, -1, -1))
    assert np.array_equal(soft, torch.cat([epoch.soft for epoch in expected]).numpy())
    assert import_fkd() == 2 and "expected a folder without labels" in capsys.readouterr().err


OTHER_NUMPY = re.compile(rb"numpy\.(_?)core(?=\.multiarray)")


def test_numbers_of_the_other_numpy(workspace):
    """The function that makes them was renamed with numpy 2."""
    save_images()
    save_labels("cutmix")
    assert import_fkd() == 0
    for file in LABELS.glob("*/*.tar"):
        with zipfile.ZipFile(file) as saved:
            members = {name: saved.read(name) for name in saved.namelist()}
        with zipfile.ZipFile(file, "w") as other:
            for name, content in members.items():
                if name.endswith("data.pkl"):
                    content, swapped = OTHER_NUMPY.subn(lambda match: b"numpy.core" if match[1] else b"numpy._core", content)
                    assert swapped
                other.writestr(name, content)
    shutil.move("out", "before")
    assert import_fkd() == 0
    assert Path("out/labels-00000.safetensors").read_bytes() == Path("before/labels-00000.safetensors").read_bytes()


class Evil:
    def __reduce__(self):
        return (Path.mkdir, (Path("executed"),))


def images_for(count: int) -> None:
    """Another number of images, by adding to or removing from the last class."""
    folder = sorted(IMAGES.iterdir())[-1]
    for number in range(IPC, IPC + count):
        shutil.copy(folder / "class009_id000.png", folder / f"class009_id{number:03d}.png")
    for number in range(IPC + count, IPC):
        (folder / f"class009_id{number:03d}.png").unlink()


def resize_last(size: int) -> None:
    Image.new("RGB", (size, size)).save(max(IMAGES.glob("*/*.png")))


MISTAKES = {
    "missing batch": (lambda: (LABELS / "epoch_1/batch_1.tar").unlink(), "epoch_1/batch_1.tar: expected a batch"),
    "missing epoch": (lambda: (LABELS / "epoch_1").rename(LABELS / "epoch_9"), "epoch_1: expected the labels of an epoch"),
    "sizes of images": (lambda: resize_last(9), "expected all images of 8 px, got 1 others"),
    "not square": (lambda: [shutil.rmtree(IMAGES), save_images(shape=(8, 9))], "expected a square image, got 9 x 8 px"),
    "no labels": (lambda: shutil.rmtree(LABELS), "epoch_0/batch_0.tar: expected a batch of soft labels, got nothing there"),
    "coordinates": (lambda: change(0, lambda c: c[:, :3]), "expected coordinates as torch.float32 (16, 4)"),
    "number of batches": (lambda: (LABELS / "epoch_1/batch_2.tar").unlink(), "epoch_1/batch_2.tar: expected a batch"),
    "size of a batch": (
        lambda: shutil.copy(LABELS / "epoch_1/batch_2.tar", LABELS / "epoch_1/batch_1.tar"),
        "epoch_1/batch_1.tar: expected 16 views (40 images in batches of 16), got 8",
    ),
    "too few images": (lambda: images_for(-1), "expected 7 views (39 images in batches of 16), got 8"),
    "too many images": (lambda: images_for(9), "epoch_0/batch_2.tar: expected 16 views (49 images in batches of 16), got 8"),
    "one batch more": (
        lambda: shutil.copy(LABELS / "epoch_1/batch_2.tar", LABELS / "epoch_1/batch_3.tar"),
        "epoch_1/batch_3.tar: expected 3 batches, of 40 images, got more",
    ),
    "classes": (lambda: change(5, lambda logits: logits[:, :7]), "expected logits of 10 classes, got (16, 7)"),
    "logits": (lambda: change(5, lambda logits: logits / 0), "expected logits that float16 can hold"),
    "partners": (lambda: change(2, lambda partner: partner + 1), "expected partners below 16"),
    "box": (lambda: change(4, [0, 0, 9, 8]), "expected a box in views of 8 px"),
    "box of a tensor": (lambda: change(4, torch.tensor([[0, 0], [9, 8]])), "expected numbers for box and share"),
    "share": (lambda: change(3, "half"), "expected numbers for box and share"),
    "another size": (lambda: change(0, lambda c: c * 8 / 7), "expected crops of whole pixels of images of 8 px"),
    "outside": (lambda: change(0, lambda c: c + 1), "expected crops inside the images"),
    "fewer entries": (lambda: torch.save([1, 2], LABELS / "epoch_1/batch_1.tar"), "expected a list of 6 to 8 entries"),
    "an object": (lambda: change(3, Evil()), "epoch_1/batch_1.tar: expected tensors and numbers alone, got other objects"),
    "no torch file": (lambda: (LABELS / "epoch_1/batch_1.tar").write_bytes(b"x" * 99), "epoch_1/batch_1.tar: "),
    "truncated": (lambda: os.truncate(LABELS / "epoch_1/batch_1.tar", 999), "epoch_1/batch_1.tar: damaged"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A published set, once for all mistakes."""
    folder, before = tmp_path_factory.mktemp("published"), Path.cwd()
    os.chdir(folder)
    save_images()
    save_labels("cutmix")
    os.chdir(before)
    return folder / "data"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, published, tmp_path, monkeypatch, capsys):
    shutil.copytree(published, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    damage, message = MISTAKES[mistake]
    damage()
    assert import_fkd() == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("import-fkd: ")]
    assert message in line and "; " in line
    assert not Path("executed").exists(), "the pickle was executed"
    if mistake == "an object":
        torch.load(LABELS / "epoch_1/batch_1.tar", weights_only=False)
        assert Path("executed").exists(), "the pickle executes nothing: then the test proves nothing"


def test_labels_of_other_images(published, tmp_path, monkeypatch, capsys):
    shutil.copytree(published, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert import_fkd(seed=43) == 2
    assert "as by chance; use the images that were labelled" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_is_read_as_its_folder(kind, workspace):
    save_images()
    archive = Path(shutil.make_archive("theirs", kind, "data", "theirs"))
    sets = []
    for root in (IMAGES, archive):
        images = torch.zeros(CLASSES * IPC, 1, SIZE, SIZE, dtype=torch.uint8)
        assert pack(list_images(root, ipc=IPC), images) == 0
        sets.append(images)
    assert torch.equal(*sets) and sets[0].any()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "expected a folder of images for every class, got none"),
        (
            ["a/1.png", "b/1.png", "c/1.png"],
            "expected folders called as the 2 classes, or new000, ... by label, got 3 with 'c'",
        ),
        (["a/1.png"], "got 1 without 'b'"),
        (["new001/1.png", "new002/1.png"], "expected folders called as the 2 classes"),
        (["a/1.png", "a/2.png", "b/1.png"], "expected IPC (1) images in every class, got 2 in 'a'"),
        (["ipc1/a/1.png", "ipc2/b/1.png"], "expected all class folders in one folder, got some in 'ipc1' and 'ipc2'"),
    ],
)
def test_other_folders_than_the_classes(files, message, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(UserError) as error:
        list_images(tmp_path, ["a", "b"], 1)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distilled": {"images": "theirs", "labels": "fkd"}}, "distilled: seed: expected exactly when labels are given"),
        ({"distilled": DISTILLED, "relabel": {"online": True}}, "relabel.online: expected false with distilled.labels"),
    ],
)
def test_settings_that_do_not_go_together(changes, message, workspace, edit_row):
    edit_row(changes)
    with pytest.raises(UserError) as error:
        plan("tiny", IPC)
    assert message in str(error.value)
