"""recover: optimise a shard of synthetic images against teachers and statistics.

Inputs: teachers, their statistics, optionally real images to start from. Output: safetensors with images (uint8, N,C,S,S),
labels (int64) and each image's number within its class; on request `snapshots` (uint8, M,T,C,S,S): the first image of M classes
before T iterations; the metadata name both.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.config.images import RecoverShard
from gvbsm.data.epoch_views import epoch_views
from gvbsm.data.pixels import Pixels, jpeg_round_trip
from gvbsm.errors import UserError
from gvbsm.method.ascent import perturbed
from gvbsm.method.batch_views import draw_positions, least_shares
from gvbsm.method.layers import most_important
from gvbsm.method.matching import NO_MATCHING, Matching, StatisticsMatcher
from gvbsm.method.measuring import kernels_for
from gvbsm.method.moments import Moments
from gvbsm.method.parts import members_of
from gvbsm.method.recovery import OwnViews, Recovery, RecoverySettings, SharedViews
from gvbsm.method.rounds import join_rounds
from gvbsm.method.views import mixed_hard_labels, render
from gvbsm.pipeline.recover import RecoverSpec, count_steps
from gvbsm.runtime.checkpoints import Checkpoint, to_device
from gvbsm.runtime.compiler import set_up_compiler
from gvbsm.runtime.devices import job_device
from gvbsm.runtime.progress import Progress
from gvbsm.store.job import Job
from gvbsm.store.keys import derive_seed
from gvbsm.store.spec import Json
from gvbsm.training.networks import load_teacher
from gvbsm.training.precision import autocast

# Iterations on CUDA of a teacher from which compiling it pays: on an H200 ResNet18 at 224 px wins 1.7 ms an iteration of
# 80 images, and compiles for 80 s (benchmarks/speed/gpu.md).
_PAYS = 50_000


def run(job: Job[RecoverSpec]) -> None:
    """Recover the shard of images of a spec."""
    settings, batches = job.spec.settings, job.spec.batches
    device = job_device(job, settings.threads, exact=True)
    pixels = Pixels(job.spec.pixels, device)
    spared = _spared_compiling(job, device)
    if settings.compile and not spared:
        set_up_compiler(job.store.parent / ".compiled", len(job.spec.inputs.teachers) * len(_shapes(batches, settings)))
    checkpoint = Checkpoint.of(job)
    state = to_device(checkpoint.load(), device)
    state = state or {"batches": 0, "snapshots": [], "last": {}, "recovery": None, "passes": {}}
    members, size = [members_of(batch) for batch in batches], job.spec.pixels.image_size
    labels, numbers = (torch.cat(parts) for parts in zip(*members, strict=True))
    images = checkpoint.tensor("images", (len(labels), len(job.spec.pixels.mean), size, size), torch.uint8)
    of_batches = images.split([len(of_batch) for of_batch, _ in members])
    snapshots = job.spec.snapshots
    snapshot_iterations, snapshot_labels = (snapshots.iterations, snapshots.labels) if snapshots else ([], [])
    done = settings.iterations * state["batches"] + (state["recovery"]["iteration"] if state["recovery"] else 0)
    progress = Progress(job.title, settings.iterations * len(batches), done)
    with contextlib.ExitStack() as stack:
        matchers = [stack.enter_context(matcher) for matcher in _matchers(job, device, spared)]
        for batch, finished in [*zip(batches, of_batches, strict=True)][state["batches"] :]:
            recovery = _start(job, batch, matchers, pixels, device)
            moved = _perturbed(recovery, settings)  # from the start, also after a resume
            if state["recovery"] is not None:
                recovery.restore(state["recovery"])
            snapshot_positions = _first_images(batch, snapshot_labels)
            with moved:
                while recovery.iteration < settings.iterations:
                    if snapshot_positions and recovery.iteration in snapshot_iterations:
                        x_MCHW = recovery.x_BCHW.detach()[snapshot_positions]
                        state["snapshots"].append(pixels.to_bytes(x_MCHW, settings.quantise))
                    following = [number for number in snapshot_iterations if number > recovery.iteration]
                    before = recovery.iteration
                    state["last"] = recovery.run(min([*following, settings.iterations]))
                    if not torch.isfinite(recovery.x_BCHW).all():  # before a checkpoint of them replaces that of finite ones
                        loss = state["last"]["loss"]
                        raise UserError(f"recover: expected finite images, got a loss of {loss}; lower recover.lr")
                    checkpoint.tick(lambda: state | {"recovery": recovery.state()})  # noqa: B023 (called at once)
                    progress.step(recovery.iteration - before, **state["last"])
            stored = pixels.to_bytes(recovery.x_BCHW.detach(), settings.quantise)
            finished.copy_(jpeg_round_trip(stored) if settings.encoding == "jpeg" else stored)
            state["batches"] += 1
            state["recovery"] = None
            for path, how in zip(job.spec.inputs.teachers, recovery.modes, strict=True):
                known = state["passes"].setdefault(Path(path).stem, [])
                known += [how] if how not in known else []
            recovery.close()
    tensors = {"images": images, "labels": labels, "numbers": numbers}
    job.images = count_steps(batches, settings)
    summary = {"images": len(labels), "last_iteration": state["last"]}
    job.passes = state["passes"]
    if state["snapshots"]:
        tensors["snapshots"] = _by_image(state["snapshots"], len(snapshot_iterations))
    job.write_tensors(tensors, {"snapshots": snapshots.model_dump() if snapshots else None}, summary)
    checkpoint.clear()


def _rounds(settings: RecoverShard) -> int:
    """In how many rounds images join a batch."""
    return settings.early_late.rounds if settings.early_late else 1


def _joins(batch: list[list[int]], settings: RecoverShard) -> list[int]:
    """The round in which every image of a batch joins it."""
    return [joined for _, first, end in batch for joined in join_rounds(end - first, _rounds(settings))]


def _shapes(batches: list[list[list[int]]], settings: RecoverShard) -> set[tuple[int, int]]:
    """The numbers of images, and of classes if these are matched, that take part in iterations: each has a compiled graph."""
    shapes = set()
    for batch in batches:
        labels = [label for label, first, end in batch for _ in range(first, end)]
        joins = _joins(batch, settings)
        for number in range(_rounds(settings)):
            there = [label for label, joined in zip(labels, joins, strict=True) if joined <= number]
            shapes.add((len(there), len(set(there)) if settings.class_statistics else 0))
    return shapes


def _perturbed(recovery: Recovery, settings: RecoverShard) -> contextlib.ExitStack:
    """If the settings say so, move the teachers' weights for this batch; closing the stack moves them back."""
    moved = contextlib.ExitStack()
    if perturb := settings.perturb:
        x_BCHW = recovery.x_BCHW.detach()
        for matcher in recovery.matchers:
            moved.enter_context(perturbed(matcher.model, matcher.logits, x_BCHW, recovery.labels_B, perturb.steps, perturb.rho))
    return moved


