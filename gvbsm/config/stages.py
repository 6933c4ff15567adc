"""Types, bounds and units of every stage's settings. The values live in `config/`; there are no second defaults here.

An entry that may be None is off when it is absent. Where the published code is wrong (METHOD.md section 6), the setting
is a choice between the published behaviour and the corrected one; each such line below says which is which.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from gvbsm.config.sources import DataPath, Files, Seed, Strict

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Batch = Annotated[int, Field(ge=1, le=65_536)]
Rate = Annotated[float, Field(gt=0, le=100)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=0, le=1024)]


def _ordered(interval: list[float]) -> list[float]:
    if interval[0] > interval[1]:
        raise ValueError(f"expected the least before the most, got {interval}; change places")
    return interval


_Two = (Field(min_length=2, max_length=2), AfterValidator(_ordered))
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], *_Two]  # the least and the most of an area
Ratios = Annotated[list[Annotated[float, Field(gt=0, le=100)]], *_Two]  # width / height, likewise
PerChannel = Annotated[list[float], Field(min_length=1, max_length=4)]
Cells = Annotated[int, Field(ge=1, le=16)]  # per direction
Precision = Literal["float32", "bfloat16"]  # of convolutions and matrix products (autocast)


class Compute(Strict):
    """How a stage computes; part of its key, since both can change its bytes."""

    threads: Annotated[int, Field(ge=1, le=256)]  # CPU threads of torch; they change the order of sums
    precision: Precision


class Augment(Strict):
    """Random crop and flip of squeeze, statistics and recover."""

    pad: Pixels | None = None  # px of zeros around the image before a crop of its own size
    resized_crop: Shares | None = None  # share of the area that a resized crop keeps, instead of `pad`
    flip: bool  # mirror half of the images left to right

    @model_validator(mode="after")
    def _one_crop(self) -> Augment:
        if self.pad and self.resized_crop:
            raise ValueError("expected one of pad and resized_crop, got both (one may be an extended row's); set one to null")
        return self


class Optimised(Compute):
    """Steps of a training."""

    optimizer: Literal["sgd", "adamw"]
    lr: Rate
    momentum: Fraction | None = None  # sgd only
    weight_decay: Weight
    schedule: Literal["constant", "cosine"]  # over all epochs, to 0

    @model_validator(mode="after")
    def _moved(self) -> Optimised:
        if (self.optimizer == "sgd") != (self.momentum is not None):
            raise ValueError(
                f"momentum: expected exactly when optimizer is sgd, got {self.momentum} with {self.optimizer}; "
                f"set it to {'a number (0: none)' if self.momentum is None else 'null'}"
            )
        return self


class Squeeze(Optimised):
    """Training of one teacher."""

    epochs: Epochs
    keep_epoch: Epochs | None = None  # keep the weights after this epoch. published: 1 of 5, 40 of 50; corrected: off
    batch_size: Batch  # images
    seed: Seed

    @model_validator(mode="after")
    def _kept(self) -> Squeeze:
        if self.keep_epoch and self.keep_epoch > self.epochs:
            raise ValueError(f"keep_epoch: expected at most epochs ({self.epochs}), got {self.keep_epoch}; lower it")
        return self


class StatisticsPass(Compute):
    """One pass over the augmented training set."""

    patch_size: Annotated[int, Field(ge=1, le=64)]  # px
    batch_size: Batch  # images
    variance: Literal["mean_of_batches", "pooled"]  # published: mean_of_batches; corrected: pooled
    seed: Seed


class Statistics(StatisticsPass):
    """The pass, and through which teacher."""

    measured_in: Literal["twin", "own"]  # published: twin (the same network trained from another seed); corrected: own


class Ema(Strict):
    """Exponential moving average of the synthetic batch's statistics."""

    momentum: Fraction  # alpha
    start: Literal["zero", "first"]  # published: zero; corrected: the first batch's own statistic
    reset: Literal["never", "batch"]  # published: never between batches (one job then); corrected: at every batch
    dropped: Literal["skip", "update"]  # a layer dropped this iteration. published: skip; corrected: update


