"""Types, bounds and meanings of every stage's settings. Their values are in `config/`; the types have no defaults but "off".

A setting that may be None is off when it is absent. Where the published code is wrong (docs/deviations.md), the setting is a
choice between the published and the corrected behaviour, and its description names both.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gvbsm.config.bounds import (
    Batch,
    Cells,
    Count,
    Epochs,
    Fraction,
    Parts,
    Pixels,
    Precision,
    Rate,
    Ratios,
    Share,
    Shares,
    Weight,
    unit,
)
from gvbsm.config.sources import Seed, Strict


class Compute(Strict):
    """How a stage computes; part of its key, since both can change its bytes."""

    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        description="CPU threads of torch. They change the order of sums, so they are part of the key."
    )
    precision: Precision = Field(
        description="Precision of convolutions and matrix products; a CPU without bfloat16 instructions takes float32 instead."
    )


class Augment(Strict):
    """Random crop and flip of squeeze, statistics and recover."""

    pad: Pixels | None = Field(
        default=None, description="Zeros around an image before a random crop of its own size; off: no such crop."
    )
    resized_crop: Shares | None = Field(
        default=None, description="Smallest and largest share of the area that a random resized crop keeps, instead of `pad`."
    )
    flip: bool = Field(description="Mirror half of the images left to right.")

    @model_validator(mode="after")
    def _at_most_one_crop(self) -> Augment:
        if self.pad and self.resized_crop:
            raise ValueError("expected one of pad and resized_crop, got both (one may be an extended row's); set one to null")
        return self


class Optimised(Compute):
    """Steps of a training."""

    optimizer: Literal["sgd", "adamw"] = Field(description="Optimizer of the weights.")
    lr: Rate = Field(description="Step size at the start.")
    momentum: Fraction | None = Field(default=None, description="Momentum of `sgd`; off with `adamw`.")
    weight_decay: Weight = Field(description="Weight decay.")
    schedule: Literal["constant", "cosine", "step"] = Field(
        description="Step size over the epochs: constant, a cosine to 0, or constant but for `milestones`."
    )
    milestones: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1, max_length=20)] | None = Field(
        default=None,
        description="Shares of `epochs` after which `step` multiplies the step size by `gamma` (EDC's script: .8, .9, .95).",
    )
    gamma: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Factor of `step` at each of the milestones (EDC's script: .5)."
    )

    @model_validator(mode="after")
    def _momentum_belongs_to_sgd(self) -> Optimised:
        if (self.optimizer == "sgd") != (self.momentum is not None):
            raise ValueError(
                f"momentum: expected exactly when optimizer is sgd, got {self.momentum} with {self.optimizer}; "
                f"set it to {'a number (0: none)' if self.momentum is None else 'null'}"
            )
        return self

    @model_validator(mode="after")
    def _milestones_belong_to_step(self) -> Optimised:
        for name, value in (("milestones", self.milestones), ("gamma", self.gamma)):
            if (self.schedule == "step") != (value is not None):
                remedy = f"{'give' if value is None else 'remove'} {name}"
                raise ValueError(f"{name}: expected exactly with schedule: step, got {value} with {self.schedule}; {remedy}")
        if self.milestones and any(b <= a for a, b in pairwise(self.milestones)):
            raise ValueError(f"milestones: expected each above the one before, got {self.milestones}; put them in order")
        return self


class Squeeze(Optimised):
    """Training of one teacher."""

    epochs: Epochs = Field(description="Length of the training.")
    keep_epoch: Epochs | None = Field(
        default=None,
        description="Keep the weights after this epoch; off: after the last. published: 1 of 5, 40 of 50; corrected: off.",
    )
    keep_epochs: Annotated[list[Epochs], Field(min_length=1, max_length=20)] | None = Field(
        default=None,
        description="Epochs of one training, each of which gives a teacher of its own, `<label>_e<epoch>`; off: one teacher.",
    )
    batch_size: Batch = Field(description="Images per batch.", json_schema_extra=unit("images"))
    seed: Seed = Field(description="Seed of the weights and the order of images.")

    @property
    def trained_epochs(self) -> int:
        """Epochs after which the weights are kept."""
        return self.keep_epoch or self.epochs

    @model_validator(mode="after")
    def _kept_epochs_are_trained(self) -> Squeeze:
        kept = self.keep_epochs or []
        if self.keep_epoch and kept:
            raise ValueError(f"keep_epochs: expected off with keep_epoch ({self.keep_epoch}), got {kept}; set either to null")
        if any(b <= a for a, b in pairwise(kept)):
            raise ValueError(f"keep_epochs: expected each above the one before, got {kept}; put them in order")
        for name, last in (("keep_epoch", self.keep_epoch), ("keep_epochs", kept[-1] if kept else None)):
            if last and last > self.epochs:
                raise ValueError(f"{name}: expected at most epochs ({self.epochs}), got {last}; lower it")
        return self


class StatisticsPass(Compute):
    """One pass over the augmented training set."""

    patch_size: Annotated[int, Field(ge=1, le=64)] = Field(
        description="Side of the patches whose moments are measured.", json_schema_extra=unit("px")
    )
    batch_size: Batch = Field(description="Images per batch.", json_schema_extra=unit("images"))
    variance: Literal["mean_of_batches", "pooled"] = Field(
        description="Variance of all images, or the mean of the batches'. published: `mean_of_batches`; corrected: `pooled`."
    )
    seed: Seed = Field(description="Seed of the augmentation and the order of images.")


class Statistics(StatisticsPass):
    """The pass, and through which teacher."""

    measured_in: Literal["twin", "own"] = Field(
        description="The teacher itself, or a twin trained from another seed. published: `twin`; corrected: `own`."
    )


class Ema(Strict):
    """Exponential moving average of the synthetic batch's statistics."""

    momentum: Fraction = Field(description="Weight alpha of the average so far.")
    start: Literal["zero", "first"] = Field(
        description="Start of the average: zero, or the first batch's own statistic. published: `zero`; corrected: `first`."
    )
    reset: Literal["never", "batch"] = Field(
        description="When the average starts anew; `never` makes all batches one job. published: `never`; corrected: `batch`."
    )
    dropped: Literal["skip", "update"] = Field(
        description="What happens to the average of a layer that an iteration skips. published: `skip`; corrected: `update`."
    )


