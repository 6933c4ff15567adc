"""A row, its networks and config.yaml as typed settings. The values live in `config/`; there are no second defaults here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gvbsm.config import networks as network_names
from gvbsm.config.sources import Seed, Source, Strict
from gvbsm.config.stages import (
    Augment,
    Distilled,
    PerChannel,
    Precision,
    Recover,
    Relabel,
    Select,
    Squeeze,
    Statistics,
    Training,
)

# A file of tensors (.pth, .pt, .safetensors; absolute or below the data root), or torchvision's name for published weights.
Weights = Annotated[str, StringConstraints(pattern=r"^(.+\.(pth|pt|bin|safetensors)|[A-Z][A-Z0-9_]*)$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$", max_length=60)]


_OF_ONE_SIZE = ("digits", "cifar10", "cifar100")  # sources whose images are read as they are


class Network(Strict):
    """A network by name, with its builder's options."""

    name: str
    label: Name  # how results name it
    options: dict[str, bool | int | float | str]

    @model_validator(mode="before")
    @classmethod
    def _known(cls, entry: Any) -> Any:
        is_dict = isinstance(entry, dict)
        network_names.check(entry.get("name") if is_dict else entry, entry.get("options") if is_dict else None)
        return entry


class RecoverThrough(Strict):
    """What recover does otherwise with one teacher than with the rest."""

    precision: Precision


class Backbone(Network):
    """A teacher, with the row's squeeze settings and its own laid over them; with `weights`, it is not trained."""

    weights: Weights | None = None
    squeeze: Squeeze
    recover: RecoverThrough | None = None


class Student(Network):
    """A student, with the row's evaluate settings and its own laid over them."""

    evaluate: Training


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"expected each once, since the same seed gives the same student, got {seeds}; change one")
    return seeds


class Evaluate(Training):
    """Which students are trained, how often, and what is reported."""

    students: Annotated[list[Student], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=100), AfterValidator(_different)]
    baselines: list[Literal["random_soft", "random_hard", "distilled_hard"]]  # images and labels that are trained on beside
    random_seed: Seed  # which real images the random baselines take
    headline: Literal["best", "last"]  # accuracy in the table. published: best test epoch; corrected: last


class Row(Strict):
    """One data set with everything that is done to it."""

    source: Source
    classes: Annotated[int, Field(ge=2, le=100_000)]
    image_size: Annotated[int, Field(ge=8, le=1024)]  # px, square
    resize: Annotated[int, Field(ge=8, le=2048)] | None = None  # px: shorter side before the centre is cut; off: image_size
    storage: Literal["packed", "files"]  # real images packed once as image_size squares, or decoded whenever they are read
    mean: PerChannel  # of pixel values in 0..1
    std: Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=1, max_length=4)]
    augment: Augment
    squeeze: Squeeze
    backbones: Annotated[list[Backbone], Field(min_length=1)]
    statistics: Statistics
    select: Select | None = None  # off (published): recover starts from noise
    recover: Recover
    distilled: Distilled | None = None
    relabel: Relabel
    evaluate: Evaluate

    @property
    def labelled_epochs(self) -> int:
        """Epochs of views that are drawn, and labelled unless teachers do so beside the students; no more than any trains."""
        longest = max(student.evaluate.epochs for student in self.evaluate.students)
        return min(self.relabel.epochs or self.evaluate.epochs, longest)

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        if len(self.mean) != len(self.std):
            raise ValueError(f"std: expected one value per channel ({len(self.mean)}, as mean has), got {len(self.std)}")
        if self.resize and self.resize < self.image_size:
            raise ValueError(f"resize: expected at least image_size ({self.image_size}), got {self.resize}; raise it")
        if self.resize and self.source.kind in _OF_ONE_SIZE:
            raise ValueError(
                f"resize: expected off for a source of kind {self.source.kind}, whose images are not resized so; remove it"
            )
        if self.storage == "files" and self.source.kind not in ("imagefolder", "imagenet"):
            raise ValueError(f"storage: expected packed for a source of kind {self.source.kind}, got files; set it to packed")
        if not (self.recover.iterations or self.select or self.distilled):
            raise ValueError("recover.iterations: expected at least 1 without select, got 0; add select or raise it")
        for section, cells in (("select", self.select and self.select.cells), ("relabel", self.relabel.cells)):
            if cells and self.image_size % cells:
                raise ValueError(
                    f"{section}.cells: expected a divisor of image_size ({self.image_size}), got {cells}; choose another"
                )
        if self.recover.views and self.recover.class_statistics and self.relabel.mix != "none":
            raise ValueError(
                "recover.views: expected off where class_statistics are matched, since mixed views are of no one class; "
                "set either to null, or relabel.mix to none"
            )
        if self.relabel.online and self.relabel.rescale_logits:  # by norms, which are means over a batch
            whole = self.relabel.batch_size
            for student in self.evaluate.students:
                if student.evaluate.accumulate > 1 or student.evaluate.batch_size not in (None, whole):
                    raise ValueError(
                        f"relabel.online: with rescale_logits, expected students in whole batches of {whole}, as relabel has, "
                        f"got others for {student.label!r}; set its batch_size to null and accumulate to 1"
                    )
        if self.relabel.online and self.distilled and self.distilled.labels:
            raise ValueError("relabel.online: expected false with distilled.labels, got true; remove one of them")
        for what, entries in (("backbones", self.backbones), ("evaluate.students", self.evaluate.students)):
            labels = [entry.label for entry in entries]
            twice = sorted({label for label in labels if labels.count(label) > 1})
            if twice:
                raise ValueError(f"{what}: {twice[0]!r} stands twice; give one of them another label")
        return self