class Densification(Strict):
    """The loss L_DD."""

    weight: Weight  # d
    tau: Annotated[float, Field(gt=0, le=1000)]
    normalise: Literal["none", "rows", "mean"]  # published: none; corrected: mean (or rows)


class Select(Compute):
    """Which real images recover starts from."""

    choose: Literal["random", "confidence", "clusters"]  # by the teachers: least cross-entropy, or nearest to k-means' centres
    candidates: Count  # random real images per part of an image, among which is chosen
    crops: Count  # random crops of each, of which the one with the least cross-entropy stays
    scale: Shares  # share of the area that a crop keeps
    cells: Cells  # n: an image is made of n x n crops, each shrunk to 1/n of its side
    seed: Seed

    @model_validator(mode="after")
    def _chosen(self) -> Select:
        if self.choose == "random" and self.candidates > 1:
            raise ValueError(f"candidates: expected 1 with choose: random, which takes any, got {self.candidates}; set it to 1")
        return self


class Keep(Strict):
    """Which statistics of a teacher are matched; a statistic is the channel or patch moments of a layer's input."""

    share: Annotated[float, Field(gt=0, le=1)]
    by: Literal["importance", "random"]  # what noise is furthest from, in units of how batches of real images differ; or any


class RecoverShard(Compute):
    """Optimisation of a shard of images."""

    iterations: Annotated[int, Field(ge=0, le=1_000_000)]  # per batch of images; 0: selected images stay as they are
    lr: Rate  # Adam
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    statistics_weight: Weight  # r
    first_layer_weight: Weight  # w of the first hooked layer; 1 elsewhere
    layers: Annotated[list[Literal["batchnorm", "conv"]], Field(min_length=1, max_length=2)]
    conv_statistics: Annotated[list[Literal["channel", "patch"]], Field(min_length=1)]
    class_statistics: Fraction | None = None  # share of L_l that is matched class by class (EDC: .5); off: none
    keep: Keep | None = None  # off (published): all statistics are matched
    conv_drop: Fraction  # beta: probability that a Conv layer is skipped in an iteration
    backbone_order: Literal["round_robin", "random"]  # published code: round_robin; the paper's figure: random
    roll: Pixels  # px: largest roll in each direction
    ema: Ema
    densification: Densification
    quantise: Literal["truncate", "round"]  # to uint8. published: truncate; corrected: round
    encoding: Literal["jpeg", "lossless"]  # published (ImageNet): jpeg at quality 75; corrected: lossless
    compile: bool  # teachers and their statistics as graphs of torch.compile; changes the order of sums
    seed: Seed

    @model_validator(mode="after")
    def _weighed(self) -> RecoverShard:
        for name in ("class_statistics", "keep"):
            if getattr(self, name) and not self.statistics_weight:
                raise ValueError(f"{name}: expected off where statistics_weight is 0; set it to null, or raise the weight")
        return self

    @property
    def needs_statistics(self) -> bool:
        """Whether more is matched than the running moments of BatchNorm layers, which teachers hold themselves."""
        more = "conv" in self.layers or self.class_statistics or self.keep
        return bool(self.iterations and self.statistics_weight and more)


class Recover(RecoverShard):
    """Optimisation of all images, and how they are divided into batches and jobs."""

    batch_size: Batch  # images
    group: Batch  # images of a class that share a batch
    batching: Literal["class_major", "group"]  # published: class_major list cut anywhere; ours: group
    shard_batches: Count  # batches per job
    views: Literal["relabel"] | None = None  # what an iteration sees: as relabel draws; off (published): one crop, flip, roll
    # Shares of the iterations before which the first image of up to ten classes is kept, for a picture; off: none
    snapshots: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1, max_length=20)] | None = None

    @model_validator(mode="after")
    def _room_for_a_group(self) -> Recover:
        if self.batch_size < self.group:
            raise ValueError(f"batch_size: expected at least group ({self.group}), got {self.batch_size}; raise it")
        return self


