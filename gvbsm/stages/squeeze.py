"""squeeze: train one teacher on the full data set with cross-entropy, or load its given weights.

Several epochs of one training may each be a teacher, with a job of its own (`squeeze.keep_epochs`): a job leaves its state in
the folder of the next, and each goes on from the latest state in any of the folders. Each artifact is that of a training alone.

Input: the data set. Output: safetensors with the teacher's state dict and, if given weights have more outputs than the row
has classes, their last layer whole; its network is in the metadata, its test accuracy in the receipt.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.errors import UserError
from gvbsm.method.parts import split_batches
from gvbsm.method.ranks import ranks
from gvbsm.method.transfer import send
from gvbsm.pipeline.registry import planned_beside, read_plan
from gvbsm.pipeline.squeeze import GivenTeacherSpec, SqueezeSpec
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import job_device
from gvbsm.store.job import Job
from gvbsm.store.keys import derive_seed
from gvbsm.store.locks import lock_file, taken
from gvbsm.store.plans import files_in
from gvbsm.training.fit import EpochRow, Recipe, fit
from gvbsm.training.networks import accuracy, build
from gvbsm.training.precision import autocast

Batch = tuple[Tensor, Tensor]  # this rank's part of the images (P,C,S,S), 0..255, all labels (B,), on the device


def run(job: Job[SqueezeSpec | GivenTeacherSpec]) -> None:
    """Train or load the teacher of a spec, and test it."""
    spec, settings = job.spec, job.spec.settings
    device = job_device(job, settings.threads)
    pixels = Pixels(spec.pixels, device)
    checkpoint = Checkpoint.of(job)
    test = open_split(job, spec.inputs.data, "test", device)
    classes = job.classes or []
    # Not imported above, so that a trained teacher does not depend on this code.
    given: Any = import_module("gvbsm.training.pretrained") if isinstance(spec, GivenTeacherSpec) else None
    if isinstance(spec, GivenTeacherSpec):
        model, summary, whole = given.load_pretrained(spec.network, spec.weights, job.data_root, device, classes, spec.pixels)
    else:
        model = build(spec.network, spec.settings.seed, device)
        history = _train(job, spec, model, pixels, checkpoint, device)
        summary, whole = {"loss": history[-1]["loss"], "epochs": len(history)}, {}
    result = accuracy(model, test, pixels.from_bytes, settings.precision_for(device.type))
    if isinstance(spec, GivenTeacherSpec):
        given.check_result(spec.weights, result, test.labels, classes, bool(spec.trust_weights))
    summary |= {"top1": result.top1, "top5": result.top5}
    job.write_tensors(model.state_dict() | whole, {"network": spec.network.model_dump()}, summary)
    checkpoint.clear()


def _train(
    job: Job[Any], spec: SqueezeSpec, model: nn.Module, pixels: Pixels, checkpoint: Checkpoint, device: torch.device
) -> list[EpochRow]:
    settings = spec.settings
    train = open_split(job, spec.inputs.data, "train", device, spec.augment)
    together = ranks()

    def batches(epoch: int, first: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, "epoch", epoch))
        order = split_batches(torch.randperm(len(train.labels), generator=generator), settings.batch_size)
        todo = [(index, derive_seed(settings.seed, "augment", epoch, step)) for step, index in enumerate(order)][first:]
        for (index, _), levels_PCHW in zip(todo, train.augmented(todo, together.part), strict=True):
            yield levels_PCHW, send(train.labels[index], device)

    def losses(model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        levels_PCHW, labels_B = batch
        x_PCHW = pixels.from_levels(levels_PCHW.float()).contiguous(memory_format=torch.channels_last)
        with autocast(device, settings.precision_for(device.type)):
            logits_PK = model(x_PCHW)
        yield F.cross_entropy(together.gather_rows(logits_PK.float(), len(labels_B)), labels_B)

    recipe = Recipe.from_settings(settings, settings.seed, settings.keep_epoch)
    _take_over(job)
    by_another_job = checkpoint.handed_over()
    history = fit(model, recipe, batches, losses, checkpoint, job.title, passes=job.passes_of())
    job.images = (len(history) - by_another_job) * len(train.labels)
    _hand_over(job, checkpoint, len(history))
    return history


def _take_over(job: Job[SqueezeSpec]) -> None:
    """Go on from the latest state of the same training that another job's folder holds, if it is later than this job's own.

    It need not have been left for this job: who asked for the other epoch may have changed the row since.
    """
    if job.writes and job.checkpoints is not None:
        latest, source = _trained(job.checkpoints), None
        for folder in files_in(job.checkpoints.parent):
            if folder == job.checkpoints or not _is_of_training(job.spec, folder):
                continue
            with contextlib.suppress(OSError):  # unreadable, or its job has just ended
                trained = _trained(folder)
                if latest < trained <= (job.spec.settings.trained_epochs, 0):
                    latest, source = trained, folder
        if source is not None:
            try:
                Checkpoint(source, 0).hand_over(job.checkpoints, latest[0])
                sys.stderr.write(f"{job.title}: goes on from epoch {latest[0]}, which {source} holds\n")
            except (OSError, UserError) as error:
                sys.stderr.write(f"{job.title}: not gone on from {source}: {error}\n")
    ranks().any(False)  # processes that train together read the state after this


def _is_of_training(spec: SqueezeSpec, folder: Path) -> bool:
    """Whether a folder holds checkpoints of a job of the same training."""
    with contextlib.suppress(UserError):  # no such plan
        other = read_plan(folder.name).spec
        return folder.is_dir() and isinstance(other, SqueezeSpec) and (spec.continues(other) or other.continues(spec))
    return False


def _trained(folder: Path) -> tuple[int, int]:
    """The epochs of the state in a folder, and the steps of the next one. Raises OSError if it cannot be read now."""
    state = Checkpoint(folder, 0).load() or {"epoch": 0, "step": 0}
    return state["epoch"], state["step"]


def _hand_over(job: Job[SqueezeSpec], checkpoint: Checkpoint, epochs: int) -> None:
    """Leave the state in the folder of the earliest waiting job that keeps a later epoch of the same training."""
    if not job.spec.settings.keep_epoch or not job.writes or job.checkpoints is None:
        return
    beside = [(artifact, artifact.spec) for artifact in planned_beside(f"{job.spec.stage}/{job.out.name}")]
    later = [(artifact, spec) for artifact, spec in beside if isinstance(spec, SqueezeSpec) and spec.continues(job.spec)]
    for artifact, _ in sorted(later, key=lambda waiting: waiting[1].settings.trained_epochs):
        folder = job.checkpoints.with_name(artifact.key)
        if job.out.with_name(Path(artifact.path).name).exists():
            continue
        try:
            with taken(lock_file(artifact.key, folder.parent)) as waits:
                if waits:
                    if _trained(folder) < (epochs, 0):
                        checkpoint.hand_over(folder, epochs)
                        sys.stderr.write(f"{job.title}: {Path(artifact.path).stem} goes on from epoch {epochs}\n")
                    return
        except (OSError, UserError) as error:  # that job then trains from the beginning
            sys.stderr.write(f"{job.title}: not handed on: {error}\n")
