"""A published run, or its export, as PyTorch data sets: labelled views, the images themselves, the test images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import Dataset, Subset

from gvbsm.config.shapes import PixelForm
from gvbsm.data.image_set import load_image_set
from gvbsm.data.labels import Epoch, load_labels
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import Split, open_split
from gvbsm.errors import UserError
from gvbsm.format import readable_spread
from gvbsm.method.coding import Coding
from gvbsm.method.views import Images, Views, mixed_hard_labels, render
from gvbsm.pictures.names import run_title
from gvbsm.share.folder import MANIFEST, read_folder
from gvbsm.share.notebook import as_html
from gvbsm.share.run import read_run
from gvbsm.store.job import Reader
from gvbsm.store.run import ACCURACIES, run_folder

_CPU = torch.device("cpu")
_REMEMBERED = 2**30  # bytes of drawn views that are kept, so that shuffling over all epochs does not draw them again
_VIEW = 40  # bytes of a drawn view

View = tuple[Tensor, Tensor, Tensor]  # view, soft label, hard label
Image = tuple[Tensor, Tensor]  # image, label
_Item = TypeVar("_Item", View, Image)


class _Content(NamedTuple):
    """What a run's folder and an exported one have in common."""

    reader: Reader  # of the soft labels, and of a run the test images
    labels_files: list[str]  # of soft labels, in the store
    data: str | None  # the prepared data set, of a run
    images: Images | Tensor  # uint8 (N,C,S,S)
    labels: Tensor  # int64 (N,)
    pixels: Pixels
    classes: list[str]
    class_names: list[str]
    title: str  # data set, images per class, recipe
    students: str  # their accuracies, for people


