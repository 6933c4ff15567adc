"""Tiny-ImageNet from its official zip: train/<wnid>/images, val/images with val_annotations.txt, words.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gvbsm.config.sources import TinyImageNet
from gvbsm.data.download import download
from gvbsm.data.files import read_entries
from gvbsm.data.folders import is_image, is_there
from gvbsm.data.raw import Form, RawDataset
from gvbsm.data.texts import read_lines
from gvbsm.errors import UserError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def read(source: TinyImageNet, form: Form, data_root: Path) -> RawDataset:
    """The training and validation images, the latter labelled by val_annotations.txt; classes in order of their wnid.

    Raises:
        UserError: if the zip cannot be found or downloaded, or has another layout.
    """
    path = data_root / source.path
    if not is_there(path):
        download("tiny_imagenet", path, URL, MD5)
    train: list[tuple[str, str, Any]] = []  # wnid, file name, image
    val: dict[str, Any] = {}
    texts: dict[str, tuple[str, bytes]] = {}  # name -> where it is, content
    for entry in read_entries(path):
        parts = entry.path.parts
        if entry.read is None:
            continue
        if entry.path.name in ("words.txt", "val_annotations.txt"):
            texts[entry.path.name] = f"{path}/{entry.path}", entry.read()
        elif is_image(entry.path) and len(parts) >= 3 and parts[-2] == "images" and {"train", "val"}.intersection(parts):
            image = form.read_image(path, entry, data_root)
            if "train" in parts:
                train.append((parts[-3], entry.path.name, image))
            else:
                val[entry.path.name] = image
    if not train or not val or texts.keys() != {"words.txt", "val_annotations.txt"}:
        raise UserError(f"{path}: expected the layout of the official zip, got another; put the file from {URL} there")
    wnids = sorted({wnid for wnid, _, _ in train})
    train.sort(key=lambda item: item[:2])
    classes = _annotations(*texts["val_annotations.txt"], wnids)
    unlabelled = next((name for name in val if name not in classes), None)
    if unlabelled is not None:
        where = texts["val_annotations.txt"][0]
        raise UserError(f"{where}: expected a class for each validation image, got none for {unlabelled}; fetch it again")
    labelled = sorted((classes[name], name) for name in val)
    words = [line.text.split(maxsplit=1) for line in read_lines(*texts["words.txt"])]
    names = {word[0]: word[1] for word in words if len(word) == 2}
    return RawDataset(
        form.join([image for _, _, image in train]),
        torch.tensor([wnids.index(wnid) for wnid, _, _ in train]),
        form.join([val[name] for _, name in labelled]),
        torch.tensor([wnids.index(wnid) for wnid, _ in labelled]),
        wnids,
        [names.get(wnid, wnid).split(",")[0] for wnid in wnids],
    )


def _annotations(where: str, content: bytes, wnids: list[str]) -> dict[str, str]:
    """The classes of images by their names. Raises UserError for a line that gives none, or another one than a line before."""
    classes: dict[str, str] = {}
    known = set(wnids)
    for line in read_lines(where, content):
        columns = line.columns()
        if len(columns) < 2:
            raise UserError(f"{line.where}: expected the name of an image and its class, got {line.text!r}; fetch it again")
        name, wnid = columns[:2]
        if wnid not in known:
            raise UserError(f"{line.where}: expected a class that train has, got {wnid!r}; fetch the data set again")
        if classes.setdefault(name, wnid) != wnid:
            raise UserError(f"{line.where}: expected one class of {name}, got {classes[name]} before and {wnid}; remove one")
    return classes
