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
    texts: dict[str, str] = {}
    for entry in read_entries(path):
        parts = entry.path.parts
        if entry.read is None:
            continue
        if entry.path.name in ("words.txt", "val_annotations.txt"):
            texts[entry.path.name] = entry.read().decode()
        elif is_image(entry.path) and len(parts) >= 3 and parts[-2] == "images":
            image = form.read_image(path, entry, data_root)
            if "train" in parts:
                train.append((parts[-3], entry.path.name, image))
            elif "val" in parts:
                val[entry.path.name] = image
    if not train or not val or texts.keys() != {"words.txt", "val_annotations.txt"}:
        raise UserError(f"{path}: expected the layout of the official zip, got another; put the file from {URL} there")
    wnids = sorted({wnid for wnid, _, _ in train})
    train.sort(key=lambda item: item[:2])
    annotated = [line.split("\t")[:2] for line in texts["val_annotations.txt"].splitlines()]
    labelled = [(wnid, name) for name, wnid in annotated if name in val and wnid in wnids]
    if len(labelled) != len(val):
        raise UserError(
            f"{path}: expected a class for each of {len(val)} validation images, got {len(labelled)}; fetch it again"
        )
    names = dict(line.split("\t", 1) for line in texts["words.txt"].splitlines() if "\t" in line)
    return RawDataset(
        form.join([image for _, _, image in train]),
        torch.tensor([wnids.index(wnid) for wnid, _, _ in train]),
        form.join([val[name] for _, name in sorted(labelled)]),
        torch.tensor([wnids.index(wnid) for wnid, _ in sorted(labelled)]),
        wnids,
        [names.get(wnid, wnid).split(",")[0] for wnid in wnids],
    )