class _Distilled(Dataset[_Item]):
    """What all the data sets tell beside their items."""

    labels: Tensor  # int64 (N,), of whole images

    def __init__(self, content: _Content) -> None:
        self._reader, self._files = content.reader, content.labels_files
        self.pixels = content.pixels  # .from_bytes: uint8 (B,C,S,S) to what networks see; .unit: from that to 0..1
        self.classes = content.classes  # what identifies the classes, by label
        self.class_names = content.class_names
        self._title, self._students = content.title, content.students
        self._shape = tuple(content.images.shape[1:])

    def __repr__(self) -> str:
        students = f"\n  students: {self._students}" if self._students else ""
        return f"{type(self).__name__} of {self._title}: {self._holds()}, {len(self.classes)} classes{students}"

    def _repr_html_(self) -> str:
        """What a notebook shows: the words of `repr`, and images by class."""
        return as_html(repr(self), self._whole_images, self.labels, self.class_names)

    def _holds(self) -> str:
        """What the data set holds, in words."""
        raise NotImplementedError

    def _whole_images(self, index_B: Tensor) -> Tensor:
        """uint8 images (B,C,S,S)."""
        raise NotImplementedError

    def __getitems__(self, indices: Sequence[int]) -> list[_Item]:
        """Several items, made together: what a DataLoader asks for."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> _Item:
        return self.__getitems__([index])[0]

    def _checked(self, indices: Sequence[int], count: int) -> Tensor:
        index_B = torch.as_tensor(indices, dtype=torch.int64)
        index_B = torch.where(index_B < 0, index_B + count, index_B)
        if bool(((index_B < 0) | (index_B >= count)).any()):
            raise IndexError(f"expected an index below {count}, got one in {list(indices)[:10]}")
        return index_B


class LabelledViews(_Distilled[View]):
    """Every labelled view of the distilled images, epoch after epoch; item e N + v is view v of epoch e.

    An item is a view, float32 (C,S,S), normalised as the students of evaluate saw it; its soft label, float32 logits (K,); its
    hard label, float32 probabilities (K,). Views are drawn again from a seed, or read, and a batch is made at once.
    """

    def __init__(self, content: _Content, rest: str) -> None:
        super().__init__(content)
        self.images = content.images  # uint8 (N,C,S,S), by class and number; of many, what gives those at an index (B,)
        self.labels = content.labels  # int64 (N,)
        self._rest = rest
        self._open()

    def _open(self) -> None:
        try:
            labels = load_labels(self._reader, self._files, len(self.labels), self.images.shape[-1])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:  # a folder by others may hold anything
            where = self._reader.store / self._files[0]
            raise UserError(f"{where}: expected soft labels, got {type(error).__name__}: {error}; fetch them again") from None
        self.epochs = len(labels)
        self.batch_size = labels.batch_size  # views that were labelled together
        self._coding = labels.coding
        self._epoch = lru_cache(max(2, _REMEMBERED // (_VIEW * len(self.labels))))(labels.epoch)

    def __len__(self) -> int:
        return self.epochs * len(self.labels)

    def _holds(self) -> str:
        labels = "soft labels" + (f" ({_coding(self._coding)})" if self._coding else "")
        return f"{_images(len(self.labels), self._shape)}, {self.epochs} epochs of views with {labels}"

    def _whole_images(self, index_B: Tensor) -> Tensor:
        return self.images[index_B]

    def epoch(self, number: int) -> Subset[View]:
        """The N views of one epoch, in the order that students saw them; after the last epoch comes the first again."""
        start = number % self.epochs * len(self.labels)
        return Subset(self, range(start, start + len(self.labels)))

    def __getitems__(self, indices: Sequence[int]) -> list[View]:
        index_B, images, classes = self._checked(indices, len(self)), len(self.labels), len(self.classes)
        epoch_B, position_B = index_B // images, index_B % images
        numbers = epoch_B.unique().tolist()
        where = [(epoch_B == number).nonzero().squeeze(1) for number in numbers]
        epochs, positions = [self._epoch(number) for number in numbers], [position_B[at] for at in where]
        views, at_B = (epochs[0].views, positions[0]) if len(epochs) == 1 else _together(epochs, positions)
        x_BCHW = render(self.images, views, at_B, finish=self.pixels.from_levels, augment=epochs[0].augment)
        soft_BK = torch.cat([epoch.logits(at, classes, self._rest) for epoch, at in zip(epochs, positions, strict=True)])
        hard_BK = mixed_hard_labels(self.labels, views, at_B, classes, mixed=True)
        back_B = torch.cat(where).argsort().tolist()
        return [(x_BCHW[at], soft_BK[at], hard_BK[at]) for at in back_B]

    def __getstate__(self) -> dict[str, object]:
        """For a worker that does not share this process's memory: it maps the labels itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_epoch"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()


class LabelledImages(_Distilled[Image]):
    """Whole images: float32 (C,S,S), normalised as networks saw them, and int64 labels ()."""

    def __init__(self, content: _Content, images: Images | Split | Tensor, labels: Tensor) -> None:
        super().__init__(content)
        self.labels = labels  # int64 (N,)
        self._images = images

    def __len__(self) -> int:
        return len(self.labels)

    def _holds(self) -> str:
        return _images(len(self), self._shape, "test images" if isinstance(self._images, Split) else "images")

    def _whole_images(self, index_B: Tensor) -> Tensor:
        images = self._images
        return next(iter(images.whole_images([index_B]))) if isinstance(images, Split) else images[index_B]

    def __getitems__(self, indices: Sequence[int]) -> list[Image]:
        index_B = self._checked(indices, len(self))
        return list(zip(self.pixels.from_bytes(self._whole_images(index_B)), self.labels[index_B], strict=True))


