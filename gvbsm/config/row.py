"""A row and its networks as typed settings. Their values are in `config/`; the types have no defaults but "off"."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from gvbsm.config import networks as network_names
from gvbsm.config.bounds import Option, PerChannel, Precision, text_like, unit
from gvbsm.config.images import Recover, Select
from gvbsm.config.labels import Relabel
from gvbsm.config.sources import Distilled, ImageNet, Seed, Source, Strict
from gvbsm.config.students import Training
from gvbsm.config.teachers import Augment, Squeeze, Statistics

# A file of tensors (.pth, .pt, .safetensors; absolute or below the data root), or the name of published weights.
Weights = Annotated[
    str,
    *text_like(
        r"[^\x00]+\.(pth|pt|bin|safetensors)|[A-Za-z0-9_]+",
        "a file that ends in .pth, .pt, .bin or .safetensors, or the name of published weights",
    ),
]
Name = Annotated[str, *text_like(r"[A-Za-z0-9][A-Za-z0-9_.]{0,59}", "at most 60 letters, digits, _ and .")]


_NEVER_CROPPED = ("digits", "cifar10", "cifar100")  # sources of small square images, which `resize` does not concern


class Network(Strict):
    """A network by name, with its builder's options."""

    name: str = Field(description="Name of a network (`gvbsm networks` lists them).")
    label: Name = Field(description="How results name the network; by default its name without `timm:` or `torchvision:`.")
    options: dict[str, Option] = Field(description="Options of the network's builder.")

    @model_validator(mode="before")
    @classmethod
    def _exists_with_its_options(cls, entry: Any) -> Any:
        if isinstance(entry, dict):
            network_names.check(network_names.of_entry(entry), entry.get("options"))
        else:
            network_names.check(entry, None)
        return entry


class RecoverThrough(Strict):
    """Settings of recover for one teacher."""

    cpu_precision: Precision = Field(
        description="Precision of recover with this teacher on a CPU; elsewhere it is `recover.precision`."
    )


class Backbone(Network):
    """A teacher, with the row's squeeze settings and its own laid over them; with `weights`, it is not trained."""

    weights: Weights | None = Field(
        default=None,
        description="File with a state dict, or published weights: torchvision's by name, timm's by tag or `pretrained`; the "
        "teacher is not trained then.",
    )
    trust_weights: bool = Field(
        default=False,
        description="Accept `weights` whose test accuracy is near chance, or would be far higher in another order of classes.",
    )
    squeeze: Squeeze = Field(description="Settings of squeeze that this teacher has for itself.")
    recover: RecoverThrough | None = Field(default=None, description="Settings of recover that this teacher has for itself.")

    @model_validator(mode="after")
    def _weights_have_a_name_of_the_library(self) -> Backbone:
        if self.weights and "." not in self.weights:
            network_names.check_weights(self.name, self.weights, self.options)
        return self

    def kept(self) -> list[Backbone]:
        """The teachers of this entry: one, or one for each of `squeeze.keep_epochs`."""
        if not self.squeeze.keep_epochs:
            return [self]
        if self.weights:  # it is not trained
            return [self._after(None, self.label)]
        return [self._after(epoch, f"{self.label}_e{epoch}") for epoch in self.squeeze.keep_epochs]

    def after_its_last_epoch(self) -> Backbone:
        """This network without `squeeze.keep_epochs`, which is for teachers."""
        return self._after(self.squeeze.keep_epoch, self.label)

    def _after(self, epoch: int | None, label: str) -> Backbone:
        last = None if epoch == self.squeeze.epochs else epoch  # so that it is the teacher of a row without these settings
        squeeze = self.squeeze.model_copy(update={"keep_epochs": None, "keep_epoch": last})
        return self.model_copy(update={"label": label, "squeeze": squeeze})

    def is_same_as(self, other: Backbone | None) -> bool:
        """Whether the two are one network with the same weights, whatever they are called."""
        decisive = {"name", "options", "weights"} | (set() if self.weights else {"squeeze"})
        return other is not None and self.model_dump(include=decisive) == other.model_dump(include=decisive)


class Student(Network):
    """A student, with the row's evaluate settings and its own laid over them."""

    evaluate: Training = Field(description="Settings of evaluate that this student has for itself.")


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"expected different seeds, since equal seeds give equal students, got {seeds}; change one")
    return seeds