class Densification(Strict):
    """The loss L_DD."""

    weight: Weight = Field(description="Weight d of the loss; 0: off.")
    tau: Annotated[float, Field(gt=0, le=1000)] = Field(description="Temperature of the loss.")
    normalise: Literal["none", "rows", "mean"] = Field(
        description="How eigenvalues are normalised. published: `none`; corrected: `mean` (or `rows`)."
    )


class Select(Compute):
    """Which real images recover starts from."""

    choose: Literal["random", "confidence", "medium", "hard", "clusters", "margin"] = Field(
        description="Any; those with the least cross-entropy in the teachers, in the middle of its order, or with the most; "
        "those nearest to k-means' centres of features; or half such ones, and the least certain one of each such cluster."
    )
    candidates: Count = Field(
        description="Random real images, of which one is chosen for each crop of an image; 1 with `random`."
    )
    crops: Count = Field(description="Random crops of each candidate; the crop with the least cross-entropy stays.")
    scale: Shares = Field(description="Smallest and largest share of the area that a crop keeps.")
    cells: Cells = Field(description="n: an image is made of n x n crops, each shrunk to 1/n of its side.")
    seed: Seed = Field(description="Seed of the candidates and the crops.")

    @model_validator(mode="after")
    def _random_choice_has_one_candidate(self) -> Select:
        if self.choose == "random" and self.candidates > 1:
            raise ValueError(f"candidates: expected 1 with choose: random, which takes any, got {self.candidates}; set it to 1")
        return self


class Keep(Strict):
    """Which statistics of a teacher are matched; a statistic is the channel or patch moments of a layer's input."""

    share: Annotated[float, Field(gt=0, le=1)] = Field(description="Share of each teacher's statistics that is matched.")
    by: Literal["importance", "random"] = Field(
        description="Keep those in which noise differs most from real images (in units of their batches' spread), or any."
    )