class Distilled(Files):
    """Images by others, below the data root or absolute, instead of recover's; perhaps with their soft labels."""

    images: DataPath  # folder or archive: a folder per class, called as the class, or new000, new001, ... by label
    labels: DataPath | None = None  # folder of epoch_<k>/batch_<i>.tar; off: relabel makes new ones
    seed: Seed | None = None  # of the sampler when the labels were made. published: 42

    @model_validator(mode="after")
    def _sampled(self) -> Distilled:
        if (self.labels is None) != (self.seed is None):
            raise ValueError("seed: expected exactly when labels are given; add (published scripts: 42) or remove it")
        return self


class RandAugment(Strict):
    """Random operations on a view before it is mixed (Cubuk et al. 2020)."""

    operations: Annotated[int, Field(ge=1, le=8)]  # per view
    magnitude: Annotated[int, Field(ge=0, le=30)]  # of 30


class ViewsOfImages(Strict):
    """How the views of an image set are drawn."""

    batch_size: Batch  # views per batch
    scale: Shares  # share of the area that a view's crop keeps
    ratio: Ratios  # width / height of the crop
    cells: Cells | None = None  # n: a view is a crop of one of the n x n cells of its image; off: of the whole
    flip: bool
    rand_augment: RandAugment | None = None
    mix: Literal["cutmix", "mixup", "none"]
    mix_alpha: Rate  # of the Beta distribution
    seed: Seed


class Coding(Strict):
    """How logits are stored."""

    values: Literal["float32", "float16", "int8", "int4"]  # integers between a view's least and largest. published: float16
    top: Annotated[int, Field(ge=1)] | None = None  # the largest logits of a view, and of the rest mean and mass; None: all


class TeachersLabels(Compute):
    """What teachers make of a view."""

    mixup_labels: Literal["unmixed", "mixed"]  # soft labels from which image. published: unmixed; corrected: mixed
    rescale_logits: bool  # every teacher's logits to the mean norm


class RelabelShard(ViewsOfImages, TeachersLabels):
    """Views and their stored soft labels."""

    coding: Coding


class Relabel(RelabelShard):
    """The labels of all epochs, and how they are divided into jobs."""

    epochs: Epochs | None = None  # used again by students who train for more; off (published): as many as evaluate has
    shard_epochs: Epochs  # epochs per job
    online: bool  # nothing is stored: students train beside the teachers


class HardTraining(Optimised):
    """Training of one student on hard labels."""

    epochs: Epochs
    batch_size: Batch | None = None  # views; off (published): the batches of relabel
    stretch: Annotated[float, Field(ge=1, le=100)] | None = None  # cosine: where it is 0, in trainings (EDC: 2); off: 1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # largest decay per step of the average that is tested; off
    accumulate: Annotated[int, Field(ge=1, le=1024)]  # parts of a batch; BatchNorm sees one part
    hard_label: Literal["unmixed", "mixed"]  # of a mixed view. published: unmixed; corrected: mixed
    test_every: Epochs  # epochs between tests; the last is always tested


class Training(HardTraining):
    """Training of one student on soft labels."""

    loss: Literal["mse", "kl", "dist"]
    temperature: Annotated[float, Field(gt=0, le=1000)] | None = None  # kl only
    hard_weight: Weight  # gamma: of the cross-entropy against hard labels

    @model_validator(mode="after")
    def _stretched(self) -> Training:
        if self.stretch and self.schedule != "cosine":
            raise ValueError(f"stretch: expected only with schedule: cosine, got schedule: {self.schedule}; remove it")
        return self

    @model_validator(mode="after")
    def _tempered(self) -> Training:
        if (self.loss == "kl") != (self.temperature is not None):
            raise ValueError("temperature: expected exactly when loss is kl; add or remove it")
        return self