class Evaluate(Training):
    """Which students are trained, how often, and what is reported."""

    students: Annotated[list[Student], Field(min_length=1)] = Field(
        description="Networks that are trained: each a name, or an object."
    )
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=100), AfterValidator(_different)] = Field(
        description="Seeds of the students: each student is trained once per seed."
    )
    baselines: list[Literal["random_soft", "random_hard", "distilled_hard"]] = Field(
        description="Other images and labels that students are also trained on, under the same schedule; `[]`: none."
    )
    random_seed: Seed = Field(description="Seed of the choice of real images for the random baselines.")
    headline: Literal["best", "last"] = Field(
        description="Accuracy in `table.csv`: of the best tested epoch or the last. published: `best`; corrected: `last`."
    )


class Row(Strict):
    """One data set with everything that is done to it."""

    source: Source = Field(description="Where the images come from.")
    classes: Annotated[int, Field(ge=2, le=100_000)] = Field(description="Number of classes.")
    image_size: Annotated[int, Field(ge=8, le=1024)] = Field(
        description="Side of the square images.", json_schema_extra=unit("px")
    )
    resize: Annotated[int, Field(ge=8, le=2048)] | None = Field(
        default=None,
        description="Shorter side of a real image before its centre is cut out; off: `image_size`.",
        json_schema_extra=unit("px"),
    )
    storage: Literal["packed", "files"] = Field(
        description="Real images packed once as squares of `image_size`, or decoded whenever they are read."
    )
    mean: PerChannel = Field(description="Mean of pixel values in 0..1 per channel: one for grey images, three for RGB.")
    std: Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=1, max_length=4)] = Field(
        description="Standard deviation of pixel values in 0..1 per channel."
    )
    augment: Augment = Field(description="Random crop and flip of squeeze, statistics and recover.")
    squeeze: Squeeze = Field(description="Training of the teachers.")
    backbones: Annotated[list[Backbone], Field(min_length=1)] = Field(description="Teachers: each a name, or an object.")
    judge: Backbone | None = Field(
        default=None,
        description="Network that is no teacher and is asked for the classes of the distilled images; off: none.",
    )
    statistics: Statistics = Field(description="Measurement of the training set inside each teacher.")
    select: Select | None = Field(
        default=None, description="Real images that recover starts from; off (published): it starts from noise."
    )
    recover: Recover = Field(description="Optimisation of the images.")
    distilled: Distilled | None = Field(default=None, description="Images by others instead of recover's; off: none.")
    relabel: Relabel = Field(description="Views and their soft labels.")
    evaluate: Evaluate = Field(description="Training of the students.")

    @property
    def labelled_epochs(self) -> int:
        """Epochs of views: drawn, and labelled by relabel or by online teachers. At most those of the longest training."""
        longest = max(student.evaluate.epochs for student in self.evaluate.students)
        return min(self.relabel.epochs or self.evaluate.epochs, longest)

    @model_validator(mode="after")
    def _images_can_be_read(self) -> Row:
        kind = self.source.kind
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"std: expected one value per channel ({len(self.mean)}, as mean has), got {len(self.std)}; "
                "give mean and std as many values"
            )
        if self.resize and self.resize < self.image_size:
            raise ValueError(f"resize: expected at least image_size ({self.image_size}), got {self.resize}; raise it")
        if self.resize and kind in _NEVER_CROPPED:
            raise ValueError(f"resize: expected off for a source of kind {kind}, whose images are not cropped; remove it")
        if self.storage == "files" and kind not in ("imagefolder", "imagenet"):
            raise ValueError(f"storage: expected packed for a source of kind {kind}, got files; set it to packed")
        return self

    @model_validator(mode="after")
    def _classes_are_those_of_the_source(self) -> Row:
        named = self.source.classes if isinstance(self.source, ImageNet) else None
        if named and len(named) != self.classes:
            raise ValueError(f"classes: expected {len(named)}, as source.classes has, got {self.classes}; correct one of them")
        return self

    @model_validator(mode="after")
    def _images_can_be_made(self) -> Row:
        if not (self.recover.iterations or self.select or self.distilled):
            raise ValueError("recover.iterations: expected at least 1 without select, got 0; add select or raise it")
        for section, cells in (("select", self.select and self.select.cells), ("relabel", self.relabel.cells)):
            if cells and self.image_size % cells:
                raise ValueError(
                    f"{section}.cells: expected a divisor of image_size ({self.image_size}), got {cells}; choose another"
                )
        if self.recover.views and self.recover.class_statistics and self.relabel.mix != "none":
            raise ValueError(
                "recover.views: expected off where class_statistics are matched, since mixed views have no single class; "
                "set either to null, or relabel.mix to none"
            )
        return self

    @model_validator(mode="after")
    def _parts_are_no_larger_than_the_whole(self) -> Row:
        for name, value in (("statistics.patch_size", self.statistics.patch_size), ("augment.pad", self.augment.pad)):
            if value and value > self.image_size:
                raise ValueError(f"{name}: expected at most image_size ({self.image_size}), got {value}; lower it")
        of_others = self.distilled and self.distilled.labels  # whose batches only their files tell
        for student in self.evaluate.students:
            batch = student.evaluate.batch_size or (None if of_others else self.relabel.batch_size)
            if batch and student.evaluate.accumulate > batch:
                raise ValueError(
                    f"evaluate.accumulate: expected at most {batch}, the views of a batch of {student.label!r}, got "
                    f"{student.evaluate.accumulate}; lower it, or raise the batch_size of evaluate or relabel"
                )
        return self

    @model_validator(mode="after")
    def _noise_is_not_mixed_in_again(self) -> Row:
        if self.recover.residual and self.recover.iterations and not (self.select or self.distilled):
            raise ValueError(
                "recover.residual: expected off without select, since images then start from noise, which it would mix in "
                "again; set it to null, or add select"
            )
        return self

    @model_validator(mode="after")
    def _moved_weights_are_exact(self) -> Row:
        for place, teacher in enumerate(self.backbones if self.recover.perturb else []):
            if teacher.recover and teacher.recover.cpu_precision != "float32":
                precision = teacher.recover.cpu_precision
                raise ValueError(
                    f"backbones[{place}].recover.cpu_precision: expected float32 with recover.perturb, whose small changes of "
                    f"weights are lost in {precision}; set it to float32, or perturb to null"
                )
        return self

    @model_validator(mode="after")
    def _online_labels_can_be_made(self) -> Row:
        batch_size = self.relabel.batch_size
        # Both take means over the views of a batch.
        over_batches = [name for name in ("rescale_logits", "batchnorm") if getattr(self.relabel, name)]
        for student in self.evaluate.students if self.relabel.online and over_batches else []:
            if student.evaluate.accumulate > 1 or student.evaluate.batch_size not in (None, batch_size):
                raise ValueError(
                    f"relabel.online: with {over_batches[0]}, expected students in whole batches of {batch_size}, "
                    f"as relabel has, got others for {student.label!r}; set its batch_size to null and accumulate to 1"
                )
        if self.relabel.online and self.distilled and self.distilled.labels:
            raise ValueError("relabel.online: expected false with distilled.labels, got true; remove one of them")
        return self

    @model_validator(mode="after")
    def _labels_differ(self) -> Row:
        teachers = [teacher for entry in self.backbones for teacher in entry.kept()]
        for section, entries in (("backbones", teachers), ("evaluate.students", self.evaluate.students)):
            labels = [entry.label for entry in entries]
            twice = sorted({label for label in labels if labels.count(label) > 1})
            if twice:
                raise ValueError(f"{section}: {twice[0]!r} appears twice; give one of them another label")
        judge = self.judge and self.judge.after_its_last_epoch()
        for place, teacher in [(place, teacher) for place, entry in enumerate(self.backbones) for teacher in entry.kept()]:
            if judge and teacher.is_same_as(judge):
                raise ValueError(f"judge: expected a network that is no teacher, got that of backbones[{place}]; name another")
            if judge and teacher.label == judge.label:
                raise ValueError(f"judge: {teacher.label!r} is the label of backbones[{place}]; give the judge another label")
        return self

    def with_kept_epochs(self) -> Row:
        """This row, each of its `squeeze.keep_epochs` a backbone of its own."""
        backbones = [teacher for entry in self.backbones for teacher in entry.kept()]
        return self.model_copy(update={"backbones": backbones, "judge": self.judge and self.judge.after_its_last_epoch()})