class Residual(Strict):
    """Images are mixed with their start between segments of the iterations."""

    segments: Parts = Field(
        description="Equal parts of the iterations. After all but the last the start is mixed in, and Adam begins anew."
    )
    share: Share = Field(description="Share s of the start: x becomes (1 - s) x + s start.")


class Crops(Strict):
    """A random resized crop of a batch, whose least size changes over the iterations."""

    first: Share = Field(description="Smallest share of the area that a crop keeps in the first iteration; the largest is 1.")
    last: Share = Field(description="The same after the last one; a cosine leads from one to the other.")


class Perturb(Strict):
    """Weights of teachers that are moved for each batch."""

    steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="Steps of gradient ascent of the cross-entropy on the batch's start, before its first iteration."
    )
    rho: Rate = Field(description="Sum of the steps' lengths: each is rho / steps long, over all weights of a teacher.")


class EarlyLate(Strict):
    """Some images of a class are optimised for fewer iterations than others."""

    rounds: Parts = Field(
        description="Equal parts of the iterations, n. An n-th of a class's images in a batch joins in each, in their order: "
        "those of round r = 0, 1, ... take part in the last (n - r) / n of the iterations."
    )


class RecoverShard(Compute):
    """Optimisation of a shard of images."""

    iterations: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        description="Steps of Adam per batch, their size falling to 0 by a cosine; none: `select`'s images as they are.",
        json_schema_extra=unit("iterations"),
    )
    lr: Rate = Field(description="Step size of Adam at the start.")
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = Field(
        description="Betas of Adam."
    )
    statistics_weight: Weight = Field(description="Weight r of the statistics' loss; 0: none are measured or matched.")
    first_layer_weight: Weight = Field(description="Weight w of the first hooked layer; others have 1.")
    layers: Annotated[list[Literal["batchnorm", "conv"]], Field(min_length=1, max_length=2)] = Field(
        description="Which layers are matched."
    )
    conv_statistics: Annotated[list[Literal["channel", "patch"]], Field(min_length=1)] = Field(
        description="Which moments of Conv inputs are matched."
    )
    class_statistics: Fraction | None = Field(
        default=None, description="Share of each layer's loss that is matched class by class (EDC: 0.5); off: none."
    )
    keep: Keep | None = Field(default=None, description="Match a part of the statistics; off (published): all.")
    conv_drop: Fraction = Field(description="Probability beta that a Conv layer is skipped in an iteration.")
    backbone_order: Literal["round_robin", "random"] = Field(
        description="Order of the teachers over the iterations. published code: `round_robin`; the paper's figure: `random`."
    )
    roll: Pixels = Field(description="Largest random roll of a batch in each direction, without `views`.")
    ema: Ema = Field(description="Average of the batch's statistics.")
    densification: Densification = Field(description="The densification loss.")
    quantise: Literal["truncate", "round"] = Field(
        description="How values become uint8. published: `truncate`; corrected: `round`."
    )
    encoding: Literal["jpeg", "lossless"] = Field(
        description="How images are stored. published (ImageNet): `jpeg` at quality 75; corrected: `lossless`."
    )
    residual: Residual | None = Field(
        default=None, description="Mix images with their start between segments of the iterations (FADRM); off: never."
    )
    crops: Crops | None = Field(
        default=None,
        description="Random resized crop of a batch, instead of `augment`'s crop, whose least size changes over the iterations "
        "(CDA); off: `augment`'s.",
    )
    perturb: Perturb | None = Field(
        default=None, description="Move the teachers' weights for each batch, before it is optimised (DWA); off: none."
    )
    early_late: EarlyLate | None = Field(
        default=None, description="Images join a batch in rounds, the first of each class at once (DELT); off: all at once."
    )
    compile: bool = Field(description="Use torch.compile for teachers and their statistics; it changes the order of sums.")
    seed: Seed = Field(description="Seed of the noise and all draws.")

    @model_validator(mode="after")
    def _matched_statistics_have_weight(self) -> RecoverShard:
        for name in ("class_statistics", "keep"):
            if getattr(self, name) and not self.statistics_weight:
                raise ValueError(f"{name}: expected off where statistics_weight is 0; set it to null, or raise the weight")
        return self

    @model_validator(mode="after")
    def _iterations_can_be_divided(self) -> RecoverShard:
        for name, parts in (
            ("residual.segments", self.residual and self.residual.segments),
            ("early_late.rounds", self.early_late and self.early_late.rounds),
        ):
            if parts and 0 < self.iterations < parts:
                raise ValueError(f"{name}: expected at most iterations ({self.iterations}), got {parts}; lower it")
        return self

    @model_validator(mode="after")
    def _moved_weights_are_exact(self) -> RecoverShard:
        if self.perturb and self.precision != "float32":
            raise ValueError(
                f"precision: expected float32 with perturb, whose small changes of weights are lost in {self.precision}; "
                "set it to float32, or perturb to null"
            )
        return self

    @property
    def needs_statistics(self) -> bool:
        """Whether recover matches more than the running moments of BatchNorm layers, which are part of a teacher's weights."""
        more = "conv" in self.layers or self.class_statistics or self.keep
        return bool(self.iterations and self.statistics_weight and more)


