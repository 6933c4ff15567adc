"""ImageNet from its folders: classes, names, and every form of the validation set's ground truth."""

import hashlib
import io
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Imagenette

from gvbsm.config.sources import ImageNet
from gvbsm.config.subsets import ARCHIVES, SUBSETS, Archive, archive_of, url_of
from gvbsm.data import imagenet
from gvbsm.data.raw import Files, Form
from gvbsm.data.splits import open_split
from gvbsm.errors import UserError
from gvbsm.pipeline.prepare import PrepareSpec
from gvbsm.stages import prepare
from gvbsm.store.job import Job, Reader

FORM = Form(image_size=8, channels=3, resize=9, storage="packed")
GOLDFISH, TENCH, SHARK = "n01443537", "n01440764", "n01484850"
KIT_NUMBER = {SHARK: 1, TENCH: 2, GOLDFISH: 3}  # ILSVRC2012_ID, which is not the order of the WordNet ids
TRUTH = [GOLDFISH, SHARK, TENCH, SHARK, GOLDFISH, TENCH]


def write_image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 15, 3), value, np.uint8)).save(path, "PNG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, wnid in enumerate((GOLDFISH, TENCH, SHARK)):
        for i in range(2):
            write_image(tmp_path / "train" / wnid / f"{wnid}_{i}.JPEG", 10 * number + i)
    for number in range(len(TRUTH)):
        write_image(tmp_path / "flat" / f"ILSVRC2012_val_{number + 1:08d}.JPEG", 100 + number)
    return tmp_path


def write_kit(folder: Path) -> None:
    """The development kit's two files: numbers of the classes in order of the images, and a table that also has parents."""
    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    synsets = np.array([(n, wnid, "", "", 0) for wnid, n in KIT_NUMBER.items()] + [(4, "n00001740", "", "", 3)], dtype=fields)
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "meta.mat", {"synsets": synsets})
    numbers = "".join(f"{KIT_NUMBER[wnid]}\n" for wnid in TRUTH)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(numbers)


def read(root: Path, val: str = "flat", truth: str | None = None, form: Form = FORM):
    return imagenet.read(ImageNet(kind="imagenet", train="train", val=val, ground_truth=truth), form, root)


def assert_right(raw) -> None:
    assert raw.classes == [TENCH, GOLDFISH, SHARK]
    assert raw.class_names == ["tench", "goldfish", "great white shark"]
    assert raw.train_images[:, 0, 0, 0].tolist() == [10, 11, 0, 1, 20, 21]
    assert raw.train_labels.tolist() == raw.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert raw.test_images[:, 0, 0, 0].tolist() == [102, 105, 100, 104, 101, 103]


def test_validation_images_by_class(root):
    for number, wnid in enumerate(TRUTH):
        write_image(root / "val" / wnid / f"ILSVRC2012_val_{number + 1:08d}.JPEG", 100 + number)
    assert_right(read(root, "val"))


@pytest.mark.parametrize("name", ["kit/data", "kit/data/ILSVRC2012_validation_ground_truth.txt", "kit", "kit.tar.gz"])
def test_the_development_kit(name, root):
    write_kit(root / "kit" / "data")
    with tarfile.open(root / "kit.tar.gz", "w:gz") as archive:
        archive.add(root / "kit", "ILSVRC2012_devkit_t12")
    assert_right(read(root, truth=name))


def test_the_published_table_of_kaggle(root):
    rows = [f"ILSVRC2012_val_{i + 1:08d},{wnid} 1 2 3 4 {wnid} 5 6 7 8" for i, wnid in enumerate(TRUTH)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]))
    assert_right(read(root, truth="LOC_val_solution.csv"))


def test_files_stay_where_they_are(root):
    write_kit(root / "kit")
    raw = read(root, truth="kit", form=replace(FORM, storage="files"))
    assert isinstance(raw.train_images, Files)
    assert raw.train_images.paths[0] == f"train/{TENCH}/{TENCH}_0.JPEG"
    status = (root / raw.train_images.paths[0]).stat()
    assert (raw.train_images.sizes[0], raw.train_images.times[0]) == (status.st_size, status.st_mtime_ns)
    assert raw.test_images.paths[0] == "flat/ILSVRC2012_val_00000003.JPEG"
    assert torch.equal(raw.test_labels, read(root, truth="kit").test_labels)


def wrong_kit(root: Path) -> None:
    write_kit(root / "kit")
    (root / "kit" / "meta.mat").write_bytes(b"not MATLAB")


def too_few(root: Path) -> None:
    write_kit(root / "kit")
    next((root / "flat").iterdir()).unlink()


