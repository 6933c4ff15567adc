"""A user's own images: a folder, or an archive of one, with train/<class>/* and test/<class>/* (or val, valid)."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from gvbsm.config.sources import ImageFolder
from gvbsm.data.class_names import check_forms, look_alike, loosely
from gvbsm.data.files import check_one_folder, or_archives, read_entries
from gvbsm.data.folders import is_image
from gvbsm.data.raw import Files, Form, RawDataset
from gvbsm.errors import UserError

_TEST_NAMES = ("test", "val", "valid")
Labelled = dict[str, list[tuple[str, Any]]]  # class -> (path, result of `Form.read_image`)


def read(source: ImageFolder, form: Form, data_root: Path) -> RawDataset:
    """Every image below train/<class> and test/<class>, at any depth, sorted by class and path.

    Raises:
        UserError: for a missing folder, folders train or test in several places, a class that only one split has, or a file
            that is no image.
    """
    return read_folder(data_root / source.path, form, data_root)


def read_folder(root: Path, form: Form, data_root: Path, wanted: Collection[str] | None = None) -> RawDataset:
    """As `read`, of a folder or archive; with `wanted`, of these classes alone."""
    splits: dict[str, Labelled] = {}
    above: dict[str, set[str]] = {}  # split -> the folders that contain its folder
    others: set[str] = set()
    for entry in read_entries(root):
        parts = entry.path.parts
        at = next((i for i, part in enumerate(parts) if part in ("train", *_TEST_NAMES)), len(parts))
        if at + 1 >= len(parts) or (wanted is not None and parts[at + 1] not in wanted):
            continue
        if entry.read and at + 2 == len(parts):  # a file beside the class folders
            continue
        labelled = splits.setdefault(parts[at], {}).setdefault(parts[at + 1], [])
        if entry.read and is_image(entry.path):
            labelled.append((str(entry.path), form.read_image(root, entry, data_root)))
            above.setdefault(parts[at], set()).add(str(PurePosixPath(*parts[:at])))
        elif entry.read:
            others.add(entry.path.suffix or entry.path.name)
    check_wanted(root, splits.get("train", {}), wanted)
    train = _split(root, splits, ("train",))
    test = _test_split(root, splits, train)
    check_one_folder(root, f"{train} and {test}", above.get(train, set()) | above.get(test, set()))
    return replace(join_splits(str(root), form, splits[train], splits[test]), left_out=tuple(sorted(others)))


def check_wanted(root: Path, train: Labelled, wanted: Collection[str] | None) -> None:
    """Raise UserError if a wanted class has no training images."""
    missing = sorted(set(wanted or ()).difference(train))
    if missing:
        raise UserError(
            f"{root}: expected training images of {missing[0]}, as source.classes says, got none; correct the id, or add them"
        )


def join_splits(what: str, form: Form, train: Labelled, test: Labelled) -> RawDataset:
    """The data set of two splits, classes and images sorted by name; the folders give the names of the classes.

    Raises:
        UserError: if the splits have different classes, or no images.
    """
    for split in (train, test):
        check_forms(what, split.keys())
    mismatches = sorted(train.keys() ^ test.keys())
    if mismatches:
        alike = next(filter(None, (look_alike(name, mismatches) for name in mismatches)), "")
        got = f"{alike}; rename one" if alike else f"{mismatches[0]!r} in one; add or remove it"
        raise UserError(f"{what}: expected the same classes in train and test, got {got}")
    return RawDataset(*_join(what, form, train), *_join(what, form, test), sorted(train), sorted(train))


def _split(root: Path, splits: dict[str, Labelled], choices: tuple[str, ...]) -> str:
    for choice in choices:
        if choice in splits:
            return choice
    raise UserError(f"{root}: expected a folder {' or '.join(choices)} of class folders, got {or_archives(root)}")


def _test_split(root: Path, splits: dict[str, Labelled], train: str) -> str:
    """The first test split that has classes of the training split: a challenge's `test` may hold images without labels."""
    first = _split(root, splits, _TEST_NAMES)
    classes = {loosely(name) for name in splits[train]}
    labelled = [name for name in _TEST_NAMES if not classes.isdisjoint(map(loosely, splits.get(name, ())))]
    if not labelled:
        other = min(splits[first])
        kind = "; Tiny-ImageNet has a kind of source of its own, tiny_imagenet" if other == "images" else ""
        raise UserError(f"{root}: expected the classes of train in {first}, got {other!r}; sort the images by class{kind}")
    if labelled[0] != first:
        line = f"{root}: left out {first}, which has none of train's classes; the test images are those of {labelled[0]}"
        sys.stderr.write(f"{UserError(line)}\n")  # as in errors, names may hold any character
    return labelled[0]


def _join(what: str, form: Form, labelled: Labelled) -> tuple[Tensor | Files, Tensor]:
    images, labels = [], []
    for label, name in enumerate(sorted(labelled)):
        of_class = sorted(labelled[name], key=lambda pair: pair[0])
        labelled[name] = []  # so that their memory can be freed while they are joined
        images += [image for _, image in of_class]
        labels += [label] * len(of_class)
    if not images:
        raise UserError(f"{what}: expected images in its class folders, got none; add some")
    return form.join(images), torch.tensor(labels)