class Recover(RecoverShard):
    """Optimisation of all images, and how they are divided into batches and jobs."""

    batch_size: Batch = Field(description="Most images that are optimised together.", json_schema_extra=unit("images"))
    group: Batch = Field(description="Images of a class that share a batch.", json_schema_extra=unit("images"))
    batching: Literal["class_major", "group"] = Field(
        description="Batches of groups, or the list by class cut every `batch_size`. published: `class_major`; ours: `group`."
    )
    shard_batches: Count = Field(
        description="Batches per job. They change no byte of an image.", json_schema_extra=unit("batches")
    )
    views: Literal["relabel"] | None = Field(
        default=None,
        description="Show every image as relabel draws views; off (published): one crop, flip and roll for a whole batch.",
    )
    snapshots: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1, max_length=20)] | None = Field(
        default=None,
        description="Shares of the iterations at which the first image of up to ten classes is kept for a picture; off: none.",
    )

    @model_validator(mode="after")
    def _room_for_a_group(self) -> Recover:
        if self.batch_size < self.group:
            raise ValueError(f"batch_size: expected at least group ({self.group}), got {self.batch_size}; raise it")
        return self

    @model_validator(mode="after")
    def _views_have_one_kind_of_crop(self) -> Recover:
        if self.crops and self.views:
            raise ValueError(f"crops: expected off with views: {self.views}, which has its own crops; set either to null")
        return self

    @model_validator(mode="after")
    def _images_can_join_later(self) -> Recover:
        if self.early_late and self.group == 1:
            raise ValueError(
                "early_late: expected off with group: 1, where a batch has one image of a class; raise group or set it to null"
            )
        return self


class RandAugment(Strict):
    """Random operations on a view before it is mixed (Cubuk et al. 2020)."""

    operations: Annotated[int, Field(ge=1, le=8)] = Field(description="Operations per view.")
    magnitude: Annotated[int, Field(ge=0, le=30)] = Field(description="Strength of the operations, of 30.")


class ViewsOfImages(Strict):
    """How the views of an image set are drawn."""

    batch_size: Batch = Field(description="Views per batch.", json_schema_extra=unit("views"))
    scale: Shares = Field(description="Smallest and largest share of the area that a view's crop keeps.")
    ratio: Ratios = Field(description="Smallest and largest width / height of the crop.")
    cells: Cells | None = Field(
        default=None,
        description="n: a view is a crop of one of the n x n cells of its image (`select.cells`); off: of the whole.",
    )
    flip: bool = Field(description="Mirror half of the views left to right.")
    rand_augment: RandAugment | None = Field(
        default=None, description="Random operations on a view before it is mixed; off: none."
    )
    mix: Literal["cutmix", "mixup", "none"] = Field(description="How two views are mixed.")
    mix_alpha: Rate = Field(description="Parameter of the Beta distribution of the mix.")
    seed: Seed = Field(description="Seed of the views.")