def _first_images(batch: list[list[int]], labels: list[int]) -> list[int]:
    """Positions in a batch of the first image of each class among `labels`."""
    members = zip(*(tensor.tolist() for tensor in members_of(batch)), strict=True)
    return [at for at, (label, number) in enumerate(members) if number == 0 and label in labels]


def _by_image(snapshots: list[Tensor], times: int) -> Tensor:
    """Snapshots (M,times,C,S,S), from a list with `times` snapshots (m,C,S,S) of each batch, batch after batch."""
    return torch.cat([torch.stack(snapshots[at : at + times], 1).cpu() for at in range(0, len(snapshots), times)])


def _start_images(job: Job[RecoverSpec], start: str, labels_B: Tensor, numbers_B: Tensor) -> Tensor:
    """The real images (uint8) from which a batch starts."""
    tensors, _ = job.tensors(start)
    places = {place: i for i, place in enumerate(zip(tensors["labels"].tolist(), tensors["numbers"].tolist(), strict=True))}
    return tensors["images"][[places[place] for place in zip(labels_B.tolist(), numbers_B.tolist(), strict=True)]]


def _spared_compiling(job: Job[RecoverSpec], device: torch.device) -> str:
    """Why teachers are not compiled although the settings ask for it; "" otherwise."""
    iterations = job.spec.settings.iterations * len(job.spec.batches) // len(job.spec.inputs.teachers)
    if job.spec.settings.compile and kernels_for(device) is not None and iterations < _PAYS:
        return f"{iterations:,} iterations take less time than compiling"
    return ""


def _matchers(job: Job[RecoverSpec], device: torch.device, spared: str) -> list[StatisticsMatcher]:
    """One matcher per teacher, with the teacher's targets; not compiled if something is said in `spared`."""
    settings, inputs = job.spec.settings, job.spec.inputs
    precisions = job.spec.precisions(device.type)
    matchers = []
    for i, (teacher_path, precision) in enumerate(zip(inputs.teachers, precisions, strict=True)):
        teacher = load_teacher(*job.tensors(teacher_path), device, precision, outputs=settings.outputs)
        matching, targets = _matching(job, inputs.statistics[i] if inputs.statistics else None)
        in_precision = partial(autocast, device, precision)
        matcher = StatisticsMatcher(teacher, targets, matching, settings.compile and not spared, autocast=in_precision)
        matcher.not_compiled = spared
        if settings.statistics_weight and not matcher.layers:
            raise UserError(
                f"recover: {teacher_path}: expected layers of {', '.join(settings.layers)} to match, got none; add the kind "
                "it has to recover.layers, or leave this teacher out"
            )
        matchers.append(matcher)
    return matchers


