"""Settings of distilled images: which real images they start from, and how they are optimised."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gvbsm.config.bounds import ONCE, Batch, Cells, Count, Fraction, Parts, Pixels, Rate, Ratios, Share, Shares, Weight, unit
from gvbsm.config.sources import Seed, Strict
from gvbsm.config.steps import Compute

LayerKinds = Annotated[list[Literal["batchnorm", "conv"]], Field(min_length=1, max_length=2), ONCE]


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
        description="Any; least, middle or most cross-entropy in the teachers; nearest to k-means' centres; half such, half "
        "least certain."
    )
    candidates: Count = Field(
        description="Random real images, of which one is chosen for each crop of an image; 1 with `random`."
    )
    crops: Count = Field(description="Random crops of each candidate; the crop with the least cross-entropy stays.")
    scale: Shares = Field(description="Smallest and largest share of the area that a crop keeps.")
    ratio: Ratios | None = Field(
        default=None, description="Smallest and largest width / height of a crop (RDED: 1, squares); off: 3/4 and 4/3."
    )
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
        description="Equal parts of the iterations, n. In each an n-th of a class's images joins a batch: round r (from 0) has "
        "the last (n - r) / n of them."
    )


class RecoverShard(Compute):
    """Optimisation of a shard of images."""

    iterations: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        description="Steps of Adam per batch, their size falling to 0 by a cosine; 0: `select`'s images as they are.",
        json_schema_extra=unit("iterations"),
    )
    lr: Rate = Field(description="Step size of Adam at the start.")
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = Field(
        description="Betas of Adam."
    )
    statistics_weight: Weight = Field(description="Weight r of the statistics' loss; 0: none are measured or matched.")
    first_layer_weight: Weight = Field(description="Weight w of the first hooked layer; others have 1.")
    variance_weight: Weight | None = Field(
        default=None, description="Weight of the terms of variances; those of means have 1 (DWA: 11; for ImageNet 2); off: 1."
    )
    layers: LayerKinds = Field(description="Which layers are matched.")
    conv_statistics: Annotated[list[Literal["channel", "patch"]], Field(min_length=1), ONCE] = Field(
        description="Which moments of Conv inputs are matched."
    )
    class_statistics: Fraction | None = Field(
        default=None, description="Share of each layer's loss that is matched class by class, after EDC's equation; off: none."
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
    outputs: Literal["all"] | None = Field(
        default=None,
        description="Outputs in the cross-entropy: all that a teacher's given weights have, such as ImageNet's 1,000; off: the "
        "row's classes.",
    )
    compile: bool = Field(description="Use torch.compile for teachers and their statistics; it changes the order of sums.")
    seed: Seed = Field(description="Seed of the noise and all draws.")

    @model_validator(mode="after")
    def _matched_statistics_have_weight(self) -> RecoverShard:
        for name in ("class_statistics", "keep", "variance_weight"):
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
        description="`group`: batches of groups; `class_major` (published): the list by class, cut every `batch_size`."
    )
    shard_batches: Count = Field(
        description="Batches per job. They change no byte of an image, but where `compile` on a GPU pays only for many.",
        json_schema_extra=unit("batches"),
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