def load(
    path: str | Path, split: Literal["train", "images", "test"] = "train", rest: Literal["mean", "mass"] = "mean"
) -> LabelledViews | LabelledImages:
    """See `gvbsm.load`."""
    root = Path(path)
    if split not in ("train", "images", "test"):
        raise UserError(f"load: split: expected train, images or test, got {split!r}; name one of them")
    if rest not in ("mean", "mass"):
        raise UserError(f"load: rest: expected mean or mass, got {rest!r}; name one of them")
    is_exported = (root / MANIFEST).is_file()
    content = _exported(root) if is_exported else _published(root)
    if split == "images":
        return LabelledImages(content, content.images, content.labels)
    if split == "test":
        if content.data is None:
            raise UserError(
                f"{root}: expected a run, whose test images are known, got an exported folder, which has none; read "
                "them from their source, and give their bytes to pixels.from_bytes"
            )
        test = open_split(content.reader, content.data, "test", _CPU)
        return LabelledImages(content, test, test.labels)
    if not content.labels_files:
        raise UserError(f"{root}: expected stored soft labels, got none (relabel.online); load its images by split='images'")
    return LabelledViews(content, rest)


def _exported(root: Path) -> _Content:
    manifest, classes, images, labels, reader = read_folder(root)
    pixels = Pixels(PixelForm(image_size=manifest.image_size, mean=manifest.mean, std=manifest.std), _CPU)
    return _Content(
        reader=reader,
        labels_files=[labels.file for labels in manifest.labels],
        data=None,
        images=images,
        labels=labels,
        pixels=pixels,
        classes=[exported.identity for exported in classes],
        class_names=[exported.name for exported in classes],
        title=run_title(manifest.dataset, manifest.ipc, manifest.recipe),
        students=_accuracies(manifest.accuracies.get("students")),
    )


def _published(root: Path) -> _Content:
    if root.suffix != ".json" and not (run_folder(root) / ACCURACIES).is_file():
        raise UserError(
            f"{root}: expected a run's folder with acc.json, or an exported one with {MANIFEST}, got neither; name one"
        )
    run = read_run(root)
    images = load_image_set(run.reader, run.inputs.images)
    return _Content(
        reader=run.reader,
        labels_files=run.inputs.labels,
        data=run.inputs.data,
        images=images.resident(_CPU),
        labels=images.labels,
        pixels=Pixels(run.pixels, _CPU),
        classes=run.classes,
        class_names=run.class_names,
        title=run_title(run.accuracies["dataset"], run.accuracies["ipc"], run.accuracies["recipe"]),
        students=_accuracies(run.accuracies["students"]),
    )


def _accuracies(students: Any) -> str:
    """The accuracies of students for people; "" if a folder by others does not hold them as acc.json does."""
    try:
        top1 = {name: result["top1"] for name, result in students.items()}
        return ", ".join(f"{name} {readable_spread(spread['mean'], spread['std'])} %" for name, spread in top1.items())
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""


def _images(count: int, shape_CHW: Sequence[int], what: str = "images") -> str:
    return f"{count} {what} of {' x '.join(map(str, shape_CHW))}"


def _coding(coding: Coding) -> str:
    return coding.values if coding.top is None else f"{coding.values}, top {coding.top}"


def _together(epochs: list[Epoch], positions: list[Tensor]) -> tuple[Views, Tensor]:
    """Views (B,) of several epochs as those of one, each followed by its partner; their positions in it."""
    count = sum(len(at) for at in positions)
    own: list[dict[str, Tensor]] = [_rows(epoch.views, at) for epoch, at in zip(epochs, positions, strict=True)]
    partners = [epoch.views.partner_V[at].long() for epoch, at in zip(epochs, positions, strict=True)]
    mixed_in = [_rows(epoch.views, at) for epoch, at in zip(epochs, partners, strict=True)]
    rows = {name: torch.cat([part[name] for part in (*own, *mixed_in)]) for name in own[0]}
    at_B = torch.arange(count)
    is_alone_B = torch.cat(partners) == torch.cat(positions)
    # Of a partner only the view before mixing is used, so its own partner does not matter.
    rows["partner_V"] = torch.cat([torch.where(is_alone_B, at_B, at_B + count), at_B + count]).int()
    return Views(**rows), at_B


def _rows(views: Views, positions: Tensor) -> dict[str, Tensor]:
    return {name: tensor[positions] for name, tensor in views.tensors().items()}
