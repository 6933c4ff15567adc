"""ImageNet (ILSVRC 2012) from its own folders: train by WordNet id, val likewise or flat with the official ground truth.

Or a subset of its classes: out of these folders, or of a folder or archive with `train` and `val` in it, such as fast.ai's.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from gvbsm.config.sources import ImageNet
from gvbsm.config.subsets import ARCHIVES, url_of
from gvbsm.data.download import download
from gvbsm.data.files import Entry, or_archives, read_entries, read_file
from gvbsm.data.folders import is_image, is_there
from gvbsm.data.imagefolder import Labelled, check_wanted, join_splits, read_folder
from gvbsm.data.raw import Form, RawDataset
from gvbsm.data.texts import read_lines, read_table
from gvbsm.errors import UserError

Wanted = frozenset[str] | None  # WordNet ids of the classes that are read; None: all
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def read(source: ImageNet, form: Form, data_root: Path) -> RawDataset:
    """Training and validation images, classes in order of their WordNet id (as in torchvision's and timm's weights).

    Raises:
        UserError: for missing folders, a ground truth that does not fit, or classes that a split does not have.
    """
    train_root, val_root = data_root / source.train, data_root / source.val
    wanted = None if source.classes is None else frozenset(source.classes)
    if source.train == source.val:
        _fetch(train_root)
        raw = read_folder(train_root, form, data_root, wanted)
    else:
        train = _by_class(train_root, _images(train_root), form, data_root, wanted)
        check_wanted(train_root, train, wanted)
        val = _validation(source, form, data_root, wanted)
        raw = join_splits(f"{train_root}, {val_root}", form, train, val)
    return replace(raw, class_names=_names(raw.classes))


def _fetch(root: Path) -> None:
    """Download fast.ai's archive of a subset, if that is what is asked for and it is not there."""
    if root.name in ARCHIVES and not is_there(root):
        download(root.name, root, url_of(root.name), ARCHIVES[root.name].md5, ", or unpack it and name the folder")


def _validation(source: ImageNet, form: Form, data_root: Path, wanted: Wanted) -> Labelled:
    root = data_root / source.val
    images = _images(root)
    if not any(len(entry.path.parts) == 1 for entry in images):
        return _by_class(root, images, form, data_root, wanted)
    if source.ground_truth is None:
        raise UserError(
            f"{root}: expected a folder per class, got {len(images)} images without one; set source.ground_truth to "
            f"the development kit (or its {_TRUTH}), or to LOC_val_solution.csv"
        )
    return _by_truth(root, images, data_root / source.ground_truth, form, data_root, wanted)


def _images(root: Path) -> list[Entry]:
    images = [entry for entry in read_entries(root) if entry.read and is_image(entry.path)]
    if not images:
        raise UserError(f"{root}: expected images, got {or_archives(root)}")
    return images


def _by_class(root: Path, images: Iterable[Entry], form: Form, data_root: Path, wanted: Wanted) -> Labelled:
    labelled: Labelled = {}
    for entry in images:
        if len(entry.path.parts) > 1 and (wanted is None or entry.path.parts[0] in wanted):
            labelled.setdefault(entry.path.parts[0], []).append((str(entry.path), form.read_image(root, entry, data_root)))
    return labelled


def _by_truth(root: Path, images: list[Entry], truth_path: Path, form: Form, data_root: Path, wanted: Wanted) -> Labelled:
    """Images of one flat folder."""
    truth, stems = _truth(truth_path), [entry.path.stem for entry in images]
    if isinstance(truth, list):
        if len(truth) != len(stems):
            raise UserError(f"{root}: expected {len(truth)} images, as {truth_path} has, got {len(stems)}; complete them")
        truth = dict(zip(sorted(stems), truth, strict=True))
    labelled: Labelled = {}
    for entry, stem in zip(images, stems, strict=True):
        if stem not in truth:
            raise UserError(f"{root}/{entry.path}: expected a class in {truth_path}, got none; remove the file")
        if wanted is None or truth[stem] in wanted:
            labelled.setdefault(truth[stem], []).append((str(entry.path), form.read_image(root, entry, data_root)))
    return labelled


def _truth(path: Path) -> dict[str, str] | list[str]:
    """WordNet ids of the validation images: by name without suffix (Kaggle's CSV), or in the order of the names (the kit)."""
    if path.suffix.lower() == ".csv":
        return _solution(path)
    texts = {entry.path.name: entry.read() for entry in _kit(path) if entry.read and entry.path.name in (_TRUTH, _META)}
    if texts.keys() != {_TRUTH, _META}:
        raise UserError(
            f"{path}: expected {_TRUTH} and {_META} of the development kit in one folder, but one is missing; put it there"
        )
    ids = _wordnet_ids(path, texts[_META])
    classes: list[str] = []
    for line in read_lines(f"{path}: {_TRUTH}", texts[_TRUTH]):
        for number in line.text.split():
            if not (number.isascii() and number.isdigit() and int(number) in ids):
                raise UserError(f"{line.where}: expected numbers that {_META} knows, got {number!r}; fetch the kit again")
            classes.append(ids[int(number)])
    return classes


def _solution(path: Path) -> dict[str, str]:
    """WordNet ids by image, from Kaggle's table: the first word of what is predicted is the class, its box follows."""
    classes: dict[str, str] = {}
    for line, (image, predicted) in read_table(str(path), read_file(path), ("ImageId", "PredictionString")):
        words = predicted.split()
        if not image or not words:
            raise UserError(f"{line.where}: expected an image and its class, got {line.text!r}; fetch the table again")
        known = classes.setdefault(image, words[0])
        if known != words[0]:
            raise UserError(f"{line.where}: expected one class of {image}, got {known} before and {words[0]}; remove one")
    return classes


def _kit(path: Path) -> Iterable[Entry]:
    """Entries of the development kit: of its folder or archive, or of the folder of its ground truth."""
    return read_entries(path.parent if path.name == _TRUTH else path)


def _wordnet_ids(path: Path, meta: bytes) -> dict[int, str]:
    """ILSVRC2012_ID -> WordNet id of the classes (synsets without children), from meta.mat."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets if int(synset["num_children"]) == 0}
    except Exception as error:  # a damaged MATLAB file makes the library raise many kinds
        raise UserError(f"{path}: {_META}: damaged ({type(error).__name__}); fetch the development kit again") from None


def class_ids() -> list[str]:
    """The WordNet ids of ImageNet's 1,000 classes, sorted: the order of the outputs of networks trained on them."""
    from timm.data.imagenet_info import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())


def _names(classes: list[str]) -> list[str]:
    """The first English name of each WordNet id, from timm's table; an unknown id stays."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    ids = set(info.label_names())
    return [info.label_name_to_description(wnid).split(",")[0] if wnid in ids else wnid for wnid in classes]