def unknown_number(root: Path) -> None:
    write_kit(root / "kit")
    (root / "kit" / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n1\n2\n4\n")


def half_a_kit(root: Path) -> None:
    write_kit(root / "kit")
    (root / "kit" / "meta.mat").unlink()


def another_table(root: Path) -> None:
    (root / "kit").with_suffix(".csv").write_text("image,label\nx,1\n")


def extra_image(root: Path) -> None:
    (root / "kit.csv").write_text(f"ImageId,PredictionString\nILSVRC2012_val_00000001,{TENCH} 1 2 3 4\n")


@pytest.mark.parametrize(
    ("spoil", "truth", "message"),
    [
        (lambda root: None, None, r"flat: expected a folder per class, got 6 images without one; set source.ground_truth"),
        (wrong_kit, "kit", r"meta\.mat: damaged \(.*\); fetch the development kit again"),
        (half_a_kit, "kit", r"expected ILSVRC2012_validation_ground_truth\.txt and meta\.mat .*but one is missing"),
        (too_few, "kit", r"flat: expected 6 images, as \S+kit has, got 5; complete them"),
        (unknown_number, "kit", r"expected numbers that meta\.mat knows, got '4'"),
        (another_table, "kit.csv", r"expected the columns ImageId and PredictionString"),
        (extra_image, "kit.csv", r"flat/.*: expected a class in .*, got none; remove the file"),
        (lambda root: None, "kit.csv", r"kit\.csv: cannot be read: No such file"),
        (lambda root: None, "kit", r"kit: expected a folder or an archive .*, got nothing there"),
    ],
)
def test_a_ground_truth_that_does_not_fit(spoil, truth, message, root):
    spoil(root)
    with pytest.raises(UserError, match=message):
        read(root, truth=truth)


def test_an_unknown_wordnet_id_is_its_own_name():
    assert imagenet._names(["n00000001", TENCH]) == ["n00000001", "tench"]


def test_odd_images_are_named(root):
    write_kit(root / "kit")
    bad = root / "train" / SHARK / f"{SHARK}_1.JPEG"
    bad.write_bytes(io.BytesIO(b"no image").getvalue())
    with pytest.raises(UserError, match=rf"{SHARK}_1\.JPEG: expected an image, got a text that begins with 'no image'"):
        read(root, truth="kit")


def by_class(root: Path) -> None:
    for number, wnid in enumerate(TRUTH):
        write_image(root / "val" / wnid / f"ILSVRC2012_val_{number + 1:08d}.JPEG", 100 + number)


@pytest.mark.parametrize("val", ["val", "kit", "kit.csv"])
def test_some_classes_of_its_folders(val, root):
    """Images of other classes are not decoded: one is damaged."""
    by_class(root)
    write_kit(root / "kit")
    rows = [f"ILSVRC2012_val_{i + 1:08d},{wnid} 1 2 3 4" for i, wnid in enumerate(TRUTH)]
    (root / "kit.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    (root / "train" / GOLDFISH / f"{GOLDFISH}_0.JPEG").write_bytes(b"damaged")
    places = {"val": "val"} if val == "val" else {"val": "flat", "ground_truth": val}
    for order in ([TENCH, SHARK], [SHARK, TENCH]):
        raw = imagenet.read(ImageNet(kind="imagenet", train="train", classes=order, **places), FORM, root)
        assert raw.classes == [TENCH, SHARK] and raw.class_names == ["tench", "great white shark"]
        assert raw.train_images[:, 0, 0, 0].tolist() == [10, 11, 20, 21]
        assert raw.test_images[:, 0, 0, 0].tolist() == [102, 105, 101, 103] and raw.test_labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("classes", [None, [SHARK, GOLDFISH, TENCH], [GOLDFISH, TENCH]])
@pytest.mark.parametrize("place", ["subset", "subset.tgz", "subset.zip"])
def test_a_folder_or_an_archive_of_both_splits(place, classes, root):
    by_class(root)
    for split in ("train", "val"):
        shutil.copytree(root / split, root / "subset" / split)
    (root / "subset" / "noisy.csv").write_text("path,label\n")
    if "." in place:
        shutil.make_archive(str(root / "subset"), "gztar" if place.endswith("tgz") else "zip", root, "subset")
    if place.endswith("tgz"):
        (root / "subset.tar.gz").rename(root / "subset.tgz")
    raw = imagenet.read(ImageNet(kind="imagenet", train=place, val=place, classes=classes), FORM, root)
    if classes is None or len(classes) == 3:
        assert_right(raw)
    else:
        assert raw.classes == [TENCH, GOLDFISH] and raw.train_images[:, 0, 0, 0].tolist() == [10, 11, 0, 1]


@pytest.mark.parametrize("together", [True, False])
def test_a_class_that_is_not_there(together, root):
    by_class(root)
    place = {"train": ".", "val": "."} if together else {"train": "train", "val": "val"}
    source = ImageNet(kind="imagenet", **place, classes=[TENCH, "n01440765"])
    with pytest.raises(UserError, match=r"expected training images of n01440765, as source\.classes says, got none; correct"):
        imagenet.read(source, FORM, root)


@pytest.mark.parametrize("name", SUBSETS)
def test_named_subsets_are_classes_of_imagenet_in_order(name):
    source = ImageNet(kind="imagenet", train="a", val="a", classes=name)
    assert source.classes == SUBSETS[name] == sorted(SUBSETS[name])
    assert len(set(source.classes) & set(imagenet.class_ids())) == {"imagenet100": 100}.get(name, 10)
    assert ImageNet(kind="imagenet", train="a", val="a", classes=source.classes[::-1]) == source


def test_imagenette_is_torchvisions():
    assert SUBSETS["imagenette"] == sorted(Imagenette._WNID_TO_CLASS)
    for url, md5 in Imagenette._ARCHIVES.values():
        name = url.rpartition("/")[2]
        assert (url_of(name), ARCHIVES[name].md5) == (url, md5)


@pytest.mark.parametrize(
    ("path", "images"),
    [("imagenette2-320.tgz", 9469), ("/data/imagewoof2/train", 9025), ("imagenet/train", None), ("imagenette2.tgz.txt", None)],
)
def test_archives_by_their_paths(path, images):
    archive = archive_of(path)
    assert (archive and archive.training_images) == images


def test_the_archive_of_a_subset_is_downloaded(root, served, monkeypatch):
    folder, address = served
    by_class(root)
    with tarfile.open(folder / "imagewoof2-160.tgz", "w:gz") as archive:
        for split in ("train", "val"):
            archive.add(root / split, f"imagewoof2-160/{split}")
    source = ImageNet(kind="imagenet", train="imagewoof2-160.tgz", val="imagewoof2-160.tgz")
    monkeypatch.setattr("gvbsm.config.subsets._FASTAI", f"{address}/")
    with pytest.raises(
        UserError, match=r"imagewoof2-160\.tgz: expected .* could not be had: the file there has MD5 .*, or unpack"
    ):
        imagenet.read(source, FORM, root)
    md5 = hashlib.md5((folder / "imagewoof2-160.tgz").read_bytes()).hexdigest()
    monkeypatch.setitem(ARCHIVES, "imagewoof2-160.tgz", Archive(md5, 6))
    assert_right(imagenet.read(source, FORM, root))
    (root / "imagewoof2-160.tgz").write_bytes((folder / "imagewoof2-160.tgz").read_bytes())  # a file that is there is used
    monkeypatch.setattr("gvbsm.config.subsets._FASTAI", "http://127.0.0.1:9/")
    assert_right(imagenet.read(source, FORM, root))


def test_files_of_other_kinds_in_class_folders_are_named(root, capsys):
    by_class(root)
    (root / "train" / TENCH / "notes.txt").write_text("x")
    source = {"kind": "imagenet", "train": ".", "val": ".", "classes": [TENCH, SHARK]}
    spec = {"source": source, "classes": 2, "storage": "packed", "image_size": 12, "channels": 3, "resize": 12, "code": {}}
    planned = PrepareSpec.model_validate(spec)
    prepare.run(Job(spec=planned, out=root / "store" / "data.safetensors", store=root / "store", data_root=root))
    assert "left out, by their endings no images: .txt" in capsys.readouterr().err


@pytest.mark.parametrize("storage", ["packed", "files"])
def test_a_corrected_ground_truth_is_noticed(storage, root):
    write_kit(root / "kit")
    source = {"kind": "imagenet", "train": "train", "val": "flat", "ground_truth": "kit"}
    spec = {"source": source, "classes": 3, "storage": storage, "image_size": 12, "channels": 3, "resize": 12, "code": {}}
    store = root / "store"
    planned = PrepareSpec.model_validate(spec)
    prepare.run(Job(spec=planned, out=store / "data.safetensors", store=store, data_root=root))
    job = Reader(store=store, data_root=root)
    device = torch.device("cpu")
    open_split(job, "data.safetensors", "test", device)
    truth = root / "kit" / "ILSVRC2012_validation_ground_truth.txt"
    os.utime(truth, (1, 1))
    open_split(job, "data.safetensors", "test", device)
    truth.write_text("".join(reversed(truth.read_text().splitlines(keepends=True))))
    open_split(job, "data.safetensors", "train", device)
    with pytest.raises(UserError, match=r"kit: changed since it was prepared: expected the same .*or set source\.version"):
        open_split(job, "data.safetensors", "test", device)
    shutil.rmtree(root / "kit")
    open_split(job, "data.safetensors", "test", device)