def _matching(job: Job[RecoverSpec], path: str | None) -> tuple[Matching, dict[str, Moments]]:
    """A teacher's matching settings, and its targets by layer from the statistics at `path` (None: BatchNorm layers alone)."""
    settings, ema = job.spec.settings, job.spec.settings.ema
    if not settings.statistics_weight:
        return NO_MATCHING, {}
    tensors, metadata = job.tensors(path) if path else ({}, {"patch_size": 1})
    targets: dict[str, Moments] = {}
    for name, value in tensors.items():
        layer, _, kind = name.rpartition("/")
        targets.setdefault(layer, {})[kind] = value
    matching = Matching(
        patch_size=metadata["patch_size"],
        momentum=ema.momentum,
        first_layer_weight=settings.first_layer_weight,
        start=ema.start,
        dropped=ema.dropped,
        layers=tuple(settings.layers),
        conv_statistics=tuple(settings.conv_statistics),
        class_statistics=settings.class_statistics or 0.0,
        selected_statistics=_selected_statistics(settings, path, metadata),
        variance_weight=1.0 if settings.variance_weight is None else settings.variance_weight,
    )
    return matching, targets


def _selected_statistics(settings: RecoverShard, path: str | None, metadata: Json) -> frozenset[tuple[str, str]] | None:
    """The statistics of a teacher that are matched; None: all."""
    keep = settings.keep
    if not keep:
        return None
    importance: dict[str, dict[str, float]] = metadata["importance"]
    used = {
        layer: {kind: value for kind, value in kinds.items() if "patch" not in kinds or kind in settings.conv_statistics}
        for layer, kinds in importance.items()
        if ("conv" if "patch" in kinds else "batchnorm") in settings.layers
    }
    if keep.by == "random":
        for layer, kinds in used.items():
            used[layer] = {kind: float(derive_seed(settings.seed, "keep", path, layer, kind)) for kind in kinds}
    return most_important(used, keep.share)


def _start(
    job: Job[RecoverSpec], batch: list[list[int]], matchers: list[StatisticsMatcher], pixels: Pixels, device: torch.device
) -> Recovery:
    """The recovery of a batch from noise or real images; its random numbers depend on the batch alone, not on the shards."""
    settings, pixel_form = job.spec.settings, job.spec.pixels
    if settings.ema.reset == "batch":
        for matcher in matchers:
            matcher.reset()
    labels_B, numbers_B = members_of(batch)
    size = pixel_form.image_size
    start = job.spec.inputs.start
    if start:
        x_BCHW = pixels.from_bytes(_start_images(job, start, labels_B, numbers_B).to(device))
    else:
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, "noise", batch))
        x_BCHW = torch.randn(len(labels_B), len(pixel_form.mean), size, size, generator=generator).to(device)
    density, residual = settings.densification, settings.residual
    return Recovery(
        x_BCHW,
        labels_B.to(device),
        matchers,
        RecoverySettings(
            iterations=settings.iterations,
            lr=settings.lr,
            statistics_weight=settings.statistics_weight,
            conv_drop=settings.conv_drop,
            backbone_order=settings.backbone_order,
            betas=(settings.betas[0], settings.betas[1]),
            densification_weight=density.weight,
            tau=density.tau,
            normalise=density.normalise,
            segments=residual.segments if residual else 1,
            residual=residual.share if residual else 0.0,
            rounds=_rounds(settings),
        ),
        views=_views(job, batch, pixels),
        limits=pixels.limits(),
        key=derive_seed(settings.seed, "iterations", batch),
        joins=_joins(batch, settings),
    )


def _views(job: Job[RecoverSpec], batch: list[list[int]], pixels: Pixels) -> SharedViews | OwnViews:
    """The views of a batch in each iteration: as published one crop, flip and roll for all images, or those of student
    training."""
    settings, augment, view_settings = job.spec.settings, job.spec.augment, job.spec.views
    size = job.spec.pixels.image_size
    if not view_settings:
        crop: tuple[float | Tensor, float] | None = None
        if settings.crops:
            crop = least_shares(settings.crops.first, settings.crops.last, settings.iterations), 1.0
        elif augment.resized_crop:
            crop = augment.resized_crop[0], augment.resized_crop[1]
        positions_T2S = draw_positions(
            derive_seed(settings.seed, "views", batch),
            settings.iterations,
            size,
            pad=None if settings.crops else augment.pad,
            resized_crop=crop,
            flip=augment.flip,
            roll=settings.roll,
        )
        return SharedViews(positions_T2S, pixels.limits()[0])  # black, the least value
    classes = job.tensors(job.spec.inputs.teachers[0])[1]["network"]["classes"]

    def render_views(x_BCHW: Tensor, labels_B: Tensor, iteration: int) -> tuple[Tensor, Tensor]:
        number = derive_seed(settings.seed, "views", batch, iteration) % 2**31  # of an epoch of views
        views = epoch_views(view_settings, number, len(x_BCHW), size)
        positions_B = views.image_V.argsort()  # the view of image 0, 1, ...
        levels_BCHW = pixels.unit(x_BCHW) * 255
        view_BCHW = render(levels_BCHW, views, positions_B, finish=pixels.from_levels, device=x_BCHW.device)
        return view_BCHW, mixed_hard_labels(labels_B, views, positions_B, classes, mixed=True).to(x_BCHW.device)

    return render_views
