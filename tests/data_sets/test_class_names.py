"""Folders of classes that are hard to tell apart, test images without classes, and archives inside of folders."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gvbsm.config.sources import ImageFolder, ImageNet
from gvbsm.data import imagefolder, imagenet
from gvbsm.data.distilled import list_images
from gvbsm.data.raw import Form, RawDataset
from gvbsm.errors import UserError

FORM = Form(image_size=8, channels=3, resize=8, storage="packed")
CAFE, CAFE_OF_A_MAC = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def write(root: Path, *files: str) -> None:
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(root / file)


def read(root: Path) -> RawDataset:
    return imagefolder.read(ImageFolder(kind="imagefolder", path=root.name), FORM, root.parent)


ALIKE = {
    "Unicode form": (CAFE, CAFE_OF_A_MAC),
    "upper and lower case": ("Cat", "cat"),
    "blanks": ("sea lion", "sea  lion"),
}


@pytest.mark.parametrize("difference", ALIKE)
@pytest.mark.parametrize("swapped", [False, True])
def test_names_that_look_alike_are_said_to_differ(difference, swapped, tmp_path):
    first, second = reversed(ALIKE[difference]) if swapped else ALIKE[difference]
    write(tmp_path, "train/b/1.png", f"train/{first}/1.png", "val/b/1.png", f"val/{second}/1.png")
    with pytest.raises(UserError) as raised:
        read(tmp_path)
    message = str(raised.value)
    assert f"which differ in {difference} alone; rename one" in message and ascii(first) in message and ascii(second) in message
    source = ImageNet(kind="imagenet", train=f"{tmp_path.name}/train", val=f"{tmp_path.name}/val")
    with pytest.raises(UserError, match=f"which differ in {difference} alone; rename one"):
        imagenet.read(source, FORM, tmp_path.parent)
    with pytest.raises(UserError, match=f"which differ in {difference} alone"):
        list_images(tmp_path / "val", ["b", first])


def test_a_class_in_two_unicode_forms_in_one_split(tmp_path):
    files = [f"{split}/{name}/1.png" for split in ("train", "test") for name in (CAFE, CAFE_OF_A_MAC, "b")]
    write(tmp_path, *files)
    with pytest.raises(UserError, match=r"a folder for each class, got .* which differ in Unicode form alone; put them"):
        read(tmp_path)


def test_letters_of_both_cases_are_classes(tmp_path):
    write(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "test") for name in ("A", "a")))
    assert read(tmp_path).classes == ["A", "a"]


@pytest.mark.parametrize("labelled", ["val", "valid"])
@pytest.mark.parametrize("folder", ["images", "unknown", "0"])
def test_test_images_without_classes_beside_a_labelled_split(folder, labelled, tmp_path, capsys):
    write(tmp_path, "train/a/1.png", "train/b/1.png", f"{labelled}/a/1.png", f"{labelled}/b/1.png", f"test/{folder}/1.png")
    raw = read(tmp_path)
    assert raw.classes == ["a", "b"] and raw.test_images[:, 0, 0, 0].tolist() == [2, 3]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path}: left out test, which has none of train's classes; the test images are those of {labelled}"


def test_a_labelled_test_comes_first(tmp_path, capsys):
    write(tmp_path, *(f"{split}/{name}/1.png" for split in ("val", "test", "train") for name in "ab"))
    assert read(tmp_path).test_images[:, 0, 0, 0].tolist() == [2, 3] and not capsys.readouterr().err


def test_a_test_split_that_lacks_a_class_is_a_mistake(tmp_path):
    """Not one to pass over for another split."""
    write(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "test/a/1.png")
    with pytest.raises(UserError, match="expected the same classes in train and test, got 'b' in one; add or remove it"):
        read(tmp_path)


def test_no_labelled_test_split(tmp_path):
    write(tmp_path, "train/a/1.png", "train/b/1.png", "test/images/1.png", "val/images/1.png")
    with pytest.raises(UserError, match=r"expected the classes of train in test, got 'images'; sort .*, tiny_imagenet$"):
        read(tmp_path)
    shutil.move(tmp_path / "test" / "images", tmp_path / "test" / "other")
    with pytest.raises(UserError, match=r"expected the classes of train in test, got 'other'; sort the images by class$"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_archives_inside_of_a_folder_are_named(kind, tmp_path):
    write(tmp_path / "made", "train/a/1.png", "val/a/1.png")
    root = tmp_path / "mine"
    for split in ("train", "val"):
        shutil.make_archive(str(root / split), kind, tmp_path / "made", split)
    with pytest.raises(UserError, match=r"mine: expected a folder train of class folders, got none, but train\..*; unpack"):
        read(root)
    with pytest.raises(UserError, match=r"mine: expected a folder of images for every class, got none, but train\."):
        list_images(root)
    for val, expected in (("mine", "a folder train of class folders"), ("mine/.", "images")):
        with pytest.raises(UserError, match=rf"mine: expected {expected}, got none, but train\..*; unpack such archives"):
            imagenet.read(ImageNet(kind="imagenet", train="mine", val=val), FORM, tmp_path)