class Coding(Strict):
    """How logits are stored."""

    values: Literal["float32", "float16", "int8", "int4"] = Field(
        description="Number format of stored logits; integers lie between a view's least and largest. published: `float16`."
    )
    top: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="How many of a view's largest logits are stored, beside mean and mass of the rest; off (published): all.",
    )


class TeachersLabels(Compute):
    """How teachers label a view."""

    mixup_labels: Literal["unmixed", "mixed"] = Field(
        description="With `mix: mixup`, teachers label a view before or after mixing. published: `unmixed`; corrected: `mixed`."
    )
    rescale_logits: bool = Field(description="Scale every teacher's logits to the mean norm.")
    batchnorm: Literal["batch"] | None = Field(
        default=None,
        description="Teachers' BatchNorm has the moments of the views that are labelled together (SRe2L++), or (off) its own.",
    )
    batchnorm_part: Annotated[int, Field(ge=2, le=65_536)] | None = Field(
        default=None,
        description="Views of a batch of which `batchnorm` takes moments (SRe2L++: 8 of 16); off: the whole batch.",
        json_schema_extra=unit("views"),
    )

    @model_validator(mode="after")
    def _parts_belong_to_batchnorm(self) -> TeachersLabels:
        if self.batchnorm_part and not self.batchnorm:
            raise ValueError(
                f"batchnorm_part: expected only with batchnorm: batch, got {self.batchnorm_part}; remove it, or set batchnorm"
            )
        return self


class RelabelShard(ViewsOfImages, TeachersLabels):
    """Views and their stored soft labels."""

    coding: Coding = Field(description="How logits are stored.")

    @model_validator(mode="after")
    def _a_batch_has_moments(self) -> RelabelShard:
        least = self.batchnorm_part or 2
        if self.batchnorm and self.batch_size < least:
            raise ValueError(f"batch_size: expected at least {least} for batchnorm, got {self.batch_size}; raise it")
        return self


class Relabel(RelabelShard):
    """The labels of all epochs, and how they are divided into jobs."""

    epochs: Epochs | None = Field(
        default=None,
        description="Epochs of views and labels, which longer trainings use again; off (published): as many as evaluate has.",
    )
    shard_epochs: Epochs = Field(description="Epochs per job.")
    online: bool = Field(description="Store nothing: the teachers run beside every student, in every step.")


class HardTraining(Optimised):
    """Training of one student on hard labels."""

    epochs: Epochs = Field(description="Length of the training.")
    batch_size: Batch | None = Field(
        default=None, description="Views per batch; off (published): the batches of relabel.", json_schema_extra=unit("views")
    )
    stretch: Annotated[float, Field(ge=1, le=100)] | None = Field(
        default=None, description="The cosine reaches 0 after this many times `epochs` (EDC: 2); off: 1."
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Largest decay of the moving average of weights that is tested; off: the weights themselves are tested.",
    )
    accumulate: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="Parts of a batch, to save memory; BatchNorm sees one part."
    )
    hard_label: Literal["unmixed", "mixed"] = Field(
        description="Hard label of a mixed view. published: `unmixed`; corrected: `mixed`."
    )
    test_every: Epochs = Field(description="Epochs between tests; the last epoch is always tested.")

    @model_validator(mode="after")
    def _stretch_belongs_to_cosine(self) -> HardTraining:
        if self.stretch and self.schedule != "cosine":
            raise ValueError(f"stretch: expected only with schedule: cosine, got schedule: {self.schedule}; set it to null")
        return self


class Training(HardTraining):
    """Training of one student on soft labels."""

    loss: Literal["mse", "kl", "dist", "gift"] = Field(description="Loss against soft labels.")
    temperature: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        default=None, description="Temperature of `kl`; off with other losses."
    )
    hard_weight: Weight = Field(description="Weight gamma of the cross-entropy against hard labels.")

    @model_validator(mode="after")
    def _temperature_belongs_to_kl(self) -> Training:
        if (self.loss == "kl") != (self.temperature is not None):
            raise ValueError("temperature: expected exactly when loss is kl; add or remove it")
        return self
