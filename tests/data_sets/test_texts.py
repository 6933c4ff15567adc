"""Texts by others: no encoding, end of lines or blank surprises a reader, and messages say file and line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from gvbsm.config.sources import ImageNet, TinyImageNet
from gvbsm.data import imagenet, tiny_imagenet
from gvbsm.data.raw import Form
from gvbsm.data.texts import read_lines, read_table
from gvbsm.errors import UserError

FORM = Form(image_size=8, channels=3, resize=8, storage="packed")
WNIDS = ["n01", "n02"]
EDITORS = {  # what an editor or a system makes of a text
    "as it is": lambda text: text.encode(),
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "an old Mac": lambda text: text.replace("\n", "\r").encode(),
    "BOM": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
    "UTF-16, big-endian": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-16, big-endian, without a mark": lambda text: text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "Latin-1": lambda text: text.encode("latin-1"),
    "blank lines": lambda text: ("\n\n" + text.replace("\n", "\n \t\n") + "\n\n").encode(),
    "blanks around": lambda text: text.replace("\n", "  \t\n  ").encode(),
    "no end": lambda text: text.rstrip("\n").encode(),
}


@pytest.fixture(params=EDITORS)
def written(request):
    return EDITORS[request.param]


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / name, "PNG")


@pytest.fixture
def tiny(tmp_path) -> Path:
    for wnid in WNIDS:
        write_images(tmp_path / "tiny" / "train" / wnid / "images", [f"{wnid}_0.JPEG"])
    write_images(tmp_path / "tiny" / "val" / "images", [f"val_{i}.JPEG" for i in range(4)])
    write_texts(tmp_path / "tiny", EDITORS["as it is"])
    return tmp_path


ANNOTATIONS = "".join(f"val_{i}.JPEG\t{WNIDS[i % 2]}\t0\t0\t62\t62\n" for i in range(4))


def write_texts(root: Path, written, annotations: str = ANNOTATIONS) -> None:
    (root / "val" / "val_annotations.txt").write_bytes(written(annotations))
    (root / "words.txt").write_bytes(written("n01\tcafé noir, coffee\nn02\tbull frog\nn03\tcar\n"))


def read_tiny(root: Path):
    return tiny_imagenet.read(TinyImageNet(kind="tiny_imagenet", path="tiny"), FORM, root)


@pytest.mark.parametrize("between", ["\t", "\t\t", " \t ", "  "])
def test_tiny_imagenet(between, written, tiny):
    write_texts(tiny / "tiny", written, ANNOTATIONS.replace("\t", between))
    raw = read_tiny(tiny)
    assert raw.class_names == ["café noir", "bull frog"]
    assert raw.test_labels.tolist() == [0, 0, 1, 1] and raw.test_images[:, 0, 0, 0].tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (
            ANNOTATIONS + "\nval_9.JPEG\n",
            r"val_annotations\.txt, line 6: expected the name of an image and its class, got 'val_9",
        ),
        (ANNOTATIONS.replace("n02", "n09"), r"val_annotations\.txt, line 2: expected a class that train has, got 'n09'"),
        (ANNOTATIONS + "val_0.JPEG\tn02\n", r"line 5: expected one class of val_0\.JPEG, got n01 before and n02; remove one"),
        (ANNOTATIONS[:40], r"val_annotations\.txt: expected a class for each validation image, got none for val_"),
        ("", r"val_annotations\.txt: expected a text, got an empty file; fetch it again"),
        (" \n\t\n", r"val_annotations\.txt: expected a text, got blanks alone"),
        ("<!DOCTYPE html><html></html>", r"val_annotations\.txt: expected a text, got a web page \(HTML\); fetch the file"),
    ],
)
def test_a_line_that_says_nothing_is_named(annotations, message, tiny):
    write_texts(tiny / "tiny", EDITORS["as it is"], annotations)
    with pytest.raises(UserError, match=message):
        read_tiny(tiny)


def test_test_images_without_classes_need_not_be_images(tiny):
    """Tiny-ImageNet's `test/images` are not read."""
    write_images(tiny / "tiny" / "test" / "images", ["test_0.JPEG"])
    (tiny / "tiny" / "test" / "images" / "test_1.JPEG").write_bytes(b"damaged")
    assert len(read_tiny(tiny).test_labels) == 4


@pytest.fixture
def imagenet_folders(tmp_path) -> Path:
    for wnid in WNIDS:
        write_images(tmp_path / "train" / wnid, [f"{wnid}_0.JPEG"])
    write_images(tmp_path / "val", [f"val_{i}.JPEG" for i in range(4)])
    return tmp_path


def read_imagenet(root: Path, truth: str):
    return imagenet.read(ImageNet(kind="imagenet", train="train", val="val", ground_truth=truth), FORM, root)


SOLUTION = "ImageId,PredictionString\n" + "".join(f"val_{i},{WNIDS[i % 2]} 1 2 3 4 \n" for i in range(4))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", " , "])
def test_the_table_of_kaggle(delimiter, written, imagenet_folders):
    (imagenet_folders / "truth.CSV").write_bytes(written(SOLUTION.replace(",", delimiter)))
    assert read_imagenet(imagenet_folders, "truth.CSV").test_images[:, 0, 0, 0].tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SOLUTION + "val_4\n", r"truth\.csv, line 6: expected an image and its class, got 'val_4'; fetch the table again"),
        (SOLUTION + "\n,n01 1\n", r"truth\.csv, line 7: expected an image and its class"),
        (SOLUTION + "val_0,n02 1\n", r"truth\.csv, line 6: expected one class of val_0, got n01 before and n02"),
        (
            "\nimage,label\nx,1\n",
            r"truth\.csv, line 2: expected the columns ImageId and PredictionString, got image, label; name",
        ),
        ("PK\x03\x04\0\0", r"truth\.csv: expected a text, got a zip archive"),
    ],
)
def test_a_line_of_the_table_that_says_nothing_is_named(text, message, imagenet_folders):
    (imagenet_folders / "truth.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_imagenet(imagenet_folders, "truth.csv")


def write_kit(root: Path, truth: bytes) -> None:
    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("num_children", "f8")]
    (root / "kit").mkdir()
    savemat(root / "kit" / "meta.mat", {"synsets": np.array([(2, "n01", 0), (1, "n02", 0)], dtype=fields)})
    (root / "kit" / "ILSVRC2012_validation_ground_truth.txt").write_bytes(truth)


def test_the_development_kit(written, imagenet_folders):
    write_kit(imagenet_folders, written("2\n1\n2\n1\n"))
    assert read_imagenet(imagenet_folders, "kit").test_images[:, 0, 0, 0].tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("number", ["9", "x", "²", "-1", "1.0"])
def test_a_number_that_is_no_class_is_named(number, imagenet_folders):
    write_kit(imagenet_folders, f"2\n\n1\n{number}\n".encode())
    with pytest.raises(UserError, match=rf"ground_truth\.txt, line 4: expected numbers that meta\.mat knows, got '{number}'"):
        read_imagenet(imagenet_folders, "kit")


def test_other_characters_end_no_line():
    """Of those at which `str.splitlines` splits too."""
    lines = read_lines("x", "a\x0bb\x0cc\x1cd\x85e\u2028f\ng\n".encode())
    assert [line.where for line in lines] == ["x, line 1", "x, line 2"]


def test_a_quoted_cell_keeps_its_delimiter():
    ((line, cells),) = read_table("x", b'name,label\n"a, b",3\n', ("Label", "NAME"))
    assert cells == ["3", "a, b"] and line.where == "x, line 2"
